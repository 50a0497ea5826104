/* Cursors of lists: opaque to clients, base64url of a direction and a place. Pure. */
#ifndef IPC_CURSOR_H
#define IPC_CURSOR_H

#include <stdint.h>

#include "util/attributes.h"
#include "util/buffer.h"

enum cursor_kind { CURSOR_INBOX_ASCENDING = 'a', CURSOR_INBOX_DESCENDING = 'd', CURSOR_OUTBOX = 'o', CURSOR_SEARCH = 's' };

/* Heap. */
char *cursor_encode(enum cursor_kind kind, int64_t seq) MUST_CHECK;
int cursor_decode(const char *text, enum cursor_kind *ret_kind, int64_t *ret_seq) MUST_CHECK; /* -1: not one of ours */

#endif
