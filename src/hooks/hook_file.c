/* Owns the question which file a hook is, and whether it may be trusted (60-hooks, "Which"). Looks by descriptor, so that what was checked is what is run. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hooks/internal.h"
#include "util/text.h"

static int refuse(const char **ret_reason, const char *reason, char *detail, const char *format, ...) ATTRIBUTE_PRINTF(4, 5);
static int refuse(const char **ret_reason, const char *reason, char *detail, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(detail, HOOK_DETAIL_SIZE, format, arguments);
    va_end(arguments);
    *ret_reason = reason;
    return -1;
}

/* The hook's name, or that and one extension. A whole name that is another hook's is that one's. */
static bool is_candidate(const struct run_request *request, const char *file)
{
    size_t length = strlen(request->hook);
    if (!string_has_prefix(file, request->hook)) {
        return false;
    }
    if (file[length] == '\0') {
        return true;
    }
    if (file[length] != '.' || file[length + 1] == '\0' || strchr(file + length + 1, '.') != NULL) {
        return false;
    }
    for (unsigned index = 0; index < request->other_count; index++) {
        if (string_equal(file, request->others[index])) {
            return false;
        }
    }
    return true;
}

static int check_directory(int fd, const char *path, const char **ret_reason, char *detail)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return refuse(ret_reason, "unsafe", detail, "cannot look at %s: %s", path, strerror(errno));
    }
    if (status.st_uid != geteuid()) {
        return refuse(ret_reason, "unsafe", detail, "%s belongs to another user", path);
    }
    if ((status.st_mode & 07777) != 0700) {
        return refuse(ret_reason, "unsafe", detail, "%s has mode %04o and must have 0700: run chmod 700 %s", path,
                      (unsigned)(status.st_mode & 07777), path);
    }
    return 0;
}

static int check_file(int fd, const char *path, struct stat *ret_status, const char **ret_reason, char *detail)
{
    if (fstat(fd, ret_status) != 0) {
        return refuse(ret_reason, "unsafe", detail, "cannot look at %s: %s", path, strerror(errno));
    }
    if (!S_ISREG(ret_status->st_mode)) {
        return refuse(ret_reason, "unsafe", detail, "%s is not a regular file", path);
    }
    if (ret_status->st_uid != geteuid()) {
        return refuse(ret_reason, "unsafe", detail, "%s belongs to another user", path);
    }
    if ((ret_status->st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return refuse(ret_reason, "unsafe", detail, "%s can be written by others (mode %04o): run chmod go-w %s", path,
                      (unsigned)(ret_status->st_mode & 07777), path);
    }
    if ((ret_status->st_mode & S_IXUSR) == 0) {
        return refuse(ret_reason, "unsafe", detail, "%s is not executable: run chmod u+x %s", path, path);
    }
    return 0;
}

/* The one candidate's name. */
static int find(const struct run_request *request, int directory, char name[static NAME_MAX + 1], const char **ret_reason, char *detail)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    int result = 0;
    if (entries == NULL) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return refuse(ret_reason, "unsafe", detail, "cannot read %s: %s", request->hooks, strerror(errno));
    }
    name[0] = '\0';
    for (const struct dirent *entry = readdir(entries); entry != NULL && result == 0; entry = readdir(entries)) {
        if (!is_candidate(request, entry->d_name)) {
            continue;
        }
        if (name[0] != '\0') {
            result = refuse(ret_reason, "ambiguous", detail, "both %s and %s are there, in %s: one of them must go", name, entry->d_name,
                            request->hooks);
        } else if (string_copy(name, NAME_MAX + 1, entry->d_name) != 0) {
            result = refuse(ret_reason, "unsafe", detail, "a name that is too long in %s", request->hooks);
        }
    }
    (void)closedir(entries);
    if (result == 0 && name[0] == '\0') {
        result =
            refuse(ret_reason, "missing", detail, "hooks.toml enables %s, and there is no such file in %s", request->hook, request->hooks);
    }
    return result;
}

int hook_file_open(const struct run_request *request, struct hook_file *ret_file, const char **ret_reason,
                   char detail[static HOOK_DETAIL_SIZE])
{
    char name[NAME_MAX + 1], start[2];
    struct stat status;
    *ret_file = (struct hook_file){ .fd = -1 };
    ret_file->directory = open(request->hooks, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (ret_file->directory < 0) {
        return refuse(ret_reason, "unsafe", detail, "cannot open the directory %s: %s", request->hooks, strerror(errno));
    }
    if (check_directory(ret_file->directory, request->hooks, ret_reason, detail) != 0 ||
        find(request, ret_file->directory, name, ret_reason, detail) != 0) {
        return -1;
    }
    int length = snprintf(ret_file->path, sizeof(ret_file->path), "%s/%s", request->hooks, name);
    if (length < 0 || (size_t)length >= sizeof(ret_file->path)) {
        return refuse(ret_reason, "unsafe", detail, "the path of %s is too long", name);
    }
    /* Not through a symbolic link; and whoever puts a FIFO there must not make this wait. */
    ret_file->fd = openat(ret_file->directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (ret_file->fd < 0) {
        return refuse(ret_reason, "unsafe", detail, errno == ELOOP ? "%s is a symbolic link (%s)" : "cannot open %s: %s", ret_file->path,
                      strerror(errno));
    }
    if (check_file(ret_file->fd, ret_file->path, &status, ret_reason, detail) != 0) {
        return -1;
    }
    ret_file->device = status.st_dev;
    ret_file->inode = status.st_ino;
    ret_file->is_script = pread(ret_file->fd, start, sizeof(start), 0) == (ssize_t)sizeof(start) && start[0] == '#' && start[1] == '!';
    return 0;
}

bool hook_file_is_at_its_path(const struct hook_file *file)
{
    struct stat status;
    return lstat(file->path, &status) == 0 && status.st_dev == file->device && status.st_ino == file->inode;
}
