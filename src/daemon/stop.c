/* Owns the signals and the orderly stop (80-operations, Signals): stop accepting, answer what is in flight, settle the links, commit. What comes after the loop is daemon.c's. */
#include <signal.h>

#include "daemon/hooks.h"
#include "daemon/internal.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/notify.h"

enum {
    IN_FLIGHT_MS = 5000, /* 80-operations */
    LEAVE_MS = 2000,     /* for the broker to say that an ephemeral member is gone */
    LINKS_MS = 1000,     /* for answers of the brokers that are still to come */
    LINKS_STUCK_MS = 3000,
    TICK_MS = 10
};

enum { RUNNING, ANSWERING, LEAVING, SETTLING, COMMITTING };

/* ---- commit ---------------------------------------------------------------------------------------------------------- */

struct barrier {
    struct db_task task;
    struct daemon *daemon;
};

static int pass(struct db_connection *connection, struct db_task *task)
{
    (void)connection;
    (void)task;
    return 0;
}

static void passed(struct db_task *task)
{
    struct barrier *barrier = CONTAINER_OF(task, struct barrier, task);
    struct daemon *daemon = barrier->daemon;
    free(barrier);
    if (--daemon->stop_barriers == 0)
        loop_stop(daemon->loop);
}

static struct db_task *barrier_new(struct daemon *daemon)
{
    struct barrier *barrier = memory_zalloc(sizeof(*barrier));
    barrier->daemon = daemon;
    barrier->task.run = pass;
    barrier->task.done = passed;
    daemon->stop_barriers++;
    return &barrier->task;
}

/* Everything that was asked of the databases before comes back before these do. */
static void commit(struct daemon *daemon)
{
    daemon->stop_phase = COMMITTING;
    loop_timer_stop(daemon->second); /* the outbox asks for nothing more */
    loop_timer_stop(daemon->upkeep);
    struct db *const databases[] = { daemon->outbox_db, daemon->inbox_db };
    for (size_t i = 0; i < ARRAY_LENGTH(databases); i++) {
        db_write(databases[i], barrier_new(daemon));
        db_read(databases[i], barrier_new(daemon));
    }
}

/* ---- phases ------------------------------------------------------------------------------------------------------------ */

static void settle(struct daemon *daemon, int64_t now_ms)
{
    int64_t left_ms = daemon->stop_deadline_ms - now_ms;
    daemon->stop_phase = SETTLING;
    daemon_stop_links(daemon, left_ms <= 0 ? 0 : left_ms < LINKS_MS ? left_ms : LINKS_MS);
    daemon->stop_deadline_ms = now_ms + LINKS_STUCK_MS;
}

static void tick(void *argument)
{
    struct daemon *daemon = argument;
    int64_t now_ms = clock_monotonic_ms();
    bool late = now_ms >= daemon->stop_deadline_ms;
    if (daemon->stop_phase == ANSWERING && ((ipc_busy(daemon->ipc) == 0 && daemon_hooks_are_stopped(daemon)) || late))
        daemon->stop_phase = LEAVING;
    if (daemon->stop_phase == LEAVING) {
        bool asked = daemon->leave == LEAVE_ASKED;
        if (daemon_has_left(daemon, late))
            settle(daemon, now_ms);
        else if (!asked && daemon->leave == LEAVE_ASKED)
            daemon->stop_deadline_ms = now_ms + LEAVE_MS;
    } else if (daemon->stop_phase == SETTLING && (daemon_links_are_stopped(daemon) || late))
        commit(daemon);
    if (daemon->stop_phase != COMMITTING)
        loop_timer_start(daemon->stop_timer, TICK_MS);
}

void daemon_stop(struct daemon *daemon, int exit_status)
{
    int64_t now_ms = clock_monotonic_ms();
    if (daemon->stop_phase != RUNNING) {
        daemon->stop_deadline_ms = now_ms;
        return;
    }
    log_event(LOG_LEVEL_INFO, "daemon_stopping", LOG_NUMBER("in_flight", ipc_busy(daemon->ipc)), LOG_END);
    notify_stopping();
    daemon->exit_status = exit_status;
    daemon->stop_phase = ANSWERING;
    daemon->stop_deadline_ms = now_ms + IN_FLIGHT_MS;
    daemon_hooks_stop(daemon);
    ipc_stop_accepting(daemon->ipc);
    daemon->stop_timer = loop_timer_new(daemon->loop, tick, daemon);
    loop_timer_start(daemon->stop_timer, 0);
}

/* ---- signals ----------------------------------------------------------------------------------------------------------- */

static void on_stop_signal(void *argument, int signal_number)
{
    (void)signal_number;
    daemon_stop(argument, DAEMON_EXIT_DONE);
}

static void on_reload_signal(void *argument, int signal_number)
{
    (void)signal_number;
    json_t *report;
    struct error error;
    if (daemon_reload(argument, &report, &error) == 0)
        json_decref(report); /* the log has it */
}

static void on_dump_signal(void *argument, int signal_number)
{
    (void)signal_number;
    const struct daemon *daemon = argument;
    json_t *health = ipc_health(daemon->ipc);
    char *text = json_to_string(health, NULL);
    json_decref(health);
    log_event(LOG_LEVEL_INFO, "state", LOG_NUMBER("in_flight", ipc_busy(daemon->ipc)),
              LOG_NUMBER("outbox_tasks", db_write_backlog(daemon->outbox_db)),
              LOG_NUMBER("inbox_tasks", db_write_backlog(daemon->inbox_db)), LOG_TEXT("health", text), LOG_END);
    free(text);
}

int daemon_watch_signals(struct daemon *daemon, struct error *error)
{
    static const struct {
        int number;
        void (*caught)(void *argument, int signal_number);
    } SIGNALS[] = { { SIGTERM, on_stop_signal }, { SIGINT, on_stop_signal }, { SIGHUP, on_reload_signal }, { SIGUSR1, on_dump_signal } };
    for (size_t i = 0; i < ARRAY_LENGTH(SIGNALS); i++)
        if (loop_on_signal(daemon->loop, SIGNALS[i].number, SIGNALS[i].caught, daemon, error) != 0)
            return -(int)error->code;
    return 0;
}
