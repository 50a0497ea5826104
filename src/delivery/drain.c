/* The drain's way outward: which row is next, reading it, marking it, writing its frame. What becomes of it then is in answers.c. */
#include "delivery/drain_internal.h"

#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    BACKLOG_MAXIMUM = 256 * 1024,     /* what the link may hold unsent before we wait: more would only make the answers late */
    QUEUED_MAXIMUM = 2 * 1024 * 1024, /* frames sealed and not written, before another page is read */
    FETCH_AGAIN_MS = 1000,
    WITHHELD_MS = 15000
};

struct page { /* a read on its way */
    struct drain *drain;
    uint64_t generation;
    enum outbox_priority priority;
    char *destination_ref; /* NULL: the cursor's */
    int64_t up_to_seq;
    size_t limit;
};

struct mark_batch {
    struct drain *drain;
    uint64_t generation;
};

static void flush_deferred(void *argument);

/* ---- life ----------------------------------------------------------------------------------------------------- */

void drain_hold(struct drain *drain)
{
    drain->outstanding++;
}

void drain_let_go(struct drain *drain)
{
    drain->outstanding--;
    if (drain->freed && drain->outstanding == 0) {
        free(drain);
    }
}

static void timer_fired(void *argument)
{
    drain_pump(argument);
}

struct drain *drain_new(const struct drain_options *options)
{
    struct drain *drain = memory_zalloc(sizeof(*drain));
    drain->options = *options;
    drain->options.row_mesh = memory_strdup(options->row_mesh);
    drain->options.mesh_slug = memory_strdup(options->mesh_slug);
    if (drain->options.fetch == NULL) {
        drain->options.fetch = outbox_fetch_pending;
    }
    if (drain->options.window == 0) {
        drain->options.window = 1;
    }
    flights_init(&drain->flights);
    lanes_init(&drain->lanes);
    drain->was_idle = true;
    drain->lane_timer = loop_timer_new(options->loop, timer_fired, drain);
    drain->fetch_timer = loop_timer_new(options->loop, timer_fired, drain);
    drain->silence_timer = loop_timer_new(options->loop, drain_silence_fired, drain);
    return drain;
}

static void release_moves(struct move_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].broker_message_id);
        free(list->items[i].error);
    }
    free(list->items);
    *list = (struct move_list){ 0 };
}

/* The copies are const for everybody but their owner. */
static void free_copy(const char *copy)
{
    union {
        const char *given;
        char *owned;
    } pointer = { .given = copy };
    free(pointer.owned);
}

void drain_free(struct drain *drain)
{
    if (drain == NULL) {
        return;
    }
    loop_defer_cancel(drain->options.loop, flush_deferred, drain);
    loop_timer_free(drain->lane_timer);
    loop_timer_free(drain->fetch_timer);
    loop_timer_free(drain->silence_timer);
    flights_release(&drain->flights);
    lanes_release(&drain->lanes);
    release_moves(&drain->marks);
    release_moves(&drain->settles);
    free_copy(drain->options.row_mesh);
    free_copy(drain->options.mesh_slug);
    drain->freed = true;
    drain_hold(drain);
    drain_let_go(drain);
}

void drain_open(struct drain *drain, int64_t max_age_ms, size_t page_rows)
{
    drain->open = true;
    drain->max_age_ms = max_age_ms;
    drain->page_rows = page_rows == 0 ? 1 : page_rows;
    drain_pump(drain);
}

void drain_tune(struct drain *drain, size_t window, int64_t backoff_initial_ms, int64_t backoff_max_ms, int jitter_pct)
{
    drain->options.window = window == 0 ? 1 : window;
    drain->options.backoff_initial_ms = backoff_initial_ms;
    drain->options.backoff_max_ms = backoff_max_ms;
    drain->options.jitter_pct = jitter_pct;
    drain_pump(drain); /* a larger window may have room now */
}

void drain_stop(struct drain *drain)
{
    drain->stopping = true;
}

void drain_pause(struct drain *drain, bool paused)
{
    drain->paused = paused;
    if (!paused) {
        drain_pump(drain);
    }
}

const struct drain_figures *drain_figures(const struct drain *drain)
{
    return &drain->figures;
}

/* ---- marks and writes ----------------------------------------------------------------------------------------- */

struct outbox_move *drain_add_move(struct drain *drain, struct move_list *list, int64_t seq, enum outbox_event event)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        list->items = memory_realloc(list->items, list->capacity * sizeof(*list->items));
    }
    struct outbox_move *move = &list->items[list->count++];
    *move = (struct outbox_move){ .seq = seq, .event = event, .history_id = -1, .next_attempt_at = -1 };
    drain_schedule_flush(drain);
    return move;
}

void drain_write_ready(struct drain *drain)
{
    struct flights *flights = &drain->flights;
    struct flight *flight = NULL;
    while (drain->open && (flight = TAILQ_FIRST(&flights->queue)) != NULL && flight->state == FLIGHT_READY) {
        if (drain->options.backlog(drain->options.argument) > BACKLOG_MAXIMUM) {
            return; /* drain_writable goes on */
        }
        if (drain->options.write(drain->options.argument, flight->frame.data, flight->frame.length) < 0) {
            return; /* drain_lost is on its way */
        }
        flights_written(flights, flight, clock_monotonic_ms());
        if (!loop_timer_is_running(drain->silence_timer)) {
            loop_timer_start(drain->silence_timer, drain->options.silence_ms);
        }
    }
}

/* Both the moves and the queue are in the order of sending, so each search begins where the last one ended. */
static void marked(void *argument, struct outbox_move *moves, size_t count)
{
    struct mark_batch *batch = argument;
    struct drain *drain = batch->drain;
    bool current = !drain->freed && batch->generation == drain->generation;
    free(batch);
    struct flight *place = current ? TAILQ_FIRST(&drain->flights.queue) : NULL;
    for (size_t i = 0; current && i < count; i++) {
        struct flight *flight = place;
        while (flight != NULL && flight->seq != moves[i].seq) {
            flight = TAILQ_NEXT(flight, entry);
        }
        if (flight == NULL || flight->state != FLIGHT_MARKING) {
            continue; /* from memory, and written already; or retired by an operator meanwhile */
        }
        place = TAILQ_NEXT(flight, entry);
        if (moves[i].moved) {
            flight->state = FLIGHT_READY;
        } else { /* retired, expired or accepted late since it was read: not ours to send any more */
            lanes_land(flight->lane);
            flights_remove(&drain->flights, flight);
        }
    }
    if (current) {
        drain_write_ready(drain);
        drain_pump(drain);
    }
    drain_let_go(drain);
}

static void queue_marks(struct drain *drain)
{
    if (drain->marks.count == 0) {
        return;
    }
    struct flight *flight = NULL;
    bool all_fast = true;
    TAILQ_FOREACH(flight, &drain->flights.queue, entry)
    {
        if (flight->state == FLIGHT_GATHERED) {
            flight->state = flight->fast ? FLIGHT_READY : FLIGHT_MARKING;
            all_fast = all_fast && flight->fast;
        }
    }
    struct mark_batch *batch = memory_zalloc(sizeof(*batch));
    batch->drain = drain;
    batch->generation = drain->generation;
    struct move_list list = drain->marks;
    drain->marks = (struct move_list){ 0 };
    drain_hold(drain);
    outbox_move_batch(drain->options.outbox, list.items, list.count, all_fast, marked, batch);
}

static bool has_event(const struct move_list *list, enum outbox_event event)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].event == event) {
            return true;
        }
    }
    return false;
}

void drain_flush(struct drain *drain)
{
    queue_marks(drain); /* before the settles: a row is marked before it is settled */
    if (drain->settles.count > 0) {
        struct move_list list = drain->settles;
        drain->settles = (struct move_list){ 0 };
        drain->settle_batches++;
        drain_hold(drain);
        outbox_move_batch(drain->options.outbox, list.items, list.count, !has_event(&list, OUTBOX_EVENT_RETRY), drain_settled, drain);
    }
    drain_write_ready(drain);
}

static void flush_deferred(void *argument)
{
    struct drain *drain = argument;
    drain->flush_is_due = false;
    drain_flush(drain);
    drain_pump(drain);
}

void drain_schedule_flush(struct drain *drain)
{
    if (!drain->flush_is_due) {
        drain->flush_is_due = true;
        loop_defer(drain->options.loop, flush_deferred, drain);
    }
}

void drain_writable(struct drain *drain)
{
    drain_write_ready(drain);
    drain_pump(drain);
}

/* ---- choosing rows -------------------------------------------------------------------------------------------- */

static bool is_past_age(const struct drain *drain, const struct outbox_row *row)
{
    return clock_steady_ms() - row->enqueued_at > drain->max_age_ms;
}

static void refuse_unsealable(struct drain *drain, const struct outbox_row *row, const struct error *error)
{
    log_event(LOG_LEVEL_ERROR, "send_refused", LOG_TEXT("mesh", drain->options.mesh_slug),
              LOG_TEXT("client_message_id", row->client_message_id), LOG_TEXT("detail", error->message), LOG_END);
    struct outbox_move *move = drain_add_move(drain, &drain->settles, row->seq, OUTBOX_EVENT_REFUSED);
    move->error = memory_strdup(error->message);
    drain->figures.refused++;
}

/* May not be sent for now: its lane waits, and what follows in it with it. */
static void withhold(struct drain *drain, const struct outbox_row *row, const struct error *error)
{
    struct lane *lane = lanes_get(&drain->lanes, row->priority, row->destination_ref);
    log_event(LOG_LEVEL_WARN, "send_withheld", LOG_SECURITY, LOG_TEXT("mesh", drain->options.mesh_slug),
              LOG_TEXT("client_message_id", row->client_message_id), LOG_TEXT("detail", error->message), LOG_END);
    lanes_skip(lane, row->seq);
    lanes_wait(&drain->lanes, lane, WITHHELD_MS, clock_monotonic_ms());
}

/* Takes a row into the air, or sees that it need not be. False: it, and its lane, must wait. */
static bool take_row(struct drain *drain, const struct outbox_row *row, bool fast)
{
    if (flights_find(&drain->flights, row->client_message_id) != NULL) {
        return true;
    }
    if (is_past_age(drain, row)) {
        drain->options.aged(drain->options.argument);
        return true;
    }
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    struct sha256 content;
    struct error error;
    int sealed = drain->options.seal(drain->options.argument, row, &frame, &content, &error);
    if (sealed < 0) {
        buffer_release(&frame);
        if (sealed == -(int)ERROR_BUSY) {
            withhold(drain, row, &error);
            return false;
        }
        refuse_unsealable(drain, row, &error);
        return true;
    }
    struct lane *lane = lanes_get(&drain->lanes, row->priority, row->destination_ref);
    lane->flights++;
    (void)flights_add(&drain->flights, row, lane, fast, &frame, &content);
    buffer_release(&frame);
    struct outbox_move *move = drain_add_move(drain, &drain->marks, row->seq, OUTBOX_EVENT_SENT);
    move->content = content;
    move->has_content = true;
    drain->was_idle = false;
    return true;
}

/* A row at the cursor: sent, or skipped when its lane waits or has skipped rows that go before it. */
static void pass_row(struct drain *drain, const struct outbox_row *row, bool fast)
{
    struct lane *lane = lanes_find(&drain->lanes, row->priority, row->destination_ref);
    if (lane != NULL && lane->state != LANE_FREE) {
        lanes_skip(lane, row->seq);
    } else {
        (void)take_row(drain, row, fast); /* a lane that waits remembers it */
    }
    drain->cursors[row->priority].after_seq = row->seq;
}

static bool may_send(const struct drain *drain)
{
    return drain->open && !drain->recovering && !drain->stopping && !drain->paused && !drain->freed;
}

void drain_inserted(struct drain *drain, const struct outbox_row *row)
{
    struct cursor *cursor = &drain->cursors[row->priority];
    if (row->seq <= cursor->after_seq) {
        return; /* a page had it already */
    }
    if (!may_send(drain) || !cursor->caught_up || drain->flights.in_air + drain->reserved >= drain->options.window ||
        drain->flights.queued_bytes > QUEUED_MAXIMUM) {
        cursor->caught_up = false;
        cursor->missed = true;
        drain_pump(drain);
        return;
    }
    pass_row(drain, row, true);
}

/* ---- reading pages -------------------------------------------------------------------------------------------- */

static void take_cursor_page(struct drain *drain, const struct page *page, struct outbox_row **rows, size_t count)
{
    struct cursor *cursor = &drain->cursors[page->priority];
    for (size_t i = 0; i < count; i++) {
        pass_row(drain, rows[i], false);
    }
    cursor->caught_up = count < page->limit && !cursor->missed;
}

static void take_lane_page(struct drain *drain, const struct page *page, struct outbox_row **rows, size_t count)
{
    struct lane *lane = lanes_find(&drain->lanes, page->priority, page->destination_ref);
    if (lane == NULL || lane->state != LANE_CATCHING) {
        return; /* it waits again, and remembers these rows */
    }
    bool given_up = lane->holder_seq > lane->resume_after && (count == 0 || rows[0]->seq > lane->holder_seq);
    if (given_up && drain->options.given_up != NULL) {
        drain->options.given_up(drain->options.argument);
        return; /* the next connection reads them again */
    }
    for (size_t i = 0; i < count; i++) {
        if (!take_row(drain, rows[i], false)) {
            return;
        }
        lane->resume_after = rows[i]->seq;
    }
    if (count < page->limit) {
        lane->resume_after = page->up_to_seq;
    }
    if (lane->resume_after >= lane->last_skipped) {
        lanes_caught_up(&drain->lanes, lane);
    }
}

static void page_read(void *argument, int status, struct outbox_row **rows, size_t count)
{
    struct page *page = argument;
    struct drain *drain = page->drain;
    drain->fetching = false;
    drain->reserved = 0;
    bool current = may_send(drain) && page->generation == drain->generation;
    if (status < 0 && current) {
        log_event(LOG_LEVEL_ERROR, "outbox_read_failed", LOG_TEXT("mesh", drain->options.mesh_slug), LOG_NUMBER("status", status), LOG_END);
        loop_timer_start(drain->fetch_timer, FETCH_AGAIN_MS);
    } else if (current && page->destination_ref == NULL) {
        take_cursor_page(drain, page, rows, count);
    } else if (current) {
        take_lane_page(drain, page, rows, count);
    }
    for (size_t i = 0; i < count; i++) {
        outbox_row_free(rows[i]);
    }
    free(rows);
    free(page->destination_ref);
    free(page);
    if (!drain->freed) {
        drain_pump(drain);
    }
    drain_let_go(drain);
}

static void read_page(struct drain *drain, enum outbox_priority priority, struct lane *lane, size_t limit)
{
    struct page *page = memory_zalloc(sizeof(*page));
    page->drain = drain;
    page->generation = drain->generation;
    page->priority = priority;
    page->limit = limit;
    page->up_to_seq = INT64_MAX;
    struct outbox_fetch fetch = { .mesh = drain->options.row_mesh, .priority = priority, .up_to_seq = INT64_MAX, .limit = limit };
    if (lane != NULL) {
        page->destination_ref = memory_strdup(lane->destination_ref);
        page->up_to_seq = lane->last_skipped;
        fetch.destination_ref = lane->destination_ref;
        fetch.after_seq = lane->resume_after;
        fetch.up_to_seq = lane->last_skipped;
    } else {
        fetch.after_seq = drain->cursors[priority].after_seq;
        drain->cursors[priority].missed = false;
    }
    drain->fetching = true;
    drain->reserved = limit;
    drain_hold(drain);
    drain->options.fetch(drain->options.outbox, &fetch, page_read, page);
}

/* How many rows may be read now; 0: wait until more answers are in, so that pages stay large while a backlog drains. */
static size_t page_limit(const struct drain *drain)
{
    size_t window = drain->options.window;
    size_t in_air = drain->flights.in_air;
    if (in_air >= window || drain->flights.queued_bytes > QUEUED_MAXIMUM) {
        return 0;
    }
    size_t room = window - in_air;
    size_t limit = room < drain->page_rows ? room : drain->page_rows;
    size_t worthwhile = window / 4 < drain->page_rows ? window / 4 : drain->page_rows;
    return in_air == 0 || room >= worthwhile ? limit : 0;
}

static void tell_when_idle(struct drain *drain)
{
    bool idle = drain_is_idle(drain);
    if (idle && !drain->was_idle && drain->options.idle != NULL) {
        drain->was_idle = true;
        drain->options.idle(drain->options.argument);
    }
    drain->was_idle = idle;
}

void drain_pump(struct drain *drain)
{
    int64_t next_ms = lanes_wake(&drain->lanes, clock_monotonic_ms());
    if (next_ms >= 0) {
        loop_timer_start(drain->lane_timer, next_ms);
    }
    tell_when_idle(drain);
    if (!may_send(drain) || drain->fetching || loop_timer_is_running(drain->fetch_timer)) {
        return;
    }
    size_t limit = page_limit(drain);
    if (limit == 0) {
        return;
    }
    for (enum outbox_priority priority = PRIORITY_NOW; priority < PRIORITIES; priority++) {
        struct lane *lane = lanes_next_catching(&drain->lanes, priority); /* its rows are older than the cursor's */
        if (lane != NULL || !drain->cursors[priority].caught_up) {
            read_page(drain, priority, lane, limit);
            return;
        }
    }
}
