/* What a broker parses from clients: hello, send, client_ack, feature_negotiation_request. What is accepted and printed again is read as the same; what is refused leaves the output untouched. */
#include "frames_fuzz.h"
#include "proto/features.h"
#include "util/limits.h"

static struct keypair *keys;

static void check_hello(const json_t *frame)
{
    struct frame_hello hello, again;
    struct error error = { .code = ERROR_NONE };
    struct buffer text, signed_text;

    memset(&hello, 0xA5, sizeof(hello));
    if (frame_hello_parse(frame, &hello, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID);
        REQUIRE_UNTOUCHED(hello);
        return;
    }
    buffer_init(&signed_text, BUFFER_UNLIMITED);
    (void)frame_hello_text(&hello, &signed_text);
    buffer_release(&signed_text);
    buffer_init(&text, LIMIT_FRAME);
    if (frame_hello_build(&hello, keys, "wss://mesh.example.org/ws", keypair_public_hex(keys), &text, &error) == 0) {
        json_t *document = fuzz_reparse(&text);
        REQUIRE(frame_hello_parse(document, &again, &error) == 0);
        REQUIRE(again.protocol_version == hello.protocol_version && again.timestamp == hello.timestamp && again.pid == hello.pid);
        REQUIRE(string_equal(again.mesh_id, hello.mesh_id) && string_equal(again.member_id, hello.member_id));
        REQUIRE(string_equal(again.pubkey, keypair_public_hex(keys)) && string_equal(again.session_id, hello.session_id));
        REQUIRE(string_equal(again.session_pubkey, hello.session_pubkey) && string_equal(again.hostname, hello.hostname));
        REQUIRE(string_equal(again.cwd, hello.cwd) && string_equal(again.display_name, hello.display_name));
        REQUIRE(string_equal(again.peer_type, hello.peer_type) && string_equal(again.channel, hello.channel));
        REQUIRE(string_equal(again.host_fingerprint, hello.host_fingerprint) && json_same(again.groups, hello.groups));
        REQUIRE(again.client_ack == hello.client_ack && again.feature_negotiation == hello.feature_negotiation);
        REQUIRE(again.sealed_envelope == hello.sealed_envelope && again.receive == hello.receive);
        json_decref(document);
    }
    buffer_release(&text);
}

static void check_send(const json_t *frame)
{
    struct frame_send send, again;
    struct error error = { .code = ERROR_NONE };
    struct buffer text;

    memset(&send, 0xA5, sizeof(send));
    if (frame_send_parse(frame, &send, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID);
        REQUIRE_UNTOUCHED(send);
        return;
    }
    buffer_init(&text, BUFFER_UNLIMITED);
    REQUIRE(frame_send_build(&send, &text) == 0);
    json_t *document = fuzz_reparse(&text);
    REQUIRE(frame_send_parse(document, &again, &error) == 0);
    REQUIRE(string_equal(again.id, send.id) && string_equal(again.request_fingerprint, send.request_fingerprint));
    REQUIRE(string_equal(again.target_spec, send.target_spec) && string_equal(again.priority, send.priority));
    REQUIRE(string_equal(again.nonce, send.nonce) && again.ciphertext_length == send.ciphertext_length);
    REQUIRE(string_equal(again.ciphertext, send.ciphertext) && strlen(send.ciphertext) == send.ciphertext_length);
    REQUIRE(again.body_version == send.body_version && again.key_epoch == send.key_epoch);
    REQUIRE(string_equal(again.reply_to_id, send.reply_to_id) && json_same(again.mentions, send.mentions));
    REQUIRE(string_equal(again.destination_kind, send.destination_kind) && string_equal(again.destination_ref, send.destination_ref));
    json_decref(document);
    buffer_release(&text);
}

static bool same_ack(const struct frame_client_ack *a, const struct frame_client_ack *b)
{
    return string_equal(a->client_message_id, b->client_message_id) && string_equal(a->broker_message_id, b->broker_message_id) &&
           a->quarantined == b->quarantined && a->at == b->at && string_equal(a->rsig, b->rsig);
}

static void check_client_ack(const json_t *frame)
{
    struct frame_client_ack acks[2], again;
    struct error error = { .code = ERROR_NONE };
    struct buffer text;

    memset(acks, 0xA5, sizeof(acks));
    if (frame_client_ack_parse(frame, &acks[0], &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID);
        REQUIRE_UNTOUCHED(acks);
        return;
    }
    acks[1] = acks[0];
    for (size_t count = 1; count <= 2; count++) {
        buffer_init(&text, BUFFER_UNLIMITED);
        REQUIRE(frame_client_ack_build(acks, count, &text) == 0);
        json_t *document = fuzz_reparse(&text);
        const json_t *list = json_object_get(document, "acks");
        REQUIRE(json_array_size(list) == (count == 1 ? 0 : count));
        REQUIRE(frame_client_ack_parse(count == 1 ? document : json_array_get(list, 1), &again, &error) == 0);
        REQUIRE(same_ack(&again, &acks[0]));
        json_decref(document);
        buffer_release(&text);
    }
}

/* Whatever is asked for, what the broker answers satisfies a client that requires what was not declared missing. */
static void check_request(const json_t *frame)
{
    static const struct feature_offer offer = { .dedupe_retention_days = 365,
                                                .inline_bytes = 65536,
                                                .blob_bytes = 1048576,
                                                .max_concurrent_epochs = 2,
                                                .default_policy = "prefer_newest" };
    static const char *const REQUIRE_NAMES[] = { "client_message_id_dedupe", "concurrent_connection_policy" };
    struct feature_set features;
    struct feature_verdict verdict;

    json_t *response = features_response(frame, &offer);
    features_judge(response, REQUIRE_NAMES, ARRAY_LENGTH(REQUIRE_NAMES), &features, &verdict);
    REQUIRE(verdict.failure == FEATURE_OK && features.dedupe && features.dedupe_retention_days == 365 && features.inline_bytes == 65536);
    size_t asked = json_array_size(json_object_get(frame, "require"));
    REQUIRE(json_array_size(json_object_get(response, "missing_required")) <= asked);
    json_decref(response);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t SEED[SEED_BYTES] = { 1 };
    struct error error;

    if (keys == NULL)
        REQUIRE(crypto_start(&error) == 0 && keypair_from_seed(SEED, &keys, &error) == 0);
    json_t *frame = fuzz_parse_json(data, size);
    if (frame != NULL) {
        check_hello(frame);
        check_send(frame);
        check_client_ack(frame);
        check_request(frame);
    }
    json_decref(frame);
    return 0;
}
