/* Owns the queue that crosses threads. Must not look into messages. */
#include "util/mailbox.h"

#include <errno.h>
#include <time.h>

void mailbox_init(struct mailbox *mailbox, void (*wake)(void *), void *wake_argument)
{
    *mailbox = (struct mailbox){ .wake = wake, .wake_argument = wake_argument };
    pthread_condattr_t attributes;
    if (pthread_mutex_init(&mailbox->mutex, NULL) != 0 || pthread_condattr_init(&attributes) != 0) {
        abort();
    }
#ifndef __APPLE__
    /* A step of the wall clock must not stretch or cut a wait. */
    if (pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) != 0) {
        abort();
    }
#endif
    if (pthread_cond_init(&mailbox->not_empty, &attributes) != 0) {
        abort();
    }
    pthread_condattr_destroy(&attributes);
}

void mailbox_release(struct mailbox *mailbox)
{
    if (mailbox == NULL) {
        return;
    }
    if (mailbox->first != NULL) {
        abort(); /* whoever owned these messages would wait for them for ever */
    }
    pthread_cond_destroy(&mailbox->not_empty);
    pthread_mutex_destroy(&mailbox->mutex);
}

void mailbox_post(struct mailbox *mailbox, struct message *message)
{
    mailbox_post_list(mailbox, message, message, 1);
}

void mailbox_post_list(struct mailbox *mailbox, struct message *first, struct message *last, size_t count)
{
    if (first == NULL) {
        return;
    }
    last->next = NULL;
    pthread_mutex_lock(&mailbox->mutex);
    bool was_empty = mailbox->first == NULL;
    if (was_empty) {
        mailbox->first = first;
    } else {
        mailbox->last->next = first;
    }
    mailbox->last = last;
    mailbox->count += count;
    void (*wake)(void *) = was_empty ? mailbox->wake : NULL;
    void *wake_argument = mailbox->wake_argument;
    if (was_empty) {
        pthread_cond_signal(&mailbox->not_empty);
    }
    pthread_mutex_unlock(&mailbox->mutex);
    if (wake != NULL) {
        wake(wake_argument);
    }
}

static struct message *take_all_locked(struct mailbox *mailbox)
{
    struct message *first = mailbox->first;
    mailbox->first = NULL;
    mailbox->last = NULL;
    mailbox->count = 0;
    return first;
}

struct message *mailbox_take_all(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->mutex);
    struct message *first = take_all_locked(mailbox);
    pthread_mutex_unlock(&mailbox->mutex);
    return first;
}

static struct timespec timespec_from_ns(int64_t ns)
{
    return (struct timespec){ .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };
}

static int64_t monotonic_ns(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        abort();
    }
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Returns false when the deadline has passed. */
static bool wait_locked(struct mailbox *mailbox, int64_t deadline_ns)
{
    if (deadline_ns < 0) {
        pthread_cond_wait(&mailbox->not_empty, &mailbox->mutex);
        return true;
    }
    if (monotonic_ns() >= deadline_ns) {
        return false;
    }
#ifdef __APPLE__
    struct timespec left = timespec_from_ns(deadline_ns - monotonic_ns());
    return pthread_cond_timedwait_relative_np(&mailbox->not_empty, &mailbox->mutex, &left) != ETIMEDOUT;
#else
    struct timespec deadline = timespec_from_ns(deadline_ns);
    return pthread_cond_timedwait(&mailbox->not_empty, &mailbox->mutex, &deadline) != ETIMEDOUT;
#endif
}

struct message *mailbox_wait_all(struct mailbox *mailbox, int64_t timeout_ms, bool *ret_closed)
{
    enum { NS_A_MS = 1000000 };
    int64_t longest_ms = INT64_MAX / 4 / NS_A_MS;
    int64_t wait_ms = timeout_ms < longest_ms ? timeout_ms : longest_ms;
    int64_t deadline_ns = timeout_ms < 0 ? -1 : monotonic_ns() + wait_ms * NS_A_MS;
    pthread_mutex_lock(&mailbox->mutex);
    while (mailbox->first == NULL && !mailbox->closed && wait_locked(mailbox, deadline_ns)) {
    }
    struct message *first = take_all_locked(mailbox);
    if (ret_closed != NULL) {
        *ret_closed = first == NULL && mailbox->closed;
    }
    pthread_mutex_unlock(&mailbox->mutex);
    return first;
}

void mailbox_close(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->mutex);
    mailbox->closed = true;
    pthread_cond_broadcast(&mailbox->not_empty);
    pthread_mutex_unlock(&mailbox->mutex);
}

size_t mailbox_count(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->mutex);
    size_t count = mailbox->count;
    pthread_mutex_unlock(&mailbox->mutex);
    return count;
}
