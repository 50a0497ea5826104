/* What the files of outbox/ share, and nobody else includes (but for the room's tests). "Writer": only on the database's writer thread. "Loop": only on the loop
 * thread. */
#ifndef OUTBOX_INTERNAL_H
#define OUTBOX_INTERNAL_H

#include <stdatomic.h>

#include "outbox/outbox.h"

/* ---- key_index.c: which rows have a client_message_id (docs/decisions/0006). Writer --------------------------------- */

/* Open addressing, entries near where their hash points, so that walking the slots is walking the hashes in order. */
struct key_table {
    uint64_t *hashes;
    uint32_t *offsets; /* seq - base; 0: the slot is free */
    unsigned bits;     /* capacity = 2^bits */
    size_t count;
    int64_t base;
};
struct key_index {
    struct key_table recent;  /* fills */
    struct key_table merging; /* full; moves into outbox_key */
    bool is_merging;
    int64_t merging_up_to;               /* every row up to here is in `merging` or already indexed */
    size_t position, committed_position; /* slots of `merging` that were moved; as of the last commit */
    bool moved_all;                      /* in this transaction */
    size_t added;                        /* since the last commit: how much must be moved meanwhile */
    size_t idle_slots;                   /* to move although nothing was added */
    int64_t last_seq;                    /* the highest that was ever given to key_index_add */
};
uint64_t key_hash(const char *client_message_id);
/* Reads the ids of the rows that outbox_key does not hold yet. */
int key_index_load(struct key_index *index, struct db_connection *connection, int64_t indexed_up_to, struct error *error) MUST_CHECK;
void key_index_release(struct key_index *index);
/* 1: *ret_seq is its row; 0: no row has it. */
int key_index_find(struct key_index *index, struct db_connection *connection, const char *client_message_id, int64_t *ret_seq,
                   struct error *error) MUST_CHECK;
void key_index_add(struct key_index *index, const char *client_message_id, int64_t seq);
int key_index_before_commit(struct key_index *index, struct db_connection *connection, struct error *error) MUST_CHECK;
void key_index_committed(struct key_index *index);
void key_index_rolled_back(struct key_index *index);
/* Everything at once: the stop. */
int key_index_merge_all(struct key_index *index, struct db_connection *connection, struct error *error) MUST_CHECK;
bool key_index_is_idle_work(const struct key_index *index); /* there is enough in memory to be worth moving when nothing goes on */

/* ---- counts.c: rows per mesh and state ---------------------------------------------------------------------------- */

/* Never freed or renamed while the outbox lives: pointers to it, and to its name, may cross threads. */
struct mesh_counts {
    struct mesh_counts *next;
    char *mesh;
    int64_t committed[OUTBOX_STATES]; /* loop */
    int64_t delta[OUTBOX_STATES];     /* writer: of the open transaction */
};
struct mesh_counts *counts_mesh(struct outbox *outbox, const char *mesh);                   /* writer, or before the threads work */
void counts_move(struct mesh_counts *counts, enum outbox_state from, enum outbox_state to); /* writer; OUTBOX_STATES as `from`: a new row */
int counts_load(struct outbox *outbox, struct db_connection *connection, struct error *error) MUST_CHECK; /* writer, at the start */
int counts_before_commit(struct outbox *outbox, struct db_connection *connection, struct error *error) MUST_CHECK;
void counts_forget(struct outbox *outbox); /* writer: the transaction ended */
/* Loop: a committed move, or a new row. */
void counts_commit(struct outbox *outbox, struct mesh_counts *counts, enum outbox_state from, enum outbox_state to);

/* ---- the outbox ------------------------------------------------------------------------------------------------------ */

struct move_task;
struct outbox {
    struct db *db;
    struct outbox_limits limits;
    struct outbox_observer observer;
    _Atomic(struct mesh_counts *) meshes; /* the writer adds at the front */
    atomic_bool idle_work;                /* the writer: ids wait for a quiet moment to be moved */
    atomic_bool closed;                   /* the writer: the database is being closed, or gone */

    /* loop */
    int64_t live;       /* pending, inflight and dead rows */
    int64_t reserved;   /* accepts on their way that may become rows */
    int pressure_level; /* 0, 80, 95 */
    bool no_space;      /* a commit failed for want of space and none has succeeded since */
    bool was_degraded;
    struct move_task *kept_first;   /* moves whose commit failed, in order */
    struct move_task *kept_running; /* of these, the one that is with the writer again; not in the list */
    uint64_t moves_submitted;       /* batches of moves, numbered */
    bool pruning, merging, probing;
    int64_t prune_again_ms; /* monotonic */

    /* writer */
    struct key_index keys;
    int64_t next_seq;
    int64_t counted_up_to;               /* as stored */
    uint64_t moves_run, moves_committed; /* the newest batch of moves that was run, and that is on disk */
};
/* Loop: to the writer or the reader; once the database is closed `done` is called at once with -ERROR_UNREACHABLE. */
void outbox_write(struct outbox *outbox, struct db_task *task);
void outbox_read(struct outbox *outbox, struct db_task *task);
/* Loop: what a task's result says about the disk; tells the observer when something changed. */
void outbox_note_result(struct outbox *outbox, int status, bool wrote);
bool outbox_is_full(const struct outbox *outbox); /* 95 % of a limit, counting what is on its way */
bool outbox_bytes_are_full(const struct outbox *outbox);

/* ---- row.c ------------------------------------------------------------------------------------------------------------- */

#define ROW_COLUMNS                                                                                                                \
    "seq, id, client_message_id, mesh, destination_kind, destination_ref, priority, reply_to_id, meta, mentions, status,"          \
    " request_fingerprint, broker_fingerprint, length(payload), enqueued_at, next_attempt_at, delivered_at, aborted_at, attempts," \
    " history_id, last_error, broker_message_id, aborted_by, superseded_by"
enum { ROW_PAYLOAD_COLUMN = 24 }; /* ROW_COLUMNS ", payload" */

/* A heap row from a statement over ROW_COLUMNS. NULL: a column holds what it cannot (*error). */
struct outbox_row *row_read(sqlite3_stmt *statement, bool with_payload, struct error *error) MUST_CHECK;
/* Writer. 0 with *ret_row NULL when there is none. */
int row_load(struct db_connection *connection, int64_t seq, struct outbox_row **ret_row, struct error *error) MUST_CHECK;
/* Writer: gives the row its seq and `pending`, inserts, indexes and counts it. */
int row_insert(struct outbox *outbox, struct db_connection *connection, struct outbox_row *row, struct error *error) MUST_CHECK;
/* Writer: by row id, else by client_message_id. -ERROR_NOT_FOUND. */
int row_find(struct outbox *outbox, struct db_connection *connection, const char *id, int64_t *ret_seq, struct error *error) MUST_CHECK;

/* ---- move.c ------------------------------------------------------------------------------------------------------------- */

/* What the loop must know of a row that moved. The strings of `finished` rows are heap. */
struct move_note {
    struct mesh_counts *mesh;
    char *id, *client_message_id, *broker_message_id, *last_error; /* only when it became done, dead or aborted */
    int64_t history_id;
};
void move_note_release(struct move_note *note);
/* Writer. The only place that changes a status. Fills move->from, to, moved; *ret_note when it moved. */
int move_row(struct outbox *outbox, struct db_connection *connection, struct outbox_move *move, const char *superseded_by,
             struct move_note *ret_note, struct error *error) MUST_CHECK;
/* Loop: counts it, tells the observer, releases the note. */
void move_report(struct outbox *outbox, const struct outbox_move *move, struct move_note *note);
/* Loop: hands the first of the kept moves to the writer. */
void move_resubmit(struct outbox *outbox);
void move_free_kept(struct outbox *outbox);

#endif
