/* What a daemon parses from a broker: ack, push, feature_negotiation_response. What is accepted and printed again is read as the same; what is refused leaves the output untouched. */
#include "frames_fuzz.h"
#include "proto/features.h"

static void check_ack(const json_t *frame)
{
    struct frame_ack ack, again;
    struct error error = { .code = ERROR_NONE };
    struct buffer text;

    memset(&ack, 0xA5, sizeof(ack));
    if (frame_ack_parse(frame, &ack, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID);
        REQUIRE_UNTOUCHED(ack);
        return;
    }
    const enum ack_verdict verdict = frame_ack_verdict(&ack);
    buffer_init(&text, BUFFER_UNLIMITED);
    REQUIRE(frame_ack_build(&ack, &text) == 0);
    json_t *document = fuzz_reparse(&text);
    REQUIRE(frame_ack_parse(document, &again, &error) == 0 && frame_ack_verdict(&again) == verdict);
    REQUIRE(string_equal(again.client_message_id, ack.client_message_id) && string_equal(again.message_id, ack.message_id));
    REQUIRE(again.queued == ack.queued && again.status == ack.status && again.duplicate == (ack.queued && ack.duplicate));
    REQUIRE(again.history_id == ack.history_id && again.history_available == ack.history_available);
    REQUIRE(again.first_seen_at == ack.first_seen_at && again.retry_after_ms == ack.retry_after_ms);
    REQUIRE(string_equal(again.error, ack.error) && string_equal(again.broker_fingerprint_prefix, ack.broker_fingerprint_prefix));
    json_decref(document);
    buffer_release(&text);
}

static void check_same_push(const struct frame_push *a, const struct frame_push *b)
{
    REQUIRE(string_equal(a->message_id, b->message_id) && string_equal(a->mesh_id, b->mesh_id));
    REQUIRE(string_equal(a->sender_pubkey, b->sender_pubkey) && string_equal(a->sender_member_pubkey, b->sender_member_pubkey));
    REQUIRE(string_equal(a->sender_member_id, b->sender_member_id) && string_equal(a->sender_name, b->sender_name));
    REQUIRE(string_equal(a->priority, b->priority) && string_equal(a->nonce, b->nonce));
    REQUIRE(a->ciphertext_length == b->ciphertext_length && string_equal(a->ciphertext, b->ciphertext));
    REQUIRE(a->body_version == b->body_version && a->key_epoch == b->key_epoch && a->created_at == b->created_at);
    REQUIRE(string_equal(a->topic, b->topic) && string_equal(a->reply_to_id, b->reply_to_id));
    REQUIRE(string_equal(a->client_message_id, b->client_message_id) && string_equal(a->target_spec, b->target_spec));
    REQUIRE(json_same(a->mentions, b->mentions) && a->history_id == b->history_id);
    REQUIRE(string_equal(a->subtype, b->subtype) && string_equal(a->event, b->event) && json_same(a->event_data, b->event_data));
}

static void check_push(const json_t *frame)
{
    struct frame_push push, again;
    struct error error = { .code = ERROR_NONE };
    struct buffer text;

    memset(&push, 0xA5, sizeof(push));
    if (frame_push_parse(frame, &push, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID);
        REQUIRE_UNTOUCHED(push);
        return;
    }
    REQUIRE(strlen(push.ciphertext) == push.ciphertext_length);
    REQUIRE(push.created_at >= -1);
    buffer_init(&text, BUFFER_UNLIMITED);
    REQUIRE(frame_push_build(&push, &text) == 0);
    json_t *document = fuzz_reparse(&text);
    REQUIRE(frame_push_parse(document, &again, &error) == 0);
    check_same_push(&push, &again);
    json_decref(document);
    buffer_release(&text);
}

static void check_features(const json_t *frame)
{
    static const int64_t HOUR_MS = 3600000;
    static const char *const ALWAYS[] = { "client_message_id_dedupe", "concurrent_connection_policy" };
    struct feature_set features;
    struct feature_verdict verdict;
    struct buffer reason;

    for (size_t count = 0; count <= ARRAY_LENGTH(ALWAYS); count++) {
        features_judge(frame, ALWAYS, count, &features, &verdict);
        REQUIRE(count > 0 || verdict.failure == FEATURE_OK);
        REQUIRE(verdict.failure != FEATURE_OK || count == 0 || features.dedupe);
        REQUIRE(features.inline_bytes >= 1024 && features.max_concurrent_epochs >= 1);
        REQUIRE(!features.dedupe || features.dedupe_permanent || features.dedupe_retention_days >= 3);
        if (features.dedupe && !features.dedupe_permanent) { /* as delivery computes it: it must stay a time */
            const int64_t hours = maximum_age_hours(features.dedupe_retention_days);
            REQUIRE(hours > 0 && hours < INT64_MAX / HOUR_MS);
        }
        buffer_init(&reason, BUFFER_UNLIMITED);
        REQUIRE(features_close_reason(&verdict, &reason) == 0 && reason.length <= 123);
        json_decref(fuzz_reparse(&reason));
        buffer_release(&reason);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *frame = fuzz_parse_json(data, size);
    if (frame != NULL) {
        check_ack(frame);
        check_push(frame);
        check_features(frame);
    }
    json_decref(frame);
    return 0;
}
