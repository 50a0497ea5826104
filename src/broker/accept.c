/* A send (70-broker, Accepting a send): what can be judged without the store (B1: schema, size, destination kind), then one store task for all the rest, then the ack and
 * the pushes. The judgement made here counts only after B0, so it travels with the request. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "proto/frames.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

struct verdict {
    int status;
    const char *error; /* "code: sentence" */
};

static const struct verdict UNSUPPORTED = { 400, "unsupported_destination: this broker serves direct messages only, so far" };
static const struct verdict BAD_TARGET = { 400, "invalid_destination: the target is not 64 lower-case hex digits" };
static const struct verdict OTHER_TARGET = { 400, "invalid_destination: destination_kind or destination_ref differ from the target" };
static const struct verdict BAD_NONCE = { 400, "invalid_request: the nonce is not 24 bytes in base64" };
static const struct verdict BAD_CIPHERTEXT = { 400, "invalid_request: the ciphertext is not base64" };
static const struct verdict BAD_REPLY = { 400, "invalid_request: replyToId is too long" };
static const struct verdict BAD_MENTIONS = { 400, "invalid_request: mentions are too long" };
static const struct verdict TOO_LARGE = { 413, "payload_too_large: the message is larger than this broker takes" };
static const struct verdict DISK_FULL = { 507, "insufficient_storage: the broker's disk is full" };
static const struct verdict STORE_FAILED = { 503, "store_unavailable: the store does not answer" };

static const struct verdict VERDICTS[STORE_OUTCOMES] = {
    [STORE_ACCEPTED] = { 201, NULL },
    [STORE_DUPLICATE] = { 200, NULL },
    [STORE_CONFLICT] = { 409, "idempotency_key_reused: this id was accepted for another request" },
    [STORE_RATE_LIMITED] = { 429, "rate_limited: this member sends too fast" },
    [STORE_HELD] = { 503, "held: an earlier message to this destination waits to be sent again" },
    [STORE_SENDER_ROTATED] = { 503, "key_rotated: the sender has another key by now, and sends again with it" },
    [STORE_SENDER_GONE] = { 403, "unauthorized: the sender is no longer a member" },
    [STORE_UNKNOWN_MEMBER] = { 404, "unknown_member: nobody in this mesh has this key" },
    [STORE_MEMBER_REVOKED] = { 404, "unknown_member: the recipient was revoked" },
    [STORE_RECIPIENT_FULL] = { 507, "recipient_full: as many messages as may be wait for this recipient" },
};

struct send_request {
    struct store_accept store;
    struct broker *broker;
    const struct verdict *refused; /* B1's; NULL none */
    struct verdict malformed;      /* what refused may point to; its text is in `text` */
    struct member *sender;         /* referenced */
    int64_t started_us;
    size_t size;
    char sender_key[KEY_HEX_SIZE]; /* of now: the member may have another one when the store comes to it */
    char text[];                   /* what the store's strings point into */
};

/* ---- B1, as far as it needs no store ------------------------------------------------------------------------------------------ */

static const struct verdict *judge_target(const struct frame_send *send)
{
    const char *target = send->target_spec;
    if (target[0] == '#' || target[0] == '@' || string_equal(target, "*"))
        return &UNSUPPORTED;
    if (!hex_is_key(target))
        return &BAD_TARGET;
    if ((send->destination_kind != NULL && !string_equal(send->destination_kind, "dm")) ||
        (send->destination_ref != NULL && !string_equal(send->destination_ref, target)))
        return &OTHER_TARGET;
    return NULL;
}

static const struct verdict *judge(const struct broker *broker, const struct frame_send *send, size_t mentions_length)
{
    const struct verdict *verdict = judge_target(send);
    if (verdict != NULL)
        return verdict;
    if (base64_decoded_length(send->nonce, strlen(send->nonce)) != 24)
        return &BAD_NONCE;
    int64_t size = base64_decoded_length(send->ciphertext, send->ciphertext_length);
    if (size <= 0)
        return &BAD_CIPHERTEXT;
    if ((size_t)size > broker->figures.ciphertext_maximum)
        return &TOO_LARGE;
    if (send->reply_to_id != NULL && strlen(send->reply_to_id) > LIMIT_CLIENT_MESSAGE_ID)
        return &BAD_REPLY;
    if (mentions_length > BROKER_MENTIONS)
        return &BAD_MENTIONS;
    return NULL;
}

static int priority_of(const char *name)
{
    return string_equal(name, "now") ? 0 : string_equal(name, "low") ? 2 : 1;
}

/* An existing client sends no fingerprint, and encrypts anew when it sends again: all that is the same then is the id. */
static void fingerprint_of_send(const struct frame_send *send, uint8_t ret_fingerprint[32])
{
    struct sha256 digest;
    if (send->request_fingerprint != NULL && hex_decode(send->request_fingerprint, 64, ret_fingerprint, 32) == 0)
        return;
    sha256_of(send->id, strlen(send->id), &digest);
    memcpy(ret_fingerprint, digest.bytes, 32);
}

/* ---- the answer ---------------------------------------------------------------------------------------------------------------------- */

static const struct verdict *verdict_of(const struct send_request *request)
{
    const struct store_accept *store = &request->store;
    if (store->request.status == -ERROR_FULL)
        return &DISK_FULL;
    if (store->request.status != 0)
        return &STORE_FAILED;
    return store->outcome == STORE_REFUSED ? request->refused : &VERDICTS[store->outcome];
}

static void write_ack(struct session *session, const struct frame_ack *ack)
{
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    if (frame_ack_build(ack, &frame) == 0)
        session_send(session, frame.data, frame.length);
    buffer_release(&frame);
}

static void send_ack(struct session *session, const struct send_request *request, const struct verdict *verdict)
{
    const struct store_accept *store = &request->store;
    bool queued = verdict->status == 200 || verdict->status == 201;
    const struct frame_ack ack = {
        .client_message_id = store->client_message_id,
        .message_id = queued ? store->broker_message_id : "",
        .queued = queued,
        .status = verdict->status,
        .duplicate = verdict->status == 200,
        .history_id = queued ? store->history_id : -1,
        .history_available = queued ? store->history_available : -1,
        .first_seen_at = queued ? store->first_seen_at : -1,
        .error = verdict->error,
        .broker_fingerprint_prefix = verdict->status == 409 ? store->fingerprint_prefix : NULL,
        .retry_after_ms = verdict->status == 429 ? store->retry_after_ms : -1,
    };
    write_ack(session, &ack);
}

static void go_on_reading(void *argument, struct table_node *node)
{
    (void)argument;
    session_balance(CONTAINER_OF(node, struct session, by_connection));
}

static void leave_undecided(struct broker *broker, const struct send_request *request)
{
    broker->undecided_bytes -= request->size;
    if (broker->stopping && broker->undecided_bytes == 0)
        session_stop_all(broker);
    if (broker->reading_stopped && broker->undecided_bytes < BROKER_UNDECIDED_BYTES / 2) {
        broker->reading_stopped = false;
        table_each(&broker->sessions, go_on_reading, NULL);
    }
}

static void count(struct broker *broker, const struct send_request *request)
{
    struct metrics *metrics = &broker->metrics;
    const struct store_accept *store = &request->store;
    metrics->accepted[store->request.status != 0 ? (size_t)ACCEPT_FAILED : (size_t)store->outcome]++;
    histogram_add(&metrics->accept_seconds, clock_monotonic_us() - request->started_us);
    if (store->request.status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "accept"), LOG_TEXT("detail", store->request.error->message), LOG_END);
    else if (store->outcome == STORE_ACCEPTED)
        metrics->deliveries_waiting += (int64_t)store->recipient_session_count;
}

static void decided(struct store_request *base)
{
    struct send_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_accept, request), struct send_request, store);
    struct broker *broker = request->broker;
    const struct verdict *verdict = verdict_of(request);
    count(broker, request);
    struct session *session = session_find(broker, request->store.connection);
    if (session != NULL) {
        session->undecided--;
        if (verdict->status == 429 || verdict->status >= 500)
            session->refused_in_passing = true;
        send_ack(session, request, verdict);
    }
    leave_undecided(broker, request);
    if (verdict->status == 201)
        deliver_accepted(broker, &request->store, request->sender);
    if (session != NULL)
        session_balance(session);
    state_release_member(broker, request->sender);
    free(request);
}

/* ---- the request ----------------------------------------------------------------------------------------------------------------------- */

static const char *copy_text(char **at, const char *text, size_t length)
{
    if (text == NULL)
        return NULL;
    char *copy = *at;
    memcpy(copy, text, length);
    copy[length] = '\0';
    *at += length + 1;
    return copy;
}

static size_t length_of(const char *text)
{
    return text == NULL ? 0 : strlen(text);
}

static struct send_request *make_request(struct session *session, const struct frame_send *send, const char *mentions,
                                         size_t mentions_length)
{
    const size_t ids = strlen(send->id), target = strlen(send->target_spec), key = strlen(session->routing_key);
    const size_t nonce = strlen(send->nonce), reply = length_of(send->reply_to_id);
    struct send_request *request =
        memory_zalloc(sizeof(*request) + ids + target + key + nonce + reply + mentions_length + send->ciphertext_length + 8);
    char *at = request->text;
    struct store_accept *store = &request->store;
    request->size = sizeof(*request) + send->ciphertext_length;
    store->client_message_id = copy_text(&at, send->id, ids);
    store->target_spec = copy_text(&at, send->target_spec, target);
    store->destination_kind = "dm";
    store->destination_ref = store->target_spec;
    store->sender_pubkey = copy_text(&at, session->routing_key, key);
    store->nonce = copy_text(&at, send->nonce, nonce);
    store->ciphertext = copy_text(&at, send->ciphertext, send->ciphertext_length);
    store->ciphertext_length = send->ciphertext_length;
    store->reply_to_id = copy_text(&at, send->reply_to_id, reply);
    store->mentions = mentions_length == 0 ? NULL : copy_text(&at, mentions, mentions_length);
    store->priority = priority_of(send->priority);
    store->body_version = send->body_version;
    store->key_epoch = send->key_epoch;
    fingerprint_of_send(send, store->fingerprint);
    return request;
}

static bool has_other_connection(const struct session *session)
{
    const struct session *other;
    LIST_FOREACH(other, &session->member->sessions, of_member)
    {
        if (other != session && other->presence != NULL)
            return true;
    }
    return false;
}

/* Only the id, and the way that it may hold, are looked at any more. */
static void keep_what_identifies(struct frame_send *send)
{
    send->nonce = "";
    send->ciphertext = "";
    send->ciphertext_length = 0;
    send->reply_to_id = NULL;
    if (strlen(send->target_spec) > KEY_HEX_SIZE)
        send->target_spec = "";
}

static void submit(struct session *session, struct send_request *request)
{
    struct broker *broker = session->broker;
    struct store_accept *store = &request->store;
    request->broker = broker;
    request->started_us = clock_monotonic_us();
    request->sender = session->member;
    session->member->references++;
    store->request.done = decided;
    store->request.patient = websocket_has_input(session->socket);
    store->mesh = session->member->mesh->key;
    store->sender = session->member->key;
    memcpy(request->sender_key, session->member->pubkey, sizeof request->sender_key);
    store->sender_member_pubkey = request->sender_key;
    store->connection = session->connection;
    store->session = session->key;
    store->other_connection = has_other_connection(session);
    store->now_ms = clock_wall_ms();
    store->dedupe_expires_at = broker->figures.dedupe_permanent ? -1 : store->now_ms + broker->figures.dedupe_retention_ms;
    ulid_generate(store->claimed_message_id);
    session->undecided++;
    broker->undecided_bytes += request->size;
    if (broker->undecided_bytes > BROKER_UNDECIDED_BYTES)
        broker->reading_stopped = true;
    broker->store->operations->accept(broker->store, store);
}

/* Of the wrong shape: refused for good when it says which send it is, in its turn and after B0, so that its sender does not wait for an answer. */
static void refuse_shape(struct session *session, const json_t *frame, const char *detail)
{
    const char *id = json_string_value(json_object_get(frame, "client_message_id"));
    const char *fingerprint = json_string_value(json_object_get(frame, "request_fingerprint"));
    const char *target = json_string_value(json_object_get(frame, "targetSpec"));
    if (id == NULL)
        id = json_string_value(json_object_get(frame, "id"));
    if (id == NULL || !client_message_id_is_valid(id, strlen(id))) {
        session_error(session, session_request_id(frame), "invalid_request", detail, NULL);
        return;
    }
    struct frame_send send = {
        .id = id,
        .target_spec = target == NULL ? "" : target,
        .priority = "next",
        .body_version = 1,
        .key_epoch = -1,
        .request_fingerprint = fingerprint != NULL && hex_is_key(fingerprint) ? fingerprint : NULL,
    };
    keep_what_identifies(&send);
    char *error = memory_printf("invalid_request: %s", detail);
    struct send_request *request = make_request(session, &send, error, strlen(error));
    free(error);
    request->malformed = (struct verdict){ 400, request->store.mentions };
    request->refused = &request->malformed;
    request->store.mentions = NULL;
    request->store.refused = true;
    submit(session, request);
}

void accept_handle_send(struct session *session, const json_t *frame)
{
    struct frame_send send;
    struct error error;
    if (frame_send_parse(frame, &send, &error) != 0) {
        refuse_shape(session, frame, error.message);
        return;
    }
    struct buffer mentions;
    buffer_init(&mentions, LIMIT_FRAME);
    if (send.mentions != NULL && json_array_size(send.mentions) > 0)
        (void)json_print(send.mentions, &mentions);
    const struct verdict *refused = judge(session->broker, &send, mentions.length);
    if (refused != NULL) {
        keep_what_identifies(&send);
        buffer_reset(&mentions);
    }
    struct send_request *request = make_request(session, &send, mentions.data, mentions.length);
    request->refused = refused;
    request->store.refused = refused != NULL;
    submit(session, request);
    buffer_release(&mentions);
}
