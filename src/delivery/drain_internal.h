/* What drain.c, flights.c and lanes.c share. */
#ifndef DELIVERY_DRAIN_INTERNAL_H
#define DELIVERY_DRAIN_INTERNAL_H

#include <sys/queue.h>

#include "delivery/drain.h"
#include "util/buffer.h"

/* ---- lanes ---------------------------------------------------------------------------------------------------- */

enum lane_state {
    LANE_FREE,    /* its rows go with the cursor */
    LANE_WAITING, /* backoff: until due_ms, and until nothing of it is in the air */
    LANE_CATCHING /* its skipped rows are being fetched */
};
struct lane {
    LIST_ENTRY(lane) bucket;
    TAILQ_ENTRY(lane) entry; /* in lanes.waiting or lanes.catching */
    char *destination_ref;
    enum outbox_priority priority;
    enum lane_state state;
    unsigned flights;     /* in the air, or on their way back to `pending` in the database */
    int64_t delay_ms;     /* newest backoff; 0: none since a success */
    int64_t due_ms;       /* monotonic */
    int64_t resume_after; /* its rows up to here are dealt with; INT64_MAX: none was skipped */
    int64_t last_skipped; /* -1 none */
    int64_t holder_seq;   /* refused for now on this connection and not decided since: the broker holds the others for it. -1 none */
};
LIST_HEAD(lane_bucket, lane);
TAILQ_HEAD(lane_queue, lane);
enum { LANE_BUCKETS = 256 };
struct lanes {
    struct lane_bucket buckets[LANE_BUCKETS];
    struct lane_queue waiting;
    struct lane_queue catching[PRIORITIES];
};
void lanes_init(struct lanes *lanes);
void lanes_release(struct lanes *lanes);
struct lane *lanes_find(struct lanes *lanes, enum outbox_priority priority, const char *destination_ref); /* NULL: an ordinary lane */
struct lane *lanes_get(struct lanes *lanes, enum outbox_priority priority, const char *destination_ref);
void lanes_skip(struct lane *lane, int64_t seq); /* this row was passed over: to be fetched later */
void lanes_wait(struct lanes *lanes, struct lane *lane, int64_t delay_ms, int64_t now_ms);
/* Waiting lanes that are due and have nothing in the air start to catch up, or are free when nothing was skipped. Returns the ms until the next is due; -1: none waits. */
int64_t lanes_wake(struct lanes *lanes, int64_t now_ms);
struct lane *lanes_next_catching(struct lanes *lanes, enum outbox_priority priority);
void lanes_caught_up(struct lanes *lanes, struct lane *lane); /* may free the lane */
void lanes_land(struct lane *lane);                           /* one flight less; may free the lane */
/* The cursors start again: nothing is skipped any more. Backoff stays. */
void lanes_rewind(struct lanes *lanes);

/* ---- flights -------------------------------------------------------------------------------------------------- */

enum flight_state {
    FLIGHT_GATHERED, /* its mark is not yet queued: still `pending` in the database. In the queue */
    FLIGHT_MARKING,  /* its mark is queued. In the queue */
    FLIGHT_READY,    /* to be written as soon as it is its turn. In the queue */
    FLIGHT_AWAITING, /* written. In awaiting */
    FLIGHT_SETTLING  /* on its way back to `pending`. In settling, and no longer found by id */
};
struct flight {
    LIST_ENTRY(flight) bucket;
    TAILQ_ENTRY(flight) entry;
    int64_t seq;
    char *client_message_id;
    struct lane *lane;
    enum flight_state state;
    bool fast;           /* from memory: ready as soon as its mark is queued */
    struct buffer frame; /* until written */
    struct sha256 content;
    int64_t written_ms; /* monotonic */
};
LIST_HEAD(flight_bucket, flight);
TAILQ_HEAD(flight_queue, flight);
enum { FLIGHT_BUCKETS = 512 };
struct flights {
    struct flight_bucket buckets[FLIGHT_BUCKETS];
    struct flight_queue queue, awaiting, settling;
    size_t in_air;       /* queue and awaiting */
    size_t queued_bytes; /* frames in the queue */
};
void flights_init(struct flights *flights);
void flights_release(struct flights *flights);
struct flight *flights_add(struct flights *flights, const struct outbox_row *row, struct lane *lane, bool fast,
                           struct buffer *frame /* taken over */, const struct sha256 *content);
struct flight *flights_find(struct flights *flights, const char *client_message_id);
struct flight *flights_find_seq(struct flights *flights, int64_t seq); /* queue and awaiting */
void flights_written(struct flights *flights, struct flight *flight, int64_t now_ms);
void flights_settle(struct flights *flights, struct flight *flight);
void flights_remove(struct flights *flights, struct flight *flight); /* frees; the lane is the caller's */

/* ---- drain ---------------------------------------------------------------------------------------------------- */

struct move_list {
    struct outbox_move *items;
    size_t count, capacity;
};

struct cursor {
    int64_t after_seq; /* every pending row up to here is in the air, or skipped and remembered by its lane */
    bool caught_up;    /* there are no others: what comes next is told by drain_inserted */
    bool missed;       /* told of a row while a page was being read, which may not have it */
};

struct drain {
    struct drain_options options;
    struct flights flights;
    struct lanes lanes;
    struct drain_figures figures;
    struct cursor cursors[PRIORITIES];

    bool open, stopping, paused, freed;
    bool recovering; /* the link was lost, and rows are still on their way back to `pending` */
    bool was_idle;
    uint64_t generation;  /* of the link: what was asked in an older one comes back to nothing */
    unsigned outstanding; /* calls that will still come back: the memory stays until then */
    int64_t max_age_ms;
    size_t page_rows;

    bool fetching;
    size_t reserved; /* places in the window kept for the page that is being read */

    struct move_list marks;   /* not durable: pending → inflight */
    struct move_list settles; /* everything else */
    unsigned settle_batches;  /* not yet back */
    bool flush_is_due;
    unsigned lookups; /* of late answers */

    struct loop_timer *lane_timer, *silence_timer, *fetch_timer;
};

void drain_hold(struct drain *drain);
void drain_let_go(struct drain *drain); /* may free */
struct outbox_move *drain_add_move(struct drain *drain, struct move_list *list, int64_t seq, enum outbox_event event);
void drain_schedule_flush(struct drain *drain); /* at the end of this turn of the loop */
void drain_flush(struct drain *drain);
void drain_write_ready(struct drain *drain);
void drain_pump(struct drain *drain);

/* answers.c */
void drain_settled(void *drain, struct outbox_move *moves, size_t count);
void drain_silence_fired(void *drain);

#endif
