/* The drain against a broker in the same process: order inside a lane, window, backoff, lost links, late answers, operators; over a real outbox. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../link/stub_broker.h"
#include "bench_mesh.h"
#include "delivery/drain_internal.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

enum { ROWS_MAXIMUM = 4096, LANES = 15 };
static const int64_t DAY_MS = 86400000;

struct written {
    char id[64];
    int64_t seq;
    char destination[64];
    enum outbox_priority priority;
};

/* What the broker knows of an id, by its number. */
struct known {
    bool accepted, sent;
    int64_t seq;
};

struct fixture {
    struct bench_mesh bench;
    struct loop *loop;     /* the bench's */
    struct outbox *outbox; /* the bench's */
    struct drain *drain;
    struct written written[ROWS_MAXIMUM * 4];
    size_t written_count, answered; /* answered: how many of them were decided */
    size_t backlog;
    int silent, aged, idle, inserted;
    size_t most_in_air;
    bool connected, automatic; /* automatic: everything is accepted, a turn later */
    struct loop_timer *timer;

    /* the broker with a will of its own */
    unsigned refuse_pct, lose_pct;
    bool holds;
    int64_t accepted_order[LANES][ROWS_MAXIMUM];
    size_t accepted_count[LANES];
    struct known known[ROWS_MAXIMUM];
    char held_by[LANES][64];
    struct outbox_row *found;
    bool done;
    int status;

    /* pages that arrive when the test lets them */
    bool hold_pages;
    struct held_page {
        void (*done)(void *argument, int status, struct outbox_row **rows, size_t count);
        void *argument;
        struct outbox_row **rows;
        size_t count;
        int status;
        bool read;
    } page;
};

static struct fixture *fetching; /* outbox_fetch_pending has no argument for us */

/* ---- the broker ----------------------------------------------------------------------------------------------- */

static void answer_later(struct fixture *f, const char *id, int status, const char *error, int64_t retry_after_ms)
{
    const struct frame_ack ack = { .client_message_id = id,
                                   .message_id = status < 300 ? "01JD4Q4T6N1V9W3KX3ZP5Y2M7A" : "",
                                   .queued = status < 300,
                                   .status = status,
                                   .duplicate = status == 200,
                                   .history_id = status < 300 ? 7 : -1,
                                   .history_available = -1,
                                   .first_seen_at = -1,
                                   .error = error,
                                   .retry_after_ms = retry_after_ms };
    drain_answer(f->drain, &ack);
}

static void answer(struct fixture *f, const char *id, int status, const char *error)
{
    answer_later(f, id, status, error, -1);
}

static int write_frame(void *argument, const char *text, size_t size)
{
    struct fixture *f = argument;
    if (!f->connected) {
        return -1;
    }
    assert_true(f->written_count < ARRAY_LENGTH(f->written));
    struct written *entry = &f->written[f->written_count++];
    int priority = 0;
    char copy[256];
    assert_true(size < sizeof(copy));
    memcpy(copy, text, size);
    copy[size] = '\0';
    assert_int_equal(sscanf(copy, "%63s %" SCNd64 " %63s %d", entry->id, &entry->seq, entry->destination, &priority), 4);
    entry->priority = (enum outbox_priority)priority;
    if (drain_figures(f->drain)->in_air > f->most_in_air) {
        f->most_in_air = drain_figures(f->drain)->in_air;
    }
    if (f->timer != NULL && !loop_timer_is_running(f->timer)) {
        loop_timer_start(f->timer, 0);
    }
    return 0;
}

static int seal(void *argument, const struct outbox_row *row, struct buffer *ret_frame, struct sha256 *ret_content, struct error *error)
{
    (void)argument;
    if (string_has_prefix(row->client_message_id, "unsealable")) {
        return error_set(error, ERROR_INVALID, "invalid_recipient_key: nobody can have it");
    }
    sha256_of(row->client_message_id, strlen(row->client_message_id), ret_content);
    return buffer_printf(ret_frame, "%s %" PRId64 " %s %d", row->client_message_id, row->seq, row->destination_ref, (int)row->priority);
}

static size_t backlog(void *argument)
{
    struct fixture *f = argument;
    return f->backlog;
}

static void silent(void *argument)
{
    struct fixture *f = argument;
    f->silent++;
}

static void aged(void *argument)
{
    struct fixture *f = argument;
    f->aged++;
}

static void idle(void *argument)
{
    struct fixture *f = argument;
    f->idle++;
}

static void connect_link(struct fixture *f)
{
    f->connected = true;
    memset(f->held_by, 0, sizeof(f->held_by));
    drain_open(f->drain, DAY_MS, 64);
}

static void lose_link(struct fixture *f)
{
    f->connected = false;
    f->answered = f->written_count; /* what was not decided was never received */
    drain_lost(f->drain);
}

static size_t lane_of(const struct written *entry)
{
    int number = 0;
    assert_int_equal(sscanf(entry->destination, "to-%d", &number), 1);
    return (size_t)number * PRIORITIES + (size_t)entry->priority;
}

/* B0, the table of held destinations, a whim, acceptance: as 70-broker says. */
static void decide(struct fixture *f, const struct written *entry)
{
    size_t lane = lane_of(entry);
    int number = 0;
    assert_int_equal(sscanf(entry->id, "m-%d", &number), 1);
    struct known *known = &f->known[number];
    if (known->accepted) {
        answer(f, entry->id, 200, NULL);
        return;
    }
    if (f->holds && f->held_by[lane][0] != '\0' && !string_equal(f->held_by[lane], entry->id)) {
        answer(f, entry->id, 503, "held: an earlier one waits");
        return;
    }
    if (random_uniform(100) < f->refuse_pct) {
        assert_int_equal(string_copy(f->held_by[lane], sizeof(f->held_by[lane]), entry->id), 0);
        answer(f, entry->id, random_uniform(2) == 0 ? 429 : 500, "rate_limited: later");
        return;
    }
    f->held_by[lane][0] = '\0';
    known->accepted = true;
    f->accepted_order[lane][f->accepted_count[lane]++] = entry->seq;
    if (random_uniform(100) < f->lose_pct) { /* accepted, and the answer is lost with the link */
        lose_link(f);
        return;
    }
    answer(f, entry->id, 201, NULL);
}

static void broker_turn(void *argument)
{
    struct fixture *f = argument;
    if (!f->connected) {
        connect_link(f);
    }
    size_t some = f->automatic ? SIZE_MAX : 1 + random_uniform(40);
    while (f->connected && f->answered < f->written_count && some-- > 0) {
        const struct written *entry = &f->written[f->answered++];
        if (f->automatic) {
            answer(f, entry->id, 201, NULL);
        } else {
            decide(f, entry);
        }
        if (f->connected && random_uniform(1000) < f->lose_pct) {
            lose_link(f);
        }
    }
    if (f->answered < f->written_count || !f->connected) {
        loop_timer_start(f->timer, f->connected ? 0 : 2);
    }
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

static void accepted_row(struct outbox_accept *accept)
{
    struct fixture *f = accept->argument;
    assert_int_equal(accept->status, 0);
    assert_int_equal(accept->outcome, ACCEPT_STORED);
    f->inserted++;
    outbox_accept_free(accept);
}

static void on_inserted(void *argument, const struct outbox_row *row)
{
    struct fixture *f = argument;
    if (f->drain != NULL) {
        drain_inserted(f->drain, row);
    }
}

static void send_row_at(struct fixture *f, const char *id, const char *destination, enum outbox_priority priority, int64_t enqueued_at)
{
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    ulid_generate(row->id);
    row->client_message_id = memory_strdup(id);
    row->mesh = memory_strdup(MESH_ID);
    row->destination_kind = memory_strdup("dm");
    row->destination_ref = memory_strdup(destination);
    row->priority = priority;
    row->payload = memory_strdup("body");
    row->payload_size = 4;
    row->enqueued_at = enqueued_at;
    row->next_attempt_at = enqueued_at;
    row->delivered_at = row->aborted_at = row->history_id = -1;
    struct outbox_accept *accept = outbox_accept_new(f->outbox);
    accept->row = row;
    accept->done = accepted_row;
    accept->argument = f;
    outbox_accept(accept);
}

static void send_row(struct fixture *f, const char *id, const char *destination, enum outbox_priority priority)
{
    send_row_at(f, id, destination, priority, clock_wall_ms());
}

static void send_number(struct fixture *f, int number, int destination, enum outbox_priority priority)
{
    char id[32];
    char to[32];
    (void)snprintf(id, sizeof(id), "m-%d", number);
    (void)snprintf(to, sizeof(to), "to-%d", destination);
    send_row(f, id, to, priority);
}

static void found_row(void *argument, int status, struct outbox_found *found)
{
    struct fixture *f = argument;
    f->status = status;
    f->done = true;
    outbox_row_free(f->found);
    f->found = NULL;
    if (found != NULL) {
        f->found = found->row;
        found->row = NULL;
        outbox_found_release(found);
    }
}

static bool is_done(void *argument)
{
    struct fixture *f = argument;
    return f->done;
}

static const struct outbox_row *look_up(struct fixture *f, const char *id)
{
    f->done = false;
    outbox_find(f->outbox, id, false, found_row, f);
    run_until(f->loop, is_done, f, "the row");
    assert_int_equal(f->status, 0);
    return f->found;
}

struct awaited {
    struct fixture *f;
    const char *id;
    enum outbox_state state;
};

static void wait_state(struct fixture *f, const char *id, enum outbox_state state)
{
    for (int i = 0; i < 4000 && look_up(f, id)->state != state; i++) {
        run_for(f->loop, 1);
    }
    assert_string_equal(outbox_state_name(f->found->state), outbox_state_name(state));
}

static bool is_all_inserted(void *argument)
{
    struct awaited *awaited = argument;
    return awaited->f->inserted >= (int)awaited->state;
}

static void wait_inserted(struct fixture *f, int count)
{
    struct awaited awaited = { .f = f, .state = (enum outbox_state)count };
    run_until(f->loop, is_all_inserted, &awaited, "the accepts");
}

static bool is_idle(void *argument)
{
    struct fixture *f = argument;
    struct outbox_counts counts;
    outbox_counts(f->outbox, NULL, &counts);
    return counts.pending == 0 && counts.inflight == 0 && drain_is_idle(f->drain);
}

struct writes {
    struct fixture *f;
    size_t count;
};

static bool has_written(void *argument)
{
    struct writes *writes = argument;
    return writes->f->written_count >= writes->count;
}

static void wait_written(struct fixture *f, size_t count)
{
    struct writes writes = { f, count };
    run_until(f->loop, has_written, &writes, "frames");
}

/* ---- pages ---------------------------------------------------------------------------------------------------- */

static void page_was_read(void *argument, int status, struct outbox_row **rows, size_t count)
{
    struct fixture *f = argument;
    f->page.status = status;
    f->page.rows = rows;
    f->page.count = count;
    f->page.read = true;
    if (!f->hold_pages) {
        f->page.read = false;
        f->page.done(f->page.argument, status, rows, count);
    }
}

static void fetch_page(struct outbox *outbox, const struct outbox_fetch *fetch,
                       void (*done)(void *argument, int status, struct outbox_row **rows, size_t count), void *argument)
{
    fetching->page.done = done;
    fetching->page.argument = argument;
    outbox_fetch_pending(outbox, fetch, page_was_read, fetching);
}

static bool has_page(void *argument)
{
    struct fixture *f = argument;
    return f->page.read;
}

static void wait_page(struct fixture *f, size_t count)
{
    run_until(f->loop, has_page, f, "a page");
    assert_int_equal(f->page.count, count);
}

static void let_page_arrive(struct fixture *f)
{
    f->hold_pages = false;
    f->page.read = false;
    f->page.done(f->page.argument, f->page.status, f->page.rows, f->page.count);
}

/* ---- the fixture ---------------------------------------------------------------------------------------------- */

static void make_drain(struct fixture *f, size_t window, int64_t silence_ms)
{
    const struct drain_options options = {
        .loop = f->loop,
        .outbox = f->outbox,
        .row_mesh = MESH_ID,
        .mesh_slug = "acme",
        .window = window,
        .backoff_initial_ms = 5,
        .backoff_max_ms = 40,
        .jitter_pct = 25,
        .silence_ms = silence_ms,
        .argument = f,
        .seal = seal,
        .write = write_frame,
        .backlog = backlog,
        .silent = silent,
        .aged = aged,
        .idle = idle,
        .fetch = fetch_page,
    };
    fetching = f;
    f->drain = drain_new(&options);
}

static int setup(void **state)
{
    struct fixture *f = memory_zalloc(sizeof(*f));
    bench_init(&f->bench);
    f->loop = f->bench.loop;
    f->outbox = f->bench.outbox;
    const struct outbox_observer observer = { .argument = f, .inserted = on_inserted };
    outbox_observe(f->outbox, &observer);
    f->timer = loop_timer_new(f->loop, broker_turn, f);
    make_drain(f, 256, 15000);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    drain_free(f->drain);
    f->drain = NULL;
    loop_timer_free(f->timer);
    outbox_row_free(f->found);
    bench_release(&f->bench);
    free(f);
    return 0;
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

static void a_row_accepted_on_an_open_link_is_sent_at_once_and_becomes_done(void **state)
{
    struct fixture *f = *state;
    f->automatic = true;
    connect_link(f);
    send_number(f, 1, 0, PRIORITY_NEXT);
    wait_written(f, 1);
    wait_state(f, "m-1", OUTBOX_DONE);
    assert_string_equal(f->found->broker_message_id, "01JD4Q4T6N1V9W3KX3ZP5Y2M7A");
    assert_int_equal(f->found->history_id, 7);
    run_until(f->loop, is_idle, f, "idle");
    assert_int_equal(f->written_count, 1);
}

static void nothing_is_sent_while_the_link_is_down_and_everything_in_order_once_it_is_up(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 900; i++) {
        send_number(f, i, i % 4, (enum outbox_priority)(i % 3));
    }
    wait_inserted(f, 900);
    run_for(f->loop, 10);
    assert_int_equal(f->written_count, 0);
    f->automatic = true;
    connect_link(f);
    run_until(f->loop, is_idle, f, "everything done");
    assert_int_equal(f->written_count, 900);
    int64_t last[PRIORITIES] = { 0 };
    enum outbox_priority worst = PRIORITY_NOW;
    for (size_t i = 0; i < f->written_count; i++) {
        const struct written *entry = &f->written[i];
        assert_true(entry->seq > last[entry->priority]);
        last[entry->priority] = entry->seq;
        assert_true(entry->priority >= worst); /* `now` first, then `next`, then `low` */
        worst = entry->priority;
    }
    assert_true(f->most_in_air <= 256);
}

static void at_most_a_window_awaits_an_answer(void **state)
{
    struct fixture *f = *state;
    drain_free(f->drain);
    make_drain(f, 7, 15000);
    connect_link(f);
    loop_timer_free(f->timer);
    f->timer = NULL; /* nobody answers */
    for (int i = 0; i < 50; i++) {
        send_number(f, i, i, PRIORITY_NEXT);
    }
    wait_inserted(f, 50);
    wait_written(f, 7);
    run_for(f->loop, 20);
    assert_int_equal(f->written_count, 7);
    answer(f, f->written[0].id, 201, NULL);
    wait_written(f, 8);
    run_for(f->loop, 20);
    assert_int_equal(f->written_count, 8);
}

static void a_link_that_cannot_take_more_is_not_given_more(void **state)
{
    struct fixture *f = *state;
    f->automatic = true;
    f->backlog = 10 * 1024 * 1024;
    connect_link(f);
    for (int i = 0; i < 10; i++) {
        send_number(f, i, 0, PRIORITY_NEXT);
    }
    wait_inserted(f, 10);
    run_for(f->loop, 20);
    assert_int_equal(f->written_count, 0);
    f->backlog = 0;
    drain_writable(f->drain);
    run_until(f->loop, is_idle, f, "everything done");
    for (size_t i = 1; i < f->written_count; i++) {
        assert_true(f->written[i].seq > f->written[i - 1].seq);
    }
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void send_and_answer(struct fixture *f, const char *id, int status, const char *error)
{
    size_t before = f->written_count;
    send_row(f, id, "to-0", PRIORITY_NEXT);
    wait_written(f, before + 1);
    answer(f, id, status, error);
}

static void without_broker(struct fixture *f)
{
    loop_timer_free(f->timer);
    f->timer = NULL;
    connect_link(f);
}

static void each_answer_makes_of_the_row_what_the_table_says(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_and_answer(f, "accepted", 201, NULL);
    wait_state(f, "accepted", OUTBOX_DONE);
    send_and_answer(f, "duplicate", 200, NULL);
    wait_state(f, "duplicate", OUTBOX_DONE);
    send_and_answer(f, "reused", 409, "idempotency_key_reused: another request had it");
    wait_state(f, "reused", OUTBOX_DEAD);
    assert_true(string_has_prefix(f->found->last_error, "idempotency_key_reused"));
    send_and_answer(f, "unknown", 404, "unknown_member: nobody");
    wait_state(f, "unknown", OUTBOX_DEAD);
    assert_string_equal(f->found->last_error, "unknown_member: nobody");
    send_row(f, "later", "to-0", PRIORITY_NEXT);
    wait_written(f, 5);
    answer_later(f, "later", 503, "unavailable: later", 300);
    wait_state(f, "later", OUTBOX_PENDING);
    wait_written(f, 6); /* again, after its backoff */
    answer(f, "later", 201, NULL);
    wait_state(f, "later", OUTBOX_DONE);
    const struct drain_figures *figures = drain_figures(f->drain);
    assert_int_equal(figures->accepted, 3);
    assert_int_equal(figures->duplicates, 1);
    assert_int_equal(figures->refused, 2);
    assert_int_equal(figures->retried, 1);
}

static void a_duplicate_whose_history_is_gone_is_done_and_counted(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "old", "to-0", PRIORITY_NEXT);
    wait_written(f, 1);
    const struct frame_ack ack = { .client_message_id = "old",
                                   .message_id = "B",
                                   .queued = true,
                                   .status = 200,
                                   .duplicate = true,
                                   .history_id = 3,
                                   .history_available = 0,
                                   .first_seen_at = 1,
                                   .retry_after_ms = -1 };
    drain_answer(f->drain, &ack);
    wait_state(f, "old", OUTBOX_DONE);
    assert_int_equal(drain_figures(f->drain)->history_pruned, 1);
}

static void a_row_that_cannot_be_sealed_is_dead_and_holds_nothing_up(void **state)
{
    struct fixture *f = *state;
    f->automatic = true;
    connect_link(f);
    send_row(f, "unsealable-1", "to-0", PRIORITY_NEXT);
    send_row(f, "m-2", "to-0", PRIORITY_NEXT);
    wait_state(f, "m-2", OUTBOX_DONE);
    wait_state(f, "unsealable-1", OUTBOX_DEAD);
    assert_true(string_has_prefix(f->found->last_error, "invalid_recipient_key"));
    assert_int_equal(f->written_count, 1);
}

static void a_row_past_its_age_is_not_sent(void **state)
{
    struct fixture *f = *state;
    send_row_at(f, "old", "to-0", PRIORITY_NEXT, clock_wall_ms() - DAY_MS - 1000);
    send_row(f, "young", "to-0", PRIORITY_NEXT);
    wait_inserted(f, 2);
    f->automatic = true;
    connect_link(f);
    wait_state(f, "young", OUTBOX_DONE);
    assert_int_equal(f->written_count, 1);
    assert_int_equal(f->aged, 1);
    assert_int_equal(look_up(f, "old")->state, OUTBOX_PENDING);
}

static void silence_is_reported(void **state)
{
    struct fixture *f = *state;
    drain_free(f->drain);
    make_drain(f, 256, 30);
    without_broker(f);
    send_row(f, "unanswered", "to-0", PRIORITY_NEXT);
    wait_written(f, 1);
    run_for(f->loop, 10);
    assert_int_equal(f->silent, 0);
    run_for(f->loop, 60);
    assert_true(f->silent >= 1);
}

/* ---- lanes ---------------------------------------------------------------------------------------------------- */

static void a_lane_that_waits_holds_up_neither_the_others_nor_its_order(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NEXT);
    send_row(f, "a2", "to-0", PRIORITY_NEXT);
    wait_written(f, 2);
    answer_later(f, "a1", 429, "rate_limited: later", 60);
    answer(f, "a2", 503, "held: an earlier one waits");
    send_row(f, "a3", "to-0", PRIORITY_NEXT); /* behind them */
    send_row(f, "b1", "to-1", PRIORITY_NEXT);
    send_row(f, "c1", "to-0", PRIORITY_NOW);
    wait_written(f, 4);
    assert_string_equal(f->written[2].id, "b1");
    assert_string_equal(f->written[3].id, "c1");
    run_for(f->loop, 20);
    assert_int_equal(f->written_count, 4); /* a retry_after_ms of 60 is obeyed */
    wait_written(f, 7);
    assert_string_equal(f->written[4].id, "a1");
    assert_string_equal(f->written[5].id, "a2");
    assert_string_equal(f->written[6].id, "a3");
    for (size_t i = 2; i < 7; i++) {
        answer(f, f->written[i].id, 201, NULL);
    }
    run_until(f->loop, is_idle, f, "everything done");
    assert_int_equal(f->written_count, 7);
}

static void a_lane_waits_for_everything_of_it_that_is_still_in_the_air(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NEXT);
    send_row(f, "a2", "to-0", PRIORITY_NEXT);
    wait_written(f, 2);
    answer_later(f, "a1", 429, "rate_limited: later", 5);
    run_for(f->loop, 40); /* due, and the answer for a2 is still out */
    assert_int_equal(f->written_count, 2);
    answer(f, "a2", 503, "held: an earlier one waits");
    wait_written(f, 4);
    assert_string_equal(f->written[2].id, "a1");
    assert_string_equal(f->written[3].id, "a2");
}

static void an_acceptance_ends_the_backoff_of_its_lane(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a", "to-0", PRIORITY_NEXT);
    for (size_t i = 1; i <= 3; i++) {
        wait_written(f, i);
        answer(f, "a", 500, "internal: try again");
    }
    send_row(f, "b", "to-0", PRIORITY_NEXT);
    wait_written(f, 5);
    answer(f, "a", 201, NULL);
    assert_int_equal(lanes_find(&f->drain->lanes, PRIORITY_NEXT, "to-0")->delay_ms, 0);
    answer(f, "b", 500, "internal: try again");
    assert_int_equal(lanes_find(&f->drain->lanes, PRIORITY_NEXT, "to-0")->delay_ms, 5);
    wait_written(f, 6);
    answer(f, "b", 201, NULL);
    run_until(f->loop, is_idle, f, "everything done");
    assert_null(lanes_find(&f->drain->lanes, PRIORITY_NEXT, "to-0"));
}

static void backoff_doubles_until_something_is_accepted(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a", "to-0", PRIORITY_NEXT);
    int64_t gaps[4];
    for (size_t i = 0; i < 4; i++) {
        wait_written(f, i + 1);
        int64_t from_ms = clock_monotonic_ms();
        answer(f, "a", 500, "internal: try again");
        wait_written(f, i + 2);
        gaps[i] = clock_monotonic_ms() - from_ms;
    }
    assert_true(gaps[0] >= 3 && gaps[1] >= 7 && gaps[2] >= 15 && gaps[3] >= 30); /* 5, 10, 20, 40, each less a quarter at most */
}

static void rows_not_yet_written_stay_behind_one_that_was_refused(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NEXT);
    wait_written(f, 1);
    f->backlog = 10 * 1024 * 1024;
    send_row(f, "a2", "to-0", PRIORITY_NEXT);
    wait_inserted(f, 2);
    run_for(f->loop, 10);
    answer(f, "a1", 500, "internal: a broker that holds nothing");
    f->backlog = 0;
    drain_writable(f->drain);
    wait_written(f, 3);
    assert_string_equal(f->written[1].id, "a1");
    assert_string_equal(f->written[2].id, "a2");
}

static void shuffle_through_a_hostile_day(struct fixture *f, bool holds, unsigned refuse_pct, unsigned lose_pct, size_t window)
{
    drain_free(f->drain);
    make_drain(f, window, 15000);
    f->holds = holds;
    f->refuse_pct = refuse_pct;
    f->lose_pct = lose_pct;
    loop_timer_start(f->timer, 0);
    const int count = 1200;
    for (int i = 0; i < count; i++) {
        send_number(f, i, (int)random_uniform(LANES / PRIORITIES), (enum outbox_priority)random_uniform(PRIORITIES));
        if (i % 50 == 49) {
            run_for(f->loop, random_uniform(4));
        }
    }
    wait_inserted(f, count);
    run_until(f->loop, is_idle, f, "everything done");
    size_t accepted = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        accepted += f->accepted_count[lane];
        for (size_t i = 1; i < f->accepted_count[lane]; i++) {
            assert_true(f->accepted_order[lane][i] > f->accepted_order[lane][i - 1]);
        }
    }
    assert_int_equal(accepted, count);
    struct outbox_counts counts;
    outbox_counts(f->outbox, MESH_ID, &counts);
    assert_int_equal(counts.done, count);
    assert_true(f->most_in_air <= window);
}

static void refusals_at_random_lose_nothing_and_keep_the_order(void **state)
{
    shuffle_through_a_hostile_day(*state, true, 5, 0, 256);
}

static void lost_links_at_random_lose_nothing_and_keep_the_order(void **state)
{
    shuffle_through_a_hostile_day(*state, true, 0, 2, 256);
}

static void refusals_and_lost_links_together_lose_nothing_and_keep_the_order(void **state)
{
    shuffle_through_a_hostile_day(*state, true, 4, 2, 64);
}

static void a_window_of_one_keeps_the_order_with_a_broker_that_holds_nothing(void **state)
{
    shuffle_through_a_hostile_day(*state, false, 2, 1, 1);
}

static int drop_row(struct fixture *f, const char *id, bool force);

/* ---- pages that arrive late ----------------------------------------------------------------------------------- */

static void a_row_accepted_while_a_page_without_it_is_read_is_sent_too(void **state)
{
    struct fixture *f = *state;
    f->automatic = true;
    send_number(f, 1, 0, PRIORITY_NEXT);
    wait_inserted(f, 1);
    f->hold_pages = true;
    connect_link(f); /* the page of `now` */
    wait_page(f, 0);
    let_page_arrive(f);
    f->hold_pages = true;
    wait_page(f, 1);
    send_number(f, 2, 0, PRIORITY_NEXT);
    wait_inserted(f, 2);
    let_page_arrive(f);
    wait_state(f, "m-2", OUTBOX_DONE);
    run_until(f->loop, is_idle, f, "everything done");
    assert_int_equal(f->written_count, 2);
    assert_string_equal(f->written[0].id, "m-1");
}

static void a_row_dropped_between_its_reading_and_its_sending_is_not_sent(void **state)
{
    struct fixture *f = *state;
    f->automatic = true;
    send_row(f, "a1", "to-0", PRIORITY_NOW);
    send_row(f, "a2", "to-0", PRIORITY_NOW);
    wait_inserted(f, 2);
    f->hold_pages = true;
    connect_link(f);
    wait_page(f, 2);
    assert_int_equal(drop_row(f, "a1", false), 0);
    let_page_arrive(f);
    wait_state(f, "a2", OUTBOX_DONE);
    assert_int_equal(look_up(f, "a1")->state, OUTBOX_ABORTED);
    assert_int_equal(f->written_count, 1);
    run_until(f->loop, is_idle, f, "idle");
}

static void a_page_of_a_lost_link_is_of_no_use_to_the_next_one(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    drain_free(f->drain);
    f->drain = NULL;
    for (int i = 0; i < 8; i++) {
        send_number(f, i, 0, PRIORITY_NOW);
    }
    wait_inserted(f, 8);
    make_drain(f, 256, 15000);
    f->hold_pages = true;
    drain_open(f->drain, DAY_MS, 4); /* pages of four rows */
    wait_page(f, 4);
    let_page_arrive(f);
    f->hold_pages = true;
    wait_page(f, 4);
    wait_written(f, 4);
    lose_link(f); /* the first four are behind this page now */
    wait_state(f, "m-0", OUTBOX_PENDING);
    f->connected = true;
    drain_open(f->drain, DAY_MS, 4);
    let_page_arrive(f);
    wait_written(f, 12);
    for (size_t i = 1; i < 8; i++) {
        assert_true(f->written[4 + i].seq > f->written[4 + i - 1].seq);
    }
}

static void a_link_lost_in_the_moment_a_page_arrives_leaves_no_row_behind(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 8; i++) {
        send_number(f, i, 0, PRIORITY_NOW);
    }
    wait_inserted(f, 8);
    f->hold_pages = true;
    connect_link(f);
    wait_page(f, 8);
    let_page_arrive(f);
    lose_link(f); /* in the same turn: nothing is marked yet */
    f->automatic = true;
    connect_link(f);
    run_until(f->loop, is_idle, f, "everything done");
    assert_int_equal(f->written_count, 8);
}

static void a_refusal_in_the_moment_a_page_arrives_leaves_no_row_behind(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NOW);
    wait_written(f, 1);
    wait_state(f, "a1", OUTBOX_INFLIGHT); /* its mark is back, which would read a page too early */
    f->hold_pages = true;
    f->drain->cursors[PRIORITY_NOW].caught_up = false; /* the next row comes by a page */
    send_row(f, "a2", "to-0", PRIORITY_NOW);
    wait_page(f, 1);
    let_page_arrive(f);
    answer_later(f, "a1", 500, "internal: later", 5);
    wait_written(f, 3);
    assert_string_equal(f->written[1].id, "a1");
    assert_string_equal(f->written[2].id, "a2");
}

/* ---- links lost, late answers --------------------------------------------------------------------------------- */

static void a_lost_link_puts_what_was_in_the_air_back_at_once_and_sends_it_again(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    for (int i = 0; i < 20; i++) {
        send_number(f, i, 0, PRIORITY_NEXT);
    }
    wait_written(f, 20);
    answer(f, "m-0", 201, NULL);
    lose_link(f);
    wait_state(f, "m-1", OUTBOX_PENDING);
    assert_true(f->found->next_attempt_at <= clock_wall_ms());
    connect_link(f);
    wait_written(f, 39);
    for (size_t i = 0; i < 19; i++) {
        assert_int_equal(f->written[20 + i].seq, f->written[1 + i].seq);
    }
    run_for(f->loop, 10);
    assert_int_equal(f->written_count, 39);
}

static void a_link_that_comes_back_in_the_same_turn_sends_nothing_twice_at_once(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    for (int i = 0; i < 20; i++) {
        send_number(f, i, 0, PRIORITY_NEXT);
    }
    wait_written(f, 20);
    lose_link(f);
    connect_link(f);
    lose_link(f);
    connect_link(f);
    wait_written(f, 40);
    run_for(f->loop, 10);
    assert_int_equal(f->written_count, 40);
    for (size_t i = 0; i < 20; i++) {
        answer(f, f->written[20 + i].id, 201, NULL);
    }
    run_until(f->loop, is_idle, f, "everything done");
}

static void a_late_acceptance_ends_a_row_that_is_pending_again(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "late", "to-0", PRIORITY_NEXT);
    wait_written(f, 1);
    lose_link(f);
    wait_state(f, "late", OUTBOX_PENDING);
    answer(f, "late", 201, NULL);
    wait_state(f, "late", OUTBOX_DONE);
    assert_int_equal(drain_figures(f->drain)->late, 1);
    connect_link(f);
    run_for(f->loop, 20);
    assert_int_equal(f->written_count, 1);
}

static void an_acceptance_of_what_was_never_sent_changes_nothing(void **state)
{
    struct fixture *f = *state;
    send_row(f, "never-sent", "to-0", PRIORITY_NEXT);
    wait_inserted(f, 1);
    answer(f, "never-sent", 201, NULL);
    answer(f, "unheard-of", 201, NULL);
    run_for(f->loop, 20);
    assert_int_equal(look_up(f, "never-sent")->state, OUTBOX_PENDING);
}

/* ---- operators ------------------------------------------------------------------------------------------------ */

static void retired_row(struct outbox_retire *retire)
{
    struct fixture *f = retire->argument;
    f->status = retire->status;
    f->done = true;
    if (retire->status == 0 && f->drain != NULL) {
        drain_retired(f->drain, retire->retired->seq);
    }
    outbox_retire_free(retire);
}

static int drop_row(struct fixture *f, const char *id, bool force)
{
    struct outbox_retire *retire = memory_zalloc(sizeof(*retire));
    retire->outbox = f->outbox;
    retire->id = memory_strdup(id);
    retire->force = force;
    retire->done = retired_row;
    retire->argument = f;
    f->done = false;
    outbox_retire(retire);
    run_until(f->loop, is_done, f, "the drop");
    return f->status;
}

static void a_dropped_row_is_not_sent_though_it_was_read_already(void **state)
{
    struct fixture *f = *state;
    f->backlog = 10 * 1024 * 1024;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NEXT);
    send_row(f, "a2", "to-0", PRIORITY_NEXT);
    wait_inserted(f, 2);
    wait_state(f, "a1", OUTBOX_INFLIGHT); /* marked, and waiting for the link to take it */
    assert_int_equal(drop_row(f, "a1", false), -ERROR_BUSY);
    assert_int_equal(drop_row(f, "a1", true), 0);
    f->backlog = 0;
    drain_writable(f->drain);
    wait_written(f, 1);
    run_for(f->loop, 10);
    assert_int_equal(f->written_count, 1);
    assert_string_equal(f->written[0].id, "a2");
}

static void a_row_dropped_with_force_in_the_air_stays_aborted_whatever_the_answer(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NEXT);
    wait_written(f, 1);
    assert_int_equal(drop_row(f, "a1", true), 0);
    assert_int_equal(drain_figures(f->drain)->in_air, 0);
    answer(f, "a1", 201, NULL);
    run_for(f->loop, 20);
    assert_int_equal(look_up(f, "a1")->state, OUTBOX_ABORTED);
}

static void a_dropped_row_of_a_waiting_lane_is_gone_and_the_rest_follows(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NEXT);
    wait_written(f, 1);
    answer_later(f, "a1", 500, "internal: later", 300);
    send_row(f, "a2", "to-0", PRIORITY_NEXT);
    wait_state(f, "a1", OUTBOX_PENDING);
    assert_int_equal(drop_row(f, "a1", false), 0);
    wait_written(f, 2);
    assert_string_equal(f->written[1].id, "a2");
}

/* ---- ending --------------------------------------------------------------------------------------------------- */

static void a_stopped_drain_sends_nothing_new_and_says_when_it_is_idle(void **state)
{
    struct fixture *f = *state;
    without_broker(f);
    send_row(f, "a1", "to-0", PRIORITY_NEXT);
    wait_written(f, 1);
    drain_stop(f->drain);
    send_row(f, "a2", "to-0", PRIORITY_NEXT);
    wait_inserted(f, 2);
    run_for(f->loop, 10);
    assert_int_equal(f->written_count, 1);
    assert_false(drain_is_idle(f->drain));
    int before = f->idle;
    answer(f, "a1", 201, NULL);
    wait_state(f, "a1", OUTBOX_DONE);
    assert_true(drain_is_idle(f->drain));
    assert_true(f->idle > before);
}

static void a_drain_may_be_freed_with_everything_still_on_its_way(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 300; i++) {
        send_number(f, i, i % 5, PRIORITY_NEXT);
    }
    wait_inserted(f, 300);
    f->automatic = true;
    connect_link(f);
    wait_written(f, 10);
    answer(f, "unknown", 201, NULL);
    drain_free(f->drain);
    f->drain = NULL;
    loop_timer_stop(f->timer);
    run_for(f->loop, 20);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_row_accepted_on_an_open_link_is_sent_at_once_and_becomes_done),
        TEST(nothing_is_sent_while_the_link_is_down_and_everything_in_order_once_it_is_up),
        TEST(at_most_a_window_awaits_an_answer),
        TEST(a_link_that_cannot_take_more_is_not_given_more),
        TEST(each_answer_makes_of_the_row_what_the_table_says),
        TEST(a_duplicate_whose_history_is_gone_is_done_and_counted),
        TEST(a_row_that_cannot_be_sealed_is_dead_and_holds_nothing_up),
        TEST(a_row_past_its_age_is_not_sent),
        TEST(silence_is_reported),
        TEST(a_lane_that_waits_holds_up_neither_the_others_nor_its_order),
        TEST(a_lane_waits_for_everything_of_it_that_is_still_in_the_air),
        TEST(an_acceptance_ends_the_backoff_of_its_lane),
        TEST(a_row_accepted_while_a_page_without_it_is_read_is_sent_too),
        TEST(a_row_dropped_between_its_reading_and_its_sending_is_not_sent),
        TEST(a_page_of_a_lost_link_is_of_no_use_to_the_next_one),
        TEST(a_link_lost_in_the_moment_a_page_arrives_leaves_no_row_behind),
        TEST(a_refusal_in_the_moment_a_page_arrives_leaves_no_row_behind),
        TEST(backoff_doubles_until_something_is_accepted),
        TEST(rows_not_yet_written_stay_behind_one_that_was_refused),
        TEST(refusals_at_random_lose_nothing_and_keep_the_order),
        TEST(lost_links_at_random_lose_nothing_and_keep_the_order),
        TEST(refusals_and_lost_links_together_lose_nothing_and_keep_the_order),
        TEST(a_window_of_one_keeps_the_order_with_a_broker_that_holds_nothing),
        TEST(a_lost_link_puts_what_was_in_the_air_back_at_once_and_sends_it_again),
        TEST(a_link_that_comes_back_in_the_same_turn_sends_nothing_twice_at_once),
        TEST(a_late_acceptance_ends_a_row_that_is_pending_again),
        TEST(an_acceptance_of_what_was_never_sent_changes_nothing),
        TEST(a_dropped_row_is_not_sent_though_it_was_read_already),
        TEST(a_row_dropped_with_force_in_the_air_stays_aborted_whatever_the_answer),
        TEST(a_dropped_row_of_a_waiting_lane_is_gone_and_the_rest_follows),
        TEST(a_stopped_drain_sends_nothing_new_and_says_when_it_is_idle),
        TEST(a_drain_may_be_freed_with_everything_still_on_its_way),
    };
    return cmocka_run_group_tests_name("drain", tests, NULL, NULL);
}
