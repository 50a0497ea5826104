/* Owns the receipts of what we sent: which recipient's daemon stored or saw it (30-delivery, Honest outcomes; 45-trust, Receipts). Must not judge a signature: the caller does,
 * with the hashes given back here. */
#include "outbox/internal.h"
#include "util/memory.h"

static const char INSERT_RECEIPT[] =
    "INSERT OR IGNORE INTO receipt (mesh, broker_message_id, by, state, client_message_id, at, signed_at, rsig, verified)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
/* A receipt that could not be verified when it came, and now can. Never the other way. */
static const char RAISE_RECEIPT[] = "UPDATE receipt SET verified = 1, rsig = ?5, at = ?6, signed_at = ?7"
                                    " WHERE mesh = ?1 AND broker_message_id = ?2 AND by = ?3 AND state = ?4 AND verified = 0";
static const char SELECT_ATTEMPTS[] = "SELECT content FROM outbox_attempt WHERE seq = ?1 ORDER BY sent_at DESC LIMIT ?2";

struct receipt_task {
    struct db_task task;
    struct outbox *outbox;
    struct outbox_receipt *receipt;
    struct outbox_receipt_result result;
    void (*done)(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result);
    void *argument;
};

static void result_release(struct outbox_receipt_result *result)
{
    free(result->destination_kind);
    free(result->destination_ref);
    *result = (struct outbox_receipt_result){ .status = 0 };
}

static int read_contents(struct db_connection *connection, int64_t seq, struct outbox_receipt_result *ret_result, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_ATTEMPTS, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "ii", seq, (int64_t)ARRAY_LENGTH(ret_result->contents));
    while (status == 0 && (status = db_step(statement, error)) == 1) {
        struct text content = db_column_text(statement, 0);
        struct sha256 *digest = &ret_result->contents[ret_result->content_count];
        status = 0;
        if (content.length == sizeof(digest->bytes)) {
            memcpy(digest->bytes, content.data, sizeof(digest->bytes));
            ret_result->content_count++;
        }
    }
    db_reset(statement);
    return status;
}

static int find_row(struct receipt_task *add, struct db_connection *connection, struct error *error)
{
    const struct outbox_receipt *receipt = add->receipt;
    int64_t seq = 0;
    int status = key_index_find(&add->outbox->keys, connection, receipt->client_message_id, &seq, error);
    struct outbox_row *row = NULL;
    if (status == 1) {
        status = row_load(connection, seq, &row, error);
    }
    if (status < 0) {
        return status;
    }
    bool ours = row != NULL && string_equal(row->mesh, receipt->mesh) &&
                (row->broker_message_id == NULL || string_equal(row->broker_message_id, receipt->broker_message_id));
    if (!ours) {
        outbox_row_free(row);
        return error_set(error, ERROR_NOT_FOUND, "a receipt for a message that was not sent from here");
    }
    add->result.undecided = row->state == OUTBOX_PENDING || row->state == OUTBOX_INFLIGHT;
    add->result.destination_kind = row->destination_kind;
    add->result.destination_ref = row->destination_ref;
    row->destination_kind = NULL;
    row->destination_ref = NULL;
    outbox_row_free(row);
    return read_contents(connection, seq, &add->result, error);
}

static int run_receipt(struct db_connection *connection, struct db_task *task)
{
    struct receipt_task *add = CONTAINER_OF(task, struct receipt_task, task);
    result_release(&add->result); /* of a run that was undone */
    int status = find_row(add, connection, &task->error);
    if (status < 0) {
        return status;
    }
    const struct outbox_receipt *receipt = add->receipt;
    int64_t changes = 0;
    status = db_execute(connection, &task->error, &changes, INSERT_RECEIPT, "tttttiiti", receipt->mesh, receipt->broker_message_id,
                        receipt->by, receipt->state, receipt->client_message_id, receipt->at, receipt->signed_at, receipt->rsig,
                        (int64_t)(receipt->verified ? 1 : 0));
    add->result.is_new = changes == 1;
    if (status == 0 && changes == 0 && receipt->verified) {
        status = db_execute(connection, &task->error, NULL, RAISE_RECEIPT, "tttttii", receipt->mesh, receipt->broker_message_id,
                            receipt->by, receipt->state, receipt->rsig, receipt->at, receipt->signed_at);
    }
    return status;
}

static void done_receipt(struct db_task *task)
{
    struct receipt_task *add = CONTAINER_OF(task, struct receipt_task, task);
    struct outbox_receipt *receipt = add->receipt;
    if (task->status < 0) {
        result_release(&add->result);
    }
    add->result.status = task->status;
    outbox_note_result(add->outbox, task->status, add->result.is_new);
    add->done(add->argument, receipt, &add->result);
    result_release(&add->result);
    outbox_receipt_free(receipt);
    free(add);
}

void outbox_receipt_free(struct outbox_receipt *receipt)
{
    if (receipt != NULL) {
        free(receipt->client_message_id);
        free(receipt->mesh);
        free(receipt->broker_message_id);
        free(receipt->by);
        free(receipt->rsig);
        free(receipt);
    }
}

void outbox_receipt_add(struct outbox *outbox, struct outbox_receipt *receipt,
                        void (*done)(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result),
                        void *argument)
{
    struct receipt_task *add = memory_zalloc(sizeof(*add));
    add->task = (struct db_task){ .run = run_receipt, .done = done_receipt, .flags = DB_DURABLE | DB_PATIENT };
    add->outbox = outbox;
    add->receipt = receipt;
    add->done = done;
    add->argument = argument;
    outbox_write(outbox, &add->task);
}
