/* What inbox/'s files share. Not for other rooms. */
#ifndef INBOX_INTERNAL_H
#define INBOX_INTERNAL_H

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

struct inbox {
    struct db *db;
    char epoch[17];
    int64_t newest_seq;
    bool degraded;
    bool probing;
    bool pruning;
    struct quarantine_count *quarantined;

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

/* The columns of a row, in the order that inbox_row_read takes. */
#define INBOX_COLUMNS                                                                                                           \
    "seq, id, client_message_id, mesh, broker_message_id, history_id, kind, topic, sender_pubkey, sender_name, meta, priority," \
    " reply_to_id, verified, sent_at, received_at, seen_at, content"
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
int quarantine_load_counts(struct inbox *inbox, struct db_connection *connection, struct error *error) MUST_CHECK;

#endif
