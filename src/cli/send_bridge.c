/* Sending through an agent session's bridge socket (40-wire, Bridge socket): lines of JSON. A pong first: the handshake is trusted, not the file. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/send.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"

enum { HANDSHAKE_MS = 100, ANSWER_MS = 15000, READ_SIZE = 16384 };

/* Never waits for who is behind the socket: a session that hangs has a full backlog. */
static int connect_socket(const struct cli *cli, const char *slug)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int written = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s.sock", cli->paths.sockets, slug);
    if (written < 0 || (size_t)written >= sizeof address.sun_path) {
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd >= 0 &&
        (fcntl(fd, F_SETFL, O_NONBLOCK) != 0 || connect(fd, (const struct sockaddr *)(const void *)&address, sizeof address) != 0)) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

/* 1: ready; 0: time is up; -1: failed. */
static int wait_for(int fd, short events, int64_t end_ms)
{
    for (;;) {
        int64_t left_ms = end_ms - clock_monotonic_ms();
        struct pollfd wait = { .fd = fd, .events = events };
        int ready = left_ms > 0 ? poll(&wait, 1, (int)left_ms) : 0;
        if (ready >= 0 || errno != EINTR) { /* giving up would send the message a second time by another way */
            return ready;
        }
    }
}

/* -1 with *ret_written: how much of it went out. */
static int write_line(int fd, const json_t *request, int64_t end_ms, size_t *ret_written)
{
    size_t length, done = 0;
    char *text = json_to_string(request, &length);
    text[length++] = '\n'; /* in place of the NUL */
    while (done < length && wait_for(fd, POLLOUT, end_ms) > 0) {
        ssize_t count = send(fd, text + done, length - done, MSG_NOSIGNAL);
        if (count < 0 && errno != EINTR && errno != EAGAIN) {
            break;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    secret_wipe(text, length);
    free(text);
    *ret_written = done;
    return done == length ? 0 : -1;
}

/* One line with this id; what else comes is skipped. NULL when none came in time, or one that is longer than any answer. */
static json_t *read_answer(int fd, const char *id, int64_t end_ms)
{
    struct buffer input;
    json_t *answer = NULL;
    buffer_init(&input, LIMIT_FRAME);
    while (answer == NULL && clock_monotonic_ms() < end_ms) {
        char *line_end = memchr(input.data, '\n', input.length);
        if (line_end != NULL) {
            size_t length = (size_t)(line_end - input.data);
            if (json_parse_strict(input.data, length, &answer, NULL) != 0 || !string_equal(answer_text(answer, "id"), id)) {
                json_decref(answer);
                answer = NULL;
            }
            buffer_consume(&input, length + 1);
            continue;
        }
        char *place = buffer_reserve(&input, READ_SIZE);
        if (place == NULL || wait_for(fd, POLLIN, end_ms) <= 0) {
            break;
        }
        ssize_t count = read(fd, place, READ_SIZE);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (count <= 0) {
            break;
        }
        buffer_commit(&input, (size_t)count);
    }
    buffer_release(&input);
    return answer;
}

/* *ret_written: how much of the request went out, for who must know whether it may have been read. */
static json_t *ask(int fd, const char *verb, json_t *arguments, const char *id, int64_t timeout_ms, size_t *ret_written)
{
    int64_t end_ms = clock_monotonic_ms() + timeout_ms;
    json_t *request = json_new_object();
    json_put_string(request, "id", id);
    json_put_string(request, "verb", verb);
    if (arguments != NULL) {
        json_put(request, "args", arguments);
    }
    json_t *answer = write_line(fd, request, end_ms, ret_written) == 0 ? read_answer(fd, id, end_ms) : NULL;
    json_decref(request);
    return answer;
}

int send_by_bridge(struct cli *cli, const struct send_request *request, const struct config_mesh *mesh)
{
    int status = SEND_NO_WAY;
    int fd = connect_socket(cli, mesh->slug);
    size_t written = 0;
    json_t *pong = fd < 0 ? NULL : ask(fd, "ping", NULL, "1", HANDSHAKE_MS, &written);
    json_t *answer = NULL;

    if (pong == NULL || !answer_bool(pong, "ok")) {
        goto out;
    }
    json_t *arguments = json_new_object();
    json_put_string(arguments, "to", request->to);
    json_put_text(arguments, "message", request->message);
    json_put_string(arguments, "priority", request->priority);
    answer = ask(fd, "send", arguments, "2", ANSWER_MS, &written);
    if (answer == NULL && written == 0) {
        goto out; /* nothing of it was read: another way sends it once */
    }
    if (answer == NULL) {
        status = cli_fail(cli, EXIT_TIMED_OUT, "the agent session behind the bridge socket did not answer; it may have sent the message");
        goto out;
    }
    if (!answer_bool(answer, "ok")) {
        const char *reason = answer_text(answer, "error");
        status = cli_fail(cli, EXIT_FAILED, "the agent session refused it: %s", reason[0] == '\0' ? "no reason given" : reason);
        goto out;
    }
    const char *message_id = answer_text(json_object_get(answer, "result"), "messageId");
    if (cli->json) {
        json_t *result = json_new_object();
        json_put_string(result, "status", "done");
        json_put_string(result, "broker_message_id", message_id);
        json_put_string(result, "via", "bridge");
        cli_print_json(result);
        json_decref(result);
    }
    cli_say(cli, "accepted by the broker (id %s), via: bridge", message_id);
    status = EXIT_DONE;
out:
    json_decref(pong);
    json_decref(answer);
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}
