/* Owns the table `schema`: its one row holds the version and the clean-stop marker; and how a file gets from version to version. Must not
 * know the rooms' tables. */
#include "db/internal.h"

static const char SELECT_EXISTS[] = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema'";
static const char SELECT_SCHEMA[] = "SELECT version, clean FROM schema WHERE id = 1";
static const char CREATE_SCHEMA[] = "CREATE TABLE IF NOT EXISTS schema ("
                                    "  id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, clean INTEGER NOT NULL) STRICT";
static const char SET_VERSION[] =
    "INSERT INTO schema (id, version, clean) VALUES (1, ?1, 0) ON CONFLICT (id) DO UPDATE SET version = excluded.version, clean = 0";
static const char SET_CLEAN[] = "UPDATE schema SET clean = ?1 WHERE id = 1";
static const char SELECT_PAGES[] = "PRAGMA page_count";

int schema_read(struct db_connection *connection, struct schema_state *ret_state, struct error *error)
{
    int64_t exists = 0;
    int64_t pages = 0;
    int status = db_read_number(connection, SELECT_EXISTS, &exists, error);
    if (status == 0) {
        status = db_read_number(connection, SELECT_PAGES, &pages, error);
    }
    if (status < 0) {
        return status;
    }
    struct schema_state state = { .version = 0, .clean = pages == 0 };
    if (exists != 0) {
        sqlite3_stmt *statement = db_prepare(connection, SELECT_SCHEMA, error);
        if (statement == NULL) {
            return -(int)error->code;
        }
        status = db_step(statement, error);
        if (status == 1) {
            state.version = sqlite3_column_int(statement, 0);
            state.clean = sqlite3_column_int(statement, 1) == 1;
        }
        db_reset(statement);
        if (status < 0) {
            return status;
        }
    }
    *ret_state = state;
    return 0;
}

int schema_check_version(int version, const struct db_migration *migrations, size_t count, struct error *error)
{
    if (count == 0) {
        return error_set(error, ERROR_INTERNAL, "a database without migrations");
    }
    for (size_t i = 0; i < count; i++) {
        if (migrations[i].version != (int)i + 1) {
            return error_set(error, ERROR_INTERNAL, "migration %zu has version %d", i + 1, migrations[i].version);
        }
    }
    if (version < 0) {
        return error_set(error, ERROR_CORRUPT, "the database says schema version %d", version);
    }
    if ((size_t)version > count) {
        return error_set(error, ERROR_NEWER, "the database has schema version %d and this program knows %zu: a newer claudemesh is needed",
                         version, count);
    }
    return 0;
}

static int run_step(struct db_connection *connection, const struct db_migration *migration, struct error *error)
{
    int status = connection_run(connection, CREATE_SCHEMA, error);
    if (status == 0) {
        status = connection_run(connection, migration->sql, error);
    }
    if (status == 0) {
        status = db_execute(connection, error, NULL, SET_VERSION, "i", (int64_t)migration->version);
    }
    return status == 0 ? connection_run(connection, "COMMIT", error) : status;
}

int schema_migrate(struct db_connection *connection, int from, const struct db_migration *migrations, size_t count, struct error *error)
{
    for (size_t i = (size_t)from; i < count; i++) {
        int status = connection_run(connection, "BEGIN IMMEDIATE", error);
        if (status < 0) {
            return status;
        }
        status = run_step(connection, &migrations[i], error);
        if (status < 0) {
            /* The caller closes the connection, which rolls back whatever is open. */
            return error_prefix(error, "schema step %d", migrations[i].version);
        }
    }
    return 0;
}

int schema_mark(struct db_connection *connection, bool clean, struct error *error)
{
    return db_execute(connection, error, NULL, SET_CLEAN, "i", (int64_t)(clean ? 1 : 0));
}
