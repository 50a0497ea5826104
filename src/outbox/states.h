/* The outbox's states, the moves between them and the duplicate-reply table, as data (30-delivery; ARCHITECTURE, State as data). Pure. */
#ifndef OUTBOX_STATES_H
#define OUTBOX_STATES_H

#include <stdbool.h>

#include "util/attributes.h"

enum outbox_state { OUTBOX_PENDING, OUTBOX_INFLIGHT, OUTBOX_DONE, OUTBOX_DEAD, OUTBOX_ABORTED, OUTBOX_STATES };
enum outbox_priority { PRIORITY_NOW, PRIORITY_NEXT, PRIORITY_LOW, PRIORITIES };

enum outbox_event {
    OUTBOX_EVENT_SENT,     /* handed to the broker's connection: pending → inflight */
    OUTBOX_EVENT_ACCEPTED, /* 201 or 200: inflight → done; pending → done (late) */
    OUTBOX_EVENT_RETRY,    /* passing failure, link lost: inflight → pending */
    OUTBOX_EVENT_REFUSED,  /* final refusal: inflight → dead (pending → dead when late) */
    OUTBOX_EVENT_EXPIRED,  /* maximum age: pending → dead */
    OUTBOX_EVENT_RETIRED,  /* operator: pending, dead → aborted */
    OUTBOX_EVENT_FORCED,   /* operator with force: pending, inflight, dead → aborted */
    OUTBOX_EVENTS
};

/* OUTBOX_STATES marks a hole: refused. */
extern const enum outbox_state OUTBOX_MOVES[OUTBOX_STATES][OUTBOX_EVENTS];
extern const bool OUTBOX_EVENT_DURABLE[OUTBOX_EVENTS];

enum accept_outcome {
    ACCEPT_NO_ROW,             /* lookup only */
    ACCEPT_STORED,             /* 202 queued, duplicate false */
    ACCEPT_DUPLICATE_QUEUED,   /* 202 queued, duplicate true */
    ACCEPT_DUPLICATE_INFLIGHT, /* 202 inflight */
    ACCEPT_DUPLICATE_DONE,     /* 200 */
    ACCEPT_CONFLICT_MATCH,     /* 409 outbox_<state>_fingerprint_match */
    ACCEPT_CONFLICT_MISMATCH   /* 409 outbox_<state>_fingerprint_mismatch */
};
struct accept_cell {
    enum accept_outcome outcome;
    int http_status;
    const char *status;   /* "queued", "inflight", "done"; NULL for conflicts */
    const char *conflict; /* the whole word; NULL otherwise */
};
/* [state][same fingerprint and mesh ? 1 : 0] */
extern const struct accept_cell ACCEPT_TABLE[OUTBOX_STATES][2];
extern const struct accept_cell ACCEPT_NEW;

const char *outbox_state_name(enum outbox_state state);
bool outbox_state_parse(const char *name, enum outbox_state *ret_state) MUST_CHECK;
const char *priority_name(enum outbox_priority priority);
bool priority_parse(const char *name, enum outbox_priority *ret_priority) MUST_CHECK;

#endif
