/* Owns removing a tree. Links are names to remove, never ways to follow: what they lead to is somebody else's. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/file.h"

enum { DEPTH_MAXIMUM = 64 };

static int remove_at(int directory, const char *name, const char *shown, unsigned depth, struct error *error);

/* Every entry; the first failure is told, and the others are removed all the same. */
static int remove_entries(DIR *entries, const char *shown, unsigned depth, struct error *error)
{
    int result = 0;
    errno = 0;
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            int removed = remove_at(dirfd(entries), entry->d_name, shown, depth + 1, result == 0 ? error : NULL);
            result = result == 0 ? removed : result;
        }
        errno = 0;
    }
    return result == 0 && errno != 0 ? error_set_errno(error, "cannot read a directory in %s", shown) : result;
}

static int remove_directory(int parent, const char *name, const char *shown, unsigned depth, struct error *error)
{
    if (depth >= DEPTH_MAXIMUM) {
        return error_set(error, ERROR_TOO_LARGE, "%s is nested too deeply", shown);
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        int result = error_set_errno(error, "cannot open '%s' in %s", name, shown);
        if (fd >= 0) {
            close(fd);
        }
        return result;
    }
    int result = remove_entries(entries, shown, depth, error);
    closedir(entries);
    if (result == 0 && unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT) {
        result = error_set_errno(error, "cannot remove '%s' in %s", name, shown);
    }
    return result;
}

static int remove_at(int directory, const char *name, const char *shown, unsigned depth, struct error *error)
{
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        return errno == ENOENT ? 0 : error_set_errno(error, "cannot look at '%s' in %s", name, shown);
    }
    if (S_ISDIR(status.st_mode)) {
        return remove_directory(directory, name, shown, depth, error);
    }
    return unlinkat(directory, name, 0) == 0 || errno == ENOENT ? 0 : error_set_errno(error, "cannot remove '%s' in %s", name, shown);
}

int tree_remove(const char *path, struct error *error)
{
    return remove_at(AT_FDCWD, path, path, 0, error);
}
