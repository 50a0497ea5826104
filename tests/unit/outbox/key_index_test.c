/* The late index of ids: no id is ever forgotten, whatever is interrupted while it moves from memory to disk. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "outbox/internal.h"
#include "outbox/support.h"

/* Random-looking and repeatable: caller-chosen ids. */
static void make_id(char id[static 40], int64_t number)
{
    uint64_t mixed = ((uint64_t)number + 1) * UINT64_C(0x9e3779b97f4a7c15);
    mixed ^= mixed >> 29;
    mixed *= UINT64_C(0xbf58476d1ce4e5b9);
    (void)snprintf(id, 40, "%016" PRIx64 "-%" PRId64, mixed, number);
}

struct flood {
    size_t open;
    int64_t outcomes[ACCEPT_CONFLICT_MISMATCH + 1];
    int64_t failed;
    int report_fd;
    bool finished;
};
static void flood_done(struct outbox_accept *accept)
{
    struct flood *flood = accept->argument;
    flood->open--;
    if (accept->status < 0) {
        flood->failed++;
    } else {
        flood->outcomes[accept->outcome]++;
        if (flood->report_fd > 0) {
            char line[40] = "";
            memcpy(line, accept->row->client_message_id, strlen(accept->row->client_message_id));
            if (write(flood->report_fd, line, sizeof(line)) != (ssize_t)sizeof(line)) {
                _exit(60);
            }
        }
    }
    outbox_accept_free(accept);
}

/* Ids first to end (exclusive), a thousand on their way at a time. */
static void flood_ids(struct test_outbox *test, int64_t first, int64_t end, struct flood *flood)
{
    int64_t next = first;
    while (next < end || flood->open > 0) {
        for (; next < end && flood->open < 1000; next++) {
            char id[40];
            make_id(id, next);
            struct outbox_accept *accept = outbox_accept_new(test->outbox);
            accept->row = make_row(id, "body");
            accept->done = flood_done;
            accept->argument = flood;
            flood->open++;
            outbox_accept(accept);
        }
        bool closed;
        for (struct message *message = mailbox_wait_all(&test->place.completions, 1000, &closed), *after; message != NULL;
             message = after) {
            after = message->next;
            message->handle(message);
        }
    }
}

static void assert_all_known(struct test_outbox *test, int64_t first, int64_t end)
{
    struct flood flood = { .open = 0 };
    flood_ids(test, first, end, &flood);
    assert_int_equal(flood.failed, 0);
    assert_int_equal(flood.outcomes[ACCEPT_DUPLICATE_QUEUED], end - first);
}

static void ids_are_found_in_memory_while_they_move_and_on_disk(void **state)
{
    struct test_outbox *test = *state;
    struct flood flood = { .open = 0 };
    flood_ids(test, 0, 61000, &flood); /* past the size at which the table is swapped */
    assert_int_equal(flood.outcomes[ACCEPT_STORED], 61000);
    assert_true(test->outbox->keys.is_merging);
    assert_all_known(test, 0, 61000);
    flood_ids(test, 61000, 63000, &flood);
    int64_t moved = read_number(test->db, "SELECT count(*) FROM outbox_key");
    assert_true(moved > 1000 && moved < 60000); /* in the middle */
    assert_int_equal(read_number(test->db, "SELECT indexed_up_to FROM outbox_progress"), 0);
    assert_all_known(test, 0, 63000);
    flood_ids(test, 63000, 100000, &flood);
    assert_false(test->outbox->keys.is_merging);
    assert_true(read_number(test->db, "SELECT indexed_up_to FROM outbox_progress") >= 60000);
    assert_all_known(test, 0, 100000);
    assert_counts_exact(test);

    outbox_again(test);
    assert_int_equal(test->outbox->keys.recent.count, 0); /* a clean stop leaves nothing to read again */
    assert_int_equal(read_number(test->db, "SELECT indexed_up_to FROM outbox_progress"), 100000);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox_key"), 100000);
    assert_all_known(test, 0, 100000);
    assert_int_equal(accept_outcome_of(test, "new", "body"), ACCEPT_STORED);
}

static void an_idle_outbox_moves_its_ids_to_disk(void **state)
{
    struct test_outbox *test = *state;
    struct flood flood = { .open = 0 };
    flood_ids(test, 0, 20000, &flood);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox_key"), 0);
    outbox_poke(test->outbox);
    int64_t deadline_ms = clock_monotonic_ms() + 30000;
    while (test->outbox->merging) {
        bool closed;
        for (struct message *message = mailbox_wait_all(&test->place.completions, 1000, &closed), *after; message != NULL;
             message = after) {
            after = message->next;
            message->handle(message);
        }
        assert_true(clock_monotonic_ms() < deadline_ms);
    }
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox_key"), 20000);
    assert_int_equal(test->outbox->keys.recent.count, 0);
    assert_all_known(test, 0, 20000);
}

/* ---- a disk that refuses writes now and then: at commits too ------------------------------------------------------------ */

static atomic_int refuse_every; /* 0: never */
static atomic_int write_count;

static bool write_refused(void)
{
    int every = atomic_load(&refuse_every);
    return every > 0 && atomic_fetch_add(&write_count, 1) % every == every - 1;
}
static ssize_t failing_pwrite64(int fd, const void *bytes, size_t size, off64_t offset)
{
    if (write_refused()) {
        errno = ENOSPC;
        return -1;
    }
    return pwrite64(fd, bytes, size, offset);
}
static ssize_t failing_pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    if (write_refused()) {
        errno = ENOSPC;
        return -1;
    }
    return pwrite(fd, bytes, size, offset);
}

static void transactions_that_fail_in_the_middle_of_a_move_lose_no_id(void **state)
{
    struct test_outbox *test = *state;
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite", (sqlite3_syscall_ptr)failing_pwrite), SQLITE_OK);
    assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)failing_pwrite64), SQLITE_OK);
    struct flood flood = { .open = 0 };
    flood_ids(test, 0, 60500, &flood);
    assert_true(test->outbox->keys.is_merging);
    int64_t end = 60500;
    for (int round = 0; round < 20; round++) {
        atomic_store(&refuse_every, 997 + 90 * round);
        struct flood full = { .open = 0 };
        flood_ids(test, end, end + 3000, &full);
        atomic_store(&refuse_every, 0);
        struct flood again = { .open = 0 };
        flood_ids(test, end, end + 3000, &again);
        assert_int_equal(again.failed, 0);
        assert_int_equal(again.outcomes[ACCEPT_STORED], full.failed);
        assert_int_equal(again.outcomes[ACCEPT_DUPLICATE_QUEUED], full.outcomes[ACCEPT_STORED]);
        end += 3000;
    }
    assert_true(atomic_load(&write_count) > 0);
    assert_all_known(test, 0, end);
    assert_counts_exact(test);
    outbox_again(test);
    assert_all_known(test, 0, end);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), end);
    assert_counts_exact(test);
    assert_int_equal(vfs->xSetSystemCall(vfs, NULL, NULL), SQLITE_OK);
}

static void an_id_that_has_a_row_is_answered_when_the_disk_takes_nothing(void **state)
{
    struct test_outbox *test = *state;
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite", (sqlite3_syscall_ptr)failing_pwrite), SQLITE_OK);
    assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)failing_pwrite64), SQLITE_OK);
    (void)accept_new(test, "old", "body");
    atomic_store(&refuse_every, 1);
    struct outbox_accept *refused = accept_row(test, make_row("new", "body"));
    assert_int_equal(refused->status, -ERROR_FULL);
    outbox_accept_free(refused);
    assert_int_equal(accept_outcome_of(test, "old", "body"), ACCEPT_DUPLICATE_QUEUED);
    assert_int_equal(accept_outcome_of(test, "old", "other"), ACCEPT_CONFLICT_MISMATCH);
    atomic_store(&refuse_every, 0);
    assert_int_equal(accept_outcome_of(test, "new", "body"), ACCEPT_STORED);
    assert_counts_exact(test);
    outbox_again(test);
    assert_counts_exact(test);
    assert_int_equal(vfs->xSetSystemCall(vfs, NULL, NULL), SQLITE_OK);
}

/* Killed while ids are on their way, with a move under way in most of the rounds: every id that was answered is known, none twice. */
static void after_kill_9_every_answered_id_is_known_and_none_is_there_twice(void **state)
{
    struct test_outbox *test = *state;
    struct flood flood = { .open = 0 };
    flood_ids(test, 0, 57000, &flood);
    int64_t end = 57000;
    for (int round = 0; round < 6; round++) {
        outbox_down(test);
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            (void)close(ends[0]);
            outbox_up(test);
            struct flood until_killed = { .report_fd = ends[1] };
            flood_ids(test, end, end + 1000000, &until_killed);
            _exit(61);
        }
        assert_int_equal(close(ends[1]), 0);
        int64_t answered = 0;
        char line[40];
        while (read(ends[0], line, sizeof(line)) == (ssize_t)sizeof(line)) {
            answered++;
            if (answered == 1500 * (round + 1)) {
                assert_int_equal(kill(child, SIGKILL), 0);
            }
        }
        assert_int_equal(close(ends[0]), 0);
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        outbox_up(test);
        assert_counts_exact(test);
        assert_all_known(test, end, end + answered);
        end = read_number(test->db, "SELECT count(*) FROM outbox"); /* ids are submitted in order: all before `end` are there */
        assert_all_known(test, end - 5000, end);
        assert_int_equal(
            read_number(test->db, "SELECT count(*) FROM (SELECT 1 FROM outbox GROUP BY client_message_id HAVING count(*) > 1)"), 0);
    }
    assert_all_known(test, 0, end);
}

static void ids_whose_hashes_collide_are_told_apart(void **state)
{
    struct test_outbox *test = *state;
    int64_t seq = accept_new(test, "a", "body");
    /* An entry for "b" that points to the row of "a": what a collision looks like, in memory and on disk. */
    char *sql = memory_printf("INSERT INTO outbox_key VALUES (%" PRIu64 ", %" PRId64 ")", key_hash("b"), seq);
    write_sql(test->db, sql);
    free(sql);
    key_index_add(&test->outbox->keys, "b", seq); /* the writer is idle */
    assert_int_equal(accept_outcome_of(test, "b", "body"), ACCEPT_STORED);
    assert_int_equal(accept_outcome_of(test, "b", "body"), ACCEPT_DUPLICATE_QUEUED);
    assert_int_equal(accept_outcome_of(test, "a", "body"), ACCEPT_DUPLICATE_QUEUED);
    outbox_again(test);
    assert_int_equal(accept_outcome_of(test, "b", "body"), ACCEPT_DUPLICATE_QUEUED);
    assert_int_equal(accept_outcome_of(test, "a", "body"), ACCEPT_DUPLICATE_QUEUED);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), 2);
}

static void rows_that_somebody_added_by_hand_are_indexed_and_counted_at_the_next_start(void **state)
{
    struct test_outbox *test = *state;
    struct flood flood = { .open = 0 };
    flood_ids(test, 0, 3000, &flood); /* more than are counted again at every start */
    outbox_again(test);
    write_sql(
        test->db,
        "INSERT INTO outbox SELECT seq + 100000, 'X' || substr(id, 2), 'by-hand-' || seq, request_fingerprint, broker_fingerprint, mesh,"
        " destination_kind, destination_ref, priority, reply_to_id, meta, mentions, enqueued_at, attempts, next_attempt_at, 'done',"
        " last_error, delivered_at, broker_message_id, history_id, aborted_at, aborted_by, superseded_by, payload FROM outbox");
    outbox_again(test);
    assert_int_equal(accept_outcome_of(test, "by-hand-17", "body"), ACCEPT_DUPLICATE_DONE);
    assert_counts_exact(test);
    outbox_again(test);
    assert_int_equal(accept_outcome_of(test, "by-hand-17", "body"), ACCEPT_DUPLICATE_DONE);
    assert_counts_exact(test);
}

static void a_small_table_is_counted_again_after_a_repair_by_hand(void **state)
{
    struct test_outbox *test = *state;
    struct flood flood = { .open = 0 };
    flood_ids(test, 0, 100, &flood);
    write_sql(test->db, "UPDATE outbox SET status = 'dead' WHERE seq <= 10");
    outbox_again(test);
    assert_counts_exact(test);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(ids_are_found_in_memory_while_they_move_and_on_disk),
        TEST(an_idle_outbox_moves_its_ids_to_disk),
        TEST(an_id_that_has_a_row_is_answered_when_the_disk_takes_nothing),
        TEST(transactions_that_fail_in_the_middle_of_a_move_lose_no_id),
        TEST(after_kill_9_every_answered_id_is_known_and_none_is_there_twice),
        TEST(ids_whose_hashes_collide_are_told_apart),
        TEST(rows_that_somebody_added_by_hand_are_indexed_and_counted_at_the_next_start),
        TEST(a_small_table_is_counted_again_after_a_repair_by_hand),
    };
    return cmocka_run_group_tests_name("outbox key index", tests, NULL, NULL);
}
