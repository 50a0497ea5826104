/* ULIDs that ascend, UUIDs of version 4, random numbers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "util/clock.h"
#include "util/ids.h"
#include "util/text.h"

static int64_t fake_now;

static int64_t fake_wall_ms(void)
{
    return fake_now;
}

static void ulids_ascend_within_a_millisecond_and_when_the_clock_steps_back(void **state)
{
    (void)state;
    char before[ULID_SIZE];
    char after[ULID_SIZE];
    clock_set_for_test(fake_wall_ms);
    fake_now = INT64_C(4000000000000);
    ulid_generate(before);
    for (int round = 0; round < 20000; round++) {
        if (round == 5000) {
            fake_now -= 3600000;
        } else if (round == 15000) {
            fake_now += 3600001;
        }
        ulid_generate(after);
        assert_true(strcmp(before, after) < 0);
        memcpy(before, after, sizeof(before));
    }
    clock_set_for_test(NULL);
}

static void a_ulid_is_twenty_six_digits_that_begin_with_the_time(void **state)
{
    (void)state;
    char ulid[ULID_SIZE];
    clock_set_for_test(fake_wall_ms);
    fake_now = INT64_C(281474976710655); /* 2^48 - 1: the last there is */
    ulid_generate(ulid);
    assert_int_equal(strlen(ulid), 26);
    assert_int_equal(strspn(ulid, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), 26);
    assert_memory_equal(ulid, "7ZZZZZZZZZ", 10);
    clock_set_for_test(NULL);
}

enum { THREADS = 4, EACH = 2000 };

static void *generate_many(void *argument)
{
    char(*ulids)[ULID_SIZE] = argument;
    for (int index = 0; index < EACH; index++) {
        ulid_generate(ulids[index]);
    }
    return NULL;
}

static int compare_ulids(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void threads_never_get_the_same_ulid(void **state)
{
    (void)state;
    static char ulids[THREADS][EACH][ULID_SIZE];
    pthread_t threads[THREADS];
    for (int index = 0; index < THREADS; index++) {
        assert_int_equal(pthread_create(&threads[index], NULL, generate_many, ulids[index]), 0);
    }
    for (int index = 0; index < THREADS; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
    }
    char(*all)[ULID_SIZE] = ulids[0];
    qsort(all, (size_t)THREADS * EACH, ULID_SIZE, compare_ulids);
    for (size_t index = 1; index < (size_t)THREADS * EACH; index++) {
        assert_true(strcmp(all[index - 1], all[index]) < 0);
    }
}

static void uuids_are_of_version_four_and_differ(void **state)
{
    (void)state;
    char one[UUID_SIZE];
    char two[UUID_SIZE];
    for (int round = 0; round < 100; round++) {
        uuid_generate(one);
        uuid_generate(two);
        assert_true(uuid_is_valid(one));
        assert_int_equal(one[14], '4');
        assert_non_null(strchr("89ab", one[19]));
        assert_string_not_equal(one, two);
    }
}

static void random_numbers_stay_below_their_bound_and_reach_all(void **state)
{
    (void)state;
    unsigned seen = 0;
    for (int round = 0; round < 1000; round++) {
        uint32_t number = random_uniform(7);
        assert_true(number < 7);
        seen |= 1u << number;
    }
    assert_int_equal(seen, 0x7F);
    assert_int_equal(random_uniform(1), 0);
    uint8_t large[1000] = { 0 };
    random_bytes(large, sizeof(large));
    size_t zeros = 0;
    for (size_t index = 700; index < sizeof(large); index++) {
        zeros += large[index] == 0 ? 1 : 0;
    }
    assert_true(zeros < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ulids_ascend_within_a_millisecond_and_when_the_clock_steps_back),
        cmocka_unit_test(a_ulid_is_twenty_six_digits_that_begin_with_the_time),
        cmocka_unit_test(threads_never_get_the_same_ulid),
        cmocka_unit_test(uuids_are_of_version_four_and_differ),
        cmocka_unit_test(random_numbers_stay_below_their_bound_and_reach_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
