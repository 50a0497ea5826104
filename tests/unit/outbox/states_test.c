/* The outbox's tables, every cell. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "outbox/states.h"

/* 30-delivery, States, in the words of the specification: what is not here is refused. */
static const struct {
    enum outbox_state from;
    enum outbox_event event;
    enum outbox_state to;
} MOVES[] = {
    { OUTBOX_PENDING, OUTBOX_EVENT_SENT, OUTBOX_INFLIGHT },   { OUTBOX_INFLIGHT, OUTBOX_EVENT_ACCEPTED, OUTBOX_DONE },
    { OUTBOX_PENDING, OUTBOX_EVENT_ACCEPTED, OUTBOX_DONE },   { OUTBOX_INFLIGHT, OUTBOX_EVENT_FORCED, OUTBOX_ABORTED },
    { OUTBOX_INFLIGHT, OUTBOX_EVENT_RETRY, OUTBOX_PENDING },  { OUTBOX_INFLIGHT, OUTBOX_EVENT_REFUSED, OUTBOX_DEAD },
    { OUTBOX_PENDING, OUTBOX_EVENT_REFUSED, OUTBOX_DEAD },    { OUTBOX_PENDING, OUTBOX_EVENT_EXPIRED, OUTBOX_DEAD },
    { OUTBOX_PENDING, OUTBOX_EVENT_RETIRED, OUTBOX_ABORTED }, { OUTBOX_DEAD, OUTBOX_EVENT_RETIRED, OUTBOX_ABORTED },
    { OUTBOX_PENDING, OUTBOX_EVENT_FORCED, OUTBOX_ABORTED },  { OUTBOX_DEAD, OUTBOX_EVENT_FORCED, OUTBOX_ABORTED },
};

static void each_state_and_event_moves_as_the_specification_says_or_is_refused(void **state)
{
    (void)state;
    for (unsigned from = 0; from < OUTBOX_STATES; from++) {
        for (unsigned event = 0; event < OUTBOX_EVENTS; event++) {
            enum outbox_state expected = OUTBOX_STATES;
            for (size_t i = 0; i < ARRAY_LENGTH(MOVES); i++) {
                if (MOVES[i].from == from && MOVES[i].event == event) {
                    expected = MOVES[i].to;
                }
            }
            assert_int_equal(OUTBOX_MOVES[from][event], expected);
        }
    }
}

static void nothing_leaves_done_or_aborted(void **state)
{
    (void)state;
    for (unsigned event = 0; event < OUTBOX_EVENTS; event++) {
        assert_int_equal(OUTBOX_MOVES[OUTBOX_DONE][event], OUTBOX_STATES);
        assert_int_equal(OUTBOX_MOVES[OUTBOX_ABORTED][event], OUTBOX_STATES);
    }
}

static void only_what_may_be_repeated_need_not_be_durable(void **state)
{
    (void)state;
    for (unsigned event = 0; event < OUTBOX_EVENTS; event++) {
        assert_int_equal(OUTBOX_EVENT_DURABLE[event], event != OUTBOX_EVENT_SENT && event != OUTBOX_EVENT_RETRY);
    }
}

static void the_accept_table_has_the_eleven_cells_of_the_specification(void **state)
{
    (void)state;
    assert_int_equal(ACCEPT_NEW.outcome, ACCEPT_STORED);
    assert_int_equal(ACCEPT_NEW.http_status, 202);
    assert_string_equal(ACCEPT_NEW.status, "queued");
    assert_null(ACCEPT_NEW.conflict);
    static const struct accept_cell SAME[OUTBOX_STATES] = {
        [OUTBOX_PENDING] = { ACCEPT_DUPLICATE_QUEUED, 202, "queued", NULL },
        [OUTBOX_INFLIGHT] = { ACCEPT_DUPLICATE_INFLIGHT, 202, "inflight", NULL },
        [OUTBOX_DONE] = { ACCEPT_DUPLICATE_DONE, 200, "done", NULL },
        [OUTBOX_DEAD] = { ACCEPT_CONFLICT_MATCH, 409, NULL, "outbox_dead_fingerprint_match" },
        [OUTBOX_ABORTED] = { ACCEPT_CONFLICT_MATCH, 409, NULL, "outbox_aborted_fingerprint_match" },
    };
    for (unsigned row = 0; row < OUTBOX_STATES; row++) {
        const struct accept_cell *same = &ACCEPT_TABLE[row][1];
        assert_int_equal(same->outcome, SAME[row].outcome);
        assert_int_equal(same->http_status, SAME[row].http_status);
        if (SAME[row].status == NULL) {
            assert_null(same->status);
            assert_string_equal(same->conflict, SAME[row].conflict);
        } else {
            assert_string_equal(same->status, SAME[row].status);
            assert_null(same->conflict);
        }
        const struct accept_cell *other = &ACCEPT_TABLE[row][0];
        char word[64];
        (void)snprintf(word, sizeof(word), "outbox_%s_fingerprint_mismatch", outbox_state_name((enum outbox_state)row));
        assert_int_equal(other->outcome, ACCEPT_CONFLICT_MISMATCH);
        assert_int_equal(other->http_status, 409);
        assert_null(other->status);
        assert_string_equal(other->conflict, word);
    }
}

static void names_parse_to_what_they_name_and_nothing_else_parses(void **state)
{
    (void)state;
    for (unsigned i = 0; i < OUTBOX_STATES; i++) {
        enum outbox_state parsed = OUTBOX_STATES;
        assert_true(outbox_state_parse(outbox_state_name((enum outbox_state)i), &parsed));
        assert_int_equal(parsed, i);
    }
    for (unsigned i = 0; i < PRIORITIES; i++) {
        enum outbox_priority parsed = PRIORITIES;
        assert_true(priority_parse(priority_name((enum outbox_priority)i), &parsed));
        assert_int_equal(parsed, i);
    }
    enum outbox_state no_state = OUTBOX_DEAD;
    enum outbox_priority no_priority = PRIORITY_LOW;
    assert_false(outbox_state_parse("Pending", &no_state));
    assert_false(outbox_state_parse(NULL, &no_state));
    assert_false(priority_parse("", &no_priority));
    assert_false(priority_parse(NULL, &no_priority));
    assert_int_equal(no_state, OUTBOX_DEAD);
    assert_int_equal(no_priority, PRIORITY_LOW);
    assert_string_equal(outbox_state_name(OUTBOX_STATES), "unknown");
    assert_string_equal(priority_name(PRIORITIES), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_state_and_event_moves_as_the_specification_says_or_is_refused),
        cmocka_unit_test(nothing_leaves_done_or_aborted),
        cmocka_unit_test(only_what_may_be_repeated_need_not_be_durable),
        cmocka_unit_test(the_accept_table_has_the_eleven_cells_of_the_specification),
        cmocka_unit_test(names_parse_to_what_they_name_and_nothing_else_parses),
    };
    return cmocka_run_group_tests_name("outbox states", tests, NULL, NULL);
}
