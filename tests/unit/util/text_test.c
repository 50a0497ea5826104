/* Numbers, names, UTF-8, times, durations and sizes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "util/text.h"

static void numbers_are_read_whole_or_not_at_all(void **state)
{
    (void)state;
    uint64_t number = 5;
    int64_t integer = 5;
    assert_int_equal(parse_uint64("18446744073709551615", &number), 0);
    assert_true(number == UINT64_MAX);
    assert_int_equal(parse_int64("-9223372036854775808", &integer), 0);
    assert_true(integer == INT64_MIN);
    assert_int_equal(parse_int64("9223372036854775807", &integer), 0);
    assert_true(integer == INT64_MAX);
    assert_int_equal(parse_int64("-0", &integer), 0);
    assert_int_equal(integer, 0);
    static const char *const BAD[] = { "", "-", "+1", " 1", "1 ", "1x", "0x1", "18446744073709551616", "99999999999999999999999" };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        number = 5;
        assert_int_equal(parse_uint64(BAD[index], &number), -1);
        assert_int_equal(parse_int64(BAD[index], &integer), -1);
        assert_int_equal(number, 5);
    }
    assert_int_equal(parse_uint64("-1", &number), -1);
    assert_int_equal(parse_uint64(NULL, &number), -1);
    assert_int_equal(parse_int64("9223372036854775808", &integer), -1);
    assert_int_equal(parse_int64("-9223372036854775809", &integer), -1);
    assert_int_equal(parse_int64("--1", &integer), -1);
}

static void views_and_strings_compare(void **state)
{
    (void)state;
    assert_true(text_equal(TEXT("a\0b"), (struct text){ "a\0bc", 3 }));
    assert_false(text_equal(TEXT("a\0b"), TEXT("a\0c")));
    assert_true(text_equal(text_from(NULL), TEXT("")));
    assert_true(text_equal_c(TEXT("abc"), "abc"));
    assert_true(string_equal(NULL, NULL));
    assert_false(string_equal(NULL, ""));
    assert_true(string_has_prefix("abc", "ab"));
    assert_false(string_has_prefix("a", "ab"));
    char copy[4];
    assert_int_equal(string_copy(copy, sizeof(copy), "abc"), 0);
    assert_string_equal(copy, "abc");
    assert_int_equal(string_copy(copy, sizeof(copy), "abcd"), -1);
    assert_string_equal(copy, "");
}

static void names_and_ids_have_their_shapes(void **state)
{
    (void)state;
    char long_name[66];
    memset(long_name, 'a', 65);
    long_name[65] = '\0';
    assert_false(name_is_valid(long_name));
    assert_false(id_is_valid(long_name));
    long_name[64] = '\0';
    assert_true(name_is_valid(long_name));
    assert_true(id_is_valid(long_name));
    assert_true(name_is_valid("a-b_c.9"));
    static const char *const BAD[] = { "", "a b", "a/b", "\xC3\xA9", "a|b" };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        assert_false(name_is_valid(BAD[index]));
        assert_false(id_is_valid(BAD[index]));
    }
    assert_false(name_is_valid("A"));
    assert_true(id_is_valid("Member-2.x_Y"));
    assert_true(uuid_is_valid("7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11"));
    assert_false(uuid_is_valid("7F9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11"));
    assert_false(uuid_is_valid("7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d1"));
    assert_false(uuid_is_valid("7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d111"));
    assert_false(uuid_is_valid("7f9d2a54-9d0c-4a3e-8a4e_3c1b6f0e2d11"));
    assert_false(uuid_is_valid(""));
    char id[129];
    memset(id, '~', sizeof(id));
    assert_true(client_message_id_is_valid(id, 128));
    assert_false(client_message_id_is_valid(id, 129));
    assert_false(client_message_id_is_valid(id, 0));
    assert_false(client_message_id_is_valid("a b", 3));
    assert_false(client_message_id_is_valid("a\0b", 3));
    assert_false(client_message_id_is_valid("a\x7F", 2));
    assert_false(client_message_id_is_valid("\xC3\xA9", 2));
}

static void utf8_is_judged_strictly(void **state)
{
    (void)state;
    static const char *const GOOD[] = { "",
                                        "ascii ascii ascii ascii",
                                        "\xC2\x80",
                                        "\xDF\xBF",
                                        "\xE0\xA0\x80",
                                        "\xED\x9F\xBF",
                                        "\xEE\x80\x80",
                                        "\xF0\x90\x80\x80",
                                        "\xF4\x8F\xBF\xBF",
                                        ("12345678\xC3\xA9"
                                         "12345678") };
    static const char *const BAD[] = { "\x80",
                                       "\xC0\x80",
                                       "\xC1\xBF",
                                       "\xE0\x80\x80",
                                       "\xE0\x9F\xBF",
                                       "\xED\xA0\x80",
                                       "\xED\xBF\xBF",
                                       "\xF0\x80\x80\x80",
                                       "\xF0\x8F\xBF\xBF",
                                       "\xF4\x90\x80\x80",
                                       "\xF5\x80\x80\x80",
                                       "\xFF",
                                       "\xC3",
                                       "\xE2\x82",
                                       "\xF0\x9F\x98",
                                       "\xC3(",
                                       "1234567\xFF",
                                       "12345678\xFF",
                                       "\xE2\x82(" };
    for (size_t index = 0; index < ARRAY_LENGTH(GOOD); index++) {
        assert_true(utf8_is_valid(GOOD[index], strlen(GOOD[index])));
    }
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        assert_false(utf8_is_valid(BAD[index], strlen(BAD[index])));
    }
    assert_true(utf8_is_valid("a\0b", 3));
    uint32_t code_point = 0;
    assert_int_equal(utf8_decode("\xF0\x9F\x98\x80", 4, &code_point), 4);
    assert_int_equal(code_point, 0x1F600);
    assert_int_equal(utf8_decode("\xF0\x9F\x98\x80", 3, &code_point), 0);
    assert_int_equal(utf8_decode("", 0, &code_point), 0);
}

static void assert_printable(const char *text, size_t length, const char *expected)
{
    char *printable = text_printable(text, length);
    assert_string_equal(printable, expected);
    free(printable);
}

static void untrusted_text_cannot_steer_a_terminal(void **state)
{
    (void)state;
    assert_printable("a\x1B[31mb\x07\n\tc\x7F\0d", 14, "a[31mbcd");
    assert_printable("\xC2\x9B"
                     "31m",
                     5, "31m"); /* C1 */
    assert_printable("a\xE2\x80\xAE"
                     "b\xE2\x81\xA6"
                     "c\xE2\x80\x8F"
                     "d\xE2\x80\xA8"
                     "e\xD8\x9C"
                     "f",
                     20, "abcdef"); /* bidi */
    assert_printable("na\xC3\xAFve \xE2\x82\xAC \xF0\x9F\x98\x80", 15, "na\xC3\xAFve \xE2\x82\xAC \xF0\x9F\x98\x80");
    assert_printable("a\xFF"
                     "b",
                     3,
                     "a\xEF\xBF\xBD"
                     "b");
    assert_printable("", 0, "");
}

static void times_go_to_text_and_back(void **state)
{
    (void)state;
    static const struct {
        int64_t ms;
        const char *text;
    } CASES[] = {
        { 0, "1970-01-01T00:00:00.000Z" },
        { INT64_C(951782399999), "2000-02-28T23:59:59.999Z" },
        { INT64_C(951782400000), "2000-02-29T00:00:00.000Z" },
        { INT64_C(1709164800000), "2024-02-29T00:00:00.000Z" },
        { INT64_C(1795437296789), "2026-11-23T12:34:56.789Z" },
        { INT64_C(4107542400000), "2100-03-01T00:00:00.000Z" },
        { INT64_C(253402300799999), "9999-12-31T23:59:59.999Z" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        char text[RFC3339_SIZE];
        int64_t ms = -7;
        time_format_rfc3339(CASES[index].ms, text);
        assert_string_equal(text, CASES[index].text);
        assert_int_equal(time_parse_rfc3339(text, &ms), 0);
        assert_true(ms == CASES[index].ms);
    }
    char text[RFC3339_SIZE];
    time_format_rfc3339(-5, text);
    assert_string_equal(text, "1970-01-01T00:00:00.000Z");
    time_format_rfc3339(INT64_MAX, text);
    assert_string_equal(text, "9999-12-31T23:59:59.999Z");
    for (int64_t day = 0; day < 366 * 140; day++) { /* through every leap rule but one */
        int64_t ms = 0;
        time_format_rfc3339(day * 86400000 + 1, text);
        assert_int_equal(time_parse_rfc3339(text, &ms), 0);
        assert_true(ms == day * 86400000 + 1);
    }
}

static void times_with_offsets_and_fractions_are_read(void **state)
{
    (void)state;
    int64_t ms = 0;
    assert_int_equal(time_parse_rfc3339("2026-11-23T13:34:56+01:00", &ms), 0);
    assert_true(ms == INT64_C(1795437296000));
    assert_int_equal(time_parse_rfc3339("2026-11-23t07:04:56.789999999-05:30", &ms), 0);
    assert_true(ms == INT64_C(1795437296789));
    assert_int_equal(time_parse_rfc3339("2026-11-23T12:34:56.7z", &ms), 0);
    assert_true(ms == INT64_C(1795437296700));
    assert_int_equal(time_parse_rfc3339("1969-12-31T23:59:59.500Z", &ms), 0);
    assert_int_equal(ms, -500);
    static const char *const BAD[] = {
        "",
        "2026-11-23",
        "2026-11-23T12:34:56",
        "2026-11-23 12:34:56Z",
        "2026-11-23T12:34:56.Z",
        "2026-11-23T12:34:56.1234567890Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T12:60:00Z",
        "2026-11-23T12:34:60Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-04-00T00:00:00Z",
        "2026-11-23T12:34:56+24:00",
        "2026-11-23T12:34:56+01:60",
        "2026-11-23T12:34:56+0100",
        "2026-11-23T12:34:56Zx",
        " 2026-11-23T12:34:56Z",
        "26-11-23T12:34:56Z",
        "2026-11-23T12:34:5Z",
        "+026-11-23T12:34:56Z",
    };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        ms = 77;
        if (time_parse_rfc3339(BAD[index], &ms) == 0) {
            fail_msg("read: %s", BAD[index]);
        }
        assert_int_equal(ms, 77);
    }
}

static void durations_and_sizes_have_one_unit(void **state)
{
    (void)state;
    int64_t ms = 0;
    uint64_t bytes = 0;
    assert_int_equal(duration_parse("500ms", &ms), 0);
    assert_int_equal(ms, 500);
    assert_int_equal(duration_parse("30s", &ms), 0);
    assert_int_equal(ms, 30000);
    assert_int_equal(duration_parse("10m", &ms), 0);
    assert_int_equal(ms, 600000);
    assert_int_equal(duration_parse("2h", &ms), 0);
    assert_int_equal(ms, 7200000);
    assert_int_equal(duration_parse("3d", &ms), 0);
    assert_int_equal(ms, 259200000);
    static const char *const BAD_DURATIONS[] = {
        "", "5", "s", "-5s", "5 s", "5S", "1h30m", "1.5h", "99999999999999999999s", "9223372036854775807d"
    };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD_DURATIONS); index++) {
        assert_int_equal(duration_parse(BAD_DURATIONS[index], &ms), -1);
    }
    assert_int_equal(size_parse("1024", &bytes), 0);
    assert_int_equal(bytes, 1024);
    assert_int_equal(size_parse("64KB", &bytes), 0);
    assert_int_equal(bytes, 65536);
    assert_int_equal(size_parse("100MB", &bytes), 0);
    assert_int_equal(bytes, 104857600);
    assert_int_equal(size_parse("5GB", &bytes), 0);
    assert_true(bytes == UINT64_C(5368709120));
    static const char *const BAD_SIZES[] = { "", "KB", "1kb", "1 KB", "-1", "1B", "9999999999TB", "1.5GB" };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD_SIZES); index++) {
        assert_int_equal(size_parse(BAD_SIZES[index], &bytes), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read_whole_or_not_at_all),      cmocka_unit_test(views_and_strings_compare),
        cmocka_unit_test(names_and_ids_have_their_shapes),           cmocka_unit_test(utf8_is_judged_strictly),
        cmocka_unit_test(untrusted_text_cannot_steer_a_terminal),    cmocka_unit_test(times_go_to_text_and_back),
        cmocka_unit_test(times_with_offsets_and_fractions_are_read), cmocka_unit_test(durations_and_sizes_have_one_unit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
