/* One HTTP connection: its states, and what follows a read, an answer, time. A request's head stays where it was read and its views stay
 * valid until it is answered: so nothing is read that would move it. Says nothing itself: http_answer.c does. */
#include <poll.h>

#include "net/http_internal.h"
#include "util/clock.h"
#include "util/memory.h"

enum { BODY_FIRST_SIZE = 64 * 1024, HANGUP_LOOK_MS = 1000 };

static void connection_process(struct http_connection *connection);
static void settle(struct http_connection *connection);

char *connection_head_bytes(const struct http_connection *connection)
{
    return connection->input + connection->input_start;
}

size_t connection_buffered(const struct http_connection *connection)
{
    return connection->input_end - connection->input_start;
}

static void set_deadline(struct http_connection *connection, int64_t delay_ms)
{
    connection->deadline_ms = clock_monotonic_ms() + delay_ms;
    connection->stalled_backlog = channel_backlog(connection->channel);
}

static void await_progress(struct http_connection *connection)
{
    connection->progress = 0;
    set_deadline(connection, connection->server->body_ms);
}

/* A byte now and then is no progress: it would hold the request's place for as long as somebody likes. */
static void count_progress(struct http_connection *connection, size_t count)
{
    connection->progress += count;
    if (connection->progress >= HTTP_BODY_PROGRESS)
        await_progress(connection);
}

/* ---- the end of a connection ----------------------------------------------------------------------------------- */

static void on_scheduled(void *argument)
{
    struct http_connection *connection = argument;

    connection->scheduled = false;
    connection_process(connection);
}

static void on_flush_scheduled(void *argument)
{
    struct http_connection *connection = argument;
    struct http_server *server = connection->server;

    connection->flush_scheduled = false;
    if (channel_flush(connection->channel) != 0)
        connection_destroy(connection);
    else if (channel_backlog(connection->channel) == 0 && connection->request.drained != NULL)
        connection->request.drained(server->callbacks.argument, &connection->request);
}

static void cancel_deferred(struct http_connection *connection)
{
    if (connection->scheduled)
        loop_defer_cancel(connection->server->loop, on_scheduled, connection);
    if (connection->flush_scheduled)
        loop_defer_cancel(connection->server->loop, on_flush_scheduled, connection);
    connection->scheduled = connection->flush_scheduled = false;
}

static void schedule(struct http_connection *connection)
{
    if (connection->scheduled)
        return;
    connection->scheduled = true;
    loop_defer(connection->server->loop, on_scheduled, connection);
}

void connection_schedule_flush(struct http_connection *connection)
{
    if (connection->flush_scheduled)
        return;
    connection->flush_scheduled = true;
    loop_defer(connection->server->loop, on_flush_scheduled, connection);
}

void connection_retract(struct http_connection *connection)
{
    struct http_request *request = &connection->request;

    request->announced = false;
    if (request->counted)
        connection->server->busy_count--;
    request->counted = false;
}

static void leave(struct http_connection *connection)
{
    connection->state = HTTP_STATE_DEAD;
    cancel_deferred(connection);
    request_release(&connection->request);
    free(connection->input);
    connection->input = NULL;
    server_forget(connection);
}

void connection_destroy(struct http_connection *connection)
{
    struct http_server *server = connection->server;

    if (connection->state == HTTP_STATE_DEAD)
        return;
    connection->state = HTTP_STATE_DEAD;
    if (connection->request.announced) {
        connection_retract(connection);
        server->callbacks.gone(server->callbacks.argument, &connection->request);
    }
    channel_free(connection->channel);
    connection->channel = NULL;
    leave(connection);
}

struct channel *connection_detach(struct http_connection *connection)
{
    struct channel *channel = connection->channel;
    const size_t used = connection->request.head.size;

    channel_want_read(channel, false);
    channel_unread(channel, connection_head_bytes(connection) + used, connection_buffered(connection) - used);
    connection_retract(connection);
    connection->channel = NULL;
    leave(connection);
    return channel;
}

/* Our side is closed; the peer gets time to read the last answer. Closing with bytes unread would reset the connection and take the
 * answer with it. */
static void begin_linger(struct http_connection *connection)
{
    if (connection->ended) {
        connection_destroy(connection);
        return;
    }
    connection->state = HTTP_STATE_LINGER;
    connection->discarded = 0;
    channel_shutdown_write(connection->channel);
    set_deadline(connection, HTTP_LINGER_MS);
}

void connection_close_when_sent(struct http_connection *connection)
{
    connection->state = HTTP_STATE_FLUSH;
    set_deadline(connection, connection->server->idle_ms);
    if (!connection->processing)
        settle(connection);
}

/* ---- requests, one after another ------------------------------------------------------------------------------- */

static bool body_is_undefined(const struct http_request *request)
{
    static const char *const methods[] = { "GET", "HEAD", "DELETE" };

    if (!http_has_body(request))
        return false;
    for (size_t i = 0; i < ARRAY_LENGTH(methods); i++) {
        if (string_equal(http_method(request), methods[i]))
            return true;
    }
    return false;
}

static bool step_head(struct http_connection *connection)
{
    struct http_request *request = &connection->request;
    struct http_server *server = connection->server;
    const char *problem = "";
    size_t head_size = 0;

    connection->held_back = channel_backlog(connection->channel) > HTTP_PIPELINE_BACKLOG;
    if (connection->held_back)
        return false;
    switch (http_head_find_end(connection_head_bytes(connection), connection_buffered(connection), &connection->scanned, &head_size,
                               &problem)) {
    case HTTP_SCAN_MORE:
        return false;
    case HTTP_SCAN_BAD:
        connection_refuse(connection, 400, "bad_request", problem);
        return true;
    case HTTP_SCAN_DONE:
        break;
    }
    memset(request, 0, offsetof(struct http_request, head));
    request->connection = connection;
    if (http_head_parse_request(connection_head_bytes(connection), head_size, &request->head, &problem) != 0) {
        connection_refuse(connection, 400, "bad_request", problem);
        return true;
    }
    request->started_us = clock_monotonic_us();
    /* A body where none has a meaning may be read as a request by somebody in between: it ends the connection. */
    request->keeps = request->head.minor == 1 && !request->head.connection_close && !body_is_undefined(request);
    request->announced = request->counted = true;
    server->busy_count++;
    connection->state = HTTP_STATE_BODY;
    await_progress(connection);
    server->callbacks.head(server->callbacks.argument, request);
    return true;
}

/* Moves what came of the body out of the input: nothing may follow the head there that is not the head's. */
static void begin_body(struct http_connection *connection)
{
    struct http_request *request = &connection->request;
    const size_t head_end = connection->input_start + request->head.size;
    const size_t came = connection->input_end - head_end;

    if (request->head.expect_continue && request->head.minor == 1 && came == 0)
        channel_queue(connection->channel, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    request->continued = true;
    request->body_capacity = BODY_FIRST_SIZE;
    if (!request->head.chunked && request->head.length < BODY_FIRST_SIZE)
        request->body_capacity = (size_t)request->head.length;
    request->body = memory_alloc(request->body_capacity);
    if (request->head.chunked) {
        connection_put_back(connection, connection->input + head_end, came);
    } else {
        memcpy(request->body, connection->input + head_end, came);
        request->body_length = came;
    }
    connection->input_end = head_end;
}

static bool deliver(struct http_connection *connection)
{
    struct http_server *server = connection->server;

    connection->state = HTTP_STATE_WAIT;
    connection->deadline_ms = -1;
    server->callbacks.request(server->callbacks.argument, &connection->request);
    return true;
}

static bool body_is_complete(const struct http_request *request)
{
    if (request->head.chunked)
        return request->chunked.state == CHUNKED_DONE;
    return request->head.length <= (int64_t)request->body_length;
}

static bool step_body(struct http_connection *connection)
{
    struct http_request *request = &connection->request;
    const size_t behind_head = connection_buffered(connection) - request->head.size;

    if (request->body == NULL) {
        if (request->head.expect_other) {
            connection_refuse(connection, 417, "expectation_failed", "Only 'Expect: 100-continue' is understood.");
            return true;
        }
        if (request->head.length > (int64_t)connection->server->max_body) {
            connection_refuse(connection, 413, "body_too_large", "The request body is larger than this server takes.");
            return true;
        }
        if (!http_has_body(request))
            return deliver(connection);
        if (!request->head.chunked && (int64_t)behind_head >= request->head.length) {
            request->body_length = (size_t)request->head.length;
            return deliver(connection);
        }
        begin_body(connection);
    }
    return body_is_complete(request) && deliver(connection);
}

static bool step_drop(struct http_connection *connection)
{
    struct http_request *request = &connection->request;

    if (!body_is_complete(request))
        return false;
    connection->state = HTTP_STATE_HEAD;
    return true;
}

static bool step(struct http_connection *connection)
{
    switch (connection->state) {
    case HTTP_STATE_HEAD:
        return step_head(connection);
    case HTTP_STATE_BODY:
        return step_body(connection);
    case HTTP_STATE_DROP:
        return step_drop(connection);
    case HTTP_STATE_WAIT:
    case HTTP_STATE_STREAM:
    case HTTP_STATE_FLUSH:
    case HTTP_STATE_LINGER:
    case HTTP_STATE_DEAD:
        break;
    }
    return false;
}

/* Sends what the answers came to; whether a request that unsent answers held back can go on now. */
static bool send_gathered(struct http_connection *connection)
{
    if (connection->state == HTTP_STATE_DEAD)
        return false;
    if (channel_flush(connection->channel) != 0) {
        connection_destroy(connection);
        return false;
    }
    return connection->held_back && channel_backlog(connection->channel) <= HTTP_PIPELINE_BACKLOG;
}

/* Goes as far as the bytes allow. Answers given meanwhile are gathered and sent in one piece. */
static void connection_process(struct http_connection *connection)
{
    connection->processing = true;
    do {
        while (step(connection))
            continue;
    } while (send_gathered(connection));
    connection->processing = false;
    settle(connection);
}

void connection_finish_request(struct http_connection *connection)
{
    struct http_request *request = &connection->request;
    const bool early = connection->state == HTTP_STATE_BODY && http_has_body(request);
    size_t used = request->head.size;

    connection_retract(connection);
    connection->timing_head = false;
    connection->scanned = 0;
    if (request->keeps && early) {
        /* What came of the body and is not taken yet is read again, to be dropped. */
        if (request->body == NULL)
            connection_put_back(connection, connection_head_bytes(connection) + used, connection_buffered(connection) - used);
        used = connection_buffered(connection);
        connection->state = HTTP_STATE_DROP;
        connection->discarded = 0;
        await_progress(connection);
    } else if (request->keeps) {
        if (request->body == NULL)
            used += request->body_length;
        connection->state = HTTP_STATE_HEAD;
    } else {
        used = connection_buffered(connection);
        connection->state = HTTP_STATE_FLUSH;
        set_deadline(connection, connection->server->idle_ms);
    }
    connection->input_start += used;
    request_release(request);
    request->body = NULL;
    request->query_pairs = NULL;
    request->query_text = NULL;
    request->joined = NULL;
    request->joined_count = 0;
    request->extra_headers = (struct buffer){ 0 };
    request->drained = NULL;
    if (connection->processing)
        return;
    /* Not from here: who answers does not expect the next request inside that call. */
    if (connection->state == HTTP_STATE_HEAD && connection_buffered(connection) > 0)
        schedule(connection);
    settle(connection);
}

/* ---- after each step ------------------------------------------------------------------------------------------- */

static void settle_idle(struct http_connection *connection)
{
    if (connection_buffered(connection) > 0) {
        if (!connection->timing_head)
            set_deadline(connection, connection->server->head_ms);
        connection->timing_head = true;
        return;
    }
    connection->input_start = connection->input_end = 0;
    if (connection->input_capacity > HTTP_INPUT_SIZE) {
        free(connection->input);
        connection->input = NULL;
        connection->input_capacity = 0;
    }
    if (!connection->fresh)
        set_deadline(connection, connection->server->idle_ms);
}

static bool wants_read(const struct http_connection *connection)
{
    switch (connection->state) {
    case HTTP_STATE_HEAD:
        return !connection->ended && channel_backlog(connection->channel) <= HTTP_PIPELINE_BACKLOG;
    case HTTP_STATE_WAIT:
        return !connection->ended && connection->input_end < connection->input_capacity;
    case HTTP_STATE_BODY:
    case HTTP_STATE_DROP:
    case HTTP_STATE_STREAM:
    case HTTP_STATE_LINGER:
        return true;
    case HTTP_STATE_FLUSH:
    case HTTP_STATE_DEAD:
        break;
    }
    return false;
}

static void settle(struct http_connection *connection)
{
    if (connection->state == HTTP_STATE_DEAD)
        return;
    if (channel_flush(connection->channel) != 0) {
        connection_destroy(connection);
        return;
    }
    if (connection->state == HTTP_STATE_FLUSH && channel_backlog(connection->channel) == 0)
        begin_linger(connection);
    if (connection->state == HTTP_STATE_HEAD && connection->ended && !connection->scheduled && !connection->held_back) {
        connection_close_when_sent(connection);
        return;
    }
    if (connection->state == HTTP_STATE_HEAD)
        settle_idle(connection);
    if (connection->state != HTTP_STATE_DEAD)
        channel_want_read(connection->channel, wants_read(connection));
}

/* ---- input ----------------------------------------------------------------------------------------------------- */

/* Whether the peer closed both directions, and not only said that no more requests come. */
static bool peer_hung_up(const struct http_connection *connection)
{
    struct pollfd look = { .fd = channel_fd(connection->channel) };

    return poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR)) != 0;
}

static void on_end(struct http_connection *connection)
{
    connection->ended = true;
    switch (connection->state) {
    case HTTP_STATE_HEAD:
        connection_process(connection);
        break;
    case HTTP_STATE_WAIT:
        /* A client may close its side and wait for the answer. */
        if (peer_hung_up(connection)) {
            connection_destroy(connection);
            break;
        }
        set_deadline(connection, HANGUP_LOOK_MS);
        settle(connection);
        break;
    default:
        connection_destroy(connection);
        break;
    }
}

static void on_readable(void *argument)
{
    struct http_connection *connection = argument;
    const enum http_state before = connection->state;
    const ssize_t count = connection_read(connection);

    if (connection->state == HTTP_STATE_DEAD || count == CHANNEL_AGAIN)
        return;
    if (count == CHANNEL_FAILED) {
        connection_destroy(connection);
        return;
    }
    if (count == CHANNEL_END) {
        on_end(connection);
        return;
    }
    if (connection->state == before && (before == HTTP_STATE_BODY || before == HTTP_STATE_DROP))
        count_progress(connection, (size_t)count);
    if (before != HTTP_STATE_STREAM && before != HTTP_STATE_LINGER)
        connection_process(connection);
}

/* ---- output and time ------------------------------------------------------------------------------------------- */

static void on_drained(void *argument)
{
    struct http_connection *connection = argument;
    struct http_server *server = connection->server;

    if (connection->state == HTTP_STATE_STREAM) {
        if (connection->request.drained != NULL)
            connection->request.drained(server->callbacks.argument, &connection->request);
        return;
    }
    connection_process(connection);
}

static void on_failed(void *argument)
{
    connection_destroy(argument);
}

const struct channel_callbacks connection_channel_callbacks = {
    .readable = on_readable,
    .drained = on_drained,
    .failed = on_failed,
};

void connection_expire(struct http_connection *connection)
{
    const size_t backlog = channel_backlog(connection->channel);

    if (connection->state == HTTP_STATE_WAIT) {
        if (peer_hung_up(connection))
            connection_destroy(connection);
        else
            set_deadline(connection, HANGUP_LOOK_MS);
    } else if (backlog > 0 && backlog < connection->stalled_backlog) {
        set_deadline(connection, connection->server->idle_ms); /* slow, not stuck */
    } else if (connection->state == HTTP_STATE_BODY || (connection->state == HTTP_STATE_HEAD && connection_buffered(connection) > 0)) {
        connection_refuse(connection, 408, "request_timeout", "The request did not arrive in time.");
    } else {
        connection_destroy(connection);
    }
}
