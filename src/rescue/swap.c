/* Owns the order in which a new database takes the old one's name. A log beside a file that it does not belong to would be written into it, so the old log's name must go before the
 * new file comes; in between only the note (paths->outbox_recovery) tells that this is not an outbox without its log. The daemon does not start while the note is there. */
#include "rescue/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

static const char *const SUFFIXES[] = { "", "-wal", "-shm" };

char *swap_new_path(const char *database)
{
    return memory_printf("%s.recovered", database);
}

static int remove_with_log(const char *path, struct error *error)
{
    for (size_t i = 0; i < ARRAY_LENGTH(SUFFIXES); i++) {
        char *name = memory_printf("%s%s", path, SUFFIXES[i]);
        int result = unlink(name);
        int status = result != 0 && errno != ENOENT ? error_set_errno(error, "Cannot remove '%s'", name) : 0;
        free(name);
        if (status != 0)
            return status;
    }
    return 0;
}

int swap_clear(const char *database, struct error *error)
{
    char *path = swap_new_path(database);
    int status = remove_with_log(path, error);
    free(path);
    return status;
}

/* A second name for the file and for its log. */
static int link_aside(const char *database, char **ret_aside, struct error *error)
{
    char stamp[32];
    struct tm now;
    time_t seconds = (time_t)(clock_wall_ms() / 1000);
    if (gmtime_r(&seconds, &now) == NULL || strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &now) == 0)
        return error_set_errno(error, "Cannot tell the time");
    char *aside = memory_printf("%s.damaged-%s", database, stamp);
    for (unsigned number = 2; file_exists(aside); number++) {
        free(aside);
        aside = memory_printf("%s.damaged-%s-%u", database, stamp, number);
    }
    for (size_t i = 0; i < 2; i++) { /* the shared memory is nothing that stays */
        char *from = memory_printf("%s%s", database, SUFFIXES[i]);
        char *to = memory_printf("%s%s", aside, SUFFIXES[i]);
        int result = link(from, to);
        int status = result != 0 && errno != ENOENT ? error_set_errno(error, "Cannot keep '%s' as '%s'", from, to) : 0;
        free(from);
        free(to);
        if (status != 0) {
            free(aside);
            return status;
        }
    }
    *ret_aside = aside;
    return 0;
}

/* The new file's bytes, before anything points to it. */
static int sync_new(const char *path, struct error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int status = fd < 0 || fsync(fd) != 0 ? error_set_errno(error, "Cannot make '%s' durable", path) : 0;
    if (fd >= 0)
        (void)close(fd);
    return status;
}

static int replace(const struct config_paths *paths, const char *database, struct error *error)
{
    char *new_path = swap_new_path(database);
    int status = 0;
    if (file_exists(new_path)) {
        for (size_t i = 1; i < ARRAY_LENGTH(SUFFIXES) && status == 0; i++) {
            char *name = memory_printf("%s%s", database, SUFFIXES[i]);
            if (unlink(name) != 0 && errno != ENOENT)
                status = error_set_errno(error, "Cannot remove '%s'", name);
            free(name);
        }
        if (status == 0)
            status = directory_fsync(paths->daemon, error);
        if (status == 0 && rename(new_path, database) != 0)
            status = error_set_errno(error, "Cannot rename '%s'", new_path);
    }
    if (status == 0)
        status = directory_fsync(paths->daemon, error);
    if (status == 0 && unlink(paths->outbox_recovery) != 0)
        status = error_set_errno(error, "Cannot remove '%s'", paths->outbox_recovery);
    if (status == 0)
        status = directory_fsync(paths->daemon, error);
    free(new_path);
    return status;
}

int swap_place(const struct config_paths *paths, const char *database, char **ret_aside, struct error *error)
{
    char *new_path = swap_new_path(database);
    char *aside = NULL;
    const char *name = strrchr(database, '/');
    name = name == NULL ? database : name + 1;
    int status = sync_new(new_path, error);
    if (status == 0)
        status = link_aside(database, &aside, error);
    if (status == 0)
        status = directory_fsync(paths->daemon, error);
    if (status == 0)
        status = file_write_atomic(paths->outbox_recovery, 0600, name, strlen(name), error);
    if (status == 0)
        status = replace(paths, database, error);
    free(new_path);
    if (status != 0)
        free(aside);
    else
        *ret_aside = aside;
    return status;
}

int swap_finish(const struct config_paths *paths, struct error *error)
{
    struct buffer name;
    if (!file_exists(paths->outbox_recovery))
        return 0;
    buffer_init(&name, LIMIT_NAME);
    int status = file_read(paths->outbox_recovery, &name, error);
    const char *database = NULL;
    if (status == 0 && string_equal(name.data, "outbox.db"))
        database = paths->outbox_db;
    else if (status == 0 && string_equal(name.data, "inbox.db"))
        database = paths->inbox_db;
    if (status == 0 && database == NULL)
        status = error_set(error, ERROR_INVALID, "'%s' names no database; remove it when you know that outbox.db and inbox.db are right",
                           paths->outbox_recovery);
    if (status == 0)
        status = replace(paths, database, error);
    buffer_release(&name);
    return status == 0 ? 1 : status;
}
