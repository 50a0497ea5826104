/* Owns the tables: which event moves which state where, and how a send whose id has a row is answered (30-delivery, Outbox and Accepting a
 * send). Every cell is written out: what is forgotten would read as `pending`. Must not touch a row. */
#include "outbox/states.h"

#include "util/text.h"

#define HOLE OUTBOX_STATES

const enum outbox_state OUTBOX_MOVES[OUTBOX_STATES][OUTBOX_EVENTS] = {
    [OUTBOX_PENDING] = {
        [OUTBOX_EVENT_SENT] = OUTBOX_INFLIGHT,
        [OUTBOX_EVENT_ACCEPTED] = OUTBOX_DONE,
        [OUTBOX_EVENT_RETRY] = HOLE,
        [OUTBOX_EVENT_REFUSED] = OUTBOX_DEAD,
        [OUTBOX_EVENT_EXPIRED] = OUTBOX_DEAD,
        [OUTBOX_EVENT_RETIRED] = OUTBOX_ABORTED,
        [OUTBOX_EVENT_FORCED] = OUTBOX_ABORTED,
    },
    [OUTBOX_INFLIGHT] = {
        [OUTBOX_EVENT_SENT] = HOLE,
        [OUTBOX_EVENT_ACCEPTED] = OUTBOX_DONE,
        [OUTBOX_EVENT_RETRY] = OUTBOX_PENDING,
        [OUTBOX_EVENT_REFUSED] = OUTBOX_DEAD,
        [OUTBOX_EVENT_EXPIRED] = HOLE, /* it may have been accepted: the answer decides */
        [OUTBOX_EVENT_RETIRED] = HOLE, /* it may have been sent: only with force */
        [OUTBOX_EVENT_FORCED] = OUTBOX_ABORTED,
    },
    [OUTBOX_DONE] = {
        [OUTBOX_EVENT_SENT] = HOLE,
        [OUTBOX_EVENT_ACCEPTED] = HOLE,
        [OUTBOX_EVENT_RETRY] = HOLE,
        [OUTBOX_EVENT_REFUSED] = HOLE,
        [OUTBOX_EVENT_EXPIRED] = HOLE,
        [OUTBOX_EVENT_RETIRED] = HOLE,
        [OUTBOX_EVENT_FORCED] = HOLE,
    },
    [OUTBOX_DEAD] = {
        [OUTBOX_EVENT_SENT] = HOLE,
        [OUTBOX_EVENT_ACCEPTED] = HOLE, /* logged, changes nothing */
        [OUTBOX_EVENT_RETRY] = HOLE,
        [OUTBOX_EVENT_REFUSED] = HOLE,
        [OUTBOX_EVENT_EXPIRED] = HOLE,
        [OUTBOX_EVENT_RETIRED] = OUTBOX_ABORTED,
        [OUTBOX_EVENT_FORCED] = OUTBOX_ABORTED,
    },
    [OUTBOX_ABORTED] = {
        [OUTBOX_EVENT_SENT] = HOLE,
        [OUTBOX_EVENT_ACCEPTED] = HOLE,
        [OUTBOX_EVENT_RETRY] = HOLE,
        [OUTBOX_EVENT_REFUSED] = HOLE,
        [OUTBOX_EVENT_EXPIRED] = HOLE,
        [OUTBOX_EVENT_RETIRED] = HOLE,
        [OUTBOX_EVENT_FORCED] = HOLE,
    },
};

/* What a loss of power may undo: a row that reads `pending` again is sent again, and the broker knows it. */
const bool OUTBOX_EVENT_DURABLE[OUTBOX_EVENTS] = {
    [OUTBOX_EVENT_SENT] = false,   [OUTBOX_EVENT_ACCEPTED] = true, [OUTBOX_EVENT_RETRY] = false, [OUTBOX_EVENT_REFUSED] = true,
    [OUTBOX_EVENT_EXPIRED] = true, [OUTBOX_EVENT_RETIRED] = true,  [OUTBOX_EVENT_FORCED] = true,
};

const struct accept_cell ACCEPT_NEW = { ACCEPT_STORED, 202, "queued", NULL };

const struct accept_cell ACCEPT_TABLE[OUTBOX_STATES][2] = {
    [OUTBOX_PENDING] = { { ACCEPT_CONFLICT_MISMATCH, 409, NULL, "outbox_pending_fingerprint_mismatch" },
                         { ACCEPT_DUPLICATE_QUEUED, 202, "queued", NULL } },
    [OUTBOX_INFLIGHT] = { { ACCEPT_CONFLICT_MISMATCH, 409, NULL, "outbox_inflight_fingerprint_mismatch" },
                          { ACCEPT_DUPLICATE_INFLIGHT, 202, "inflight", NULL } },
    [OUTBOX_DONE] = { { ACCEPT_CONFLICT_MISMATCH, 409, NULL, "outbox_done_fingerprint_mismatch" },
                      { ACCEPT_DUPLICATE_DONE, 200, "done", NULL } },
    [OUTBOX_DEAD] = { { ACCEPT_CONFLICT_MISMATCH, 409, NULL, "outbox_dead_fingerprint_mismatch" },
                      { ACCEPT_CONFLICT_MATCH, 409, NULL, "outbox_dead_fingerprint_match" } },
    [OUTBOX_ABORTED] = { { ACCEPT_CONFLICT_MISMATCH, 409, NULL, "outbox_aborted_fingerprint_mismatch" },
                         { ACCEPT_CONFLICT_MATCH, 409, NULL, "outbox_aborted_fingerprint_match" } },
};

static const char *const STATE_NAMES[OUTBOX_STATES] = {
    [OUTBOX_PENDING] = "pending", [OUTBOX_INFLIGHT] = "inflight", [OUTBOX_DONE] = "done",
    [OUTBOX_DEAD] = "dead",       [OUTBOX_ABORTED] = "aborted",
};
static const char *const PRIORITY_NAMES[PRIORITIES] = { [PRIORITY_NOW] = "now", [PRIORITY_NEXT] = "next", [PRIORITY_LOW] = "low" };

const char *outbox_state_name(enum outbox_state state)
{
    return (unsigned)state < OUTBOX_STATES ? STATE_NAMES[state] : "unknown";
}

bool outbox_state_parse(const char *name, enum outbox_state *ret_state)
{
    for (unsigned state = 0; name != NULL && state < OUTBOX_STATES; state++) {
        if (string_equal(name, STATE_NAMES[state])) {
            *ret_state = (enum outbox_state)state;
            return true;
        }
    }
    return false;
}

const char *priority_name(enum outbox_priority priority)
{
    return (unsigned)priority < PRIORITIES ? PRIORITY_NAMES[priority] : "unknown";
}

bool priority_parse(const char *name, enum outbox_priority *ret_priority)
{
    for (unsigned priority = 0; name != NULL && priority < PRIORITIES; priority++) {
        if (string_equal(name, PRIORITY_NAMES[priority])) {
            *ret_priority = (enum outbox_priority)priority;
            return true;
        }
    }
    return false;
}
