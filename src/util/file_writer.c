/* Owns atomic, durable writing: a temporary file beside the target, fsync, rename, fsync of the directory (10-cli, Files). Who dies on the way leaves a temporary
 * file that the next writer of the same path removes. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/file.h"
#include "util/ids.h"
#include "util/memory.h"

static int write_whole(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -1;
        }
        data += written;
        size -= (size_t)written;
    }
    return 0;
}

static const char TEMPORARY_MARK[] = ".tmp-";
enum { TEMPORARY_DIGITS = 16 };

static char *temporary_name(const char *path)
{
    uint64_t number = 0;
    random_bytes(&number, sizeof(number));
    return memory_printf("%s%s%016" PRIx64, path, TEMPORARY_MARK, number);
}

static bool is_temporary_of(const char *name, const char *base)
{
    size_t length = strlen(base);
    size_t mark = sizeof(TEMPORARY_MARK) - 1;
    return strncmp(name, base, length) == 0 && strncmp(name + length, TEMPORARY_MARK, mark) == 0 &&
           strlen(name + length + mark) == TEMPORARY_DIGITS && strspn(name + length + mark, "0123456789abcdef") == TEMPORARY_DIGITS;
}

static int flock_at_once(int fd)
{
    int result;
    do {
        result = flock(fd, LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    return result;
}

/* Who was killed, or lost its power, left its temporary file, and secrets in it. A writer that lives holds a lock on its own. */
static void remove_abandoned(const char *directory, const char *base)
{
    DIR *entries = opendir(directory);
    if (entries == NULL) {
        return; /* the writing that follows says why */
    }
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (!is_temporary_of(entry->d_name, base)) {
            continue;
        }
        int fd = openat(dirfd(entries), entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && flock_at_once(fd) == 0) {
            char *path = path_join(directory, entry->d_name);
            unlink(path); /* one that cannot be removed now is met again at the next writing */
            free(path);
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    closedir(entries);
}

/* The temporary file, made and locked. A sweeper that came between the two has removed it: then under another name. */
static int make_temporary(const char *path, mode_t mode, char **ret_temporary, int *ret_fd, struct error *error)
{
    for (;;) {
        char *temporary = temporary_name(path);
        struct stat status;
        int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd < 0) {
            int result = error_set_errno(error, "cannot create %s", temporary);
            free(temporary);
            return result;
        }
        bool swept = flock_at_once(fd) != 0 && errno == EWOULDBLOCK; /* a file system without locks has no sweepers either */
        if (!swept && (fstat(fd, &status) != 0 || status.st_nlink > 0)) {
            *ret_temporary = temporary;
            *ret_fd = fd;
            return 0;
        }
        close(fd);
        free(temporary);
    }
}

int file_writer_open(struct file_writer *writer, const char *path, mode_t mode, struct error *error)
{
    char *directory = path_parent(path);
    const char *slash = strrchr(path, '/');
    *writer = (struct file_writer){ .fd = -1 };
    remove_abandoned(directory, slash == NULL ? path : slash + 1);
    int result = make_temporary(path, mode, &writer->temporary, &writer->fd, error);
    if (result == 0) {
        writer->path = memory_strdup(path);
    }
    free(directory);
    return result;
}

int file_writer_write(struct file_writer *writer, const void *data, size_t size, struct error *error)
{
    return write_whole(writer->fd, data, size) == 0 ? 0 : error_set_errno(error, "cannot write %s", writer->temporary);
}

/* Not every file system knows hard links; there the look and the rename are two steps. */
static int take_free_name(const struct file_writer *writer, struct error *error)
{
    if (link(writer->temporary, writer->path) == 0) {
        unlink(writer->temporary); /* a second name that stays is met again at the next writing */
        return 0;
    }
    bool taken = errno == EEXIST;
    int why = errno;
    int result = taken ? 0 : file_look(writer->path, &taken, error);
    if (result != 0 || taken) {
        return taken ? error_set(error, ERROR_CONFLICT, "%s exists already", writer->path) : result;
    }
    errno = why;
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK) {
        return error_set_errno(error, "cannot link %s to %s", writer->temporary, writer->path);
    }
    return rename(writer->temporary, writer->path) == 0 ? 0
                                                        : error_set_errno(error, "cannot rename %s to %s", writer->temporary, writer->path);
}

int file_writer_finish(struct file_writer *writer, bool replace, struct error *error)
{
    char *directory = path_parent(writer->path);
    int result = file_sync(writer->fd) == 0 ? 0 : error_set_errno(error, "cannot sync %s", writer->temporary);
    if (result == 0 && !replace) {
        result = take_free_name(writer, error);
    } else if (result == 0 && rename(writer->temporary, writer->path) != 0) {
        result = error_set_errno(error, "cannot rename %s to %s", writer->temporary, writer->path);
    }
    if (result == 0) {
        free(writer->temporary);
        writer->temporary = NULL;
        result = directory_fsync(directory, error);
    }
    free(directory);
    file_writer_abandon(writer);
    return result;
}

void file_writer_abandon(struct file_writer *writer)
{
    if (writer->path == NULL) {
        return;
    }
    if (writer->temporary != NULL) {
        unlink(writer->temporary);
    }
    close(writer->fd); /* and with it the lock: not before the file has its name, or is gone */
    free(writer->temporary);
    free(writer->path);
    *writer = (struct file_writer){ .fd = -1 };
}

int file_write_atomic(const char *path, mode_t mode, const void *data, size_t size, struct error *error)
{
    struct file_writer writer;
    int result = file_writer_open(&writer, path, mode, error);
    if (result == 0) {
        result = file_writer_write(&writer, data, size, error);
    }
    if (result == 0) {
        return file_writer_finish(&writer, true, error);
    }
    file_writer_abandon(&writer);
    return result;
}
