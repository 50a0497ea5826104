/* Frames into a WebSocket of either end, with callbacks that send, close, pause and abort: no crash, no hang, valid UTF-8 only, `closed` once. */
#include <sys/socket.h>
#include <unistd.h>

#include "net/websocket_internal.h"
#include "util/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static bool ended;

static void on_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    (void)argument;
    if (ended || !utf8_is_valid(text, size))
        abort();
    if (size == 1 && text[0] == 'c') {
        websocket_close(socket, 1000, "bye");
    } else if (size == 1 && text[0] == 'a') {
        websocket_abort(socket);
        ended = true;
        loop_stop(loop);
    } else if (size == 1 && text[0] == 'p') {
        websocket_pause(socket, true);
        websocket_pause(socket, false);
    } else {
        (void)websocket_send(socket, text, size);
    }
}

static void on_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    (void)argument;
    (void)socket;
    if (ended || code < 1000 || reason == NULL)
        abort();
    ended = true;
    loop_stop(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct websocket_callbacks callbacks = { .message = on_message, .closed = on_closed };
    struct websocket *socket;
    struct channel *channel;
    struct error error;
    int fds[2];

    if (loop == NULL && loop_new(&loop, &error) != 0)
        abort();
    if (size < 1 || size > 60000 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
        return 0;
    ended = false;
    socket = websocket_new(loop, (data[0] & 1) != 0, &callbacks, NULL);
    channel = channel_new(loop, fds[0], NULL, &websocket_channel_callbacks, socket);
    websocket_begin(socket, channel, (data[0] & 2) != 0);
    if (write(fds[1], data + 1, size - 1) != (ssize_t)size - 1)
        abort();
    (void)shutdown(fds[1], SHUT_WR);
    loop_run(loop);
    if (!ended)
        abort();
    (void)close(fds[1]);
    return 0;
}
