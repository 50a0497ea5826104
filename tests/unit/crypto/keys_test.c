/* Identities, signatures, safety numbers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixtures.h"

static int start(void **state)
{
    (void)state;
    return crypto_start(NULL);
}

static void generated_keys_come_back_from_their_hex(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        struct keypair *keypair = NULL;
        struct keypair *again = NULL;
        char hex[SECRET_HEX_SIZE];
        struct public_key parsed;
        assert_int_equal(keypair_generate(&keypair, NULL), 0);
        keypair_secret_hex(keypair, hex);
        assert_int_equal(strlen(hex), 128);
        assert_string_equal(hex + 64, keypair_public_hex(keypair));
        assert_int_equal(keypair_from_secret_hex(hex, &again, NULL), 0);
        assert_true(public_key_equal(keypair_public(keypair), keypair_public(again)));
        assert_int_equal(public_key_parse(keypair_public_hex(keypair), &parsed, NULL), 0);
        assert_true(public_key_equal(&parsed, keypair_public(keypair)));
        for (size_t index = 0; index < PUBLIC_KEY_BYTES; index++) {
            parsed.bytes[index] ^= 1;
            assert_false(public_key_equal(&parsed, keypair_public(keypair)));
            parsed.bytes[index] ^= 1;
        }
        keypair_free(keypair);
        keypair_free(again);
    }
    keypair_free(NULL);
}

static void secret_hex_whose_halves_differ_is_refused(void **state)
{
    (void)state;
    json_t *wire = fixture_load("wire.json");
    struct keypair *alice = fixture_keypair(wire, "alice");
    struct keypair *bob = fixture_keypair(wire, "bob");
    struct keypair *none = NULL;
    struct error error;
    char hex[SECRET_HEX_SIZE];
    char other[SECRET_HEX_SIZE];
    keypair_secret_hex(alice, hex);
    keypair_secret_hex(bob, other);
    memcpy(hex + 64, other + 64, 64);
    assert_int_equal(keypair_from_secret_hex(hex, &none, &error), -(int)ERROR_INVALID);
    assert_null(strstr(error.message, "fb9733e6")); /* no secret in an error */
    keypair_secret_hex(alice, hex);
    hex[127] = '\0';
    assert_int_equal(keypair_from_secret_hex(hex, &none, NULL), -(int)ERROR_INVALID);
    keypair_secret_hex(alice, hex);
    hex[0] = 'F';
    assert_int_equal(keypair_from_secret_hex(hex, &none, NULL), -(int)ERROR_INVALID);
    assert_null(none);
    keypair_free(alice);
    keypair_free(bob);
    json_decref(wire);
}

static void the_hello_vector_is_signed_and_verified(void **state)
{
    (void)state;
    json_t *wire = fixture_load("wire.json");
    const json_t *hello = json_object_get(wire, "hello");
    struct keypair *alice = fixture_keypair(wire, "alice");
    struct keypair *bob = fixture_keypair(wire, "bob");
    const char *text = fixture_text(hello, "text");
    char signature[SIGNATURE_HEX_SIZE];
    keypair_sign_hex(alice, text, strlen(text), signature);
    assert_string_equal(signature, fixture_text(hello, "signature"));
    assert_true(signature_hex_is_valid(keypair_public_hex(alice), text, strlen(text), signature));
    assert_false(signature_hex_is_valid(keypair_public_hex(bob), text, strlen(text), signature));
    assert_false(signature_hex_is_valid(keypair_public_hex(alice), text, strlen(text) - 1, signature));
    signature[0] = signature[0] == 'e' ? 'f' : 'e';
    assert_false(signature_hex_is_valid(keypair_public_hex(alice), text, strlen(text), signature));
    keypair_free(alice);
    keypair_free(bob);
    json_decref(wire);
}

static void every_signed_statement_of_the_vectors_verifies(void **state)
{
    (void)state;
    /* The key that signs differs from statement to statement: one of the two must have. */
    json_t *wire = fixture_load("wire.json");
    json_t *statements = json_object_get(wire, "statements");
    struct keypair *alice = fixture_keypair(wire, "alice");
    struct keypair *bob = fixture_keypair(wire, "bob");
    const char *name = NULL;
    json_t *statement = NULL;
    size_t verified = 0;
    json_object_foreach(statements, name, statement)
    {
        if (!json_is_object(statement)) {
            continue;
        }
        struct buffer text;
        buffer_init(&text, BUFFER_UNLIMITED);
        const char *encoded = fixture_text(statement, "text_base64");
        assert_int_equal(base64_decode(encoded, strlen(encoded), &text), 0);
        const char *by = NULL;
        json_t *signature = NULL;
        json_object_foreach(json_object_get(statement, "signatures"), by, signature)
        {
            const char *hex = json_string_value(signature);
            if (signature_hex_is_valid(keypair_public_hex(alice), text.data, text.length, hex) ||
                signature_hex_is_valid(keypair_public_hex(bob), text.data, text.length, hex)) {
                verified++;
            }
        }
        buffer_release(&text);
    }
    assert_true(verified >= 11);
    keypair_free(alice);
    keypair_free(bob);
    json_decref(wire);
}

static void malformed_signatures_are_simply_not_valid(void **state)
{
    (void)state;
    char zeros[SIGNATURE_HEX_SIZE];
    memset(zeros, '0', 128);
    zeros[128] = '\0';
    assert_false(signature_hex_is_valid("", "x", 1, ""));
    assert_false(signature_hex_is_valid(NULL, "x", 1, zeros));
    assert_false(signature_hex_is_valid(zeros, "x", 1, NULL));
    zeros[64] = '\0'; /* the all-zero key is of small order */
    char signature[SIGNATURE_HEX_SIZE];
    memset(signature, '0', 128);
    signature[128] = '\0';
    assert_false(signature_hex_is_valid(zeros, "x", 1, signature));
}

static void keys_that_are_no_safe_points_are_refused(void **state)
{
    (void)state;
    static const char *const BAD[] = {
        "0000000000000000000000000000000000000000000000000000000000000000", /* order 4 */
        "0100000000000000000000000000000000000000000000000000000000000000", /* the neutral element */
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", /* order 2 */
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", /* order 8 */
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", /* order 8 */
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", /* not canonical: p */
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", /* not canonical: p + 1 */
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", /* not canonical */
        "0200000000000000000000000000000000000000000000000000000000000000", /* not on the curve */
        "429BEF6EB5907CB68AB9608D26DDC7B12D7AF5A8E4F5B4DD948CE391F0EEAA17",
        "429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa1",
        "429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa177",
        "",
    };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        struct public_key key = { .bytes = { 7 } };
        for (int round = 0; round < 2; round++) {
            if (public_key_parse(BAD[index], &key, NULL) != -(int)ERROR_INVALID) {
                fail_msg("accepted: %s", BAD[index]);
            }
        }
        assert_int_equal(key.bytes[0], 7);
    }
}

static void a_safety_number_is_the_same_from_both_sides(void **state)
{
    (void)state;
    json_t *wire = fixture_load("wire.json");
    struct keypair *alice = fixture_keypair(wire, "alice");
    struct keypair *bob = fixture_keypair(wire, "bob");
    char one[SAFETY_NUMBER_SIZE];
    char two[SAFETY_NUMBER_SIZE];
    char same[SAFETY_NUMBER_SIZE];
    safety_number(keypair_public(alice), keypair_public(bob), one);
    safety_number(keypair_public(bob), keypair_public(alice), two);
    safety_number(keypair_public(bob), keypair_public(bob), same);
    assert_string_equal(one, two);
    assert_string_not_equal(one, same);
    assert_int_equal(strlen(one), 71);
    for (size_t index = 0; index < 71; index++) {
        assert_true(index % 6 == 5 ? one[index] == ' ' : one[index] >= '0' && one[index] <= '9');
    }
    /* People compare it across versions: it must never change. */
    assert_string_equal(one, "01260 60575 99994 71216 22913 17633 47936 58800 79563 05473 65469 46694");
    keypair_free(alice);
    keypair_free(bob);
    json_decref(wire);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: while this thread remembers no key yet, the zero key must not look like a remembered one. */
        cmocka_unit_test(keys_that_are_no_safe_points_are_refused),       cmocka_unit_test(generated_keys_come_back_from_their_hex),
        cmocka_unit_test(secret_hex_whose_halves_differ_is_refused),      cmocka_unit_test(the_hello_vector_is_signed_and_verified),
        cmocka_unit_test(every_signed_statement_of_the_vectors_verifies), cmocka_unit_test(malformed_signatures_are_simply_not_valid),
        cmocka_unit_test(a_safety_number_is_the_same_from_both_sides),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
