/* Owns a row as a struct: reading it from a statement, freeing it. */
#include "inbox/internal.h"
#include "util/memory.h"

void inbox_row_free(struct inbox_row *row)
{
    if (row == NULL)
        return;
    free(row->client_message_id);
    free(row->mesh);
    free(row->broker_message_id);
    free(row->kind);
    free(row->topic);
    free(row->sender_pubkey);
    free(row->sender_name);
    free(row->body);
    free(row->meta);
    free(row->priority);
    free(row->reply_to_id);
    free(row);
}

void inbox_rows_free(struct inbox_row **rows, size_t count)
{
    for (size_t index = 0; index < count; index++)
        inbox_row_free(rows[index]);
    free(rows);
}

static bool read_fixed(sqlite3_stmt *statement, struct inbox_row *row)
{
    const char *id = db_column_string(statement, 1);
    struct text content = db_column_text(statement, 17);
    int64_t verified = db_column_integer(statement, 13, -1);
    if (id == NULL || string_copy(row->id, sizeof(row->id), id) != 0 || content.length != SHA256_BYTES || verified < INBOX_UNVERIFIED ||
        verified > INBOX_LEGACY)
        return false;
    row->verified = (enum inbox_verified)verified;
    memcpy(row->content.bytes, content.data, SHA256_BYTES);
    return true;
}

static void read_body(sqlite3_stmt *statement, struct inbox_row *row)
{
    struct text body = db_column_text(statement, INBOX_BODY_COLUMN);
    row->body = memory_alloc(body.length + 1);
    if (body.length > 0)
        memcpy(row->body, body.data, body.length);
    row->body[body.length] = '\0';
    row->body_size = body.length;
}

int inbox_row_read(sqlite3_stmt *statement, bool with_body, struct inbox_row **ret_row, struct error *error)
{
    struct inbox_row *row = memory_zalloc(sizeof(*row));
    row->seq = db_column_integer(statement, 0, -1);
    row->client_message_id = db_column_dup(statement, 2);
    row->mesh = db_column_dup(statement, 3);
    row->broker_message_id = db_column_dup(statement, 4);
    row->history_id = db_column_integer(statement, 5, -1);
    row->kind = db_column_dup(statement, 6);
    row->topic = db_column_dup(statement, 7);
    row->sender_pubkey = db_column_dup(statement, 8);
    row->sender_name = db_column_dup(statement, 9);
    row->meta = db_column_dup(statement, 10);
    row->priority = db_column_dup(statement, 11);
    row->reply_to_id = db_column_dup(statement, 12);
    row->sent_at = db_column_integer(statement, 14, -1);
    row->received_at = db_column_integer(statement, 15, -1);
    row->seen_at = db_column_integer(statement, 16, -1);
    if (!read_fixed(statement, row)) {
        int status = error_set(error, ERROR_CORRUPT, "inbox row %" PRId64 " is damaged", row->seq);
        inbox_row_free(row);
        return status;
    }
    if (with_body)
        read_body(statement, row);
    *ret_row = row;
    return 0;
}
