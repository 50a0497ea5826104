/* Owns the removal of a run's directory, whatever a hook made of it. Must not follow a symbolic link, nor need memory or descriptors for its depth. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hooks/internal.h"

enum { NAME_SIZE = 40, PASSES = 16 };

/* A directory's descriptor; one without its own rights gets them first. -1: it is no directory, or not ours. */
static int open_directory(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;
    if (fd >= 0 && (fstat(fd, &status) != 0 || (status.st_mode & S_IRWXU) == S_IRWXU || fchmod(fd, S_IRWXU) == 0)) {
        return fd;
    }
    if (fd >= 0 || errno != EACCES) {
        return fd;
    }
#ifdef O_PATH
    char path[NAME_SIZE];
    int place = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0) {
        return -1;
    }
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", place);
    int changed = chmod(path, S_IRWXU);
    (void)close(place);
    if (changed != 0) {
        return -1;
    }
#else
    if (fchmodat(parent, name, S_IRWXU, AT_SYMLINK_NOFOLLOW) != 0) {
        return -1;
    }
#endif
    return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Empties one directory: its files go, its directories move up beside it, where their turn comes. So depth costs nothing. */
static void flatten(int top, const char *name, uint64_t *counter)
{
    int fd = open_directory(top, name);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT || unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0) {
            continue;
        }
        int inner = open_directory(fd, entry->d_name); /* to move a directory, one must be able to write to it */
        if (inner >= 0) {
            char moved[NAME_SIZE];
            (void)close(inner);
            (void)snprintf(moved, sizeof(moved), ".removed-%" PRIu64, (*counter)++);
            (void)renameat(fd, entry->d_name, top, moved);
        }
    }
    (void)closedir(entries);
}

/* True when nothing was left in it. */
static bool empty_once(int top, uint64_t *counter)
{
    bool empty = true;
    int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return false;
    }
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        empty = false;
        if (unlinkat(top, entry->d_name, 0) != 0) {
            flatten(top, entry->d_name, counter);
            (void)unlinkat(top, entry->d_name, AT_REMOVEDIR);
        }
    }
    (void)closedir(entries);
    return empty;
}

int hook_tree_remove(const char *path)
{
    uint64_t counter = 0, before;
    int useless = 0;
    if (rmdir(path) == 0 || errno == ENOENT) {
        return 0;
    }
    int top = open_directory(AT_FDCWD, path);
    if (top < 0) {
        return -1;
    }
    do { /* each pass takes one level away; one that moves nothing up has met something that cannot be removed */
        before = counter;
        if (empty_once(top, &counter)) {
            break;
        }
        useless = counter == before ? useless + 1 : 0;
    } while (useless < PASSES);
    (void)close(top);
    return rmdir(path);
}
