/* Boxes, nonces, padding; against the vectors of wire.json. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sodium.h>

#include "crypto/box.h"
#include "fixtures.h"

struct fixture {
    json_t *wire;
    struct keypair *alice, *bob;
    struct box_cache *cache;
};

static int set_up(void **state)
{
    static struct fixture fixture;
    if (crypto_start(NULL) != 0) {
        return -1;
    }
    fixture.wire = fixture_load("wire.json");
    fixture.alice = fixture_keypair(fixture.wire, "alice");
    fixture.bob = fixture_keypair(fixture.wire, "bob");
    fixture.cache = box_cache_new(4);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    box_cache_free(fixture->cache);
    box_cache_free(NULL);
    keypair_free(fixture->alice);
    keypair_free(fixture->bob);
    json_decref(fixture->wire);
    return 0;
}

static void decode(const char *text, struct buffer *ret_data)
{
    buffer_init(ret_data, BUFFER_UNLIMITED);
    assert_int_equal(base64_decode(text, strlen(text), ret_data), 0);
}

static struct nonce nonce_of(const char *text)
{
    struct nonce nonce;
    struct buffer data;
    decode(text, &data);
    assert_int_equal(data.length, NONCE_BYTES);
    memcpy(nonce.bytes, data.data, NONCE_BYTES);
    buffer_release(&data);
    return nonce;
}

static struct symmetric_key *symmetric_of_hex(const char *hex)
{
    uint8_t bytes[SYMMETRIC_KEY_BYTES];
    assert_int_equal(hex_decode(hex, strlen(hex), bytes, sizeof(bytes)), 0);
    return symmetric_key_from(bytes);
}

static void the_direct_box_of_the_vectors_is_made_and_opened(void **state)
{
    struct fixture *fixture = *state;
    const json_t *vector = json_object_get(fixture->wire, "dm_box");
    const char *plaintext = fixture_text(vector, "plaintext");
    struct nonce nonce = nonce_of(fixture_text(vector, "nonce"));
    struct buffer expected;
    struct buffer sealed;
    struct buffer opened;
    decode(fixture_text(vector, "ciphertext"), &expected);
    buffer_init(&sealed, BUFFER_UNLIMITED);
    buffer_init(&opened, BUFFER_UNLIMITED);
    for (int round = 0; round < 2; round++) { /* the second time from the cache */
        buffer_reset(&sealed);
        buffer_reset(&opened);
        assert_int_equal(
            box_seal(fixture->cache, fixture->alice, keypair_public(fixture->bob), &nonce, plaintext, strlen(plaintext), &sealed, NULL), 0);
        assert_int_equal(sealed.length, expected.length);
        assert_memory_equal(sealed.data, expected.data, expected.length);
        assert_int_equal(
            box_open(fixture->cache, fixture->bob, keypair_public(fixture->alice), &nonce, sealed.data, sealed.length, &opened, NULL), 0);
        assert_string_equal(opened.data, plaintext);
    }
    buffer_release(&expected);
    buffer_release(&sealed);
    buffer_release(&opened);
}

static void a_changed_box_does_not_open(void **state)
{
    struct fixture *fixture = *state;
    struct nonce nonce;
    struct buffer sealed;
    struct buffer opened;
    nonce_random(&nonce);
    buffer_init(&sealed, BUFFER_UNLIMITED);
    buffer_init(&opened, BUFFER_UNLIMITED);
    assert_int_equal(box_seal(fixture->cache, fixture->alice, keypair_public(fixture->bob), &nonce, "hello", 5, &sealed, NULL), 0);
    assert_int_equal(sealed.length, 5 + BOX_OVERHEAD);
    for (size_t index = 0; index < sealed.length; index++) {
        sealed.data[index] = (char)(sealed.data[index] ^ 1);
        assert_int_equal(
            box_open(fixture->cache, fixture->bob, keypair_public(fixture->alice), &nonce, sealed.data, sealed.length, &opened, NULL),
            -(int)ERROR_DENIED);
        assert_int_equal(opened.length, 0);
        sealed.data[index] = (char)(sealed.data[index] ^ 1);
    }
    assert_int_equal(
        box_open(fixture->cache, fixture->bob, keypair_public(fixture->bob), &nonce, sealed.data, sealed.length, &opened, NULL),
        -(int)ERROR_DENIED);
    assert_int_equal(box_open(fixture->cache, fixture->bob, keypair_public(fixture->alice), &nonce, sealed.data, 15, &opened, NULL),
                     -(int)ERROR_DENIED);
    struct buffer small;
    buffer_init(&small, 4);
    assert_int_equal(
        box_open(fixture->cache, fixture->bob, keypair_public(fixture->alice), &nonce, sealed.data, sealed.length, &small, NULL),
        -(int)ERROR_TOO_LARGE);
    buffer_release(&small);
    buffer_release(&sealed);
    buffer_release(&opened);
}

static void no_box_is_made_with_a_small_order_key(void **state)
{
    struct fixture *fixture = *state;
    static const uint8_t FIRST_BYTES[] = { 0, 1 };
    struct nonce nonce = { { 0 } };
    for (size_t index = 0; index < ARRAY_LENGTH(FIRST_BYTES); index++) {
        struct public_key key = { .bytes = { FIRST_BYTES[index] } };
        struct buffer sealed;
        buffer_init(&sealed, BUFFER_UNLIMITED);
        assert_int_equal(box_seal(fixture->cache, fixture->alice, &key, &nonce, "x", 1, &sealed, NULL), -(int)ERROR_INVALID);
        assert_int_equal(sealed.length, 0);
        buffer_release(&sealed);
    }
}

/* More pairs than the cache holds, in an order that moves, drops and finds entries. */
static void the_cache_never_confuses_pairs(void **state)
{
    struct fixture *fixture = *state;
    enum { PEERS = 9 };
    struct keypair *peers[PEERS];
    struct nonce nonce = { { 1 } };
    for (size_t index = 0; index < PEERS; index++) {
        assert_int_equal(keypair_generate(&peers[index], NULL), 0);
    }
    uint32_t random = 7;
    for (int round = 0; round < 400; round++) {
        random = random * 1664525u + 1013904223u;
        struct keypair *peer = peers[(random >> 16) % (round % 40 < 20 ? 3 : PEERS)];
        struct buffer sealed;
        uint8_t opened[4];
        uint8_t public_box[crypto_box_PUBLICKEYBYTES];
        uint8_t secret_box[crypto_box_SECRETKEYBYTES];
        char secret_hex[SECRET_HEX_SIZE];
        uint8_t secret[64];
        buffer_init(&sealed, BUFFER_UNLIMITED);
        assert_int_equal(box_seal(fixture->cache, fixture->alice, keypair_public(peer), &nonce, "ping", 4, &sealed, NULL), 0);
        /* Opened by the peer without any cache. */
        keypair_secret_hex(peer, secret_hex);
        assert_int_equal(hex_decode(secret_hex, 128, secret, sizeof(secret)), 0);
        assert_int_equal(crypto_sign_ed25519_sk_to_curve25519(secret_box, secret), 0);
        assert_int_equal(crypto_sign_ed25519_pk_to_curve25519(public_box, keypair_public(fixture->alice)->bytes), 0);
        assert_int_equal(crypto_box_open_easy(opened, (const uint8_t *)sealed.data, sealed.length, nonce.bytes, public_box, secret_box), 0);
        assert_memory_equal(opened, "ping", 4);
        buffer_release(&sealed);
    }
    for (size_t index = 0; index < PEERS; index++) {
        keypair_free(peers[index]);
    }
}

static void a_cache_of_one_works(void **state)
{
    struct fixture *fixture = *state;
    struct box_cache *cache = box_cache_new(0);
    struct nonce nonce = { { 2 } };
    for (int round = 0; round < 6; round++) {
        struct buffer sealed;
        buffer_init(&sealed, BUFFER_UNLIMITED);
        const struct public_key *to = keypair_public(round % 3 == 0 ? fixture->alice : fixture->bob);
        assert_int_equal(box_seal(cache, fixture->alice, to, &nonce, "x", 1, &sealed, NULL), 0);
        buffer_release(&sealed);
    }
    box_cache_free(cache);
}

static void a_derived_nonce_follows_every_input(void **state)
{
    struct fixture *fixture = *state;
    struct nonce nonces[5];
    nonce_derive(fixture->alice, keypair_public(fixture->bob), "text", 4, &nonces[0]);
    nonce_derive(fixture->alice, keypair_public(fixture->bob), "text", 4, &nonces[1]);
    nonce_derive(fixture->alice, keypair_public(fixture->bob), "texu", 4, &nonces[2]);
    nonce_derive(fixture->alice, keypair_public(fixture->alice), "text", 4, &nonces[3]);
    nonce_derive(fixture->bob, keypair_public(fixture->bob), "text", 4, &nonces[4]);
    assert_memory_equal(nonces[0].bytes, nonces[1].bytes, NONCE_BYTES);
    for (size_t index = 2; index < ARRAY_LENGTH(nonces); index++) {
        assert_memory_not_equal(nonces[0].bytes, nonces[index].bytes, NONCE_BYTES);
    }
}

static void the_envelope_of_the_vectors_opens_and_unpads(void **state)
{
    struct fixture *fixture = *state;
    const json_t *vector = json_object_get(fixture->wire, "envelope");
    struct symmetric_key *key = symmetric_of_hex(fixture_text(vector, "topic_key"));
    struct nonce nonce = nonce_of(fixture_text(vector, "nonce"));
    struct buffer sealed;
    struct buffer opened;
    struct buffer again;
    decode(fixture_text(vector, "ciphertext"), &sealed);
    buffer_init(&opened, BUFFER_UNLIMITED);
    buffer_init(&again, BUFFER_UNLIMITED);
    assert_int_equal(secretbox_open(key, &nonce, sealed.data, sealed.length, &opened, NULL), 0);
    assert_int_equal(opened.length, (int64_t)json_number_value(json_object_get(vector, "padded_length")));
    size_t size = 0;
    assert_int_equal(envelope_unpad(opened.data, opened.length, &size, NULL), 0);
    json_t *envelope = json_loadb(opened.data, size, JSON_DECODE_INT_AS_REAL, NULL);
    assert_non_null(envelope);
    assert_true(json_equal(envelope, json_object_get(vector, "envelope")));
    /* Padded and sealed again, it is the same bytes. */
    assert_int_equal(buffer_append(&again, opened.data, size), 0);
    assert_int_equal(envelope_pad(&again, NULL), 0);
    buffer_reset(&opened);
    assert_int_equal(secretbox_seal(key, &nonce, again.data, again.length, &opened, NULL), 0);
    assert_int_equal(opened.length, sealed.length);
    assert_memory_equal(opened.data, sealed.data, sealed.length);
    sealed.data[3] = (char)(sealed.data[3] ^ 4);
    buffer_reset(&opened);
    assert_int_equal(secretbox_open(key, &nonce, sealed.data, sealed.length, &opened, NULL), -(int)ERROR_DENIED);
    assert_int_equal(secretbox_open(key, &nonce, sealed.data, 3, &opened, NULL), -(int)ERROR_DENIED);
    json_decref(envelope);
    symmetric_key_free(key);
    buffer_release(&sealed);
    buffer_release(&opened);
    buffer_release(&again);
}

static void the_queue_key_of_the_vectors_is_derived(void **state)
{
    struct fixture *fixture = *state;
    const json_t *vector = json_object_get(fixture->wire, "queue_key");
    const char *root_text = fixture_text(vector, "root_key");
    struct buffer root;
    uint8_t bytes[SYMMETRIC_KEY_BYTES];
    char hex[2 * SYMMETRIC_KEY_BYTES + 1];
    buffer_init_secret(&root, SYMMETRIC_KEY_BYTES);
    assert_int_equal(base64url_decode(root_text, strlen(root_text), &root), 0);
    assert_int_equal(root.length, SYMMETRIC_KEY_BYTES);
    struct symmetric_key *key = symmetric_key_of_queue((const uint8_t *)root.data);
    symmetric_key_bytes(key, bytes);
    hex_encode(bytes, sizeof(bytes), hex);
    assert_string_equal(hex, fixture_text(vector, "queue_key"));
    symmetric_key_free(key);
    buffer_release(&root);
}

static void the_sealed_topic_key_of_the_vectors_opens(void **state)
{
    struct fixture *fixture = *state;
    const json_t *vector = json_object_get(fixture->wire, "sealed_topic_key");
    struct nonce nonce = nonce_of(fixture_text(vector, "nonce"));
    struct buffer sealed;
    struct buffer opened;
    uint8_t sender_box[crypto_box_PUBLICKEYBYTES];
    char hex[2 * SYMMETRIC_KEY_BYTES + 1];
    decode(fixture_text(vector, "encryptedKey"), &sealed);
    buffer_init(&opened, BUFFER_UNLIMITED);
    assert_int_equal(crypto_sign_ed25519_pk_to_curve25519(sender_box, keypair_public(fixture->alice)->bytes), 0);
    assert_memory_equal(sealed.data, sender_box, sizeof(sender_box));
    assert_int_equal(
        box_open(fixture->cache, fixture->bob, keypair_public(fixture->alice), &nonce, sealed.data + 32, sealed.length - 32, &opened, NULL),
        0);
    assert_int_equal(opened.length, SYMMETRIC_KEY_BYTES);
    hex_encode(opened.data, opened.length, hex);
    assert_string_equal(hex, fixture_text(vector, "topic_key"));
    buffer_release(&sealed);
    buffer_release(&opened);
}

static void generated_symmetric_keys_differ(void **state)
{
    (void)state;
    struct symmetric_key *one = symmetric_key_generate();
    struct symmetric_key *two = symmetric_key_generate();
    uint8_t first[SYMMETRIC_KEY_BYTES];
    uint8_t second[SYMMETRIC_KEY_BYTES];
    symmetric_key_bytes(one, first);
    symmetric_key_bytes(two, second);
    assert_memory_not_equal(first, second, sizeof(first));
    symmetric_key_free(one);
    symmetric_key_free(two);
    symmetric_key_free(NULL);
}

static void padding_reaches_the_lengths_of_the_rule(void **state)
{
    (void)state;
    static const struct {
        size_t size, padded;
    } CASES[] = {
        { 0, 128 },     { 1, 128 },     { 127, 128 },   { 128, 256 },     { 255, 256 },       { 1022, 1024 },     { 1023, 1024 },
        { 1024, 1152 }, { 1151, 1152 }, { 1152, 1280 }, { 2047, 2048 },   { 2048, 2176 },     { 4095, 4096 },     { 4096, 4352 },
        { 4351, 4352 }, { 4352, 4608 }, { 9000, 9216 }, { 65536, 67584 }, { 100000, 100352 }, { 262143, 262144 }, { 262144, 270336 },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct buffer text;
        buffer_init(&text, BUFFER_UNLIMITED);
        char *room = buffer_reserve(&text, CASES[index].size);
        memset(room, 0, CASES[index].size); /* zeros: the padding must still be found */
        buffer_commit(&text, CASES[index].size);
        assert_int_equal(envelope_pad(&text, NULL), 0);
        assert_int_equal(text.length, CASES[index].padded);
        size_t size = 0;
        assert_int_equal(envelope_unpad(text.data, text.length, &size, NULL), 0);
        assert_int_equal(size, CASES[index].size);
        buffer_release(&text);
    }
}

static void padding_is_what_sodium_writes_and_reads(void **state)
{
    (void)state;
    for (size_t size = 0; size < 1024; size += 13) {
        uint8_t theirs[1024 + 128];
        size_t padded = 0;
        size_t unpadded = 0;
        memset(theirs, 'x', sizeof(theirs));
        assert_int_equal(sodium_pad(&padded, theirs, size, 128, sizeof(theirs)), 0);
        struct buffer ours;
        buffer_init(&ours, BUFFER_UNLIMITED);
        assert_int_equal(buffer_append(&ours, theirs, size), 0);
        assert_int_equal(envelope_pad(&ours, NULL), 0);
        assert_int_equal(ours.length, padded);
        assert_memory_equal(ours.data, theirs, padded);
        assert_int_equal(envelope_unpad(theirs, padded, &unpadded, NULL), 0);
        assert_int_equal(unpadded, size);
        buffer_release(&ours);
    }
}

static void text_without_padding_is_refused(void **state)
{
    (void)state;
    size_t size = 99;
    assert_int_equal(envelope_unpad("", 0, &size, NULL), -(int)ERROR_INVALID);
    assert_int_equal(envelope_unpad("\0\0\0", 3, &size, NULL), -(int)ERROR_INVALID);
    assert_int_equal(envelope_unpad("abc", 3, &size, NULL), -(int)ERROR_INVALID);
    assert_int_equal(envelope_unpad("abc\0", 4, &size, NULL), -(int)ERROR_INVALID);
    assert_int_equal(size, 99);
    assert_int_equal(envelope_unpad("\x80", 1, &size, NULL), 0);
    assert_int_equal(size, 0);
}

static void padding_past_the_maximum_is_reported(void **state)
{
    (void)state;
    struct buffer text;
    buffer_init(&text, 200);
    assert_int_equal(buffer_append(&text, "hello", 5), 0);
    assert_int_equal(envelope_pad(&text, NULL), 0);
    assert_int_equal(envelope_pad(&text, NULL), -(int)ERROR_TOO_LARGE);
    buffer_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_direct_box_of_the_vectors_is_made_and_opened),
        cmocka_unit_test(a_changed_box_does_not_open),
        cmocka_unit_test(no_box_is_made_with_a_small_order_key),
        cmocka_unit_test(the_cache_never_confuses_pairs),
        cmocka_unit_test(a_cache_of_one_works),
        cmocka_unit_test(a_derived_nonce_follows_every_input),
        cmocka_unit_test(the_envelope_of_the_vectors_opens_and_unpads),
        cmocka_unit_test(the_queue_key_of_the_vectors_is_derived),
        cmocka_unit_test(the_sealed_topic_key_of_the_vectors_opens),
        cmocka_unit_test(generated_symmetric_keys_differ),
        cmocka_unit_test(padding_reaches_the_lengths_of_the_rule),
        cmocka_unit_test(padding_is_what_sodium_writes_and_reads),
        cmocka_unit_test(text_without_padding_is_refused),
        cmocka_unit_test(padding_past_the_maximum_is_reported),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
