/* The accept of a send against the store: the eleven cells, races, limits. */
#include "outbox/support.h"

static void a_new_id_is_stored_with_everything_of_the_request(void **state)
{
    struct test_outbox *test = *state;
    struct outbox_row *row = make_row("id-1", "body with \x01 and more");
    row->payload[4] = '\0'; /* a body may hold one */
    row->reply_to_id = memory_strdup("r");
    row->meta = memory_strdup("{\"a\":1}");
    row->mentions = memory_strdup("[\"x\"]");
    row->priority = PRIORITY_LOW;
    struct outbox_accept *accept = accept_row(test, row);
    assert_int_equal(accept->status, 0);
    assert_int_equal(accept->outcome, ACCEPT_STORED);
    assert_null(accept->found);
    assert_int_equal(test->inserted, 1);
    assert_string_equal(test->last_inserted, "id-1");
    struct found_wait found = find_row(test, "id-1", true);
    const struct outbox_row *stored = found.found.row;
    assert_int_equal(found.status, 0);
    assert_int_equal(stored->seq, accept->row->seq);
    assert_string_equal(stored->id, row->id);
    assert_string_equal(stored->mesh, "mesh-a");
    assert_string_equal(stored->destination_kind, "dm");
    assert_string_equal(stored->destination_ref, "bob");
    assert_string_equal(stored->reply_to_id, "r");
    assert_string_equal(stored->meta, "{\"a\":1}");
    assert_string_equal(stored->mentions, "[\"x\"]");
    assert_int_equal(stored->priority, PRIORITY_LOW);
    assert_int_equal(stored->state, OUTBOX_PENDING);
    assert_memory_equal(&stored->request_fingerprint, &row->request_fingerprint, sizeof(row->request_fingerprint));
    assert_memory_equal(&stored->broker_fingerprint, &row->broker_fingerprint, sizeof(row->broker_fingerprint));
    assert_int_equal(stored->payload_size, row->payload_size);
    assert_memory_equal(stored->payload, row->payload, row->payload_size);
    assert_int_equal(stored->enqueued_at, row->enqueued_at);
    assert_int_equal(stored->next_attempt_at, row->enqueued_at);
    assert_int_equal(stored->attempts, 0);
    assert_int_equal(stored->delivered_at, -1);
    assert_int_equal(stored->history_id, -1);
    assert_null(stored->last_error);
    outbox_found_release(&found.found);
    outbox_accept_free(accept);
    assert_counts_exact(test);
}

static void every_cell_answers_by_the_table_and_changes_nothing(void **state)
{
    struct test_outbox *test = *state;
    for (unsigned row_state = 0; row_state < OUTBOX_STATES; row_state++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "cell-%u", row_state);
        int64_t seq = row_in_state(test, id, "same", (enum outbox_state)row_state);
        struct outbox_counts before;
        outbox_counts(test->outbox, NULL, &before);
        for (unsigned same = 0; same < 2; same++) {
            for (int repeat = 0; repeat < 3; repeat++) {
                struct outbox_accept *accept = accept_row(test, make_row(id, same == 1 ? "same" : "other"));
                assert_int_equal(accept->status, 0);
                assert_int_equal(accept->outcome, ACCEPT_TABLE[row_state][same].outcome);
                assert_int_equal(accept->found_state, row_state);
                assert_int_equal(accept->found->seq, seq);
                assert_null(accept->found->payload);
                if (row_state == OUTBOX_DONE) {
                    char broker_id[32];
                    (void)snprintf(broker_id, sizeof(broker_id), "b-%" PRId64, seq);
                    assert_string_equal(accept->found->broker_message_id, broker_id);
                    assert_int_equal(accept->found->history_id, seq + 1000);
                }
                if (row_state == OUTBOX_DEAD) {
                    assert_string_equal(accept->found->last_error, "unknown_member");
                }
                outbox_accept_free(accept);
            }
        }
        struct outbox_counts after;
        outbox_counts(test->outbox, NULL, &after);
        assert_memory_equal(&before, &after, sizeof(before));
    }
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), OUTBOX_STATES);
    assert_int_equal(test->inserted, OUTBOX_STATES);
    assert_counts_exact(test);
}

static void the_cells_hold_after_a_restart(void **state)
{
    struct test_outbox *test = *state;
    for (unsigned row_state = 0; row_state < OUTBOX_STATES; row_state++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "cell-%u", row_state);
        (void)row_in_state(test, id, "same", (enum outbox_state)row_state);
    }
    outbox_again(test);
    for (unsigned row_state = 0; row_state < OUTBOX_STATES; row_state++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "cell-%u", row_state);
        unsigned now = row_state == OUTBOX_INFLIGHT ? OUTBOX_PENDING : row_state; /* recovered */
        assert_int_equal(accept_outcome_of(test, id, "same"), ACCEPT_TABLE[now][1].outcome);
        assert_int_equal(accept_outcome_of(test, id, "other"), ACCEPT_TABLE[now][0].outcome);
    }
}

static void the_same_request_for_another_mesh_is_another_request(void **state)
{
    struct test_outbox *test = *state;
    (void)accept_new(test, "id", "body");
    struct outbox_row *row = make_row("id", "body");
    free(row->mesh);
    row->mesh = memory_strdup("mesh-b");
    struct outbox_accept *accept = accept_row(test, row);
    assert_int_equal(accept->outcome, ACCEPT_CONFLICT_MISMATCH);
    assert_int_equal(accept->found_state, OUTBOX_PENDING);
    outbox_accept_free(accept);
}

static void ids_are_compared_byte_for_byte(void **state)
{
    struct test_outbox *test = *state;
    (void)accept_new(test, "Id", "body");
    (void)accept_new(test, "id", "body");
    (void)accept_new(test, "id.", "body");
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), 3);
}

static void a_lookup_stores_nothing(void **state)
{
    struct test_outbox *test = *state;
    struct accept_wait wait = { .finished = false };
    struct outbox_accept *accept = outbox_accept_new(test->outbox);
    accept->row = make_row("id", "body");
    accept->lookup_only = true;
    accept->done = accept_finished;
    accept->argument = &wait;
    outbox_accept(accept);
    place_run_until(&test->place, &wait.finished);
    assert_int_equal(accept->status, 0);
    assert_int_equal(accept->outcome, ACCEPT_NO_ROW);
    outbox_accept_free(accept);
    assert_int_equal(test->inserted, 0);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), 0);
}

/* 100 pairs with one id each, all submitted before any is answered: one row a pair, and answers that agree. */
static void of_two_that_race_one_is_stored_and_the_other_sees_it(void **state)
{
    struct test_outbox *test = *state;
    enum { PAIRS = 100 };
    static struct accept_wait waits[PAIRS * 2];
    static struct outbox_accept *accepts[PAIRS * 2];
    for (size_t i = 0; i < PAIRS * 2; i++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "pair-%zu", i / 2);
        accepts[i] = submit_row(test, make_row(id, i % 4 == 3 ? "other" : "same"), &waits[i]);
    }
    place_run_until(&test->place, &waits[PAIRS * 2 - 1].finished);
    for (size_t i = 0; i < PAIRS * 2; i++) {
        assert_int_equal(accepts[i]->status, 0);
        enum accept_outcome second = i % 4 == 3 ? ACCEPT_CONFLICT_MISMATCH : ACCEPT_DUPLICATE_QUEUED;
        assert_int_equal(accepts[i]->outcome, i % 2 == 0 ? ACCEPT_STORED : second);
        if (i % 2 == 1) {
            assert_string_equal(accepts[i]->found->id, accepts[i - 1]->row->id);
        }
    }
    for (size_t i = 0; i < PAIRS * 2; i++) {
        outbox_accept_free(accepts[i]);
    }
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), PAIRS);
    assert_counts_exact(test);
}

static void at_95_percent_of_the_rows_new_ids_are_refused_and_known_ones_answered(void **state)
{
    struct test_outbox *test = *state;
    outbox_down(test);
    outbox_up_limited(test, 20, INT64_C(5) << 30);
    static struct accept_wait waits[30];
    static struct outbox_accept *accepts[30];
    for (size_t i = 0; i < 30; i++) { /* all at once: what is on its way counts */
        char id[32];
        (void)snprintf(id, sizeof(id), "n-%zu", i);
        accepts[i] = submit_row(test, make_row(id, "body"), &waits[i]);
    }
    place_run_until(&test->place, &waits[29].finished);
    for (size_t i = 0; i < 30; i++) {
        assert_int_equal(accepts[i]->status, i < 19 ? 0 : -ERROR_FULL);
        outbox_accept_free(accepts[i]);
    }
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), 19);
    assert_int_equal(outbox_pressure_pct(test->outbox), 95);
    assert_false(outbox_is_degraded(test->outbox));
    assert_int_equal(test->pressure_calls, 2); /* 80, then 95 */
    assert_int_equal(test->pressure_pct, 95);
    assert_int_equal(accept_outcome_of(test, "n-0", "body"), ACCEPT_DUPLICATE_QUEUED);
    /* `done` and `aborted` do not count, dead ones do. */
    (void)move_one(test, 1, OUTBOX_EVENT_REFUSED);
    assert_int_equal(outbox_pressure_pct(test->outbox), 95);
    for (int64_t seq = 2; seq < 6; seq++) {
        (void)move_one(test, seq, OUTBOX_EVENT_ACCEPTED);
    }
    assert_int_equal(outbox_pressure_pct(test->outbox), 75);
    assert_int_equal(test->pressure_calls, 4);
    (void)accept_new(test, "room-again", "body");
}

static void at_95_percent_of_the_bytes_new_ids_are_refused(void **state)
{
    struct test_outbox *test = *state;
    outbox_down(test);
    outbox_up_limited(test, 1000, 300000);
    int refused = 0;
    for (int i = 0; i < 1000 && refused == 0; i++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "n-%d", i);
        struct outbox_accept *accept = accept_row(test, make_row(id, "body"));
        refused += accept->status == -ERROR_FULL;
        outbox_accept_free(accept);
    }
    assert_int_equal(refused, 1);
    assert_true(outbox_pressure_pct(test->outbox) >= 95);
    assert_int_equal(accept_outcome_of(test, "n-0", "body"), ACCEPT_DUPLICATE_QUEUED);
    struct outbox_limits more = { 1000, 3000000 };
    outbox_set_limits(test->outbox, &more);
    (void)accept_new(test, "room-again", "body");
}

static void a_full_disk_refuses_degrades_and_heals_by_itself(void **state)
{
    struct test_outbox *test = *state;
    (void)accept_new(test, "before", "body");
    take_room(test);
    int stored = 0;
    int status = 0;
    for (int i = 0; i < 100 && status == 0; i++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "n-%d", i);
        struct outbox_accept *accept = accept_row(test, make_row(id, "body"));
        status = accept->status;
        stored += status == 0;
        outbox_accept_free(accept);
    }
    assert_int_equal(status, -ERROR_FULL);
    assert_true(outbox_is_degraded(test->outbox));
    assert_true(test->degraded);
    assert_int_equal(accept_outcome_of(test, "before", "body"), ACCEPT_DUPLICATE_QUEUED);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), stored + 1);
    assert_counts_exact(test);

    /* What is queued still drains: a move needs no new page here. */
    assert_true(move_one(test, 1, OUTBOX_EVENT_ACCEPTED).moved);
    give_room(test);
    outbox_poke(test->outbox);
    bool healed = false;
    while (!healed) {
        bool closed;
        for (struct message *message = mailbox_wait_all(&test->place.completions, 1000, &closed), *next; message != NULL; message = next) {
            next = message->next;
            message->handle(message);
        }
        healed = !outbox_is_degraded(test->outbox);
    }
    assert_false(test->degraded);
    (void)accept_new(test, "after", "body");
    assert_counts_exact(test);
}

static void limits_can_change_while_it_runs(void **state)
{
    struct test_outbox *test = *state;
    (void)accept_new(test, "a", "body");
    outbox_set_limits(test->outbox, &(struct outbox_limits){ 1, INT64_C(5) << 30 });
    assert_int_equal(outbox_pressure_pct(test->outbox), 100);
    assert_true(outbox_is_degraded(test->outbox));
    assert_int_equal(test->pressure_calls, 1);
    outbox_set_limits(test->outbox, &(struct outbox_limits){ 0, 0 }); /* none */
    assert_int_equal(outbox_pressure_pct(test->outbox), 0);
    assert_int_equal(test->pressure_calls, 2);
    (void)accept_new(test, "b", "body");
}

static void an_accept_after_the_close_is_answered_and_stores_nothing(void **state)
{
    struct test_outbox *test = *state;
    place_close(&test->place, test->db);
    struct outbox_accept *accept = accept_row(test, make_row("late", "body"));
    assert_int_equal(accept->status, -ERROR_UNREACHABLE);
    outbox_accept_free(accept);
    outbox_free(test->outbox);
    outbox_up(test);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_new_id_is_stored_with_everything_of_the_request),
        TEST(every_cell_answers_by_the_table_and_changes_nothing),
        TEST(the_cells_hold_after_a_restart),
        TEST(the_same_request_for_another_mesh_is_another_request),
        TEST(ids_are_compared_byte_for_byte),
        TEST(a_lookup_stores_nothing),
        TEST(of_two_that_race_one_is_stored_and_the_other_sees_it),
        TEST(at_95_percent_of_the_rows_new_ids_are_refused_and_known_ones_answered),
        TEST(at_95_percent_of_the_bytes_new_ids_are_refused),
        TEST(a_full_disk_refuses_degrades_and_heals_by_itself),
        TEST(limits_can_change_while_it_runs),
        TEST(an_accept_after_the_close_is_answered_and_stores_nothing),
    };
    return cmocka_run_group_tests_name("outbox accept", tests, NULL, NULL);
}
