/* The server's side of the opening handshake: an HTTP request becomes a WebSocket, or is refused. */
#include "net/http_internal.h"
#include "net/websocket_handshake.h"
#include "net/websocket_internal.h"
#include "util/memory.h"

static void refuse(struct http_request *request, int status, const char *code, const char *detail)
{
    if (status == 426) {
        http_add_header(request, "Upgrade", "websocket");
        http_add_header(request, "Sec-WebSocket-Version", "13");
    }
    http_respond_error(request, status, code, detail);
}

/* False: answered. */
static bool request_is_upgrade(struct http_request *request)
{
    const char *upgrade = http_header(request, "Upgrade");
    const char *version = http_header(request, "Sec-WebSocket-Version");
    const char *key = http_header(request, "Sec-WebSocket-Key");

    if (upgrade == NULL || !http_list_has(upgrade, "websocket"))
        refuse(request, 426, "upgrade_required", "Only WebSocket is spoken here.");
    else if (!string_equal(http_method(request), "GET") || request->head.minor != 1 || http_has_body(request))
        refuse(request, 400, "bad_request", "A WebSocket begins with an HTTP/1.1 GET without a body.");
    else if (!request->head.connection_upgrade)
        refuse(request, 400, "bad_request", "The Connection header does not ask for the upgrade.");
    else if (version == NULL || !string_equal(version, "13"))
        refuse(request, 426, "upgrade_required", "Only version 13 of WebSocket is spoken here.");
    else if (key == NULL || !websocket_key_is_valid(key))
        refuse(request, 400, "bad_request", "Sec-WebSocket-Key is not 16 bytes in base64.");
    else
        return true;
    return false;
}

struct websocket *websocket_accept(struct loop *loop, struct http_request *request, const char *challenge,
                                   const struct websocket_callbacks *callbacks, void *argument)
{
    char accept[WEBSOCKET_ACCEPT_SIZE], extension[WEBSOCKET_EXTENSION_SIZE];
    struct websocket *socket;
    struct buffer head;
    bool deflate;

    if (!request_is_upgrade(request))
        return NULL;
    websocket_accept_value(http_header(request, "Sec-WebSocket-Key"), accept);
    deflate = websocket_answer_offer(http_header(request, "Sec-WebSocket-Extensions"), extension);
    buffer_init(&head, BUFFER_UNLIMITED);
    (void)buffer_printf(
        &head, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n", accept);
    if (deflate)
        (void)buffer_printf(&head, "Sec-WebSocket-Extensions: %s\r\n", extension);
    if (challenge != NULL)
        (void)buffer_printf(&head, "X-Claudemesh-Challenge: %s\r\n", challenge);
    (void)buffer_append_text(&head, "\r\n");
    socket = websocket_new(loop, true, callbacks, argument);
    socket->peer_address = memory_strdup(http_peer_address(request));
    websocket_begin(socket, http_upgrade(request, head.data, head.length), deflate);
    buffer_release(&head);
    return socket;
}
