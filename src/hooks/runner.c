/* Owns one run: checks the file, confines, starts the keeper, reads what the hook says, ends it in time, kills what is left of it, reports, removes its directory.
 * A process of its own, so that it may block, and so that what comes back to it (it is a subreaper) belongs to this run and no other. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "hooks/internal.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

enum { READ_SIZE = 64 * 1024, LEFT_OVER_MAXIMUM = 1024 * 1024 /* of what stands in a pipe at the end; a pipe holds no more */ };

struct stream { /* the hook's stdout or stderr */
    int fd;     /* -1: closed */
    uint64_t bytes;
};

struct runner {
    const struct run_request *request;
    struct confinement confinement;
    struct hook_file file;
    int socket, notes, bubblewrap_status;
    struct stream output, errors;
    struct buffer kept; /* of the output */
    pid_t keeper;
    pid_t inner; /* bubblewrap's first process in its namespace; 0 unknown */
    int64_t started_ms, deadline_ms;
    bool ending; /* SIGTERM was sent */
    bool over, abandoned;
    struct report_end end;
};

static void refuse(struct runner *runner, const char *reason, const char *format, ...) ATTRIBUTE_PRINTF(3, 4);
static void refuse(struct runner *runner, const char *reason, const char *format, ...)
{
    va_list arguments;
    if (runner->end.reason[0] != '\0') {
        return; /* the first reason is the reason */
    }
    va_start(arguments, format);
    (void)vsnprintf(runner->end.detail, sizeof(runner->end.detail), format, arguments);
    va_end(arguments);
    (void)snprintf(runner->end.reason, sizeof(runner->end.reason), "%s", reason);
}

/* ---- starting ------------------------------------------------------------------------------------------------------------- */

static int prepare(struct runner *runner)
{
    char detail[HOOK_DETAIL_SIZE] = "";
    const char *reason = NULL;
    if (confine_begin(runner->request, &runner->confinement, &reason, detail) != 0 ||
        hook_file_open(runner->request, &runner->file, &reason, detail) != 0) {
        refuse(runner, reason, "%s", detail);
        return -1;
    }
    bool covered = confine_covers_all(runner->request); /* before it is hidden */
    confine_hide(runner->request, &runner->file, &runner->confinement);
    runner->end.network_unenforced = !runner->request->network_allow && !runner->confinement.network_denied;
    runner->end.directory_unenforced =
        !covered || (!runner->confinement.hidden && !runner->confinement.landlock && !runner->confinement.bubblewrap);
    return 0;
}

static int start(struct runner *runner, int payload)
{
    int output[2], errors[2], notes[2], status[2] = { -1, -1 };
    if (pipe2(output, O_CLOEXEC) != 0 || pipe2(errors, O_CLOEXEC) != 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, notes) != 0 ||
        (runner->confinement.bubblewrap && pipe2(status, O_CLOEXEC) != 0)) {
        refuse(runner, "exec", "cannot make its pipes: %s", strerror(errno));
        return -1;
    }
    const struct hook_descriptors descriptors = {
        .input = payload, .output = output[1], .errors = errors[1], .notes = notes[1], .bubblewrap_status = status[1]
    };
    runner->keeper = keeper_start(runner->request, &runner->file, &runner->confinement, &descriptors);
    if (runner->keeper < 0) {
        refuse(runner, "exec", "cannot fork: %s", strerror(errno));
        return -1;
    }
    (void)close(output[1]);
    (void)close(errors[1]);
    (void)close(notes[1]);
    if (status[1] >= 0) {
        (void)close(status[1]);
    }
    runner->output.fd = output[0];
    runner->errors.fd = errors[0];
    runner->notes = notes[0];
    runner->bubblewrap_status = status[0];
    return 0;
}

/* ---- what the hook says ----------------------------------------------------------------------------------------------------- */

static void keep(struct runner *runner, const char *bytes, size_t length)
{
    size_t limit = (size_t)runner->request->output_size_limit;
    size_t room = limit > runner->kept.length ? limit - runner->kept.length : 0;
    (void)buffer_append(&runner->kept, bytes, length < room ? length : room);
}

/* Once. False: nothing more, now or ever. */
static bool read_stream(struct runner *runner, struct stream *stream)
{
    static char bytes[READ_SIZE];
    ssize_t length = read(stream->fd, bytes, sizeof(bytes));
    if (length < 0 && errno == EINTR) {
        return true;
    }
    if (length <= 0) {
        if (length == 0 || errno != EAGAIN) {
            (void)close(stream->fd);
            stream->fd = -1;
        }
        return false;
    }
    stream->bytes += (uint64_t)length;
    if (stream == &runner->output) {
        keep(runner, bytes, (size_t)length);
    }
    return true;
}

/* After the end: what still stands in the pipe. Whoever has its other end now was handed it, and does not count. */
static void read_rest(struct runner *runner, struct stream *stream)
{
    uint64_t before = stream->bytes;
    if (stream->fd < 0 || fcntl(stream->fd, F_SETFL, O_NONBLOCK) != 0) {
        return;
    }
    while (stream->fd >= 0 && read_stream(runner, stream) && stream->bytes - before < LEFT_OVER_MAXIMUM) {
        continue;
    }
}

/* ---- ending it --------------------------------------------------------------------------------------------------------------- */

static void read_inner_pid(struct runner *runner)
{
    char text[256];
    const char *found;
    int pid = 0;
    if (runner->inner != 0 || fcntl(runner->bubblewrap_status, F_SETFL, O_NONBLOCK) != 0) {
        return;
    }
    ssize_t length = read(runner->bubblewrap_status, text, sizeof(text) - 1);
    text[length > 0 ? length : 0] = '\0';
    found = strstr(text, "\"child-pid\":");
    if (found != NULL && sscanf(found, "\"child-pid\": %d", &pid) == 1 && pid > 1) {
        runner->inner = pid;
    }
}

static void send_term(struct runner *runner, int64_t grace_ms)
{
    int64_t deadline = clock_monotonic_ms() + grace_ms;
    if (runner->ending && deadline > runner->deadline_ms) {
        deadline = runner->deadline_ms; /* asked again: never later than before */
    }
    runner->deadline_ms = deadline;
    runner->ending = true;
    if (runner->confinement.bubblewrap) {
        /* Its own processes would die of it at once and take the hook along; what it runs is in a session of its own. */
        read_inner_pid(runner);
        if (runner->inner > 0) {
            (void)kill(-runner->inner, SIGTERM);
            return;
        }
    }
    (void)send(runner->notes, "t", 1, MSG_NOSIGNAL);
}

static void read_note(struct runner *runner)
{
    struct hook_note note;
    ssize_t length = recv(runner->notes, &note, sizeof(note), 0);
    if (length < 0 && errno == EINTR) {
        return;
    }
    if (length != (ssize_t)sizeof(note)) {
        runner->end.lost = true; /* the keeper was killed */
        runner->over = true;
    } else if (note.kind == NOTE_FAILED) {
        refuse(runner, "exec", "cannot %s: %s", note.stage, strerror(note.value));
        runner->over = true;
    } else {
        runner->end.exit_status = WIFEXITED(note.value) ? WEXITSTATUS(note.value) : -1;
        runner->end.signal = WIFSIGNALED(note.value) ? WTERMSIG(note.value) : 0;
        runner->over = true;
    }
}

static void read_command(struct runner *runner)
{
    struct run_command command;
    ssize_t length = recv(runner->socket, &command, sizeof(command), 0);
    if (length < 0 && errno == EINTR) {
        return;
    }
    if (length == (ssize_t)sizeof(command)) {
        send_term(runner, command.grace_ms);
    } else {
        runner->abandoned = true; /* the daemon is gone, or wants nothing of it any more */
        runner->over = true;
    }
}

static void on_deadline(struct runner *runner)
{
    if (runner->ending) {
        runner->end.signal = SIGKILL;
        runner->end.exit_status = -1;
        runner->over = true;
    } else {
        runner->end.timed_out = true;
        send_term(runner, HOOK_KILL_GRACE_MS);
    }
}

static void watch(struct runner *runner)
{
    while (!runner->over) {
        struct pollfd wait[] = { { .fd = runner->socket, .events = POLLIN },
                                 { .fd = runner->notes, .events = POLLIN },
                                 { .fd = runner->output.fd, .events = POLLIN },
                                 { .fd = runner->errors.fd, .events = POLLIN } };
        int64_t left = runner->deadline_ms - clock_monotonic_ms();
        if (left <= 0) {
            on_deadline(runner);
            continue;
        }
        int ready = poll(wait, ARRAY_LENGTH(wait), left > INT_MAX ? INT_MAX : (int)left);
        if (ready <= 0) {
            continue;
        }
        if (wait[2].revents != 0) {
            (void)read_stream(runner, &runner->output);
        }
        if (wait[3].revents != 0) {
            (void)read_stream(runner, &runner->errors);
        }
        if (wait[1].revents != 0) {
            read_note(runner);
        }
        if (wait[0].revents != 0 && !runner->over) {
            read_command(runner);
        }
    }
}

static void kill_all(struct runner *runner)
{
    if (runner->keeper > 0) {
        (void)kill(runner->keeper, SIGKILL);
        (void)waitpid(runner->keeper, NULL, 0); /* of a pid namespace, not before the last of it is gone */
    }
    processes_kill_descendants(NULL, 0);
}

/* Bubblewrap that could not build the sandbox exits like a hook would; only when it started the hook it tells with which status that ended. */
static void judge_bubblewrap(struct runner *runner)
{
    char text[1024];
    size_t length = 0;
    if (runner->bubblewrap_status < 0 || runner->inner != 0 || runner->end.lost || runner->ending) {
        return;
    }
    (void)fcntl(runner->bubblewrap_status, F_SETFL, O_NONBLOCK);
    for (ssize_t got = 1; got > 0 && length<sizeof(text) - 1; length += got> 0 ? (size_t)got : 0) {
        got = read(runner->bubblewrap_status, text + length, sizeof(text) - 1 - length);
    }
    text[length] = '\0';
    if (strstr(text, "\"exit-code\"") == NULL && runner->end.signal == 0) {
        refuse(runner, "sandbox", "bubblewrap could not build the sandbox (it exited with %d); try: bwrap --ro-bind / / --unshare-pid true",
               runner->end.exit_status);
    }
}

/* ---- the report --------------------------------------------------------------------------------------------------------------- */

static void report(struct runner *runner)
{
    struct {
        char kind;
        char bytes[HOOK_OUTPUT_PART];
    } part = { .kind = REPORT_OUTPUT };
    for (size_t sent = 0; sent < runner->kept.length;) {
        size_t left = runner->kept.length - sent;
        size_t length = left < sizeof(part.bytes) ? left : sizeof(part.bytes);
        memcpy(part.bytes, runner->kept.data + sent, length);
        ssize_t written = send(runner->socket, &part, offsetof(__typeof__(part), bytes) + length, MSG_NOSIGNAL);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return;
        }
        sent += length;
    }
    runner->end.output_bytes = runner->output.bytes;
    runner->end.error_bytes = runner->errors.bytes;
    while (send(runner->socket, &runner->end, sizeof(runner->end), MSG_NOSIGNAL) < 0 && errno == EINTR) {
        continue;
    }
}

NO_RETURN void runner_main(const struct run_request *request, int socket, int payload)
{
    static struct runner runner;
    runner = (struct runner){ .request = request,
                              .socket = socket,
                              .notes = -1,
                              .bubblewrap_status = -1,
                              .output = { .fd = -1 },
                              .errors = { .fd = -1 },
                              .file = { .fd = -1 },
                              .started_ms = clock_monotonic_ms(),
                              .end = { .kind = REPORT_END, .exit_status = -1 } };
    buffer_init(&runner.kept, BUFFER_UNLIMITED);
#ifdef __linux__
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    (void)prctl(PR_SET_NAME, "hook-runner", 0, 0, 0);
#endif
    (void)signal(SIGCHLD, SIG_DFL);
    if (prepare(&runner) == 0 && start(&runner, payload) == 0) {
        runner.deadline_ms = runner.started_ms + request->timeout_ms;
        watch(&runner);
    }
    kill_all(&runner);
    runner.end.duration_ms = clock_monotonic_ms() - runner.started_ms;
    if (!runner.abandoned) {
        read_rest(&runner, &runner.output);
        read_rest(&runner, &runner.errors);
        judge_bubblewrap(&runner);
        report(&runner);
    }
    _exit(hook_tree_remove(request->directory) == 0 ? 0 : 1);
}
