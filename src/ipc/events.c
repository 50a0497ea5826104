/* Owns the table of events, the streams that are open, and GET /v1/events (20-ipc). Must not know where a stream stands: event_stream.c does. */
#include "ipc/events.h"

#include "ipc/event_id.h"
#include "ipc/event_stream.h"
#include "json/json.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

static const char *const TYPES[] = {
    [EVENT_MESSAGE] = "message",
    [EVENT_SYSTEM] = "system",
    "peer_join",
    "peer_leave",
    "broker_status",
    "outbox_status",
    "outbox_pressure",
    "receipt",
    "file_shared",
    "hook_executed",
    "feature_negotiation_failed",
};
enum { TYPE_COUNT = ARRAY_LENGTH(TYPES), KEEPALIVE_MS = 15000 };

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
static int find_place(const struct exchange *exchange, struct event_stream *stream, bool *ret_gap, struct error *error)
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
    bool wants_messages = (stream->types & (1U << EVENT_MESSAGE)) != 0;
    if (wants_messages) {
        stream->seq = *ret_gap ? 0 : id.seq;
        stream->n = *ret_gap ? 0 : id.n;
        stream->everything = *ret_gap;
    }
    stream->replaying = wants_messages;
    return 0;
}

static void send_gap(struct event_stream *stream)
{
    json_t *data = json_new_object();
    json_put_string(data, "event", "resume_gap");
    json_put_string(data, "detail", "The id is of another inbox: every stored message follows.");
    struct stream_event *event = stream_event_new(EVENT_SYSTEM, TYPES[EVENT_SYSTEM], NULL, data, -1);
    event_stream_write(stream, event);
    stream_event_release(event);
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
    struct event_stream *stream = memory_zalloc(sizeof(*stream));
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
        event_stream_free(stream);
        exchange_fail_shape(exchange, &error);
        return;
    }
    event_stream_open(stream, exchange);
    if (!loop_timer_is_running(ipc->events->keepalive))
        loop_timer_start(ipc->events->keepalive, KEEPALIVE_MS);
    if (gap)
        send_gap(stream);
    if (stream->replaying)
        event_stream_replay(stream);
}

/* ---- publishing -------------------------------------------------------------------------------------------------- */

void events_publish(struct events *events, const char *type_name, const char *mesh_slug, json_t *data, int64_t inbox_seq)
{
    unsigned type = 0;
    while (type < TYPE_COUNT && strcmp(TYPES[type], type_name) != 0)
        type++;
    if (type == EVENT_MESSAGE && inbox_seq > events->published_seq)
        events->published_seq = inbox_seq;
    if (type == TYPE_COUNT)
        log_event(LOG_LEVEL_ERROR, "event_type_unknown", LOG_TEXT("type", type_name), LOG_END);
    if (type == TYPE_COUNT || events->count == 0) {
        json_decref(data);
        return;
    }
    struct stream_event *event = stream_event_new(type, TYPES[type], mesh_slug, data, type == EVENT_MESSAGE ? inbox_seq : -1);
    for (struct event_stream *stream = events->streams, *next; stream != NULL; stream = next) {
        next = stream->next; /* the stream may be cut */
        event_stream_offer(stream, event);
    }
    stream_event_release(event);
}

static void keep_alive(void *argument)
{
    struct events *events = argument;
    static const char KEEPALIVE[] = ": keepalive\n\n";
    for (struct event_stream *stream = events->streams; stream != NULL; stream = stream->next)
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
    event_streams_init(events);
    return events;
}

void events_end_all(struct events *events)
{
    while (events->streams != NULL) {
        struct event_stream *stream = events->streams;
        struct http_request *http = stream->exchange->http;
        http_set_user(http, NULL);
        http_stream_end(http);
        event_stream_close(stream);
    }
}

void events_free(struct events *events)
{
    if (events == NULL)
        return;
    event_streams_release(events);
    loop_timer_free(events->keepalive);
    free(events);
}

size_t events_stream_count(const struct events *events)
{
    return events->count;
}
