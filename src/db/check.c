/* Owns the integrity check of a file. Reads only. */
#include "db/internal.h"
#include "util/file.h"

/* One finding is enough to know. */
static const char QUICK_CHECK[] = "PRAGMA quick_check(1)";
/* And that each row is in its indexes: one that an index has lost is never sent, or found. */
static const char WHOLE_CHECK[] = "PRAGMA integrity_check(1)";

static int run_check(struct db_connection *connection, const char *check, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, check, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_step(statement, error);
    if (status == 1) {
        const char *finding = db_column_string(statement, 0);
        status = string_equal(finding, "ok")
                     ? 0
                     : error_set(error, ERROR_CORRUPT, "the integrity check found: %s", finding == NULL ? "nothing readable" : finding);
    } else if (status == 0) {
        status = error_set(error, ERROR_CORRUPT, "the integrity check gave no answer");
    }
    db_reset(statement);
    return status;
}

int check_connection(struct db_connection *connection, struct error *error)
{
    return run_check(connection, QUICK_CHECK, error);
}

int db_check_file(const char *path, struct error *error)
{
    struct error ignored;
    error = error == NULL ? &ignored : error;
    if (!file_exists(path)) {
        return error_set(error, ERROR_NOT_FOUND, "there is no database %s", path);
    }
    struct db_connection connection;
    int status = connection_open(&connection, path, CONNECTION_READER, error);
    if (status < 0) {
        return status;
    }
    status = run_check(&connection, WHOLE_CHECK, error);
    connection_close(&connection);
    return status;
}
