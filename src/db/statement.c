/* Owns prepared statements: one for each connection and text, found by the text's address; binding, stepping, reading columns.
 * Must not hold SQL of its own. */
#include <stdarg.h>
#include <stddef.h>

#include "db/internal.h"
#include "util/memory.h"

struct db_statement {
    const char *sql;
    sqlite3_stmt *prepared;
    bool touched;
    struct db_statement *next_touched;
};

enum { FIRST_CAPACITY = 64 };

static size_t slot_of(const char *sql, size_t capacity)
{
    uint64_t mixed = (uint64_t)(uintptr_t)sql * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(mixed >> 32) & (capacity - 1);
}

/* The slot that holds `sql`, or the free one where it belongs. */
static struct db_statement **find_slot(struct db_statement **slots, size_t capacity, const char *sql)
{
    size_t slot = slot_of(sql, capacity);
    while (slots[slot] != NULL && slots[slot]->sql != sql) {
        slot = (slot + 1) & (capacity - 1);
    }
    return &slots[slot];
}

static void grow(struct db_connection *connection)
{
    size_t capacity = connection->capacity == 0 ? FIRST_CAPACITY : connection->capacity * 2;
    struct db_statement **slots = memory_calloc(capacity, sizeof(struct db_statement *));
    for (size_t i = 0; i < connection->capacity; i++) {
        if (connection->slots[i] != NULL) {
            *find_slot(slots, capacity, connection->slots[i]->sql) = connection->slots[i];
        }
    }
    free(connection->slots);
    connection->slots = slots;
    connection->capacity = capacity;
}

sqlite3_stmt *db_prepare(struct db_connection *connection, const char *sql, struct error *error)
{
    if ((connection->count + 1) * 2 > connection->capacity) {
        grow(connection);
    }
    struct db_statement **slot = find_slot(connection->slots, connection->capacity, sql);
    if (*slot == NULL) {
        sqlite3_stmt *prepared = NULL;
        int result = sqlite3_prepare_v3(connection->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &prepared, NULL);
        if (result != SQLITE_OK) {
            (void)sqlite_error(connection->handle, result, error);
            return NULL;
        }
        struct db_statement *statement = memory_zalloc(sizeof(*statement));
        statement->sql = sql;
        statement->prepared = prepared;
        *slot = statement;
        connection->count++;
    } else {
        db_reset((*slot)->prepared);
    }
    if (!(*slot)->touched) {
        (*slot)->touched = true;
        (*slot)->next_touched = connection->touched;
        connection->touched = *slot;
    }
    return (*slot)->prepared;
}

/* The result of sqlite3_reset repeats the failure of the last step, which its caller has. */
void db_reset(sqlite3_stmt *statement)
{
    if (statement != NULL) {
        (void)sqlite3_reset(statement);
        (void)sqlite3_clear_bindings(statement);
    }
}

void connection_settle(struct db_connection *connection)
{
    while (connection->touched != NULL) {
        struct db_statement *statement = connection->touched;
        connection->touched = statement->next_touched;
        statement->touched = false;
        statement->next_touched = NULL;
        db_reset(statement->prepared);
    }
}

void connection_finalize(struct db_connection *connection)
{
    for (size_t i = 0; i < connection->capacity; i++) {
        if (connection->slots[i] != NULL) {
            (void)sqlite3_finalize(connection->slots[i]->prepared);
            free(connection->slots[i]);
        }
    }
    free(connection->slots);
    connection->slots = NULL;
    connection->capacity = 0;
    connection->count = 0;
    connection->touched = NULL;
}

static int bind_bytes(sqlite3_stmt *statement, int index, const void *bytes, size_t size)
{
    return bytes == NULL ? sqlite3_bind_null(statement, index) : sqlite3_bind_blob64(statement, index, bytes, size, SQLITE_STATIC);
}

static int bind_text(sqlite3_stmt *statement, int index, struct text text)
{
    return text.data == NULL ? sqlite3_bind_null(statement, index)
                             : sqlite3_bind_text64(statement, index, text.data, text.length, SQLITE_STATIC, SQLITE_UTF8);
}

static int bind_all(sqlite3_stmt *statement, struct error *error, const char *format, va_list values)
{
    int index = 0;
    for (const char *type = format; *type != '\0'; type++) {
        index++;
        int result;
        switch (*type) {
        case 't': {
            const char *string = va_arg(values, const char *);
            result = bind_text(statement, index, (struct text){ string, string == NULL ? 0 : strlen(string) });
            break;
        }
        case 'x':
            result = bind_text(statement, index, va_arg(values, struct text));
            break;
        case 'b': {
            const void *bytes = va_arg(values, const void *);
            result = bind_bytes(statement, index, bytes, va_arg(values, size_t));
            break;
        }
        case 'i':
            result = sqlite3_bind_int64(statement, index, va_arg(values, int64_t));
            break;
        case 'd':
            result = sqlite3_bind_double(statement, index, va_arg(values, double));
            break;
        case 'n':
            result = sqlite3_bind_null(statement, index);
            break;
        default:
            return error_set(error, ERROR_INTERNAL, "db_bind knows no '%c'", *type);
        }
        if (result != SQLITE_OK) {
            return sqlite_error(sqlite3_db_handle(statement), result, error);
        }
    }
    if (index != sqlite3_bind_parameter_count(statement)) {
        return error_set(error, ERROR_INTERNAL, "%d values for %d parameters of: %s", index, sqlite3_bind_parameter_count(statement),
                         sqlite3_sql(statement));
    }
    return 0;
}

int db_bind(sqlite3_stmt *statement, struct error *error, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    int status = bind_all(statement, error, format, values);
    va_end(values);
    return status;
}

int db_step(sqlite3_stmt *statement, struct error *error)
{
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        return 1;
    }
    return result == SQLITE_DONE ? 0 : sqlite_error(sqlite3_db_handle(statement), result, error);
}

int db_execute(struct db_connection *connection, struct error *error, int64_t *ret_changes, const char *sql, const char *format, ...)
{
    struct error ignored;
    error = error == NULL ? &ignored : error;
    sqlite3_stmt *statement = db_prepare(connection, sql, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    va_list values;
    va_start(values, format);
    int status = bind_all(statement, error, format, values);
    va_end(values);
    while (status == 0) {
        int result = sqlite3_step(statement);
        if (result == SQLITE_ROW) {
            continue;
        }
        if (result != SQLITE_DONE) {
            status = sqlite_error(connection->handle, result, error);
        }
        break;
    }
    if (status == 0 && ret_changes != NULL) {
        *ret_changes = sqlite3_changes64(connection->handle);
    }
    db_reset(statement);
    return status;
}

int db_read_number(struct db_connection *connection, const char *sql, int64_t *ret_number, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, sql, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_step(statement, error);
    if (status == 1) {
        *ret_number = db_column_integer(statement, 0, 0);
    }
    db_reset(statement);
    return status < 0 ? status : 0;
}

const char *db_column_string(sqlite3_stmt *statement, int column)
{
    if (sqlite3_column_type(statement, column) == SQLITE_NULL) {
        return NULL;
    }
    const char *string = (const char *)sqlite3_column_text(statement, column);
    if (string == NULL) {
        memory_exhausted();
    }
    return string;
}

struct text db_column_text(sqlite3_stmt *statement, int column)
{
    if (sqlite3_column_type(statement, column) == SQLITE_NULL) {
        return (struct text){ NULL, 0 };
    }
    /* For texts and blobs alike; NULL for an empty one. */
    const char *bytes = sqlite3_column_blob(statement, column);
    return (struct text){ bytes == NULL ? "" : bytes, (size_t)sqlite3_column_bytes(statement, column) };
}

int64_t db_column_integer(sqlite3_stmt *statement, int column, int64_t if_null)
{
    return sqlite3_column_type(statement, column) == SQLITE_NULL ? if_null : sqlite3_column_int64(statement, column);
}

char *db_column_dup(sqlite3_stmt *statement, int column)
{
    struct text text = db_column_text(statement, column);
    return text.data == NULL ? NULL : memory_strndup(text.data, text.length);
}
