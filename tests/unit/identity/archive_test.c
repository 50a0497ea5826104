/* keypair-archive.json: its form, its limits, and files that cannot be used. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "crypto/box.h"
#include "identity/archive.h"
#include "json/json.h"
#include "scratch.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

static const int64_t NOW = INT64_C(1795000000000);
static const int64_t DAY = INT64_C(86400000);
static const char MESH[] = "6f1c8a52-4a39-4a3e-9d6b-0a6f5f0a7c11";

struct fixture {
    char *directory, *path;
};

static int set_up(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    fixture->directory = scratch_make();
    fixture->path = path_join(fixture->directory, "keypair-archive.json");
    *state = fixture;
    return crypto_start(NULL);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    scratch_remove(fixture->directory);
    free(fixture->path);
    free(fixture);
    return 0;
}

static struct keypair *make_keys(uint8_t first)
{
    uint8_t seed[SEED_BYTES] = { first, 7 };
    struct keypair *keys = NULL;
    assert_int_equal(keypair_from_seed(seed, &keys, NULL), 0);
    return keys;
}

static struct key_archive read_good(const char *path)
{
    struct key_archive archive = { 0 };
    struct archive_findings findings;
    assert_int_equal(key_archive_read(path, NOW, &archive, &findings, NULL), 0);
    assert_string_equal(findings.moved_to, "");
    return archive;
}

static json_t *file_document(const char *path)
{
    struct buffer bytes;
    json_t *document = NULL;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(path, &bytes, NULL), 0);
    assert_int_equal(json_parse_strict(bytes.data, bytes.length, &document, NULL), 0);
    buffer_release(&bytes);
    return document;
}

static void write_document(const char *path, const json_t *document)
{
    char *text = json_to_string(document, NULL);
    assert_int_equal(file_write_atomic(path, 0600, text, strlen(text), NULL), 0);
    free(text);
}

static void write_keys(const char *path, size_t count)
{
    struct key_archive archive = { 0 };
    for (size_t index = 0; index < count; index++) {
        struct keypair *keys = make_keys((uint8_t)(index + 1));
        assert_int_equal(key_archive_add(&archive, MESH, keys, NOW - DAY, NOW + (int64_t)index, 7), 0);
        keypair_free(keys);
    }
    assert_int_equal(key_archive_write(path, &archive, NULL), 0);
    key_archive_release(&archive);
}

static void the_file_has_the_form_of_the_specification(void **state)
{
    const struct fixture *fixture = *state;
    static const char *const FIELDS[] = { "key_id",     "ed25519_pubkey", "x25519_pubkey", "x25519_privkey",
                                          "created_at", "rotated_out_at", "expires_at" };
    struct stat status;
    write_keys(fixture->path, 1);
    assert_int_equal(stat(fixture->path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    json_t *document = file_document(fixture->path);
    assert_int_equal((int)json_number_value(json_object_get(document, "schema_version")), 1);
    assert_int_equal((int)json_number_value(json_object_get(document, "max_archived_keys")), 8);
    const json_t *key = json_array_get(json_object_get(document, "keys"), 0);
    for (size_t index = 0; index < ARRAY_LENGTH(FIELDS); index++) {
        assert_true(json_is_string(json_object_get(key, FIELDS[index])));
    }
    int64_t expires = 0;
    assert_int_equal(time_parse_rfc3339(json_string_value(json_object_get(key, "expires_at")), &expires), 0);
    assert_int_equal(expires, NOW + 7 * DAY);
    json_decref(document);
}

static void a_former_key_opens_what_was_sealed_for_it(void **state)
{
    const struct fixture *fixture = *state;
    struct keypair *peer = make_keys(99), *old = make_keys(1);
    struct box_cache *cache = box_cache_new(4);
    struct nonce nonce, ours;
    struct buffer sealed, opened;
    write_keys(fixture->path, 1);
    struct key_archive archive = read_good(fixture->path);
    assert_int_equal(archive.count, 1);
    assert_string_equal(archive.keys[0].mesh_id, MESH);
    assert_false(keypair_can_sign(archive.keys[0].keys));
    assert_true(keypair_can_sign(old));
    nonce_random(&nonce);
    buffer_init(&sealed, 1024);
    buffer_init(&opened, 1024);
    assert_int_equal(box_seal(cache, peer, keypair_public(old), &nonce, "hello", 5, &sealed, NULL), 0);
    box_cache_free(cache);
    cache = box_cache_new(4);
    assert_int_equal(box_open(cache, archive.keys[0].keys, keypair_public(peer), &nonce, sealed.data, sealed.length, &opened, NULL), 0);
    assert_string_equal(opened.data, "hello");
    nonce_derive(old, keypair_public(peer), "x", 1, &nonce); /* what it sent is still known for its own */
    nonce_derive(archive.keys[0].keys, keypair_public(peer), "x", 1, &ours);
    assert_memory_equal(nonce.bytes, ours.bytes, NONCE_BYTES);
    buffer_release(&sealed);
    buffer_release(&opened);
    box_cache_free(cache);
    key_archive_release(&archive);
    keypair_free(peer);
    keypair_free(old);
}

static void the_ninth_key_makes_the_oldest_go(void **state)
{
    (void)state;
    struct key_archive archive = { 0 };
    struct keypair *first = make_keys(1);
    for (uint8_t index = 1; index <= 8; index++) {
        struct keypair *keys = make_keys(index);
        assert_int_equal(key_archive_add(&archive, MESH, keys, NOW, NOW + index, 7), 0);
        keypair_free(keys);
    }
    struct keypair *ninth = make_keys(9);
    assert_int_equal(key_archive_add(&archive, MESH, ninth, NOW, NOW + 9, 7), 1);
    assert_int_equal(archive.count, 8);
    assert_false(key_archive_remove(&archive, MESH, keypair_public_hex(first)));
    /* Tried again, the same key takes no further place. */
    assert_int_equal(key_archive_add(&archive, MESH, ninth, NOW, NOW + 10, 7), 0);
    assert_int_equal(archive.count, 8);
    assert_int_equal(archive.keys[7].rotated_out_at, NOW + 10);
    keypair_free(first);
    keypair_free(ninth);
    key_archive_release(&archive);
}

static void expired_keys_go_and_the_others_stay(void **state)
{
    const struct fixture *fixture = *state;
    struct archive_findings findings;
    size_t removed = 99, left = 99;
    write_keys(fixture->path, 3); /* they expire at NOW + 7 days, + 1 ms, + 2 ms */
    assert_int_equal(key_archive_clean(fixture->path, NOW + 7 * DAY - 1, &removed, &left, &findings, NULL), 0);
    assert_int_equal(removed, 0);
    assert_int_equal(left, 3);
    assert_int_equal(key_archive_clean(fixture->path, NOW + 7 * DAY + 1, &removed, &left, &findings, NULL), 0);
    assert_int_equal(removed, 2);
    struct key_archive archive = read_good(fixture->path);
    assert_int_equal(archive.count, 1);
    key_archive_release(&archive);
}

static void assert_moved_aside(const struct fixture *fixture, const char *what)
{
    struct key_archive archive = { 0 };
    struct archive_findings findings;
    assert_int_equal(key_archive_read(fixture->path, NOW, &archive, &findings, NULL), 0);
    assert_int_equal(archive.count, 0);
    char *prefix = memory_printf("%s.malformed-%" PRId64, fixture->path, NOW / 1000);
    assert_true(string_has_prefix(findings.moved_to, prefix));
    free(prefix);
    assert_false(file_exists(fixture->path));
    assert_true(file_exists(findings.moved_to));
    assert_true(strstr(findings.why, what) != NULL);
}

static void put_in_first_key(const struct fixture *fixture, const char *name, json_t *value)
{
    write_keys(fixture->path, 2);
    json_t *document = file_document(fixture->path);
    json_t *key = json_array_get(json_object_get(document, "keys"), 0);
    if (value == NULL) {
        assert_int_equal(json_object_del(key, name), 0);
    } else {
        json_put(key, name, value);
    }
    write_document(fixture->path, document);
    json_decref(document);
}

static void a_file_that_cannot_be_used_is_moved_aside_and_nothing_is_lost(void **state)
{
    const struct fixture *fixture = *state;
    char other[KEY_HEX_SIZE];
    struct keypair *stranger = make_keys(77);
    assert_int_equal(file_write_atomic(fixture->path, 0600, "{\"schema_version\":1", 19, NULL), 0);
    assert_moved_aside(fixture, "");
    assert_int_equal(file_write_atomic(fixture->path, 0600, "", 0, NULL), 0);
    assert_moved_aside(fixture, ""); /* in the same second: another name */
    put_in_first_key(fixture, "x25519_privkey", NULL);
    assert_moved_aside(fixture, "x25519_privkey");
    put_in_first_key(fixture, "expires_at", json_string("soon"));
    assert_moved_aside(fixture, "expires_at");
    keypair_box_secret_hex(stranger, other);
    put_in_first_key(fixture, "x25519_privkey", json_string(other));
    assert_moved_aside(fixture, "do not belong together");
    put_in_first_key(fixture, "x25519_pubkey", json_string(keypair_public_hex(stranger)));
    assert_moved_aside(fixture, "x25519_pubkey");
    keypair_free(stranger);
}

static void a_key_id_that_stands_twice_makes_the_file_unusable(void **state)
{
    const struct fixture *fixture = *state;
    write_keys(fixture->path, 2);
    json_t *document = file_document(fixture->path);
    json_t *keys = json_object_get(document, "keys");
    json_put(json_array_get(keys, 1), "key_id", json_incref(json_object_get(json_array_get(keys, 0), "key_id")));
    write_document(fixture->path, document);
    json_decref(document);
    assert_moved_aside(fixture, "twice");
}

static void a_newer_schema_is_refused_and_left_alone(void **state)
{
    const struct fixture *fixture = *state;
    struct key_archive archive = { 0 };
    struct archive_findings findings;
    static const char NEWER[] = "{\"schema_version\":2,\"keys\":{}}";
    assert_int_equal(file_write_atomic(fixture->path, 0600, NEWER, sizeof(NEWER) - 1, NULL), 0);
    assert_int_equal(key_archive_read(fixture->path, NOW, &archive, &findings, NULL), -(int)ERROR_NEWER);
    assert_true(file_exists(fixture->path));
}

static void a_file_that_others_can_read_is_said_and_read(void **state)
{
    const struct fixture *fixture = *state;
    struct key_archive archive = { 0 };
    struct archive_findings findings;
    write_keys(fixture->path, 1);
    assert_int_equal(chmod(fixture->path, 0644), 0);
    assert_int_equal(key_archive_read(fixture->path, NOW, &archive, &findings, NULL), 0);
    assert_true(findings.wrong_mode);
    assert_int_equal(archive.count, 1);
    key_archive_release(&archive);
    assert_int_equal(unlink(fixture->path), 0);
    assert_int_equal(key_archive_read(fixture->path, NOW, &archive, &findings, NULL), 0); /* absent: empty */
    assert_int_equal(archive.count, 0);
    assert_false(findings.wrong_mode);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_file_has_the_form_of_the_specification, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_former_key_opens_what_was_sealed_for_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_ninth_key_makes_the_oldest_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(expired_keys_go_and_the_others_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_cannot_be_used_is_moved_aside_and_nothing_is_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_key_id_that_stands_twice_makes_the_file_unusable, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_newer_schema_is_refused_and_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_others_can_read_is_said_and_read, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
