/* Owns the two processes beneath a runner. The keeper is the first process of the hook's pid namespace, where there is one: it forks the hook, reaps whatever comes
 * to it, tells how the hook ended, and ends; with it everything in the namespace. Both die with the runner. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "hooks/internal.h"
#include "util/memory.h"
#include "util/text.h"

enum { FILES_MAXIMUM = 1024, ENVIRONMENT_MAXIMUM = 8 };

static void die_with_parent(void)
{
#ifdef __linux__
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
#endif
}

static void tell(int notes, enum hook_note_kind kind, int value, const char *stage)
{
    struct hook_note note = { .kind = kind, .value = value };
    (void)snprintf(note.stage, sizeof(note.stage), "%s", stage);
    (void)send(notes, &note, sizeof(note), MSG_NOSIGNAL);
}

char **hook_environment(const struct run_request *request)
{
    char **entries = memory_calloc(ENVIRONMENT_MAXIMUM, sizeof(*entries));
    size_t count = 0;
    entries[count++] = memory_strdup("PATH=/usr/bin:/bin");
    entries[count++] = memory_printf("HOME=%s", request->home);
    entries[count++] = memory_printf("CLAUDEMESH_MESH=%s", request->mesh);
    entries[count++] = memory_printf("CLAUDEMESH_HOOK_NAME=%s", request->hook);
    entries[count++] = memory_printf("CLAUDEMESH_EVENT_ID=%s", request->event_id);
    entries[count++] = memory_printf("CLAUDEMESH_DAEMON_SOCK=%s", request->socket);
    if (request->token[0] != '\0') {
        entries[count++] = memory_printf("CLAUDEMESH_CAPABILITY_TOKEN=%s", request->token);
    }
    return entries;
}

/* ---- the hook ------------------------------------------------------------------------------------------------------------- */

static void reset_signals(void)
{
    sigset_t none;
    for (int signal_number = 1; signal_number < NSIG; signal_number++) {
        (void)signal(signal_number, SIG_DFL); /* not all can be set; those are the default already */
    }
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static int set_limits(void)
{
    const struct rlimit none = { 0, 0 };
    struct rlimit files;
    if (setrlimit(RLIMIT_CORE, &none) != 0 || getrlimit(RLIMIT_NOFILE, &files) != 0) {
        return -1;
    }
    files.rlim_max = files.rlim_max < FILES_MAXIMUM ? files.rlim_max : FILES_MAXIMUM;
    files.rlim_cur = files.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &files);
}

/* Nothing but 0, 1 and 2 stays open over exec. */
static int close_the_rest(void)
{
#ifdef __linux__
    if (syscall(SYS_close_range, STDERR_FILENO + 1, UINT32_MAX, 1U << 2 /* CLOSE_RANGE_CLOEXEC */) == 0) {
        return 0;
    }
#endif
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return -1;
    }
    for (int fd = STDERR_FILENO + 1; (rlim_t)fd < limit.rlim_cur && fd < INT_MAX; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags >= 0) {
            (void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
        }
    }
    return 0;
}

static const char *execute(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement,
                           const struct hook_descriptors *descriptors, char **environment)
{
    const char *arguments[] = { file->path, NULL };
    if (confinement->bubblewrap) {
        struct bubblewrap_command command;
        confine_bubblewrap_command(request, file, descriptors->bubblewrap_status, &command);
        if (fcntl(descriptors->bubblewrap_status, F_SETFD, 0) != 0 || fcntl(file->fd, F_SETFD, 0) != 0) {
            return "keep descriptors for bubblewrap";
        }
        (void)execve(command.arguments[0], (char *const *)(uintptr_t)command.arguments, environment);
        return "start bubblewrap";
    }
#ifdef __linux__
    /* By descriptor what needs no name. A script's interpreter opens its name again: it is the checked file that stands there, bound by confine_hide; without
     * namespaces it is looked at once more, and lies in a directory that nobody else can write to. */
    if (!file->is_script && !confinement->hidden) {
        (void)syscall(SYS_execveat, file->fd, "", (char *const *)(uintptr_t)arguments, environment, AT_EMPTY_PATH);
        return "execute it";
    }
#endif
    if (!confinement->hidden && !hook_file_is_at_its_path(file)) {
        errno = ESTALE;
        return "find it at its place again";
    }
    (void)execve(file->path, (char *const *)(uintptr_t)arguments, environment);
    return "execute it";
}

NO_RETURN static void hook_main(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement,
                                const struct hook_descriptors *descriptors)
{
    char **environment = hook_environment(request);
    const char *stage = NULL;
    if (setsid() < 0) {
        stage = "make a session";
    } else if (dup2(descriptors->input, STDIN_FILENO) < 0 || dup2(descriptors->output, STDOUT_FILENO) < 0 ||
               dup2(descriptors->errors, STDERR_FILENO) < 0 || close_the_rest() != 0) {
        stage = "set its descriptors";
    } else if (set_limits() != 0) {
        stage = "set its limits";
    } else if (chdir(request->directory) != 0) {
        stage = "enter its directory";
    } else if (confine_finish(request, file, confinement) != 0) {
        stage = "confine it";
    }
    (void)umask(S_IRWXG | S_IRWXO);
    die_with_parent(); /* after what may change credentials, which forgets it */
    reset_signals();
    if (stage == NULL) {
        stage = execute(request, file, confinement, descriptors, environment);
    }
    tell(descriptors->notes, NOTE_FAILED, errno, stage);
    _exit(127);
}

/* ---- the keeper ------------------------------------------------------------------------------------------------------------- */

/* 0: the hook still runs. */
static bool reap_until(pid_t hook, int *ret_status)
{
    int status = 0;
    for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
        if (pid == hook) {
            *ret_status = status;
            return true;
        }
    }
    return false;
}

NO_RETURN static void keeper_main(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement,
                                  const struct hook_descriptors *descriptors)
{
    int status = 0;
    die_with_parent();
    int watch = processes_watch_children();
    if (confinement->pid_namespace) {
        confine_mount_proc();
    }
    pid_t hook = watch < 0 ? -1 : fork();
    if (hook == 0) {
        hook_main(request, file, confinement, descriptors);
    }
    if (hook < 0) {
        tell(descriptors->notes, NOTE_FAILED, errno, "fork it");
        _exit(1);
    }
    (void)close(descriptors->output); /* the runner sees the end of these when the hook closes them */
    (void)close(descriptors->errors);
    (void)close(descriptors->input);
    while (!reap_until(hook, &status)) {
        struct pollfd wait[] = { { .fd = descriptors->notes, .events = POLLIN }, { .fd = watch, .events = POLLIN } };
        if (poll(wait, ARRAY_LENGTH(wait), -1) < 0) {
            continue; /* EINTR: a child */
        }
        processes_drain(watch);
        if (wait[0].revents != 0) {
            char byte;
            if (recv(descriptors->notes, &byte, 1, 0) != 1) {
                break; /* the runner is gone */
            }
            (void)kill(-hook, SIGTERM);
        }
    }
    tell(descriptors->notes, NOTE_ENDED, status, "");
    _exit(0);
}

pid_t keeper_start(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement,
                   const struct hook_descriptors *descriptors)
{
    pid_t keeper = fork();
    if (keeper == 0) {
        keeper_main(request, file, confinement, descriptors);
    }
    return keeper;
}
