/* Owns bringing a backup back: its parts into a new state that is made beside the old one. Believes nothing before it was opened with the passphrase's key, and takes nothing that it does
 * not know. Must not know the file's form (format.h) or how one state takes the other's place (swap.h). */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backup/backup.h"
#include "backup/format.h"
#include "backup/outbox_steps.h"
#include "backup/parts.h"
#include "backup/swap.h"
#include "db/dump.h"
#include "identity/host.h"
#include "identity/identity.h"
#include "inbox/copied.h"
#include "inbox/inbox.h"
#include "json/json.h"
#include "outbox/copied.h"
#include "trust/trust.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"

enum { MANIFEST_MAXIMUM = 64 * 1024 };

struct restoring {
    const struct backup_request *request;
    struct backup_reader *reader;
    struct staging staging;
    struct backup_summary summary;
    bool manifest, config, outbox; /* parts that were there */
    int64_t now_ms;
};

static int incomplete(const struct restoring *restoring, const char *what, struct error *error)
{
    return error_set(error, ERROR_CORRUPT, "%s is no whole backup: %s", restoring->request->file, what);
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

static int copy_part(struct restoring *restoring, const char *name, int fd, size_t maximum, struct error *error)
{
    uint8_t bytes[BACKUP_CHUNK];
    size_t total = 0;
    int64_t got = 0;
    int result = 0;
    while (result == 0 && (got = backup_reader_get(restoring->reader, bytes, sizeof(bytes), error)) > 0) {
        total += (size_t)got;
        if (total > maximum) {
            result = error_set(error, ERROR_TOO_LARGE, "the part %s of the backup is larger than it may be", name);
        }
        for (size_t done = 0; result == 0 && done < (size_t)got;) {
            ssize_t written = write(fd, bytes + done, (size_t)got - done);
            if (written < 0 && errno != EINTR) {
                result = error_set_errno(error, "cannot write %s", name);
            }
            done += written > 0 ? (size_t)written : 0;
        }
    }
    secret_wipe(bytes, sizeof(bytes));
    if (got < 0) {
        result = (int)got;
    }
    return result != 0 || file_sync(fd) == 0 ? result : error_set_errno(error, "cannot sync %s", name);
}

static int take_file(struct restoring *restoring, const char *name, const char *path, mode_t mode, size_t maximum, struct error *error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) {
        return errno == EEXIST ? incomplete(restoring, "a part stands in it twice", error)
                               : error_set_errno(error, "cannot create %s", path);
    }
    int result = copy_part(restoring, name, fd, maximum, error);
    close(fd);
    return result;
}

static int take_hook(struct restoring *restoring, const char *part, const char *name, mode_t mode, struct error *error)
{
    if (!hook_name_is_plain(name) || ++restoring->summary.hooks > HOOK_FILES_MAXIMUM) {
        return incomplete(restoring, "a hook's name", error);
    }
    char *path = path_join(restoring->staging.made.hooks, name);
    int result = take_file(restoring, part, path, mode, HOOK_FILE_MAXIMUM, error);
    free(path);
    return result;
}

static int take_manifest(struct restoring *restoring, struct error *error)
{
    char text[MANIFEST_MAXIMUM];
    size_t length = 0;
    int64_t got = 0;
    while (length < sizeof(text) && (got = backup_reader_get(restoring->reader, text + length, sizeof(text) - length, error)) > 0) {
        length += (size_t)got;
    }
    if (got < 0) {
        return (int)got;
    }
    json_t *manifest = NULL;
    const char *made_by = "";
    const char *created = "";
    if (length == sizeof(text) || json_parse_strict(text, length, &manifest, error) != 0 ||
        json_read_string(manifest, "claudemesh", JSON_REQUIRED, &made_by, error) != 0 ||
        json_read_string(manifest, "created_at", JSON_REQUIRED, &created, error) != 0 ||
        time_parse_rfc3339(created, &restoring->summary.created_at) != 0 ||
        json_read_bool(manifest, "with_data", JSON_REQUIRED, &restoring->summary.with_data, error) != 0) {
        json_decref(manifest);
        return incomplete(restoring, "its manifest says nothing that is known", error);
    }
    (void)snprintf(restoring->summary.made_by, sizeof(restoring->summary.made_by), "%.*s", (int)sizeof(restoring->summary.made_by) - 1,
                   made_by);
    json_decref(manifest);
    restoring->manifest = true;
    return 0;
}

/* ---- databases ------------------------------------------------------------------------------------------------------ */

/* The part's bytes, the first of which was taken to see whether there is one. */
struct part_source {
    struct restoring *restoring;
    uint8_t first;
    bool first_is_due;
};

static int read_part(void *argument, void *data, size_t size, struct error *error)
{
    struct part_source *source = argument;
    uint8_t *bytes = data;
    if (source->first_is_due && size > 0) {
        bytes[0] = source->first;
        source->first_is_due = false;
        bytes++;
        size--;
    }
    return backup_reader_need(source->restoring->reader, bytes, size, error);
}

/* Nothing may follow the table's end. */
static int expect_end(struct restoring *restoring, struct error *error)
{
    uint8_t more;
    int64_t got = backup_reader_get(restoring->reader, &more, 1, error);
    return got < 0 ? (int)got : got == 0 ? 0 : incomplete(restoring, "a database with something behind it", error);
}

/* Every mesh that is joined: what the backup knows of its members is old. */
static int mark_meshes(struct restoring *restoring, struct db_connection *connection, struct error *error)
{
    struct config_file config;
    int result = config_file_read(restoring->staging.made.config_json, &config, error);
    if (result != 0) {
        return result;
    }
    for (size_t i = 0; i < config.mesh_count && result == 0; i++) {
        result = trust_mark_awaiting(connection, config.meshes[i].mesh_id, restoring->now_ms, error);
    }
    config_file_release(&config);
    return result;
}

static int finish_outbox(void *argument, struct db_connection *connection, struct error *error)
{
    struct restoring *restoring = argument;
    int result = restoring->summary.with_data ? 0 : outbox_abort_copied(connection, "restore", restoring->now_ms, NULL, error);
    return result == 0 ? mark_meshes(restoring, connection, error) : result;
}

static int finish_inbox(void *argument, struct db_connection *connection, struct error *error)
{
    (void)argument;
    return inbox_begin_anew(connection, error);
}

static int load_outbox(struct restoring *restoring, const struct db_source *source, struct error *error)
{
    struct db_migration steps[OUTBOX_STEPS_MAXIMUM];
    size_t count = outbox_steps(steps);
    restoring->outbox = true;
    return db_load(restoring->staging.made.outbox_db, steps, count, source, finish_outbox, restoring, error);
}

/* *ret_there false: the part is empty, no daemon had run. */
static int load_part(struct restoring *restoring, bool outbox, struct error *error)
{
    struct part_source part = { .restoring = restoring, .first_is_due = true };
    const struct db_source source = { &part, read_part };
    int64_t got = backup_reader_get(restoring->reader, &part.first, 1, error);
    if (got <= 0) {
        return (int)got;
    }
    if (!restoring->config) {
        return incomplete(restoring, "its parts are out of order", error);
    }
    int result = outbox ? load_outbox(restoring, &source, error)
                        : db_load(restoring->staging.made.inbox_db, INBOX_MIGRATIONS, INBOX_MIGRATION_COUNT, &source, finish_inbox,
                                  restoring, error);
    if (result != 0) {
        return error_prefix(error, "%s of the backup", outbox ? "the outbox" : "the inbox");
    }
    return expect_end(restoring, error);
}

/* A stream without tables, of the newest version. */
struct empty_stream {
    uint8_t bytes[5];
    size_t at;
};

static int read_empty(void *argument, void *data, size_t size, struct error *error)
{
    struct empty_stream *stream = argument;
    if (size > sizeof(stream->bytes) - stream->at) {
        return error_set(error, ERROR_INTERNAL, "an empty database has an end");
    }
    memcpy(data, stream->bytes + stream->at, size);
    stream->at += size;
    return 0;
}

/* A backup without an outbox: the marks need a place all the same. */
static int make_empty_outbox(struct restoring *restoring, struct error *error)
{
    struct db_migration steps[OUTBOX_STEPS_MAXIMUM];
    size_t count = outbox_steps(steps);
    struct empty_stream stream = { .bytes = { 0, 0, 0, (uint8_t)count, 'E' } };
    const struct db_source source = { &stream, read_empty };
    return load_outbox(restoring, &source, error);
}

/* ---- parts ----------------------------------------------------------------------------------------------------------- */

static int take_listed_file(struct restoring *restoring, const char *name, struct error *error)
{
    for (size_t i = 0; i < BACKUP_FILE_COUNT; i++) {
        if (string_equal(BACKUP_FILES[i].part, name)) {
            restoring->config = restoring->config || i == 0;
            return take_file(restoring, name, backup_file_path(&BACKUP_FILES[i], &restoring->staging.made), 0600, BACKUP_FILES[i].maximum,
                             error);
        }
    }
    return error_set(error, ERROR_NEWER, "the backup has a part '%s' that this program does not know: a newer claudemesh is needed", name);
}

static int take_part(struct restoring *restoring, const char *name, struct error *error)
{
    if (string_equal(name, PART_MANIFEST)) {
        return restoring->manifest ? incomplete(restoring, "a part stands in it twice", error) : take_manifest(restoring, error);
    }
    if (!restoring->manifest) {
        return incomplete(restoring, "it has no manifest", error);
    }
    if (string_equal(name, PART_OUTBOX) || string_equal(name, PART_INBOX)) {
        return load_part(restoring, string_equal(name, PART_OUTBOX), error);
    }
    if (string_has_prefix(name, PART_HOOK_PROGRAM)) {
        return take_hook(restoring, name, name + strlen(PART_HOOK_PROGRAM), 0700, error);
    }
    if (string_has_prefix(name, PART_HOOK)) {
        return take_hook(restoring, name, name + strlen(PART_HOOK), 0600, error);
    }
    return take_listed_file(restoring, name, error);
}

static int take_parts(struct restoring *restoring, struct error *error)
{
    char name[BACKUP_PART_NAME_MAXIMUM + 1];
    int result;
    while ((result = backup_reader_next(restoring->reader, name, error)) == 1) {
        result = take_part(restoring, name, error);
        if (result != 0) {
            return result;
        }
    }
    if (result == 0 && (!restoring->manifest || !restoring->config)) {
        result = incomplete(restoring, "its configuration is missing", error);
    }
    return result;
}

/* ---- what is new ----------------------------------------------------------------------------------------------------- */

static int check_config(struct restoring *restoring, struct error *error)
{
    struct config_file config;
    int result = config_file_read(restoring->staging.made.config_json, &config, error);
    if (result != 0) {
        return error_prefix(error, "the configuration of the backup");
    }
    restoring->summary.meshes = config.mesh_count;
    config_file_release(&config);
    return 0;
}

/* The host as it is now. What the backup says of the former one is only told: a file of it that cannot be understood is no reason to refuse. */
static int accept_host(struct restoring *restoring, struct error *error)
{
    struct host_record former;
    struct host_check check;
    const char *path = restoring->staging.made.host_fingerprint;
    bool known = host_record_read(path, &former, NULL) == 0;
    if (unlink(path) != 0 && errno != ENOENT) {
        return error_set_errno(error, "cannot remove %s", path);
    }
    int result = host_accept(&restoring->staging.made, &check, error);
    restoring->summary.other_host = result == 0 && known && !host_record_is_random(&former) && !string_equal(former.id, check.current.id);
    return result;
}

static int make_new(struct restoring *restoring, struct error *error)
{
    char *token = NULL;
    int result = check_config(restoring, error);
    if (result == 0 && !restoring->outbox) {
        result = make_empty_outbox(restoring, error);
    }
    if (result == 0) {
        result = accept_host(restoring, error);
    }
    if (result == 0) {
        result = identity_local_token(&restoring->staging.made, &token, error);
    }
    if (token != NULL) {
        secret_wipe(token, strlen(token));
        free(token);
    }
    return result;
}

/* ---- the whole --------------------------------------------------------------------------------------------------------- */

static int has_configuration(const struct config_paths *paths, bool *ret_there, struct error *error)
{
    const char *const kept[] = { paths->config_json, paths->config_toml,     paths->outbox_db,
                                 paths->inbox_db,    paths->keypair_archive, paths->topic_keys };
    bool there = false;
    int result = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(kept) && result == 0 && !there; i++) {
        result = file_look(kept[i], &there, error);
    }
    *ret_there = there;
    return result;
}

static int check_nothing_there(const struct config_paths *paths, struct error *error)
{
    bool there = false;
    int result = has_configuration(paths, &there, error);
    if (result == 0 && there) {
        result = error_set(error, ERROR_CONFLICT, "there is a configuration in %s; --force puts it aside and keeps it", paths->root);
    }
    return result;
}

static int check_no_daemon(const struct config_paths *paths, struct error *error)
{
    int64_t pid = 0;
    return identity_running_pid(paths, &pid, NULL) == 0
               ? error_set(error, ERROR_BUSY, "a daemon runs (pid %" PRId64 "); stop it with 'claudemesh daemon down'", pid)
               : 0;
}

int backup_restore(const struct backup_request *request, struct backup_summary *ret_summary, struct error *error)
{
    struct restoring restoring = { .request = request, .now_ms = clock_wall_ms() };
    restoring.summary.outbox_rows = restoring.summary.inbox_rows = -1;
    int result = backup_settle(request->paths, error);
    if (result == 0) {
        result = check_no_daemon(request->paths, error);
    }
    if (result == 0 && !request->force) {
        result = check_nothing_there(request->paths, error);
    }
    if (result == 0) {
        result = backup_reader_open(request->file, request->passphrase, &restoring.reader, error);
    }
    if (result == 0) {
        result = staging_open(request->paths, &restoring.staging, error);
    }
    if (result == 0) {
        result = take_parts(&restoring, error);
        if (result == 0) {
            result = make_new(&restoring, error);
        }
        bool keep = false;
        if (result == 0) {
            result = has_configuration(request->paths, &keep, error);
        }
        if (result == 0) {
            result =
                staging_install(&restoring.staging, request->force ? NULL : check_nothing_there, keep, &restoring.summary.aside, error);
        } else {
            staging_abandon(&restoring.staging);
        }
    }
    backup_reader_free(restoring.reader);
    if (result != 0) {
        backup_summary_release(&restoring.summary);
        return result;
    }
    *ret_summary = restoring.summary;
    return 0;
}
