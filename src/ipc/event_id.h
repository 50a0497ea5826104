/* The ids of events: <inbox epoch>-<seq>-<n> (20-ipc, GET /v1/events). Pure. */
#ifndef IPC_EVENT_ID_H
#define IPC_EVENT_ID_H

#include <stdint.h>

#include "util/attributes.h"

enum { EVENT_EPOCH_SIZE = 65, EVENT_ID_SIZE = 112 }; /* with the NUL */
struct event_id {
    char epoch[EVENT_EPOCH_SIZE]; /* letters and digits; ours are 16 hex digits */
    int64_t seq, n;
};

int event_id_parse(const char *text, struct event_id *ret_id) MUST_CHECK; /* -1: out of shape */
void event_id_format(const char *epoch, int64_t seq, int64_t n, char ret_text[static EVENT_ID_SIZE]);

#endif
