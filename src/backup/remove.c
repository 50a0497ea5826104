/* Owns removing everything. Only names that are ours: the directory may be one that somebody has other things in, and a broker's data is not the client's. */
#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "backup/backup.h"
#include "identity/identity.h"
#include "util/buffer.h"
#include "util/file.h"
#include "util/memory.h"

/* As a whole, or as a beginning. */
static const struct owned_name {
    const char *name;
    bool begins;
} OWNED[] = {
    { "config.json", false },    { "config.json.lock", false }, { "config.json.tmp-", true }, { "sockets", false },
    { "before-restore-", true }, { ".restore-staging", false }, { ".restore-ready", false },
};
static const char KEY_FILE_END[] = ".key"; /* <kind>-<id>.key: keys of what was being made or joined */

static bool is_owned(const char *name)
{
    size_t length = strlen(name);
    size_t end = sizeof(KEY_FILE_END) - 1;
    for (size_t i = 0; i < ARRAY_LENGTH(OWNED); i++) {
        if (OWNED[i].begins ? string_has_prefix(name, OWNED[i].name) : string_equal(name, OWNED[i].name)) {
            return true;
        }
    }
    bool is_key = length > end && string_equal(name + length - end, KEY_FILE_END);
    return is_key && (string_has_prefix(name, "mesh-") || string_has_prefix(name, "join-") || string_has_prefix(name, "remint-"));
}

/* Each entry of the directory: removed when ours, else its name is kept in `left`. */
static int remove_owned(const struct config_paths *paths, struct buffer *left, struct error *error)
{
    int result = 0;
    DIR *entries = opendir(paths->root);
    if (entries == NULL) {
        return errno == ENOENT ? 0 : error_set_errno(error, "cannot open %s", paths->root);
    }
    errno = 0;
    for (const struct dirent *entry = readdir(entries); entry != NULL && result == 0; entry = readdir(entries)) {
        const char *name = entry->d_name;
        if (is_owned(name)) {
            char *path = path_join(paths->root, name);
            result = tree_remove(path, error);
            free(path);
        } else if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, "daemon") != 0) {
            (void)buffer_printf(left, "%s%s", left->length == 0 ? "" : "\n", name); /* a list that is too long ends */
        }
        errno = 0;
    }
    if (result == 0 && errno != 0) {
        result = error_set_errno(error, "cannot read %s", paths->root);
    }
    closedir(entries);
    return result;
}

int backup_remove_everything(const struct config_paths *paths, char **ret_left, struct error *error)
{
    enum { LEFT_MAXIMUM = 4096 };
    struct buffer left;
    int lock = -1;
    int64_t holder = 0;
    bool there = false;
    int result = file_look(paths->daemon, &there, error);
    if (result == 0 && there) {
        result = identity_lock(paths, &lock, &holder, error);
    }
    if (result != 0) {
        return result;
    }
    buffer_init(&left, LEFT_MAXIMUM);
    result = remove_owned(paths, &left, error);
    if (result == 0) {
        result = tree_remove(paths->daemon, error); /* last, because its lock keeps a daemon away */
    }
    identity_unlock(lock);
    if (result == 0 && left.length == 0 && rmdir(paths->root) != 0 && errno != ENOENT) {
        result = error_set_errno(error, "cannot remove %s", paths->root);
    }
    *ret_left = result == 0 && left.length > 0 ? buffer_take(&left, NULL) : NULL;
    buffer_release(&left);
    return result;
}
