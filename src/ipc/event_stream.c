/* Owns one event stream. Its place is the newest message it has had; ids are made from that place, so whatever a client saw last, resuming there gives it
 * every later message and none twice.
 *
 * A resumed stream replays pages of the inbox, the next one only when the reader has taken the last. Meanwhile it gathers what is published, in order. Messages are bounded: past
 * the bound they are dropped, and another page brings them. When a page comes back as the last and nothing was dropped since it was asked for, what was gathered is written, and the
 * stream is live.
 *
 * A live stream whose backlog passes 1 MiB lags: it gets no more until its reader has taken what there is, and then the rest as a replay. It is cut off once it has taken nothing for 2 s.
 *
 * Must not know where events come from, nor their types but `message`. */
#include "ipc/event_stream.h"

#include "inbox/inbox.h"
#include "ipc/event_id.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"

enum {
    PAGE_ROWS = 100,
    PAGE_BYTES = 256 * 1024,
    /* Gathered while replaying; together well below LIMIT_STREAM_BACKLOG, so that what is written when the stream goes live does not make it lag. */
    GATHERED_MESSAGES_MAX = 256 * 1024,
    GATHERED_OTHERS_MAX = 512 * 1024,
    /* A reader that lags is cut off once it has taken nothing for so long: a burst that came at once says nothing of the reader, and on a busy host a good one may well not run for a while. */
    STALL_MS = 2000,
    STALL_TICK_MS = 250,
};

struct gathered {
    struct gathered *next;
    struct stream_event *event;
};

static void request_page(struct event_stream *stream);

/* ---- events ---------------------------------------------------------------------------------------------------- */

void stream_event_release(struct stream_event *event)
{
    if (--event->references > 0)
        return;
    free(event->mesh_slug);
    buffer_release(&event->text);
    free(event);
}

struct stream_event *stream_event_new(unsigned type, const char *type_name, const char *mesh_slug, json_t *data, int64_t seq)
{
    struct stream_event *event = memory_zalloc(sizeof(*event));
    event->references = 1;
    event->type = type;
    event->mesh_slug = memory_strdup(mesh_slug);
    event->seq = seq;
    const json_t *received_at = type == EVENT_MESSAGE ? json_object_get(data, "received_at") : NULL;
    if (json_is_string(received_at))
        json_put_string(data, "ts", json_string_value(received_at));
    else
        json_put_time(data, "ts", clock_wall_ms());
    json_put_string(data, "mesh", mesh_slug);
    buffer_init(&event->text, BUFFER_UNLIMITED);
    buffer_printf(&event->text, "event: %s\ndata: ", type_name);
    json_print(data, &event->text);
    buffer_append_text(&event->text, "\n\n");
    json_decref(data);
    return event;
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

static void forget_gathered(struct event_stream *stream, bool messages_only)
{
    struct gathered **link = &stream->first;
    stream->last = NULL;
    while (*link != NULL) {
        struct gathered *gathered = *link;
        if (messages_only && gathered->event->type != EVENT_MESSAGE) {
            stream->last = gathered;
            link = &gathered->next;
            continue;
        }
        *link = gathered->next;
        stream_event_release(gathered->event);
        free(gathered);
    }
    stream->gathered_messages = 0;
    if (!messages_only)
        stream->gathered_others = 0;
}

void event_stream_free(struct event_stream *stream)
{
    forget_gathered(stream, false);
    free(stream->mesh_slug);
    free(stream->row_mesh);
    free(stream);
}

void event_stream_close(struct event_stream *stream)
{
    struct events *events = stream->events;
    if (stream->previous != NULL)
        stream->previous->next = stream->next;
    else
        events->streams = stream->next;
    if (stream->next != NULL)
        stream->next->previous = stream->previous;
    events->count--;
    exchange_drop(stream->exchange);
    stream->exchange = NULL;
    if (!stream->reading)
        event_stream_free(stream);
}

static void stream_cut(struct event_stream *stream)
{
    log_event(LOG_LEVEL_INFO, "event_stream_cut", LOG_NUMBER("backlog", http_stream_backlog(stream->exchange->http)), LOG_END);
    http_stream_cut(stream->exchange->http);
    event_stream_close(stream);
}

static void on_gone(struct exchange *exchange)
{
    event_stream_close(exchange->state);
}

static bool stream_wants(const struct event_stream *stream, const struct stream_event *event)
{
    if ((stream->types & (1U << event->type)) == 0)
        return false;
    return stream->mesh_slug == NULL || event->mesh_slug == NULL || strcmp(stream->mesh_slug, event->mesh_slug) == 0;
}

/* Moves the stream's place, and writes the event when it wants it. A message that it has had is nothing. */
void event_stream_write(struct event_stream *stream, const struct stream_event *event)
{
    if (event->type == EVENT_MESSAGE) {
        if (event->seq <= stream->seq)
            return;
        stream->seq = event->seq;
        stream->n = 0;
    }
    if (!stream_wants(stream, event))
        return;
    if (event->type != EVENT_MESSAGE)
        stream->n++;
    char id[EVENT_ID_SIZE], line[EVENT_ID_SIZE + 8];
    event_id_format(inbox_epoch(stream->events->ipc->inbox), stream->seq, stream->n, id);
    int length = snprintf(line, sizeof(line), "id: %s\n", id);
    http_stream_write(stream->exchange->http, line, (size_t)length);
    http_stream_write(stream->exchange->http, event->text.data, event->text.length);
    stream->queued += length + (int64_t)event->text.length;
}

/* Too much of what no page brings again: the stream is cut. */
static void stream_gather(struct event_stream *stream, struct stream_event *event)
{
    size_t size = event->text.length;
    if (event->type == EVENT_MESSAGE) {
        if (stream->more)
            return; /* a page that is still to be asked for brings it */
        if (stream->dropped || stream->gathered_messages + size > GATHERED_MESSAGES_MAX) {
            stream->dropped = true;
            forget_gathered(stream, true);
            return;
        }
        stream->gathered_messages += size;
    } else {
        if (!stream_wants(stream, event))
            return;
        stream->gathered_others += size;
        if (stream->gathered_others > GATHERED_OTHERS_MAX) {
            stream_cut(stream);
            return;
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
}

/* ---- readers that lag -------------------------------------------------------------------------------------------- */

/* How long the reader has taken nothing. */
static int64_t look_at_progress(struct event_stream *stream)
{
    int64_t now_ms = clock_monotonic_ms();
    int64_t taken = stream->queued - (int64_t)http_stream_backlog(stream->exchange->http);
    if (taken > stream->taken) {
        stream->taken = taken;
        stream->progress_at_ms = now_ms;
    }
    return now_ms - stream->progress_at_ms;
}

static void start_lagging(struct event_stream *stream)
{
    struct events *events = stream->events;
    stream->lagging = stream->replaying = stream->more = true;
    stream->taken = stream->queued - (int64_t)http_stream_backlog(stream->exchange->http);
    stream->progress_at_ms = clock_monotonic_ms();
    if (!loop_timer_is_running(events->stall_tick))
        loop_timer_start(events->stall_tick, STALL_TICK_MS);
}

void event_stream_offer(struct event_stream *stream, struct stream_event *event)
{
    if (!stream->replaying && http_stream_backlog(stream->exchange->http) > LIMIT_STREAM_BACKLOG)
        start_lagging(stream);
    if (stream->replaying)
        stream_gather(stream, event);
    else
        event_stream_write(stream, event);
}

static void look_for_stalled(void *argument)
{
    struct events *events = argument;
    bool any = false;
    for (struct event_stream *stream = events->streams, *next; stream != NULL; stream = next) {
        next = stream->next;
        if (stream->lagging && look_at_progress(stream) >= STALL_MS)
            stream_cut(stream);
        else
            any = any || stream->lagging;
    }
    if (any)
        loop_timer_start(events->stall_tick, STALL_TICK_MS);
}

/* ---- replay ---------------------------------------------------------------------------------------------------- */

/* The reader has taken what there was: on with the next page, or live. */
static void stream_step(struct event_stream *stream)
{
    stream->lagging = false;
    if (stream->more || stream->dropped) {
        request_page(stream);
        return;
    }
    stream->replaying = false;
    for (struct gathered *gathered = stream->first; gathered != NULL; gathered = gathered->next)
        event_stream_write(stream, gathered->event);
    forget_gathered(stream, false);
}

static void write_row(struct event_stream *stream, const struct inbox_row *row)
{
    const char *slug = ipc_slug_of_row(stream->events->ipc, row->mesh);
    struct stream_event *event = stream_event_new(EVENT_MESSAGE, "message", slug, inbox_row_to_json(row, slug), row->seq);
    event_stream_write(stream, event);
    stream_event_release(event);
}

static void on_page(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    struct event_stream *stream = argument;
    bool open = stream->exchange != NULL;
    stream->reading = false;
    for (size_t i = 0; i < count; i++) {
        if (open)
            write_row(stream, rows[i]);
        inbox_row_free(rows[i]);
    }
    free(rows);
    if (!open) {
        event_stream_free(stream);
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
static void request_page(struct event_stream *stream)
{
    forget_gathered(stream, true);
    stream->more = stream->dropped = false;
    stream->reading = true;
    const struct inbox_query query = { .mesh = stream->row_mesh,
                                       .since_ms = -1,
                                       .ascending = true,
                                       .came_live = !stream->everything,
                                       .after_seq = stream->seq,
                                       .limit = PAGE_ROWS,
                                       .maximum_bytes = PAGE_BYTES };
    inbox_list(stream->events->ipc->inbox, &query, on_page, stream);
}

static void on_drained(void *argument, struct http_request *request)
{
    (void)argument;
    struct exchange *exchange = http_user(request);
    struct event_stream *stream = exchange != NULL ? exchange->state : NULL;
    if (stream != NULL && stream->replaying && !stream->reading)
        stream_step(stream);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

void event_stream_open(struct event_stream *stream, struct exchange *exchange)
{
    static const char CONNECTED[] = ": connected\n\n";
    struct events *events = stream->events;
    struct http_request *http = exchange->http;
    stream->exchange = exchange;
    exchange->state = stream;
    exchange->on_gone = on_gone;
    stream->next = events->streams;
    if (events->streams != NULL)
        events->streams->previous = stream;
    events->streams = stream;
    events->count++;
    ipc_metrics_request(exchange->ipc->metrics, exchange->route, http_transport(http), 200, clock_monotonic_us() - http_started_us(http));
    http_add_header(http, "Cache-Control", "no-store");
    http_stream_start(http, 200, "text/event-stream", on_drained);
    http_stream_write(http, CONNECTED, sizeof(CONNECTED) - 1);
}

void event_stream_replay(struct event_stream *stream)
{
    request_page(stream);
}

void event_streams_init(struct events *events)
{
    events->stall_tick = loop_timer_new(events->ipc->loop, look_for_stalled, events);
}

void event_streams_release(struct events *events)
{
    while (events->streams != NULL)
        event_stream_close(events->streams);
    loop_timer_free(events->stall_tick);
}
