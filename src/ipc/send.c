/* Owns the way of POST /v1/send: shape, place, accept by the outbox's table, answer, and ?wait= (20-ipc; 30-delivery, Accepting a send). Must not write the outbox itself.
 *
 * An id that has a row is answered from the table, whatever else speaks against the request: a request that may not make a new row still looks its id up, and
 * only when there is no row the refusal is told. */
#include "ipc/send.h"

#include "json/json.h"
#include "proto/own_meta.h"
#include "util/clock.h"
#include "util/memory.h"

enum { WAIT_MAX_S = 60 };

static void compute_fingerprint(struct send *send, const char *kind, const char *ref, struct fingerprint *ret_fingerprint)
{
    const struct send_request *request = &send->request;
    const struct fingerprint_request fields = {
        .destination_kind = kind,
        .destination_ref = ref,
        .reply_to_id = request->reply_to_id,
        .priority = priority_name(request->priority),
        .meta_canonical = { request->meta.data, request->meta.length },
        .body = request->message,
    };
    fingerprint_of(&fields, ret_fingerprint);
}

/* ---- ?wait= ------------------------------------------------------------------------------------------------------- */

static void on_wait_over(void *argument, const struct wait_result *result)
{
    struct send *send = argument;
    send->wait = NULL;
    send->exchange->on_gone = NULL;
    const struct send_facts facts = { .broker_message_id = result->broker_message_id,
                                      .history_id = result->history_id,
                                      .reason = result->last_error,
                                      .fingerprint = &send->fingerprint };
    if (!result->finished)
        send_answer_accepted(send, 202, send->status_word, &facts);
    else if (result->state == OUTBOX_DONE)
        send_answer_accepted(send, 200, outbox_state_name(OUTBOX_DONE), &facts);
    else if (result->state == OUTBOX_DEAD)
        send_answer_failed(send, result->last_error);
    else
        send_answer_conflict(send, &ACCEPT_TABLE[result->state][1], result->state, &facts);
}

static void on_waiting_caller_gone(struct exchange *exchange)
{
    struct send *send = exchange->state;
    waits_cancel(exchange->ipc->waits, send->wait);
    send_free(send);
    exchange_drop(exchange);
}

static bool may_wait(const struct send *send)
{
    return send->wait_ms > 0 && send->exchange->http != NULL && !send->exchange->ipc->stopping;
}

static void hold(struct send *send, const char *word)
{
    struct exchange *exchange = send->exchange;
    send->status_word = word;
    exchange->state = send;
    exchange->on_gone = on_waiting_caller_gone;
    send->wait = waits_add(exchange->ipc->waits, send->request.client_message_id, send->wait_ms, on_wait_over, send);
}

/* ---- accept ------------------------------------------------------------------------------------------------------- */

static const enum send_outcome OUTCOMES[] = {
    [ACCEPT_STORED] = SEND_QUEUED,
    [ACCEPT_DUPLICATE_QUEUED] = SEND_DUPLICATE,
    [ACCEPT_DUPLICATE_INFLIGHT] = SEND_DUPLICATE,
    [ACCEPT_DUPLICATE_DONE] = SEND_DUPLICATE,
    [ACCEPT_CONFLICT_MATCH] = SEND_CONFLICT,
    [ACCEPT_CONFLICT_MISMATCH] = SEND_CONFLICT,
};

static void answer_stored(struct send *send)
{
    send->stands = true;
    ipc_metrics_send(send->exchange->ipc->metrics, send->slug, send->kind, SEND_QUEUED);
    if (may_wait(send)) {
        hold(send, ACCEPT_NEW.status);
        return;
    }
    const struct send_facts facts = { .history_id = -1, .fingerprint = &send->fingerprint };
    send_answer_accepted(send, ACCEPT_NEW.http_status, ACCEPT_NEW.status, &facts);
}

/* The id has a row. A request that was refused a new one is read as the row is, when it can be. */
static void answer_found(struct send *send, const struct outbox_row *found, enum outbox_state state, bool same)
{
    if (send->refusal.status != 0) {
        struct fingerprint fingerprint;
        compute_fingerprint(send, found->destination_kind, found->destination_ref, &fingerprint);
        same = send_means_row(send, found) && memcmp(fingerprint.bytes, found->request_fingerprint.bytes, sizeof(fingerprint.bytes)) == 0;
        if (!send->placed)
            (void)snprintf(send->slug, sizeof(send->slug), "%s", ipc_slug_of_row(send->exchange->ipc, found->mesh));
    }
    const struct accept_cell *cell = &ACCEPT_TABLE[state][same ? 1 : 0];
    send->stands = cell->conflict == NULL;
    const struct send_facts facts = {
        .destination_ref = found->destination_ref,
        .broker_message_id = found->broker_message_id,
        .reason = found->last_error,
        .history_id = found->history_id,
        .fingerprint = &found->request_fingerprint,
    };
    ipc_metrics_send(send->exchange->ipc->metrics, send->slug, found->destination_kind, OUTCOMES[cell->outcome]);
    (void)snprintf(send->outbox_id, sizeof(send->outbox_id), "%s", found->id);
    send->fingerprint = found->request_fingerprint;
    send->duplicate = true;
    if (cell->conflict != NULL)
        send_answer_conflict(send, cell, state, &facts);
    else if (cell->http_status == 202 && may_wait(send))
        hold(send, cell->status);
    else
        send_answer_accepted(send, cell->http_status, cell->status, &facts);
}

static void on_accepted(struct outbox_accept *accept)
{
    struct send *send = accept->argument;
    struct exchange *exchange = send->exchange;
    if (accept->status != 0) {
        send_count_refused(send);
        send_free(send);
        exchange_fail_store(exchange, accept->status);
    } else if (accept->outcome == ACCEPT_NO_ROW && send->refusal.status == 0) {
        send_ask_guard(send);
    } else if (accept->outcome == ACCEPT_NO_ROW) {
        send_answer_refused(send);
    } else if (accept->outcome == ACCEPT_STORED) {
        answer_stored(send);
    } else {
        answer_found(send, accept->found, accept->found_state, accept->outcome != ACCEPT_CONFLICT_MISMATCH);
    }
    outbox_accept_free(accept);
}

static char *dup_buffer(const struct buffer *buffer)
{
    return buffer->length > 0 ? memory_strndup(buffer->data, buffer->length) : NULL;
}

static struct outbox_row *row_of(const struct send *send)
{
    const struct send_request *request = &send->request;
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    ulid_generate(row->id);
    row->seq = -1;
    row->client_message_id = memory_strdup(request->client_message_id);
    row->mesh = memory_strdup(send->row_mesh);
    row->destination_kind = memory_strdup(send->kind);
    row->destination_ref = memory_strdup(send->resolved ? send->ref : request->to);
    row->reply_to_id = memory_strdup(request->reply_to_id);
    row->meta = dup_buffer(&send->meta);
    row->priority = request->priority;
    row->state = OUTBOX_PENDING;
    row->request_fingerprint = send->fingerprint;
    row->enqueued_at = row->next_attempt_at = clock_steady_ms();
    row->delivered_at = row->aborted_at = row->history_id = -1;
    row->payload_size = send->message.length;
    return row;
}

void send_submit(struct send *send, const struct delivery *delivery)
{
    const struct send_request *request = &send->request;
    struct outbox_accept *accept = outbox_accept_new(send->exchange->ipc->outbox);
    accept->row = row_of(send);
    accept->lookup_only = send->refusal.status != 0 || send_needs_guard(send);
    accept->argument = send;
    accept->done = on_accepted;
    if (!accept->lookup_only) {
        accept->row->payload = memory_dup(send->message.data, send->message.length);
        fingerprint_blind(delivery_blinding_key(delivery), &send->fingerprint, request->client_message_id,
                          &accept->row->broker_fingerprint);
        memcpy(send->outbox_id, accept->row->id, sizeof(send->outbox_id));
    }
    outbox_accept(accept);
}

/* ---- the route ----------------------------------------------------------------------------------------------------- */

static int read_wait(const struct exchange *exchange, int64_t *ret_wait_ms, struct error *error)
{
    int64_t seconds = -1;
    if (exchange_query_integer(exchange, "wait", 0, WAIT_MAX_S, &seconds, error) != 0)
        return -(int)error->code;
    *ret_wait_ms = seconds * 1000;
    return 0;
}

/* What is stored, unless pre-send says something else: the request's, and how deep an automatic reply is. */
static int read_content(struct send *send, struct error *error)
{
    const struct exchange *exchange = send->exchange;
    send->message = send->request.message;
    if (send->request.meta.length > 0)
        (void)buffer_append(&send->meta, send->request.meta.data, send->request.meta.length);
    return exchange->depth > 0 ? meta_set_depth(&send->meta, exchange->depth, error) : 0;
}

/* False: answered. A capability learns nothing of what it may not do but that. */
static bool capability_agrees(struct send *send)
{
    struct exchange *exchange = send->exchange;
    if (exchange->capability == NULL)
        return true;
    const struct capability_send wanted = { .mesh_slug = send->slug,
                                            .kind = send->resolved ? send->kind : "",
                                            .ref = send->ref,
                                            .reply_to_id = send->request.reply_to_id,
                                            .client_message_id = send->request.client_message_id };
    bool uses_reply;
    if (capability_allows_send(exchange->capability, &wanted, &uses_reply)) {
        if (uses_reply) {
            send->replying = capability_hold(exchange->capability);
            capability_take_reply(exchange->capability, send->request.client_message_id);
        }
        return true;
    }
    bool deep = exchange->capability->depth > 0;
    send_count_refused(send);
    send_free(send);
    exchange_fail(
        exchange, 403, "capability_scope",
        deep ? "The event is an automatic reply itself, and those get none."
             : "The capability's scopes do not let it send this: reply:event takes one answer, with the event's broker_message_id as "
               "reply_to_id; dm:send:sender messages to the event's sender; topic:<name>:post that topic.");
    return false;
}

void route_send(struct exchange *exchange)
{
    struct send *send = memory_zalloc(sizeof(*send));
    send->exchange = exchange;
    send->kind = "dm";
    buffer_init(&send->request.meta, LIMIT_META);
    buffer_init(&send->meta, LIMIT_META);
    if (exchange->capability != NULL)
        exchange->depth = exchange->capability->depth + 1;
    const char *code = "invalid_request";
    struct error error;
    if (read_wait(exchange, &send->wait_ms, &error) != 0 ||
        send_request_read(exchange->body, exchange_header(exchange, "Idempotency-Key"), &send->request, &code, &error) != 0 ||
        read_content(send, &error) != 0) {
        send_count_refused(send);
        send_free(send);
        exchange_fail(exchange, 400, code, "%s", error.message);
        return;
    }
    struct delivery *delivery = send_place(send);
    if (!capability_agrees(send))
        return;
    bool out_of_shape = send->refusal.status == 400 && strcmp(send->refusal.code, "invalid_request") == 0;
    if (send->refusal.status != 0 && (out_of_shape || !send->request.id_was_given)) {
        send_answer_refused(send);
        return;
    }
    compute_fingerprint(send, send->kind, send->resolved ? send->ref : send->request.to, &send->fingerprint);
    if (!send->request.id_was_given && send_needs_guard(send))
        send_ask_guard(send); /* a fresh id has no row */
    else
        send_submit(send, delivery);
}
