/* Every case of fingerprint.json, from the request as JSON: hashed bytes, fingerprint, blinded fingerprint. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "crypto/fingerprint.h"
#include "fixtures.h"
#include "json/json.h"

static int start(void **state)
{
    (void)state;
    return crypto_start(NULL);
}

/* The canonical form as a caller makes it: nothing for no meta and for {}. */
static void canonical_meta(const json_t *request, struct buffer *ret_text)
{
    const json_t *meta = json_object_get(request, "meta");
    buffer_init(ret_text, BUFFER_UNLIMITED);
    if (json_object_size(meta) > 0) {
        assert_int_equal(json_print_canonical(meta, ret_text), 0);
    }
}

static void assert_hex(const struct fingerprint *fingerprint, const char *expected)
{
    char hex[SHA256_HEX_SIZE];
    hex_encode(fingerprint->bytes, sizeof(fingerprint->bytes), hex);
    assert_string_equal(hex, expected);
}

static void check_case(const json_t *vector, const struct blinding_key *key)
{
    const json_t *request = json_object_get(vector, "request");
    const char *priority = json_string_value(json_object_get(request, "priority"));
    const json_t *body = json_object_get(request, "body");
    struct buffer expected;
    struct buffer canonical;
    struct buffer meta;
    canonical_meta(request, &meta);
    buffer_init(&expected, BUFFER_UNLIMITED);
    buffer_init(&canonical, BUFFER_UNLIMITED);
    const char *encoded = fixture_text(vector, "canonical_base64");
    assert_int_equal(base64_decode(encoded, strlen(encoded), &expected), 0);
    struct fingerprint_request ours = {
        .destination_kind = fixture_text(request, "destination_kind"),
        .destination_ref = fixture_text(request, "destination_ref"),
        .reply_to_id = json_string_value(json_object_get(request, "reply_to_id")),
        .priority = priority == NULL ? "next" : priority,
        .meta_canonical = { meta.data, meta.length },
        .body = { json_string_value(body), json_string_length(body) },
    };
    struct fingerprint fingerprint;
    struct fingerprint blinded;
    assert_int_equal(fingerprint_canonical(&ours, &canonical), 0);
    assert_int_equal(canonical.length, expected.length);
    assert_memory_equal(canonical.data, expected.data, expected.length);
    fingerprint_of(&ours, &fingerprint);
    assert_hex(&fingerprint, fixture_text(vector, "fingerprint"));
    fingerprint_blind(key, &fingerprint, fixture_text(vector, "client_message_id"), &blinded);
    assert_hex(&blinded, fixture_text(vector, "blinded_for_alice"));
    buffer_release(&meta);
    buffer_release(&expected);
    buffer_release(&canonical);
}

static void every_vector_comes_out_byte_for_byte(void **state)
{
    (void)state;
    json_t *wire = fixture_load("wire.json");
    json_t *document = fixture_load("fingerprint.json");
    struct keypair *alice = fixture_keypair(wire, "alice");
    struct blinding_key *key = blinding_key_of(alice);
    const json_t *cases = json_object_get(document, "cases");
    assert_true(json_array_size(cases) >= 13);
    for (size_t index = 0; index < json_array_size(cases); index++) {
        check_case(json_array_get(cases, index), key);
    }
    blinding_key_free(key);
    blinding_key_free(NULL);
    keypair_free(alice);
    json_decref(document);
    json_decref(wire);
}

static void mentions_are_one_more_field_only_when_present(void **state)
{
    (void)state;
    struct fingerprint_request request = {
        .destination_kind = "topic", .destination_ref = "alerts", .priority = "next", .body = TEXT("x")
    };
    struct buffer without;
    struct buffer with;
    buffer_init(&without, BUFFER_UNLIMITED);
    buffer_init(&with, BUFFER_UNLIMITED);
    assert_int_equal(fingerprint_canonical(&request, &without), 0);
    request.mentions_canonical = TEXT("[\"a\"]");
    assert_int_equal(fingerprint_canonical(&request, &with), 0);
    assert_int_equal(with.length, without.length + 6);
    assert_memory_equal(with.data, without.data, without.length);
    assert_memory_equal(with.data + without.length, "\0[\"a\"]", 6);
    struct fingerprint fingerprint;
    struct sha256 digest;
    fingerprint_of(&request, &fingerprint);
    sha256_of(with.data, with.length, &digest);
    assert_memory_equal(fingerprint.bytes, digest.bytes, SHA256_BYTES);
    buffer_release(&without);
    buffer_release(&with);
}

static void another_member_blinds_otherwise(void **state)
{
    (void)state;
    json_t *wire = fixture_load("wire.json");
    struct keypair *alice = fixture_keypair(wire, "alice");
    struct keypair *bob = fixture_keypair(wire, "bob");
    struct blinding_key *of_alice = blinding_key_of(alice);
    struct blinding_key *of_bob = blinding_key_of(bob);
    struct fingerprint fingerprint = { { 1 } };
    struct fingerprint one;
    struct fingerprint two;
    struct fingerprint three;
    fingerprint_blind(of_alice, &fingerprint, "m-1", &one);
    fingerprint_blind(of_bob, &fingerprint, "m-1", &two);
    fingerprint_blind(of_alice, &fingerprint, "m-2", &three);
    assert_memory_not_equal(one.bytes, two.bytes, SHA256_BYTES);
    assert_memory_not_equal(one.bytes, three.bytes, SHA256_BYTES);
    blinding_key_free(of_alice);
    blinding_key_free(of_bob);
    keypair_free(alice);
    keypair_free(bob);
    json_decref(wire);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_vector_comes_out_byte_for_byte),
        cmocka_unit_test(mentions_are_one_more_field_only_when_present),
        cmocka_unit_test(another_member_blinds_otherwise),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
