/* The one error type. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "util/error.h"
#include "util/text.h"

static void setting_an_error_returns_its_negative_code(void **state)
{
    (void)state;
    struct error error = { .sys_errno = 5 };
    assert_int_equal(error_set(&error, ERROR_CONFLICT, "%s is %d", "it", 7), -(int)ERROR_CONFLICT);
    assert_int_equal(error.code, ERROR_CONFLICT);
    assert_int_equal(error.sys_errno, 0);
    assert_string_equal(error.message, "it is 7");
    assert_int_equal(error_set(NULL, ERROR_BUSY, "x"), -(int)ERROR_BUSY);
}

static void errno_chooses_the_code_and_is_kept(void **state)
{
    (void)state;
    static const struct {
        int sys_errno;
        enum error_code code;
    } CASES[] = { { ENOSPC, ERROR_FULL },   { EDQUOT, ERROR_FULL },  { ENOENT, ERROR_NOT_FOUND },
                  { EACCES, ERROR_DENIED }, { EPERM, ERROR_DENIED }, { EIO, ERROR_SYSTEM } };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct error error;
        errno = CASES[index].sys_errno;
        assert_int_equal(error_set_errno(&error, "cannot %s", "write"), -(int)CASES[index].code);
        assert_int_equal(errno, CASES[index].sys_errno);
        assert_int_equal(error.sys_errno, CASES[index].sys_errno);
        assert_true(string_has_prefix(error.message, "cannot write: "));
        assert_non_null(strstr(error.message, strerror(CASES[index].sys_errno)));
    }
}

static void a_prefix_says_what_was_tried(void **state)
{
    (void)state;
    struct error error;
    (void)error_set(&error, ERROR_INVALID, "no number");
    assert_int_equal(error_prefix(&error, "line %d", 3), -(int)ERROR_INVALID);
    assert_string_equal(error.message, "line 3: no number");
    /* Its own old message may be an argument. */
    (void)error_set(&error, ERROR_CORRUPT, "again: %s", error.message);
    assert_string_equal(error.message, "again: line 3: no number");
}

static void a_long_message_is_cut_between_characters(void **state)
{
    (void)state;
    char text[3 * ERROR_MESSAGE_SIZE];
    for (size_t shift = 0; shift < 4; shift++) {
        struct error error;
        memset(text, 'a', shift);
        for (size_t index = shift; index + 4 < sizeof(text); index += 3) {
            memcpy(text + index, "\xE2\x82\xAC", 4);
        }
        (void)error_set(&error, ERROR_INVALID, "%s", text);
        assert_true(strlen(error.message) >= ERROR_MESSAGE_SIZE - 3);
        assert_true(utf8_is_valid(error.message, strlen(error.message)));
        (void)error_prefix(&error, "before");
        assert_true(utf8_is_valid(error.message, strlen(error.message)));
    }
}

static void every_code_has_a_stable_word(void **state)
{
    (void)state;
    for (int code = ERROR_NONE; code <= ERROR_INTERNAL; code++) {
        assert_string_not_equal(error_code_name((enum error_code)code), "unknown");
    }
    assert_string_equal(error_code_name(ERROR_NOT_FOUND), "not_found");
    assert_string_equal(error_code_name((enum error_code)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(setting_an_error_returns_its_negative_code),
        cmocka_unit_test(errno_chooses_the_code_and_is_kept),
        cmocka_unit_test(a_prefix_says_what_was_tried),
        cmocka_unit_test(a_long_message_is_cut_between_characters),
        cmocka_unit_test(every_code_has_a_stable_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
