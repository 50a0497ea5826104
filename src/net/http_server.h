/* An HTTP/1.1 server on Unix and TCP sockets (and TLS), with a strict parser of its own (docs/decisions/0002): syntax, lengths and head
 * size are decided here, before any callback. Serves requests of one connection one after another; pipelined ones wait. Loop thread.
 *
 * Malformed request line or header, bare CR or LF, obs-fold, a space before the colon, a head over LIMIT_HTTP_HEAD, both Content-Length
 * and Transfer-Encoding, two Content-Lengths, a Transfer-Encoding other than one `chunked`, an HTTP version other than 1.0 and 1.1: 400
 * `bad_request` and the connection closes. A head not complete in 10 s, or a body that neither ends nor brings 16 KiB in 10 s:
 * closed (408 when nothing was answered). */
#ifndef NET_HTTP_SERVER_H
#define NET_HTTP_SERVER_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"
#include "util/buffer.h"
#include "util/text.h"

struct http_server;
struct http_request;
struct channel; /* net/channel.h: only for net/ itself */

enum http_transport { HTTP_UNIX, HTTP_TCP, HTTP_TRANSPORTS };

struct http_callbacks {
    void *argument;
    /* The head is complete and well formed; the body is not read. Answer here to refuse (the body is then read and dropped up to the
     * maximum, or the connection closed); return without an answer to go on. What http_path, http_header and the like return stays valid
     * until the request is answered or gone. */
    void (*head)(void *argument, struct http_request *request);
    /* The whole request. Answer now or later (exactly once), or upgrade, or start a stream. Not called when head answered. */
    void (*request)(void *argument, struct http_request *request);
    /* The connection is gone before the answer was finished: forget the request. After it the request is freed. Called for streams too.
     * Not called after a complete answer. Also called, once `head` let a request pass, before the server itself refuses it: 400
     * (malformed chunks), 408, 413, 417, which http_status_of then tells; and for all that are open in http_server_free. */
    void (*gone)(void *argument, struct http_request *request);
    /* Before a connection is served: false closes it (limits per address). May be NULL. */
    bool (*admit)(void *argument, const char *peer_address);
};

int http_server_new(struct loop *loop, const struct http_callbacks *callbacks, size_t max_body, struct http_server **ret_server,
                    struct error *error) MUST_CHECK;
void http_server_free(struct http_server *server); /* closes everything */
/* Binds with mode 0600 (umask held), removing a stale socket file (nobody accepts) first. ERROR_TOO_LARGE when the path is longer than
 * the system's maximum, naming --config-dir; ERROR_BUSY when a live process accepts there. Peers of another uid are closed at accept. */
int http_server_listen_unix(struct http_server *server, const char *path, struct error *error) MUST_CHECK;
/* The same, for callers of one kind: a socket that comes and goes while the server serves. What comes in on it says so by http_narrow_owner, and is closed with it (`gone`); 16 connections at once, which
 * take no places from the transport's.
 * No stale file is looked for: the directory is the caller's own, and private. ERROR_UNREACHABLE after http_server_stop_accepting, which closes such listeners too:
 * http_narrow_close is called all the same. */
struct http_narrow;
int http_server_listen_narrow(struct http_server *server, const char *path, void *owner, struct http_narrow **ret_narrow,
                              struct error *error) MUST_CHECK;
void http_narrow_close(struct http_narrow *narrow);          /* takes NULL; before http_server_free */
void *http_narrow_owner(const struct http_request *request); /* NULL: it came in another way */
/* port 0: any. *ret_port is the one bound. tls may be NULL; it is referenced, and replaced with http_server_set_tls. ERROR_BUSY when
 * taken. */
int http_server_listen_tcp(struct http_server *server, const char *host, uint16_t port, SSL_CTX *tls, uint16_t *ret_port,
                           struct error *error) MUST_CHECK;
/* For listeners that have TLS: new connections use this context from now on (a renewed certificate). Referenced. */
void http_server_set_tls(struct http_server *server, SSL_CTX *tls);
/* For the head, a body's progress, and between requests (10 s, 10 s, 75 s); before anything is accepted. */
void http_server_set_timeouts(struct http_server *server, int64_t head_ms, int64_t body_ms, int64_t idle_ms);
/* Connections of that transport beyond `maximum` are closed as they come, so that whoever may connect to one transport cannot take the
 * descriptors of the others; 0: any number. Upgraded ones do not count. */
void http_server_set_maximum(struct http_server *server, enum http_transport transport, size_t maximum);
void http_server_stop_accepting(struct http_server *server); /* idle connections are closed, busy ones after their answer */
size_t http_server_connection_count(const struct http_server *server);
size_t http_server_busy_count(const struct http_server *server); /* requests not answered, streams excluded */

/* ---- request ------------------------------------------------------------------------------------------------ */
const char *http_method(const struct http_request *request);
const char *http_path(const struct http_request *request); /* percent-decoded; no query */
/* Decoded query parameter (first of that name), NULL absent. Valid with the request. */
const char *http_query(const struct http_request *request, const char *name);
bool http_query_has(const struct http_request *request, const char *name); /* also in encoded spellings, any case */
/* NULL absent; several are joined ", " but for Host, Authorization, Origin, Content-Type, Idempotency-Key and Expect, where a second is
 * 400. */
const char *http_header(const struct http_request *request, const char *name);
struct text http_body(const struct http_request *request);
bool http_has_body(const struct http_request *request); /* Content-Length > 0 or chunked */
enum http_transport http_transport(const struct http_request *request);
uint16_t http_local_port(const struct http_request *request);      /* TCP; 0 on Unix */
const char *http_peer_address(const struct http_request *request); /* "127.0.0.1", "[::1]"-less; "unix" */
void http_set_user(struct http_request *request, void *user);      /* the callbacks' own pointer */
void *http_user(const struct http_request *request);
int64_t http_started_us(const struct http_request *request); /* monotonic */

/* ---- answer ------------------------------------------------------------------------------------------------- */
/* Extra headers before http_respond. name is a literal; the value is checked for control characters (then dropped). */
void http_add_header(struct http_request *request, const char *name, const char *value);
/* Sends and frees the request (HEAD is not special: 405 by the router). body is copied. content_type NULL: application/json. */
void http_respond(struct http_request *request, int status, const char *content_type, const void *body, size_t size);
/* {"error":code,"detail":detail} */
void http_respond_error(struct http_request *request, int status, const char *code, const char *detail);
/* The connection closes after the answer. */
void http_close_after(struct http_request *request);
int http_status_of(const struct http_request *request); /* 0 before the answer */

/* Streams (Server-Sent Events): head with Connection: close and no length, then chunks. Ends with http_stream_end or `gone`. */
void http_stream_start(struct http_request *request, int status, const char *content_type,
                       void (*drained)(void *argument, struct http_request *request)); /* called when the output is empty */
void http_stream_write(struct http_request *request, const void *data, size_t size);
size_t http_stream_backlog(const struct http_request *request); /* bytes not yet taken by the kernel */
void http_stream_end(struct http_request *request);             /* sends what is left, then closes; frees the request at once */
void http_stream_cut(struct http_request *request);             /* closes at once; frees; `gone` is not called */

/* Gives up the connection for another protocol after `head` (the whole 101 response), which the new owner flushes; frees the request.
 * Only in `request`, only without a body. Bytes already read beyond the head are the first that the channel gives. */
struct channel *http_upgrade(struct http_request *request, const void *head, size_t size);

/* ---- guards of 20-ipc "Before any route", shared by the daemon's API and the broker ------------------------------- */
/* Host parsed as host and port, brackets included; true for localhost, 127.0.0.1, [::1] with local_port or none, and for allowed
 * authorities: "host:port" with that port or none, "host" with any. */
bool http_host_is_allowed(const char *host, uint16_t local_port, const char *const *allowed, size_t allowed_count);
/* Origin absent and Sec-Fetch-Site absent or "none": true. Origin in the allowlist: true and *ret_allowlisted. */
bool http_origin_is_allowed(const char *origin, const char *sec_fetch_site, const char *const *allowed, size_t allowed_count,
                            bool *ret_allowlisted);

#endif
