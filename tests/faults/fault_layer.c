/* Owns a library to preload (LD_PRELOAD) that counts the calls of one process into the system and makes chosen ones fail: the allocator's, and each
 * system call's wrapper in libc, also where SQLite, OpenSSL, libevent, jansson and libsodium call them. For tests only.
 *
 * CLAUDEMESH_FAULTS names a file of sizeof(struct fault_state) bytes that the driver (faults.py) shares with the process: which calls are meant, which
 * of them fails and how, and what was counted. So one process can be asked many things in turn. Nothing else of the process is touched: no
 * descriptor stays open, nothing is printed. What libc calls inside itself (stdio's reads and writes) does not come by here.
 *
 * A *site* is a hash of the last callers: the same in every run of the same binaries, so a failing case can be run again although threads
 * interleave differently. */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* In the order of CLASSES in faults.py. */
enum fault_class {
    CLASS_ALLOC,
    CLASS_OPEN,
    CLASS_READ,
    CLASS_WRITE,
    CLASS_SYNC,
    CLASS_TRUNCATE,
    CLASS_NAME,     /* rename, unlink, mkdir, link: what a directory holds */
    CLASS_LOOK,     /* stat */
    CLASS_CLOSE,
    CLASS_SOCKET,   /* making sockets and connections */
    CLASS_TRANSFER, /* what goes over them, whichever call is used */
    CLASS_EVENT,
    CLASS_MAP,
    CLASS_THREAD,
    CLASS_LOCK,
    CLASS_RANDOM,
    CLASS_COUNT
};

enum { STATE_MAGIC = 0x434d4654, NO_ERROR = 0, SHORT_COUNT = -1, SUDDEN_END = -2, MAX_MODULES = 64, SITE_DEPTH = 9, ALLOC_SITE_DEPTH = 6, TRACE_DEPTH = 24, LINE_SIZE = 1024 };
/* Recording: each matching call gets a line in `log`; of the class, or of all classes. */
enum { RECORD_NOTHING, RECORD_CLASS, RECORD_ALL };
enum { KIND_ANY, KIND_FILE, KIND_SOCKET, KIND_OTHER };

struct fault_state { /* the layout is known to faults.py */
    uint32_t magic;
    atomic_uint armed;
    uint32_t class;
    int32_t error; /* an errno, SHORT_COUNT, or SUDDEN_END: the process is killed at this call */
    uint64_t at;   /* the first call that fails, from 1; 0: none */
    uint64_t until;
    uint64_t site; /* 0: any */
    uint32_t kind;
    uint32_t record;
    char call[32];   /* "": any of the class */
    char path[128];  /* a part of the path; "": any */
    char log[256];   /* what fired, with the callers; "": no log */
    atomic_uint_fast64_t matched;
    atomic_uint_fast64_t fired;
    atomic_uint_fast64_t counts[CLASS_COUNT]; /* while armed, whatever the selection */
};

struct module {
    uintptr_t start, end;
    uint64_t name_hash;
};

static struct fault_state *state;
static struct module modules[MAX_MODULES];
static size_t module_count;
static __thread int inside __attribute__((tls_model("initial-exec"))); /* our own calls are no one's faults */

/* ---- the real functions ---------------------------------------------------------------------------------------------- */

static void *resolve(void **cache, const char *name)
{
    void *found = __atomic_load_n(cache, __ATOMIC_ACQUIRE);
    if (found == NULL) {
        inside++;
        found = dlsym(RTLD_NEXT, name);
        inside--;
        if (found == NULL)
            _exit(127);
        __atomic_store_n(cache, found, __ATOMIC_RELEASE);
    }
    return found;
}

/* Declares the replacement of `symbol` under a name of ours (the headers' declarations, and the checks of _FORTIFY_SOURCE, are not in the way), and
 * `real` for what it replaces. */
#define REPLACE(result, name, symbol, ...) \
    __attribute__((visibility("default"))) result name(__VA_ARGS__) __asm__(symbol); \
    result name(__VA_ARGS__)
#define REAL(result, symbol, ...) \
    static void *cache_; \
    result (*real)(__VA_ARGS__) = (result(*)(__VA_ARGS__))(uintptr_t)resolve(&cache_, symbol)

/* ---- who calls ------------------------------------------------------------------------------------------------------- */

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static int note_module(struct dl_phdr_info *info, size_t size, void *argument)
{
    (void)size;
    (void)argument;
    const char *slash = strrchr(info->dlpi_name, '/');
    const char *name = slash == NULL ? info->dlpi_name : slash + 1;
    for (size_t i = 0; i < info->dlpi_phnum && module_count < MAX_MODULES; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && (header->p_flags & PF_X) != 0)
            modules[module_count++] = (struct module){ info->dlpi_addr + header->p_vaddr, info->dlpi_addr + header->p_vaddr + header->p_memsz,
                                                       hash_bytes(UINT64_C(0xcbf29ce484222325), name, strlen(name)) };
    }
    return 0;
}

static uint64_t site_of(void *const *frames, int count)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < count; i++) {
        const uintptr_t address = (uintptr_t)frames[i];
        for (size_t m = 0; m < module_count; m++) {
            if (address >= modules[m].start && address < modules[m].end) {
                const uint64_t offset = address - modules[m].start;
                hash = hash_bytes(hash, &modules[m].name_hash, sizeof(modules[m].name_hash));
                hash = hash_bytes(hash, &offset, sizeof(offset));
            }
        }
    }
    return hash == 0 ? 1 : hash;
}

/* ---- what is meant --------------------------------------------------------------------------------------------------- */

static uint32_t kind_of(int fd)
{
    struct stat found;
    if (syscall(SYS_fstat, fd, &found) != 0)
        return KIND_OTHER;
    return S_ISREG(found.st_mode) || S_ISDIR(found.st_mode) ? KIND_FILE : S_ISSOCK(found.st_mode) ? KIND_SOCKET : KIND_OTHER;
}

static void path_of(int fd, char *ret_path, size_t size)
{
    char link[64];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    const long length = syscall(SYS_readlink, link, ret_path, size - 1);
    ret_path[length < 0 ? 0 : length] = '\0';
}

static void write_log(const char *line, size_t length)
{
    const long fd = syscall(SYS_openat, AT_FDCWD, state->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        (void)!syscall(SYS_write, fd, line, length);
        (void)syscall(SYS_close, fd);
    }
}

/* "<module>+<offset>" for each caller, for addr2line. */
static size_t append_callers(char *line, size_t used, size_t size, void *const *frames, int count)
{
    for (int i = 0; i < count && used < size - 128; i++) {
        Dl_info info;
        if (dladdr(frames[i], &info) == 0 || info.dli_fname == NULL)
            continue;
        const char *slash = strrchr(info.dli_fname, '/');
        used += (size_t)snprintf(line + used, size - used, " %.40s+0x%zx%s%.40s", slash == NULL ? info.dli_fname : slash + 1,
                                 (size_t)((uintptr_t)frames[i] - (uintptr_t)info.dli_fbase), info.dli_sname == NULL ? "" : "=",
                                 info.dli_sname == NULL ? "" : info.dli_sname);
    }
    return used;
}

static void log_call(const char *what, enum fault_class class, const char *call, const char *path, uint64_t number, uint64_t site,
                     void *const *frames, int count)
{
    char line[LINE_SIZE];
    const char *slash = strrchr(path, '/');
    size_t used = (size_t)snprintf(line, sizeof(line), "%s %" PRIu64 " %016" PRIx64 " %d %s %.80s", what, number, site, (int)class, call,
                                   *path == '\0' ? "-" : slash == NULL ? path : slash + 1);
    used = append_callers(line, used, sizeof(line) - 1, frames, count);
    line[used++] = '\n';
    write_log(line, used);
}

/* NO_ERROR: go on. Else what to fail with. `path` NULL: the descriptor's. */
static int decide_unguarded(enum fault_class class, const char *call, int fd, const char *path)
{
    char found[PATH_MAX] = "";
    void *frames[TRACE_DEPTH];
    atomic_fetch_add(&state->counts[class], 1);
    if ((class != state->class && state->record != RECORD_ALL) || (state->call[0] != '\0' && strcmp(call, state->call) != 0))
        return NO_ERROR;
    if (state->kind != KIND_ANY && (fd < 0 || kind_of(fd) != state->kind))
        return NO_ERROR;
    if (path == NULL && fd >= 0 && (state->path[0] != '\0' || state->record != 0 || state->log[0] != '\0')) {
        path_of(fd, found, sizeof(found));
        path = found;
    }
    if (state->path[0] != '\0' && (path == NULL || strstr(path, state->path) == NULL))
        return NO_ERROR;
    /* The frames of this file: decide_unguarded, decide, the replacement. */
    const bool needs_site = state->site != 0 || state->record != 0;
    int count = needs_site ? backtrace(frames, (class == CLASS_ALLOC ? ALLOC_SITE_DEPTH : SITE_DEPTH) + 3) : 0;
    const uint64_t site = needs_site && count > 3 ? site_of(frames + 3, count - 3) : 1;
    if (state->site != 0 && site != state->site)
        return NO_ERROR;
    const uint64_t number = atomic_fetch_add(&state->matched, 1) + 1;
    const bool fires = state->at != 0 && number >= state->at && number <= state->until;
    if (fires)
        atomic_fetch_add(&state->fired, 1);
    if (state->log[0] != '\0' && (state->record != 0 || (fires && number == state->at))) {
        if (fires)
            count = backtrace(frames, TRACE_DEPTH);
        log_call(fires ? "failed" : "call", class, call, path == NULL ? "" : path, number, site, frames + 3, fires && count > 3 ? count - 3 : 0);
    }
    if (fires && state->error == SUDDEN_END)
        (void)kill(getpid(), SIGKILL);
    return fires ? state->error : NO_ERROR;
}

static int __attribute__((noinline)) decide(enum fault_class class, const char *call, int fd, const char *path)
{
    if (state == NULL || inside != 0 || atomic_load_explicit(&state->armed, memory_order_acquire) == 0)
        return NO_ERROR;
    const int before = errno;
    inside++;
    const int verdict = decide_unguarded(class, call, fd, path);
    inside--;
    errno = before;
    return verdict;
}

/* A connection that was reset is gone: what follows sees its end. */
static int decide_transfer(const char *call, int fd)
{
    const int verdict = decide(CLASS_TRANSFER, call, fd, NULL);
    if (verdict == ECONNRESET || verdict == EPIPE)
        (void)syscall(SYS_shutdown, fd, SHUT_RDWR);
    return verdict;
}

/* What goes over a socket is one class whichever call is used; an eventfd or a pipe is part of waiting. */
static int decide_by_kind(enum fault_class class, const char *call, int fd)
{
    if (state == NULL || inside != 0 || atomic_load_explicit(&state->armed, memory_order_acquire) == 0)
        return NO_ERROR;
    const uint32_t kind = kind_of(fd);
    return kind == KIND_SOCKET ? decide_transfer(call, fd) : decide(kind == KIND_FILE ? class : CLASS_EVENT, call, fd, NULL);
}

#define FAIL(verdict, result) \
    do { \
        const int failing = (verdict); \
        if (failing > 0) { \
            errno = failing; \
            return result; \
        } \
    } while (0)

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLAUDEMESH_FAULTS");
    void *frames[4];
    if (path == NULL)
        return;
    inside++;
    (void)backtrace(frames, 4); /* loads the unwinder now, not inside an allocation */
    (void)dl_iterate_phdr(note_module, NULL);
    const long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd >= 0) {
        /* Whole words: what does not fit the registers is read as a long from the stack. */
        const long mapped = syscall(SYS_mmap, 0L, sizeof(struct fault_state), (long)(PROT_READ | PROT_WRITE), (long)MAP_SHARED, fd, 0L);
        struct fault_state *found = (struct fault_state *)mapped;
        (void)syscall(SYS_close, fd);
        if (mapped != -1 && found->magic == STATE_MAGIC)
            state = found;
    }
    if (state == NULL)
        _exit(127);
    inside--;
}

/* ---- the allocator: what libc needs for strdup, asprintf, fopen, … comes by here, too -------------------------------------- */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

REPLACE(void *, layer_malloc, "malloc", size_t size)
{
    FAIL(decide(CLASS_ALLOC, "malloc", -1, NULL), NULL);
    return __libc_malloc(size);
}

REPLACE(void *, layer_calloc, "calloc", size_t count, size_t size)
{
    FAIL(decide(CLASS_ALLOC, "calloc", -1, NULL), NULL);
    return __libc_calloc(count, size);
}

REPLACE(void *, layer_realloc, "realloc", void *pointer, size_t size)
{
    FAIL(decide(CLASS_ALLOC, "realloc", -1, NULL), NULL);
    return __libc_realloc(pointer, size);
}

REPLACE(void *, layer_aligned_alloc, "aligned_alloc", size_t alignment, size_t size)
{
    FAIL(decide(CLASS_ALLOC, "aligned_alloc", -1, NULL), NULL);
    return __libc_memalign(alignment, size);
}

REPLACE(int, layer_posix_memalign, "posix_memalign", void **ret_pointer, size_t alignment, size_t size)
{
    if (decide(CLASS_ALLOC, "posix_memalign", -1, NULL) != NO_ERROR)
        return ENOMEM;
    void *made = __libc_memalign(alignment, size);
    if (made == NULL)
        return ENOMEM;
    *ret_pointer = made;
    return 0;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

#define REPLACE_OPEN(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, const char *path, int flags, mode_t mode) \
    { \
        FAIL(decide(CLASS_OPEN, "open", -1, path), -1); \
        REAL(int, "open64", const char *, int, ...); \
        return real(path, flags, mode); \
    }
REPLACE_OPEN("open", open)
REPLACE_OPEN("open64", open64)

REPLACE(int, layer_open_2, "__open_2", const char *path, int flags)
{
    return layer_open(path, flags, 0);
}

REPLACE(int, layer_open64_2, "__open64_2", const char *path, int flags)
{
    return layer_open64(path, flags, 0);
}

#define REPLACE_OPENAT(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, int directory, const char *path, int flags, mode_t mode) \
    { \
        FAIL(decide(CLASS_OPEN, "openat", -1, path), -1); \
        REAL(int, "openat64", int, const char *, int, ...); \
        return real(directory, path, flags, mode); \
    }
REPLACE_OPENAT("openat", openat)
REPLACE_OPENAT("openat64", openat64)

#define REPLACE_FOPEN(symbol, suffix) \
    REPLACE(FILE *, layer_##suffix, symbol, const char *path, const char *mode) \
    { \
        FAIL(decide(CLASS_OPEN, "fopen", -1, path), NULL); \
        REAL(FILE *, "fopen64", const char *, const char *); \
        return real(path, mode); \
    }
REPLACE_FOPEN("fopen", fopen)
REPLACE_FOPEN("fopen64", fopen64)

/* ---- reading and writing ------------------------------------------------------------------------------------------------ */

static size_t shortened(int verdict, size_t size)
{
    return verdict == SHORT_COUNT && size > 1 ? size / 2 : size;
}

REPLACE(ssize_t, layer_read, "read", int fd, void *data, size_t size)
{
    const int verdict = decide_by_kind(CLASS_READ, "read", fd);
    FAIL(verdict, -1);
    REAL(ssize_t, "read", int, void *, size_t);
    return real(fd, data, shortened(verdict, size));
}

REPLACE(ssize_t, layer_read_chk, "__read_chk", int fd, void *data, size_t size, size_t room)
{
    return size > room ? (abort(), 0) : layer_read(fd, data, size);
}

#define REPLACE_PREAD(symbol, suffix) \
    REPLACE(ssize_t, layer_##suffix, symbol, int fd, void *data, size_t size, off64_t offset) \
    { \
        const int verdict = decide(CLASS_READ, "pread", fd, NULL); \
        FAIL(verdict, -1); \
        REAL(ssize_t, "pread64", int, void *, size_t, off64_t); \
        return real(fd, data, shortened(verdict, size), offset); \
    }
REPLACE_PREAD("pread", pread)
REPLACE_PREAD("pread64", pread64)

REPLACE(ssize_t, layer_pread64_chk, "__pread64_chk", int fd, void *data, size_t size, off64_t offset, size_t room)
{
    return size > room ? (abort(), 0) : layer_pread64(fd, data, size, offset);
}

REPLACE(ssize_t, layer_write, "write", int fd, const void *data, size_t size)
{
    const int verdict = decide_by_kind(CLASS_WRITE, "write", fd);
    FAIL(verdict, -1);
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, shortened(verdict, size));
}

#define REPLACE_PWRITE(symbol, suffix) \
    REPLACE(ssize_t, layer_##suffix, symbol, int fd, const void *data, size_t size, off64_t offset) \
    { \
        const int verdict = decide(CLASS_WRITE, "pwrite", fd, NULL); \
        FAIL(verdict, -1); \
        REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t); \
        return real(fd, data, shortened(verdict, size), offset); \
    }
REPLACE_PWRITE("pwrite", pwrite)
REPLACE_PWRITE("pwrite64", pwrite64)

/* A short count of several parts: half of the first. */
#define REPLACE_VECTOR(class, symbol, suffix) \
    REPLACE(ssize_t, layer_##suffix, symbol, int fd, const struct iovec *parts, int count) \
    { \
        const int verdict = decide_by_kind(class, symbol, fd); \
        FAIL(verdict, -1); \
        REAL(ssize_t, symbol, int, const struct iovec *, int); \
        if (verdict == SHORT_COUNT && count > 0) { \
            const struct iovec half = { parts[0].iov_base, shortened(verdict, parts[0].iov_len) }; \
            return real(fd, &half, 1); \
        } \
        return real(fd, parts, count); \
    }
REPLACE_VECTOR(CLASS_READ, "readv", readv)
REPLACE_VECTOR(CLASS_WRITE, "writev", writev)

#define REPLACE_POSITIONED_VECTOR(class, call, symbol, suffix) \
    REPLACE(ssize_t, layer_##suffix, symbol, int fd, const struct iovec *parts, int count, off64_t offset) \
    { \
        const int verdict = decide(class, call, fd, NULL); \
        FAIL(verdict, -1); \
        REAL(ssize_t, symbol, int, const struct iovec *, int, off64_t); \
        return real(fd, parts, count, offset); \
    }
REPLACE_POSITIONED_VECTOR(CLASS_READ, "preadv", "preadv64", preadv64)
REPLACE_POSITIONED_VECTOR(CLASS_WRITE, "pwritev", "pwritev64", pwritev64)

/* ---- to the disk ---------------------------------------------------------------------------------------------------------- */

#define REPLACE_SYNC(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, int fd) \
    { \
        FAIL(decide(CLASS_SYNC, symbol, fd, NULL), -1); \
        REAL(int, symbol, int); \
        return real(fd); \
    }
REPLACE_SYNC("fsync", fsync)
REPLACE_SYNC("fdatasync", fdatasync)

#define REPLACE_TRUNCATE(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, int fd, off64_t size) \
    { \
        FAIL(decide(CLASS_TRUNCATE, "ftruncate", fd, NULL), -1); \
        REAL(int, "ftruncate64", int, off64_t); \
        return real(fd, size); \
    }
REPLACE_TRUNCATE("ftruncate", ftruncate)
REPLACE_TRUNCATE("ftruncate64", ftruncate64)

#define REPLACE_FALLOCATE(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, int fd, off64_t offset, off64_t size) \
    { \
        const int verdict = decide(CLASS_TRUNCATE, "fallocate", fd, NULL); \
        REAL(int, "posix_fallocate64", int, off64_t, off64_t); \
        return verdict > 0 ? verdict : real(fd, offset, size); \
    }
REPLACE_FALLOCATE("posix_fallocate", posix_fallocate)
REPLACE_FALLOCATE("posix_fallocate64", posix_fallocate64)

/* The deed is done: a close that reports an error has closed. */
REPLACE(int, layer_close, "close", int fd)
{
    const int verdict = decide(CLASS_CLOSE, "close", fd, NULL);
    REAL(int, "close", int);
    const int result = real(fd);
    FAIL(verdict, -1);
    return result;
}

/* ---- names ------------------------------------------------------------------------------------------------------------------ */

#define REPLACE_TWO_NAMES(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, const char *from, const char *to) \
    { \
        FAIL(decide(CLASS_NAME, symbol, -1, to), -1); \
        REAL(int, symbol, const char *, const char *); \
        return real(from, to); \
    }
REPLACE_TWO_NAMES("rename", rename)
REPLACE_TWO_NAMES("link", link)
REPLACE_TWO_NAMES("symlink", symlink)

#define REPLACE_ONE_NAME(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, const char *path) \
    { \
        FAIL(decide(CLASS_NAME, symbol, -1, path), -1); \
        REAL(int, symbol, const char *); \
        return real(path); \
    }
REPLACE_ONE_NAME("unlink", unlink)
REPLACE_ONE_NAME("rmdir", rmdir)

REPLACE(int, layer_mkdir, "mkdir", const char *path, mode_t mode)
{
    FAIL(decide(CLASS_NAME, "mkdir", -1, path), -1);
    REAL(int, "mkdir", const char *, mode_t);
    return real(path, mode);
}

#define REPLACE_STAT(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, const char *path, void *ret_status) \
    { \
        FAIL(decide(CLASS_LOOK, symbol, -1, path), -1); \
        REAL(int, symbol, const char *, void *); \
        return real(path, ret_status); \
    }
REPLACE_STAT("stat", stat)
REPLACE_STAT("stat64", stat64)
REPLACE_STAT("lstat", lstat)
REPLACE_STAT("lstat64", lstat64)

#define REPLACE_FSTAT(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, int fd, void *ret_status) \
    { \
        FAIL(decide(CLASS_LOOK, "fstat", fd, NULL), -1); \
        REAL(int, symbol, int, void *); \
        return real(fd, ret_status); \
    }
REPLACE_FSTAT("fstat", fstat)
REPLACE_FSTAT("fstat64", fstat64)

/* ---- sockets ---------------------------------------------------------------------------------------------------------------- */

REPLACE(int, layer_socket, "socket", int domain, int type, int protocol)
{
    FAIL(decide(CLASS_SOCKET, "socket", -1, NULL), -1);
    REAL(int, "socket", int, int, int);
    return real(domain, type, protocol);
}

REPLACE(int, layer_socketpair, "socketpair", int domain, int type, int protocol, int *ret_fds)
{
    FAIL(decide(CLASS_SOCKET, "socketpair", -1, NULL), -1);
    REAL(int, "socketpair", int, int, int, int *);
    return real(domain, type, protocol, ret_fds);
}

REPLACE(int, layer_bind, "bind", int fd, const struct sockaddr *address, socklen_t size)
{
    FAIL(decide(CLASS_SOCKET, "bind", fd, NULL), -1);
    REAL(int, "bind", int, const struct sockaddr *, socklen_t);
    return real(fd, address, size);
}

REPLACE(int, layer_listen, "listen", int fd, int backlog)
{
    FAIL(decide(CLASS_SOCKET, "listen", fd, NULL), -1);
    REAL(int, "listen", int, int);
    return real(fd, backlog);
}

/* Interrupted over TCP: the connection goes on being made. */
REPLACE(int, layer_connect, "connect", int fd, const struct sockaddr *address, socklen_t size)
{
    const int verdict = decide(CLASS_SOCKET, "connect", fd, NULL);
    REAL(int, "connect", int, const struct sockaddr *, socklen_t);
    if (verdict == EINTR && address->sa_family != AF_UNIX)
        (void)real(fd, address, size);
    FAIL(verdict, -1);
    return real(fd, address, size);
}

/* Aborted: the kernel takes the connection from the queue, and it is gone. */
REPLACE(int, layer_accept4, "accept4", int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    const int verdict = decide(CLASS_SOCKET, "accept4", fd, NULL);
    REAL(int, "accept4", int, struct sockaddr *, socklen_t *, int);
    if (verdict == ECONNABORTED) {
        const int taken = real(fd, address, size, flags);
        if (taken >= 0)
            (void)syscall(SYS_close, taken);
    }
    FAIL(verdict, -1);
    return real(fd, address, size, flags);
}

REPLACE(int, layer_getsockname, "getsockname", int fd, struct sockaddr *address, socklen_t *size)
{
    FAIL(decide(CLASS_SOCKET, "getsockname", fd, NULL), -1);
    REAL(int, "getsockname", int, struct sockaddr *, socklen_t *);
    return real(fd, address, size);
}

REPLACE(ssize_t, layer_send, "send", int fd, const void *data, size_t size, int flags)
{
    const int verdict = decide_transfer("send", fd);
    FAIL(verdict, -1);
    REAL(ssize_t, "send", int, const void *, size_t, int);
    return real(fd, data, shortened(verdict, size), flags);
}

REPLACE(ssize_t, layer_recv, "recv", int fd, void *data, size_t size, int flags)
{
    const int verdict = decide_transfer("recv", fd);
    FAIL(verdict, -1);
    REAL(ssize_t, "recv", int, void *, size_t, int);
    return real(fd, data, shortened(verdict, size), flags);
}

REPLACE(ssize_t, layer_recv_chk, "__recv_chk", int fd, void *data, size_t size, size_t room, int flags)
{
    return size > room ? (abort(), 0) : layer_recv(fd, data, size, flags);
}

#define REPLACE_MESSAGE(symbol, suffix, constness) \
    REPLACE(ssize_t, layer_##suffix, symbol, int fd, constness struct msghdr *message, int flags) \
    { \
        const int verdict = decide_transfer(symbol, fd); \
        FAIL(verdict, -1); \
        REAL(ssize_t, symbol, int, constness struct msghdr *, int); \
        if (verdict == SHORT_COUNT && message->msg_iovlen > 0) { \
            struct iovec half = { message->msg_iov[0].iov_base, shortened(verdict, message->msg_iov[0].iov_len) }; \
            struct msghdr less = *message; \
            less.msg_iov = &half; \
            less.msg_iovlen = 1; \
            return real(fd, &less, flags); \
        } \
        return real(fd, message, flags); \
    }
REPLACE_MESSAGE("sendmsg", sendmsg, const)
REPLACE_MESSAGE("recvmsg", recvmsg, )

/* ---- events ------------------------------------------------------------------------------------------------------------------ */

REPLACE(int, layer_epoll_create1, "epoll_create1", int flags)
{
    FAIL(decide(CLASS_EVENT, "epoll_create1", -1, NULL), -1);
    REAL(int, "epoll_create1", int);
    return real(flags);
}

REPLACE(int, layer_epoll_ctl, "epoll_ctl", int epoll, int operation, int fd, void *event)
{
    FAIL(decide(CLASS_EVENT, "epoll_ctl", fd, NULL), -1);
    REAL(int, "epoll_ctl", int, int, int, void *);
    return real(epoll, operation, fd, event);
}

REPLACE(int, layer_epoll_wait, "epoll_wait", int epoll, void *events, int count, int timeout)
{
    FAIL(decide(CLASS_EVENT, "epoll_wait", -1, NULL), -1);
    REAL(int, "epoll_wait", int, void *, int, int);
    return real(epoll, events, count, timeout);
}

REPLACE(int, layer_poll, "poll", void *fds, unsigned long count, int timeout)
{
    FAIL(decide(CLASS_EVENT, "poll", -1, NULL), -1);
    REAL(int, "poll", void *, unsigned long, int);
    return real(fds, count, timeout);
}

REPLACE(int, layer_poll_chk, "__poll_chk", void *fds, unsigned long count, int timeout, size_t room)
{
    (void)room;
    return layer_poll(fds, count, timeout);
}

REPLACE(int, layer_eventfd, "eventfd", unsigned value, int flags)
{
    FAIL(decide(CLASS_EVENT, "eventfd", -1, NULL), -1);
    REAL(int, "eventfd", unsigned, int);
    return real(value, flags);
}

REPLACE(int, layer_timerfd_create, "timerfd_create", int clock, int flags)
{
    FAIL(decide(CLASS_EVENT, "timerfd_create", -1, NULL), -1);
    REAL(int, "timerfd_create", int, int);
    return real(clock, flags);
}

REPLACE(int, layer_pipe, "pipe", int *ret_fds)
{
    FAIL(decide(CLASS_EVENT, "pipe", -1, NULL), -1);
    REAL(int, "pipe", int *);
    return real(ret_fds);
}

REPLACE(int, layer_pipe2, "pipe2", int *ret_fds, int flags)
{
    FAIL(decide(CLASS_EVENT, "pipe2", -1, NULL), -1);
    REAL(int, "pipe2", int *, int);
    return real(ret_fds, flags);
}

REPLACE(int, layer_inotify_init1, "inotify_init1", int flags)
{
    FAIL(decide(CLASS_EVENT, "inotify_init1", -1, NULL), -1);
    REAL(int, "inotify_init1", int);
    return real(flags);
}

REPLACE(int, layer_inotify_add_watch, "inotify_add_watch", int fd, const char *path, uint32_t mask)
{
    FAIL(decide(CLASS_EVENT, "inotify_add_watch", -1, path), -1);
    REAL(int, "inotify_add_watch", int, const char *, uint32_t);
    return real(fd, path, mask);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------------ */

#define REPLACE_MAP(symbol, suffix) \
    REPLACE(void *, layer_##suffix, symbol, void *address, size_t size, int protection, int flags, int fd, off64_t offset) \
    { \
        FAIL(decide(CLASS_MAP, "mmap", fd, NULL), MAP_FAILED); \
        REAL(void *, "mmap64", void *, size_t, int, int, int, off64_t); \
        return real(address, size, protection, flags, fd, offset); \
    }
REPLACE_MAP("mmap", mmap)
REPLACE_MAP("mmap64", mmap64)

REPLACE(int, layer_mlock, "mlock", const void *address, size_t size)
{
    FAIL(decide(CLASS_MAP, "mlock", -1, NULL), -1);
    REAL(int, "mlock", const void *, size_t);
    return real(address, size);
}

REPLACE(int, layer_pthread_create, "pthread_create", pthread_t *ret_thread, const pthread_attr_t *attributes, void *(*main)(void *), void *argument)
{
    const int verdict = decide(CLASS_THREAD, "pthread_create", -1, NULL);
    REAL(int, "pthread_create", pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    return verdict > 0 ? verdict : real(ret_thread, attributes, main, argument);
}

REPLACE(pid_t, layer_fork, "fork", void)
{
    FAIL(decide(CLASS_THREAD, "fork", -1, NULL), -1);
    REAL(pid_t, "fork", void);
    return real();
}

REPLACE(int, layer_flock, "flock", int fd, int operation)
{
    if ((operation & LOCK_UN) == 0)
        FAIL(decide(CLASS_LOCK, "flock", fd, NULL), -1);
    REAL(int, "flock", int, int);
    return real(fd, operation);
}

/* Letting go never fails. */
static int takes_lock(int command, const void *argument)
{
    return (command == F_SETLK || command == F_SETLKW) && ((const struct flock *)argument)->l_type != F_UNLCK;
}

#define REPLACE_FCNTL(symbol, suffix) \
    REPLACE(int, layer_##suffix, symbol, int fd, int command, void *argument) \
    { \
        if (takes_lock(command, argument)) \
            FAIL(decide(CLASS_LOCK, "fcntl", fd, NULL), -1); \
        REAL(int, "fcntl64", int, int, ...); \
        return real(fd, command, argument); \
    }
REPLACE_FCNTL("fcntl", fcntl)
REPLACE_FCNTL("fcntl64", fcntl64)

REPLACE(int, layer_getentropy, "getentropy", void *data, size_t size)
{
    FAIL(decide(CLASS_RANDOM, "getentropy", -1, NULL), -1);
    REAL(int, "getentropy", void *, size_t);
    return real(data, size);
}

REPLACE(ssize_t, layer_getrandom, "getrandom", void *data, size_t size, unsigned flags)
{
    const int verdict = decide(CLASS_RANDOM, "getrandom", -1, NULL);
    FAIL(verdict, -1);
    REAL(ssize_t, "getrandom", void *, size_t, unsigned);
    return real(data, shortened(verdict, size), flags);
}

REPLACE(int, layer_nanosleep, "nanosleep", const struct timespec *wanted, struct timespec *ret_left)
{
    FAIL(decide(CLASS_EVENT, "nanosleep", -1, NULL), -1);
    REAL(int, "nanosleep", const struct timespec *, struct timespec *);
    return real(wanted, ret_left);
}
