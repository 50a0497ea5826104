/* Owns `daemon recover` from the lock to the report: what is looked at, in which order a new file is made, and what the next start has to do. */
#include "rescue/rescue.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backup/outbox_steps.h"
#include "db/db.h"
#include "identity/identity.h"
#include "inbox/inbox.h"
#include "outbox/outbox.h"
#include "rescue/plans.h"
#include "rescue/swap.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

void rescue_report_release(struct rescue_report *report)
{
    free(report->outbox.aside);
    free(report->inbox.aside);
    free(report->lost_ids);
    *report = (struct rescue_report){ .lost_ids = NULL };
}

/* ---- looking --------------------------------------------------------------------------------------------------------------- */

static int look(const char *path, struct rescue_database *database, struct error *error)
{
    database->verdict = RESCUE_ABSENT;
    if (!file_exists(path))
        return 0;
    struct error finding = { .code = ERROR_NONE };
    int status = db_check_file(path, &finding);
    database->verdict = status == 0 ? RESCUE_WHOLE : RESCUE_DAMAGED;
    if (status == 0)
        return 0;
    if (status != -ERROR_CORRUPT) {
        *error = finding;
        return status;
    }
    (void)snprintf(database->finding, sizeof(database->finding), "%s", finding.message);
    return 0;
}

/* ---- the new file ----------------------------------------------------------------------------------------------------------- */

struct new_database {
    char *path;
    const struct db_migration *migrations;
    size_t migration_count;
    struct mailbox completions;
};

static int open_new(struct new_database *new_database, struct db **ret_db, struct error *error)
{
    const struct db_options options = { .path = new_database->path,
                                        .migrations = new_database->migrations,
                                        .migration_count = new_database->migration_count,
                                        .completions = &new_database->completions,
                                        .background_check_above = UINT64_MAX };
    return db_open(&options, ret_db, error);
}

static void close_new(struct new_database *new_database, struct db *db)
{
    db_stop(db);
    for (struct message *message = mailbox_take_all(&new_database->completions), *next; message != NULL; message = next) {
        next = message->next;
        message->handle(message);
    }
}

static int run_sql(sqlite3 *handle, const char *sql, struct error *error)
{
    int result = sqlite3_exec(handle, sql, NULL, NULL, NULL);
    if (result == SQLITE_OK)
        return 0;
    return error_set(error, (result & 0xff) == SQLITE_FULL ? ERROR_FULL : ERROR_SYSTEM, "Cannot write the new database: %s",
                     sqlite3_errmsg(handle));
}

/* After what `after` took out again. */
static int count_rows(sqlite3 *handle, const char *table, int64_t *ret_rows, struct error *error)
{
    sqlite3_stmt *statement = NULL;
    char *sql = memory_printf("SELECT count(*) FROM \"%s\"", table);
    int result = sqlite3_prepare_v2(handle, sql, -1, &statement, NULL);
    free(sql);
    if (result == SQLITE_OK && (result = sqlite3_step(statement)) == SQLITE_ROW)
        *ret_rows = sqlite3_column_int64(statement, 0);
    (void)sqlite3_finalize(statement);
    return result == SQLITE_ROW ? 0 : error_set(error, ERROR_SYSTEM, "Cannot read the new database: %s", sqlite3_errmsg(handle));
}

/* Nobody needs the new file before it is whole: no journal, one sync at its end (swap_place). */
static int fill(const char *old_path, const char *new_path, const struct salvage_plan *plan, struct rescue_database *database,
                void (*damaged_table)(void *argument, const char *table), const char *after, struct error *error)
{
    struct rescue_pages pages;
    sqlite3 *handle = NULL;
    int status = rescue_pages_open(old_path, &pages, error);
    if (status != 0)
        return status;
    int result = sqlite3_open_v2(new_path, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (result != SQLITE_OK)
        status = error_set(error, ERROR_SYSTEM, "Cannot open '%s': %s", new_path, sqlite3_errstr(result));
    if (status == 0)
        status = run_sql(handle, "PRAGMA journal_mode = DELETE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN", error);
    if (status == 0)
        status = salvage_run(&pages, handle, plan, database, damaged_table, error);
    if (status == 0 && after != NULL)
        status = run_sql(handle, after, error);
    if (status == 0)
        status = count_rows(handle, plan->main_table, &database->rows, error);
    if (status == 0)
        status = run_sql(handle, "COMMIT", error);
    if (sqlite3_close(handle) != SQLITE_OK && status == 0)
        status = error_set(error, ERROR_INTERNAL, "the new database could not be closed");
    rescue_pages_close(&pages);
    return status;
}

static int make_tables(struct new_database *new_database, struct error *error)
{
    struct db *db = NULL;
    int status = open_new(new_database, &db, error);
    if (status == 0)
        close_new(new_database, db);
    db_close(db);
    return status;
}

/* ---- outbox.db --------------------------------------------------------------------------------------------------------------- */

static void note_damaged_table(void *argument, const char *table)
{
    struct rescue_report *report = argument;
    report->trust_damaged = report->trust_damaged || plan_is_trust_table(table);
}

/* Opened once as the daemon would: what was on its way is pending again, ids get their index. */
static int settle_outbox(struct new_database *new_database, struct error *error)
{
    struct db *db = NULL;
    struct outbox *outbox = NULL;
    const struct outbox_limits limits = { .max_rows = INT64_MAX, .max_bytes = INT64_MAX };
    int status = open_new(new_database, &db, error);
    if (status == 0)
        status = outbox_open(db, &limits, &outbox, error);
    if (db != NULL)
        close_new(new_database, db);
    db_close(db);
    outbox_free(outbox);
    return status;
}

/* Whom to trust may have been forgotten: as after a restore, nothing is sent or judged before the broker has listed the members (decision 0014). */
static int await_members(const struct config_paths *paths, const char *new_path, struct error *error)
{
    struct config_file config;
    sqlite3 *handle = NULL;
    sqlite3_stmt *statement = NULL;
    if (config_file_read(paths->config_json, &config, error) != 0)
        return -(int)error->code;
    int result = sqlite3_open_v2(new_path, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_prepare_v2(handle, "INSERT OR IGNORE INTO trust_awaiting (mesh, since) VALUES (?1, ?2)", -1, &statement, NULL);
    for (size_t i = 0; i < config.mesh_count && result == SQLITE_OK; i++) {
        result = sqlite3_bind_text(statement, 1, config.meshes[i].mesh_id, -1, SQLITE_STATIC);
        if (result == SQLITE_OK)
            result = sqlite3_bind_int64(statement, 2, clock_wall_ms());
        if (result == SQLITE_OK)
            result = sqlite3_step(statement) == SQLITE_DONE ? sqlite3_reset(statement) : SQLITE_ERROR;
    }
    (void)sqlite3_finalize(statement);
    int status = result == SQLITE_OK ? 0 : error_set(error, ERROR_SYSTEM, "Cannot write the new database: %s", sqlite3_errmsg(handle));
    (void)sqlite3_close(handle);
    config_file_release(&config);
    return status;
}

static int rescue_outbox(const struct config_paths *paths, struct rescue_report *report, struct error *error)
{
    /* Attempts of rows that are gone would be taken for those of a row that gets their number. */
    static const char AFTER[] = "DELETE FROM outbox_attempt WHERE seq NOT IN (SELECT seq FROM outbox)";
    struct db_migration steps[OUTBOX_STEPS_MAXIMUM];
    struct salvage_plan plan;
    struct new_database new_database = { .path = swap_new_path(paths->outbox_db),
                                         .migrations = steps,
                                         .migration_count = outbox_steps(steps) };
    mailbox_init(&new_database.completions, NULL, NULL);
    plan_outbox(report, &plan);
    int status = swap_clear(paths->outbox_db, error);
    if (status == 0)
        status = make_tables(&new_database, error);
    if (status == 0)
        status = fill(paths->outbox_db, new_database.path, &plan, &report->outbox, note_damaged_table, AFTER, error);
    if (status == 0 && report->trust_damaged)
        status = await_members(paths, new_database.path, error);
    if (status == 0)
        status = settle_outbox(&new_database, error);
    if (status == 0)
        status = swap_place(paths, paths->outbox_db, &report->outbox.aside, error);
    mailbox_release(&new_database.completions);
    free(new_database.path);
    return status;
}

/* ---- inbox.db ------------------------------------------------------------------------------------------------------------------ */

static int mark_rebuild(const struct config_paths *paths, struct rescue_report *report, struct error *error)
{
    static const char REASON[] = "asked for by daemon recover\n";
    report->rebuild_inbox = true;
    return file_write_atomic(paths->inbox_rebuild, 0600, REASON, sizeof(REASON) - 1, error);
}

static int rescue_inbox(const struct config_paths *paths, struct rescue_report *report, struct error *error)
{
    /* What retention removed may stand in free pages still, when their list is damaged. Hooks of a row that is gone would run for the one that gets its number. */
    static const char AFTER[] = "DELETE FROM inbox WHERE (mesh, sender_pubkey, client_message_id) IN"
                                " (SELECT mesh, sender_pubkey, client_message_id FROM inbox_pruned);"
                                "DELETE FROM hook_runs WHERE inbox_seq NOT IN (SELECT seq FROM inbox)";
    struct salvage_plan plan;
    struct new_database new_database = { .path = swap_new_path(paths->inbox_db),
                                         .migrations = INBOX_MIGRATIONS,
                                         .migration_count = INBOX_MIGRATION_COUNT };
    mailbox_init(&new_database.completions, NULL, NULL);
    plan_inbox(&plan);
    int status = swap_clear(paths->inbox_db, error);
    if (status == 0)
        status = make_tables(&new_database, error);
    if (status == 0)
        status = fill(paths->inbox_db, new_database.path, &plan, &report->inbox, NULL, AFTER, error);
    if (status == 0)
        status = make_tables(&new_database, error); /* opened and closed as a daemon would: its log, its marker */
    if (status == 0)
        status = mark_rebuild(paths, report, error);
    if (status == 0)
        status = swap_place(paths, paths->inbox_db, &report->inbox.aside, error);
    mailbox_release(&new_database.completions);
    free(new_database.path);
    return status;
}

/* ---- the whole -------------------------------------------------------------------------------------------------------------- */

static int rescue_all(const struct config_paths *paths, const struct rescue_options *options, struct rescue_report *report,
                      struct error *error)
{
    int status = options->apply ? swap_finish(paths, error) : 0;
    if (status < 0)
        return status;
    report->finished_earlier = status == 1 || (!options->apply && file_exists(paths->outbox_recovery));
    status = look(paths->outbox_db, &report->outbox, error);
    if (status == 0)
        status = look(paths->inbox_db, &report->inbox, error);
    if (status != 0 || !options->apply)
        return status;
    if (report->outbox.verdict == RESCUE_DAMAGED)
        status = rescue_outbox(paths, report, error);
    if (status == 0 && report->inbox.verdict == RESCUE_DAMAGED)
        status = rescue_inbox(paths, report, error);
    else if (status == 0 && options->rebuild_inbox)
        status = mark_rebuild(paths, report, error);
    return status;
}

int rescue_run(const struct config_paths *paths, const struct rescue_options *options, struct rescue_report *ret_report,
               struct error *error)
{
    struct rescue_report report = { .finished_earlier = false };
    int lock_fd = -1;
    int64_t holder = 0;
    if (!file_exists(paths->daemon)) { /* no daemon has run here */
        *ret_report = report;
        return 0;
    }
    int status = identity_lock(paths, &lock_fd, &holder, error);
    if (status == -ERROR_BUSY)
        return error_set(error, ERROR_BUSY, "A daemon runs (pid %" PRId64 "): stop it first with `claudemesh daemon down`", holder);
    if (status != 0)
        return status;
    status = rescue_all(paths, options, &report, error);
    identity_unlock(lock_fd);
    if (status != 0) {
        rescue_report_release(&report);
        return status;
    }
    *ret_report = report;
    return 0;
}
