/* A file in memory with a path, for parsers that read files. */
#ifndef FUZZ_MEMORY_FILE_H
#define FUZZ_MEMORY_FILE_H

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

/* The path is good as long as the process lives; the file is this user's alone. */
static inline const char *memory_file_write(const void *data, size_t size)
{
    static int fd = -1;
    static char path[32];

    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        REQUIRE(fd >= 0 && fchmod(fd, 0600) == 0);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    REQUIRE(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    return path;
}

#endif
