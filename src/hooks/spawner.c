/* Owns the spawner: a process forked from the daemon at its very start, which forks a runner for each run. It has no thread, no secret and no descriptor but its
 * socket, and it is not confined as the daemon is, so that hooks can be. It ends when the daemon does: the end of its socket tells. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/resource.h>
#endif

#include "hooks/internal.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

enum { SPAWNER_FD = 3, RUNNERS_MAXIMUM = 256, STOP_WAIT_MS = 2000, STOP_POLL_MS = 2, BASE_MAXIMUM = 38, TAG_BYTES = 3, TAG_SIZE = 7 };

struct hooks_spawner {
    int socket;
    pid_t pid;
};

static char run_base[BASE_MAXIMUM + 1] = "/tmp";
static char run_tag[TAG_SIZE]; /* random: which directories there are ours */

const char *hooks_run_base(void)
{
    return run_base;
}

char *spawner_run_prefix(void)
{
    return memory_printf("%s/claudemesh-%s-", run_base, run_tag);
}

/* ---- in the spawner ------------------------------------------------------------------------------------------------------ */

struct runner {
    pid_t pid;
    char directory[HOOK_RUN_DIRECTORY_SIZE];
};

static struct runner runners[RUNNERS_MAXIMUM];
static size_t runner_count;

static void forget_environment(void)
{
    extern char **environ;
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        memory_wipe(*entry, strlen(*entry)); /* also what /proc/<pid>/environ shows */
    }
}

/* Everything that came from the daemon but the one socket goes: pipes that somebody waits for the end of, the terminal, the log. */
static int let_go(int socket)
{
    int null_fd = open("/dev/null", O_RDWR);
    if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(null_fd, STDOUT_FILENO) < 0 || dup2(null_fd, STDERR_FILENO) < 0) {
        return -1;
    }
    if (socket != SPAWNER_FD && dup2(socket, SPAWNER_FD) < 0) {
        return -1;
    }
#ifdef __linux__
    if (close_range(SPAWNER_FD + 1, UINT32_MAX, 0) == 0) {
        return fcntl(SPAWNER_FD, F_SETFD, FD_CLOEXEC);
    }
#endif
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return -1;
    }
    for (int fd = SPAWNER_FD + 1; (rlim_t)fd < limit.rlim_cur && fd < INT_MAX; fd++) {
        (void)close(fd);
    }
    return fcntl(SPAWNER_FD, F_SETFD, FD_CLOEXEC);
}

static void ignore_what_is_for_the_daemon(void)
{
    static const int SIGNALS[] = { SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE };
    for (size_t index = 0; index < ARRAY_LENGTH(SIGNALS); index++) {
        (void)signal(SIGNALS[index], SIG_IGN);
    }
}

/* A runner that was killed: what it ran comes to this process (a subreaper), and its directory stays behind. */
static void clean_after(const struct runner *lost)
{
    pid_t spare[RUNNERS_MAXIMUM];
    for (size_t index = 0; index < runner_count; index++) {
        spare[index] = runners[index].pid;
    }
    processes_kill_descendants(spare, runner_count);
    (void)hook_tree_remove(lost->directory); /* there is nobody to tell; it is under the system's place for temporary files */
}

static void reap(void)
{
    int status = 0;
    for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
        for (size_t index = 0; index < runner_count; index++) {
            if (runners[index].pid != pid) {
                continue;
            }
            struct runner ended = runners[index];
            runners[index] = runners[--runner_count];
            if (WIFSIGNALED(status)) {
                clean_after(&ended);
            }
            break;
        }
    }
}

/* 1: one came; 0: none now; -1: the daemon is gone. */
static int receive(struct run_request *request, int fds[static HOOK_COMMAND_FD_COUNT])
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * HOOK_COMMAND_FD_COUNT)];
        struct cmsghdr align;
    } control = { .bytes = { 0 } };
    struct iovec part = { request, sizeof(*request) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
    ssize_t length = recvmsg(SPAWNER_FD, &message, MSG_CMSG_CLOEXEC);
    if (length < 0 && (errno == EINTR || errno == EAGAIN)) {
        return 0;
    }
    const struct cmsghdr *header = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (length != (ssize_t)sizeof(*request) || header == NULL || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(sizeof(int) * HOOK_COMMAND_FD_COUNT)) {
        return -1;
    }
    memcpy(fds, CMSG_DATA(header), sizeof(int) * HOOK_COMMAND_FD_COUNT);
    return 1;
}

static void start_runner(const struct run_request *request, const int fds[static HOOK_COMMAND_FD_COUNT])
{
    pid_t pid = -1;
    errno = EAGAIN;
    if (runner_count < RUNNERS_MAXIMUM) {
        pid = fork();
    }
    if (pid == 0) {
        (void)close(SPAWNER_FD);
        runner_main(request, fds[0], fds[1]);
    }
    if (pid > 0) {
        struct runner *runner = &runners[runner_count++];
        runner->pid = pid;
        memcpy(runner->directory, request->directory, sizeof(runner->directory));
    } else {
        struct report_end end = { .kind = REPORT_END, .exit_status = -1, .reason = "resources" };
        (void)snprintf(end.detail, sizeof(end.detail), "cannot fork: %s", strerror(errno));
        (void)send(fds[0], &end, sizeof(end), MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)hook_tree_remove(request->directory);
    }
}

/* A daemon that was killed after it had made a directory, and before it gave it to a runner. All runners have ended. */
static void sweep(void)
{
    char *prefix = spawner_run_prefix();
    const char *start = prefix + strlen(run_base) + 1;
    DIR *entries = opendir(run_base);
    if (entries == NULL) {
        free(prefix);
        return;
    }
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (string_has_prefix(entry->d_name, start)) {
            char *path = memory_printf("%s/%s", run_base, entry->d_name);
            (void)hook_tree_remove(path);
            free(path);
        }
    }
    (void)closedir(entries);
    free(prefix);
}

NO_RETURN static void spawner_main(int socket)
{
    static struct run_request request; /* too large for a stack frame one cares about */
    int fds[HOOK_COMMAND_FD_COUNT], watch;
    (void)setsid(); /* what is sent to the daemon's group, or typed at its terminal, is not for this process */
    ignore_what_is_for_the_daemon();
#ifdef __linux__
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* nobody looks in, hooks neither */
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    (void)prctl(PR_SET_NAME, "hooks-spawner", 0, 0, 0);
#endif
    watch = let_go(socket) == 0 ? processes_watch_children() : -1;
    if (watch < 0 || chdir("/") != 0) {
        _exit(1);
    }
    forget_environment();
    for (int received = 0; received >= 0;) {
        struct pollfd wait[] = { { .fd = SPAWNER_FD, .events = POLLIN }, { .fd = watch, .events = POLLIN } };
        if (poll(wait, ARRAY_LENGTH(wait), -1) < 0 && errno != EINTR) {
            break;
        }
        processes_drain(watch);
        reap();
        if (wait[0].revents == 0) {
            continue;
        }
        received = receive(&request, fds);
        if (received == 1) {
            start_runner(&request, fds);
            memory_wipe(&request, sizeof(request));
            (void)close(fds[0]);
            (void)close(fds[1]);
        }
    }
    /* The daemon is gone, and with it the other ends of the runs' sockets: the runners kill what they started, and end. */
    while (runner_count > 0) {
        struct pollfd wait = { .fd = watch, .events = POLLIN };
        (void)poll(&wait, 1, -1);
        processes_drain(watch);
        reap();
    }
    sweep();
    _exit(0);
}

/* ---- in the daemon --------------------------------------------------------------------------------------------------------- */

static void find_run_base(void)
{
    const char *variable = getenv("TMPDIR");
    struct stat status;
    if (variable != NULL && variable[0] == '/' && strlen(variable) <= BASE_MAXIMUM && stat(variable, &status) == 0 &&
        S_ISDIR(status.st_mode) && access(variable, W_OK | X_OK) == 0 && string_copy(run_base, sizeof(run_base), variable) == 0) {
        return;
    }
    (void)snprintf(run_base, sizeof(run_base), "/tmp");
}

static void choose_tag(void)
{
    uint8_t bytes[TAG_BYTES];
    random_bytes(bytes, sizeof(bytes));
    (void)snprintf(run_tag, sizeof(run_tag), "%02x%02x%02x", bytes[0], bytes[1], bytes[2]);
}

int hooks_spawner_start(struct hooks_spawner **ret_spawner, struct error *error)
{
    int ends[2];
    find_run_base();
    choose_tag();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        return error_set_errno(error, "Cannot make a socket for the process that starts hooks");
    }
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        int result = error_set_errno(error, "Cannot start the process that starts hooks");
        (void)close(ends[0]);
        (void)close(ends[1]);
        return result;
    }
    if (pid == 0) {
        spawner_main(ends[1]);
    }
    (void)close(ends[1]);
    struct hooks_spawner *spawner = memory_zalloc(sizeof(*spawner));
    spawner->socket = ends[0];
    spawner->pid = pid;
    *ret_spawner = spawner;
    return 0;
}

void hooks_spawner_stop(struct hooks_spawner *spawner)
{
    if (spawner == NULL) {
        return;
    }
    (void)close(spawner->socket);
    int64_t end = clock_monotonic_ms() + STOP_WAIT_MS;
    while (waitpid(spawner->pid, NULL, WNOHANG) == 0 && clock_monotonic_ms() < end) {
        const struct timespec pause = { .tv_nsec = STOP_POLL_MS * 1000000L };
        (void)nanosleep(&pause, NULL);
    }
    free(spawner);
}

int spawner_descriptor(const struct hooks_spawner *spawner)
{
    return spawner->socket;
}

int spawner_request(struct hooks_spawner *spawner, struct run_request *request, const int fds[static HOOK_COMMAND_FD_COUNT],
                    struct error *error)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * HOOK_COMMAND_FD_COUNT)];
        struct cmsghdr align;
    } control = { .bytes = { 0 } };
    struct iovec part = { request, sizeof(*request) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    int result = 0;
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * HOOK_COMMAND_FD_COUNT);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * HOOK_COMMAND_FD_COUNT);
    ssize_t sent;
    do {
        sent = sendmsg(spawner->socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        bool busy = errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS;
        result = busy ? error_set(error, ERROR_BUSY, "The process that starts hooks is busy.")
                      : error_set(error, ERROR_UNREACHABLE, "The process that starts hooks is gone: %s.", strerror(errno));
    }
    return result;
}
