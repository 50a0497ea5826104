/* The mark that a mesh's member has new keys: kept until it was acted on, and of no weight when the keys are the old ones. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "identity/reminted.h"
#include "scratch.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

#define MESH "0f0f0f0f-0000-4000-8000-000000000000"

struct fixture {
    char *directory;
    struct config_paths paths;
};

static int set_up(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    fixture->directory = scratch_make();
    if (config_paths_init(fixture->directory, &fixture->paths, NULL, NULL) != 0 || config_paths_make(&fixture->paths, NULL) != 0)
        return -1;
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    config_paths_release(&fixture->paths);
    scratch_remove(fixture->directory);
    free(fixture);
    return 0;
}

static bool is_pending(const struct fixture *fixture, const char *mesh, const char *pubkey)
{
    bool pending = true;
    assert_int_equal(reminted_look(&fixture->paths, mesh, pubkey, &pending, NULL), 0);
    return pending;
}

static void without_a_mark_nothing_is_pending(void **state)
{
    assert_false(is_pending(*state, MESH, "new"));
    assert_false(is_pending(*state, "../../etc", "new"));
}

static void a_mark_is_pending_until_it_is_cleared(void **state)
{
    const struct fixture *fixture = *state;
    assert_int_equal(reminted_mark(&fixture->paths, MESH, "old", NULL), 0);
    assert_true(is_pending(fixture, MESH, "new"));
    assert_true(is_pending(fixture, MESH, "new"));
    assert_false(is_pending(fixture, "another", "new"));
    assert_int_equal(reminted_clear(&fixture->paths, MESH, NULL), 0);
    assert_int_equal(reminted_clear(&fixture->paths, MESH, NULL), 0);
    assert_false(is_pending(fixture, MESH, "new"));
}

static void a_mark_whose_key_never_changed_is_removed(void **state)
{
    const struct fixture *fixture = *state;
    assert_int_equal(reminted_mark(&fixture->paths, MESH, "old", NULL), 0);
    assert_false(is_pending(fixture, MESH, "old"));
    assert_false(is_pending(fixture, MESH, "a key that it was rotated to later"));
}

static void an_id_that_is_no_files_name_is_refused(void **state)
{
    const struct fixture *fixture = *state;
    assert_int_equal(reminted_mark(&fixture->paths, "../x", "old", NULL), -ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_a_mark_nothing_is_pending, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mark_is_pending_until_it_is_cleared, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mark_whose_key_never_changed_is_removed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_id_that_is_no_files_name_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
