/* The rate limit and the held destinations by themselves (70-broker, Accepting a send). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/admission.h"

static int64_t now_ms;
static int64_t numbers;

static int64_t read_clock(void)
{
    return now_ms;
}

struct world {
    struct admission *admission;
    struct store_admission calls;
};

static struct world begin(int64_t rate_per_minute, int64_t burst)
{
    const struct admission_options options = { .rate_per_minute = rate_per_minute, .burst = burst, .now_ms = read_clock };
    now_ms = 1000000;
    numbers = 0;
    struct world world = { .admission = admission_new(&options) };
    world.calls = admission_for_store(world.admission);
    return world;
}

static struct store_accept message(const char *id, const char *to, uint64_t connection)
{
    return (struct store_accept){
        .client_message_id = id, .destination_ref = to, .connection = connection, .sender = 1, .priority = 1, .number = ++numbers
    };
}

static int ask(struct world *world, const struct store_accept *accept)
{
    int64_t retry_after_ms = -1;
    return world->calls.admit(world->calls.argument, accept, &retry_after_ms);
}

static void decide(struct world *world, struct store_accept *accept, bool refused_in_passing)
{
    accept->outcome = refused_in_passing ? STORE_RECIPIENT_FULL : STORE_ACCEPTED;
    world->calls.decided(world->calls.argument, accept, refused_in_passing);
}

/* What a store would do with it when nothing else is in the way. */
static int pass(struct world *world, const char *id, const char *to, uint64_t connection)
{
    struct store_accept accept = message(id, to, connection);
    int answer = ask(world, &accept);
    if (answer == 0)
        decide(world, &accept, false);
    else {
        accept.outcome = answer == 429 ? STORE_RATE_LIMITED : STORE_HELD;
        world->calls.decided(world->calls.argument, &accept, true);
    }
    world->calls.committed(world->calls.argument);
    return answer;
}

static void the_bucket_holds_its_burst_and_fills_at_its_rate(void **state)
{
    (void)state;
    struct world world = begin(60, 3);
    char id[8] = "a";
    for (int i = 0; i < 3; i++, id[0]++)
        assert_int_equal(pass(&world, id, "x", 1), 0);
    struct store_accept accept = message("d", "x", 1);
    int64_t retry_after_ms = -1;
    assert_int_equal(world.calls.admit(world.calls.argument, &accept, &retry_after_ms), 429);
    assert_int_equal(retry_after_ms, 1000);
    now_ms += 999;
    assert_int_equal(ask(&world, &accept), 429);
    now_ms += 1;
    assert_int_equal(ask(&world, &accept), 0);
    now_ms += 3600 * 1000;
    id[0] = 'e';
    for (int i = 0; i < 3; i++, id[0]++)
        assert_int_equal(pass(&world, id, "x", 1), 0);
    assert_int_equal(pass(&world, id, "x", 1), 429);
    admission_free(world.admission);
}

static void no_rate_is_no_limit(void **state)
{
    (void)state;
    struct world world = begin(0, 0);
    char id[16];
    for (int i = 0; i < 10000; i++) {
        (void)snprintf(id, sizeof id, "%d", i);
        assert_int_equal(pass(&world, id, "x", 1), 0);
    }
    admission_free(world.admission);
}

/* Members who sent once and never again cost no memory for ever; one who used up its burst stays known. */
static void buckets_that_are_full_again_are_forgotten_and_no_others(void **state)
{
    (void)state;
    enum { MEMBERS = 40000 };
    struct world world = begin(60, 2);
    struct store_accept spent = message("spent", "x", 1);
    for (int64_t member = 1; member <= MEMBERS; member++) {
        struct store_accept accept = message("id", "x", 1);
        accept.sender = member;
        assert_int_equal(ask(&world, &accept), 0);
        decide(&world, &accept, false);
        world.calls.committed(world.calls.argument);
        if (member == MEMBERS / 2) { /* all so far are full again, and those of the window before are forgotten */
            now_ms += 120 * 1000;
            spent.sender = member;
            for (int number = 0; number < 2; number++) {
                spent.client_message_id = number == 0 ? "one" : "two";
                assert_int_equal(ask(&world, &spent), 0);
                decide(&world, &spent, false);
                world.calls.committed(world.calls.argument);
            }
        }
    }
    spent.client_message_id = "three";
    assert_int_equal(ask(&world, &spent), 429);
    admission_free(world.admission);
}

static void an_id_that_is_asked_about_again_is_not_charged_again_in_its_window(void **state)
{
    (void)state;
    struct world world = begin(1, 1);
    struct store_accept accept = message("a", "x", 1);
    assert_int_equal(ask(&world, &accept), 0);
    world.calls.rolled_back(world.calls.argument);
    assert_int_equal(ask(&world, &accept), 0);
    decide(&world, &accept, true);
    assert_int_equal(ask(&world, &accept), 0);
    now_ms += 60000; /* another window: charged, and there is a token again */
    assert_int_equal(ask(&world, &accept), 0);
    struct store_accept other = message("b", "y", 1);
    assert_int_equal(ask(&world, &other), 429);
    admission_free(world.admission);
}

static void a_destination_is_held_for_its_connection_and_priority_alone(void **state)
{
    (void)state;
    struct world world = begin(0, 0);
    struct store_accept refused = message("a", "x", 1);
    decide(&world, &refused, true);
    assert_int_equal(pass(&world, "b", "x", 1), 503);
    assert_int_equal(pass(&world, "b", "y", 1), 0);
    assert_int_equal(pass(&world, "c", "x", 2), 0);
    struct store_accept urgent = message("d", "x", 1);
    urgent.priority = 0;
    assert_int_equal(ask(&world, &urgent), 0);
    assert_int_equal(pass(&world, "a", "x", 1), 0);
    assert_int_equal(pass(&world, "b", "x", 1), 0);
    admission_free(world.admission);
}

static void what_a_rollback_undid_holds_those_behind_it(void **state)
{
    (void)state;
    struct world world = begin(0, 0);
    struct store_accept first = message("a", "x", 1), second = message("b", "x", 1);
    assert_int_equal(ask(&world, &first), 0);
    decide(&world, &first, false);
    assert_int_equal(ask(&world, &second), 0);
    decide(&world, &second, false);
    world.calls.rolled_back(world.calls.argument);
    assert_int_equal(ask(&world, &second), 503);
    assert_int_equal(pass(&world, "a", "x", 1), 0);
    assert_int_equal(pass(&world, "b", "x", 1), 0);
    admission_free(world.admission);
}

static void what_was_committed_holds_nobody_when_a_later_transaction_goes_back(void **state)
{
    (void)state;
    struct world world = begin(0, 0);
    assert_int_equal(pass(&world, "a", "x", 1), 0);
    world.calls.rolled_back(world.calls.argument);
    assert_int_equal(pass(&world, "b", "x", 1), 0);
    admission_free(world.admission);
}

static void a_held_destination_is_let_go_when_its_sender_gave_up_or_went(void **state)
{
    (void)state;
    struct world world = begin(0, 0);
    struct store_accept refused = message("a", "x", 1);
    decide(&world, &refused, true);
    now_ms += 120000;
    assert_int_equal(pass(&world, "b", "x", 1), 503);
    now_ms += 1;
    assert_int_equal(pass(&world, "b", "x", 1), 0);
    decide(&world, &refused, true);
    world.calls.forget(world.calls.argument, 1);
    assert_int_equal(pass(&world, "c", "x", 1), 0);
    admission_free(world.admission);
}

static void a_connection_with_too_many_held_destinations_is_held_as_a_whole(void **state)
{
    (void)state;
    struct world world = begin(0, 0);
    char ids[1100][8];
    for (int i = 0; i < 1100; i++) {
        (void)snprintf(ids[i], sizeof ids[i], "%d", i);
        struct store_accept refused = message(ids[i], ids[i], 1);
        decide(&world, &refused, true);
    }
    assert_int_equal(pass(&world, "new", "somewhere else", 1), 503);
    assert_int_equal(pass(&world, "new", "somewhere else", 2), 0);
    for (int i = 0; i < 1024; i++)
        assert_int_equal(pass(&world, ids[i], ids[i], 1), 0);
    assert_int_equal(pass(&world, "new", "somewhere else", 1), 0);
    admission_free(world.admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bucket_holds_its_burst_and_fills_at_its_rate),
        cmocka_unit_test(no_rate_is_no_limit),
        cmocka_unit_test(buckets_that_are_full_again_are_forgotten_and_no_others),
        cmocka_unit_test(an_id_that_is_asked_about_again_is_not_charged_again_in_its_window),
        cmocka_unit_test(a_destination_is_held_for_its_connection_and_priority_alone),
        cmocka_unit_test(what_a_rollback_undid_holds_those_behind_it),
        cmocka_unit_test(what_was_committed_holds_nobody_when_a_later_transaction_goes_back),
        cmocka_unit_test(a_held_destination_is_let_go_when_its_sender_gave_up_or_went),
        cmocka_unit_test(a_connection_with_too_many_held_destinations_is_held_as_a_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
