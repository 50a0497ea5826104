#include "stub_broker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "json/json.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

const char STUB_CHALLENGE[] = "c230e39145a2ad0921de736eefccd216666012be114ef1e1eaf5afe7a72e5d09";
const char STUB_FEATURES[] =
    "{\"client_message_id_dedupe\":{\"params\":{\"version\":1,\"mode\":\"retention_scoped\",\"dedupe_retention_days\":365,\"request_"
    "fingerprint\":true}},"
    "\"concurrent_connection_policy\":{\"params\":{\"version\":1}},\"sealed_envelope\":{\"params\":{\"version\":1}},"
    "\"delivery_ack\":{\"params\":{\"version\":1}},\"max_payload\":{\"params\":{\"version\":1,\"inline_bytes\":65536,\"blob_bytes\":65536}}"
    "}";

void stub_send_json(struct stub_connection *connection, json_t *frame)
{
    size_t size = 0;
    char *text = json_to_string(frame, &size);
    if (connection->socket != NULL) {
        (void)websocket_send(connection->socket, text, size);
    }
    free(text);
    json_decref(frame);
}

void stub_send(struct stub_connection *connection, const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    assert_true(length > 0 && (size_t)length < sizeof(text));
    if (connection->socket != NULL) {
        (void)websocket_send(connection->socket, text, (size_t)length);
    }
}

static void answer_list(struct stub_connection *connection, const json_t *frame, const char *type, const json_t *content)
{
    json_t *answer = content == NULL ? json_new_object() : json_deep_copy(content);
    json_put_string(answer, "type", type);
    json_object_set(answer, "_reqId", json_object_get(frame, "_reqId"));
    stub_send_json(connection, answer);
}

static void answer_honestly(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    const char *id = json_string_value(json_object_get(frame, "_reqId"));
    if (string_equal(type, "hello")) {
        stub_send(connection, "{\"type\":\"hello_ack\",\"presenceId\":\"p\",\"memberDisplayName\":\"x\",\"brokerVersion\":\"stub-1\"}");
    } else if (string_equal(type, "feature_negotiation_request") && stub->features != NULL) {
        stub_send(connection, "{\"type\":\"feature_negotiation_response\",\"_reqId\":\"%s\",\"supported\":%s,\"missing_required\":[]}", id,
                  stub->features);
    } else if (string_equal(type, "list_members") && stub->members != NULL) {
        answer_list(connection, frame, "members_list", stub->members);
    } else if (string_equal(type, "list_peers")) {
        json_t *peers = json_new_object();
        json_put(peers, "peers", json_new_array());
        answer_list(connection, frame, "peers_list", peers);
        json_decref(peers);
    }
}

static void on_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    (void)socket;
    struct stub_connection *connection = argument;
    struct stub *stub = connection->stub;
    json_t *frame = NULL;
    struct error error;
    assert_int_equal(json_parse_strict(text, size, &frame, &error), 0);
    json_array_append_new(stub->received, frame);
    const char *type = json_string_value(json_object_get(frame, "type"));
    assert_non_null(type);
    if (stub->hook == NULL || !stub->hook(stub, connection, type, frame)) {
        answer_honestly(stub, connection, type, frame);
    }
}

static void on_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    (void)socket;
    struct stub_connection *connection = argument;
    connection->socket = NULL;
    connection->close_code = code;
    (void)snprintf(connection->close_reason, sizeof(connection->close_reason), "%s", reason);
}

static const struct websocket_callbacks CALLBACKS = { .message = on_message, .closed = on_closed };

static void on_request(void *argument, struct http_request *request)
{
    struct stub *stub = argument;
    assert_true(stub->count < STUB_CONNECTIONS);
    struct stub_connection *connection = &stub->connections[stub->count];
    connection->stub = stub;
    connection->index = stub->count++;
    stub->current = connection;
    connection->socket = websocket_accept(stub->loop, request, stub->challenge, &CALLBACKS, connection);
    assert_non_null(connection->socket);
}

static void on_head(void *argument, struct http_request *request)
{
    (void)argument;
    (void)request;
}

void stub_init(struct stub *stub, struct loop *loop, uint16_t port)
{
    *stub = (struct stub){ .loop = loop, .challenge = STUB_CHALLENGE, .features = STUB_FEATURES, .received = json_new_array() };
    stub->members = json_new_object();
    json_put(stub->members, "members", json_new_array());
    const struct http_callbacks callbacks = { .argument = stub, .head = on_head, .request = on_request, .gone = on_head };
    struct error error;
    assert_int_equal(http_server_new(loop, &callbacks, 0, &stub->server, &error), 0);
    assert_int_equal(http_server_listen_tcp(stub->server, "127.0.0.1", port, NULL, &port, &error), 0);
    (void)snprintf(stub->url, sizeof(stub->url), "ws://127.0.0.1:%u/ws", (unsigned)port);
}

void stub_release(struct stub *stub)
{
    for (int i = 0; i < stub->count; i++) {
        websocket_abort(stub->connections[i].socket);
        stub->connections[i].socket = NULL;
    }
    http_server_free(stub->server);
    json_decref(stub->received);
    json_decref(stub->members);
}

const json_t *stub_received(const struct stub *stub, const char *type, size_t nth)
{
    size_t index = 0;
    const json_t *frame = NULL;
    json_array_foreach(stub->received, index, frame)
    {
        if (string_equal(json_string_value(json_object_get(frame, "type")), type) && nth-- == 0) {
            return frame;
        }
    }
    return NULL;
}

size_t stub_count(const struct stub *stub, const char *type)
{
    size_t count = 0;
    while (stub_received(stub, type, count) != NULL) {
        count++;
    }
    return count;
}

/* ---- waiting -------------------------------------------------------------------------------------------------- */

enum { PATIENCE_MS = 20000 };

struct waiting {
    struct loop *loop;
    struct loop_timer *timer;
    bool (*ready)(void *argument);
    void *argument;
    int64_t until_ms;
};

static void look(void *argument)
{
    struct waiting *waiting = argument;
    if (clock_monotonic_ms() >= waiting->until_ms || (waiting->ready != NULL && waiting->ready(waiting->argument))) {
        loop_stop(waiting->loop);
    } else {
        loop_timer_start(waiting->timer, 1);
    }
}

static void run(struct loop *loop, bool (*ready)(void *argument), void *argument, int64_t ms)
{
    struct waiting waiting = { .loop = loop, .ready = ready, .argument = argument, .until_ms = clock_monotonic_ms() + ms };
    waiting.timer = loop_timer_new(loop, look, &waiting);
    loop_timer_start(waiting.timer, 0);
    loop_run(loop);
    loop_timer_free(waiting.timer);
}

void run_until(struct loop *loop, bool (*ready)(void *argument), void *argument, const char *what)
{
    run(loop, ready, argument, PATIENCE_MS);
    if (!ready(argument)) {
        fail_msg("timed out waiting for %s", what);
    }
}

void run_for(struct loop *loop, int64_t ms)
{
    run(loop, NULL, NULL, ms);
}
