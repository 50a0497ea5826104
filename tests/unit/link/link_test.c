/* The link against a scripted broker on loopback: hello, clocks, replays, negotiation, loss, requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "json/json.h"
#include "link/link_internal.h"
#include "proto/statement.h"
#include "stub_broker.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

static const char MESH[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11";
static const char *const REQUIRE[] = { "client_message_id_dedupe", "concurrent_connection_policy" };

enum { STATES_SEEN = 32 };
struct fixture {
    struct loop *loop;
    struct stub stub;
    struct link *link;
    struct keypair *keys;
    enum link_state states[STATES_SEEN];
    size_t state_count;
    json_t *frames;
    int challenges_seen, answers, null_answers, stopped;
    json_t *answer;
    struct feature_verdict verdict;
    int verdicts;
    bool refuse;
    int script; /* for the stub's hooks */
};

static void on_state(void *argument, struct link *link, enum link_state state, const char *reason)
{
    (void)link;
    struct fixture *f = argument;
    assert_non_null(reason);
    assert_true(f->state_count < STATES_SEEN);
    f->states[f->state_count++] = state;
}

static void on_frame(void *argument, struct link *link, const char *type, const json_t *frame)
{
    struct fixture *f = argument;
    assert_int_equal(link_state(link), LINK_OPEN);
    assert_string_equal(type, json_string_value(json_object_get(frame, "type")));
    json_array_append_new(f->frames, json_deep_copy(frame));
}

static void on_challenge(void *argument, struct link *link)
{
    (void)link;
    struct fixture *f = argument;
    f->challenges_seen++;
}

static void on_failed(void *argument, struct link *link, const struct feature_verdict *verdict)
{
    (void)link;
    struct fixture *f = argument;
    f->verdict = *verdict;
    f->verdicts++;
}

static void on_judge(void *argument, struct link *link, const struct feature_set *features, struct feature_verdict *verdict)
{
    (void)link;
    struct fixture *f = argument;
    assert_true(features->negotiated == (f->stub.features != NULL));
    if (f->refuse) {
        verdict->failure = FEATURE_PARAM_INVALID;
        (void)snprintf(verdict->feature, sizeof(verdict->feature), "client_message_id_dedupe");
        (void)snprintf(verdict->detail, sizeof(verdict->detail), "ours is stricter");
    }
}

static void on_stopped(void *argument, struct link *link)
{
    (void)link;
    struct fixture *f = argument;
    f->stopped++;
}

static struct link_options options_of(struct fixture *f)
{
    return (struct link_options){
        .mesh_slug = "acme",
        .mesh_id = MESH,
        .member_id = "member-1",
        .broker_url = f->stub.url,
        .session_id = "inst-1",
        .display_name = "alice",
        .keys = f->keys,
        .channel = "claudemesh-daemon",
        .peer_type = "connector",
        .receive = true,
        .require = REQUIRE,
        .require_count = 2,
        .reconnect_initial_ms = 5,
        .reconnect_max_ms = 40,
    };
}

static void make_link(struct fixture *f, const struct link_options *options)
{
    const struct link_callbacks callbacks = {
        .argument = f,
        .state = on_state,
        .frame = on_frame,
        .challenge_seen = on_challenge,
        .negotiation_failed = on_failed,
        .judge = on_judge,
        .stopped = on_stopped,
    };
    struct error error;
    assert_int_equal(link_new(f->loop, options, &callbacks, &f->link, &error), 0);
}

static void start(struct fixture *f)
{
    struct link_options options = options_of(f);
    make_link(f, &options);
    link_start(f->link);
}

static int setup(void **state)
{
    struct fixture *f = memory_zalloc(sizeof(*f));
    struct error error;
    assert_int_equal(crypto_start(&error), 0);
    assert_int_equal(loop_new(&f->loop, &error), 0);
    assert_int_equal(keypair_generate(&f->keys, &error), 0);
    f->frames = json_new_array();
    stub_init(&f->stub, f->loop, 0);
    f->stub.user = f;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    link_free(f->link);
    stub_release(&f->stub);
    run_for(f->loop, 5);
    loop_free(f->loop);
    keypair_free(f->keys);
    json_decref(f->frames);
    json_decref(f->answer);
    free(f);
    return 0;
}

static bool is_open(void *argument)
{
    struct fixture *f = argument;
    return link_state(f->link) == LINK_OPEN;
}

static bool is_refused(void *argument)
{
    struct fixture *f = argument;
    return link_state(f->link) == LINK_REFUSED;
}

static bool is_closed(void *argument)
{
    struct fixture *f = argument;
    return link_state(f->link) == LINK_CLOSED;
}

static bool is_reconnecting(void *argument)
{
    struct fixture *f = argument;
    return link_state(f->link) == LINK_RECONNECTING;
}

static bool first_is_closed(void *argument)
{
    struct fixture *f = argument;
    return f->stub.count > 0 && f->stub.connections[0].socket == NULL;
}

static int64_t number_of(const json_t *frame, const char *name)
{
    int64_t value = -1;
    struct error error;
    assert_int_equal(json_read_integer(frame, name, JSON_REQUIRED, 0, INT64_C(1) << 53, &value, &error), 0);
    return value;
}

static const char *text_of(const json_t *frame, const char *name)
{
    return json_string_value(json_object_get(frame, name));
}

static void assert_states(const struct fixture *f, const enum link_state *states, size_t count)
{
    assert_int_equal(f->state_count, count);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(link_state_name(f->states[i]), link_state_name(states[i]));
    }
}

/* ---- the table ------------------------------------------------------------------------------------------------ */

static void no_cell_of_the_table_leads_back_to_idle_or_shows_open_without_being_it(void **state)
{
    (void)state;
    for (int phase = 0; phase < PHASES; phase++) {
        for (int event = 0; event < EVENTS; event++) {
            const struct link_move *move = &LINK_MOVES[phase][event];
            assert_true(move->next < PHASES && move->state < LINK_STATES);
            if (move->next == PHASE_IDLE) {
                assert_int_equal(move->state, LINK_IDLE);
                continue;
            }
            assert_true((move->state == LINK_OPEN) == (move->next == PHASE_OPEN));
            assert_true((move->state == LINK_REFUSED) == (move->next == PHASE_REFUSED));
            assert_true((move->state == LINK_CLOSED) == (move->next == PHASE_CLOSED));
        }
        assert_true(phase == PHASE_CLOSED || LINK_MOVES[phase][EVENT_STOPPED].next == PHASE_CLOSED);
        assert_true(phase == PHASE_CLOSED || LINK_MOVES[phase][EVENT_REVOKED].next == PHASE_CLOSED);
        assert_non_null(link_phase_name((enum link_phase)phase));
    }
    for (int event = 0; event < EVENTS; event++) {
        assert_int_equal(LINK_MOVES[PHASE_CLOSED][event].next, PHASE_IDLE);
    }
}

/* ---- hello ---------------------------------------------------------------------------------------------------- */

static void a_link_says_hello_with_both_signatures_and_opens(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    assert_states(f, (const enum link_state[]){ LINK_CONNECTING, LINK_OPEN }, 2);
    const json_t *hello = stub_received(&f->stub, "hello", 0);
    char *first = memory_printf("%s|member-1|%s|%" PRId64, MESH, keypair_public_hex(f->keys), number_of(hello, "timestamp"));
    assert_true(signature_hex_is_valid(keypair_public_hex(f->keys), first, strlen(first), text_of(hello, "signature")));
    free(first);
    json_t *fields = json_new_object();
    json_put_string(fields, "broker_url", f->stub.url);
    json_put_string(fields, "challenge", STUB_CHALLENGE);
    json_put_string(fields, "meshId", MESH);
    json_put_string(fields, "memberId", "member-1");
    json_put_string(fields, "pubkey", keypair_public_hex(f->keys));
    json_put_string(fields, "sessionId", "inst-1");
    json_put_integer(fields, "timestamp", number_of(hello, "timestamp"));
    json_put_string(fields, "signature2", text_of(hello, "signature2"));
    struct error error;
    assert_int_equal(statement_verify_json(STATEMENT_HELLO_V2, fields, keypair_public_hex(f->keys), "signature2", &error), 0);
    json_decref(fields);
    assert_int_equal(f->challenges_seen, 1);
    assert_string_equal(link_broker_version(f->link), "stub-1");
    assert_true(link_features(f->link)->dedupe && link_features(f->link)->sealed_envelope);
    assert_true(link_lag_ms(f->link) >= 0);
    assert_int_equal(link_clock_skew_ms(f->link), 0);
}

static bool is_pinged(void *argument)
{
    struct fixture *f = argument;
    return websocket_rtt_ms(f->link->socket) >= 0;
}

static void the_lag_is_the_newest_pings_round_trip_once_there_is_one(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    run_until(f->loop, is_pinged, f, "the pong to what was sent with the negotiation");
    f->link->lag_ms = INT64_C(1) << 40; /* what hello took counts no more */
    assert_int_equal(link_lag_ms(f->link), websocket_rtt_ms(f->link->socket));
}

static void without_a_challenge_there_is_no_second_signature(void **state)
{
    struct fixture *f = *state;
    f->stub.challenge = NULL;
    start(f);
    run_until(f->loop, is_open, f, "open");
    assert_null(json_object_get(stub_received(&f->stub, "hello", 0), "signature2"));
    assert_int_equal(f->challenges_seen, 0);
}

static void a_broker_that_drops_its_challenge_is_refused_before_any_hello(void **state)
{
    struct fixture *f = *state;
    f->stub.challenge = NULL;
    struct link_options options = options_of(f);
    options.challenge_required = true;
    make_link(f, &options);
    link_start(f->link);
    run_until(f->loop, is_refused, f, "refused");
    assert_int_equal(stub_count(&f->stub, "hello"), 0);
    run_for(f->loop, 60);
    assert_int_equal(f->stub.count, 1);
}

static void a_challenge_once_seen_is_required_of_the_next_connection_too(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    f->stub.challenge = NULL;
    websocket_close(f->stub.current->socket, 1012, "restart");
    run_until(f->loop, is_refused, f, "refused");
    assert_int_equal(stub_count(&f->stub, "hello"), 1);
}

/* ---- clocks and replays --------------------------------------------------------------------------------------- */

static bool refuse_by_clock(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    struct fixture *f = stub->user;
    if (!string_equal(type, "hello")) {
        return false;
    }
    int64_t server_time = clock_wall_ms() + (int64_t)f->script * 1000;
    int64_t off = number_of(frame, "timestamp") - server_time;
    if (off < 60000 && off > -60000) {
        return false;
    }
    stub_send(connection, "{\"type\":\"error\",\"code\":\"timestamp_skew\",\"message\":\"your clock\",\"serverTime\":%" PRId64 "}",
              server_time);
    websocket_close(connection->socket, 1008, "timestamp_skew");
    return true;
}

static void a_skewed_clock_is_corrected_once_and_reported(void **state)
{
    struct fixture *f = *state;
    f->script = 3600;
    f->stub.hook = refuse_by_clock;
    start(f);
    run_until(f->loop, is_open, f, "open");
    assert_int_equal(stub_count(&f->stub, "hello"), 2);
    assert_true(link_clock_skew_ms(f->link) > 3590000 && link_clock_skew_ms(f->link) < 3610000);
    assert_states(f, (const enum link_state[]){ LINK_CONNECTING, LINK_OPEN }, 2);
    websocket_close(f->stub.current->socket, 1012, "restart");
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    run_until(f->loop, is_open, f, "open again");
    assert_int_equal(stub_count(&f->stub, "hello"), 3); /* the correction is kept */
}

static void a_clock_that_is_off_by_more_than_a_day_is_not_corrected(void **state)
{
    struct fixture *f = *state;
    f->script = 25 * 3600;
    f->stub.hook = refuse_by_clock;
    start(f);
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    assert_int_equal(link_clock_skew_ms(f->link), 0);
    assert_true(string_has_prefix(link_reason(f->link), "timestamp_skew"));
}

static bool refuse_every_clock(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    (void)stub;
    (void)frame;
    if (!string_equal(type, "hello")) {
        return false;
    }
    stub_send(connection, "{\"type\":\"error\",\"code\":\"timestamp_skew\",\"message\":\"no\",\"serverTime\":%" PRId64 "}",
              clock_wall_ms() - 7200000);
    websocket_close(connection->socket, 1008, "timestamp_skew");
    return true;
}

static void a_corrected_hello_that_is_refused_again_backs_off(void **state)
{
    struct fixture *f = *state;
    f->stub.hook = refuse_every_clock;
    start(f);
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    assert_int_equal(stub_count(&f->stub, "hello"), 2);
}

static bool refuse_as_replay(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    (void)frame;
    struct fixture *f = stub->user;
    if (!string_equal(type, "hello") || f->script-- <= 0) {
        return false;
    }
    stub_send(connection, "{\"type\":\"error\",\"code\":\"replayed_hello\",\"message\":\"seen\"}");
    websocket_close(connection->socket, 1008, "replayed_hello");
    return true;
}

static void a_hello_taken_for_a_replay_is_signed_again_with_a_later_timestamp(void **state)
{
    struct fixture *f = *state;
    f->script = 2;
    f->stub.hook = refuse_as_replay;
    start(f);
    run_until(f->loop, is_open, f, "open");
    assert_int_equal(stub_count(&f->stub, "hello"), 3);
    int64_t last = 0;
    for (size_t i = 0; i < 3; i++) {
        int64_t timestamp = number_of(stub_received(&f->stub, "hello", i), "timestamp");
        assert_true(timestamp > last);
        last = timestamp;
    }
    assert_states(f, (const enum link_state[]){ LINK_CONNECTING, LINK_OPEN }, 2);
}

static void a_broker_that_calls_everything_a_replay_meets_backoff(void **state)
{
    struct fixture *f = *state;
    f->script = 1000;
    f->stub.hook = refuse_as_replay;
    start(f);
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    assert_int_equal(stub_count(&f->stub, "hello"), 4);
}

/* ---- negotiation ---------------------------------------------------------------------------------------------- */

struct refusal_case {
    const char *features, *kind, *feature;
};
static const struct refusal_case REFUSALS[] = {
    { "{}", "feature_unavailable", "client_message_id_dedupe" },
    { "{\"client_message_id_dedupe\":{\"params\":{\"version\":1,\"mode\":\"sometimes\",\"dedupe_retention_days\":365,\"request_"
      "fingerprint\":true}},"
      "\"concurrent_connection_policy\":{\"params\":{\"version\":1}}}",
      "feature_param_invalid", "client_message_id_dedupe" },
    { "{\"client_message_id_dedupe\":{\"params\":{\"version\":1,\"mode\":\"retention_scoped\",\"dedupe_retention_days\":2,\"request_"
      "fingerprint\":true}},"
      "\"concurrent_connection_policy\":{\"params\":{\"version\":1}}}",
      "feature_param_below_floor", "client_message_id_dedupe" },
};

static void assert_refused(struct fixture *f, const char *kind, const char *feature)
{
    run_until(f->loop, is_refused, f, "refused");
    run_until(f->loop, first_is_closed, f, "the close");
    assert_int_equal(f->stub.connections[0].close_code, 4010);
    json_t *reason = NULL;
    struct error error;
    assert_int_equal(json_parse_strict(f->stub.connections[0].close_reason, strlen(f->stub.connections[0].close_reason), &reason, &error),
                     0);
    assert_string_equal(text_of(json_object_get(reason, "close_reason"), "kind"), kind);
    assert_string_equal(text_of(json_object_get(reason, "close_reason"), "feature"), feature);
    json_decref(reason);
    assert_int_equal(f->verdicts, 1);
    assert_string_equal(feature_failure_name(f->verdict.failure), kind);
    run_for(f->loop, 100);
    assert_int_equal(f->stub.count, 1); /* not again within five minutes */
    assert_true(loop_timer_is_running(f->link->retry_timer));
}

static void a_broker_without_what_is_required_is_closed_with_4010_and_not_asked_again(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(REFUSALS); i++) {
        f->stub.features = REFUSALS[i].features;
        start(f);
        assert_refused(f, REFUSALS[i].kind, REFUSALS[i].feature);
        link_free(f->link);
        f->link = NULL;
        f->verdicts = 0;
        f->state_count = 0;
        f->stub.count = 0;
    }
}

static void the_owners_own_demand_refuses_like_a_missing_feature(void **state)
{
    struct fixture *f = *state;
    f->refuse = true;
    start(f);
    assert_refused(f, "feature_param_invalid", "client_message_id_dedupe");
}

static void a_refused_link_asks_again_later_and_opens_when_the_broker_was_mended(void **state)
{
    struct fixture *f = *state;
    f->stub.features = "{}";
    start(f);
    f->link->times.refused_retry = 50;
    run_until(f->loop, is_refused, f, "refused");
    f->stub.features = STUB_FEATURES;
    run_until(f->loop, is_open, f, "open");
    assert_states(f, (const enum link_state[]){ LINK_CONNECTING, LINK_REFUSED, LINK_OPEN }, 3);
}

static void without_an_answer_a_link_that_requires_nothing_opens_with_the_defaults(void **state)
{
    struct fixture *f = *state;
    f->stub.features = NULL;
    struct link_options options = options_of(f);
    options.require_count = 0;
    make_link(f, &options);
    f->link->times.negotiation = 30;
    link_start(f->link);
    run_until(f->loop, is_open, f, "open");
    assert_false(link_features(f->link)->dedupe);
    assert_int_equal(link_features(f->link)->inline_bytes, 65536);
}

static void without_an_answer_a_link_that_requires_something_is_refused(void **state)
{
    struct fixture *f = *state;
    f->stub.features = NULL;
    struct link_options options = options_of(f);
    make_link(f, &options);
    f->link->times.negotiation = 30;
    link_start(f->link);
    assert_refused(f, "feature_unavailable", "client_message_id_dedupe");
}

static bool close_with_4010(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    (void)stub;
    (void)frame;
    if (!string_equal(type, "hello")) {
        return false;
    }
    websocket_close(connection->socket, 4010,
                    "{\"close_reason\":{\"kind\":\"feature_param_invalid\",\"feature\":\"key_epoch\",\"detail\":\"d\"}}");
    return true;
}

static void a_4010_from_the_broker_refuses_too(void **state)
{
    struct fixture *f = *state;
    f->stub.hook = close_with_4010;
    start(f);
    run_until(f->loop, is_refused, f, "refused");
    assert_int_equal(f->verdicts, 1);
    assert_int_equal(f->verdict.failure, FEATURE_PARAM_INVALID);
    assert_string_equal(f->verdict.feature, "key_epoch");
}

static bool push_before_answering(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    (void)stub;
    (void)frame;
    if (string_equal(type, "feature_negotiation_request")) {
        stub_send(connection, "{\"type\":\"push\",\"messageId\":\"early-1\"}");
        stub_send(connection, "{\"type\":\"push\",\"messageId\":\"early-2\"}");
    }
    return false;
}

static bool has_two_frames(void *argument)
{
    struct fixture *f = argument;
    return json_array_size(f->frames) >= 2;
}

static void frames_before_the_negotiation_is_over_are_kept_in_order(void **state)
{
    struct fixture *f = *state;
    f->stub.hook = push_before_answering;
    start(f);
    run_until(f->loop, has_two_frames, f, "the early frames");
    assert_string_equal(text_of(json_array_get(f->frames, 0), "messageId"), "early-1");
    assert_string_equal(text_of(json_array_get(f->frames, 1), "messageId"), "early-2");
}

/* ---- closing and coming back ---------------------------------------------------------------------------------- */

static bool close_with_script(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    (void)frame;
    struct fixture *f = stub->user;
    if (!string_equal(type, "hello") || f->script == 0) {
        return false;
    }
    websocket_close(connection->socket, f->script, "why");
    return true;
}

static void a_revoked_member_does_not_come_back(void **state)
{
    struct fixture *f = *state;
    f->script = 4002;
    f->stub.hook = close_with_script;
    start(f);
    run_until(f->loop, is_closed, f, "closed");
    assert_true(link_is_revoked(f->link));
    run_for(f->loop, 60);
    assert_int_equal(f->stub.count, 1);
}

static void who_was_replaced_waits_long_and_longer_each_time(void **state)
{
    struct fixture *f = *state;
    f->script = 4003;
    f->stub.hook = close_with_script;
    start(f);
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    assert_int_equal(f->link->replaced_backoff_ms, 30000);
    run_for(f->loop, 100);
    assert_int_equal(f->stub.count, 1);
    link_free(f->link);
    struct link_options options = options_of(f);
    make_link(f, &options);
    f->link->times.replaced_initial = 10;
    f->script = 4004;
    link_start(f->link);
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    f->script = 0;
    run_until(f->loop, is_open, f, "open");
    websocket_close(f->stub.current->socket, 4003, "replaced_by_newer_connection");
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    assert_int_equal(f->link->replaced_backoff_ms, 20); /* not forgotten by a short success */
}

static bool has_six_connections(void *argument)
{
    struct fixture *f = argument;
    return f->stub.count >= 6;
}

static void an_unauthorised_hello_is_tried_again_with_backoff(void **state)
{
    struct fixture *f = *state;
    f->script = 1008;
    f->stub.hook = close_with_script;
    start(f);
    run_until(f->loop, has_six_connections, f, "six attempts");
    assert_int_equal(f->link->backoff_ms, 40);
    f->script = 0;
    run_until(f->loop, is_open, f, "open");
    assert_states(f, (const enum link_state[]){ LINK_CONNECTING, LINK_RECONNECTING, LINK_OPEN }, 3);
}

static void a_broker_that_lets_us_in_and_drops_us_meets_backoff(void **state)
{
    struct fixture *f = *state;
    start(f);
    for (int i = 0; i < 4; i++) {
        run_until(f->loop, is_open, f, "open");
        f->link->opened_ms = clock_monotonic_ms() + 60000; /* however slow this machine is */
        websocket_close(f->stub.current->socket, 1001, "going away");
        run_until(f->loop, is_reconnecting, f, "reconnecting");
    }
    int64_t grown_ms = f->link->backoff_ms;
    assert_true(grown_ms >= 40);
    /* One that stood as long as the pause before it begins anew. */
    run_until(f->loop, is_open, f, "open");
    f->link->opened_ms = clock_monotonic_ms() - grown_ms;
    websocket_close(f->stub.current->socket, 1001, "going away");
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    assert_int_equal(f->link->backoff_ms, f->link->options.reconnect_initial_ms);
}

static void a_link_started_before_its_broker_opens_when_it_comes(void **state)
{
    struct fixture *f = *state;
    struct url_parts parts;
    struct error error;
    assert_int_equal(url_parse(f->stub.url, &parts, &error), 0);
    struct link_options options = options_of(f);
    make_link(f, &options);
    stub_release(&f->stub);
    link_start(f->link);
    run_until(f->loop, is_reconnecting, f, "reconnecting");
    stub_init(&f->stub, f->loop, parts.port);
    url_parts_release(&parts);
    run_until(f->loop, is_open, f, "open");
    assert_states(f, (const enum link_state[]){ LINK_CONNECTING, LINK_RECONNECTING, LINK_OPEN }, 3);
}

static void once_means_that_the_first_failure_is_the_last(void **state)
{
    struct fixture *f = *state;
    f->script = 1008;
    f->stub.hook = close_with_script;
    struct link_options options = options_of(f);
    options.once = true;
    make_link(f, &options);
    link_start(f->link);
    run_until(f->loop, is_closed, f, "closed");
    run_for(f->loop, 60);
    assert_int_equal(f->stub.count, 1);
}

static bool is_stopped(void *argument)
{
    struct fixture *f = argument;
    return f->stopped > 0;
}

static void a_stopped_link_closes_with_1001_and_says_when_it_is_gone(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    link_stop(f->link);
    run_until(f->loop, is_stopped, f, "stopped");
    run_until(f->loop, first_is_closed, f, "the close");
    assert_int_equal(f->stub.connections[0].close_code, 1001);
    assert_states(f, (const enum link_state[]){ LINK_CONNECTING, LINK_OPEN }, 2);
    run_for(f->loop, 60);
    assert_int_equal(f->stub.count, 1);
    assert_int_equal(f->stopped, 1);
}

static void a_link_that_never_started_stops_at_once(void **state)
{
    struct fixture *f = *state;
    struct link_options options = options_of(f);
    make_link(f, &options);
    link_stop(f->link);
    assert_int_equal(f->stopped, 1);
}

static void a_signed_revocation_closes_for_good(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    link_revoke(f->link, "revoked");
    assert_int_equal(link_state(f->link), LINK_CLOSED);
    assert_true(link_is_revoked(f->link));
    run_for(f->loop, 60);
    assert_int_equal(f->stub.count, 1);
}

/* ---- frames and requests -------------------------------------------------------------------------------------- */

static void on_answer(void *argument, const json_t *answer)
{
    struct fixture *f = argument;
    f->answers++;
    f->null_answers += answer == NULL ? 1 : 0;
    json_decref(f->answer);
    f->answer = answer == NULL ? NULL : json_deep_copy(answer);
}

static int ask(struct fixture *f, const char *type)
{
    json_t *request = json_new_object();
    json_put_string(request, "type", type);
    int result = link_request(f->link, request, on_answer, f);
    assert_null(json_object_get(request, "_reqId"));
    json_decref(request);
    return result;
}

static bool has_answer(void *argument)
{
    struct fixture *f = argument;
    return f->answers > 0;
}

static void a_request_gets_its_own_answer_and_an_error_is_one(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    assert_int_equal(ask(f, "list_members"), 0);
    run_until(f->loop, has_answer, f, "the answer");
    assert_string_equal(text_of(f->answer, "type"), "members_list");
    assert_int_equal(ask(f, "nothing_that_is_known"), 0);
    const json_t *request = NULL;
    while ((request = stub_received(&f->stub, "nothing_that_is_known", 0)) == NULL) {
        run_for(f->loop, 1);
    }
    f->answers = 0;
    stub_send(f->stub.current, "{\"type\":\"error\",\"code\":\"unknown\",\"_reqId\":\"%s\"}", text_of(request, "_reqId"));
    run_until(f->loop, has_answer, f, "the error");
    assert_string_equal(text_of(f->answer, "type"), "error");
    assert_int_equal(json_array_size(f->frames), 0);
}

static void every_request_is_answered_once_when_the_link_is_lost(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    for (int i = 0; i < 10; i++) {
        assert_int_equal(ask(f, "into_the_void"), 0);
    }
    link_reset(f->link, "no answer in 15 s");
    assert_int_equal(f->answers, 10);
    assert_int_equal(f->null_answers, 10);
    assert_int_equal(link_state(f->link), LINK_RECONNECTING);
    assert_int_equal(ask(f, "list_members"), -1);
    assert_int_equal(link_send(f->link, "{}", 2), -1);
    run_until(f->loop, is_open, f, "open again");
    assert_int_equal(f->answers, 10);
}

static void a_request_without_an_answer_is_answered_null_in_time(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    f->link->times.request = 20;
    assert_int_equal(ask(f, "into_the_void"), 0);
    run_until(f->loop, has_answer, f, "the timeout");
    assert_int_equal(f->null_answers, 1);
    assert_int_equal(link_state(f->link), LINK_OPEN);
}

static void nonsense_and_unknown_frames_do_no_harm(void **state)
{
    struct fixture *f = *state;
    start(f);
    run_until(f->loop, is_open, f, "open");
    static const char *const NONSENSE[] = {
        "", "null", "[]", "5", "{", "{\"type\":5}", "{}", "{\"type\":\"a\",\"type\":\"b\"}", "{\"type\":\"hello_ack\",\"brokerVersion\":7}"
    };
    for (size_t i = 0; i < ARRAY_LENGTH(NONSENSE); i++) {
        (void)websocket_send(f->stub.current->socket, NONSENSE[i], strlen(NONSENSE[i]));
    }
    stub_send(f->stub.current, "{\"type\":\"unheard_of\",\"_reqId\":7}");
    stub_send(f->stub.current, "{\"type\":\"redirect\",\"url\":5}");
    run_until(f->loop, has_two_frames, f, "the frames that are frames");
    assert_int_equal(link_state(f->link), LINK_OPEN);
    assert_string_equal(link_broker_version(f->link), "stub-1");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_cell_of_the_table_leads_back_to_idle_or_shows_open_without_being_it),
        TEST(a_link_says_hello_with_both_signatures_and_opens),
        TEST(the_lag_is_the_newest_pings_round_trip_once_there_is_one),
        TEST(without_a_challenge_there_is_no_second_signature),
        TEST(a_broker_that_drops_its_challenge_is_refused_before_any_hello),
        TEST(a_challenge_once_seen_is_required_of_the_next_connection_too),
        TEST(a_skewed_clock_is_corrected_once_and_reported),
        TEST(a_clock_that_is_off_by_more_than_a_day_is_not_corrected),
        TEST(a_corrected_hello_that_is_refused_again_backs_off),
        TEST(a_hello_taken_for_a_replay_is_signed_again_with_a_later_timestamp),
        TEST(a_broker_that_calls_everything_a_replay_meets_backoff),
        TEST(a_broker_without_what_is_required_is_closed_with_4010_and_not_asked_again),
        TEST(the_owners_own_demand_refuses_like_a_missing_feature),
        TEST(a_refused_link_asks_again_later_and_opens_when_the_broker_was_mended),
        TEST(without_an_answer_a_link_that_requires_nothing_opens_with_the_defaults),
        TEST(without_an_answer_a_link_that_requires_something_is_refused),
        TEST(a_4010_from_the_broker_refuses_too),
        TEST(frames_before_the_negotiation_is_over_are_kept_in_order),
        TEST(a_revoked_member_does_not_come_back),
        TEST(who_was_replaced_waits_long_and_longer_each_time),
        TEST(an_unauthorised_hello_is_tried_again_with_backoff),
        TEST(a_broker_that_lets_us_in_and_drops_us_meets_backoff),
        TEST(a_link_started_before_its_broker_opens_when_it_comes),
        TEST(once_means_that_the_first_failure_is_the_last),
        TEST(a_stopped_link_closes_with_1001_and_says_when_it_is_gone),
        TEST(a_link_that_never_started_stops_at_once),
        TEST(a_signed_revocation_closes_for_good),
        TEST(a_request_gets_its_own_answer_and_an_error_is_one),
        TEST(every_request_is_answered_once_when_the_link_is_lost),
        TEST(a_request_without_an_answer_is_answered_null_in_time),
        TEST(nonsense_and_unknown_frames_do_no_harm),
    };
    return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
