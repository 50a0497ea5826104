/* The log: lines, levels, rotation by size and age, and threads. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <utime.h>

#include "scratch.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

static int64_t fake_now;

static int64_t fake_wall_ms(void)
{
    return fake_now;
}

struct fixture {
    char *directory, *path;
};

static int set_up(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    fixture->directory = scratch_make();
    fixture->path = path_join(fixture->directory, "test.log");
    *state = fixture;
    fake_now = INT64_C(1795437296789);
    clock_set_for_test(fake_wall_ms);
    log_set_level(LOG_LEVEL_INFO);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    log_set_fd(STDERR_FILENO);
    clock_set_for_test(NULL);
    scratch_remove(fixture->directory);
    free(fixture->path);
    free(fixture);
    return 0;
}

static char *content_of(const char *path)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    if (file_read(path, &bytes, NULL) != 0) {
        buffer_release(&bytes);
        return NULL;
    }
    return buffer_take(&bytes, NULL);
}

static char *rotated(const struct fixture *fixture, int number)
{
    return memory_printf("%s.%d", fixture->path, number);
}

static void a_line_is_one_json_object_with_its_fields(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 14), 0);
    log_event(LOG_LEVEL_WARN, "link_lost", LOG_TEXT("mesh", "a\"b\n\xFF"), LOG_TEXT("reason", NULL), LOG_NUMBER("after_ms", INT64_MIN),
              LOG_SECURITY, LOG_BOOL("again", false), LOG_END);
    char *content = content_of(fixture->path);
    assert_string_equal(content, "{\"ts\":\"2026-11-23T12:34:56.789Z\",\"level\":\"warn\",\"msg\":\"link_lost\","
                                 "\"mesh\":\"a\\\"b\\n\xEF\xBF\xBD\",\"reason\":null,\"after_ms\":-9223372036854775808,"
                                 "\"security\":true,\"again\":false}\n");
    free(content);
    struct stat status;
    assert_int_equal(stat(fixture->path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
}

static void lines_below_the_level_are_not_written(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 14), 0);
    log_event(LOG_LEVEL_DEBUG, "no", LOG_END);
    log_set_level(LOG_LEVEL_ERROR);
    log_event(LOG_LEVEL_WARN, "no", LOG_END);
    log_event(LOG_LEVEL_ERROR, "yes", LOG_END);
    log_set_level(LOG_LEVEL_DEBUG);
    log_event(LOG_LEVEL_DEBUG, "too", LOG_END);
    char *content = content_of(fixture->path);
    assert_null(strstr(content, "\"no\""));
    assert_non_null(strstr(content, "\"yes\""));
    assert_non_null(strstr(content, "\"too\""));
    free(content);
    enum log_level level;
    assert_int_equal(log_level_parse("warn", &level), 0);
    assert_int_equal(level, LOG_LEVEL_WARN);
    assert_int_equal(log_level_parse("WARN", &level), -1);
    assert_int_equal(log_level_parse(NULL, &level), -1);
}

static void a_line_that_is_too_long_is_replaced_by_one_that_says_so(void **state)
{
    struct fixture *fixture = *state;
    char *text = memory_alloc(100001);
    memset(text, 'x', 100000);
    text[100000] = '\0';
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 14), 0);
    log_event(LOG_LEVEL_INFO, "long", LOG_TEXT("text", text), LOG_NUMBER("n", 1), LOG_END);
    char *content = content_of(fixture->path);
    assert_string_equal(content, "{\"ts\":\"2026-11-23T12:34:56.789Z\",\"level\":\"info\",\"msg\":\"long\",\"truncated\":true}\n");
    free(content);
    free(text);
}

static void the_file_rotates_while_it_is_written_and_five_old_ones_stay(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(log_open_file(fixture->path, 300, 14), 0);
    for (int line = 0; line < 60; line++) {
        log_event(LOG_LEVEL_INFO, "line", LOG_NUMBER("n", line), LOG_END);
    }
    int expected = 59;
    for (int number = 0; number <= 5; number++) {
        char *path = number == 0 ? memory_strdup(fixture->path) : rotated(fixture, number);
        char *content = content_of(path);
        assert_non_null(content);
        assert_true(strlen(content) <= 300);
        char *wanted = memory_printf("\"n\":%d}", expected);
        assert_non_null(strstr(content, wanted)); /* each file ends where the next one begins */
        for (const char *byte = content; *byte != '\0'; byte++) {
            expected -= *byte == '\n' ? 1 : 0;
        }
        free(wanted);
        free(content);
        free(path);
    }
    char *sixth = rotated(fixture, 6);
    assert_false(file_exists(sixth));
    free(sixth);
}

static void old_files_go_and_an_old_current_file_rotates(void **state)
{
    struct fixture *fixture = *state;
    char *first = rotated(fixture, 1);
    char *third = rotated(fixture, 3);
    assert_int_equal(file_write_atomic(third, 0600, "old\n", 4, NULL), 0);
    struct utimbuf times = { .actime = (time_t)(fake_now / 1000 - 86400 * 3), .modtime = (time_t)(fake_now / 1000 - 86400 * 3) };
    assert_int_equal(utime(third, &times), 0);
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 2), 0);
    assert_false(file_exists(third));
    log_event(LOG_LEVEL_INFO, "first", LOG_END);
    /* Another process goes on with the file: its age is that of its first line. */
    fake_now += INT64_C(86400000);
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 2), 0);
    log_event(LOG_LEVEL_INFO, "second", LOG_END);
    assert_false(file_exists(first));
    fake_now += INT64_C(86400000) + 1;
    log_event(LOG_LEVEL_INFO, "third", LOG_END);
    char *before = content_of(first);
    char *now = content_of(fixture->path);
    assert_non_null(strstr(before, "\"second\""));
    assert_non_null(strstr(now, "\"third\""));
    assert_null(strstr(now, "\"second\""));
    free(before);
    free(now);
    free(first);
    free(third);
}

static void a_quiet_log_rotates_by_age_too(void **state)
{
    struct fixture *fixture = *state;
    char *first = rotated(fixture, 1);
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 10), 0);
    log_event(LOG_LEVEL_INFO, "only", LOG_END);
    log_poke();
    assert_false(file_exists(first));
    fake_now += INT64_C(86400000) * 2 + 1; /* a fifth of ten days */
    log_poke();
    char *before = content_of(first);
    char *now = content_of(fixture->path);
    assert_non_null(strstr(before, "\"only\""));
    assert_string_equal(now, "");
    free(before);
    free(now);
    free(first);
}

static void a_file_that_was_taken_away_is_made_anew(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 14), 0);
    log_event(LOG_LEVEL_INFO, "before", LOG_END);
    assert_int_equal(unlink(fixture->path), 0);
    fake_now += 1000;
    log_event(LOG_LEVEL_INFO, "after", LOG_END);
    char *now = content_of(fixture->path);
    assert_non_null(strstr(now, "\"after\""));
    assert_null(strstr(now, "\"before\""));
    free(now);
}

static void lines_that_found_no_room_are_counted_and_told(void **state)
{
    (void)state;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    int ends[2];
    char text[4096] = "";
    assert_true(full >= 0);
    assert_int_equal(pipe(ends), 0);
    log_set_fd(full);
    log_event(LOG_LEVEL_INFO, "lost", LOG_END);
    log_event(LOG_LEVEL_INFO, "lost", LOG_END);
    log_set_fd(ends[1]);
    log_event(LOG_LEVEL_INFO, "taken", LOG_END);
    assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
    assert_non_null(strstr(text, "\"taken\""));
    assert_non_null(strstr(text, "\"msg\":\"log_lines_lost\",\"lines\":2"));
    log_set_fd(STDERR_FILENO);
    close(full);
    close(ends[0]);
    close(ends[1]);
}

static void a_descriptor_replaces_the_file_and_stays_the_callers(void **state)
{
    struct fixture *fixture = *state;
    int ends[2];
    char line[256];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 14), 0);
    log_set_fd(ends[1]);
    errno = ENOTTY;
    log_event(LOG_LEVEL_INFO, "to_pipe", LOG_END);
    assert_int_equal(errno, ENOTTY);
    ssize_t got = read(ends[0], line, sizeof(line) - 1);
    assert_true(got > 0);
    line[got] = '\0';
    assert_non_null(strstr(line, "to_pipe"));
    assert_int_equal(log_open_file(fixture->path, 1 << 20, 14), 0);
    assert_int_equal(write(ends[1], "x", 1), 1); /* not closed */
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(log_open_file("/nonexistent/x.log", 1, 1), -1);
}

enum { THREADS = 4, LINES = 200 };

static void *write_lines(void *argument)
{
    const int *number = argument;
    for (int line = 0; line < LINES; line++) {
        log_event(LOG_LEVEL_INFO, "threaded", LOG_NUMBER("thread", *number), LOG_NUMBER("line", line), LOG_END);
    }
    return NULL;
}

static void threads_never_mix_their_lines(void **state)
{
    struct fixture *fixture = *state;
    pthread_t threads[THREADS];
    int numbers[THREADS];
    assert_int_equal(log_open_file(fixture->path, 20000, 14), 0);
    for (int index = 0; index < THREADS; index++) {
        numbers[index] = index;
        assert_int_equal(pthread_create(&threads[index], NULL, write_lines, &numbers[index]), 0);
    }
    for (int index = 0; index < THREADS; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
    }
    size_t count = 0;
    for (int number = 0; number <= 5; number++) {
        char *path = number == 0 ? memory_strdup(fixture->path) : rotated(fixture, number);
        char *content = content_of(path);
        for (char *line = content; line != NULL && *line != '\0';) {
            char *end = strchr(line, '\n');
            assert_non_null(end);
            assert_true(string_has_prefix(line, "{\"ts\":\"2026-"));
            assert_int_equal(end[-1], '}');
            count++;
            line = end + 1;
        }
        free(content);
        free(path);
    }
    assert_int_equal(count, THREADS * LINES);
}

static void a_fatal_line_is_written_at_any_level_and_ends_the_process(void **state)
{
    struct fixture *fixture = *state;
    pid_t child = fork();
    if (child == 0) {
        if (log_open_file(fixture->path, 1 << 20, 14) == 0) {
            log_fatal(42, "fsync_failed", (const struct log_field[]){ LOG_TEXT("file", "x"), LOG_END });
        }
        _exit(1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    char *content = content_of(fixture->path);
    assert_non_null(strstr(content, "\"level\":\"error\",\"msg\":\"fsync_failed\",\"file\":\"x\"}"));
    free(content);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_line_is_one_json_object_with_its_fields, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lines_below_the_level_are_not_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_that_is_too_long_is_replaced_by_one_that_says_so, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_file_rotates_while_it_is_written_and_five_old_ones_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(old_files_go_and_an_old_current_file_rotates, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_quiet_log_rotates_by_age_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_was_taken_away_is_made_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lines_that_found_no_room_are_counted_and_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_descriptor_replaces_the_file_and_stays_the_callers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(threads_never_mix_their_lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_fatal_line_is_written_at_any_level_and_ends_the_process, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
