/* Owns making a database from a stream of whole tables (dump.h). Must believe nothing of the stream: names are held against the schema, sizes against a maximum. */
#include <fcntl.h>
#include <unistd.h>

#include "db/dump.h"
#include "db/internal.h"
#include "util/buffer.h"
#include "util/file.h"
#include "util/memory.h"

/* Nobody else sees the file before it is whole, and one that is not is thrown away: no journal on the disk, and no syncs on the way. */
static const char LOAD_PRAGMAS[] = "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;";
static const char SELECT_COLUMN[] = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2";
enum { NAME_MAXIMUM = 64, COLUMNS_MAXIMUM = 64, SQL_MAXIMUM = 16 * 1024 };

struct load {
    struct db_connection connection;
    const struct db_source *source;
    struct error *error;
    sqlite3_stmt *insert; /* of the table that is being read */
    int columns;
    struct buffer value;
};

/* ---- bytes ---------------------------------------------------------------------------------------------- */

static int damaged(struct load *load, const char *what)
{
    return error_set(load->error, ERROR_CORRUPT, "the copy of a database is damaged: %s", what);
}

static int get(struct load *load, void *data, size_t size)
{
    return load->source->read(load->source->argument, data, size, load->error);
}

static int get_number(struct load *load, size_t size, uint64_t *ret_number)
{
    uint8_t bytes[8];
    uint64_t number = 0;
    int status = get(load, bytes, size);
    for (size_t i = 0; i < size && status == 0; i++) {
        number = number << 8 | bytes[i];
    }
    if (status == 0) {
        *ret_number = number;
    }
    return status;
}

/* Lower-case letters, digits and underscores: it becomes part of a statement. */
static int get_name(struct load *load, char ret_name[static NAME_MAXIMUM + 1])
{
    uint64_t length = 0;
    int status = get_number(load, 1, &length);
    if (status == 0 && (length == 0 || length > NAME_MAXIMUM)) {
        return damaged(load, "a name's length");
    }
    if (status == 0) {
        status = get(load, ret_name, (size_t)length);
    }
    if (status != 0) {
        return status;
    }
    ret_name[length] = '\0';
    return strspn(ret_name, "abcdefghijklmnopqrstuvwxyz0123456789_") == length ? 0 : damaged(load, "a name");
}

static int bind_bytes(struct load *load, int column, char type)
{
    uint64_t size = 0;
    int status = get_number(load, 4, &size);
    if (status == 0 && size > DB_DUMP_VALUE_MAXIMUM) {
        return damaged(load, "a value's size");
    }
    buffer_reset(&load->value);
    char *place = status == 0 ? buffer_reserve(&load->value, (size_t)size) : NULL;
    if (status == 0) {
        status = get(load, place, (size_t)size);
    }
    if (status != 0) {
        return status;
    }
    int result = type == 'T' ? sqlite3_bind_text64(load->insert, column, place, size, SQLITE_TRANSIENT, SQLITE_UTF8)
                             : sqlite3_bind_blob64(load->insert, column, place, size, SQLITE_TRANSIENT);
    return result == SQLITE_OK ? 0 : sqlite_error(load->connection.handle, result, load->error);
}

static int bind_value(struct load *load, int column)
{
    union {
        double number;
        uint64_t bits;
    } real;
    char type = 0;
    uint64_t number = 0;
    int status = get(load, &type, 1);
    if (status != 0 || type == 'T' || type == 'B') {
        return status != 0 ? status : bind_bytes(load, column, type);
    }
    int result = SQLITE_OK;
    if (type == 'I' || type == 'F') {
        status = get_number(load, 8, &number);
        real.bits = number;
        result = status != 0   ? SQLITE_OK
                 : type == 'I' ? sqlite3_bind_int64(load->insert, column, (int64_t)number)
                               : sqlite3_bind_double(load->insert, column, real.number);
    } else if (type == '0') {
        result = sqlite3_bind_null(load->insert, column);
    } else {
        return damaged(load, "a value's type");
    }
    return status != 0 || result == SQLITE_OK ? status : sqlite_error(load->connection.handle, result, load->error);
}

/* ---- tables --------------------------------------------------------------------------------------------- */

static int check_column(struct load *load, const char *table, const char *column)
{
    sqlite3_stmt *statement = db_prepare(&load->connection, SELECT_COLUMN, load->error);
    if (statement == NULL) {
        return -(int)load->error->code;
    }
    int status = db_bind(statement, load->error, "tt", table, column);
    if (status == 0) {
        status = db_step(statement, load->error);
        status = status == 0 ? damaged(load, "it has a column that its version lacks") : status < 0 ? status : 0;
    }
    db_reset(statement);
    return status;
}

static int get_columns(struct load *load, const char *table, struct buffer *sql)
{
    uint64_t count = 0;
    char name[NAME_MAXIMUM + 1];
    int status = get_number(load, 2, &count);
    if (status == 0 && (count == 0 || count > COLUMNS_MAXIMUM)) {
        return damaged(load, "a count of columns");
    }
    buffer_printf(sql, "INSERT INTO \"%s\" (", table);
    for (uint64_t i = 0; i < count && status == 0; i++) {
        status = get_name(load, name);
        if (status == 0) {
            status = check_column(load, table, name);
        }
        buffer_printf(sql, "%s\"%s\"", i == 0 ? "" : ", ", name);
    }
    buffer_append_text(sql, ") VALUES (");
    for (uint64_t i = 0; i < count; i++) {
        buffer_append_text(sql, i == 0 ? "?" : ", ?");
    }
    buffer_append_text(sql, ")");
    load->columns = (int)count;
    return status;
}

/* The table's head. What the schema's own steps put there gives way. */
static int begin_table(struct load *load)
{
    char name[NAME_MAXIMUM + 1];
    struct buffer sql;
    struct buffer clear;
    buffer_init(&sql, SQL_MAXIMUM);
    buffer_init(&clear, SQL_MAXIMUM);
    int status = get_name(load, name);
    if (status == 0 && (strcmp(name, "schema") == 0 || string_has_prefix(name, "sqlite_"))) {
        status = damaged(load, "a table that is none of ours");
    }
    if (status == 0) {
        status = get_columns(load, name, &sql);
    }
    if (status == 0) {
        buffer_printf(&clear, "DELETE FROM \"%s\"", name);
        status = connection_run(&load->connection, clear.data, load->error);
    }
    if (status == 0) {
        (void)sqlite3_finalize(load->insert);
        load->insert = NULL;
        int result = sqlite3_prepare_v2(load->connection.handle, sql.data, -1, &load->insert, NULL);
        status = result == SQLITE_OK ? 0 : sqlite_error(load->connection.handle, result, load->error);
    }
    buffer_release(&sql);
    buffer_release(&clear);
    return status;
}

static int get_row(struct load *load)
{
    if (load->insert == NULL) {
        return damaged(load, "a row without a table");
    }
    for (int column = 1; column <= load->columns; column++) {
        int status = bind_value(load, column);
        if (status != 0) {
            return status;
        }
    }
    int status = db_step(load->insert, load->error);
    (void)sqlite3_reset(load->insert); /* says again what the step said */
    return status == 1 ? damaged(load, "a row that answers") : status;
}

static int get_tables(struct load *load)
{
    for (;;) {
        char kind = 0;
        int status = get(load, &kind, 1);
        if (status == 0 && kind == 'E') {
            return 0;
        }
        if (status == 0) {
            status = kind == 'T' ? begin_table(load) : kind == 'R' ? get_row(load) : damaged(load, "neither a table nor a row");
        }
        if (status != 0) {
            return status;
        }
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------ */

struct plan {
    const struct db_migration *migrations;
    size_t count;
    int (*finish)(void *argument, struct db_connection *connection, struct error *error);
    void *argument;
};

static int in_transaction(struct load *load, int (*work)(struct load *load, const struct plan *plan), const struct plan *plan)
{
    int status = connection_run(&load->connection, "BEGIN", load->error);
    if (status == 0) {
        status = work(load, plan);
    }
    (void)sqlite3_finalize(load->insert);
    load->insert = NULL;
    connection_settle(&load->connection);
    return status == 0 ? connection_run(&load->connection, "COMMIT", load->error) : status;
}

static int read_rows(struct load *load, const struct plan *plan)
{
    (void)plan;
    return get_tables(load);
}

static int finish(struct load *load, const struct plan *plan)
{
    int status = plan->finish == NULL ? 0 : plan->finish(plan->argument, &load->connection, load->error);
    return status == 0 ? schema_mark(&load->connection, true, load->error) : status;
}

static int fill(struct load *load, const struct plan *plan)
{
    uint64_t version = 0;
    int status = get_number(load, 4, &version);
    if (status == 0 && (version == 0 || version > INT32_MAX)) {
        return damaged(load, "a schema version that cannot be");
    }
    if (status == 0) {
        status = schema_check_version((int)version, plan->migrations, plan->count, load->error);
    }
    if (status == 0) {
        status = connection_run(&load->connection, LOAD_PRAGMAS, load->error);
    }
    if (status == 0) {
        status = schema_migrate(&load->connection, 0, plan->migrations, (size_t)version, load->error);
    }
    if (status == 0) {
        status = in_transaction(load, read_rows, plan);
    }
    if (status == 0) {
        status = schema_migrate(&load->connection, (int)version, plan->migrations, plan->count, load->error);
    }
    return status == 0 ? in_transaction(load, finish, plan) : status;
}

static int make_file(const char *path, struct error *error)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_set_errno(error, "cannot create %s", path);
    }
    close(fd);
    return 0;
}

static int sync_file(const char *path, struct error *error)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(error, "cannot open %s", path);
    }
    int status = file_sync(fd) == 0 ? 0 : error_set_errno(error, "cannot sync %s", path);
    close(fd);
    return status;
}

int db_load(const char *path, const struct db_migration *migrations, size_t migration_count, const struct db_source *source,
            int (*finish_with)(void *argument, struct db_connection *connection, struct error *error), void *finish_argument,
            struct error *error)
{
    struct error ignored;
    struct load load = { .source = source, .error = error == NULL ? &ignored : error };
    const struct plan plan = { migrations, migration_count, finish_with, finish_argument };
    int status = make_file(path, load.error);
    if (status != 0) {
        return status;
    }
    buffer_init_secret(&load.value, DB_DUMP_VALUE_MAXIMUM);
    status = connection_open(&load.connection, path, CONNECTION_WRITER, load.error);
    if (status == 0) {
        status = fill(&load, &plan);
        connection_close(&load.connection);
    }
    if (status == 0) {
        status = sync_file(path, load.error);
    }
    if (status != 0) {
        unlink(path);
    }
    buffer_release(&load.value);
    return status;
}
