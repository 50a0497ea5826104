/* A link's phases and what moves it between them, as data (docs/architecture.md, State as data), and its times. Pure: no sockets, no clock. */
#include "link/link_internal.h"

/* A cell that is not written is zero, and a hole: nothing ever moves back to PHASE_IDLE, and no phase shows LINK_IDLE again, so zero can say "refused" and "as before".
 *
 * A link that waits or is refused shows that until it is open again: an attempt to mend it is no news. */
const struct link_move LINK_MOVES[PHASES][EVENTS] = {
    [PHASE_IDLE] = {
        [EVENT_START] = { PHASE_CONNECTING, LINK_CONNECTING },
        [EVENT_REVOKED] = { PHASE_CLOSED, LINK_CLOSED },
        [EVENT_STOPPED] = { PHASE_CLOSED, LINK_CLOSED },
    },
    [PHASE_CONNECTING] = {
        [EVENT_UPGRADED] = { .next = PHASE_GREETING },
        [EVENT_REFUSED] = { PHASE_REFUSED, LINK_REFUSED },
        [EVENT_LOST] = { PHASE_WAITING, LINK_RECONNECTING },
        [EVENT_REVOKED] = { PHASE_CLOSED, LINK_CLOSED },
        [EVENT_STOPPED] = { PHASE_CLOSED, LINK_CLOSED },
    },
    [PHASE_GREETING] = {
        [EVENT_WELCOMED] = { .next = PHASE_NEGOTIATING },
        [EVENT_AGAIN] = { .next = PHASE_CONNECTING },
        [EVENT_REFUSED] = { PHASE_REFUSED, LINK_REFUSED },
        [EVENT_LOST] = { PHASE_WAITING, LINK_RECONNECTING },
        [EVENT_REVOKED] = { PHASE_CLOSED, LINK_CLOSED },
        [EVENT_STOPPED] = { PHASE_CLOSED, LINK_CLOSED },
    },
    [PHASE_NEGOTIATING] = {
        [EVENT_AGREED] = { PHASE_OPEN, LINK_OPEN },
        [EVENT_REFUSED] = { PHASE_REFUSED, LINK_REFUSED },
        [EVENT_LOST] = { PHASE_WAITING, LINK_RECONNECTING },
        [EVENT_REVOKED] = { PHASE_CLOSED, LINK_CLOSED },
        [EVENT_STOPPED] = { PHASE_CLOSED, LINK_CLOSED },
    },
    [PHASE_OPEN] = {
        [EVENT_REFUSED] = { PHASE_REFUSED, LINK_REFUSED },
        [EVENT_LOST] = { PHASE_WAITING, LINK_RECONNECTING },
        [EVENT_REVOKED] = { PHASE_CLOSED, LINK_CLOSED },
        [EVENT_STOPPED] = { PHASE_CLOSED, LINK_CLOSED },
    },
    [PHASE_WAITING] = {
        [EVENT_RETRY] = { .next = PHASE_CONNECTING },
        [EVENT_REVOKED] = { PHASE_CLOSED, LINK_CLOSED },
        [EVENT_STOPPED] = { PHASE_CLOSED, LINK_CLOSED },
    },
    [PHASE_REFUSED] = {
        [EVENT_RETRY] = { .next = PHASE_CONNECTING },
        [EVENT_REVOKED] = { PHASE_CLOSED, LINK_CLOSED },
        [EVENT_STOPPED] = { PHASE_CLOSED, LINK_CLOSED },
    },
};

static const char *const PHASE_NAMES[PHASES] = {
    [PHASE_IDLE] = "idle", [PHASE_CONNECTING] = "connecting", [PHASE_GREETING] = "greeting", [PHASE_NEGOTIATING] = "negotiating",
    [PHASE_OPEN] = "open", [PHASE_WAITING] = "waiting",       [PHASE_REFUSED] = "refused",   [PHASE_CLOSED] = "closed",
};

static const char *const STATE_NAMES[LINK_STATES] = {
    [LINK_IDLE] = "idle",     [LINK_CONNECTING] = "connecting", [LINK_OPEN] = "open", [LINK_RECONNECTING] = "reconnecting",
    [LINK_CLOSED] = "closed", [LINK_REFUSED] = "refused",
};

const struct link_times LINK_TIMES = {
    .connect = 15000,
    .hello = 10000,
    .refusal = 2000,
    .negotiation = 5000,
    .request = 15000,
    .refused_retry = 300000,
    .replaced_initial = 30000,
    .replaced_maximum = 600000,
    .replaced_calm = 300000,
};

const char *link_phase_name(enum link_phase phase)
{
    return PHASE_NAMES[phase];
}

const char *link_state_name(enum link_state state)
{
    return STATE_NAMES[state];
}
