/* Owns the way from a stored message to its hooks: written with the row, claimed, run, removed (60-hooks: one event runs a hook once, across restarts too). Must not run them itself:
 * hook_jobs.c does. */
#include "daemon/hook_match.h"
#include "daemon/hooks_internal.h"
#include "delivery/delivery.h"
#include "inbox/hook_runs.h"
#include "json/json.h"
#include "proto/own_meta.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { RETRY_MS = 5000 };

/* ---- a message arrives ----------------------------------------------------------------------------------------------------- */

static bool runs_for(void *argument, const char *hook, enum inbox_verified verified)
{
    const struct daemon_hooks *hooks = argument;
    if (!hooks_wants(hooks->engine, hook))
        return false;
    const struct hook_config *config = hooks_config(hooks->engine, hook);
    switch (verified) {
    case INBOX_VERIFIED:
        return true;
    case INBOX_LEGACY:
        return config != NULL && config->accept_legacy;
    case INBOX_UNVERIFIED:
        break;
    }
    return config != NULL && config->allow_unverified;
}

void hook_queue_arriving(struct daemon_hooks *hooks, struct delivery *delivery, const json_t *mentions, const json_t *meta,
                         struct inbox_insert *insert)
{
    const struct inbox_row *row = insert->row;
    const char *own = delivery_own_pubkey(delivery);
    struct meta_file file;
    if (insert->from_history || string_equal(row->sender_pubkey, own))
        return; /* what is rebuilt was an event once, and what we said ourselves never is */
    const struct trust_member *self = json_array_size(mentions) > 0 ? trust_member(delivery_trust(delivery), own) : NULL;
    const struct hook_match match = {
        .kind = row->kind,
        .topic = row->topic,
        .verified = row->verified,
        .mentions_us = hook_mentions(mentions, own, self != NULL ? self->folded_name : NULL),
        .says_file = meta_read_file(meta, &file),
        .runs = runs_for,
        .argument = hooks,
    };
    insert->hook_count = hook_match(&match, insert->hooks);
}

/* ---- its hooks run ----------------------------------------------------------------------------------------------------------- */

/* Its mesh was left: nobody could be answered, and what it meant was the mesh's. */
static void start_run(struct daemon_hooks *hooks, struct hook_run *run)
{
    const struct inbox_row *row = run->row;
    const struct delivery *delivery = daemon_delivery_of_row(hooks->daemon, row->mesh);
    if (delivery == NULL) {
        log_event(LOG_LEVEL_WARN, "hook_event_of_no_mesh", LOG_TEXT("hook", run->hook), LOG_TEXT("event_id", row->id), LOG_END);
        inbox_hook_runs_finish(hooks->daemon->inbox, run->id);
        return;
    }
    struct hook_job *job = hook_job_new(hooks, run->hook, row->id, delivery_mesh_slug(delivery));
    job->run_id = run->id;
    job->sender_pubkey = memory_strdup(row->sender_pubkey);
    job->topic = memory_strdup(row->topic);
    job->broker_message_id = memory_strdup(row->broker_message_id);
    job->depth = meta_depth_of(row->meta);
    job->legacy = row->verified == INBOX_LEGACY;
    hooks->message_jobs++;
    json_t *payload = inbox_row_to_json(row, job->mesh_slug);
    json_put_integer(payload, "depth", job->depth);
    hook_job_run(job, payload);
}

static void on_claimed(void *argument, int status, struct hook_run *runs, size_t count)
{
    struct daemon_hooks *hooks = argument;
    hooks->claiming = false;
    for (size_t i = 0; i < count; i++) {
        if (hooks->stopping)
            inbox_hook_runs_release(hooks->daemon->inbox, runs[i].id);
        else
            start_run(hooks, &runs[i]);
        hook_run_free(&runs[i]);
    }
    free(runs);
    if (status == 0 && count > 0)
        hook_queue_pump(hooks);
}

/* One place is pre-send's, where there is one: a message's hook may itself send, and must not wait for a hook that waits for it. */
static size_t places(const struct daemon_hooks *hooks)
{
    return hooks->concurrency > 1 && hooks_wants(hooks->engine, "pre-send") ? hooks->concurrency - 1 : hooks->concurrency;
}

/* Only what can start at once is claimed: what was claimed and did not start is lost when the process dies. */
void hook_queue_pump(struct daemon_hooks *hooks)
{
    struct inbox *inbox = hooks->daemon->inbox;
    size_t most = places(hooks);
    if (!hooks->started || hooks->stopping || hooks->broken || hooks->claiming || hooks->message_jobs >= most ||
        clock_monotonic_ms() < hooks->paused_until || inbox_hook_runs_waiting(inbox) == 0 || hooks_are_held(hooks))
        return;
    hooks->claiming = true;
    inbox_hook_runs_claim(inbox, most - hooks->message_jobs, on_claimed, hooks);
}

void hook_queue_job_over(const struct hook_job *job, const char *not_started)
{
    struct daemon_hooks *hooks = job->hooks;
    hooks->message_jobs--;
    bool wants = string_equal(not_started, "resources") || string_equal(not_started, "prepare");
    bool for_next_life = string_equal(not_started, "stopping") || string_equal(not_started, "spawner");
    hooks->broken = hooks->broken || string_equal(not_started, "spawner");
    if (wants)
        hooks->paused_until = clock_monotonic_ms() + RETRY_MS;
    if (wants || for_next_life)
        inbox_hook_runs_release(hooks->daemon->inbox, job->run_id); /* it certainly did not run */
    else
        inbox_hook_runs_finish(hooks->daemon->inbox, job->run_id);
    hook_queue_pump(hooks);
}
