/* Owns what is said of a run: success or not, the label in metrics, the audit line. */
#include "hooks/hooks.h"
#include "util/log.h"

bool hook_result_is_success(const struct hook_result *result)
{
    return result->not_started == NULL && !result->lost && !result->timed_out && result->exit_status == 0 && !result->output_too_large &&
           !result->output_invalid;
}

void hook_result_exit_label(const struct hook_result *result, char ret_label[HOOK_EXIT_LABEL_SIZE])
{
    const char *word = result->not_started != NULL ? "not_started"
                       : result->timed_out         ? "timeout"
                       : result->lost              ? "lost"
                       : result->exit_status < 0   ? "signal"
                                                   : NULL;
    if (word != NULL) {
        (void)snprintf(ret_label, HOOK_EXIT_LABEL_SIZE, "%s", word);
    } else {
        (void)snprintf(ret_label, HOOK_EXIT_LABEL_SIZE, "%d", result->exit_status);
    }
}

void hook_result_log(const struct hook_result *result, bool replied, unsigned capability_calls)
{
    char label[HOOK_EXIT_LABEL_SIZE];
    if (result->not_started != NULL) {
        return;
    }
    hook_result_exit_label(result, label);
    const char *output = result->output_too_large ? "too_large"
                         : result->output_invalid ? "invalid"
                         : result->output != NULL ? "object"
                                                  : "empty";
    log_event(hook_result_is_success(result) ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "hook_run", LOG_TEXT("hook", result->hook),
              LOG_TEXT("mesh", result->mesh), LOG_TEXT("event_id", result->event_id), LOG_TEXT("exit", label),
              LOG_NUMBER("signal", result->signal), LOG_NUMBER("duration_ms", result->duration_ms),
              LOG_NUMBER("output_bytes", result->output_bytes), LOG_TEXT("output", output), LOG_NUMBER("error_bytes", result->error_bytes),
              LOG_BOOL("replied", replied), LOG_NUMBER("capability_calls", capability_calls), LOG_END);
}
