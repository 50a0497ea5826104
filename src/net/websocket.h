/* WebSocket, both ends (RFC 6455, wslay): handshakes, ping every 30 s, 75 s of silence drops, frames over LIMIT_FRAME close with 1009,
 * permessage-deflate accepted and offered without context takeover, inflated (bounded) when the peer compresses, never used outward. Text
 * frames only: a binary one closes with 1003, invalid UTF-8 with 1007. Loop thread. */
#ifndef NET_WEBSOCKET_H
#define NET_WEBSOCKET_H

#include "net/http_server.h"
#include "net/loop.h"

struct websocket;

struct websocket_callbacks {
    /* Client only: the handshake succeeded; challenge is the X-Claudemesh-Challenge header or NULL. */
    void (*open)(void *argument, struct websocket *socket, const char *challenge);
    void (*message)(void *argument, struct websocket *socket, const char *text, size_t size);
    /* Once, last: the socket is freed after it. code: the close code received, or 1006. reason: NUL-terminated (the peer's text, or what
     * happened). */
    void (*closed)(void *argument, struct websocket *socket, int code, const char *reason);
    /* The output backlog fell to zero. May be NULL. */
    void (*drained)(void *argument, struct websocket *socket);
};

/* Server: answers the upgrade request with 101 and the challenge header (64 hex; NULL none). NULL when the request is no valid upgrade
 * (then it was answered 400 or 426). */
struct websocket *websocket_accept(struct loop *loop, struct http_request *request, const char *challenge,
                                   const struct websocket_callbacks *callbacks, void *argument) MUST_CHECK;

struct websocket_connect {
    const char *url;     /* ws:// or wss:// */
    const char *ca_file; /* NULL or "": the system store */
    bool allow_insecure; /* ws:// to something that is not loopback */
    int64_t timeout_ms;  /* for connect, TLS and handshake together */
};
/* Never blocks (DNS is asynchronous). A URL that cannot be used fails here; everything later comes as `closed` with code 1006 and a
 * sentence. */
int websocket_connect(struct loop *loop, const struct websocket_connect *connect, const struct websocket_callbacks *callbacks,
                      void *argument, struct websocket **ret_socket, struct error *error) MUST_CHECK;

/* Queues one text frame (copied). Writes are coalesced per loop turn. -1 when closing, or when the backlog would pass LIMIT_WS_BACKLOG
 * (then the socket is closed: a slow peer). */
int websocket_send(struct websocket *socket, const char *text, size_t size);
size_t websocket_backlog(const struct websocket *socket); /* bytes queued and not yet taken by the kernel */
/* In a callback: whether more of what was read is still to be parsed, so that another message may follow at once. */
bool websocket_has_input(const struct websocket *socket);
/* Sends a close frame (reason cut to 123 bytes), waits 2 s for the peer's, then `closed` with the code given. */
void websocket_close(struct websocket *socket, int code, const char *reason);
/* At once, without a `closed` callback; frees. Takes NULL. */
void websocket_abort(struct websocket *socket);
/* Pings every ping_ms (30,000); a peer that is silent for silence_ms (75,000) is dropped: code 1006. Any time. */
void websocket_set_keepalive(struct websocket *socket, int64_t ping_ms, int64_t silence_ms);
/* A smaller maximum than LIMIT_FRAME for the messages that begin from now on: of peers that are not known yet. */
void websocket_set_maximum(struct websocket *socket, size_t maximum);
void websocket_ping(struct websocket *socket);            /* now, once it is open: whether somebody is there */
int64_t websocket_rtt_ms(const struct websocket *socket); /* of the newest ping that was answered; -1: none yet */
/* Stops and resumes reading (back pressure). */
void websocket_pause(struct websocket *socket, bool paused);
const char *websocket_peer_address(const struct websocket *socket);

/* "ws://host:port/ws" to its parts; also for http client use. host is heap. */
struct url_parts {
    bool tls;
    char *host; /* without brackets */
    uint16_t port;
    char *path;
};
int url_parse(const char *url, struct url_parts *ret_parts, struct error *error) MUST_CHECK;
void url_parts_release(struct url_parts *parts);
bool host_is_loopback(const char *host);

#endif
