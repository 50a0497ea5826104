/* Owns the daemon's end of one run: its directory until a runner has it, its socket, what the hook printed. Must not decide which runs start. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hooks/internal.h"
#include "json/json.h"
#include "util/buffer.h"
#include "util/memory.h"
#include "util/text.h"

struct run {
    struct run_owner owner;
    struct loop_descriptor *watch;
    int socket;
    bool reported;
    size_t output_limit;
    struct buffer output;
};

/* ---- reports ---------------------------------------------------------------------------------------------------------------- */

static void parse_output(const struct run *run, struct hook_result *result, json_t **ret_object)
{
    struct error error;
    const char *bytes = run->output.data;
    size_t blank = strspn(bytes, " \t\r\n");
    if (result->output_too_large || blank == run->output.length) {
        return;
    }
    if (json_parse_strict(bytes, run->output.length, ret_object, &error) != 0 || !json_is_object(*ret_object)) {
        result->output_invalid = true;
        return;
    }
    result->output = *ret_object;
}

static void report(struct run *run, const struct report_end *end)
{
    json_t *object = NULL;
    struct hook_result result = {
        .not_started = end->reason[0] != '\0' ? end->reason : NULL,
        .detail = end->reason[0] != '\0' ? end->detail : NULL,
        .exit_status = end->exit_status,
        .signal = end->signal,
        .timed_out = end->timed_out,
        .lost = end->lost,
        .duration_ms = end->duration_ms,
        .output_bytes = end->output_bytes,
        .error_bytes = end->error_bytes,
        .output_too_large = end->output_bytes > run->output_limit,
    };
    run->reported = true;
    if (result.not_started == NULL) {
        parse_output(run, &result, &object);
    }
    run->owner.reported(run->owner.argument, run, &result, end);
    json_decref(object);
}

static void on_readable(void *argument)
{
    struct run *run = argument;
    union {
        struct report_end end;
        char bytes[1 + HOOK_OUTPUT_PART];
    } part;
    for (;;) {
        ssize_t length = recv(run->socket, &part, sizeof(part), MSG_DONTWAIT);
        if (length < 0 && errno == EINTR) {
            continue;
        }
        if (length < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return;
        }
        if (length <= 0) {
            break;
        }
        if (part.bytes[0] == REPORT_OUTPUT) {
            (void)buffer_append(&run->output, part.bytes + 1, (size_t)length - 1);
        } else if (part.bytes[0] == REPORT_END && length == (ssize_t)sizeof(part.end) && !run->reported) {
            report(run, &part.end);
        }
    }
    /* The runner is gone. */
    if (!run->reported) {
        report(run, &(struct report_end){ .kind = REPORT_END, .lost = true, .exit_status = -1 });
    }
    run->owner.over(run->owner.argument, run);
}

/* ---- starting ------------------------------------------------------------------------------------------------------------------ */

/* What the hook reads: a file in memory that nobody changes any more. It waits for no reader. */
static int payload_descriptor(const struct run_start *start, struct error *error)
{
    int fd = memfd_create("hook-event", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    size_t written = 0;
    if (fd < 0) {
        return error_set_errno(error, "cannot make the hook's input");
    }
    while (written < start->payload_length) {
        ssize_t part = pwrite(fd, start->payload + written, start->payload_length - written, (off_t)written);
        if (part < 0 && errno == EINTR) {
            continue;
        }
        if (part <= 0) {
            int result = error_set_errno(error, "cannot write the hook's input");
            (void)close(fd);
            return result;
        }
        written += (size_t)part;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
        int result = error_set_errno(error, "cannot seal the hook's input");
        (void)close(fd);
        return result;
    }
    return fd;
}

static int make_directory(struct run_request *request, struct error *error)
{
    char *prefix = spawner_run_prefix();
    int length = snprintf(request->directory, sizeof(request->directory), "%sXXXXXX", prefix);
    free(prefix);
    if (length < 0 || (size_t)length >= sizeof(request->directory) || mkdtemp(request->directory) == NULL) {
        return error_set_errno(error, "cannot make a directory in %s", hooks_run_base());
    }
    return 0;
}

static int hand_over(const struct run_start *start, const int fds[static HOOK_COMMAND_FD_COUNT], struct error *error)
{
    struct hook_access access = { .token = "" };
    int result = 0;
    if (start->prepare != NULL && !start->prepare(start->argument, start->request->directory, &access)) {
        *start->ret_reason = "prepare";
        return error_set(error, ERROR_SYSTEM, "its socket could not be made");
    }
    if (string_copy(start->request->socket, sizeof(start->request->socket), access.socket_path) != 0 ||
        string_copy(start->request->token, sizeof(start->request->token), access.token) != 0) {
        result = error_set(error, ERROR_INTERNAL, "its socket's path does not fit");
    } else {
        *start->ret_reason = "spawner";
        result = spawner_request(start->spawner, start->request, fds, error);
    }
    memory_wipe(start->request->token, sizeof(start->request->token));
    memory_wipe(&access, sizeof(access));
    return result;
}

int run_start(const struct run_start *start, const struct run_owner *owner, struct run **ret_run, struct error *error)
{
    int ends[2] = { -1, -1 };
    int result, payload = -1;
    struct run *run = memory_zalloc(sizeof(*run));
    run->owner = *owner;
    run->socket = -1;
    run->output_limit = (size_t)start->request->output_size_limit;
    buffer_init(&run->output, run->output_limit);
    *start->ret_reason = "resources";
    result = make_directory(start->request, error);
    if (result != 0)
        goto failed;
    payload = payload_descriptor(start, error);
    if (payload < 0) {
        result = payload;
        goto without_directory;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        result = error_set_errno(error, "cannot make the run's socket");
        goto without_directory;
    }
    run->socket = ends[0];
    result = loop_descriptor_new(start->loop, run->socket, on_readable, run, &run->watch, error);
    if (result == 0)
        result = hand_over(start, (const int[]){ ends[1], payload }, error);
    if (result == 0) {
        (void)close(ends[1]);
        (void)close(payload);
        *ret_run = run;
        return 0;
    }
without_directory:
    (void)hook_tree_remove(start->request->directory); /* empty, or with a socket in it: nothing has run there */
failed:
    if (ends[1] >= 0)
        (void)close(ends[1]);
    if (payload >= 0)
        (void)close(payload);
    run_free(run);
    return result;
}

void run_terminate(struct run *run, int64_t grace_ms)
{
    const struct run_command command = { .grace_ms = grace_ms };
    if (!run->reported) {
        (void)send(run->socket, &command, sizeof(command), MSG_DONTWAIT | MSG_NOSIGNAL); /* one that does not fit was sent often enough */
    }
}

void run_free(struct run *run)
{
    if (run == NULL) {
        return;
    }
    loop_descriptor_free(run->watch);
    if (run->socket >= 0) {
        (void)close(run->socket);
    }
    buffer_release(&run->output);
    free(run);
}
