/* What the files of the HTTP server share: http_listen.c (sockets), http_server.c (the server and its clock), http_connection.c (one
 * connection's states), http_reading.c (its bytes), http_request.c (looking at a request), http_answer.c (answering). */
#ifndef NET_HTTP_INTERNAL_H
#define NET_HTTP_INTERNAL_H

#include <netinet/in.h>

#include "net/channel.h"
#include "net/http_chunked.h"
#include "net/http_head.h"
#include "net/http_server.h"

enum {
    HTTP_NARROW_CONNECTIONS = 16, /* at once on a narrow listener: its callers take no places from the others, and not many descriptors */
    HTTP_INPUT_SIZE = 4096,       /* a connection's input at first; most requests fit */
    HTTP_PIPELINE_BACKLOG = 256 * 1024, /* unsent answers at which no further pipelined request is served */
    HTTP_LINGER_MS = 2000,              /* for the peer to read a last answer */
    HTTP_LINGER_BYTES = 1024 * 1024,    /* what of an unwanted body is read meanwhile */
    HTTP_BODY_PROGRESS = 16 * 1024      /* of a body that is not complete: as much must come in its time */
};

struct http_query_pair {
    const char *name, *value;
};

struct http_request {
    struct http_connection *connection;
    void *user;
    int64_t started_us;
    int status;
    bool announced; /* `head` was called and neither an answer nor `gone` followed */
    bool counted;   /* among the server's busy ones */
    bool close_after;
    bool keeps;     /* the connection goes on after the answer */
    bool continued; /* the client does not wait for a 100 (any more) */
    char *body;     /* NULL: the body stands behind the head in the input */
    size_t body_length, body_capacity;
    struct http_chunked chunked;
    char *query_text;                    /* decoded pieces */
    struct http_query_pair *query_pairs; /* NULL: not looked at */
    size_t query_count;
    struct buffer extra_headers; /* data NULL: none */
    char **joined;               /* values made from several headers */
    size_t joined_count;
    void (*drained)(void *argument, struct http_request *request);
    struct http_head head; /* offsets into the connection's input, from input_start. Last: not cleared for each request */
};

enum http_state {
    HTTP_STATE_HEAD, /* idle, or in a head */
    HTTP_STATE_BODY,
    HTTP_STATE_DROP, /* answered; its body is read and forgotten */
    HTTP_STATE_WAIT, /* the answer is awaited */
    HTTP_STATE_STREAM,
    HTTP_STATE_FLUSH,  /* the last answer is being sent */
    HTTP_STATE_LINGER, /* it was sent, our side is closed; until the peer closes */
    HTTP_STATE_DEAD
};

struct http_connection {
    struct http_connection *next, *previous; /* of the server; or the dead */
    struct http_server *server;
    struct channel *channel;
    enum http_transport transport;
    uint16_t local_port;
    char peer_address[INET6_ADDRSTRLEN];
    struct http_narrow *narrow; /* the listener of http_server_listen_narrow that it came in on; NULL: another */
    enum http_state state;
    bool processing;        /* inside connection_process: answers are gathered */
    bool held_back;         /* too much is unsent to begin another request */
    bool scheduled;         /* connection_process is deferred */
    bool flush_scheduled;   /* so is sending a stream's output */
    bool ended;             /* the peer sends no more */
    bool fresh;             /* no byte came yet */
    bool timing_head;       /* deadline_ms is that of a head that began */
    int64_t deadline_ms;    /* monotonic; -1: none */
    size_t stalled_backlog; /* unsent output when deadline_ms was set */
    size_t discarded;       /* while dropping a body or lingering */
    size_t progress;        /* bytes of a body since deadline_ms was set */
    char *input;
    size_t input_start, input_end, input_capacity, scanned; /* scanned counts from input_start */
    struct http_request request;
};

struct http_listener {
    struct http_listener *next;
    struct http_server *server;
    enum http_transport transport;
    SSL_CTX *tls;
    uint16_t port;
    int fd;
    struct event *event;
    struct loop_timer *pause;   /* out of descriptors: try again soon */
    char *path;                 /* of a Unix socket */
    struct http_narrow *narrow; /* http_server_listen_narrow's; NULL: another */
    dev_t device;
    ino_t inode;
};

struct http_narrow { /* the caller's; forgotten by its listener when that is closed */
    struct http_server *server;
    struct http_listener *listener; /* NULL: closed */
    void *owner;
    size_t connections;
};

struct http_server {
    struct loop *loop;
    struct http_callbacks callbacks;
    size_t max_body;
    int64_t head_ms, body_ms, idle_ms;
    struct http_listener *listeners;
    struct http_connection *connections, *dead;
    size_t connection_count, busy_count;
    size_t counts[HTTP_TRANSPORTS], maxima[HTTP_TRANSPORTS]; /* connections; 0: no maximum */
    struct loop_timer *sweep;
    bool stopping;
    bool reaping;              /* freeing the dead is deferred */
    struct buffer answer_head; /* scratch */
};

/* http_listen.c */
void listener_close(struct http_listener *listener);
/* http_server.c: takes fd over. */
void server_adopt(struct http_server *server, int fd, const struct http_listener *listener, const char *peer_address);
void server_forget(struct http_connection *connection);
/* http_connection.c */
extern const struct channel_callbacks connection_channel_callbacks;
char *connection_head_bytes(const struct http_connection *connection);
size_t connection_buffered(const struct http_connection *connection); /* bytes in the input, from input_start */
void connection_destroy(struct http_connection *connection);          /* `gone` when a request is announced */
void connection_expire(struct http_connection *connection);           /* its deadline passed */
void connection_close_when_sent(struct http_connection *connection);
/* The request in it was answered (or refused): consumes its bytes and goes on, or closes, as request.keeps says. */
void connection_finish_request(struct http_connection *connection);
/* The request is no longer the caller's business: not counted, no `gone`. */
void connection_retract(struct http_connection *connection);
void connection_schedule_flush(struct http_connection *connection);
/* Its bytes go elsewhere: the connection is forgotten, its channel returned with what was read too much put back. */
struct channel *connection_detach(struct http_connection *connection);
/* http_reading.c: one read, as channel_read answers. The connection may be refused or dead after it. */
ssize_t connection_read(struct http_connection *connection) MUST_CHECK;
/* What was read too much, to be read again before the rest. */
void connection_put_back(struct http_connection *connection, const void *data, size_t size);
/* http_request.c */
void request_release(struct http_request *request);
/* http_answer.c: the server's own refusals. Calls `gone` if a request is announced; the connection closes. */
void connection_refuse(struct http_connection *connection, int status, const char *code, const char *detail);

#endif
