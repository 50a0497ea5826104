/* Moves of rows, on disk: every cell, batches, what is tried again. */
#include "outbox/support.h"

static void every_cell_moves_the_row_or_leaves_it_alone(void **state)
{
    struct test_outbox *test = *state;
    for (unsigned from = 0; from < OUTBOX_STATES; from++) {
        for (unsigned event = 0; event < OUTBOX_EVENTS; event++) {
            char id[32];
            (void)snprintf(id, sizeof(id), "cell-%u-%u", from, event);
            int64_t seq = row_in_state(test, id, "body", (enum outbox_state)from);
            test->finished = 0;
            struct move_wait wait = move_one(test, seq, (enum outbox_event)event);
            enum outbox_state to = OUTBOX_MOVES[from][event];
            bool moves = to != OUTBOX_STATES;
            assert_int_equal(wait.moved, moves);
            assert_int_equal(wait.from, from);
            assert_int_equal(wait.to, to);
            struct found_wait found = find_row(test, id, false);
            assert_int_equal(found.found.row->state, moves ? to : from);
            outbox_found_release(&found.found);
            bool final = to == OUTBOX_DONE || to == OUTBOX_DEAD || to == OUTBOX_ABORTED;
            assert_int_equal(test->finished, final ? 1 : 0);
            if (final) {
                assert_string_equal(test->last_finished, id);
                assert_string_equal(test->last_mesh, "mesh-a");
                assert_int_equal(test->last_state, to);
            }
        }
    }
    assert_counts_exact(test);
    outbox_again(test);
    assert_counts_exact(test);
}

static void a_row_that_is_gone_is_reported_not_moved(void **state)
{
    struct test_outbox *test = *state;
    struct move_wait wait = move_one(test, 4711, OUTBOX_EVENT_SENT);
    assert_false(wait.moved);
    assert_int_equal(wait.from, OUTBOX_STATES);
}

static void each_event_leaves_its_traces(void **state)
{
    struct test_outbox *test = *state;
    int64_t seq = row_in_state(test, "a", "body", OUTBOX_INFLIGHT);
    (void)move_one(test, seq, OUTBOX_EVENT_RETRY);
    struct found_wait found = find_row(test, "a", false);
    assert_int_equal(found.found.row->attempts, 1);
    assert_int_equal(found.found.row->next_attempt_at, 7);
    assert_string_equal(found.found.row->last_error, "unknown_member");
    outbox_found_release(&found.found);
    (void)move_one(test, seq, OUTBOX_EVENT_SENT);
    int64_t before = clock_wall_ms();
    (void)move_one(test, seq, OUTBOX_EVENT_ACCEPTED);
    found = find_row(test, "a", false);
    assert_int_equal(found.found.row->attempts, 2);
    assert_true(found.found.row->delivered_at >= before);
    assert_string_equal(found.found.row->broker_message_id, "b-1");
    assert_int_equal(found.found.row->history_id, 1001);
    outbox_found_release(&found.found);
    seq = row_in_state(test, "b", "body", OUTBOX_ABORTED);
    found = find_row(test, "b", false);
    assert_true(found.found.row->aborted_at >= before);
    assert_string_equal(found.found.row->aborted_by, "operator");
    assert_null(found.found.row->superseded_by);
    outbox_found_release(&found.found);
}

struct batch_wait {
    bool finished;
    size_t moved;
};
static void batch_finished(void *argument, struct outbox_move *moves, size_t count)
{
    struct batch_wait *wait = argument;
    for (size_t i = 0; i < count; i++) {
        wait->moved += moves[i].moved ? 1 : 0;
    }
    wait->finished = true;
}
static void submit_batch(struct test_outbox *test, int64_t first, size_t count, enum outbox_event event, struct batch_wait *wait)
{
    struct outbox_move *moves = memory_calloc(count, sizeof(*moves));
    for (size_t i = 0; i < count; i++) {
        moves[i] = (struct outbox_move){ .seq = first + (int64_t)i, .event = event, .history_id = -1, .next_attempt_at = 0 };
        if (event == OUTBOX_EVENT_ACCEPTED) {
            moves[i].broker_message_id = memory_strdup("01BROKERMESSAGEID000000000");
            moves[i].error = memory_strdup("not used");
        }
    }
    outbox_move_batch(test->outbox, moves, count, false, wait == NULL ? NULL : batch_finished, wait);
}

static void a_batch_moves_each_row_that_it_may(void **state)
{
    struct test_outbox *test = *state;
    for (int i = 0; i < 100; i++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "n-%d", i);
        (void)accept_new(test, id, "body");
    }
    struct batch_wait wait = { .finished = false };
    submit_batch(test, 1, 200, OUTBOX_EVENT_SENT, &wait); /* half of them do not exist */
    submit_batch(test, 1, 10, OUTBOX_EVENT_ACCEPTED, NULL);
    place_run_until(&test->place, &wait.finished);
    assert_int_equal(wait.moved, 100);
    struct batch_wait again = { .finished = false };
    submit_batch(test, 1, 100, OUTBOX_EVENT_RETRY, &again);
    place_run_until(&test->place, &again.finished);
    assert_int_equal(again.moved, 90);
    assert_counts_exact(test);
}

static void a_batch_that_cannot_be_committed_is_tried_again_in_order_until_it_is(void **state)
{
    struct test_outbox *test = *state;
    accept_four_hundred(test);
    take_room(test);
    struct batch_wait sent = { .finished = false };
    struct batch_wait accepted = { .finished = false };
    struct batch_wait last = { .finished = false };
    submit_batch(test, 1, 400, OUTBOX_EVENT_SENT, &sent); /* the index of inflight rows wants pages */
    int64_t deadline_ms = clock_monotonic_ms() + 30000;
    while (!outbox_is_degraded(test->outbox)) {
        bool closed;
        for (struct message *message = mailbox_wait_all(&test->place.completions, 1000, &closed), *next; message != NULL; message = next) {
            next = message->next;
            message->handle(message);
        }
        assert_true(clock_monotonic_ms() < deadline_ms);
    }
    assert_false(sent.finished);
    submit_batch(test, 1, 400, OUTBOX_EVENT_ACCEPTED, &accepted); /* must not overtake */
    submit_batch(test, 1, 400, OUTBOX_EVENT_RETRY, &last);
    outbox_poke(test->outbox);
    struct found_wait found = find_row(test, "n-0", false);
    assert_int_equal(found.found.row->state, OUTBOX_PENDING);
    outbox_found_release(&found.found);
    assert_false(sent.finished || accepted.finished);
    give_room(test);
    outbox_poke(test->outbox);
    place_run_until(&test->place, &last.finished);
    assert_int_equal(sent.moved, 400);
    assert_int_equal(accepted.moved, 400);
    assert_int_equal(last.moved, 0); /* nothing leaves `done` */
    assert_false(outbox_is_degraded(test->outbox));
    assert_counts_exact(test);
}

/* A row whose `sent` was written after its `retry` would be inflight for ever: nobody waits for its answer any more. */
static void what_follows_a_failed_batch_waits_for_it_even_when_there_is_room_again(void **state)
{
    struct test_outbox *test = *state;
    accept_four_hundred(test);
    take_room(test);
    struct batch_wait sent = { .finished = false };
    struct batch_wait retried = { .finished = false };
    struct batch_wait again = { .finished = false };
    submit_batch(test, 1, 400, OUTBOX_EVENT_SENT, &sent);
    give_room(test); /* the batch has failed, and nobody has been told */
    submit_batch(test, 1, 400, OUTBOX_EVENT_RETRY, &retried);
    submit_batch(test, 1, 400, OUTBOX_EVENT_SENT, &again);
    int64_t deadline_ms = clock_monotonic_ms() + 30000;
    while (!again.finished) {
        bool closed;
        for (struct message *message = mailbox_wait_all(&test->place.completions, 10, &closed), *next; message != NULL; message = next) {
            next = message->next;
            message->handle(message);
        }
        outbox_poke(test->outbox);
        assert_true(clock_monotonic_ms() < deadline_ms);
    }
    assert_int_equal(sent.moved, 400);
    assert_int_equal(retried.moved, 400);
    assert_int_equal(again.moved, 400);
    assert_false(outbox_is_degraded(test->outbox));
    assert_counts_exact(test);
}

static void kept_batches_are_freed_when_the_outbox_stops_before_there_is_room(void **state)
{
    struct test_outbox *test = *state;
    accept_four_hundred(test);
    take_room(test);
    struct batch_wait sent = { .finished = false };
    struct batch_wait accepted = { .finished = false };
    submit_batch(test, 1, 400, OUTBOX_EVENT_SENT, &sent);
    submit_batch(test, 1, 400, OUTBOX_EVENT_ACCEPTED, &accepted);
    outbox_again(test);
    assert_true(sent.finished && accepted.finished); /* who waits holds memory */
    assert_int_equal(sent.moved + accepted.moved, 0);
    assert_int_equal(accept_outcome_of(test, "n-0", "body"), ACCEPT_DUPLICATE_QUEUED);
}

/* ---- receipts ------------------------------------------------------------------------------------------------------ */

struct receipt_wait {
    bool finished;
    int status;
    bool is_new;
    size_t content_count;
    struct sha256 first;
    char ref[16];
};
static void receipt_finished(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result)
{
    struct receipt_wait *wait = argument;
    assert_non_null(receipt->by);
    wait->status = result->status;
    wait->is_new = result->is_new;
    wait->content_count = result->content_count;
    wait->first = result->contents[0];
    assert_int_equal(string_copy(wait->ref, sizeof(wait->ref), result->destination_ref == NULL ? "" : result->destination_ref), 0);
    wait->finished = true;
}
static struct receipt_wait add_receipt(struct test_outbox *test, const char *client_message_id, const char *mesh,
                                       const char *broker_message_id, const char *by, const char *what, bool verified)
{
    struct outbox_receipt *receipt = memory_zalloc(sizeof(*receipt));
    *receipt = (struct outbox_receipt){ .client_message_id = memory_strdup(client_message_id),
                                        .mesh = memory_strdup(mesh),
                                        .broker_message_id = memory_strdup(broker_message_id),
                                        .by = memory_strdup(by),
                                        .rsig = memory_strdup("signature"),
                                        .at = 5,
                                        .signed_at = 6,
                                        .verified = verified };
    assert_int_equal(string_copy(receipt->state, sizeof(receipt->state), what), 0);
    struct receipt_wait wait = { .finished = false };
    outbox_receipt_add(test->outbox, receipt, receipt_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    return wait;
}

static void send_with_content(struct test_outbox *test, int64_t seq, int byte)
{
    struct outbox_move *move = memory_zalloc(sizeof(*move));
    *move = (struct outbox_move){ .seq = seq, .event = OUTBOX_EVENT_SENT, .history_id = -1, .has_content = true };
    memset(move->content.bytes, byte, sizeof(move->content.bytes));
    struct move_wait wait = { .finished = false };
    outbox_move_batch(test->outbox, move, 1, false, move_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    assert_true(wait.moved);
}

static void a_receipt_is_stored_once_and_shown_with_its_row(void **state)
{
    struct test_outbox *test = *state;
    int64_t seq = accept_new(test, "a", "body");
    send_with_content(test, seq, 1);
    (void)move_one(test, seq, OUTBOX_EVENT_RETRY);
    send_with_content(test, seq, 1); /* the same bytes again: one attempt to remember */
    (void)move_one(test, seq, OUTBOX_EVENT_RETRY);
    send_with_content(test, seq, 2);
    (void)move_one(test, seq, OUTBOX_EVENT_ACCEPTED);
    struct receipt_wait wait = add_receipt(test, "a", "mesh-a", "b-1", "bob", "stored", true);
    assert_int_equal(wait.status, 0);
    assert_true(wait.is_new);
    assert_int_equal(wait.content_count, 2);
    assert_string_equal(wait.ref, "bob");
    wait = add_receipt(test, "a", "mesh-a", "b-1", "bob", "stored", true);
    assert_false(wait.is_new);
    wait = add_receipt(test, "a", "mesh-a", "b-1", "bob", "seen", false);
    assert_true(wait.is_new);
    wait = add_receipt(test, "a", "mesh-a", "b-1", "bob", "seen", true); /* verified later */
    assert_false(wait.is_new);
    wait = add_receipt(test, "a", "mesh-a", "b-1", "bob", "seen", false);
    struct found_wait found = find_row(test, "a", false);
    assert_int_equal(found.found.receipt_count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(found.found.receipts[i].by, "bob");
        assert_true(found.found.receipts[i].verified);
        assert_int_equal(found.found.receipts[i].at, 5);
        assert_int_equal(found.found.receipts[i].signed_at, 6);
        assert_string_equal(found.found.receipts[i].rsig, "signature");
    }
    assert_string_equal(found.found.receipts[0].state, "seen");
    assert_string_equal(found.found.receipts[1].state, "stored");
    outbox_found_release(&found.found);
}

static void a_receipt_for_what_was_not_sent_from_here_is_not_stored(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "a", "body", OUTBOX_DONE);
    assert_int_equal(add_receipt(test, "x", "mesh-a", "b-1", "bob", "stored", true).status, -ERROR_NOT_FOUND);
    assert_int_equal(add_receipt(test, "a", "mesh-b", "b-1", "bob", "stored", true).status, -ERROR_NOT_FOUND);
    assert_int_equal(add_receipt(test, "a", "mesh-a", "b-2", "bob", "stored", true).status, -ERROR_NOT_FOUND);
    assert_int_equal(read_number(test->db, "SELECT count(*) FROM receipt"), 0);
}

static void a_receipt_that_comes_before_the_lost_answer_fits(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "a", "body", OUTBOX_INFLIGHT);
    outbox_again(test);
    assert_true(add_receipt(test, "a", "mesh-a", "b-1", "bob", "stored", false).is_new);
    (void)move_one(test, 1, OUTBOX_EVENT_ACCEPTED);
    struct found_wait found = find_row(test, "a", false);
    assert_int_equal(found.found.receipt_count, 1);
    outbox_found_release(&found.found);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_cell_moves_the_row_or_leaves_it_alone),
        TEST(a_row_that_is_gone_is_reported_not_moved),
        TEST(each_event_leaves_its_traces),
        TEST(a_batch_moves_each_row_that_it_may),
        TEST(a_batch_that_cannot_be_committed_is_tried_again_in_order_until_it_is),
        TEST(what_follows_a_failed_batch_waits_for_it_even_when_there_is_room_again),
        TEST(kept_batches_are_freed_when_the_outbox_stops_before_there_is_room),
        TEST(a_receipt_is_stored_once_and_shown_with_its_row),
        TEST(a_receipt_for_what_was_not_sent_from_here_is_not_stored),
        TEST(a_receipt_that_comes_before_the_lost_answer_fits),
    };
    return cmocka_run_group_tests_name("outbox moves", tests, NULL, NULL);
}
