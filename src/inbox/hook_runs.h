/* Which hooks still have to run for which message (60-hooks: one event runs a hook once, across restarts too). A run is written with the row that is its event, in one
 * transaction; claimed durably before the hook starts, so that it starts at most once; and removed when it is over. Knows no hook but by its name. Loop thread. */
#ifndef INBOX_HOOK_RUNS_H
#define INBOX_HOOK_RUNS_H

#include "inbox/inbox.h"

/* As many may wait (60-hooks); what comes while so many do is stored as a message, and runs no hook. */
enum { HOOK_RUNS_MAXIMUM = 1024 };

struct hook_run {
    int64_t id;
    char *hook;
    struct inbox_row *row; /* the event, with its body */
};
void hook_run_free(struct hook_run *run); /* what it points to; takes NULL */

/* Waiting: on disk or on their way there, and not claimed. */
size_t inbox_hook_runs_waiting(const struct inbox *inbox);
/* Dropped because so many waited, since the start. */
int64_t inbox_hook_runs_dropped(const struct inbox *inbox);
/* Claimed by a process that ended before it could say how they ended: they may have run, wholly or in part, and do not run again. Counted at the start, and removed. */
int64_t inbox_hook_runs_lost(const struct inbox *inbox);

/* Claims up to `limit` of those that wait, the oldest first. Durable before `done`, which may start them. Runs whose row was pruned meanwhile are removed. runs (the array
 * and what is in it) are the callback's. status < 0: none was claimed, all wait on. */
void inbox_hook_runs_claim(struct inbox *inbox, size_t limit, void (*done)(void *argument, int status, struct hook_run *runs, size_t count),
                           void *argument);
/* A claimed one did not start, and certainly never will in this process: it waits again. */
void inbox_hook_runs_release(struct inbox *inbox, int64_t id);
/* A claimed one is over. */
void inbox_hook_runs_finish(struct inbox *inbox, int64_t id);

#endif
