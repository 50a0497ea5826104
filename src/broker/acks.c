/* What recipients say about messages (40-wire, Receiving): client_ack, seen; and the receipts that come of it for the sender, kept until receipt_ack. Acknowledgements of one turn of
 * the loop go to the store together. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "proto/frames.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { ACKS_FIRST = 64, ACKS_AT_ONCE = 512 };

/* ---- gathering ---------------------------------------------------------------------------------------------------------------------- */

static void send_receipts(struct broker *broker, const struct store_ack *ack);

static void acknowledged(struct store_request *base)
{
    struct store_acknowledge *acks = CONTAINER_OF(base, struct store_acknowledge, request);
    struct broker *broker = base->argument;
    if (base->status != 0) {
        /* The deliveries stay, and are due again when their sessions come again. */
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "acknowledge"), LOG_TEXT("detail", base->error->message), LOG_END);
        free(acks);
        return;
    }
    for (size_t i = 0; i < acks->count; i++) {
        const struct store_ack *ack = &acks->acks[i];
        broker->metrics.deliveries_waiting -= (int64_t)ack->delivered;
        broker->metrics.deliveries_done += ack->delivered;
        if (ack->receipt)
            send_receipts(broker, ack);
    }
    free(acks);
}

void acks_flush(void *argument)
{
    struct broker *broker = argument;
    struct store_acknowledge *acks = broker->acks;
    broker->acks = NULL;
    if (acks != NULL)
        broker->store->operations->acknowledge(broker->store, acks);
}

static struct store_ack *add(struct broker *broker)
{
    if (broker->acks == NULL) {
        broker->ack_capacity = ACKS_FIRST;
        broker->acks = memory_zalloc(sizeof(*broker->acks) + ACKS_FIRST * sizeof(struct store_ack));
        broker->acks->request.done = acknowledged;
        broker->acks->request.argument = broker;
        loop_defer(broker->loop, acks_flush, broker);
    } else if (broker->acks->count == broker->ack_capacity) {
        broker->ack_capacity *= 2;
        broker->acks = memory_realloc(broker->acks, sizeof(*broker->acks) + broker->ack_capacity * sizeof(struct store_ack));
    }
    struct store_ack *ack = &broker->acks->acks[broker->acks->count++];
    memset(ack, 0, sizeof *ack);
    return ack;
}

/* False: not an id of ours. */
static bool add_ack(struct session *session, enum store_ack_kind kind, const char *message_id, int64_t at, const char *rsig)
{
    struct store_ack parsed = { .kind = kind, .mesh = session->member->mesh->key, .member = session->member->key, .session = session->key };
    if (string_copy(parsed.broker_message_id, sizeof parsed.broker_message_id, message_id) != 0 || message_id[0] == '\0')
        return false;
    parsed.at = at >= 0 ? at : clock_wall_ms();
    if (rsig != NULL && string_copy(parsed.rsig, sizeof parsed.rsig, rsig) != 0)
        parsed.rsig[0] = '\0'; /* no signature of that length: as good as none */
    memcpy(parsed.by, session->member->pubkey, sizeof parsed.by);
    *add(session->broker) = parsed;
    if (session->broker->acks->count >= ACKS_AT_ONCE)
        acks_flush(session->broker);
    return true;
}

void acks_add_implied(struct session *session, const char *message_id)
{
    (void)add_ack(session, STORE_ACK_IMPLIED, message_id, -1, NULL);
}

/* ---- client_ack, seen --------------------------------------------------------------------------------------------------------------- */

static int take_client_ack(struct session *session, const json_t *item, struct error *error)
{
    struct frame_client_ack ack;
    int status = frame_client_ack_parse(item, &ack, error);
    if (status != 0)
        return status;
    (void)deliver_acknowledge(session, ack.broker_message_id);
    (void)add_ack(session, ack.quarantined ? STORE_ACK_QUARANTINED : STORE_ACK_STORED, ack.broker_message_id, ack.at, ack.rsig);
    return 0;
}

void acks_handle_client_ack(struct session *session, const json_t *frame)
{
    const json_t *acks = NULL;
    struct error error;
    int status = json_read_array(frame, "acks", JSON_OPTIONAL, &acks, &error);
    if (session->key == 0) /* a send-only connection has nothing to acknowledge */
        return;
    if (status == 0 && acks == NULL)
        status = take_client_ack(session, frame, &error);
    for (size_t i = 0; status == 0 && i < json_array_size(acks); i++)
        status = take_client_ack(session, json_array_get(acks, i), &error);
    if (status != 0)
        session_error(session, session_request_id(frame), "invalid_request", error.message, NULL);
    deliver_pump(session);
}

/* `acks` says when, and carries the signed receipts; `ids` alone is enough. */
void acks_handle_seen(struct session *session, const json_t *frame)
{
    const json_t *ids = NULL, *acks = NULL;
    struct error error;
    int status = json_read_array(frame, "acks", JSON_OPTIONAL, &acks, &error);
    if (status == 0)
        status = json_read_array(frame, "ids", acks == NULL ? JSON_REQUIRED : JSON_OPTIONAL, &ids, &error);
    for (size_t i = 0; status == 0 && i < json_array_size(acks); i++) {
        struct frame_client_ack ack;
        status = frame_client_ack_parse(json_array_get(acks, i), &ack, &error);
        if (status == 0)
            (void)add_ack(session, STORE_ACK_SEEN, ack.broker_message_id, ack.at, ack.rsig);
    }
    for (size_t i = 0; status == 0 && acks == NULL && i < json_array_size(ids); i++) {
        const char *id = json_string_value(json_array_get(ids, i));
        if (id == NULL)
            status = error_set(&error, ERROR_INVALID, "field 'ids' must hold strings");
        else
            (void)add_ack(session, STORE_ACK_SEEN, id, -1, NULL);
    }
    if (status != 0)
        session_error(session, session_request_id(frame), "invalid_request", error.message, NULL);
}

/* ---- receipts to the sender ------------------------------------------------------------------------------------------------------------ */

static void build_receipt(const char *client_message_id, const char *message_id, const char *by, enum store_ack_kind kind, int64_t at,
                          const char *rsig, struct buffer *frame)
{
    buffer_append_text(frame, "{\"type\":\"receipt\",\"client_message_id\":");
    buffer_append_json_string(frame, client_message_id, strlen(client_message_id));
    buffer_append_text(frame, ",\"messageId\":");
    buffer_append_json_string(frame, message_id, strlen(message_id));
    buffer_append_text(frame, ",\"by\":");
    buffer_append_json_string(frame, by, strlen(by));
    buffer_printf(frame, ",\"state\":\"%s\",\"at\":%" PRId64, store_ack_kind_name(kind), at);
    if (rsig[0] != '\0') {
        buffer_append_text(frame, ",\"rsig\":");
        buffer_append_json_string(frame, rsig, strlen(rsig));
    }
    buffer_append_byte(frame, '}');
}

static void send_receipts(struct broker *broker, const struct store_ack *ack)
{
    struct member *sender = state_find_member(broker, ack->sender);
    if (sender == NULL)
        return;
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    build_receipt(ack->client_message_id, ack->broker_message_id, ack->by, ack->kind, ack->at, ack->rsig, &frame);
    struct session *session;
    LIST_FOREACH(session, &sender->sessions, of_member)
    {
        if (!session->delivery_ack)
            continue;
        if (websocket_backlog(session->socket) < BROKER_PUSH_BACKLOG)
            session_send(session, frame.data, frame.length);
        else
            session->receipts_after = 0; /* it stays in the store; fetched when there is room */
    }
    buffer_release(&frame);
}

struct receipts_request {
    struct store_fetch_receipts store;
    struct broker *broker;
};

static void receipts_fetched(struct store_request *base)
{
    struct receipts_request *request =
        CONTAINER_OF(CONTAINER_OF(base, struct store_fetch_receipts, request), struct receipts_request, store);
    struct session *session = session_find(request->broker, request->store.connection);
    if (session != NULL) {
        struct buffer frame;
        buffer_init(&frame, LIMIT_FRAME);
        session->receipts_fetching = false;
        session->receipts_after = base->status == 0 ? request->store.next : -1;
        for (size_t i = 0; base->status == 0 && i < request->store.count; i++) {
            const struct store_receipt *receipt = &request->store.receipts[i];
            buffer_reset(&frame);
            build_receipt(receipt->client_message_id, receipt->broker_message_id, receipt->by, receipt->kind, receipt->at, receipt->rsig,
                          &frame);
            session_send(session, frame.data, frame.length);
        }
        buffer_release(&frame);
        acks_fetch_receipts(session);
    }
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "receipts"), LOG_TEXT("detail", base->error->message), LOG_END);
    free(request);
}

void acks_fetch_receipts(struct session *session)
{
    if (session->state != SESSION_OPEN || session->receipts_after < 0 || session->receipts_fetching ||
        websocket_backlog(session->socket) >= BROKER_PUSH_BACKLOG)
        return;
    struct receipts_request *request = memory_zalloc(sizeof(*request));
    request->broker = session->broker;
    request->store.request.done = receipts_fetched;
    request->store.member = session->member->key;
    request->store.after = session->receipts_after;
    request->store.connection = session->connection;
    session->receipts_fetching = true;
    session->broker->store->operations->fetch_receipts(session->broker->store, &request->store);
}

static void settled(struct store_request *base)
{
    if (base->status != 0) /* they are sent again at the next connection */
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "receipt_ack"), LOG_TEXT("detail", base->error->message), LOG_END);
    free(CONTAINER_OF(base, struct store_settle_receipts, request));
}

static int take_receipt_ack(const json_t *item, struct store_settle_receipts *settle, struct error *error)
{
    const char *message_id = NULL, *by = NULL, *state = NULL;
    int status = json_read_string(item, "messageId", JSON_REQUIRED, &message_id, error);
    if (status == 0)
        status = json_read_string(item, "by", JSON_REQUIRED, &by, error);
    if (status == 0)
        status = json_read_string(item, "state", JSON_REQUIRED, &state, error);
    if (status != 0)
        return status;
    struct store_receipt_ack *ack = &settle->acks[settle->count];
    ack->kind = string_equal(state, "seen") ? STORE_ACK_SEEN : STORE_ACK_STORED;
    if (string_copy(ack->broker_message_id, sizeof ack->broker_message_id, message_id) == 0 &&
        string_copy(ack->by, sizeof ack->by, by) == 0)
        settle->count++; /* others are nobody's */
    return 0;
}

void acks_handle_receipt_ack(struct session *session, const json_t *frame)
{
    const json_t *receipts = NULL;
    struct error error;
    if (json_read_array(frame, "receipts", JSON_REQUIRED, &receipts, &error) != 0) {
        session_error(session, session_request_id(frame), "invalid_request", error.message, NULL);
        return;
    }
    size_t count = json_array_size(receipts);
    struct store_settle_receipts *settle = memory_zalloc(sizeof(*settle) + count * sizeof(struct store_receipt_ack));
    settle->request.done = settled;
    settle->mesh = session->member->mesh->key;
    settle->member = session->member->key;
    for (size_t i = 0; i < count; i++)
        if (take_receipt_ack(json_array_get(receipts, i), settle, &error) != 0) {
            session_error(session, session_request_id(frame), "invalid_request", error.message, NULL);
            break;
        }
    session->broker->store->operations->settle_receipts(session->broker->store, settle);
}
