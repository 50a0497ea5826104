/* The room that runs hooks (60-hooks): programs of the user's that the daemon starts on events. Nothing else in claudemesh starts processes.
 * It owns hooks.toml, the queue, the runs, and the spawner, a process that is made before the daemon has a thread, a secret or a lock-down. It does not
 * know what an event means, what a reply is, or who may connect to a run's socket: its owner does.
 *
 * Loop thread only, but for hooks_spawner_start; nothing here blocks. What a hook does (forking, flooding, hanging) is met in its runner, a process of
 * its own for each run, never in the daemon. */
#ifndef HOOKS_HOOKS_H
#define HOOKS_HOOKS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "hooks/hook_config.h"
#include "net/loop.h"
#include "util/attributes.h"
#include "util/error.h"

/* ---- the spawner --------------------------------------------------------------------------------------------------------- */

struct hooks_spawner;
/* Forks the helper that starts all hooks. First thing in daemon_run: one thread, no descriptor open that matters, no secret in memory, not yet confined
 * (what confines the daemon afterwards must leave it sendmsg, recvmsg, socketpair, memfd_create, fcntl, and writing beneath hooks_run_base). The helper
 * ends by itself, with all that runs, when this process dies, however it dies. */
int hooks_spawner_start(struct hooks_spawner **ret_spawner, struct error *error) MUST_CHECK;
/* Ends it and what still runs; waits for that, 2 s at most. Takes NULL. After hooks_free. */
void hooks_spawner_stop(struct hooks_spawner *spawner);
/* The directory in which each run gets its own ($TMPDIR when that is a usable absolute path, else /tmp). Static storage; known after hooks_spawner_start. */
const char *hooks_run_base(void);

/* ---- the engine ----------------------------------------------------------------------------------------------------------- */

enum {
    HOOK_PAYLOAD_MAXIMUM = 256 * 1024, /* 60-hooks: what a hook reads */
    HOOK_QUEUE_MAXIMUM = 1024,         /* 60-hooks: runs that wait */
    HOOK_QUEUE_BYTES_MAXIMUM =
        80 * 1024 * 1024, /* of their payloads: 1,024 of the longest messages of a broker with default limits; holds the daemon's 256 MiB */
    HOOK_SOCKET_PATH_SIZE = 108, /* with the NUL: sun_path */
    HOOK_TOKEN_SIZE = 128        /* with the NUL */
};

/* One hook to run for one event. hooks_run copies what it needs; in callbacks it is the copy, which lives until `done` returns. */
struct hook_result;
struct hook_event {
    const char *hook;      /* "on-message", "on-topic-deploys", "pre-send" … */
    const char *event_id;  /* CLAUDEMESH_EVENT_ID */
    const char *mesh;      /* slug; "" when the event belongs to none */
    const json_t *payload; /* an object; borrowed for the call of hooks_run, NULL in callbacks */
    /* Exactly once for each hooks_run, on the loop thread, never inside it: when the run is over, or will never be. */
    void (*done)(void *argument, const struct hook_event *event, const struct hook_result *result);
    void *argument;
};

/* How a run ended. Borrowed; gone when `done` returns. */
struct hook_result {
    const char *hook, *event_id, *mesh;
    /* NULL: it ran. Else why not: "disabled", "queue_full", "configuration", "missing", "unsafe", "ambiguous", "sandbox", "exec", "spawner", "resources", "prepare", "stopping",
     * "withdrawn". Of "resources" (no room, descriptor or process just now) and "prepare" a later try may have more luck. */
    const char *not_started;
    const char *detail; /* a sentence for the log, with not_started; else NULL */
    int exit_status;    /* 0 to 255; -1 when a signal ended it or it was not started */
    int signal;         /* 0: none */
    bool timed_out;     /* over timeout_s; exit_status and signal say how it went then */
    bool lost;          /* how it ended is not known: its runner was killed */
    int64_t duration_ms;
    uint64_t output_bytes; /* all it wrote to stdout, also what was thrown away */
    uint64_t error_bytes;  /* to stderr; never kept, it may hold what it likes */
    bool output_too_large; /* over output_size_limit: `output` is NULL then */
    bool output_invalid;   /* neither empty nor one JSON object */
    const json_t *output;  /* the JSON object it printed; NULL */
};

/* It ran, ended by itself with exit status 0, and what it printed is empty or an object. */
bool hook_result_is_success(const struct hook_result *result);
enum { HOOK_EXIT_LABEL_SIZE = 16 };
/* For metrics, few values: "0" to "255", "signal", "timeout", "lost", "not_started". */
void hook_result_exit_label(const struct hook_result *result, char ret_label[HOOK_EXIT_LABEL_SIZE]);
/* The audit line (60-hooks, Audit), `hook_run`; for the owner to call once in (or after) each `done`, when it knows the last two. What was not started
 * gives no line: the engine has logged it, once for each state. */
void hook_result_log(const struct hook_result *result, bool replied, unsigned capability_calls);

/* What `prepare` gives a run. */
struct hook_access {
    char socket_path[HOOK_SOCKET_PATH_SIZE]; /* CLAUDEMESH_DAEMON_SOCK */
    char token[HOOK_TOKEN_SIZE];             /* CLAUDEMESH_CAPABILITY_TOKEN; "": none. The engine wipes it */
};

struct hooks_callbacks {
    void *argument;
    /* Just before a run starts. `directory` is the run's own, fresh, 0700, its path at most 64 bytes: the place for its socket; the hook works in it, and it
     * is removed, with whatever is in it, after the run. False: the run is not started ("prepare"). */
    bool (*prepare)(void *argument, const struct hook_event *event, const struct hook_config *config, const char *directory,
                    struct hook_access *ret_access);
    /* For each prepare that returned true, once, before `done`: the hook has ended; its token is worth nothing from now on. */
    void (*finished)(void *argument, const struct hook_event *event);
    /* What hooks.toml demands and the system does not do; the hook ran nevertheless. reason: "network", "directory". */
    void (*unenforceable)(void *argument, const char *hook, const char *reason);
};

struct hooks_options {
    struct loop *loop;
    const struct config_paths *paths; /* borrowed for good */
    struct hooks_spawner *spawner;    /* borrowed for good; NULL: nothing runs ("spawner") */
    unsigned concurrency;             /* runs at once */
    bool enabled;                     /* [hooks] enabled */
    struct hooks_callbacks callbacks;
    unsigned without; /* of enum hook_means, for tests: what to do as if this system had not */
};
enum hook_means { HOOK_MEANS_NAMESPACES = 1, HOOK_MEANS_LANDLOCK = 2, HOOK_MEANS_BUBBLEWRAP = 4, HOOK_MEANS_PID_NAMESPACE = 8 };

struct hooks;
/* Reads hooks.toml (absent: no hook). What is wrong in it is logged, and runs nothing; it is no error of this call. */
int hooks_new(const struct hooks_options *options, struct hooks **ret_hooks, struct error *error) MUST_CHECK;
/* Whatever waits or runs is `done` ("stopping", or lost) and killed. Takes NULL. */
void hooks_free(struct hooks *hooks);

/* Whether hooks.toml names the hook and enables it: then its events are worth preparing. Also true when its section is wrong and does not say that it is disabled: hooks_run says so, and a
 * pre-send that cannot run denies. (A hooks.toml that cannot be read at all: true for pre-send alone, if a file of that name stands in hooks/.) */
bool hooks_wants(const struct hooks *hooks, const char *hook);
/* Its section; NULL when hooks_wants is false or the section is wrong. Valid until the next reload. */
const struct hook_config *hooks_config(const struct hooks *hooks, const char *hook);
/* Starts it, or lets it wait for a place. Never fails: `done` says what became of it. */
void hooks_run(struct hooks *hooks, const struct hook_event *event);
/* Nobody wants to know any more: the event with this argument, if it still waits for a place, is `done` ("withdrawn") soon. One that runs goes on. */
void hooks_withdraw(struct hooks *hooks, const void *argument);
size_t hooks_waiting(const struct hooks *hooks);
size_t hooks_running(const struct hooks *hooks);
uint64_t hooks_dropped(const struct hooks *hooks); /* not queued because the queue was full */

/* SIGHUP: hooks.toml again. One that cannot be read leaves the old one in force, and says so. */
void hooks_reload(struct hooks *hooks);
/* [hooks] of config.toml, while running. Disabled: what waits is done ("disabled"), what runs ends by itself. */
void hooks_set(struct hooks *hooks, bool enabled, unsigned concurrency);
/* The daemon stops: what waits is done ("stopping"), what runs gets SIGTERM now and SIGKILL after `grace_ms`. hooks_running tells when it is over. */
void hooks_stop(struct hooks *hooks, int64_t grace_ms);

#endif
