/* Answering: heads of responses, whole answers, streams, upgrades. Sends nothing that was not asked for by a caller, but for the server's
 * own refusals. */
#include "net/http_internal.h"
#include "util/memory.h"

struct status_line {
    int status;
    const char *line;
};

static const struct status_line status_lines[] = {
    { 101, "HTTP/1.1 101 Switching Protocols\r\n" },
    { 200, "HTTP/1.1 200 OK\r\n" },
    { 201, "HTTP/1.1 201 Created\r\n" },
    { 202, "HTTP/1.1 202 Accepted\r\n" },
    { 204, "HTTP/1.1 204 No Content\r\n" },
    { 206, "HTTP/1.1 206 Partial Content\r\n" },
    { 400, "HTTP/1.1 400 Bad Request\r\n" },
    { 401, "HTTP/1.1 401 Unauthorized\r\n" },
    { 403, "HTTP/1.1 403 Forbidden\r\n" },
    { 404, "HTTP/1.1 404 Not Found\r\n" },
    { 405, "HTTP/1.1 405 Method Not Allowed\r\n" },
    { 408, "HTTP/1.1 408 Request Timeout\r\n" },
    { 409, "HTTP/1.1 409 Conflict\r\n" },
    { 410, "HTTP/1.1 410 Gone\r\n" },
    { 413, "HTTP/1.1 413 Content Too Large\r\n" },
    { 415, "HTTP/1.1 415 Unsupported Media Type\r\n" },
    { 416, "HTTP/1.1 416 Range Not Satisfiable\r\n" },
    { 417, "HTTP/1.1 417 Expectation Failed\r\n" },
    { 426, "HTTP/1.1 426 Upgrade Required\r\n" },
    { 429, "HTTP/1.1 429 Too Many Requests\r\n" },
    { 500, "HTTP/1.1 500 Internal Server Error\r\n" },
    { 501, "HTTP/1.1 501 Not Implemented\r\n" },
    { 502, "HTTP/1.1 502 Bad Gateway\r\n" },
    { 503, "HTTP/1.1 503 Service Unavailable\r\n" },
    { 504, "HTTP/1.1 504 Gateway Timeout\r\n" },
    { 507, "HTTP/1.1 507 Insufficient Storage\r\n" },
};

static const char *status_line(int status)
{
    for (size_t i = 0; i < ARRAY_LENGTH(status_lines); i++) {
        if (status_lines[i].status == status)
            return status_lines[i].line;
    }
    return NULL;
}

/* The server's scratch has no maximum, so appending to it does not fail. */
static void add(struct buffer *head, const char *text)
{
    (void)buffer_append_text(head, text);
}

static void add_number(struct buffer *head, size_t number)
{
    char digits[24];
    char *at = digits + sizeof(digits);

    *--at = '\0';
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    add(head, at);
}

/* length SIZE_MAX: the end of the connection ends the body. */
static struct buffer *build_head(const struct http_request *request, int status, const char *content_type, size_t length)
{
    struct buffer *head = &request->connection->server->answer_head;
    const char *line = status_line(status);

    buffer_reset(head);
    if (line != NULL)
        add(head, line);
    else
        (void)buffer_printf(head, "HTTP/1.1 %03d Status\r\n", status);
    if (status != 204) {
        add(head, "Content-Type: ");
        add(head, content_type == NULL ? "application/json" : content_type);
        add(head, "\r\n");
        if (length != SIZE_MAX) {
            add(head, "Content-Length: ");
            add_number(head, length);
            add(head, "\r\n");
        }
    }
    if (!request->keeps)
        add(head, "Connection: close\r\n");
    if (request->extra_headers.data != NULL)
        (void)buffer_append(head, request->extra_headers.data, request->extra_headers.length);
    add(head, "\r\n");
    return head;
}

/* The connection can go on only where it is sure which byte begins the next request. */
static bool may_keep(const struct http_request *request)
{
    const struct http_connection *connection = request->connection;
    const bool early = connection->state == HTTP_STATE_BODY && http_has_body(request);

    if (!request->keeps || request->close_after || connection->server->stopping)
        return false;
    if (!early)
        return true;
    /* A client that waits for 100 may send its body after this answer, or may not. */
    if (request->head.expect_continue && !request->continued)
        return false;
    return request->head.length <= (int64_t)connection->server->max_body;
}

static void send_answer(struct http_connection *connection, const struct buffer *head, const void *body, size_t size)
{
    if (connection->processing) {
        channel_queue(connection->channel, head->data, head->length);
        channel_queue(connection->channel, body, size);
    } else {
        struct iovec parts[2] = { { head->data, head->length }, { NULL, size } };
        memcpy(&parts[1].iov_base, &body, sizeof(body)); /* sendmsg does not write to it, whatever its type says */
        /* A failure shows again when the connection is flushed. */
        if (channel_write(connection->channel, parts, 2) != 0)
            return;
    }
}

void http_respond(struct http_request *request, int status, const char *content_type, const void *body, size_t size)
{
    struct http_connection *connection = request->connection;
    const struct buffer *head;

    request->keeps = may_keep(request);
    request->status = status;
    head = build_head(request, status, content_type, size);
    if (status == 204 || string_equal(http_method(request), "HEAD"))
        size = 0;
    send_answer(connection, head, body, size);
    connection_finish_request(connection);
}

static void build_error(struct buffer *body, const char *code, const char *detail)
{
    buffer_init(body, BUFFER_UNLIMITED);
    add(body, "{\"error\":");
    (void)buffer_append_json_string(body, code, strlen(code));
    add(body, ",\"detail\":");
    (void)buffer_append_json_string(body, detail, strlen(detail));
    add(body, "}");
}

void http_respond_error(struct http_request *request, int status, const char *code, const char *detail)
{
    struct buffer body;

    build_error(&body, code, detail);
    http_respond(request, status, NULL, body.data, body.length);
    buffer_release(&body);
}

void connection_refuse(struct http_connection *connection, int status, const char *code, const char *detail)
{
    struct http_request *request = &connection->request;
    struct http_server *server = connection->server;
    const bool was_announced = request->announced; /* then its method is known */
    struct buffer body;

    request->connection = connection;
    request->status = status;
    request->keeps = false;
    if (was_announced) {
        connection_retract(connection);
        server->callbacks.gone(server->callbacks.argument, request);
    }
    build_error(&body, code, detail);
    send_answer(connection, build_head(request, status, NULL, body.length), body.data,
                was_announced && string_equal(http_method(request), "HEAD") ? 0 : body.length);
    buffer_release(&body);
    connection_finish_request(connection);
}

void http_add_header(struct http_request *request, const char *name, const char *value)
{
    for (const char *byte = value; *byte != '\0'; byte++) {
        if (((unsigned char)*byte < 0x20 && *byte != '\t') || *byte == 0x7f)
            return;
    }
    if (request->extra_headers.data == NULL)
        buffer_init(&request->extra_headers, BUFFER_UNLIMITED);
    (void)buffer_printf(&request->extra_headers, "%s: %s\r\n", name, value);
}

void http_close_after(struct http_request *request)
{
    request->close_after = true;
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

void http_stream_start(struct http_request *request, int status, const char *content_type,
                       void (*drained)(void *argument, struct http_request *request))
{
    struct http_connection *connection = request->connection;
    const struct buffer *head;

    request->keeps = false;
    request->status = status;
    request->drained = drained;
    if (request->counted)
        connection->server->busy_count--;
    request->counted = false;
    connection->state = HTTP_STATE_STREAM;
    connection->deadline_ms = -1;
    head = build_head(request, status, content_type, SIZE_MAX);
    http_stream_write(request, head->data, head->length);
    if (connection->ended)
        return; /* found at the first write that fails */
    channel_want_read(connection->channel, true);
}

void http_stream_write(struct http_request *request, const void *data, size_t size)
{
    channel_queue(request->connection->channel, data, size);
    connection_schedule_flush(request->connection);
}

size_t http_stream_backlog(const struct http_request *request)
{
    return channel_backlog(request->connection->channel);
}

void http_stream_end(struct http_request *request)
{
    connection_finish_request(request->connection);
}

void http_stream_cut(struct http_request *request)
{
    struct http_connection *connection = request->connection;

    connection_retract(connection);
    connection_destroy(connection);
}

/* ---- upgrades -------------------------------------------------------------------------------------------------- */

struct channel *http_upgrade(struct http_request *request, const void *head, size_t size)
{
    struct http_connection *connection = request->connection;

    channel_queue(connection->channel, head, size);
    return connection_detach(connection);
}
