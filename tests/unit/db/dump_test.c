/* Whole tables as a stream, and back. */
#include "db/dump.h"
#include "support.h"
#include "util/buffer.h"

static const struct db_migration STEPS[] = {
    { 1, "CREATE TABLE one (id INTEGER PRIMARY KEY, text TEXT, real REAL, bytes BLOB) STRICT; INSERT INTO one (id) VALUES (99);"
         "CREATE TABLE two (a TEXT NOT NULL, b INTEGER NOT NULL, PRIMARY KEY (a, b)) STRICT, WITHOUT ROWID;"
         "CREATE VIRTUAL TABLE words USING fts5 (text);" },
    { 2, "ALTER TABLE one ADD COLUMN later INTEGER NOT NULL DEFAULT 7" },
};

struct tape {
    struct buffer bytes;
    size_t at;
};

static int tape_write(void *argument, const void *data, size_t size, struct error *error)
{
    struct tape *tape = argument;
    (void)error;
    return buffer_append(&tape->bytes, data, size);
}

static int tape_read(void *argument, void *data, size_t size, struct error *error)
{
    struct tape *tape = argument;
    if (size > tape->bytes.length - tape->at) {
        return error_set(error, ERROR_CORRUPT, "cut off");
    }
    memcpy(data, tape->bytes.data + tape->at, size);
    tape->at += size;
    return 0;
}

static int fill_tables(struct db_connection *connection, struct db_task *task)
{
    (void)task;
    const char *const statements[] = {
        "INSERT INTO one VALUES (1, 'text', 1.5, x'0001ff')", "INSERT INTO one VALUES (-5, NULL, NULL, x'')",
        "INSERT INTO one VALUES (7, '', -0.0, NULL)",         "INSERT INTO two VALUES ('b', 9223372036854775807)",
        "INSERT INTO two VALUES ('a', -9223372036854775808)", "INSERT INTO words VALUES ('not a table of ours')",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(statements); i++) {
        assert_int_equal(sqlite3_exec(db_handle(connection), statements[i], NULL, NULL, NULL), SQLITE_OK);
    }
    return 0;
}

static struct tape taped(struct test_place *place, const struct db_selection *selection, int64_t *ret_rows)
{
    struct tape tape = { .at = 0 };
    struct db_task task = { .run = fill_tables };
    struct error error = { .message = "" };
    const struct db_sink sink = { &tape, tape_write };
    buffer_init(&tape.bytes, BUFFER_UNLIMITED);
    struct db *db = place_open(place, STEPS, 1);
    assert_int_equal(db_write_wait(db, &task), 0);
    assert_int_equal(db_dump(place->path, selection, &sink, ret_rows, &error), 0); /* while it is open */
    place_close(place, db);
    return tape;
}

static const struct db_selection EVERYTHING = { .substitutes = NULL };

static char *text_of(void *argument, struct db_connection *connection, const char *sql)
{
    (void)argument;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_prepare_v2(db_handle(connection), sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    char *text = memory_strdup((const char *)sqlite3_column_text(statement, 0));
    assert_int_equal(sqlite3_finalize(statement), SQLITE_OK);
    return text;
}

static void assert_says(struct db_connection *connection, const char *sql, const char *expected)
{
    char *text = text_of(NULL, connection, sql);
    assert_string_equal(text, expected);
    free(text);
}

static int check_copy(void *argument, struct db_connection *connection, struct error *error)
{
    (void)argument;
    (void)error;
    assert_says(connection, "SELECT group_concat(quote(id) || quote(text) || quote(real) || quote(bytes) || later, ';') FROM one",
                "-5NULLNULLX''7;1'text'1.5X'0001FF'7;7''0.0NULL7;99NULLNULLNULL7");
    assert_says(connection, "SELECT group_concat(a || b, ';') FROM two", "a-9223372036854775808;b9223372036854775807");
    assert_says(connection, "SELECT count(*) FROM words", "0");
    assert_says(connection, "SELECT version || clean FROM schema", "21");
    assert_says(connection, "PRAGMA integrity_check", "ok");
    return 0;
}

static void rows_of_every_kind_come_back_and_later_steps_follow(void **state)
{
    struct test_place *place = *state;
    struct error error = { .message = "" };
    int64_t rows = 0;
    struct tape tape = taped(place, &EVERYTHING, &rows);
    const struct db_source source = { &tape, tape_read };
    char *copy = path_join(place->directory, "copy.db");
    assert_int_equal(rows, 6);
    assert_int_equal(db_load(copy, STEPS, ARRAY_LENGTH(STEPS), &source, NULL, NULL, &error), 0);
    assert_int_equal(db_look(copy, check_copy, NULL, &error), 0);
    tape.at = 0;
    assert_true(db_load(copy, STEPS, ARRAY_LENGTH(STEPS), &source, NULL, NULL, &error) < 0); /* it exists, and stays */
    assert_int_equal(db_look(copy, check_copy, NULL, &error), 0);
    free(copy);
    buffer_release(&tape.bytes);
}

static int check_selected(void *argument, struct db_connection *connection, struct error *error)
{
    (void)argument;
    (void)error;
    assert_says(connection, "SELECT count(*) || count(text) || count(bytes) FROM one", "404");
    assert_says(connection, "SELECT count(*) FROM two", "0");
    return 0;
}

static void columns_are_replaced_and_tables_left_out(void **state)
{
    static const struct db_substitute SUBSTITUTES[] = { { "one", "text", "NULL" }, { "one", "bytes", "x'00'" }, { "two", "a", "'never'" } };
    static const char *const WITHOUT[] = { "two", NULL };
    static const struct db_selection SELECTION = { SUBSTITUTES, ARRAY_LENGTH(SUBSTITUTES), WITHOUT };
    struct test_place *place = *state;
    struct error error = { .message = "" };
    struct tape tape = taped(place, &SELECTION, NULL);
    const struct db_source source = { &tape, tape_read };
    char *copy = path_join(place->directory, "copy.db");
    assert_int_equal(db_load(copy, STEPS, 1, &source, NULL, NULL, &error), 0);
    assert_int_equal(db_look(copy, check_selected, NULL, &error), 0);
    free(copy);
    buffer_release(&tape.bytes);
}

static void a_stream_that_is_cut_or_says_what_cannot_be_leaves_no_file(void **state)
{
    struct test_place *place = *state;
    struct error error = { .message = "" };
    struct tape tape = taped(place, &EVERYTHING, NULL);
    const struct db_source source = { &tape, tape_read };
    char *copy = path_join(place->directory, "copy.db");
    size_t whole = tape.bytes.length;
    for (size_t length = 0; length < whole; length += 7) {
        tape.at = 0;
        tape.bytes.length = length;
        assert_true(db_load(copy, STEPS, 1, &source, NULL, NULL, &error) < 0);
        assert_false(file_exists(copy));
    }
#define STREAM(literal)                \
    {                                  \
        (literal), sizeof(literal) - 1 \
    }
    static const struct text REFUSED[] = {
        STREAM("\0\0\0\0E"),
        STREAM("\377\377\377\377E"),
        STREAM("\0\0\0\1Q"),
        STREAM("\0\0\0\1RE"),
        STREAM("\0\0\0\1T\0E"),
        STREAM("\0\0\0\1T\6schema\0\1\7versionE"),
        STREAM("\0\0\0\1T\15sqlite_schema\0\1\4nameE"),
        STREAM("\0\0\0\1T\5three\0\1\1aE"),
        STREAM("\0\0\0\1T\3two\0\1\1cE"),
        STREAM("\0\0\0\1T\3two\0\0E"),
        STREAM("\0\0\0\1T\3t\"o\0\1\1aE"),
        STREAM("\0\0\0\1T\3two\377\377\1aE"),
        STREAM("\0\0\0\1T\3two\0\2\1a\1bRT\377\377\377\377"),
        STREAM("\0\0\0\1T\3two\0\2\1a\1bRXX"),
        STREAM("\0\0\0\1T\3two\0\2\1a\1bR00E"),
        STREAM("\0\0\0\1T\3two\0\2\1a\1bRI\0\0\0\0\0\0\0\1F\0\0\0\0\0\0\0\1E"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(REFUSED); i++) {
        buffer_reset(&tape.bytes);
        tape.at = 0;
        assert_int_equal(buffer_append(&tape.bytes, REFUSED[i].data, REFUSED[i].length), 0);
        int result = db_load(copy, STEPS, 1, &source, NULL, NULL, &error);
        if (result == 0) {
            fail_msg("stream %zu was taken", i);
        }
        assert_false(file_exists(copy));
    }
    buffer_reset(&tape.bytes);
    tape.at = 0;
    assert_int_equal(buffer_append(&tape.bytes, "\0\0\0\2E", 5), 0);
    assert_int_equal(db_load(copy, STEPS, 1, &source, NULL, NULL, &error), -ERROR_NEWER);
    free(copy);
    buffer_release(&tape.bytes);
}

static int forget(void *argument, struct db_connection *connection, struct error *error)
{
    const bool *fail = argument;
    int status = db_execute(connection, error, NULL, "DELETE FROM one", "");
    return *fail ? error_set(error, ERROR_INTERNAL, "wanted") : status;
}

static void a_change_is_whole_or_nothing_and_leaves_no_trace_of_what_went(void **state)
{
    struct test_place *place = *state;
    struct error error = { .message = "" };
    int64_t rows = 0;
    struct tape tape = taped(place, &EVERYTHING, &rows);
    bool fail = true;
    struct buffer bytes;
    assert_int_equal(db_change(place->path, STEPS, 1, forget, &fail, &error), -ERROR_INTERNAL);
    const struct db_sink sink = { &tape, tape_write };
    assert_int_equal(db_dump(place->path, &EVERYTHING, &sink, &rows, &error), 0);
    assert_int_equal(rows, 6);
    fail = false;
    assert_int_equal(db_change(place->path, STEPS, ARRAY_LENGTH(STEPS), forget, &fail, &error), 0);
    assert_int_equal(db_dump(place->path, &EVERYTHING, &sink, &rows, &error), 0);
    assert_int_equal(rows, 2);
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(place->path, &bytes, &error), 0);
    assert_null(memmem(bytes.data, bytes.length, "\x00\x01\xff", 3));
    assert_int_equal(db_change("/nowhere/at/all", STEPS, 1, forget, &fail, &error), -ERROR_NOT_FOUND);
    bytes.data[4096 + 100] ^= 0x55;
    memset(bytes.data + 4096, 0x55, 4096);
    assert_int_equal(file_write_atomic(place->path, 0600, bytes.data, bytes.length, &error), 0);
    assert_true(db_change(place->path, STEPS, ARRAY_LENGTH(STEPS), forget, &fail, &error) < 0);
    buffer_release(&bytes);
    buffer_release(&tape.bytes);
}

static int set_up(void **state)
{
    struct test_place *place = memory_zalloc(sizeof(*place));
    place_init(place);
    *state = place;
    return 0;
}

static int tear_down(void **state)
{
    place_release(*state);
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows_of_every_kind_come_back_and_later_steps_follow, set_up, tear_down),
        cmocka_unit_test_setup_teardown(columns_are_replaced_and_tables_left_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_that_is_cut_or_says_what_cannot_be_leaves_no_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_change_is_whole_or_nothing_and_leaves_no_trace_of_what_went, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
