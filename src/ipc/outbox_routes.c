/* Owns GET /v1/outbox and GET /v1/outbox/{id} (20-ipc). Must not change a row: outbox_changes.c does. */
#include "ipc/outbox_rows.h"
#include "ipc/page.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

enum { LIST_DEFAULT = 100, LIST_MAX = 1000 };

/* ---- a row -------------------------------------------------------------------------------------------------------- */

/* Canonical JSON of ours, back as a value; null for none. */
static json_t *value_of(const char *canonical)
{
    json_t *value = NULL;
    struct error error;
    if (canonical == NULL || json_parse_strict(canonical, strlen(canonical), &value, &error) != 0)
        return json_null();
    return value;
}

static const char *name_of(const struct ipc *ipc, const char *row_mesh, const char *pubkey)
{
    struct delivery *delivery = ipc_delivery_of_row(ipc, row_mesh);
    const struct trust_member *member = delivery != NULL ? trust_member(delivery_trust(delivery), pubkey) : NULL;
    return member != NULL && *member->name != '\0' ? member->name : NULL;
}

json_t *outbox_row_to_json(const struct ipc *ipc, const struct outbox_row *row)
{
    char prefix[2 * 8 + 1];
    hex_encode(row->request_fingerprint.bytes, 8, prefix);
    json_t *value = json_new_object();
    json_put_string(value, "id", row->id);
    json_put_string(value, "client_message_id", row->client_message_id);
    json_put_string(value, "status", outbox_state_name(row->state));
    json_put_string(value, "mesh", ipc_slug_of_row(ipc, row->mesh));
    json_put_string(value, "destination_kind", row->destination_kind);
    json_put_string(value, "destination_ref", row->destination_ref);
    json_put_string(value, "destination_name",
                    strcmp(row->destination_kind, "dm") == 0 ? name_of(ipc, row->mesh, row->destination_ref) : NULL);
    json_put_string(value, "priority", priority_name(row->priority));
    json_put_string(value, "reply_to_id", row->reply_to_id);
    json_put(value, "meta", value_of(row->meta));
    json_put_integer(value, "payload_size", (int64_t)row->payload_size);
    json_put_string(value, "daemon_fingerprint_prefix", prefix);
    json_put_time(value, "enqueued_at", row->enqueued_at);
    json_put_integer(value, "attempts", row->attempts);
    json_put_time(value, "next_attempt_at", row->state == OUTBOX_PENDING ? row->next_attempt_at : -1);
    json_put_string(value, "last_error", row->last_error);
    json_put_time(value, "delivered_at", row->delivered_at);
    json_put_string(value, "broker_message_id", row->broker_message_id);
    json_put(value, "history_id", row->history_id >= 0 ? json_integer(row->history_id) : json_null());
    json_put_time(value, "aborted_at", row->aborted_at);
    json_put_string(value, "aborted_by", row->aborted_by);
    json_put_string(value, "superseded_by", row->superseded_by);
    return value;
}

/* ---- list --------------------------------------------------------------------------------------------------------- */

static void on_rows(void *argument, int status, struct outbox_row **rows, size_t count)
{
    struct exchange *exchange = argument;
    size_t limit = (size_t)(uintptr_t)exchange->state;
    struct page page;
    page_init(&page);
    for (size_t i = 0; i < count; i++) {
        if (exchange->http != NULL && i < limit)
            page_add(&page, outbox_row_to_json(exchange->ipc, rows[i]), rows[i]->seq);
        outbox_row_free(rows[i]);
    }
    free(rows);
    if (status == 0) {
        page_answer(&page, exchange, CURSOR_OUTBOX, count > limit);
        return;
    }
    page_release(&page);
    exchange_fail_store(exchange, status);
}

static int read_list(const struct exchange *exchange, struct outbox_list *list, struct error *error)
{
    int64_t limit = LIST_DEFAULT;
    const char *status = http_query(exchange->http, "status"), *cursor = http_query(exchange->http, "cursor");
    if (exchange_query_integer(exchange, "limit", 1, LIST_MAX, &limit, error) != 0)
        return -(int)error->code;
    list->limit = (size_t)limit + 1; /* one more tells whether there is a next page */
    list->has_state = status != NULL;
    if (status != NULL && !outbox_state_parse(status, &list->state))
        return error_set(error, ERROR_INVALID, "Parameter 'status' must be pending, inflight, done, dead or aborted.");
    enum cursor_kind kind;
    if (cursor != NULL && (cursor_decode(cursor, &kind, &list->before_seq) != 0 || kind != CURSOR_OUTBOX))
        return error_set(error, ERROR_INVALID, "Parameter 'cursor' must be the next_cursor of an earlier page.");
    return 0;
}

void route_outbox_list(struct exchange *exchange)
{
    struct outbox_list list = { .before_seq = INT64_MAX };
    if (ipc_mesh_filter(exchange, &list.mesh) != 0)
        return;
    struct error error;
    if (read_list(exchange, &list, &error) != 0) {
        exchange_fail_shape(exchange, &error);
        return;
    }
    exchange->state = (void *)(uintptr_t)(list.limit - 1);
    outbox_list(exchange->ipc->outbox, &list, on_rows, exchange);
}

/* ---- one row -------------------------------------------------------------------------------------------------------- */

static json_t *find_by(json_t *list, const struct outbox_receipt *receipt)
{
    size_t index;
    json_t *item;
    json_array_foreach(list, index, item) if (string_equal(json_string_value(json_object_get(item, "by")), receipt->by) &&
                                              json_is_true(json_object_get(item, "verified")) == receipt->verified) return item;
    return NULL;
}

/* One entry a recipient, from its `stored` and its `seen`; what only the broker reports stands apart, in an entry of its own. */
static json_t *receipts_to_json(const struct ipc *ipc, const struct outbox_found *found)
{
    json_t *list = json_new_array();
    for (size_t i = 0; i < found->receipt_count; i++) {
        const struct outbox_receipt *receipt = &found->receipts[i];
        json_t *item = find_by(list, receipt);
        if (item == NULL) {
            item = json_new_object();
            json_put_string(item, "by", receipt->by);
            json_put_string(item, "by_name", name_of(ipc, found->row->mesh, receipt->by));
            json_put_time(item, "stored_at", -1);
            json_put_time(item, "seen_at", -1);
            json_put_bool(item, "verified", receipt->verified);
            if (json_array_append_new(list, item) != 0)
                memory_exhausted();
        }
        json_put_time(item, strcmp(receipt->state, "seen") == 0 ? "seen_at" : "stored_at", receipt->at);
    }
    return list;
}

static void on_found(void *argument, int status, struct outbox_found *found)
{
    struct exchange *exchange = argument;
    if (status == -ERROR_NOT_FOUND) {
        exchange_fail(exchange, 404, "not_found", "No row of the outbox has that id; see `claudemesh daemon outbox list`.");
        return;
    }
    if (status != 0) {
        exchange_fail_store(exchange, status);
        return;
    }
    json_t *value = outbox_row_to_json(exchange->ipc, found->row);
    json_t *chain = json_new_array();
    for (size_t i = 0; i < found->chain_count; i++)
        if (json_array_append_new(chain, outbox_row_to_json(exchange->ipc, found->chain[i])) != 0)
            memory_exhausted();
    json_put(value, "superseded_chain", chain);
    json_put(value, "receipts", receipts_to_json(exchange->ipc, found));
    outbox_found_release(found);
    exchange_answer_json(exchange, 200, value);
}

void route_outbox_show(struct exchange *exchange)
{
    outbox_find(exchange->ipc->outbox, exchange->rest, false, on_found, exchange);
}
