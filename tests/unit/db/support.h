/* What tests over a database share: a directory of their own, a completions mailbox, running what comes back. */
#ifndef TESTS_DB_SUPPORT_H
#define TESTS_DB_SUPPORT_H

#include <dirent.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "db/db.h"
#include "util/attributes.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/memory.h"

struct test_place {
    char directory[64];
    char *path;
    struct mailbox completions;
};

static inline void place_init(struct test_place *place)
{
    (void)snprintf(place->directory, sizeof(place->directory), "/tmp/claudemesh-test-XXXXXX");
    assert_non_null(mkdtemp(place->directory));
    place->path = path_join(place->directory, "test.db");
    mailbox_init(&place->completions, NULL, NULL);
}

static inline void place_release(struct test_place *place)
{
    DIR *directory = opendir(place->directory);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] != '.') {
            assert_int_equal(unlinkat(dirfd(directory), entry->d_name, 0), 0);
        }
    }
    assert_int_equal(closedir(directory), 0);
    assert_int_equal(rmdir(place->directory), 0);
    free(place->path);
    mailbox_release(&place->completions);
}

/* Hands out what is there; returns how many. */
static inline size_t place_run(struct test_place *place)
{
    size_t count = 0;
    struct message *message = mailbox_take_all(&place->completions);
    while (message != NULL) {
        struct message *next = message->next;
        message->handle(message);
        message = next;
        count++;
    }
    return count;
}

/* Waits for completions until *flag is set. */
static inline void place_run_until(struct test_place *place, const bool *flag)
{
    int64_t deadline_ms = clock_monotonic_ms() + 60000;
    while (!*flag) {
        bool closed = false;
        struct message *message = mailbox_wait_all(&place->completions, 1000, &closed);
        while (message != NULL) {
            struct message *next = message->next;
            message->handle(message);
            message = next;
        }
        assert_true(clock_monotonic_ms() < deadline_ms);
    }
}

static inline struct db *place_open(struct test_place *place, const struct db_migration *migrations, size_t count)
{
    struct db_options options = {
        .path = place->path,
        .migrations = migrations,
        .migration_count = count,
        .durability = DB_STRICT,
        .completions = &place->completions,
        .background_check_above = UINT64_C(64) << 20,
    };
    struct db *db = NULL;
    struct error error = { .message = "" };
    if (db_open(&options, &db, &error) < 0) {
        fail_msg("%s", error.message);
    }
    return db;
}

static inline void place_close(struct test_place *place, struct db *db)
{
    db_close(db);
    (void)place_run(place);
}

struct number_query {
    struct db_task task;
    const char *sql;
    int64_t number;
};

static inline int number_query_run(struct db_connection *connection, struct db_task *task)
{
    struct number_query *query = CONTAINER_OF(task, struct number_query, task);
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db_handle(connection), query->sql, -1, &statement, NULL) != SQLITE_OK) {
        return error_set(&task->error, ERROR_INTERNAL, "%s", sqlite3_errmsg(db_handle(connection)));
    }
    if (sqlite3_step(statement) == SQLITE_ROW) {
        query->number = sqlite3_column_int64(statement, 0);
    }
    int result = sqlite3_finalize(statement);
    return result == SQLITE_OK ? 0 : error_set(&task->error, ERROR_INTERNAL, "%s", sqlite3_errmsg(db_handle(connection)));
}

/* What the reader says to "SELECT <number>". */
static inline int64_t read_number(struct db *db, const char *sql)
{
    struct number_query query = { .task = { .run = number_query_run }, .sql = sql, .number = INT64_MIN };
    if (db_read_wait(db, &query.task) < 0) {
        fail_msg("%s: %s", sql, query.task.error.message);
    }
    return query.number;
}

/* Runs one statement on the writer. */
static inline void write_sql(struct db *db, const char *sql)
{
    struct number_query query = { .task = { .run = number_query_run }, .sql = sql };
    if (db_write_wait(db, &query.task) < 0) {
        fail_msg("%s: %s", sql, query.task.error.message);
    }
}

#endif
