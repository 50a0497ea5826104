/* The client's side of the opening handshake: find the broker, connect, TLS, ask for the upgrade, check the answer. Never blocks. */
#include <unistd.h>

#include "net/http_head.h"
#include "net/tls.h"
#include "net/websocket_handshake.h"
#include "net/websocket_internal.h"
#include "util/memory.h"

struct client_handshake {
    struct url_parts url;
    struct dial *dial;
    SSL_CTX *tls; /* NULL: ws:// */
    char key[WEBSOCKET_KEY_SIZE];
    char *input; /* of LIMIT_HTTP_HEAD + 1 bytes, once connected */
    size_t input_size, scanned;
};

void client_handshake_free(struct client_handshake *handshake)
{
    if (handshake == NULL)
        return;
    dial_cancel(handshake->dial);
    url_parts_release(&handshake->url);
    SSL_CTX_free(handshake->tls);
    free(handshake->input);
    free(handshake);
}

static void fail(struct websocket *socket, const char *reason)
{
    websocket_finish(socket, WSLAY_CODE_ABNORMAL_CLOSURE, reason);
}

/* ---- the answer ---------------------------------------------------------------------------------------------------- */

/* A header that must be there once; NULL otherwise. */
static const char *only_field(const struct http_head *head, const char *bytes, const char *name)
{
    size_t position = 0;
    const char *value = http_head_field(head, bytes, name, &position);

    return value == NULL || http_head_field(head, bytes, name, &position) != NULL ? NULL : value;
}

/* NULL: the answer switches to WebSocket; else a sentence. */
static const char *answer_objection(const struct client_handshake *handshake, const struct http_head *head, const char *bytes,
                                    bool *ret_deflate)
{
    char expected[WEBSOCKET_ACCEPT_SIZE];
    const char *upgrade = only_field(head, bytes, "Upgrade");
    const char *accept = only_field(head, bytes, "Sec-WebSocket-Accept");
    size_t position = 0;

    websocket_accept_value(handshake->key, expected);
    if (upgrade == NULL || strcasecmp(upgrade, "websocket") != 0 || !head->connection_upgrade)
        return "The server switched to something else than WebSocket.";
    if (accept == NULL || !string_equal(accept, expected))
        return "The server did not answer this handshake.";
    if (http_head_field(head, bytes, "Sec-WebSocket-Protocol", &position) != NULL)
        return "The server chose a subprotocol that was not offered.";
    position = 0;
    if (http_head_field(head, bytes, "Sec-WebSocket-Extensions", &position) != NULL &&
        only_field(head, bytes, "Sec-WebSocket-Extensions") == NULL)
        return "The server chose extensions that were not offered.";
    if (websocket_check_answer(only_field(head, bytes, "Sec-WebSocket-Extensions"), ret_deflate) != 0)
        return "The server chose extensions that were not offered.";
    return NULL;
}

static void open_socket(struct websocket *socket, const struct http_head *head, bool deflate)
{
    struct client_handshake *handshake = socket->handshake;
    struct channel *channel = socket->channel;
    const char *challenge = only_field(head, handshake->input, "X-Claudemesh-Challenge");

    socket->handshake = NULL;
    if (challenge != NULL && !websocket_challenge_is_valid(challenge))
        challenge = NULL;
    channel_unread(channel, handshake->input + head->size, handshake->input_size - head->size);
    websocket_begin(socket, channel, deflate);
    websocket_enter(socket);
    socket->callbacks.open(socket->argument, socket, challenge);
    (void)websocket_leave(socket);
    client_handshake_free(handshake);
}

static void take_answer(struct websocket *socket, size_t head_size)
{
    struct client_handshake *handshake = socket->handshake;
    struct http_head *head = memory_zalloc(sizeof(*head));
    const char *objection = NULL;
    bool deflate = false;

    if (http_head_parse_response(handshake->input, head_size, head, &objection) != 0) {
        fail(socket, objection);
    } else if (head->status != 101) {
        char *reason = memory_printf("The server answered %d instead of switching to WebSocket.", head->status);
        fail(socket, reason);
        free(reason);
    } else {
        objection = answer_objection(handshake, head, handshake->input, &deflate);
        if (objection != NULL)
            fail(socket, objection);
        else
            open_socket(socket, head, deflate);
    }
    free(head);
}

void client_handshake_readable(struct websocket *socket)
{
    struct client_handshake *handshake = socket->handshake;
    const size_t room = LIMIT_HTTP_HEAD + 1 - handshake->input_size;
    const char *problem = NULL;
    size_t head_size = 0;
    const ssize_t count = channel_read(socket->channel, handshake->input + handshake->input_size, room);

    if (count == CHANNEL_AGAIN)
        return;
    if (count == CHANNEL_END) {
        fail(socket, "The server closed the connection during the handshake.");
        return;
    }
    if (count == CHANNEL_FAILED) {
        fail(socket, channel_failure(socket->channel));
        return;
    }
    handshake->input_size += (size_t)count;
    switch (http_head_find_end(handshake->input, handshake->input_size, &handshake->scanned, &head_size, &problem)) {
    case HTTP_SCAN_MORE:
        break;
    case HTTP_SCAN_BAD:
        fail(socket, problem);
        break;
    case HTTP_SCAN_DONE:
        take_answer(socket, head_size);
        break;
    }
}

/* ---- the question -------------------------------------------------------------------------------------------------- */

static void ask(struct websocket *socket)
{
    struct client_handshake *handshake = socket->handshake;
    const struct url_parts *url = &handshake->url;
    const bool bracketed = strchr(url->host, ':') != NULL;
    const bool usual_port = url->port == (url->tls ? 443 : 80);
    struct buffer head;

    buffer_init(&head, BUFFER_UNLIMITED);
    (void)buffer_printf(&head, "GET %s HTTP/1.1\r\nHost: %s%s%s", url->path, bracketed ? "[" : "", url->host, bracketed ? "]" : "");
    if (!usual_port)
        (void)buffer_printf(&head, ":%u", url->port);
    (void)buffer_printf(&head,
                        "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n"
                        "Sec-WebSocket-Extensions: %s\r\n\r\n",
                        handshake->key, websocket_offer);
    channel_queue(socket->channel, head.data, head.length);
    buffer_release(&head);
    handshake->input = memory_alloc(LIMIT_HTTP_HEAD + 1);
    websocket_schedule_flush(socket);
    channel_want_read(socket->channel, true);
}

static void on_dialled(void *argument, int fd, const char *peer_address, const char *failure)
{
    struct websocket *socket = argument;
    struct client_handshake *handshake = socket->handshake;
    struct error error;
    SSL *tls = NULL;

    handshake->dial = NULL;
    if (fd < 0) {
        fail(socket, failure);
        return;
    }
    if (handshake->tls != NULL && tls_client_new(handshake->tls, handshake->url.host, &tls, &error) != 0) {
        (void)close(fd);
        fail(socket, error.message);
        return;
    }
    socket->peer_address = memory_strdup(peer_address);
    socket->channel = channel_new(socket->loop, fd, tls, &websocket_channel_callbacks, socket);
    ask(socket);
}

int websocket_connect(struct loop *loop, const struct websocket_connect *connect, const struct websocket_callbacks *callbacks,
                      void *argument, struct websocket **ret_socket, struct error *error)
{
    struct client_handshake *handshake = memory_zalloc(sizeof(*handshake));
    struct websocket *socket;
    int result = url_parse(connect->url, &handshake->url, error);

    if (result == 0 && !handshake->url.tls && !connect->allow_insecure && !host_is_loopback(handshake->url.host))
        result = error_set(error, ERROR_DENIED, "'%s' is not encrypted and not on this host; use wss://, or set broker.allow_insecure.",
                           connect->url);
    if (result == 0 && handshake->url.tls)
        result = tls_client_context_new(connect->ca_file, &handshake->tls, error);
    if (result != 0) {
        client_handshake_free(handshake);
        return result;
    }
    websocket_make_key(handshake->key);
    socket = websocket_new(loop, false, callbacks, argument);
    socket->handshake = handshake;
    handshake->dial = dial_new(loop, handshake->url.host, handshake->url.port, connect->timeout_ms, on_dialled, socket);
    loop_timer_start(socket->timer, connect->timeout_ms);
    *ret_socket = socket;
    return 0;
}
