/* Owns the daemon's singleton: a lock on daemon.pid. The lock is the truth; the number in the file is for people and for
 * `daemon down`. The file is never unlinked: that would let two processes each lock one. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "identity/identity.h"
#include "util/file.h"
#include "util/text.h"

enum { PID_FILE_MAXIMUM = 32 };

/* 0 when the file does not say. */
static int64_t read_pid(const char *path)
{
    struct buffer bytes;
    int64_t pid = 0;
    buffer_init(&bytes, PID_FILE_MAXIMUM);
    if (file_read(path, &bytes, NULL) == 0) {
        while (bytes.length > 0 && (bytes.data[bytes.length - 1] == '\n' || bytes.data[bytes.length - 1] == ' ')) {
            bytes.data[--bytes.length] = '\0';
        }
        if (parse_int64(bytes.data, &pid) != 0 || pid < 0) {
            pid = 0;
        }
    }
    buffer_release(&bytes);
    return pid;
}

static int truncate_to_nothing(int fd)
{
    int result;
    do {
        result = ftruncate(fd, 0);
    } while (result != 0 && errno == EINTR);
    return result;
}

int identity_lock(const struct config_paths *paths, int *ret_fd, int64_t *ret_holder, struct error *error)
{
    int fd = -1;
    int result = file_lock(paths->pid_file, 0600, &fd, error);
    if (result == -(int)ERROR_BUSY) {
        *ret_holder = read_pid(paths->pid_file);
        return *ret_holder > 0 ? error_set(error, ERROR_BUSY, "a daemon runs already, process %" PRId64, *ret_holder)
                               : error_set(error, ERROR_BUSY, "a daemon runs already");
    }
    if (result != 0) {
        return result;
    }
    /* A predecessor that was killed left its number; until ours stands there, nobody must take it for ours. */
    if (truncate_to_nothing(fd) != 0) {
        result = error_set_errno(error, "cannot truncate %s", paths->pid_file);
        close(fd);
        return result;
    }
    *ret_fd = fd;
    return 0;
}

int identity_lock_write_pid(int fd, int64_t pid, struct error *error)
{
    char digits[PID_FILE_MAXIMUM];
    int length = snprintf(digits, sizeof(digits), "%" PRId64 "\n", pid);
    if (truncate_to_nothing(fd) != 0) {
        return error_set_errno(error, "cannot truncate the pid file");
    }
    for (int done = 0; done < length;) {
        ssize_t count = pwrite(fd, digits + done, (size_t)(length - done), done);
        if (count < 0 && errno != EINTR) {
            return error_set_errno(error, "cannot write the pid file");
        }
        done += count > 0 ? (int)count : 0;
    }
    return 0;
}

void identity_unlock(int fd)
{
    if (fd < 0) {
        return;
    }
    /* A number that stays behind is harmless: nobody believes it without the lock. */
    int ignored = truncate_to_nothing(fd);
    (void)ignored;
    close(fd);
}

int identity_running_pid(const struct config_paths *paths, int64_t *ret_pid, struct error *error)
{
    if (!file_is_locked(paths->pid_file)) {
        return error_set(error, ERROR_NOT_FOUND, "no daemon runs");
    }
    *ret_pid = read_pid(paths->pid_file);
    return 0;
}
