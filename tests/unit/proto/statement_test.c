/* Statements: every vector, every field of every kind with what must be refused. */
#include "fixture.h"

#include "proto/statement.h"
#include "util/limits.h"
#include "util/text.h"

static json_t *vectors;

static const struct {
    const char *name; /* in the vectors */
    enum statement_kind kind;
} VECTORS[] = {
    { "join", STATEMENT_JOIN },
    { "grant", STATEMENT_GRANT },
    { "name", STATEMENT_NAME },
    { "invite_revocation", STATEMENT_INVITE_REVOCATION },
    { "revocation", STATEMENT_REVOCATION },
    { "leave", STATEMENT_LEAVE },
    { "rotation", STATEMENT_ROTATION },
    { "session", STATEMENT_SESSION },
    { "epoch", STATEMENT_EPOCH },
    { "message_x1", STATEMENT_MESSAGE_X1 },
    { "receipt", STATEMENT_RECEIPT },
    { "hello_v2", STATEMENT_HELLO_V2 },
};

/* Who made each of the vectors' signatures; rotation's new key has no secret there. */
static const struct {
    const char *statement, *signature, *by, *secret;
} SIGNATURES[] = {
    { "join", "self_sig", "keys.bob.public", "keys.bob.secret" },
    { "grant", "sig", "keys.alice.public", "keys.alice.secret" },
    { "name", "sig", "keys.bob.public", "keys.bob.secret" },
    { "invite_revocation", "sig", "keys.alice.public", "keys.alice.secret" },
    { "revocation", "sig", "keys.alice.public", "keys.alice.secret" },
    { "leave", "sig", "keys.bob.public", "keys.bob.secret" },
    { "rotation", "sig_old", "keys.bob.public", "keys.bob.secret" },
    { "rotation", "sig_new", "statements.rotation.fields.new", NULL },
    { "session", "sig", "keys.alice.public", "keys.alice.secret" },
    { "epoch", "sig", "keys.alice.public", "keys.alice.secret" },
    { "message_x1", "xsig", "keys.alice.public", "keys.alice.secret" },
    { "receipt", "rsig", "keys.bob.public", "keys.bob.secret" },
    { "hello_v2", "signature2", "keys.alice.public", "keys.alice.secret" },
};

static enum statement_kind kind_of(const char *name)
{
    for (size_t index = 0; index < ARRAY_LENGTH(VECTORS); index++) {
        if (string_equal(VECTORS[index].name, name)) {
            return VECTORS[index].kind;
        }
    }
    fail_msg("no kind for %s", name);
    return STATEMENT_KINDS;
}

static json_t *vector_fields(const char *name)
{
    return vector_at(vector_at(vector_at(vectors, "statements"), name), "fields");
}

static void each_vector_gives_its_text_byte_for_byte(void **state)
{
    (void)state;
    for (size_t index = 0; index < ARRAY_LENGTH(VECTORS); index++) {
        json_t *vector = vector_at(vector_at(vectors, "statements"), VECTORS[index].name);
        const char *expected_text = vector_string(vector, "text_base64");
        struct buffer text;
        struct buffer expected;
        buffer_init(&text, BUFFER_UNLIMITED);
        buffer_init(&expected, BUFFER_UNLIMITED);
        assert_string_equal(statement_domain(VECTORS[index].kind), vector_string(vector, "domain"));
        assert_int_equal(base64_decode(expected_text, strlen(expected_text), &expected), 0);
        assert_ok(statement_text_of_json(VECTORS[index].kind, vector_at(vector, "fields"), &text, error));
        assert_int_equal(text.length, expected.length);
        assert_memory_equal(text.data, expected.data, expected.length);
        buffer_release(&text);
        buffer_release(&expected);
    }
}

static void values_in_order_give_the_same_text_as_an_object(void **state)
{
    (void)state;
    for (size_t index = 0; index < ARRAY_LENGTH(VECTORS); index++) {
        enum statement_kind kind = VECTORS[index].kind;
        json_t *fields = vector_fields(VECTORS[index].name);
        struct text values[STATEMENT_FIELDS_MAXIMUM];
        char *owned[STATEMENT_FIELDS_MAXIMUM];
        size_t count = statement_field_count(kind);
        for (size_t field = 0; field < count; field++) {
            const json_t *value = json_object_get(fields, statement_field_name(kind, field));
            assert_non_null(value);
            owned[field] =
                json_is_string(value) ? memory_strdup(json_string_value(value)) : memory_printf("%.0f", json_number_value(value));
            values[field] = text_from(owned[field]);
        }
        assert_int_equal(json_object_size(fields), count);
        struct buffer from_values;
        struct buffer from_object;
        buffer_init(&from_values, BUFFER_UNLIMITED);
        buffer_init(&from_object, BUFFER_UNLIMITED);
        assert_ok(statement_text(kind, values, count, &from_values, error));
        assert_ok(statement_text_of_json(kind, fields, &from_object, error));
        assert_int_equal(from_values.length, from_object.length);
        assert_memory_equal(from_values.data, from_object.data, from_object.length);
        buffer_release(&from_values);
        buffer_release(&from_object);
        for (size_t field = 0; field < count; field++) {
            free(owned[field]);
        }
    }
}

static void each_vectors_signature_verifies_and_is_made_again(void **state)
{
    (void)state;
    for (size_t index = 0; index < ARRAY_LENGTH(SIGNATURES); index++) {
        enum statement_kind kind = kind_of(SIGNATURES[index].statement);
        json_t *vector = vector_at(vector_at(vectors, "statements"), SIGNATURES[index].statement);
        const char *signature = vector_string(vector_at(vector, "signatures"), SIGNATURES[index].signature);
        json_t *object = json_copy(vector_at(vector, "fields"));
        json_put_string(object, "sig", signature);
        assert_ok(statement_verify_json(kind, object, vector_string(vectors, SIGNATURES[index].by), "sig", error));
        if (SIGNATURES[index].secret != NULL) {
            char made[SIGNATURE_HEX_SIZE];
            struct keypair *keys = vector_keys(vectors, SIGNATURES[index].secret);
            assert_ok(statement_sign_json(kind, object, keys, made, error));
            assert_string_equal(made, signature);
            keypair_free(keys);
        }
        json_decref(object);
    }
}

static void the_invites_own_key_signed_the_join_vector(void **state)
{
    (void)state;
    const char *seed_text = vector_string(vectors, "invite.invite.invite_seed");
    struct buffer seed;
    struct keypair *keys = NULL;
    char made[SIGNATURE_HEX_SIZE];
    buffer_init_secret(&seed, SEED_BYTES);
    assert_int_equal(base64url_decode(seed_text, strlen(seed_text), &seed), 0);
    assert_ok(keypair_from_seed((const uint8_t *)seed.data, &keys, error));
    assert_ok(statement_sign_json(STATEMENT_JOIN, vector_fields("join"), keys, made, error));
    assert_string_equal(made, vector_string(vectors, "statements.join.signatures.invite_sig"));
    keypair_free(keys);
    buffer_release(&seed);
}

static void rv_counts_and_hashes_what_is_revoked(void **state)
{
    (void)state;
    char rv[RV_SIZE];
    struct sha256 hashes[3];
    struct buffer text;
    statement_rv(NULL, 0, rv);
    assert_string_equal(rv, vector_string(vectors, "statements.rv_of_none"));
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_ok(statement_text_of_json(STATEMENT_REVOCATION, vector_fields("revocation"), &text, error));
    sha256_of(text.data, text.length, &hashes[0]);
    buffer_release(&text);
    statement_rv(hashes, 1, rv);
    assert_string_equal(rv, vector_string(vectors, "statements.rv_of_that_revocation"));
    char forwards[RV_SIZE];
    char backwards[RV_SIZE];
    sha256_of("b", 1, &hashes[1]);
    sha256_of("c", 1, &hashes[2]);
    statement_rv(hashes, 3, forwards);
    struct sha256 reversed[3] = { hashes[2], hashes[1], hashes[0] };
    statement_rv(reversed, 3, backwards);
    assert_string_equal(forwards, backwards);
    assert_memory_equal(forwards, "3:", 2);
}

/* Replaces one field, and expects a refusal that names it. */
static void expect_field_refused(const char *name, const char *field, json_t *value)
{
    enum statement_kind kind = kind_of(name);
    json_t *object = json_copy(vector_fields(name));
    struct buffer text;
    struct error error = { 0 };
    buffer_init(&text, BUFFER_UNLIMITED);
    if (value == NULL) {
        assert_int_equal(json_object_del(object, field), 0);
    } else {
        json_put(object, field, value);
    }
    int result = statement_text_of_json(kind, object, &text, &error);
    if (result != -(int)ERROR_INVALID || strstr(error.message, field) == NULL) {
        char *shown = json_to_string(object, NULL);
        fail_msg("%s with another %s: %d %s: %s", name, field, result, error.message, shown);
    }
    assert_int_equal(text.length, 0);
    buffer_release(&text);
    json_decref(object);
}

static void every_field_refuses_a_zero_byte_a_wrong_type_and_bad_utf8(void **state)
{
    (void)state;
    for (size_t index = 0; index < ARRAY_LENGTH(VECTORS); index++) {
        enum statement_kind kind = VECTORS[index].kind;
        for (size_t field = 0; field < statement_field_count(kind); field++) {
            const char *name = statement_field_name(kind, field);
            json_t *value = json_object_get(vector_fields(VECTORS[index].name), name);
            expect_field_refused(VECTORS[index].name, name, json_stringn_nocheck("a\0b", 3));
            expect_field_refused(VECTORS[index].name, name, json_true());
            expect_field_refused(VECTORS[index].name, name, json_new_object());
            if (json_is_number(value)) {
                expect_field_refused(VECTORS[index].name, name, json_integer(-1));
                expect_field_refused(VECTORS[index].name, name, json_real(1.5));
                expect_field_refused(VECTORS[index].name, name, json_real(1e300));
                expect_field_refused(VECTORS[index].name, name, json_string("1"));
            } else {
                expect_field_refused(VECTORS[index].name, name, json_integer(5));
                expect_field_refused(VECTORS[index].name, name, json_stringn_nocheck("\xff\xfe", 2));
            }
        }
    }
}

static void required_fields_are_required(void **state)
{
    (void)state;
    static const struct {
        const char *statement, *field;
    } OPTIONAL[] = {
        { "revocation", "member_id" }, { "epoch", "prev_key_id" }, { "message_x1", "reply_to" },    { "message_x1", "key_id" },
        { "message_x1", "seq" },       { "message_x1", "prev" },   { "hello_v2", "sessionPubkey" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(VECTORS); index++) {
        enum statement_kind kind = VECTORS[index].kind;
        for (size_t field = 0; field < statement_field_count(kind); field++) {
            const char *name = statement_field_name(kind, field);
            bool is_optional = false;
            for (size_t row = 0; row < ARRAY_LENGTH(OPTIONAL); row++) {
                is_optional =
                    is_optional || (string_equal(OPTIONAL[row].statement, VECTORS[index].name) && string_equal(OPTIONAL[row].field, name));
            }
            if (!is_optional) {
                expect_field_refused(VECTORS[index].name, name, NULL);
                expect_field_refused(VECTORS[index].name, name, json_null());
                expect_field_refused(VECTORS[index].name, name, json_string(""));
                continue;
            }
            json_t *object = json_copy(vector_fields(VECTORS[index].name));
            struct buffer text;
            buffer_init(&text, BUFFER_UNLIMITED);
            json_put_string(object, name, "");
            assert_ok(statement_text_of_json(kind, object, &text, error));
            buffer_release(&text);
            json_decref(object);
        }
    }
}

static void typed_fields_refuse_other_forms(void **state)
{
    (void)state;
    static const struct {
        const char *statement, *field, *value;
    } CASES[] = {
        { "join", "mesh", "7F9D2A54-9D0C-4A3E-8A4E-3C1B6F0E2D11" },
        { "join", "mesh", "7f9d2a549d0c4a3e8a4e3c1b6f0e2d11" },
        { "join", "mesh", "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11 " },
        { "join", "invite_id", "a|b" },
        { "join", "invite_id", "0123456789012345678901234567890123456789012345678901234567890123456789" },
        { "join", "role", "owner" },
        { "join", "role", "Admin" },
        { "join", "pubkey", "429BEF6EB5907CB68AB9608D26DDC7B12D7AF5A8E4F5B4DD948CE391F0EEAA17" },
        { "join", "pubkey", "429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa1" },
        { "join", "pubkey", "429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa1700" },
        { "leave", "member_id", "member 2" },
        { "receipt", "state", "delivered" },
        { "receipt", "client_message_id", "m 1" },
        { "receipt", "content_sha256", "17ADB37E226E7F9C09D2F7FFCCA2A79B1430AC20D7FF6FFFA55039C0F0AA08B0" },
        { "message_x1", "priority", "urgent" },
        { "message_x1", "rv", "1:f0" },
        { "message_x1", "rv", "01:f02bb2074ab84d5edfb9c3c237349597b0bc6545a5a8ff4c491057f8cb825175" },
        { "message_x1", "key_id", "67F3004C73232DBA36EE944232771A96" },
        { "epoch", "topic", "A topic" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        expect_field_refused(CASES[index].statement, CASES[index].field, json_string(CASES[index].value));
    }
    char name[LIMIT_DISPLAY_NAME_SIZE + 1];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    expect_field_refused("name", "name", json_string(name));
}

static void the_message_text_has_two_more_fields_when_a_reply_or_mentions_are_there(void **state)
{
    (void)state;
    static const char HASH[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    static const char TAIL[] = "\0reply-1\0[\"bob\"]";
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", vector_string(vectors, "mesh_id"));
    json_put_string(fields, "id", "m-1");
    json_put_string(fields, "from", vector_string(vectors, "keys.alice.public"));
    json_put_string(fields, "kind", "dm");
    json_put_string(fields, "to", vector_string(vectors, "keys.bob.public"));
    json_put_integer(fields, "sent_at", 5);
    json_put_string(fields, "body_sha256", HASH);
    json_put_string(fields, "meta_sha256", HASH);
    struct buffer plain;
    struct buffer full;
    buffer_init(&plain, BUFFER_UNLIMITED);
    buffer_init(&full, BUFFER_UNLIMITED);
    assert_ok(statement_text_of_json(STATEMENT_MESSAGE, fields, &plain, error));
    json_put_string(fields, "reply_to", "reply-1");
    json_put_string(fields, "mentions", "[\"bob\"]");
    assert_ok(statement_text_of_json(STATEMENT_MESSAGE, fields, &full, error));
    assert_int_equal(full.length, plain.length + sizeof(TAIL) - 1);
    assert_memory_equal(full.data, plain.data, plain.length);
    assert_memory_equal(full.data + plain.length, TAIL, sizeof(TAIL) - 1);
    buffer_release(&plain);
    buffer_release(&full);
    json_decref(fields);
}

static void a_signature_in_another_form_or_by_another_key_is_refused(void **state)
{
    (void)state;
    json_t *object = json_copy(vector_fields("name"));
    const char *bob = vector_string(vectors, "keys.bob.public");
    const char *signature = vector_string(vectors, "statements.name.signatures.sig");
    assert_refused(statement_verify_json(STATEMENT_NAME, object, bob, "sig", error), ERROR_INVALID);
    json_put_integer(object, "sig", 5);
    assert_refused(statement_verify_json(STATEMENT_NAME, object, bob, "sig", error), ERROR_INVALID);
    char *upper = memory_strdup(signature);
    upper[0] = 'E';
    json_put_string(object, "sig", upper);
    free(upper);
    assert_refused(statement_verify_json(STATEMENT_NAME, object, bob, "sig", error), ERROR_INVALID);
    char *longer = memory_printf("%s00", signature);
    json_put_string(object, "sig", longer);
    free(longer);
    assert_refused(statement_verify_json(STATEMENT_NAME, object, bob, "sig", error), ERROR_INVALID);
    json_put_string(object, "sig", signature);
    assert_refused(statement_verify_json(STATEMENT_NAME, object, vector_string(vectors, "keys.alice.public"), "sig", error), ERROR_DENIED);
    json_put_string(object, "name", "robert");
    assert_refused(statement_verify_json(STATEMENT_NAME, object, bob, "sig", error), ERROR_DENIED);
    json_decref(object);
}

static void no_statement_passes_as_another_kind(void **state)
{
    (void)state;
    json_t *object = json_copy(vector_fields("name"));
    json_put_string(object, "sig", vector_string(vectors, "statements.name.signatures.sig"));
    json_put_string(object, "member_id", "member-2");
    json_put_integer(object, "at", 1790000002100);
    assert_refused(statement_verify_json(STATEMENT_LEAVE, object, vector_string(vectors, "keys.bob.public"), "sig", error), ERROR_DENIED);
    json_decref(object);
    assert_refused(statement_verify_json(STATEMENT_LEAVE, json_null(), vector_string(vectors, "keys.bob.public"), "sig", error),
                   ERROR_INVALID);
}

static void a_text_past_the_maximum_is_refused(void **state)
{
    (void)state;
    json_t *object = json_copy(vector_fields("hello_v2"));
    char *url = memory_zalloc(STATEMENT_TEXT_MAXIMUM + 1);
    memset(url, 'u', STATEMENT_TEXT_MAXIMUM);
    json_put_string(object, "broker_url", url);
    free(url);
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_refused(statement_text_of_json(STATEMENT_HELLO_V2, object, &text, error), ERROR_TOO_LARGE);
    assert_int_equal(text.length, 0);
    buffer_release(&text);
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_vector_gives_its_text_byte_for_byte),
        cmocka_unit_test(values_in_order_give_the_same_text_as_an_object),
        cmocka_unit_test(each_vectors_signature_verifies_and_is_made_again),
        cmocka_unit_test(the_invites_own_key_signed_the_join_vector),
        cmocka_unit_test(rv_counts_and_hashes_what_is_revoked),
        cmocka_unit_test(every_field_refuses_a_zero_byte_a_wrong_type_and_bad_utf8),
        cmocka_unit_test(required_fields_are_required),
        cmocka_unit_test(typed_fields_refuse_other_forms),
        cmocka_unit_test(the_message_text_has_two_more_fields_when_a_reply_or_mentions_are_there),
        cmocka_unit_test(a_signature_in_another_form_or_by_another_key_is_refused),
        cmocka_unit_test(no_statement_passes_as_another_kind),
        cmocka_unit_test(a_text_past_the_maximum_is_refused),
    };
    assert_ok(crypto_start(error));
    vectors = load_vectors();
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(vectors);
    return failures;
}
