/* Held sends: told once, by the row's end, by the clock, or not at all when the caller went. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ipc/waits.h"

struct seen {
    int calls;
    bool finished;
    enum outbox_state state;
    struct loop *loop;
};

static void over(void *argument, const struct wait_result *result)
{
    struct seen *seen = argument;
    seen->calls++;
    seen->finished = result->finished;
    seen->state = result->state;
    if (seen->loop != NULL)
        loop_stop(seen->loop);
}

static struct loop *loop;
static struct waits *waits;

static int set_up(void **state)
{
    (void)state;
    struct error error;
    if (loop_new(&loop, &error) != 0)
        return -1;
    waits = waits_new(loop);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    waits_free(waits);
    loop_free(loop);
    return 0;
}

static void add(struct waits *to, const char *client_message_id, int64_t timeout_ms, void (*call)(void *, const struct wait_result *),
                void *argument)
{
    assert_non_null(waits_add(to, client_message_id, timeout_ms, call, argument));
}

static void everyone_who_waits_for_a_row_is_told_once_and_nobody_else(void **state)
{
    (void)state;
    struct seen first = { 0 }, second = { 0 }, other = { 0 };
    add(waits, "a", 60000, over, &first);
    add(waits, "b", 60000, over, &other);
    add(waits, "a", 60000, over, &second);
    const struct wait_result result = { .finished = true, .state = OUTBOX_DONE };
    waits_finished(waits, "a", &result);
    waits_finished(waits, "a", &result);
    assert_int_equal(first.calls, 1);
    assert_int_equal(second.calls, 1);
    assert_true(first.finished);
    assert_int_equal(first.state, OUTBOX_DONE);
    assert_int_equal(other.calls, 0);
    assert_int_equal(waits_count(waits), 1);
}

static void a_caller_that_went_is_not_told(void **state)
{
    (void)state;
    struct seen seen = { 0 };
    struct wait *wait = waits_add(waits, "a", 60000, over, &seen);
    waits_cancel(waits, wait);
    waits_finished(waits, "a", &(struct wait_result){ .finished = true });
    assert_int_equal(seen.calls, 0);
    assert_int_equal(waits_count(waits), 0);
}

static void time_that_is_up_says_unfinished(void **state)
{
    (void)state;
    struct seen seen = { .loop = loop, .finished = true };
    add(waits, "a", 1, over, &seen);
    loop_run(loop);
    assert_int_equal(seen.calls, 1);
    assert_false(seen.finished);
    assert_int_equal(waits_count(waits), 0);
}

static void a_stop_ends_them_all_unfinished(void **state)
{
    (void)state;
    struct seen first = { .finished = true }, second = { .finished = true };
    add(waits, "a", 60000, over, &first);
    add(waits, "b", 60000, over, &second);
    waits_end_all(waits);
    assert_int_equal(first.calls + second.calls, 2);
    assert_false(first.finished || second.finished);
    assert_int_equal(waits_count(waits), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everyone_who_waits_for_a_row_is_told_once_and_nobody_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_caller_that_went_is_not_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(time_that_is_up_says_unfinished, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stop_ends_them_all_unfinished, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
