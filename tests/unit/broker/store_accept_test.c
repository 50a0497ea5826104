/* Accepting a send: every cell of B0 to B3 (70-broker), and races within one batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "store_fixture.h"
#include "util/attributes.h"
#include "util/text.h"

static struct fixture *begin(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture);
    fixture_make_mesh(fixture);
    return fixture;
}

static int64_t rows(struct fixture *fixture)
{
    return fixture_number(
        fixture,
        "SELECT (SELECT count(*) FROM message) + (SELECT count(*) FROM client_message_dedupe) + (SELECT count(*) FROM delivery_queue)");
}

static void an_accepted_send_leaves_dedupe_message_and_delivery(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    fixture_message(fixture, &accept, fixture->alice, BOB, "first");
    assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
    assert_string_equal(accept.broker_message_id, accept.claimed_message_id);
    assert_int_equal(accept.history_id, 1);
    assert_true(accept.history_available);
    assert_int_equal(accept.recipient, fixture->bob);
    assert_int_equal(accept.recipient_session_count, 1);
    assert_int_equal(accept.recipient_sessions[0], 0);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM message m JOIN client_message_dedupe d USING (broker_message_id) JOIN "
                                             "delivery_queue q ON q.message_id = m.id"),
                     1);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "second"), STORE_ACCEPTED);
    assert_int_equal(fixture_number(fixture, "SELECT max(history_id) FROM message"), 2);
}

static void the_same_request_again_is_a_duplicate_with_the_first_id(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept first, again;
    fixture_message(fixture, &first, fixture->alice, BOB, "once");
    assert_int_equal(fixture_send(fixture, &first), STORE_ACCEPTED);
    int64_t before = rows(fixture), first_seen_at = fixture_now_ms();
    fixture_set_now_ms(fixture_now_ms() + 5000);
    for (int i = 0; i < 50; i++) {
        fixture_message(fixture, &again, fixture->alice, BOB, "once");
        assert_int_equal(fixture_send(fixture, &again), STORE_DUPLICATE);
        assert_string_equal(again.broker_message_id, first.broker_message_id);
        assert_int_equal(again.history_id, first.history_id);
        assert_int_equal(again.first_seen_at, first_seen_at);
        assert_true(again.history_available);
    }
    assert_int_equal(rows(fixture), before);
}

static void another_request_under_the_same_id_is_a_conflict_with_the_prefix_of_the_first(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept first, other;
    fixture_message(fixture, &first, fixture->alice, BOB, "once");
    assert_int_equal(fixture_send(fixture, &first), STORE_ACCEPTED);
    int64_t before = rows(fixture);
    fixture_message(fixture, &other, fixture->alice, BOB, "once");
    memset(other.fingerprint, 0x5a, sizeof other.fingerprint);
    assert_int_equal(fixture_send(fixture, &other), STORE_CONFLICT);
    char prefix[17];
    for (int i = 0; i < 8; i++)
        (void)snprintf(prefix + 2 * i, 3, "%02x", first.fingerprint[i]);
    assert_string_equal(other.fingerprint_prefix, prefix);
    assert_int_equal(rows(fixture), before);
}

static void an_id_belongs_to_its_sender_alone(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "shared"), STORE_ACCEPTED);
    assert_int_equal(fixture_send_simply(fixture, fixture->bob, ALICE, "shared"), STORE_ACCEPTED);
}

static void what_b1_refuses_stores_nothing_but_a_known_id_is_still_a_duplicate(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    fixture_message(fixture, &accept, fixture->alice, BOB, "bad");
    accept.refused = true;
    assert_int_equal(fixture_send(fixture, &accept), STORE_REFUSED);
    assert_int_equal(rows(fixture), 0);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "bad"), STORE_ACCEPTED);
    fixture_message(fixture, &accept, fixture->alice, BOB, "bad");
    accept.refused = true;
    assert_int_equal(fixture_send(fixture, &accept), STORE_DUPLICATE);
}

static void a_stranger_is_unknown_and_the_id_stays_free(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, CAROL, "to-carol"), STORE_UNKNOWN_MEMBER);
    assert_int_equal(rows(fixture), 0);
    assert_int_equal(fixture_join(fixture, CAROL, "kinvite", 10, NULL), STORE_JOINED);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, CAROL, "to-carol"), STORE_ACCEPTED);
}

static void a_revoked_member_neither_gets_nor_sends(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "before"), STORE_ACCEPTED);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, BOB, ALICE, NULL, 5), STORE_STATED);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM delivery_queue"), 0);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "after"), STORE_MEMBER_REVOKED);
    assert_int_equal(fixture_send_simply(fixture, fixture->bob, ALICE, "from-bob"), STORE_SENDER_GONE);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM client_message_dedupe"), 1);
}

static void a_full_recipient_refuses_in_passing_until_one_is_acknowledged(void **state)
{
    struct fixture *fixture = *state;
    fixture->waiting_maximum = 3;
    (void)begin(state);
    static const char *const IDS[] = { "a", "b", "c" };
    struct store_accept accept[ARRAY_LENGTH(IDS)], refused;
    int64_t session = fixture_hello(fixture, BOB, "bob-1", true);
    for (size_t i = 0; i < ARRAY_LENGTH(IDS); i++) {
        fixture_message(fixture, &accept[i], fixture->alice, BOB, IDS[i]);
        assert_int_equal(fixture_send(fixture, &accept[i]), STORE_ACCEPTED);
    }
    fixture_message(fixture, &refused, fixture->alice, BOB, "d");
    assert_int_equal(fixture_send(fixture, &refused), STORE_RECIPIENT_FULL);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM client_message_dedupe"), 3);
    assert_int_equal(fixture_acknowledge(fixture, fixture->bob, session, accept[0].broker_message_id, STORE_ACK_STORED).delivered, 1);
    fixture_message(fixture, &refused, fixture->alice, BOB, "d");
    assert_int_equal(fixture_send(fixture, &refused), STORE_ACCEPTED);
    fixture_message(fixture, &refused, fixture->alice, BOB, "e");
    assert_int_equal(fixture_send(fixture, &refused), STORE_RECIPIENT_FULL);
}

static void the_waiting_count_is_taken_anew_after_a_restart(void **state)
{
    struct fixture *fixture = *state;
    fixture->waiting_maximum = 2;
    (void)begin(state);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "a"), STORE_ACCEPTED);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "b"), STORE_ACCEPTED);
    fixture_close(fixture);
    fixture_open(fixture);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "c"), STORE_RECIPIENT_FULL);
}

static void a_full_session_does_not_silence_the_others(void **state)
{
    struct fixture *fixture = *state;
    fixture->waiting_maximum = 2;
    (void)begin(state);
    struct store_accept accept;
    int64_t drawer = fixture_hello(fixture, BOB, "drawer", true), desk = fixture_hello(fixture, BOB, "desk", false);
    for (int i = 0; i < 5; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "m%d", i);
        fixture_message(fixture, &accept, fixture->alice, BOB, id);
        assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
        assert_int_equal(fixture_acknowledge(fixture, fixture->bob, desk, accept.broker_message_id, STORE_ACK_STORED).delivered, 1);
    }
    char ids[8][32];
    assert_int_equal(fixture_fetch(fixture, fixture->bob, drawer, ids, 8), 2);
}

/* ---- several at once ------------------------------------------------------------------------------------------------------ */

enum { PAIRS = 100 };

/* Submitted together, so that they meet in one transaction. */
static void send_together(struct fixture *fixture, struct store_accept *accepts, size_t count)
{
    bool *done = test_calloc(count, sizeof(bool));
    for (size_t i = 0; i < count; i++) {
        accepts[i].request.done = fixture_done;
        accepts[i].request.argument = &done[i];
        fixture->store->operations->accept(fixture->store, &accepts[i]);
    }
    for (size_t i = 0; i < count; i++)
        fixture_wait(fixture, &done[i]);
    test_free(done);
}

static void racing_requests_with_one_id_agree(void **state)
{
    struct fixture *fixture = begin(state);
    static struct store_accept accepts[2 * PAIRS];
    static char ids[PAIRS][16];
    for (size_t i = 0; i < PAIRS; i++) {
        (void)snprintf(ids[i], sizeof ids[i], "race-%zu", i);
        fixture_message(fixture, &accepts[2 * i], fixture->alice, BOB, ids[i]);
        fixture_message(fixture, &accepts[2 * i + 1], fixture->alice, BOB, ids[i]);
        if (i % 2 == 1)
            accepts[2 * i + 1].fingerprint[0] ^= 1;
    }
    send_together(fixture, accepts, 2 * PAIRS);
    for (size_t i = 0; i < PAIRS; i++) {
        assert_int_equal(accepts[2 * i].outcome, STORE_ACCEPTED);
        assert_int_equal(accepts[2 * i + 1].outcome, i % 2 == 1 ? STORE_CONFLICT : STORE_DUPLICATE);
        assert_string_equal(accepts[2 * i].broker_message_id, accepts[2 * i + 1].broker_message_id);
        assert_int_equal(accepts[2 * i].history_id, (int64_t)i + 1);
    }
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM message"), PAIRS);
}

static void a_failure_in_the_middle_leaves_nothing_of_that_send_and_all_of_the_others(void **state)
{
    struct fixture *fixture = begin(state);
    fixture_close(fixture);
    fixture_execute(fixture,
                    "CREATE TRIGGER break BEFORE INSERT ON delivery_queue WHEN NEW.priority = 2 BEGIN SELECT RAISE(ABORT, 'broken'); END");
    fixture_open(fixture);
    struct store_accept accepts[3];
    fixture_message(fixture, &accepts[0], fixture->alice, BOB, "good");
    fixture_message(fixture, &accepts[1], fixture->alice, BOB, "broken");
    fixture_message(fixture, &accepts[2], fixture->alice, BOB, "good too");
    accepts[1].priority = 2;
    send_together(fixture, accepts, 3);
    assert_int_equal(accepts[0].request.status, 0);
    assert_true(accepts[1].request.status < 0);
    assert_int_equal(accepts[2].request.status, 0);
    assert_int_equal(accepts[0].outcome, STORE_ACCEPTED);
    assert_int_equal(accepts[2].outcome, STORE_ACCEPTED);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM message"), 2);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM client_message_dedupe WHERE client_message_id = 'broken'"), 0);
    /* What follows it on its way is held, until it is decided. */
    struct store_accept behind;
    fixture_message(fixture, &behind, fixture->alice, BOB, "behind");
    behind.priority = 2;
    assert_int_equal(fixture_send(fixture, &behind), STORE_HELD);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "another priority"), STORE_ACCEPTED);
}

/* An operator's tool holds the lock for longer than the writer waits: what it could not begin is refused in passing, and nothing behind it on its way gets ahead. */
static void what_could_not_even_begin_is_not_overtaken(void **state)
{
    struct fixture *fixture = begin(state);
    enum { FILLERS = 1023 };
    static struct store_accept fillers[FILLERS];
    static bool filled[FILLERS];
    struct store_accept lost, behind;
    bool lost_done = false, behind_done = false;
    sqlite3 *tool = NULL;
    assert_int_equal(sqlite3_open_v2(fixture->path, &tool, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(tool, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    fixture_message(fixture, &lost, fixture->alice, BOB, "lost");
    lost.request.done = fixture_done;
    lost.request.argument = &lost_done;
    fixture->store->operations->accept(fixture->store, &lost);
    for (size_t i = 0; i < FILLERS; i++) { /* so many that what follows cannot share its batch */
        fixture_message(fixture, &fillers[i], fixture->bob, ALICE, "filler");
        fillers[i].connection = 9;
        fillers[i].request.done = fixture_done;
        fillers[i].request.argument = &filled[i];
        fixture->store->operations->accept(fixture->store, &fillers[i]);
    }
    fixture_message(fixture, &behind, fixture->alice, BOB, "behind");
    behind.request.done = fixture_done;
    behind.request.argument = &behind_done;
    fixture->store->operations->accept(fixture->store, &behind);
    fixture_wait(fixture, &lost_done);
    assert_int_equal(sqlite3_exec(tool, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(tool), SQLITE_OK);
    fixture_wait(fixture, &behind_done);
    for (size_t i = 0; i < FILLERS; i++)
        fixture_wait(fixture, &filled[i]);
    assert_true(lost.request.status < 0);
    assert_true(behind.request.status < 0);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "further behind"), STORE_HELD);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "behind"), STORE_HELD);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "lost"), STORE_ACCEPTED);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "behind"), STORE_ACCEPTED);
}

/* ---- rate and held destinations ------------------------------------------------------------------------------------------------ */

static void the_rate_is_charged_once_for_an_id_and_a_duplicate_is_free(void **state)
{
    struct fixture *fixture = *state;
    fixture->limits.rate_per_minute = 60;
    fixture->limits.burst = 2;
    (void)begin(state);
    struct store_accept accept;
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "a"), STORE_ACCEPTED);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_send_simply(fixture, fixture->alice, CAROL, "nobody"), STORE_UNKNOWN_MEMBER);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "a"), STORE_DUPLICATE);
    fixture_message(fixture, &accept, fixture->alice, BOB, "b");
    assert_int_equal(fixture_send(fixture, &accept), STORE_RATE_LIMITED);
    assert_true(accept.retry_after_ms > 0 && accept.retry_after_ms <= 1000);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM message"), 1);
    assert_int_equal(fixture_send_simply(fixture, fixture->bob, ALICE, "b"), STORE_ACCEPTED);
    fixture_set_now_ms(fixture_now_ms() + accept.retry_after_ms);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "b"), STORE_ACCEPTED);
}

static void what_follows_a_refusal_on_its_way_is_held_until_that_id_is_decided(void **state)
{
    struct fixture *fixture = *state;
    fixture->limits.rate_per_minute = 60;
    fixture->limits.burst = 1;
    (void)begin(state);
    struct store_accept accept;
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "a"), STORE_ACCEPTED);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "b"), STORE_RATE_LIMITED);
    fixture_set_now_ms(fixture_now_ms() + 60000);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "c"), STORE_HELD);
    fixture_message(fixture, &accept, fixture->alice, BOB, "other connection");
    accept.connection = 8;
    assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
    fixture_set_now_ms(fixture_now_ms() + 60000);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "b"), STORE_ACCEPTED);
    fixture_set_now_ms(fixture_now_ms() + 60000);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "c"), STORE_ACCEPTED);
}

/* ---- to oneself ---------------------------------------------------------------------------------------------------------------------- */

static void a_message_to_oneself_goes_to_the_other_sessions_or_back(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    int64_t first = fixture_hello(fixture, ALICE, "first", true);
    fixture_message(fixture, &accept, fixture->alice, ALICE, "alone");
    accept.session = first;
    assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
    assert_int_equal(accept.recipient_session_count, 1);
    assert_int_equal(accept.recipient_sessions[0], first);

    int64_t second = fixture_hello(fixture, ALICE, "second", false);
    fixture_message(fixture, &accept, fixture->alice, ALICE, "two here");
    accept.session = first;
    accept.other_connection = true;
    assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
    assert_int_equal(accept.recipient_session_count, 1);
    assert_int_equal(accept.recipient_sessions[0], second);

    fixture_message(fixture, &accept, fixture->alice, ALICE, "the other is away");
    accept.session = first;
    assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
    assert_int_equal(accept.recipient_session_count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        TEST(an_accepted_send_leaves_dedupe_message_and_delivery),
        TEST(the_same_request_again_is_a_duplicate_with_the_first_id),
        TEST(another_request_under_the_same_id_is_a_conflict_with_the_prefix_of_the_first),
        TEST(an_id_belongs_to_its_sender_alone),
        TEST(what_b1_refuses_stores_nothing_but_a_known_id_is_still_a_duplicate),
        TEST(a_stranger_is_unknown_and_the_id_stays_free),
        TEST(a_revoked_member_neither_gets_nor_sends),
        TEST(a_full_recipient_refuses_in_passing_until_one_is_acknowledged),
        TEST(the_waiting_count_is_taken_anew_after_a_restart),
        TEST(a_full_session_does_not_silence_the_others),
        TEST(racing_requests_with_one_id_agree),
        TEST(a_failure_in_the_middle_leaves_nothing_of_that_send_and_all_of_the_others),
        TEST(what_could_not_even_begin_is_not_overtaken),
        TEST(the_rate_is_charged_once_for_an_id_and_a_duplicate_is_free),
        TEST(what_follows_a_refusal_on_its_way_is_held_until_that_id_is_decided),
        TEST(a_message_to_oneself_goes_to_the_other_sessions_or_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
