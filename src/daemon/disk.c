/* Owns what the daemon knows of the room there is: the inbox's limit and the file system under the databases; log, event, figure and health when one of them fills or empties
 * (30-delivery, A full disk). Must not refuse anything: the outbox does, by its own limits and when a commit finds no room. */
#include <errno.h>
#include <sys/statvfs.h>

#include "daemon/internal.h"
#include "ipc/metrics.h"
#include "json/json.h"
#include "util/log.h"
#include "util/memory.h"

enum { LOOK_EVERY_S = 5, HIGH_PCT = 80, ALMOST_PCT = 95 };

static void publish(const struct daemon *daemon, const char *event, int pct, bool degraded)
{
    json_t *data = json_new_object();
    json_put_string(data, "event", event);
    json_put_integer(data, "pct", pct);
    json_put_bool(data, "degraded", degraded);
    log_event(degraded          ? LOG_LEVEL_ERROR
              : pct >= HIGH_PCT ? LOG_LEVEL_WARN
                                : LOG_LEVEL_INFO,
              event, LOG_NUMBER("pct", pct), LOG_BOOL("degraded", degraded), LOG_END);
    ipc_publish(daemon->ipc, "system", NULL, data, -1);
}

/* ---- the inbox --------------------------------------------------------------------------------------------------------- */

static void on_inbox_pressure(void *argument, int pct, bool degraded)
{
    publish(argument, "inbox_pressure", pct, degraded);
}

static void on_pruned_early(void *argument, int64_t rows)
{
    const struct daemon *daemon = argument;
    json_t *data = json_new_object();
    json_put_string(data, "event", "inbox_pruned_early");
    json_put_integer(data, "messages", rows);
    log_event(LOG_LEVEL_WARN, "inbox_pruned_early", LOG_NUMBER("messages", rows), LOG_END);
    ipc_publish(daemon->ipc, "system", NULL, data, -1);
}

void daemon_watch_inbox(struct daemon *daemon)
{
    inbox_observe(daemon->inbox,
                  &(struct inbox_observer){ .argument = daemon, .pressure = on_inbox_pressure, .pruned_early = on_pruned_early });
}

/* ---- the file system ----------------------------------------------------------------------------------------------------- */

/* On a database's reader: a file system of the network may take its time. */
struct look_task {
    struct db_task task;
    struct daemon *daemon;
    char *path;
    int pct; /* -1: unknown */
};

/* As df counts it: of what a user may use. */
static int percent_used(const struct statvfs *file_system)
{
    uint64_t used = (uint64_t)(file_system->f_blocks - file_system->f_bfree);
    uint64_t usable = used + (uint64_t)file_system->f_bavail;
    return usable == 0 ? -1 : (int)((used * 100 + usable - 1) / usable);
}

static int run_look(struct db_connection *connection, struct db_task *task)
{
    (void)connection;
    struct look_task *look = CONTAINER_OF(task, struct look_task, task);
    struct statvfs file_system;
    int result;
    do
        result = statvfs(look->path, &file_system);
    while (result != 0 && errno == EINTR);
    look->pct = result == 0 ? percent_used(&file_system) : -1;
    return 0;
}

static void done_look(struct db_task *task)
{
    struct look_task *look = CONTAINER_OF(task, struct look_task, task);
    struct daemon *daemon = look->daemon;
    daemon->disk_looking = false;
    if (task->status == 0 && look->pct >= 0) {
        int level = look->pct >= ALMOST_PCT ? ALMOST_PCT : look->pct >= HIGH_PCT ? HIGH_PCT : 0;
        ipc_set_disk_pct(daemon->ipc, look->pct);
        if (level != daemon->disk_level)
            publish(daemon, "disk_pressure", look->pct, outbox_is_out_of_space(daemon->outbox));
        daemon->disk_level = level;
    }
    free(look->path);
    free(look);
}

void daemon_look_at_disk(struct daemon *daemon)
{
    ipc_metrics_disk_pct(daemon->metrics, "inbox", inbox_pressure_pct(daemon->inbox));
    if (daemon->disk_looking || daemon->disk_wait_s-- > 0)
        return;
    struct look_task *look = memory_zalloc(sizeof(*look));
    look->task = (struct db_task){ .run = run_look, .done = done_look };
    look->daemon = daemon;
    look->path = memory_strdup(daemon->options->paths->daemon);
    daemon->disk_looking = true;
    daemon->disk_wait_s = LOOK_EVERY_S - 1;
    db_read(daemon->inbox_db, &look->task);
}
