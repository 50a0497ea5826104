/* Owns putting a new state in the old one's place. Must not know what is in it.
 *
 * .restore-staging/           the new state is being made; a lock on it says that somebody is at it
 *     config.json, daemon/
 *     keep                    the former state is to be kept
 * .restore-ready/             the same, renamed: decided
 *     former/                 where the old pieces go, one rename each, before the new ones take their places
 * before-restore-<time>/      former/, when it is kept */
#include "backup/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backup/backup.h"
#include "identity/identity.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/memory.h"

static const char STAGING_NAME[] = ".restore-staging";
static const char READY_NAME[] = ".restore-ready";
static const char FORMER_NAME[] = "former";
static const char KEEP_NAME[] = "keep";
static const char *const PIECES[] = { "config.json", "daemon" };

/* ---- small things ----------------------------------------------------------------------------------------------- */

static int move(const char *from, const char *to, struct error *error)
{
    return rename(from, to) == 0 ? 0 : error_set_errno(error, "cannot rename %s to %s", from, to);
}

/* A directory's lock; ends with the descriptor, or the process. */
static int lock_directory(const char *path, bool wait, int *ret_fd, struct error *error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(error, "cannot open %s", path);
    }
    int result;
    do {
        result = flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
        result = errno == EWOULDBLOCK ? error_set(error, ERROR_BUSY, "another restore or reset is under way")
                                      : error_set_errno(error, "cannot lock %s", path);
        close(fd);
        return result;
    }
    *ret_fd = fd;
    return 0;
}

/* ---- staging ----------------------------------------------------------------------------------------------------- */

/* What a dead one left goes; a living one holds its lock. */
static int clear_old(const char *directory, struct error *error)
{
    int fd = -1;
    bool there = false;
    int result = file_look(directory, &there, error);
    if (result != 0 || !there) {
        return result;
    }
    result = lock_directory(directory, false, &fd, error);
    if (result == 0) {
        result = tree_remove(directory, error);
        close(fd);
    }
    return result == -(int)ERROR_NOT_FOUND ? 0 : result;
}

static int make_directories(struct staging *staging, struct error *error)
{
    struct stat locked;
    struct stat there;
    int result = lock_directory(staging->directory, false, &staging->fd, error);
    if (result == 0 && (fstat(staging->fd, &locked) != 0 || stat(staging->directory, &there) != 0 || locked.st_ino != there.st_ino)) {
        /* Another one took it for a dead one's before it was locked, and has made its own. */
        free(staging->directory);
        staging->directory = NULL;
        return error_set(error, ERROR_BUSY, "another restore or reset is under way");
    }
    if (result == 0) {
        result = config_paths_init(staging->directory, &staging->made, NULL, error);
    }
    if (result == 0) {
        result = directory_ensure(staging->made.daemon, 0700, error);
    }
    return result == 0 ? directory_ensure(staging->made.hooks, 0700, error) : result;
}

int staging_open(const struct config_paths *paths, struct staging *ret_staging, struct error *error)
{
    struct staging staging = { .paths = paths, .fd = -1 };
    bool there = true;
    int result = file_look(paths->root, &there, error);
    if (result == 0) {
        result = directory_ensure(paths->root, 0700, error);
    }
    if (result != 0) {
        return result;
    }
    staging.made_root = !there;
    staging.directory = path_join(paths->root, STAGING_NAME);
    result = clear_old(staging.directory, error);
    if (result == 0 && mkdir(staging.directory, 0700) != 0) {
        result = error_set_errno(error, "cannot make directory %s", staging.directory);
    }
    if (result != 0) { /* it may be somebody else's */
        free(staging.directory);
        staging.directory = NULL;
    } else {
        result = make_directories(&staging, error);
    }
    if (result != 0) {
        staging_abandon(&staging);
        return result;
    }
    *ret_staging = staging;
    return 0;
}

static void staging_release(struct staging *staging)
{
    if (staging->fd >= 0) {
        close(staging->fd);
    }
    config_paths_release(&staging->made);
    free(staging->directory);
    staging->directory = NULL;
    staging->fd = -1;
}

void staging_abandon(struct staging *staging)
{
    if (staging->paths == NULL) {
        return;
    }
    if (staging->directory != NULL) {
        int ignored = tree_remove(staging->directory, NULL); /* what cannot be removed now is met by the next one */
        (void)ignored;
    }
    if (staging->made_root) {
        (void)rmdir(staging->paths->root); /* only when nothing else came into it */
    }
    staging_release(staging);
    staging->paths = NULL;
}

/* ---- after the decision ----------------------------------------------------------------------------------------- */

/* A name that is free: what stands there already, because it was made between two renames by who did not know, is not written over. */
static int free_place(const char *directory, const char *name, char **ret_place, struct error *error)
{
    bool taken = false;
    char *place = path_join(directory, name);
    int result = file_look(place, &taken, error);
    for (int number = 1; result == 0 && taken; number++) {
        free(place);
        place = memory_printf("%s/%s.%d", directory, name, number);
        result = file_look(place, &taken, error);
    }
    if (result != 0) {
        free(place);
        return result;
    }
    *ret_place = place;
    return 0;
}

/* The old one out. */
static int put_out(const char *place, const char *former, const char *piece, struct error *error)
{
    char *old_path = NULL;
    int result = free_place(former, piece, &old_path, error);
    if (result == 0) {
        result = move(place, old_path, error);
    }
    if (result == 0) {
        result = directory_fsync(former, error);
    }
    free(old_path);
    return result;
}

/* The old one out, the new one in. Every step may be the last one for now. */
static int put_piece(const char *root, const char *ready, const char *former, const char *piece, struct error *error)
{
    bool is_new = false;
    bool is_old = false;
    char *new_path = path_join(ready, piece);
    char *place = path_join(root, piece);
    int result = file_look(new_path, &is_new, error);
    if (result == 0) {
        result = file_look(place, &is_old, error);
    }
    if (result == 0 && is_new && is_old) {
        result = put_out(place, former, piece, error);
    }
    if (result == 0 && is_new) {
        result = move(new_path, place, error);
        if (result == 0) {
            result = directory_fsync(root, error);
        }
    }
    free(new_path);
    free(place);
    return result;
}

static int aside_name(const char *root, char **ret_name, struct error *error)
{
    char name[64] = "before-restore";
    struct tm now;
    time_t seconds = (time_t)(clock_wall_ms() / 1000);
    if (gmtime_r(&seconds, &now) != NULL) {
        (void)strftime(name, sizeof(name), "before-restore-%Y%m%dT%H%M%SZ", &now);
    }
    return free_place(root, name, ret_name, error);
}

static int keep_former(const char *root, const char *former, char **ret_aside, struct error *error)
{
    char *aside = NULL;
    int result = aside_name(root, &aside, error);
    if (result == 0) {
        result = move(former, aside, error);
    }
    if (result == 0) {
        result = directory_fsync(root, error);
    }
    if (result == 0 && ret_aside != NULL) {
        *ret_aside = aside;
        aside = NULL;
    }
    free(aside);
    return result;
}

static int put_former(const char *root, const char *ready, const char *former, char **ret_aside, struct error *error)
{
    bool wanted = false;
    bool there = false;
    char *keep = path_join(ready, KEEP_NAME);
    int result = file_look(keep, &wanted, error);
    free(keep);
    if (result == 0) {
        result = file_look(former, &there, error);
    }
    if (result != 0 || !there) {
        return result;
    }
    return wanted ? keep_former(root, former, ret_aside, error) : tree_remove(former, error);
}

/* Under the lock of `ready`. */
static int finish(const char *root, const char *ready, char **ret_aside, struct error *error)
{
    char *former = path_join(ready, FORMER_NAME);
    bool left = false;
    int result = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(PIECES) && result == 0 && !left; i++) {
        char *piece = path_join(ready, PIECES[i]);
        result = file_look(piece, &left, error);
        free(piece);
    }
    if (result == 0 && left) {
        result = directory_ensure(former, 0700, error);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(PIECES) && result == 0; i++) {
        result = put_piece(root, ready, former, PIECES[i], error);
    }
    if (result == 0) {
        result = put_former(root, ready, former, ret_aside, error);
    }
    if (result == 0) {
        result = tree_remove(ready, error);
    }
    free(former);
    return result;
}

/* Not under a daemon that looked before the decision was made and serves the former state: its directory stays until it has stopped. */
static int finish_unless_served(const struct config_paths *paths, const char *ready, struct error *error)
{
    int lock = -1;
    int64_t holder = 0;
    bool there = false;
    int result = file_look(paths->daemon, &there, error);
    if (result == 0 && there) {
        result = identity_lock(paths, &lock, &holder, error);
    }
    if (result == -(int)ERROR_BUSY) {
        return 0;
    }
    if (result == 0) {
        result = finish(paths->root, ready, NULL, error);
    }
    identity_unlock(lock);
    return result;
}

int backup_settle(const struct config_paths *paths, struct error *error)
{
    struct stat status;
    int fd = -1;
    bool there = false;
    char *ready = path_join(paths->root, READY_NAME);
    int result = file_look(ready, &there, error);
    if (result == 0 && there) {
        result = lock_directory(ready, true, &fd, error);
        if (result == -(int)ERROR_NOT_FOUND) {
            result = 0; /* somebody else has just finished */
        } else if (result == 0 && fstat(fd, &status) == 0 && status.st_nlink > 0) {
            result = finish_unless_served(paths, ready, error);
        }
        if (result != 0) {
            (void)error_prefix(error, "an interrupted restore or reset cannot be finished");
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    free(ready);
    return result;
}

/* ---- the decision ------------------------------------------------------------------------------------------------ */

/* Something that is mounted cannot be renamed, which is better found out before. */
static int check_not_mounted(const char *path, struct error *error)
{
#if defined(__linux__) && defined(STATX_ATTR_MOUNT_ROOT)
    struct statx facts;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &facts) == 0 && (facts.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0 &&
        (facts.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) {
        return error_set(error, ERROR_CONFLICT, "%s is a mount of its own, and cannot be put aside; mount the directory above it", path);
    }
#endif
    (void)path;
    (void)error;
    return 0;
}

static int note_keep(const struct staging *staging, struct error *error)
{
    char *keep = path_join(staging->directory, KEEP_NAME);
    int result = file_write_atomic(keep, 0600, "", 0, error);
    free(keep);
    return result;
}

static int decide(struct staging *staging, bool keep, char **ret_aside, struct error *error)
{
    char *ready = path_join(staging->paths->root, READY_NAME);
    int result = keep ? note_keep(staging, error) : 0;
    if (result == 0) {
        result = directory_fsync(staging->made.hooks, error);
    }
    if (result == 0) {
        result = directory_fsync(staging->made.daemon, error);
    }
    if (result == 0) {
        result = directory_fsync(staging->directory, error);
    }
    if (result == 0) {
        result = move(staging->directory, ready, error);
    }
    if (result == 0) { /* from here on it is the new state, whatever happens to us */
        free(staging->directory);
        staging->directory = NULL;
        staging->made_root = false;
        result = directory_fsync(staging->paths->root, error);
    }
    if (result == 0) {
        result = finish(staging->paths->root, ready, ret_aside, error);
    }
    free(ready);
    return result;
}

int staging_install(struct staging *staging, int (*check)(const struct config_paths *paths, struct error *error), bool keep,
                    char **ret_aside, struct error *error)
{
    int lock = -1;
    int config_lock = -1;
    int64_t holder = 0;
    bool had_daemon = true;
    bool had_config_lock = true;
    char *config_lock_path = memory_printf("%s.lock", staging->paths->config_json);
    int result = file_look(staging->paths->daemon, &had_daemon, error);
    if (result == 0) {
        result = file_look(config_lock_path, &had_config_lock, error);
    }
    if (result == 0) {
        result = check_not_mounted(staging->paths->daemon, error);
    }
    if (result == 0) {
        result = check_not_mounted(staging->paths->config_json, error);
    }
    if (result == 0) {
        result = directory_ensure(staging->paths->daemon, 0700, error);
    }
    if (result == 0) {
        result = identity_lock(staging->paths, &lock, &holder, error);
    }
    if (result == 0) { /* a command that adds a mesh must not write over what comes, nor have its key put away with what goes */
        result = config_file_lock(staging->paths->config_json, &config_lock, error);
    }
    if (result == 0 && check != NULL) {
        result = check(staging->paths, error);
    }
    if (result == 0) {
        result = decide(staging, keep, ret_aside, error);
    }
    bool undecided = staging->directory != NULL;
    if (undecided && !had_daemon && lock >= 0) {
        (void)unlink(staging->paths->pid_file);
        (void)rmdir(staging->paths->daemon);
    }
    identity_unlock(lock);
    if (!had_config_lock && config_lock >= 0) {
        (void)unlink(config_lock_path);
    }
    if (config_lock >= 0) {
        close(config_lock);
    }
    free(config_lock_path);
    if (undecided) {
        staging_abandon(staging);
    } else {
        staging_release(staging);
        staging->paths = NULL;
    }
    return result;
}
