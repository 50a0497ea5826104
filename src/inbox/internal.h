/* What inbox/'s files share. Not for other rooms. */
#ifndef INBOX_INTERNAL_H
#define INBOX_INTERNAL_H

#include <stdatomic.h>

#include "inbox/inbox.h"

/* Quarantined pushes of one mesh, counted in memory. */
struct quarantine_count {
    struct quarantine_count *next;
    char *mesh;
    int64_t rows;
    int64_t bytes; /* of the pushes, with those that are on their way to the disk */
    int64_t going; /* of them, what tasks under way were told to remove */
};

enum {
    INBOX_STEP_ROWS = 500, /* rows a step when marking or pruning: one commit stays short */
    /* A mesh's, in rows and in bytes: neither a hostile broker nor a hostile member may fill the disk with them. */
    QUARANTINE_MAXIMUM = 10000,
    QUARANTINE_BYTES = 64 * 1024 * 1024
};

/* A mesh whose history was asked for, as it is on disk. mesh "": every mesh that has no entry of its own, from the beginning. */
struct rebuild {
    struct rebuild *next;
    char *mesh;
    int64_t after_history_id;
    bool finished;
};

struct inbox {
    struct db *db;
    char epoch[17];
    int64_t newest_seq;
    bool degraded;
    bool probing;
    bool pruning;
    struct quarantine_count *quarantined;
    bool searchable;           /* the index is kept; set before the threads work */
    bool rebuilt;              /* rows of a broker's history may be there, or come; as searchable */
    atomic_bool index_damaged; /* the index alone: found by the writer or the reader */
    bool indexing;             /* a step of it is under way */
    bool index_whole;          /* no older row waits for it */
    struct rebuild *rebuilds;
    struct inbox_observer observer;
    int64_t max_bytes;
    int pressure_level; /* 0, 80, 95, 100 */
    bool was_degraded;
    bool nothing_to_prune;  /* at the limit, and no row that was seen is left */
    int64_t prune_again_ms; /* monotonic: when to look again */
    atomic_bool closed;     /* the database is being closed, or gone */

    size_t hook_runs_waiting;
    int64_t hook_runs_dropped, hook_runs_lost;

    /* Inserts in order: one that follows a failed one fails too, or it would come before it. A failure known to the loop begins a new attempt. */
    uint64_t insert_count;     /* loop: numbers them */
    uint64_t attempt;          /* loop */
    uint64_t first_of_attempt; /* loop: the number of its first insert, which follows nothing */

    /* writer */
    uint64_t inserts_run, inserts_committed; /* the newest that was run, and that is on disk */
    uint64_t attempt_run, attempt_committed; /* theirs */
};

/* The columns of a row, in the order that inbox_row_read takes; t: "", or the table's name and a dot. */
#define INBOX_COLUMNS_OF(t)                                                                                                            \
    t "seq, " t "id, " t "client_message_id, " t "mesh, " t "broker_message_id, " t "history_id, " t "kind, " t "topic, " t            \
      "sender_pubkey, " t "sender_name, " t "meta, " t "priority, " t "reply_to_id, " t "verified, " t "sent_at, " t "received_at, " t \
      "seen_at, " t "content"
#define INBOX_COLUMNS INBOX_COLUMNS_OF("")
enum { INBOX_BODY_COLUMN = 18 };

/* ERROR_CORRUPT when a fixed column is not of its shape. */
int inbox_row_read(sqlite3_stmt *statement, bool with_body, struct inbox_row **ret_row, struct error *error) MUST_CHECK;
void inbox_rows_free(struct inbox_row **rows, size_t count);
/* Whether the last commit worked; after each task's end. */
void inbox_note_result(struct inbox *inbox, int status);
/* hook_runs.c: before an insert (more than may wait are forgotten), in its transaction, and after it. */
void hook_runs_admit(struct inbox *inbox, struct inbox_insert *insert);
int hook_runs_insert(struct db_connection *connection, const struct inbox_insert *insert, struct error *error) MUST_CHECK;
void hook_runs_inserted(struct inbox *inbox, const struct inbox_insert *insert);
int hook_runs_load(struct inbox *inbox, struct db_connection *connection, struct error *error) MUST_CHECK;

/* ---- search.c: the index. Writer ---- */

/* At the start, in its transaction: makes it, or drops it. */
int search_open(struct inbox *inbox, struct db_connection *connection, struct error *error) MUST_CHECK;
int search_add(struct inbox *inbox, struct db_connection *connection, const struct inbox_row *row, struct error *error) MUST_CHECK;
/* Before the row itself goes. */
int search_remove(struct inbox *inbox, struct db_connection *connection, int64_t seq, struct error *error) MUST_CHECK;
void search_continue(struct inbox *inbox); /* loop: the rows that were there before the index */
void search_renew(struct inbox *inbox);    /* loop: it is damaged, the messages are not */

/* ---- rebuild.c ---- */
int rebuild_load(struct inbox *inbox, struct db_connection *connection, bool all, struct error *error) MUST_CHECK;
void rebuild_release(struct inbox *inbox);

/* ---- prune.c ---- */
/* 1: the row is gone, with its key kept; 0: there was none. Writer. */
int prune_row(struct inbox *inbox, struct db_connection *connection, int64_t seq, struct error *error) MUST_CHECK;
/* ---- pressure.c ---- */
void pressure_report(struct inbox *inbox);
void pressure_poke(struct inbox *inbox);
void pressure_seen(struct inbox *inbox); /* loop: some were marked seen, and may go */

int quarantine_load_counts(struct inbox *inbox, struct db_connection *connection, struct error *error) MUST_CHECK;

#endif
