/* Owns reading whole tables into a stream. Reads only, and must not know what a table means. */
#include "db/dump.h"

#include "db/internal.h"
#include "util/buffer.h"
#include "util/file.h"

/* Neither virtual tables nor the tables in which they keep what they hold. */
static const char SELECT_TABLES[] =
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    " AND name <> 'schema' ORDER BY name";
static const char SELECT_COLUMNS[] = "SELECT name FROM pragma_table_info(?1) ORDER BY cid";
enum { NAME_MAXIMUM = 64, COLUMNS_MAXIMUM = 64, SQL_MAXIMUM = 16 * 1024 };

struct dump {
    struct db_connection *connection;
    const struct db_selection *selection;
    const struct db_sink *sink;
    struct buffer out; /* gathered, so that the sink sees no crumbs */
    int64_t rows;
    struct error *error;
};

enum { OUT_AT_ONCE = 32 * 1024 };

/* ---- bytes ---------------------------------------------------------------------------------------------- */

static int pass_on(struct dump *dump)
{
    int status = dump->sink->write(dump->sink->argument, dump->out.data, dump->out.length, dump->error);
    buffer_reset(&dump->out);
    return status;
}

static int put(struct dump *dump, const void *data, size_t size)
{
    (void)buffer_append(&dump->out, data, size); /* it has no maximum */
    return dump->out.length >= OUT_AT_ONCE ? pass_on(dump) : 0;
}

static int put_number(struct dump *dump, uint64_t number, size_t size)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(number >> (8 * (size - 1 - i)));
    }
    return put(dump, bytes, size);
}

static int put_name(struct dump *dump, const char *name)
{
    int status = put_number(dump, strlen(name), 1);
    return status == 0 ? put(dump, name, strlen(name)) : status;
}

static int put_bytes(struct dump *dump, char type, const void *data, size_t size)
{
    if (size > DB_DUMP_VALUE_MAXIMUM) {
        return error_set(dump->error, ERROR_TOO_LARGE, "a value of %zu bytes is more than can be kept in a backup", size);
    }
    int status = put(dump, &type, 1);
    if (status == 0) {
        status = put_number(dump, size, 4);
    }
    return status == 0 && size > 0 ? put(dump, data, size) : status;
}

static int put_value(struct dump *dump, sqlite3_stmt *statement, int column)
{
    union {
        double number;
        uint64_t bits;
    } real;
    int status;
    switch (sqlite3_column_type(statement, column)) {
    case SQLITE_INTEGER:
        status = put(dump, "I", 1);
        return status == 0 ? put_number(dump, (uint64_t)sqlite3_column_int64(statement, column), 8) : status;
    case SQLITE_FLOAT:
        real.number = sqlite3_column_double(statement, column);
        status = put(dump, "F", 1);
        return status == 0 ? put_number(dump, real.bits, 8) : status;
    case SQLITE_TEXT: {
        struct text text = db_column_text(statement, column);
        return put_bytes(dump, 'T', text.data, text.length);
    }
    case SQLITE_BLOB: {
        struct text bytes = db_column_text(statement, column);
        return put_bytes(dump, 'B', bytes.data, bytes.length);
    }
    default:
        return put(dump, "0", 1);
    }
}

/* ---- tables --------------------------------------------------------------------------------------------- */

struct table {
    char name[NAME_MAXIMUM + 1];
    char columns[COLUMNS_MAXIMUM][NAME_MAXIMUM + 1];
    int column_count;
};

static bool is_left_out(const struct dump *dump, const char *name)
{
    for (const char *const *without = dump->selection->without; without != NULL && *without != NULL; without++) {
        if (string_equal(*without, name)) {
            return true;
        }
    }
    return false;
}

static int read_columns(struct dump *dump, struct table *table)
{
    sqlite3_stmt *statement = db_prepare(dump->connection, SELECT_COLUMNS, dump->error);
    if (statement == NULL) {
        return -(int)dump->error->code;
    }
    int status = db_bind(statement, dump->error, "t", table->name);
    table->column_count = 0;
    while (status == 0 && (status = db_step(statement, dump->error)) == 1) {
        const char *name = db_column_string(statement, 0);
        bool fits = table->column_count < COLUMNS_MAXIMUM && name != NULL &&
                    string_copy(table->columns[table->column_count], NAME_MAXIMUM + 1, name) == 0;
        table->column_count++;
        status = fits ? 0 : error_set(dump->error, ERROR_TOO_LARGE, "the table %s has more columns than a backup takes", table->name);
    }
    db_reset(statement);
    return status;
}

static const char *expression_of(const struct dump *dump, const struct table *table, const char *column)
{
    for (size_t i = 0; i < dump->selection->substitute_count; i++) {
        const struct db_substitute *substitute = &dump->selection->substitutes[i];
        if (string_equal(substitute->table, table->name) && string_equal(substitute->column, column)) {
            return substitute->expression;
        }
    }
    return NULL;
}

static bool is_plain(const char *name)
{
    return name[0] != '\0' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

/* The table's head to the stream, and the statement that reads its rows. */
static int describe(struct dump *dump, const struct table *table, struct buffer *sql)
{
    int status = put(dump, "T", 1);
    if (status == 0) {
        status = put_name(dump, table->name);
    }
    if (status == 0) {
        status = put_number(dump, (uint64_t)table->column_count, 2);
    }
    buffer_append_text(sql, "SELECT ");
    for (int i = 0; i < table->column_count && status == 0; i++) {
        const char *expression = expression_of(dump, table, table->columns[i]);
        if (!is_plain(table->columns[i]) || !is_plain(table->name)) {
            return error_set(dump->error, ERROR_INTERNAL, "a column of %s has a name that a backup does not take", table->name);
        }
        buffer_printf(sql, expression != NULL ? "%s%s" : "%s\"%s\"", i == 0 ? "" : ", ",
                      expression != NULL ? expression : table->columns[i]);
        status = put_name(dump, table->columns[i]);
    }
    /* In the order of the table itself: what is put back in that order is put at the end. */
    buffer_printf(sql, " FROM \"%s\" NOT INDEXED", table->name);
    return status != 0 || !sql->overflow ? status : error_set(dump->error, ERROR_TOO_LARGE, "%s has too many columns", table->name);
}

static int put_rows(struct dump *dump, const struct table *table, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(dump->connection->handle, sql, -1, &statement, NULL);
    int status = result == SQLITE_OK ? 0 : sqlite_error(dump->connection->handle, result, dump->error);
    while (status == 0 && (status = db_step(statement, dump->error)) == 1) {
        status = put(dump, "R", 1);
        for (int column = 0; column < table->column_count && status == 0; column++) {
            status = put_value(dump, statement, column);
        }
        dump->rows++;
    }
    (void)sqlite3_finalize(statement); /* says again what the last step said */
    return status;
}

static int put_table(struct dump *dump, const char *name)
{
    struct table table;
    struct buffer sql;
    if (string_copy(table.name, sizeof(table.name), name) != 0) {
        return error_set(dump->error, ERROR_TOO_LARGE, "a table with a long name");
    }
    buffer_init(&sql, SQL_MAXIMUM);
    int status = read_columns(dump, &table);
    if (status == 0) {
        status = describe(dump, &table, &sql);
    }
    if (status == 0) {
        status = put_rows(dump, &table, sql.data);
    }
    buffer_release(&sql);
    return status;
}

static int put_tables(struct dump *dump)
{
    sqlite3_stmt *statement = db_prepare(dump->connection, SELECT_TABLES, dump->error);
    if (statement == NULL) {
        return -(int)dump->error->code;
    }
    int status;
    while ((status = db_step(statement, dump->error)) == 1) {
        const char *name = db_column_string(statement, 0);
        status = name == NULL || is_left_out(dump, name) ? 0 : put_table(dump, name);
        if (status != 0) {
            break;
        }
    }
    db_reset(statement);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------------------ */

static int put_all(struct dump *dump, const char *path)
{
    struct schema_state state = { .version = 0 };
    int status = schema_read(dump->connection, &state, dump->error);
    if (status == 0 && state.version == 0) {
        return error_set(dump->error, ERROR_NOT_FOUND, "there is nothing in %s", path);
    }
    if (status == 0) {
        status = put_number(dump, (uint64_t)state.version, 4);
    }
    if (status == 0) {
        status = put_tables(dump);
    }
    if (status == 0) {
        status = put(dump, "E", 1);
    }
    return status == 0 ? pass_on(dump) : status;
}

static int dump_look(void *argument, struct db_connection *connection, struct error *error)
{
    struct dump *dump = argument;
    dump->connection = connection;
    dump->error = error;
    return put_all(dump, sqlite3_db_filename(connection->handle, "main"));
}

int db_dump(const char *path, const struct db_selection *selection, const struct db_sink *sink, int64_t *ret_rows, struct error *error)
{
    struct dump dump = { .selection = selection, .sink = sink };
    buffer_init(&dump.out, BUFFER_UNLIMITED);
    int status = db_look(path, dump_look, &dump, error);
    if (status == 0 && ret_rows != NULL) {
        *ret_rows = dump.rows;
    }
    buffer_wipe_release(&dump.out);
    return status;
}

int db_look(const char *path, int (*look)(void *argument, struct db_connection *connection, struct error *error), void *argument,
            struct error *error)
{
    struct error ignored;
    struct db_connection connection;
    error = error == NULL ? &ignored : error;
    bool there = false;
    int status = file_look(path, &there, error);
    if (status == 0 && !there) {
        return error_set(error, ERROR_NOT_FOUND, "there is no database %s", path);
    }
    status = status == 0 ? connection_open(&connection, path, CONNECTION_READER, error) : status;
    if (status < 0) {
        return status;
    }
    status = connection_run(&connection, "BEGIN", error);
    if (status == 0) {
        status = look(argument, &connection, error);
    }
    connection_close(&connection); /* and with it the transaction, which read only */
    return status;
}
