/* One state of the directory takes the other's place. */
#include "support.h"

#include <fcntl.h>

#include "backup/backup.h"
#include "backup/swap.h"
#include "identity/identity.h"

static struct config_paths paths_in(const struct place *place)
{
    struct config_paths paths;
    char *root = path_join(place->directory, "root");
    assert_int_equal(config_paths_init(root, &paths, NULL, NULL), 0);
    free(root);
    return paths;
}

static void put_state(const struct config_paths *paths, const char *text)
{
    assert_int_equal(directory_ensure(paths->daemon, 0700, NULL), 0);
    write_bytes(paths->config_json, text, strlen(text));
    write_bytes(paths->outbox_db, text, strlen(text));
}

static void assert_state(const struct config_paths *paths, const char *text)
{
    const char *const files[] = { paths->config_json, paths->outbox_db };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        struct buffer bytes = bytes_of(files[i]);
        assert_string_equal(bytes.data, text);
        buffer_release(&bytes);
    }
}

static void the_new_state_is_there_and_the_former_is_kept_or_gone(void **state)
{
    struct place *place = *state;
    struct config_paths paths = paths_in(place);
    struct staging staging = { .paths = NULL };
    struct error error = { .message = "" };
    char *aside = NULL;
    for (int keep = 0; keep < 2; keep++) {
        put_state(&paths, "old");
        assert_int_equal(staging_open(&paths, &staging, &error), 0);
        put_state(&staging.made, "new");
        assert_state(&paths, "old");
        assert_int_equal(staging_install(&staging, NULL, keep == 1, &aside, &error), 0);
        assert_state(&paths, "new");
        assert_int_equal(aside != NULL, keep == 1);
    }
    struct config_paths former;
    assert_int_equal(config_paths_init(aside, &former, NULL, NULL), 0);
    assert_state(&former, "old");
    config_paths_release(&former);
    free(aside);
    config_paths_release(&paths);
}

static void giving_up_leaves_what_was_there_and_no_directory_where_none_was(void **state)
{
    struct place *place = *state;
    struct config_paths paths = paths_in(place);
    struct staging staging = { .paths = NULL };
    struct error error = { .message = "" };
    assert_int_equal(staging_open(&paths, &staging, &error), 0);
    put_state(&staging.made, "new");
    staging_abandon(&staging);
    assert_false(file_exists(paths.root));
    put_state(&paths, "old");
    assert_int_equal(staging_open(&paths, &staging, &error), 0);
    staging_abandon(&staging);
    staging_abandon(&staging);
    assert_state(&paths, "old");
    config_paths_release(&paths);
}

static void one_at_a_time_and_none_beside_a_daemon(void **state)
{
    struct place *place = *state;
    struct config_paths paths = paths_in(place);
    struct staging first = { .paths = NULL }, second = { .paths = NULL };
    struct error error = { .message = "" };
    int lock = -1;
    int64_t holder = 0;
    put_state(&paths, "old");
    assert_int_equal(staging_open(&paths, &first, &error), 0);
    assert_int_equal(staging_open(&paths, &second, &error), -ERROR_BUSY);
    put_state(&first.made, "new");
    assert_int_equal(identity_lock(&paths, &lock, &holder, &error), 0);
    assert_int_equal(staging_install(&first, NULL, true, NULL, &error), -ERROR_BUSY);
    assert_state(&paths, "old");
    identity_unlock(lock);
    assert_int_equal(staging_open(&paths, &second, &error), 0);
    staging_abandon(&second);
    config_paths_release(&paths);
}

static int refuse(const struct config_paths *paths, struct error *error)
{
    (void)paths;
    return error_set(error, ERROR_CONFLICT, "no");
}

static void a_last_look_that_refuses_changes_nothing(void **state)
{
    struct place *place = *state;
    struct config_paths paths = paths_in(place);
    struct staging staging = { .paths = NULL };
    struct error error = { .message = "" };
    assert_int_equal(staging_open(&paths, &staging, &error), 0);
    put_state(&staging.made, "new");
    assert_int_equal(staging_install(&staging, refuse, false, NULL, &error), -ERROR_CONFLICT);
    assert_false(file_exists(paths.root));
    config_paths_release(&paths);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_new_state_is_there_and_the_former_is_kept_or_gone, place_set_up, place_tear_down),
        cmocka_unit_test_setup_teardown(giving_up_leaves_what_was_there_and_no_directory_where_none_was, place_set_up, place_tear_down),
        cmocka_unit_test_setup_teardown(one_at_a_time_and_none_beside_a_daemon, place_set_up, place_tear_down),
        cmocka_unit_test_setup_teardown(a_last_look_that_refuses_changes_nothing, place_set_up, place_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
