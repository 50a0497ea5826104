/* Buffers: their maximum, what stays when it is passed, JSON strings, secrets. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "util/buffer.h"
#include "util/memory.h"

static void what_is_appended_is_there_and_terminated(void **state)
{
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, BUFFER_UNLIMITED);
    assert_string_equal(buffer.data, "");
    assert_int_equal(buffer_append_text(&buffer, "one"), 0);
    assert_int_equal(buffer_append_byte(&buffer, ' '), 0);
    assert_int_equal(buffer_printf(&buffer, "%d-%s", 2, "two"), 0);
    assert_int_equal(buffer_append(&buffer, NULL, 0), 0);
    assert_string_equal(buffer.data, "one 2-two");
    assert_int_equal(buffer.length, 9);
    buffer_consume(&buffer, 4);
    assert_string_equal(buffer.data, "2-two");
    buffer_consume(&buffer, 5);
    assert_string_equal(buffer.data, "");
    buffer_release(&buffer);
}

static void growing_keeps_every_byte(void **state)
{
    (void)state;
    struct buffer buffer;
    struct buffer secret;
    buffer_init(&buffer, BUFFER_UNLIMITED);
    buffer_init_secret(&secret, BUFFER_UNLIMITED);
    for (int number = 0; number < 3000; number++) {
        assert_int_equal(buffer_printf(&buffer, "%d,", number), 0);
        assert_int_equal(buffer_printf(&secret, "%d,", number), 0);
    }
    assert_int_equal(buffer.length, secret.length);
    assert_string_equal(buffer.data, secret.data);
    const char *position = buffer.data;
    for (int number = 0; number < 3000; number++) {
        char expected[8];
        (void)snprintf(expected, sizeof(expected), "%d,", number);
        assert_memory_equal(position, expected, strlen(expected));
        position += strlen(expected);
    }
    buffer_release(&buffer);
    buffer_wipe_release(&secret);
}

static void the_maximum_is_exact_and_overflow_stays(void **state)
{
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 5);
    assert_int_equal(buffer_append(&buffer, "abc", 3), 0);
    assert_int_equal(buffer_append(&buffer, "def", 3), -1);
    assert_true(buffer.overflow);
    assert_string_equal(buffer.data, "abc");
    assert_int_equal(buffer_append(&buffer, "d", 1), -1); /* no text with a hole in it */
    assert_int_equal(buffer_printf(&buffer, "%s", "d"), -1);
    assert_string_equal(buffer.data, "abc");
    buffer_reset(&buffer);
    assert_false(buffer.overflow);
    assert_int_equal(buffer_append(&buffer, "abcde", 5), 0);
    assert_int_equal(buffer_printf(&buffer, "%s", ""), 0);
    assert_int_equal(buffer_printf(&buffer, "f"), -1);
    assert_string_equal(buffer.data, "abcde");
    buffer_release(&buffer);
    buffer_init(&buffer, 0);
    assert_int_equal(buffer_append(&buffer, "", 0), 0);
    assert_int_equal(buffer_append(&buffer, "a", 1), -1);
    buffer_release(&buffer);
}

static void a_size_near_the_end_of_memory_does_not_wrap(void **state)
{
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, BUFFER_UNLIMITED);
    assert_int_equal(buffer_append_text(&buffer, "abc"), 0);
    assert_null(buffer_reserve(&buffer, SIZE_MAX));
    assert_null(buffer_reserve(&buffer, SIZE_MAX - 2));
    assert_string_equal(buffer.data, "abc");
    buffer_release(&buffer);
}

static void what_is_reserved_can_be_written_by_hand(void **state)
{
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 1000);
    char *room = buffer_reserve(&buffer, 1000);
    assert_non_null(room);
    memset(room, 'x', 1000);
    buffer_commit(&buffer, 10);
    assert_string_equal(buffer.data, "xxxxxxxxxx");
    assert_null(buffer_reserve(&buffer, 991));
    buffer_release(&buffer);
}

static void memory_that_is_taken_leaves_a_usable_buffer(void **state)
{
    (void)state;
    struct buffer buffer;
    size_t length = 99;
    buffer_init(&buffer, 100);
    char *nothing = buffer_take(&buffer, &length);
    assert_string_equal(nothing, "");
    assert_int_equal(length, 0);
    free(nothing);
    assert_int_equal(buffer_append_text(&buffer, "abc"), 0);
    char *taken = buffer_take(&buffer, &length);
    assert_string_equal(taken, "abc");
    assert_int_equal(length, 3);
    assert_int_equal(buffer.length, 0);
    assert_int_equal(buffer_append_text(&buffer, "d"), 0);
    assert_string_equal(buffer.data, "d");
    free(taken);
    buffer_release(&buffer);
    buffer_release(&buffer);
    buffer_release(NULL);
    buffer_wipe_release(NULL);
    struct buffer zeroed = { 0 };
    buffer_release(&zeroed);
}

static void assert_json(const char *text, size_t size, const char *expected)
{
    struct buffer buffer;
    buffer_init(&buffer, BUFFER_UNLIMITED);
    assert_int_equal(buffer_append_json_string(&buffer, text, size), 0);
    assert_string_equal(buffer.data, expected);
    buffer_release(&buffer);
}

static void json_strings_are_escaped_and_repaired(void **state)
{
    (void)state;
    assert_json("", 0, "\"\"");
    assert_json("a\"\\/\b\f\n\r\t\0\x1F\x7F", 12, "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7F\"");
    assert_json("\xC3\xA9\xE2\x80\xA8\xF0\x9F\x98\x80", 9, "\"\xC3\xA9\xE2\x80\xA8\xF0\x9F\x98\x80\"");
    assert_json("a\xFFz", 3, "\"a\xEF\xBF\xBDz\"");
    assert_json("\xC3", 1, "\"\xEF\xBF\xBD\"");
    assert_json("\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
}

static void a_json_string_that_does_not_fit_leaves_nothing(void **state)
{
    (void)state;
    for (size_t maximum = 1; maximum < 12; maximum++) {
        struct buffer buffer;
        buffer_init(&buffer, maximum);
        assert_int_equal(buffer_append_byte(&buffer, '>'), 0);
        assert_int_equal(buffer_append_json_string(&buffer, "ab\ncd\x01", 6), -1);
        assert_string_equal(buffer.data, ">");
        assert_int_equal(buffer.length, 1);
        assert_true(buffer.overflow);
        buffer_release(&buffer);
    }
}

static void copies_of_text_are_their_own(void **state)
{
    (void)state;
    char *copy = memory_strndup("abcdef", 3);
    assert_string_equal(copy, "abc");
    free(copy);
    copy = memory_strndup("ab", 9);
    assert_string_equal(copy, "ab");
    free(copy);
    assert_null(memory_strdup(NULL));
    assert_null(memory_strndup(NULL, 3));
    copy = memory_printf("%03d", 7);
    assert_string_equal(copy, "007");
    memory_wipe(copy, 3);
    assert_memory_equal(copy, "\0\0\0", 3);
    free(copy);
    copy = memory_zalloc(0);
    assert_non_null(copy);
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_appended_is_there_and_terminated),
        cmocka_unit_test(growing_keeps_every_byte),
        cmocka_unit_test(the_maximum_is_exact_and_overflow_stays),
        cmocka_unit_test(a_size_near_the_end_of_memory_does_not_wrap),
        cmocka_unit_test(what_is_reserved_can_be_written_by_hand),
        cmocka_unit_test(memory_that_is_taken_leaves_a_usable_buffer),
        cmocka_unit_test(json_strings_are_escaped_and_repaired),
        cmocka_unit_test(a_json_string_that_does_not_fit_leaves_nothing),
        cmocka_unit_test(copies_of_text_are_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
