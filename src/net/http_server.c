/* The server as a whole: its listeners, its connections, and the clock that ends what takes too long. What happens on one connection is in
 * http_connection.c. */
#include <unistd.h>

#include "net/http_internal.h"
#include "util/clock.h"
#include "util/memory.h"

enum { HEAD_MS = 10 * 1000, BODY_MS = 10 * 1000, IDLE_MS = 75 * 1000, SWEEP_MS = 1000 };

/* ---- the clock ------------------------------------------------------------------------------------------------- */

/* One timer for all connections: a deadline that is set for every request and rarely met should cost no more than a store. */
static int64_t sweep_interval(const struct http_server *server)
{
    int64_t interval = SWEEP_MS;
    const int64_t limits[] = { server->head_ms, server->body_ms, server->idle_ms };

    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
        if (limits[i] / 8 < interval)
            interval = limits[i] / 8;
    }
    return interval < 1 ? 1 : interval;
}

static void on_sweep(void *argument)
{
    struct http_server *server = argument;
    const int64_t now_ms = clock_monotonic_ms();
    struct http_connection *next;

    for (struct http_connection *connection = server->connections; connection != NULL; connection = next) {
        next = connection->next;
        if (connection->deadline_ms >= 0 && now_ms >= connection->deadline_ms)
            connection_expire(connection);
    }
    if (server->connections != NULL)
        loop_timer_start(server->sweep, sweep_interval(server));
}

/* ---- connections ----------------------------------------------------------------------------------------------- */

void server_adopt(struct http_server *server, int fd, const struct http_listener *listener, const char *peer_address)
{
    struct http_connection *connection;
    SSL *tls = NULL;

    if (listener->narrow != NULL
            ? listener->narrow->connections >= HTTP_NARROW_CONNECTIONS
            : server->maxima[listener->transport] > 0 && server->counts[listener->transport] >= server->maxima[listener->transport]) {
        (void)close(fd);
        return;
    }
    if (server->callbacks.admit != NULL && !server->callbacks.admit(server->callbacks.argument, peer_address)) {
        (void)close(fd);
        return;
    }
    if (listener->tls != NULL) {
        tls = SSL_new(listener->tls);
        if (tls == NULL)
            memory_exhausted();
        SSL_set_accept_state(tls);
    }
    connection = memory_zalloc(sizeof(*connection));
    connection->server = server;
    connection->transport = listener->transport;
    connection->local_port = listener->port;
    connection->narrow = listener->narrow;
    connection->fresh = true;
    connection->deadline_ms = clock_monotonic_ms() + server->head_ms;
    if (string_copy(connection->peer_address, sizeof(connection->peer_address), peer_address) != 0)
        connection->peer_address[0] = '\0';
    connection->channel = channel_new(server->loop, fd, tls, &connection_channel_callbacks, connection);
    connection->next = server->connections;
    if (server->connections != NULL)
        server->connections->previous = connection;
    server->connections = connection;
    server->connection_count++;
    if (listener->narrow != NULL)
        listener->narrow->connections++;
    else
        server->counts[listener->transport]++;
    if (!loop_timer_is_running(server->sweep))
        loop_timer_start(server->sweep, sweep_interval(server));
    channel_want_read(connection->channel, true);
}

static void free_dead(void *argument)
{
    struct http_server *server = argument;

    server->reaping = false;
    while (server->dead != NULL) {
        struct http_connection *connection = server->dead;
        server->dead = connection->next;
        free(connection);
    }
}

/* Out of the list; the memory stays until the turn is over, as callers up the stack may still look at its state. */
void server_forget(struct http_connection *connection)
{
    struct http_server *server = connection->server;

    if (connection->previous != NULL)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    if (connection->next != NULL)
        connection->next->previous = connection->previous;
    server->connection_count--;
    if (connection->narrow != NULL)
        connection->narrow->connections--;
    else
        server->counts[connection->transport]--;
    connection->previous = NULL;
    connection->next = server->dead;
    server->dead = connection;
    if (!server->reaping) {
        server->reaping = true;
        loop_defer(server->loop, free_dead, server);
    }
}

/* ---- the server ------------------------------------------------------------------------------------------------ */

int http_server_new(struct loop *loop, const struct http_callbacks *callbacks, size_t max_body, struct http_server **ret_server,
                    struct error *error)
{
    struct http_server *server;

    if (callbacks->head == NULL || callbacks->request == NULL || callbacks->gone == NULL)
        return error_set(error, ERROR_INTERNAL, "An HTTP server needs head, request and gone.");
    server = memory_zalloc(sizeof(*server));
    server->loop = loop;
    server->callbacks = *callbacks;
    server->max_body = max_body;
    http_server_set_timeouts(server, HEAD_MS, BODY_MS, IDLE_MS);
    server->sweep = loop_timer_new(loop, on_sweep, server);
    buffer_init(&server->answer_head, BUFFER_UNLIMITED);
    *ret_server = server;
    return 0;
}

void http_server_set_timeouts(struct http_server *server, int64_t head_ms, int64_t body_ms, int64_t idle_ms)
{
    server->head_ms = head_ms;
    server->body_ms = body_ms;
    server->idle_ms = idle_ms;
}

void http_server_set_maximum(struct http_server *server, enum http_transport transport, size_t maximum)
{
    server->maxima[transport] = maximum;
}

void http_server_set_tls(struct http_server *server, SSL_CTX *tls)
{
    for (struct http_listener *listener = server->listeners; listener != NULL; listener = listener->next) {
        if (listener->tls == NULL || SSL_CTX_up_ref(tls) != 1)
            continue;
        SSL_CTX_free(listener->tls);
        listener->tls = tls;
    }
}

static void close_listeners(struct http_server *server)
{
    while (server->listeners != NULL) {
        struct http_listener *listener = server->listeners;
        server->listeners = listener->next;
        listener_close(listener);
    }
}

void http_server_stop_accepting(struct http_server *server)
{
    struct http_connection *next;

    server->stopping = true;
    close_listeners(server);
    for (struct http_connection *connection = server->connections; connection != NULL; connection = next) {
        next = connection->next;
        if (connection->state != HTTP_STATE_HEAD || connection->input_end > connection->input_start)
            continue;
        if (channel_backlog(connection->channel) > 0)
            connection_close_when_sent(connection);
        else
            connection_destroy(connection);
    }
}

void http_server_free(struct http_server *server)
{
    if (server == NULL)
        return;
    close_listeners(server);
    while (server->connections != NULL)
        connection_destroy(server->connections);
    loop_defer_cancel(server->loop, free_dead, server);
    free_dead(server);
    loop_timer_free(server->sweep);
    buffer_release(&server->answer_head);
    free(server);
}

void http_narrow_close(struct http_narrow *narrow)
{
    struct http_connection *next;

    if (narrow == NULL)
        return;
    for (struct http_connection *connection = narrow->server->connections; connection != NULL; connection = next) {
        next = connection->next;
        if (connection->narrow == narrow)
            connection_destroy(connection);
    }
    for (struct http_listener **link = &narrow->server->listeners; *link != NULL; link = &(*link)->next) {
        if (*link != narrow->listener)
            continue;
        *link = narrow->listener->next;
        listener_close(narrow->listener);
        break;
    }
    free(narrow);
}

void *http_narrow_owner(const struct http_request *request)
{
    return request->connection->narrow == NULL ? NULL : request->connection->narrow->owner;
}

size_t http_server_connection_count(const struct http_server *server)
{
    return server->connection_count;
}

size_t http_server_busy_count(const struct http_server *server)
{
    return server->busy_count;
}
