/* For the targets of frames: comparing what was read with what was read of what was printed. */
#ifndef FUZZ_FRAMES_FUZZ_H
#define FUZZ_FRAMES_FUZZ_H

#include "fuzz_json.h"
#include "proto/frames.h"

static inline bool json_same(const json_t *a, const json_t *b)
{
    return a == NULL || b == NULL ? a == b : json_equal(a, b) != 0;
}

/* A parser that refused left its struct as it was. */
#define REQUIRE_UNTOUCHED(value)                                                   \
    do {                                                                           \
        for (size_t at_ = 0; at_ < sizeof(value); at_++)                           \
            REQUIRE(((const unsigned char *)(const void *)&(value))[at_] == 0xA5); \
    } while (0)

#endif
