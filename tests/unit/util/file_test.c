/* Files: atomic writes that leave the old file on failure, private files, directories, locks. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <sys/resource.h>
#include <signal.h>
#include <sys/wait.h>

#include "scratch.h"
#include "util/file.h"
#include "util/memory.h"

static int set_up(void **state)
{
    *state = scratch_make();
    return 0;
}

static int tear_down(void **state)
{
    scratch_remove(*state);
    return 0;
}

static size_t count_entries(const char *directory)
{
    DIR *entries = opendir(directory);
    assert_non_null(entries);
    size_t count = 0;
    for (struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        count += entry->d_name[0] == '.' ? 0 : 1;
    }
    closedir(entries);
    return count;
}

static void assert_content(const char *path, const char *expected)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(path, &bytes, NULL), 0);
    assert_string_equal(bytes.data, expected);
    buffer_release(&bytes);
}

static mode_t mode_of(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return status.st_mode & 07777;
}

static void an_atomic_write_replaces_the_file_and_leaves_nothing_else(void **state)
{
    char *path = path_join(*state, "file");
    mode_t before = umask(022);
    assert_int_equal(file_write_atomic(path, 0600, "one", 3, NULL), 0);
    assert_content(path, "one");
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(file_write_atomic(path, 0644, "second", 6, NULL), 0);
    assert_content(path, "second");
    assert_int_equal(mode_of(path), 0644);
    assert_int_equal(file_write_atomic(path, 0600, "", 0, NULL), 0);
    assert_content(path, "");
    assert_int_equal(count_entries(*state), 1);
    umask(before);
    free(path);
}

static void a_failed_write_leaves_the_old_file_and_no_temporary_one(void **state)
{
    char *path = path_join(*state, "file");
    char *inside = path_join(path, "below");
    struct error error;
    assert_int_equal(file_write_atomic(path, 0600, "old", 3, NULL), 0);
    assert_int_not_equal(file_write_atomic(inside, 0600, "new", 3, &error), 0);
    assert_int_equal(error.sys_errno, ENOTDIR);
    /* A file of more than 8 bytes cannot be written: as a full disk would do. */
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    struct rlimit small = { .rlim_cur = 8, .rlim_max = limit.rlim_max };
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int result = file_write_atomic(path, 0600, "longer than eight", 17, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(result, -(int)ERROR_SYSTEM);
    assert_int_equal(error.sys_errno, EFBIG);
    assert_content(path, "old");
    assert_int_equal(count_entries(*state), 1);
    /* Renaming over a directory fails after the temporary file was whole. */
    char *directory = path_join(*state, "directory");
    assert_int_equal(mkdir(directory, 0700), 0);
    assert_int_not_equal(file_write_atomic(directory, 0600, "x", 1, &error), 0);
    assert_int_equal(count_entries(*state), 2);
    free(directory);
    free(inside);
    free(path);
}

static void touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void a_temporary_file_whose_writer_died_is_removed_by_the_next_and_one_that_is_being_written_stays(void **state)
{
    char *path = path_join(*state, "file");
    char *dead = memory_printf("%s.tmp-0123456789abcdef", path);
    char *living = memory_printf("%s.tmp-fedcba9876543210", path);
    char *others[] = { memory_printf("%s.tmp-0123456789abcde", path), memory_printf("%s.tmp-0123456789abcdeg", path),
                       memory_printf("%s2.tmp-0123456789abcdef", path) };
    touch(dead);
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        touch(others[i]);
    }
    int fd = -1;
    assert_int_equal(file_lock(living, 0600, &fd, NULL), 0);
    assert_int_equal(file_write_atomic(path, 0600, "new", 3, NULL), 0);
    assert_content(path, "new");
    assert_false(file_exists(dead));
    assert_true(file_exists(living));
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        assert_true(file_exists(others[i]));
        free(others[i]);
    }
    close(fd);
    assert_int_equal(file_write_atomic(path, 0600, "newer", 5, NULL), 0);
    assert_false(file_exists(living));
    free(living);
    free(dead);
    free(path);
}

/* Each sweeps before it writes: none may take the other's file away between its making and its renaming. */
static void many_writers_of_one_file_do_not_disturb_each_other(void **state)
{
    enum { WRITERS = 4, ROUNDS = 100 };
    char *path = path_join(*state, "file");
    pid_t writers[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = fork();
        if (writers[i] == 0) {
            int failed = 0;
            for (int round = 0; round < ROUNDS; round++) {
                failed += file_write_atomic(path, 0600, "whole", 5, NULL) != 0 ? 1 : 0;
            }
            _exit(failed == 0 ? 0 : 1);
        }
        assert_true(writers[i] > 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        int status = -1;
        assert_int_equal(waitpid(writers[i], &status, 0), writers[i]);
        assert_int_equal(status, 0);
    }
    assert_content(path, "whole");
    assert_int_equal(count_entries(*state), 1);
    free(path);
}

static void reading_stops_at_the_maximum(void **state)
{
    char *path = path_join(*state, "file");
    struct buffer bytes;
    struct error error;
    assert_int_equal(file_write_atomic(path, 0600, "12345", 5, NULL), 0);
    buffer_init(&bytes, 5);
    assert_int_equal(file_read(path, &bytes, &error), 0);
    assert_string_equal(bytes.data, "12345");
    buffer_release(&bytes);
    buffer_init(&bytes, 4);
    assert_int_equal(file_read(path, &bytes, &error), -(int)ERROR_TOO_LARGE);
    buffer_release(&bytes);
    buffer_init(&bytes, 4);
    char *absent = path_join(*state, "absent");
    assert_int_equal(file_read(absent, &bytes, &error), -(int)ERROR_NOT_FOUND);
    assert_int_equal(file_read(*state, &bytes, &error), -(int)ERROR_SYSTEM); /* a directory */
    buffer_release(&bytes);
    free(absent);
    free(path);
}

static void a_large_file_is_read_whole(void **state)
{
    enum { SIZE = 300000 };
    char *path = path_join(*state, "file");
    char *content = memory_alloc(SIZE);
    struct buffer bytes;
    for (size_t index = 0; index < SIZE; index++) {
        content[index] = (char)(index * 7);
    }
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_write_atomic(path, 0600, content, SIZE, NULL), 0);
    assert_int_equal(file_read(path, &bytes, NULL), 0);
    assert_int_equal(bytes.length, SIZE);
    assert_memory_equal(bytes.data, content, SIZE);
    buffer_release(&bytes);
    free(content);
    free(path);
}

static void directories_are_made_with_their_mode_and_left_as_they_are(void **state)
{
    char *deep = path_join(*state, "a/b/c");
    char *middle = path_join(*state, "a/b");
    char *with_slash = path_join(*state, "d/");
    char *file = path_join(*state, "file");
    char *below_file = path_join(*state, "file/x");
    assert_int_equal(directory_ensure(deep, 0700, NULL), 0);
    assert_int_equal(mode_of(deep), 0700);
    assert_int_equal(mode_of(middle), 0700);
    assert_int_equal(chmod(deep, 0755), 0);
    assert_int_equal(directory_ensure(deep, 0700, NULL), 0);
    assert_int_equal(mode_of(deep), 0755);
    assert_int_equal(directory_ensure(with_slash, 0700, NULL), 0);
    assert_true(file_exists(with_slash));
    assert_int_equal(file_write_atomic(file, 0600, "", 0, NULL), 0);
    assert_int_not_equal(directory_ensure(file, 0700, NULL), 0);
    assert_int_not_equal(directory_ensure(below_file, 0700, NULL), 0);
    assert_int_not_equal(directory_ensure("", 0700, NULL), 0);
    assert_int_equal(directory_ensure("/", 0700, NULL), 0);
    assert_int_equal(directory_fsync(deep, NULL), 0);
    assert_int_not_equal(directory_fsync(file, NULL), 0);
    free(below_file);
    free(file);
    free(with_slash);
    free(middle);
    free(deep);
}

static void a_secret_that_others_can_read_is_denied_with_the_remedy(void **state)
{
    char *path = path_join(*state, "secret");
    struct error error;
    assert_int_equal(file_check_private(path, &error), 0); /* absent */
    assert_int_equal(file_write_atomic(path, 0600, "x", 1, NULL), 0);
    assert_int_equal(file_check_private(path, &error), 0);
    static const mode_t BAD[] = { 0640, 0620, 0604, 0602, 0644, 0666 };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        assert_int_equal(chmod(path, BAD[index]), 0);
        assert_int_equal(file_check_private(path, &error), -(int)ERROR_DENIED);
        assert_non_null(strstr(error.message, "chmod 600"));
    }
    free(path);
}

static void a_lock_keeps_others_out_until_it_is_closed(void **state)
{
    char *path = path_join(*state, "lock");
    struct error error;
    int fd = -1;
    int second = -1;
    assert_false(file_is_locked(path));
    assert_int_equal(file_lock(path, 0600, &fd, NULL), 0);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_true(file_is_locked(path));
    assert_int_equal(file_lock(path, 0600, &second, &error), -(int)ERROR_BUSY);
    assert_int_equal(second, -1);
    close(fd);
    assert_false(file_is_locked(path));
    assert_int_equal(file_lock(path, 0600, &fd, NULL), 0);
    close(fd);
    free(path);
}

struct lock_attempt {
    const char *path;
    int fd, result;
};

static void *attempt_lock(void *argument)
{
    struct lock_attempt *attempt = argument;
    attempt->result = file_lock(attempt->path, 0600, &attempt->fd, NULL);
    return NULL;
}

/* Whoever waits for a lock must not end with that of a file which was put away meanwhile: two would own the path. */
static void what_is_locked_is_what_stands_at_the_path(void **state)
{
    char *path = path_join(*state, "lock");
    char *next = path_join(*state, "next");
    for (int round = 0; round < 100; round++) {
        struct lock_attempt attempt = { .path = path, .fd = -1 };
        struct stat locked, there;
        pthread_t thread;
        int fd = -1;
        assert_int_equal(file_lock(path, 0600, &fd, NULL), 0);
        assert_int_equal(pthread_create(&thread, NULL, attempt_lock, &attempt), 0);
        const struct timespec pause = { .tv_nsec = 1500000 };
        (void)nanosleep(&pause, NULL);
        touch(next);
        assert_int_equal(rename(next, path), 0);
        close(fd);
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (attempt.result == 0) {
            assert_int_equal(fstat(attempt.fd, &locked), 0);
            assert_int_equal(stat(path, &there), 0);
            assert_true(locked.st_ino == there.st_ino);
            close(attempt.fd);
        }
    }
    free(path);
    free(next);
}

static void asking_whether_it_is_locked_does_not_keep_an_owner_out(void **state)
{
    char *path = path_join(*state, "lock");
    int fd = -1;
    assert_int_equal(file_lock(path, 0600, &fd, NULL), 0);
    close(fd);
    pid_t child = fork();
    if (child == 0) {
        for (int round = 0; round < 3000; round++) {
            (void)file_is_locked(path);
        }
        _exit(0);
    }
    assert_true(child > 0);
    for (int round = 0; round < 300; round++) {
        assert_int_equal(file_lock(path, 0600, &fd, NULL), 0);
        close(fd);
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    free(path);
}

static void a_file_written_in_pieces_appears_whole_or_not_at_all_and_takes_no_name_that_is_taken(void **state)
{
    const char *directory = *state;
    struct file_writer writer = { .fd = -1 };
    struct error error = { .message = "" };
    struct buffer bytes;
    char *path = path_join(directory, "pieces");
    file_writer_abandon(&writer);
    assert_int_equal(file_writer_open(&writer, path, 0600, &error), 0);
    assert_int_equal(file_writer_write(&writer, "one", 3, &error), 0);
    assert_false(file_exists(path));
    file_writer_abandon(&writer);
    assert_int_equal(count_entries(directory), 0);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(file_writer_open(&writer, path, 0600, &error), 0);
        assert_int_equal(file_writer_write(&writer, "one", 3, &error), 0);
        assert_int_equal(file_writer_write(&writer, "two", 3, &error), 0);
        assert_int_equal(file_writer_finish(&writer, false, &error), round == 0 ? 0 : -ERROR_CONFLICT);
        assert_int_equal(count_entries(directory), 1);
    }
    assert_int_equal(file_writer_open(&writer, path, 0600, &error), 0);
    assert_int_equal(file_writer_finish(&writer, true, &error), 0);
    buffer_init(&bytes, 10);
    assert_int_equal(file_read(path, &bytes, &error), 0);
    assert_int_equal(bytes.length, 0);
    buffer_release(&bytes);
    free(path);
}

static void a_tree_is_removed_and_what_links_in_it_lead_to_is_not(void **state)
{
    const char *directory = *state;
    struct error error = { .message = "" };
    bool there = true;
    char *tree = path_join(directory, "tree");
    char *deep = path_join(tree, "a/b/c");
    char *link = path_join(tree, "a/link");
    char *kept = path_join(directory, "kept");
    char *file = path_join(kept, "file");
    assert_int_equal(directory_ensure(deep, 0700, &error), 0);
    assert_int_equal(directory_ensure(kept, 0700, &error), 0);
    assert_int_equal(file_write_atomic(file, 0600, "x", 1, &error), 0);
    assert_int_equal(symlink(kept, link), 0);
    assert_int_equal(tree_remove(tree, &error), 0);
    assert_int_equal(file_look(tree, &there, &error), 0);
    assert_false(there);
    assert_true(file_exists(file));
    assert_int_equal(tree_remove(tree, &error), 0); /* absent */
    assert_int_equal(symlink(kept, tree), 0);
    assert_int_equal(tree_remove(tree, &error), 0);
    assert_true(file_exists(file));
    assert_int_equal(tree_remove(kept, &error), 0);
    assert_int_equal(symlink("nowhere", tree), 0);
    assert_int_equal(file_look(tree, &there, &error), 0);
    assert_true(there); /* a link counts as itself */
    free(tree);
    free(deep);
    free(link);
    free(kept);
    free(file);
}

static void paths_are_joined_with_one_slash(void **state)
{
    (void)state;
    char *path = path_join("/a", "b");
    assert_string_equal(path, "/a/b");
    free(path);
    path = path_join("/a/", "b");
    assert_string_equal(path, "/a/b");
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_atomic_write_replaces_the_file_and_leaves_nothing_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_write_leaves_the_old_file_and_no_temporary_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_temporary_file_whose_writer_died_is_removed_by_the_next_and_one_that_is_being_written_stays,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_writers_of_one_file_do_not_disturb_each_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reading_stops_at_the_maximum, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_large_file_is_read_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(directories_are_made_with_their_mode_and_left_as_they_are, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_secret_that_others_can_read_is_denied_with_the_remedy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lock_keeps_others_out_until_it_is_closed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_locked_is_what_stands_at_the_path, set_up, tear_down),
        cmocka_unit_test_setup_teardown(asking_whether_it_is_locked_does_not_keep_an_owner_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_written_in_pieces_appears_whole_or_not_at_all_and_takes_no_name_that_is_taken, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_tree_is_removed_and_what_links_in_it_lead_to_is_not, set_up, tear_down),
        cmocka_unit_test(paths_are_joined_with_one_slash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
