/* Owns a database's life: opening in the order of 30-delivery "Crash recovery", its threads, the background check, closing. Must not know any
 * room's table. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "db/internal.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/log.h"
#include "util/memory.h"

/* Measured (docs/decisions/0010): shorter gains nothing, longer no more. */
enum { WRITER_SPIN_US = 60 };

enum { FIRST_CHECKPOINT_WAIT_MS = 200 };

/* ---- the file ------------------------------------------------------------------------------------------ */

/* Made here with its mode, before SQLite sees it: the WAL and the shared memory get the same mode. */
static int ensure_file(const char *path, uint64_t *ret_size, struct error *error)
{
    struct stat status;
    if (stat(path, &status) == 0) {
        *ret_size = (uint64_t)status.st_size;
        return 0;
    }
    if (errno != ENOENT) {
        return error_set_errno(error, "cannot look at %s", path);
    }
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_set_errno(error, "cannot create %s", path);
    }
    if (close(fd) < 0 && errno != EINTR) { /* interrupted, it is closed all the same */
        return error_set_errno(error, "cannot create %s", path);
    }
    const char *slash = strrchr(path, '/');
    char *directory = slash == NULL ? memory_strdup(".") : memory_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    int result = directory_fsync(directory, error);
    free(directory);
    if (result == 0) {
        *ret_size = 0;
    }
    return result;
}

/* ---- the background check ------------------------------------------------------------------------------- */

struct damage_report {
    struct message message;
    void (*damaged)(void *argument, const char *detail);
    void *argument;
    struct error error;
};

static void report_damage(struct message *message)
{
    struct damage_report *report = CONTAINER_OF(message, struct damage_report, message);
    if (report->damaged == NULL) {
        log_fatal(1, "database_damaged", (const struct log_field[]){ LOG_TEXT("detail", report->error.message), LOG_END });
    }
    report->damaged(report->argument, report->error.message);
    free(report);
}

/* sqlite3_interrupt stops a statement that runs; this one, a statement that was about to. */
static int check_should_stop(void *argument)
{
    struct db *db = argument;
    return atomic_load(&db->stopping) ? 1 : 0;
}

/* Failing closed: what keeps the check from an answer (but for the stop) counts as damage. */
static void *checker_main(void *argument)
{
    struct db *db = argument;
    struct error error;
    sqlite3_progress_handler(db->checker.handle, 4, check_should_stop, db);
    int status = check_connection(&db->checker, &error);
    connection_settle(&db->checker);
    if (status == 0) {
        atomic_store(&db->check_passed, true);
    } else if (!atomic_load(&db->stopping)) {
        struct damage_report *report = memory_zalloc(sizeof(*report));
        report->message.handle = report_damage;
        report->damaged = db->damaged;
        report->argument = db->argument;
        report->error = error;
        mailbox_post(db->completions, &report->message);
    }
    return NULL;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

/* Reading only, until everything about the file is known to be right. */
static int inspect(struct db *db, const struct db_options *options, uint64_t size, struct schema_state *ret_state, struct error *error)
{
    int status = schema_read(&db->writer, ret_state, error);
    if (status < 0) {
        return status;
    }
    status = schema_check_version(ret_state->version, options->migrations, options->migration_count, error);
    if (status < 0 || ret_state->clean) {
        return status;
    }
    if (size >= options->background_check_above) {
        db->unproven = true;
        return 0;
    }
    return check_connection(&db->writer, error);
}

static int use_wal(struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, "PRAGMA journal_mode = WAL", error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_step(statement, error);
    if (status == 1) {
        const char *mode = db_column_string(statement, 0);
        status = string_equal(mode, "wal") ? 0 : error_set(error, ERROR_SYSTEM, "the file system allows no write-ahead log");
    }
    db_reset(statement);
    return status;
}

static int prepare_writer(struct db *db, const struct db_options *options, const struct schema_state *state, struct error *error)
{
    int status = connection_allow_checkpoint(&db->writer, error);
    if (status == 0) {
        status = use_wal(&db->writer, error);
    }
    if (status == 0) {
        status = connection_run(&db->writer, "PRAGMA synchronous = FULL", error);
    }
    if (status == 0) {
        status = schema_migrate(&db->writer, state->version, options->migrations, options->migration_count, error);
    }
    bool migrated = (size_t)state->version < options->migration_count;
    db->schema_version = (int)options->migration_count;
    db->full_sync = true;
    db->marked_clean = state->clean && !migrated;
    db->wal_dirty = !db->marked_clean;
    db->checkpoint_wait_ms = FIRST_CHECKPOINT_WAIT_MS;
    db->checkpoint_due_ms = clock_monotonic_ms() + FIRST_CHECKPOINT_WAIT_MS;
    if (status == 0) {
        status = db_read_number(&db->writer, "PRAGMA page_size", &db->page_size, error);
    }
    if (status == 0) {
        status = writer_measure_size(db, error);
    }
    connection_settle(&db->writer);
    return status;
}

static int start_thread(pthread_t *thread, bool *ret_started, void *(*main)(void *), struct db *db, struct error *error)
{
    /* Signals are the loop's: a thread starts with what its maker blocks. */
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all); /* cannot fail with a valid set */
    int result = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (result == 0) {
        result = pthread_create(thread, NULL, main, db);
        int restored = pthread_sigmask(SIG_SETMASK, &before, NULL);
        result = result == 0 ? restored : result;
    }
    if (result != 0) {
        errno = result;
        return error_set_errno(error, "cannot start a thread for %s", db->path);
    }
    *ret_started = true;
    return 0;
}

static int start_threads(struct db *db, struct error *error)
{
    int status = connection_open(&db->reader, db->path, CONNECTION_READER, error);
    if (status == 0 && db->unproven) {
        status = connection_open(&db->checker, db->path, CONNECTION_READER, error);
    }
    if (status == 0) {
        status = start_thread(&db->writer_thread, &db->writer_started, writer_main, db, error);
    }
    if (status == 0) {
        status = start_thread(&db->reader_thread, &db->reader_started, reader_main, db, error);
    }
    if (status == 0 && db->unproven) {
        status = start_thread(&db->checker_thread, &db->checker_started, checker_main, db, error);
    }
    return status;
}

int db_open(const struct db_options *options, struct db **ret_db, struct error *error)
{
    struct error ignored;
    error = error == NULL ? &ignored : error;
    uint64_t size = 0;
    int status = ensure_file(options->path, &size, error);
    if (status < 0) {
        return status;
    }
    struct db *db = memory_zalloc(sizeof(*db));
    db->path = memory_strdup(options->path);
    db->durability = options->durability;
    db->completions = options->completions;
    db->failed = options->failed;
    db->measured = options->measured;
    db->damaged = options->damaged;
    db->argument = options->argument;
    mailbox_init(&db->write_queue, NULL, NULL);
    mailbox_set_spin(&db->write_queue, WRITER_SPIN_US);
    mailbox_init(&db->read_queue, NULL, NULL);

    struct schema_state state = { .version = 0 };
    status = connection_open(&db->writer, db->path, CONNECTION_WRITER, error);
    if (status == 0) {
        status = inspect(db, options, size, &state, error);
        connection_settle(&db->writer);
    }
    if (status == 0) {
        status = prepare_writer(db, options, &state, error);
    }
    if (status == 0) {
        status = start_threads(db, error);
    }
    if (status < 0) {
        db_close(db);
        return status;
    }
    *ret_db = db;
    return 0;
}

/* ---- closing -------------------------------------------------------------------------------------------- */

/* Readers first: the last checkpoint empties the WAL only when nobody reads from it. */
static void stop_readers(struct db *db)
{
    atomic_store(&db->stopping, true);
    mailbox_close(&db->read_queue);
    if (db->reader_started) {
        (void)pthread_join(db->reader_thread, NULL);
    }
    if (db->checker_started) {
        sqlite3_interrupt(db->checker.handle);
        (void)pthread_join(db->checker_thread, NULL);
    }
    connection_close(&db->checker);
    connection_close(&db->reader);
}

void db_stop(struct db *db)
{
    if (db->stopped) {
        return;
    }
    stop_readers(db);
    mailbox_close(&db->write_queue);
    if (db->writer_started) {
        (void)pthread_join(db->writer_thread, NULL);
    }
    connection_close(&db->writer);
    db->stopped = true;
}

void db_close(struct db *db)
{
    if (db == NULL) {
        return;
    }
    db_stop(db);
    mailbox_release(&db->read_queue);
    mailbox_release(&db->write_queue);
    free(db->path);
    free(db);
}

/* ---- small questions ------------------------------------------------------------------------------------- */

void db_set_hooks(struct db *db, const struct db_hooks *hooks)
{
    db->hooks = *hooks;
}

uint64_t db_file_size(const struct db *db)
{
    return (uint64_t)(atomic_load(&db->database_bytes) + atomic_load(&db->wal_bytes));
}

uint64_t db_data_size(const struct db *db)
{
    return (uint64_t)atomic_load(&db->database_bytes);
}

int db_schema_version(const struct db *db)
{
    return db->schema_version;
}

size_t db_write_backlog(struct db *db)
{
    return atomic_load(&db->write_backlog);
}
