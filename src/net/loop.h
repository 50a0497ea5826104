/* The event loop: timers, signals, messages from other threads, watched files. One thread. The only room that sees libevent.
 * Callbacks run on the loop thread. */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/error.h"
#include "util/mailbox.h"

struct loop;
struct event_base; /* libevent's: only for net/ itself */

int loop_new(struct loop **ret_loop, struct error *error) MUST_CHECK;
void loop_free(struct loop *loop);
void loop_run(struct loop *loop);  /* until loop_stop */
void loop_stop(struct loop *loop); /* any thread; the running turn is finished first */
struct event_base *loop_base(struct loop *loop);

/* Where other threads post: each message's handle runs on the loop thread; one wake for a burst (eventfd, or a pipe). */
struct mailbox *loop_mailbox(struct loop *loop);
/* Runs what is in the mailbox now (at shutdown, after the databases closed). */
void loop_run_mailbox(struct loop *loop);
/* Runs fn after the current batch of events, once; e.g. to flush what many callbacks gathered. */
void loop_defer(struct loop *loop, void (*fn)(void *argument), void *argument);
/* Forgets every waiting loop_defer of this pair: for an owner that goes before its turn comes. */
void loop_defer_cancel(struct loop *loop, void (*fn)(void *argument), void *argument);

/* One block for bytes that are used up before the callback returns: for net/ itself. */
enum { LOOP_SCRATCH_SIZE = 64 * 1024 };
void *loop_scratch(struct loop *loop);

struct loop_timer;
struct loop_timer *loop_timer_new(struct loop *loop, void (*fired)(void *argument), void *argument) MUST_CHECK;
void loop_timer_start(struct loop_timer *timer, int64_t delay_ms); /* again: replaces */
void loop_timer_stop(struct loop_timer *timer);
bool loop_timer_is_running(const struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer); /* takes NULL */

/* Calls back whenever the descriptor can be read from, or its other end is gone. It stays the caller's; free the watch before it is closed. */
struct loop_descriptor;
int loop_descriptor_new(struct loop *loop, int fd, void (*readable)(void *argument), void *argument,
                        struct loop_descriptor **ret_descriptor, struct error *error) MUST_CHECK;
void loop_descriptor_free(struct loop_descriptor *descriptor); /* takes NULL; also from its own callback */

/* For a start: SIGTERM, SIGINT, SIGHUP and SIGUSR1 wait, each until loop_on_signal lets it in, and are answered then like all others. While there is one thread. */
int loop_hold_signals(struct error *error) MUST_CHECK;
int loop_on_signal(struct loop *loop, int signal_number, void (*caught)(void *argument, int signal_number), void *argument,
                   struct error *error) MUST_CHECK;
/* Calls back (coalesced, 50 ms) when the file at `path` was written, replaced or removed: inotify on its directory, else stat
 * once a second. */
struct loop_watch;
int loop_watch_file(struct loop *loop, const char *path, void (*changed)(void *argument), void *argument, struct loop_watch **ret_watch,
                    struct error *error) MUST_CHECK;
void loop_watch_free(struct loop_watch *watch);

#endif
