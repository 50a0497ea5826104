/* Owns the quarantine: pushes that could not be opened or verified, as they came. Never a message. Bounded for each mesh: the oldest go first. */
#include "inbox/internal.h"
#include "util/memory.h"

static const char COUNT_ROWS[] = "SELECT mesh, count(*), sum(length(CAST(push AS BLOB))) FROM quarantine GROUP BY mesh";
static const char INSERT_ROW[] =
    "INSERT INTO quarantine (mesh, sender_pubkey, client_message_id, broker_message_id, reason, push, push_hash, received_at)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
    " ON CONFLICT (mesh, sender_pubkey, broker_message_id, push_hash) DO NOTHING RETURNING seq";
static const char DELETE_OLDEST[] = "DELETE FROM quarantine WHERE seq = (SELECT min(seq) FROM quarantine WHERE mesh = ?1 AND seq < ?2)"
                                    " RETURNING length(CAST(push AS BLOB))";
static const char DELETE_ROW[] = "DELETE FROM quarantine WHERE seq = ?1 RETURNING mesh, length(CAST(push AS BLOB))";
static const char SELECT_ROWS[] = "SELECT seq, mesh, sender_pubkey, client_message_id, broker_message_id, reason, push, received_at"
                                  " FROM quarantine WHERE (?1 IS NULL OR mesh = ?1) AND seq > ?2 ORDER BY seq LIMIT ?3";

void quarantine_row_free(struct quarantine_row *row)
{
    if (row == NULL)
        return;
    free(row->mesh);
    free(row->sender_pubkey);
    free(row->client_message_id);
    free(row->broker_message_id);
    free(row->reason);
    free(row->push);
    free(row);
}

/* ---- counts ------------------------------------------------------------------------------------------------------- */

static struct quarantine_count *count_of(struct inbox *inbox, const char *mesh)
{
    for (struct quarantine_count *count = inbox->quarantined; count != NULL; count = count->next) {
        if (string_equal(count->mesh, mesh))
            return count;
    }
    struct quarantine_count *count = memory_zalloc(sizeof(*count));
    count->mesh = memory_strdup(mesh);
    count->next = inbox->quarantined;
    inbox->quarantined = count;
    return count;
}

int quarantine_load_counts(struct inbox *inbox, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, COUNT_ROWS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status;
    while ((status = db_step(statement, error)) == 1) {
        const char *mesh = db_column_string(statement, 0);
        struct quarantine_count *count = count_of(inbox, mesh == NULL ? "" : mesh);
        count->rows = db_column_integer(statement, 1, 0);
        count->bytes = db_column_integer(statement, 2, 0);
    }
    db_reset(statement);
    return status;
}

int64_t inbox_quarantine_count(const struct inbox *inbox, const char *mesh)
{
    int64_t rows = 0;
    for (const struct quarantine_count *count = inbox->quarantined; count != NULL; count = count->next) {
        if (mesh == NULL || string_equal(count->mesh, mesh))
            rows += count->rows;
    }
    return rows;
}

/* ---- adding ------------------------------------------------------------------------------------------------------- */

struct add_task {
    struct db_task task;
    struct inbox *inbox;
    struct quarantine_row *row;
    int64_t size, excess_rows, excess_bytes; /* excess: what must go so that this one has its place */
    int64_t removed_rows, removed_bytes;
    bool is_new;
    void (*done)(void *argument, int status, bool is_new);
    void *argument;
};

/* *ret_seq: of the new row; -1: it is there already. */
static int insert_row(struct db_connection *connection, const struct quarantine_row *row, int64_t *ret_seq, struct error *error)
{
    struct sha256 hash;
    sha256_of(row->push, strlen(row->push), &hash);
    sqlite3_stmt *statement = db_prepare(connection, INSERT_ROW, error);
    if (statement == NULL)
        return -(int)error->code;
    int64_t seq = -1;
    int status = db_bind(statement, error, "ttttttbi", row->mesh, row->sender_pubkey, row->client_message_id, row->broker_message_id,
                         row->reason, row->push, (const void *)hash.bytes, (size_t)SHA256_BYTES, row->received_at);
    while (status == 0 && (status = db_step(statement, error)) == 1) {
        seq = db_column_integer(statement, 0, -1);
        status = 0;
    }
    db_reset(statement);
    if (status == 0)
        *ret_seq = seq;
    return status;
}

/* 1: the oldest before `seq` is gone; 0: there is none. */
static int delete_oldest(struct db_connection *connection, struct add_task *add, int64_t seq)
{
    sqlite3_stmt *statement = db_prepare(connection, DELETE_OLDEST, &add->task.error);
    if (statement == NULL)
        return -(int)add->task.error.code;
    int rows = 0;
    int status = db_bind(statement, &add->task.error, "ti", add->row->mesh, seq);
    while (status == 0 && (status = db_step(statement, &add->task.error)) == 1) {
        add->removed_bytes += db_column_integer(statement, 0, 0);
        rows++;
        status = 0;
    }
    db_reset(statement);
    add->removed_rows += rows;
    return status < 0 ? status : rows;
}

static int run_add(struct db_connection *connection, struct db_task *task)
{
    struct add_task *add = CONTAINER_OF(task, struct add_task, task);
    int64_t seq = -1;
    add->is_new = false;
    add->removed_rows = add->removed_bytes = 0;
    int status = insert_row(connection, add->row, &seq, &task->error);
    if (status < 0 || seq < 0)
        return status;
    add->is_new = true;
    do {
        if (add->removed_rows >= add->excess_rows && add->removed_bytes >= add->excess_bytes)
            return 0;
        status = delete_oldest(connection, add, seq);
    } while (status == 1);
    return status;
}

static void done_add(struct db_task *task)
{
    struct add_task *add = CONTAINER_OF(task, struct add_task, task);
    struct quarantine_count *count = count_of(add->inbox, add->row->mesh);
    inbox_note_result(add->inbox, task->status);
    bool is_new = task->status == 0 && add->is_new;
    count->going -= add->excess_bytes;
    if (is_new) {
        count->rows += 1 - add->removed_rows;
        count->bytes -= add->removed_bytes;
    } else {
        count->bytes -= add->size;
    }
    if (add->done != NULL)
        add->done(add->argument, task->status, is_new);
    quarantine_row_free(add->row);
    free(add);
}

void inbox_quarantine(struct inbox *inbox, struct quarantine_row *row, void (*done)(void *argument, int status, bool is_new),
                      void *argument)
{
    struct add_task *add = memory_zalloc(sizeof(*add));
    struct quarantine_count *count = count_of(inbox, row->mesh);
    add->task = (struct db_task){ .run = run_add, .done = done_add, .flags = DB_DURABLE | DB_SAVEPOINT };
    add->inbox = inbox;
    add->row = row;
    add->size = (int64_t)strlen(row->push);
    count->bytes += add->size;
    add->excess_rows = count->rows >= QUARANTINE_MAXIMUM ? 1 : 0;
    if (count->bytes - count->going > QUARANTINE_BYTES)
        add->excess_bytes = count->bytes - count->going - QUARANTINE_BYTES;
    count->going += add->excess_bytes;
    add->done = done;
    add->argument = argument;
    db_write(inbox->db, &add->task);
}

/* ---- removing ------------------------------------------------------------------------------------------------------- */

struct remove_task {
    struct db_task task;
    struct inbox *inbox;
    int64_t seq, size;
    char *mesh; /* of the row that went; NULL none */
};

static int run_remove(struct db_connection *connection, struct db_task *task)
{
    struct remove_task *removal = CONTAINER_OF(task, struct remove_task, task);
    free(removal->mesh);
    removal->mesh = NULL;
    sqlite3_stmt *statement = db_prepare(connection, DELETE_ROW, &task->error);
    if (statement == NULL)
        return -(int)task->error.code;
    int status = db_bind(statement, &task->error, "i", removal->seq);
    if (status == 0)
        status = db_step(statement, &task->error);
    if (status == 1) {
        removal->mesh = db_column_dup(statement, 0);
        removal->size = db_column_integer(statement, 1, 0);
        status = db_step(statement, &task->error);
    }
    db_reset(statement);
    return status;
}

static void done_remove(struct db_task *task)
{
    struct remove_task *removal = CONTAINER_OF(task, struct remove_task, task);
    if (task->status == 0 && removal->mesh != NULL) {
        struct quarantine_count *count = count_of(removal->inbox, removal->mesh);
        count->rows--;
        count->bytes -= removal->size;
    }
    free(removal->mesh);
    free(removal);
}

void inbox_quarantine_remove(struct inbox *inbox, int64_t seq)
{
    struct remove_task *removal = memory_zalloc(sizeof(*removal));
    removal->task = (struct db_task){ .run = run_remove, .done = done_remove, .flags = DB_DURABLE };
    removal->inbox = inbox;
    removal->seq = seq;
    db_write(inbox->db, &removal->task);
}

/* ---- listing ---------------------------------------------------------------------------------------------------------- */

struct list_task {
    struct db_task task;
    char *mesh;
    int64_t after_seq;
    size_t limit, count;
    struct quarantine_row **rows;
    void (*done)(void *argument, int status, struct quarantine_row **rows, size_t count);
    void *argument;
};

static void list_clear(struct list_task *list)
{
    for (size_t index = 0; index < list->count; index++)
        quarantine_row_free(list->rows[index]);
    list->count = 0;
}

static int run_list(struct db_connection *connection, struct db_task *task)
{
    struct list_task *list = CONTAINER_OF(task, struct list_task, task);
    list_clear(list);
    sqlite3_stmt *statement = db_prepare(connection, SELECT_ROWS, &task->error);
    if (statement == NULL)
        return -(int)task->error.code;
    int status = db_bind(statement, &task->error, "tii", list->mesh, list->after_seq, (int64_t)list->limit);
    while (status == 0 && (status = db_step(statement, &task->error)) == 1) {
        struct quarantine_row *row = memory_zalloc(sizeof(*row));
        row->seq = db_column_integer(statement, 0, -1);
        row->mesh = db_column_dup(statement, 1);
        row->sender_pubkey = db_column_dup(statement, 2);
        row->client_message_id = db_column_dup(statement, 3);
        row->broker_message_id = db_column_dup(statement, 4);
        row->reason = db_column_dup(statement, 5);
        row->push = db_column_dup(statement, 6);
        row->received_at = db_column_integer(statement, 7, -1);
        list->rows[list->count++] = row;
        status = 0;
    }
    db_reset(statement);
    return status;
}

static void done_list(struct db_task *task)
{
    struct list_task *list = CONTAINER_OF(task, struct list_task, task);
    if (task->status < 0)
        list_clear(list);
    list->done(list->argument, task->status, list->rows, list->count);
    free(list->mesh);
    free(list);
}

void inbox_quarantine_list(struct inbox *inbox, const char *mesh, int64_t after_seq, size_t limit,
                           void (*done)(void *argument, int status, struct quarantine_row **rows, size_t count), void *argument)
{
    struct list_task *list = memory_zalloc(sizeof(*list));
    list->task = (struct db_task){ .run = run_list, .done = done_list };
    list->mesh = memory_strdup(mesh);
    list->after_seq = after_seq;
    list->limit = limit;
    list->rows = memory_calloc(limit + 1, sizeof(struct quarantine_row *));
    list->done = done;
    list->argument = argument;
    db_read(inbox->db, &list->task);
}
