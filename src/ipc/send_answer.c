/* Owns the words of POST /v1/send's answers (20-ipc, the outcome table). Must not decide which one is given. */
#include "ipc/send.h"
#include "json/json.h"
#include "link/link.h"
#include "util/memory.h"

void send_free(struct send *send)
{
    if (send->replying != NULL)
        capability_reply_ended(send->replying, send->stands);
    capability_let_go(send->replying);
    send_request_release(&send->request);
    buffer_release(&send->meta);
    free(send->replaced);
    json_decref(send->refusal.more);
    free(send->refusal.detail);
    free(send);
}

/* name is a literal of the form `,"name":`. */
static void append_field(struct buffer *text, const char *name, const char *value)
{
    buffer_append_text(text, name);
    if (value != NULL)
        buffer_append_json_string(text, value, strlen(value));
    else
        buffer_append_text(text, "null");
}

/* true, false, or null while the link is down and nobody knows. */
static const char *online_word(const struct send *send, const char *ref)
{
    struct delivery *delivery = ipc_delivery_of_row(send->exchange->ipc, send->row_mesh);
    if (delivery == NULL || link_state(delivery_link(delivery)) != LINK_OPEN)
        return "null";
    return delivery_peer_is_online(delivery, ref) ? "true" : "false";
}

/* Printed by hand, without formats: this is the path that is measured. */
void send_answer_accepted(struct send *send, int status, const char *word, const struct send_facts *facts)
{
    struct exchange *exchange = send->exchange;
    struct buffer *text = &exchange->ipc->scratch;
    const char *ref = facts->destination_ref != NULL ? facts->destination_ref : send->ref;
    buffer_reset(text);
    append_field(text, "{\"client_message_id\":", send->request.client_message_id);
    append_field(text, ",\"outbox_id\":", send->outbox_id);
    append_field(text, ",\"status\":", word);
    buffer_append_text(text, send->duplicate ? ",\"duplicate\":true" : ",\"duplicate\":false");
    if (status == 200) {
        append_field(text, ",\"broker_message_id\":", facts->broker_message_id);
        if (facts->history_id >= 0)
            buffer_printf(text, ",\"history_id\":%" PRId64, facts->history_id);
        else
            buffer_append_text(text, ",\"history_id\":null");
    }
    append_field(text, ",\"mesh\":", send->slug);
    append_field(text, ",\"to\":", ref);
    append_field(text, ",\"to_name\":", send->name[0] != '\0' ? send->name : NULL);
    buffer_append_text(text, ",\"online\":");
    buffer_append_text(text, online_word(send, ref));
    buffer_append_byte(text, '}');
    send_free(send);
    exchange_answer(exchange, status, NULL, text->data, text->length);
}

static const char *conflict_detail(enum outbox_state state, enum accept_outcome outcome)
{
    if (outcome == ACCEPT_CONFLICT_MISMATCH)
        return "This id was used for another request; send this one under a new id.";
    return state == OUTBOX_DEAD
               ? "This request was given up; send it again with `claudemesh daemon outbox requeue <id>`, or under a new id."
               : "An operator retired this request; send it again under a new id.";
}

void send_answer_conflict(struct send *send, const struct accept_cell *cell, enum outbox_state state, const struct send_facts *facts)
{
    struct exchange *exchange = send->exchange;
    char prefix[2 * 8 + 1];
    hex_encode(facts->fingerprint->bytes, 8, prefix);
    json_t *more = json_new_object();
    json_put_string(more, "conflict", cell->conflict);
    json_put_string(more, "client_message_id", send->request.client_message_id);
    /* A capability reads nothing: of a row with another content it is told that it is there. */
    if (exchange->capability == NULL || cell->outcome == ACCEPT_CONFLICT_MATCH) {
        json_put_string(more, "outbox_id", send->outbox_id);
        json_put_string(more, "daemon_fingerprint_prefix", prefix);
        if (facts->broker_message_id != NULL)
            json_put_string(more, "broker_message_id", facts->broker_message_id);
    }
    if (state == OUTBOX_DEAD && cell->outcome == ACCEPT_CONFLICT_MATCH)
        json_put_string(more, "reason", facts->reason);
    send_free(send);
    exchange_fail_with(exchange, cell->http_status, "idempotency_key_reused", more, "%s", conflict_detail(state, cell->outcome));
}

void send_answer_failed(struct send *send, const char *reason)
{
    struct exchange *exchange = send->exchange;
    json_t *more = json_new_object();
    json_put_string(more, "client_message_id", send->request.client_message_id);
    json_put_string(more, "outbox_id", send->outbox_id);
    json_put_string(more, "reason", reason);
    send_free(send);
    exchange_fail_with(exchange, 502, "delivery_failed", more, "The message was not delivered: %s",
                       reason != NULL ? reason : "no reason is known");
}

void send_count_refused(const struct send *send)
{
    ipc_metrics_send(send->exchange->ipc->metrics, send->slug, send->resolved ? send->kind : "unresolved", SEND_REFUSED);
}

void send_answer_refused(struct send *send)
{
    struct exchange *exchange = send->exchange;
    send_count_refused(send);
    exchange_fail_with(exchange, send->refusal.status, send->refusal.code, json_incref(send->refusal.more), "%s", send->refusal.detail);
    send_free(send);
}
