/* Frames both ways: what they print, that they read what they print, tolerance for unknown fields and existing clients, refusal of wrong types. */
#include "fixture.h"

#include "proto/frames.h"
#include "proto/statement.h"

static json_t *vectors;
static struct keypair *alice;

static json_t *printed(struct buffer *frame)
{
    json_t *document = NULL;
    assert_ok(json_parse_strict(frame->data, frame->length, &document, error));
    buffer_release(frame);
    return document;
}

typedef int (*parse_function)(const json_t *frame, struct error *error);

static int parse_hello(const json_t *frame, struct error *error)
{
    struct frame_hello hello;
    return frame_hello_parse(frame, &hello, error);
}

static int parse_send(const json_t *frame, struct error *error)
{
    struct frame_send send;
    return frame_send_parse(frame, &send, error);
}

static int parse_ack(const json_t *frame, struct error *error)
{
    struct frame_ack ack;
    return frame_ack_parse(frame, &ack, error);
}

static int parse_push(const json_t *frame, struct error *error)
{
    struct frame_push push;
    return frame_push_parse(frame, &push, error);
}

static int parse_client_ack(const json_t *frame, struct error *error)
{
    struct frame_client_ack ack;
    return frame_client_ack_parse(frame, &ack, error);
}

/* Each field of the frame, replaced with what its type cannot be, is refused by name; an unknown one of any type is not looked at. */
static void expect_types_are_checked(parse_function parse, const json_t *frame, const char *const *free_fields)
{
    const char *name;
    json_t *value;
    json_t *document = (json_t *)(uintptr_t)frame;
    json_object_foreach(document, name, value)
    {
        bool is_free = string_equal(name, "type");
        for (size_t index = 0; free_fields[index] != NULL; index++) {
            is_free = is_free || string_equal(name, free_fields[index]);
        }
        if (is_free) {
            continue;
        }
        struct error error = { 0 };
        json_t *tampered = json_copy(document);
        json_put(tampered, name, json_is_object(value) ? json_new_array() : json_new_object());
        int result = parse(tampered, &error);
        if (result != -(int)ERROR_INVALID || strstr(error.message, name) == NULL) {
            fail_msg("%s: %d %s", name, result, error.message);
        }
        json_decref(tampered);
    }
    json_t *tolerated = json_copy(document);
    json_put(tolerated, "unknown_field", json_new_array());
    assert_ok(parse(tolerated, error));
    json_decref(tolerated);
}

static const char *const NO_FREE_FIELDS[] = { NULL };

/* ---- hello ------------------------------------------------------------------------------------------------ */

static struct frame_hello sample_hello(void)
{
    return (struct frame_hello){
        .protocol_version = 1,
        .mesh_id = vector_string(vectors, "mesh_id"),
        .member_id = vector_string(vectors, "hello.memberId"),
        .session_id = "inst-1",
        .display_name = "Alice \"A\" \xe6\x97\xa5",
        .peer_type = "connector",
        .channel = "claudemesh-daemon",
        .pid = 4711,
        .receive = true,
        .client_ack = true,
        .feature_negotiation = true,
        .sealed_envelope = true,
        .timestamp = 1790000000123,
    };
}

static void hello_has_the_vectors_text_and_both_signatures(void **state)
{
    (void)state;
    struct frame_hello hello = sample_hello();
    struct buffer text;
    struct buffer frame;
    buffer_init(&text, BUFFER_UNLIMITED);
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_ok(frame_hello_build(&hello, alice, vector_string(vectors, "statements.hello_v2.fields.broker_url"),
                                vector_string(vectors, "statements.hello_v2.fields.challenge"), &frame, error));
    assert_int_equal(frame_hello_text(&hello, &text), 0);
    assert_string_equal(text.data, vector_string(vectors, "hello.text"));
    json_t *document = printed(&frame);
    assert_string_equal(vector_string(document, "signature"), vector_string(vectors, "hello.signature"));
    assert_string_equal(vector_string(document, "signature2"), vector_string(vectors, "statements.hello_v2.signatures.signature2"));
    struct frame_hello parsed;
    assert_ok(frame_hello_parse(document, &parsed, error));
    assert_string_equal(parsed.mesh_id, hello.mesh_id);
    assert_string_equal(parsed.pubkey, keypair_public_hex(alice));
    assert_string_equal(parsed.display_name, hello.display_name);
    assert_string_equal(parsed.session_id, "inst-1");
    assert_null(parsed.session_pubkey);
    assert_null(parsed.hostname);
    assert_int_equal(parsed.pid, 4711);
    assert_true(parsed.receive && parsed.client_ack && parsed.feature_negotiation && parsed.sealed_envelope);
    assert_int_equal(parsed.timestamp, hello.timestamp);
    json_decref(document);
    buffer_release(&text);
}

static void hello_without_a_challenge_has_one_signature(void **state)
{
    (void)state;
    struct frame_hello hello = sample_hello();
    struct buffer frame;
    buffer_init(&frame, BUFFER_UNLIMITED);
    hello.receive = false;
    hello.client_ack = false;
    assert_ok(frame_hello_build(&hello, alice, NULL, NULL, &frame, error));
    json_t *document = printed(&frame);
    struct frame_hello parsed;
    assert_null(json_object_get(document, "signature2"));
    assert_true(json_is_false(json_object_get(document, "receive")));
    assert_ok(frame_hello_parse(document, &parsed, error));
    assert_false(parsed.receive || parsed.client_ack);
    assert_null(parsed.signature2);
    json_decref(document);
}

static void hello_is_not_signed_with_ids_that_could_be_read_as_two_fields(void **state)
{
    (void)state;
    struct buffer frame;
    buffer_init(&frame, BUFFER_UNLIMITED);
    struct frame_hello hello = sample_hello();
    hello.member_id = "member|1";
    assert_refused(frame_hello_build(&hello, alice, NULL, NULL, &frame, error), ERROR_INVALID);
    hello = sample_hello();
    hello.mesh_id = "7F9D2A54-9D0C-4A3E-8A4E-3C1B6F0E2D11";
    assert_refused(frame_hello_build(&hello, alice, NULL, NULL, &frame, error), ERROR_INVALID);
    hello = sample_hello();
    hello.session_id = "inst 1";
    assert_refused(
        frame_hello_build(&hello, alice, "ws://h/ws", vector_string(vectors, "statements.hello_v2.fields.challenge"), &frame, error),
        ERROR_INVALID);
    assert_refused(frame_hello_build(&hello, alice, "ws://h/ws", "ABC", &frame, error), ERROR_INVALID);
    assert_int_equal(frame.length, 0);
    buffer_release(&frame);
}

static void an_existing_clients_hello_is_read(void **state)
{
    (void)state;
    json_t *document = parse_json(
        "{\"type\":\"hello\",\"meshId\":\"m\",\"memberId\":\"i\",\"pubkey\":\"p\",\"sessionId\":\"s\",\"pid\":7,\"cwd\":\"/tmp\","
        "\"hostname\":\"h\",\"displayName\":\"d\",\"peerType\":\"ai\",\"channel\":\"claude-code\",\"groups\":[{\"name\":\"g\"}],"
        "\"sessionPubkey\":\"429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa17\",\"receive\":true,\"hostFingerprint\":\"f\","
        "\"protocolVersion\":1,\"capabilities\":[\"client_ack\",\"unheard_of\"],\"timestamp\":5,\"signature\":\"x\",\"signature2\":\"y\"}");
    struct frame_hello hello;
    assert_ok(frame_hello_parse(document, &hello, error));
    assert_true(hello.client_ack && hello.receive);
    assert_false(hello.feature_negotiation || hello.sealed_envelope);
    assert_int_equal(json_array_size(hello.groups), 1);
    assert_string_equal(hello.cwd, "/tmp");
    expect_types_are_checked(parse_hello, document, NO_FREE_FIELDS);
    json_put_string(document, "sessionPubkey", "429BEF6EB5907CB68AB9608D26DDC7B12D7AF5A8E4F5B4DD948CE391F0EEAA17");
    assert_refused(frame_hello_parse(document, &hello, error), ERROR_INVALID);
    json_put(document, "sessionPubkey", json_null());
    json_put(document, "capabilities", parse_json("[5]"));
    assert_refused(frame_hello_parse(document, &hello, error), ERROR_INVALID);
    json_decref(document);
}

/* ---- send ------------------------------------------------------------------------------------------------- */

static void send_is_read_as_it_was_printed(void **state)
{
    (void)state;
    struct buffer frame;
    json_t *mentions = parse_json("[\"bob\"]");
    struct frame_send send = {
        .id = "m-\"1\"",
        .request_fingerprint = vector_string(vectors, "keys.bob.public"),
        .target_spec = vector_string(vectors, "keys.bob.public"),
        .priority = "now",
        .nonce = "bm9uY2U=",
        .ciphertext = "Y2lwaGVydGV4dA==",
        .ciphertext_length = 16,
        .body_version = 3,
        .key_epoch = -1,
        .reply_to_id = "r-1",
        .mentions = mentions,
        .destination_kind = "dm",
        .destination_ref = vector_string(vectors, "keys.bob.public"),
    };
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(frame_send_build(&send, &frame), 0);
    json_t *document = printed(&frame);
    struct frame_send parsed;
    assert_string_equal(vector_string(document, "id"), "m-\"1\"");
    assert_ok(frame_send_parse(document, &parsed, error));
    assert_string_equal(parsed.id, send.id);
    assert_string_equal(parsed.request_fingerprint, send.request_fingerprint);
    assert_string_equal(parsed.target_spec, send.target_spec);
    assert_string_equal(parsed.priority, "now");
    assert_string_equal(parsed.ciphertext, send.ciphertext);
    assert_int_equal(parsed.ciphertext_length, 16);
    assert_int_equal(parsed.body_version, 3);
    assert_int_equal(parsed.key_epoch, -1);
    assert_string_equal(parsed.reply_to_id, "r-1");
    assert_true(json_equal(parsed.mentions, mentions));
    assert_string_equal(parsed.destination_kind, "dm");
    json_put_integer(document, "keyEpoch", 4);
    expect_types_are_checked(parse_send, document, NO_FREE_FIELDS);
    json_decref(document);
    json_decref(mentions);
}

static void an_existing_clients_send_has_defaults(void **state)
{
    (void)state;
    json_t *document =
        parse_json("{\"type\":\"send\",\"id\":\"c1\",\"targetSpec\":\"@all\",\"nonce\":\"n\",\"ciphertext\":\"c\",\"keyEpoch\":4}");
    struct frame_send send;
    assert_ok(frame_send_parse(document, &send, error));
    assert_string_equal(send.id, "c1");
    assert_string_equal(send.priority, "next");
    assert_int_equal(send.body_version, 1);
    assert_int_equal(send.key_epoch, 4);
    assert_null(send.request_fingerprint);
    assert_null(send.destination_kind);
    json_put_string(document, "client_message_id", "c2");
    assert_ok(frame_send_parse(document, &send, error));
    assert_string_equal(send.id, "c2");
    json_decref(document);
}

static void a_send_with_a_bad_value_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
    } CASES[] = {
        { "client_message_id", "\"a b\"" },
        { "client_message_id", "\"\"" },
        { "request_fingerprint", "\"ABCD\"" },
        { "priority", "\"urgent\"" },
        { "destination_kind", "\"member\"" },
        { "targetSpec", "null" },
        { "nonce", "null" },
        { "ciphertext", "null" },
        { "bodyVersion", "1.5" },
        { "keyEpoch", "-2" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct error error = { 0 };
        json_t *document =
            parse_json("{\"type\":\"send\",\"client_message_id\":\"c1\",\"targetSpec\":\"*\",\"nonce\":\"n\",\"ciphertext\":\"c\"}");
        json_put(document, CASES[index].name, parse_json(CASES[index].value));
        assert_int_equal(parse_send(document, &error), -(int)ERROR_INVALID);
        assert_non_null(strstr(error.message, CASES[index].name));
        json_decref(document);
    }
    json_t *nameless = parse_json("{\"type\":\"send\",\"targetSpec\":\"*\",\"nonce\":\"n\",\"ciphertext\":\"c\"}");
    assert_refused(parse_send(nameless, error), ERROR_INVALID);
    json_decref(nameless);
}

/* ---- ack -------------------------------------------------------------------------------------------------- */

static void ack_is_read_as_it_was_printed(void **state)
{
    (void)state;
    struct buffer frame;
    struct frame_ack parsed;
    struct frame_ack accepted = { .client_message_id = "c1",
                                  .message_id = "B1",
                                  .queued = true,
                                  .status = 200,
                                  .duplicate = true,
                                  .history_id = 9,
                                  .history_available = 0,
                                  .first_seen_at = 5,
                                  .retry_after_ms = -1 };
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(frame_ack_build(&accepted, &frame), 0);
    json_t *document = printed(&frame);
    assert_ok(frame_ack_parse(document, &parsed, error));
    assert_true(parsed.queued && parsed.duplicate);
    assert_int_equal(parsed.status, 200);
    assert_int_equal(parsed.history_id, 9);
    assert_int_equal(parsed.history_available, 0);
    assert_int_equal(parsed.first_seen_at, 5);
    assert_int_equal(parsed.retry_after_ms, -1);
    assert_null(parsed.error);
    json_decref(document);
    struct frame_ack refused = { .client_message_id = "c1",
                                 .status = 409,
                                 .history_id = -1,
                                 .history_available = -1,
                                 .first_seen_at = -1,
                                 .error = "idempotency_key_reused: another content",
                                 .broker_fingerprint_prefix = "0123456789abcdef",
                                 .retry_after_ms = 250 };
    assert_int_equal(frame_ack_build(&refused, &frame), 0);
    document = printed(&frame);
    assert_string_equal(vector_string(document, "messageId"), "");
    assert_null(json_object_get(document, "duplicate"));
    assert_ok(frame_ack_parse(document, &parsed, error));
    assert_false(parsed.queued);
    assert_string_equal(parsed.error, refused.error);
    assert_string_equal(parsed.broker_fingerprint_prefix, "0123456789abcdef");
    assert_int_equal(parsed.retry_after_ms, 250);
    assert_int_equal(parsed.history_available, -1);
    expect_types_are_checked(parse_ack, document, NO_FREE_FIELDS);
    json_put_integer(document, "status", -1);
    assert_refused(parse_ack(document, error), ERROR_INVALID);
    json_decref(document);
}

static void an_ack_says_what_becomes_of_the_row(void **state)
{
    (void)state;
    static const struct {
        int64_t status;
        const char *error;
        enum ack_verdict verdict;
    } CASES[] = {
        { 201, NULL, ACK_ACCEPTED },
        { 200, NULL, ACK_DUPLICATE },
        { 409, "idempotency_key_reused: the id has another content", ACK_KEY_REUSED },
        { 409, "idempotency_key_reused", ACK_KEY_REUSED },
        { 409, NULL, ACK_KEY_REUSED },
        { 409, "other_conflict: whatever", ACK_REFUSED },
        { 409, "idempotency_key_reused_not: whatever", ACK_REFUSED },
        { 400, "malformed: x", ACK_REFUSED },
        { 403, NULL, ACK_REFUSED },
        { 404, "unknown_member: x", ACK_REFUSED },
        { 413, "payload_too_large: x", ACK_REFUSED },
        { 499, NULL, ACK_REFUSED },
        { 429, "rate_limited: x", ACK_RETRY },
        { 500, NULL, ACK_RETRY },
        { 503, "held: x", ACK_RETRY },
        { 507, "queue_full: x", ACK_RETRY },
        { 599, "payload: x", ACK_RETRY },
        { 0, NULL, ACK_RETRY },
        { 204, NULL, ACK_RETRY },
        { 302, NULL, ACK_RETRY },
        { 600, NULL, ACK_RETRY },
        /* an existing broker */
        { -1, NULL, ACK_ACCEPTED },
        { -1, "payload too large", ACK_REFUSED },
        { -1, "Invalid PAYLOAD", ACK_REFUSED },
        { -1, "target not found", ACK_REFUSED },
        { -1, "schema error", ACK_REFUSED },
        { -1, "not authorized", ACK_REFUSED },
        { -1, "unauthorised", ACK_REFUSED },
        { -1, "forbidden", ACK_REFUSED },
        { -1, "queue is full", ACK_RETRY },
        { -1, "internal error", ACK_RETRY },
        { -1, "", ACK_RETRY },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct frame_ack ack = { .status = CASES[index].status, .error = CASES[index].error };
        if (frame_ack_verdict(&ack) != CASES[index].verdict) {
            fail_msg("%d %s", (int)CASES[index].status, CASES[index].error == NULL ? "" : CASES[index].error);
        }
    }
}

/* ---- push ------------------------------------------------------------------------------------------------- */

static void push_is_read_as_it_was_printed(void **state)
{
    (void)state;
    struct buffer frame;
    struct frame_push parsed;
    struct frame_push push = {
        .message_id = "B1",
        .mesh_id = vector_string(vectors, "mesh_id"),
        .sender_pubkey = "p",
        .sender_member_pubkey = "mp",
        .sender_member_id = "m1",
        .sender_name = "al\nice",
        .priority = "low",
        .nonce = "n",
        .ciphertext = "cipher",
        .ciphertext_length = 6,
        .body_version = 3,
        .key_epoch = 0,
        .created_at = 1790000000000,
        .client_message_id = "c1",
        .target_spec = "t",
        .history_id = 12,
    };
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(frame_push_build(&push, &frame), 0);
    json_t *document = printed(&frame);
    assert_ok(frame_push_parse(document, &parsed, error));
    assert_string_equal(parsed.message_id, "B1");
    assert_string_equal(parsed.sender_member_pubkey, "mp");
    assert_string_equal(parsed.sender_name, "al\nice");
    assert_string_equal(parsed.priority, "low");
    assert_int_equal(parsed.ciphertext_length, 6);
    assert_int_equal(parsed.body_version, 3);
    assert_int_equal(parsed.key_epoch, 0);
    assert_int_equal(parsed.created_at, push.created_at);
    assert_int_equal(parsed.history_id, 12);
    assert_null(parsed.topic);
    assert_null(parsed.subtype);
    assert_null(parsed.event_data);
    json_put_string(document, "topic", "t");
    json_put_string(document, "replyToId", "r");
    json_put(document, "mentions", json_new_array());
    json_put_string(document, "event", "e");
    expect_types_are_checked(parse_push, document, NO_FREE_FIELDS);
    json_put_string(document, "createdAt", "2026-11-23T12:34:56.789Z");
    assert_ok(frame_push_parse(document, &parsed, error));
    assert_int_equal(parsed.created_at, 1795437296789);
    json_put_string(document, "createdAt", "yesterday");
    assert_refused(parse_push(document, error), ERROR_INVALID);
    json_decref(document);
}

static void a_push_without_an_id_of_its_own_uses_the_brokers(void **state)
{
    (void)state;
    json_t *document =
        parse_json("{\"type\":\"push\",\"messageId\":\"B7\",\"meshId\":\"m\",\"senderPubkey\":\"p\",\"nonce\":\"n\",\"ciphertext\":\"c\"}");
    struct frame_push push;
    assert_ok(frame_push_parse(document, &push, error));
    assert_string_equal(push.client_message_id, "B7");
    assert_string_equal(push.sender_member_pubkey, "p");
    assert_string_equal(push.sender_name, "");
    assert_string_equal(push.priority, "next");
    assert_int_equal(push.body_version, 1);
    assert_int_equal(push.created_at, -1);
    assert_int_equal(push.history_id, -1);
    static const char *const REQUIRED[] = { "messageId", "meshId", "senderPubkey", "nonce", "ciphertext" };
    for (size_t index = 0; index < ARRAY_LENGTH(REQUIRED); index++) {
        json_t *cut = json_copy(document);
        assert_int_equal(json_object_del(cut, REQUIRED[index]), 0);
        assert_refused(parse_push(cut, error), ERROR_INVALID);
        json_decref(cut);
    }
    json_decref(document);
}

static void a_system_push_needs_neither_sender_nor_ciphertext(void **state)
{
    (void)state;
    struct buffer frame;
    json_t *data = parse_json("{\"pubkey\":\"p\"}");
    struct frame_push push = { .message_id = "S1",
                               .subtype = "system",
                               .event = "peer_joined",
                               .event_data = data,
                               .body_version = -1,
                               .key_epoch = -1,
                               .created_at = 5,
                               .history_id = -1 };
    struct frame_push parsed;
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(frame_push_build(&push, &frame), 0);
    json_t *document = printed(&frame);
    assert_ok(frame_push_parse(document, &parsed, error));
    assert_string_equal(parsed.subtype, "system");
    assert_string_equal(parsed.event, "peer_joined");
    assert_true(json_equal(parsed.event_data, data));
    assert_string_equal(parsed.ciphertext, "");
    assert_string_equal(parsed.sender_pubkey, "");
    json_decref(document);
    json_decref(data);
}

/* ---- client_ack ------------------------------------------------------------------------------------------- */

static void client_acks_are_read_as_they_were_printed(void **state)
{
    (void)state;
    struct buffer frame;
    struct frame_client_ack parsed;
    const struct frame_client_ack acks[] = {
        { .client_message_id = "c1", .broker_message_id = "B1", .at = 5, .rsig = "ab" },
        { .client_message_id = "c2", .broker_message_id = "B2", .quarantined = true, .at = -1 },
    };
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(frame_client_ack_build(acks, 1, &frame), 0);
    json_t *document = printed(&frame);
    assert_string_equal(vector_string(document, "type"), "client_ack");
    assert_ok(frame_client_ack_parse(document, &parsed, error));
    assert_string_equal(parsed.client_message_id, "c1");
    assert_string_equal(parsed.broker_message_id, "B1");
    assert_string_equal(parsed.rsig, "ab");
    assert_int_equal(parsed.at, 5);
    assert_false(parsed.quarantined);
    json_put_string(document, "state", "stored");
    expect_types_are_checked(parse_client_ack, document, NO_FREE_FIELDS);
    json_decref(document);
    assert_int_equal(frame_client_ack_build(acks, 2, &frame), 0);
    document = printed(&frame);
    const json_t *items = json_object_get(document, "acks");
    assert_int_equal(json_array_size(items), 2);
    assert_ok(frame_client_ack_parse(json_array_get(items, 1), &parsed, error));
    assert_true(parsed.quarantined);
    assert_null(parsed.rsig);
    assert_int_equal(parsed.at, -1);
    json_decref(document);
    document = parse_json("{\"type\":\"client_ack\",\"brokerMessageId\":\"B3\"}");
    assert_ok(frame_client_ack_parse(document, &parsed, error));
    assert_string_equal(parsed.client_message_id, "");
    json_decref(document);
    document = parse_json("{\"type\":\"client_ack\"}");
    assert_refused(frame_client_ack_parse(document, &parsed, error), ERROR_INVALID);
    json_decref(document);
    assert_refused(frame_client_ack_parse(json_null(), &parsed, error), ERROR_INVALID);
}

static void a_frame_past_its_buffers_maximum_is_an_error(void **state)
{
    (void)state;
    struct buffer frame;
    struct frame_send send = {
        .id = "c1", .target_spec = "*", .priority = "next", .nonce = "n", .ciphertext = "c", .ciphertext_length = 1
    };
    buffer_init(&frame, 40);
    assert_int_equal(frame_send_build(&send, &frame), -1);
    buffer_release(&frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_has_the_vectors_text_and_both_signatures),
        cmocka_unit_test(hello_without_a_challenge_has_one_signature),
        cmocka_unit_test(hello_is_not_signed_with_ids_that_could_be_read_as_two_fields),
        cmocka_unit_test(an_existing_clients_hello_is_read),
        cmocka_unit_test(send_is_read_as_it_was_printed),
        cmocka_unit_test(an_existing_clients_send_has_defaults),
        cmocka_unit_test(a_send_with_a_bad_value_is_refused_by_name),
        cmocka_unit_test(ack_is_read_as_it_was_printed),
        cmocka_unit_test(an_ack_says_what_becomes_of_the_row),
        cmocka_unit_test(push_is_read_as_it_was_printed),
        cmocka_unit_test(a_push_without_an_id_of_its_own_uses_the_brokers),
        cmocka_unit_test(a_system_push_needs_neither_sender_nor_ciphertext),
        cmocka_unit_test(client_acks_are_read_as_they_were_printed),
        cmocka_unit_test(a_frame_past_its_buffers_maximum_is_an_error),
    };
    assert_ok(crypto_start(error));
    vectors = load_vectors();
    alice = vector_keys(vectors, "keys.alice.secret");
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    keypair_free(alice);
    json_decref(vectors);
    return failures;
}
