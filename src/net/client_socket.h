/* One blocking connection of the command line: Unix, TCP or TLS, each step within a timeout. Knows no HTTP. Internal to net/. One thread. */
#ifndef NET_CLIENT_SOCKET_H
#define NET_CLIENT_SOCKET_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "net/websocket.h"
#include "util/error.h"

struct client_socket {
    int fd; /* -1: not connected */
    SSL *tls;
    int64_t timeout_ms; /* for each step; -1: none */
};

/* ERROR_UNREACHABLE, ERROR_TIMEOUT, ERROR_DENIED (another user serves there), ERROR_TOO_LARGE (the path). */
int client_socket_open_unix(struct client_socket *socket, const char *path, struct error *error) MUST_CHECK;
/* tls NULL: plain. */
int client_socket_open_tcp(struct client_socket *socket, const struct url_parts *url, SSL_CTX *tls, struct error *error) MUST_CHECK;
void client_socket_close(struct client_socket *socket);
/* At least one byte; 0 at the end. */
int client_socket_read(struct client_socket *socket, void *data, size_t size, size_t *ret_count, struct error *error) MUST_CHECK;
int client_socket_write(struct client_socket *socket, const void *data, size_t size, struct error *error) MUST_CHECK;
/* Between requests: the server closed it, or says something unasked. */
bool client_socket_is_stale(const struct client_socket *socket);

#endif
