/* Owns writing a backup: what goes in, and that it belongs together while a daemon runs. Reads only. Must not know what the file looks like: format.h does. */
#include "backup/backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup/format.h"
#include "backup/parts.h"
#include "db/dump.h"
#include "json/json.h"
#include "outbox/copied.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"

/* config.json is read again after the other files: a rotation in between, and it is all read once more. */
enum { TRIES = 5, FILES_MAXIMUM = 8 };

struct writing {
    const struct backup_request *request;
    struct backup_writer *writer;
    struct buffer files[FILES_MAXIMUM]; /* by their row in the table; what is absent is empty */
    bool present[FILES_MAXIMUM];
    struct backup_summary summary;
};

/* ---- the small files -------------------------------------------------------------------------------------------- */

static int read_files(struct writing *writing, struct error *error)
{
    for (size_t i = 0; i < BACKUP_FILE_COUNT; i++) {
        struct buffer *bytes = &writing->files[i];
        buffer_wipe_release(bytes);
        buffer_init_secret(bytes, BACKUP_FILES[i].maximum);
        int result = file_read(backup_file_path(&BACKUP_FILES[i], writing->request->paths), bytes, error);
        writing->present[i] = result == 0;
        if (result != 0 && (result != -(int)ERROR_NOT_FOUND || i == 0)) {
            return result == -(int)ERROR_NOT_FOUND ? error_set(error, ERROR_NOT_FOUND, "there is nothing to back up: %s does not exist",
                                                               writing->request->paths->config_json)
                                                   : result;
        }
    }
    return 0;
}

static int config_is_unchanged(const struct writing *writing, struct error *error)
{
    struct buffer again;
    buffer_init_secret(&again, BACKUP_FILES[0].maximum);
    int result = file_read(writing->request->paths->config_json, &again, error);
    if (result == 0) {
        result = again.length == writing->files[0].length && memcmp(again.data, writing->files[0].data, again.length) == 0 ? 1 : 0;
    }
    buffer_release(&again);
    return result;
}

static int gather_files(struct writing *writing, struct error *error)
{
    for (int try = 0; try < TRIES; try++) {
        int result = read_files(writing, error);
        if (result == 0) {
            result = config_is_unchanged(writing, error);
        }
        if (result != 0) {
            return result < 0 ? result : 0;
        }
    }
    return error_set(error, ERROR_BUSY, "%s keeps changing; try again", writing->request->paths->config_json);
}

/* A rotation, a join or a restore meanwhile: keys of before, and an outbox of after it. */
static int check_unchanged(const struct writing *writing, struct error *error)
{
    int result = config_is_unchanged(writing, error);
    return result == 0  ? error_set(error, ERROR_BUSY, "%s was changed while the backup was made; make it again",
                                    writing->request->paths->config_json)
           : result < 0 ? result
                        : 0;
}

static int put_part(struct writing *writing, const char *name, const void *data, size_t size, struct error *error)
{
    int result = backup_writer_begin_part(writing->writer, name, error);
    if (result == 0) {
        result = backup_writer_put(writing->writer, data, size, error);
    }
    return result == 0 ? backup_writer_end_part(writing->writer, error) : result;
}

static int put_files(struct writing *writing, struct error *error)
{
    int result = 0;
    for (size_t i = 0; i < BACKUP_FILE_COUNT && result == 0; i++) {
        if (writing->present[i]) {
            result = put_part(writing, BACKUP_FILES[i].part, writing->files[i].data, writing->files[i].length, error);
        }
    }
    return result;
}

static int put_manifest(struct writing *writing, struct error *error)
{
    char created[RFC3339_SIZE];
    struct config_file config;
    size_t size = 0;
    int result = config_file_read(writing->request->paths->config_json, &config, error);
    if (result != 0) {
        return result; /* what cannot be read cannot be restored either: better said now */
    }
    writing->summary.meshes = config.mesh_count;
    config_file_release(&config);
    time_format_rfc3339(writing->summary.created_at, created);
    json_t *manifest = json_new_object();
    json_put_string(manifest, "claudemesh", CLAUDEMESH_VERSION);
    json_put_string(manifest, "created_at", created);
    json_put_bool(manifest, "with_data", writing->request->with_data);
    char *text = json_to_string(manifest, &size);
    json_decref(manifest);
    result = put_part(writing, PART_MANIFEST, text, size, error);
    free(text);
    return result;
}

/* ---- hooks ------------------------------------------------------------------------------------------------------- */

static int put_descriptor(struct writing *writing, int fd, const char *name, struct error *error)
{
    uint8_t bytes[BACKUP_CHUNK];
    size_t total = 0;
    for (;;) {
        ssize_t got = read(fd, bytes, sizeof(bytes));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? error_set_errno(error, "cannot read the hook %s", name) : 0;
        }
        total += (size_t)got;
        if (total > HOOK_FILE_MAXIMUM) {
            return error_set(error, ERROR_TOO_LARGE, "the hook %s is larger than %d MiB", name, (int)HOOK_FILE_MAXIMUM >> 20);
        }
        int result = backup_writer_put(writing->writer, bytes, (size_t)got, error);
        if (result != 0) {
            return result;
        }
    }
}

/* Regular files only: a link leads to what is not the directory's. */
static int put_hook(struct writing *writing, int directory, const char *name, struct error *error)
{
    struct stat status;
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ELOOP || errno == ENOENT)) {
        return 0;
    }
    if (fd < 0 || fstat(fd, &status) != 0) {
        int result = error_set_errno(error, "cannot open the hook %s", name);
        if (fd >= 0) {
            close(fd);
        }
        return result;
    }
    int result = 0;
    if (S_ISREG(status.st_mode) && hook_name_is_plain(name)) {
        char *part = memory_printf("%s%s", (status.st_mode & S_IXUSR) != 0 ? PART_HOOK_PROGRAM : PART_HOOK, name);
        result = ++writing->summary.hooks > HOOK_FILES_MAXIMUM
                     ? error_set(error, ERROR_TOO_LARGE, "there are more than %d files in hooks/", (int)HOOK_FILES_MAXIMUM)
                     : backup_writer_begin_part(writing->writer, part, error);
        if (result == 0) {
            result = put_descriptor(writing, fd, name, error);
        }
        if (result == 0) {
            result = backup_writer_end_part(writing->writer, error);
        }
        free(part);
    }
    close(fd);
    return result;
}

static int put_hooks(struct writing *writing, struct error *error)
{
    int result = 0;
    DIR *entries = opendir(writing->request->paths->hooks);
    if (entries == NULL) {
        return errno == ENOENT ? 0 : error_set_errno(error, "cannot open %s", writing->request->paths->hooks);
    }
    errno = 0;
    for (const struct dirent *entry = readdir(entries); entry != NULL && result == 0; entry = readdir(entries)) {
        if (entry->d_name[0] != '.') {
            result = put_hook(writing, dirfd(entries), entry->d_name, error);
        }
        errno = 0;
    }
    if (result == 0 && errno != 0) {
        result = error_set_errno(error, "cannot read %s", writing->request->paths->hooks);
    }
    closedir(entries);
    return result;
}

/* ---- databases ----------------------------------------------------------------------------------------------------- */

static int put_bytes(void *argument, const void *data, size_t size, struct error *error)
{
    struct writing *writing = argument;
    return backup_writer_put(writing->writer, data, size, error);
}

static int put_database(struct writing *writing, const char *part, const char *path, const struct db_selection *selection,
                        int64_t *ret_rows, struct error *error)
{
    const struct db_sink sink = { writing, put_bytes };
    *ret_rows = -1;
    int result = backup_writer_begin_part(writing->writer, part, error);
    if (result == 0) {
        result = db_dump(path, selection, &sink, ret_rows, error);
    }
    if (result == -(int)ERROR_NOT_FOUND) {
        result = 0; /* no daemon has run yet: an empty part */
    }
    return result == 0 ? backup_writer_end_part(writing->writer, error) : result;
}

static int put_databases(struct writing *writing, struct error *error)
{
    const struct db_selection everything = { .substitutes = NULL };
    const struct config_paths *paths = writing->request->paths;
    bool with_data = writing->request->with_data;
    int result = put_database(writing, PART_OUTBOX, paths->outbox_db, with_data ? &everything : &OUTBOX_WITHOUT_PAYLOADS,
                              &writing->summary.outbox_rows, error);
    writing->summary.inbox_rows = -1;
    if (result == 0 && with_data) {
        result = put_database(writing, PART_INBOX, paths->inbox_db, &everything, &writing->summary.inbox_rows, error);
    }
    return result;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------ */

void backup_summary_release(struct backup_summary *summary)
{
    free(summary->aside);
    summary->aside = NULL;
}

static int put_everything(struct writing *writing, struct error *error)
{
    int result = put_manifest(writing, error);
    if (result == 0) {
        result = put_files(writing, error);
    }
    if (result == 0) {
        result = put_hooks(writing, error);
    }
    return result == 0 ? put_databases(writing, error) : result;
}

int backup_write(const struct backup_request *request, struct backup_summary *ret_summary, struct error *error)
{
    struct writing writing = { .request = request };
    int result = !request->force && file_exists(request->file)
                     ? error_set(error, ERROR_CONFLICT, "%s exists already; --force writes over it", request->file)
                     : backup_check_recovered(request->paths, error);
    if (result == 0) {
        result = gather_files(&writing, error);
    }
    if (result == 0) {
        result = backup_writer_open(request->file, request->passphrase, request->cost, &writing.writer, error);
    }
    if (result == 0) {
        writing.summary.created_at = clock_wall_ms();
        writing.summary.with_data = request->with_data;
        (void)snprintf(writing.summary.made_by, sizeof(writing.summary.made_by), "%s", CLAUDEMESH_VERSION);
        result = put_everything(&writing, error);
        if (result == 0) {
            result = check_unchanged(&writing, error);
        }
        if (result == 0) {
            result = backup_writer_finish(writing.writer, request->force, error);
        } else {
            backup_writer_free(writing.writer);
        }
    }
    for (size_t i = 0; i < BACKUP_FILE_COUNT; i++) {
        buffer_wipe_release(&writing.files[i]);
    }
    if (result == 0) {
        *ret_summary = writing.summary;
    }
    return result;
}
