/* Owns one row: reading, freeing, inserting, finding it. Must not change a status: move.c does. */
#include "outbox/internal.h"
#include "util/memory.h"

static const char SELECT_ROW[] = "SELECT " ROW_COLUMNS " FROM outbox WHERE seq = ?1";
static const char SELECT_BY_ID[] = "SELECT seq FROM outbox WHERE id = ?1";
static const char INSERT_ROW[] =
    "INSERT INTO outbox (seq, id, client_message_id, request_fingerprint, broker_fingerprint, mesh, destination_kind,"
    " destination_ref, priority, reply_to_id, meta, mentions, payload, enqueued_at, next_attempt_at, status)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14, 'pending')";

void outbox_row_free(struct outbox_row *row)
{
    if (row == NULL) {
        return;
    }
    free(row->client_message_id);
    free(row->mesh);
    free(row->destination_kind);
    free(row->destination_ref);
    free(row->reply_to_id);
    free(row->meta);
    free(row->mentions);
    free(row->payload);
    free(row->last_error);
    free(row->broker_message_id);
    free(row->aborted_by);
    free(row->superseded_by);
    free(row);
}

static bool read_fingerprint(sqlite3_stmt *statement, int column, struct fingerprint *ret_fingerprint)
{
    struct text bytes = db_column_text(statement, column);
    if (bytes.data == NULL || bytes.length != sizeof(ret_fingerprint->bytes)) {
        return false;
    }
    memcpy(ret_fingerprint->bytes, bytes.data, sizeof(ret_fingerprint->bytes));
    return true;
}

static char *dup_with_nul(struct text bytes)
{
    char *copy = memory_alloc(bytes.length + 1);
    memcpy(copy, bytes.data, bytes.length);
    copy[bytes.length] = '\0';
    return copy;
}

struct outbox_row *row_read(sqlite3_stmt *statement, bool with_payload, struct error *error)
{
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    row->seq = db_column_integer(statement, 0, -1);
    const char *id = db_column_string(statement, 1);
    row->client_message_id = db_column_dup(statement, 2);
    row->mesh = db_column_dup(statement, 3);
    row->destination_kind = db_column_dup(statement, 4);
    row->destination_ref = db_column_dup(statement, 5);
    bool valid = string_copy(row->id, sizeof(row->id), id == NULL ? "" : id) == 0;
    valid = priority_parse(db_column_string(statement, 6), &row->priority) && valid;
    row->reply_to_id = db_column_dup(statement, 7);
    row->meta = db_column_dup(statement, 8);
    row->mentions = db_column_dup(statement, 9);
    valid = outbox_state_parse(db_column_string(statement, 10), &row->state) && valid;
    valid = read_fingerprint(statement, 11, &row->request_fingerprint) && valid;
    valid = read_fingerprint(statement, 12, &row->broker_fingerprint) && valid;
    row->payload_size = (size_t)db_column_integer(statement, 13, 0);
    row->enqueued_at = db_column_integer(statement, 14, -1);
    row->next_attempt_at = db_column_integer(statement, 15, -1);
    row->delivered_at = db_column_integer(statement, 16, -1);
    row->aborted_at = db_column_integer(statement, 17, -1);
    row->attempts = db_column_integer(statement, 18, 0);
    row->history_id = db_column_integer(statement, 19, -1);
    row->last_error = db_column_dup(statement, 20);
    row->broker_message_id = db_column_dup(statement, 21);
    row->aborted_by = db_column_dup(statement, 22);
    row->superseded_by = db_column_dup(statement, 23);
    if (with_payload) {
        row->payload = dup_with_nul(db_column_text(statement, ROW_PAYLOAD_COLUMN));
    }
    if (!valid) {
        (void)error_set(error, ERROR_CORRUPT, "outbox row %" PRId64 " is damaged", row->seq);
        outbox_row_free(row);
        return NULL;
    }
    return row;
}

int row_load(struct db_connection *connection, int64_t seq, struct outbox_row **ret_row, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_ROW, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "i", seq);
    if (status == 0) {
        status = db_step(statement, error);
    }
    struct outbox_row *row = NULL;
    if (status == 1) {
        row = row_read(statement, false, error);
        status = row == NULL ? -(int)error->code : 0;
    }
    db_reset(statement);
    if (status == 0) {
        *ret_row = row;
    }
    return status;
}

int row_insert(struct outbox *outbox, struct db_connection *connection, struct outbox_row *row, struct error *error)
{
    row->seq = outbox->next_seq;
    row->state = OUTBOX_PENDING;
    row->next_attempt_at = row->enqueued_at;
    int status = db_execute(connection, error, NULL, INSERT_ROW, "ittbbtttttttbi", row->seq, row->id, row->client_message_id,
                            (const void *)row->request_fingerprint.bytes, sizeof(row->request_fingerprint.bytes),
                            (const void *)row->broker_fingerprint.bytes, sizeof(row->broker_fingerprint.bytes), row->mesh,
                            row->destination_kind, row->destination_ref, priority_name(row->priority), row->reply_to_id, row->meta,
                            row->mentions, (const void *)(row->payload == NULL ? "" : row->payload), row->payload_size, row->enqueued_at);
    if (status < 0) {
        return status;
    }
    outbox->next_seq++;
    key_index_add(&outbox->keys, row->client_message_id, row->seq);
    counts_move(counts_mesh(outbox, row->mesh), OUTBOX_STATES, OUTBOX_PENDING);
    return 0;
}

static int find_by_id(struct db_connection *connection, const char *id, int64_t *ret_seq, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_BY_ID, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "t", id);
    if (status == 0) {
        status = db_step(statement, error);
    }
    if (status == 1) {
        *ret_seq = db_column_integer(statement, 0, -1);
    }
    db_reset(statement);
    return status;
}

int row_find(struct outbox *outbox, struct db_connection *connection, const char *id, int64_t *ret_seq, struct error *error)
{
    int status = find_by_id(connection, id, ret_seq, error);
    if (status == 0) {
        status = key_index_find(&outbox->keys, connection, id, ret_seq, error);
    }
    if (status == 0) {
        return error_set(error, ERROR_NOT_FOUND, "there is no outbox row %s", id);
    }
    return status < 0 ? status : 0;
}
