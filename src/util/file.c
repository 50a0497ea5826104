/* Owns blocking work on whole files: reading, directories, locks. Atomic durable writing is file_writer.c's. */
#include "util/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "util/memory.h"

enum { READ_PART = 64 * 1024 };

/* To its end; closes fd. */
static int read_all(int fd, const char *path, struct buffer *ret_bytes, struct error *error)
{
    int result = 0;
    for (;;) {
        size_t room = ret_bytes->maximum - ret_bytes->length;
        size_t part = room < READ_PART ? room : READ_PART;
        char extra = 0; /* at the maximum one more byte tells "just fits" from "too large" */
        char *target = part == 0 ? &extra : buffer_reserve(ret_bytes, part);
        if (target == NULL) {
            result = error_set(error, ERROR_TOO_LARGE, "%s is too large", path);
            break;
        }
        ssize_t got = read(fd, target, part == 0 ? 1 : part);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            result = error_set_errno(error, "cannot read %s", path);
            break;
        }
        if (got == 0) {
            break;
        }
        if (part == 0) {
            result = error_set(error, ERROR_TOO_LARGE, "%s is larger than %zu bytes", path, ret_bytes->maximum);
            break;
        }
        buffer_commit(ret_bytes, (size_t)got);
    }
    close(fd);
    return result;
}

int file_read(const char *path, struct buffer *ret_bytes, struct error *error)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait here for who writes */
    if (fd < 0) {
        return error_set_errno(error, "cannot open %s", path);
    }
    if (fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode)) {
        close(fd);
        return error_set(error, ERROR_INVALID, "%s is a pipe, where a file is expected", path);
    }
    return read_all(fd, path, ret_bytes, error);
}

int file_read_given(const char *path, struct buffer *ret_bytes, struct error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? error_set_errno(error, "cannot open %s", path) : read_all(fd, path, ret_bytes, error);
}

int file_sync(int fd)
{
#ifdef F_FULLFSYNC
    /* macOS: fsync alone leaves the bytes in the drive's cache. Not every file system knows the stronger call. */
    if (fcntl(fd, F_FULLFSYNC) == 0) {
        return 0;
    }
#endif
    return fsync(fd);
}

char *path_parent(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    while (length > 0 && path[length - 1] != '/') {
        length--;
    }
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    return length == 0 ? memory_strdup(".") : memory_strndup(path, length);
}

int directory_fsync(const char *path, struct error *error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(error, "cannot open directory %s", path);
    }
    int result = 0;
    if (file_sync(fd) != 0) {
        result = error_set_errno(error, "cannot sync directory %s", path);
    }
    close(fd);
    return result;
}

/* ---- directories ----------------------------------------------------------------------------------------------------- */

static int directory_make(const char *path, mode_t mode, struct error *error)
{
    struct stat status;
    if (mkdir(path, mode) == 0) {
        char *parent = path_parent(path);
        int result = directory_fsync(parent, error);
        free(parent);
        return result;
    }
    if (errno != EEXIST) {
        return error_set_errno(error, "cannot make directory %s", path);
    }
    if (stat(path, &status) != 0) {
        return error_set_errno(error, "cannot look at %s", path);
    }
    if (!S_ISDIR(status.st_mode)) {
        return error_set(error, ERROR_CONFLICT, "%s is not a directory", path);
    }
    return 0;
}

int directory_ensure(const char *path, mode_t mode, struct error *error)
{
    struct stat status;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        return 0;
    }
    if (path[0] == '\0') {
        return error_set(error, ERROR_INVALID, "a directory without a name");
    }
    char *copy = memory_strdup(path);
    int result = 0;
    for (char *slash = strchr(copy + 1, '/'); slash != NULL && result == 0; slash = strchr(slash + 1, '/')) {
        bool is_last = slash[strspn(slash, "/")] == '\0';
        if (is_last) {
            break;
        }
        *slash = '\0';
        result = directory_make(copy, 0700, error);
        *slash = '/';
    }
    if (result == 0) {
        result = directory_make(path, mode, error);
    }
    free(copy);
    return result;
}

int file_look(const char *path, bool *ret_there, struct error *error)
{
    struct stat status;
    if (lstat(path, &status) == 0) {
        *ret_there = true;
        return 0;
    }
    if (errno != ENOENT && errno != ENOTDIR) {
        return error_set_errno(error, "cannot look at %s", path);
    }
    *ret_there = false;
    return 0;
}

bool file_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}

int file_check_private(const char *path, struct error *error)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        return errno == ENOENT ? 0 : error_set_errno(error, "cannot look at %s", path);
    }
    if (status.st_uid != geteuid()) {
        return error_set(error, ERROR_DENIED, "%s belongs to another user", path);
    }
    if ((status.st_mode & (S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH)) != 0) {
        return error_set(error, ERROR_DENIED, "%s can be read or written by others (mode %04o): run chmod %s %s", path,
                         (unsigned)(status.st_mode & 07777), S_ISDIR(status.st_mode) ? "700" : "600", path);
    }
    return 0;
}

char *path_join(const char *directory, const char *name)
{
    size_t length = strlen(directory);
    return memory_printf("%s%s%s", directory, length > 0 && directory[length - 1] == '/' ? "" : "/", name);
}

/* file_is_locked holds the lock for a moment to find out; that must not look like an owner. */
static int flock_past_probes(int fd)
{
    enum { TRIES = 10, PAUSE_NS = 1000000 };
    for (int try = 0;; try++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            return 0;
        }
        if (errno != EINTR && (errno != EWOULDBLOCK || try >= TRIES)) {
            return -1;
        }
        struct timespec pause = { .tv_sec = 0, .tv_nsec = PAUSE_NS };
        nanosleep(&pause, NULL);
    }
}

/* What was opened may have been renamed or removed before it was locked: then its lock keeps nobody out. */
static bool is_still_there(int fd, const char *path)
{
    struct stat locked;
    struct stat there;
    return fstat(fd, &locked) == 0 && stat(path, &there) == 0 && locked.st_dev == there.st_dev && locked.st_ino == there.st_ino;
}

int file_lock(const char *path, mode_t mode, int *ret_fd, struct error *error)
{
    enum { TRIES = 20 };
    for (int try = 0; try < TRIES; try++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, mode);
        if (fd < 0) {
            return error_set_errno(error, "cannot open %s", path);
        }
        if (flock_past_probes(fd) != 0) {
            int result = errno == EWOULDBLOCK ? error_set(error, ERROR_BUSY, "%s is locked by another process", path)
                                              : error_set_errno(error, "cannot lock %s", path);
            close(fd);
            return result;
        }
        if (is_still_there(fd, path)) {
            *ret_fd = fd;
            return 0;
        }
        close(fd);
    }
    return error_set(error, ERROR_BUSY, "%s is being replaced again and again", path);
}

bool file_is_locked(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    bool locked = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return locked;
}
