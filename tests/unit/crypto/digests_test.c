/* Digests and encodings. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sodium.h>

#include "crypto/crypto.h"

static int start(void **state)
{
    (void)state;
    return crypto_start(NULL);
}

static void sha256_gives_known_answers(void **state)
{
    (void)state;
    char hex[SHA256_HEX_SIZE];
    sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void parts_hash_as_their_concatenation(void **state)
{
    (void)state;
    struct sha256 whole;
    struct sha256 parts;
    const struct text pieces[] = { TEXT("a"), { NULL, 0 }, TEXT("\0"), TEXT("bc") };
    sha256_of("a\0bc", 4, &whole);
    sha256_of_parts(pieces, ARRAY_LENGTH(pieces), &parts);
    assert_memory_equal(whole.bytes, parts.bytes, SHA256_BYTES);
}

static void *hash_in_a_thread(void *argument)
{
    char hex[SHA256_HEX_SIZE];
    for (int round = 0; round < 100; round++) {
        sha256_hex("abc", 3, hex);
    }
    memcpy(argument, hex, sizeof(hex));
    return NULL;
}

static void threads_hash_at_the_same_time(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    char results[THREADS][SHA256_HEX_SIZE];
    for (size_t index = 0; index < THREADS; index++) {
        assert_int_equal(pthread_create(&threads[index], NULL, hash_in_a_thread, results[index]), 0);
    }
    for (size_t index = 0; index < THREADS; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
        assert_string_equal(results[index], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

static void hmac_gives_the_answer_of_rfc_4231(void **state)
{
    (void)state;
    struct sha256 mac;
    char hex[SHA256_HEX_SIZE];
    hmac_sha256((const uint8_t *)"Jefe", 4, "what do ya want for nothing?", 28, &mac);
    hex_encode(mac.bytes, sizeof(mac.bytes), hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

static void hex_is_read_in_lower_case_and_whole(void **state)
{
    (void)state;
    uint8_t bytes[3];
    char hex[7];
    assert_int_equal(hex_decode("00ff1a", 6, bytes, 3), 0);
    assert_memory_equal(bytes, "\x00\xff\x1a", 3);
    hex_encode(bytes, 3, hex);
    assert_string_equal(hex, "00ff1a");
    static const char *const BAD[] = { "00FF1a", "00ff1",  "00ff1a0", "00ff1g", "00ff1`",
                                       "00ff1/", "00ff1:", "00 f1a",  "0x0f1a", "00ff\xB1\xB1" };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        memset(bytes, 7, sizeof(bytes));
        assert_int_equal(hex_decode(BAD[index], strlen(BAD[index]), bytes, 3), -1);
        assert_memory_equal(bytes, "\7\7\7", 3);
    }
    for (int byte = 0; byte < 256; byte++) {
        char digits[2] = { '0', (char)byte };
        bool expected = strchr("0123456789abcdef", byte) != NULL && byte != 0;
        assert_int_equal(hex_decode(digits, 2, bytes, 1), expected ? 0 : -1);
    }
}

static void a_key_is_sixty_four_lower_case_digits(void **state)
{
    (void)state;
    char text[66];
    memset(text, 'a', 65);
    text[64] = '\0';
    assert_true(hex_is_key(text));
    text[63] = 'A';
    assert_false(hex_is_key(text));
    text[63] = '\0';
    assert_false(hex_is_key(text));
    memset(text, 'a', 65);
    text[65] = '\0';
    assert_false(hex_is_key(text));
}

static int decode(const char *text, bool url, size_t *ret_length)
{
    struct buffer data;
    buffer_init(&data, BUFFER_UNLIMITED);
    int result = url ? base64url_decode(text, strlen(text), &data) : base64_decode(text, strlen(text), &data);
    *ret_length = data.length;
    assert_int_equal(data.data[data.length], 0);
    buffer_release(&data);
    return result;
}

static void base64_has_one_form_only(void **state)
{
    (void)state;
    size_t length = 0;
    static const char *const GOOD[] = { "", "AA==", "AAA=", "AAAA", "+/+/" };
    static const size_t LENGTHS[] = { 0, 1, 2, 3, 3 };
    for (size_t index = 0; index < ARRAY_LENGTH(GOOD); index++) {
        assert_int_equal(decode(GOOD[index], false, &length), 0);
        assert_int_equal(length, LENGTHS[index]);
    }
    static const char *const BAD[] = { "A",     "AA",    "AAA",   "AB==",   "AAB=", "AA=",  "AA===", "AAAA====",
                                       "AA A=", "AAAA ", " AAAA", "AAAA\n", "-_-_", "A===", "====",  "AA==AA==" };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        if (decode(BAD[index], false, &length) == 0) {
            fail_msg("decoded: %s", BAD[index]);
        }
        assert_int_equal(length, 0);
    }
    assert_int_equal(decode("-_-_", true, &length), 0);
    assert_int_equal(decode("AA", true, &length), 0);
    assert_int_equal(decode("AA==", true, &length), -1);
    assert_int_equal(decode("AB", true, &length), -1);
    assert_int_equal(decode("+/+/", true, &length), -1);
}

static void base64_goes_there_and_back(void **state)
{
    (void)state;
    uint8_t bytes[70];
    for (size_t size = 0; size <= sizeof(bytes); size++) {
        for (size_t index = 0; index < size; index++) {
            bytes[index] = (uint8_t)(index * 37 + size);
        }
        struct buffer text;
        struct buffer data;
        buffer_init(&text, BUFFER_UNLIMITED);
        buffer_init(&data, size); /* a maximum that just fits */
        assert_int_equal(base64_encode(bytes, size, &text), 0);
        assert_int_equal(text.length, (size + 2) / 3 * 4);
        assert_int_equal(base64_decode(text.data, text.length, &data), 0);
        assert_int_equal(data.length, size);
        assert_memory_equal(data.data, bytes, size);
        buffer_reset(&text);
        buffer_reset(&data);
        assert_int_equal(base64url_encode(bytes, size, &text), 0);
        assert_int_equal(base64url_decode(text.data, text.length, &data), 0);
        assert_int_equal(data.length, size);
        assert_memory_equal(data.data, bytes, size);
        if (size > 0) {
            struct buffer small;
            buffer_init(&small, size - 1);
            assert_int_equal(base64url_decode(text.data, text.length, &small), -1);
            buffer_release(&small);
        }
        buffer_release(&text);
        buffer_release(&data);
    }
}

static void base64_digits_are_those_of_the_alphabet_and_no_other_byte(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        char text[4] = { 'A', 'A', (char)byte, 'A' };
        bool common = (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9');
        for (int place = 0; place < 2; place++) {
            struct buffer data;
            buffer_init(&data, BUFFER_UNLIMITED);
            int result = base64_decode(text, 4, &data);
            assert_int_equal(result, common || byte == '+' || byte == '/' ? 0 : -1);
            buffer_reset(&data);
            result = base64url_decode(text, 4, &data);
            assert_int_equal(result, common || byte == '-' || byte == '_' ? 0 : -1);
            buffer_release(&data);
            text[0] = (char)byte;
            text[2] = 'A';
        }
    }
}

/* Every way to end a text, and damage anywhere: the same verdict and the same bytes as libsodium's strict decoder. */
static void base64_agrees_with_libsodium_on_every_text(void **state)
{
    (void)state;
    static const char BYTES[] = "ABQgw019+/=-_ \n\x7F"; /* bytes from 0x80 on libsodium takes for digits */
    uint32_t random = 4711;
    size_t good = 0;
    for (int round = 0; round < 60000; round++) {
        char text[16];
        size_t length = (size_t)round % 13;
        for (size_t index = 0; index < length; index++) {
            random = random * 1664525u + 1013904223u;
            size_t some = round % 2 == 0 ? 10 : sizeof(BYTES); /* the NUL too */
            text[index] = index + 2 < length || round % 3 == 0 ? BYTES[(random >> 16) % some] : (random >> 20 & 1) != 0 ? '=' : 'A';
        }
        uint8_t theirs[16];
        size_t size = 0;
        struct buffer ours;
        buffer_init(&ours, BUFFER_UNLIMITED);
        int expected = sodium_base642bin(theirs, sizeof(theirs), text, length, NULL, &size, NULL, sodium_base64_VARIANT_ORIGINAL);
        assert_int_equal(base64_decode(text, length, &ours), expected);
        assert_int_equal(base64_decoded_length(text, length), expected == 0 ? (int64_t)size : -1);
        if (expected == 0) {
            good++;
            assert_int_equal(ours.length, size);
            assert_memory_equal(ours.data, theirs, size);
        }
        buffer_release(&ours);
    }
    assert_true(good > 1000);
}

static void decoding_into_a_full_buffer_fails(void **state)
{
    (void)state;
    struct buffer data;
    buffer_init(&data, 0);
    assert_int_equal(buffer_append_byte(&data, 'x'), -1);
    assert_int_equal(base64_decode("AAAA", 4, &data), -1);
    buffer_release(&data);
}

static void comparison_sees_every_byte(void **state)
{
    (void)state;
    assert_true(secret_equal("abcd", "abcd", 4));
    assert_false(secret_equal("abcd", "abce", 4));
    assert_false(secret_equal("abcd", "bbcd", 4));
    assert_true(secret_equal("abcd", "abce", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_known_answers),
        cmocka_unit_test(parts_hash_as_their_concatenation),
        cmocka_unit_test(threads_hash_at_the_same_time),
        cmocka_unit_test(hmac_gives_the_answer_of_rfc_4231),
        cmocka_unit_test(hex_is_read_in_lower_case_and_whole),
        cmocka_unit_test(a_key_is_sixty_four_lower_case_digits),
        cmocka_unit_test(base64_has_one_form_only),
        cmocka_unit_test(base64_goes_there_and_back),
        cmocka_unit_test(base64_digits_are_those_of_the_alphabet_and_no_other_byte),
        cmocka_unit_test(base64_agrees_with_libsodium_on_every_text),
        cmocka_unit_test(decoding_into_a_full_buffer_fails),
        cmocka_unit_test(comparison_sees_every_byte),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
