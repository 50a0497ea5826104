/* A daemon's hooks without the daemon: a loop, a configuration directory, the spawner, scripts, and what became of them. Include after cmocka.h. */
#ifndef TESTS_UNIT_HOOKS_WORLD_H
#define TESTS_UNIT_HOOKS_WORLD_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hooks/hooks.h"
#include "json/json.h"
#include "scratch.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

#define PATIENCE_MS (60 * 1000) /* a machine may be busy */

struct outcome {
    struct hook_result result; /* its pointers are literals, or the copies below */
    char not_started[32], detail[512];
    json_t *output;
    unsigned calls;
};

struct world {
    char *scratch;
    struct config_paths paths;
    struct loop *loop;
    struct loop_timer *patience;
    struct hooks *hooks;
    unsigned expected, done, prepared, finished, unenforceable;
    char unenforceable_reason[32], directory[128];
    bool refuse_prepare, timed_out, until_idle;
    struct loop_timer *idle;
};

static struct hooks_spawner *spawner; /* made first thing in main */
static pid_t test_pid;                /* … and this set */

/* "@@" stands for this process's number, so that two of these tests at once do not take each other's sleepers for their own. */
static inline char *expand(const char *text)
{
    char *expanded = memory_strdup(text), number[16];
    (void)snprintf(number, sizeof(number), "%d", (int)test_pid);
    for (char *mark = strstr(expanded, "@@"); mark != NULL; mark = strstr(expanded, "@@")) {
        char *longer = memory_printf("%.*s%s%s", (int)(mark - expanded), expanded, number, mark + 2);
        free(expanded);
        expanded = longer;
    }
    return expanded;
}

static inline void world_write(const struct world *world, const char *name, mode_t mode, const char *text)
{
    char *path = path_join(world->paths.hooks, name), *expanded = expand(text);
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, expanded, strlen(expanded)), strlen(expanded));
    assert_int_equal(fchmod(fd, mode), 0);
    (void)close(fd);
    free(expanded);
    free(path);
}

static inline bool on_prepare(void *argument, const struct hook_event *event, const struct hook_config *config, const char *directory,
                              struct hook_access *ret_access)
{
    struct world *world = argument;
    (void)event;
    world->prepared++;
    assert_non_null(config);
    assert_true(strlen(directory) <= 64);
    assert_int_equal(string_copy(world->directory, sizeof(world->directory), directory), 0);
    (void)snprintf(ret_access->socket_path, sizeof(ret_access->socket_path), "%s/s", directory);
    if (config->scope_count > 0)
        (void)snprintf(ret_access->token, sizeof(ret_access->token), "token-of-this-run");
    return !world->refuse_prepare;
}

static inline void on_finished(void *argument, const struct hook_event *event)
{
    struct world *world = argument;
    (void)event;
    world->finished++;
}

static inline void on_unenforceable(void *argument, const char *hook, const char *reason)
{
    struct world *world = argument;
    (void)hook;
    world->unenforceable++;
    (void)snprintf(world->unenforceable_reason, sizeof(world->unenforceable_reason), "%s", reason);
}

static inline void on_impatient(void *argument)
{
    struct world *world = argument;
    world->timed_out = true;
    loop_stop(world->loop);
}

static inline void on_idle(void *argument)
{
    struct world *world = argument;
    if (hooks_running(world->hooks) + hooks_waiting(world->hooks) == 0)
        loop_stop(world->loop);
    else
        loop_timer_start(world->idle, 2);
}

static inline void world_open(struct world *world, const char *toml, unsigned without, unsigned concurrency)
{
    struct error error = { .message = "" };
    *world = (struct world){ .scratch = scratch_make() };
    char *root = path_join(world->scratch, "configuration");
    assert_int_equal(config_paths_init(root, &world->paths, NULL, &error), 0);
    assert_int_equal(config_paths_make(&world->paths, &error), 0);
    free(root);
    world_write(world, "hooks.toml", 0600, toml);
    assert_int_equal(loop_new(&world->loop, &error), 0);
    world->patience = loop_timer_new(world->loop, on_impatient, world);
    world->idle = loop_timer_new(world->loop, on_idle, world);
    const struct hooks_options options = { .loop = world->loop,
                                           .paths = &world->paths,
                                           .spawner = spawner,
                                           .concurrency = concurrency,
                                           .enabled = true,
                                           .callbacks = { world, on_prepare, on_finished, on_unenforceable },
                                           .without = without };
    assert_int_equal(hooks_new(&options, &world->hooks, &error), 0);
}

static inline void world_close(struct world *world)
{
    hooks_free(world->hooks);
    loop_timer_free(world->patience);
    loop_timer_free(world->idle);
    loop_free(world->loop);
    config_paths_release(&world->paths);
    scratch_remove(world->scratch);
}

struct pending {
    struct world *world;
    struct outcome *outcome;
};

static inline void on_done(void *argument, const struct hook_event *event, const struct hook_result *result)
{
    struct pending *pending = argument;
    struct world *world = pending->world;
    struct outcome *outcome = pending->outcome;
    assert_string_equal(event->hook, result->hook);
    outcome->calls++;
    outcome->result = *result;
    outcome->output = json_deep_copy(result->output);
    outcome->result.output = NULL;
    if (result->not_started != NULL) {
        (void)snprintf(outcome->not_started, sizeof(outcome->not_started), "%s", result->not_started);
        (void)snprintf(outcome->detail, sizeof(outcome->detail), "%s", result->detail);
        outcome->result.not_started = outcome->not_started;
    }
    hook_result_log(result, false, 0);
    free(pending);
    if (++world->done == world->expected)
        loop_stop(world->loop);
}

static inline void world_start(struct world *world, const char *hook, const char *payload, struct outcome *outcome)
{
    struct error error;
    json_t *object = NULL;
    struct pending *pending = memory_zalloc(sizeof(*pending));
    *pending = (struct pending){ world, outcome };
    *outcome = (struct outcome){ .calls = 0 };
    assert_int_equal(json_parse_strict(payload, strlen(payload), &object, &error), 0);
    const struct hook_event event = {
        .hook = hook, .event_id = "event-1", .mesh = "team", .payload = object, .done = on_done, .argument = pending
    };
    unsigned before = world->done;
    world->expected++;
    hooks_run(world->hooks, &event);
    assert_int_equal(world->done, before); /* never within the call */
    json_decref(object);
}

static inline void world_wait(struct world *world)
{
    loop_timer_start(world->patience, PATIENCE_MS);
    if (world->done < world->expected)
        loop_run(world->loop);
    loop_timer_stop(world->patience);
    assert_false(world->timed_out);
}

/* Until the directories are gone, too. */
static inline void world_settle(struct world *world)
{
    loop_timer_start(world->patience, PATIENCE_MS);
    loop_timer_start(world->idle, 0);
    loop_run(world->loop);
    loop_timer_stop(world->patience);
    loop_timer_stop(world->idle);
    assert_false(world->timed_out);
}

static inline void world_run(struct world *world, const char *hook, struct outcome *outcome)
{
    world_start(world, hook, "{\"id\":\"event-1\",\"body\":\"hello\"}", outcome);
    world_wait(world);
    assert_int_equal(outcome->calls, 1);
}

static inline const char *output_text(const struct outcome *outcome, const char *field)
{
    if (outcome->output == NULL)
        fail_msg("no output: exit %d signal %d not_started %s (%s)", outcome->result.exit_status, outcome->result.signal,
                 outcome->not_started, outcome->detail);
    const char *text = json_string_value(json_object_get(outcome->output, field));
    return text == NULL ? "" : text;
}

/* What a process left in a file, once it is there. */
static inline char *wait_for_file(const char *path)
{
    struct buffer bytes;
    struct error error;
    int64_t end = clock_monotonic_ms() + PATIENCE_MS;
    buffer_init(&bytes, 1024 * 1024);
    while (file_read(path, &bytes, &error) != 0 || bytes.length == 0 || bytes.data[bytes.length - 1] != '\n') {
        assert_true(clock_monotonic_ms() < end);
        buffer_reset(&bytes);
        (void)usleep(2000);
    }
    char *text = buffer_take(&bytes, NULL);
    buffer_release(&bytes);
    return text;
}

/* Whether any process has these words in its command line. */
static inline unsigned count_processes(const char *words)
{
    unsigned count = 0;
    char *expanded = expand(words);
    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    for (const struct dirent *entry = readdir(proc); entry != NULL; entry = readdir(proc)) {
        char path[300], line[4096];
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        (void)snprintf(path, sizeof(path), "/proc/%s/cmdline", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
        if (fd >= 0)
            (void)close(fd);
        for (ssize_t at = 0; at < length; at++)
            line[at] = line[at] == '\0' ? ' ' : line[at];
        line[length > 0 ? length : 0] = '\0';
        count += strstr(line, expanded) != NULL ? 1 : 0;
    }
    (void)closedir(proc);
    free(expanded);
    return count;
}

static inline void wait_for_no_process(const char *words)
{
    int64_t end = clock_monotonic_ms() + PATIENCE_MS;
    while (count_processes(words) > 0) {
        assert_true(clock_monotonic_ms() < end);
        (void)usleep(2000);
    }
}

#endif
