/* Owns how a rotation is asked for on the wire. Must not keep anything. */
#include "proto/rotation.h"

#include "json/json.h"
#include "proto/statement.h"
#include "util/text.h"

static const int64_t INTEGER_MAXIMUM = INT64_C(1) << 53;

int rotation_make_request(const char *mesh_id, const char *member_id, int64_t seq, const struct keypair *old_keys,
                          const struct keypair *new_keys, int64_t at_ms, json_t **ret_request, struct error *error)
{
    char sig_old[SIGNATURE_HEX_SIZE], sig_new[SIGNATURE_HEX_SIZE];
    json_t *request = json_new_object();
    json_put_string(request, "type", "member_rotate");
    json_put_string(request, "mesh", mesh_id);
    json_put_string(request, "member_id", member_id);
    json_put_integer(request, "seq", seq);
    json_put_string(request, "old", keypair_public_hex(old_keys));
    json_put_string(request, "new", keypair_public_hex(new_keys));
    json_put_integer(request, "at", at_ms);
    int result = statement_sign_json(STATEMENT_ROTATION, request, old_keys, sig_old, error);
    if (result == 0) {
        result = statement_sign_json(STATEMENT_ROTATION, request, new_keys, sig_new, error);
    }
    if (result != 0) {
        json_decref(request);
        return result;
    }
    json_put_string(request, "old_pubkey", keypair_public_hex(old_keys));
    json_put_string(request, "new_pubkey", keypair_public_hex(new_keys));
    json_put_integer(request, "timestamp", at_ms);
    json_put_string(request, "sig_old", sig_old);
    json_put_string(request, "sig_new", sig_new);
    *ret_request = request;
    return 0;
}

/* A string under the statement's name or the frame's; where neither stands, `otherwise`, which is also the only value allowed when it is not NULL. */
static int copy_string(const json_t *frame, const char *name, const char *other_name, const char *otherwise, json_t *document,
                       struct error *error)
{
    const char *value = NULL;
    int result = json_read_string(frame, name, JSON_OPTIONAL, &value, error);
    if (result == 0 && value == NULL && other_name != NULL) {
        result = json_read_string(frame, other_name, JSON_OPTIONAL, &value, error);
    }
    if (result != 0) {
        return result;
    }
    if (value == NULL && otherwise == NULL) {
        return error_set(error, ERROR_INVALID, "field '%s' is missing", other_name == NULL ? name : other_name);
    }
    if (value != NULL && otherwise != NULL && !string_equal(value, otherwise)) {
        return error_set(error, ERROR_INVALID, "field '%s' is another's", name);
    }
    json_put_string(document, name, value == NULL ? otherwise : value);
    return 0;
}

/* The same for an integer; otherwise below the minimum: there has to be one. */
static int copy_integer(const json_t *frame, const char *name, const char *other_name, int64_t minimum, int64_t otherwise, json_t *document,
                        int64_t *ret_value, struct error *error)
{
    int64_t value = otherwise;
    int result = json_read_integer(frame, name, JSON_OPTIONAL, minimum, INTEGER_MAXIMUM, &value, error);
    if (result == 0 && value < minimum) {
        result = json_read_integer(frame, other_name, JSON_REQUIRED, minimum, INTEGER_MAXIMUM, &value, error);
    }
    if (result == 0) {
        json_put_integer(document, name, value);
        *ret_value = value;
    }
    return result;
}

static int read_fields(const json_t *frame, const char *mesh_id, const char *member_id, int64_t next_seq,
                       struct rotation_statement *statement, struct error *error)
{
    json_t *document = statement->document;
    int result = copy_string(frame, "mesh", NULL, mesh_id, document, error);
    if (result == 0) {
        result = copy_string(frame, "member_id", NULL, member_id, document, error);
    }
    if (result == 0) {
        result = copy_integer(frame, "seq", "seq", 1, next_seq, document, &statement->seq, error);
    }
    if (result == 0) {
        result = copy_string(frame, "old", "old_pubkey", NULL, document, error);
    }
    if (result == 0) {
        result = copy_string(frame, "new", "new_pubkey", NULL, document, error);
    }
    if (result == 0) {
        result = copy_integer(frame, "at", "timestamp", 0, -1, document, &statement->at, error);
    }
    if (result == 0) {
        result = copy_string(frame, "sig_old", NULL, NULL, document, error);
    }
    if (result == 0) {
        result = copy_string(frame, "sig_new", NULL, NULL, document, error);
    }
    return result;
}

int rotation_read_request(const json_t *frame, const char *mesh_id, const char *member_id, int64_t next_seq,
                          struct rotation_statement *ret_statement, struct error *error)
{
    struct rotation_statement statement = { .document = json_new_object() };
    struct public_key new_key;
    int result = read_fields(frame, mesh_id, member_id, next_seq, &statement, error);
    if (result == 0) {
        statement.old_pubkey = json_string_value(json_object_get(statement.document, "old"));
        statement.new_pubkey = json_string_value(json_object_get(statement.document, "new"));
        result = public_key_parse(statement.new_pubkey, &new_key, error);
    }
    if (result == 0 && string_equal(statement.old_pubkey, statement.new_pubkey)) {
        result = error_set(error, ERROR_INVALID, "the old and the new key are the same");
    }
    if (result == 0) {
        result = statement_verify_json(STATEMENT_ROTATION, statement.document, statement.old_pubkey, "sig_old", error);
    }
    if (result == 0) {
        result = statement_verify_json(STATEMENT_ROTATION, statement.document, statement.new_pubkey, "sig_new", error);
    }
    if (result != 0) {
        json_decref(statement.document);
        return result;
    }
    *ret_statement = statement;
    return 0;
}

int64_t rotation_next_seq(const json_t *rotations, const char *mesh_id, const char *pubkey)
{
    size_t index = 0;
    const json_t *rotation = NULL;
    json_array_foreach(rotations, index, rotation)
    {
        const char *old_key = json_string_value(json_object_get(rotation, "old"));
        int64_t seq = 0;
        if (old_key != NULL && string_equal(json_string_value(json_object_get(rotation, "new")), pubkey) &&
            string_equal(json_string_value(json_object_get(rotation, "mesh")), mesh_id) &&
            json_read_integer(rotation, "seq", JSON_REQUIRED, 1, INTEGER_MAXIMUM - 1, &seq, NULL) == 0 &&
            statement_verify_json(STATEMENT_ROTATION, rotation, old_key, "sig_old", NULL) == 0 &&
            statement_verify_json(STATEMENT_ROTATION, rotation, pubkey, "sig_new", NULL) == 0) {
            return seq + 1;
        }
    }
    return 1;
}
