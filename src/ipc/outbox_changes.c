/* Owns POST /v1/outbox/requeue and /v1/outbox/drop (20-ipc; 30-delivery, Requeue and drop): what the successor of a row is. Must not move rows itself: outbox_retire does, in one
 * transaction. */
#include "ipc/outbox_rows.h"
#include "ipc/send_guard.h"
#include "ipc/send_request.h"
#include "json/json.h"
#include "link/link.h"
#include "proto/own_meta.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

struct change {
    struct exchange *exchange;
    char *id;
    bool force;
    /* requeue: */
    char new_id[LIMIT_CLIENT_MESSAGE_ID + 1];
    bool patched, has_priority, has_meta;
    struct text message; /* borrowed from the exchange's body; data NULL: as it was */
    enum outbox_priority priority;
    struct buffer meta;
    struct outbox_row *successor; /* while pre-send looks at it */
    void *question;
};

static void change_free(struct change *change)
{
    buffer_release(&change->meta);
    outbox_row_free(change->successor);
    free(change->id);
    free(change);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static int read_patch(struct change *change, const json_t *patch, struct error *error)
{
    const char *priority = NULL;
    const json_t *meta = NULL;
    if (json_read_text(patch, "message", JSON_OPTIONAL, &change->message, error) != 0 ||
        json_read_string(patch, "priority", JSON_OPTIONAL, &priority, error) != 0 ||
        json_read_object(patch, "meta", JSON_OPTIONAL, &meta, error) != 0)
        return -(int)error->code;
    if (change->message.data != NULL && change->message.length == 0)
        return error_set(error, ERROR_INVALID, "Field 'message' must not be empty.");
    if (priority != NULL && !priority_parse(priority, &change->priority))
        return error_set(error, ERROR_INVALID, "Field 'priority' must be now, next or low.");
    change->has_priority = priority != NULL;
    change->has_meta = meta != NULL;
    change->patched = change->message.data != NULL || change->has_priority || change->has_meta;
    return meta != NULL ? meta_read(meta, &change->meta, error) : 0;
}

static int read_change(struct change *change, const char **ret_code, struct error *error)
{
    const json_t *body = change->exchange->body, *patch = NULL;
    const char *id = NULL;
    struct text new_id = { NULL, 0 };
    *ret_code = "invalid_request";
    if (json_read_string(body, "id", JSON_REQUIRED, &id, error) != 0 ||
        json_read_bool(body, "force", JSON_OPTIONAL, &change->force, error) != 0 ||
        json_read_text(body, "new_client_message_id", JSON_OPTIONAL, &new_id, error) != 0 ||
        json_read_object(body, "patch", JSON_OPTIONAL, &patch, error) != 0)
        return -(int)error->code;
    change->id = memory_strdup(id);
    if (new_id.data == NULL) {
        ulid_generate(change->new_id);
    } else if (!client_message_id_is_valid(new_id.data, new_id.length)) {
        *ret_code = "invalid_client_message_id";
        return error_set(error, ERROR_INVALID, "An idempotency key is 1 to %d printable ASCII characters without spaces.",
                         LIMIT_CLIENT_MESSAGE_ID);
    } else {
        memcpy(change->new_id, new_id.data, new_id.length);
    }
    return patch != NULL ? read_patch(change, patch, error) : 0;
}

/* NULL: answered. */
static struct change *change_new(struct exchange *exchange)
{
    struct change *change = memory_zalloc(sizeof(*change));
    change->exchange = exchange;
    buffer_init(&change->meta, LIMIT_META);
    const char *code;
    struct error error;
    if (read_change(change, &code, &error) == 0)
        return change;
    change_free(change);
    exchange_fail(exchange, 400, code, "%s", error.message);
    return NULL;
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void fail_retire(struct exchange *exchange, int status)
{
    switch (-status) {
    case ERROR_NOT_FOUND:
        exchange_fail(exchange, 404, "not_found", "No row of the outbox has that id; see `claudemesh daemon outbox list`.");
        return;
    case ERROR_BUSY:
        exchange_fail(exchange, 409, "outbox_inflight",
                      "The row is on its way to the broker and may have been sent; wait, or repeat with force.");
        return;
    case ERROR_CONFLICT:
        exchange_fail(exchange, 409, "outbox_final", "The row is done or aborted, and stays so; send the message again under a new id.");
        return;
    case ERROR_AMBIGUOUS:
        exchange_fail(exchange, 409, "client_message_id_consumed",
                      "The new id was used already and nothing was changed; give another, or none.");
        return;
    default:
        exchange_fail_store(exchange, status);
    }
}

static void on_retired(struct outbox_retire *retire)
{
    struct change *change = retire->argument;
    struct exchange *exchange = change->exchange;
    bool requeued = change->new_id[0] != '\0';
    if (retire->status == 0) {
        const struct outbox_row *row = retire->retired;
        struct delivery *delivery = ipc_delivery_of_row(exchange->ipc, row->mesh);
        if (delivery != NULL)
            delivery_row_retired(delivery, row->seq);
        json_t *answer = json_new_object();
        json_put_bool(answer, "ok", true);
        json_put(answer, "retired", outbox_row_to_json(exchange->ipc, row));
        if (requeued) {
            json_put_string(answer, "outbox_id", row->superseded_by);
            json_put_string(answer, "client_message_id", change->new_id);
            json_put_string(answer, "status", ACCEPT_NEW.status);
        }
        change_free(change);
        exchange_answer_json(exchange, 200, answer);
    } else {
        change_free(change);
        fail_retire(exchange, retire->status);
    }
    outbox_retire_free(retire);
}

static void submit(struct change *change, struct outbox_row *successor)
{
    struct outbox_retire *retire = memory_zalloc(sizeof(*retire));
    retire->outbox = change->exchange->ipc->outbox;
    retire->id = memory_strdup(change->id);
    retire->force = change->force;
    retire->successor = successor;
    retire->done = on_retired;
    retire->argument = change;
    outbox_retire(retire);
}

void route_outbox_drop(struct exchange *exchange)
{
    struct change *change = change_new(exchange);
    if (change == NULL)
        return;
    change->new_id[0] = '\0';
    submit(change, NULL);
}

/* ---- the successor ---------------------------------------------------------------------------------------------- */

static void put_meta(struct outbox_row *row, const struct buffer *meta)
{
    free(row->meta);
    row->meta = meta->length > 0 ? memory_strndup(meta->data, meta->length) : NULL;
}

static void patch_row(struct outbox_row *row, struct change *change)
{
    int64_t depth = meta_depth_of(row->meta);
    struct error error;
    if (change->message.data != NULL) {
        free(row->payload);
        row->payload = memory_dup(change->message.data, change->message.length);
        row->payload_size = change->message.length;
    }
    if (change->has_priority)
        row->priority = change->priority;
    if (change->has_meta && (depth == 0 || meta_set_depth(&change->meta, depth, &error) == 0))
        put_meta(row, &change->meta); /* one so long that its depth does not fit stays as it was */
}

static void compute_fingerprints(struct outbox_row *row, const struct change *change, const struct delivery *delivery)
{
    const struct fingerprint_request fields = {
        .destination_kind = row->destination_kind,
        .destination_ref = row->destination_ref,
        .reply_to_id = row->reply_to_id,
        .priority = priority_name(row->priority),
        .meta_canonical = text_from(row->meta),
        .mentions_canonical = row->mentions != NULL ? text_from(row->mentions) : (struct text){ NULL, 0 },
        .body = { row->payload, row->payload_size },
    };
    if (change->patched)
        fingerprint_of(&fields, &row->request_fingerprint);
    fingerprint_blind(delivery_blinding_key(delivery), &row->request_fingerprint, row->client_message_id, &row->broker_fingerprint);
}

/* The old row's content, patched, under the new id: same destination, so a direct message stays one. */
static struct outbox_row *successor_of(const struct outbox_row *old, struct change *change, const struct delivery *delivery)
{
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    ulid_generate(row->id);
    row->seq = -1;
    row->client_message_id = memory_strdup(change->new_id);
    row->mesh = memory_strdup(old->mesh);
    row->destination_kind = memory_strdup(old->destination_kind);
    row->destination_ref = memory_strdup(old->destination_ref);
    row->reply_to_id = memory_strdup(old->reply_to_id);
    row->meta = memory_strdup(old->meta);
    row->mentions = memory_strdup(old->mentions);
    row->priority = old->priority;
    row->state = OUTBOX_PENDING;
    row->request_fingerprint = old->request_fingerprint;
    row->payload = old->payload != NULL ? memory_dup(old->payload, old->payload_size) : NULL;
    row->payload_size = old->payload_size;
    row->enqueued_at = row->next_attempt_at = clock_steady_ms();
    row->delivered_at = row->aborted_at = row->history_id = -1;
    patch_row(row, change);
    compute_fingerprints(row, change, delivery);
    return row;
}

/* False: answered. */
static bool may_be_sent(struct exchange *exchange, const struct change *change, const struct outbox_row *row, struct delivery *delivery)
{
    if (delivery == NULL) {
        exchange_fail(exchange, 404, "mesh_not_found", "The row's mesh is not served any more; drop the row, or join the mesh again.");
        return false;
    }
    if (trust_self_revoked(delivery_trust(delivery)) || link_is_revoked(delivery_link(delivery))) {
        exchange_fail(exchange, 403, "member_revoked", "This member was revoked from mesh '%s': nothing can be sent.",
                      delivery_mesh_slug(delivery));
        return false;
    }
    int64_t limit = delivery_inline_bytes(delivery);
    if (change->message.data != NULL && change->message.length > (size_t)limit) {
        exchange_fail(exchange, 413, "payload_too_large", "The message has %zu bytes and the broker takes %" PRId64 ".",
                      change->message.length, limit);
        return false;
    }
    if (row->state == OUTBOX_DONE || row->state == OUTBOX_ABORTED) {
        fail_retire(exchange, -ERROR_CONFLICT); /* before its payload is looked for: it may have been pruned */
        return false;
    }
    return true;
}

/* ---- pre-send: of a successor with another content, which nobody has looked at ---------------------------------------------- */

static void fail_denied(struct change *change, const char *reason)
{
    struct exchange *exchange = change->exchange;
    json_t *more = json_new_object();
    json_put_string(more, "reason", reason);
    change_free(change);
    exchange_fail_with(exchange, 403, "denied_by_hook", more, "The pre-send hook stopped the new message; the old row is as it was.");
}

/* What the hook puts in place is stored; the fingerprint is the request's. */
static int replace_content(struct outbox_row *row, const struct send_verdict *verdict, const struct delivery *delivery, struct error *error)
{
    struct text message = { NULL, 0 };
    char *replaced = NULL;
    struct buffer meta;
    buffer_init(&meta, LIMIT_META);
    int status = guard_apply(verdict, delivery_inline_bytes(delivery), meta_depth_of(row->meta), &message, &replaced, &meta, error);
    if (status == 0 && verdict->meta != NULL)
        put_meta(row, &meta);
    if (status == 0 && replaced != NULL) {
        free(row->payload);
        row->payload = replaced;
        row->payload_size = message.length;
    }
    buffer_release(&meta);
    return status;
}

static void on_judged(void *argument, const struct send_verdict *verdict)
{
    struct change *change = argument;
    struct outbox_row *row = change->successor;
    struct error error;
    change->exchange->on_gone = NULL;
    change->question = NULL;
    struct delivery *delivery = ipc_delivery_of_row(change->exchange->ipc, row->mesh);
    if (verdict->action == SEND_DENIED) {
        fail_denied(change, verdict->reason);
    } else if (!may_be_sent(change->exchange, change, row, delivery)) { /* the mesh was left meanwhile, or we were revoked */
        change_free(change);
    } else if (verdict->action == SEND_REPLACED && replace_content(row, verdict, delivery, &error) != 0) {
        fail_denied(change, error.message);
    } else {
        change->successor = NULL;
        submit(change, row);
    }
}

static void on_caller_gone(struct exchange *exchange)
{
    struct change *change = exchange->state;
    const struct send_guard *guard = &exchange->ipc->send_guard;
    guard->cancel(guard->argument, change->question);
    change_free(change);
    exchange_drop(exchange);
}

static void ask_guard(struct change *change, struct outbox_row *row, const char *mesh_slug)
{
    struct exchange *exchange = change->exchange;
    const struct send_guard *guard = &exchange->ipc->send_guard;
    const struct guard_subject subject = {
        .client_message_id = row->client_message_id,
        .mesh_slug = mesh_slug,
        .kind = row->destination_kind,
        .ref = row->destination_ref,
        .body = { row->payload, row->payload_size },
        .meta = text_from(row->meta),
        .priority = priority_name(row->priority),
        .reply_to_id = row->reply_to_id,
    };
    change->successor = row;
    if (exchange->http == NULL) { /* gone while the row was looked up: nothing was promised */
        change_free(change);
        exchange_drop(exchange);
        return;
    }
    exchange->state = change;
    exchange->on_gone = on_caller_gone;
    void *question = guard->ask(guard->argument, mesh_slug, guard_message(&subject), on_judged, change);
    if (question != NULL) /* else the change is answered, and gone */
        change->question = question;
}

static void on_found(void *argument, int status, struct outbox_found *found)
{
    struct change *change = argument;
    struct exchange *exchange = change->exchange;
    if (status != 0) {
        change_free(change);
        fail_retire(exchange, status);
        return;
    }
    struct delivery *delivery = ipc_delivery_of_row(exchange->ipc, found->row->mesh);
    if (!may_be_sent(exchange, change, found->row, delivery)) {
        change_free(change);
    } else {
        /* The row's content never changes, so it may be read before the transaction; its state is judged inside. */
        struct outbox_row *successor = successor_of(found->row, change, delivery);
        if ((change->message.data != NULL || change->has_meta) && guard_is_wanted(exchange->ipc))
            ask_guard(change, successor, delivery_mesh_slug(delivery));
        else
            submit(change, successor);
    }
    outbox_found_release(found);
}

void route_outbox_requeue(struct exchange *exchange)
{
    struct change *change = change_new(exchange);
    if (change != NULL)
        outbox_find(exchange->ipc->outbox, change->id, true, on_found, change);
}
