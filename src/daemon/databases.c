/* Owns how the databases are opened at start, what happens when one is damaged (30-delivery, Crash recovery), and the upkeep of what is stored. */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "backup/outbox_steps.h"
#include "daemon/internal.h"
#include "trust/trust.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/log.h"
#include "util/memory.h"

enum { BACKGROUND_CHECK_ABOVE = 64 * 1024 * 1024, DAY_MS = 24 * 3600 * 1000 };
/* Dedupe keys of pruned messages outlive what a broker may still redeliver; for one that never forgets, ten years will do. */
enum { KEYS_DAYS_UNKNOWN = 365, KEYS_DAYS_PERMANENT = 3650 };

static void on_measured(void *argument, int64_t commit_us, size_t batch)
{
    const struct daemon *daemon = argument;
    ipc_metrics_commit(daemon->metrics, commit_us, batch);
}

static void on_failed(void *argument, const struct error *error)
{
    (void)argument;
    log_event(LOG_LEVEL_ERROR, "database_failed", LOG_TEXT("error", error->message), LOG_NUMBER("errno", error->sys_errno), LOG_END);
}

/* ---- outbox.db ----------------------------------------------------------------------------------------------------- */

static void on_outbox_damaged(void *argument, const char *detail)
{
    (void)argument;
    log_fatal(DAEMON_EXIT_FAILED, "outbox_damaged",
              (const struct log_field[]){ LOG_TEXT("error", detail), LOG_TEXT("remedy", "run `claudemesh daemon recover`"), LOG_END });
}

static int open_outbox(struct daemon *daemon, struct error *error)
{
    if (file_exists(daemon->options->paths->outbox_recovery))
        return error_set(error, ERROR_CORRUPT, "A recovery of outbox.db was interrupted: run `claudemesh daemon recover` again");
    struct db_migration steps[OUTBOX_STEPS_MAXIMUM];
    const struct db_options options = {
        .path = daemon->options->paths->outbox_db,
        .migrations = steps,
        .migration_count = outbox_steps(steps),
        .durability = strcmp(settings_text(daemon->settings, "outbox.fsync"), "batched") == 0 ? DB_BATCHED : DB_STRICT,
        .completions = loop_mailbox(daemon->loop),
        .background_check_above = BACKGROUND_CHECK_ABOVE,
        .damaged = on_outbox_damaged,
        .argument = daemon,
        .measured = on_measured,
        .failed = on_failed,
    };
    int status = db_open(&options, &daemon->outbox_db, error);
    if (status == -ERROR_CORRUPT) {
        (void)error_prefix(error, "outbox.db is damaged and was left as it is; run `claudemesh daemon recover`");
        return status;
    }
    if (status != 0)
        return error_prefix(error, "outbox.db");
    const struct outbox_limits limits = daemon_outbox_limits(daemon->settings);
    return outbox_open(daemon->outbox_db, &limits, &daemon->outbox, error);
}

/* ---- inbox.db ------------------------------------------------------------------------------------------------------ */

/* The database with what belongs to it, under a name that it still opens by. */
static int move_inbox_aside(const struct daemon *daemon, const char *detail, struct error *error)
{
    static const char *const SUFFIXES[] = { "", "-wal", "-shm" };
    char stamp[32];
    struct tm now;
    time_t seconds = (time_t)(clock_wall_ms() / 1000);
    if (gmtime_r(&seconds, &now) == NULL || strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &now) == 0)
        return error_set_errno(error, "Cannot tell the time");
    /* First, so that the next start asks for what this file held, however far this came. */
    static const char REASON[] = "inbox.db was damaged\n";
    if (file_write_atomic(daemon->options->paths->inbox_rebuild, 0600, REASON, sizeof(REASON) - 1, error) != 0)
        return -(int)error->code;
    for (size_t i = 0; i < ARRAY_LENGTH(SUFFIXES); i++) {
        char *from = memory_printf("%s%s", daemon->options->paths->inbox_db, SUFFIXES[i]);
        char *to = memory_printf("%s.corrupt-%s%s", daemon->options->paths->inbox_db, stamp, SUFFIXES[i]);
        int status = rename(from, to) != 0 && errno != ENOENT ? error_set_errno(error, "Cannot move '%s' aside", from) : 0;
        free(from);
        free(to);
        /* The file first, and for good: without its log it might pass for sound, and what the log held would be missed by nobody. */
        if (status == 0 && i == 0)
            status = directory_fsync(daemon->options->paths->daemon, error);
        if (status != 0)
            return status;
    }
    log_event(LOG_LEVEL_ERROR, "inbox_corruption_recovered", LOG_TEXT("moved_to", stamp), LOG_TEXT("error", detail), LOG_END);
    return directory_fsync(daemon->options->paths->daemon, error);
}

/* Found by the background check, while serving: nothing more is acknowledged on top of it. The next start finds no inbox and makes one. */
static void on_inbox_damaged(void *argument, const char *detail)
{
    struct daemon *daemon = argument;
    struct error error;
    if (move_inbox_aside(daemon, detail, &error) != 0)
        log_event(LOG_LEVEL_ERROR, "inbox_damaged", LOG_TEXT("error", error.message), LOG_END);
    daemon_stop(daemon, DAEMON_EXIT_FAILED);
}

static int open_inbox(struct daemon *daemon, struct error *error)
{
    const struct db_options options = {
        .path = daemon->options->paths->inbox_db,
        .migrations = INBOX_MIGRATIONS,
        .migration_count = INBOX_MIGRATION_COUNT,
        .durability = DB_STRICT,
        .completions = loop_mailbox(daemon->loop),
        .background_check_above = BACKGROUND_CHECK_ABOVE,
        .damaged = on_inbox_damaged,
        .argument = daemon,
        .measured = on_measured,
        .failed = on_failed,
    };
    int status = db_open(&options, &daemon->inbox_db, error);
    if (status == -ERROR_CORRUPT) {
        struct error damage = *error;
        status = move_inbox_aside(daemon, damage.message, error);
        if (status == 0)
            status = db_open(&options, &daemon->inbox_db, error);
    }
    if (status != 0)
        return error_prefix(error, "inbox.db");
    const struct inbox_options inbox_options = { .search = settings_bool(daemon->settings, "inbox.fts"),
                                                 .rebuild = file_exists(daemon->options->paths->inbox_rebuild),
                                                 .max_bytes = settings_integer(daemon->settings, "inbox.max_bytes") };
    status = inbox_open(daemon->inbox_db, &inbox_options, &daemon->inbox, error);
    /* It is in the database now. */
    if (status == 0 && inbox_options.rebuild && unlink(daemon->options->paths->inbox_rebuild) != 0)
        return error_set_errno(error, "Cannot remove '%s'", daemon->options->paths->inbox_rebuild);
    return status;
}

int daemon_open_databases(struct daemon *daemon, struct error *error)
{
    int status = open_outbox(daemon, error);
    return status != 0 ? status : open_inbox(daemon, error);
}

/* ---- upkeep -------------------------------------------------------------------------------------------------------- */

static int64_t longest_retention_days(const struct daemon *daemon)
{
    int64_t longest = 0;
    for (const struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next) {
        int64_t days = mesh->delivery != NULL ? trust_retention_days(delivery_trust(mesh->delivery)) : 0;
        if (days == 0)
            days = KEYS_DAYS_UNKNOWN;
        if (days < 0)
            days = KEYS_DAYS_PERMANENT;
        if (days > longest)
            longest = days;
    }
    return longest == 0 ? KEYS_DAYS_UNKNOWN : longest;
}

void daemon_prune(struct daemon *daemon)
{
    int64_t now = clock_steady_ms();
    int64_t inbox_days = settings_integer(daemon->settings, "inbox.retention_days");
    outbox_prune(daemon->outbox, now - settings_integer(daemon->settings, "outbox.done_retention_days") * DAY_MS);
    inbox_prune(daemon->inbox, now - inbox_days * DAY_MS, now - (inbox_days + longest_retention_days(daemon)) * DAY_MS);
}
