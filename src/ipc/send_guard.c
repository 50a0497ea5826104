/* Owns what pre-send has to say about a new row (60-hooks; 30-delivery, Accepting a send, step 2): the question, the wait, and what its answer makes of the send. Must not run
 * hooks: the daemon's wiring does. Nothing is stored while it waits, so whatever goes wrong leaves the id free. */
#include "ipc/send_guard.h"

#include "ipc/send.h"
#include "ipc/send_request.h"
#include "json/json.h"
#include "proto/own_meta.h"
#include "util/memory.h"

/* ---- the question, of a send or of a successor ------------------------------------------------------------------------ */

bool guard_is_wanted(const struct ipc *ipc)
{
    return ipc->send_guard.wanted != NULL && ipc->send_guard.wanted(ipc->send_guard.argument);
}

static json_t *parse_meta(const char *data, size_t length)
{
    json_t *meta = NULL;
    struct error error;
    if (length == 0 || json_parse_strict(data, length, &meta, &error) != 0)
        return json_null();
    return meta;
}

json_t *guard_message(const struct guard_subject *subject)
{
    json_t *message = json_new_object();
    json_put_string(message, "client_message_id", subject->client_message_id);
    json_put_string(message, "mesh", subject->mesh_slug);
    json_put_string(message, "kind", subject->kind);
    json_put_string(message, "to", subject->ref);
    json_put_string(message, "to_name", subject->name);
    json_put_text(message, "body", subject->body);
    json_put(message, "meta", parse_meta(subject->meta.data, subject->meta.length));
    json_put_string(message, "priority", subject->priority);
    json_put_string(message, "reply_to_id", subject->reply_to_id);
    return message;
}

/* What stands in place of the row's meta: the hook's, and of the row's own what only claudemesh sets. */
static int replace_meta(const json_t *wanted, int64_t depth, struct buffer *meta, struct error *error)
{
    struct buffer read;
    buffer_init(&read, LIMIT_META);
    int status = meta_read(wanted, &read, error);
    if (status == 0 && depth > 0)
        status = meta_set_depth(&read, depth, error);
    if (status != 0) {
        buffer_release(&read);
        return status;
    }
    buffer_release(meta);
    *meta = read;
    return 0;
}

int guard_apply(const struct send_verdict *verdict, int64_t inline_bytes, int64_t depth, struct text *message, char **ret_replaced,
                struct buffer *meta, struct error *error)
{
    if (verdict->action != SEND_REPLACED)
        return 0;
    if (verdict->message.data != NULL && verdict->message.length == 0)
        return error_set(error, ERROR_INVALID, "the hook replaced the message by an empty one");
    if (verdict->message.data != NULL && verdict->message.length > (size_t)inline_bytes)
        return error_set(error, ERROR_TOO_LARGE, "the hook replaced the message by one of %zu bytes, and the broker takes %" PRId64,
                         verdict->message.length, inline_bytes);
    if (verdict->meta != NULL && replace_meta(verdict->meta, depth, meta, error) != 0)
        return error_prefix(error, "the hook's meta cannot be used");
    if (verdict->message.data != NULL) {
        *ret_replaced = memory_dup(verdict->message.data, verdict->message.length);
        *message = (struct text){ *ret_replaced, verdict->message.length };
    }
    return 0;
}

/* ---- a send --------------------------------------------------------------------------------------------------------------- */

bool send_needs_guard(const struct send *send)
{
    return send->refusal.status == 0 && !send->judged && guard_is_wanted(send->exchange->ipc);
}

static void refuse_denied(struct send *send, const char *reason)
{
    json_t *more = json_new_object();
    json_put_string(more, "client_message_id", send->request.id_was_given ? send->request.client_message_id : NULL);
    json_put_string(more, "reason", reason);
    send_refuse(send, 403, "denied_by_hook", more, "The pre-send hook stopped this message%s%.300s; nothing was stored.",
                reason != NULL ? ": " : "", reason != NULL ? reason : "");
}

/* The world went on while the hook ran: the mesh, the members, what `to` means. What it judged is what is sent, or nothing is. */
static struct delivery *place_again(struct send *send)
{
    char slug[sizeof(send->slug)], ref[sizeof(send->ref)];
    memcpy(slug, send->slug, sizeof(slug));
    memcpy(ref, send->ref, sizeof(ref));
    struct delivery *delivery = send_place(send);
    if (send->refusal.status == 0 && (strcmp(slug, send->slug) != 0 || strcmp(ref, send->ref) != 0))
        send_refuse(send, 409, "destination_ambiguous", NULL,
                    "What 'to' means changed while the pre-send hook looked at the message; nothing was stored: send it again.");
    return delivery;
}

static void on_answered(void *argument, const struct send_verdict *verdict)
{
    struct send *send = argument;
    send->question = NULL;
    send->exchange->on_gone = NULL;
    send->judged = true;
    struct delivery *delivery = place_again(send);
    struct error error;
    if (verdict->action == SEND_DENIED)
        refuse_denied(send, verdict->reason);
    else if (send->refusal.status == 0 && guard_apply(verdict, delivery_inline_bytes(delivery), send->exchange->depth, &send->message,
                                                      &send->replaced, &send->meta, &error) != 0)
        refuse_denied(send, error.message);
    if (send->refusal.status != 0 && !send->request.id_was_given)
        send_answer_refused(send);
    else
        send_submit(send, delivery); /* refused: the same request may have made its row meanwhile */
}

/* Nothing was promised: nothing is sent for somebody who does not wait. */
static void on_caller_gone(struct exchange *exchange)
{
    struct send *send = exchange->state;
    const struct send_guard *guard = &exchange->ipc->send_guard;
    guard->cancel(guard->argument, send->question);
    send_free(send);
    exchange_drop(exchange);
}

void send_ask_guard(struct send *send)
{
    struct exchange *exchange = send->exchange;
    const struct send_request *request = &send->request;
    const struct send_guard *guard = &exchange->ipc->send_guard;
    if (exchange->http == NULL && exchange->answered == NULL) { /* gone while its id was looked up */
        send_free(send);
        exchange_drop(exchange);
        return;
    }
    const struct guard_subject subject = {
        .client_message_id = request->client_message_id,
        .mesh_slug = send->slug,
        .kind = send->kind,
        .ref = send->ref,
        .name = send->name[0] != '\0' ? send->name : NULL,
        .body = send->message,
        .meta = { send->meta.data, send->meta.length },
        .priority = priority_name(request->priority),
        .reply_to_id = request->reply_to_id,
    };
    exchange->state = send;
    exchange->on_gone = on_caller_gone;
    void *question = guard->ask(guard->argument, send->slug, guard_message(&subject), on_answered, send);
    if (question != NULL) /* else the send is answered, and gone */
        send->question = question;
}
