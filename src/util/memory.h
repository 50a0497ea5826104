/* Allocation. A small allocation that fails ends the process with one clear line
 * on stderr and exit status 70 (docs/decisions/0003): nothing was answered 2xx that
 * is not on disk, so a restart loses nothing. Sizes that a peer or a caller chooses
 * are bounded by util/limits.h before they get here. Any thread. */
#ifndef UTIL_MEMORY_H
#define UTIL_MEMORY_H

#include <stddef.h>

#include "util/attributes.h"

void *memory_alloc(size_t size) MUST_CHECK;                /* uninitialised */
void *memory_zalloc(size_t size) MUST_CHECK;               /* zeroed */
void *memory_calloc(size_t count, size_t size) MUST_CHECK; /* zeroed; overflow ends the process */
void *memory_realloc(void *pointer, size_t size) MUST_CHECK;
void *memory_dup(const void *data, size_t size) MUST_CHECK;
char *memory_strdup(const char *text) MUST_CHECK; /* NULL gives NULL */
char *memory_strndup(const char *text, size_t size) MUST_CHECK;
char *memory_printf(const char *format, ...) ATTRIBUTE_PRINTF(1, 2) MUST_CHECK;

/* Overwrites with zeros in a way that the compiler keeps. */
void memory_wipe(void *data, size_t size);

/* Routes jansson's and libevent's failures the same way is the callers' matter;
 * this one only says "out of memory" and exits 70. */
NO_RETURN void memory_exhausted(void);

#endif
