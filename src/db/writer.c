/* Owns the writer thread: group commit, the durability of each commit, checkpoints, the clean-stop marker at the end. The only thread that writes or
 * checkpoints (30-delivery, Crash recovery). Must not know what tasks do.
 *
 * A batch is everything that waited. It runs in one transaction; when that fails as a whole, its tasks run again one by one, each in a
 * transaction of its own, so that one task's failure, or a disk that has room for some, takes nobody else's answer down. */
#include "db/internal.h"
#include "util/clock.h"
#include "util/log.h"

enum {
    /* A transaction that stays short enough for the tasks behind it. */
    MAX_BATCH = 1024,
    /* No commit for this long: what is in the WAL moves into the database. */
    IDLE_CHECKPOINT_MS = 200,
    /* A reader that holds an old snapshot can keep a checkpoint from finishing: ask less and less often. */
    MAX_CHECKPOINT_WAIT_MS = 5000,
    /* Measured: a checkpoint of 4 MiB takes 3 ms, which the p99 of an accept can bear; larger ones stall longer, smaller ones
     * write the same pages again more often. */
    CHECKPOINT_BYTES = 4 * 1024 * 1024,
    /* What SQLite writes before each page in the WAL. */
    FRAME_HEADER_BYTES = 24,
};

static const char BEGIN[] = "BEGIN IMMEDIATE";
static const char COMMIT[] = "COMMIT";
static const char ROLLBACK[] = "ROLLBACK";
static const char SAVEPOINT[] = "SAVEPOINT task";
static const char SAVEPOINT_UNDO[] = "ROLLBACK TO task";
static const char SAVEPOINT_RELEASE[] = "RELEASE task";
static const char PAGE_COUNT[] = "PRAGMA page_count";
static const char FREE_COUNT[] = "PRAGMA freelist_count";

/* ---- transactions -------------------------------------------------------------------------------------- */

/* Called by SQLite after each commit to the WAL. */
static int note_frames(void *argument, sqlite3 *handle, const char *name, int frames)
{
    (void)handle;
    (void)name;
    struct db *db = argument;
    if (frames < db->frames_at_checkpoint) {
        db->frames_at_checkpoint = 0; /* the WAL began anew */
    }
    db->frame_count = frames;
    db->wal_dirty = true;
    db->checkpoint_wait_ms = IDLE_CHECKPOINT_MS;
    db->checkpoint_due_ms = clock_monotonic_ms() + IDLE_CHECKPOINT_MS;
    return SQLITE_OK;
}

int writer_measure_size(struct db *db, struct error *error)
{
    int64_t pages = 0;
    int64_t unused = 0;
    int status = db_read_number(&db->writer, PAGE_COUNT, &pages, error);
    if (status == 0) {
        status = db_read_number(&db->writer, FREE_COUNT, &unused, error);
    }
    if (status == 0) {
        atomic_store(&db->database_bytes, (uint_fast64_t)((pages - unused) * db->page_size));
    }
    return status;
}

static int set_sync(struct db *db, bool full, struct error *error)
{
    if (db->full_sync == full) {
        return 0;
    }
    int status = connection_run(&db->writer, full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", error);
    if (status == 0) {
        db->full_sync = full;
    }
    return status;
}

static int transaction_begin(struct db *db, bool durable, struct error *error)
{
    int status = set_sync(db, durable && db->durability == DB_STRICT, error);
    return status == 0 ? db_execute(&db->writer, error, NULL, BEGIN, "") : status;
}

static void transaction_rollback(struct db *db)
{
    connection_settle(&db->writer);
    if (sqlite3_get_autocommit(db->writer.handle) == 0) {
        struct error error;
        if (db_execute(&db->writer, &error, NULL, ROLLBACK, "") < 0 && sqlite3_get_autocommit(db->writer.handle) == 0) {
            /* Going on would commit what was promised to be undone. */
            log_fatal(1, "rollback_failed", (const struct log_field[]){ LOG_TEXT("detail", error.message), LOG_END });
        }
    }
    if (db->hooks.rolled_back != NULL) {
        db->hooks.rolled_back(db->hooks.argument);
    }
}

/* What every transaction that changed something carries beside its tasks. */
static int complete_changes(struct db *db, int64_t changes_before, struct error *error)
{
    int status = 0;
    if (db->hooks.before_commit != NULL) {
        status = db->hooks.before_commit(db->hooks.argument, &db->writer, error);
        connection_settle(&db->writer);
    }
    if (status == 0 && sqlite3_total_changes64(db->writer.handle) != changes_before) {
        if (db->marked_clean) {
            status = schema_mark(&db->writer, false, error);
        }
        if (status == 0) {
            status = writer_measure_size(db, error);
        }
    }
    return status;
}

/* Rolls back when it fails. */
static int transaction_commit(struct db *db, int64_t changes_before, size_t batch, struct error *error)
{
    int status = complete_changes(db, changes_before, error);
    bool changed = sqlite3_total_changes64(db->writer.handle) != changes_before;
    if (status == 0) {
        int64_t started_us = clock_monotonic_us();
        status = db_execute(&db->writer, error, NULL, COMMIT, "");
        if (status == 0 && changed && db->measured != NULL) {
            db->measured(db->argument, clock_monotonic_us() - started_us, batch);
        }
    }
    if (status < 0) {
        transaction_rollback(db);
        return status;
    }
    if (changed) {
        db->marked_clean = false;
        atomic_store(&db->wal_bytes, (uint_fast64_t)(db->frame_count * (db->page_size + FRAME_HEADER_BYTES)));
    }
    if (db->hooks.committed != NULL) {
        db->hooks.committed(db->hooks.argument);
    }
    return 0;
}

/* ---- tasks --------------------------------------------------------------------------------------------- */

enum task_result {
    TASK_DECIDED,     /* it succeeded, or failed and left nothing */
    TASK_SPOILED_ALL, /* the transaction is gone, or holds half of a failed task */
};

static int run_in_savepoint(struct db *db, struct db_task *task)
{
    int status = db_execute(&db->writer, &task->error, NULL, SAVEPOINT, "");
    if (status < 0) {
        return status;
    }
    status = task->run(&db->writer, task);
    connection_settle(&db->writer);
    if (sqlite3_get_autocommit(db->writer.handle) != 0) {
        return status < 0 ? status : error_set(&task->error, ERROR_INTERNAL, "the task ended the transaction");
    }
    struct error ignored;
    if (status < 0) {
        /* Should the undoing fail, the changes stay counted and the caller sees a spoiled transaction. */
        if (db_execute(&db->writer, &ignored, NULL, SAVEPOINT_UNDO, "") < 0) {
            transaction_rollback(db);
            return status;
        }
    }
    if (db_execute(&db->writer, &ignored, NULL, SAVEPOINT_RELEASE, "") < 0) {
        transaction_rollback(db);
        return status < 0 ? status : error_set(&task->error, ignored.code, "%s", ignored.message);
    }
    return status;
}

static enum task_result run_task(struct db *db, struct db_task *task)
{
    task->error = (struct error){ .code = ERROR_NONE };
    if ((task->flags & DB_SAVEPOINT) != 0) {
        task->status = run_in_savepoint(db, task);
        return sqlite3_get_autocommit(db->writer.handle) != 0 ? TASK_SPOILED_ALL : TASK_DECIDED;
    }
    int64_t changes_before = sqlite3_total_changes64(db->writer.handle);
    task->status = task->run(&db->writer, task);
    connection_settle(&db->writer);
    bool lost = sqlite3_get_autocommit(db->writer.handle) != 0;
    bool half = task->status < 0 && sqlite3_total_changes64(db->writer.handle) != changes_before;
    return lost || half ? TASK_SPOILED_ALL : TASK_DECIDED;
}

/* A transaction of its own. */
static void run_alone(struct db *db, struct db_task *task)
{
    task->error = (struct error){ .code = ERROR_NONE };
    int64_t changes_before = sqlite3_total_changes64(db->writer.handle);
    task->status = transaction_begin(db, (task->flags & DB_DURABLE) != 0, &task->error);
    if (task->status < 0) {
        return;
    }
    task->status = task->run(&db->writer, task);
    connection_settle(&db->writer);
    if (task->status >= 0 && sqlite3_get_autocommit(db->writer.handle) != 0) {
        task->status = error_set(&task->error, ERROR_INTERNAL, "the transaction ended before its commit");
    }
    if (task->status < 0) {
        transaction_rollback(db);
        return;
    }
    int status = transaction_commit(db, changes_before, 1, &task->error);
    if (status < 0) {
        task->status = status;
    }
}

enum batch_result {
    BATCH_COMMITTED,
    BATCH_UNDONE,    /* nothing of it stays; its tasks may succeed alone */
    BATCH_NOT_BEGUN, /* somebody else's lock, or the disk: trying each task alone would only wait longer */
};

/* `first` to `end` (exclusive) in one transaction. */
static enum batch_result run_together(struct db *db, struct message *first, struct message *end, bool durable, size_t count,
                                      struct error *error)
{
    int64_t changes_before = sqlite3_total_changes64(db->writer.handle);
    if (transaction_begin(db, durable, error) < 0) {
        return BATCH_NOT_BEGUN;
    }
    for (struct message *message = first; message != end; message = message->next) {
        if (run_task(db, CONTAINER_OF(message, struct db_task, message)) == TASK_SPOILED_ALL) {
            transaction_rollback(db);
            return BATCH_UNDONE;
        }
    }
    return transaction_commit(db, changes_before, count, error) == 0 ? BATCH_COMMITTED : BATCH_UNDONE;
}

/* ---- checkpoints ---------------------------------------------------------------------------------------- */

static void checkpoint(struct db *db)
{
    int frames = 0;
    int moved = 0;
    int result = sqlite3_wal_checkpoint_v2(db->writer.handle, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &moved);
    if (result != SQLITE_OK && (result & 0xff) != SQLITE_BUSY) {
        /* A full disk: the WAL keeps everything, and the next try comes by itself. A failed fsync ends the process here. */
        struct error error;
        (void)sqlite_error(db->writer.handle, result, &error);
    }
    db->frames_at_checkpoint = db->frame_count;
    if (result == SQLITE_OK && frames == moved) {
        db->wal_dirty = false;
        atomic_store(&db->wal_bytes, 0);
        return;
    }
    db->checkpoint_wait_ms = db->checkpoint_wait_ms * 2 < MAX_CHECKPOINT_WAIT_MS ? db->checkpoint_wait_ms * 2 : MAX_CHECKPOINT_WAIT_MS;
    db->checkpoint_due_ms = clock_monotonic_ms() + db->checkpoint_wait_ms;
}

/* ---- the thread ------------------------------------------------------------------------------------------ */

/* Takes up to MAX_BATCH tasks from the front of the list, runs and posts them; returns the rest. */
static struct message *run_batch(struct db *db, struct message *first)
{
    size_t count = 0;
    bool durable = false;
    struct message *end = first;
    while (end != NULL && count < MAX_BATCH) {
        durable = durable || (CONTAINER_OF(end, struct db_task, message)->flags & DB_DURABLE) != 0;
        count++;
        end = end->next;
    }
    struct error error;
    enum batch_result result = run_together(db, first, end, durable, count, &error);
    if (result == BATCH_UNDONE && db->wal_dirty) {
        /* When the disk is full, the WAL may be the only place where room can be made. */
        checkpoint(db);
    }
    struct task_list finished = { .first = NULL };
    for (struct message *message = first, *next; message != end; message = next) {
        next = message->next;
        struct db_task *task = CONTAINER_OF(message, struct db_task, message);
        if (result == BATCH_UNDONE) {
            run_alone(db, task);
        } else if (result == BATCH_NOT_BEGUN) {
            task->error = error;
            task->status = -(int)error.code;
        }
        atomic_fetch_sub(&db->write_backlog, 1);
        task_tell_failure(db, task);
        task_finish(task, &finished);
    }
    task_list_post(db, &finished);
    if ((db->frame_count - db->frames_at_checkpoint) * db->page_size >= CHECKPOINT_BYTES) {
        checkpoint(db);
    }
    return end;
}

/* The hook's transaction, then the marker's. A disk that is full leaves the file unmarked: the next start checks it. */
static void close_down(struct db *db)
{
    struct error error;
    int64_t changes_before = sqlite3_total_changes64(db->writer.handle);
    if (db->hooks.closing != NULL && transaction_begin(db, true, &error) == 0) {
        int status = db->hooks.closing(db->hooks.argument, &db->writer, &error);
        connection_settle(&db->writer);
        if (status < 0 || sqlite3_get_autocommit(db->writer.handle) != 0) {
            transaction_rollback(db);
        } else if (transaction_commit(db, changes_before, 1, &error) < 0) {
            return;
        }
    }
    if (!db->marked_clean && (!db->unproven || atomic_load(&db->check_passed))) {
        if (connection_run(&db->writer, "PRAGMA synchronous = FULL", &error) == 0 && schema_mark(&db->writer, true, &error) == 0) {
            db->marked_clean = true;
        }
    }
    connection_settle(&db->writer);
    if (db->wal_dirty) {
        int result = sqlite3_wal_checkpoint_v2(db->writer.handle, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        if (result != SQLITE_OK) {
            (void)sqlite_error(db->writer.handle, result, &error); /* an fsync that failed is fatal; else the WAL keeps it all */
        }
    }
}

/* -1: nothing is to be moved. Tasks that write nothing, such as sends that are refused for want of room, do not put it off. */
static int64_t checkpoint_left_ms(const struct db *db)
{
    if (!db->wal_dirty) {
        return -1;
    }
    int64_t left_ms = db->checkpoint_due_ms - clock_monotonic_ms();
    return left_ms < 0 ? 0 : left_ms;
}

void *writer_main(void *argument)
{
    struct db *db = argument;
    (void)sqlite3_wal_hook(db->writer.handle, note_frames, db); /* returns the one before: none */
    for (;;) {
        bool closed = false;
        struct message *waiting = mailbox_wait_all(&db->write_queue, checkpoint_left_ms(db), &closed);
        if (closed) {
            break;
        }
        while (waiting != NULL) {
            waiting = run_batch(db, waiting);
        }
        if (checkpoint_left_ms(db) == 0) {
            checkpoint(db);
        }
    }
    close_down(db);
    return NULL;
}
