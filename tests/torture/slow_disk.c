/* A disk that takes its time, for LD_PRELOAD: the first write of a transaction, and each sync, waits up to CLAUDEMESH_SLOW_DISK_US before it is made. What a kill takes away is what was not
 * written yet, and on a fast machine the moment between an answer and that write is too short to be met; this makes it as long as it may be on a slow one. Changes nothing else. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* SQLite writes with pwrite, and this program's other files are not: what follows a sync of the same thread begins a transaction. */
static _Thread_local bool has_written;

static void take_time(void)
{
    const char *text = getenv("CLAUDEMESH_SLOW_DISK_US");
    unsigned long most = text == NULL ? 0 : strtoul(text, NULL, 10);
    struct timespec now;
    if (most == 0 || clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        return;
    /* The low digits of the time are random enough, and take no lock. */
    unsigned long wait_us = (unsigned long)now.tv_nsec / 7 % most;
    struct timespec wait = { .tv_sec = (time_t)(wait_us / 1000000), .tv_nsec = (long)(wait_us % 1000000) * 1000 };
    (void)nanosleep(&wait, NULL);
}

/* The function that would have been called, into *ret_function: ISO C knows no cast between the two kinds of pointer. */
static void find_next(const char *name, void *ret_function, size_t size)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    if (symbol == NULL || size != sizeof symbol)
        abort();
    memcpy(ret_function, &symbol, size);
}

static int sync_next(const char *name, int fd)
{
    int (*next)(int);
    find_next(name, &next, sizeof next);
    has_written = false;
    take_time();
    return next(fd);
}

int fsync(int fd)
{
    return sync_next("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_next("fdatasync", fd);
}

static ssize_t write_next(const char *name, int fd, const void *data, size_t size, off_t offset)
{
    ssize_t (*next)(int, const void *, size_t, off_t);
    find_next(name, &next, sizeof next);
    if (!has_written)
        take_time();
    has_written = true;
    return next(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return write_next("pwrite", fd, data, size, offset);
}

#ifdef __USE_LARGEFILE64
_Static_assert(sizeof(off_t) == sizeof(off64_t), "the two are one");

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    return write_next("pwrite64", fd, data, size, (off_t)offset);
}
#endif
