/* Owns the frames that carry messages: send, ack, push, client_ack, both ways (40-wire). Printed by copying, since every message passes here. Must not decide anything about a message
 * but what an answer means for its row. */
#include "proto/frames.h"

#include "proto/frame_fields.h"
#include "util/limits.h"

/* ---- send ------------------------------------------------------------------------------------------------- */

int frame_send_build(const struct frame_send *send, struct buffer *ret_frame)
{
    (void)buffer_append_text(ret_frame, "{\"type\":\"send\"");
    frame_put_string(ret_frame, ",\"id\":", send->id);
    frame_put_string(ret_frame, ",\"client_message_id\":", send->id);
    frame_put_string(ret_frame, ",\"request_fingerprint\":", send->request_fingerprint);
    frame_put_string(ret_frame, ",\"targetSpec\":", send->target_spec);
    frame_put_string(ret_frame, ",\"priority\":", send->priority);
    frame_put_string(ret_frame, ",\"nonce\":", send->nonce);
    frame_put_text(ret_frame, ",\"ciphertext\":", (struct text){ send->ciphertext, send->ciphertext_length });
    frame_put_integer(ret_frame, ",\"bodyVersion\":", send->body_version);
    frame_put_integer(ret_frame, ",\"keyEpoch\":", send->key_epoch);
    frame_put_string(ret_frame, ",\"replyToId\":", send->reply_to_id);
    frame_put_json(ret_frame, ",\"mentions\":", send->mentions);
    frame_put_string(ret_frame, ",\"destination_kind\":", send->destination_kind);
    frame_put_string(ret_frame, ",\"destination_ref\":", send->destination_ref);
    return frame_end(ret_frame);
}

static bool is_one_of(const char *value, const char *a, const char *b, const char *c)
{
    return string_equal(value, a) || string_equal(value, b) || string_equal(value, c);
}

static int check_send(const struct frame_send *send, struct error *error)
{
    if (!client_message_id_is_valid(send->id, strlen(send->id))) {
        return error_set(error, ERROR_INVALID, "field 'client_message_id' must be 1 to 128 printable ASCII characters without spaces");
    }
    if (send->request_fingerprint != NULL && !hex_is_key(send->request_fingerprint)) {
        return error_set(error, ERROR_INVALID, "field 'request_fingerprint' must be 64 lower-case hex digits");
    }
    if (!is_one_of(send->priority, "now", "next", "low")) {
        return error_set(error, ERROR_INVALID, "field 'priority' must be now, next or low");
    }
    if (send->destination_kind != NULL && !is_one_of(send->destination_kind, "dm", "topic", "queue")) {
        return error_set(error, ERROR_INVALID, "field 'destination_kind' must be dm, topic or queue");
    }
    return 0;
}

int frame_send_parse(const json_t *frame, struct frame_send *ret_send, struct error *error)
{
    struct frame_send send = { .priority = "next", .body_version = 1, .key_epoch = -1 };
    struct text ciphertext = { "", 0 };
    const struct frame_string strings[] = {
        { "id", JSON_OPTIONAL, &send.id },
        { "client_message_id", JSON_OPTIONAL, &send.id },
        { "request_fingerprint", JSON_OPTIONAL, &send.request_fingerprint },
        { "targetSpec", JSON_REQUIRED, &send.target_spec },
        { "priority", JSON_OPTIONAL, &send.priority },
        { "nonce", JSON_REQUIRED, &send.nonce },
        { "ciphertext", JSON_REQUIRED, &send.ciphertext },
        { "replyToId", JSON_OPTIONAL, &send.reply_to_id },
        { "destination_kind", JSON_OPTIONAL, &send.destination_kind },
        { "destination_ref", JSON_OPTIONAL, &send.destination_ref },
    };
    int result = frame_read_strings(frame, strings, ARRAY_LENGTH(strings), error);
    if (result == 0 && send.id == NULL) {
        result = error_set(error, ERROR_INVALID, "field 'client_message_id' is missing");
    }
    if (result == 0) {
        result = json_read_text(frame, "ciphertext", JSON_REQUIRED, &ciphertext, error);
        send.ciphertext_length = ciphertext.length;
    }
    if (result == 0) {
        result = json_read_integer(frame, "bodyVersion", JSON_OPTIONAL, 0, INT32_MAX, &send.body_version, error);
    }
    if (result == 0) {
        result = json_read_integer(frame, "keyEpoch", JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, &send.key_epoch, error);
    }
    if (result == 0) {
        result = json_read_array(frame, "mentions", JSON_OPTIONAL, &send.mentions, error);
    }
    if (result == 0) {
        result = check_send(&send, error);
    }
    if (result == 0) {
        *ret_send = send;
    }
    return result;
}

/* ---- ack -------------------------------------------------------------------------------------------------- */

int frame_ack_build(const struct frame_ack *ack, struct buffer *ret_frame)
{
    (void)buffer_append_text(ret_frame, "{\"type\":\"ack\"");
    frame_put_string(ret_frame, ",\"id\":", ack->client_message_id);
    frame_put_string(ret_frame, ",\"client_message_id\":", ack->client_message_id);
    frame_put_string(ret_frame, ",\"messageId\":", ack->message_id == NULL ? "" : ack->message_id);
    frame_put_bool(ret_frame, ",\"queued\":", ack->queued);
    frame_put_integer(ret_frame, ",\"status\":", ack->status);
    if (ack->queued) {
        frame_put_bool(ret_frame, ",\"duplicate\":", ack->duplicate);
    }
    frame_put_integer(ret_frame, ",\"history_id\":", ack->history_id);
    if (ack->history_available >= 0) {
        frame_put_bool(ret_frame, ",\"history_available\":", ack->history_available != 0);
    }
    frame_put_integer(ret_frame, ",\"first_seen_at\":", ack->first_seen_at);
    frame_put_string(ret_frame, ",\"error\":", ack->error);
    frame_put_string(ret_frame, ",\"broker_fingerprint_prefix\":", ack->broker_fingerprint_prefix);
    frame_put_integer(ret_frame, ",\"retry_after_ms\":", ack->retry_after_ms);
    return frame_end(ret_frame);
}

int frame_ack_parse(const json_t *frame, struct frame_ack *ret_ack, struct error *error)
{
    struct frame_ack ack = {
        .message_id = "", .status = -1, .history_id = -1, .history_available = -1, .first_seen_at = -1, .retry_after_ms = -1
    };
    bool history_available = false;
    const struct frame_string strings[] = {
        { "id", JSON_OPTIONAL, &ack.client_message_id },
        { "client_message_id", JSON_OPTIONAL, &ack.client_message_id },
        { "messageId", JSON_OPTIONAL, &ack.message_id },
        { "error", JSON_OPTIONAL, &ack.error },
        { "broker_fingerprint_prefix", JSON_OPTIONAL, &ack.broker_fingerprint_prefix },
    };
    const struct {
        const char *name;
        int64_t *value;
    } integers[] = {
        { "status", &ack.status },
        { "history_id", &ack.history_id },
        { "first_seen_at", &ack.first_seen_at },
        { "retry_after_ms", &ack.retry_after_ms },
    };
    int result = frame_read_strings(frame, strings, ARRAY_LENGTH(strings), error);
    if (result == 0 && ack.client_message_id == NULL) {
        result = error_set(error, ERROR_INVALID, "field 'client_message_id' is missing");
    }
    for (size_t index = 0; index < ARRAY_LENGTH(integers) && result == 0; index++) {
        result = json_read_integer(frame, integers[index].name, JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, integers[index].value, error);
    }
    if (result == 0) {
        result = json_read_bool(frame, "queued", JSON_OPTIONAL, &ack.queued, error);
    }
    if (result == 0) {
        result = json_read_bool(frame, "duplicate", JSON_OPTIONAL, &ack.duplicate, error);
    }
    if (result == 0) {
        result = json_read_bool(frame, "history_available", JSON_OPTIONAL, &history_available, error);
    }
    if (result != 0) {
        return result;
    }
    if (json_is_boolean(json_object_get(frame, "history_available"))) {
        ack.history_available = history_available ? 1 : 0;
    }
    *ret_ack = ack;
    return 0;
}

/* 40-wire: from a broker without `status`, an error is final when it names the payload, the target, the schema or authorisation. */
static bool error_is_final(const char *text)
{
    static const char *const WORDS[] = { "payload", "too_large", "too large", "target",   "destination",
                                         "schema",  "authoris",  "authoriz",  "forbidden" };
    for (size_t index = 0; index < ARRAY_LENGTH(WORDS); index++) {
        if (strcasestr(text, WORDS[index]) != NULL) {
            return true;
        }
    }
    return false;
}

/* "code: sentence", or the code alone. */
static bool error_has_code(const char *error, const char *code)
{
    size_t length = strlen(code);
    return strncmp(error, code, length) == 0 && (error[length] == '\0' || error[length] == ':');
}

enum ack_verdict frame_ack_verdict(const struct frame_ack *ack)
{
    if (ack->status < 0) {
        if (ack->error == NULL) {
            return ACK_ACCEPTED;
        }
        return error_is_final(ack->error) ? ACK_REFUSED : ACK_RETRY;
    }
    switch (ack->status) {
    case 201:
        return ACK_ACCEPTED;
    case 200:
        return ACK_DUPLICATE;
    case 409:
        return ack->error == NULL || error_has_code(ack->error, "idempotency_key_reused") ? ACK_KEY_REUSED : ACK_REFUSED;
    case 429:
        return ACK_RETRY;
    default:
        /* What is neither an acceptance nor a refusal promises nothing: asked again, the broker's dedupe makes it harmless. */
        return ack->status >= 400 && ack->status < 500 ? ACK_REFUSED : ACK_RETRY;
    }
}

/* ---- push ------------------------------------------------------------------------------------------------- */

int frame_push_build(const struct frame_push *push, struct buffer *ret_frame)
{
    (void)buffer_append_text(ret_frame, "{\"type\":\"push\"");
    frame_put_string(ret_frame, ",\"messageId\":", push->message_id);
    frame_put_string(ret_frame, ",\"meshId\":", push->mesh_id);
    frame_put_string(ret_frame, ",\"senderPubkey\":", push->sender_pubkey);
    frame_put_string(ret_frame, ",\"senderMemberPubkey\":", push->sender_member_pubkey);
    frame_put_string(ret_frame, ",\"senderMemberId\":", push->sender_member_id);
    frame_put_string(ret_frame, ",\"senderName\":", push->sender_name);
    frame_put_string(ret_frame, ",\"priority\":", push->priority);
    frame_put_string(ret_frame, ",\"nonce\":", push->nonce);
    if (push->ciphertext != NULL) {
        frame_put_text(ret_frame, ",\"ciphertext\":", (struct text){ push->ciphertext, push->ciphertext_length });
    }
    frame_put_integer(ret_frame, ",\"bodyVersion\":", push->body_version);
    frame_put_integer(ret_frame, ",\"keyEpoch\":", push->key_epoch);
    frame_put_integer(ret_frame, ",\"createdAt\":", push->created_at);
    frame_put_string(ret_frame, ",\"topic\":", push->topic);
    frame_put_string(ret_frame, ",\"replyToId\":", push->reply_to_id);
    frame_put_json(ret_frame, ",\"mentions\":", push->mentions);
    frame_put_string(ret_frame, ",\"client_message_id\":", push->client_message_id);
    frame_put_integer(ret_frame, ",\"history_id\":", push->history_id);
    frame_put_string(ret_frame, ",\"targetSpec\":", push->target_spec);
    frame_put_string(ret_frame, ",\"subtype\":", push->subtype);
    frame_put_string(ret_frame, ",\"event\":", push->event);
    frame_put_json(ret_frame, ",\"eventData\":", push->event_data);
    return frame_end(ret_frame);
}

/* ms, or an existing broker's RFC 3339. */
static int read_created_at(const json_t *frame, int64_t *ret_created_at, struct error *error)
{
    const json_t *value = json_object_get(frame, "createdAt");
    if (!json_is_string(value)) {
        return json_read_integer(frame, "createdAt", JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, ret_created_at, error);
    }
    /* Negative means "absent" to everybody behind this: there is no time before 1970 here. */
    if (time_parse_rfc3339(json_string_value(value), ret_created_at) != 0 || *ret_created_at < 0) {
        return error_set(error, ERROR_INVALID, "field 'createdAt' must be milliseconds or an RFC 3339 time");
    }
    return 0;
}

static int read_push_numbers(const json_t *frame, struct frame_push *push, struct error *error)
{
    int result = json_read_integer(frame, "bodyVersion", JSON_OPTIONAL, 0, INT32_MAX, &push->body_version, error);
    if (result == 0) {
        result = json_read_integer(frame, "keyEpoch", JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, &push->key_epoch, error);
    }
    if (result == 0) {
        result = json_read_integer(frame, "history_id", JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, &push->history_id, error);
    }
    if (result == 0) {
        result = read_created_at(frame, &push->created_at, error);
    }
    if (result == 0) {
        result = json_read_array(frame, "mentions", JSON_OPTIONAL, &push->mentions, error);
    }
    return result;
}

int frame_push_parse(const json_t *frame, struct frame_push *ret_push, struct error *error)
{
    struct frame_push push = { .mesh_id = "",
                               .sender_pubkey = "",
                               .sender_member_id = "",
                               .sender_name = "",
                               .priority = "next",
                               .nonce = "",
                               .ciphertext = "",
                               .body_version = 1,
                               .key_epoch = -1,
                               .created_at = -1,
                               .history_id = -1 };
    struct text ciphertext = { "", 0 };
    int result = json_read_string(frame, "subtype", JSON_OPTIONAL, &push.subtype, error);
    if (result != 0) {
        return result;
    }
    enum json_presence presence = push.subtype == NULL ? JSON_REQUIRED : JSON_OPTIONAL;
    const struct frame_string strings[] = {
        { "messageId", JSON_REQUIRED, &push.message_id },
        { "meshId", presence, &push.mesh_id },
        { "senderPubkey", presence, &push.sender_pubkey },
        { "senderMemberPubkey", JSON_OPTIONAL, &push.sender_member_pubkey },
        { "senderMemberId", JSON_OPTIONAL, &push.sender_member_id },
        { "senderName", JSON_OPTIONAL, &push.sender_name },
        { "priority", JSON_OPTIONAL, &push.priority },
        { "nonce", presence, &push.nonce },
        { "ciphertext", presence, &push.ciphertext },
        { "topic", JSON_OPTIONAL, &push.topic },
        { "replyToId", JSON_OPTIONAL, &push.reply_to_id },
        { "client_message_id", JSON_OPTIONAL, &push.client_message_id },
        { "targetSpec", JSON_OPTIONAL, &push.target_spec },
        { "event", JSON_OPTIONAL, &push.event },
    };
    result = frame_read_strings(frame, strings, ARRAY_LENGTH(strings), error);
    if (result == 0) {
        result = json_read_text(frame, "ciphertext", JSON_OPTIONAL, &ciphertext, error);
        push.ciphertext_length = ciphertext.length;
    }
    if (result == 0) {
        result = read_push_numbers(frame, &push, error);
    }
    if (result != 0) {
        return result;
    }
    push.event_data = json_object_get(frame, "eventData");
    if (push.client_message_id == NULL) {
        push.client_message_id = push.message_id; /* 40-wire: it stands in */
    }
    if (push.sender_member_pubkey == NULL) {
        push.sender_member_pubkey = push.sender_pubkey;
    }
    *ret_push = push;
    return 0;
}

/* ---- client_ack ------------------------------------------------------------------------------------------- */

int frame_client_ack_parse(const json_t *item, struct frame_client_ack *ret_ack, struct error *error)
{
    struct frame_client_ack ack = { .client_message_id = "", .broker_message_id = "", .at = -1 };
    const char *state = NULL;
    const struct frame_string strings[] = {
        { "clientMessageId", JSON_OPTIONAL, &ack.client_message_id },
        { "brokerMessageId", JSON_OPTIONAL, &ack.broker_message_id },
        { "state", JSON_OPTIONAL, &state },
        { "rsig", JSON_OPTIONAL, &ack.rsig },
    };
    int result = frame_read_strings(item, strings, ARRAY_LENGTH(strings), error);
    if (result == 0) {
        result = json_read_integer(item, "at", JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, &ack.at, error);
    }
    if (result == 0 && ack.client_message_id[0] == '\0' && ack.broker_message_id[0] == '\0') {
        result = error_set(error, ERROR_INVALID, "field 'brokerMessageId' is missing");
    }
    if (result == 0) {
        ack.quarantined = string_equal(state, "quarantined");
        *ret_ack = ack;
    }
    return result;
}

static void print_client_ack(const struct frame_client_ack *ack, const char *first_key, struct buffer *frame)
{
    frame_put_string(frame, first_key, ack->client_message_id);
    frame_put_string(frame, ",\"brokerMessageId\":", ack->broker_message_id);
    frame_put_string(frame, ",\"state\":", ack->quarantined ? "quarantined" : NULL);
    frame_put_integer(frame, ",\"at\":", ack->at);
    frame_put_string(frame, ",\"rsig\":", ack->rsig);
}

int frame_client_ack_build(const struct frame_client_ack *acks, size_t count, struct buffer *ret_frame)
{
    (void)buffer_append_text(ret_frame, "{\"type\":\"client_ack\"");
    if (count == 1) {
        print_client_ack(&acks[0], ",\"clientMessageId\":", ret_frame);
        return frame_end(ret_frame);
    }
    (void)buffer_append_text(ret_frame, ",\"acks\":[");
    for (size_t index = 0; index < count; index++) {
        print_client_ack(&acks[index], index == 0 ? "{\"clientMessageId\":" : ",{\"clientMessageId\":", ret_frame);
        (void)buffer_append_byte(ret_frame, '}');
    }
    (void)buffer_append_byte(ret_frame, ']');
    return frame_end(ret_frame);
}
