/* Cursors of lists and ids of events: what is made decodes, nothing else does. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ipc/cursor.h"
#include "ipc/event_id.h"

static void a_cursor_comes_back_as_it_was_made(void **state)
{
    (void)state;
    static const int64_t SEQS[] = { 0, 1, 42, INT64_MAX };
    for (size_t i = 0; i < ARRAY_LENGTH(SEQS); i++) {
        char *text = cursor_encode(CURSOR_INBOX_DESCENDING, SEQS[i]);
        enum cursor_kind kind;
        int64_t seq;
        assert_int_equal(cursor_decode(text, &kind, &seq), 0);
        assert_int_equal(kind, CURSOR_INBOX_DESCENDING);
        assert_int_equal(seq, SEQS[i]);
        free(text);
    }
}

static void what_is_no_cursor_is_refused(void **state)
{
    (void)state;
    /* "", not base64url, "d", "x5", "d-1", "d5 ", "d" and a NUL, a number beyond 2^63, far too long */
    static const char *const BAD[] = { "",     "!!",   "ZA",
                                       "eDU",  "ZC0x", "ZDUg",
                                       "ZDUA", "ZAAx", "ZDkyMjMzNzIwMzY4NTQ3NzU4MDg",
                                       "ZDU=", "ZDU ", "ZDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMQ" };
    for (size_t i = 0; i < ARRAY_LENGTH(BAD); i++) {
        enum cursor_kind kind;
        int64_t seq;
        assert_int_equal(cursor_decode(BAD[i], &kind, &seq), -1);
    }
}

static void an_events_id_comes_back_as_it_was_made(void **state)
{
    (void)state;
    char text[EVENT_ID_SIZE];
    struct event_id id;
    event_id_format("0123456789abcdef", INT64_MAX, 7, text);
    assert_string_equal(text, "0123456789abcdef-9223372036854775807-7");
    assert_int_equal(event_id_parse(text, &id), 0);
    assert_string_equal(id.epoch, "0123456789abcdef");
    assert_int_equal(id.seq, INT64_MAX);
    assert_int_equal(id.n, 7);
}

static void an_unknown_epoch_is_well_formed_and_nonsense_is_not(void **state)
{
    (void)state;
    struct event_id id;
    assert_int_equal(event_id_parse("other-0-0", &id), 0);
    static const char *const BAD[] = { "",
                                       "x",
                                       "1-2",
                                       "a-b-c",
                                       "a-1-2-3",
                                       "-1-2",
                                       "a--1-2",
                                       "a-1-",
                                       "a-1-2 ",
                                       "a-1-2x",
                                       " a-1-2",
                                       "a-99999999999999999999-0",
                                       "a-9223372036854775808-0",
                                       "a_b-1-2",
                                       "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-1-2" };
    for (size_t i = 0; i < ARRAY_LENGTH(BAD); i++)
        assert_int_equal(event_id_parse(BAD[i], &id), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cursor_comes_back_as_it_was_made),
        cmocka_unit_test(what_is_no_cursor_is_refused),
        cmocka_unit_test(an_events_id_comes_back_as_it_was_made),
        cmocka_unit_test(an_unknown_epoch_is_well_formed_and_nonsense_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
