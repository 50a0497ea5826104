/* Owns the order of start and end: what is opened, in which order, and that everything is given back in reverse. Must not know what the rooms do. */
#include "daemon/daemon.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "daemon/hooks.h"
#include "daemon/internal.h"
#include "delivery/delivery.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/notify.h"
#include "util/text.h"

enum { LOCK_TRIES = 20, LOCK_PAUSE_NS = 100000000 };
enum { SECOND_MS = 1000, FIRST_UPKEEP_MS = 60 * 1000, UPKEEP_MS = 3600 * 1000 };

/* ---- what the rooms tell each other through us ------------------------------------------------------------------------- */

static void on_inserted(void *argument, const struct outbox_row *row)
{
    struct delivery *delivery = daemon_delivery_of_row(argument, row->mesh);
    if (delivery != NULL)
        delivery_row_inserted(delivery, row);
}

static void on_finished(void *argument, const char *mesh, const char *client_message_id, const char *id, enum outbox_state state,
                        const char *broker_message_id, int64_t history_id, const char *last_error)
{
    const struct daemon *daemon = argument;
    ipc_outbox_finished(daemon->ipc, mesh, client_message_id, id, state, broker_message_id, history_id, last_error);
}

static void on_pressure(void *argument, int pct, bool degraded)
{
    const struct daemon *daemon = argument;
    log_event(degraded ? LOG_LEVEL_ERROR : LOG_LEVEL_WARN, "outbox_pressure", LOG_NUMBER("pct", pct), LOG_BOOL("degraded", degraded),
              LOG_END);
    ipc_outbox_pressure(daemon->ipc, pct, degraded);
}

static void on_config_changed(void *argument)
{
    struct daemon *daemon = argument;
    if (daemon->exit_status < 0)
        daemon_update_meshes(daemon);
}

static void on_second(void *argument)
{
    struct daemon *daemon = argument;
    outbox_poke(daemon->outbox);
    inbox_poke(daemon->inbox);
    daemon_look_at_disk(daemon);
    daemon_hooks_poke(daemon);
    loop_timer_start(daemon->second, SECOND_MS);
}

static void on_upkeep(void *argument)
{
    struct daemon *daemon = argument;
    daemon_prune(daemon);
    log_poke();
    daemon_clean_archive_daily(daemon);
    loop_timer_start(daemon->upkeep, UPKEEP_MS);
}

/* ---- start --------------------------------------------------------------------------------------------------------------- */

static int harden(struct error *error)
{
    int status = loop_hold_signals(error); /* after the hooks' helper was made: it inherits none of it */
    if (status == 0)
        status = privilege_no_core_dumps(error);
    if (status != 0)
        return status;
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return error_set_errno(error, "Cannot ignore SIGPIPE");
    (void)umask(S_IWGRP | S_IWOTH); /* files are made with their own modes; http.port is for everyone to read */
    return crypto_start(error);
}

static int take_lock(struct daemon *daemon, struct error *error)
{
    int64_t holder = 0;
    int status = identity_lock(daemon->options->paths, &daemon->lock_fd, &holder, error);
    for (int tries = 0; status == -ERROR_BUSY && holder <= 0 && tries < LOCK_TRIES; tries++) {
        /* A daemon writes its pid at once; a command that holds it (a rotation without a daemon) is done soon. */
        const struct timespec pause = { .tv_nsec = LOCK_PAUSE_NS };
        (void)nanosleep(&pause, NULL);
        status = identity_lock(daemon->options->paths, &daemon->lock_fd, &holder, error);
    }
    if (status == -ERROR_BUSY && holder <= 0)
        return error_set(error, ERROR_BUSY, "A command is using this directory, or another daemon is starting; try again when it is done.");
    if (status == -ERROR_BUSY)
        return error_set(error, ERROR_BUSY, "The daemon is already running with pid %" PRId64 ".", holder);
    return status != 0 ? status : identity_lock_write_pid(daemon->lock_fd, getpid(), error);
}

static int on_reload(void *argument, json_t **ret_report, struct error *error)
{
    return daemon_reload(argument, ret_report, error);
}

static json_t *on_settings(void *argument)
{
    const struct daemon *daemon = argument;
    return settings_to_json(daemon->settings);
}

static int open_ipc(struct daemon *daemon, struct error *error)
{
    struct ipc_options options = {
        .loop = daemon->loop,
        .outbox = daemon->outbox,
        .inbox = daemon->inbox,
        .metrics = daemon->metrics,
        .token = daemon->token,
        .directory = daemon->options->paths->daemon,
        .control = { .argument = daemon,
                     .reload = on_reload,
                     .settings = on_settings,
                     .rotate_keypair = daemon_rotate_keypair,
                     .rotate_token = daemon_rotate_token,
                     .clean_archive = daemon_clean_archive },
        .schema_version = db_schema_version(daemon->outbox_db),
    };
    daemon_limits(daemon->settings, &options.limits);
    int status = ipc_new(&options, &daemon->ipc, error);
    if (status != 0)
        return status;
    const struct outbox_observer observer = {
        .argument = daemon, .inserted = on_inserted, .finished = on_finished, .pressure = on_pressure
    };
    outbox_observe(daemon->outbox, &observer);
    daemon_watch_inbox(daemon);
    return 0;
}

static int watch(struct daemon *daemon, struct error *error)
{
    daemon->second = loop_timer_new(daemon->loop, on_second, daemon);
    loop_timer_start(daemon->second, SECOND_MS);
    daemon->upkeep = loop_timer_new(daemon->loop, on_upkeep, daemon);
    loop_timer_start(daemon->upkeep, FIRST_UPKEEP_MS);
    int status = 0;
    if (!daemon->modes.ephemeral)
        status =
            loop_watch_file(daemon->loop, daemon->options->paths->config_json, on_config_changed, daemon, &daemon->config_watch, error);
    return status != 0 ? status : daemon_watch_signals(daemon, error);
}

/* First failure ends it; what was opened is in *daemon, and closed by daemon_close. */
static int daemon_open(struct daemon *daemon, struct error *error)
{
    const struct config_paths *paths = daemon->options->paths;
    int status = harden(error);
    if (status == 0)
        status = daemon_load_settings(daemon->options, &daemon->settings, error);
    if (status == 0) {
        daemon_decide_modes(daemon->options, daemon->settings, &daemon->modes);
        status = daemon_check_host(daemon, error); /* first: on another host nothing here is touched */
    }
    if (status == 0)
        status = config_paths_make(paths, error);
    if (status == 0)
        status = take_lock(daemon, error);
    if (status == 0)
        status = daemon_open_log(daemon, error);
    if (status == 0)
        status = daemon_record_host(daemon, error);
    if (status == 0)
        daemon_sweep_scratch(daemon);
    if (status == 0 && daemon->modes.ephemeral)
        status = daemon_make_scratch(daemon, error);
    if (status == 0)
        status = identity_local_token(paths, &daemon->token, error);
    if (status == 0 && !daemon->modes.ephemeral)
        status = identity_session_id(paths, &daemon->session_id, error);
    if (status == 0)
        daemon_confine(daemon);
    if (status == 0 && log_start_writer() != 0)
        status = error_set_errno(error, "Cannot start a thread for the log");
    if (status == 0)
        status = loop_new(&daemon->loop, error);
    if (status == 0)
        status = daemon_open_databases(daemon, error);
    if (status == 0)
        status = open_ipc(daemon, error);
    if (status == 0)
        status = daemon_hooks_open(daemon, daemon->spawner, error);
    /* Watched before it is read, so that no change falls between. */
    if (status == 0)
        status = watch(daemon, error);
    if (status == 0 && !daemon->modes.ephemeral)
        status = daemon_open_meshes(daemon, error);
    if (status == 0)
        status = daemon_listen(daemon, error);
    if (status == 0 && daemon->modes.ephemeral)
        status = daemon_join_ephemeral(daemon, error);
    return status;
}

/* ---- end ----------------------------------------------------------------------------------------------------------------- */

static void daemon_close(struct daemon *daemon)
{
    /* What still comes back from the databases is answered, and sent to no link any more. */
    if (daemon->outbox != NULL)
        outbox_observe(daemon->outbox,
                       &(struct outbox_observer){ .argument = daemon, .finished = daemon->ipc != NULL ? on_finished : NULL });
    if (daemon->inbox != NULL)
        inbox_observe(daemon->inbox, &(struct inbox_observer){ .argument = NULL });
    if (daemon->outbox_db != NULL)
        db_stop(daemon->outbox_db);
    if (daemon->inbox_db != NULL)
        db_stop(daemon->inbox_db);
    while (daemon->loop != NULL && mailbox_count(loop_mailbox(daemon->loop)) > 0)
        loop_run_mailbox(daemon->loop); /* what the databases still answered, and what that asked in turn */
    loop_watch_free(daemon->config_watch);
    loop_timer_free(daemon->second);
    loop_timer_free(daemon->upkeep);
    watchdog_free(daemon->watchdog);
    loop_timer_free(daemon->stop_timer);
    daemon_hooks_close(daemon);
    hooks_spawner_stop(daemon->spawner);
    loop_timer_free(daemon->ttl);
    daemon_free_meshes(daemon); /* they may still answer what the API asked of them */
    ipc_free(daemon->ipc);
    if (daemon->loop != NULL)
        loop_run_mailbox(daemon->loop); /* what was asked of them too late, and refused */
    outbox_free(daemon->outbox);
    inbox_free(daemon->inbox);
    db_close(daemon->outbox_db);
    db_close(daemon->inbox_db);
    loop_free(daemon->loop);
    ipc_metrics_free(daemon->metrics);
    if (daemon->port_written)
        daemon_remove_port(daemon);
    if (daemon->token != NULL)
        secret_wipe(daemon->token, strlen(daemon->token));
    free(daemon->token);
    free(daemon->session_id);
    free(daemon->ephemeral_member_id);
    settings_free(daemon->settings);
    if (daemon->exit_status >= 0)
        log_event(LOG_LEVEL_INFO, "daemon_stopped", LOG_NUMBER("exit_status", daemon->exit_status), LOG_END);
    daemon_remove_scratch(daemon);
    log_flush();
    identity_unlock(daemon->lock_fd);
}

/* One line to who waits for the start; a pipe that nobody reads any more is no matter. */
static void tell_starter(struct daemon *daemon, const char *line)
{
    if (daemon->ready_fd < 0)
        return;
    char text[ERROR_MESSAGE_SIZE + 2];
    int length = snprintf(text, sizeof(text), "%s\n", line);
    ssize_t written;
    do
        written = write(daemon->ready_fd, text, (size_t)length);
    while (written < 0 && errno == EINTR);
    (void)close(daemon->ready_fd);
    daemon->ready_fd = -1;
}

int daemon_run(const struct daemon_options *options)
{
    struct daemon daemon = { .options = options, .lock_fd = -1, .ready_fd = options->ready_fd, .exit_status = -1 };
    struct error error = { 0 };
    notify_start(options->log_to_stderr); /* detached, it is nobody's service, whatever the environment says */
    /* Before there is a thread, a secret, or anything to inherit. Without it the daemon serves, and no hook runs. */
    if (hooks_spawner_start(&daemon.spawner, &error) != 0)
        log_event(LOG_LEVEL_ERROR, "hooks_spawner_failed", LOG_TEXT("error", error.message), LOG_END);
    (void)clock_steady_ms(); /* from now on it knows a step */
    daemon.metrics = ipc_metrics_new();
    if (daemon_open(&daemon, &error) != 0) {
        if (error.code == ERROR_FULL)
            (void)error_prefix(&error, "The disk is full: make room for %s and start again", options->paths->root);
        log_event(LOG_LEVEL_ERROR, "daemon_start_failed", LOG_TEXT("error", error.message), LOG_END);
        daemon_close(&daemon);
        tell_starter(&daemon, error.message);
        return daemon.failure_status != 0 ? daemon.failure_status : DAEMON_EXIT_FAILED;
    }
    daemon_check_environment();
    daemon_tell_modes(&daemon.modes);
    log_event(LOG_LEVEL_INFO, "daemon_ready", LOG_TEXT("version", CLAUDEMESH_VERSION), LOG_NUMBER("pid", getpid()), LOG_END);
    tell_starter(&daemon, "ready");
    daemon_tell_ready(&daemon);
    daemon_hooks_start(&daemon);
    daemon_start_links(&daemon);
    loop_run(daemon.loop);
    daemon_close(&daemon);
    return daemon.exit_status;
}
