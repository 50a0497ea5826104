/* Pages for the drain, lists for operators, the start, and what time does to rows. */
#include "outbox/support.h"

static int64_t add(struct test_outbox *test, const char *mesh, const char *ref, enum outbox_priority priority, int64_t enqueued_at)
{
    static int number;
    char id[32];
    (void)snprintf(id, sizeof(id), "row-%d", number++);
    struct outbox_row *row = make_row(id, "some body");
    free(row->mesh);
    free(row->destination_ref);
    row->mesh = memory_strdup(mesh);
    row->destination_ref = memory_strdup(ref);
    row->priority = priority;
    row->enqueued_at = enqueued_at;
    struct outbox_accept *accept = accept_row(test, row);
    assert_int_equal(accept->outcome, ACCEPT_STORED);
    int64_t seq = accept->row->seq;
    outbox_accept_free(accept);
    return seq;
}

static struct rows_wait fetch(struct test_outbox *test, struct outbox_fetch fetch)
{
    struct rows_wait wait = { .finished = false };
    outbox_fetch_pending(test->outbox, &fetch, rows_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    assert_int_equal(wait.status, 0);
    return wait;
}

static void assert_fetched(struct test_outbox *test, struct outbox_fetch what, const int64_t *seqs, size_t count)
{
    struct rows_wait wait = fetch(test, what);
    assert_int_equal(wait.count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(wait.rows[i]->seq, seqs[i]);
        assert_string_equal(wait.rows[i]->payload, "some body");
        assert_int_equal(wait.rows[i]->payload_size, 9);
    }
    rows_free(&wait);
}

static void the_drain_reads_pending_rows_of_a_mesh_priority_and_lane_in_order(void **state)
{
    struct test_outbox *test = *state;
    int64_t a1 = add(test, "a", "bob", PRIORITY_NEXT, 1);
    int64_t b1 = add(test, "b", "bob", PRIORITY_NEXT, 1);
    int64_t a2 = add(test, "a", "eve", PRIORITY_NEXT, 1);
    int64_t a3 = add(test, "a", "bob", PRIORITY_NOW, 1);
    int64_t a4 = add(test, "a", "bob", PRIORITY_NEXT, 1);
    int64_t a5 = add(test, "a", "bob", PRIORITY_NEXT, 1);
    (void)b1;
    (void)move_one(test, a4, OUTBOX_EVENT_SENT);
    struct outbox_fetch all = { .mesh = "a", .priority = PRIORITY_NEXT, .after_seq = 0, .up_to_seq = INT64_MAX, .limit = 100 };
    assert_fetched(test, all, (const int64_t[]){ a1, a2, a5 }, 3);
    struct outbox_fetch now = all;
    now.priority = PRIORITY_NOW;
    assert_fetched(test, now, (const int64_t[]){ a3 }, 1);
    struct outbox_fetch lane = all;
    lane.destination_ref = "bob";
    assert_fetched(test, lane, (const int64_t[]){ a1, a5 }, 2);
    struct outbox_fetch page = all;
    page.limit = 2;
    assert_fetched(test, page, (const int64_t[]){ a1, a2 }, 2);
    struct outbox_fetch between = all;
    between.after_seq = a1;
    between.up_to_seq = a4;
    assert_fetched(test, between, (const int64_t[]){ a2 }, 1);
    struct outbox_fetch nobody = all;
    nobody.mesh = "c";
    assert_fetched(test, nobody, NULL, 0);
}

static struct rows_wait list(struct test_outbox *test, struct outbox_list what)
{
    struct rows_wait wait = { .finished = false };
    outbox_list(test->outbox, &what, rows_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    assert_int_equal(wait.status, 0);
    return wait;
}

static void lists_are_newest_first_by_state_and_mesh_without_payload(void **state)
{
    struct test_outbox *test = *state;
    for (int round = 0; round < 3; round++) {
        for (unsigned row_state = 0; row_state < OUTBOX_STATES; row_state++) {
            char id[32];
            (void)snprintf(id, sizeof(id), "n-%d-%u", round, row_state);
            (void)row_in_state(test, id, "body", (enum outbox_state)row_state);
        }
    }
    int64_t other = add(test, "b", "bob", PRIORITY_NEXT, 1);
    for (unsigned row_state = 0; row_state < OUTBOX_STATES; row_state++) {
        struct outbox_list what = {
            .has_state = true, .state = (enum outbox_state)row_state, .mesh = "mesh-a", .limit = 2, .before_seq = INT64_MAX
        };
        struct rows_wait first = list(test, what);
        assert_int_equal(first.count, 2);
        assert_true(first.rows[0]->seq > first.rows[1]->seq);
        assert_int_equal(first.rows[0]->state, row_state);
        assert_null(first.rows[0]->payload);
        assert_int_equal(first.rows[0]->payload_size, 4);
        what.before_seq = first.rows[1]->seq;
        struct rows_wait second = list(test, what);
        assert_int_equal(second.count, 1);
        assert_true(second.rows[0]->seq < first.rows[1]->seq);
        rows_free(&first);
        rows_free(&second);
    }
    struct rows_wait all = list(test, (struct outbox_list){ .limit = 100, .before_seq = INT64_MAX });
    assert_int_equal(all.count, 16);
    assert_int_equal(all.rows[0]->seq, other);
    rows_free(&all);
    struct rows_wait one_mesh = list(test, (struct outbox_list){ .mesh = "b", .limit = 100, .before_seq = INT64_MAX });
    assert_int_equal(one_mesh.count, 1);
    rows_free(&one_mesh);
}

static void a_row_that_is_not_there_is_not_found(void **state)
{
    struct test_outbox *test = *state;
    struct found_wait found = find_row(test, "nobody", true);
    assert_int_equal(found.status, -ERROR_NOT_FOUND);
    assert_null(found.found.row);
}

/* ---- the start ---------------------------------------------------------------------------------------------------- */

static void inflight_rows_are_pending_again_after_a_start_with_one_attempt_more_and_due_now(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "sent", "body", OUTBOX_INFLIGHT);
    (void)row_in_state(test, "waiting", "body", OUTBOX_PENDING);
    (void)row_in_state(test, "done", "body", OUTBOX_DONE);
    int64_t before = clock_wall_ms();
    outbox_again(test);
    struct outbox_counts counts;
    outbox_counts(test->outbox, "mesh-a", &counts);
    assert_int_equal(counts.pending, 2);
    assert_int_equal(counts.inflight, 0);
    assert_int_equal(counts.done, 1);
    assert_counts_exact(test);
    struct found_wait found = find_row(test, "sent", false);
    assert_int_equal(found.found.row->state, OUTBOX_PENDING);
    assert_int_equal(found.found.row->attempts, 1);
    assert_true(found.found.row->next_attempt_at >= before);
    outbox_found_release(&found.found);
    found = find_row(test, "waiting", false);
    assert_int_equal(found.found.row->attempts, 0);
    outbox_found_release(&found.found);
}

static void a_start_of_a_file_in_order_writes_nothing(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "waiting", "body", OUTBOX_PENDING);
    (void)row_in_state(test, "done", "body", OUTBOX_DONE);
    outbox_again(test);
    assert_int_equal(read_number(test->db, "SELECT clean FROM schema"), 1);
    outbox_again(test);
    assert_int_equal(read_number(test->db, "SELECT clean FROM schema"), 1);
    (void)row_in_state(test, "new", "body", OUTBOX_PENDING);
    assert_int_equal(read_number(test->db, "SELECT clean FROM schema"), 0);
}

static void counts_are_kept_for_each_mesh(void **state)
{
    struct test_outbox *test = *state;
    int64_t seq = add(test, "a", "bob", PRIORITY_NEXT, 1);
    (void)add(test, "b", "bob", PRIORITY_NEXT, 1);
    (void)add(test, "b", "bob", PRIORITY_NEXT, 1);
    (void)move_one(test, seq, OUTBOX_EVENT_REFUSED);
    for (int round = 0; round < 2; round++) {
        struct outbox_counts a;
        struct outbox_counts b;
        struct outbox_counts c;
        outbox_counts(test->outbox, "a", &a);
        outbox_counts(test->outbox, "b", &b);
        outbox_counts(test->outbox, "c", &c);
        assert_int_equal(a.pending, 0);
        assert_int_equal(a.dead, 1);
        assert_int_equal(b.pending, 2);
        assert_int_equal(c.pending + c.dead, 0);
        outbox_again(test);
    }
}

/* ---- time ----------------------------------------------------------------------------------------------------------- */

struct expire_wait {
    bool finished;
    int64_t expired, oldest;
};
static void expire_finished(void *argument, int64_t expired, int64_t oldest)
{
    *(struct expire_wait *)argument = (struct expire_wait){ true, expired, oldest };
}
static struct expire_wait expire(struct test_outbox *test, const char *mesh, int64_t before)
{
    struct expire_wait wait = { .finished = false };
    outbox_expire(test->outbox, mesh, before, expire_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    return wait;
}

static void pending_rows_past_the_age_become_dead_and_no_others(void **state)
{
    struct test_outbox *test = *state;
    int64_t old = add(test, "a", "bob", PRIORITY_LOW, 100);
    int64_t sent = add(test, "a", "bob", PRIORITY_NEXT, 100);
    int64_t young = add(test, "a", "bob", PRIORITY_NEXT, 200);
    int64_t stepped = add(test, "a", "bob", PRIORITY_NEXT, 150); /* the clock went back */
    int64_t elsewhere = add(test, "b", "bob", PRIORITY_NEXT, 100);
    (void)young;
    (void)elsewhere;
    (void)move_one(test, sent, OUTBOX_EVENT_SENT);
    struct expire_wait wait = expire(test, "a", 100);
    assert_int_equal(wait.expired, 0);
    assert_int_equal(wait.oldest, 100);
    wait = expire(test, "a", 160);
    assert_int_equal(wait.expired, 2);
    assert_int_equal(wait.oldest, 200);
    assert_int_equal(test->finished, 2);
    assert_int_equal(test->last_state, OUTBOX_DEAD);
    assert_string_equal(test->last_error, "max_age_exceeded");
    char *sql = memory_printf("SELECT count(*) FROM outbox WHERE status = 'dead' AND last_error = 'max_age_exceeded' AND seq IN (%" PRId64
                              ", %" PRId64 ")",
                              old, stepped);
    assert_int_equal(read_number(test->db, sql), 2);
    free(sql);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE status = 'dead'"), 2);
    wait = expire(test, "a", 1000);
    assert_int_equal(wait.expired, 1);
    assert_int_equal(wait.oldest, -1);
    assert_counts_exact(test);
}

static void many_rows_expire_in_steps(void **state)
{
    struct test_outbox *test = *state;
    static struct accept_wait waits[1700];
    for (size_t i = 0; i < 1700; i++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "n-%zu", i);
        struct outbox_row *row = make_row(id, "body");
        row->priority = (enum outbox_priority)(i % 3);
        row->enqueued_at = 5;
        (void)submit_row(test, row, &waits[i]);
    }
    place_run_until(&test->place, &waits[1699].finished);
    for (size_t i = 0; i < 1700; i++) {
        outbox_accept_free(waits[i].accept);
    }
    struct expire_wait wait = expire(test, "mesh-a", 6);
    assert_int_equal(wait.expired, 1700);
    assert_int_equal(wait.oldest, -1);
    assert_int_equal(test->finished, 1700);
    assert_counts_exact(test);
}

static void prune(struct test_outbox *test, int64_t before)
{
    outbox_prune(test->outbox, before);
    outbox_prune(test->outbox, before);                        /* one at a time: this one is nothing */
    struct found_wait found = find_row(test, "nobody", false); /* behind the first step */
    outbox_found_release(&found.found);
    for (int i = 0; i < 20; i++) { /* a step each */
        found = find_row(test, "nobody", false);
        outbox_found_release(&found.found);
    }
}

static void payloads_of_old_done_rows_go_and_everything_else_stays(void **state)
{
    struct test_outbox *test = *state;
    static int64_t seqs[1000];
    for (size_t i = 0; i < 1000; i++) {
        seqs[i] = add(test, "a", "bob", PRIORITY_NEXT, 10);
        if (i % 4 == 0) {
            (void)move_one(test, seqs[i], OUTBOX_EVENT_ACCEPTED);
        } else if (i % 4 == 1) {
            (void)move_one(test, seqs[i], OUTBOX_EVENT_REFUSED);
        } else if (i % 4 == 2) {
            (void)move_one(test, seqs[i], OUTBOX_EVENT_RETIRED);
        }
    }
    int64_t now = clock_wall_ms();
    prune(test, 5);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE length(payload) = 9"), 1000);
    prune(test, 20); /* enqueued before, delivered after */
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE length(payload) = 9"), 1000);
    prune(test, now + 100000);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE length(payload) = 0"), 250);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE length(payload) = 0 AND status <> 'done'"), 0);
    assert_int_equal(read_number(test->db, "SELECT pruned_up_to FROM outbox_progress"), 3); /* the fourth is pending */
    (void)move_one(test, seqs[3], OUTBOX_EVENT_ACCEPTED);
    prune(test, now + 100000);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE length(payload) = 0"), 251);
    assert_int_equal(read_number(test->db, "SELECT pruned_up_to FROM outbox_progress"), 7);
    assert_int_equal(accept_outcome_of(test, "nothing of it is forgotten", "x"), ACCEPT_STORED);
    struct found_wait found = find_row(test, "nothing of it is forgotten", true);
    outbox_found_release(&found.found);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_drain_reads_pending_rows_of_a_mesh_priority_and_lane_in_order),
        TEST(lists_are_newest_first_by_state_and_mesh_without_payload),
        TEST(a_row_that_is_not_there_is_not_found),
        TEST(inflight_rows_are_pending_again_after_a_start_with_one_attempt_more_and_due_now),
        TEST(a_start_of_a_file_in_order_writes_nothing),
        TEST(counts_are_kept_for_each_mesh),
        TEST(pending_rows_past_the_age_become_dead_and_no_others),
        TEST(many_rows_expire_in_steps),
        TEST(payloads_of_old_done_rows_go_and_everything_else_stays),
    };
    return cmocka_run_group_tests_name("outbox reads", tests, NULL, NULL);
}
