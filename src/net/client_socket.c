/* Blocking in time: descriptors are non-blocking, and poll waits. */
#include "net/client_socket.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/tls.h"
#include "util/clock.h"
#include "util/memory.h"

static int64_t deadline_of(const struct client_socket *socket)
{
    return socket->timeout_ms < 0 ? -1 : clock_monotonic_ms() + socket->timeout_ms;
}

static int wait_for(const struct client_socket *socket, short events, int64_t deadline_ms, struct error *error)
{
    for (;;) {
        struct pollfd look = { .fd = socket->fd, .events = events };
        int64_t left_ms = -1;
        int ready;

        if (deadline_ms >= 0) {
            left_ms = deadline_ms - clock_monotonic_ms();
            if (left_ms < 0)
                left_ms = 0;
            if (left_ms > 1000 * 1000)
                left_ms = 1000 * 1000;
        }
        ready = poll(&look, 1, (int)left_ms);
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return error_set_errno(error, "Cannot wait for the connection");
        if (deadline_ms >= 0 && clock_monotonic_ms() >= deadline_ms)
            return error_set(error, ERROR_TIMEOUT, "No answer in time.");
    }
}

static int connection_lost(int error_number, struct error *error)
{
    return error_set(error, ERROR_UNREACHABLE, "The connection was lost: %s.", strerror(error_number));
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static int connect_to(struct client_socket *client, const struct sockaddr *address, socklen_t size, struct error *error)
{
    int failure = 0, result;
    socklen_t failure_size = sizeof(failure);

    client->fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        return error_set_errno(error, "Cannot make a socket");
    if (connect(client->fd, address, size) == 0)
        return 0;
    /* EAGAIN: a Unix socket whose backlog is full; it does not become writable when there is room. */
    if (errno != EINPROGRESS) {
        result = error_set(error, ERROR_UNREACHABLE, "Cannot connect: %s.", strerror(errno));
        goto fail;
    }
    result = wait_for(client, POLLOUT, deadline_of(client), error);
    if (result != 0)
        goto fail;
    if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &failure, &failure_size) != 0)
        failure = errno;
    if (failure != 0) {
        result = error_set(error, ERROR_UNREACHABLE, "Cannot connect: %s.", strerror(failure));
        goto fail;
    }
    return 0;

fail:
    client_socket_close(client);
    return result;
}

/* Whoever serves there would see what we send. */
static bool peer_is_trusted(int fd)
{
    struct ucred credentials;
    socklen_t size = sizeof(credentials);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 && (credentials.uid == geteuid() || credentials.uid == 0);
}

int client_socket_open_unix(struct client_socket *socket, const char *path, struct error *error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int result;

    socket->fd = -1;
    if (string_copy(address.sun_path, sizeof(address.sun_path), path) != 0)
        return error_set(error, ERROR_TOO_LARGE, "The socket path '%s' is longer than the system allows; choose a shorter --config-dir.",
                         path);
    result = connect_to(socket, (const struct sockaddr *)&address, sizeof(address), error);
    if (result != 0)
        return result;
    if (!peer_is_trusted(socket->fd)) {
        client_socket_close(socket);
        return error_set(error, ERROR_DENIED, "Another user serves '%s'.", path);
    }
    return 0;
}

static int handshake(struct client_socket *socket, struct error *error)
{
    const int64_t deadline_ms = deadline_of(socket);

    for (;;) {
        char *failure;
        int result, reason;

        ERR_clear_error();
        result = SSL_connect(socket->tls);
        if (result == 1)
            return 0;
        reason = SSL_get_error(socket->tls, result);
        if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE) {
            result = wait_for(socket, reason == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline_ms, error);
            if (result != 0)
                return result;
            continue;
        }
        failure = tls_failure(socket->tls);
        result = error_set(error, ERROR_UNREACHABLE, "%s", failure);
        free(failure);
        return result;
    }
}

static int begin_tls(struct client_socket *socket, const char *host, SSL_CTX *tls, struct error *error)
{
    int result = tls_client_new(tls, host, &socket->tls, error);

    if (result == 0 && SSL_set_fd(socket->tls, socket->fd) != 1)
        memory_exhausted();
    if (result == 0)
        result = handshake(socket, error);
    if (result != 0)
        client_socket_close(socket);
    return result;
}

int client_socket_open_tcp(struct client_socket *socket, const struct url_parts *url, SSL_CTX *tls, struct error *error)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *addresses = NULL;
    const int one = 1;
    char port[8];
    int result;

    socket->fd = -1;
    (void)snprintf(port, sizeof(port), "%u", url->port);
    result = getaddrinfo(url->host, port, &hints, &addresses);
    if (result != 0)
        return error_set(error, ERROR_UNREACHABLE, "'%s' has no address: %s.", url->host, gai_strerror(result));
    result = error_set(error, ERROR_UNREACHABLE, "'%s' has no address.", url->host);
    for (const struct addrinfo *address = addresses; address != NULL && result != 0; address = address->ai_next)
        result = connect_to(socket, address->ai_addr, address->ai_addrlen, error);
    freeaddrinfo(addresses);
    if (result != 0)
        return error_prefix(error, "%s port %s", url->host, port);
    (void)setsockopt(socket->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return tls == NULL ? 0 : begin_tls(socket, url->host, tls, error);
}

void client_socket_close(struct client_socket *socket)
{
    if (socket->tls != NULL) {
        ERR_clear_error();
        if (SSL_is_init_finished(socket->tls))
            (void)SSL_shutdown(socket->tls);
        ERR_clear_error();
        SSL_free(socket->tls);
    }
    socket->tls = NULL;
    if (socket->fd >= 0)
        (void)close(socket->fd);
    socket->fd = -1;
}

bool client_socket_is_stale(const struct client_socket *socket)
{
    struct pollfd look = { .fd = socket->fd, .events = POLLIN };
    size_t count = 0;
    char byte;
    int result;

    do
        result = poll(&look, 1, 0);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        return false;
    if (socket->tls == NULL)
        return true;
    /* It may be no more than a session ticket. */
    ERR_clear_error();
    result = SSL_peek_ex(socket->tls, &byte, 1, &count);
    return result == 1 || SSL_get_error(socket->tls, result) != SSL_ERROR_WANT_READ;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

/* After an SSL call that did not succeed: 0 to try again, else the error. *ret_end: the peer said goodbye. */
static int continue_tls(struct client_socket *socket, int ssl_result, int64_t deadline_ms, bool *ret_end, struct error *error)
{
    char *failure;
    int result;

    switch (SSL_get_error(socket->tls, ssl_result)) {
    case SSL_ERROR_WANT_READ:
        return wait_for(socket, POLLIN, deadline_ms, error);
    case SSL_ERROR_WANT_WRITE:
        return wait_for(socket, POLLOUT, deadline_ms, error);
    case SSL_ERROR_ZERO_RETURN:
        *ret_end = true;
        return 0;
    default:
        failure = tls_failure(socket->tls);
        result = error_set(error, ERROR_UNREACHABLE, "%s", failure);
        free(failure);
        return result;
    }
}

static int read_tls(struct client_socket *socket, void *data, size_t size, size_t *ret_count, struct error *error)
{
    const int64_t deadline_ms = deadline_of(socket);

    for (;;) {
        size_t count = 0;
        bool ended = false;
        int result;

        ERR_clear_error();
        result = SSL_read_ex(socket->tls, data, size, &count);
        if (result != 1)
            result = continue_tls(socket, result, deadline_ms, &ended, error);
        else
            result = 0;
        if (result != 0)
            return result;
        if (count > 0 || ended) {
            *ret_count = count;
            return 0;
        }
    }
}

int client_socket_read(struct client_socket *socket, void *data, size_t size, size_t *ret_count, struct error *error)
{
    const int64_t deadline_ms = deadline_of(socket);

    if (socket->tls != NULL)
        return read_tls(socket, data, size, ret_count, error);
    for (;;) {
        const ssize_t count = recv(socket->fd, data, size, 0);
        int result;

        if (count >= 0) {
            *ret_count = (size_t)count;
            return 0;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return connection_lost(errno, error);
        result = wait_for(socket, POLLIN, deadline_ms, error);
        if (result != 0)
            return result;
    }
}

static int write_some_tls(struct client_socket *socket, const char *data, size_t size, size_t *ret_count, struct error *error)
{
    const int64_t deadline_ms = deadline_of(socket);
    bool ended = false;

    for (;;) {
        int result;

        ERR_clear_error();
        result = SSL_write_ex(socket->tls, data, size, ret_count);
        if (result == 1)
            return 0;
        result = continue_tls(socket, result, deadline_ms, &ended, error);
        if (result != 0)
            return result;
        if (ended)
            return connection_lost(EPIPE, error);
    }
}

static int write_some(struct client_socket *socket, const char *data, size_t size, size_t *ret_count, struct error *error)
{
    const int64_t deadline_ms = deadline_of(socket);

    if (socket->tls != NULL)
        return write_some_tls(socket, data, size, ret_count, error);
    for (;;) {
        const ssize_t count = send(socket->fd, data, size, MSG_NOSIGNAL);
        int result;

        if (count > 0) {
            *ret_count = (size_t)count;
            return 0;
        }
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            return connection_lost(errno, error);
        result = wait_for(socket, POLLOUT, deadline_ms, error);
        if (result != 0)
            return result;
    }
}

int client_socket_write(struct client_socket *socket, const void *data, size_t size, struct error *error)
{
    const char *at = data;

    while (size > 0) {
        size_t count = 0;
        const int result = write_some(socket, at, size, &count, error);
        if (result != 0)
            return result;
        at += count;
        size -= count;
    }
    return 0;
}
