/* The removal of a run's directory: depth, modes and links of a hostile hook do not matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>

#include "hooks/internal.h"
#include "scratch.h"
#include "util/file.h"
#include "util/memory.h"

static char *make(const char *scratch)
{
    char *path = path_join(scratch, "run");
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

static void test_a_tree_deeper_than_any_path_is_removed(void **state)
{
    enum { DEPTH = 5000 };
    char *scratch = scratch_make(), *path = make(scratch);
    (void)state;
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int level = 0; level < DEPTH; level++) {
        assert_int_equal(mkdirat(directory, "a-name-of-some-length", 0700), 0);
        assert_int_equal(mkdirat(directory, "b", 0000), 0);
        int inner = openat(directory, "a-name-of-some-length", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int file = openat(inner, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0000);
        assert_true(inner >= 0 && file >= 0);
        (void)close(file);
        (void)close(directory);
        directory = inner;
    }
    (void)close(directory);
    assert_int_equal(hook_tree_remove(path), 0);
    assert_false(file_exists(path));
    free(path);
    scratch_remove(scratch);
}

static void test_links_are_removed_and_not_followed(void **state)
{
    char *scratch = scratch_make(), *path = make(scratch), *outside = path_join(scratch, "outside"), *inner = path_join(path, "d");
    char *kept = path_join(outside, "kept"), *link = path_join(path, "link"), *deep = path_join(inner, "link");
    struct error error;
    struct stat status;
    (void)state;
    assert_int_equal(mkdir(outside, 0500), 0);
    assert_int_equal(chmod(outside, 0700), 0);
    assert_int_equal(file_write_atomic(kept, 0400, "x", 1, &error), 0);
    assert_int_equal(chmod(outside, 0500), 0);
    assert_int_equal(mkdir(inner, 0700), 0);
    assert_int_equal(symlink(outside, link), 0);
    assert_int_equal(symlink(kept, deep), 0);
    assert_int_equal(chmod(inner, 0000), 0);
    assert_int_equal(chmod(path, 0000), 0);
    assert_int_equal(hook_tree_remove(path), 0);
    assert_false(file_exists(path));
    assert_int_equal(stat(outside, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0500);
    assert_int_equal(stat(kept, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0400);
    assert_int_equal(chmod(outside, 0700), 0);
    free(path);
    free(outside);
    free(inner);
    free(kept);
    free(link);
    free(deep);
    scratch_remove(scratch);
}

static void test_what_is_not_there_is_gone_and_a_link_in_its_place_is_not_entered(void **state)
{
    char *scratch = scratch_make(), *path = path_join(scratch, "run"), *outside = path_join(scratch, "outside"),
         *kept = path_join(outside, "kept");
    struct error error;
    (void)state;
    assert_int_equal(hook_tree_remove(path), 0);
    assert_int_equal(mkdir(outside, 0700), 0);
    assert_int_equal(file_write_atomic(kept, 0600, "x", 1, &error), 0);
    assert_int_equal(symlink(outside, path), 0);
    assert_int_equal(hook_tree_remove(path), -1);
    assert_true(file_exists(kept));
    free(path);
    free(outside);
    free(kept);
    scratch_remove(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_tree_deeper_than_any_path_is_removed),
        cmocka_unit_test(test_links_are_removed_and_not_followed),
        cmocka_unit_test(test_what_is_not_there_is_gone_and_a_link_in_its_place_is_not_entered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
