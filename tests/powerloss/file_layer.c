/* Preloaded into the program under test (LD_PRELOAD): keeps account of what a power cut could still take from the files below POWERLOSS_ROOT, and cuts at a chosen point. Preloaded, not
 * linked in: what is tested is the very binary that is shipped, also a mutated one, and the calls of the libraries under it.
 *
 * A point is a call that changes a file or a directory, or syncs one, or tells somebody outside (send). At point POWERLOSS_CUT, before that call, it writes to POWERLOSS_JOURNAL what is
 * not on the disk yet, and ends the process at once with status 86; a process that ends by itself writes the same at its end. file_layer.py makes of it each state that the disk may be
 * in. POWERLOSS_FAIL_SYNC: the fsync at that point fails with EIO and syncs nothing. POWERLOSS_FAIL_DATABASES: as long as that file exists, each sync of a database fails so.
 *
 * The disk: the contents of a file are safe as of its last fsync, an entry of a directory as of the last fsync of the directory; nothing else is promised, in no order. SQLite's files are
 * somebody else's (the VFS of this directory), only their names are watched; so are not the log and the sockets. Whatever cannot be accounted for ends the process with status 87.
 *
 * Must not call what it replaces, and so makes its system calls itself. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REPLACES __attribute__((visibility("default")))

enum {
    EXIT_CUT = 86,
    EXIT_UNACCOUNTED = 87,
    INODES_MAX = 256,
    CHANGES_MAX = 1024,
    SIZE_MAX_KEPT = 8 * 1024 * 1024,
    PATH_SIZE = 4096,
    TEXT_SIZE = PATH_SIZE + 128
};

/* A file that was written, made, renamed or removed; `fd` is ours and keeps the inode's number from being used again. */
struct inode {
    dev_t device;
    ino_t number;
    mode_t mode;
    int fd;
    bool watched; /* its contents are */
    bool dirty;
    size_t durable_size;
    uint8_t *durable; /* as of the last fsync */
};

enum { NONE = -1, DIRECTORY = -2 };

/* Entries of one directory that changed in one call: one, or two for a rename. `before` and `after` index inodes. */
struct change {
    char *directory;
    struct {
        char *name;
        int before, after;
    } entries[2];
    int entry_count;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_SIZE];
static const char *journal, *fail_databases;
static long cut_at, fail_sync_at, point;
static bool active, counts_sends;
static struct inode inodes[INODES_MAX];
static int inode_count;
static struct change changes[CHANGES_MAX];
static int change_count;

/* ---- system calls ------------------------------------------------------------------------------------------------------------- */

static int sys_open(const char *path, int flags, mode_t mode)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static void write_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;
    while (size > 0) {
        long written = syscall(SYS_write, fd, at, size);
        if (written <= 0) {
            syscall(SYS_exit_group, EXIT_UNACCOUNTED);
        }
        at += written;
        size -= (size_t)written;
    }
}

__attribute__((noreturn, format(printf, 1, 2))) static void give_up(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    write_all(STDERR_FILENO, "file layer: ", 12);
    write_all(STDERR_FILENO, text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
    write_all(STDERR_FILENO, "\n", 1);
    syscall(SYS_exit_group, EXIT_UNACCOUNTED);
    __builtin_unreachable();
}

static void *must(void *memory)
{
    if (memory == NULL) {
        give_up("out of memory");
    }
    return memory;
}

/* ---- names -------------------------------------------------------------------------------------------------------------------- */

static bool below_root(const char *path)
{
    size_t length = strlen(root);
    return active && path != NULL && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), size = strlen(end);
    return length >= size && strcmp(text + length - size, end) == 0;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* SQLite makes and removes these at will. */
static bool is_ignored(const char *path)
{
    return ends_with(path, "-wal") || ends_with(path, "-shm") || ends_with(path, "-journal") || strstr(base_of(path), ".log") != NULL;
}

static bool is_database(const char *path)
{
    return strstr(base_of(path), ".db") != NULL;
}

/* ---- inodes ------------------------------------------------------------------------------------------------------------------- */

static uint8_t *read_whole(int fd, size_t *ret_size)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || status.st_size > SIZE_MAX_KEPT) {
        give_up("cannot look at a file, or it is too large");
    }
    size_t size = (size_t)status.st_size;
    uint8_t *bytes = must(malloc(size + 1));
    for (size_t at = 0; at < size;) {
        long got = syscall(SYS_pread64, fd, bytes + at, size - at, at);
        if (got <= 0) {
            give_up("cannot read a file: %s", strerror(errno));
        }
        at += (size_t)got;
    }
    *ret_size = size;
    return bytes;
}

static int find_inode(const struct stat *status)
{
    for (int i = 0; i < inode_count; i++) {
        if (inodes[i].device == status->st_dev && inodes[i].number == status->st_ino) {
            return i;
        }
    }
    return NONE;
}

/* The regular file of that name, from now on known; NONE when there is none. What is first seen now is on the disk, but for what this process has just made. */
static int know_inode(const char *path)
{
    struct stat status;
    if (lstat(path, &status) != 0) {
        return NONE;
    }
    if (S_ISDIR(status.st_mode)) {
        return DIRECTORY;
    }
    int index = find_inode(&status);
    if (index != NONE || !S_ISREG(status.st_mode)) {
        return index;
    }
    if (inode_count == INODES_MAX) {
        give_up("too many files");
    }
    struct inode *inode = &inodes[inode_count];
    *inode = (struct inode){ .device = status.st_dev, .number = status.st_ino, .mode = status.st_mode, .watched = !is_database(path) };
    inode->fd = sys_open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (inode->fd < 0) {
        give_up("cannot open %s: %s", path, strerror(errno));
    }
    inode->durable = read_whole(inode->fd, &inode->durable_size);
    return inode_count++;
}

static void name_of(int fd, char ret_path[static PATH_SIZE])
{
    char link[64];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, ret_path, PATH_SIZE - 1);
    ret_path[length < 0 ? 0 : length] = '\0'; /* one that was removed ends with " (deleted)" */
}

/* ---- the journal -------------------------------------------------------------------------------------------------------------- */

static void write_file(const char *kind, int index, const uint8_t *bytes, size_t size)
{
    char path[TEXT_SIZE];
    (void)snprintf(path, sizeof path, "%s/%s%d", journal, kind, index);
    int fd = sys_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        give_up("cannot write %s", path);
    }
    write_all(fd, bytes, size);
    syscall(SYS_close, fd);
}

static void print_place(int fd, const char *name, int before, int after)
{
    dprintf(fd, "\t%s\t%d\t%d", name, before, after);
}

/* manifest: "point N call", "inode I mode dirty path", "change directory name before after [name before after]", tabs between; dI and cI hold the durable and the current contents. */
static void write_journal(const char *call)
{
    char path[TEXT_SIZE];
    (void)snprintf(path, sizeof path, "%s/manifest", journal);
    int fd = sys_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        give_up("cannot write %s", path);
    }
    dprintf(fd, "point\t%ld\t%s\n", point, call);
    for (int i = 0; i < inode_count; i++) {
        size_t size;
        uint8_t *current = read_whole(inodes[i].fd, &size);
        bool dirty = inodes[i].dirty && (size != inodes[i].durable_size || memcmp(current, inodes[i].durable, size) != 0);
        char name[PATH_SIZE];
        name_of(inodes[i].fd, name);
        dprintf(fd, "inode\t%d\t%o\t%d\t%s\n", i, (unsigned)(inodes[i].mode & 07777), dirty ? 1 : 0, name);
        write_file("c", i, current, size);
        write_file("d", i, inodes[i].watched ? inodes[i].durable : current, inodes[i].watched ? inodes[i].durable_size : size);
        free(current);
    }
    for (int i = 0; i < change_count; i++) {
        dprintf(fd, "change\t%s", changes[i].directory);
        for (int entry = 0; entry < changes[i].entry_count; entry++) {
            print_place(fd, changes[i].entries[entry].name, changes[i].entries[entry].before, changes[i].entries[entry].after);
        }
        dprintf(fd, "\n");
    }
    syscall(SYS_close, fd);
}

/* With the mutex held. Does not return at the cut. */
static void reach_point(const char *call, const char *path)
{
    char text[TEXT_SIZE];
    point++;
    if (point == cut_at) {
        (void)snprintf(text, sizeof text, "%s %s", call, path == NULL ? "" : path);
        write_journal(text);
        syscall(SYS_exit_group, EXIT_CUT);
    }
}

/* ---- changes of directories ---------------------------------------------------------------------------------------------------- */

static struct change *add_change(const char *path)
{
    if (change_count == CHANGES_MAX) {
        give_up("too many changes that nobody syncs");
    }
    struct change *change = &changes[change_count++];
    const char *base = base_of(path);
    *change = (struct change){ .directory = must(strndup(path, (size_t)(base - path) - 1)) };
    return change;
}

static void add_entry(struct change *change, const char *name, int before, int after)
{
    change->entries[change->entry_count].name = must(strdup(name));
    change->entries[change->entry_count].before = before;
    change->entries[change->entry_count].after = after;
    change->entry_count++;
}

static void note_entry(const char *path, int before, int after)
{
    add_entry(add_change(path), base_of(path), before, after);
}

static void forget_changes(const char *directory)
{
    int kept = 0;
    for (int i = 0; i < change_count; i++) {
        if (strcmp(changes[i].directory, directory) != 0) {
            changes[kept++] = changes[i]; /* what is forgotten stays in memory: the process is short */
        }
    }
    change_count = kept;
}

/* ---- calls ---------------------------------------------------------------------------------------------------------------------- */

__attribute__((constructor)) static void begin(void)
{
    const char *given = getenv("POWERLOSS_ROOT");
    const char *cut = getenv("POWERLOSS_CUT");
    const char *fail = getenv("POWERLOSS_FAIL_SYNC");
    journal = getenv("POWERLOSS_JOURNAL");
    if (given == NULL || journal == NULL || strlen(given) >= sizeof root) {
        return;
    }
    memcpy(root, given, strlen(given) + 1);
    if ((cut != NULL && sscanf(cut, "%ld", &cut_at) != 1) || (fail != NULL && sscanf(fail, "%ld", &fail_sync_at) != 1)) {
        give_up("POWERLOSS_CUT and POWERLOSS_FAIL_SYNC are numbers of points");
    }
    fail_databases = getenv("POWERLOSS_FAIL_DATABASES");
    counts_sends = getenv("POWERLOSS_SENDS") != NULL;
    active = true;
}

__attribute__((destructor)) static void end(void)
{
    if (active) {
        pthread_mutex_lock(&mutex);
        point++;
        write_journal("end");
        active = false;
        pthread_mutex_unlock(&mutex);
    }
}

static int open_watched(const char *path, int flags, mode_t mode)
{
    pthread_mutex_lock(&mutex);
    int before = know_inode(path);
    bool makes = before == NONE && (flags & O_CREAT) != 0;
    bool empties = before >= 0 && (flags & O_TRUNC) != 0;
    if (before == DIRECTORY || (!makes && !empties)) {
        pthread_mutex_unlock(&mutex);
        return sys_open(path, flags, mode);
    }
    reach_point(makes ? "open" : "truncate", path);
    int fd = sys_open(path, flags, mode);
    int error = errno;
    if (fd >= 0 && makes) {
        int made = know_inode(path);
        note_entry(path, NONE, made);
    } else if (fd >= 0) {
        inodes[before].dirty = inodes[before].watched;
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return fd;
}

static int open_any(const char *path, int flags, mode_t mode)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
    if ((flags & O_TMPFILE) == O_TMPFILE && below_root(path)) {
        give_up("O_TMPFILE in %s", path);
    }
    return writes && below_root(path) && !is_ignored(path) ? open_watched(path, flags, mode) : sys_open(path, flags, mode);
}

#define MODE_ARGUMENT(flags, mode)                                        \
    do {                                                                  \
        if (((flags)&O_CREAT) != 0 || ((flags)&O_TMPFILE) == O_TMPFILE) { \
            va_list arguments;                                            \
            va_start(arguments, flags);                                   \
            (mode) = va_arg(arguments, mode_t);                           \
            va_end(arguments);                                            \
        }                                                                 \
    } while (0)

REPLACES int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    MODE_ARGUMENT(flags, mode);
    return open_any(path, flags, mode);
}

REPLACES int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    MODE_ARGUMENT(flags, mode);
    return open_any(path, flags, mode);
}

REPLACES int openat(int directory, const char *path, int flags, ...)
{
    mode_t mode = 0;
    MODE_ARGUMENT(flags, mode);
    if (directory == AT_FDCWD || path[0] == '/') {
        return open_any(path, flags, mode);
    }
    if (active && (flags & O_CREAT) != 0) {
        give_up("openat of %s", path);
    }
    return (int)syscall(SYS_openat, directory, path, flags, mode);
}

REPLACES int __open_2(const char *path, int flags);
REPLACES int __open_2(const char *path, int flags)
{
    return open_any(path, flags, 0);
}

REPLACES int __open64_2(const char *path, int flags);
REPLACES int __open64_2(const char *path, int flags)
{
    return open_any(path, flags, 0);
}

/* The watched file behind a descriptor, with the mutex held; else NONE with the mutex free. */
static int lock_watched(int fd)
{
    struct stat status;
    if (!active || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        return NONE;
    }
    pthread_mutex_lock(&mutex);
    int index = find_inode(&status);
    if (index == NONE || !inodes[index].watched) {
        pthread_mutex_unlock(&mutex);
        return NONE;
    }
    return index;
}

static void unlock_dirty(int index)
{
    int error = errno;
    if (index != NONE) {
        inodes[index].dirty = true;
        pthread_mutex_unlock(&mutex);
    }
    errno = error;
}

static int lock_for_writing(int fd, const char *call)
{
    int index = lock_watched(fd);
    if (index != NONE) {
        reach_point(call, NULL);
    }
    return index;
}

REPLACES ssize_t write(int fd, const void *data, size_t size)
{
    int index = lock_for_writing(fd, "write");
    ssize_t written = syscall(SYS_write, fd, data, size);
    unlock_dirty(index);
    return written;
}

REPLACES ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    int index = lock_for_writing(fd, "pwrite");
    ssize_t written = syscall(SYS_pwrite64, fd, data, size, offset);
    unlock_dirty(index);
    return written;
}

REPLACES ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    return pwrite(fd, data, size, offset);
}

REPLACES ssize_t writev(int fd, const struct iovec *parts, int count)
{
    int index = lock_for_writing(fd, "writev");
    ssize_t written = syscall(SYS_writev, fd, parts, count);
    unlock_dirty(index);
    return written;
}

REPLACES int ftruncate(int fd, off_t size)
{
    int index = lock_for_writing(fd, "ftruncate");
    int result = (int)syscall(SYS_ftruncate, fd, size);
    unlock_dirty(index);
    return result;
}

REPLACES int ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}

/* Only where POWERLOSS_SENDS asks: in a daemon these come at their own times, and the points would not be the same in each run. */
REPLACES ssize_t send(int fd, const void *data, size_t size, int flags)
{
    if (active && counts_sends) {
        pthread_mutex_lock(&mutex);
        reach_point("send", NULL);
        pthread_mutex_unlock(&mutex);
    }
    return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}

static void sync_directory(int fd)
{
    char path[PATH_SIZE];
    name_of(fd, path);
    if (below_root(path)) {
        forget_changes(path);
    }
}

static bool must_fail(int fd, const struct stat *status, bool is_point)
{
    char path[PATH_SIZE];
    if (is_point && point == fail_sync_at) {
        return true;
    }
    if (fail_databases == NULL || !S_ISREG(status->st_mode) || syscall(SYS_faccessat, AT_FDCWD, fail_databases, F_OK) != 0) {
        return false;
    }
    name_of(fd, path);
    return below_root(path) && is_database(path);
}

static int sync_any(int fd, long number)
{
    struct stat status;
    if (!active || fstat(fd, &status) != 0) {
        return (int)syscall(number, fd);
    }
    pthread_mutex_lock(&mutex);
    int index = S_ISREG(status.st_mode) ? find_inode(&status) : NONE;
    bool counts = S_ISDIR(status.st_mode) || (index != NONE && inodes[index].watched);
    if (counts) {
        reach_point(S_ISDIR(status.st_mode) ? "fsync of a directory" : "fsync", NULL);
    }
    if (must_fail(fd, &status, counts)) {
        pthread_mutex_unlock(&mutex);
        errno = EIO;
        return -1;
    }
    int result = (int)syscall(number, fd);
    int error = errno;
    if (result == 0 && S_ISDIR(status.st_mode)) {
        sync_directory(fd);
    } else if (result == 0 && index != NONE && inodes[index].watched) {
        free(inodes[index].durable);
        inodes[index].durable = read_whole(inodes[index].fd, &inodes[index].durable_size);
        inodes[index].dirty = false;
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}

REPLACES int fsync(int fd)
{
    return sync_any(fd, SYS_fsync);
}

REPLACES int fdatasync(int fd)
{
    return sync_any(fd, SYS_fdatasync);
}

REPLACES int rename(const char *from, const char *to)
{
    if (!below_root(from) && !below_root(to)) {
        return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    }
    if (strstr(base_of(from), ".log") != NULL) {
        return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    }
    if (base_of(from) - from != base_of(to) - to || strncmp(from, to, (size_t)(base_of(from) - from)) != 0) {
        give_up("rename between directories: %s to %s", from, to);
    }
    pthread_mutex_lock(&mutex);
    int moved = know_inode(from), replaced = know_inode(to);
    if (moved >= 0) {
        reach_point("rename", to);
    }
    int result = (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    int error = errno;
    if (result == 0) {
        struct change *change = add_change(from);
        add_entry(change, base_of(from), moved, NONE);
        add_entry(change, base_of(to), replaced, moved);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}

REPLACES int unlink(const char *path)
{
    if (!below_root(path) || is_ignored(path)) {
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    }
    pthread_mutex_lock(&mutex);
    int before = know_inode(path);
    if (before >= 0) {
        reach_point("unlink", path);
    }
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    int error = errno;
    if (result == 0 && before >= 0) {
        note_entry(path, before, NONE);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}

REPLACES int mkdir(const char *path, mode_t mode)
{
    if (!below_root(path)) {
        return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    }
    pthread_mutex_lock(&mutex);
    int before = know_inode(path);
    if (before == NONE) {
        reach_point("mkdir", path);
    }
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    int error = errno;
    if (result == 0) {
        note_entry(path, NONE, DIRECTORY);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}

/* ---- what nobody here calls, and would have to be accounted for ------------------------------------------------------------------ */

REPLACES int link(const char *from, const char *to)
{
    if (below_root(to)) {
        give_up("link of %s", to);
    }
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

REPLACES int renameat(int from_directory, const char *from, int to_directory, const char *to)
{
    if (active) {
        give_up("renameat to %s", to);
    }
    return (int)syscall(SYS_renameat, from_directory, from, to_directory, to);
}

REPLACES int truncate(const char *path, off_t size)
{
    if (below_root(path)) {
        give_up("truncate of %s", path);
    }
    return (int)syscall(SYS_truncate, path, size);
}

REPLACES int rmdir(const char *path)
{
    if (below_root(path)) {
        give_up("rmdir of %s", path);
    }
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

REPLACES int chmod(const char *path, mode_t mode)
{
    if (below_root(path)) {
        give_up("chmod of %s: a mode is given when the file is made", path);
    }
    return (int)syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}
