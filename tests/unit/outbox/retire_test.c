/* Requeue and drop: every state, with and without force, with and without a successor. */
#include "outbox/support.h"

struct retire_wait {
    struct outbox_retire *retire;
    bool finished;
};
static void retire_finished(struct outbox_retire *retire)
{
    ((struct retire_wait *)retire->argument)->finished = true;
}
static struct outbox_retire *retire_row(struct test_outbox *test, const char *id, bool force, struct outbox_row *successor)
{
    struct retire_wait wait = { .finished = false };
    struct outbox_retire *retire = memory_zalloc(sizeof(*retire));
    retire->outbox = test->outbox;
    retire->id = memory_strdup(id);
    retire->force = force;
    retire->successor = successor;
    retire->done = retire_finished;
    retire->argument = &wait;
    outbox_retire(retire);
    place_run_until(&test->place, &wait.finished);
    return retire;
}

static void every_state_is_retired_or_refused_as_the_specification_says(void **state)
{
    struct test_outbox *test = *state;
    static const int PLAIN[OUTBOX_STATES] = {
        [OUTBOX_PENDING] = 0, [OUTBOX_INFLIGHT] = -ERROR_BUSY,    [OUTBOX_DONE] = -ERROR_CONFLICT,
        [OUTBOX_DEAD] = 0,    [OUTBOX_ABORTED] = -ERROR_CONFLICT,
    };
    static const int FORCED[OUTBOX_STATES] = {
        [OUTBOX_PENDING] = 0, [OUTBOX_INFLIGHT] = 0, [OUTBOX_DONE] = -ERROR_CONFLICT, [OUTBOX_DEAD] = 0, [OUTBOX_ABORTED] = -ERROR_CONFLICT,
    };
    for (unsigned from = 0; from < OUTBOX_STATES; from++) {
        for (int variant = 0; variant < 4; variant++) {
            bool force = (variant & 1) != 0;
            bool requeue = (variant & 2) != 0;
            char id[32];
            char successor_id[32];
            (void)snprintf(id, sizeof(id), "cell-%u-%d", from, variant);
            (void)snprintf(successor_id, sizeof(successor_id), "next-%u-%d", from, variant);
            (void)row_in_state(test, id, "body", (enum outbox_state)from);
            test->finished = test->inserted = 0;
            struct outbox_retire *retire = retire_row(test, id, force, requeue ? make_row(successor_id, "body") : NULL);
            int expected = force ? FORCED[from] : PLAIN[from];
            assert_int_equal(retire->status, expected);
            assert_int_equal(test->finished, expected == 0 ? 1 : 0);
            assert_int_equal(test->inserted, expected == 0 && requeue ? 1 : 0);
            struct found_wait found = find_row(test, id, false);
            const struct outbox_row *row = found.found.row;
            assert_int_equal(row->state, expected == 0 ? OUTBOX_ABORTED : (enum outbox_state)from);
            if (expected == 0) {
                assert_int_equal(test->last_state, OUTBOX_ABORTED);
                assert_string_equal(row->aborted_by, "operator");
                assert_true(row->aborted_at > 0);
                assert_int_equal(retire->retired->state, OUTBOX_ABORTED);
                assert_int_equal(retire->retired->seq, row->seq);
                assert_int_equal(found.found.chain_count, requeue ? 1 : 0);
            }
            if (expected == 0 && requeue) {
                assert_string_equal(row->superseded_by, retire->successor->id);
                assert_string_equal(found.found.chain[0]->client_message_id, successor_id);
                assert_int_equal(found.found.chain[0]->state, OUTBOX_PENDING);
            } else if (from != OUTBOX_ABORTED) {
                assert_null(row->superseded_by);
            }
            outbox_found_release(&found.found);
            found = find_row(test, successor_id, false);
            assert_int_equal(found.status, expected == 0 && requeue ? 0 : -ERROR_NOT_FOUND);
            outbox_found_release(&found.found);
            outbox_retire_free(retire);
        }
    }
    assert_counts_exact(test);
}

static void a_row_is_named_by_its_row_id_too(void **state)
{
    struct test_outbox *test = *state;
    (void)accept_new(test, "a", "body");
    struct found_wait found = find_row(test, "a", false);
    struct outbox_retire *retire = retire_row(test, found.found.row->id, false, NULL);
    assert_int_equal(retire->status, 0);
    assert_string_equal(retire->retired->client_message_id, "a");
    outbox_retire_free(retire);
    outbox_found_release(&found.found);
    retire = retire_row(test, "nobody", false, NULL);
    assert_int_equal(retire->status, -ERROR_NOT_FOUND);
    outbox_retire_free(retire);
}

static void a_successor_whose_id_was_used_changes_nothing(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "dead", "body", OUTBOX_DEAD);
    (void)row_in_state(test, "used", "body", OUTBOX_ABORTED);
    for (int variant = 0; variant < 2; variant++) {
        struct outbox_retire *retire = retire_row(test, "dead", variant == 1, make_row(variant == 0 ? "used" : "dead", "other"));
        assert_int_equal(retire->status, -ERROR_AMBIGUOUS);
        outbox_retire_free(retire);
    }
    assert_int_equal(accept_outcome_of(test, "dead", "body"), ACCEPT_CONFLICT_MATCH);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE status = 'dead'"), 1);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox"), 2);
    assert_counts_exact(test);
}

static void the_old_id_stays_refused_and_the_new_one_is_consumed(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "old", "body", OUTBOX_DEAD);
    outbox_retire_free(retire_row(test, "old", false, make_row("new", "body")));
    outbox_retire_free(retire_row(test, "new", false, make_row("newer", "body")));
    for (int round = 0; round < 2; round++) {
        assert_int_equal(accept_outcome_of(test, "old", "body"), ACCEPT_CONFLICT_MATCH);
        assert_int_equal(accept_outcome_of(test, "old", "other"), ACCEPT_CONFLICT_MISMATCH);
        assert_int_equal(accept_outcome_of(test, "new", "body"), ACCEPT_CONFLICT_MATCH);
        assert_int_equal(accept_outcome_of(test, "newer", "body"), ACCEPT_DUPLICATE_QUEUED);
        struct found_wait found = find_row(test, "old", false);
        assert_int_equal(found.found.chain_count, 2);
        assert_string_equal(found.found.chain[0]->client_message_id, "new");
        assert_string_equal(found.found.chain[1]->client_message_id, "newer");
        outbox_found_release(&found.found);
        outbox_again(test);
    }
}

/* Written to the link, and its mark found no room: what looks pending may be at the broker. */
static void a_row_whose_mark_waits_for_room_is_retired_with_force_only(void **state)
{
    struct test_outbox *test = *state;
    accept_four_hundred(test);
    take_room(test);
    struct outbox_move *moves = memory_calloc(400, sizeof(*moves));
    for (int i = 0; i < 400; i++) {
        moves[i] = (struct outbox_move){ .seq = i + 1, .event = OUTBOX_EVENT_SENT, .history_id = -1 };
    }
    outbox_move_batch(test->outbox, moves, 400, true, NULL, NULL); /* the index of inflight rows wants pages */
    struct outbox_retire *refused = retire_row(test, "n-1", false, NULL);
    assert_int_equal(refused->status, -ERROR_BUSY);
    outbox_retire_free(refused);
    struct outbox_retire *forced = retire_row(test, "n-1", true, NULL);
    assert_int_equal(forced->status, 0);
    outbox_retire_free(forced);
    give_room(test);
}

static void a_full_outbox_can_still_drop_and_requeue(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "dead-1", "body", OUTBOX_DEAD);
    (void)row_in_state(test, "dead-2", "body", OUTBOX_DEAD);
    outbox_set_limits(test->outbox, &(struct outbox_limits){ 2, INT64_C(5) << 30 });
    struct outbox_retire *retire = retire_row(test, "dead-1", false, make_row("again", "body")); /* as many rows as before */
    assert_int_equal(retire->status, 0);
    outbox_retire_free(retire);
    outbox_set_limits(test->outbox, &(struct outbox_limits){ 2, 5000 });
    retire = retire_row(test, "dead-2", false, make_row("again-2", "body"));
    assert_int_equal(retire->status, -ERROR_FULL);
    outbox_retire_free(retire);
    retire = retire_row(test, "dead-2", false, NULL);
    assert_int_equal(retire->status, 0);
    outbox_retire_free(retire);
    assert_counts_exact(test);
}

static void a_requeue_that_the_disk_refuses_leaves_the_row_as_it_was(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "dead", "body", OUTBOX_DEAD);
    take_room(test);
    struct outbox_row *successor = make_row("large", "body");
    free(successor->payload);
    successor->payload_size = 60000;
    successor->payload = memory_zalloc(successor->payload_size + 1);
    struct outbox_retire *retire = retire_row(test, "dead", false, successor);
    assert_int_equal(retire->status, -ERROR_FULL);
    outbox_retire_free(retire);
    assert_true(outbox_is_degraded(test->outbox));
    assert_int_equal(accept_outcome_of(test, "dead", "body"), ACCEPT_CONFLICT_MATCH);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM outbox WHERE status = 'dead'"), 1);
    assert_counts_exact(test);
}

static void what_a_former_member_was_to_send_is_given_up_and_the_rest_stays(void **state)
{
    struct test_outbox *test = *state;
    enum { WAITING = 1203 }; /* more than a step */
    struct outbox_counts counts;
    int64_t given_up = -1;
    char id[32];
    for (int i = 0; i < WAITING; i++) {
        (void)snprintf(id, sizeof(id), "waits-%d", i);
        (void)row_in_state(test, id, "body", OUTBOX_PENDING);
    }
    (void)row_in_state(test, "sent", "body", OUTBOX_DONE);
    (void)row_in_state(test, "on its way", "body", OUTBOX_INFLIGHT);
    test->finished = 0;
    assert_int_equal(outbox_give_up(test->outbox, "mesh-b", "member_reminted", &given_up, NULL), 0);
    assert_int_equal(given_up, 0);
    outbox_again(test); /* as at a start: what was on its way waits again */
    test->finished = 0;
    assert_int_equal(outbox_give_up(test->outbox, "mesh-a", "member_reminted", &given_up, NULL), 0);
    assert_int_equal(given_up, WAITING + 1);
    assert_int_equal(test->finished, WAITING + 1);
    assert_int_equal(test->last_state, OUTBOX_DEAD);
    assert_string_equal(test->last_error, "member_reminted");
    outbox_counts(test->outbox, "mesh-a", &counts);
    assert_true(counts.pending == 0 && counts.inflight == 0 && counts.done == 1 && counts.dead == WAITING + 1);
    outbox_again(test);
    outbox_counts(test->outbox, "mesh-a", &counts);
    assert_true(counts.pending == 0 && counts.dead == WAITING + 1);
    assert_int_equal(outbox_give_up(test->outbox, "mesh-a", "member_reminted", &given_up, NULL), 0);
    assert_int_equal(given_up, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_state_is_retired_or_refused_as_the_specification_says),
        TEST(a_row_is_named_by_its_row_id_too),
        TEST(a_successor_whose_id_was_used_changes_nothing),
        TEST(the_old_id_stays_refused_and_the_new_one_is_consumed),
        TEST(a_row_whose_mark_waits_for_room_is_retired_with_force_only),
        TEST(a_full_outbox_can_still_drop_and_requeue),
        TEST(a_requeue_that_the_disk_refuses_leaves_the_row_as_it_was),
        TEST(what_a_former_member_was_to_send_is_given_up_and_the_rest_stays),
    };
    return cmocka_run_group_tests_name("outbox retire", tests, NULL, NULL);
}
