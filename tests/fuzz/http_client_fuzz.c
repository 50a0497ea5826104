/* Answers to the blocking HTTP client: heads, interim answers, bodies of every framing, streams of lines. Whatever a server says, in whatever pieces, the client ends, with an answer within its limits or an
 * error; and the pieces make no difference. The socket (net/client_socket.h) is played here: its functions stand in this file, so the linker takes none of the real ones. */
#include "fuzz.h"
#include "net/client_socket.h"
#include "net/http_client.h"
#include "util/limits.h"
#include "util/text.h"

enum { NO_SOCKET = -1, OUR_SOCKET = 1000 };

static struct {
    struct fuzz_input answer, later; /* what can be read now; what comes with the next requests, each up to a byte 0xFE */
    size_t piece;                    /* at most so many bytes a read */
    bool refuses;                    /* writing fails: the server has closed its reading side */
} server;

/* ---- the socket ---------------------------------------------------------------------------------------------------- */

int client_socket_open_unix(struct client_socket *socket, const char *path, struct error *error)
{
    (void)path;
    (void)error;
    server.answer.left = 0; /* of an older connection */
    socket->fd = OUR_SOCKET;
    return 0;
}

int client_socket_open_tcp(struct client_socket *socket, const struct url_parts *url, SSL_CTX *tls, struct error *error)
{
    (void)url;
    (void)tls;
    return client_socket_open_unix(socket, NULL, error);
}

void client_socket_close(struct client_socket *socket)
{
    socket->fd = NO_SOCKET;
}

int client_socket_read(struct client_socket *socket, void *data, size_t size, size_t *ret_count, struct error *error)
{
    size_t count = server.answer.left < server.piece ? server.answer.left : server.piece;

    (void)error;
    REQUIRE(socket->fd == OUR_SOCKET && size > 0);
    count = count < size ? count : size;
    memcpy(data, server.answer.at, count);
    server.answer.at += count;
    server.answer.left -= count;
    *ret_count = count;
    return 0;
}

int client_socket_write(struct client_socket *socket, const void *data, size_t size, struct error *error)
{
    (void)data;
    REQUIRE(socket->fd == OUR_SOCKET && size > 0);
    const uint8_t *end = memchr(server.later.at, 0xFE, server.later.left);
    server.answer = (struct fuzz_input){ server.later.at, end == NULL ? server.later.left : (size_t)(end - server.later.at) };
    server.later.at += server.answer.left + (end == NULL ? 0 : 1);
    server.later.left -= server.answer.left + (end == NULL ? 0 : 1);
    return server.refuses ? error_set(error, ERROR_UNREACHABLE, "The connection was lost.") : 0;
}

bool client_socket_is_stale(const struct client_socket *socket)
{
    (void)socket;
    return server.answer.left > 0;
}

/* ---- what came of it ----------------------------------------------------------------------------------------------- */

struct outcome {
    int result, status[2];
    struct buffer text;
};

static void check_error(const struct error *error)
{
    REQUIRE(error->message[0] != '\0');
    REQUIRE(error->code == ERROR_UNREACHABLE || error->code == ERROR_INVALID || error->code == ERROR_TOO_LARGE);
}

/* Two requests on one connection, as far as it is kept. */
static void ask(struct http_client *client, const char *method, struct outcome *outcome)
{
    for (size_t i = 0; i < 2 && outcome->result == 0; i++) {
        struct http_response response = { .status = -1 };
        struct error error = { .code = ERROR_NONE };
        outcome->result = http_client_request(client, method, "/v1/x", "X: y\r\n", "{}", 2, &response, &error);
        outcome->status[i] = response.status;
        if (outcome->result != 0) {
            REQUIRE(response.status == -1 && http_client_fd(client) == NO_SOCKET);
            check_error(&error);
            return;
        }
        REQUIRE((response.status >= 200 && response.status <= 999) || response.status == 101);
        REQUIRE(response.retry_after_s >= -1 && response.body.data[response.body.length] == '\0');
        REQUIRE(!string_equal(method, "HEAD") || response.body.length == 0);
        (void)buffer_append(&outcome->text, response.body.data, response.body.length);
        http_response_release(&response);
    }
}

static void stream(struct http_client *client, struct outcome *outcome)
{
    struct error error = { .code = ERROR_NONE };
    struct buffer line;

    buffer_init(&line, 2 * LIMIT_HTTP_BODY);
    outcome->result = http_client_stream(client, "/v1/events", NULL, &outcome->status[0], &error);
    REQUIRE((outcome->result == 0) == (outcome->status[0] != -1));
    while (outcome->result == 0 && (outcome->result = http_client_read_line(client, &line, &error)) == 0) {
        REQUIRE(memchr(line.data, '\n', line.length) == NULL);
        (void)buffer_append(&outcome->text, line.data, line.length);
        (void)buffer_append_byte(&outcome->text, '\n');
    }
    check_error(&error);
    buffer_release(&line);
}

static void run(const uint8_t *data, size_t size, uint8_t mode, size_t piece, struct outcome *ret_outcome)
{
    static const char *const METHODS[] = { "GET", "POST", "HEAD" };
    struct http_client *client = NULL;
    struct error error;

    server.answer = (struct fuzz_input){ data, 0 };
    server.later = (struct fuzz_input){ data, size };
    server.piece = piece;
    server.refuses = mode % 8 == 7;
    *ret_outcome = (struct outcome){ .status = { -1, -1 } };
    buffer_init(&ret_outcome->text, BUFFER_UNLIMITED);
    REQUIRE(http_client_open_unix("played", 1000, &client, &error) == 0);
    if (mode % 4 == 3)
        stream(client, ret_outcome);
    else
        ask(client, METHODS[mode % 4], ret_outcome);
    http_client_free(client);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    const uint8_t mode = fuzz_take_byte(&input);
    struct outcome whole, pieces;

    run(input.at, input.left, mode, SIZE_MAX, &whole);
    run(input.at, input.left, mode, mode / 8 % 8 + 1, &pieces);
    REQUIRE(whole.result == pieces.result && whole.status[0] == pieces.status[0] && whole.status[1] == pieces.status[1]);
    REQUIRE(whole.text.length == pieces.text.length && memcmp(whole.text.data, pieces.text.data, whole.text.length) == 0);
    buffer_release(&whole.text);
    buffer_release(&pieces.text);
    return 0;
}
