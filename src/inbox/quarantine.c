/* Owns the quarantine: pushes that could not be opened or verified, as they came. Never a message. Bounded for each mesh: the oldest go first. */
#include "inbox/internal.h"
#include "util/memory.h"

static const char COUNT_ROWS[] = "SELECT mesh, count(*) FROM quarantine GROUP BY mesh";
static const char INSERT_ROW[] =
    "INSERT INTO quarantine (mesh, sender_pubkey, client_message_id, broker_message_id, reason, push, push_hash, received_at)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
    " ON CONFLICT (mesh, sender_pubkey, broker_message_id, push_hash) DO NOTHING";
static const char DELETE_OLDEST[] = "DELETE FROM quarantine WHERE seq = (SELECT min(seq) FROM quarantine WHERE mesh = ?1)";
static const char DELETE_ROW[] = "DELETE FROM quarantine WHERE seq = ?1 RETURNING mesh";
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
        count_of(inbox, mesh == NULL ? "" : mesh)->rows = db_column_integer(statement, 1, 0);
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
    bool full; /* the mesh has its maximum already: one goes for each that comes */
    bool is_new, removed;
    void (*done)(void *argument, int status, bool is_new);
    void *argument;
};

static int run_add(struct db_connection *connection, struct db_task *task)
{
    struct add_task *add = CONTAINER_OF(task, struct add_task, task);
    const struct quarantine_row *row = add->row;
    struct sha256 hash;
    sha256_of(row->push, strlen(row->push), &hash);
    int64_t changes = 0;
    add->is_new = add->removed = false;
    int status =
        db_execute(connection, &task->error, &changes, INSERT_ROW, "ttttttbi", row->mesh, row->sender_pubkey, row->client_message_id,
                   row->broker_message_id, row->reason, row->push, (const void *)hash.bytes, (size_t)SHA256_BYTES, row->received_at);
    if (status < 0)
        return status;
    add->is_new = changes == 1;
    if (!add->is_new || !add->full)
        return 0;
    status = db_execute(connection, &task->error, &changes, DELETE_OLDEST, "t", row->mesh);
    add->removed = status == 0 && changes == 1;
    return status;
}

static void done_add(struct db_task *task)
{
    struct add_task *add = CONTAINER_OF(task, struct add_task, task);
    inbox_note_result(add->inbox, task->status);
    bool is_new = task->status == 0 && add->is_new;
    if (is_new && !add->removed)
        count_of(add->inbox, add->row->mesh)->rows++;
    if (add->done != NULL)
        add->done(add->argument, task->status, is_new);
    quarantine_row_free(add->row);
    free(add);
}

void inbox_quarantine(struct inbox *inbox, struct quarantine_row *row, void (*done)(void *argument, int status, bool is_new),
                      void *argument)
{
    struct add_task *add = memory_zalloc(sizeof(*add));
    add->task = (struct db_task){ .run = run_add, .done = done_add, .flags = DB_DURABLE | DB_SAVEPOINT };
    add->inbox = inbox;
    add->row = row;
    add->full = count_of(inbox, row->mesh)->rows >= QUARANTINE_MAXIMUM;
    add->done = done;
    add->argument = argument;
    db_write(inbox->db, &add->task);
}

/* ---- removing ------------------------------------------------------------------------------------------------------- */

struct remove_task {
    struct db_task task;
    struct inbox *inbox;
    int64_t seq;
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
        status = db_step(statement, &task->error);
    }
    db_reset(statement);
    return status;
}

static void done_remove(struct db_task *task)
{
    struct remove_task *removal = CONTAINER_OF(task, struct remove_task, task);
    if (task->status == 0 && removal->mesh != NULL)
        count_of(removal->inbox, removal->mesh)->rows--;
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
