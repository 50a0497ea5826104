/* Owns the queue: which hooks run, when, how many at once; hooks.toml; what is logged of hooks that cannot run. Must not know how a process is started. */
#include "hooks/hooks.h"

#include <dirent.h>
#include <errno.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hooks/internal.h"
#include "hooks/payload.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { BUSY_RETRY_MS = 20, DROPPED_SAY_MS = 60 * 1000 };
static const char PRE_SEND[] = "pre-send";

enum job_state { JOB_WAITS, JOB_RUNS, JOB_REPORTED, JOB_REFUSED };

/* One call of hooks_run, from then until nothing is left of it. */
struct job {
    struct job *next;
    struct hooks *hooks;
    enum job_state state;
    struct hook_event event; /* its strings are the job's; no payload */
    struct buffer payload;
    struct run *run;
    bool prepared;
    const char *reason; /* JOB_REFUSED; literals */
    char *detail;
};

struct job_list {
    struct job *first, **end;
    size_t count;
};

struct complaint { /* what was said last of a hook: said once for each state */
    struct complaint *next;
    char *hook, *text;
};

struct hooks {
    struct hooks_options options;
    char *path, *home;
    struct hooks_file file;
    bool file_is_broken; /* it could not be read at all, and none was in force before */
    struct job_list waiting, running, refused;
    size_t waiting_bytes;
    struct loop_timer *retry;
    struct loop_descriptor *spawner_watch;
    bool spawner_is_gone, stopping;
    uint64_t dropped, dropped_said;
    int64_t dropped_said_at; /* monotonic; 0: never */
    struct complaint *complaints;
};

static void start_waiting(void *argument);
static void finish_refused(void *argument);

/* ---- lists --------------------------------------------------------------------------------------------------------------------- */

static void list_init(struct job_list *list)
{
    *list = (struct job_list){ .end = &list->first };
}

static void list_append(struct job_list *list, struct job *job)
{
    job->next = NULL;
    *list->end = job;
    list->end = &job->next;
    list->count++;
}

static void list_remove(struct job_list *list, const struct job *job)
{
    for (struct job **place = &list->first; *place != NULL; place = &(*place)->next) {
        if (*place == job) {
            *place = job->next;
            if (list->end == &job->next) {
                list->end = place;
            }
            list->count--;
            return;
        }
    }
}

static void job_free(struct job *job)
{
    run_free(job->run);
    buffer_release(&job->payload);
    free((char *)(uintptr_t)job->event.hook);
    free((char *)(uintptr_t)job->event.event_id);
    free((char *)(uintptr_t)job->event.mesh);
    free(job->detail);
    free(job);
}

/* ---- saying things once ----------------------------------------------------------------------------------------------------------- */

static struct complaint *complaint_of(struct hooks *hooks, const char *hook)
{
    for (struct complaint *complaint = hooks->complaints; complaint != NULL; complaint = complaint->next) {
        if (string_equal(complaint->hook, hook)) {
            return complaint;
        }
    }
    struct complaint *complaint = memory_zalloc(sizeof(*complaint));
    complaint->hook = memory_strdup(hook);
    complaint->next = hooks->complaints;
    hooks->complaints = complaint;
    return complaint;
}

/* True when `text` is not what was said last; NULL: all is well now. */
static bool is_news(struct hooks *hooks, const char *hook, const char *text)
{
    struct complaint *complaint = complaint_of(hooks, hook);
    if (string_equal(complaint->text, text)) {
        return false;
    }
    free(complaint->text);
    complaint->text = memory_strdup(text);
    return text != NULL;
}

static void say_refused(struct hooks *hooks, const char *hook, const char *reason, const char *detail)
{
    char *text = memory_printf("%s: %s", reason, detail);
    if (is_news(hooks, hook, text)) {
        log_event(LOG_LEVEL_WARN, "hook_refused", LOG_TEXT("hook", hook), LOG_TEXT("reason", reason), LOG_TEXT("detail", detail),
                  LOG_BOOL("security", string_equal(reason, "unsafe")), LOG_END);
    }
    free(text);
}

static void say_dropped(struct hooks *hooks)
{
    int64_t now = clock_monotonic_ms();
    if (hooks->dropped_said_at != 0 && now - hooks->dropped_said_at < DROPPED_SAY_MS) {
        return;
    }
    log_event(LOG_LEVEL_WARN, "hooks_dropped", LOG_NUMBER("dropped", hooks->dropped - hooks->dropped_said),
              LOG_NUMBER("waiting", hooks->waiting.count), LOG_END);
    hooks->dropped_said = hooks->dropped;
    hooks->dropped_said_at = now;
}

static void note_unenforced(struct hooks *hooks, const char *hook, const char *reason, const char *detail)
{
    char *name = memory_printf("%s %s", hook, reason); /* a state of its own beside the hook's */
    if (is_news(hooks, name, detail)) {
        log_event(LOG_LEVEL_WARN, "hook_unenforceable", LOG_TEXT("hook", hook), LOG_TEXT("reason", reason), LOG_TEXT("detail", detail),
                  LOG_END);
    }
    free(name);
    if (hooks->options.callbacks.unenforceable != NULL) {
        hooks->options.callbacks.unenforceable(hooks->options.callbacks.argument, hook, reason);
    }
}

/* ---- hooks.toml --------------------------------------------------------------------------------------------------------------------- */

/* It decides what runs: nobody else may have a say in it. */
static int check_owner(const char *path, struct error *error)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        return error_set_errno(error, "cannot look at %s", path);
    }
    if (status.st_uid != geteuid()) {
        return error_set(error, ERROR_DENIED, "%s belongs to another user", path);
    }
    if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return error_set(error, ERROR_DENIED, "%s can be written by others (mode %04o): run chmod go-w %s", path,
                         (unsigned)(status.st_mode & 07777), path);
    }
    return 0;
}

/* Absent: no hooks. */
static int read_file(const struct hooks *hooks, struct hooks_file *ret_file, struct error *error)
{
    struct buffer bytes;
    buffer_init(&bytes, LIMIT_CONFIG_FILE);
    *ret_file = (struct hooks_file){ .hooks = NULL };
    int result = file_read(hooks->path, &bytes, error);
    if (result == -ERROR_NOT_FOUND) {
        buffer_release(&bytes);
        return 0;
    }
    if (result == 0) {
        result = check_owner(hooks->path, error);
    }
    if (result == 0) {
        result = hooks_file_parse(hooks->path, bytes.data, bytes.length, ret_file, error);
    }
    buffer_release(&bytes);
    return result;
}

static void load(struct hooks *hooks, bool is_reload)
{
    struct hooks_file file;
    struct error error = { .message = "" };
    if (read_file(hooks, &file, &error) != 0) {
        log_event(LOG_LEVEL_ERROR, "hooks_file_wrong", LOG_TEXT("error", error.message),
                  LOG_TEXT("effect", is_reload && !hooks->file_is_broken ? "the earlier one stays in force" : "no hook runs"), LOG_END);
        hooks->file_is_broken = hooks->file_is_broken || !is_reload;
        return;
    }
    hooks_file_release(&hooks->file);
    hooks->file = file;
    hooks->file_is_broken = false;
    for (size_t index = 0; index < file.count; index++) {
        if (file.hooks[index].problem != NULL) {
            say_refused(hooks, file.hooks[index].name, "configuration", file.hooks[index].problem);
        }
    }
}

void hooks_reload(struct hooks *hooks)
{
    load(hooks, true);
}

/* Whether a file stands there that would be the gate of all sends. */
static bool has_pre_send_file(const struct hooks *hooks)
{
    DIR *entries = opendir(hooks->options.paths->hooks);
    bool found = false;
    if (entries == NULL) {
        return errno != ENOENT;
    }
    for (const struct dirent *entry = readdir(entries); entry != NULL && !found; entry = readdir(entries)) {
        size_t length = sizeof(PRE_SEND) - 1;
        found = string_has_prefix(entry->d_name, PRE_SEND) && (entry->d_name[length] == '\0' || entry->d_name[length] == '.');
    }
    (void)closedir(entries);
    return found;
}

bool hooks_wants(const struct hooks *hooks, const char *hook)
{
    if (!hooks->options.enabled) {
        return false;
    }
    if (hooks->file_is_broken) {
        return string_equal(hook, PRE_SEND) && has_pre_send_file(hooks);
    }
    const struct hook_config *config = hooks_file_find(&hooks->file, hook);
    return config != NULL && (config->enabled || (config->problem != NULL && !config->is_disabled));
}

const struct hook_config *hooks_config(const struct hooks *hooks, const char *hook)
{
    const struct hook_config *config = hooks->options.enabled && !hooks->file_is_broken ? hooks_file_find(&hooks->file, hook) : NULL;
    return config != NULL && config->problem == NULL && config->enabled ? config : NULL;
}

/* ---- ends --------------------------------------------------------------------------------------------------------------------------- */

static void finish(struct job *job, struct hook_result *result)
{
    const struct hooks_callbacks *callbacks = &job->hooks->options.callbacks;
    result->hook = job->event.hook;
    result->event_id = job->event.event_id;
    result->mesh = job->event.mesh;
    if (job->prepared && callbacks->finished != NULL) {
        callbacks->finished(callbacks->argument, &job->event);
    }
    job->prepared = false;
    if (job->event.done != NULL) {
        job->event.done(job->event.argument, &job->event, result);
    }
}

/* To be told later, never within the owner's call. Takes the job over; it is in no list. */
static void refuse(struct job *job, const char *reason, const char *detail)
{
    struct hooks *hooks = job->hooks;
    job->state = JOB_REFUSED;
    job->reason = reason;
    job->detail = memory_strdup(detail);
    if (hooks->refused.count == 0) {
        loop_defer(hooks->options.loop, finish_refused, hooks);
    }
    list_append(&hooks->refused, job);
}

static void finish_refused(void *argument)
{
    struct hooks *hooks = argument;
    while (hooks->refused.first != NULL) {
        struct job *job = hooks->refused.first;
        struct hook_result result = { .not_started = job->reason, .detail = job->detail, .exit_status = -1 };
        list_remove(&hooks->refused, job);
        finish(job, &result);
        job_free(job);
    }
}

static void on_reported(void *argument, struct run *run, const struct hook_result *result, const struct report_end *end)
{
    struct job *job = argument;
    struct hooks *hooks = job->hooks;
    struct hook_result copy = *result;
    (void)run;
    job->state = JOB_REPORTED;
    if (copy.not_started != NULL) {
        say_refused(hooks, job->event.hook, copy.not_started, copy.detail);
    } else {
        (void)is_news(hooks, job->event.hook, NULL);
        if (end->network_unenforced) {
            note_unenforced(hooks, job->event.hook, "network",
                            "network_policy = \"deny\" needs user namespaces or bubblewrap; the hook runs with the network");
        }
        if (end->directory_unenforced) {
            note_unenforced(hooks, job->event.hook, "directory",
                            "the system has neither Landlock nor user namespaces nor bubblewrap, or links lead out of the claudemesh "
                            "directory: the hook can read "
                            "it, and is trusted code");
        }
    }
    finish(job, &copy);
}

static void on_over(void *argument, struct run *run)
{
    struct job *job = argument;
    struct hooks *hooks = job->hooks;
    (void)run;
    list_remove(&hooks->running, job);
    job_free(job);
    start_waiting(hooks);
}

/* ---- starts -------------------------------------------------------------------------------------------------------------------------- */

static bool on_prepare(void *argument, const char *directory, struct hook_access *ret_access)
{
    struct job *job = argument;
    const struct hooks_callbacks *callbacks = &job->hooks->options.callbacks;
    if (callbacks->prepare == NULL) {
        return string_copy(ret_access->socket_path, sizeof(ret_access->socket_path), job->hooks->options.paths->socket) == 0;
    }
    job->prepared = callbacks->prepare(callbacks->argument, &job->event, hooks_config(job->hooks, job->event.hook), directory, ret_access);
    return job->prepared;
}

/* Names that begin with this one's and a dot are other hooks, not this one with an extension. */
static void name_others(const struct hooks *hooks, struct run_request *request)
{
    size_t length = strlen(request->hook);
    for (size_t index = 0; index < hooks->file.count && request->other_count < HOOK_OTHERS_MAXIMUM; index++) {
        const char *name = hooks->file.hooks[index].name;
        if (string_has_prefix(name, request->hook) && name[length] == '.' &&
            string_copy(request->others[request->other_count], HOOK_NAME_SIZE, name) == 0) {
            request->other_count++;
        }
    }
}

static int fill_request(const struct job *job, const struct hook_config *config, struct run_request *request, struct error *error)
{
    const struct hooks *hooks = job->hooks;
    const struct config_paths *paths = hooks->options.paths;
    request->timeout_ms = config->timeout_ms;
    request->output_size_limit = config->output_size_limit;
    request->network_allow = config->network_allow;
    request->bubblewrap = config->bubblewrap;
    request->without = hooks->options.without;
    if (string_copy(request->hook, sizeof(request->hook), job->event.hook) != 0 ||
        string_copy(request->event_id, sizeof(request->event_id), job->event.event_id) != 0 ||
        string_copy(request->mesh, sizeof(request->mesh), job->event.mesh) != 0 ||
        string_copy(request->root, sizeof(request->root), paths->root) != 0 ||
        string_copy(request->hooks, sizeof(request->hooks), paths->hooks) != 0 ||
        string_copy(request->home, sizeof(request->home), hooks->home) != 0) {
        return error_set(error, ERROR_TOO_LARGE, "a name or a path is too long");
    }
    name_others(hooks, request);
    return 0;
}

/* False: the spawner's socket is full; the job still waits. Else the job is taken. */
static bool start_job(struct job *job)
{
    struct hooks *hooks = job->hooks;
    const struct hook_config *config = hooks_config(hooks, job->event.hook);
    struct run_request *request = memory_zalloc(sizeof(*request));
    struct error error = { .message = "" };
    const char *reason = "configuration";
    const struct run_owner owner = { .argument = job, .reported = on_reported, .over = on_over };
    const struct run_start start = { .loop = hooks->options.loop,
                                     .spawner = hooks->options.spawner,
                                     .request = request,
                                     .payload = job->payload.data,
                                     .payload_length = job->payload.length,
                                     .prepare = on_prepare,
                                     .argument = job,
                                     .ret_reason = &reason };
    bool taken = true;
    list_remove(&hooks->waiting, job);
    hooks->waiting_bytes -= job->payload.length;
    if (config == NULL) {
        refuse(job, "disabled", "hooks.toml does not enable it any more");
    } else if (fill_request(job, config, request, &error) != 0 || run_start(&start, &owner, &job->run, &error) != 0) {
        if (error.code == ERROR_BUSY) {
            if (job->prepared && hooks->options.callbacks.finished != NULL) {
                hooks->options.callbacks.finished(hooks->options.callbacks.argument, &job->event);
            }
            job->prepared = false;
            job->next = hooks->waiting.first; /* in front again */
            hooks->waiting.first = job;
            if (job->next == NULL) {
                hooks->waiting.end = &job->next;
            }
            hooks->waiting.count++;
            hooks->waiting_bytes += job->payload.length;
            taken = false;
        } else {
            say_refused(hooks, job->event.hook, reason, error.message);
            refuse(job, reason, error.message);
        }
    } else {
        job->state = JOB_RUNS;
        buffer_release(&job->payload);
        list_append(&hooks->running, job);
    }
    memory_wipe(request, sizeof(*request));
    free(request);
    return taken;
}

static void start_waiting(void *argument)
{
    struct hooks *hooks = argument;
    while (hooks->waiting.first != NULL && hooks->running.count < hooks->options.concurrency) {
        if (!start_job(hooks->waiting.first)) {
            loop_timer_start(hooks->retry, BUSY_RETRY_MS);
            return;
        }
    }
}

static struct job *job_new(struct hooks *hooks, const struct hook_event *event)
{
    struct job *job = memory_zalloc(sizeof(*job));
    job->hooks = hooks;
    job->event = *event;
    job->event.payload = NULL;
    job->event.hook = memory_strdup(event->hook);
    job->event.event_id = memory_strdup(event->event_id);
    job->event.mesh = memory_strdup(event->mesh == NULL ? "" : event->mesh);
    buffer_init(&job->payload, BUFFER_UNLIMITED);
    return job;
}

void hooks_run(struct hooks *hooks, const struct hook_event *event)
{
    struct job *job = job_new(hooks, event);
    const struct hook_config *config = hooks_config(hooks, event->hook);
    if (hooks->stopping) {
        refuse(job, "stopping", "the daemon stops");
        return;
    }
    if (config == NULL) {
        bool is_wrong = hooks_wants(hooks, event->hook);
        refuse(job, is_wrong ? "configuration" : "disabled",
               is_wrong ? "hooks.toml is wrong: see the log" : "hooks.toml does not enable it");
        return;
    }
    if (hooks->options.spawner == NULL || hooks->spawner_is_gone) {
        refuse(job, "spawner", "the process that starts hooks is gone; restart the daemon");
        return;
    }
    hook_payload_print(event->payload, config->redact_payload, config->redact_count, HOOK_PAYLOAD_MAXIMUM, &job->payload);
    if (hooks->waiting.count >= HOOK_QUEUE_MAXIMUM || hooks->waiting_bytes + job->payload.length > HOOK_QUEUE_BYTES_MAXIMUM) {
        hooks->dropped++;
        say_dropped(hooks);
        refuse(job, "queue_full", "too many hooks wait already");
        return;
    }
    list_append(&hooks->waiting, job);
    hooks->waiting_bytes += job->payload.length;
    if (hooks->waiting.count == 1) {
        loop_defer(hooks->options.loop, start_waiting, hooks);
    }
}

void hooks_withdraw(struct hooks *hooks, const void *argument)
{
    for (struct job *job = hooks->waiting.first; job != NULL; job = job->next) {
        if (job->event.argument == argument) {
            list_remove(&hooks->waiting, job);
            hooks->waiting_bytes -= job->payload.length;
            refuse(job, "withdrawn", "nobody waits for it any more");
            return;
        }
    }
}

size_t hooks_waiting(const struct hooks *hooks)
{
    return hooks->waiting.count;
}

size_t hooks_running(const struct hooks *hooks)
{
    return hooks->running.count;
}

uint64_t hooks_dropped(const struct hooks *hooks)
{
    return hooks->dropped;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------------ */

static void refuse_waiting(struct hooks *hooks, const char *reason, const char *detail)
{
    while (hooks->waiting.first != NULL) {
        struct job *job = hooks->waiting.first;
        list_remove(&hooks->waiting, job);
        hooks->waiting_bytes -= job->payload.length;
        refuse(job, reason, detail);
    }
}

/* It says nothing of its own: what can be read is its end. What runs goes on, and reports over sockets of its own. */
static void on_spawner_gone(void *argument)
{
    struct hooks *hooks = argument;
    loop_descriptor_free(hooks->spawner_watch);
    hooks->spawner_watch = NULL;
    hooks->spawner_is_gone = true;
    log_event(LOG_LEVEL_ERROR, "hooks_spawner_gone", LOG_TEXT("effect", "no hook is started until the daemon is restarted"), LOG_END);
    refuse_waiting(hooks, "spawner", "the process that starts hooks is gone; restart the daemon");
}

static char *home_directory(void)
{
    const char *home = getenv("HOME");
    if (home == NULL || home[0] == '\0') {
        const struct passwd *entry = getpwuid(geteuid());
        home = entry == NULL ? "/" : entry->pw_dir;
    }
    return memory_strdup(home);
}

int hooks_new(const struct hooks_options *options, struct hooks **ret_hooks, struct error *error)
{
    struct hooks *hooks = memory_zalloc(sizeof(*hooks));
    hooks->options = *options;
    hooks->path = path_join(options->paths->hooks, "hooks.toml");
    hooks->home = home_directory();
    list_init(&hooks->waiting);
    list_init(&hooks->running);
    list_init(&hooks->refused);
    hooks->retry = loop_timer_new(options->loop, start_waiting, hooks);
    if (options->spawner != NULL) {
        int result =
            loop_descriptor_new(options->loop, spawner_descriptor(options->spawner), on_spawner_gone, hooks, &hooks->spawner_watch, error);
        if (result != 0) {
            hooks_free(hooks);
            return result;
        }
    }
    if (options->enabled) {
        load(hooks, false);
    }
    *ret_hooks = hooks;
    return 0;
}

void hooks_set(struct hooks *hooks, bool enabled, unsigned concurrency)
{
    bool was_enabled = hooks->options.enabled;
    hooks->options.enabled = enabled;
    hooks->options.concurrency = concurrency;
    if (enabled && !was_enabled) {
        load(hooks, false);
    }
    if (!enabled) {
        refuse_waiting(hooks, "disabled", "hooks.enabled is false");
    }
    start_waiting(hooks); /* there may be more places now */
}

void hooks_stop(struct hooks *hooks, int64_t grace_ms)
{
    hooks->stopping = true;
    refuse_waiting(hooks, "stopping", "the daemon stops");
    for (struct job *job = hooks->running.first; job != NULL; job = job->next) {
        run_terminate(job->run, grace_ms);
    }
}

void hooks_free(struct hooks *hooks)
{
    if (hooks == NULL) {
        return;
    }
    hooks->stopping = true;
    refuse_waiting(hooks, "stopping", "the daemon stops");
    while (hooks->running.first != NULL) {
        struct job *job = hooks->running.first;
        struct hook_result result = { .exit_status = -1, .lost = true };
        list_remove(&hooks->running, job);
        if (job->state == JOB_RUNS) {
            finish(job, &result);
        }
        job_free(job);
    }
    finish_refused(hooks);
    loop_defer_cancel(hooks->options.loop, finish_refused, hooks);
    loop_defer_cancel(hooks->options.loop, start_waiting, hooks);
    loop_descriptor_free(hooks->spawner_watch);
    loop_timer_free(hooks->retry);
    while (hooks->complaints != NULL) {
        struct complaint *complaint = hooks->complaints;
        hooks->complaints = complaint->next;
        free(complaint->hook);
        free(complaint->text);
        free(complaint);
    }
    hooks_file_release(&hooks->file);
    free(hooks->path);
    free(hooks->home);
    free(hooks);
}
