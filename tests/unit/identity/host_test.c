/* The recorded host against this one: each row of the table of 50-identity, "Host fingerprint", and the file's form. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <glob.h>

#include "identity/host.h"
#include "scratch.h"
#include "host_root.h"
#include "util/text.h"

#define ID_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define ID_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define MAC_A "3c:22:fb:00:00:0a"
#define MAC_B "3c:22:fb:00:00:0b"

struct fixture {
    char *directory, *root;
    struct config_paths paths;
};

static int set_up(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    fixture->directory = scratch_make();
    fixture->root = scratch_make();
    if (crypto_start(NULL) != 0 || config_paths_init(fixture->directory, &fixture->paths, NULL, NULL) != 0 ||
        config_paths_make(&fixture->paths, NULL) != 0 || setenv("CLAUDEMESH_HOST_ROOT", fixture->root, 1) != 0)
        return -1;
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    config_paths_release(&fixture->paths);
    scratch_remove(fixture->directory);
    scratch_remove(fixture->root);
    free(fixture);
    return 0;
}

/* NULL: it has none. */
static void be_host(const struct fixture *fixture, const char *id, const char *mac)
{
    host_root_remove(fixture->root, "etc");
    host_root_remove(fixture->root, "sys");
    if (id != NULL)
        host_root_write(fixture->root, "etc/machine-id", id);
    if (mac != NULL)
        host_root_add(fixture->root, &(struct host_root_interface){ .name = "eth0", .mac = mac, .physical = true });
}

static void record(const struct fixture *fixture)
{
    assert_int_equal(host_accept(&fixture->paths, NULL, NULL), 0);
}

static struct host_check check(const struct fixture *fixture)
{
    struct host_check result;
    struct error error = { 0 };
    assert_int_equal(host_check(&fixture->paths, &result, &error), 0);
    return result;
}

static void assert_verdict(const struct fixture *fixture, enum host_verdict expected)
{
    assert_int_equal(check(fixture).verdict, expected);
}

static void no_file_is_the_first_start(void **state)
{
    be_host(*state, ID_A, MAC_A);
    const struct host_check found = check(*state);
    assert_int_equal(found.verdict, HOST_FIRST_START);
    assert_string_equal(found.current.id, ID_A);
    assert_string_equal(found.current.mac, MAC_A);
}

static void the_same_id_with_its_address_present_is_a_match(void **state)
{
    be_host(*state, ID_A, MAC_B);
    record(*state);
    assert_verdict(*state, HOST_MATCH);
    /* frozen: another one is first now, and it is still there */
    const struct fixture *fixture = *state;
    host_root_add(fixture->root, &(struct host_root_interface){ .name = "aaa0", .mac = MAC_A, .physical = true });
    const struct host_check found = check(fixture);
    assert_int_equal(found.verdict, HOST_MATCH);
    assert_string_equal(found.current.mac, MAC_B);
}

static void the_same_id_with_its_address_gone_is_a_match_to_be_recorded_anew(void **state)
{
    be_host(*state, ID_A, MAC_A);
    record(*state);
    be_host(*state, ID_A, MAC_B);
    const struct host_check found = check(*state);
    assert_int_equal(found.verdict, HOST_MAC_GONE);
    assert_string_equal(found.current.mac, MAC_B);
}

static void the_same_id_without_any_address_any_more_is_a_match_too(void **state)
{
    be_host(*state, ID_A, MAC_A);
    record(*state);
    be_host(*state, ID_A, NULL);
    assert_verdict(*state, HOST_MAC_GONE);
    record(*state);
    be_host(*state, ID_A, MAC_B); /* nothing was recorded that could be gone */
    assert_verdict(*state, HOST_MATCH);
}

static void another_id_is_another_host_whatever_its_addresses_are(void **state)
{
    be_host(*state, ID_A, MAC_A);
    record(*state);
    be_host(*state, ID_B, MAC_A);
    const struct host_check found = check(*state);
    assert_int_equal(found.verdict, HOST_MISMATCH);
    assert_string_equal(found.stored.id, ID_A);
    assert_string_equal(found.current.id, ID_B);
}

static void an_id_on_one_side_only_is_another_id(void **state)
{
    be_host(*state, ID_A, MAC_A);
    record(*state);
    be_host(*state, NULL, MAC_A);
    assert_verdict(*state, HOST_MISMATCH);
    be_host(*state, NULL, NULL);
    assert_verdict(*state, HOST_MISMATCH);
    be_host(*state, NULL, MAC_A);
    record(*state);
    be_host(*state, ID_A, MAC_A);
    assert_verdict(*state, HOST_MISMATCH);
}

static void without_ids_the_addresses_are_compared(void **state)
{
    be_host(*state, NULL, MAC_A);
    record(*state);
    assert_verdict(*state, HOST_MATCH);
    be_host(*state, NULL, MAC_B);
    assert_verdict(*state, HOST_MISMATCH);
    const struct fixture *fixture = *state;
    host_root_add(fixture->root, &(struct host_root_interface){ .name = "eth1", .mac = MAC_A, .physical = true });
    assert_verdict(*state, HOST_MATCH);
}

static void where_nothing_can_be_read_a_random_id_is_recorded_and_nothing_is_detected(void **state)
{
    be_host(*state, NULL, NULL);
    const struct host_check first = check(*state), second = check(*state);
    assert_int_equal(first.verdict, HOST_FIRST_START);
    assert_true(host_record_is_random(&first.current));
    assert_string_not_equal(first.current.id, second.current.id);
    record(*state);
    assert_verdict(*state, HOST_UNDETECTABLE);
    be_host(*state, ID_A, MAC_A);
    assert_verdict(*state, HOST_NOW_READABLE);
}

static void what_may_not_be_read_is_no_other_host(void **state)
{
    const struct fixture *fixture = *state;
    struct host_check result;
    struct error error = { 0 };
    be_host(fixture, ID_A, MAC_A);
    record(fixture);
    char *path = memory_printf("%s/etc/machine-id", fixture->root);
    assert_int_equal(chmod(path, 0), 0);
    if (geteuid() != 0) /* root reads it all the same */
        assert_int_equal(host_check(&fixture->paths, &result, &error), -ERROR_DENIED);
    free(path);
}

/* ---- the file ----------------------------------------------------------------------------------------------------------------- */

static void the_file_has_the_form_of_the_specification(void **state)
{
    struct fixture *fixture = *state;
    struct buffer text;
    struct stat status;
    char hex[SHA256_HEX_SIZE], *expected;
    static const char HASHED[] = "v2\0" ID_A "\0" MAC_A;
    be_host(fixture, ID_A, MAC_A);
    record(fixture);
    sha256_hex(HASHED, sizeof(HASHED) - 1, hex);
    expected = memory_printf(
        "{\"schema_version\":2,\"fingerprint\":\"%s\",\"host_id\":\"" ID_A "\",\"stable_mac\":\"" MAC_A "\",\"written_at\":\"2", hex);
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_int_equal(file_read(fixture->paths.host_fingerprint, &text, NULL), 0);
    assert_true(string_has_prefix(text.data, expected));
    assert_int_equal(stat(fixture->paths.host_fingerprint, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    buffer_release(&text);
    free(expected);
}

static void write_file(const struct fixture *fixture, const char *text)
{
    assert_int_equal(file_write_atomic(fixture->paths.host_fingerprint, 0600, text, strlen(text), NULL), 0);
}

static void assert_refused(const struct fixture *fixture, const char *text, enum error_code code)
{
    struct host_check result;
    struct error error = { 0 };
    struct buffer left;
    write_file(fixture, text);
    assert_int_equal(host_check(&fixture->paths, &result, &error), -(int)code);
    assert_non_null(strstr(error.message, "accept-host"));
    buffer_init(&left, BUFFER_UNLIMITED);
    assert_int_equal(file_read(fixture->paths.host_fingerprint, &left, NULL), 0);
    assert_string_equal(left.data, text);
    buffer_release(&left);
}

static void a_malformed_file_refuses_and_is_left_as_it_is(void **state)
{
    static const char *const MALFORMED[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"schema_version\":2}",
        "{\"schema_version\":\"2\",\"fingerprint\":\"x\",\"host_id\":\"a\",\"stable_mac\":\"\"}",
        "{\"schema_version\":1,\"fingerprint\":\"x\",\"host_id\":\"a\",\"stable_mac\":\"\"}",
        "{\"schema_version\":2,\"fingerprint\":\"x\",\"host_id\":\"a\",\"stable_mac\":\"\"}", /* not the fingerprint of its fields */
        "{\"schema_version\":2,\"fingerprint\":\"x\",\"host_id\":\"\",\"stable_mac\":\"\"}",
        "{\"schema_version\":2,\"fingerprint\":\"x\",\"host_id\":\"a\",\"stable_mac\":\"3c:22:fb:00:00\"}",
        "{\"schema_version\":2,\"fingerprint\":\"x\",\"host_id\":\"a b\",\"stable_mac\":\"\"}",
        "{\"schema_version\":2,\"fingerprint\":\"x\",\"host_id\":7,\"stable_mac\":\"\"}",
    };
    be_host(*state, ID_A, MAC_A);
    for (size_t i = 0; i < ARRAY_LENGTH(MALFORMED); i++)
        assert_refused(*state, MALFORMED[i], ERROR_CORRUPT);
}

static void a_file_that_is_far_too_large_is_malformed(void **state)
{
    char *text = memory_printf("{\"schema_version\":2,\"x\":\"%*s\"}", 20000, "");
    be_host(*state, ID_A, MAC_A);
    assert_refused(*state, text, ERROR_CORRUPT);
    free(text);
}

static void a_newer_schema_refuses_and_is_left_as_it_is(void **state)
{
    be_host(*state, ID_A, MAC_A);
    assert_refused(*state, "{\"schema_version\":3}", ERROR_NEWER);
}

static void accepting_keeps_a_file_that_cannot_be_understood_beside_the_new_one(void **state)
{
    struct fixture *fixture = *state;
    struct host_check before;
    char *pattern = memory_printf("%s.replaced-*", fixture->paths.host_fingerprint);
    glob_t found;
    be_host(fixture, ID_A, MAC_A);
    write_file(fixture, "{\"schema_version\":3}");
    assert_int_equal(host_accept(&fixture->paths, &before, NULL), 0);
    assert_int_equal(before.verdict, HOST_FIRST_START);
    assert_verdict(fixture, HOST_MATCH);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, 1);
    globfree(&found);
    free(pattern);
}

static void accepting_makes_this_host_the_right_one(void **state)
{
    struct host_check result;
    be_host(*state, ID_A, MAC_A);
    record(*state);
    be_host(*state, ID_B, MAC_B);
    assert_int_equal(host_accept(&((struct fixture *)*state)->paths, &result, NULL), 0);
    assert_int_equal(result.verdict, HOST_MISMATCH);
    assert_string_equal(result.stored.id, ID_A);
    assert_string_equal(result.current.id, ID_B);
    assert_verdict(*state, HOST_MATCH);
    be_host(*state, ID_A, MAC_A);
    assert_verdict(*state, HOST_MISMATCH);
}

static void accepting_the_host_that_is_recorded_keeps_its_frozen_address(void **state)
{
    const struct fixture *fixture = *state;
    be_host(fixture, ID_A, MAC_B);
    record(fixture);
    host_root_add(fixture->root, &(struct host_root_interface){ .name = "aaa0", .mac = MAC_A, .physical = true });
    record(fixture);
    assert_string_equal(check(fixture).stored.mac, MAC_B);
}

/* ---- words ---------------------------------------------------------------------------------------------------------------------- */

static void hosts_are_described_in_short(void **state)
{
    (void)state;
    char text[HOST_SHORT_SIZE];
    host_record_describe(&(struct host_record){ .id = ID_A, .mac = MAC_A }, text);
    assert_string_equal(text, "id aaaaaaaa…, address " MAC_A);
    host_record_describe(&(struct host_record){ .id = ID_A }, text);
    assert_string_equal(text, "id aaaaaaaa…");
    host_record_describe(&(struct host_record){ .mac = MAC_A }, text);
    assert_string_equal(text, "address " MAC_A);
    host_record_describe(&(struct host_record){ .id = "" }, text);
    assert_string_equal(text, "unknown");
    host_record_describe(&(struct host_record){ .id = "random-0123456789" }, text);
    assert_string_equal(text, "id 01234567…");
}

static void what_the_broker_learns_differs_by_mesh(void **state)
{
    (void)state;
    char hex[SHA256_HEX_SIZE], expected[SHA256_HEX_SIZE], other[SHA256_HEX_SIZE];
    static const char HASHED[] = "claudemesh-host-v1\0mesh-1\0abc";
    sha256_hex(HASHED, sizeof(HASHED) - 1, expected);
    host_hello_fingerprint("mesh-1", "abc", hex);
    assert_string_equal(hex, expected);
    host_hello_fingerprint("mesh-2", "abc", other);
    assert_string_not_equal(hex, other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_file_is_the_first_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_same_id_with_its_address_present_is_a_match, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_same_id_with_its_address_gone_is_a_match_to_be_recorded_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_same_id_without_any_address_any_more_is_a_match_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_id_is_another_host_whatever_its_addresses_are, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_id_on_one_side_only_is_another_id, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_ids_the_addresses_are_compared, set_up, tear_down),
        cmocka_unit_test_setup_teardown(where_nothing_can_be_read_a_random_id_is_recorded_and_nothing_is_detected, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_may_not_be_read_is_no_other_host, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_file_has_the_form_of_the_specification, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_malformed_file_refuses_and_is_left_as_it_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_is_far_too_large_is_malformed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_newer_schema_refuses_and_is_left_as_it_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(accepting_keeps_a_file_that_cannot_be_understood_beside_the_new_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(accepting_makes_this_host_the_right_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(accepting_the_host_that_is_recorded_keeps_its_frozen_address, set_up, tear_down),
        cmocka_unit_test(hosts_are_described_in_short),
        cmocka_unit_test(what_the_broker_learns_differs_by_mesh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
