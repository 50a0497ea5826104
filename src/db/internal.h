/* What the files of db/ share, and nobody else includes (but for the room's tests): a connection with its prepared statements, the parts of opening, the two
 * threads' entry points. */
#ifndef DB_INTERNAL_H
#define DB_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "db/db.h"

/* ---- connection.c, statement.c ----------------------------------------------------------------------------- */

struct db_statement; /* one prepared statement, found by the address of its text */

struct db_connection {
    sqlite3 *handle;
    struct db_statement **slots; /* open addressing; the capacity is a power of two */
    size_t capacity, count;
    struct db_statement *touched; /* prepared since db_connection_settle: reset there, so that none keeps a snapshot open */
};

enum connection_mode {
    CONNECTION_WRITER, /* reads and writes; checkpoints only when told; closing it never checkpoints before connection_allow_checkpoint */
    CONNECTION_READER, /* read only */
};
int connection_open(struct db_connection *connection, const char *path, enum connection_mode mode, struct error *error) MUST_CHECK;
/* From now on closing the last connection checkpoints and removes the WAL: only after the file was found good. */
int connection_allow_checkpoint(struct db_connection *connection, struct error *error) MUST_CHECK;
void connection_close(struct db_connection *connection);  /* takes a half-opened one */
void connection_settle(struct db_connection *connection); /* resets what the last task left */
void connection_finalize(struct db_connection *connection);
/* One statement without parameters or results of interest; may be a pragma. Not kept. */
int connection_run(struct db_connection *connection, const char *sql, struct error *error) MUST_CHECK;

/* Fills *error from the handle's last failure and returns the negative code. An fsync that failed ends the process (30-delivery,
 * Crash recovery: what the kernel kept is unknown). */
int sqlite_error(sqlite3 *handle, int result, struct error *error);

/* ---- schema.c ---------------------------------------------------------------------------------------------- */

struct schema_state {
    int version; /* 0: none yet */
    bool clean;  /* the last stop left its marker, or the file is empty */
};
int schema_read(struct db_connection *connection, struct schema_state *ret_state, struct error *error) MUST_CHECK;
int schema_check_version(int version, const struct db_migration *migrations, size_t count, struct error *error) MUST_CHECK;
int schema_migrate(struct db_connection *connection, int from, const struct db_migration *migrations, size_t count,
                   struct error *error) MUST_CHECK;
int schema_mark(struct db_connection *connection, bool clean, struct error *error) MUST_CHECK;

/* ---- check.c ----------------------------------------------------------------------------------------------- */

/* ERROR_CORRUPT with the first finding. -ERROR_BUSY: interrupted. */
int check_connection(struct db_connection *connection, struct error *error) MUST_CHECK;

/* ---- the database ------------------------------------------------------------------------------------------- */

struct db {
    char *path;
    enum db_durability durability;
    struct mailbox *completions;
    void (*failed)(void *argument, const struct error *error);
    atomic_int_fast64_t failure_told_ms;
    void (*measured)(void *argument, int64_t commit_us, size_t batch);
    void (*damaged)(void *argument, const char *detail);
    void *argument;
    int schema_version;
    struct db_hooks hooks; /* set before the first task; read by the writer */

    struct db_connection writer;
    struct mailbox write_queue;
    pthread_t writer_thread;
    bool writer_started;
    atomic_size_t write_backlog;

    struct db_connection reader;
    struct mailbox read_queue;
    pthread_t reader_thread;
    bool reader_started;

    struct db_connection checker; /* the background check's own, so that a long check delays no read */
    pthread_t checker_thread;
    bool checker_started;
    atomic_bool stopping;
    bool stopped; /* the loop thread's: no thread runs any more */

    bool unproven; /* an unclean stop whose check has not passed: no clean marker. Written before threads and by the checker */
    atomic_bool check_passed;

    /* The writer's alone. */
    bool marked_clean;            /* the file carries the clean marker: the next transaction clears it */
    bool full_sync;               /* what PRAGMA synchronous is now */
    bool wal_dirty;               /* frames in the WAL that are not in the database */
    int64_t frame_count;          /* frames in the WAL after the last commit */
    int64_t frames_at_checkpoint; /* of these, what the last checkpoint saw */
    int64_t checkpoint_wait_ms;
    int64_t checkpoint_due_ms; /* monotonic */
    int64_t page_size;

    atomic_uint_fast64_t database_bytes, wal_bytes; /* db_file_size */
};

void *writer_main(void *db);
void *reader_main(void *db);
int writer_measure_size(struct db *db, struct error *error) MUST_CHECK;

/* Finishes a task from the thread that ran it: wakes who waits for it, else hands it to the completions. */
struct task_list {
    struct message *first, *last;
    size_t count;
};
void task_finish(struct db_task *task, struct task_list *finished);
void task_tell_failure(struct db *db, const struct db_task *task);
void task_list_post(struct db *db, struct task_list *finished);

#endif
