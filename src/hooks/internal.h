/* What the daemon's side and the spawner's side say to each other, and what the files of each side share. Both are the same program, forked: structs travel as
 * they are, over sockets that keep the borders of messages. */
#ifndef HOOKS_INTERNAL_H
#define HOOKS_INTERNAL_H

#include <limits.h>
#include <sys/types.h>

#include "hooks/hooks.h"

enum {
    HOOK_NAME_SIZE = 96, /* "on-topic-" and 64, the NUL */
    HOOK_EVENT_ID_SIZE = 256,
    HOOK_MESH_SIZE = 129, /* slugs are shorter */
    HOOK_RUN_DIRECTORY_SIZE = 65,
    HOOK_OTHERS_MAXIMUM = 16,
    HOOK_DETAIL_SIZE = 384,
    HOOK_REASON_SIZE = 16,
    HOOK_KILL_GRACE_MS = 5000,    /* 60-hooks: between SIGTERM and SIGKILL */
    HOOK_OUTPUT_PART = 32 * 1024, /* well below what a socket of any system takes at once */
    HOOK_COMMAND_FD_COUNT = 2
};

/* Daemon → spawner, with two descriptors: the runner's end of the run's own socket, and what becomes the hook's stdin. */
struct run_request {
    int64_t timeout_ms;
    uint64_t output_size_limit;
    bool network_allow, bubblewrap;
    unsigned without;
    unsigned other_count;
    char hook[HOOK_NAME_SIZE];
    char others[HOOK_OTHERS_MAXIMUM]
               [HOOK_NAME_SIZE]; /* hooks whose names begin with this one's and a dot: their files are not this one's */
    char event_id[HOOK_EVENT_ID_SIZE];
    char mesh[HOOK_MESH_SIZE];
    char directory[HOOK_RUN_DIRECTORY_SIZE];
    char root[PATH_MAX], hooks[PATH_MAX], home[PATH_MAX];
    char socket[HOOK_SOCKET_PATH_SIZE];
    char token[HOOK_TOKEN_SIZE];
};

/* Runner → daemon, over the run's own socket: any number of REPORT_OUTPUT, one REPORT_END; then the end of the socket, when the directory is gone. */
enum report_kind { REPORT_OUTPUT = 'o', REPORT_END = 'e' };
struct report_end {
    char kind;
    bool timed_out, lost, network_unenforced, directory_unenforced;
    int exit_status, signal;
    int64_t duration_ms;
    uint64_t output_bytes, error_bytes;
    char reason[HOOK_REASON_SIZE]; /* "": it was started */
    char detail[HOOK_DETAIL_SIZE];
};
/* Daemon → runner: end it, with this grace. The end of the socket: kill it at once. */
struct run_command {
    int64_t grace_ms;
};

/* ---- the daemon's side --------------------------------------------------------------------------------------------------- */

/* spawner.c: gives a run to the spawner. ERROR_BUSY: its socket is full, try later. ERROR_UNREACHABLE: it is gone. The descriptors stay the caller's. */
int spawner_request(struct hooks_spawner *spawner, struct run_request *request /* read only */, const int fds[static HOOK_COMMAND_FD_COUNT],
                    struct error *error) MUST_CHECK;
int spawner_descriptor(const struct hooks_spawner *spawner);
/* What the paths of all run directories begin with; the spawner removes at its end what does. Heap. */
char *spawner_run_prefix(void) MUST_CHECK;

/* run.c: one run, from its directory to its end. */
struct run;
struct run_owner { /* callbacks, on the loop thread */
    void *argument;
    void (*reported)(void *argument, struct run *run, const struct hook_result *result, const struct report_end *end); /* once */
    void (*over)(void *argument, struct run *run); /* once, after it: nothing is left of it; free it */
};
struct run_start {
    struct loop *loop;
    struct hooks_spawner *spawner;
    struct run_request *request; /* the directory is filled in before `prepare`, the access after it */
    const char *payload;
    size_t payload_length;
    bool (*prepare)(void *argument, const char *directory, struct hook_access *ret_access);
    void *argument;
    const char **ret_reason; /* on failure */
};
/* On failure nothing is left, but what `prepare` made outside its directory. */
int run_start(const struct run_start *start, const struct run_owner *owner, struct run **ret_run, struct error *error) MUST_CHECK;
void run_terminate(struct run *run, int64_t grace_ms);
void run_free(struct run *run); /* what still runs is killed */

/* ---- the spawner's side (single processes without threads; nothing here returns an error to anybody but the runner) -------- */

/* runner.c: one run. Never returns. Both descriptors become its own. */
NO_RETURN void runner_main(const struct run_request *request, int socket, int payload);

/* hook_file.c */
struct hook_file {
    int fd; /* -1: none */
    int directory;
    bool is_script; /* begins with "#!" */
    char path[PATH_MAX];
    dev_t device;
    ino_t inode;
};
/* Finds and checks the executable of that name in a directory (60-hooks, Which). -1: *ret_reason says "missing", "unsafe" or "ambiguous", and `detail` why. */
int hook_file_open(const struct run_request *request, struct hook_file *ret_file, const char **ret_reason,
                   char detail[static HOOK_DETAIL_SIZE]) MUST_CHECK;
bool hook_file_is_at_its_path(const struct hook_file *file);

/* confine.c: what keeps a hook where it belongs. */
struct confinement {
    bool namespaces;     /* the runner has namespaces of its own: mounts, network where it is denied */
    bool pid_namespace;  /* … and what it forks next is the first process of a new one */
    bool hidden;         /* the claudemesh directory is replaced, but for the hook's file */
    bool landlock;       /* the kernel has it, and it is to be used */
    bool bubblewrap;     /* to be started with bubblewrap */
    bool network_denied; /* as demanded, by namespaces or bubblewrap */
};
/* For the calling process, before it opens the hook's file. -1: the sandbox that is demanded is not there; *ret_reason, detail. */
int confine_begin(const struct run_request *request, struct confinement *ret_confinement, const char **ret_reason,
                  char detail[static HOOK_DETAIL_SIZE]) MUST_CHECK;
/* False when symbolic links lead out of the claudemesh directory to its daemon/: what lies there is not kept from hooks. */
bool confine_covers_all(const struct run_request *request);
/* Hides the claudemesh directory where namespaces allow it. */
void confine_hide(const struct run_request *request, const struct hook_file *file, struct confinement *confinement);
/* In the first process of the pid namespace: its own /proc. */
void confine_mount_proc(void);
/* In the hook's process, last before it is executed: no new privileges, capabilities, Landlock. -1 with errno: it must not run. */
int confine_finish(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement) MUST_CHECK;
enum { BUBBLEWRAP_ARGUMENTS = 96, BUBBLEWRAP_NUMBER_SIZE = 12 };
struct bubblewrap_command {
    const char *arguments[BUBBLEWRAP_ARGUMENTS]; /* NULL-terminated */
    char status_fd[BUBBLEWRAP_NUMBER_SIZE], file_fd[BUBBLEWRAP_NUMBER_SIZE];
};
/* status_fd and the file's descriptor must stay open over exec. */
void confine_bubblewrap_command(const struct run_request *request, const struct hook_file *file, int status_fd,
                                struct bubblewrap_command *ret_command);

/* landlock.c: the system calls, for kernels with and without. */
int landlock_abi(void); /* 0: not there */
struct landlock_demand {
    const char *keep_out; /* an existing directory to which nothing leads; NULL: every path is allowed */
    const char *own;      /* beneath which everything is allowed, wherever it lies */
    int executable;       /* a descriptor of a file that may be read and executed; -1 */
    bool no_tcp;
};
int landlock_enforce(const struct landlock_demand *demand) MUST_CHECK; /* no_new_privs is set already */

/* runner_hook.c: the processes beneath the runner. */
enum hook_note_kind { NOTE_FAILED = 'f', NOTE_ENDED = 'x' };
struct hook_note { /* keeper → runner */
    enum hook_note_kind kind;
    int value;      /* NOTE_ENDED: as waitpid gives it; NOTE_FAILED: errno */
    char stage[64]; /* NOTE_FAILED: what failed */
};
struct hook_descriptors {
    int input, output, errors; /* the hook's 0, 1, 2 */
    int notes;                 /* the keeper's end: struct hook_note outward; a byte inward sends SIGTERM to the hook's group */
    int bubblewrap_status;     /* -1 */
};
/* Forks the keeper, which forks the hook, waits for it and reports. -1 with errno. */
pid_t keeper_start(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement,
                   const struct hook_descriptors *descriptors) MUST_CHECK;
/* NULL-terminated; 60-hooks, "Environment: exactly". Free it with the process. */
char **hook_environment(const struct run_request *request) MUST_CHECK;

/* processes.c */
/* Kills every descendant of this process (a subreaper) but those in `spare` and their descendants, and reaps them, until there are none. */
void processes_kill_descendants(const pid_t *spare, size_t spare_count);
/* A pipe that becomes readable when a child changes its state; -1 with errno. Once a process. */
int processes_watch_children(void) MUST_CHECK;
void processes_drain(int watch); /* empties it */

/* hook_tree.c: removes a directory with everything beneath: any modes, any depth; never through a symbolic link. 0 when it is gone. */
int hook_tree_remove(const char *path);

#endif
