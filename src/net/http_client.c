/* The blocking client: one request at a time on one connection, answers parsed as strictly as requests. A broken or refused connection is
 * never replaced silently where the next one might lead to somebody else. */
#include "net/http_client.h"

#include "net/client_socket.h"
#include "net/http_chunked.h"
#include "net/http_head.h"
#include "net/tls.h"
#include "util/memory.h"

enum {
    READ_SIZE = 64 * 1024,
    /* A response of LIMIT_HTTP_RESPONSE and what a page's frame adds. */
    BODY_MAXIMUM = LIMIT_HTTP_RESPONSE + 1024 * 1024,
    /* An event with the largest body, each byte of it escaped. */
    LINE_MAXIMUM = 8 * LIMIT_HTTP_BODY
};

/* How far the body goes. */
enum framing { FRAMING_NONE, FRAMING_SIZED, FRAMING_CHUNKED, FRAMING_UNTIL_END };

struct http_client {
    struct client_socket socket;
    char *path; /* Unix; NULL: url */
    struct url_parts url;
    SSL_CTX *tls;
    char *host;          /* the Host header's value */
    bool keeps;          /* the connection may be used again */
    struct buffer input; /* read, not used */
    struct http_head head;
    enum framing framing;
    uint64_t missing; /* FRAMING_SIZED */
    struct http_chunked chunked;
    bool body_ended;
    struct buffer lines; /* decoded, not handed out */
    size_t line_start, line_scanned;
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static int open_socket(struct http_client *client, struct error *error)
{
    int result;

    buffer_reset(&client->input);
    client->keeps = true;
    if (client->path != NULL)
        result = client_socket_open_unix(&client->socket, client->path, error);
    else
        result = client_socket_open_tcp(&client->socket, &client->url, client->tls, error);
    return result;
}

static struct http_client *client_new(int64_t timeout_ms)
{
    struct http_client *client = memory_zalloc(sizeof(*client));

    client->socket.fd = -1;
    client->socket.timeout_ms = timeout_ms;
    buffer_init(&client->input, BUFFER_UNLIMITED);
    buffer_init(&client->lines, BUFFER_UNLIMITED);
    return client;
}

static int open_or_free(struct http_client *client, struct http_client **ret_client, struct error *error)
{
    const int result = open_socket(client, error);

    if (result != 0) {
        http_client_free(client);
        return result;
    }
    *ret_client = client;
    return 0;
}

int http_client_open_unix(const char *path, int64_t timeout_ms, struct http_client **ret_client, struct error *error)
{
    struct http_client *client = client_new(timeout_ms);

    client->path = memory_strdup(path);
    client->host = memory_strdup("localhost");
    return open_or_free(client, ret_client, error);
}

int http_client_open_url(const char *url, const char *ca_file, int64_t timeout_ms, struct http_client **ret_client, struct error *error)
{
    struct http_client *client = client_new(timeout_ms);
    bool bracketed, usual_port;
    int result = url_parse(url, &client->url, error);

    if (result == 0 && client->url.tls)
        result = tls_client_context_new(ca_file, &client->tls, error);
    if (result != 0) {
        http_client_free(client);
        return result;
    }
    bracketed = strchr(client->url.host, ':') != NULL;
    usual_port = client->url.port == (client->url.tls ? 443 : 80);
    if (usual_port)
        client->host = memory_printf("%s%s%s", bracketed ? "[" : "", client->url.host, bracketed ? "]" : "");
    else
        client->host = memory_printf("%s%s%s:%u", bracketed ? "[" : "", client->url.host, bracketed ? "]" : "", client->url.port);
    return open_or_free(client, ret_client, error);
}

void http_client_free(struct http_client *client)
{
    if (client == NULL)
        return;
    client_socket_close(&client->socket);
    SSL_CTX_free(client->tls);
    url_parts_release(&client->url);
    free(client->path);
    free(client->host);
    buffer_release(&client->input);
    buffer_release(&client->lines);
    free(client);
}

void http_client_set_timeout(struct http_client *client, int64_t timeout_ms)
{
    client->socket.timeout_ms = timeout_ms;
}

int http_client_fd(const struct http_client *client)
{
    return client->socket.fd;
}

void http_response_release(struct http_response *response)
{
    if (response != NULL)
        buffer_release(&response->body);
}

static int server_closed(struct error *error)
{
    return error_set(error, ERROR_UNREACHABLE, "The server closed the connection.");
}

/* A connection that was closed is replaced only where the other end is known without it: the same user's socket, or a certificate. On
 * plain TCP the caller may have checked who is there (45-trust, /v1/prove), and that holds for that connection alone. */
static int ensure_connected(struct http_client *client, struct error *error)
{
    if (client->socket.fd >= 0 && client->keeps && client->input.length == 0 && !client_socket_is_stale(&client->socket))
        return 0;
    client_socket_close(&client->socket);
    if (client->path == NULL && client->tls == NULL)
        return server_closed(error);
    return open_socket(client, error);
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static int send_request(struct http_client *client, const char *method, const char *target, const char *headers, const void *body,
                        size_t size, struct error *error)
{
    struct buffer request;
    int result;

    buffer_init(&request, BUFFER_UNLIMITED);
    (void)buffer_printf(&request, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, client->host);
    if (body != NULL)
        (void)buffer_printf(&request, "Content-Length: %zu\r\n", size);
    (void)buffer_append_text(&request, headers == NULL ? "" : headers);
    (void)buffer_append_text(&request, "\r\n");
    if (body != NULL)
        (void)buffer_append(&request, body, size);
    result = client_socket_write(&client->socket, request.data, request.length, error);
    buffer_wipe_release(&request); /* a token may be in it */
    return result;
}

/* *ret_ended: there will be no more. */
static int read_more(struct http_client *client, bool *ret_ended, struct error *error)
{
    char *room = buffer_reserve(&client->input, READ_SIZE);
    size_t count = 0;
    const int result = client_socket_read(&client->socket, room, READ_SIZE, &count, error);

    if (result == 0)
        buffer_commit(&client->input, count);
    *ret_ended = result == 0 && count == 0;
    return result;
}

static int read_head(struct http_client *client, struct error *error)
{
    const char *problem = "";
    size_t scanned = 0, head_size = 0;

    for (;;) {
        bool ended;
        int result;
        switch (http_head_find_end(client->input.data, client->input.length, &scanned, &head_size, &problem)) {
        case HTTP_SCAN_DONE:
            if (http_head_parse_response(client->input.data, head_size, &client->head, &problem) == 0)
                return 0;
            return error_set(error, ERROR_INVALID, "The answer is not HTTP: %s", problem);
        case HTTP_SCAN_BAD:
            return error_set(error, ERROR_INVALID, "The answer is not HTTP: %s", problem);
        case HTTP_SCAN_MORE:
            break;
        }
        result = read_more(client, &ended, error);
        if (result == 0 && ended)
            result = server_closed(error);
        if (result != 0)
            return result;
    }
}

/* The head of the final answer: interim ones are passed over. */
static int read_final_head(struct http_client *client, struct error *error)
{
    for (;;) {
        const int result = read_head(client, error);
        if (result != 0 || client->head.status >= 200 || client->head.status == 101)
            return result;
        buffer_consume(&client->input, client->head.size);
    }
}

static int64_t retry_after(const struct http_client *client)
{
    size_t position = 0;
    const char *value = http_head_field(&client->head, client->input.data, "Retry-After", &position);
    int64_t seconds;

    return value != NULL && parse_int64(value, &seconds) == 0 && seconds >= 0 ? seconds : -1;
}

static void begin_body(struct http_client *client, const char *method)
{
    const struct http_head *head = &client->head;

    client->keeps = head->minor == 1 && !head->connection_close;
    client->body_ended = false;
    client->chunked = (struct http_chunked){ 0 };
    client->missing = 0;
    if (string_equal(method, "HEAD") || head->status == 204 || head->status == 304) {
        client->framing = FRAMING_NONE;
        client->body_ended = true;
    } else if (head->chunked) {
        client->framing = FRAMING_CHUNKED;
    } else if (head->length >= 0) {
        client->framing = FRAMING_SIZED;
        client->missing = (uint64_t)head->length;
        client->body_ended = head->length == 0;
    } else {
        client->framing = FRAMING_UNTIL_END;
        client->keeps = false;
    }
}

/* Up to the head of the final answer; its body comes next. */
static int exchange(struct http_client *client, const char *method, const char *target, const char *headers, const void *body, size_t size,
                    int64_t *ret_retry_after_s, struct error *error)
{
    struct error send_error = { 0 };
    int result = ensure_connected(client, error);
    int sent;

    if (result != 0)
        return result;
    sent = send_request(client, method, target, headers, body, size, &send_error);
    client->keeps = false;
    /* A server that refuses may answer and close before it has read everything. */
    result = read_final_head(client, error);
    if (result != 0) {
        client_socket_close(&client->socket);
        if (sent != 0 && error != NULL)
            *error = send_error;
        return sent != 0 ? sent : result;
    }
    *ret_retry_after_s = retry_after(client);
    begin_body(client, method);
    if (sent != 0)
        client->keeps = false;
    buffer_consume(&client->input, client->head.size);
    return 0;
}

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

static int decode_chunked(struct http_client *client, struct buffer *body, struct error *error)
{
    const size_t room_size = client->input.length;
    char *room = buffer_reserve(body, room_size);
    size_t consumed = 0, produced = 0;
    bool too_large = false;

    if (room == NULL)
        return error_set(error, ERROR_TOO_LARGE, "The answer is too large.");
    if (http_chunked_decode(&client->chunked, client->input.data, client->input.length, room, 0, SIZE_MAX, &consumed, &produced,
                            &too_large) != 0)
        return error_set(error, ERROR_INVALID, "The answer's body is malformed.");
    buffer_commit(body, produced);
    buffer_consume(&client->input, consumed);
    client->body_ended = client->chunked.state == CHUNKED_DONE;
    return 0;
}

/* Moves what is there of the body from the input. */
static int decode(struct http_client *client, struct buffer *body, struct error *error)
{
    size_t size = client->input.length;

    if (size == 0)
        return 0;
    if (client->framing == FRAMING_CHUNKED)
        return decode_chunked(client, body, error);
    if (client->framing == FRAMING_SIZED && size > client->missing)
        size = (size_t)client->missing;
    if (buffer_append(body, client->input.data, size) != 0)
        return error_set(error, ERROR_TOO_LARGE, "The answer is too large.");
    buffer_consume(&client->input, size);
    client->missing -= client->framing == FRAMING_SIZED ? size : 0;
    client->body_ended = client->framing == FRAMING_SIZED && client->missing == 0;
    return 0;
}

/* Appends some of the body; or finds its end. */
static int read_body(struct http_client *client, struct buffer *body, struct error *error)
{
    bool ended = false;
    int result = 0;

    if (client->input.length == 0)
        result = read_more(client, &ended, error);
    if (result != 0)
        return result;
    if (!ended)
        return decode(client, body, error);
    /* Only where nothing else says where the body ends. TLS tells a cut connection apart: that is an error of reading. */
    if (client->framing != FRAMING_UNTIL_END)
        return server_closed(error);
    client->body_ended = true;
    return 0;
}

int http_client_request(struct http_client *client, const char *method, const char *target, const char *headers, const void *body,
                        size_t size, struct http_response *ret_response, struct error *error)
{
    struct buffer answer;
    int64_t retry_after_s = -1;
    int result = exchange(client, method, target, headers, body, size, &retry_after_s, error);

    if (result != 0)
        return result;
    buffer_init(&answer, BODY_MAXIMUM);
    while (result == 0 && !client->body_ended)
        result = read_body(client, &answer, error);
    if (result != 0) {
        client_socket_close(&client->socket);
        buffer_release(&answer);
        return result;
    }
    ret_response->status = client->head.status;
    ret_response->body = answer;
    ret_response->retry_after_s = retry_after_s;
    return 0;
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

int http_client_stream(struct http_client *client, const char *target, const char *headers, int *ret_status, struct error *error)
{
    int64_t retry_after_s;
    const int result = exchange(client, "GET", target, headers, NULL, 0, &retry_after_s, error);

    if (result != 0)
        return result;
    buffer_reset(&client->lines);
    client->line_start = client->line_scanned = 0;
    *ret_status = client->head.status;
    return 0;
}

/* Hands out the line that ends at `end`, followed by `skip` bytes of line end. */
static int take_line(struct http_client *client, size_t end, size_t skip, struct buffer *ret_line, struct error *error)
{
    const char *start = client->lines.data + client->line_start;
    size_t length = end - client->line_start;

    if (length > 0 && start[length - 1] == '\r')
        length--;
    buffer_reset(ret_line);
    if (buffer_append(ret_line, start, length) != 0)
        return error_set(error, ERROR_TOO_LARGE, "A line of the stream is too long.");
    client->line_start = client->line_scanned = end + skip;
    return 0;
}

static const char *find_line_end(const struct http_client *client)
{
    if (client->line_scanned == client->lines.length)
        return NULL;
    return memchr(client->lines.data + client->line_scanned, '\n', client->lines.length - client->line_scanned);
}

bool http_client_has_line(const struct http_client *client)
{
    return find_line_end(client) != NULL;
}

int http_client_read_line(struct http_client *client, struct buffer *ret_line, struct error *error)
{
    for (;;) {
        const char *line_end = find_line_end(client);
        int result;

        if (line_end != NULL)
            return take_line(client, (size_t)(line_end - client->lines.data), 1, ret_line, error);
        client->line_scanned = client->lines.length;
        if (client->line_start > 0) {
            buffer_consume(&client->lines, client->line_start);
            client->line_scanned -= client->line_start;
            client->line_start = 0;
        }
        if (client->lines.length > LINE_MAXIMUM)
            return error_set(error, ERROR_TOO_LARGE, "A line of the stream is too long.");
        if (client->body_ended && client->lines.length > 0)
            return take_line(client, client->lines.length, 0, ret_line, error);
        if (client->body_ended)
            return error_set(error, ERROR_UNREACHABLE, "The stream ended.");
        result = read_body(client, &client->lines, error);
        if (result != 0)
            return result;
    }
}
