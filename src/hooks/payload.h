/* What a hook reads on its stdin (60-hooks, The contract). Pure. */
#ifndef HOOKS_PAYLOAD_H
#define HOOKS_PAYLOAD_H

#include <jansson.h>

#include "util/buffer.h"

/* The event, without the redacted paths, as one JSON object of at most `maximum` bytes (1,024 or more): longer ones lose the ends of their longest texts, then
 * whole members, and get "_truncated":true. A path's parts are the names of members; it also leads through lists (to each of their items) and into a text
 * that is itself a JSON object, as a message's body may be. `ret_text` is initialised by the caller. */
void hook_payload_print(const json_t *event, char *const *redact, size_t redact_count, size_t maximum, struct buffer *ret_text);

#endif
