/* Keys from passphrases, and streams sealed with them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "crypto/sealed_stream.h"

static const struct passphrase_cost CHEAP = { 1, 8192 };
static const uint8_t SALT[PASSPHRASE_SALT_BYTES] = { 1, 2, 3 };

static struct sealed_stream *stream_of(const char *passphrase)
{
    struct sealed_stream *stream = NULL;
    struct error error = { .message = "" };
    assert_int_equal(crypto_start(&error), 0);
    assert_int_equal(sealed_stream_new(text_from(passphrase), SALT, CHEAP, &stream, &error), 0);
    return stream;
}

static void what_was_sealed_opens_with_the_same_passphrase_in_order_and_ends_once(void **state)
{
    (void)state;
    uint8_t header[SEALED_STREAM_HEADER_BYTES];
    uint8_t first[5 + SEALED_STREAM_OVERHEAD], last[SEALED_STREAM_OVERHEAD];
    uint8_t plain[8];
    bool final = true;
    struct sealed_stream *writer = stream_of("secret");
    sealed_stream_begin(writer, header);
    sealed_stream_seal(writer, TEXT("hello"), TEXT("head"), false, first);
    sealed_stream_seal(writer, TEXT(""), TEXT("head"), true, last);
    const struct text sealed_first = { (const char *)first, sizeof(first) }, sealed_last = { (const char *)last, sizeof(last) };
    struct sealed_stream *reader = stream_of("secret");
    assert_int_equal(sealed_stream_resume(reader, header), 0);
    assert_int_equal(sealed_stream_open(reader, sealed_last, TEXT("head"), plain, &final), -1); /* not its turn */
    assert_int_equal(sealed_stream_resume(reader, header), 0);
    assert_int_equal(sealed_stream_open(reader, sealed_first, TEXT("another head"), plain, &final), -1);
    assert_int_equal(sealed_stream_resume(reader, header), 0);
    assert_int_equal(sealed_stream_open(reader, sealed_first, TEXT("head"), plain, &final), 0);
    assert_memory_equal(plain, "hello", 5);
    assert_false(final);
    assert_int_equal(sealed_stream_open(reader, sealed_first, TEXT("head"), plain, &final), -1); /* twice */
    assert_int_equal(sealed_stream_open(reader, sealed_last, TEXT("head"), plain, &final), 0);
    assert_true(final);
    sealed_stream_free(reader);
    reader = stream_of("Secret");
    assert_int_equal(sealed_stream_resume(reader, header), 0);
    assert_int_equal(sealed_stream_open(reader, sealed_first, TEXT("head"), plain, &final), -1);
    assert_int_equal(
        sealed_stream_open(reader, (struct text){ (const char *)first, SEALED_STREAM_OVERHEAD - 1 }, TEXT("head"), plain, &final), -1);
    sealed_stream_free(reader);
    sealed_stream_free(writer);
    sealed_stream_free(NULL);
}

static void the_proof_is_of_the_passphrase_and_of_every_byte(void **state)
{
    (void)state;
    uint8_t one[SEALED_STREAM_PROOF_BYTES], other[SEALED_STREAM_PROOF_BYTES];
    struct sealed_stream *stream = stream_of("secret"), *same = stream_of("secret"), *another = stream_of("secret ");
    sealed_stream_proof(stream, "data", 4, one);
    sealed_stream_proof(same, "data", 4, other);
    assert_memory_equal(one, other, sizeof(one));
    sealed_stream_proof(another, "data", 4, other);
    assert_memory_not_equal(one, other, sizeof(one));
    sealed_stream_proof(stream, "dato", 4, other);
    assert_memory_not_equal(one, other, sizeof(one));
    sealed_stream_free(stream);
    sealed_stream_free(same);
    sealed_stream_free(another);
}

static void a_cost_beyond_the_bounds_is_refused_before_it_is_spent(void **state)
{
    (void)state;
    static const struct {
        struct passphrase_cost cost;
        int status;
    } CASES[] = {
        { { 10, UINT64_C(1) << 30 }, 0 },
        { { 3, UINT64_C(256) << 20 }, 0 },
        { { 1, 8192 }, 0 },
        { { 11, UINT64_C(256) << 20 }, -ERROR_TOO_LARGE },
        { { 3, (UINT64_C(1) << 30) + 1 }, -ERROR_TOO_LARGE },
        { { UINT32_MAX, UINT64_MAX }, -ERROR_TOO_LARGE },
        { { 0, UINT64_C(256) << 20 }, -ERROR_INVALID },
        { { 3, 8191 }, -ERROR_INVALID },
        { { 3, 0 }, -ERROR_INVALID },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        struct error error = { .message = "" };
        struct sealed_stream *stream = NULL;
        assert_int_equal(passphrase_cost_check(CASES[i].cost, &error), CASES[i].status);
        if (CASES[i].status != 0) {
            assert_int_equal(sealed_stream_new(TEXT("x"), SALT, CASES[i].cost, &stream, &error), CASES[i].status);
            assert_null(stream);
        }
    }
    assert_int_equal(PASSPHRASE_COST_MODERATE.operations, 3);
    assert_int_equal(PASSPHRASE_COST_MODERATE.memory, 256 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_sealed_opens_with_the_same_passphrase_in_order_and_ends_once),
        cmocka_unit_test(the_proof_is_of_the_passphrase_and_of_every_byte),
        cmocka_unit_test(a_cost_beyond_the_bounds_is_refused_before_it_is_spent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
