/* One connection of the HTTP server, fed in two pieces: no crash, no hang, and every request that was begun is answered or gone. */
#include <sys/socket.h>
#include <unistd.h>

#include "net/http_internal.h"
#include "net/websocket.h"
#include "util/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct http_server *server;
static struct http_request *held;
static int open_requests, open_sockets;

static void answer_late(void *argument)
{
    struct http_request *request = held;

    (void)argument;
    held = NULL;
    open_requests--;
    http_respond(request, 200, NULL, "late", 4);
}

/* ---- /ws: the connection becomes a WebSocket ---------------------------------------------------------------------------- */

static void on_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    (void)argument;
    (void)websocket_send(socket, text, size);
}

static void on_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    (void)argument;
    (void)socket;
    (void)code;
    (void)reason;
    open_sockets--;
}

static void upgrade(struct http_request *request)
{
    static const struct websocket_callbacks callbacks = { .message = on_message, .closed = on_closed };
    static const char challenge[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    if (websocket_accept(loop, request, challenge, &callbacks, NULL) != NULL)
        open_sockets++;
}

/* ---- requests --------------------------------------------------------------------------------------------------------------- */

static void on_head(void *argument, struct http_request *request)
{
    (void)argument;
    if (string_has_prefix(http_path(request), "/early")) {
        http_respond_error(request, 403, "forbidden", "No.");
        return;
    }
    open_requests++;
    (void)http_query(request, "b");
    (void)http_query_has(request, "token");
    (void)http_header(request, "Connection");
}

static void on_request(void *argument, struct http_request *request)
{
    const struct text body = http_body(request);

    (void)argument;
    if (string_has_prefix(http_path(request), "/late")) {
        held = request;
        loop_defer(loop, answer_late, NULL);
        return;
    }
    open_requests--;
    if (string_has_prefix(http_path(request), "/ws")) {
        upgrade(request);
    } else if (string_has_prefix(http_path(request), "/stream") || string_has_prefix(http_path(request), "/cut")) {
        const bool cut = string_has_prefix(http_path(request), "/cut");
        http_stream_start(request, 200, "text/plain", NULL);
        http_stream_write(request, body.data, body.length);
        if (cut)
            http_stream_cut(request);
        else
            http_stream_end(request);
    } else {
        char *copy = memory_dup(body.data, body.length);
        http_respond(request, 200, NULL, copy, body.length);
        free(copy);
    }
}

static void on_gone(void *argument, struct http_request *request)
{
    (void)argument;
    open_requests--;
    if (held == request) {
        held = NULL;
        loop_defer_cancel(loop, answer_late, NULL);
    }
}

static void stop_turning(void *argument)
{
    (void)argument;
    loop_stop(loop);
}

static void stop_when_closed(void *argument)
{
    (void)argument;
    if (http_server_connection_count(server) == 0 && open_sockets == 0)
        loop_stop(loop);
    else
        loop_defer(loop, stop_when_closed, NULL);
}

static void open_server(void)
{
    const struct http_callbacks callbacks = { NULL, on_head, on_request, on_gone, NULL };
    struct error error;

    if (loop_new(&loop, &error) != 0 || http_server_new(loop, &callbacks, 500, &server, &error) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct http_listener listener = { .transport = HTTP_UNIX };
    const size_t first = size == 0 ? 0 : data[0] % size;
    int fds[2];

    if (loop == NULL)
        open_server();
    if (size > 60000 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
        return 0;
    server_adopt(server, fds[0], &listener, "unix");
    if (first > 0 && write(fds[1], data, first) == (ssize_t)first) {
        loop_defer(loop, stop_turning, NULL); /* one turn */
        loop_run(loop);
    }
    /* The server may have closed already. */
    if (send(fds[1], data + first, size - first, MSG_NOSIGNAL) >= 0)
        (void)shutdown(fds[1], SHUT_WR);
    loop_defer(loop, stop_when_closed, NULL);
    loop_run(loop);
    if (open_requests != 0 || held != NULL || http_server_busy_count(server) != 0)
        abort();
    (void)close(fds[1]);
    return 0;
}
