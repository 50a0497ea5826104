/* The database: group commit, failures inside a batch, durability, opening and closing. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "db/support.h"

static const struct db_migration MIGRATIONS[] = {
    { 1, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, weight BLOB) STRICT" },
};
static const struct db_migration MORE_MIGRATIONS[] = {
    { 1, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, weight BLOB) STRICT" },
    { 2, "ALTER TABLE item ADD COLUMN colour TEXT; UPDATE item SET colour = 'grey'" },
};
static const struct db_migration BROKEN_MIGRATIONS[] = {
    { 1, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, weight BLOB) STRICT" },
    { 2, "CREATE TABLE other (id INTEGER); INSERT INTO nowhere VALUES (1)" },
};

/* ---- the kernel's sync, counted and made to fail: SQLite's calls bind to these -------------------------------- */

static atomic_int sync_count;
static atomic_bool sync_fails;

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    atomic_fetch_add(&sync_count, 1);
    if (atomic_load(&sync_fails)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

__attribute__((visibility("default"))) int fsync(int fd)
{
    atomic_fetch_add(&sync_count, 1);
    if (atomic_load(&sync_fails)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

/* ---- tasks ------------------------------------------------------------------------------------------------- */

enum behaviour { INSERT, INSERT_THEN_FAIL, FAIL, COUNT };

struct item_task {
    struct db_task task;
    const char *name;
    enum behaviour behaviour;
    size_t weight;
    int64_t seen; /* rows that this task saw */
    int runs;
    bool finished;
    struct item_task **order; /* where `done` writes itself next */
};

static const char INSERT_ITEM[] = "INSERT INTO item (name, weight) VALUES (?1, zeroblob(?2))";
static const char COUNT_ITEMS[] = "SELECT count(*) FROM item";

static int run_item(struct db_connection *connection, struct db_task *task)
{
    struct item_task *item = CONTAINER_OF(task, struct item_task, task);
    item->runs++;
    if (item->behaviour == FAIL) {
        return error_set(&task->error, ERROR_INVALID, "told to fail");
    }
    sqlite3_stmt *count = db_prepare(connection, COUNT_ITEMS, &task->error);
    if (count == NULL || db_step(count, &task->error) != 1) {
        return -(int)task->error.code;
    }
    item->seen = db_column_integer(count, 0, -1); /* left unreset: the database settles it */
    if (item->behaviour == COUNT) {
        return 0;
    }
    int status = db_execute(connection, &task->error, NULL, INSERT_ITEM, "ti", item->name, (int64_t)item->weight);
    if (status == 0 && item->behaviour == INSERT_THEN_FAIL) {
        return error_set(&task->error, ERROR_CONFLICT, "told to fail after writing");
    }
    return status;
}

static size_t order_length;
static void done_item(struct db_task *task)
{
    struct item_task *item = CONTAINER_OF(task, struct item_task, task);
    item->finished = true;
    if (item->order != NULL) {
        item->order[order_length++] = item;
    }
}

static struct item_task item_task(const char *name, enum behaviour behaviour, unsigned flags)
{
    return (struct item_task){ .task = { .run = run_item, .done = done_item, .flags = flags }, .name = name, .behaviour = behaviour };
}

/* Holds the writer until it is let go, so that what is submitted meanwhile is one batch. */
struct gate {
    struct db_task task;
    pthread_mutex_t mutex;
    atomic_bool entered;
    bool finished;
};
static int run_gate(struct db_connection *connection, struct db_task *task)
{
    (void)connection;
    struct gate *gate = CONTAINER_OF(task, struct gate, task);
    atomic_store(&gate->entered, true);
    pthread_mutex_lock(&gate->mutex);
    pthread_mutex_unlock(&gate->mutex);
    return 0;
}
static void done_gate(struct db_task *task)
{
    CONTAINER_OF(task, struct gate, task)->finished = true;
}
static void gate_shut(struct gate *gate, struct db *db)
{
    *gate = (struct gate){ .task = { .run = run_gate, .done = done_gate }, .mutex = PTHREAD_MUTEX_INITIALIZER };
    pthread_mutex_lock(&gate->mutex);
    db_write(db, &gate->task);
    while (!atomic_load(&gate->entered)) {
        sched_yield();
    }
}
static void gate_open(struct gate *gate)
{
    pthread_mutex_unlock(&gate->mutex);
}

static int setup(void **state)
{
    struct test_place *place = memory_zalloc(sizeof(*place));
    place_init(place);
    *state = place;
    return 0;
}
static int teardown(void **state)
{
    place_release(*state);
    free(*state);
    return 0;
}

/* ---- group commit -------------------------------------------------------------------------------------------- */

static void tasks_run_in_order_and_a_later_task_of_the_batch_sees_the_earlier_ones(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task *order[3];
    order_length = 0;
    struct item_task tasks[3] = { item_task("a", INSERT, DB_DURABLE), item_task("b", INSERT, DB_DURABLE), item_task("c", COUNT, 0) };
    struct gate gate;
    gate_shut(&gate, db);
    for (size_t i = 0; i < 3; i++) {
        tasks[i].order = order;
        db_write(db, &tasks[i].task);
    }
    assert_int_equal(db_write_backlog(db), 4);
    gate_open(&gate);
    place_run_until(place, &tasks[2].finished);
    for (size_t i = 0; i < 3; i++) {
        assert_ptr_equal(order[i], &tasks[i]);
        assert_int_equal(tasks[i].seen, i);
        assert_int_equal(tasks[i].runs, 1);
        assert_int_equal(tasks[i].task.status, 0);
    }
    assert_int_equal(db_write_backlog(db), 0);
    place_close(place, db);
}

static size_t batches[64];
static size_t batch_count;
static void note_batch(void *argument, int64_t commit_us, size_t batch)
{
    (void)argument;
    assert_true(commit_us >= 0);
    if (batch_count < ARRAY_LENGTH(batches)) {
        batches[batch_count++] = batch;
    }
}

static void what_waits_shares_one_commit_and_one_sync(void **state)
{
    struct test_place *place = *state;
    struct db_options options = {
        .path = place->path, .migrations = MIGRATIONS, .migration_count = 1, .completions = &place->completions, .measured = note_batch
    };
    struct db *db;
    struct error error;
    assert_int_equal(db_open(&options, &db, &error), 0);
    write_sql(db, "INSERT INTO item (name) VALUES ('first: the marker goes, the WAL begins')");
    batch_count = 0;
    static const char *const NAMES[] = { "a", "b", "c", "d", "e", "f", "g", "h" };
    struct item_task tasks[8];
    struct gate gate;
    gate_shut(&gate, db);
    for (size_t i = 0; i < 8; i++) {
        tasks[i] = item_task(NAMES[i], INSERT, i == 3 ? DB_DURABLE : 0);
        db_write(db, &tasks[i].task);
    }
    atomic_store(&sync_count, 0);
    gate_open(&gate);
    place_run_until(place, &tasks[7].finished);
    assert_int_equal(atomic_load(&sync_count), 1);
    assert_int_equal(batch_count, 1);
    assert_int_equal(batches[0], 8);
    place_close(place, db);
}

static void a_batch_without_a_durable_task_commits_without_a_sync(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name) VALUES ('first')");
    atomic_store(&sync_count, 0);
    struct item_task lazy = item_task("lazy", INSERT, 0);
    assert_int_equal(db_write_wait(db, &lazy.task), 0);
    assert_int_equal(atomic_load(&sync_count), 0);
    struct item_task durable = item_task("durable", INSERT, DB_DURABLE);
    assert_int_equal(db_write_wait(db, &durable.task), 0);
    assert_true(atomic_load(&sync_count) >= 1);
    place_close(place, db);
}

static void batched_durability_never_syncs_at_a_commit(void **state)
{
    struct test_place *place = *state;
    struct db_options options = {
        .path = place->path, .migrations = MIGRATIONS, .migration_count = 1, .completions = &place->completions, .durability = DB_BATCHED
    };
    struct db *db;
    struct error error;
    assert_int_equal(db_open(&options, &db, &error), 0);
    write_sql(db, "INSERT INTO item (name) VALUES ('first')");
    atomic_store(&sync_count, 0);
    struct item_task durable = item_task("durable", INSERT, DB_DURABLE);
    assert_int_equal(db_write_wait(db, &durable.task), 0);
    assert_int_equal(atomic_load(&sync_count), 0);
    place_close(place, db);
}

static void the_reader_sees_what_a_done_task_wrote(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    for (int i = 0; i < 200; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "n%d", i);
        struct item_task item = item_task(name, INSERT, 0);
        assert_int_equal(db_write_wait(db, &item.task), 0);
        assert_int_equal(read_number(db, "SELECT count(*) FROM item"), i + 1);
    }
    place_close(place, db);
}

static void a_query_that_leaves_its_statement_open_does_not_freeze_what_the_next_one_sees(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task count = item_task("", COUNT, 0);
    assert_int_equal(db_read_wait(db, &count.task), 0);
    assert_int_equal(count.seen, 0);
    write_sql(db, "INSERT INTO item (name) VALUES ('a')");
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 1);
    place_close(place, db);
}

static void the_reader_cannot_write(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task item = item_task("a", INSERT, 0);
    assert_true(db_read_wait(db, &item.task) < 0);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 0);
    place_close(place, db);
}

static void what_comes_after_the_stop_is_answered_and_changes_nothing(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task before = item_task("before", INSERT, 0), write = item_task("after", INSERT, 0), read = item_task("", COUNT, 0);
    db_write(db, &before.task);
    db_stop(db);
    db_write(db, &write.task);
    db_read(db, &read.task);
    assert_false(write.finished || read.finished); /* through the completions, as every answer */
    (void)place_run(place);
    assert_true(before.finished && write.finished && read.finished);
    assert_int_equal(before.task.status, 0);
    assert_int_equal(write.task.status, -ERROR_UNREACHABLE);
    assert_int_equal(read.task.status, -ERROR_UNREACHABLE);
    assert_int_equal(write.runs + read.runs, 0);
    db_close(db);
    db = place_open(place, MIGRATIONS, 1);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 1);
    place_close(place, db);
}

static void where_no_database_can_be_it_does_not_open_and_says_why(void **state)
{
    struct test_place *place = *state;
    static const struct db_migration HOLE[] = { { 1, "CREATE TABLE a (x INTEGER) STRICT" }, { 3, "CREATE TABLE b (x INTEGER) STRICT" } };
    char *missing = path_join(place->directory, "missing/test.db"), *below = path_join(place->directory, "file/test.db");
    char *file = path_join(place->directory, "file");
    struct error error;
    assert_int_equal(file_write_atomic(file, 0600, "x", 1, &error), 0);
    const struct {
        const char *path;
        const struct db_migration *migrations;
        size_t count;
        const char *word;
    } cases[] = { { missing, MIGRATIONS, 1, "missing" }, { below, MIGRATIONS, 1, "file" }, { place->directory, MIGRATIONS, 1, "" },
                  { place->path, HOLE, 2, "migration" }, { place->path, HOLE, 0, "migrations" } };
    for (size_t index = 0; index < ARRAY_LENGTH(cases); index++) {
        const struct db_options options = { .path = cases[index].path,
                                            .migrations = cases[index].migrations,
                                            .migration_count = cases[index].count,
                                            .completions = &place->completions,
                                            .background_check_above = UINT64_C(64) << 20 };
        struct db *db = NULL;
        error.message[0] = '\0';
        assert_true(db_open(&options, &db, &error) < 0);
        assert_null(db);
        assert_non_null(strstr(error.message, cases[index].word));
        assert_true(error.message[0] != '\0');
    }
    free(missing);
    free(below);
    free(file);
}

/* ---- failures inside a batch ------------------------------------------------------------------------------------ */

static void submit_batch(struct test_place *place, struct db *db, struct item_task *tasks, size_t count)
{
    struct gate gate;
    gate_shut(&gate, db);
    for (size_t i = 0; i < count; i++) {
        db_write(db, &tasks[i].task);
    }
    gate_open(&gate);
    place_run_until(place, &tasks[count - 1].finished);
}

static void a_failed_task_takes_nobody_down(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task tasks[] = { item_task("a", INSERT, DB_DURABLE), item_task("x", FAIL, DB_DURABLE),
                                 item_task("a", INSERT, DB_DURABLE) /* the name is taken */, item_task("b", INSERT, DB_DURABLE) };
    submit_batch(place, db, tasks, 4);
    assert_int_equal(tasks[0].task.status, 0);
    assert_int_equal(tasks[1].task.status, -ERROR_INVALID);
    assert_string_equal(tasks[1].task.error.message, "told to fail");
    assert_int_equal(tasks[2].task.status, -ERROR_CONFLICT);
    assert_int_equal(tasks[3].task.status, 0);
    assert_int_equal(tasks[3].runs, 1); /* nothing had to run twice */
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 2);
    place_close(place, db);
}

static void a_savepoint_undoes_the_whole_task_and_only_it(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task tasks[] = { item_task("a", INSERT, DB_SAVEPOINT), item_task("half", INSERT_THEN_FAIL, DB_SAVEPOINT),
                                 item_task("b", INSERT, DB_SAVEPOINT) };
    submit_batch(place, db, tasks, 3);
    assert_int_equal(tasks[0].task.status, 0);
    assert_int_equal(tasks[1].task.status, -ERROR_CONFLICT);
    assert_int_equal(tasks[1].runs, 1);
    assert_int_equal(tasks[2].task.status, 0);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item WHERE name = 'half'"), 0);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 2);
    place_close(place, db);
}

static void a_task_that_failed_half_way_without_a_savepoint_leaves_nothing_either(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task tasks[] = { item_task("a", INSERT, 0), item_task("half", INSERT_THEN_FAIL, 0), item_task("b", INSERT, 0) };
    submit_batch(place, db, tasks, 3);
    assert_int_equal(tasks[0].task.status, 0);
    assert_int_equal(tasks[1].task.status, -ERROR_CONFLICT);
    assert_int_equal(tasks[2].task.status, 0);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item WHERE name = 'half'"), 0);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 2);
    place_close(place, db);
}

struct hook_counts {
    int failures_left, before, committed, rolled_back, closing;
};
static int hook_before(void *argument, struct db_connection *connection, struct error *error)
{
    (void)connection;
    struct hook_counts *counts = argument;
    counts->before++;
    if (counts->failures_left > 0) {
        counts->failures_left--;
        return error_set(error, ERROR_FULL, "told to fail");
    }
    return 0;
}
static void hook_committed(void *argument)
{
    ((struct hook_counts *)argument)->committed++;
}
static void hook_rolled_back(void *argument)
{
    ((struct hook_counts *)argument)->rolled_back++;
}
static int hook_closing(void *argument, struct db_connection *connection, struct error *error)
{
    ((struct hook_counts *)argument)->closing++;
    return db_execute(connection, error, NULL, INSERT_ITEM, "ti", "last words", (int64_t)0);
}

static void a_commit_that_fails_runs_the_tasks_again_one_by_one(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct hook_counts counts = { .failures_left = 0 };
    struct db_hooks hooks = { &counts, hook_before, hook_committed, hook_rolled_back, hook_closing };
    db_set_hooks(db, &hooks);
    struct item_task tasks[] = { item_task("a", INSERT, 0), item_task("b", INSERT, 0), item_task("c", INSERT, 0) };
    struct gate gate;
    gate_shut(&gate, db);
    for (size_t i = 0; i < 3; i++) {
        db_write(db, &tasks[i].task);
    }
    counts.failures_left = 4; /* the gate, the gate alone, the batch, the first of the batch alone */
    gate_open(&gate);
    place_run_until(place, &tasks[2].finished);
    assert_int_equal(tasks[0].task.status, -ERROR_FULL);
    assert_int_equal(tasks[1].task.status, 0);
    assert_int_equal(tasks[2].task.status, 0);
    assert_int_equal(tasks[2].runs, 2);
    assert_int_equal(counts.rolled_back, 4);
    assert_int_equal(counts.committed, 2);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 2);
    place_close(place, db);
    assert_int_equal(counts.closing, 1);
    db = place_open(place, MIGRATIONS, 1);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item WHERE name = 'last words'"), 1);
    place_close(place, db);
}

static void a_full_disk_fails_what_needs_room_and_nothing_else(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name) VALUES ('here')");
    write_sql(db, "PRAGMA max_page_count = 20");
    struct item_task tasks[] = { item_task("small", INSERT, DB_DURABLE), item_task("large", INSERT, DB_DURABLE),
                                 item_task("also small", INSERT, DB_DURABLE) };
    tasks[1].weight = 1000000;
    submit_batch(place, db, tasks, 3);
    assert_int_equal(tasks[0].task.status, 0);
    assert_int_equal(tasks[1].task.status, -ERROR_FULL);
    assert_int_equal(tasks[2].task.status, 0);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 3);
    write_sql(db, "PRAGMA max_page_count = 100000");
    tasks[1].finished = false;
    assert_int_equal(db_write_wait(db, &tasks[1].task), 0);
    place_close(place, db);
}

/* ---- processes that end badly ------------------------------------------------------------------------------------- */

static void on_child(pid_t child, int expected_signal, int expected_status)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (expected_signal != 0) {
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), expected_signal);
    } else {
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), expected_status);
    }
}

/* A file size limit: what ENOSPC looks like without a small disk. */
static void child_fills_the_disk(struct test_place *place)
{
    (void)signal(SIGXFSZ, SIG_IGN);
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name) VALUES ('first')");
    struct rlimit limit = { 300000, 300000 };
    int status = setrlimit(RLIMIT_FSIZE, &limit);
    int stored = 0;
    int refused = 0;
    for (int i = 0; i < 200 && status == 0; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "n%d", i);
        struct item_task item = item_task(name, INSERT, DB_DURABLE);
        item.weight = 6000;
        int result = db_write_wait(db, &item.task);
        stored += result == 0;
        refused += result == -ERROR_FULL;
    }
    if (stored + refused != 200 || refused == 0 || stored == 0) {
        _exit(50);
    }
    place_close(place, db);
    _exit(stored == 0 ? 51 : 0);
}

static void a_write_past_the_end_of_the_disk_is_full_and_the_file_stays_whole(void **state)
{
    struct test_place *place = *state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        child_fills_the_disk(place);
    }
    on_child(child, 0, 0);
    struct error error;
    assert_int_equal(db_check_file(place->path, &error), 0);
    struct db *db = place_open(place, MIGRATIONS, 1);
    assert_true(read_number(db, "SELECT count(*) FROM item") > 1);
    place_close(place, db);
}

struct reporting_task {
    struct item_task item;
    char name[24];
    int fd;
};
static void report_done(struct db_task *task)
{
    struct reporting_task *report = CONTAINER_OF(CONTAINER_OF(task, struct item_task, task), struct reporting_task, item);
    if (task->status == 0) {
        char line[24];
        memset(line, 0, sizeof(line));
        memcpy(line, report->name, sizeof(line));
        if (write(report->fd, line, sizeof(line)) != (ssize_t)sizeof(line)) {
            _exit(52);
        }
    }
    free(report);
}

static void child_writes_for_ever(struct test_place *place, int fd)
{
    struct db *db = place_open(place, MIGRATIONS, 1);
    for (int i = 0;; i++) {
        struct reporting_task *report = memory_zalloc(sizeof(*report));
        (void)snprintf(report->name, sizeof(report->name), "n%d", i);
        report->item = item_task(report->name, INSERT, DB_DURABLE);
        report->item.task.done = report_done;
        report->item.weight = 700;
        report->fd = fd;
        db_write(db, &report->item.task);
        while (db_write_backlog(db) > 16) {
            bool closed;
            for (struct message *message = mailbox_wait_all(&place->completions, 100, &closed), *next; message != NULL; message = next) {
                next = message->next;
                message->handle(message);
            }
        }
    }
}

static void what_was_reported_done_is_there_after_kill_9(void **state)
{
    struct test_place *place = *state;
    char *sql = NULL;
    int64_t reported = 0;
    for (int round = 0; round < 3; round++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        char last[24] = "";
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            (void)close(ends[0]);
            child_writes_for_ever(place, ends[1]);
        }
        assert_int_equal(close(ends[1]), 0);
        char line[24];
        for (int i = 0; i < 300 * (round + 1); i++) {
            assert_int_equal(read(ends[0], line, sizeof(line)), sizeof(line));
        }
        assert_int_equal(kill(child, SIGKILL), 0);
        memcpy(last, line, sizeof(last));
        reported = 300 * (round + 1);
        while (read(ends[0], line, sizeof(line)) == (ssize_t)sizeof(line)) {
            memcpy(last, line, sizeof(last));
            reported++;
        }
        assert_int_equal(close(ends[0]), 0);
        on_child(child, SIGKILL, 0);

        struct db *db = place_open(place, MIGRATIONS, 1);
        assert_true(read_number(db, "SELECT count(*) FROM item") >= reported);
        sql = memory_printf("SELECT count(*) FROM item WHERE name = '%s'", last);
        assert_int_equal(read_number(db, sql), 1);
        free(sql);
        write_sql(db, "DELETE FROM item");
        place_close(place, db);
    }
}

static void an_fsync_that_fails_ends_the_process_before_anything_is_done(void **state)
{
    struct test_place *place = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct db *db = place_open(place, MIGRATIONS, 1);
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (nowhere < 0 || dup2(nowhere, STDERR_FILENO) < 0) {
            _exit(53);
        }
        atomic_store(&sync_fails, true);
        struct item_task item = item_task("a", INSERT, DB_DURABLE);
        int result = db_write_wait(db, &item.task);
        (void)result;
        if (write(ends[1], "x", 1) != 1) {
            _exit(54);
        }
        _exit(55);
    }
    assert_int_equal(close(ends[1]), 0);
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 0);
    assert_int_equal(close(ends[0]), 0);
    on_child(child, 0, 1);
}

/* ---- opening ------------------------------------------------------------------------------------------------------ */

static void files_are_made_private(void **state)
{
    struct test_place *place = *state;
    mode_t before = umask(0);
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name) VALUES ('a')");
    (void)umask(before);
    static const char *const NAMES[] = { "test.db", "test.db-wal", "test.db-shm" };
    for (size_t i = 0; i < ARRAY_LENGTH(NAMES); i++) {
        char *path = path_join(place->directory, NAMES[i]);
        struct stat status;
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 0777, 0600);
        free(path);
    }
    place_close(place, db);
}

static void an_older_file_is_migrated_and_a_newer_one_refused(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name) VALUES ('a')");
    place_close(place, db);
    db = place_open(place, MORE_MIGRATIONS, 2);
    assert_int_equal(db_schema_version(db), 2);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item WHERE colour = 'grey'"), 1);
    place_close(place, db);
    struct db_options options = { .path = place->path, .migrations = MIGRATIONS, .migration_count = 1, .completions = &place->completions };
    struct error error;
    assert_int_equal(db_open(&options, &db, &error), -ERROR_NEWER);
    assert_non_null(strstr(error.message, "version 2"));
}

static void a_migration_that_fails_leaves_the_version_before_it(void **state)
{
    struct test_place *place = *state;
    struct db_options options = {
        .path = place->path, .migrations = BROKEN_MIGRATIONS, .migration_count = 2, .completions = &place->completions
    };
    struct db *db;
    struct error error;
    assert_true(db_open(&options, &db, &error) < 0);
    assert_non_null(strstr(error.message, "schema step 2"));
    db = place_open(place, MIGRATIONS, 1);
    assert_int_equal(read_number(db, "SELECT count(*) FROM sqlite_schema WHERE name = 'other'"), 0);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 0);
    place_close(place, db);
}

static void something_else_than_a_database_is_corrupt(void **state)
{
    struct test_place *place = *state;
    struct error error;
    char junk[8192];
    memset(junk, 'j', sizeof(junk));
    assert_int_equal(file_write_atomic(place->path, 0600, junk, sizeof(junk), &error), 0);
    struct db_options options = { .path = place->path, .migrations = MIGRATIONS, .migration_count = 1, .completions = &place->completions };
    struct db *db;
    assert_int_equal(db_open(&options, &db, &error), -ERROR_CORRUPT);
    assert_int_equal(db_check_file(place->path, &error), -ERROR_CORRUPT);
    assert_int_equal(db_check_file("/tmp/claudemesh-no-such-file", &error), -ERROR_NOT_FOUND);
}

/* A file of some size that was stopped uncleanly (marker gone, WAL empty) or cleanly, with a page in its middle overwritten. */
static void make_damaged(struct test_place *place, bool clean)
{
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
                  " INSERT INTO item (name, weight) SELECT 'name ' || i, zeroblob(200) FROM n");
    place_close(place, db);
    if (!clean) {
        sqlite3 *handle;
        assert_int_equal(sqlite3_open(place->path, &handle), SQLITE_OK);
        /* The WAL stays, as after a crash. */
        assert_int_equal(sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_exec(handle, "UPDATE schema SET clean = 0", NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_close(handle), SQLITE_OK);
    }
    int fd = open(place->path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    char junk[4096];
    memset(junk, 0xee, sizeof(junk));
    assert_int_equal(pwrite(fd, junk, sizeof(junk), 4096 * 40), sizeof(junk));
    assert_int_equal(close(fd), 0);
}

static void damage_after_an_unclean_stop_is_found_and_nothing_touched(void **state)
{
    struct test_place *place = *state;
    make_damaged(place, false);
    char *paths[] = { memory_strdup(place->path), memory_printf("%s-wal", place->path) };
    struct buffer before[2];
    struct error error;
    for (size_t i = 0; i < 2; i++) {
        buffer_init(&before[i], BUFFER_UNLIMITED);
        assert_int_equal(file_read(paths[i], &before[i], &error), 0);
        assert_true(before[i].length > 0);
    }
    /* Also when steps are to be made: the check comes first. */
    for (size_t steps = 1; steps <= 2; steps++) {
        struct db_options options = { .path = place->path,
                                      .migrations = MORE_MIGRATIONS,
                                      .migration_count = steps,
                                      .completions = &place->completions,
                                      .background_check_above = UINT64_C(64) << 20 };
        struct db *db;
        assert_int_equal(db_open(&options, &db, &error), -ERROR_CORRUPT);
        assert_non_null(strstr(error.message, "integrity check"));
    }
    assert_int_equal(db_check_file(place->path, &error), -ERROR_CORRUPT);
    for (size_t i = 0; i < 2; i++) {
        struct buffer after;
        buffer_init(&after, BUFFER_UNLIMITED);
        assert_int_equal(file_read(paths[i], &after, &error), 0);
        assert_int_equal(before[i].length, after.length);
        assert_memory_equal(before[i].data, after.data, after.length);
        buffer_release(&after);
        buffer_release(&before[i]);
        free(paths[i]);
    }
}

static void a_clean_stop_skips_the_check(void **state)
{
    struct test_place *place = *state;
    make_damaged(place, true);
    struct db *db = place_open(place, MIGRATIONS, 1);
    /* Nothing was written, so the marker stays, and the next start is quick too. */
    db_close(db);
    db = place_open(place, MIGRATIONS, 1);
    assert_int_equal(read_number(db, "SELECT clean FROM schema"), 1);
    write_sql(db, "UPDATE item SET weight = NULL WHERE id = 1");
    assert_int_equal(read_number(db, "SELECT clean FROM schema"), 0);
    db_close(db);
}

static bool damage_seen;
static void note_damage(void *argument, const char *detail)
{
    (void)argument;
    assert_true(strlen(detail) > 0);
    damage_seen = true;
}

static void a_large_file_is_checked_in_the_background_and_stays_unproven_when_damaged(void **state)
{
    struct test_place *place = *state;
    make_damaged(place, false);
    struct db_options options = { .path = place->path,
                                  .migrations = MIGRATIONS,
                                  .migration_count = 1,
                                  .completions = &place->completions,
                                  .background_check_above = 4096,
                                  .damaged = note_damage };
    struct error error;
    for (int round = 0; round < 2; round++) {
        struct db *db;
        assert_int_equal(db_open(&options, &db, &error), 0);
        damage_seen = false;
        place_run_until(place, &damage_seen);
        place_close(place, db);
    }
}

static void a_large_file_that_passes_is_marked_clean_again(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name) VALUES ('a')");
    place_close(place, db);
    sqlite3 *handle;
    assert_int_equal(sqlite3_open(place->path, &handle), SQLITE_OK);
    assert_int_equal(sqlite3_exec(handle, "UPDATE schema SET clean = 0", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(handle), SQLITE_OK);
    struct db_options options = {
        .path = place->path, .migrations = MIGRATIONS, .migration_count = 1, .completions = &place->completions, .background_check_above = 1
    };
    struct error error;
    int64_t clean = 0;
    for (int i = 0; i < 100 && clean == 0; i++) { /* a stop may come before the check's end; then the next start checks again */
        assert_int_equal(db_open(&options, &db, &error), 0);
        clean = read_number(db, "SELECT clean FROM schema");
        place_close(place, db);
    }
    assert_int_equal(clean, 1);
}

static void closing_runs_what_is_queued_and_empties_the_wal(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct item_task tasks[] = { item_task("a", INSERT, DB_DURABLE), item_task("b", INSERT, 0), item_task("c", COUNT, 0) };
    db_write(db, &tasks[0].task);
    db_write(db, &tasks[1].task);
    db_read(db, &tasks[2].task);
    db_close(db);
    assert_int_equal(place_run(place), 3);
    assert_true(tasks[0].finished && tasks[1].finished && tasks[2].finished);
    char *wal = memory_printf("%s-wal", place->path);
    assert_false(file_exists(wal));
    free(wal);
    db = place_open(place, MIGRATIONS, 1);
    assert_int_equal(read_number(db, "SELECT count(*) FROM item"), 2);
    assert_int_equal(read_number(db, "SELECT clean FROM schema"), 1);
    place_close(place, db);
}

static void a_quiet_writer_moves_the_wal_into_the_database(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name, weight) VALUES ('a', zeroblob(100000))");
    uint64_t busy = db_file_size(db);
    assert_true(busy > 200000); /* the database and the WAL */
    int64_t deadline_ms = clock_monotonic_ms() + 30000;
    while (db_file_size(db) >= busy) {
        assert_true(clock_monotonic_ms() < deadline_ms);
        sched_yield();
    }
    struct stat status;
    assert_int_equal(stat(place->path, &status), 0);
    assert_true(status.st_size > 100000);
    place_close(place, db);
}

static void freed_pages_do_not_count_as_used(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    write_sql(db, "INSERT INTO item (name, weight) VALUES ('a', zeroblob(1000000))");
    write_sql(db, "DELETE FROM item");
    place_close(place, db);
    db = place_open(place, MIGRATIONS, 1);
    assert_true(db_file_size(db) < 100000);
    place_close(place, db);
}

/* ---- statements ----------------------------------------------------------------------------------------------------- */

/* On the writer's thread, where cmocka cannot fail a test. */
#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            return error_set(&task->error, ERROR_INVALID, "line %d: %s", __LINE__, #condition); \
        }                                                                                       \
    } while (0)

static int run_statement_checks(struct db_connection *connection, struct db_task *task)
{
    struct error *error = &task->error;
    static char TEXTS[200][40];
    sqlite3_stmt *first = NULL;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 200; i++) {
            (void)snprintf(TEXTS[i], sizeof(TEXTS[i]), "SELECT %d", i);
            sqlite3_stmt *statement = db_prepare(connection, TEXTS[i], error);
            CHECK(statement != NULL);
            CHECK(db_step(statement, error) == 1);
            CHECK(db_column_integer(statement, 0, -1) == i);
            if (i == 0 && round == 0) {
                first = statement;
            } else if (i == 0) {
                CHECK(statement == first);
            }
        }
    }
    static const char ALL[] = "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8";
    sqlite3_stmt *statement = db_prepare(connection, ALL, error);
    CHECK(statement != NULL);
    CHECK(db_bind(statement, error, "tx", "text", TEXT("a")) == -ERROR_INTERNAL); /* 8 are wanted */
    CHECK(db_bind(statement, error, "q", 1) == -ERROR_INTERNAL);
    CHECK(db_bind(statement, error, "txbindtx", "text", TEXT("a\0b"), "\0\1", (size_t)2, INT64_MIN, 0.5, (char *)NULL, TEXT("")) == 0);
    CHECK(db_step(statement, error) == 1);
    CHECK(strcmp(db_column_string(statement, 0), "text") == 0);
    struct text text = db_column_text(statement, 1);
    CHECK(text.length == 3);
    CHECK(memcmp(text.data, "a\0b", 3) == 0);
    CHECK(memcmp(db_column_text(statement, 2).data, "\0\1", 2) == 0);
    CHECK(db_column_integer(statement, 3, 0) == INT64_MIN);
    CHECK(db_column_integer(statement, 4, 77) == 77);
    CHECK(db_column_string(statement, 6) == NULL);
    CHECK(db_column_text(statement, 6).data == NULL);
    CHECK(db_column_dup(statement, 6) == NULL);
    CHECK(db_column_text(statement, 7).data != NULL);
    CHECK(db_column_text(statement, 7).length == 0);
    char *copy = db_column_dup(statement, 0);
    CHECK(strcmp(copy, "text") == 0);
    free(copy);
    static const char WRONG[] = "SELECT nothing FROM nowhere";
    CHECK(db_prepare(connection, WRONG, error) == NULL);
    CHECK(error->code == ERROR_INTERNAL);
    db_reset(NULL);
    return 0;
}

static void statements_are_kept_by_address_and_bind_every_type(void **state)
{
    struct test_place *place = *state;
    struct db *db = place_open(place, MIGRATIONS, 1);
    struct db_task task = { .run = run_statement_checks };
    if (db_write_wait(db, &task) != 0) {
        fail_msg("%s", task.error.message);
    }
    place_close(place, db);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(tasks_run_in_order_and_a_later_task_of_the_batch_sees_the_earlier_ones),
        TEST(what_waits_shares_one_commit_and_one_sync),
        TEST(a_batch_without_a_durable_task_commits_without_a_sync),
        TEST(batched_durability_never_syncs_at_a_commit),
        TEST(the_reader_sees_what_a_done_task_wrote),
        TEST(a_query_that_leaves_its_statement_open_does_not_freeze_what_the_next_one_sees),
        TEST(the_reader_cannot_write),
        TEST(what_comes_after_the_stop_is_answered_and_changes_nothing),
        TEST(where_no_database_can_be_it_does_not_open_and_says_why),
        TEST(a_failed_task_takes_nobody_down),
        TEST(a_savepoint_undoes_the_whole_task_and_only_it),
        TEST(a_task_that_failed_half_way_without_a_savepoint_leaves_nothing_either),
        TEST(a_commit_that_fails_runs_the_tasks_again_one_by_one),
        TEST(a_full_disk_fails_what_needs_room_and_nothing_else),
        TEST(a_write_past_the_end_of_the_disk_is_full_and_the_file_stays_whole),
        TEST(what_was_reported_done_is_there_after_kill_9),
        TEST(an_fsync_that_fails_ends_the_process_before_anything_is_done),
        TEST(files_are_made_private),
        TEST(an_older_file_is_migrated_and_a_newer_one_refused),
        TEST(a_migration_that_fails_leaves_the_version_before_it),
        TEST(something_else_than_a_database_is_corrupt),
        TEST(damage_after_an_unclean_stop_is_found_and_nothing_touched),
        TEST(a_clean_stop_skips_the_check),
        TEST(a_large_file_is_checked_in_the_background_and_stays_unproven_when_damaged),
        TEST(a_large_file_that_passes_is_marked_clean_again),
        TEST(closing_runs_what_is_queued_and_empties_the_wal),
        TEST(a_quiet_writer_moves_the_wal_into_the_database),
        TEST(freed_pages_do_not_count_as_used),
        TEST(statements_are_kept_by_address_and_bind_every_type),
    };
    return cmocka_run_group_tests_name("db", tests, NULL, NULL);
}
