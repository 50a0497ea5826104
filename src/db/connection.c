/* Owns one SQLite connection: how it is opened, which pragmas hold, and what SQLite's failures mean here. Must not know any table. */
#include <errno.h>
#include <pthread.h>

#include "db/internal.h"
#include "util/log.h"
#include "util/memory.h"

enum {
    EXIT_FAILED = 1, /* 10-cli: the operation failed; systemd starts the daemon again */
    /* Operators look into the files with their own tools; a lock of theirs is waited for this long. */
    BUSY_TIMEOUT_MS = 5000,
};

static const char WRITER_PRAGMAS[] =
    "PRAGMA page_size = 4096;"
    "PRAGMA foreign_keys = ON;"
    "PRAGMA trusted_schema = OFF;"
    "PRAGMA temp_store = MEMORY;"
    /* Debian builds SQLite with it on; zeroing what is deleted doubles the pages that a prune writes. */
    "PRAGMA secure_delete = OFF;"
    /* 2 MiB: the right edges of the tables and the upper levels of the indexes; the kernel caches the rest. */
    "PRAGMA cache_size = -2048;"
    "PRAGMA wal_autocheckpoint = 0;"
    "PRAGMA journal_size_limit = 16777216;";

static const char READER_PRAGMAS[] = "PRAGMA query_only = ON;"
                                     "PRAGMA trusted_schema = OFF;"
                                     "PRAGMA temp_store = MEMORY;"
                                     "PRAGMA cache_size = -512;";

static pthread_once_t library_once = PTHREAD_ONCE_INIT;

/* Two process-wide counters behind one mutex that every allocation of every thread would take. Somebody who used SQLite
 * before us leaves it as it is: slower, not wrong. */
static void library_configure(void)
{
    if (sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) != SQLITE_OK) {
        return;
    }
}

static enum error_code error_code_of(int result, int system_errno)
{
    switch (result & 0xff) {
    case SQLITE_FULL:
        return ERROR_FULL;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return ERROR_CORRUPT;
    case SQLITE_CONSTRAINT:
        return ERROR_CONFLICT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_INTERRUPT:
        return ERROR_BUSY;
    case SQLITE_TOOBIG:
        return ERROR_TOO_LARGE;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        return ERROR_DENIED;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        /* EFBIG: a file size limit is a full disk by another name. */
        if (system_errno == ENOSPC || system_errno == EDQUOT || system_errno == EFBIG) {
            return ERROR_FULL;
        }
        return system_errno == EACCES || system_errno == EPERM ? ERROR_DENIED : ERROR_SYSTEM;
    default:
        return ERROR_INTERNAL;
    }
}

int sqlite_error(sqlite3 *handle, int result, struct error *error)
{
    int extended = handle == NULL ? result : sqlite3_extended_errcode(handle);
    if ((extended & 0xff) != (result & 0xff)) {
        extended = result;
    }
    if ((result & 0xff) == SQLITE_NOMEM) {
        memory_exhausted();
    }
    int system_errno = handle == NULL ? 0 : sqlite3_system_errno(handle);
    const char *path = handle == NULL ? NULL : sqlite3_db_filename(handle, "main");
    if (extended == SQLITE_IOERR_FSYNC || extended == SQLITE_IOERR_DIR_FSYNC) {
        log_fatal(EXIT_FAILED, "fsync_failed",
                  (const struct log_field[]){ LOG_TEXT("path", path), LOG_NUMBER("errno", system_errno), LOG_END });
    }
    /* A byte of the head that SQLite takes for a mistake of ours. */
    bool ruined_head = handle != NULL && result == SQLITE_ERROR && strcmp(sqlite3_errmsg(handle), "unsupported file format") == 0;
    enum error_code code = ruined_head ? ERROR_CORRUPT : error_code_of(result, system_errno);
    const char *said = code == ERROR_FULL ? "the disk is full" : handle == NULL ? sqlite3_errstr(result) : sqlite3_errmsg(handle);
    (void)error_set(error, code, "database %s: %s (%d)", path == NULL ? "" : path, said, extended);
    if (error != NULL && (code == ERROR_SYSTEM || code == ERROR_FULL || code == ERROR_DENIED)) {
        error->sys_errno = system_errno;
    }
    return -(int)code;
}

static int configure(sqlite3 *handle, int option, int value, struct error *error)
{
    int result = sqlite3_db_config(handle, option, value, (int *)NULL);
    return result == SQLITE_OK ? 0 : sqlite_error(handle, result, error);
}

static int run_script(sqlite3 *handle, const char *sql, struct error *error)
{
    int result = sqlite3_exec(handle, sql, NULL, NULL, NULL);
    return result == SQLITE_OK ? 0 : sqlite_error(handle, result, error);
}

int connection_run(struct db_connection *connection, const char *sql, struct error *error)
{
    return run_script(connection->handle, sql, error);
}

int connection_open(struct db_connection *connection, const char *path, enum connection_mode mode, struct error *error)
{
    if (pthread_once(&library_once, library_configure) != 0) {
        return error_set(error, ERROR_INTERNAL, "SQLite could not be configured");
    }
    *connection = (struct db_connection){ .handle = NULL };
    /* No mutex inside: each connection is one thread's. */
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | (mode == CONNECTION_WRITER ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY);
    int status;
    int result = sqlite3_open_v2(path, &connection->handle, flags, NULL);
    if (result != SQLITE_OK) {
        status = sqlite_error(connection->handle, result, error);
        goto failed;
    }
    result = sqlite3_busy_timeout(connection->handle, BUSY_TIMEOUT_MS);
    if (result != SQLITE_OK) {
        status = sqlite_error(connection->handle, result, error);
        goto failed;
    }
    if ((status = configure(connection->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, error)) < 0 ||
        (status = configure(connection->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, error)) < 0 ||
        (status = configure(connection->handle, SQLITE_DBCONFIG_DQS_DML, 0, error)) < 0 ||
        (status = configure(connection->handle, SQLITE_DBCONFIG_DQS_DDL, 0, error)) < 0) {
        goto failed;
    }
    status = run_script(connection->handle, mode == CONNECTION_WRITER ? WRITER_PRAGMAS : READER_PRAGMAS, error);
    if (status < 0) {
        goto failed;
    }
    return 0;

failed:
    connection_close(connection);
    return status;
}

int connection_allow_checkpoint(struct db_connection *connection, struct error *error)
{
    return configure(connection->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, error);
}

void connection_close(struct db_connection *connection)
{
    connection_finalize(connection);
    if (connection->handle != NULL && sqlite3_close(connection->handle) != SQLITE_OK) {
        /* Only a statement that somebody prepared beside db_prepare can be in the way. */
        log_event(LOG_LEVEL_ERROR, "database_close_failed", LOG_TEXT("detail", sqlite3_errmsg(connection->handle)), LOG_END);
    }
    connection->handle = NULL;
}

sqlite3 *db_handle(struct db_connection *connection)
{
    return connection->handle;
}
