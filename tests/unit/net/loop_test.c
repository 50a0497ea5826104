/* The loop: deferred calls, timers, messages from other threads, signals, watched files. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

struct record {
    struct loop *loop;
    char order[32];
    size_t count;
    int rounds;
    struct loop_timer *timer;
    struct loop_watch *watch;
    char path[64];
};

static void note(struct record *record, char what)
{
    assert_true(record->count < sizeof(record->order) - 1);
    record->order[record->count++] = what;
}

static int setup(void **state)
{
    struct record *record = memory_zalloc(sizeof(*record));
    struct error error;

    assert_int_equal(loop_new(&record->loop, &error), 0);
    *state = record;
    return 0;
}

static int teardown(void **state)
{
    struct record *record = *state;

    loop_free(record->loop);
    free(record);
    return 0;
}

static void stop(void *argument)
{
    struct record *record = argument;

    note(record, 's');
    loop_stop(record->loop);
}

/* ---- deferred -------------------------------------------------------------------------------------------------------- */

static void deferred_b(void *argument)
{
    note(argument, 'b');
}

static void deferred_a(void *argument)
{
    struct record *record = argument;

    note(record, 'a');
    loop_defer(record->loop, deferred_b, record);
    loop_defer(record->loop, stop, record);
}

static void deferred_calls_run_once_each_in_order_and_the_loop_does_not_sleep_on_them(void **state)
{
    struct record *record = *state;

    loop_defer(record->loop, deferred_a, record);
    loop_defer(record->loop, deferred_b, record);
    loop_run(record->loop);
    assert_string_equal(record->order, "abbs");
}

static void cancel_the_rest(void *argument)
{
    struct record *record = argument;

    note(record, 'c');
    loop_defer_cancel(record->loop, deferred_b, record);
    loop_defer(record->loop, stop, record);
}

static void cancelled_calls_do_not_run_even_those_of_the_same_turn(void **state)
{
    struct record *record = *state;

    loop_defer(record->loop, cancel_the_rest, record);
    loop_defer(record->loop, deferred_b, record);
    loop_defer(record->loop, deferred_b, record);
    loop_run(record->loop);
    assert_string_equal(record->order, "cs");
}

/* ---- timers ---------------------------------------------------------------------------------------------------------- */

static void on_tick(void *argument)
{
    struct record *record = argument;

    note(record, 't');
    assert_false(loop_timer_is_running(record->timer));
    if (++record->rounds < 3)
        loop_timer_start(record->timer, 1);
    else
        loop_stop(record->loop);
}

static void never(void *argument)
{
    (void)argument;
    fail_msg("a stopped timer fired");
}

static void timers_fire_once_for_each_start(void **state)
{
    struct record *record = *state;
    struct loop_timer *stopped = loop_timer_new(record->loop, never, NULL);

    record->timer = loop_timer_new(record->loop, on_tick, record);
    loop_timer_start(stopped, 1);
    loop_timer_stop(stopped);
    loop_timer_start(record->timer, 1000 * 1000);
    assert_true(loop_timer_is_running(record->timer));
    loop_timer_start(record->timer, 2);
    loop_run(record->loop);
    assert_string_equal(record->order, "ttt");
    loop_timer_free(record->timer);
    loop_timer_free(stopped);
    loop_timer_free(NULL);
}

/* ---- messages -------------------------------------------------------------------------------------------------------- */

enum { POSTERS = 4, POSTS = 2000 };

struct posted {
    struct message message;
    struct record *record;
    int number;
    int *newest; /* of this poster */
};

static int handled_count;

static void handle_posted(struct message *message)
{
    struct posted *posted = CONTAINER_OF(message, struct posted, message);
    struct loop *loop = posted->record->loop;

    assert_int_equal(posted->number, *posted->newest + 1);
    *posted->newest = posted->number;
    free(posted);
    if (++handled_count == POSTERS * POSTS)
        loop_stop(loop);
}

struct poster {
    pthread_t thread;
    struct record *record;
    int newest;
};

static void *post_many(void *argument)
{
    struct poster *poster = argument;

    for (int i = 1; i <= POSTS; i++) {
        struct posted *posted = memory_zalloc(sizeof(*posted));
        posted->message.handle = handle_posted;
        posted->record = poster->record;
        posted->number = i;
        posted->newest = &poster->newest;
        mailbox_post(loop_mailbox(poster->record->loop), &posted->message);
    }
    return NULL;
}

static void messages_of_many_threads_all_arrive_in_each_ones_order(void **state)
{
    struct poster posters[POSTERS] = { 0 };

    handled_count = 0;
    for (size_t i = 0; i < POSTERS; i++) {
        posters[i].record = *state;
        assert_int_equal(pthread_create(&posters[i].thread, NULL, post_many, &posters[i]), 0);
    }
    loop_run(posters[0].record->loop);
    for (size_t i = 0; i < POSTERS; i++)
        assert_int_equal(pthread_join(posters[i].thread, NULL), 0);
    assert_int_equal(handled_count, POSTERS * POSTS);
}

static void a_stop_from_another_thread_wakes_the_loop(void **state)
{
    struct record *record = *state;
    struct loop_thread thread = { .loop = record->loop };

    assert_int_equal(pthread_create(&thread.thread, NULL, loop_thread_main, thread.loop), 0);
    loop_thread_stop(&thread);
}

/* ---- signals --------------------------------------------------------------------------------------------------------- */

static void on_signal(void *argument, int signal_number)
{
    struct record *record = argument;

    assert_int_equal(signal_number, SIGUSR1);
    stop(record);
}

static void signals_arrive_on_the_loop_and_a_broken_pipe_is_no_death(void **state)
{
    struct record *record = *state;
    struct error error;
    int fds[2];

    assert_int_equal(loop_on_signal(record->loop, SIGUSR1, on_signal, record, &error), 0);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    loop_run(record->loop);
    assert_string_equal(record->order, "s");

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(close(fds[0]), 0);
    assert_int_equal(write(fds[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    assert_int_equal(close(fds[1]), 0);
}

/* ---- files ----------------------------------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
    const int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

static void wait_for_change(struct record *record, char expected)
{
    const size_t before = record->count;

    loop_run(record->loop);
    assert_int_equal(record->count, before + 1);
    assert_int_equal(record->order[before], expected);
}

static void a_watched_file_is_reported_when_written_replaced_and_removed(void **state)
{
    struct record *record = *state;
    char directory[] = "/tmp/loop_test_XXXXXX";
    char path[64], other[64];
    struct loop_watch *watch;
    struct error error;

    assert_non_null(mkdtemp(directory));
    assert_true(snprintf(path, sizeof(path), "%s/config.toml", directory) > 0);
    assert_true(snprintf(other, sizeof(other), "%s/other", directory) > 0);
    assert_int_equal(loop_watch_file(record->loop, path, stop, record, &watch, &error), 0);
    write_file(path, "1"); /* it was not there */
    write_file(path, "2"); /* coalesced */
    wait_for_change(record, 's');
    write_file(other, "3");
    assert_int_equal(rename(other, path), 0);
    wait_for_change(record, 's');
    assert_int_equal(unlink(path), 0);
    wait_for_change(record, 's');
    loop_watch_free(watch);
    assert_int_equal(rmdir(directory), 0);
}

static void a_file_behind_a_link_or_in_a_directory_yet_to_be_made_is_watched_by_looking(void **state)
{
    struct record *record = *state;
    char directory[] = "/tmp/loop_test_XXXXXX";
    char target[64], link[64], later[64], file[64];
    struct loop_watch *link_watch, *later_watch;
    struct error error;

    assert_non_null(mkdtemp(directory));
    assert_true(snprintf(target, sizeof(target), "%s/target", directory) > 0);
    assert_true(snprintf(link, sizeof(link), "%s/link", directory) > 0);
    assert_true(snprintf(later, sizeof(later), "%s/later", directory) > 0);
    assert_true(snprintf(file, sizeof(file), "%s/later/file", directory) > 0);
    write_file(target, "1");
    assert_int_equal(symlink(target, link), 0);
    assert_int_equal(loop_watch_file(record->loop, link, stop, record, &link_watch, &error), 0);
    write_file(target, "two");
    wait_for_change(record, 's');
    assert_int_equal(loop_watch_file(record->loop, file, stop, record, &later_watch, &error), 0);
    assert_int_equal(mkdir(later, 0700), 0);
    write_file(file, "1");
    wait_for_change(record, 's');
    loop_watch_free(link_watch);
    loop_watch_free(later_watch);
    loop_watch_free(NULL);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(later), 0);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(unlink(target), 0);
    assert_int_equal(rmdir(directory), 0);
}

static void a_watch_survives_the_replacement_of_its_directory(void **state)
{
    struct record *record = *state;
    char directory[] = "/tmp/loop_test_XXXXXX";
    char inner[64], path[64];
    struct loop_watch *watch;
    struct error error;

    assert_non_null(mkdtemp(directory));
    assert_true(snprintf(inner, sizeof(inner), "%s/inner", directory) > 0);
    assert_true(snprintf(path, sizeof(path), "%s/inner/file", directory) > 0);
    assert_int_equal(mkdir(inner, 0700), 0);
    assert_int_equal(loop_watch_file(record->loop, path, stop, record, &watch, &error), 0);
    assert_int_equal(rmdir(inner), 0);
    assert_int_equal(mkdir(inner, 0700), 0);
    write_file(path, "1");
    wait_for_change(record, 's');
    loop_watch_free(watch);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(inner), 0);
    assert_int_equal(rmdir(directory), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(deferred_calls_run_once_each_in_order_and_the_loop_does_not_sleep_on_them),
        TEST(cancelled_calls_do_not_run_even_those_of_the_same_turn),
        TEST(timers_fire_once_for_each_start),
        TEST(messages_of_many_threads_all_arrive_in_each_ones_order),
        TEST(a_stop_from_another_thread_wakes_the_loop),
        TEST(signals_arrive_on_the_loop_and_a_broken_pipe_is_no_death),
        TEST(a_watched_file_is_reported_when_written_replaced_and_removed),
        TEST(a_file_behind_a_link_or_in_a_directory_yet_to_be_made_is_watched_by_looking),
        TEST(a_watch_survives_the_replacement_of_its_directory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
