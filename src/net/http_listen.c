/* Listening sockets of the HTTP server: Unix (0600, same user only) and TCP. Accepts, and hands descriptors to http_server.c. */
#include <errno.h>
#include <event2/event.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/address.h"
#include "net/http_internal.h"
#include "util/memory.h"

enum {
    BACKLOG = 1024,
    ACCEPTS_A_TURN = 64, /* then others have their turn */
    PAUSE_MS = 100
};

/* ---- accepting ------------------------------------------------------------------------------------------------- */

/* The file mode says who may connect; this holds where the mode was changed. */
static bool peer_is_same_user(int fd)
{
    struct ucred credentials;
    socklen_t size = sizeof(credentials);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 && credentials.uid == geteuid();
}

static void adopt(struct http_listener *listener, int fd, const struct sockaddr_storage *address)
{
    char peer_address[INET6_ADDRSTRLEN] = "unix";

    if (listener->transport == HTTP_UNIX) {
        if (!peer_is_same_user(fd)) {
            (void)close(fd);
            return;
        }
    } else {
        const int one = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        address_format((const struct sockaddr *)address, peer_address);
    }
    server_adopt(listener->server, fd, listener, peer_address);
}

static void on_connection(evutil_socket_t listening_fd, short what, void *argument)
{
    struct http_listener *listener = argument;

    (void)what;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage address;
        socklen_t size = sizeof(address);
        const int fd = accept4(listening_fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            adopt(listener, fd, &address);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            /* The connection stays in the backlog and would wake the loop at once, again and again. */
            (void)event_del(listener->event);
            loop_timer_start(listener->pause, PAUSE_MS);
            return;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        }
    }
}

static void on_pause_over(void *argument)
{
    struct http_listener *listener = argument;

    if (event_add(listener->event, NULL) != 0)
        memory_exhausted();
}

/* ---- listening ------------------------------------------------------------------------------------------------- */

/* Takes fd over in any case. */
static int start_listening(struct http_server *server, int fd, enum http_transport transport, SSL_CTX *tls,
                           struct http_listener **ret_listener, struct error *error)
{
    struct http_listener *listener;

    if (listen(fd, BACKLOG) != 0) {
        const int result = error_set_errno(error, "Cannot listen");
        (void)close(fd);
        return result;
    }
    listener = memory_zalloc(sizeof(*listener));
    listener->server = server;
    listener->transport = transport;
    listener->fd = fd;
    if (tls != NULL && SSL_CTX_up_ref(tls) == 1)
        listener->tls = tls;
    listener->pause = loop_timer_new(server->loop, on_pause_over, listener);
    listener->event = event_new(loop_base(server->loop), fd, EV_READ | EV_PERSIST, on_connection, listener);
    if (listener->event == NULL || event_add(listener->event, NULL) != 0)
        memory_exhausted();
    listener->next = server->listeners;
    server->listeners = listener;
    *ret_listener = listener;
    return 0;
}

/* Only our own file: somebody may have put another one there meanwhile. */
static void remove_socket_file(const struct http_listener *listener)
{
    struct stat now;

    if (lstat(listener->path, &now) == 0 && S_ISSOCK(now.st_mode) && now.st_dev == listener->device && now.st_ino == listener->inode)
        (void)unlink(listener->path);
}

void listener_close(struct http_listener *listener)
{
    event_free(listener->event);
    loop_timer_free(listener->pause);
    if (listener->path != NULL)
        remove_socket_file(listener);
    if (listener->narrow != NULL)
        listener->narrow->listener = NULL;
    (void)close(listener->fd);
    SSL_CTX_free(listener->tls);
    free(listener->path);
    free(listener);
}

/* ---- Unix ------------------------------------------------------------------------------------------------------ */

/* A socket file that nobody accepts on is left over from a process that died; any other file is not ours to remove. */
static int clear_stale_socket(const struct sockaddr_un *address, struct error *error)
{
    struct stat now;
    int fd, connected, connect_errno;

    if (lstat(address->sun_path, &now) != 0) {
        if (errno == ENOENT)
            return 0;
        return error_set_errno(error, "Cannot look at '%s'", address->sun_path);
    }
    if (!S_ISSOCK(now.st_mode))
        return error_set(error, ERROR_CONFLICT, "'%s' is there and is not a socket.", address->sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set_errno(error, "Cannot make a Unix socket");
    connected = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    connect_errno = errno;
    (void)close(fd);
    /* EAGAIN: somebody listens, and is busy. */
    if (connected == 0 || connect_errno == EAGAIN)
        return error_set(error, ERROR_BUSY, "Another process serves '%s'.", address->sun_path);
    if (connect_errno != ECONNREFUSED) {
        errno = connect_errno;
        return error_set_errno(error, "Cannot tell whether '%s' is in use", address->sun_path);
    }
    if (unlink(address->sun_path) != 0 && errno != ENOENT)
        return error_set_errno(error, "Cannot remove the stale socket '%s'", address->sun_path);
    return 0;
}

static int bind_private(int fd, const struct sockaddr_un *address, bool masked, struct error *error)
{
    /* The file is never there with another mode, not even for a moment. Where the directory is private that is no matter, and the mask, which is every thread's, is left alone. */
    const mode_t mask = masked ? umask(0177) : 0;
    const int bound = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    const int bind_errno = errno;

    if (masked)
        (void)umask(mask);
    else if (bound == 0 && chmod(address->sun_path, 0600) != 0)
        return error_set_errno(error, "Cannot make '%s' private", address->sun_path);
    if (bound == 0)
        return 0;
    if (bind_errno == EADDRINUSE)
        return error_set(error, ERROR_BUSY, "Another process took '%s'.", address->sun_path);
    errno = bind_errno;
    return error_set_errno(error, "Cannot bind '%s'", address->sun_path);
}

/* What binds and listens, once nothing is in the way. */
static int listen_unix(struct http_server *server, const struct sockaddr_un *address, bool masked, struct http_listener **ret_listener,
                       struct error *error)
{
    const char *path = address->sun_path;
    struct http_listener *listener;
    struct stat made;
    int result;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return error_set_errno(error, "Cannot make a Unix socket");
    result = bind_private(fd, address, masked, error);
    if (result == 0 && lstat(path, &made) != 0)
        result = error_set_errno(error, "Cannot look at '%s'", path);
    if (result != 0) {
        (void)close(fd);
        return result;
    }
    result = start_listening(server, fd, HTTP_UNIX, NULL, &listener, error);
    if (result != 0) {
        (void)unlink(path);
        return result;
    }
    listener->path = memory_strdup(path);
    listener->device = made.st_dev;
    listener->inode = made.st_ino;
    *ret_listener = listener;
    return 0;
}

int http_server_listen_unix(struct http_server *server, const char *path, struct error *error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct http_listener *listener;
    int result;

    if (string_copy(address.sun_path, sizeof(address.sun_path), path) != 0)
        return error_set(error, ERROR_TOO_LARGE,
                         "The socket path '%s' is longer than the %zu bytes that the system allows; choose a shorter --config-dir.", path,
                         sizeof(address.sun_path) - 1);
    result = clear_stale_socket(&address, error);
    return result != 0 ? result : listen_unix(server, &address, true, &listener, error);
}

int http_server_listen_narrow(struct http_server *server, const char *path, void *owner, struct http_narrow **ret_narrow,
                              struct error *error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct http_listener *listener;
    int result;

    if (server->stopping)
        return error_set(error, ERROR_UNREACHABLE, "The server is stopping.");
    if (string_copy(address.sun_path, sizeof(address.sun_path), path) != 0)
        return error_set(error, ERROR_TOO_LARGE, "The socket path '%s' is longer than the %zu bytes that the system allows.", path,
                         sizeof(address.sun_path) - 1);
    result = listen_unix(server, &address, false, &listener, error);
    if (result != 0)
        return result;
    listener->narrow = memory_zalloc(sizeof(*listener->narrow));
    *listener->narrow = (struct http_narrow){ .server = server, .listener = listener, .owner = owner };
    *ret_narrow = listener->narrow;
    return 0;
}

/* ---- TCP ------------------------------------------------------------------------------------------------------- */

static int bind_tcp(const struct addrinfo *address, const char *host, uint16_t port, int *ret_fd, struct error *error)
{
    const int one = 1;
    const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int result;

    if (fd < 0)
        return error_set_errno(error, "Cannot make a TCP socket");
    /* Connections of an earlier process that linger must not keep the port. */
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0) {
        *ret_fd = fd;
        return 0;
    }
    if (errno == EADDRINUSE)
        result = error_set(error, ERROR_BUSY, "Port %u of %s is taken.", port, host);
    else
        result = error_set_errno(error, "Cannot bind %s port %u", host, port);
    (void)close(fd);
    return result;
}

static int bound_port(int fd, uint16_t *ret_port, struct error *error)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        return error_set_errno(error, "Cannot read the bound port");
    if (address.ss_family == AF_INET6)
        *ret_port = ntohs(((const struct sockaddr_in6 *)(const void *)&address)->sin6_port);
    else
        *ret_port = ntohs(((const struct sockaddr_in *)(const void *)&address)->sin_port);
    return 0;
}

int http_server_listen_tcp(struct http_server *server, const char *host, uint16_t port, SSL_CTX *tls, uint16_t *ret_port,
                           struct error *error)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *addresses = NULL;
    struct http_listener *listener;
    char service[8];
    uint16_t bound = 0;
    int fd = -1, result;

    (void)snprintf(service, sizeof(service), "%u", port);
    result = getaddrinfo(host, service, &hints, &addresses);
    if (result == EAI_MEMORY)
        memory_exhausted();
    if (result == EAI_SYSTEM)
        return error_set_errno(error, "Cannot look up '%s'", host);
    if (result != 0)
        return error_set(error, ERROR_INVALID, "Cannot listen on '%s': %s.", host, gai_strerror(result));
    result = bind_tcp(addresses, host, port, &fd, error);
    freeaddrinfo(addresses);
    if (result != 0)
        return result;
    result = bound_port(fd, &bound, error);
    if (result != 0) {
        (void)close(fd);
        return result;
    }
    result = start_listening(server, fd, HTTP_TCP, tls, &listener, error);
    if (result != 0)
        return result;
    listener->port = bound;
    *ret_port = bound;
    return 0;
}
