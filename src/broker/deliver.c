/* Pushing (70-broker, Delivering): each receiving session has a queue in the store and a window here. A session that is caught up gets a new message straight from its
 * accept; one that is not, from the store, past its cursors. What was pushed and not acknowledged is known by history_id alone: the rows stay in the store, so a lost connection or
 * a restart loses nothing. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "proto/frames.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { RING_FIRST = 16 };

/* ---- what is in flight -------------------------------------------------------------------------------------------------------- */

static struct inflight *slot(const struct outgoing *out, size_t index)
{
    return &out->ring[(out->head + index) % out->capacity];
}

/* Drops what is acknowledged from the front; frees the ring of an idle session. */
static void settle_ring(struct outgoing *out)
{
    while (out->count > 0 && slot(out, 0)->acknowledged) {
        out->head = (out->head + 1) % out->capacity;
        out->count--;
    }
    if (out->count == 0) {
        free(out->ring);
        out->ring = NULL;
        out->head = out->capacity = 0;
    }
}

/* Room for one more: what was acknowledged in the middle goes first, then the ring doubles. */
static void make_room(struct outgoing *out)
{
    if (out->count < out->capacity)
        return;
    size_t capacity = out->unacknowledged * 2 < RING_FIRST ? RING_FIRST : out->unacknowledged * 2;
    struct inflight *ring = memory_calloc(capacity, sizeof(*ring));
    size_t kept = 0;
    for (size_t i = 0; i < out->count; i++)
        if (!slot(out, i)->acknowledged)
            ring[kept++] = *slot(out, i);
    free(out->ring);
    out->ring = ring;
    out->capacity = capacity;
    out->head = 0;
    out->count = kept;
}

static void change_unacknowledged(struct session *session, size_t now)
{
    struct outgoing *out = &session->out;
    struct broker *broker = session->broker;
    broker->metrics.deliveries_leased += (int64_t)now - (int64_t)out->unacknowledged;
    out->unacknowledged = now;
    if (now > 0 && !out->leased) {
        LIST_INSERT_HEAD(&broker->leased, session, out.of_leased);
        if (!loop_timer_is_running(broker->lease_timer))
            loop_timer_start(broker->lease_timer, broker->figures.lease_ms / 4 < 1000 ? broker->figures.lease_ms / 4 + 1 : 1000);
    } else if (now == 0 && out->leased) {
        LIST_REMOVE(session, out.of_leased);
    }
    out->leased = now > 0;
}

static void forget_inflight(struct session *session)
{
    change_unacknowledged(session, 0);
    session->out.count = 0;
    free(session->out.ring);
    session->out.ring = NULL;
    session->out.head = session->out.capacity = 0;
}

bool deliver_acknowledge(struct session *session, const char *message_id)
{
    struct outgoing *out = &session->out;
    for (size_t i = 0; i < out->count; i++) {
        struct inflight *inflight = slot(out, i);
        if (!inflight->acknowledged && strcmp(inflight->message_id, message_id) == 0) {
            inflight->acknowledged = true;
            change_unacknowledged(session, out->unacknowledged - 1);
            settle_ring(out);
            return true;
        }
    }
    return false;
}

static bool is_in_flight(const struct outgoing *out, int64_t history_id)
{
    for (size_t i = 0; i < out->count; i++)
        if (!slot(out, i)->acknowledged && slot(out, i)->history_id == history_id)
            return true;
    return false;
}

static void note_pushed(struct session *session, const char *message_id, int64_t history_id, int priority)
{
    struct outgoing *out = &session->out;
    make_room(out);
    struct inflight *inflight = slot(out, out->count);
    *inflight = (struct inflight){ .history_id = history_id, .pushed_at_ms = clock_monotonic_ms(), .priority = (uint8_t)priority };
    if (string_copy(inflight->message_id, sizeof inflight->message_id, message_id) != 0)
        inflight->message_id[0] = '\0'; /* cannot be: the id is ours */
    out->count++;
    out->cursor[priority] = history_id;
    change_unacknowledged(session, out->unacknowledged + 1);
}

/* ---- pushing ------------------------------------------------------------------------------------------------------------------------ */

static bool has_room(const struct session *session)
{
    return session->out.unacknowledged < session->broker->figures.window && websocket_backlog(session->socket) < BROKER_PUSH_BACKLOG;
}

static bool wants(const struct session *session, int priority)
{
    return priority == 0 || !presence_is_dnd(session->presence);
}

static int build_push(const struct mesh *mesh, const struct store_message *message, struct buffer *frame)
{
    static const char *const PRIORITIES[STORE_PRIORITIES] = { "now", "next", "low" };
    json_t *mentions = NULL;
    struct error error;
    if (message->mentions != NULL && json_parse_strict(message->mentions, strlen(message->mentions), &mentions, &error) != 0)
        mentions = NULL;
    const struct frame_push push = {
        .message_id = message->broker_message_id,
        .mesh_id = mesh->mesh_id,
        .sender_pubkey = message->sender_pubkey,
        .sender_member_pubkey = message->sender_member_pubkey,
        .sender_member_id = message->sender_member_id,
        .sender_name = message->sender_name,
        .priority = PRIORITIES[message->priority],
        .nonce = message->nonce,
        .ciphertext = message->ciphertext,
        .ciphertext_length = message->ciphertext_length,
        .body_version = message->body_version,
        .key_epoch = message->key_epoch,
        .created_at = message->created_at,
        .reply_to_id = message->reply_to_id,
        .client_message_id = message->client_message_id,
        .target_spec = message->target_spec,
        .mentions = mentions,
        .history_id = message->history_id,
    };
    int status = frame_push_build(&push, frame);
    json_decref(mentions);
    return status;
}

/* A message straight from its accept, for each of its sessions that is caught up; printed at most once. */
void deliver_accepted(struct broker *broker, const struct store_accept *accept, const struct member *sender)
{
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    const struct store_message message = {
        .history_id = accept->history_id,
        .created_at = accept->now_ms,
        .body_version = accept->body_version,
        .key_epoch = accept->key_epoch,
        .priority = accept->priority,
        .broker_message_id = accept->broker_message_id,
        .client_message_id = accept->client_message_id,
        .sender_pubkey = accept->sender_pubkey,
        .sender_member_pubkey = accept->sender_member_pubkey,
        .sender_member_id = sender->member_id,
        .sender_name = sender->name,
        .target_spec = accept->target_spec,
        .nonce = accept->nonce,
        .ciphertext = accept->ciphertext,
        .ciphertext_length = accept->ciphertext_length,
        .reply_to_id = accept->reply_to_id,
        .mentions = accept->mentions,
    };
    int priority = accept->priority;
    for (size_t i = 0; i < accept->recipient_session_count; i++) {
        struct session *session = session_find_key(broker, accept->recipient_sessions[i]);
        if (session == NULL || session->presence == NULL)
            continue;
        struct outgoing *out = &session->out;
        if (accept->history_id <= out->cursor[priority])
            continue; /* a fetch was faster */
        if (!session->ready || out->fetching || out->waiting[priority] || !has_room(session) || !wants(session, priority)) {
            out->waiting[priority] = out->arrived[priority] = true;
            deliver_pump(session);
            continue;
        }
        if (frame.length == 0 && build_push(sender->mesh, &message, &frame) != 0)
            break;
        note_pushed(session, accept->broker_message_id, accept->history_id, priority);
        session_send(session, frame.data, frame.length);
    }
    buffer_release(&frame);
}

struct fetch_request {
    struct store_fetch store;
    struct broker *broker;
    unsigned generation;
};

static void push_fetched(struct session *session, const struct store_message *message, struct buffer *frame)
{
    struct outgoing *out = &session->out;
    if (message->history_id <= out->cursor[message->priority])
        return;
    if (is_in_flight(out, message->history_id)) {
        out->cursor[message->priority] = message->history_id;
        return;
    }
    buffer_reset(frame);
    if (build_push(session->member->mesh, message, frame) != 0) {
        log_event(LOG_LEVEL_ERROR, "push_too_large", LOG_TEXT("mesh", session->member->mesh->slug), LOG_END);
        out->cursor[message->priority] = message->history_id;
        return;
    }
    note_pushed(session, message->broker_message_id, message->history_id, message->priority);
    session_send(session, frame->data, frame->length);
}

static void take_fetched(struct session *session, const struct fetch_request *request)
{
    struct outgoing *out = &session->out;
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    for (const struct store_message *message = request->store.first; message != NULL; message = message->next)
        if (wants(session, message->priority)) /* still: dnd may have been said meanwhile */
            push_fetched(session, message, &frame);
    buffer_release(&frame);
    for (int priority = 0; priority < STORE_PRIORITIES; priority++) {
        if (request->store.wanted[priority] && wants(session, priority))
            out->waiting[priority] = request->store.more[priority] || out->arrived[priority];
        out->arrived[priority] = false;
    }
}

static void fetched(struct store_request *base)
{
    struct fetch_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_fetch, request), struct fetch_request, store);
    struct session *session = session_find(request->broker, request->store.connection);
    if (session != NULL) {
        session->out.fetching = false;
        if (base->status != 0) {
            log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "fetch"), LOG_TEXT("detail", base->error->message), LOG_END);
            session_close(session, 1011, "store_unavailable"); /* it comes again, and begins from the lowest */
        } else {
            if (session->out.generation == request->generation)
                take_fetched(session, request);
            deliver_pump(session);
        }
    }
    store_messages_free(request->store.first);
    free(request);
}

void deliver_pump(struct session *session)
{
    struct outgoing *out = &session->out;
    if (!session->ready || session->presence == NULL || out->fetching || !has_room(session))
        return;
    bool wanted[STORE_PRIORITIES], any = false;
    for (int priority = 0; priority < STORE_PRIORITIES; priority++) {
        wanted[priority] = out->waiting[priority] && wants(session, priority);
        any = any || wanted[priority];
    }
    if (!any)
        return;
    struct fetch_request *request = memory_zalloc(sizeof(*request));
    request->broker = session->broker;
    request->generation = out->generation;
    request->store.request.done = fetched;
    request->store.session = session->key;
    request->store.member = session->member->key;
    request->store.connection = session->connection;
    memcpy(request->store.cursor, out->cursor, sizeof out->cursor);
    memcpy(request->store.wanted, wanted, sizeof wanted);
    request->store.limit = session->broker->figures.window - out->unacknowledged;
    request->store.byte_limit = BROKER_FETCH_BYTES;
    memset(out->arrived, 0, sizeof out->arrived);
    out->fetching = true;
    session->broker->store->operations->fetch(session->broker->store, &request->store);
}

/* ---- beginning again ---------------------------------------------------------------------------------------------------------------- */

void deliver_start(struct session *session)
{
    for (int priority = 0; priority < STORE_PRIORITIES; priority++)
        session->out.waiting[priority] = true;
    deliver_pump(session);
}

void deliver_stop(struct session *session)
{
    forget_inflight(session);
}

void deliver_rescan(struct session *session)
{
    struct outgoing *out = &session->out;
    for (int priority = 0; priority < STORE_PRIORITIES; priority++) {
        out->cursor[priority] = 0;
        out->waiting[priority] = true;
    }
    out->generation++;
    deliver_pump(session);
}

/* Everything from the lowest unacknowledged message on is due again, in order. */
static void go_back(struct session *session)
{
    struct outgoing *out = &session->out;
    session->broker->metrics.redeliveries += out->unacknowledged;
    log_event(LOG_LEVEL_INFO, "lease_ran_out", LOG_TEXT("mesh", session->member->mesh->slug), LOG_NUMBER("pushes", out->unacknowledged),
              LOG_END);
    for (size_t i = 0; i < out->count; i++) {
        const struct inflight *inflight = slot(out, i);
        if (inflight->acknowledged)
            continue;
        if (out->cursor[inflight->priority] >= inflight->history_id)
            out->cursor[inflight->priority] = inflight->history_id - 1;
        out->waiting[inflight->priority] = true;
    }
    out->generation++;
    forget_inflight(session);
    deliver_pump(session);
}

void deliver_check_leases(void *argument)
{
    struct broker *broker = argument;
    int64_t now = clock_monotonic_ms();
    struct session *session, *next;
    for (session = LIST_FIRST(&broker->leased); session != NULL; session = next) {
        next = LIST_NEXT(session, out.of_leased);
        struct outgoing *out = &session->out;
        if (websocket_backlog(session->socket) > 0) {
            out->backlogged_at_ms = now; /* the client cannot have it yet: its time has not begun */
            continue;
        }
        int64_t since = slot(out, 0)->pushed_at_ms > out->backlogged_at_ms ? slot(out, 0)->pushed_at_ms : out->backlogged_at_ms;
        if (session->acknowledges && now - since >= broker->figures.lease_ms)
            go_back(session);
    }
    if (!LIST_EMPTY(&broker->leased))
        loop_timer_start(broker->lease_timer, broker->figures.lease_ms / 4 < 1000 ? broker->figures.lease_ms / 4 + 1 : 1000);
}

/* Nothing is left in the buffer: a client that does not acknowledge has what it will ever have said about it. */
static void acknowledge_written(struct session *session)
{
    struct outgoing *out = &session->out;
    for (size_t i = 0; i < out->count; i++)
        if (!slot(out, i)->acknowledged)
            acks_add_implied(session, slot(out, i)->message_id);
    forget_inflight(session);
}

void deliver_drained(struct session *session)
{
    struct outgoing *out = &session->out;
    if (session->presence == NULL)
        return;
    if (!session->acknowledges && out->unacknowledged > 0)
        acknowledge_written(session);
    deliver_pump(session);
}
