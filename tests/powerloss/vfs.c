/* A SQLite VFS for tests that can lose power. Preloaded (LD_PRELOAD), it becomes the default VFS of any program that uses the system's libsqlite3, so
 * what is tested is the very binary that is shipped. Over the operating system's own VFS, it keeps what was not synced apart:
 *
 *   a write or a truncation goes into memory, where every connection of the process sees it; a sync moves it to the real file;
 *   a file that was made or removed is so for the process at once, on the disk only after the sync of its directory, which
 *   SQLite asks for with the first sync of a journal or WAL that it opened to write.
 *
 * So the real file always holds what a disk must hold. Locks and the shared-memory index pass through: SQLite builds that index anew after a restart.
 * An orderly exit hands everything to the real files, as the kernel would have in time.
 *
 * A *point* is a sync, or the exit. At point POWERLOSS_VFS_AT the process ends at once (status 88, no cleanup), after the real files were given what the
 * mode says:
 *
 *   drop       nothing that was not synced
 *   tear-512   of each sector of 512 bytes that unsynced writes touch: nothing, or the bytes of these writes up to one of them, at random; of
 *   tear-4096  each new name and each removed one: done or not. The same, sectors of 4,096
 *   reorder    a random subset of the writes, each whole. (Which of two overlapping ones comes first is kept: a page cache never writes the older
 *              bytes over the newer, and for writes that do not overlap every order gives the same disk.)
 *   late       the sync of the point is done, and nothing else; it never returns
 *
 * Never touched: a byte that was synced and not written since. That is SQLite's assumption of powersafe overwrite, which disks of this century keep, and
 * which its defaults (SQLITE_POWERSAFE_OVERWRITE) rest on. A sector beyond the synced end of the file that got nothing holds zeros or rubbish.
 *
 * POWERLOSS_VFS_MODE, POWERLOSS_VFS_SEED; POWERLOSS_VFS_REPORT: a file that gets a line for each point, so that a process that is started
 * again counts on from there. Must not know whose databases these are. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/memory.h"
#include "util/text.h"

enum { EXIT_POWER_LOST = 88, EXIT_MISUSED = 87, WHOLE_WRITE = 0 };

/* ---- what is known of a file --------------------------------------------------------------------------- */

struct change {
    struct change *next;
    bool is_truncation; /* to `offset` bytes */
    sqlite3_int64 offset;
    size_t size;
    uint8_t data[];
};

/* One path. Kept for the life of the process: what was not synced outlives its connections. */
struct file_state {
    struct file_state *next;
    char *path;
    dev_t device; /* which file that path was, in case somebody renames it */
    ino_t inode;
    uint8_t *content; /* as the process sees it */
    size_t size, capacity;
    size_t synced_size;
    struct change *first, **end; /* not synced, oldest first */
    bool entry_pending;          /* made here; its directory was not synced since */
    bool removed;                /* for the process; on the disk it is still there */
};

struct power_file {
    sqlite3_file base;
    struct file_state *state;
    bool syncs_directory; /* with its next sync */
    sqlite3_file *real;   /* the operating system's, behind this struct */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct file_state *states;
static sqlite3_vfs *os_vfs;
static sqlite3_vfs power_vfs;

static struct {
    uint64_t at;  /* 0: never */
    uint64_t now; /* points so far, those of earlier processes with the same report among them */
    uint64_t random;
    const char *mode;
    size_t sector; /* WHOLE_WRITE: uncut */
    bool drops, late;
    int report; /* -1: none */
} power;

NO_RETURN static void misused(const char *why, const char *what)
{
    (void)fprintf(stderr, "powerloss: %s: %s\n", why, what);
    _exit(EXIT_MISUSED);
}

static uint64_t next_random(void)
{
    /* splitmix64: seeds that are near each other give unlike sequences. */
    uint64_t z = (power.random += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static bool chance(uint64_t percent)
{
    return next_random() % 100 < percent;
}

static void content_resize(struct file_state *state, size_t size)
{
    if (size > state->capacity) {
        size_t capacity = state->capacity < 4096 ? 4096 : state->capacity;
        while (capacity < size) {
            capacity *= 2;
        }
        state->content = memory_realloc(state->content, capacity);
        state->capacity = capacity;
    }
    if (size > state->size) {
        memset(state->content + state->size, 0, size - state->size);
    }
    state->size = size;
}

static void forget_changes(struct file_state *state)
{
    for (struct change *change = state->first, *next; change != NULL; change = next) {
        next = change->next;
        free(change);
    }
    state->first = NULL;
    state->end = &state->first;
}

static void note_change(struct file_state *state, bool is_truncation, sqlite3_int64 offset, const void *data, size_t size)
{
    struct change *change = memory_alloc(sizeof(*change) + size);
    *change = (struct change){ .is_truncation = is_truncation, .offset = offset, .size = size };
    if (size > 0) {
        memcpy(change->data, data, size);
    }
    *state->end = change;
    state->end = &change->next;
    if (is_truncation) {
        content_resize(state, (size_t)offset);
    } else {
        if ((size_t)offset + size > state->size) {
            content_resize(state, (size_t)offset + size);
        }
        memcpy(state->content + offset, data, size);
    }
}

/* The bytes of the real file: read without opening it, since closing a second descriptor would drop the process's locks on it. */
static int content_load(struct file_state *state, sqlite3_file *real)
{
    sqlite3_int64 size = 0;
    int result = real->pMethods->xFileSize(real, &size);
    if (result != SQLITE_OK) {
        return result;
    }
    content_resize(state, 0);
    content_resize(state, (size_t)size);
    for (sqlite3_int64 at = 0; at < size && result == SQLITE_OK; at += 65536) {
        sqlite3_int64 left = size - at;
        result = real->pMethods->xRead(real, state->content + at, (int)(left < 65536 ? left : 65536), at);
    }
    state->synced_size = (size_t)size;
    return result;
}

static struct file_state *state_find(const char *path)
{
    struct file_state *state = states;
    while (state != NULL && strcmp(state->path, path) != 0) {
        state = state->next;
    }
    return state;
}

static struct file_state *state_add(const char *path)
{
    struct file_state *state = memory_zalloc(sizeof(*state));
    state->path = memory_strdup(path);
    state->end = &state->first;
    state->next = states;
    states = state;
    return state;
}

/* ---- the disk ------------------------------------------------------------------------------------------------ */

/* A write of SQLite's is at most a page with its frame's header; its journal's header is no larger. */
static int give_changes(struct file_state *state, sqlite3_file *real)
{
    int result = SQLITE_OK;
    for (const struct change *change = state->first; change != NULL && result == SQLITE_OK; change = change->next) {
        result = change->is_truncation ? real->pMethods->xTruncate(real, change->offset)
                                       : real->pMethods->xWrite(real, change->data, (int)change->size, change->offset);
    }
    if (result == SQLITE_OK) {
        forget_changes(state);
        state->synced_size = state->size;
    }
    return result;
}

static size_t directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? 0 : (size_t)(slash - path);
}

static void give_entry(struct file_state *state)
{
    if (state->removed && unlink(state->path) != 0 && errno != ENOENT) {
        misused("cannot remove", state->path);
    }
    if (state->removed) {
        forget_changes(state);
        state->removed = false;
        state->inode = 0;
    }
    state->entry_pending = false;
}

static void give_directory(const char *path)
{
    size_t length = directory_length(path);
    for (struct file_state *state = states; state != NULL; state = state->next) {
        if (directory_length(state->path) == length && strncmp(state->path, path, length) == 0) {
            give_entry(state);
        }
    }
}

/* ---- the power goes ---------------------------------------------------------------------------------------------- */

/* Only when nothing else of this process will run: closing the descriptor drops the process's locks. */
static void write_real(int fd, const void *data, size_t size, sqlite3_int64 offset)
{
    const uint8_t *at = data;
    while (size > 0) {
        ssize_t written = pwrite(fd, at, size, offset);
        if (written <= 0) {
            misused("cannot write", "what the disk kept");
        }
        at += written;
        size -= (size_t)written;
        offset += written;
    }
}

struct sector {
    sqlite3_int64 number;
    uint32_t touched;  /* by that many changes */
    uint32_t versions; /* of them, that many reached the disk */
    uint32_t seen;     /* while they are written */
};

struct sector_map {
    struct sector *sectors;
    size_t count, capacity;
};

static struct sector *sector_at(struct sector_map *map, sqlite3_int64 number, bool adds)
{
    for (size_t i = map->count; i > 0; i--) {
        if (map->sectors[i - 1].number == number) {
            return &map->sectors[i - 1];
        }
    }
    if (!adds) {
        misused("no such sector", "");
    }
    if (map->count == map->capacity) {
        map->capacity = map->capacity == 0 ? 64 : map->capacity * 2;
        map->sectors = memory_realloc(map->sectors, map->capacity * sizeof(*map->sectors));
    }
    map->sectors[map->count] = (struct sector){ .number = number };
    return &map->sectors[map->count++];
}

static void choose_versions(struct sector_map *map, const struct file_state *state, uint64_t percent)
{
    sqlite3_int64 size = (sqlite3_int64)power.sector;
    for (const struct change *change = state->first; change != NULL; change = change->next) {
        if (!change->is_truncation && change->size > 0) {
            sqlite3_int64 last = (change->offset + (sqlite3_int64)change->size - 1) / size;
            for (sqlite3_int64 number = change->offset / size; number <= last; number++) {
                sector_at(map, number, true)->touched++;
            }
        }
    }
    for (size_t i = 0; i < map->count; i++) {
        struct sector *sector = &map->sectors[i];
        bool lands = chance(percent);
        /* What was in the page cache when it was written back: mostly the last version, now and then an older one. */
        sector->versions = !lands ? 0 : chance(75) ? sector->touched : 1 + (uint32_t)(next_random() % sector->touched);
    }
}

static void tear_write(int fd, struct sector_map *map, const struct file_state *state, const struct change *change)
{
    sqlite3_int64 size = (sqlite3_int64)power.sector;
    sqlite3_int64 end = change->offset + (sqlite3_int64)change->size;
    for (sqlite3_int64 at = change->offset; at < end;) {
        sqlite3_int64 piece_end = (at / size + 1) * size < end ? (at / size + 1) * size : end;
        struct sector *sector = sector_at(map, at / size, false);
        size_t length = (size_t)(piece_end - at);
        if (sector->seen++ < sector->versions) {
            write_real(fd, change->data + (at - change->offset), length, at);
        } else if (sector->versions == 0 && at >= (sqlite3_int64)state->synced_size && chance(50)) {
            uint8_t *rubbish = memory_alloc(length);
            for (size_t i = 0; i < length; i++) {
                rubbish[i] = (uint8_t)next_random();
            }
            write_real(fd, rubbish, length, at);
            free(rubbish);
        }
        at = piece_end;
    }
}

/* The disk after the power went, of one file. */
static void settle_contents(struct file_state *state)
{
    static const uint64_t PERCENTS[] = { 10, 50, 90 };
    uint64_t percent = PERCENTS[next_random() % 3];
    struct sector_map map = { .sectors = NULL };
    int fd = open(state->path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        misused("cannot open", state->path);
    }
    if (power.sector != WHOLE_WRITE) {
        choose_versions(&map, state, percent);
    }
    for (const struct change *change = state->first; change != NULL; change = change->next) {
        if (change->is_truncation) {
            if (chance(percent) && ftruncate(fd, change->offset) != 0) {
                misused("cannot truncate", state->path);
            }
        } else if (power.sector != WHOLE_WRITE) {
            tear_write(fd, &map, state, change);
        } else if (chance(percent)) {
            write_real(fd, change->data, change->size, change->offset);
        }
    }
    free(map.sectors);
    if (close(fd) != 0) {
        misused("cannot close", state->path);
    }
}

static void settle(struct file_state *state)
{
    bool entry_stays_undone = power.drops || power.late || chance(50);
    if (state->entry_pending && entry_stays_undone) {
        state->removed = true; /* it was never there */
        state->entry_pending = false;
        give_entry(state);
        return;
    }
    if (!power.drops && !power.late && state->first != NULL) {
        settle_contents(state);
    }
    if (state->removed && !entry_stays_undone) {
        give_entry(state);
    }
}

static void report(const char *event, const char *word, const char *path, size_t changes)
{
    if (power.report >= 0) {
        const char *slash = path == NULL ? NULL : strrchr(path, '/');
        char line[512];
        int length = snprintf(line, sizeof(line), "%s %s %s %zu\n", event, word, slash == NULL ? "-" : slash + 1, changes);
        if (length <= 0 || (size_t)length >= sizeof(line) || write(power.report, line, (size_t)length) != length) {
            misused("cannot write", "the report");
        }
    }
}

NO_RETURN static void lose_power(void)
{
    for (struct file_state *state = states; state != NULL; state = state->next) {
        settle(state);
    }
    report("power", power.mode, NULL, 0);
    _exit(EXIT_POWER_LOST);
}

static size_t count_changes(const struct file_state *state)
{
    size_t count = 0;
    for (const struct change *change = state->first; change != NULL; change = change->next) {
        count++;
    }
    return count;
}

/* True: the power goes after this sync. Before it, it does not return. */
static bool point_reached(const char *word, const struct file_state *state)
{
    power.now++;
    report("point", word, state == NULL ? NULL : state->path, state == NULL ? 0 : count_changes(state));
    if (power.now != power.at) {
        return false;
    }
    if (power.late && state != NULL) {
        return true;
    }
    lose_power();
}

/* ---- files -------------------------------------------------------------------------------------------------------------- */

static struct power_file *power_file(sqlite3_file *file)
{
    return (struct power_file *)(void *)file;
}

static int file_close(sqlite3_file *file)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods == NULL ? SQLITE_OK : real->pMethods->xClose(real);
}

static int file_read(sqlite3_file *file, void *buffer, int amount, sqlite3_int64 offset)
{
    struct power_file *self = power_file(file);
    (void)pthread_mutex_lock(&mutex);
    const struct file_state *state = self->state;
    size_t wanted = (size_t)amount;
    size_t there = (size_t)offset >= state->size ? 0 : state->size - (size_t)offset;
    size_t given = there < wanted ? there : wanted;
    if (given > 0) {
        memcpy(buffer, state->content + offset, given);
    }
    (void)pthread_mutex_unlock(&mutex);
    if (given < wanted) {
        memset((uint8_t *)buffer + given, 0, wanted - given);
        return SQLITE_IOERR_SHORT_READ;
    }
    return SQLITE_OK;
}

static int file_write(sqlite3_file *file, const void *data, int amount, sqlite3_int64 offset)
{
    (void)pthread_mutex_lock(&mutex);
    note_change(power_file(file)->state, false, offset, data, (size_t)amount);
    (void)pthread_mutex_unlock(&mutex);
    return SQLITE_OK;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    (void)pthread_mutex_lock(&mutex);
    note_change(power_file(file)->state, true, size, NULL, 0);
    (void)pthread_mutex_unlock(&mutex);
    return SQLITE_OK;
}

static int file_sync(sqlite3_file *file, int flags)
{
    (void)flags;
    struct power_file *self = power_file(file);
    (void)pthread_mutex_lock(&mutex);
    bool power_goes = point_reached("sync", self->state);
    int result = give_changes(self->state, self->real);
    if (result == SQLITE_OK && self->syncs_directory) {
        give_directory(self->state->path);
        self->syncs_directory = false;
    }
    if (power_goes) {
        lose_power();
    }
    (void)pthread_mutex_unlock(&mutex);
    return result;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
    (void)pthread_mutex_lock(&mutex);
    *ret_size = (sqlite3_int64)power_file(file)->state->size;
    (void)pthread_mutex_unlock(&mutex);
    return SQLITE_OK;
}

static int file_lock(sqlite3_file *file, int level)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xLock(real, level);
}

static int file_unlock(sqlite3_file *file, int level)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xUnlock(real, level);
}

static int file_check_reserved(sqlite3_file *file, int *ret_reserved)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xCheckReservedLock(real, ret_reserved);
}

static int file_control(sqlite3_file *file, int operation, void *argument)
{
    sqlite3_file *real = power_file(file)->real;
    /* A hint may change the real file's size. */
    return operation == SQLITE_FCNTL_SIZE_HINT ? SQLITE_OK : real->pMethods->xFileControl(real, operation, argument);
}

static int file_sector_size(sqlite3_file *file)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xSectorSize(real);
}

static int file_device_characteristics(sqlite3_file *file)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xDeviceCharacteristics(real);
}

static int file_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **ret_memory)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xShmMap(real, page, size, extend, ret_memory);
}

static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xShmLock(real, offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *file)
{
    sqlite3_file *real = power_file(file)->real;
    real->pMethods->xShmBarrier(real);
}

static int file_shm_unmap(sqlite3_file *file, int removes)
{
    sqlite3_file *real = power_file(file)->real;
    return real->pMethods->xShmUnmap(real, removes);
}

/* Version 2: no memory-mapped reads, which would look past us. */
static const sqlite3_io_methods METHODS = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_device_characteristics,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

/* ---- the VFS ---------------------------------------------------------------------------------------------------------------- */

/* The state of what was just opened; `existed`: before that. */
static int state_attach(const char *path, sqlite3_file *real, bool existed, struct file_state **ret_state)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        return SQLITE_CANTOPEN;
    }
    struct file_state *state = state_find(path);
    if (state == NULL) {
        state = state_add(path);
    }
    if (state->inode == status.st_ino && state->device == status.st_dev) {
        if (state->removed) {
            /* Made anew before its removal was synced: for the disk, the old file emptied. */
            state->removed = false;
            note_change(state, true, 0, NULL, 0);
        }
        *ret_state = state;
        return SQLITE_OK;
    }
    forget_changes(state);
    state->inode = status.st_ino;
    state->device = status.st_dev;
    state->removed = false;
    state->entry_pending = !existed;
    *ret_state = state;
    return content_load(state, real);
}

static int vfs_open(sqlite3_vfs *vfs, sqlite3_filename path, sqlite3_file *file, int flags, int *ret_flags)
{
    (void)vfs;
    struct power_file *self = power_file(file);
    *self = (struct power_file){ .real = (sqlite3_file *)(void *)(self + 1) };
    if (path == NULL || (flags & SQLITE_OPEN_DELETEONCLOSE) != 0) {
        misused("a temporary file", "our programs keep those in memory");
    }
    (void)pthread_mutex_lock(&mutex);
    const struct file_state *known = state_find(path);
    bool creates = (flags & SQLITE_OPEN_CREATE) != 0;
    bool existed = access(path, F_OK) == 0;
    int result = known != NULL && known->removed && !creates ? SQLITE_CANTOPEN : SQLITE_OK;
    if (result == SQLITE_OK) {
        result = os_vfs->xOpen(os_vfs, path, self->real, flags, ret_flags);
    }
    if (result == SQLITE_OK) {
        result = state_attach(path, self->real, existed, &self->state);
        if (result != SQLITE_OK) {
            (void)self->real->pMethods->xClose(self->real);
        }
    }
    if (result == SQLITE_OK) {
        self->base.pMethods = &METHODS;
        /* As the system's VFS does. */
        self->syncs_directory = creates && (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL)) != 0;
    }
    (void)pthread_mutex_unlock(&mutex);
    return result;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int syncs_directory)
{
    (void)vfs;
    (void)pthread_mutex_lock(&mutex);
    struct file_state *state = state_find(path);
    int result = SQLITE_OK;
    if (access(path, F_OK) != 0 || (state != NULL && state->removed)) {
        result = SQLITE_IOERR_DELETE_NOENT;
    } else {
        state = state == NULL ? state_add(path) : state;
        state->removed = true;
        content_resize(state, 0);
        if (state->entry_pending) {
            give_entry(state); /* neither its name nor its removal is on the disk */
        }
        if (syncs_directory != 0) {
            give_directory(path);
        }
    }
    (void)pthread_mutex_unlock(&mutex);
    return result;
}

/* Like the system's: an empty file does not exist. */
static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *ret_there)
{
    (void)vfs;
    (void)pthread_mutex_lock(&mutex);
    const struct file_state *state = state_find(path);
    int result = SQLITE_OK;
    if (state != NULL && (state->removed || (flags == SQLITE_ACCESS_EXISTS && access(path, F_OK) == 0))) {
        *ret_there = !state->removed && state->size > 0;
    } else {
        result = os_vfs->xAccess(os_vfs, path, flags, ret_there);
    }
    (void)pthread_mutex_unlock(&mutex);
    return result;
}

/* ---- the process -------------------------------------------------------------------------------------------------------------- */

/* The last point: what was left to the kernel. */
static void process_exits(void)
{
    (void)pthread_mutex_lock(&mutex);
    (void)point_reached("exit", NULL);
    power.drops = power.late = false;
    for (struct file_state *state = states; state != NULL; state = state->next) {
        int fd = state->first == NULL || state->removed ? -1 : open(state->path, O_RDWR | O_CLOEXEC);
        for (const struct change *change = fd < 0 ? NULL : state->first; change != NULL; change = change->next) {
            if (!change->is_truncation) {
                write_real(fd, change->data, change->size, change->offset);
            } else if (ftruncate(fd, change->offset) != 0) {
                misused("cannot truncate", state->path);
            }
        }
        if (fd >= 0 && close(fd) != 0) {
            misused("cannot close", state->path);
        }
        give_entry(state);
    }
    (void)pthread_mutex_unlock(&mutex);
}

static uint64_t environment_number(const char *name)
{
    const char *text = getenv(name);
    uint64_t value = 0;
    if (text != NULL && parse_uint64(text, &value) != 0) {
        misused("no number", name);
    }
    return value;
}

static void open_report(void)
{
    const char *path = getenv("POWERLOSS_VFS_REPORT");
    power.report = -1;
    if (path == NULL) {
        return;
    }
    FILE *before = fopen(path, "re");
    char line[512];
    while (before != NULL && fgets(line, sizeof(line), before) != NULL) {
        power.now += strncmp(line, "point ", 6) == 0 ? 1 : 0;
    }
    if (before != NULL && fclose(before) != 0) {
        misused("cannot read", path);
    }
    power.report = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (power.report < 0) {
        misused("cannot open", path);
    }
}

static void choose_mode(void)
{
    const char *mode = getenv("POWERLOSS_VFS_MODE");
    power.mode = mode == NULL ? "drop" : mode;
    power.drops = string_equal(power.mode, "drop");
    power.late = string_equal(power.mode, "late");
    power.sector = string_equal(power.mode, "tear-512") ? 512 : string_equal(power.mode, "tear-4096") ? 4096 : WHOLE_WRITE;
    if (!power.drops && !power.late && power.sector == WHOLE_WRITE && !string_equal(power.mode, "reorder")) {
        misused("no such mode", power.mode);
    }
}

__attribute__((constructor)) static void install(void)
{
    power.at = environment_number("POWERLOSS_VFS_AT");
    power.random = environment_number("POWERLOSS_VFS_SEED");
    choose_mode();
    open_report();
    os_vfs = sqlite3_vfs_find(NULL);
    if (os_vfs == NULL) {
        misused("no VFS", "of the system");
    }
    power_vfs = *os_vfs;
    power_vfs.zName = "powerloss";
    power_vfs.pNext = NULL;
    power_vfs.szOsFile = (int)sizeof(struct power_file) + os_vfs->szOsFile;
    power_vfs.xOpen = vfs_open;
    power_vfs.xDelete = vfs_delete;
    power_vfs.xAccess = vfs_access;
    if (sqlite3_vfs_register(&power_vfs, 1) != SQLITE_OK || atexit(process_exits) != 0) {
        misused("cannot register", "the VFS");
    }
}
