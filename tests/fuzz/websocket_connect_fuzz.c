/* The client's opening handshake: what a server may answer, and the frames behind it. A socket is open only by an answer to this very handshake; `closed` comes once. Dialling is played. A byte 0x01 in the input stands for
 * the value of Sec-WebSocket-Accept that fits. */
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "net/dial.h"
#include "net/websocket.h"
#include "net/websocket_handshake.h"
#include "util/buffer.h"
#include "util/text.h"

static struct loop *loop;
static struct {
    dial_done *done;
    void *argument;
} dialled;
static bool opened, ended, fits;

/* ---- dialling ----------------------------------------------------------------------------------------------------------- */

struct dial *dial_new(struct loop *owner, const char *host, uint16_t port, int64_t timeout_ms, dial_done *done, void *argument)
{
    (void)timeout_ms;
    REQUIRE(owner == loop && string_equal(host, "127.0.0.1") && port == 7900);
    dialled.done = done;
    dialled.argument = argument;
    return NULL;
}

void dial_cancel(struct dial *dial)
{
    REQUIRE(dial == NULL);
}

/* ---- the client ------------------------------------------------------------------------------------------------------------ */

static void on_open(void *argument, struct websocket *socket, const char *challenge)
{
    (void)argument;
    REQUIRE(!opened && !ended && fits && (challenge == NULL || websocket_challenge_is_valid(challenge)));
    opened = true;
    (void)websocket_send(socket, "hello", 5);
}

static void on_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    (void)argument;
    REQUIRE(opened && !ended && utf8_is_valid(text, size));
    if (size == 1 && text[0] == 'c')
        websocket_close(socket, 1000, "bye");
    else
        (void)websocket_send(socket, text, size);
}

static void on_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    (void)argument;
    (void)socket;
    REQUIRE(!ended && code >= 1000 && reason != NULL && (opened || code == 1006));
    ended = true;
    loop_stop(loop);
}

static void stop_turning(void *argument)
{
    loop_stop(argument);
}

/* ---- the server ------------------------------------------------------------------------------------------------------------- */

static void read_accept(int server, char ret_accept[static WEBSOCKET_ACCEPT_SIZE])
{
    static const char NAME[] = "\r\nSec-WebSocket-Key: ";
    char question[2048], key[WEBSOCKET_KEY_SIZE];
    const ssize_t size = recv(server, question, sizeof(question) - 1, MSG_DONTWAIT);

    REQUIRE(size > 0);
    question[size] = '\0';
    const char *at = strstr(question, NAME);
    REQUIRE(at != NULL && string_has_prefix(question, "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:7900\r\n"));
    memcpy(key, at + sizeof(NAME) - 1, sizeof(key) - 1);
    key[sizeof(key) - 1] = '\0';
    REQUIRE(websocket_key_is_valid(key));
    websocket_accept_value(key, ret_accept);
}

static void answer(int server, struct fuzz_input input)
{
    char accept[WEBSOCKET_ACCEPT_SIZE];
    struct buffer text;

    read_accept(server, accept);
    buffer_init(&text, BUFFER_UNLIMITED);
    fits = false;
    while (input.left > 0) {
        const char byte = (char)fuzz_take_byte(&input);
        if (byte == 0x01)
            (void)buffer_append_text(&text, accept);
        else
            (void)buffer_append_byte(&text, byte);
        fits = fits || byte == 0x01;
    }
    /* The client may have given up already. */
    if (text.length < 60000)
        (void)send(server, text.data, text.length, MSG_NOSIGNAL);
    buffer_release(&text);
    (void)shutdown(server, SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct websocket_callbacks callbacks = { .open = on_open, .message = on_message, .closed = on_closed };
    const struct websocket_connect connect = { .url = "ws://127.0.0.1:7900/ws", .timeout_ms = 5000 };
    struct websocket *socket = NULL;
    struct error error;
    int fds[2];

    if (loop == NULL)
        REQUIRE(loop_new(&loop, &error) == 0);
    opened = ended = false;
    REQUIRE(websocket_connect(loop, &connect, &callbacks, NULL, &socket, &error) == 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    dialled.done(dialled.argument, fds[0], "127.0.0.1", NULL);
    loop_defer(loop, stop_turning, loop); /* the question goes out with this turn */
    loop_run(loop);
    answer(fds[1], (struct fuzz_input){ data, size });
    loop_run(loop);
    REQUIRE(ended);
    (void)close(fds[1]);
    return 0;
}
