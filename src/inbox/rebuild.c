/* Owns how far each mesh's history was asked for, after an inbox was lost (30-delivery, Crash recovery, 4). Durable, so that a crash in the middle goes on where it was. Must not
 * ask: delivery does. */
#include "inbox/internal.h"
#include "util/memory.h"

static const char MARK_ALL[] = "INSERT OR REPLACE INTO inbox_rebuild (mesh, after_history_id, finished) VALUES ('', 0, 0)";
static const char FORGET_ALL[] = "DELETE FROM inbox_rebuild";
static const char SELECT_REBUILDS[] = "SELECT mesh, after_history_id, finished FROM inbox_rebuild";
static const char SET_REBUILD[] =
    "INSERT INTO inbox_rebuild (mesh, after_history_id, finished) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (mesh) DO UPDATE SET after_history_id = excluded.after_history_id, finished = excluded.finished";

static struct rebuild *find(const struct inbox *inbox, const char *mesh)
{
    for (struct rebuild *rebuild = inbox->rebuilds; rebuild != NULL; rebuild = rebuild->next) {
        if (string_equal(rebuild->mesh, mesh))
            return rebuild;
    }
    return NULL;
}

static void set(struct inbox *inbox, const char *mesh, int64_t after_history_id, bool finished)
{
    struct rebuild *rebuild = find(inbox, mesh);
    if (rebuild == NULL) {
        rebuild = memory_zalloc(sizeof(*rebuild));
        rebuild->mesh = memory_strdup(mesh);
        rebuild->next = inbox->rebuilds;
        inbox->rebuilds = rebuild;
    }
    rebuild->after_history_id = after_history_id;
    rebuild->finished = finished;
}

int rebuild_load(struct inbox *inbox, struct db_connection *connection, bool all, struct error *error)
{
    int status = 0;
    if (all) {
        status = db_execute(connection, error, NULL, FORGET_ALL, "");
        if (status == 0)
            status = db_execute(connection, error, NULL, MARK_ALL, "");
    }
    sqlite3_stmt *statement = status == 0 ? db_prepare(connection, SELECT_REBUILDS, error) : NULL;
    if (statement == NULL)
        return -(int)error->code;
    while ((status = db_step(statement, error)) == 1) {
        const char *mesh = db_column_string(statement, 0);
        set(inbox, mesh == NULL ? "" : mesh, db_column_integer(statement, 1, 0), db_column_integer(statement, 2, 0) != 0);
    }
    db_reset(statement);
    inbox->rebuilt = inbox->rebuilds != NULL;
    return status;
}

void rebuild_release(struct inbox *inbox)
{
    for (struct rebuild *rebuild = inbox->rebuilds, *next; rebuild != NULL; rebuild = next) {
        next = rebuild->next;
        free(rebuild->mesh);
        free(rebuild);
    }
    inbox->rebuilds = NULL;
}

int64_t inbox_rebuild_next(const struct inbox *inbox, const char *mesh)
{
    const struct rebuild *rebuild = find(inbox, mesh);
    if (rebuild != NULL)
        return rebuild->finished ? -1 : rebuild->after_history_id;
    return find(inbox, "") != NULL ? 0 : -1;
}

struct advance_task {
    struct db_task task;
    struct inbox *inbox;
    char *mesh;
    int64_t next;
    bool finished;
    void (*done)(void *argument, int status);
    void *argument;
};

static int run_advance(struct db_connection *connection, struct db_task *task)
{
    const struct advance_task *advance = CONTAINER_OF(task, struct advance_task, task);
    return db_execute(connection, &task->error, NULL, SET_REBUILD, "tii", advance->mesh, advance->next, (int64_t)advance->finished);
}

static void done_advance(struct db_task *task)
{
    struct advance_task *advance = CONTAINER_OF(task, struct advance_task, task);
    inbox_note_result(advance->inbox, task->status);
    if (task->status == 0)
        set(advance->inbox, advance->mesh, advance->next, advance->finished);
    if (advance->done != NULL)
        advance->done(advance->argument, task->status);
    free(advance->mesh);
    free(advance);
}

void inbox_rebuild_advance(struct inbox *inbox, const char *mesh, int64_t next, bool finished, void (*done)(void *argument, int status),
                           void *argument)
{
    struct advance_task *advance = memory_zalloc(sizeof(*advance));
    advance->task = (struct db_task){ .run = run_advance, .done = done_advance, .flags = DB_DURABLE };
    advance->inbox = inbox;
    advance->mesh = memory_strdup(mesh);
    advance->next = next;
    advance->finished = finished;
    advance->done = done;
    advance->argument = argument;
    db_write(inbox->db, &advance->task);
}
