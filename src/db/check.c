/* Owns the integrity check of a file. Reads only. */
#include "db/internal.h"
#include "util/file.h"

/* One finding is enough to know. */
static const char QUICK_CHECK[] = "PRAGMA quick_check(1)";

int check_connection(struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, QUICK_CHECK, error);
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
    status = check_connection(&connection, error);
    connection_close(&connection);
    return status;
}
