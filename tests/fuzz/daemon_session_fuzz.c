/* A daemon's side of a connection to a broker that says anything: link (hello, negotiation, requests) and delivery (acks, pushes, receipts, peers, members, events), with a row to send and the seeds' keys. What goes
 * out is strict JSON; what is stored holds together; events are objects; when it ends, nothing is left. WebSocket, outbox, inbox and trust's store are played.
 *
 * Input, a line each: a frame from the broker, or one letter: U (upgraded, with a challenge), u (without), W (a hello_ack), N (a good negotiation), L (a list of members that answers the first question), C (the broker hangs up),
 * A (the databases answer), P (somebody asks who is there), F (from now on they are full), G (and are not). */
#include <fcntl.h>

#include "delivery/delivery.h"
#include "net/websocket.h"
#include "played_databases.h"
#include "trust_world.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"

static const int64_t NOW_MS = INT64_C(1790000000000);

struct websocket {
    struct websocket_callbacks callbacks;
    void *argument;
    bool open, closing, paused;
    int close_code;
};

static struct loop *loop;
static struct websocket *socket_now; /* NULL: none */

/* ---- the WebSocket ---------------------------------------------------------------------------------------------------- */

int websocket_connect(struct loop *owner, const struct websocket_connect *connect, const struct websocket_callbacks *callbacks,
                      void *argument, struct websocket **ret_socket, struct error *error)
{
    (void)owner;
    (void)error;
    REQUIRE(socket_now == NULL && string_has_prefix(connect->url, "ws://"));
    socket_now = memory_zalloc(sizeof(*socket_now));
    socket_now->callbacks = *callbacks;
    socket_now->argument = argument;
    *ret_socket = socket_now;
    return 0;
}

int websocket_send(struct websocket *socket, const char *text, size_t size)
{
    json_t *frame = NULL;

    REQUIRE(socket->open && !socket->closing && size <= LIMIT_FRAME && json_parse_strict(text, size, &frame, NULL) == 0);
    REQUIRE(json_is_string(json_object_get(frame, "type")));
    json_decref(frame);
    return 0;
}

void websocket_close(struct websocket *socket, int code, const char *reason)
{
    REQUIRE(!socket->closing && code >= 1000 && reason != NULL);
    socket->closing = true;
    socket->close_code = code;
}

void websocket_abort(struct websocket *socket)
{
    REQUIRE(socket == NULL || socket == socket_now);
    free(socket);
    socket_now = NULL;
}

void websocket_pause(struct websocket *socket, bool paused)
{
    REQUIRE(!socket->closing);
    socket->paused = paused;
}

void websocket_ping(struct websocket *socket)
{
    REQUIRE(!socket->closing);
}

bool websocket_has_input(const struct websocket *socket)
{
    (void)socket;
    return false;
}

size_t websocket_backlog(const struct websocket *socket)
{
    (void)socket;
    return 0;
}

int64_t websocket_rtt_ms(const struct websocket *socket)
{
    (void)socket;
    return 1;
}

static void closed(int code, const char *reason)
{
    struct websocket *socket = socket_now;

    socket_now = NULL;
    socket->closing = true;
    socket->callbacks.closed(socket->argument, socket, code, reason);
    free(socket);
}

/* ---- the daemon --------------------------------------------------------------------------------------------------------- */

static int64_t fixed_clock(void)
{
    return NOW_MS;
}

static void stop_turning(void *argument)
{
    loop_stop(argument);
}

static void turn(void)
{
    loop_defer(loop, stop_turning, loop);
    loop_run(loop);
    if (socket_now != NULL && socket_now->closing)
        closed(socket_now->close_code, "");
}

static void publish(void *argument, const char *type, const char *mesh_slug, json_t *data, int64_t inbox_seq)
{
    (void)argument;
    REQUIRE(type[0] != '\0' && string_equal(mesh_slug, "ops") && json_is_object(data));
    REQUIRE(string_equal(type, "message") == (inbox_seq >= 0));
    char *text = json_to_string(data, NULL);
    REQUIRE(strchr(text, '\n') == NULL);
    free(text);
    json_decref(data);
}

static void prepare(void)
{
    struct error error;

    clock_set_for_test(fixed_clock);
    log_set_level(LOG_LEVEL_ERROR);
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    REQUIRE(nowhere >= 0);
    log_set_fd(nowhere);
    (void)fuzz_keys(FUZZ_OWNER);
    REQUIRE(loop_new(&loop, &error) == 0);
}

static struct delivery *begin(void)
{
    static const char *const REQUIRED[] = { "client_message_id_dedupe", "concurrent_connection_policy" };
    const struct delivery_options options = {
        .loop = loop,
        .link = { .mesh_slug = "ops",
                  .mesh_id = FUZZ_MESH,
                  .member_id = "m-own",
                  .broker_url = "ws://127.0.0.1:1/ws",
                  .session_id = "s-1",
                  .display_name = "Owner",
                  .keys = fuzz_keys(FUZZ_OWNER),
                  .channel = "claudemesh-daemon",
                  .peer_type = "connector",
                  .receive = true,
                  .require = REQUIRED,
                  .require_count = ARRAY_LENGTH(REQUIRED),
                  .reconnect_initial_ms = 1000000,
                  .reconnect_max_ms = 1000000 },
        .owner_pubkey = keypair_public_hex(fuzz_keys(FUZZ_OWNER)),
        .role = "admin",
        .events = { .publish = publish },
        .window = 4,
        .backoff_initial_ms = 1000000,
        .backoff_max_ms = 1000000,
        .jitter_pct = 25,
        .max_age_hours = 168,
    };
    struct delivery *delivery = NULL;
    struct error error;

    databases_begin();
    REQUIRE(delivery_new(&options, &delivery, &error) == 0);
    delivery_start(delivery);
    return delivery;
}

/* ---- the broker ----------------------------------------------------------------------------------------------------------- */

static const char *prepared_frame(char letter)
{
    switch (letter) {
    case 'W':
        return "{\"type\":\"hello_ack\",\"presenceId\":\"p\",\"memberDisplayName\":\"Owner\",\"brokerVersion\":\"1\"}";
    case 'N':
        return "{\"type\":\"feature_negotiation_response\",\"supported\":{\"client_message_id_dedupe\":{\"params\":{\"version\":1,\"mode\":"
               "\"retention_scoped\","
               "\"dedupe_retention_days\":365,\"request_fingerprint\":true}},\"concurrent_connection_policy\":{\"params\":{\"version\":1}},"
               "\"sealed_envelope\":{\"params\":{\"version\":1}},\"delivery_ack\":{\"params\":{\"version\":1}}},\"missing_required\":[],\"_"
               "reqId\":\"r1\"}";
    case 'L':
        return "{\"type\":\"members_list\",\"members\":[],\"_reqId\":\"r2\"}";
    default:
        return NULL;
    }
}

static void hear(const char *text, size_t size)
{
    if (socket_now != NULL && socket_now->open && socket_now->paused)
        databases_answer();
    if (socket_now == NULL || !socket_now->open || socket_now->closing || socket_now->paused || !utf8_is_valid(text, size))
        return;
    socket_now->callbacks.message(socket_now->argument, socket_now, text, size);
}

static void act(char letter)
{
    static const char CHALLENGE[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    switch (letter) {
    case 'U':
    case 'u':
        if (socket_now != NULL && !socket_now->open && !socket_now->closing) {
            socket_now->open = true;
            socket_now->callbacks.open(socket_now->argument, socket_now, letter == 'U' ? CHALLENGE : NULL);
        }
        break;
    case 'C':
        if (socket_now != NULL)
            closed(1006, "gone");
        break;
    case 'A':
        databases_answer();
        break;
    case 'F':
    case 'G':
        databases.fails = letter == 'F';
        break;
    default:
        if (prepared_frame(letter) != NULL)
            hear(prepared_frame(letter), strlen(prepared_frame(letter)));
        break;
    }
}

static void look(struct delivery *delivery)
{
    json_t *const views[] = { delivery_members(delivery), delivery_profile(delivery), delivery_health(delivery),
                              delivery_features(delivery) };

    for (size_t i = 0; i < ARRAY_LENGTH(views); i++) {
        char *text = json_to_string(views[i], NULL);
        free(text);
        json_decref(views[i]);
    }
    (void)delivery_is_degraded(delivery);
    REQUIRE(delivery_inline_bytes(delivery) >= 1024);
}

static void peers_came(void *argument, json_t *peers, bool stale)
{
    (void)stale;
    (*(size_t *)argument)++;
    REQUIRE(json_is_array(peers));
    json_decref(peers);
}

static void end(struct delivery *delivery, size_t asked, const size_t *answered)
{
    databases_answer();
    turn();
    look(delivery);
    delivery_free(delivery);
    while (databases.count > 0)
        databases_answer();
    REQUIRE(socket_now == NULL && *answered == asked); /* no question is forgotten */
    turn();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    size_t asked = 0, answered = 0;

    if (loop == NULL)
        prepare();
    struct delivery *delivery = begin();
    for (size_t lines = 0; input.left > 0 && lines < 64; lines++) {
        char *text = fuzz_take_string(&input, '\n');
        if (string_equal(text, "P")) {
            asked++;
            delivery_peers(delivery, peers_came, &answered);
        } else if (text[0] != '\0' && text[1] == '\0') {
            act(text[0]);
        } else {
            hear(text, strlen(text));
        }
        turn();
        free(text);
    }
    end(delivery, asked, &answered);
    return 0;
}
