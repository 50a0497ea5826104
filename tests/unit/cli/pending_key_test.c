/* The key that a broker may know already: it is the same until its place is known, and no passing refusal takes it away. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "../scratch.h"
#include "cli/pending_key.h"
#include "crypto/crypto.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

static int set_up(void **state)
{
    struct config_paths *paths = memory_zalloc(sizeof *paths);
    char *directory = scratch_make();
    bool ignored;
    struct error error;
    if (crypto_start(&error) != 0 || config_paths_init(directory, paths, &ignored, &error) != 0) {
        return -1;
    }
    free(directory);
    *state = paths;
    return 0;
}

static int tear_down(void **state)
{
    struct config_paths *paths = *state;
    scratch_remove(memory_strdup(paths->root));
    config_paths_release(paths);
    free(paths);
    return 0;
}

static char *make(const struct config_paths *paths, struct pending_key *pending)
{
    struct keypair *keys = NULL;
    assert_int_equal(pending_key_make(paths, pending, &keys, NULL), 0);
    char *pubkey = memory_strdup(keypair_public_hex(keys));
    keypair_free(keys);
    return pubkey;
}

static bool is_kept(const struct config_paths *paths, const char *name)
{
    char *path = path_join(paths->root, name);
    bool kept = file_exists(path);
    free(path);
    return kept;
}

static void the_same_key_comes_back_until_it_is_forgotten(void **state)
{
    struct pending_key first = { .kind = "join", .id = "k1" }, again = { .kind = "join", .id = "k1" },
                       other = { .kind = "join", .id = "k2" };
    char *one = make(*state, &first), *two = make(*state, &again), *three = make(*state, &other);
    assert_true(first.fresh);
    assert_false(again.fresh);
    assert_string_equal(one, two);
    assert_string_not_equal(one, three);
    pending_key_forget(*state, &first);
    assert_false(is_kept(*state, "join-k1.key"));
    char *four = make(*state, &first);
    assert_true(first.fresh);
    assert_string_not_equal(one, four);
    free(one);
    free(two);
    free(three);
    free(four);
}

static void a_key_of_this_try_is_forgotten_when_it_is_refused_and_kept_when_the_broker_only_failed(void **state)
{
    struct pending_key pending = { .kind = "mesh", .id = "a" };
    free(make(*state, &pending));
    pending_key_refused(*state, &pending, 503, "store_unavailable");
    assert_true(is_kept(*state, "mesh-a.key"));
    pending_key_refused(*state, &pending, 401, "unauthorized");
    assert_false(is_kept(*state, "mesh-a.key"));
}

static void a_key_of_an_earlier_try_survives_what_does_not_prove_that_the_broker_lacks_it(void **state)
{
    static const struct {
        int status;
        const char *code;
    } UNCLEAR[] = { { 429, "rate_limited" }, { 410, "expired" },      { 404, "" },
                    { 404, "unknown_mesh" }, { 401, "unauthorized" }, { 400, "malformed" } };
    static const char *const PROOFS[] = { "exhausted", "revoked", "slug_taken", "mesh_exists" };
    for (size_t i = 0; i < ARRAY_LENGTH(PROOFS); i++) {
        struct pending_key pending = { .kind = "join", .id = "k" };
        free(make(*state, &pending));
        free(make(*state, &pending));
        for (size_t unclear = 0; unclear < ARRAY_LENGTH(UNCLEAR); unclear++) {
            pending_key_refused(*state, &pending, UNCLEAR[unclear].status, UNCLEAR[unclear].code);
            assert_true(is_kept(*state, "join-k.key"));
        }
        pending_key_refused(*state, &pending, 410, PROOFS[i]);
        assert_false(is_kept(*state, "join-k.key"));
    }
}

static void a_key_that_cannot_be_read_now_is_not_replaced(void **state)
{
    const struct config_paths *paths = *state;
    struct pending_key pending = { .kind = "join", .id = "k" };
    struct keypair *keys = NULL;
    struct error error;
    char *path = path_join(paths->root, "join-k.key");
    assert_int_equal(mkdir(path, 0700), 0); /* reading a directory fails, and not for want of it */
    assert_int_not_equal(pending_key_make(paths, &pending, &keys, &error), 0);
    assert_int_equal(error.code, ERROR_SYSTEM);
    assert_null(keys);
    assert_false(pending.fresh);
    assert_int_equal(rmdir(path), 0);
    free(path);
}

static void an_id_that_is_no_file_name_is_refused(void **state)
{
    struct pending_key pending = { .kind = "join", .id = "../k" };
    struct keypair *keys = NULL;
    struct error error;
    assert_int_not_equal(pending_key_make(*state, &pending, &keys, &error), 0);
    assert_int_equal(error.code, ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_same_key_comes_back_until_it_is_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_key_of_this_try_is_forgotten_when_it_is_refused_and_kept_when_the_broker_only_failed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_key_of_an_earlier_try_survives_what_does_not_prove_that_the_broker_lacks_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_key_that_cannot_be_read_now_is_not_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_id_that_is_no_file_name_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
