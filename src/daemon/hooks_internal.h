/* What the files of the daemon's hooks share: hooks.c (events), hook_jobs.c (runs), hook_queue.c (those that messages wait with), hook_guard.c (pre-send). */
#ifndef DAEMON_HOOKS_INTERNAL_H
#define DAEMON_HOOKS_INTERNAL_H

#include "daemon/hooks.h"
#include "ipc/hook_access.h"

struct daemon_hooks {
    struct daemon *daemon;
    struct hooks *engine;
    struct hook_job *jobs; /* that are not over, replies included */
    size_t message_jobs;   /* of them, from the inbox's queue */
    unsigned concurrency;
    bool started, stopping;
    bool startup_due;      /* on-startup did not run yet */
    bool claiming;         /* inbox_hook_runs_claim is under way */
    int64_t paused_until;  /* monotonic: a run could not be started for want of something; tried again then */
    bool broken;           /* nothing can be started in this life: what waits, waits for the next */
    uint64_t told_dropped; /* of the engine and the inbox, in metrics */
};

struct guard_question;
struct hook_job { /* one hook for one event, until all that follows from it is done */
    struct hook_job *previous, *next;
    struct daemon_hooks *hooks;
    int64_t run_id;                                  /* of inbox/hook_runs.h; -1: none */
    char *hook, *event_id, *mesh_slug;               /* mesh_slug "": of no mesh */
    char *sender_pubkey, *topic, *broker_message_id; /* NULL: none */
    int64_t depth;
    bool legacy;                     /* nobody signed it: it has no place for a reply's depth */
    bool allow_reply;                /* as its section said when it started */
    struct guard_question *question; /* pre-send's; NULL: none, or nobody waits any more */
    struct ipc_capability *capability;
    struct ipc_capability_use use;
    json_t *output;            /* what it printed, kept likewise; NULL */
    struct hook_result result; /* kept while its reply is under way; strings are the job's */
};

/* hook_jobs.c */
struct hook_job *hook_job_new(struct daemon_hooks *hooks, const char *hook, const char *event_id, const char *mesh_slug) MUST_CHECK;
/* Adds event, event_id, mesh and ts to the payload, which is given, and hands it to the engine. */
void hook_job_run(struct hook_job *job, json_t *payload);
void hook_jobs_set_callbacks(struct daemon_hooks *hooks, struct hooks_callbacks *ret_callbacks);

/* hook_queue.c */
void hook_queue_pump(struct daemon_hooks *hooks);
void hook_queue_job_over(const struct hook_job *job, const char *not_started /* NULL: it was */);
void hook_queue_arriving(struct daemon_hooks *hooks, struct delivery *delivery, const json_t *mentions, const json_t *meta,
                         struct inbox_insert *insert);

/* hook_guard.c */
void hook_guard_install(struct daemon_hooks *hooks);
void hook_guard_answer(struct hook_job *job, const struct hook_result *result);

/* hooks.c: a mesh was restored and waits for its members (45-trust, Restore). */
bool hooks_are_held(const struct daemon_hooks *hooks);

#endif
