/* A small blocking HTTP/1.1 client for the command line: Unix sockets, TCP, TLS. Keeps the connection between requests. One thread. */
#ifndef NET_HTTP_CLIENT_H
#define NET_HTTP_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "util/buffer.h"
#include "util/error.h"

struct http_client;

int http_client_open_unix(const char *path, int64_t timeout_ms, struct http_client **ret_client, struct error *error) MUST_CHECK;
/* ws(s):// or http(s)://; the host and port of it. ca_file as in websocket_connect. */
int http_client_open_url(const char *url, const char *ca_file, int64_t timeout_ms, struct http_client **ret_client,
                         struct error *error) MUST_CHECK;
void http_client_free(struct http_client *client);
void http_client_set_timeout(struct http_client *client, int64_t timeout_ms); /* for each read or write; -1 none */

struct http_response {
    int status;
    struct buffer body;
    int64_t retry_after_s; /* -1 */
};
void http_response_release(struct http_response *response);
/* A connection that the server closed meanwhile is replaced for Unix sockets and TLS; on plain TCP it is ERROR_UNREACHABLE, as what was
 * proved about the server (45-trust) was proved for that connection alone: open another client. headers: NULL or "Name: value\r\n" lines.
 * body NULL: none. ERROR_UNREACHABLE, ERROR_TIMEOUT, ERROR_INVALID (nonsense answered). */
int http_client_request(struct http_client *client, const char *method, const char *target, const char *headers, const void *body,
                        size_t size, struct http_response *ret_response, struct error *error) MUST_CHECK;
/* Starts a streamed GET; *ret_status is its status. Then lines without their end, replacing what was in ret_line; ERROR_UNREACHABLE at
 * the stream's end. */
int http_client_stream(struct http_client *client, const char *target, const char *headers, int *ret_status,
                       struct error *error) MUST_CHECK;
int http_client_read_line(struct http_client *client, struct buffer *ret_line, struct error *error) MUST_CHECK;
bool http_client_has_line(const struct http_client *client); /* the next http_client_read_line will not wait: ask before poll */
int http_client_fd(const struct http_client *client);        /* for poll; -1 when the connection is closed */

#endif
