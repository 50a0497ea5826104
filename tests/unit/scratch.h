/* A directory of a test's own, gone afterwards with all that is in it. Include after cmocka.h. */
#ifndef TESTS_UNIT_SCRATCH_H
#define TESTS_UNIT_SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static inline char *scratch_make(void)
{
    const char *parent = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/claudemesh-test-XXXXXX", parent == NULL ? "/tmp" : parent) < 0 || mkdtemp(path) == NULL) {
        abort();
    }
    return path;
}

static inline int scratch_remove_entry(const char *path, const struct stat *status, int kind, struct FTW *position)
{
    (void)status;
    (void)kind;
    (void)position;
    return remove(path);
}

static inline void scratch_remove(char *path)
{
    if (path != NULL) {
        (void)nftw(path, scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        free(path);
    }
}

#endif
