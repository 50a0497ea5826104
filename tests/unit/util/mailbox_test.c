/* The queue that crosses threads; run under ThreadSanitizer too. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "util/attributes.h"
#include "util/clock.h"
#include "util/mailbox.h"
#include "util/memory.h"

struct item {
    struct message message;
    int poster, number;
};

static struct item *item_new(int poster, int number)
{
    struct item *item = memory_zalloc(sizeof(*item));
    item->poster = poster;
    item->number = number;
    return item;
}

static struct item *item_of(struct message *message)
{
    return CONTAINER_OF(message, struct item, message);
}

struct wakes {
    struct mailbox *mailbox;
    _Atomic int count;
};

/* Takes the mutex: it would hang if the wake came from inside. */
static void count_wake(void *argument)
{
    struct wakes *wakes = argument;
    (void)mailbox_count(wakes->mailbox);
    atomic_fetch_add(&wakes->count, 1);
}

static void messages_come_out_in_order_and_wake_only_an_empty_box(void **state)
{
    (void)state;
    struct mailbox mailbox;
    struct wakes wakes = { .mailbox = &mailbox };
    mailbox_init(&mailbox, count_wake, &wakes);
    assert_null(mailbox_take_all(&mailbox));
    mailbox_post(&mailbox, &item_new(0, 0)->message);
    mailbox_post(&mailbox, &item_new(0, 1)->message);
    struct item *first = item_new(0, 2);
    struct item *last = item_new(0, 3);
    first->message.next = &last->message;
    mailbox_post_list(&mailbox, &first->message, &last->message, 2);
    mailbox_post_list(&mailbox, NULL, NULL, 0);
    assert_int_equal(mailbox_count(&mailbox), 4);
    assert_int_equal(atomic_load(&wakes.count), 1);
    int expected = 0;
    for (struct message *message = mailbox_take_all(&mailbox); message != NULL;) {
        struct item *item = item_of(message);
        message = message->next;
        assert_int_equal(item->number, expected++);
        free(item);
    }
    assert_int_equal(expected, 4);
    assert_int_equal(mailbox_count(&mailbox), 0);
    mailbox_post(&mailbox, &item_new(0, 4)->message);
    assert_int_equal(atomic_load(&wakes.count), 2);
    free(item_of(mailbox_take_all(&mailbox)));
    mailbox_release(&mailbox);
    mailbox_release(NULL);
}

static void waiting_ends_with_the_time_or_the_close(void **state)
{
    (void)state;
    struct mailbox mailbox;
    bool closed = true;
    mailbox_init(&mailbox, NULL, NULL);
    int64_t before = clock_monotonic_ms();
    assert_null(mailbox_wait_all(&mailbox, 20, &closed));
    assert_false(closed);
    assert_true(clock_monotonic_ms() - before >= 19);
    assert_null(mailbox_wait_all(&mailbox, 0, &closed));
    assert_false(closed);
    mailbox_post(&mailbox, &item_new(0, 0)->message);
    mailbox_close(&mailbox);
    struct message *message = mailbox_wait_all(&mailbox, -1, &closed); /* what is queued is still handed out */
    assert_non_null(message);
    assert_false(closed);
    free(item_of(message));
    assert_null(mailbox_wait_all(&mailbox, -1, &closed));
    assert_true(closed);
    assert_null(mailbox_wait_all(&mailbox, INT64_MAX, NULL));
    mailbox_release(&mailbox);
}

static void what_was_posted_with_patience_lies_until_its_time_and_then_comes_whole(void **state)
{
    (void)state;
    struct mailbox mailbox;
    mailbox_init(&mailbox, NULL, NULL);
    int64_t before_ms = clock_monotonic_ms();
    mailbox_post_patient(&mailbox, &item_new(0, 0)->message, 30);
    mailbox_post_patient(&mailbox, &item_new(0, 1)->message, 60000); /* the oldest one's time counts */
    struct message *message = mailbox_wait_all(&mailbox, -1, NULL);
    assert_true(clock_monotonic_ms() - before_ms >= 29);
    for (int number = 0; number < 2; number++) {
        struct item *item = item_of(message);
        message = message->next;
        assert_int_equal(item->number, number);
        free(item);
    }
    assert_null(message);
    mailbox_release(&mailbox);
}

static void *post_urgently(void *argument)
{
    mailbox_post(argument, &item_new(0, 1)->message);
    return NULL;
}

static void something_urgent_takes_the_patient_along_in_order(void **state)
{
    (void)state;
    struct mailbox mailbox;
    pthread_t thread;
    mailbox_init(&mailbox, NULL, NULL);
    mailbox_post_patient(&mailbox, &item_new(0, 0)->message, 600000);
    assert_int_equal(pthread_create(&thread, NULL, post_urgently, &mailbox), 0);
    struct message *first = mailbox_wait_all(&mailbox, -1, NULL); /* would be ten minutes */
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(item_of(first)->number, 0);
    struct message *second = first->next;
    assert_int_equal(item_of(second)->number, 1);
    assert_null(second->next);
    free(item_of(first));
    free(item_of(second));
    mailbox_post_patient(&mailbox, &item_new(0, 2)->message, 600000); /* nothing urgent is left from before */
    mailbox_close(&mailbox);                                          /* a close waits for nobody */
    free(item_of(mailbox_wait_all(&mailbox, -1, NULL)));
    mailbox_release(&mailbox);
}

enum { POSTERS = 4, EACH = 5000 };

struct poster {
    struct mailbox *mailbox;
    int number;
};

static void *post_many(void *argument)
{
    const struct poster *poster = argument;
    for (int number = 0; number < EACH; number++) {
        mailbox_post(poster->mailbox, &item_new(poster->number, number)->message);
    }
    return NULL;
}

static void each_posters_messages_keep_their_order_across_threads(void **state)
{
    (void)state;
    struct mailbox mailbox;
    pthread_t threads[POSTERS];
    struct poster posters[POSTERS];
    int next[POSTERS] = { 0 };
    mailbox_init(&mailbox, NULL, NULL);
    for (int index = 0; index < POSTERS; index++) {
        posters[index] = (struct poster){ &mailbox, index };
        assert_int_equal(pthread_create(&threads[index], NULL, post_many, &posters[index]), 0);
    }
    int received = 0;
    while (received < POSTERS * EACH) {
        bool closed = false;
        struct message *message = mailbox_wait_all(&mailbox, 10000, &closed);
        assert_non_null(message);
        while (message != NULL) {
            struct item *item = item_of(message);
            message = message->next;
            assert_int_equal(item->number, next[item->poster]++);
            received++;
            free(item);
        }
    }
    for (int index = 0; index < POSTERS; index++) {
        assert_int_equal(pthread_join(threads[index], NULL), 0);
    }
    assert_int_equal(mailbox_count(&mailbox), 0);
    mailbox_release(&mailbox);
}

static void *close_box(void *argument)
{
    mailbox_close(argument);
    return NULL;
}

static void closing_wakes_who_waits_for_ever(void **state)
{
    (void)state;
    struct mailbox mailbox;
    pthread_t thread;
    bool closed = false;
    mailbox_init(&mailbox, NULL, NULL);
    assert_int_equal(pthread_create(&thread, NULL, close_box, &mailbox), 0);
    assert_null(mailbox_wait_all(&mailbox, -1, &closed));
    assert_true(closed);
    assert_int_equal(pthread_join(thread, NULL), 0);
    mailbox_release(&mailbox);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_out_in_order_and_wake_only_an_empty_box),
        cmocka_unit_test(waiting_ends_with_the_time_or_the_close),
        cmocka_unit_test(what_was_posted_with_patience_lies_until_its_time_and_then_comes_whole),
        cmocka_unit_test(something_urgent_takes_the_patient_along_in_order),
        cmocka_unit_test(each_posters_messages_keep_their_order_across_threads),
        cmocka_unit_test(closing_wakes_who_waits_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
