/* What the fuzz targets share: demands that end the process, and taking an input apart. A target is one file <name>_fuzz.c with one LLVMFuzzerTestOneInput; libFuzzer drives it (`make fuzz`),
 * and replay.c runs it over tests/fuzz/corpus/<name> and tests/fuzz/findings/<name> as a unit test. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

NO_RETURN static inline void fuzz_failed(const char *condition, const char *file, int line)
{
    (void)fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

/* Not assert: it stays in every build. */
#define REQUIRE(condition) ((condition) ? (void)0 : fuzz_failed(#condition, __FILE__, __LINE__))

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

/* 0 at the end. */
static inline uint8_t fuzz_take_byte(struct fuzz_input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->at++;
}

/* Up to the next separator, which is taken too, as a heap string of exactly its size: reading past it is seen. A zero byte in it ends it for C. */
static inline char *fuzz_take_string(struct fuzz_input *input, uint8_t separator)
{
    const uint8_t *end = memchr(input->at, separator, input->left);
    const size_t length = end == NULL ? input->left : (size_t)(end - input->at);
    char *text = memory_alloc(length + 1);
    memcpy(text, input->at, length);
    text[length] = '\0';
    const size_t taken = end == NULL ? length : length + 1;
    input->at += taken;
    input->left -= taken;
    return text;
}

/* All that is left, in a block of exactly its size. */
static inline char *fuzz_take_rest(struct fuzz_input *input, size_t *ret_size)
{
    char *bytes = memory_dup(input->at, input->left);
    *ret_size = input->left;
    input->at += input->left;
    input->left = 0;
    return bytes;
}

#endif
