/* Owns one run from the event's payload to its audit line: its rights while it runs, the reply it printed, what others are told of it (60-hooks, The contract, Audit). Must not
 * decide when a run starts. */
#include "daemon/hooks_internal.h"
#include "ipc/metrics.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- life ---------------------------------------------------------------------------------------------------------------- */

struct hook_job *hook_job_new(struct daemon_hooks *hooks, const char *hook, const char *event_id, const char *mesh_slug)
{
    struct hook_job *job = memory_zalloc(sizeof(*job));
    char fresh[ULID_SIZE];
    if (event_id == NULL)
        ulid_generate(fresh);
    job->hooks = hooks;
    job->run_id = -1;
    job->hook = memory_strdup(hook);
    job->event_id = memory_strdup(event_id != NULL ? event_id : fresh);
    job->mesh_slug = memory_strdup(mesh_slug);
    job->next = hooks->jobs;
    if (hooks->jobs != NULL)
        hooks->jobs->previous = job;
    hooks->jobs = job;
    return job;
}

static void job_free(struct hook_job *job)
{
    if (job->previous != NULL)
        job->previous->next = job->next;
    else
        job->hooks->jobs = job->next;
    if (job->next != NULL)
        job->next->previous = job->previous;
    free(job->hook);
    free(job->event_id);
    free(job->mesh_slug);
    free(job->sender_pubkey);
    free(job->topic);
    free(job->broker_message_id);
    json_decref(job->output);
    free(job);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------- */

static int exit_for_metrics(const struct hook_result *result)
{
    if (result->not_started != NULL)
        return HOOK_EXIT_NOT_STARTED;
    if (result->timed_out)
        return HOOK_EXIT_TIMEOUT;
    return result->exit_status >= 0 && !result->lost ? result->exit_status : HOOK_EXIT_SIGNAL;
}

static void publish_executed(const struct hook_job *job, const struct hook_result *result, bool replied)
{
    char exit[HOOK_EXIT_LABEL_SIZE];
    json_t *data = json_new_object();
    hook_result_exit_label(result, exit);
    json_put_string(data, "hook", job->hook);
    json_put_string(data, "event_id", job->event_id);
    json_put_bool(data, "ok", hook_result_is_success(result));
    json_put_string(data, "exit", exit);
    json_put_integer(data, "duration_ms", result->duration_ms);
    json_put_integer(data, "output_bytes", (int64_t)result->output_bytes);
    json_put_bool(data, "replied", replied);
    json_put_integer(data, "capability_calls", job->use.calls);
    ipc_publish(job->hooks->daemon->ipc, "hook_executed", *job->mesh_slug != '\0' ? job->mesh_slug : NULL, data, -1);
}

static void conclude(struct hook_job *job, const struct hook_result *result, bool replied)
{
    ipc_metrics_hook_run(job->hooks->daemon->metrics, job->hook, exit_for_metrics(result), result->duration_ms);
    if (result->not_started == NULL) {
        hook_result_log(result, replied, job->use.calls);
        publish_executed(job, result, replied);
    }
    if (job->run_id >= 0)
        hook_queue_job_over(job, result->not_started);
    job_free(job);
}

/* ---- the reply that was printed -------------------------------------------------------------------------------------------- */

static void on_replied(void *argument, int status, const char *code)
{
    struct hook_job *job = argument;
    bool replied = status < 300;
    if (!replied)
        log_event(LOG_LEVEL_WARN, "hook_reply_refused", LOG_TEXT("hook", job->hook), LOG_TEXT("event_id", job->event_id),
                  LOG_TEXT("reason", code), LOG_END);
    conclude(job, &job->result, replied);
}

/* Why a reply that was printed is not sent; NULL: it is. */
static const char *reply_obstacle(const struct hook_job *job)
{
    if (!job->allow_reply)
        return "allow_reply_is_off";
    if (job->sender_pubkey == NULL)
        return "event_has_no_sender";
    if (job->depth > 0)
        return "event_is_an_automatic_reply";
    if (job->legacy)
        return "event_is_not_signed";
    return job->use.replied ? "replied_by_capability" : NULL;
}

/* The answer that a run printed; data NULL: none. */
static struct text printed_reply(const struct hook_result *result)
{
    const json_t *reply = hook_result_is_success(result) ? json_object_get(result->output, "reply") : NULL;
    if (!json_is_string(reply) || json_string_length(reply) == 0)
        return (struct text){ NULL, 0 };
    return (struct text){ json_string_value(reply), json_string_length(reply) };
}

/* The same for the same event and hook, whoever asks and however often: accepted once. */
static void send_reply(struct hook_job *job, const struct hook_result *result, struct text message)
{
    char *id = memory_printf("hook-reply-%s-%s", job->event_id, job->hook);
    char *topic = job->topic != NULL ? memory_printf("#%s", job->topic) : NULL;
    const struct ipc_reply reply = { .mesh_slug = job->mesh_slug,
                                     .to = topic != NULL ? topic : job->sender_pubkey,
                                     .reply_to_id = job->broker_message_id,
                                     .client_message_id = id,
                                     .message = message,
                                     .depth = job->depth + 1 };
    job->result = *result;
    job->result.hook = job->hook;
    job->result.event_id = job->event_id;
    job->result.mesh = job->mesh_slug;
    job->result.output = job->output =
        result->output != NULL ? json_deep_copy(result->output) : NULL; /* the audit line tells whether there was any */
    ipc_reply(job->hooks->daemon->ipc, &reply, on_replied, job);
    free(topic);
    free(id);
}

static void on_done(void *argument, const struct hook_event *event, const struct hook_result *result)
{
    (void)event;
    struct hook_job *job = argument;
    if (job->question != NULL)
        hook_guard_answer(job, result);
    struct text reply = printed_reply(result);
    const char *obstacle = reply.data != NULL ? reply_obstacle(job) : NULL;
    if (obstacle != NULL)
        log_event(LOG_LEVEL_WARN, "hook_reply_refused", LOG_TEXT("hook", job->hook), LOG_TEXT("event_id", job->event_id),
                  LOG_TEXT("reason", obstacle), LOG_END);
    if (reply.data != NULL && obstacle == NULL)
        send_reply(job, result, reply);
    else
        conclude(job, result, job->use.replied);
}

/* ---- rights while it runs --------------------------------------------------------------------------------------------------- */

static bool prepare(void *argument, const struct hook_event *event, const struct hook_config *config, const char *directory,
                    struct hook_access *ret_access)
{
    const struct daemon_hooks *hooks = argument;
    struct hook_job *job = event->argument;
    const struct ipc_capability_facts facts = {
        .hook = job->hook,
        .event_id = job->event_id,
        .mesh_slug = *job->mesh_slug != '\0' ? job->mesh_slug : NULL,
        .sender_pubkey = job->legacy ? NULL : job->sender_pubkey,
        .topic = job->topic,
        .broker_message_id = job->broker_message_id,
        .depth = job->depth,
        .scopes = (const char *const *)config->capability_token_scope,
        .scope_count = config->scope_count,
    };
    struct error error;
    char token[CAPABILITY_TOKEN_SIZE];
    _Static_assert(sizeof(ret_access->token) >= sizeof(token), "the engine's place for a token holds ours");
    int length = snprintf(ret_access->socket_path, sizeof(ret_access->socket_path), "%s/api.sock", directory);
    if (length < 0 || (size_t)length >= sizeof(ret_access->socket_path))
        return false;
    job->allow_reply = config->allow_reply;
    if (ipc_capability_open(hooks->daemon->ipc, &facts, ret_access->socket_path, token, &job->capability, &error) != 0) {
        log_event(LOG_LEVEL_ERROR, "hook_socket_failed", LOG_TEXT("hook", job->hook), LOG_TEXT("error", error.message), LOG_END);
        return false;
    }
    memcpy(ret_access->token, token, sizeof(token));
    secret_wipe(token, sizeof(token));
    return true;
}

static void on_finished(void *argument, const struct hook_event *event)
{
    const struct daemon_hooks *hooks = argument;
    struct hook_job *job = event->argument;
    ipc_capability_close(hooks->daemon->ipc, job->capability, &job->use);
    job->capability = NULL;
}

static void on_unenforceable(void *argument, const char *hook, const char *reason)
{
    const struct daemon_hooks *hooks = argument;
    ipc_metrics_hook_unenforceable(hooks->daemon->metrics, hook, reason);
}

void hook_jobs_set_callbacks(struct daemon_hooks *hooks, struct hooks_callbacks *ret_callbacks)
{
    *ret_callbacks =
        (struct hooks_callbacks){ .argument = hooks, .prepare = prepare, .finished = on_finished, .unenforceable = on_unenforceable };
}

/* ---- the start ----------------------------------------------------------------------------------------------------------------- */

void hook_job_run(struct hook_job *job, json_t *payload)
{
    json_t *event = json_new_object();
    json_put_string(event, "event", job->hook);
    json_put_string(event, "event_id", job->event_id);
    json_put_string(event, "mesh", *job->mesh_slug != '\0' ? job->mesh_slug : NULL);
    json_put_time(event, "ts", clock_wall_ms());
    if (payload != NULL && json_object_update(event, payload) != 0)
        memory_exhausted();
    const struct hook_event run = {
        .hook = job->hook, .event_id = job->event_id, .mesh = job->mesh_slug, .payload = event, .done = on_done, .argument = job
    };
    hooks_run(job->hooks->engine, &run);
    json_decref(payload);
    json_decref(event);
}
