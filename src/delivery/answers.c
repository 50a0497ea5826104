/* What becomes of the rows in the air: answers (30-delivery, Drain's table), silence, a lost link, late answers; and the way back of a row that must be sent again. */
#include "delivery/drain_internal.h"

#include "util/clock.h"
#include "util/ids.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { LOOKUPS_MAXIMUM = 64 };
static const int64_t RETRY_AFTER_MAXIMUM_MS = 600000; /* what a broker may ask for at most */

/* A row is out of the air for good, or on its way back: in both cases its move is gathered. */
static void land(struct drain *drain, struct flight *flight)
{
    struct lane *lane = flight->lane;
    flights_remove(&drain->flights, flight);
    lanes_land(lane);
}

bool drain_is_idle(const struct drain *drain)
{
    return drain->flights.in_air == 0 && TAILQ_EMPTY(&drain->flights.settling) && drain->settles.count == 0 && drain->settle_batches == 0;
}

/* ---- back to pending ------------------------------------------------------------------------------------------ */

/* Until this has happened in the database, neither its lane nor the cursors may read it: it would not be there, and what follows would overtake it. */
static void send_back(struct drain *drain, struct flight *flight, const char *error, int64_t next_attempt_at)
{
    struct outbox_move *move = drain_add_move(drain, &drain->settles, flight->seq, OUTBOX_EVENT_RETRY);
    move->error = memory_strdup(error);
    move->next_attempt_at = next_attempt_at;
    flights_settle(&drain->flights, flight);
}

static void recover(struct drain *drain)
{
    drain->recovering = false;
    lanes_rewind(&drain->lanes);
    for (size_t i = 0; i < PRIORITIES; i++) {
        drain->cursors[i] = (struct cursor){ 0 };
    }
}

void drain_settled(void *argument, struct outbox_move *moves, size_t count)
{
    struct drain *drain = argument;
    drain->settle_batches--;
    for (size_t i = 0; i < count && !drain->freed; i++) {
        if (!moves[i].moved) {
            log_event(LOG_LEVEL_INFO, "outbox_answer_ignored", LOG_TEXT("mesh", drain->options.mesh_slug), LOG_NUMBER("seq", moves[i].seq),
                      LOG_TEXT("state", outbox_state_name(moves[i].from)), LOG_END);
        }
        if (moves[i].event != OUTBOX_EVENT_RETRY) {
            continue;
        }
        struct flight *flight = NULL;
        TAILQ_FOREACH(flight, &drain->flights.settling, entry)
        {
            if (flight->seq == moves[i].seq) {
                land(drain, flight);
                break;
            }
        }
    }
    if (!drain->freed) {
        if (drain->recovering && TAILQ_EMPTY(&drain->flights.settling)) {
            recover(drain);
        }
        drain_pump(drain);
    }
    drain_let_go(drain);
}

/* Gathered rows were never marked: they are `pending` in the database still. */
static void forget_mark(struct drain *drain, int64_t seq)
{
    struct move_list *marks = &drain->marks;
    for (size_t i = 0; i < marks->count; i++) {
        if (marks->items[i].seq == seq) {
            memmove(&marks->items[i], &marks->items[i + 1], (marks->count - i - 1) * sizeof(*marks->items));
            marks->count--;
            return;
        }
    }
}

static void bring_home(struct drain *drain, struct flight_queue *queue)
{
    struct flight *flight = NULL;
    while ((flight = TAILQ_FIRST(queue)) != NULL) {
        if (flight->state == FLIGHT_GATHERED) {
            forget_mark(drain, flight->seq);
            land(drain, flight);
        } else {
            send_back(drain, flight, "link_lost", clock_wall_ms());
        }
    }
}

void drain_lost(struct drain *drain)
{
    if (!drain->open) {
        return;
    }
    drain->open = false;
    drain->generation++;
    loop_timer_stop(drain->silence_timer);
    bring_home(drain, &drain->flights.awaiting);
    bring_home(drain, &drain->flights.queue);
    if (TAILQ_EMPTY(&drain->flights.settling)) {
        recover(drain);
    } else {
        drain->recovering = true;
    }
    drain_pump(drain);
}

void drain_retired(struct drain *drain, int64_t seq)
{
    struct flight *flight = flights_find_seq(&drain->flights, seq);
    if (flight == NULL) {
        return;
    }
    land(drain, flight);      /* a mark that is not queued yet will find the row aborted */
    drain_write_ready(drain); /* it may have stood before others */
    drain_pump(drain);
}

void drain_silence_fired(void *argument)
{
    struct drain *drain = argument;
    struct flight *oldest = TAILQ_FIRST(&drain->flights.awaiting);
    if (oldest == NULL) {
        return;
    }
    int64_t left_ms = oldest->written_ms + drain->options.silence_ms - clock_monotonic_ms();
    if (left_ms > 0) {
        loop_timer_start(drain->silence_timer, left_ms);
        return;
    }
    log_event(LOG_LEVEL_WARN, "broker_silent", LOG_TEXT("mesh", drain->options.mesh_slug), LOG_NUMBER("in_air", drain->flights.in_air),
              LOG_END);
    drain->options.silent(drain->options.argument);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static int64_t with_jitter(const struct drain *drain, int64_t delay_ms)
{
    int64_t span = delay_ms * drain->options.jitter_pct / 100;
    return span <= 0 ? delay_ms : delay_ms - span + (int64_t)random_uniform((uint32_t)(2 * span + 1));
}

static int64_t next_delay(const struct drain *drain, struct lane *lane, int64_t retry_after_ms)
{
    int64_t maximum_ms = drain->options.backoff_max_ms;
    if (lane->delay_ms == 0) {
        lane->delay_ms = drain->options.backoff_initial_ms;
    } else {
        lane->delay_ms = lane->delay_ms < maximum_ms / 2 ? lane->delay_ms * 2 : maximum_ms;
    }
    /* It can ask for more than the backoff, not for less: a broker that says 0 is not asked again in a loop. */
    int64_t asked_ms = retry_after_ms < RETRY_AFTER_MAXIMUM_MS ? retry_after_ms : RETRY_AFTER_MAXIMUM_MS;
    int64_t delay_ms = with_jitter(drain, lane->delay_ms);
    return asked_ms > delay_ms ? asked_ms : delay_ms;
}

/* Rows of the lane that are not written yet stay behind the one that was refused, also with a broker that holds nothing (70-broker is an addition). */
static void call_back_unwritten(struct drain *drain, struct lane *lane)
{
    struct flight *flight = TAILQ_FIRST(&drain->flights.queue);
    while (flight != NULL) {
        struct flight *following = TAILQ_NEXT(flight, entry);
        if (flight->lane == lane) {
            lanes_skip(lane, flight->seq);
            if (flight->state == FLIGHT_GATHERED) {
                forget_mark(drain, flight->seq);
                land(drain, flight);
            } else {
                send_back(drain, flight, "waits behind a refused one", clock_wall_ms());
            }
        }
        flight = following;
    }
}

/* A passing refusal. The broker holds what follows it in the lane (70-broker), so further ones only join the first one's waiting. */
static void retry(struct drain *drain, struct flight *flight, const struct frame_ack *ack)
{
    struct lane *lane = flight->lane;
    int64_t now_ms = clock_monotonic_ms();
    lanes_skip(lane, flight->seq);
    if (lane->holder_seq < 0) {
        lane->holder_seq = flight->seq;
    }
    if (lane->state != LANE_WAITING) {
        lanes_wait(&drain->lanes, lane, next_delay(drain, lane, ack->retry_after_ms), now_ms);
        call_back_unwritten(drain, lane);
    }
    int64_t left_ms = lane->due_ms > now_ms ? lane->due_ms - now_ms : 0;
    drain->figures.retried++;
    send_back(drain, flight, ack->error == NULL ? "refused for now" : ack->error, clock_wall_ms() + left_ms);
}

static void accepted(struct drain *drain, int64_t seq, const struct frame_ack *ack)
{
    struct outbox_move *move = drain_add_move(drain, &drain->settles, seq, OUTBOX_EVENT_ACCEPTED);
    move->broker_message_id = memory_strdup(ack->message_id == NULL ? "" : ack->message_id);
    move->history_id = ack->history_id;
}

static void refused(struct drain *drain, int64_t seq, const struct frame_ack *ack, enum log_level level)
{
    char status[32];
    (void)snprintf(status, sizeof(status), "refused (%" PRId64 ")", ack->status);
    struct outbox_move *move = drain_add_move(drain, &drain->settles, seq, OUTBOX_EVENT_REFUSED);
    move->error = memory_strdup(ack->error == NULL ? status : ack->error);
    drain->figures.refused++;
    log_event(level, "send_refused", LOG_TEXT("mesh", drain->options.mesh_slug), LOG_TEXT("client_message_id", ack->client_message_id),
              LOG_TEXT("detail", move->error), LOG_END);
}

static void note_acceptance(struct drain *drain, const struct frame_ack *ack)
{
    drain->figures.accepted++;
    if (!ack->duplicate && ack->status != 200) {
        return;
    }
    drain->figures.duplicates++;
    if (drain->options.duplicate != NULL) {
        drain->options.duplicate(drain->options.argument, ack->history_available == 0);
    }
    if (ack->history_available == 0) {
        drain->figures.history_pruned++;
        log_event(LOG_LEVEL_WARN, "dedupe_history_pruned", LOG_TEXT("mesh", drain->options.mesh_slug),
                  LOG_TEXT("client_message_id", ack->client_message_id), LOG_END);
    }
}

static void answer_flight(struct drain *drain, struct flight *flight, const struct frame_ack *ack)
{
    enum ack_verdict verdict = frame_ack_verdict(ack);
    if (verdict != ACK_RETRY && flight->lane->holder_seq == flight->seq) {
        flight->lane->holder_seq = -1;
    }
    switch (verdict) {
    case ACK_ACCEPTED:
    case ACK_DUPLICATE:
        flight->lane->delay_ms = 0;
        note_acceptance(drain, ack);
        if (drain->options.accepted != NULL) {
            drain->options.accepted(drain->options.argument, flight->client_message_id, ack->message_id, flight->lane->destination_ref,
                                    &flight->content);
        }
        accepted(drain, flight->seq, ack);
        land(drain, flight);
        break;
    case ACK_KEY_REUSED:
        refused(drain, flight->seq, ack, LOG_LEVEL_ERROR);
        land(drain, flight);
        break;
    case ACK_REFUSED:
        refused(drain, flight->seq, ack, LOG_LEVEL_WARN);
        land(drain, flight);
        break;
    case ACK_RETRY:
        retry(drain, flight, ack);
        break;
    }
}

/* ---- late answers --------------------------------------------------------------------------------------------- */

struct late_answer {
    struct drain *drain;
    char *client_message_id, *message_id;
    int64_t history_id;
};

static void late_found(void *argument, int status, struct outbox_found *found)
{
    struct late_answer *late = argument;
    struct drain *drain = late->drain;
    drain->lookups--;
    const struct outbox_row *row = status == 0 && found != NULL ? found->row : NULL;
    /* A row that was never sent cannot have been accepted, whoever says so; one that is in the air again will be answered again. */
    bool counts = !drain->freed && row != NULL && row->state == OUTBOX_PENDING && row->attempts > 0 &&
                  string_equal(row->client_message_id, late->client_message_id) && string_equal(row->mesh, drain->options.row_mesh) &&
                  flights_find(&drain->flights, late->client_message_id) == NULL;
    if (counts) {
        struct frame_ack ack = { .message_id = late->message_id, .history_id = late->history_id };
        struct lane *lane = lanes_find(&drain->lanes, row->priority, row->destination_ref);
        if (lane != NULL && lane->holder_seq == row->seq) {
            lane->holder_seq = -1; /* decided after all */
        }
        drain->figures.late++;
        accepted(drain, row->seq, &ack);
    } else if (!drain->freed) {
        log_event(LOG_LEVEL_INFO, "outbox_answer_ignored", LOG_TEXT("mesh", drain->options.mesh_slug),
                  LOG_TEXT("client_message_id", late->client_message_id),
                  LOG_TEXT("state", row == NULL ? "unknown" : outbox_state_name(row->state)), LOG_END);
    }
    if (found != NULL) {
        outbox_found_release(found);
    }
    free(late->client_message_id);
    free(late->message_id);
    free(late);
    drain_let_go(drain);
}

/* The answer to something that is no longer in the air: an acceptance still ends its row. */
static void look_up_late(struct drain *drain, const struct frame_ack *ack)
{
    enum ack_verdict verdict = frame_ack_verdict(ack);
    if ((verdict != ACK_ACCEPTED && verdict != ACK_DUPLICATE) || drain->lookups >= LOOKUPS_MAXIMUM) {
        return;
    }
    struct late_answer *late = memory_zalloc(sizeof(*late));
    late->drain = drain;
    late->client_message_id = memory_strdup(ack->client_message_id);
    late->message_id = memory_strdup(ack->message_id);
    late->history_id = ack->history_id;
    drain->lookups++;
    drain_hold(drain);
    outbox_find(drain->options.outbox, late->client_message_id, false, late_found, late);
}

void drain_answer(struct drain *drain, const struct frame_ack *ack)
{
    if (ack->client_message_id == NULL) {
        return;
    }
    struct flight *flight = flights_find(&drain->flights, ack->client_message_id);
    if (flight == NULL) {
        look_up_late(drain, ack);
    } else if (flight->state == FLIGHT_AWAITING) {
        answer_flight(drain, flight, ack);
    } /* else: for a frame that was not written yet; its own answer will come */
}
