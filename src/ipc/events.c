/* Owns the event streams. A stream's place is the newest message it has had; ids are made from that place, so whatever a client saw last, resuming there gives it
 * every later message and none twice.
 *
 * A resumed stream replays pages of the inbox, the next one only when the reader has taken the last. Meanwhile it gathers what is published, in order. Messages are bounded: past
 * the bound they are dropped, and another page brings them. When a page comes back as the last and nothing was dropped since it was asked for, what was gathered is written, and the
 * stream is live.
 *
 * Must not know where events come from. */
#include "ipc/events.h"

#include "inbox/inbox.h"
#include "ipc/event_id.h"
#include "ipc/internal.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

static const char *const TYPES[] = {
    "message",
    "peer_join",
    "peer_leave",
    "broker_status",
    "outbox_status",
    "outbox_pressure",
    "receipt",
    "file_shared",
    "hook_executed",
    "system",
    "feature_negotiation_failed",
};
enum { TYPE_MESSAGE = 0, TYPE_COUNT = ARRAY_LENGTH(TYPES) };

enum {
    KEEPALIVE_MS = 15000,
    PAGE_ROWS = 100,
    PAGE_BYTES = 256 * 1024,
    /* Gathered while replaying; together well below LIMIT_STREAM_BACKLOG, so that what is written when the stream goes live never cuts it. */
    GATHERED_MESSAGES_MAX = 256 * 1024,
    GATHERED_OTHERS_MAX = 512 * 1024,
};

struct event { /* printed once for all streams */
    unsigned references;
    unsigned type;
    char *mesh_slug;    /* NULL: of no mesh */
    int64_t seq;        /* of a message */
    struct buffer text; /* without the id line */
};

struct gathered {
    struct gathered *next;
    struct event *event;
};

struct stream {
    struct events *events;
    struct exchange *exchange; /* NULL once closed */
    struct stream *previous, *next;
    uint32_t types;             /* 1 << type */
    char *mesh_slug, *row_mesh; /* the filter; NULL all */
    int64_t seq, n;             /* the newest message it has had; events since */
    bool replaying, reading, more, dropped;
    struct gathered *first, *last;
    size_t gathered_messages, gathered_others; /* bytes */
};

struct events {
    struct ipc *ipc;
    struct stream *streams;
    size_t count;
    int64_t published_seq; /* the newest message that was published */
    struct loop_timer *keepalive;
};

static void request_page(struct stream *stream);

/* ---- events ---------------------------------------------------------------------------------------------------- */

static void event_release(struct event *event)
{
    if (--event->references > 0)
        return;
    free(event->mesh_slug);
    buffer_release(&event->text);
    free(event);
}

/* data is taken over; ts as the data's received_at when it is a message: the same whenever it is sent. */
static struct event *event_new(unsigned type, const char *mesh_slug, json_t *data, int64_t seq)
{
    struct event *event = memory_zalloc(sizeof(*event));
    event->references = 1;
    event->type = type;
    event->mesh_slug = memory_strdup(mesh_slug);
    event->seq = seq;
    const json_t *received_at = type == TYPE_MESSAGE ? json_object_get(data, "received_at") : NULL;
    if (json_is_string(received_at))
        json_put_string(data, "ts", json_string_value(received_at));
    else
        json_put_time(data, "ts", clock_wall_ms());
    json_put_string(data, "mesh", mesh_slug);
    buffer_init(&event->text, BUFFER_UNLIMITED);
    buffer_printf(&event->text, "event: %s\ndata: ", TYPES[type]);
    json_print(data, &event->text);
    buffer_append_text(&event->text, "\n\n");
    json_decref(data);
    return event;
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

static void forget_gathered(struct stream *stream, bool messages_only)
{
    struct gathered **link = &stream->first;
    stream->last = NULL;
    while (*link != NULL) {
        struct gathered *gathered = *link;
        if (messages_only && gathered->event->type != TYPE_MESSAGE) {
            stream->last = gathered;
            link = &gathered->next;
            continue;
        }
        *link = gathered->next;
        event_release(gathered->event);
        free(gathered);
    }
    stream->gathered_messages = 0;
    if (!messages_only)
        stream->gathered_others = 0;
}

static void stream_free(struct stream *stream)
{
    forget_gathered(stream, false);
    free(stream->mesh_slug);
    free(stream->row_mesh);
    free(stream);
}

/* The connection is gone, or given up. A page that is being read still holds the stream. */
static void stream_close(struct stream *stream)
{
    struct events *events = stream->events;
    if (stream->previous != NULL)
        stream->previous->next = stream->next;
    else
        events->streams = stream->next;
    if (stream->next != NULL)
        stream->next->previous = stream->previous;
    events->count--;
    if (events->count == 0)
        loop_timer_stop(events->keepalive);
    exchange_drop(stream->exchange);
    stream->exchange = NULL;
    if (!stream->reading)
        stream_free(stream);
}

static void stream_cut(struct stream *stream)
{
    log_event(LOG_LEVEL_INFO, "event_stream_cut", LOG_NUMBER("backlog", http_stream_backlog(stream->exchange->http)), LOG_END);
    http_stream_cut(stream->exchange->http);
    stream_close(stream);
}

static void on_gone(struct exchange *exchange)
{
    stream_close(exchange->state);
}

static bool stream_wants(const struct stream *stream, const struct event *event)
{
    if ((stream->types & (1U << event->type)) == 0)
        return false;
    return stream->mesh_slug == NULL || event->mesh_slug == NULL || strcmp(stream->mesh_slug, event->mesh_slug) == 0;
}

/* Moves the stream's place, and writes the event when it wants it. A message that it has had is nothing. */
static void stream_write(struct stream *stream, const struct event *event)
{
    if (event->type == TYPE_MESSAGE) {
        if (event->seq <= stream->seq)
            return;
        stream->seq = event->seq;
        stream->n = 0;
    }
    if (!stream_wants(stream, event))
        return;
    if (event->type != TYPE_MESSAGE)
        stream->n++;
    char id[EVENT_ID_SIZE], line[EVENT_ID_SIZE + 8];
    event_id_format(inbox_epoch(stream->events->ipc->inbox), stream->seq, stream->n, id);
    int length = snprintf(line, sizeof(line), "id: %s\n", id);
    http_stream_write(stream->exchange->http, line, (size_t)length);
    http_stream_write(stream->exchange->http, event->text.data, event->text.length);
}

/* False: the stream was cut. */
static bool stream_gather(struct stream *stream, struct event *event)
{
    size_t size = event->text.length;
    if (event->type == TYPE_MESSAGE) {
        if (stream->dropped || stream->gathered_messages + size > GATHERED_MESSAGES_MAX) {
            stream->dropped = true;
            forget_gathered(stream, true);
            return true;
        }
        stream->gathered_messages += size;
    } else {
        if (!stream_wants(stream, event))
            return true;
        stream->gathered_others += size;
        if (stream->gathered_others > GATHERED_OTHERS_MAX) {
            stream_cut(stream);
            return false;
        }
    }
    struct gathered *gathered = memory_zalloc(sizeof(*gathered));
    gathered->event = event;
    event->references++;
    if (stream->last != NULL)
        stream->last->next = gathered;
    else
        stream->first = gathered;
    stream->last = gathered;
    return true;
}

static void stream_offer(struct stream *stream, struct event *event)
{
    if (stream->replaying) {
        (void)stream_gather(stream, event);
        return;
    }
    stream_write(stream, event);
    if (http_stream_backlog(stream->exchange->http) > LIMIT_STREAM_BACKLOG)
        stream_cut(stream);
}

/* ---- replay ---------------------------------------------------------------------------------------------------- */

/* The reader has taken what there was: on with the next page, or live. */
static void stream_step(struct stream *stream)
{
    if (stream->more || stream->dropped) {
        request_page(stream);
        return;
    }
    stream->replaying = false;
    for (struct gathered *gathered = stream->first; gathered != NULL; gathered = gathered->next)
        stream_write(stream, gathered->event);
    forget_gathered(stream, false);
}

static void write_row(struct stream *stream, const struct inbox_row *row)
{
    const char *slug = ipc_slug_of_row(stream->events->ipc, row->mesh);
    struct event *event = event_new(TYPE_MESSAGE, slug, inbox_row_to_json(row, slug), row->seq);
    stream_write(stream, event);
    event_release(event);
}

static void on_page(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    struct stream *stream = argument;
    bool open = stream->exchange != NULL;
    stream->reading = false;
    for (size_t i = 0; i < count; i++) {
        if (open)
            write_row(stream, rows[i]);
        inbox_row_free(rows[i]);
    }
    free(rows);
    if (!open) {
        stream_free(stream);
        return;
    }
    if (status != 0) {
        log_event(LOG_LEVEL_ERROR, "event_replay_failed", LOG_TEXT("error", error_code_name((enum error_code)(-status))), LOG_END);
        stream_cut(stream); /* the client resumes from what it has */
        return;
    }
    stream->more = more;
    if (http_stream_backlog(stream->exchange->http) == 0)
        stream_step(stream); /* else drained does */
}

/* What was published before this moment is committed: this page, or one after it, brings it. */
static void request_page(struct stream *stream)
{
    forget_gathered(stream, true);
    stream->dropped = false;
    stream->reading = true;
    const struct inbox_query query = { .mesh = stream->row_mesh,
                                       .since_ms = -1,
                                       .ascending = true,
                                       .after_seq = stream->seq,
                                       .limit = PAGE_ROWS,
                                       .maximum_bytes = PAGE_BYTES };
    inbox_list(stream->events->ipc->inbox, &query, on_page, stream);
}

static void on_drained(void *argument, struct http_request *request)
{
    (void)argument;
    struct exchange *exchange = http_user(request);
    struct stream *stream = exchange != NULL ? exchange->state : NULL;
    if (stream != NULL && stream->replaying && !stream->reading)
        stream_step(stream);
}

/* ---- the route --------------------------------------------------------------------------------------------------- */

static int parse_types(const char *list, uint32_t *ret_types, struct error *error)
{
    uint32_t types = 0;
    for (;;) {
        size_t length = strcspn(list, ",");
        size_t type = 0;
        while (type < TYPE_COUNT && (strlen(TYPES[type]) != length || strncmp(TYPES[type], list, length) != 0))
            type++;
        if (type == TYPE_COUNT)
            return error_set(error, ERROR_INVALID, "Parameter 'types' names no event '%.*s'.", (int)(length < 40 ? length : 40), list);
        types |= 1U << type;
        if (list[length] == '\0')
            break;
        list += length + 1;
    }
    *ret_types = types;
    return 0;
}

/* Where the stream starts: now, or after what the client had. An id of another inbox: *ret_gap, and from the beginning. */
static int find_place(const struct exchange *exchange, struct stream *stream, bool *ret_gap, struct error *error)
{
    const char *text = http_header(exchange->http, "Last-Event-ID");
    if (text == NULL)
        text = http_query(exchange->http, "last_event_id");
    stream->seq = stream->events->published_seq;
    if (text == NULL)
        return 0;
    struct event_id id;
    if (event_id_parse(text, &id) != 0)
        return error_set(error, ERROR_INVALID, "Header 'Last-Event-ID' must be an id that an event of this daemon had.");
    const struct inbox *inbox = exchange->ipc->inbox;
    *ret_gap = strcmp(id.epoch, inbox_epoch(inbox)) != 0 || id.seq > inbox_newest_seq(inbox);
    bool wants_messages = (stream->types & (1U << TYPE_MESSAGE)) != 0;
    if (wants_messages) {
        stream->seq = *ret_gap ? 0 : id.seq;
        stream->n = *ret_gap ? 0 : id.n;
    }
    stream->replaying = wants_messages;
    return 0;
}

static void open_stream(struct stream *stream, struct exchange *exchange)
{
    struct events *events = stream->events;
    struct http_request *http = exchange->http;
    stream->exchange = exchange;
    exchange->state = stream;
    exchange->on_gone = on_gone;
    stream->next = events->streams;
    if (events->streams != NULL)
        events->streams->previous = stream;
    events->streams = stream;
    if (events->count++ == 0)
        loop_timer_start(events->keepalive, KEEPALIVE_MS);
    ipc_metrics_request(exchange->ipc->metrics, exchange->route, http_transport(http), 200, clock_monotonic_us() - http_started_us(http));
    http_add_header(http, "Cache-Control", "no-store");
    http_stream_start(http, 200, "text/event-stream", on_drained);
    static const char CONNECTED[] = ": connected\n\n";
    http_stream_write(http, CONNECTED, sizeof(CONNECTED) - 1);
}

static void send_gap(struct stream *stream)
{
    json_t *data = json_new_object();
    json_put_string(data, "event", "resume_gap");
    json_put_string(data, "detail", "The id is of another inbox: every stored message follows.");
    size_t type = 0;
    while (strcmp(TYPES[type], "system") != 0)
        type++;
    struct event *event = event_new((unsigned)type, NULL, data, -1);
    stream_write(stream, event);
    event_release(event);
}

void route_events(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    if (ipc->stopping) {
        exchange_fail(exchange, 503, "stopping", "The daemon is stopping; connect again when it is back.");
        return;
    }
    const char *row_mesh;
    if (ipc_mesh_filter(exchange, &row_mesh) != 0)
        return;
    struct stream *stream = memory_zalloc(sizeof(*stream));
    stream->events = ipc->events;
    stream->types = (1U << TYPE_COUNT) - 1;
    if (row_mesh != NULL) {
        stream->row_mesh = memory_strdup(row_mesh);
        stream->mesh_slug = memory_strdup(ipc_slug_of_row(ipc, row_mesh));
    }
    struct error error;
    bool gap = false;
    const char *types = http_query(exchange->http, "types");
    if ((types != NULL && parse_types(types, &stream->types, &error) != 0) || find_place(exchange, stream, &gap, &error) != 0) {
        stream_free(stream);
        exchange_fail_shape(exchange, &error);
        return;
    }
    open_stream(stream, exchange);
    if (gap)
        send_gap(stream);
    if (stream->replaying)
        request_page(stream);
}

/* ---- publishing -------------------------------------------------------------------------------------------------- */

void events_publish(struct events *events, const char *type_name, const char *mesh_slug, json_t *data, int64_t inbox_seq)
{
    unsigned type = 0;
    while (type < TYPE_COUNT && strcmp(TYPES[type], type_name) != 0)
        type++;
    if (type == TYPE_MESSAGE && inbox_seq > events->published_seq)
        events->published_seq = inbox_seq;
    if (type == TYPE_COUNT)
        log_event(LOG_LEVEL_ERROR, "event_type_unknown", LOG_TEXT("type", type_name), LOG_END);
    if (type == TYPE_COUNT || events->count == 0) {
        json_decref(data);
        return;
    }
    struct event *event = event_new(type, mesh_slug, data, type == TYPE_MESSAGE ? inbox_seq : -1);
    for (struct stream *stream = events->streams, *next; stream != NULL; stream = next) {
        next = stream->next; /* the stream may be cut */
        stream_offer(stream, event);
    }
    event_release(event);
}

static void keep_alive(void *argument)
{
    struct events *events = argument;
    static const char KEEPALIVE[] = ": keepalive\n\n";
    for (struct stream *stream = events->streams; stream != NULL; stream = stream->next)
        if (http_stream_backlog(stream->exchange->http) == 0)
            http_stream_write(stream->exchange->http, KEEPALIVE, sizeof(KEEPALIVE) - 1);
    if (events->count > 0)
        loop_timer_start(events->keepalive, KEEPALIVE_MS);
}

struct events *events_new(struct ipc *ipc)
{
    struct events *events = memory_zalloc(sizeof(*events));
    events->ipc = ipc;
    events->published_seq = inbox_newest_seq(ipc->inbox);
    events->keepalive = loop_timer_new(ipc->loop, keep_alive, events);
    return events;
}

void events_end_all(struct events *events)
{
    while (events->streams != NULL) {
        struct stream *stream = events->streams;
        struct http_request *http = stream->exchange->http;
        http_set_user(http, NULL);
        http_stream_end(http);
        stream_close(stream);
    }
}

void events_free(struct events *events)
{
    if (events == NULL)
        return;
    while (events->streams != NULL)
        stream_close(events->streams);
    loop_timer_free(events->keepalive);
    free(events);
}

size_t events_stream_count(const struct events *events)
{
    return events->count;
}
