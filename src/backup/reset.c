/* Owns the reset: what was said goes, who we are and what must never be forgotten stays (30-delivery, The contract: a consumed id is never released). */
#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "backup/backup.h"
#include "backup/outbox_steps.h"
#include "backup/parts.h"
#include "db/dump.h"
#include "identity/identity.h"
#include "inbox/copied.h"
#include "inbox/inbox.h"
#include "outbox/copied.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/memory.h"

struct resetting {
    struct reset_summary summary;
    int64_t now_ms;
};

static int reset_outbox(void *argument, struct db_connection *connection, struct error *error)
{
    struct resetting *resetting = argument;
    return outbox_forget_payloads(connection, "reset", resetting->now_ms, &resetting->summary.aborted, &resetting->summary.ids_kept, error);
}

static int reset_inbox(void *argument, struct db_connection *connection, struct error *error)
{
    (void)argument;
    return inbox_forget_copied(connection, error);
}

static int reset_databases(const struct config_paths *paths, struct resetting *resetting, struct error *error)
{
    struct db_migration steps[OUTBOX_STEPS_MAXIMUM];
    size_t count = outbox_steps(steps);
    int result = db_change(paths->outbox_db, steps, count, reset_outbox, resetting, error);
    if (result == 0 || result == -(int)ERROR_NOT_FOUND) {
        result = db_change(paths->inbox_db, INBOX_MIGRATIONS, INBOX_MIGRATION_COUNT, reset_inbox, resetting, error);
    }
    if (result == -(int)ERROR_CORRUPT) {
        return error_prefix(error, "a damaged database is not reset; run 'claudemesh daemon recover' first");
    }
    return result == -(int)ERROR_NOT_FOUND ? 0 : result;
}

/* daemon.log and its rotated ones, inboxes that were moved aside, databases that recover kept or was making, the note that history is to be asked for. */
static bool is_remnant(const char *name)
{
    static const char *const BEGINNINGS[] = { "daemon.log",          "inbox.db.corrupt-",  "outbox.db.damaged-", "inbox.db.damaged-",
                                              "outbox.db.recovered", "inbox.db.recovered", "inbox.rebuild" };
    for (size_t i = 0; i < ARRAY_LENGTH(BEGINNINGS); i++) {
        if (string_has_prefix(name, BEGINNINGS[i])) {
            return true;
        }
    }
    return false;
}

static int remove_remnants(const char *directory, struct error *error)
{
    int result = 0;
    DIR *entries = opendir(directory);
    if (entries == NULL) {
        return error_set_errno(error, "cannot open %s", directory);
    }
    errno = 0;
    for (const struct dirent *entry = readdir(entries); entry != NULL && result == 0; entry = readdir(entries)) {
        if (is_remnant(entry->d_name)) {
            char *path = path_join(directory, entry->d_name);
            result = tree_remove(path, error);
            free(path);
        }
        errno = 0;
    }
    if (result == 0 && errno != 0) {
        result = error_set_errno(error, "cannot read %s", directory);
    }
    closedir(entries);
    return result;
}

static int make_new(const struct config_paths *paths, struct error *error)
{
    char *token = NULL;
    int result = tree_remove(paths->session_id, error);
    if (result == 0) {
        result = tree_remove(paths->local_token, error);
    }
    if (result == 0) {
        result = identity_local_token(paths, &token, error);
    }
    if (token != NULL) {
        secret_wipe(token, strlen(token));
        free(token);
    }
    return result == 0 ? directory_fsync(paths->daemon, error) : result;
}

int backup_reset(const struct config_paths *paths, struct reset_summary *ret_summary, struct error *error)
{
    struct resetting resetting = { .now_ms = clock_wall_ms() };
    int lock = -1;
    int64_t holder = 0;
    bool there = false;
    int result = file_look(paths->daemon, &there, error);
    if (result == 0 && !there) {
        *ret_summary = resetting.summary;
        return 0; /* no daemon has run here */
    }
    if (result == 0) {
        result = identity_lock(paths, &lock, &holder, error);
    }
    if (result == 0) {
        result = backup_check_recovered(paths, error);
    }
    if (result == 0) {
        result = reset_databases(paths, &resetting, error);
    }
    if (result == 0) {
        result = remove_remnants(paths->daemon, error);
    }
    if (result == 0) {
        result = make_new(paths, error);
    }
    identity_unlock(lock);
    if (result == 0) {
        *ret_summary = resetting.summary;
    }
    return result;
}
