/* The server's end of the WebSocket, driven by frames made by hand: what is accepted, with which code everything else is closed, and what
 * is left behind. */
#include "fixture.h"

#include <malloc.h>
#include <zlib.h>

#include "net/websocket.h"
#include "net/websocket_handshake.h"
#include "util/limits.h"

enum { TEXT = 1, BINARY = 2, CONTINUATION = 0, CLOSE = 8, PING = 9, PONG = 10, FIN = 0x80, RSV1 = 0x40 };

static const char challenge[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

struct fixture {
    struct loop_thread loop;
    struct http_server *server;
    uint16_t port;
    int64_t ping_ms, silence_ms; /* 0: the defaults */
    struct websocket *socket;    /* the newest; NULL once closed */
    struct counter opened, messages, closed, drained;
    int close_code;
    char close_reason[256];
    size_t message_size;
    int64_t rtt_ms;
    int send_result;
    size_t backlog;
};

/* ---- the server ---------------------------------------------------------------------------------------------------- */

static void send_literal(struct websocket *socket, const char *text)
{
    assert_int_equal(websocket_send(socket, text, strlen(text)), 0);
}

static void flood(struct fixture *fixture, struct websocket *socket)
{
    char *block = memory_alloc(256 * 1024);

    memset(block, 'f', 256 * 1024);
    do {
        fixture->backlog = websocket_backlog(socket);
        fixture->send_result = websocket_send(socket, block, 256 * 1024);
    } while (fixture->send_result == 0);
    free(block);
}

static void on_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    struct fixture *fixture = argument;
    char *copy = memory_strndup(text, size);

    fixture->message_size = size;
    if (string_equal(copy, "close")) {
        websocket_close(socket, 4001, "told to");
        assert_int_equal(websocket_send(socket, "late", 4), -1);
        websocket_close(socket, 4002, "again");
    } else if (string_equal(copy, "abort")) {
        send_literal(socket, "unsent");
        websocket_abort(socket);
        fixture->socket = NULL;
    } else if (string_equal(copy, "flood")) {
        flood(fixture, socket);
    } else if (string_equal(copy, "pause")) {
        websocket_pause(socket, true);
    } else if (string_equal(copy, "three")) {
        send_literal(socket, "one");
        send_literal(socket, "two");
        send_literal(socket, "three");
    } else {
        assert_int_equal(websocket_send(socket, text, size), 0);
    }
    free(copy);
    counter_raise(&fixture->messages);
}

static void on_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    struct fixture *fixture = argument;

    fixture->close_code = code;
    assert_true(snprintf(fixture->close_reason, sizeof(fixture->close_reason), "%s", reason) >= 0);
    if (fixture->socket == socket)
        fixture->socket = NULL;
    websocket_abort(socket); /* to no effect */
    counter_raise(&fixture->closed);
}

static void on_drained(void *argument, struct websocket *socket)
{
    struct fixture *fixture = argument;

    assert_int_equal(websocket_backlog(socket), 0);
    counter_raise(&fixture->drained);
}

static const struct websocket_callbacks callbacks = { .message = on_message, .closed = on_closed, .drained = on_drained };

static void on_head(void *argument, struct http_request *request)
{
    (void)argument;
    (void)request;
}

static void on_request(void *argument, struct http_request *request)
{
    struct fixture *fixture = argument;

    fixture->socket = websocket_accept(fixture->loop.loop, request, challenge, &callbacks, fixture);
    if (fixture->socket == NULL)
        return;
    assert_string_equal(websocket_peer_address(fixture->socket), "127.0.0.1");
    if (fixture->ping_ms > 0)
        websocket_set_keepalive(fixture->socket, fixture->ping_ms, fixture->silence_ms);
    counter_raise(&fixture->opened);
}

static void on_gone(void *argument, struct http_request *request)
{
    (void)argument;
    (void)request;
}

static void open_server(void *argument)
{
    struct fixture *fixture = argument;
    const struct http_callbacks http = { fixture, on_head, on_request, on_gone, NULL };
    struct error error;

    assert_int_equal(http_server_new(fixture->loop.loop, &http, 1000, &fixture->server, &error), 0);
    assert_int_equal(http_server_listen_tcp(fixture->server, "127.0.0.1", 0, NULL, &fixture->port, &error), 0);
}

static void close_server(void *argument)
{
    struct fixture *fixture = argument;

    websocket_abort(fixture->socket);
    http_server_free(fixture->server);
}

static void resume(void *argument)
{
    struct fixture *fixture = argument;

    websocket_pause(fixture->socket, false);
}

static void ask_rtt(void *argument)
{
    struct fixture *fixture = argument;

    fixture->rtt_ms = websocket_rtt_ms(fixture->socket);
}

/* Only to let a turn go by. */
static void ask_connections(void *argument)
{
    const struct fixture *fixture = argument;

    assert_int_equal(http_server_connection_count(fixture->server), 0);
}

static int setup(void **state)
{
    static const struct counter zero = COUNTER_INITIALIZER;
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));

    fixture->opened = fixture->messages = fixture->closed = fixture->drained = zero;
    loop_thread_start(&fixture->loop);
    on_loop(&fixture->loop, open_server, fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    on_loop(&fixture->loop, close_server, fixture);
    loop_thread_stop(&fixture->loop);
    loop_free(fixture->loop.loop);
    free(fixture);
    return 0;
}

/* ---- a client by hand ---------------------------------------------------------------------------------------------- */

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define UPGRADE                                                                                                   \
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: " \
    "13\r\nSec-WebSocket-Key: " KEY "\r\n"

struct client {
    int fd;
    struct buffer input;
};

static struct client client_open(const struct fixture *fixture, const char *more_headers)
{
    struct client client = { .fd = connect_tcp(fixture->port) };
    const char *end;

    buffer_init(&client.input, BUFFER_UNLIMITED);
    send_text(client.fd, UPGRADE);
    send_text(client.fd, more_headers);
    send_text(client.fd, "\r\n");
    receive_until(client.fd, &client.input, "\r\n\r\n");
    assert_begins(client.input.data, "HTTP/1.1 101 Switching Protocols\r\n");
    end = strstr(client.input.data, "\r\n\r\n");
    assert_non_null(end);
    buffer_consume(&client.input, (size_t)(end + 4 - client.input.data));
    return client;
}

static void client_close(struct client *client)
{
    buffer_release(&client->input);
    assert_int_equal(close(client->fd), 0);
}

/* first: FIN, RSV and opcode. length: what the head says. */
static void send_frame_saying(const struct client *client, int first, const void *data, size_t size, uint64_t length, bool masked)
{
    static const unsigned char mask[4] = { 0x37, 0xfa, 0x21, 0x3d };
    struct buffer frame;
    unsigned char second = masked ? 0x80 : 0;

    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(buffer_append_byte(&frame, (char)first), 0);
    if (length < 126) {
        assert_int_equal(buffer_append_byte(&frame, (char)(second | length)), 0);
    } else if (length < 65536) {
        assert_int_equal(buffer_append_byte(&frame, (char)(second | 126)), 0);
        assert_int_equal(buffer_append_byte(&frame, (char)(length >> 8)), 0);
        assert_int_equal(buffer_append_byte(&frame, (char)length), 0);
    } else {
        assert_int_equal(buffer_append_byte(&frame, (char)(second | 127)), 0);
        for (int shift = 56; shift >= 0; shift -= 8)
            assert_int_equal(buffer_append_byte(&frame, (char)(length >> shift)), 0);
    }
    if (masked)
        assert_int_equal(buffer_append(&frame, mask, 4), 0);
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = ((const unsigned char *)data)[i];
        assert_int_equal(buffer_append_byte(&frame, (char)(masked ? byte ^ mask[i % 4] : byte)), 0);
    }
    send_bytes(client->fd, frame.data, frame.length);
    buffer_release(&frame);
}

static void send_frame(const struct client *client, int first, const void *data, size_t size)
{
    send_frame_saying(client, first, data, size, size, true);
}

static void send_message(const struct client *client, const char *text)
{
    send_frame(client, FIN | TEXT, text, strlen(text));
}

struct frame {
    int first;
    char *data; /* NUL-terminated */
    size_t size;
};

static bool parse_frame(struct client *client, struct frame *ret_frame)
{
    const unsigned char *at = (const unsigned char *)client->input.data;
    size_t size, head = 2;

    if (client->input.length < 2)
        return false;
    assert_int_equal(at[1] & 0x80, 0); /* a server does not mask */
    size = at[1];
    if (size >= 126) {
        const size_t bytes = size == 126 ? 2 : 8;
        if (client->input.length < 2 + bytes)
            return false;
        size = 0;
        for (size_t i = 0; i < bytes; i++)
            size = size << 8 | at[2 + i];
        head += bytes;
    }
    if (client->input.length < head + size)
        return false;
    ret_frame->first = at[0];
    ret_frame->size = size;
    ret_frame->data = memory_strndup("", 0);
    ret_frame->data = memory_realloc(ret_frame->data, size + 1);
    memcpy(ret_frame->data, client->input.data + head, size);
    ret_frame->data[size] = '\0';
    buffer_consume(&client->input, head + size);
    return true;
}

static struct frame receive_frame(struct client *client)
{
    struct frame frame;

    while (!parse_frame(client, &frame)) {
        if (receive_some(client->fd, &client->input) == 0)
            fail_msg("the end came instead of a frame");
    }
    return frame;
}

static void expect_message(struct client *client, const char *text)
{
    struct frame frame = receive_frame(client);

    assert_int_equal(frame.first, FIN | TEXT);
    assert_string_equal(frame.data, text);
    free(frame.data);
}

static void expect_close(struct client *client, int code)
{
    struct frame frame = receive_frame(client);

    assert_int_equal(frame.first, FIN | CLOSE);
    assert_true(frame.size >= 2);
    assert_int_equal((unsigned char)frame.data[0] << 8 | (unsigned char)frame.data[1], code);
    free(frame.data);
}

static void expect_end(struct client *client)
{
    while (receive_some(client->fd, &client->input) > 0)
        continue;
}

/* ---- handshakes ---------------------------------------------------------------------------------------------------- */

static void an_upgrade_is_answered_with_the_accept_key_and_the_challenge(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_tcp(fixture->port);
    struct buffer answer;

    buffer_init(&answer, BUFFER_UNLIMITED);
    send_text(fd, UPGRADE "Sec-WebSocket-Extensions: x-other, permessage-deflate; client_max_window_bits\r\n\r\n");
    receive_until(fd, &answer, "\r\n\r\n");
    assert_string_equal(answer.data,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                        "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"
                        "X-Claudemesh-Challenge: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\r\n\r\n");
    buffer_release(&answer);
    assert_int_equal(close(fd), 0);
}

static void what_is_no_valid_upgrade_is_refused(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *request, *status;
    } samples[] = {
        { "GET /ws HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.1 426 " },
        { "GET /ws HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\n\r\n", "HTTP/1.1 426 " },
        { "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: " KEY
          "\r\n\r\n",
          "HTTP/1.1 426 " },
        { "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Key: " KEY "\r\n\r\n", "HTTP/1.1 426 " },
        { "POST /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY
          "\r\n\r\n",
          "HTTP/1.1 400 " },
        { "GET /ws HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY
          "\r\n\r\n",
          "HTTP/1.1 400 " },
        { "GET /ws HTTP/1.1\r\nContent-Length: 1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: "
          "13\r\nSec-WebSocket-Key: " KEY "\r\n\r\nx",
          "HTTP/1.1 400 " },
        { "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY "\r\n\r\n",
          "HTTP/1.1 400 " },
        { "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n\r\n", "HTTP/1.1 400 " },
        { "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
          "c2hvcnQ=\r\n\r\n",
          "HTTP/1.1 400 " },
    };

    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        const int fd = connect_tcp(fixture->port);
        struct buffer answer;
        buffer_init(&answer, BUFFER_UNLIMITED);
        send_text(fd, samples[i].request);
        receive_until_end(fd, &answer);
        assert_begins(answer.data, samples[i].status);
        if (strstr(samples[i].status, "426") != NULL)
            assert_contains(answer.data, "\r\nSec-WebSocket-Version: 13\r\n");
        buffer_release(&answer);
        assert_int_equal(close(fd), 0);
    }
    assert_int_equal(counter_value(&fixture->opened), 0);
}

static void extensions_are_accepted_only_as_they_can_be_kept(void **state)
{
    char answer[WEBSOCKET_EXTENSION_SIZE];
    bool deflate = true;

    (void)state;
    assert_true(websocket_answer_offer("permessage-deflate", answer));
    assert_true(websocket_answer_offer("PerMessage-Deflate ; server_max_window_bits = \"10\"", answer));
    assert_string_equal(answer, "permessage-deflate; client_no_context_takeover; server_no_context_takeover; server_max_window_bits=10");
    assert_true(websocket_answer_offer("permessage-deflate; unknown, permessage-deflate; client_max_window_bits=15", answer));
    assert_false(websocket_answer_offer(NULL, answer));
    assert_false(websocket_answer_offer("", answer));
    assert_false(websocket_answer_offer("x-webkit-deflate-frame", answer));
    assert_false(websocket_answer_offer("permessage-deflate; unknown=1", answer));
    assert_false(websocket_answer_offer("permessage-deflate; server_max_window_bits=7", answer));
    assert_false(websocket_answer_offer("permessage-deflate; server_max_window_bits", answer));
    assert_false(websocket_answer_offer("permessage-deflate; client_no_context_takeover=1", answer));
    assert_false(websocket_answer_offer("permessage-deflate; client_no_context_takeover; client_no_context_takeover", answer));
    assert_false(websocket_answer_offer("permessage-deflate;", answer));
    assert_false(websocket_answer_offer("permessage-deflate x", answer));
    assert_false(websocket_answer_offer(",,;=\"", answer));

    assert_int_equal(websocket_check_answer(NULL, &deflate), 0);
    assert_false(deflate);
    assert_int_equal(websocket_check_answer("permessage-deflate; server_no_context_takeover", &deflate), 0);
    assert_true(deflate);
    assert_int_equal(websocket_check_answer(
                         "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9", &deflate),
                     0);
    assert_int_equal(websocket_check_answer("permessage-deflate", &deflate), -1);
    assert_int_equal(websocket_check_answer("permessage-deflate; server_no_context_takeover; client_max_window_bits=9", &deflate), -1);
    assert_int_equal(
        websocket_check_answer("permessage-deflate; server_no_context_takeover, permessage-deflate; server_no_context_takeover", &deflate),
        -1);
    assert_int_equal(websocket_check_answer("x-other", &deflate), -1);
    assert_int_equal(websocket_check_answer("", &deflate), -1);
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static void a_text_sent_together_with_the_handshake_is_not_lost(void **state)
{
    struct fixture *fixture = *state;
    struct client client = { .fd = connect_tcp(fixture->port) };
    static const char frame[] = "\x81\x82\x00\x00\x00\x00hi";

    buffer_init(&client.input, BUFFER_UNLIMITED);
    send_bytes(client.fd, UPGRADE "\r\n\x81\x82\x00\x00\x00\x00hi", sizeof(UPGRADE "\r\n") - 1 + sizeof(frame) - 1);
    receive_until(client.fd, &client.input, "\r\n\r\n");
    buffer_consume(&client.input, (size_t)(strstr(client.input.data, "\r\n\r\n") + 4 - client.input.data));
    expect_message(&client, "hi");
    client_close(&client);
}

static void texts_of_every_length_form_come_back(void **state)
{
    struct fixture *fixture = *state;
    static const size_t sizes[] = { 0, 1, 125, 126, 4089, 4096, 5000, 65535, 65536, LIMIT_FRAME };
    struct client client = client_open(fixture, "");

    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        char *text = memory_alloc(sizes[i] + 1);
        struct frame frame;
        for (size_t at = 0; at < sizes[i]; at++)
            text[at] = (char)('a' + at % 26);
        text[sizes[i]] = '\0';
        send_frame(&client, FIN | TEXT, text, sizes[i]);
        frame = receive_frame(&client);
        assert_int_equal(frame.first, FIN | TEXT);
        assert_int_equal(frame.size, sizes[i]);
        assert_memory_equal(frame.data, text, sizes[i]);
        free(frame.data);
        free(text);
    }
    client_close(&client);
}

static void a_message_in_fragments_is_joined_and_a_ping_between_them_answered(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");
    struct frame pong;

    send_frame(&client, TEXT, "frag", 4);
    send_frame(&client, FIN | PING, "are you there", 13);
    send_frame(&client, CONTINUATION, "", 0);
    send_frame(&client, CONTINUATION, "men", 3);
    send_frame(&client, FIN | PONG, "unasked", 7);
    send_frame(&client, FIN | CONTINUATION, "ts", 2);
    pong = receive_frame(&client);
    assert_int_equal(pong.first, FIN | PONG);
    assert_string_equal(pong.data, "are you there");
    free(pong.data);
    expect_message(&client, "fragments");
    client_close(&client);
}

static void frames_arriving_byte_by_byte_are_understood(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");
    static const char frame[] = "\x81\xfe\x00\x80\x01\x02\x03\x04";

    for (size_t i = 0; i < sizeof(frame) - 1; i++)
        send_bytes(client.fd, frame + i, 1);
    for (size_t i = 0; i < 128; i++) {
        const char byte = (char)('x' ^ (char)(i % 4 + 1));
        send_bytes(client.fd, &byte, 1);
    }
    free(receive_frame(&client).data);
    assert_int_equal(fixture->message_size, 128);
    client_close(&client);
}

static void many_fragments_are_bounded_by_their_sum_alone(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");
    struct buffer frames;
    size_t before, after;

    /* 200,000 fragments of one byte. */
    buffer_init(&frames, BUFFER_UNLIMITED);
    assert_int_equal(buffer_append(&frames, "\x01\x81\0\0\0\0a", 7), 0);
    for (int i = 1; i < 200000; i++)
        assert_int_equal(buffer_append(&frames, "\x00\x81\0\0\0\0a", 7), 0);
    before = mallinfo2().uordblks;
    send_bytes(client.fd, frames.data, frames.length);
    send_frame(&client, FIN | PING, "", 0);
    free(receive_frame(&client).data);
    after = mallinfo2().uordblks;
    assert_true(after < before + 1024 * 1024);
    send_frame(&client, FIN | CONTINUATION, "", 0);
    free(receive_frame(&client).data);
    assert_int_equal(fixture->message_size, 200000);
    buffer_release(&frames);
    client_close(&client);
}

/* ---- violations ---------------------------------------------------------------------------------------------------- */

static void violations_close_with_their_code(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        int first;
        const char *data;
        size_t size;
        uint64_t length;
        bool unmasked;
        int code;
    } samples[] = {
        { FIN | TEXT, "a", 1, 1, true, 1002 },
        { FIN | RSV1 | TEXT, "a", 1, 1, false, 1002 },
        { FIN | 0x20 | TEXT, "a", 1, 1, false, 1002 },
        { FIN | 0x10 | TEXT, "a", 1, 1, false, 1002 },
        { FIN | 3, "a", 1, 1, false, 1002 },
        { FIN | 11, "a", 1, 1, false, 1002 },
        { FIN | CONTINUATION, "a", 1, 1, false, 1002 },
        { CONTINUATION, "a", 1, 1, false, 1002 },
        { FIN | BINARY, "a", 1, 1, false, 1003 },
        { BINARY, "a", 1, 1, false, 1003 },
        { PING, "a", 1, 1, false, 1002 },
        { FIN | PING, "", 0, 126, false, 1002 },
        { FIN | RSV1 | PING, "a", 1, 1, false, 1002 },
        { FIN | TEXT, "\xff", 1, 1, false, 1007 },
        { FIN | TEXT, "\xed\xa0\x80", 3, 3, false, 1007 },
        { FIN | TEXT, "a\xc3", 2, 2, false, 1007 },
        { FIN | TEXT, "a", 1, LIMIT_FRAME + 1, false, 1009 },
        { FIN | TEXT, "", 0, UINT64_MAX, false, 1002 },
        { FIN | TEXT, "a", 1, INT64_MAX, false, 1009 },
        { FIN | CLOSE, "a", 1, 1, false, 1002 },
        { FIN | CLOSE, "\x03\xe7", 2, 2, false, 1002 },
        { FIN | CLOSE, "\x03\xed", 2, 2, false, 1002 },
        { FIN | CLOSE, "\x13\x88", 2, 2, false, 1002 },
        { FIN | CLOSE, "\x03\xe8\xff", 3, 3, false, 1007 },
    };

    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        struct client client = client_open(fixture, "");
        send_frame_saying(&client, samples[i].first, samples[i].data, samples[i].size, samples[i].length, !samples[i].unmasked);
        expect_close(&client, samples[i].code);
        expect_end(&client);
        client_close(&client);
        counter_wait(&fixture->closed, (int)i + 1);
        assert_int_equal(fixture->close_code, samples[i].code);
    }
    assert_int_equal(counter_value(&fixture->messages), 0);
}

static void a_message_inside_another_is_a_violation(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    send_frame(&client, TEXT, "a", 1);
    send_frame(&client, FIN | TEXT, "b", 1);
    expect_close(&client, 1002);
    client_close(&client);
}

static void fragments_that_pass_the_maximum_together_close_with_1009_though_the_peer_sends_on(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");
    char *half = memory_alloc(LIMIT_FRAME / 2 + 1);

    memset(half, 'h', LIMIT_FRAME / 2 + 1);
    send_frame(&client, TEXT, half, LIMIT_FRAME / 2);
    send_frame(&client, CONTINUATION, half, LIMIT_FRAME / 2 + 1);
    send_frame(&client, FIN | CONTINUATION, half, LIMIT_FRAME / 2);
    expect_close(&client, 1009);
    expect_end(&client);
    free(half);
    client_close(&client);
}

static void a_length_in_a_longer_form_than_needed_is_a_violation(void **state)
{
    struct fixture *fixture = *state;
    static const char *const frames[] = { "\x81\xfe\x00\x01", "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x01" };
    static const size_t sizes[] = { 4, 10 };

    for (size_t i = 0; i < 2; i++) {
        struct client client = client_open(fixture, "");
        send_bytes(client.fd, frames[i], sizes[i]);
        expect_close(&client, 1002);
        client_close(&client);
    }
}

/* ---- compression --------------------------------------------------------------------------------------------------- */

/* As permessage-deflate wants it: raw, flushed, without the last four bytes. Heap. */
static unsigned char *deflate_message(const void *data, size_t size, size_t *ret_size)
{
    z_stream stream = { 0 };
    const size_t room = size + 1000;
    unsigned char *packed = memory_alloc(room);
    Bytef *copy = memory_dup(data, size);

    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = copy;
    stream.avail_in = (uInt)size;
    stream.next_out = packed;
    stream.avail_out = (uInt)room;
    assert_int_equal(deflate(&stream, Z_SYNC_FLUSH), Z_OK);
    *ret_size = room - stream.avail_out - 4;
    assert_int_equal(deflateEnd(&stream), Z_DATA_ERROR); /* not ended, as agreed */
    free(copy);
    return packed;
}

#define DEFLATE "Sec-WebSocket-Extensions: permessage-deflate\r\n"

static void a_compressed_message_is_inflated_and_answered_plain(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, DEFLATE);
    static const char text[] = "hello hello hello hello hello hello hello hello";
    size_t size;
    unsigned char *packed = deflate_message(text, sizeof(text) - 1, &size);

    for (int i = 0; i < 3; i++) {
        send_frame(&client, FIN | RSV1 | TEXT, packed, size);
        expect_message(&client, text);
    }
    send_frame(&client, RSV1 | TEXT, packed, 3);
    send_frame(&client, FIN | CONTINUATION, packed + 3, size - 3);
    expect_message(&client, text);
    send_message(&client, "plain");
    expect_message(&client, "plain");
    free(packed);
    client_close(&client);
}

static void a_message_that_inflates_to_the_maximum_passes_and_one_more_byte_does_not(void **state)
{
    struct fixture *fixture = *state;
    char *zeros = memory_alloc(LIMIT_FRAME + 1);

    memset(zeros, 'z', LIMIT_FRAME + 1);
    for (size_t more = 0; more <= 1; more++) {
        struct client client = client_open(fixture, DEFLATE);
        size_t size;
        unsigned char *packed = deflate_message(zeros, LIMIT_FRAME + more, &size);
        send_frame(&client, FIN | RSV1 | TEXT, packed, size);
        if (more == 0) {
            struct frame frame = receive_frame(&client);
            assert_int_equal(frame.size, LIMIT_FRAME);
            free(frame.data);
        } else {
            expect_close(&client, 1009);
        }
        free(packed);
        client_close(&client);
    }
    free(zeros);
}

static void what_does_not_inflate_closes_with_1007(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, DEFLATE);

    send_frame(&client, FIN | RSV1 | TEXT, "\xff\xff\xff", 3);
    expect_close(&client, 1007);
    client_close(&client);
}

/* ---- closing ------------------------------------------------------------------------------------------------------- */

static void a_close_of_the_peer_is_echoed_and_reported(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    send_frame(&client, FIN | CLOSE, "\x0f\xa2goodbye", 9);
    expect_close(&client, 4002);
    expect_end(&client);
    client_close(&client);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->close_code, 4002);
    assert_string_equal(fixture->close_reason, "goodbye");
}

static void an_empty_close_of_the_peer_is_1005(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");
    struct frame frame;

    send_frame(&client, FIN | CLOSE, "", 0);
    frame = receive_frame(&client);
    assert_int_equal(frame.first, FIN | CLOSE);
    assert_int_equal(frame.size, 0);
    free(frame.data);
    client_close(&client);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->close_code, 1005);
}

static void our_close_waits_for_the_peers_and_reports_our_code(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");
    struct frame frame;

    send_message(&client, "close");
    frame = receive_frame(&client);
    assert_int_equal(frame.first, FIN | CLOSE);
    assert_int_equal(frame.size, 9);
    assert_memory_equal(frame.data, "\x0f\xa1told to", 9);
    free(frame.data);
    send_message(&client, "ignored");
    assert_int_equal(counter_value(&fixture->closed), 0);
    send_frame(&client, FIN | CLOSE, "\x0f\xa1", 2);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->close_code, 4001);
    assert_string_equal(fixture->close_reason, "told to");
    assert_int_equal(counter_value(&fixture->messages), 1);
    expect_end(&client);
    client_close(&client);
}

static void our_close_does_not_wait_for_ever(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    send_message(&client, "close");
    expect_close(&client, 4001);
    expect_end(&client);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->close_code, 4001);
    client_close(&client);
}

static void a_connection_that_ends_without_a_close_is_1006(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    client_close(&client);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->close_code, 1006);
    assert_true(fixture->close_reason[0] != '\0');
}

static void a_socket_aborted_in_its_own_callback_is_gone_without_a_word(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    /* All in one piece: what follows the abort must not be looked at. */
    send_bytes(client.fd, "\x81\x85\0\0\0\0abort\x81\x84\0\0\0\0more", 11 + 10);
    expect_end(&client);
    assert_int_equal(client.input.length, 0);
    client_close(&client);
    counter_wait(&fixture->messages, 1);
    on_loop(&fixture->loop, ask_connections, fixture);
    assert_int_equal(counter_value(&fixture->messages), 1);
    assert_int_equal(counter_value(&fixture->closed), 0);
}

/* ---- flow ---------------------------------------------------------------------------------------------------------- */

static void what_is_sent_in_one_turn_arrives_in_order_and_drains_once(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    send_message(&client, "three");
    expect_message(&client, "one");
    expect_message(&client, "two");
    expect_message(&client, "three");
    counter_wait(&fixture->drained, 1);
    send_message(&client, "x");
    expect_message(&client, "x");
    counter_wait(&fixture->drained, 2);
    client_close(&client);
}

static void a_peer_that_reads_too_slowly_is_dropped(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    send_message(&client, "flood");
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->close_code, 1006);
    assert_int_equal(fixture->send_result, -1);
    assert_true(fixture->backlog <= LIMIT_WS_BACKLOG && fixture->backlog > LIMIT_WS_BACKLOG - 512 * 1024);
    client_close(&client);
}

static void a_paused_socket_reads_nothing_and_loses_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct client client = client_open(fixture, "");

    /* In one piece, so that wslay has the second already when the first pauses. */
    send_bytes(client.fd, "\x81\x85\0\0\0\0pause\x81\x81\0\0\0\0b", 11 + 7);
    send_message(&client, "c");
    counter_wait(&fixture->messages, 1);
    on_loop(&fixture->loop, ask_rtt, fixture); /* a turn goes by */
    on_loop(&fixture->loop, ask_rtt, fixture);
    assert_int_equal(counter_value(&fixture->messages), 1);
    on_loop(&fixture->loop, resume, fixture);
    expect_message(&client, "b");
    expect_message(&client, "c");
    client_close(&client);
}

static void pings_are_sent_and_measured(void **state)
{
    struct fixture *fixture = *state;
    struct client client;
    struct frame ping;

    fixture->ping_ms = 20;
    fixture->silence_ms = 60 * 1000;
    client = client_open(fixture, "");
    on_loop(&fixture->loop, ask_rtt, fixture);
    assert_int_equal(fixture->rtt_ms, -1);
    for (int i = 0; i < 3; i++) {
        ping = receive_frame(&client);
        assert_int_equal(ping.first, FIN | PING);
        send_frame(&client, FIN | PONG, ping.data, ping.size);
        free(ping.data);
    }
    on_loop(&fixture->loop, ask_rtt, fixture);
    assert_true(fixture->rtt_ms >= 0 && fixture->rtt_ms < WAIT_MS);
    client_close(&client);
}

static void a_silent_peer_is_dropped(void **state)
{
    struct fixture *fixture = *state;
    struct client client;

    fixture->ping_ms = 40;
    fixture->silence_ms = 100;
    client = client_open(fixture, "");
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->close_code, 1006);
    assert_begins(fixture->close_reason, "No traffic for");
    expect_end(&client);
    client_close(&client);
}

/* ---- size ---------------------------------------------------------------------------------------------------------- */

static void an_idle_connection_takes_far_less_than_16_kib(void **state)
{
    enum { CONNECTIONS = 200 };
    struct fixture *fixture = *state;
    struct client clients[CONNECTIONS];
    size_t before, after;

    clients[0] = client_open(fixture, "");
    before = mallinfo2().uordblks;
    for (size_t i = 1; i < CONNECTIONS; i++) {
        clients[i] = client_open(fixture, DEFLATE);
        send_message(&clients[i], "hello");
        expect_message(&clients[i], "hello");
        buffer_release(&clients[i].input);
    }
    after = mallinfo2().uordblks;
    print_message("an idle WebSocket takes %zu bytes\n", (after - before) / (CONNECTIONS - 1));
    assert_true((after - before) / (CONNECTIONS - 1) < 8 * 1024);
    for (size_t i = 0; i < CONNECTIONS; i++)
        client_close(&clients[i]);
    counter_wait(&fixture->closed, CONNECTIONS);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_upgrade_is_answered_with_the_accept_key_and_the_challenge),
        TEST(what_is_no_valid_upgrade_is_refused),
        TEST(extensions_are_accepted_only_as_they_can_be_kept),
        TEST(a_text_sent_together_with_the_handshake_is_not_lost),
        TEST(texts_of_every_length_form_come_back),
        TEST(a_message_in_fragments_is_joined_and_a_ping_between_them_answered),
        TEST(frames_arriving_byte_by_byte_are_understood),
        TEST(many_fragments_are_bounded_by_their_sum_alone),
        TEST(violations_close_with_their_code),
        TEST(a_message_inside_another_is_a_violation),
        TEST(fragments_that_pass_the_maximum_together_close_with_1009_though_the_peer_sends_on),
        TEST(a_length_in_a_longer_form_than_needed_is_a_violation),
        TEST(a_compressed_message_is_inflated_and_answered_plain),
        TEST(a_message_that_inflates_to_the_maximum_passes_and_one_more_byte_does_not),
        TEST(what_does_not_inflate_closes_with_1007),
        TEST(a_close_of_the_peer_is_echoed_and_reported),
        TEST(an_empty_close_of_the_peer_is_1005),
        TEST(our_close_waits_for_the_peers_and_reports_our_code),
        TEST(our_close_does_not_wait_for_ever),
        TEST(a_connection_that_ends_without_a_close_is_1006),
        TEST(a_socket_aborted_in_its_own_callback_is_gone_without_a_word),
        TEST(what_is_sent_in_one_turn_arrives_in_order_and_drains_once),
        TEST(a_peer_that_reads_too_slowly_is_dropped),
        TEST(a_paused_socket_reads_nothing_and_loses_nothing),
        TEST(pings_are_sent_and_measured),
        TEST(a_silent_peer_is_dropped),
        TEST(an_idle_connection_takes_far_less_than_16_kib),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
