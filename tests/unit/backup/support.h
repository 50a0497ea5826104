/* A directory of the test's own, and whole files as bytes. */
#ifndef TESTS_BACKUP_SUPPORT_H
#define TESTS_BACKUP_SUPPORT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backup/format.h"
#include "util/memory.h"

static const struct passphrase_cost CHEAP = { 1, 8192 };

struct place {
    char directory[64];
    char *file;
};

static inline int place_set_up(void **state)
{
    struct place *place = memory_zalloc(sizeof(*place));
    (void)snprintf(place->directory, sizeof(place->directory), "/tmp/claudemesh-test-XXXXXX");
    if (mkdtemp(place->directory) == NULL || crypto_start(NULL) != 0) {
        return -1;
    }
    place->file = path_join(place->directory, "the.backup");
    *state = place;
    return 0;
}
static inline int place_tear_down(void **state)
{
    struct place *place = *state;
    int result = tree_remove(place->directory, NULL);
    free(place->file);
    free(place);
    return result;
}

static inline struct buffer bytes_of(const char *path)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(path, &bytes, NULL), 0);
    return bytes;
}
static inline void write_bytes(const char *path, const void *data, size_t size)
{
    assert_int_equal(file_write_atomic(path, 0600, data, size, NULL), 0);
}

#endif
