/* Owns the queue that crosses threads. Must not look into messages. */
#include "util/mailbox.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

enum {
    NS_A_US = 1000,
    NS_A_MS = 1000000,
    NS_A_SECOND = 1000000000,
    SPIN_FEW = 2,   /* with more at a time a wake is shared, and the processor has better things to do */
    QUICK_TIMES = 2 /* a wait counts as quick up to this many spins: some of it is the waking that a spin saves */
};

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
    return (int64_t)now.tv_sec * NS_A_SECOND + now.tv_nsec;
}

/* Who waits is woken by the first message, to learn how long it may lie, and by the first urgent one. */
static void post(struct mailbox *mailbox, struct message *first, struct message *last, size_t count, int64_t patience_ms)
{
    bool urgent = patience_ms <= 0;
    last->next = NULL;
    pthread_mutex_lock(&mailbox->mutex);
    bool was_empty = mailbox->first == NULL;
    bool tell = mailbox->reader_waits && (was_empty || (urgent && mailbox->urgent == 0));
    if (was_empty) {
        mailbox->first = first;
        mailbox->patient_until_ns = urgent ? 0 : monotonic_ns() + patience_ms * NS_A_MS;
    } else {
        mailbox->last->next = first;
    }
    mailbox->last = last;
    mailbox->count += count;
    atomic_store_explicit(&mailbox->urgent, mailbox->urgent + (urgent ? count : 0), memory_order_relaxed);
    void (*wake)(void *) = was_empty ? mailbox->wake : NULL;
    void *wake_argument = mailbox->wake_argument;
    if (tell) {
        pthread_cond_signal(&mailbox->not_empty);
    }
    pthread_mutex_unlock(&mailbox->mutex);
    if (wake != NULL) {
        wake(wake_argument);
    }
}

void mailbox_post(struct mailbox *mailbox, struct message *message)
{
    post(mailbox, message, message, 1, 0);
}

void mailbox_post_patient(struct mailbox *mailbox, struct message *message, int64_t patience_ms)
{
    post(mailbox, message, message, 1, patience_ms);
}

void mailbox_post_list(struct mailbox *mailbox, struct message *first, struct message *last, size_t count)
{
    if (first != NULL) {
        post(mailbox, first, last, count, 0);
    }
}

static struct message *take_all_locked(struct mailbox *mailbox)
{
    struct message *first = mailbox->first;
    mailbox->first = NULL;
    mailbox->last = NULL;
    mailbox->count = 0;
    mailbox->urgent = 0;
    return first;
}

struct message *mailbox_take_all(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->mutex);
    struct message *first = take_all_locked(mailbox);
    pthread_mutex_unlock(&mailbox->mutex);
    return first;
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

/* Whether what lies there is to be taken now; else *ret_deadline_ns says until when to wait at most. */
static bool is_due_locked(const struct mailbox *mailbox, int64_t deadline_ns, int64_t *ret_deadline_ns)
{
    if (mailbox->closed || mailbox->urgent > 0) {
        return true;
    }
    bool patient_first = mailbox->first != NULL && (deadline_ns < 0 || mailbox->patient_until_ns < deadline_ns);
    *ret_deadline_ns = patient_first ? mailbox->patient_until_ns : deadline_ns;
    return false;
}

void mailbox_set_spin(struct mailbox *mailbox, int64_t spin_us)
{
    mailbox->spin_ns = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? spin_us * NS_A_US : 0;
}

/* Without the mutex, which would keep the poster out. What it misses the look under the mutex finds. */
static void spin(struct mailbox *mailbox, int64_t until_ns)
{
    while (atomic_load_explicit(&mailbox->urgent, memory_order_relaxed) == 0 && monotonic_ns() < until_ns) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
}

struct message *mailbox_wait_all(struct mailbox *mailbox, int64_t timeout_ms, bool *ret_closed)
{
    int64_t longest_ms = INT64_MAX / 4 / NS_A_MS;
    int64_t wait_ms = timeout_ms < longest_ms ? timeout_ms : longest_ms;
    int64_t deadline_ns = timeout_ms < 0 ? -1 : monotonic_ns() + wait_ms * NS_A_MS;
    int64_t until_ns = -1;
    int64_t asked_ns = mailbox->spin_ns > 0 ? monotonic_ns() : 0;
    if (mailbox->answers_quickly) {
        spin(mailbox, asked_ns + mailbox->spin_ns);
    }
    pthread_mutex_lock(&mailbox->mutex);
    mailbox->reader_waits = true;
    while (!is_due_locked(mailbox, deadline_ns, &until_ns) && wait_locked(mailbox, until_ns)) {
    }
    mailbox->reader_waits = false;
    bool few = mailbox->count <= SPIN_FEW;
    struct message *first = take_all_locked(mailbox);
    if (ret_closed != NULL) {
        *ret_closed = first == NULL && mailbox->closed;
    }
    pthread_mutex_unlock(&mailbox->mutex);
    mailbox->answers_quickly = mailbox->spin_ns > 0 && first != NULL && few && monotonic_ns() - asked_ns <= QUICK_TIMES * mailbox->spin_ns;
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
