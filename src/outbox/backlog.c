/* Owns what monitoring asks of outbox.db and only its reader can tell: how old the work is that is left, and how full the disk is. Must not change anything. */
#include <sys/statvfs.h>

#include "outbox/internal.h"
#include "util/memory.h"

/* Rows of a priority stand in the order of acceptance. */
static const char SELECT_PENDING_SINCE[] =
    "SELECT enqueued_at FROM outbox WHERE mesh = ?1 AND priority = ?2 AND status = 'pending' ORDER BY seq LIMIT 1";
/* A window of them at most. */
static const char SELECT_INFLIGHT_SINCE[] =
    "SELECT min(enqueued_at) FROM outbox INDEXED BY outbox_inflight WHERE status = 'inflight' AND mesh = ?1";

struct backlog_task {
    struct db_task task;
    char *directory;
    struct outbox_backlog backlog;
    void (*done)(void *argument, const struct outbox_backlog *backlog);
    void *argument;
};

static int read_since(struct db_connection *connection, const char *sql, const char *mesh, const char *priority, int64_t *since,
                      struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, sql, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = priority == NULL ? db_bind(statement, error, "t", mesh) : db_bind(statement, error, "tt", mesh, priority);
    if (status == 0 && (status = db_step(statement, error)) == 1) {
        int64_t at = db_column_integer(statement, 0, -1);
        if (at >= 0 && (*since < 0 || at < *since)) {
            *since = at;
        }
        status = 0;
    }
    db_reset(statement);
    return status;
}

/* Of what the file system gives to others than root; -1 unknown. */
static int used_pct(const char *directory)
{
    enum { ALL = 100 };
    struct statvfs disk;
    if (statvfs(directory, &disk) != 0 || disk.f_blocks == 0) {
        return -1;
    }
    uint64_t used = disk.f_blocks - disk.f_bfree, usable = used + disk.f_bavail;
    return usable == 0 ? ALL : (int)(used * ALL / usable);
}

static int run_backlog(struct db_connection *connection, struct db_task *task)
{
    struct backlog_task *backlog = CONTAINER_OF(task, struct backlog_task, task);
    int status = 0;
    backlog->backlog.disk_used_pct = used_pct(backlog->directory);
    for (size_t i = 0; i < backlog->backlog.count && status == 0; i++) {
        struct outbox_mesh_backlog *mesh = &backlog->backlog.meshes[i];
        mesh->oldest_enqueued_at = -1;
        for (unsigned priority = 0; priority < PRIORITIES && status == 0; priority++) {
            status = read_since(connection, SELECT_PENDING_SINCE, mesh->mesh, priority_name((enum outbox_priority)priority),
                                &mesh->oldest_enqueued_at, &task->error);
        }
        if (status == 0) {
            status = read_since(connection, SELECT_INFLIGHT_SINCE, mesh->mesh, NULL, &mesh->oldest_enqueued_at, &task->error);
        }
    }
    return status;
}

static void done_backlog(struct db_task *task)
{
    struct backlog_task *backlog = CONTAINER_OF(task, struct backlog_task, task);
    backlog->done(backlog->argument, task->status < 0 ? NULL : &backlog->backlog);
    for (size_t i = 0; i < backlog->backlog.count; i++) {
        free(backlog->backlog.meshes[i].mesh);
    }
    free(backlog->backlog.meshes);
    free(backlog->directory);
    free(backlog);
}

void outbox_read_backlog(struct outbox *outbox, const char *directory, const char *const *meshes, size_t count,
                         void (*done)(void *argument, const struct outbox_backlog *backlog), void *argument)
{
    struct backlog_task *backlog = memory_zalloc(sizeof(*backlog));
    backlog->task = (struct db_task){ .run = run_backlog, .done = done_backlog };
    backlog->directory = memory_strdup(directory);
    backlog->backlog.count = count;
    backlog->backlog.meshes = memory_calloc(count + 1, sizeof(*backlog->backlog.meshes));
    for (size_t i = 0; i < count; i++) {
        backlog->backlog.meshes[i].mesh = memory_strdup(meshes[i]);
    }
    backlog->done = done;
    backlog->argument = argument;
    outbox_read(outbox, &backlog->task);
}
