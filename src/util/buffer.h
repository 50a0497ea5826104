/* A growing byte buffer with a maximum. The bytes are always followed by a NUL that
 * does not count, so `data` can be used as a C string when the content has none. */
#ifndef UTIL_BUFFER_H
#define UTIL_BUFFER_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

#include "util/attributes.h"

struct buffer {
    char *data; /* never NULL after init; NUL-terminated at data[length] */
    size_t length;
    size_t capacity;
    size_t maximum; /* appending past it sets `overflow` and adds nothing */
    bool overflow;  /* sticky until buffer_reset: until then nothing is added any more */
    bool secret;    /* old memory is overwritten whenever the buffer moves */
};

#define BUFFER_UNLIMITED SIZE_MAX

void buffer_init(struct buffer *buffer, size_t maximum);
/* For secrets: growing leaves no copy behind, and both kinds of release overwrite. */
void buffer_init_secret(struct buffer *buffer, size_t maximum);
void buffer_release(struct buffer *buffer);      /* takes NULL and zeroed structs */
void buffer_wipe_release(struct buffer *buffer); /* for secrets: overwritten first */
void buffer_reset(struct buffer *buffer);        /* keeps the memory */

/* All append functions return 0, or -1 when the maximum would be passed (then nothing was
 * added and overflow is set): a caller may check once, at the end. */
int buffer_append(struct buffer *buffer, const void *data, size_t size);
int buffer_append_text(struct buffer *buffer, const char *text);
int buffer_append_byte(struct buffer *buffer, char byte);
int buffer_printf(struct buffer *buffer, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);
/* A quoted JSON string; the input is valid UTF-8 (invalid bytes become U+FFFD). */
int buffer_append_json_string(struct buffer *buffer, const char *text, size_t size);
/* Room for `size` more bytes to be written by hand; NULL past the maximum. Follow with
 * buffer_commit. */
char *buffer_reserve(struct buffer *buffer, size_t size);
void buffer_commit(struct buffer *buffer, size_t size);
/* Removes `size` bytes from the front. */
void buffer_consume(struct buffer *buffer, size_t size);
/* Hands the memory to the caller (free with free()) and leaves an empty buffer. */
char *buffer_take(struct buffer *buffer, size_t *ret_length);

#endif
