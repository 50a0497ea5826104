/* How many descriptors the process may have. */
#ifndef UTIL_DESCRIPTORS_H
#define UTIL_DESCRIPTORS_H

#include <stddef.h>

/* Raises the soft limit towards `wanted`, as far as the hard one lets it. Returns what is allowed then: more than `wanted` when it was. */
size_t descriptors_allow(size_t wanted);

#endif
