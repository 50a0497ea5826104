/* Owns the certificate that joining makes (45-trust, "Members"): an invite without its secrets, and a join statement under two signatures. Must not judge what
 * needs a clock or other certificates: uses, revocations and who was an admin when are trust's. */
#include "json/json.h"
#include "proto/invite.h"
#include "proto/statement.h"
#include "util/memory.h"

static bool is_expired(const struct invite *invite, int64_t at_ms)
{
    return at_ms > invite->expires_at_s * 1000;
}

static json_t *join_statement(const struct invite *invite, const char *pubkey, const char *name, int64_t at_ms)
{
    json_t *join = json_new_object();
    json_put_string(join, "mesh", invite->mesh_id);
    json_put_string(join, "invite_id", invite->invite_id);
    json_put_string(join, "role", invite->role);
    json_put_string(join, "pubkey", pubkey);
    json_put_string(join, "name", name);
    json_put_integer(join, "at", at_ms);
    return join;
}

int certificate_make(const struct invite *invite, const struct keypair *member, const char *name, int64_t at_ms, json_t **ret_certificate,
                     struct error *error)
{
    struct keypair *invite_keys = NULL;
    json_t *join = NULL;
    char invite_signature[SIGNATURE_HEX_SIZE];
    char self_signature[SIGNATURE_HEX_SIZE];
    if (!invite->has_invite_seed) {
        return error_set(error, ERROR_INVALID, "the invite has no key to join with");
    }
    if (is_expired(invite, at_ms)) {
        return error_set(error, ERROR_DENIED, "the invite has expired");
    }
    int result = keypair_from_seed(invite->invite_seed, &invite_keys, error);
    if (result != 0) {
        goto done;
    }
    join = join_statement(invite, keypair_public_hex(member), name, at_ms);
    result = statement_sign_json(STATEMENT_JOIN, join, invite_keys, invite_signature, error);
    if (result != 0) {
        goto done;
    }
    result = statement_sign_json(STATEMENT_JOIN, join, member, self_signature, error);
    if (result != 0) {
        goto done;
    }
    *ret_certificate = json_new_object();
    json_put(*ret_certificate, "invite", invite_public_json(invite));
    json_put_string(*ret_certificate, "invite_pubkey", keypair_public_hex(invite_keys));
    json_put(*ret_certificate, "join", join);
    join = NULL;
    json_put_string(*ret_certificate, "invite_sig", invite_signature);
    json_put_string(*ret_certificate, "self_sig", self_signature);
done:
    json_decref(join);
    keypair_free(invite_keys);
    return result;
}

void certificate_release(struct certificate *certificate)
{
    if (certificate == NULL) {
        return;
    }
    invite_release(&certificate->invite);
    free(certificate->name);
    free(certificate->role);
    *certificate = (struct certificate){ 0 };
}

/* The join statement's fields, which must agree with the invite's. Mesh and types are checked with the statement's text. */
static int read_join(const json_t *join, struct certificate *certificate, struct error *error)
{
    const char *pubkey = NULL;
    const char *name = NULL;
    const char *role = NULL;
    const char *mesh = NULL;
    const char *invite_id = NULL;
    struct buffer text;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    int result = statement_text_of_json(STATEMENT_JOIN, join, &text, error);
    buffer_release(&text);
    if (result != 0) {
        return result;
    }
    if (json_read_string(join, "pubkey", JSON_REQUIRED, &pubkey, error) != 0 ||
        json_read_string(join, "name", JSON_REQUIRED, &name, error) != 0 ||
        json_read_string(join, "role", JSON_REQUIRED, &role, error) != 0 ||
        json_read_string(join, "mesh", JSON_REQUIRED, &mesh, error) != 0 ||
        json_read_string(join, "invite_id", JSON_REQUIRED, &invite_id, error) != 0 ||
        json_read_integer(join, "at", JSON_REQUIRED, 0, INT64_C(1) << 53, &certificate->at_ms, error) != 0) {
        return -(int)ERROR_INVALID;
    }
    memcpy(certificate->pubkey, pubkey, KEY_HEX_SIZE); /* a key: the statement's text was made */
    certificate->name = memory_strdup(name);
    certificate->role = memory_strdup(role);
    if (!string_equal(mesh, certificate->invite.mesh_id) || !string_equal(invite_id, certificate->invite.invite_id) ||
        !string_equal(role, certificate->invite.role)) {
        return error_set(error, ERROR_DENIED, "the certificate's join statement does not belong to its invite");
    }
    return 0;
}

int certificate_parse(const json_t *certificate, struct certificate *ret_certificate, struct error *error)
{
    struct certificate parsed = { 0 };
    const json_t *invite = NULL;
    const json_t *join = NULL;
    const char *invite_pubkey = NULL;
    if (!json_is_object(certificate)) {
        return error_set(error, ERROR_INVALID, "a certificate must be an object");
    }
    int result = json_read_object(certificate, "invite", JSON_REQUIRED, &invite, error);
    if (result == 0) {
        result = json_read_object(certificate, "join", JSON_REQUIRED, &join, error);
    }
    if (result == 0) {
        result = json_read_string(certificate, "invite_pubkey", JSON_REQUIRED, &invite_pubkey, error);
    }
    if (result == 0) {
        result = invite_parse_public(invite, &parsed.invite, error);
    }
    if (result != 0) {
        return result;
    }
    if (string_copy(parsed.invite.invite_pubkey, sizeof(parsed.invite.invite_pubkey), invite_pubkey) != 0 || !hex_is_key(invite_pubkey)) {
        result = error_set(error, ERROR_INVALID, "the certificate's 'invite_pubkey' is malformed");
        goto failed;
    }
    result = read_join(join, &parsed, error);
    if (result != 0) {
        goto failed;
    }
    *ret_certificate = parsed;
    return 0;
failed:
    certificate_release(&parsed);
    return result;
}

/* A signature of the certificate over its join statement. */
static int verify_join(const json_t *certificate, const char *by_hex, const char *signature_name, struct error *error)
{
    json_t *join = json_copy(json_object_get(certificate, "join"));
    json_t *signature = json_object_get(certificate, signature_name);
    if (join == NULL) {
        memory_exhausted();
    }
    json_put(join, signature_name, signature == NULL ? json_null() : json_incref(signature));
    int result = statement_verify_json(STATEMENT_JOIN, join, by_hex, signature_name, error);
    json_decref(join);
    return result;
}

int certificate_verify(const json_t *certificate, const char *mesh_id, const char *owner_pubkey, struct certificate *ret_certificate,
                       struct error *error)
{
    struct certificate parsed = { 0 };
    int result = certificate_parse(certificate, &parsed, error);
    if (result != 0) {
        return result;
    }
    if (!string_equal(parsed.invite.mesh_id, mesh_id)) {
        result = error_set(error, ERROR_DENIED, "the certificate is of another mesh");
        goto failed;
    }
    if (!string_equal(parsed.invite.owner_pubkey, owner_pubkey)) {
        result = error_set(error, ERROR_DENIED, "the certificate's invite is of another owner");
        goto failed;
    }
    if (is_expired(&parsed.invite, parsed.at_ms)) {
        result = error_set(error, ERROR_DENIED, "the certificate was made after its invite had expired");
        goto failed;
    }
    result = invite_verify(&parsed.invite, error);
    if (result != 0) {
        goto failed;
    }
    result = verify_join(certificate, parsed.invite.invite_pubkey, "invite_sig", error);
    if (result != 0) {
        goto failed;
    }
    result = verify_join(certificate, parsed.pubkey, "self_sig", error);
    if (result != 0) {
        goto failed;
    }
    *ret_certificate = parsed;
    return 0;
failed:
    certificate_release(&parsed);
    return result;
}
