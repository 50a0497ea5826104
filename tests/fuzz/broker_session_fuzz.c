/* A broker's sessions: three connections whose clients say what the input holds, a store that answers what the input says. Everything that goes out is one strict JSON object with a type, within the frame's
 * maximum; nothing is said after a close; when all are gone, nothing is left. Store and WebSocket are played (played_store.h; the functions of net/websocket.h stand here).
 *
 * Input: a line of the store's words; then a line each: a digit, 0 to 2, for the connection, and what its client sends: a frame, or H (its hello, true and signed), h (one that receives nothing), C (it hangs up), D (the
 * store answers what waits), B and b (its output is stuck; flows again). */
#include <fcntl.h>

#include "broker/handlers.h"
#include "broker/session.h"
#include "fuzz_json.h"
#include "fuzz_keys.h"
#include "played_store.h"
#include "proto/frames.h"
#include "util/clock.h"
#include "util/log.h"

enum { CONNECTIONS = 3 };
static const int64_t NOW_MS = INT64_C(1790000000000);

struct websocket {
    struct websocket_callbacks callbacks;
    void *argument;
    bool closing, paused, stuck;
    int close_code;
};

static struct broker broker;
static struct websocket *sockets[CONNECTIONS];
static size_t accepting; /* whose turn websocket_accept is */

/* ---- the WebSocket ---------------------------------------------------------------------------------------------------- */

struct websocket *websocket_accept(struct loop *loop, struct http_request *request, const char *challenge,
                                   const struct websocket_callbacks *callbacks, void *argument)
{
    (void)loop;
    (void)request;
    REQUIRE(hex_is_key(challenge) && sockets[accepting] == NULL);
    sockets[accepting] = memory_zalloc(sizeof(struct websocket));
    sockets[accepting]->callbacks = *callbacks;
    sockets[accepting]->argument = argument;
    return sockets[accepting];
}

int websocket_send(struct websocket *socket, const char *text, size_t size)
{
    json_t *frame = NULL;

    REQUIRE(!socket->closing && size <= LIMIT_FRAME && json_parse_strict(text, size, &frame, NULL) == 0);
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
    for (size_t i = 0; i < CONNECTIONS; i++)
        sockets[i] = sockets[i] == socket ? NULL : sockets[i];
    free(socket);
}

void websocket_pause(struct websocket *socket, bool paused)
{
    REQUIRE(!socket->closing);
    socket->paused = paused;
}

bool websocket_has_input(const struct websocket *socket)
{
    (void)socket;
    return false;
}

size_t websocket_backlog(const struct websocket *socket)
{
    return socket->stuck ? BROKER_ANSWER_BACKLOG + 1 : 0;
}

const char *websocket_peer_address(const struct websocket *socket)
{
    (void)socket;
    return "127.0.0.1";
}

void websocket_set_maximum(struct websocket *socket, size_t maximum)
{
    (void)socket;
    REQUIRE(maximum > 0 && maximum <= LIMIT_FRAME);
}

/* ---- the broker ------------------------------------------------------------------------------------------------------- */

static int64_t fixed_clock(void)
{
    return NOW_MS;
}

static void stop_turning(void *argument)
{
    loop_stop(argument);
}

/* One turn of the loop: what was deferred runs. */
static void turn(void)
{
    loop_defer(broker.loop, stop_turning, broker.loop);
    loop_run(broker.loop);
}

static void make_broker(void)
{
    struct error error;

    clock_set_for_test(fixed_clock);
    log_set_level(LOG_LEVEL_ERROR);
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    REQUIRE(nowhere >= 0);
    log_set_fd(nowhere);
    (void)fuzz_keys(FUZZ_OWNER);
    REQUIRE(loop_new(&broker.loop, &error) == 0);
    broker.lease_timer = loop_timer_new(broker.loop, deliver_check_leases, &broker);
    broker.grace_timer = loop_timer_new(broker.loop, presence_grace_over, &broker);
    broker.stop_timer = loop_timer_new(broker.loop, presence_grace_over, &broker);
    broker.offer_override = json_object();
    broker.store = &played.store;
    LIST_INIT(&broker.leased);
    TAILQ_INIT(&broker.leaving);
    broker.figures = (struct broker_figures){ .dedupe_retention_ms = 1000000,
                                              .message_retention_ms = 1000000,
                                              .inline_bytes = 65536,
                                              .blob_bytes = 65536,
                                              .ciphertext_maximum = 1024,
                                              .max_connections = 100,
                                              .max_connections_per_mesh = 10,
                                              .hello_timeout_ms = 5000,
                                              .presence_grace_ms = 60000,
                                              .lease_ms = 30000,
                                              .window = 2,
                                              .dedupe_retention_days = 365,
                                              .policy_name = "prefer_newest" };
}

static void hang_up(size_t connection, int code)
{
    struct websocket *socket = sockets[connection];

    sockets[connection] = NULL;
    socket->closing = true;
    socket->callbacks.closed(socket->argument, socket, code, "");
    free(socket);
}

/* What the loop would do after each frame: deferred work, and closes that are through. */
static void settle(bool drain)
{
    if (drain)
        played_drain();
    turn();
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (sockets[i] != NULL && sockets[i]->closing)
            hang_up(i, sockets[i]->close_code);
    }
}

/* ---- the clients ------------------------------------------------------------------------------------------------------- */

static const char *true_hello(size_t person, bool receive)
{
    static char *frames[CONNECTIONS][2];

    if (frames[person][receive] == NULL) {
        struct frame_hello hello = { .protocol_version = 1,
                                     .mesh_id = FUZZ_MESH,
                                     .member_id = "m-1",
                                     .session_id = "s-1",
                                     .peer_type = "ai",
                                     .channel = "fuzz",
                                     .receive = receive,
                                     .client_ack = true,
                                     .feature_negotiation = receive,
                                     .timestamp = NOW_MS };
        struct buffer text;
        struct error error;
        buffer_init(&text, LIMIT_FRAME);
        REQUIRE(frame_hello_build(&hello, fuzz_keys((enum fuzz_person)person), NULL, NULL, &text, &error) == 0);
        frames[person][receive] = buffer_take(&text, NULL);
    }
    return frames[person][receive];
}

static void say(size_t connection, const char *text, size_t size)
{
    struct websocket *socket = sockets[connection];

    if (socket->paused)
        settle(true);
    socket = sockets[connection];
    if (socket == NULL || socket->paused || socket->closing || !utf8_is_valid(text, size))
        return;
    socket->callbacks.message(socket->argument, socket, text, size);
}

static void act(size_t connection, const char *text)
{
    if (sockets[connection] == NULL) {
        accepting = connection;
        session_accept(&broker, NULL);
    }
    struct websocket *socket = sockets[connection];
    if (text[0] != '\0' && text[1] == '\0') {
        switch (text[0]) {
        case 'H':
        case 'h':
            say(connection, true_hello(connection, text[0] == 'H'), strlen(true_hello(connection, text[0] == 'H')));
            return;
        case 'C':
            hang_up(connection, 1006);
            return;
        case 'B':
        case 'b':
            socket->stuck = text[0] == 'B';
            if (!socket->stuck)
                socket->callbacks.drained(socket->argument, socket);
            return;
        default:
            break;
        }
    }
    say(connection, text, strlen(text));
}

static void end(void)
{
    settle(true);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (sockets[i] != NULL)
            hang_up(i, 1001);
    }
    while (played.count > 0)
        settle(true);
    presence_end_all(&broker);
    settle(true);
    REQUIRE(broker.connection_count == 0 && broker.sessions.count == 0 && broker.sessions_by_key.count == 0);
    REQUIRE(broker.members.count == 0 && broker.members_by_pubkey.count == 0 && broker.meshes.count == 0);
    REQUIRE(LIST_EMPTY(&broker.leased) && TAILQ_EMPTY(&broker.leaving) && broker.undecided_bytes == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };

    if (broker.loop == NULL)
        make_broker();
    const uint8_t *newline = memchr(data, '\n', size);
    const size_t words = newline == NULL ? size : (size_t)(newline - data);
    played_begin(data, words);
    input.at += newline == NULL ? size : words + 1;
    input.left -= newline == NULL ? size : words + 1;
    while (input.left > 0) {
        const size_t connection = fuzz_take_byte(&input) % CONNECTIONS;
        char *text = fuzz_take_string(&input, '\n');
        if (string_equal(text, "D"))
            settle(true);
        else
            act(connection, text);
        settle(played_word() % 4 != 3);
        free(text);
    }
    end();
    return 0;
}
