/* One event stream: its place, what it still has to get, replay from the inbox, and when its reader is given up. Shared by event_stream.c and events.c alone. */
#ifndef IPC_EVENT_STREAM_H
#define IPC_EVENT_STREAM_H

#include "ipc/internal.h"

enum { EVENT_MESSAGE, EVENT_SYSTEM }; /* the first rows of the table of types in events.c */

struct stream_event { /* printed once for all streams */
    unsigned references;
    unsigned type;
    char *mesh_slug;    /* NULL: of no mesh */
    int64_t seq;        /* of a message */
    struct buffer text; /* without the id line */
};

struct gathered; /* an event that waits */

struct event_stream {
    struct events *events;
    struct exchange *exchange; /* NULL once closed */
    struct event_stream *previous, *next;
    uint32_t types;             /* 1 << type */
    char *mesh_slug, *row_mesh; /* the filter; NULL all */
    int64_t seq, n;             /* the newest message it has had; events since */
    bool replaying, reading, more, dropped;
    bool everything;        /* it begins anew: what was rebuilt from history too, which nobody was told of */
    bool lagging;           /* the backlog passed its limit: replaying, once it is taken */
    int64_t queued, taken;  /* bytes of events: written to the stream, and gone from its backlog */
    int64_t progress_at_ms; /* when `taken` grew last */
    struct gathered *first, *last;
    size_t gathered_messages, gathered_others; /* bytes */
};

struct events {
    struct ipc *ipc;
    struct event_stream *streams;
    size_t count;
    int64_t published_seq; /* the newest message that was published */
    struct loop_timer *keepalive;

    /* event_stream.c's, for readers that lag */
    struct loop_timer *stall_tick;
};

/* data is taken over. ts is the data's received_at when it is a message: the same whenever it is sent. */
struct stream_event *stream_event_new(unsigned type, const char *type_name, const char *mesh_slug, json_t *data, int64_t seq) MUST_CHECK;
void stream_event_release(struct stream_event *event);

/* Answers with the stream's head. The exchange is the stream's from here. */
void event_stream_open(struct event_stream *stream, struct exchange *exchange);
void event_stream_replay(struct event_stream *stream); /* what is stored after stream->seq, then live; `replaying` is set */
/* The message or other event comes now: written, or gathered. May cut, and free, the stream. */
void event_stream_offer(struct event_stream *stream, struct stream_event *event);
void event_stream_write(struct event_stream *stream, const struct stream_event *event);
/* The connection is gone, or given up. A page that is being read still holds the stream. */
void event_stream_close(struct event_stream *stream);
void event_stream_free(struct event_stream *stream); /* one that was never opened */

void event_streams_init(struct events *events);
void event_streams_release(struct events *events);

#endif
