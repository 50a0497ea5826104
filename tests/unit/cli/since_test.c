/* `--since`, as people type it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/since.h"
#include "util/attributes.h"

static const int64_t NOW = 1790000000123; /* 2026-09-21T14:13:20.123Z */

static void spans_count_back_from_now(void **state)
{
    (void)state;
    static const struct {
        const char *text, *time;
    } CASES[] = {
        { "10m", "2026-09-21T14:03:20.123Z" },
        { "2h", "2026-09-21T12:13:20.123Z" },
        { "3d", "2026-09-18T14:13:20.123Z" },
        { "30s", "2026-09-21T14:12:50.123Z" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        char time[RFC3339_SIZE];
        struct error error = { 0 };
        assert_int_equal(since_parse(CASES[i].text, NOW, time, &error), 0);
        assert_string_equal(time, CASES[i].time);
    }
}

static void times_become_utc_with_milliseconds(void **state)
{
    (void)state;
    static const struct {
        const char *text, *time;
    } CASES[] = {
        { "2026-09-21T14:13:20Z", "2026-09-21T14:13:20.000Z" },
        { "2026-09-21T16:13:20.5+02:00", "2026-09-21T14:13:20.500Z" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        char time[RFC3339_SIZE];
        struct error error = { 0 };
        assert_int_equal(since_parse(CASES[i].text, NOW, time, &error), 0);
        assert_string_equal(time, CASES[i].time);
    }
}

static void everything_else_is_refused_with_a_hint(void **state)
{
    (void)state;
    static const char *const WRONG[] = { "", "yesterday", "10", "10 m", "m", "-5m", "2026-09-21", "99999999d", "1h30m" };
    for (size_t i = 0; i < ARRAY_LENGTH(WRONG); i++) {
        char time[RFC3339_SIZE] = "untouched";
        struct error error = { 0 };
        if (since_parse(WRONG[i], NOW, time, &error) != -ERROR_INVALID) {
            fail_msg("'%s' was taken", WRONG[i]);
        }
        assert_non_null(strstr(error.message, "--since"));
        assert_string_equal(time, "untouched");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_count_back_from_now),
        cmocka_unit_test(times_become_utc_with_milliseconds),
        cmocka_unit_test(everything_else_is_refused_with_a_hint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
