/* What this daemon tells the broker about what it has: client_ack with its signed receipts, seen, receipt_ack; gathered over one turn of the loop. An acknowledgement that cannot be
 * sent is dropped: the broker sends the push again, and it is acknowledged then. What was marked seen waits for the link. */
#include "delivery/delivery_internal.h"

#include "json/json.h"
#include "proto/statement.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { ACKS_PER_FRAME = 200, SEEN_WAITING_MAXIMUM = 10000 };

static void flush(void *argument);

static void schedule_flush(struct delivery *delivery)
{
    if (!delivery->acks.flush_is_due) {
        delivery->acks.flush_is_due = true;
        loop_defer(delivery->loop, flush, delivery);
    }
}

void acks_init(struct delivery *delivery)
{
    delivery->acks.receipts = json_new_array();
    delivery->acks.seen = json_new_array();
}

static void drop_acks(struct acks *acks)
{
    for (size_t i = 0; i < acks->count; i++) {
        free(acks->items[i].client_message_id);
        free(acks->items[i].broker_message_id);
    }
    acks->count = 0;
}

void acks_release(struct delivery *delivery)
{
    struct acks *acks = &delivery->acks;
    loop_defer_cancel(delivery->loop, flush, delivery);
    drop_acks(acks);
    free(acks->items);
    json_decref(acks->receipts);
    json_decref(acks->seen);
    *acks = (struct acks){ 0 };
}

/* ---- gathering ------------------------------------------------------------------------------------------------ */

/* The receipt statement over what was received (45-trust): mesh, id, sender, us, state, when, hash of the bytes. Empty when a field cannot stand in a statement. */
static void sign_receipt(const struct delivery *delivery, const char *client_message_id, const char *sender_pubkey, const char *state,
                         int64_t at, const struct sha256 *content, char ret_rsig[SIGNATURE_HEX_SIZE])
{
    char at_text[24];
    char content_hex[SHA256_HEX_SIZE];
    (void)snprintf(at_text, sizeof(at_text), "%" PRId64, at);
    hex_encode(content->bytes, SHA256_BYTES, content_hex);
    const struct text values[] = {
        text_from(delivery->mesh_id),
        text_from(client_message_id),
        text_from(sender_pubkey),
        text_from(keypair_public_hex(delivery->keys)),
        text_from(state),
        text_from(at_text),
        text_from(content_hex),
    };
    struct buffer text;
    struct error error;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    ret_rsig[0] = '\0';
    if (statement_text(STATEMENT_RECEIPT, values, ARRAY_LENGTH(values), &text, &error) == 0) {
        keypair_sign_hex(delivery->keys, text.data, text.length, ret_rsig);
    }
    buffer_release(&text);
}

static struct pending_ack *add(struct delivery *delivery, const char *client_message_id, const char *broker_message_id)
{
    struct acks *acks = &delivery->acks;
    if (acks->count == acks->capacity) {
        acks->capacity = acks->capacity == 0 ? 64 : acks->capacity * 2;
        acks->items = memory_realloc(acks->items, acks->capacity * sizeof(*acks->items));
    }
    struct pending_ack *ack = &acks->items[acks->count++];
    *ack = (struct pending_ack){ .client_message_id = memory_strdup(client_message_id),
                                 .broker_message_id = memory_strdup(broker_message_id),
                                 .at = -1 };
    schedule_flush(delivery);
    return ack;
}

void acks_stored(struct delivery *delivery, const char *client_message_id, const char *broker_message_id, const char *sender_pubkey,
                 const struct sha256 *content)
{
    if (!delivery->open) {
        return;
    }
    struct pending_ack *ack = add(delivery, client_message_id, broker_message_id);
    ack->at = delivery_now_ms(delivery);
    sign_receipt(delivery, client_message_id, sender_pubkey, "stored", ack->at, content, ack->rsig);
}

void acks_quarantined(struct delivery *delivery, const char *client_message_id, const char *broker_message_id)
{
    if (delivery->open) {
        add(delivery, client_message_id, broker_message_id)->quarantined = true;
    }
}

void acks_receipt(struct delivery *delivery, const char *broker_message_id, const char *by, const char *state)
{
    if (!delivery->open) {
        return;
    }
    json_t *receipt = json_new_object();
    json_put_string(receipt, "messageId", broker_message_id);
    json_put_string(receipt, "by", by);
    json_put_string(receipt, "state", state);
    json_array_append_new(delivery->acks.receipts, receipt);
    schedule_flush(delivery);
}

void delivery_mark_seen(struct delivery *delivery, struct inbox_row *const *rows, size_t count)
{
    json_t *seen = delivery->acks.seen;
    for (size_t i = 0; i < count; i++) {
        const struct inbox_row *row = rows[i];
        if (row->broker_message_id == NULL) {
            continue;
        }
        if (json_array_size(seen) >= SEEN_WAITING_MAXIMUM) {
            log_event(LOG_LEVEL_WARN, "seen_not_told", LOG_TEXT("mesh", delivery->slug), LOG_NUMBER("rows", count - i), LOG_END);
            break;
        }
        char rsig[SIGNATURE_HEX_SIZE];
        int64_t at = row->seen_at >= 0 ? row->seen_at : clock_wall_ms();
        sign_receipt(delivery, row->client_message_id, row->sender_pubkey, "seen", at, &row->content, rsig);
        json_t *ack = json_new_object();
        json_put_string(ack, "brokerMessageId", row->broker_message_id);
        json_put_string(ack, "clientMessageId", row->client_message_id);
        json_put_string(ack, "state", "seen");
        json_put_integer(ack, "at", at);
        if (rsig[0] != '\0') {
            json_put_string(ack, "rsig", rsig);
        }
        json_array_append_new(seen, ack);
    }
    if (json_array_size(seen) > 0) {
        schedule_flush(delivery);
    }
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

/* A broker without delivery_ack does not know `acks`: one frame each. */
static void send_acks(struct delivery *delivery)
{
    struct acks *acks = &delivery->acks;
    size_t per_frame = link_features(delivery->link)->delivery_ack ? ACKS_PER_FRAME : 1;
    struct frame_client_ack parts[ACKS_PER_FRAME];
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    for (size_t first = 0; first < acks->count; first += per_frame) {
        size_t count = acks->count - first < per_frame ? acks->count - first : per_frame;
        for (size_t i = 0; i < count; i++) {
            const struct pending_ack *ack = &acks->items[first + i];
            parts[i] = (struct frame_client_ack){
                .client_message_id = ack->client_message_id,
                .broker_message_id = ack->broker_message_id,
                .quarantined = ack->quarantined,
                .at = ack->at,
                .rsig = ack->rsig[0] == '\0' ? NULL : ack->rsig,
            };
        }
        buffer_reset(&frame);
        if (frame_client_ack_build(parts, count, &frame) == 0) {
            (void)link_send(delivery->link, frame.data, frame.length);
        }
    }
    buffer_release(&frame);
    drop_acks(acks);
}

static json_t *slice(const json_t *array, size_t first, size_t count)
{
    json_t *part = json_new_array();
    for (size_t i = first; i < first + count && i < json_array_size(array); i++) {
        json_array_append(part, json_array_get(array, i));
    }
    return part;
}

static void send_receipt_acks(struct delivery *delivery)
{
    json_t *receipts = delivery->acks.receipts;
    for (size_t first = 0; first < json_array_size(receipts); first += ACKS_PER_FRAME) {
        json_t *frame = json_new_object();
        json_put_string(frame, "type", "receipt_ack");
        json_put(frame, "receipts", slice(receipts, first, ACKS_PER_FRAME));
        (void)delivery_send_json(delivery, frame);
    }
    json_array_clear(receipts);
}

static void send_seen(struct delivery *delivery)
{
    json_t *seen = delivery->acks.seen;
    size_t sent = 0;
    while (sent < json_array_size(seen)) {
        json_t *frame = json_new_object();
        json_t *ids = json_new_array();
        json_t *part = slice(seen, sent, ACKS_PER_FRAME);
        size_t count = json_array_size(part);
        for (size_t i = 0; i < count; i++) {
            json_array_append(ids, json_object_get(json_array_get(part, i), "brokerMessageId"));
        }
        json_put_string(frame, "type", "seen");
        json_put(frame, "ids", ids);
        json_put(frame, "acks", part);
        if (delivery_send_json(delivery, frame) < 0) {
            break; /* for the next connection */
        }
        sent += count;
    }
    delivery->acks.seen = slice(seen, sent, json_array_size(seen) - sent);
    json_decref(seen);
}

static void flush(void *argument)
{
    struct delivery *delivery = argument;
    delivery->acks.flush_is_due = false;
    if (delivery->open && !delivery->rotation.asking) {
        send_acks(delivery);
        send_receipt_acks(delivery);
        send_seen(delivery);
    }
    delivery_check_stopped(delivery);
}

void acks_opened(struct delivery *delivery)
{
    send_seen(delivery);
}

void acks_resume(struct delivery *delivery)
{
    schedule_flush(delivery);
}

void acks_lost(struct delivery *delivery)
{
    drop_acks(&delivery->acks);
    json_array_clear(delivery->acks.receipts);
}
