/* The one queue that crosses threads (ARCHITECTURE, Threads). Messages are owned by whoever holds
 * them: posting gives them away. FIFO for each poster. */
#ifndef UTIL_MAILBOX_H
#define UTIL_MAILBOX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct message {
    struct message *next;                    /* the mailbox's while posted */
    void (*handle)(struct message *message); /* run by the receiving thread; takes the message over */
};

struct mailbox {
    pthread_mutex_t mutex;
    pthread_cond_t not_empty;
    struct message *first, *last;
    size_t count;
    atomic_size_t urgent;     /* of these, what was not posted with patience */
    int64_t patient_until_ns; /* monotonic; when the oldest of the others has waited enough */
    bool closed;
    bool reader_waits;            /* it blocks, and must be woken */
    int64_t spin_ns;              /* see mailbox_set_spin */
    bool answers_quickly;         /* the reader's: the last wait was short */
    void (*wake)(void *argument); /* called outside the mutex when it becomes non-empty; may be NULL */
    void *wake_argument;
};

void mailbox_init(struct mailbox *mailbox, void (*wake)(void *), void *wake_argument);
void mailbox_release(struct mailbox *mailbox); /* must be empty */
/* For one reader, to whom single messages come one soon after another: while they come within about spin_us of its asking, it looks for the next one that long before it blocks: waking a thread costs about as much. Never on one
 * processor. 0 (the default): it blocks at once. */
void mailbox_set_spin(struct mailbox *mailbox, int64_t spin_us);
void mailbox_post(struct mailbox *mailbox, struct message *message);
/* The same, but mailbox_wait_all may leave it lying for up to patience_ms, so that what comes meanwhile is taken with it. The order stays; anything urgent behind it takes it along at once. */
void mailbox_post_patient(struct mailbox *mailbox, struct message *message, int64_t patience_ms);
/* A whole list, first to last, linked by next, at once: one lock, one wake. */
void mailbox_post_list(struct mailbox *mailbox, struct message *first, struct message *last, size_t count);
/* Everything that is queued, in order; NULL when empty. Never blocks. */
struct message *mailbox_take_all(struct mailbox *mailbox);
/* Blocks until something is queued that will not wait longer (returns all there is), timeout_ms passed (-1: never) or the mailbox
 * was closed and is empty (NULL; *ret_closed tells the last apart). */
struct message *mailbox_wait_all(struct mailbox *mailbox, int64_t timeout_ms, bool *ret_closed);
void mailbox_close(struct mailbox *mailbox); /* what is queued is still handed out */
size_t mailbox_count(struct mailbox *mailbox);

#endif
