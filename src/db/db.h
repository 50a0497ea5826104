/* One SQLite database: opening, pragmas, migrations, prepared statements, the writer thread with group commit, a read-only
 * reader thread. No table of its own but `schema`. SQL stands in the room that owns the table.
 *
 * Threads: db_open and db_close are called on the loop thread. A task's `run` runs on the writer (db_write) or the
 * reader (db_read) thread; its `done` runs where `completions` is read (the loop). A task belongs to the
 * database from submission until `done` is called. */
#ifndef DB_DB_H
#define DB_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/error.h"
#include "util/mailbox.h"
#include "util/text.h"

struct db;            /* the database */
struct db_connection; /* one connection, used by one thread: what SQL runs on */

struct db_migration {
    int version;     /* 1, 2, … ascending without holes */
    const char *sql; /* whole statements; one transaction a step */
};

enum db_durability { DB_STRICT, DB_BATCHED }; /* synchronous=FULL, or NORMAL (30-delivery, outbox.fsync) */

struct db_options {
    const char *path;
    const struct db_migration *migrations;
    size_t migration_count;
    enum db_durability durability;
    struct mailbox *completions;     /* where finished tasks are posted; outlives the database */
    uint64_t background_check_above; /* files at least this large are checked in the background after an unclean stop (64 MiB) */
    void (*damaged)(void *argument, const char *detail); /* on the loop thread, from the background check; NULL: fatal */
    void *argument;
    /* A task failed for a reason that is the database's (a system call, damage), not the task's; for the log. Once a second at most, on the database's threads; may be NULL. */
    void (*failed)(void *argument, const struct error *error);
    /* Measures (80-operations cm_*_commit_seconds, _batch_size); called on the writer thread; may be NULL. */
    void (*measured)(void *argument, int64_t commit_us, size_t batch);
};

/* Opens or creates (0600). In order: schema version read (newer: ERROR_NEWER naming it), integrity after an unclean stop (ERROR_CORRUPT,
 * nothing touched), migrations one transaction each, threads. The clean-stop marker is a column of the one row of `schema`; the first transaction that writes clears it, so a start without writes costs nothing. */
int db_open(const struct db_options *options, struct db **ret_db, struct error *error) MUST_CHECK;
/* Runs what is queued, writes the clean marker (unless a background check did not pass), checkpoints (TRUNCATE), joins the threads. Completions
 * stay in the mailbox: run them after. What they submit in turn finishes at once, through the completions, with -ERROR_UNREACHABLE. The loop thread. */
void db_stop(struct db *db);
/* db_stop if that was not done, and frees. Nothing may use the database any more. Takes NULL. */
void db_close(struct db *db);
/* Reading only: 0 when integrity_check passes, indexes too. For `recover` and the broker's check; a start has quick_check. */
int db_check_file(const char *path, struct error *error) MUST_CHECK;
/* Bytes in use: the database without its free pages, and what waits in the WAL. As of the last commit. Any thread. */
uint64_t db_file_size(const struct db *db);
/* The same without what waits in the WAL: what stays after a checkpoint. */
uint64_t db_data_size(const struct db *db);
int db_schema_version(const struct db *db);

/* Longer than a message takes to its recipient and its receipt back on one machine, shorter than anybody notices. */
enum { DB_PATIENCE_MS = 2 };

enum db_task_flags {
    DB_DURABLE = 1,   /* its batch commits with fsync; `done` after it. Without: the batch may commit with synchronous=NORMAL when no
                         durable task is in it (survives a crash of the process, not of the power) */
    DB_SAVEPOINT = 2, /* it runs several writing statements: on failure all of them are undone, and only they */
    DB_PATIENT = 4    /* nobody waits for it: its commit may come up to DB_PATIENCE_MS later, so that others share it */
};

struct db_task {
    struct message message; /* the queue's */
    unsigned flags;
    /* 0, or a negative error code: its own writes are undone, the batch goes on. Must be safe to run again: when the whole transaction fails
     * the tasks of the batch are run again one by one. Fill `error` through the pointer. */
    int (*run)(struct db_connection *connection, struct db_task *task);
    void (*done)(struct db_task *task); /* the loop thread; frees the task */
    int status;                         /* 0, or run's or the commit's negative error code (-ERROR_FULL: disk full) */
    struct error error;
    int64_t submitted_us; /* monotonic, for measures */
    void *waiter;         /* the database's: who waits in db_write_wait or db_read_wait */
};

/* Any thread. Tasks run in the order of submission; everything that waits shares one transaction. */
void db_write(struct db *db, struct db_task *task);
/* The reader thread, one after another, each in its own read transaction. */
void db_read(struct db *db, struct db_task *task);
size_t db_write_backlog(struct db *db); /* tasks queued, any thread */
/* The same, blocking: returns the task's status when it is committed (or read); `done` is not called. For start-up and rare small things;
 * never from a `run`. */
int db_write_wait(struct db *db, struct db_task *task) MUST_CHECK;
int db_read_wait(struct db *db, struct db_task *task) MUST_CHECK;

/* What a room adds to every transaction of the writer, on its thread. One set a database; set it before the first db_write (db_write_wait excepted). NULLs allowed. */
struct db_hooks {
    void *argument;
    /* In the transaction, after its tasks: what they counted goes to disk once a batch, not once a task. A failure fails the transaction. */
    int (*before_commit)(void *argument, struct db_connection *connection, struct error *error);
    void (*committed)(void *argument);
    void (*rolled_back)(void *argument); /* the whole transaction; its tasks may run again */
    /* In db_close, after the last task, in a durable transaction of its own (before_commit follows). */
    int (*closing)(void *argument, struct db_connection *connection, struct error *error);
};
void db_set_hooks(struct db *db, const struct db_hooks *hooks);

/* --- within run ---------------------------------------------------------------------------------------- */

sqlite3 *db_handle(struct db_connection *connection);
/* Prepared once for a connection and address: `sql` must be a string with static storage. Reset and unbound. NULL on error (then *error is set). */
sqlite3_stmt *db_prepare(struct db_connection *connection, const char *sql, struct error *error) MUST_CHECK;
/* Binds by format, from 1: t const char* (NULL: null) · x struct text (data NULL: null) · b const void*, size_t · i int64_t · n null · d double. Bytes must stay
 * until the statement is reset. */
int db_bind(sqlite3_stmt *statement, struct error *error, const char *format, ...) MUST_CHECK;
/* 1 a row, 0 done, negative error. */
int db_step(sqlite3_stmt *statement, struct error *error) MUST_CHECK;
/* prepare, bind, step to the end, reset. *ret_changes (may be NULL) = rows changed. */
int db_execute(struct db_connection *connection, struct error *error, int64_t *ret_changes, const char *sql, const char *format,
               ...) MUST_CHECK;
/* The first column of the first row of a statement without parameters; untouched when there is none. */
int db_read_number(struct db_connection *connection, const char *sql, int64_t *ret_number, struct error *error) MUST_CHECK;
void db_reset(sqlite3_stmt *statement); /* takes NULL */
/* Columns. Text is valid until the next step or reset; NULL for null. */
const char *db_column_string(sqlite3_stmt *statement, int column);
struct text db_column_text(sqlite3_stmt *statement, int column);
int64_t db_column_integer(sqlite3_stmt *statement, int column, int64_t if_null);
char *db_column_dup(sqlite3_stmt *statement, int column) MUST_CHECK; /* heap; NULL for null */

#endif
