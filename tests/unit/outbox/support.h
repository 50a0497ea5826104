/* An outbox over a database of the test's own, and calls that wait for their answer. */
#ifndef TESTS_OUTBOX_SUPPORT_H
#define TESTS_OUTBOX_SUPPORT_H

#include "../db/support.h"
#include "outbox/outbox.h"
#include "util/ids.h"

struct test_outbox {
    struct test_place place;
    struct db *db;
    struct outbox *outbox;
    /* what the observer was told */
    size_t inserted, finished;
    char last_inserted[129], last_finished[129];
    enum outbox_state last_state;
    char last_mesh[65], last_error[65];
    int pressure_calls, pressure_pct;
    bool degraded;
};

static inline void on_inserted(void *argument, const struct outbox_row *row)
{
    struct test_outbox *test = argument;
    test->inserted++;
    assert_true(row->seq > 0);
    assert_int_equal(string_copy(test->last_inserted, sizeof(test->last_inserted), row->client_message_id), 0);
}
static inline void on_finished(void *argument, const char *mesh, const char *client_message_id, const char *id, enum outbox_state state,
                               const char *broker_message_id, int64_t history_id, const char *last_error)
{
    struct test_outbox *test = argument;
    (void)broker_message_id;
    (void)history_id;
    test->finished++;
    assert_int_equal(strlen(id), 26);
    assert_int_equal(string_copy(test->last_finished, sizeof(test->last_finished), client_message_id), 0);
    assert_int_equal(string_copy(test->last_mesh, sizeof(test->last_mesh), mesh), 0);
    assert_int_equal(string_copy(test->last_error, sizeof(test->last_error), last_error == NULL ? "" : last_error), 0);
    test->last_state = state;
}
static inline void on_pressure(void *argument, int pct, bool degraded)
{
    struct test_outbox *test = argument;
    test->pressure_calls++;
    test->pressure_pct = pct;
    test->degraded = degraded;
}

static inline void outbox_up_limited(struct test_outbox *test, int64_t max_rows, int64_t max_bytes)
{
    test->db = place_open(&test->place, OUTBOX_MIGRATIONS, OUTBOX_MIGRATION_COUNT);
    struct outbox_limits limits = { max_rows, max_bytes };
    struct error error = { .message = "" };
    if (outbox_open(test->db, &limits, &test->outbox, &error) < 0) {
        fail_msg("%s", error.message);
    }
    outbox_observe(test->outbox, &(struct outbox_observer){ test, on_inserted, on_finished, on_pressure });
}
static inline void outbox_up(struct test_outbox *test)
{
    outbox_up_limited(test, 1000000, INT64_C(5) << 30);
}
static inline void outbox_down(struct test_outbox *test)
{
    place_close(&test->place, test->db);
    outbox_free(test->outbox);
    test->outbox = NULL;
    test->db = NULL;
}
static inline void outbox_again(struct test_outbox *test)
{
    outbox_down(test);
    outbox_up(test);
}

static inline int test_setup(void **state)
{
    struct test_outbox *test = memory_zalloc(sizeof(*test));
    struct error error;
    assert_int_equal(crypto_start(&error), 0);
    place_init(&test->place);
    outbox_up(test);
    *state = test;
    return 0;
}
static inline int test_teardown(void **state)
{
    struct test_outbox *test = *state;
    if (test->db != NULL) {
        outbox_down(test);
    }
    place_release(&test->place);
    free(test);
    return 0;
}

/* A row as ipc would fill it in; the fingerprint is made from the body's first byte. */
static inline struct outbox_row *make_row(const char *client_message_id, const char *body)
{
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    ulid_generate(row->id);
    row->client_message_id = memory_strdup(client_message_id);
    row->mesh = memory_strdup("mesh-a");
    row->destination_kind = memory_strdup("dm");
    row->destination_ref = memory_strdup("bob");
    row->priority = PRIORITY_NEXT;
    memset(row->request_fingerprint.bytes, body[0], sizeof(row->request_fingerprint.bytes));
    memset(row->broker_fingerprint.bytes, body[0] + 1, sizeof(row->broker_fingerprint.bytes));
    row->payload = memory_strdup(body);
    row->payload_size = strlen(body);
    row->enqueued_at = clock_wall_ms();
    row->delivered_at = row->aborted_at = row->history_id = -1;
    return row;
}

struct accept_wait {
    struct outbox_accept *accept;
    bool finished;
};
static inline void accept_finished(struct outbox_accept *accept)
{
    ((struct accept_wait *)accept->argument)->finished = true;
}
static inline struct outbox_accept *submit_row(struct test_outbox *test, struct outbox_row *row, struct accept_wait *wait)
{
    struct outbox_accept *accept = outbox_accept_new(test->outbox);
    *wait = (struct accept_wait){ .accept = accept };
    accept->row = row;
    accept->done = accept_finished;
    accept->argument = wait;
    outbox_accept(accept);
    return accept;
}
/* The caller frees it. */
static inline struct outbox_accept *accept_row(struct test_outbox *test, struct outbox_row *row)
{
    struct accept_wait wait;
    struct outbox_accept *accept = submit_row(test, row, &wait);
    place_run_until(&test->place, &wait.finished);
    return accept;
}
static inline int64_t accept_new(struct test_outbox *test, const char *client_message_id, const char *body)
{
    struct outbox_accept *accept = accept_row(test, make_row(client_message_id, body));
    assert_int_equal(accept->status, 0);
    assert_int_equal(accept->outcome, ACCEPT_STORED);
    int64_t seq = accept->row->seq;
    outbox_accept_free(accept);
    return seq;
}
static inline enum accept_outcome accept_outcome_of(struct test_outbox *test, const char *client_message_id, const char *body)
{
    struct outbox_accept *accept = accept_row(test, make_row(client_message_id, body));
    assert_int_equal(accept->status, 0);
    enum accept_outcome outcome = accept->outcome;
    outbox_accept_free(accept);
    return outcome;
}

struct move_wait {
    bool finished;
    bool moved;
    enum outbox_state from, to;
};
static inline void move_finished(void *argument, struct outbox_move *moves, size_t count)
{
    struct move_wait *wait = argument;
    wait->moved = moves[count - 1].moved;
    wait->from = moves[count - 1].from;
    wait->to = moves[count - 1].to;
    wait->finished = true;
}
static inline struct move_wait move_one(struct test_outbox *test, int64_t seq, enum outbox_event event)
{
    struct outbox_move *moves = memory_zalloc(sizeof(*moves));
    *moves = (struct outbox_move){ .seq = seq, .event = event, .history_id = -1, .next_attempt_at = 7 };
    if (event == OUTBOX_EVENT_ACCEPTED) {
        moves->broker_message_id = memory_printf("b-%" PRId64, seq);
        moves->history_id = seq + 1000;
    }
    if (event == OUTBOX_EVENT_REFUSED || event == OUTBOX_EVENT_RETRY) {
        moves->error = memory_strdup("unknown_member");
    }
    struct move_wait wait = { .finished = false };
    outbox_move_batch(test->outbox, moves, 1, false, move_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    return wait;
}
/* From now on the database takes no page more, until give_room. */
static inline void take_room(struct test_outbox *test)
{
    char *limit = memory_printf("PRAGMA max_page_count = %" PRId64, read_number(test->db, "PRAGMA page_count"));
    write_sql(test->db, limit);
    free(limit);
}

static inline void give_room(struct test_outbox *test)
{
    write_sql(test->db, "PRAGMA max_page_count = 1000000");
}

/* Rows n-0 to n-399, seq 1 to 400: moving them all wants pages. */
static inline void accept_four_hundred(struct test_outbox *test)
{
    for (int i = 0; i < 400; i++) {
        char id[32];
        (void)snprintf(id, sizeof(id), "n-%d", i);
        (void)accept_new(test, id, "body");
    }
}

/* Brings a fresh row into the state. */
static inline int64_t row_in_state(struct test_outbox *test, const char *client_message_id, const char *body, enum outbox_state state)
{
    int64_t seq = accept_new(test, client_message_id, body);
    switch (state) {
    case OUTBOX_PENDING:
        break;
    case OUTBOX_INFLIGHT:
        assert_true(move_one(test, seq, OUTBOX_EVENT_SENT).moved);
        break;
    case OUTBOX_DONE:
        assert_true(move_one(test, seq, OUTBOX_EVENT_SENT).moved);
        assert_true(move_one(test, seq, OUTBOX_EVENT_ACCEPTED).moved);
        break;
    case OUTBOX_DEAD:
        assert_true(move_one(test, seq, OUTBOX_EVENT_SENT).moved);
        assert_true(move_one(test, seq, OUTBOX_EVENT_REFUSED).moved);
        break;
    case OUTBOX_ABORTED:
        assert_true(move_one(test, seq, OUTBOX_EVENT_RETIRED).moved);
        break;
    case OUTBOX_STATES:
        fail();
    }
    return seq;
}

struct rows_wait {
    bool finished;
    int status;
    struct outbox_row **rows;
    size_t count;
};
static inline void rows_finished(void *argument, int status, struct outbox_row **rows, size_t count)
{
    *(struct rows_wait *)argument = (struct rows_wait){ true, status, rows, count };
}
static inline void rows_free(struct rows_wait *wait)
{
    for (size_t i = 0; i < wait->count; i++) {
        outbox_row_free(wait->rows[i]);
    }
    free(wait->rows);
}

struct found_wait {
    bool finished;
    int status;
    struct outbox_found found;
};
static inline void found_finished(void *argument, int status, struct outbox_found *found)
{
    *(struct found_wait *)argument = (struct found_wait){ true, status, *found };
}
static inline struct found_wait find_row(struct test_outbox *test, const char *id, bool with_payload)
{
    struct found_wait wait = { .finished = false };
    outbox_find(test->outbox, id, with_payload, found_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    return wait;
}

/* What is in memory is what is on disk. */
static inline void assert_counts_exact(struct test_outbox *test)
{
    struct outbox_counts counts;
    outbox_counts(test->outbox, NULL, &counts);
    const int64_t memory[] = { counts.pending, counts.inflight, counts.done, counts.dead, counts.aborted };
    for (unsigned state = 0; state < OUTBOX_STATES; state++) {
        char *rows = memory_printf("SELECT count(*) FROM outbox WHERE status = '%s'", outbox_state_name((enum outbox_state)state));
        char *stored = memory_printf("SELECT coalesce(sum(%s), 0) FROM outbox_count", outbox_state_name((enum outbox_state)state));
        assert_int_equal(memory[state], read_number(test->db, rows));
        assert_int_equal(memory[state], read_number(test->db, stored));
        free(rows);
        free(stored);
    }
}

#endif
