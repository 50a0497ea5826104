/* Owns changing a database that no daemon has open: one transaction, and then nothing of what it removed is left in the file. */
#include "db/dump.h"

#include "db/internal.h"
#include "util/file.h"

struct change {
    const struct db_migration *migrations;
    size_t count;
    int (*run)(void *argument, struct db_connection *connection, struct error *error);
    void *argument;
};

/* Reading only, before anything is done. Whatever the last stop was like: this happens rarely, and is not to be done to a damaged file. */
static int inspect(struct db_connection *connection, const struct change *change, struct schema_state *ret_state, struct error *error)
{
    int status = schema_read(connection, ret_state, error);
    if (status == 0) {
        status = schema_check_version(ret_state->version, change->migrations, change->count, error);
    }
    return status == 0 ? check_connection(connection, error) : status;
}

static int apply(struct db_connection *connection, const struct change *change, struct error *error)
{
    int status = connection_run(connection, "BEGIN IMMEDIATE", error);
    if (status == 0) {
        status = change->run(change->argument, connection, error);
    }
    if (status == 0) {
        status = schema_mark(connection, true, error);
    }
    connection_settle(connection);
    return status == 0 ? connection_run(connection, "COMMIT", error) : status; /* closing rolls back what is open */
}

int db_change(const char *path, const struct db_migration *migrations, size_t migration_count,
              int (*run)(void *argument, struct db_connection *connection, struct error *error), void *argument, struct error *error)
{
    struct error ignored;
    struct db_connection connection;
    struct schema_state state = { .version = 0 };
    const struct change change = { migrations, migration_count, run, argument };
    error = error == NULL ? &ignored : error;
    bool there = false;
    int status = file_look(path, &there, error);
    if (status == 0 && !there) {
        return error_set(error, ERROR_NOT_FOUND, "there is no database %s", path);
    }
    status = status == 0 ? connection_open(&connection, path, CONNECTION_WRITER, error) : status;
    if (status < 0) {
        return status;
    }
    status = inspect(&connection, &change, &state, error);
    connection_settle(&connection);
    if (status == 0) {
        status = connection_allow_checkpoint(&connection, error);
    }
    if (status == 0) {
        status = connection_run(&connection, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL", error);
    }
    if (status == 0) {
        status = schema_migrate(&connection, state.version, migrations, migration_count, error);
    }
    if (status == 0) {
        status = apply(&connection, &change, error);
    }
    if (status == 0) {
        status = connection_run(&connection, "VACUUM", error); /* what was removed still stands in free pages */
    }
    connection_close(&connection);
    return status;
}
