/* Included before every source file of ours (meson.build): functions that must not compile (STYLE 16). The system headers that declare
 * them come first; after that the names are poison. Parse numbers with util/text.h. */
#ifndef UTIL_BANNED_H
#define UTIL_BANNED_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <wchar.h>

/* Fortified headers make macros of these two for clang, and poisoning a macro is warned about. */
#undef sprintf
#undef vsprintf

#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol atoll gets system strtol strtoul strtoll strtoull

#endif
