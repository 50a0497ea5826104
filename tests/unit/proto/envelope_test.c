/* Sealed envelopes: the vector, round trips, and every way of tampering that the signatures must catch. */
#include "fixture.h"

#include "crypto/box.h"
#include "proto/envelope.h"

static json_t *vectors;
static struct keypair *alice;

static struct envelope sample(void)
{
    return (struct envelope){
        .id = "01JD4Q4T6N1V9W3KX3ZP5Y2M7A",
        .mesh = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11",
        .from = keypair_public_hex(alice),
        .kind = "dm",
        .to = "429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa17",
        .sent_at = 1790000000456,
        .priority = "next",
        .rv = "0:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        .body = TEXT("hello bob"),
    };
}

static void build(const struct envelope *envelope, struct buffer *ret_plaintext)
{
    buffer_init(ret_plaintext, BUFFER_UNLIMITED);
    assert_ok(envelope_build(envelope, alice, ret_plaintext, error));
}

/* Pads and parses any JSON. */
static int parse_document(const json_t *document, struct envelope *ret_envelope, json_t **ret_document, bool *ret_is_envelope,
                          struct error *ret_error)
{
    struct buffer plaintext;
    buffer_init(&plaintext, BUFFER_UNLIMITED);
    assert_int_equal(json_print(document, &plaintext), 0);
    assert_ok(envelope_pad(&plaintext, error));
    int result = envelope_parse(plaintext.data, plaintext.length, ret_envelope, ret_document, ret_is_envelope, ret_error);
    buffer_release(&plaintext);
    return result;
}

/* What envelope_build makes, as JSON to tamper with. */
static json_t *built_document(const struct envelope *envelope)
{
    struct buffer plaintext;
    size_t length = 0;
    json_t *document = NULL;
    build(envelope, &plaintext);
    assert_ok(envelope_unpad(plaintext.data, plaintext.length, &length, error));
    assert_ok(json_parse_strict(plaintext.data, length, &document, error));
    buffer_release(&plaintext);
    return document;
}

static void the_vector_opens_and_its_signature_is_made_again(void **state)
{
    (void)state;
    struct buffer sealed;
    struct buffer plaintext;
    struct nonce nonce;
    uint8_t key_bytes[SYMMETRIC_KEY_BYTES];
    const char *key_hex = vector_string(vectors, "envelope.topic_key");
    const char *ciphertext = vector_string(vectors, "envelope.ciphertext");
    const char *nonce_text = vector_string(vectors, "envelope.nonce");
    struct envelope envelope;
    json_t *document = NULL;
    bool is_envelope = false;
    buffer_init(&sealed, BUFFER_UNLIMITED);
    buffer_init(&plaintext, BUFFER_UNLIMITED);
    assert_int_equal(base64_decode(nonce_text, strlen(nonce_text), &sealed), 0);
    memcpy(nonce.bytes, sealed.data, NONCE_BYTES);
    buffer_reset(&sealed);
    assert_int_equal(base64_decode(ciphertext, strlen(ciphertext), &sealed), 0);
    assert_int_equal(hex_decode(key_hex, strlen(key_hex), key_bytes, sizeof(key_bytes)), 0);
    struct symmetric_key *key = symmetric_key_from(key_bytes);
    assert_ok(secretbox_open(key, &nonce, sealed.data, sealed.length, &plaintext, error));
    assert_int_equal(plaintext.length, (size_t)json_number_value(vector_at(vectors, "envelope.padded_length")));
    assert_ok(envelope_parse(plaintext.data, plaintext.length, &envelope, &document, &is_envelope, error));
    assert_true(is_envelope);
    assert_string_equal(envelope.kind, "topic");
    assert_string_equal(envelope.to, "alerts");
    assert_true(text_equal_c(envelope.body, "build done"));
    assert_int_equal(envelope.sent_at, 1790000000456);
    assert_null(envelope.reply_to);
    assert_null(envelope.rv);
    assert_refused(envelope_verify(&envelope, document, error), ERROR_DENIED); /* it has no xsig */
    /* The same message by us: the vector's sig, and an xsig. */
    envelope.priority = "next";
    envelope.rv = vector_string(vectors, "statements.rv_of_none");
    json_t *ours = built_document(&envelope);
    assert_string_equal(vector_string(ours, "sig"), vector_string(vectors, "envelope.envelope.sig"));
    json_decref(ours);
    json_decref(document);
    symmetric_key_free(key);
    buffer_release(&sealed);
    buffer_release(&plaintext);
}

static void what_was_built_parses_and_verifies(void **state)
{
    (void)state;
    struct buffer plaintext;
    struct envelope parsed;
    json_t *document = NULL;
    bool is_envelope = false;
    json_t *meta = parse_json("{\"b\":2,\"a\":1.5,\"\\u20ac\":[1e21,null,\"\\u0000\"]}");
    json_t *mentions = parse_json("[\"bob\",\"429bef6e\"]");
    struct envelope envelope = sample();
    envelope.reply_to = "01JD4Q4T6N1V9W3KX3ZP5Y2M7B";
    envelope.meta = meta;
    envelope.mentions = mentions;
    envelope.body = TEXT("nul \0, quote \", line\n, na\xc3\xafve \xe6\x97\xa5\xe6\x9c\xac");
    build(&envelope, &plaintext);
    assert_int_equal(plaintext.length % 128, 0);
    assert_ok(envelope_parse(plaintext.data, plaintext.length, &parsed, &document, &is_envelope, error));
    assert_true(is_envelope);
    assert_string_equal(parsed.id, envelope.id);
    assert_string_equal(parsed.mesh, envelope.mesh);
    assert_string_equal(parsed.from, envelope.from);
    assert_string_equal(parsed.to, envelope.to);
    assert_string_equal(parsed.reply_to, envelope.reply_to);
    assert_string_equal(parsed.priority, "next");
    assert_string_equal(parsed.rv, envelope.rv);
    assert_null(parsed.key_id);
    assert_true(text_equal(parsed.body, envelope.body));
    assert_true(json_equal(parsed.meta, meta));
    assert_true(json_equal(parsed.mentions, mentions));
    assert_ok(envelope_verify(&parsed, document, error));
    json_decref(document);
    json_decref(meta);
    json_decref(mentions);
    buffer_release(&plaintext);
}

static void keys_stand_in_their_order_and_absent_ones_not_at_all(void **state)
{
    (void)state;
    struct buffer plaintext;
    struct envelope envelope = sample();
    json_t *empty = json_new_object();
    envelope.meta = empty;
    build(&envelope, &plaintext);
    static const char START[] =
        "{\"v\":1,\"id\":\"01JD4Q4T6N1V9W3KX3ZP5Y2M7A\",\"mesh\":\"7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11\",\"from\":\"";
    static const char MIDDLE[] = ",\"sent_at\":1790000000456,\"body\":\"hello bob\",\"priority\":\"next\",\"rv\":\"0:e3b0";
    assert_memory_equal(plaintext.data, START, sizeof(START) - 1);
    assert_non_null(strstr(plaintext.data, MIDDLE));
    assert_null(strstr(plaintext.data, "meta"));
    assert_null(strstr(plaintext.data, "mentions"));
    assert_null(strstr(plaintext.data, "reply_to"));
    assert_null(strstr(plaintext.data, "key_id"));
    buffer_release(&plaintext);
    json_decref(empty);
}

static void a_change_of_any_field_breaks_a_signature(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
    } CASES[] = {
        { "id", "\"another\"" },
        { "mesh", "\"11111111-9d0c-4a3e-8a4e-3c1b6f0e2d11\"" },
        { "from", "\"429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa17\"" },
        { "kind", "\"queue\"" },
        { "to", "\"1ff737358d057f57942963bc607598fa031ad7b7294e61867dfcb992a4e47a0a\"" },
        { "sent_at", "1790000000457" },
        { "reply_to", "\"another\"" },
        { "reply_to", "null" },
        { "meta", "{\"a\":2}" },
        { "meta", "null" },
        { "mentions", "[\"carol\"]" },
        { "mentions", "null" },
        { "mentions", "[]" },
        { "body", "\"hello bob \"" },
        { "priority", "\"now\"" },
        { "priority", "null" },
        { "priority", "\"whatever\"" },
        { "rv", "\"1:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"" },
        { "rv", "null" },
        { "key_id", "\"67f3004c73232dba36ee944232771a96\"" },
        { "sig", "null" },
        { "xsig", "null" },
        { "sig", "\"00\"" },
        { "xsig", "\"\"" },
    };
    json_t *meta = parse_json("{\"a\":1}");
    json_t *mentions = parse_json("[\"bob\"]");
    struct envelope envelope = sample();
    envelope.reply_to = "earlier";
    envelope.meta = meta;
    envelope.mentions = mentions;
    json_t *document = built_document(&envelope);
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct envelope parsed;
        json_t *parsed_document = NULL;
        bool is_envelope = false;
        json_t *tampered = json_copy(document);
        json_put(tampered, CASES[index].name, parse_json(CASES[index].value));
        assert_ok(parse_document(tampered, &parsed, &parsed_document, &is_envelope, error));
        assert_refused(envelope_verify(&parsed, parsed_document, error), ERROR_DENIED);
        json_decref(parsed_document);
        json_decref(tampered);
    }
    json_t *swapped = json_copy(document);
    json_put(swapped, "sig", json_incref(json_object_get(document, "xsig")));
    json_put(swapped, "xsig", json_incref(json_object_get(document, "sig")));
    struct envelope parsed;
    json_t *parsed_document = NULL;
    bool is_envelope = false;
    assert_ok(parse_document(swapped, &parsed, &parsed_document, &is_envelope, error));
    assert_refused(envelope_verify(&parsed, parsed_document, error), ERROR_DENIED);
    json_decref(parsed_document);
    json_decref(swapped);
    json_decref(document);
    json_decref(meta);
    json_decref(mentions);
}

static void wrong_types_in_an_envelope_are_refused_as_an_envelope(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
    } CASES[] = {
        { "v", "2" },          { "v", "\"1\"" },    { "id", "5" },    { "id", "\"a\\u0000b\"" }, { "mesh", "{}" },
        { "from", "[]" },      { "kind", "null" },  { "to", "7" },    { "sent_at", "\"5\"" },    { "sent_at", "1.5" },
        { "sent_at", "-1" },   { "reply_to", "5" }, { "meta", "[]" }, { "meta", "\"x\"" },       { "mentions", "{}" },
        { "mentions", "[5]" }, { "body", "null" },  { "body", "{}" }, { "priority", "5" },       { "rv", "5" },
        { "key_id", "5" },     { "sig", "5" },      { "xsig", "[]" },
    };
    struct envelope envelope = sample();
    json_t *document = built_document(&envelope);
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct envelope parsed;
        json_t *parsed_document = NULL;
        bool is_envelope = false;
        json_t *tampered = json_copy(document);
        json_put(tampered, CASES[index].name, parse_json(CASES[index].value));
        assert_refused(parse_document(tampered, &parsed, &parsed_document, &is_envelope, error), ERROR_INVALID);
        assert_true(is_envelope);
        assert_null(parsed_document);
        json_decref(tampered);
    }
    json_decref(document);
}

static void what_is_no_envelope_is_said_to_be_none(void **state)
{
    (void)state;
    static const char *const TEXTS[] = { "hello", "5", "[]", "{}", "{\"v\":1,\"mesh\":\"m\",\"from\":\"f\"}", "\"v\"" };
    struct envelope envelope;
    json_t *document = NULL;
    bool is_envelope = true;
    for (size_t index = 0; index < ARRAY_LENGTH(TEXTS); index++) {
        struct buffer plaintext;
        buffer_init(&plaintext, BUFFER_UNLIMITED);
        (void)buffer_append_text(&plaintext, TEXTS[index]);
        assert_ok(envelope_pad(&plaintext, error));
        assert_refused(envelope_parse(plaintext.data, plaintext.length, &envelope, &document, &is_envelope, error), ERROR_INVALID);
        assert_false(is_envelope);
        buffer_release(&plaintext);
    }
    assert_refused(envelope_parse("hello bob", 9, &envelope, &document, &is_envelope, error), ERROR_INVALID); /* no padding */
    assert_refused(envelope_parse("", 0, &envelope, &document, &is_envelope, error), ERROR_INVALID);
    assert_false(is_envelope);
}

static void what_cannot_be_signed_is_not_built(void **state)
{
    (void)state;
    struct buffer plaintext;
    struct envelope envelope = sample();
    buffer_init(&plaintext, BUFFER_UNLIMITED);
    envelope.body = TEXT("\xff\xfe");
    assert_refused(envelope_build(&envelope, alice, &plaintext, error), ERROR_INVALID);
    envelope = sample();
    envelope.mesh = "7F9D2A54-9D0C-4A3E-8A4E-3C1B6F0E2D11";
    assert_refused(envelope_build(&envelope, alice, &plaintext, error), ERROR_INVALID);
    envelope = sample();
    envelope.priority = "urgent";
    assert_refused(envelope_build(&envelope, alice, &plaintext, error), ERROR_INVALID);
    envelope = sample();
    envelope.from = envelope.to;
    assert_refused(envelope_build(&envelope, alice, &plaintext, error), ERROR_INTERNAL);
    assert_int_equal(plaintext.length, 0);
    envelope = sample();
    plaintext.maximum = 200;
    assert_refused(envelope_build(&envelope, alice, &plaintext, error), ERROR_TOO_LARGE);
    buffer_release(&plaintext);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vector_opens_and_its_signature_is_made_again),
        cmocka_unit_test(what_was_built_parses_and_verifies),
        cmocka_unit_test(keys_stand_in_their_order_and_absent_ones_not_at_all),
        cmocka_unit_test(a_change_of_any_field_breaks_a_signature),
        cmocka_unit_test(wrong_types_in_an_envelope_are_refused_as_an_envelope),
        cmocka_unit_test(what_is_no_envelope_is_said_to_be_none),
        cmocka_unit_test(what_cannot_be_signed_is_not_built),
    };
    assert_ok(crypto_start(error));
    vectors = load_vectors();
    alice = vector_keys(vectors, "keys.alice.secret");
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    keypair_free(alice);
    json_decref(vectors);
    return failures;
}
