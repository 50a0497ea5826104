/* The durable queue of sends (30-delivery: accept, outbox, requeue, drain's reads, maximum age, prune). Owns the tables `outbox` and `receipt` of
 * outbox.db; no HTTP, no sockets. All calls on the loop thread; results come back on the loop thread through the given callback. */
#ifndef OUTBOX_OUTBOX_H
#define OUTBOX_OUTBOX_H

#include "crypto/fingerprint.h"
#include "db/db.h"
#include "outbox/states.h"

extern const struct db_migration OUTBOX_MIGRATIONS[]; /* trust's tables are steps of the same list: see outbox/migrations.c */
extern const size_t OUTBOX_MIGRATION_COUNT;

struct outbox;
struct outbox_limits {
    int64_t max_rows;  /* rows with work left, and dead ones */
    int64_t max_bytes; /* the database file with its WAL */
};
/* Counts rows per mesh and status, turns `inflight` rows into `pending` (attempts + 1, due now; step 3 of Crash recovery). Blocking: start-up only. */
int outbox_open(struct db *db, const struct outbox_limits *limits, struct outbox **ret_outbox, struct error *error) MUST_CHECK;
/* After db_close and after its completions were run: until then tasks and the database's hooks use it. Takes NULL. */
void outbox_free(struct outbox *outbox);
void outbox_set_limits(struct outbox *outbox, const struct outbox_limits *limits); /* reload */
/* Once a second: tries again what a full disk kept from being committed, says when the pressure changed, and moves ids into their index when nothing else goes on. */
void outbox_poke(struct outbox *outbox);

/* One row. Heap, all fields owned by it. */
struct outbox_row {
    int64_t seq; /* acceptance order */
    char id[27]; /* ULID */
    char *client_message_id, *mesh, *destination_kind, *destination_ref, *reply_to_id, *meta /* JCS */, *mentions /* JCS */;
    enum outbox_priority priority;
    enum outbox_state state;
    struct fingerprint request_fingerprint, broker_fingerprint;
    char *payload;
    size_t payload_size;                                            /* also when the payload itself was not read */
    int64_t enqueued_at, next_attempt_at, delivered_at, aborted_at; /* ms; -1 null */
    int64_t attempts, history_id;                                   /* history_id -1 null */
    char *last_error, *broker_message_id, *aborted_by, *superseded_by;
};
void outbox_row_free(struct outbox_row *row);

/* ---- accept ------------------------------------------------------------------------------------------------ */

struct outbox_accept {
    struct db_task task; /* internal */
    struct outbox *outbox;
    bool refuse_new, reserves; /* internal */
    struct outbox_row *row;    /* the row to insert, id and enqueued_at filled in; taken over */
    bool lookup_only;          /* answer from the table; insert nothing when there is no row (outcome ACCEPT_NO_ROW) */
    /* results: */
    int status; /* 0; -ERROR_FULL (507); another negative error */
    struct error error;
    enum accept_outcome outcome;   /* the cell of the accept table */
    enum outbox_state found_state; /* when there was a row */
    struct outbox_row *found;      /* without payload; NULL when inserted. After ACCEPT_STORED `row` has its seq */
    void (*done)(struct outbox_accept *accept);
    void *argument;
};
/* One durable task in the writer: look up, act by ACCEPT_TABLE, insert only when there is no row. Free with outbox_accept_free in or after done.
 * 95 % of a limit: -ERROR_FULL for a new row only; ids that have a row are always answered. */
void outbox_accept(struct outbox_accept *accept);
struct outbox_accept *outbox_accept_new(struct outbox *outbox);
void outbox_accept_free(struct outbox_accept *accept); /* frees row and found when still set */

/* ---- moves (one function moves a row: old state in the WHERE, one changed row demanded; states.h) ------------------------- */

struct outbox_move { /* one element of a batch */
    int64_t seq;
    enum outbox_event event;
    char *broker_message_id; /* OUTBOX_EVENT_ACCEPTED, _LATE */
    int64_t history_id;
    char *error;             /* last_error */
    int64_t next_attempt_at; /* OUTBOX_EVENT_RETRY */
    struct sha256 content;   /* OUTBOX_EVENT_SENT: hash of nonce ‖ ciphertext of this attempt, kept for receipts */
    bool has_content;
    /* results: */
    enum outbox_state from, to;
    bool moved; /* false: the table has a hole there, or the row is gone; the caller logs it */
};
/* Takes the array (heap; with the strings in it) over and gives it to `done`, which may be NULL; freed after. Durable when any
 * event needs it (states.h says which). patient: see DB_PATIENT. A failed commit (disk full) is tried again by the outbox until it succeeds: a result is never dropped. What could not
 * be committed until the outbox is freed is given to `done` then, as not moved. */
void outbox_move_batch(struct outbox *outbox, struct outbox_move *moves, size_t count, bool patient,
                       void (*done)(void *argument, struct outbox_move *moves, size_t count), void *argument);

/* ---- drain's reads ---------------------------------------------------------------------------------------- */

struct outbox_fetch {
    const char *mesh;
    enum outbox_priority priority;
    const char *destination_ref;  /* NULL: any */
    int64_t after_seq, up_to_seq; /* (after, up_to]; up_to INT64_MAX: no end */
    size_t limit;
};
/* `pending` rows by seq, with payload. rows is the callback's (each to be freed, and the array). Strings of *fetch are copied. */
void outbox_fetch_pending(struct outbox *outbox, const struct outbox_fetch *fetch,
                          void (*done)(void *argument, int status, struct outbox_row **rows, size_t count), void *argument);

/* Rows of this mesh past the age become `dead` (max_age_exceeded); done gets how many and the oldest pending row's enqueued_at (-1: none). In steps of 500. */
void outbox_expire(struct outbox *outbox, const char *mesh, int64_t enqueued_before_ms,
                   void (*done)(void *argument, int64_t expired, int64_t oldest_enqueued_at), void *argument);
/* Every pending row of this mesh becomes `dead` with this reason: the member that was to send them is another one now. Blocking: start-up only, before anything is accepted. */
int outbox_give_up(struct outbox *outbox, const char *mesh, const char *reason, int64_t *ret_given_up, struct error *error) MUST_CHECK;
/* Prunes payloads of `done` rows older than that, in small steps. */
void outbox_prune(struct outbox *outbox, int64_t delivered_before_ms);

/* ---- operators -------------------------------------------------------------------------------------------- */

struct outbox_list {
    bool has_state;
    enum outbox_state state;
    const char *mesh; /* NULL: all */
    size_t limit;
    int64_t before_seq; /* INT64_MAX: from the newest */
};
void outbox_list(struct outbox *outbox, const struct outbox_list *list,
                 void (*done)(void *argument, int status, struct outbox_row **rows, size_t count), void *argument);
struct outbox_receipt {
    char *client_message_id, *mesh, *broker_message_id, *by, *rsig;
    char state[16]; /* "stored", "seen" */
    int64_t at, signed_at;
    bool verified;
};
void outbox_receipt_free(struct outbox_receipt *receipt); /* one on the heap; takes NULL */
/* By row id or client_message_id, without payload unless with_payload; `chain` are the rows that superseded it, in order. Everything is the callback's: free with
 * outbox_found_release. status -ERROR_NOT_FOUND. */
struct outbox_found {
    struct outbox_row *row;
    struct outbox_row **chain;
    size_t chain_count;
    struct outbox_receipt *receipts;
    size_t receipt_count;
};
void outbox_found_release(struct outbox_found *found);
void outbox_find(struct outbox *outbox, const char *id, bool with_payload,
                 void (*done)(void *argument, int status, struct outbox_found *found), void *argument);

struct outbox_retire { /* requeue and drop: one durable transaction */
    struct db_task task;
    struct outbox *outbox;
    char *id; /* row id or client_message_id */
    bool force;
    struct outbox_row *successor; /* NULL: drop. Taken over: id, client_message_id, content and fingerprints complete */
    int status; /* 0; -ERROR_NOT_FOUND; -ERROR_BUSY inflight without force (409 outbox_inflight); -ERROR_CONFLICT final (409
                                          outbox_final); -ERROR_AMBIGUOUS the successor's client_message_id is consumed; -ERROR_FULL */
    struct error error;
    struct outbox_row *retired; /* as it is after; without payload */
    void (*done)(struct outbox_retire *retire);
    void *argument;
    /* internal */
    bool refuse_new;
    uint64_t moves_before; /* batches of moves that were submitted before */
    enum outbox_state from;
    struct move_note *note;
};
void outbox_retire(struct outbox_retire *retire); /* heap; freed with outbox_retire_free after done */
void outbox_retire_free(struct outbox_retire *retire);

/* ---- receipts --------------------------------------------------------------------------------------------- */

/* Insert or ignore by (mesh, broker_message_id, by, state); finds the row by client_message_id and checks that mesh and broker_message_id are its own (a row whose answer
 * was lost has none yet: any fits). With the content hashes of the row's attempts in ret (newest first; count may be 0), for verification by the caller: a second add with
 * `verified` set raises what is stored (is_new stays false). status -ERROR_NOT_FOUND: not ours. Batched. */
struct outbox_receipt_result {
    int status;
    bool is_new;
    struct sha256 contents[8];
    size_t content_count;
    bool undecided; /* the broker's answer to the row is still to come: an attempt may have been sent of which no trace is left */
    char *destination_kind, *destination_ref;
};
void outbox_receipt_add(struct outbox *outbox, struct outbox_receipt *receipt /* heap, taken over, given to done, freed after */,
                        void (*done)(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result),
                        void *argument);

/* ---- counters: kept in memory, exact after start ---------------------------------------------------------------- */

struct outbox_counts {
    int64_t pending, inflight, done, dead, aborted;
};
void outbox_counts(struct outbox *outbox, const char *mesh /* NULL: all */, struct outbox_counts *ret_counts);
/* Percent of the fuller limit, 0 to 100; degraded: at the limit, or a commit failed for want of space and none has succeeded since. */
int outbox_pressure_pct(struct outbox *outbox);
bool outbox_is_out_of_space(const struct outbox *outbox); /* a commit found no room, and none has since */
bool outbox_is_degraded(struct outbox *outbox);

/* What only the reader can tell, for monitoring: the oldest row with work left (pending or inflight) of each of these meshes, and how full the file system of `directory`
 * is. Strings are copied; done gets NULL when it cannot be read. */
struct outbox_mesh_backlog {
    char *mesh;
    int64_t oldest_enqueued_at; /* -1: nothing waits */
};
struct outbox_backlog {
    struct outbox_mesh_backlog *meshes;
    size_t count;
    int disk_used_pct; /* -1 unknown */
};
void outbox_read_backlog(struct outbox *outbox, const char *directory, const char *const *meshes, size_t count,
                         void (*done)(void *argument, const struct outbox_backlog *backlog), void *argument);

/* Called on the loop thread whenever a row was inserted (with `row` borrowed: the drain's fast path) or retired into a successor, and
 * whenever any row became done, dead or aborted (outbox_status events), and when pressure passes 80 or 95 or falls below. NULLs allowed. */
struct outbox_observer {
    void *argument;
    void (*inserted)(void *argument, const struct outbox_row *row);
    void (*finished)(void *argument, const char *mesh, const char *client_message_id, const char *id, enum outbox_state state,
                     const char *broker_message_id, int64_t history_id, const char *last_error);
    void (*pressure)(void *argument, int pct, bool degraded);
};
void outbox_observe(struct outbox *outbox, const struct outbox_observer *observer);

#endif
