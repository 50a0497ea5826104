/* `claudemesh daemon up`, `down`, `restart`: starts and stops the process. The lock says whether one runs, never a number in a file. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/daemon_stop.h"
#include "cli/ephemeral.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/service.h"
#include "daemon/daemon.h"
#include "identity/identity.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

enum { READY_MS = 3000, STOP_DEFAULT_S = 5, STOP_POLL_MS = 5 };

#define UP_OPTIONS                                                                                                                    \
    { "no-tcp", 0, OPTION_FLAG, NULL, "serve the Unix socket only" },                                                                 \
        { "tcp-port", 0, OPTION_VALUE, "N", "TCP port on 127.0.0.1 (47823; any free one when it is taken, or 0)" },                   \
        { "public-health", 0, OPTION_FLAG, NULL, "GET /v1/health needs no token" },                                                   \
        { "name", 0, OPTION_VALUE, "N", "display name at the brokers" },                                                              \
        { "persistent", 0, OPTION_FLAG, NULL, "keep this identity (the default, but in CI with an invite)" },                         \
        { "ephemeral", 0, OPTION_FLAG, NULL, "keys in memory alone; the member is removed from the mesh at the end" },                \
        { "invite", 0, OPTION_VALUE, "LINK", "what an ephemeral member enrols with ('-': standard input; else $CLAUDEMESH_INVITE)" }, \
        { "ttl", 0, OPTION_VALUE, "D", "end an ephemeral member after 90s, 30m, 2h" },                                                \
        { "container", 0, OPTION_FLAG, NULL, "as in a container: no TCP unless asked for" },                                          \
        { "clone-policy", 0, OPTION_VALUE, "refuse|warn|allow", "on another host than last time (refuse)" },                          \
        { "accept-cloned-identity", 0, OPTION_FLAG, NULL, "keep the keys on this other host, from now on" },                          \
    {                                                                                                                                 \
        "exit-on-refused", 0, OPTION_FLAG, NULL, "exit 8 when the only link is refused, for a supervisor to see"                      \
    }

static const struct cli_option OPTIONS_UP[] = {
    { "foreground", 0, OPTION_FLAG, NULL, "stay (services use this); log to stderr" },
    UP_OPTIONS,
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_RESTART[] = {
    { "timeout", 0, OPTION_VALUE, "SECONDS", "how long to wait for the old one to stop (5)" },
    UP_OPTIONS,
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_DOWN[] = {
    { "timeout", 0, OPTION_VALUE, "SECONDS", "how long to wait for it to stop (5)" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static int read_up_options(struct cli *cli, struct daemon_options *ret_options)
{
    struct error error = { 0 };
    int64_t port;
    if (cli_integer(cli, "tcp-port", 0, 65535, -1, &port, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    const char *policy = cli_value(cli, "clone-policy");
    if (policy != NULL && !string_equal(policy, "refuse") && !string_equal(policy, "warn") && !string_equal(policy, "allow")) {
        return cli_fail_usage(cli, "--clone-policy is refuse, warn or allow");
    }
    if (cli_has(cli, "no-tcp") && port >= 0) {
        return cli_fail_usage(cli, "--no-tcp and --tcp-port contradict each other");
    }
    *ret_options = (struct daemon_options){
        .paths = &cli->paths,
        .mesh = cli->mesh,
        .display_name = cli_value(cli, "name"),
        .tcp = cli_has(cli, "no-tcp") ? 0
               : port >= 0            ? 1
                                      : -1,
        .tcp_port = (int)port,
        .public_health = cli_has(cli, "public-health"),
        .container = cli_has(cli, "container"),
        .clone_policy = policy,
        .accept_cloned_identity = cli_has(cli, "accept-cloned-identity"),
        .exit_on_refused = cli_has(cli, "exit-on-refused"),
        .ready_fd = -1,
    };
    return EXIT_DONE;
}

static void wait_ms(int64_t ms)
{
    struct timespec duration = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    (void)nanosleep(&duration, NULL);
}

/* In the child: a session of its own, no terminal, nothing inherited but the pipe. Never returns. */
static void become_daemon(struct daemon_options *options, int null_fd, int ready_fd)
{
    (void)setsid();
    (void)dup2(null_fd, STDIN_FILENO);
    (void)dup2(null_fd, STDOUT_FILENO);
    (void)dup2(null_fd, STDERR_FILENO);
    if (null_fd > STDERR_FILENO) {
        (void)close(null_fd);
    }
    if (chdir("/") != 0) { /* the paths are absolute */
        _exit(EXIT_FAILED);
    }
    options->ready_fd = ready_fd;
    _exit(daemon_run(options));
}

static void print_started(struct cli *cli, pid_t pid)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_integer(document, "pid", pid);
        json_put_string(document, "socket", cli->paths.socket);
        json_put_string(document, "log", cli->paths.log);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, "the daemon is running");
    cli_say(cli, "  pid     %d", (int)pid);
    cli_say(cli, "  socket  %s", cli->paths.socket);
    cli_say(cli, "  log     %s", cli->paths.log);
}

/* What the child says on the pipe: "ready", an error line, nothing (it ended, or takes too long). */
static int await_ready(struct cli *cli, int fd, pid_t child)
{
    struct buffer said;
    int64_t end = clock_monotonic_ms() + READY_MS;
    bool open = true;
    int status;

    buffer_init(&said, 4096);
    while (open && memchr(said.data, '\n', said.length) == NULL) {
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        int64_t left = end - clock_monotonic_ms();
        int waited = left <= 0 ? 0 : poll(&wait, 1, (int)left);
        if (waited < 0 && errno == EINTR) {
            continue;
        }
        if (waited <= 0) {
            break;
        }
        char *place = buffer_reserve(&said, 512);
        ssize_t count = place == NULL ? 0 : read(fd, place, 512);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        open = count > 0;
        buffer_commit(&said, count > 0 ? (size_t)count : 0);
    }
    said.data[strcspn(said.data, "\n")] = '\0';
    if (string_equal(said.data, "ready")) {
        print_started(cli, child);
        status = EXIT_DONE;
    } else if (open && said.length == 0) {
        status = cli_fail(cli, EXIT_TIMED_OUT, "the daemon (pid %d) is not ready after %d s; it goes on starting, see %s", (int)child,
                          READY_MS / 1000, cli->paths.log);
    } else {
        int ended = 0;
        bool exited = waitpid(child, &ended, 0) == child && WIFEXITED(ended) && WEXITSTATUS(ended) != 0;
        status = cli_fail(cli, exited && WEXITSTATUS(ended) <= EXIT_LINK_REFUSED ? (enum exit_code)WEXITSTATUS(ended) : EXIT_FAILED,
                          "the daemon did not start: %s", said.length > 0 ? said.data : "it ended without saying why; see its log");
    }
    buffer_release(&said);
    return status;
}

static int start_detached(struct cli *cli, struct daemon_options *options)
{
    int pipe_fds[2];
    /* Before there is a child: one that kept our standard output would keep whoever reads it waiting for as long as the daemon runs. */
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0) {
        return cli_fail(cli, EXIT_FAILED, "cannot open /dev/null: %s", strerror(errno));
    }
    if (pipe(pipe_fds) != 0) {
        int status = cli_fail(cli, EXIT_FAILED, "cannot make a pipe: %s", strerror(errno));
        (void)close(null_fd);
        return status;
    }
    (void)fcntl(pipe_fds[1], F_SETFD, FD_CLOEXEC); /* not for what the daemon starts */
    (void)fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        int status = cli_fail(cli, EXIT_FAILED, "cannot start a process: %s", strerror(errno));
        (void)close(pipe_fds[0]);
        (void)close(pipe_fds[1]);
        (void)close(null_fd);
        return status;
    }
    if (child == 0) {
        (void)close(pipe_fds[0]);
        become_daemon(options, null_fd, pipe_fds[1]);
    }
    (void)close(null_fd);
    (void)close(pipe_fds[1]);
    int status = await_ready(cli, pipe_fds[0], child);
    (void)close(pipe_fds[0]);
    return status;
}

static int fail_running(struct cli *cli, int64_t pid)
{
    enum service_kind kind;
    if (!service_runs(pid, &kind)) {
        return cli_fail(cli, EXIT_FAILED, "the daemon is already running, pid %" PRId64, pid);
    }
    return cli_fail(cli, EXIT_FAILED, "the daemon is already running, pid %" PRId64 ", as a service; see `systemctl %sstatus %s`", pid,
                    kind == SERVICE_USER ? "--user " : "", SERVICE_UNIT_NAME);
}

static int run_foreground(struct daemon_options *options)
{
    const char *label = getenv("XPC_SERVICE_NAME"); /* launchd's */
    bool is_launchd = string_equal(label, SERVICE_LABEL);
    options->log_to_stderr = !is_launchd; /* it keeps no journal */
    int status = daemon_run(options);
    /* launchd starts again whatever ends with another status than 0, and knows no exceptions; these would be the same again. */
    return is_launchd && (status == EXIT_IDENTITY || status == EXIT_LINK_REFUSED) ? EXIT_DONE : status;
}

static int run_up(struct cli *cli)
{
    struct daemon_options options;
    struct ephemeral ephemeral = { 0 };
    int64_t pid = 0;
    int status = read_up_options(cli, &options);
    if (status == EXIT_DONE) {
        status = ephemeral_decide(cli, &ephemeral, &options);
    }
    if (status == EXIT_DONE && identity_running_pid(&cli->paths, &pid, NULL) == 0) {
        status = fail_running(cli, pid);
    } else if (status == EXIT_DONE && cli_has(cli, "foreground")) {
        status = run_foreground(&options);
    } else if (status == EXIT_DONE) {
        status = start_detached(cli, &options);
    }
    ephemeral_release(&ephemeral);
    return status;
}

int daemon_stop_running(struct cli *cli, int64_t *ret_pid)
{
    struct error error = { 0 };
    int64_t timeout_s, holder;

    *ret_pid = 0;
    if (cli_integer(cli, "timeout", 0, 3600, STOP_DEFAULT_S, &timeout_s, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    if (identity_running_pid(&cli->paths, ret_pid, &error) != 0) {
        return error.code == ERROR_NOT_FOUND ? EXIT_DONE : cli_fail_error(cli, &error);
    }
    if (*ret_pid <= 0) {
        return cli_fail(cli, EXIT_FAILED, "a daemon holds %s, but its pid is not known yet; try again", cli->paths.pid_file);
    }
    if (kill((pid_t)*ret_pid, SIGTERM) != 0) {
        return cli_fail(cli, EXIT_FAILED, "cannot signal the daemon (pid %" PRId64 "): %s", *ret_pid, strerror(errno));
    }
    int64_t end = clock_monotonic_ms() + timeout_s * 1000;
    while (identity_running_pid(&cli->paths, &holder, NULL) == 0) {
        if (clock_monotonic_ms() >= end) {
            return cli_fail(cli, EXIT_TIMED_OUT, "the daemon (pid %" PRId64 ") did not stop in %" PRId64 " s", *ret_pid, timeout_s);
        }
        wait_ms(STOP_POLL_MS);
    }
    return EXIT_DONE;
}

static int run_down(struct cli *cli)
{
    int64_t pid = 0;
    enum service_kind kind = SERVICE_USER;
    bool is_service = identity_running_pid(&cli->paths, &pid, NULL) == 0 && service_runs(pid, &kind);
    int status = daemon_stop_running(cli, &pid);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_bool(document, "stopped", pid != 0);
        json_put(document, "pid", pid == 0 ? json_null() : json_integer(pid));
        cli_print_json(document);
        json_decref(document);
    } else if (pid == 0) {
        cli_say(cli, "no daemon is running");
    } else {
        cli_say(cli, "the daemon (pid %" PRId64 ") has stopped", pid);
    }
    if (is_service) {
        cli_note(cli, "it is a service, and starts again %s; to keep it off: systemctl %sdisable %s",
                 kind == SERVICE_USER ? "when you log in" : "with the system", kind == SERVICE_USER ? "--user " : "", SERVICE_UNIT_NAME);
    }
    return EXIT_DONE;
}

static int run_restart(struct cli *cli)
{
    struct daemon_options options;
    int status = read_up_options(cli, &options); /* a mistake in them is said before anything is stopped */
    return status == EXIT_DONE ? daemon_restart(cli) : status;
}

const struct cli_command COMMAND_DAEMON_UP = {
    .name = "daemon up",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Start it in the background; every joined mesh, or the one of --mesh",
    .example = "claudemesh daemon up --no-tcp",
    .options = OPTIONS_UP,
    .run = run_up,
};

const struct cli_command COMMAND_DAEMON_DOWN = {
    .name = "daemon down",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Stop it; what is queued stays",
    .example = "claudemesh daemon down --timeout 10",
    .options = OPTIONS_DOWN,
    .run = run_down,
};

const struct cli_command COMMAND_DAEMON_RESTART = {
    .name = "daemon restart",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Stop it if it runs, then start it, with the flags it had or with these instead",
    .example = "claudemesh daemon restart --no-tcp",
    .options = OPTIONS_RESTART,
    .run = run_restart,
};
