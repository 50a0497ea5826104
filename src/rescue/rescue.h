/* `daemon recover` (50-identity; 30-delivery, Crash recovery; docs/decisions/0014): what is wrong with the two databases, and what of a damaged one can still be read, in a new file.
 * The damaged file is kept as it was under another name. Runs in the command's process, under the daemon's lock; starts nothing, sends nothing. Blocking. */
#ifndef RESCUE_RESCUE_H
#define RESCUE_RESCUE_H

#include "config/config.h"
#include "outbox/states.h"

enum rescue_verdict { RESCUE_ABSENT, RESCUE_WHOLE, RESCUE_DAMAGED };
enum { RESCUE_IDS_MAXIMUM = 1000 };

struct rescue_database {
    enum rescue_verdict verdict;
    char finding[ERROR_MESSAGE_SIZE]; /* what the check said */
    char *aside;                      /* where the damaged file lies now; NULL: it was not touched */
    int64_t rows;                     /* salvaged, of the main table */
    int64_t other_rows;               /* and of all others */
    int64_t bad_pages, bad_cells;     /* that could not be read, or led nowhere */
    int64_t lost;                     /* rows that only an index still knows of */
};

struct rescue_report {
    bool finished_earlier; /* a recovery that had been interrupted was brought to its end */
    struct rescue_database outbox, inbox;
    int64_t outbox_rows[OUTBOX_STATES]; /* salvaged, in the state that they had */
    int64_t outbox_lost[OUTBOX_STATES];
    int64_t without_payload; /* of these rows: aborted now, their ids stay taken */
    int64_t content_differs; /* dead now: what is to be sent is not what its fingerprint says */
    bool trust_damaged;      /* nothing is sent before the broker has listed the members again */
    bool rebuild_inbox;      /* at the next start the broker's history is asked for */
    char (*lost_ids)[27];    /* of outbox rows; the first RESCUE_IDS_MAXIMUM */
    size_t lost_id_count;
};
void rescue_report_release(struct rescue_report *report);

struct rescue_options {
    bool apply;         /* else it only looks */
    bool rebuild_inbox; /* ask for history although the inbox is whole */
};
/* ERROR_BUSY: a daemon runs. A crash in the middle leaves the old file whole under one of its two names, and the next call goes on. */
int rescue_run(const struct config_paths *paths, const struct rescue_options *options, struct rescue_report *ret_report,
               struct error *error) MUST_CHECK;

#endif
