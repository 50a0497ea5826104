/* Owns the conversation with pre-send (60-hooks): a question of the API's becomes a run, its output a verdict. Whatever is no verdict denies. Must not store or answer anything. */
#include "daemon/hooks_internal.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static const char PRE_SEND[] = "pre-send";
enum { TIMEOUT_DEFAULT_MS = 30000, REASON_SIZE = 300 };

struct guard_question {
    struct hook_job *job; /* NULL: none was started */
    struct loop_timer *timer;
    void (*answered)(void *argument, const struct send_verdict *verdict);
    void *argument;
};

/* A run that nobody listens to any more goes on; one that still waits must not keep its place in the queue from those who do. */
static void question_free(struct guard_question *question)
{
    struct hook_job *job = question->job;
    if (job != NULL) {
        job->question = NULL;
        hooks_withdraw(job->hooks->engine, job);
    }
    loop_timer_free(question->timer);
    free(question);
}

static void answer(struct guard_question *question, const struct send_verdict *verdict)
{
    void (*answered)(void *, const struct send_verdict *) = question->answered;
    void *argument = question->argument;
    question_free(question);
    answered(argument, verdict);
}

static void deny(struct guard_question *question, const char *reason)
{
    answer(question, &(struct send_verdict){ .action = SEND_DENIED, .reason = reason });
}

/* ---- the verdict --------------------------------------------------------------------------------------------------------- */

static const char *what_went_wrong(const struct hook_result *result)
{
    if (result->not_started != NULL)
        return "the hook could not be started";
    if (result->timed_out)
        return "the hook took too long";
    if (result->signal != 0 || result->lost)
        return "the hook was ended by a signal";
    if (result->exit_status != 0)
        return "the hook failed";
    return result->output_too_large ? "the hook printed too much" : "the hook printed no verdict";
}

/* {"action":"allow"|"deny"|"replace", "reason"?, "message"?, "meta"?} and nothing of another type; NULL, or what is wrong with it. */
static const char *read_verdict(const json_t *output, struct send_verdict *ret_verdict)
{
    static const char NONE[] = "the hook printed no verdict";
    const char *action = NULL;
    struct send_verdict verdict = { .action = SEND_ALLOWED };
    struct error error;
    if (output == NULL || json_read_string(output, "action", JSON_REQUIRED, &action, &error) != 0 ||
        json_read_string(output, "reason", JSON_OPTIONAL, &verdict.reason, &error) != 0 ||
        json_read_text(output, "message", JSON_OPTIONAL, &verdict.message, &error) != 0 ||
        json_read_object(output, "meta", JSON_OPTIONAL, &verdict.meta, &error) != 0)
        return NONE;
    if (strcmp(action, "deny") == 0)
        verdict.action = SEND_DENIED;
    else if (strcmp(action, "replace") == 0)
        verdict.action = SEND_REPLACED;
    else if (strcmp(action, "allow") != 0)
        return NONE;
    if (verdict.action == SEND_REPLACED && verdict.message.data == NULL && verdict.meta == NULL)
        return "the hook said replace, and not by what";
    *ret_verdict = verdict;
    return NULL;
}

void hook_guard_answer(struct hook_job *job, const struct hook_result *result)
{
    struct send_verdict verdict;
    const char *problem = hook_result_is_success(result) ? read_verdict(result->output, &verdict) : what_went_wrong(result);
    if (problem != NULL) {
        deny(job->question, problem);
        return;
    }
    char reason[REASON_SIZE];
    if (verdict.reason != NULL) {
        /* Cut where a character ends, and without what a terminal would obey. */
        char *printable = text_printable(verdict.reason, strlen(verdict.reason));
        size_t length = strnlen(printable, sizeof(reason) - 1);
        while (length > 0 && ((unsigned char)printable[length] & 0xC0) == 0x80)
            length--;
        memcpy(reason, printable, length);
        reason[length] = '\0';
        free(printable);
        verdict.reason = reason;
    }
    answer(job->question, &verdict);
}

/* ---- the question -------------------------------------------------------------------------------------------------------- */

static void on_time_is_up(void *argument)
{
    deny(argument, "the hook took too long");
}

static bool wanted(void *argument)
{
    const struct daemon_hooks *hooks = argument;
    return hooks->engine == NULL || hooks_wants(hooks->engine, PRE_SEND);
}

/* The time that the hook has is the time that the caller waits, also for a place to run in. */
static void *ask(void *argument, const char *mesh_slug, json_t *message,
                 void (*answered)(void *answered_argument, const struct send_verdict *verdict), void *answered_argument)
{
    struct daemon_hooks *hooks = argument;
    const char *refusal = hooks->stopping         ? "the daemon is stopping"
                          : hooks_are_held(hooks) ? "the mesh was restored, and no hook runs before its members are known"
                                                  : NULL;
    if (refusal != NULL) {
        json_decref(message);
        answered(answered_argument, &(struct send_verdict){ .action = SEND_DENIED, .reason = refusal });
        return NULL;
    }
    struct guard_question *question = memory_zalloc(sizeof(*question));
    question->answered = answered;
    question->argument = answered_argument;
    question->timer = loop_timer_new(hooks->daemon->loop, on_time_is_up, question);
    const struct hook_config *config = hooks_config(hooks->engine, PRE_SEND);
    loop_timer_start(question->timer, config != NULL ? config->timeout_ms : TIMEOUT_DEFAULT_MS);
    question->job = hook_job_new(hooks, PRE_SEND, NULL, mesh_slug);
    question->job->question = question;
    hook_job_run(question->job, message);
    return question;
}

static void cancel(void *argument, void *question)
{
    (void)argument;
    question_free(question);
}

void hook_guard_install(struct daemon_hooks *hooks)
{
    ipc_set_guard(hooks->daemon->ipc, &(struct send_guard){ .argument = hooks, .wanted = wanted, .ask = ask, .cancel = cancel });
}
