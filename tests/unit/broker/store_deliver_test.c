/* What waits, for whom, in which order; acknowledgements, receipts, history; sessions that come and go (70-broker, Delivering). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store_fixture.h"
#include "util/attributes.h"
#include "util/memory.h"
#include "util/text.h"

static const int64_t DAY_MS = INT64_C(24) * 3600 * 1000;

static struct fixture *begin(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture);
    fixture_make_mesh(fixture);
    return fixture;
}

static void send_to_bob(struct fixture *fixture, struct store_accept *accept, const char *id, int priority)
{
    fixture_message(fixture, accept, fixture->alice, BOB, id);
    accept->priority = priority;
    assert_int_equal(fixture_send(fixture, accept), STORE_ACCEPTED);
}

static void what_waited_for_nobody_in_particular_goes_to_the_first_session(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    char ids[4][32];
    send_to_bob(fixture, &accept, "a", 1);
    send_to_bob(fixture, &accept, "b", 1);
    int64_t session = fixture_hello(fixture, BOB, "bob-1", true);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, session, ids, 4), 2);
    assert_string_equal(ids[0], "a");
    assert_string_equal(ids[1], "b");
    assert_int_equal(fixture_fetch(fixture, fixture->bob, 0, ids, 4), 0);
    send_to_bob(fixture, &accept, "c", 1);
    assert_int_equal(accept.recipient_sessions[0], session);
}

static void now_comes_before_next_before_low_and_each_in_order(void **state)
{
    struct fixture *fixture = begin(state);
    static const struct {
        const char *id;
        int priority;
    } SENDS[] = { { "low-1", 2 }, { "next-1", 1 }, { "now-1", 0 }, { "low-2", 2 }, { "now-2", 0 }, { "next-2", 1 } };
    static const char *const ORDER[] = { "now-1", "now-2", "next-1", "next-2", "low-1", "low-2" };
    struct store_accept accept;
    int64_t session = fixture_hello(fixture, BOB, "bob-1", true);
    for (size_t i = 0; i < ARRAY_LENGTH(SENDS); i++)
        send_to_bob(fixture, &accept, SENDS[i].id, SENDS[i].priority);
    char ids[8][32];
    assert_int_equal(fixture_fetch(fixture, fixture->bob, session, ids, 8), ARRAY_LENGTH(ORDER));
    for (size_t i = 0; i < ARRAY_LENGTH(ORDER); i++)
        assert_string_equal(ids[i], ORDER[i]);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, session, ids, 3), 3);
    assert_string_equal(ids[2], "next-1");
}

static void a_fetch_ends_at_its_byte_limit_and_says_that_there_is_more(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    bool done = false;
    int64_t session = fixture_hello(fixture, BOB, "bob-1", true);
    send_to_bob(fixture, &accept, "a", 1);
    send_to_bob(fixture, &accept, "b", 1);
    struct store_fetch fetch = {
        .request = { .done = fixture_done, .argument = &done },
        .session = session,
        .member = fixture->bob,
        .wanted = { false, true, false },
        .limit = 10,
        .byte_limit = 1,
    };
    fixture->store->operations->fetch(fixture->store, &fetch);
    fixture_wait(fixture, &done);
    assert_non_null(fetch.first);
    assert_null(fetch.first->next);
    assert_true(fetch.more[1]);
    assert_string_equal(fetch.first->sender_member_pubkey, ALICE);
    assert_string_equal(fetch.first->sender_name, "alice");
    assert_string_equal(fetch.first->ciphertext, "c2VjcmV0");
    store_messages_free(fetch.first);
}

static void each_session_has_a_queue_of_its_own(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    char ids[4][32];
    int64_t desk = fixture_hello(fixture, BOB, "desk", true), laptop = fixture_hello(fixture, BOB, "laptop", false);
    send_to_bob(fixture, &accept, "a", 1);
    assert_int_equal(accept.recipient_session_count, 2);
    assert_int_equal(fixture_acknowledge(fixture, fixture->bob, desk, accept.broker_message_id, STORE_ACK_STORED).delivered, 1);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, desk, ids, 4), 0);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, laptop, ids, 4), 1);
}

static void a_new_session_alone_also_gets_what_nobody_acknowledged(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept read, unread;
    char ids[4][32];
    int64_t old = fixture_hello(fixture, BOB, "old machine", true);
    send_to_bob(fixture, &read, "read", 1);
    send_to_bob(fixture, &unread, "unread", 1);
    (void)fixture_acknowledge(fixture, fixture->bob, old, read.broker_message_id, STORE_ACK_STORED);
    int64_t beside = fixture_hello(fixture, BOB, "beside the old one", false);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, beside, ids, 4), 0);
    int64_t new = fixture_hello(fixture, BOB, "new machine", true);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, new, ids, 4), 1);
    assert_string_equal(ids[0], "unread");
    assert_int_equal(fixture_hello(fixture, BOB, "new machine", true), new);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, new, ids, 4), 1);
}

static void the_session_unseen_for_longest_is_forgotten_when_there_are_too_many(void **state)
{
    struct fixture *fixture = begin(state);
    char uid[16];
    int64_t first = fixture_hello(fixture, BOB, "s0", true);
    for (int i = 1; i < STORE_SESSIONS_MAXIMUM; i++) {
        (void)snprintf(uid, sizeof uid, "s%d", i);
        (void)fixture_hello(fixture, BOB, uid, false);
    }
    struct store_accept accept;
    send_to_bob(fixture, &accept, "a", 1);
    assert_int_equal(accept.recipient_session_count, STORE_SESSIONS_MAXIMUM);
    int64_t last = fixture_hello(fixture, BOB, "one more", false);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM session"), STORE_SESSIONS_MAXIMUM);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM session WHERE session_uid = 's0'"), 0);
    char ids[4][32];
    assert_int_equal(fixture_fetch(fixture, fixture->bob, first, ids, 4), 0);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, last, ids, 4), 1); /* what s0 had and nobody acknowledged */
}

/* ---- acknowledgements ----------------------------------------------------------------------------------------------------------- */

static void an_acknowledgement_makes_one_receipt_for_the_sender(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    int64_t desk = fixture_hello(fixture, BOB, "desk", true), laptop = fixture_hello(fixture, BOB, "laptop", false);
    send_to_bob(fixture, &accept, "a", 1);
    struct store_ack ack = fixture_acknowledge(fixture, fixture->bob, desk, accept.broker_message_id, STORE_ACK_STORED);
    assert_true(ack.receipt);
    assert_int_equal(ack.sender, fixture->alice);
    assert_string_equal(ack.client_message_id, "a");
    assert_false(fixture_acknowledge(fixture, fixture->bob, laptop, accept.broker_message_id, STORE_ACK_STORED).receipt);
    assert_true(fixture_acknowledge(fixture, fixture->bob, desk, accept.broker_message_id, STORE_ACK_SEEN).receipt);
    assert_false(fixture_acknowledge(fixture, fixture->bob, desk, accept.broker_message_id, STORE_ACK_SEEN).receipt);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM receipt WHERE pending = 1"), 2);
}

static void quarantine_makes_no_receipt_until_an_acknowledgement_without_it(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    int64_t session = fixture_hello(fixture, BOB, "desk", true);
    send_to_bob(fixture, &accept, "a", 1);
    struct store_ack ack = fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_QUARANTINED);
    assert_false(ack.receipt);
    assert_int_equal(ack.delivered, 1);
    assert_true(fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_STORED).receipt);
}

static void an_implied_acknowledgement_makes_no_receipt(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    int64_t session = fixture_hello(fixture, BOB, "desk", true);
    send_to_bob(fixture, &accept, "a", 1);
    struct store_ack ack = fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_IMPLIED);
    assert_false(ack.receipt);
    assert_int_equal(ack.delivered, 1);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM receipt WHERE pending = 1"), 0);
}

static void who_was_not_sent_a_message_cannot_acknowledge_it(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    int64_t carol;
    assert_int_equal(fixture_join(fixture, CAROL, "kinvite", 10, &carol), STORE_JOINED);
    int64_t session = fixture_hello(fixture, CAROL, "carol", true);
    send_to_bob(fixture, &accept, "a", 1);
    struct store_ack ack = fixture_acknowledge(fixture, carol, session, accept.broker_message_id, STORE_ACK_STORED);
    assert_false(ack.receipt);
    assert_int_equal(ack.delivered, 0);
    assert_false(fixture_acknowledge(fixture, fixture->alice, session, accept.broker_message_id, STORE_ACK_SEEN).receipt);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM delivery_queue"), 1);
}

static size_t pending_receipts(struct fixture *fixture, struct store_fetch_receipts *fetch)
{
    bool done = false;
    fetch->request.done = fixture_done;
    fetch->request.argument = &done;
    fetch->member = fixture->alice;
    fixture->store->operations->fetch_receipts(fixture->store, fetch);
    fixture_wait(fixture, &done);
    assert_int_equal(fetch->request.status, 0);
    return fetch->count;
}

static void receipts_are_kept_until_they_are_acknowledged(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    struct store_fetch_receipts *fetch = memory_zalloc(sizeof(*fetch));
    int64_t session = fixture_hello(fixture, BOB, "desk", true);
    send_to_bob(fixture, &accept, "a", 1);
    (void)fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_STORED);
    assert_int_equal(pending_receipts(fixture, fetch), 1);
    assert_string_equal(fetch->receipts[0].broker_message_id, accept.broker_message_id);
    assert_string_equal(fetch->receipts[0].by, BOB);
    assert_int_equal(fetch->receipts[0].kind, STORE_ACK_STORED);
    assert_int_equal(fetch->next, -1);

    bool done = false;
    struct store_settle_receipts *settle = memory_zalloc(sizeof(*settle) + sizeof(struct store_receipt_ack));
    settle->request.done = fixture_done;
    settle->request.argument = &done;
    settle->mesh = fixture->mesh;
    settle->member = fixture->bob; /* not the sender: nothing happens */
    settle->count = 1;
    settle->acks[0].kind = STORE_ACK_STORED;
    memcpy(settle->acks[0].broker_message_id, accept.broker_message_id, ULID_SIZE);
    assert_int_equal(string_copy(settle->acks[0].by, STORE_KEY_SIZE, BOB), 0);
    fixture->store->operations->settle_receipts(fixture->store, settle);
    fixture_wait(fixture, &done);
    assert_int_equal(pending_receipts(fixture, fetch), 1);
    settle->member = fixture->alice;
    done = false;
    fixture->store->operations->settle_receipts(fixture->store, settle);
    fixture_wait(fixture, &done);
    assert_int_equal(pending_receipts(fixture, fetch), 0);
    free(settle);
    free(fetch);
}

static void all_receipts_come_page_by_page(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_fetch_receipts *fetch = memory_zalloc(sizeof(*fetch));
    int64_t session = fixture_hello(fixture, BOB, "desk", true);
    enum { MESSAGES = STORE_RECEIPT_PAGE + 5 };
    static bool seen[2 * MESSAGES + 1];
    for (int i = 0; i < MESSAGES; i++) {
        char id[16];
        struct store_accept accept;
        (void)snprintf(id, sizeof id, "m%d", i);
        send_to_bob(fixture, &accept, id, 1);
        (void)fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_STORED);
        (void)fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_SEEN);
    }
    for (fetch->after = 0; fetch->after >= 0; fetch->after = fetch->next)
        for (size_t i = 0, count = pending_receipts(fixture, fetch); i < count; i++)
            seen[2 * (fetch->receipts[i].message - 1) + (fetch->receipts[i].kind == STORE_ACK_SEEN)] = true;
    for (int i = 0; i < 2 * MESSAGES; i++)
        assert_true(seen[i]);
    free(fetch);
}

/* ---- history and status ------------------------------------------------------------------------------------------------------------ */

static void history_is_what_a_member_sent_or_was_sent(void **state)
{
    struct fixture *fixture = begin(state);
    int64_t carol;
    bool done = false;
    assert_int_equal(fixture_join(fixture, CAROL, "kinvite", 10, &carol), STORE_JOINED);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "alice to bob"), STORE_ACCEPTED);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, CAROL, "alice to carol"), STORE_ACCEPTED);
    assert_int_equal(fixture_send_simply(fixture, fixture->bob, ALICE, "bob to alice"), STORE_ACCEPTED);
    struct store_history history = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh = fixture->mesh,
        .member = fixture->bob,
        .limit = 10,
        .byte_limit = 1 << 20,
        .scan_limit = 100,
    };
    fixture->store->operations->history(fixture->store, &history);
    fixture_wait(fixture, &done);
    assert_int_equal(history.count, 2);
    assert_true(history.end);
    assert_string_equal(history.first->client_message_id, "alice to bob");
    assert_string_equal(history.first->next->client_message_id, "bob to alice");
    store_messages_free(history.first);
    history.first = NULL;
    history.limit = 1;
    done = false;
    fixture->store->operations->history(fixture->store, &history);
    fixture_wait(fixture, &done);
    assert_int_equal(history.count, 1);
    assert_false(history.end);
    assert_int_equal(history.scanned_to, 1);
    store_messages_free(history.first);
}

static void a_messages_status_is_for_its_sender_and_recipient(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    bool done = false;
    int64_t session = fixture_hello(fixture, BOB, "desk", true), carol;
    assert_int_equal(fixture_join(fixture, CAROL, "kinvite", 10, &carol), STORE_JOINED);
    send_to_bob(fixture, &accept, "a", 1);
    struct store_message_status asked = { .request = { .done = fixture_done, .argument = &done },
                                          .mesh = fixture->mesh,
                                          .member = fixture->alice };
    memcpy(asked.broker_message_id, accept.broker_message_id, ULID_SIZE);
    fixture->store->operations->message_status(fixture->store, &asked);
    fixture_wait(fixture, &done);
    assert_true(asked.found);
    assert_false(asked.delivered);
    assert_string_equal(asked.recipient_pubkey, BOB);
    (void)fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_STORED);
    done = false;
    fixture->store->operations->message_status(fixture->store, &asked);
    fixture_wait(fixture, &done);
    assert_true(asked.delivered);
    assert_int_equal(asked.delivered_at, fixture_now_ms());
    asked.member = carol;
    done = false;
    fixture->store->operations->message_status(fixture->store, &asked);
    fixture_wait(fixture, &done);
    assert_false(asked.found);
}

/* ---- keeping house, checking --------------------------------------------------------------------------------------------------------- */

static int64_t keep(struct fixture *fixture)
{
    struct store_keep step = { .message_retention_ms = 365 * DAY_MS,
                               .session_retention_ms = 30 * DAY_MS,
                               .audit_retention_ms = 90 * DAY_MS };
    int64_t removed = 0;
    for (step.more = true; step.more; step.stage = step.next_stage) {
        bool done = false;
        step.request.done = fixture_done;
        step.request.argument = &done;
        step.now_ms = fixture_now_ms();
        fixture->store->operations->keep(fixture->store, &step);
        fixture_wait(fixture, &done);
        assert_int_equal(step.request.status, 0);
        removed += step.removed;
    }
    return removed;
}

static void pruned_messages_leave_their_dedupe_record_and_their_place_in_history(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    send_to_bob(fixture, &accept, "old", 1);
    fixture_set_now_ms(fixture_now_ms() + 364 * DAY_MS);
    assert_int_equal(keep(fixture), 1); /* the invite */
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM message"), 1);
    fixture_set_now_ms(fixture_now_ms() + 1 * DAY_MS - 1);
    assert_int_equal(keep(fixture), 0);
    fixture_set_now_ms(fixture_now_ms() + 1);
    fixture_close(fixture);
    fixture_execute(fixture, "UPDATE client_message_dedupe SET expires_at = NULL");
    fixture_open(fixture);
    fixture_set_now_ms(fixture_now_ms() + 1);
    assert_int_equal(keep(fixture), 1);
    assert_int_equal(
        fixture_number(fixture, "SELECT count(*) FROM message") + fixture_number(fixture, "SELECT count(*) FROM delivery_queue"), 0);
    assert_int_equal(fixture_number(fixture, "SELECT history_available FROM client_message_dedupe"), 0);
    fixture_message(fixture, &accept, fixture->alice, BOB, "old");
    assert_int_equal(fixture_send(fixture, &accept), STORE_DUPLICATE);
    assert_false(accept.history_available);
    assert_int_equal(accept.history_id, 1);
    send_to_bob(fixture, &accept, "new", 1);
    assert_int_equal(accept.history_id, 2);
}

static void an_expired_dedupe_record_goes_and_its_id_is_free(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    fixture_message(fixture, &accept, fixture->alice, BOB, "short");
    accept.dedupe_expires_at = fixture_now_ms() + 3 * DAY_MS;
    assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
    fixture_set_now_ms(fixture_now_ms() + 3 * DAY_MS);
    (void)keep(fixture);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM client_message_dedupe"), 0);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "short"), STORE_ACCEPTED);
    /* The first message goes, the second one of that id keeps its record as it is. */
    fixture_set_now_ms(fixture_now_ms() + 363 * DAY_MS);
    (void)keep(fixture);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM message"), 1);
    assert_int_equal(fixture_number(fixture, "SELECT history_available FROM client_message_dedupe"), 1);
}

static void a_session_unseen_for_long_gives_what_nobody_read_to_one_that_is_there(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    char ids[4][32];
    (void)fixture_hello(fixture, BOB, "lost", true);
    send_to_bob(fixture, &accept, "for the lost one", 1);
    fixture_set_now_ms(fixture_now_ms() + 31 * DAY_MS);
    (void)keep(fixture);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM session"), 1); /* the only one stays */
    int64_t here = fixture_hello(fixture, BOB, "here", false);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, here, ids, 4), 0);
    (void)keep(fixture);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM session"), 1);
    assert_int_equal(fixture_fetch(fixture, fixture->bob, here, ids, 4), 1);
}

static void note_finding(void *argument, const char *finding)
{
    (void)finding;
    (*(int *)argument)++;
}

static void the_check_finds_what_is_wrong_and_nothing_else(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_accept accept;
    struct error error;
    int found = 0;
    for (int i = 0; i < 5; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "m%d", i);
        send_to_bob(fixture, &accept, id, i % 3);
    }
    assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), 0); /* beside a broker */
    fixture_close(fixture);
    assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), 0);
    assert_int_equal(found, 0);
    static const struct {
        const char *sql;
        int64_t findings; /* with those before it */
    } DAMAGES[] = {
        { "DELETE FROM message WHERE client_message_id = 'm2'", 2 }, /* a dedupe record and a delivery without it */
        { "UPDATE message SET history_id = history_id + 100 WHERE client_message_id = 'm0'", 5 }, /* record, delivery, order */
        { "UPDATE client_message_dedupe SET history_available = 0 WHERE client_message_id = 'm2'", 4 },
        { "UPDATE client_message_dedupe SET history_available = 0 WHERE client_message_id = 'm1'", 5 }, /* and its message is there */
        { "DELETE FROM client_message_dedupe WHERE client_message_id = 'm4'", 6 },
        { "UPDATE mesh SET dedupe_floor = 5", 5 }, /* it expired */
        { "UPDATE delivery_queue SET priority = 0 WHERE history_id = 2", 6 },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(DAMAGES); i++) {
        found = 0;
        fixture_execute(fixture, DAMAGES[i].sql);
        assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), DAMAGES[i].findings);
        assert_int_equal(found, DAMAGES[i].findings);
    }
    fixture_execute(fixture, "UPDATE schema SET version = version - 1");
    assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), -ERROR_INVALID);
    fixture_execute(fixture, "UPDATE schema SET version = version + 2");
    assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), -ERROR_NEWER);
    assert_true(store_check_file("postgresql://x", note_finding, &found, &error) < 0);
    assert_true(store_check_file("sqlite:/nowhere/broker.db", note_finding, &found, &error) < 0);
}

/* More rows than a step takes, for a recipient with several sessions: each is looked at once, and a broker's own steps are as many as it says. */
static void the_check_goes_in_steps_and_looks_at_every_row(void **state)
{
    enum { MANY = 2500 };
    struct fixture *fixture = begin(state);
    (void)fixture_hello(fixture, BOB, "one", true);
    (void)fixture_hello(fixture, BOB, "two", true);
    for (int i = 0; i < MANY; i++) {
        char id[16];
        struct store_accept accept;
        (void)snprintf(id, sizeof id, "m%d", i);
        send_to_bob(fixture, &accept, id, i % 3);
    }
    fixture_close(fixture);
    fixture_execute(fixture, "UPDATE delivery_queue SET message_id = -message_id");
    fixture_open(fixture);
    struct store_check *check = memory_zalloc(sizeof(*check));
    size_t found = 0, steps = 0;
    buffer_init(&check->findings, BUFFER_UNLIMITED);
    do {
        bool done = false;
        check->request.done = fixture_done;
        check->request.argument = &done;
        fixture->store->operations->check(fixture->store, check);
        fixture_wait(fixture, &done);
        assert_int_equal(check->request.status, 0);
        found += check->found;
        steps++;
    } while (check->more);
    assert_int_equal(found, 2 * MANY);
    assert_int_equal(steps, 3 * 3 + 6 + 1);
    buffer_release(&check->findings);
    free(check);
}

static void send_three_to_bob(struct fixture *fixture)
{
    struct store_accept accept;
    for (int i = 0; i < 3; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "m%d", i);
        send_to_bob(fixture, &accept, id, 1);
    }
}

static void an_expired_record_is_none_that_was_lost(void **state)
{
    struct fixture *fixture = begin(state);
    struct error error;
    int found = 0;
    send_three_to_bob(fixture);
    fixture_close(fixture);
    fixture_execute(fixture, "UPDATE client_message_dedupe SET expires_at = 1 WHERE history_id < 3");
    fixture_open(fixture);
    (void)keep(fixture);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM client_message_dedupe"), 1);
    assert_int_equal(fixture_number(fixture, "SELECT dedupe_floor FROM mesh"), 2);
    assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), 0);
    fixture_close(fixture);
    fixture_execute(fixture, "DELETE FROM client_message_dedupe");
    assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), 1);
}

static void a_store_of_the_first_version_opens_and_what_it_lacks_has_expired(void **state)
{
    struct fixture *fixture = begin(state);
    struct error error;
    int found = 0;
    send_three_to_bob(fixture);
    fixture_close(fixture);
    fixture_execute(fixture, "DELETE FROM client_message_dedupe WHERE history_id = 2; ALTER TABLE mesh DROP COLUMN dedupe_floor;"
                             "DROP TABLE rotation; ALTER TABLE receipt DROP COLUMN by_pubkey;"
                             "ALTER TABLE member DROP COLUMN host_fingerprint;"
                             "UPDATE schema SET version = 1");
    fixture_open(fixture);
    assert_int_equal(fixture_number(fixture, "SELECT dedupe_floor FROM mesh"), 2);
    assert_int_equal(store_check_file(fixture->where, note_finding, &found, &error), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        TEST(what_waited_for_nobody_in_particular_goes_to_the_first_session),
        TEST(now_comes_before_next_before_low_and_each_in_order),
        TEST(a_fetch_ends_at_its_byte_limit_and_says_that_there_is_more),
        TEST(each_session_has_a_queue_of_its_own),
        TEST(a_new_session_alone_also_gets_what_nobody_acknowledged),
        TEST(the_session_unseen_for_longest_is_forgotten_when_there_are_too_many),
        TEST(an_acknowledgement_makes_one_receipt_for_the_sender),
        TEST(quarantine_makes_no_receipt_until_an_acknowledgement_without_it),
        TEST(an_implied_acknowledgement_makes_no_receipt),
        TEST(who_was_not_sent_a_message_cannot_acknowledge_it),
        TEST(receipts_are_kept_until_they_are_acknowledged),
        TEST(all_receipts_come_page_by_page),
        TEST(history_is_what_a_member_sent_or_was_sent),
        TEST(a_messages_status_is_for_its_sender_and_recipient),
        TEST(pruned_messages_leave_their_dedupe_record_and_their_place_in_history),
        TEST(an_expired_dedupe_record_goes_and_its_id_is_free),
        TEST(a_session_unseen_for_long_gives_what_nobody_read_to_one_that_is_there),
        TEST(the_check_finds_what_is_wrong_and_nothing_else),
        TEST(the_check_goes_in_steps_and_looks_at_every_row),
        TEST(an_expired_record_is_none_that_was_lost),
        TEST(a_store_of_the_first_version_opens_and_what_it_lacks_has_expired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
