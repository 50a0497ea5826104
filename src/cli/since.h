/* Times as people type them. Pure. */
#ifndef CLI_SINCE_H
#define CLI_SINCE_H

#include <stdint.h>

#include "util/error.h"
#include "util/text.h"

/* RFC 3339, or a span back from now: "10m", "2h", "3d" (10-cli, inbox). Gives RFC 3339 for the API. */
int since_parse(const char *text, int64_t now_ms, char ret_rfc3339[RFC3339_SIZE], struct error *error) MUST_CHECK;

#endif
