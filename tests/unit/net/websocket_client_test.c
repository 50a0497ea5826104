/* The client's end of the WebSocket: against our server, plain and over TLS, and against servers that answer nonsense. Also URLs. */
#include "fixture.h"

#include "certificate.h"
#include "net/http_head.h"
#include "net/tls.h"
#include "net/websocket.h"
#include "net/websocket_handshake.h"

static const char challenge[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

struct fixture {
    struct loop_thread loop;
    struct http_server *server;
    uint16_t port, tls_port;
    struct websocket *accepted;
    struct websocket *socket; /* the client's; NULL once closed */
    struct counter opened, messages, closed;
    const char *url;
    const char *ca_file;
    const char *greeting; /* sent when open */
    int64_t timeout_ms;
    bool allow_insecure, abort_when_open, no_challenge;
    int connect_result;
    char challenge[128];
    char message[128];
    char reason[512];
    char peer_address[64];
    int code;
    struct error error;
    char certificate_file[64], key_file[64];
};

/* ---- the server: echoes -------------------------------------------------------------------------------------------- */

static void on_server_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    (void)argument;
    if (size == 5 && memcmp(text, "close", 5) == 0)
        websocket_close(socket, 4003, "replaced");
    else
        assert_int_equal(websocket_send(socket, text, size), 0);
}

static void on_server_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    struct fixture *fixture = argument;

    (void)code;
    (void)reason;
    if (fixture->accepted == socket)
        fixture->accepted = NULL;
}

static void on_head(void *argument, struct http_request *request)
{
    (void)argument;
    (void)request;
}

static void on_request(void *argument, struct http_request *request)
{
    static const struct websocket_callbacks callbacks = { .message = on_server_message, .closed = on_server_closed };
    struct fixture *fixture = argument;

    if (string_equal(http_path(request), "/ws"))
        fixture->accepted = websocket_accept(fixture->loop.loop, request, fixture->no_challenge ? NULL : challenge, &callbacks, fixture);
    else
        http_respond_error(request, 503, "busy", "Later.");
}

static void open_server(void *argument)
{
    struct fixture *fixture = argument;
    const struct http_callbacks http = { fixture, on_head, on_request, on_head, NULL };
    SSL_CTX *tls = NULL;
    struct error error;

    assert_int_equal(tls_server_context_new(fixture->certificate_file, fixture->key_file, &tls, &error), 0);
    assert_int_equal(http_server_new(fixture->loop.loop, &http, 1000, &fixture->server, &error), 0);
    assert_int_equal(http_server_listen_tcp(fixture->server, "127.0.0.1", 0, NULL, &fixture->port, &error), 0);
    assert_int_equal(http_server_listen_tcp(fixture->server, "127.0.0.1", 0, tls, &fixture->tls_port, &error), 0);
    SSL_CTX_free(tls);
}

static void close_server(void *argument)
{
    struct fixture *fixture = argument;

    websocket_abort(fixture->socket);
    websocket_abort(fixture->accepted);
    http_server_free(fixture->server);
}

/* ---- the client ------------------------------------------------------------------------------------------------------ */

static void on_open(void *argument, struct websocket *socket, const char *seen)
{
    struct fixture *fixture = argument;

    assert_true(snprintf(fixture->challenge, sizeof(fixture->challenge), "%s", seen == NULL ? "none" : seen) > 0);
    assert_true(snprintf(fixture->peer_address, sizeof(fixture->peer_address), "%s", websocket_peer_address(socket)) > 0);
    if (fixture->abort_when_open) {
        websocket_abort(socket);
        fixture->socket = NULL;
    } else if (fixture->greeting != NULL) {
        assert_int_equal(websocket_send(socket, fixture->greeting, strlen(fixture->greeting)), 0);
    }
    counter_raise(&fixture->opened);
}

static void on_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    struct fixture *fixture = argument;

    (void)socket;
    assert_true(snprintf(fixture->message, sizeof(fixture->message), "%.*s", (int)size, text) >= 0);
    counter_raise(&fixture->messages);
}

static void on_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    struct fixture *fixture = argument;

    (void)socket;
    fixture->socket = NULL;
    fixture->code = code;
    assert_true(snprintf(fixture->reason, sizeof(fixture->reason), "%s", reason) >= 0);
    counter_raise(&fixture->closed);
}

static void connect_client(void *argument)
{
    static const struct websocket_callbacks callbacks = { .open = on_open, .message = on_message, .closed = on_closed };
    struct fixture *fixture = argument;
    const struct websocket_connect connect = { fixture->url, fixture->ca_file, fixture->allow_insecure, fixture->timeout_ms };

    fixture->connect_result = websocket_connect(fixture->loop.loop, &connect, &callbacks, fixture, &fixture->socket, &fixture->error);
}

static void abort_client(void *argument)
{
    struct fixture *fixture = argument;

    websocket_abort(fixture->socket);
    fixture->socket = NULL;
}

static void close_client(void *argument)
{
    struct fixture *fixture = argument;

    websocket_close(fixture->socket, 1001, "leaving");
}

static int setup(void **state)
{
    static const struct counter zero = COUNTER_INITIALIZER;
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));

    fixture->opened = fixture->messages = fixture->closed = zero;
    fixture->timeout_ms = WAIT_MS;
    memcpy(fixture->certificate_file, "/tmp/ws_certificate_XXXXXX", 27);
    memcpy(fixture->key_file, "/tmp/ws_key_XXXXXX", 19);
    assert_int_equal(close(mkstemp(fixture->certificate_file)), 0);
    assert_int_equal(close(mkstemp(fixture->key_file)), 0);
    certificate_write(fixture->certificate_file, fixture->key_file, "DNS:localhost");
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
    assert_int_equal(unlink(fixture->certificate_file), 0);
    assert_int_equal(unlink(fixture->key_file), 0);
    free(fixture);
    return 0;
}

static void connect_to(struct fixture *fixture, const char *format, uint16_t port)
{
    static char url[256];

    assert_true(snprintf(url, sizeof(url), "%s:%u/ws", format, port) > 0);
    fixture->url = url;
    on_loop(&fixture->loop, connect_client, fixture);
    assert_int_equal(fixture->connect_result, 0);
}

/* ---- against our server ------------------------------------------------------------------------------------------------ */

static void a_message_travels_both_ways_and_the_challenge_is_seen(void **state)
{
    struct fixture *fixture = *state;

    fixture->greeting = "h\xc3\xa9llo";
    connect_to(fixture, "ws://127.0.0.1", fixture->port);
    counter_wait(&fixture->messages, 1);
    assert_string_equal(fixture->message, "h\xc3\xa9llo");
    assert_string_equal(fixture->challenge, challenge);
    assert_string_equal(fixture->peer_address, "127.0.0.1");
}

static void localhost_needs_no_resolver_and_a_missing_challenge_is_none(void **state)
{
    struct fixture *fixture = *state;

    fixture->no_challenge = true;
    connect_to(fixture, "ws://localhost", fixture->port);
    counter_wait(&fixture->opened, 1);
    assert_string_equal(fixture->challenge, "none");
}

static void a_close_of_the_server_carries_its_code_and_reason(void **state)
{
    struct fixture *fixture = *state;

    fixture->greeting = "close";
    connect_to(fixture, "ws://127.0.0.1", fixture->port);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->code, 4003);
    assert_string_equal(fixture->reason, "replaced");
}

static void a_close_of_ours_is_answered(void **state)
{
    struct fixture *fixture = *state;

    connect_to(fixture, "ws://127.0.0.1", fixture->port);
    counter_wait(&fixture->opened, 1);
    on_loop(&fixture->loop, close_client, fixture);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->code, 1001);
    assert_string_equal(fixture->reason, "leaving");
}

static void a_client_may_be_aborted_at_any_moment(void **state)
{
    struct fixture *fixture = *state;

    connect_to(fixture, "ws://127.0.0.1", fixture->port);
    on_loop(&fixture->loop, abort_client, fixture);
    connect_to(fixture, "ws://localhost", fixture->port);
    on_loop(&fixture->loop, abort_client, fixture);
    fixture->abort_when_open = true;
    connect_to(fixture, "ws://127.0.0.1", fixture->port);
    counter_wait(&fixture->opened, 1);
    on_loop(&fixture->loop, abort_client, fixture);
    assert_int_equal(counter_value(&fixture->closed), 0);
}

static void an_answer_that_is_not_101_is_reported_with_its_status(void **state)
{
    struct fixture *fixture = *state;
    char url[64];

    assert_true(snprintf(url, sizeof(url), "ws://127.0.0.1:%u/other", fixture->port) > 0);
    fixture->url = url;
    on_loop(&fixture->loop, connect_client, fixture);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->code, 1006);
    assert_contains(fixture->reason, "503");
}

/* ---- TLS -------------------------------------------------------------------------------------------------------------- */

static void tls_works_with_the_certificate_that_was_named(void **state)
{
    struct fixture *fixture = *state;

    fixture->ca_file = fixture->certificate_file;
    fixture->greeting = "secret";
    connect_to(fixture, "wss://localhost", fixture->tls_port);
    counter_wait(&fixture->messages, 1);
    assert_string_equal(fixture->message, "secret");
}

static void a_certificate_that_nobody_vouches_for_is_refused(void **state)
{
    struct fixture *fixture = *state;

    connect_to(fixture, "wss://localhost", fixture->tls_port);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->code, 1006);
    assert_contains(fixture->reason, "certificate");
    assert_int_equal(counter_value(&fixture->opened), 0);
}

static void a_certificate_for_another_name_is_refused(void **state)
{
    struct fixture *fixture = *state;

    fixture->ca_file = fixture->certificate_file;
    connect_to(fixture, "wss://127.0.0.1", fixture->tls_port);
    counter_wait(&fixture->closed, 1);
    assert_contains(fixture->reason, "IP address mismatch");
    assert_int_equal(counter_value(&fixture->opened), 0);
}

static void a_server_without_tls_is_an_error_not_a_fallback(void **state)
{
    struct fixture *fixture = *state;

    fixture->ca_file = fixture->certificate_file;
    connect_to(fixture, "wss://localhost", fixture->port);
    counter_wait(&fixture->closed, 1);
    assert_contains(fixture->reason, "TLS");
}

static void a_ca_file_that_cannot_be_read_fails_at_once(void **state)
{
    struct fixture *fixture = *state;

    fixture->ca_file = "/nonexistent/ca.pem";
    fixture->url = "wss://localhost/ws";
    on_loop(&fixture->loop, connect_client, fixture);
    assert_int_equal(fixture->connect_result, -ERROR_INVALID);
}

/* ---- servers that answer nonsense ------------------------------------------------------------------------------------------ */

struct listener {
    int fd;
    uint16_t port;
};

static struct listener listen_raw(void)
{
    struct listener listener = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(listener.fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener.fd, 8), 0);
    assert_int_equal(getsockname(listener.fd, (struct sockaddr *)&address, &size), 0);
    listener.port = ntohs(address.sin_port);
    return listener;
}

/* Accepts, reads the request, answers with `answer`, in which %ACCEPT% becomes the right value. */
static int answer_raw(const struct listener *listener, const char *answer)
{
    const int fd = accept(listener->fd, NULL, NULL);
    struct buffer request, text;
    char key[WEBSOCKET_KEY_SIZE], accept_value[WEBSOCKET_ACCEPT_SIZE];
    const char *at, *hole;

    assert_true(fd >= 0);
    buffer_init(&request, BUFFER_UNLIMITED);
    buffer_init(&text, BUFFER_UNLIMITED);
    receive_until(fd, &request, "\r\n\r\n");
    assert_contains(request.data,
                    "\r\nSec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n");
    at = strstr(request.data, "Sec-WebSocket-Key: ");
    assert_non_null(at);
    memcpy(key, at + 19, WEBSOCKET_KEY_SIZE - 1);
    key[WEBSOCKET_KEY_SIZE - 1] = '\0';
    assert_true(websocket_key_is_valid(key));
    websocket_accept_value(key, accept_value);
    hole = strstr(answer, "%ACCEPT%");
    if (hole != NULL) {
        assert_int_equal(buffer_append(&text, answer, (size_t)(hole - answer)), 0);
        assert_int_equal(buffer_append_text(&text, accept_value), 0);
        assert_int_equal(buffer_append_text(&text, hole + 8), 0);
    } else {
        assert_int_equal(buffer_append_text(&text, answer), 0);
    }
    send_bytes(fd, text.data, text.length);
    buffer_release(&request);
    buffer_release(&text);
    return fd;
}

#define SWITCH "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %ACCEPT%\r\n"

static void answers_that_are_not_to_this_handshake_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const char *const answers[] = {
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %ACCEPT%\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %ACCEPT%\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %ACCEPT%\r\n\r\n",
        SWITCH "Sec-WebSocket-Protocol: chat\r\n\r\n",
        SWITCH "Sec-WebSocket-Extensions: x-other\r\n\r\n",
        SWITCH "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.1/\r\n\r\n",
        "not HTTP\r\n\r\n",
        "\xff\xff\xff\xff",
        "HTTP/1.1 101 Switching\n\n",
    };
    const struct listener listener = listen_raw();

    for (size_t i = 0; i < ARRAY_LENGTH(answers); i++) {
        int fd;
        connect_to(fixture, "ws://127.0.0.1", listener.port);
        fd = answer_raw(&listener, answers[i]);
        counter_wait(&fixture->closed, (int)i + 1);
        assert_int_equal(fixture->code, 1006);
        assert_true(fixture->reason[0] != '\0');
        assert_int_equal(close(fd), 0);
    }
    assert_int_equal(counter_value(&fixture->opened), 0);
    assert_int_equal(close(listener.fd), 0);
}

static void a_malformed_challenge_counts_as_none(void **state)
{
    struct fixture *fixture = *state;
    const struct listener listener = listen_raw();
    int fd;

    connect_to(fixture, "ws://127.0.0.1", listener.port);
    fd = answer_raw(&listener, SWITCH "X-Claudemesh-Challenge: ABCDEF\r\n\r\n");
    counter_wait(&fixture->opened, 1);
    assert_string_equal(fixture->challenge, "none");
    assert_int_equal(close(fd), 0);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(close(listener.fd), 0);
}

static void frames_that_come_with_the_answer_are_read_and_masked_ones_refused(void **state)
{
    struct fixture *fixture = *state;
    const struct listener listener = listen_raw();
    struct buffer rest;
    int fd;

    buffer_init(&rest, BUFFER_UNLIMITED);
    connect_to(fixture, "ws://127.0.0.1", listener.port);
    fd = answer_raw(&listener, SWITCH "\r\n\x81\x05hello");
    counter_wait(&fixture->messages, 1);
    assert_string_equal(fixture->message, "hello");
    send_bytes(fd, "\x81\x81\x01\x01\x01\x01x", 7);
    while (rest.length < 8)
        assert_true(receive_some(fd, &rest) > 0);
    assert_int_equal((unsigned char)rest.data[0], 0x88);
    assert_int_equal((unsigned char)rest.data[1] & 0x80, 0x80); /* a client masks */
    assert_int_equal(((unsigned char)(rest.data[6] ^ rest.data[2]) << 8 | (unsigned char)(rest.data[7] ^ rest.data[3])), 1002);
    assert_int_equal(close(fd), 0);
    counter_wait(&fixture->closed, 1);
    assert_int_equal(fixture->code, 1002);
    buffer_release(&rest);
    assert_int_equal(close(listener.fd), 0);
}

static void a_server_that_closes_or_hangs_in_the_handshake_is_given_up(void **state)
{
    struct fixture *fixture = *state;
    const struct listener listener = listen_raw();
    int fd;

    connect_to(fixture, "ws://127.0.0.1", listener.port);
    fd = answer_raw(&listener, "HTTP/1.1 101 ");
    assert_int_equal(close(fd), 0);
    counter_wait(&fixture->closed, 1);
    assert_contains(fixture->reason, "closed");

    fixture->timeout_ms = 50;
    connect_to(fixture, "ws://127.0.0.1", listener.port);
    counter_wait(&fixture->closed, 2);
    assert_contains(fixture->reason, "in time");
    connect_to(fixture, "wss://127.0.0.1", listener.port);
    counter_wait(&fixture->closed, 3);
    assert_contains(fixture->reason, "in time");
    assert_int_equal(close(listener.fd), 0);
}

static void a_port_where_nobody_listens_is_reported(void **state)
{
    struct fixture *fixture = *state;
    const struct listener listener = listen_raw();

    assert_int_equal(close(listener.fd), 0);
    connect_to(fixture, "ws://127.0.0.1", listener.port);
    counter_wait(&fixture->closed, 1);
    assert_contains(fixture->reason, "Cannot connect to 127.0.0.1 port");
    assert_contains(fixture->reason, "refused");
    connect_to(fixture, "ws://localhost", listener.port);
    counter_wait(&fixture->closed, 2);
    assert_contains(fixture->reason, "Cannot connect to localhost");
}

/* ---- URLs -------------------------------------------------------------------------------------------------------------- */

static void unencrypted_connections_stay_on_this_host_unless_allowed(void **state)
{
    struct fixture *fixture = *state;

    fixture->url = "ws://broker.example.com/ws";
    on_loop(&fixture->loop, connect_client, fixture);
    assert_int_equal(fixture->connect_result, -ERROR_DENIED);
    fixture->url = "ws://192.0.2.1:1/ws";
    on_loop(&fixture->loop, connect_client, fixture);
    assert_int_equal(fixture->connect_result, -ERROR_DENIED);
    fixture->allow_insecure = true;
    on_loop(&fixture->loop, connect_client, fixture);
    assert_int_equal(fixture->connect_result, 0);
    on_loop(&fixture->loop, abort_client, fixture);
}

static void urls_are_taken_apart(void **state)
{
    static const struct {
        const char *url, *host, *path;
        uint16_t port;
        bool tls;
    } samples[] = {
        { "ws://localhost/ws", "localhost", "/ws", 80, false },
        { "wss://broker.example.com", "broker.example.com", "/", 443, true },
        { "WSS://Broker.example.com:8443/a/b?c=d", "Broker.example.com", "/a/b?c=d", 8443, true },
        { "http://127.0.0.1:7900/", "127.0.0.1", "/", 7900, false },
        { "https://[2001:db8::1]:1/x", "2001:db8::1", "/x", 1, true },
        { "ws://[::1]/", "::1", "/", 80, false },
        { "ws://host?x=1", "host", "/?x=1", 80, false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        struct url_parts parts;
        struct error error;
        assert_int_equal(url_parse(samples[i].url, &parts, &error), 0);
        assert_string_equal(parts.host, samples[i].host);
        assert_string_equal(parts.path, samples[i].path);
        assert_int_equal(parts.port, samples[i].port);
        assert_int_equal(parts.tls, samples[i].tls);
        url_parts_release(&parts);
    }
}

static void urls_that_cannot_be_used_are_refused(void **state)
{
    static const char *const urls[] = {
        "",
        "localhost",
        "ftp://host/",
        "ws:/host",
        "ws://",
        "ws:///ws",
        "ws://:80/",
        "ws://host:",
        "ws://host:0",
        "ws://host:65536",
        "ws://host:80x/",
        "ws://user@host/",
        "ws://user:pw@host/",
        "ws://host/#f",
        "ws://host/a b",
        "ws://ho st/",
        "ws://host/\r\nX: y",
        "ws://[::1",
        "ws://[::1]x",
        "ws://[]/",
        "ws://[host]/",
        "ws://h\xc3\xb6st/",
        "ws://host:-1/",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(urls); i++) {
        struct url_parts parts;
        struct error error;
        if (url_parse(urls[i], &parts, &error) != -ERROR_INVALID)
            fail_msg("not refused: %s", urls[i]);
    }
}

static void loopback_hosts_are_known(void **state)
{
    (void)state;
    assert_true(host_is_loopback("localhost"));
    assert_true(host_is_loopback("LocalHost"));
    assert_true(host_is_loopback("127.0.0.1"));
    assert_true(host_is_loopback("127.8.9.10"));
    assert_true(host_is_loopback("::1"));
    assert_false(host_is_loopback("localhost.example.com"));
    assert_false(host_is_loopback("128.0.0.1"));
    assert_false(host_is_loopback("127.0.0.1.example.com"));
    assert_false(host_is_loopback("::"));
    assert_false(host_is_loopback(""));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_message_travels_both_ways_and_the_challenge_is_seen),
        TEST(localhost_needs_no_resolver_and_a_missing_challenge_is_none),
        TEST(a_close_of_the_server_carries_its_code_and_reason),
        TEST(a_close_of_ours_is_answered),
        TEST(a_client_may_be_aborted_at_any_moment),
        TEST(an_answer_that_is_not_101_is_reported_with_its_status),
        TEST(tls_works_with_the_certificate_that_was_named),
        TEST(a_certificate_that_nobody_vouches_for_is_refused),
        TEST(a_certificate_for_another_name_is_refused),
        TEST(a_server_without_tls_is_an_error_not_a_fallback),
        TEST(a_ca_file_that_cannot_be_read_fails_at_once),
        TEST(answers_that_are_not_to_this_handshake_are_refused),
        TEST(a_malformed_challenge_counts_as_none),
        TEST(frames_that_come_with_the_answer_are_read_and_masked_ones_refused),
        TEST(a_server_that_closes_or_hangs_in_the_handshake_is_given_up),
        TEST(a_port_where_nobody_listens_is_reported),
        TEST(unencrypted_connections_stay_on_this_host_unless_allowed),
        cmocka_unit_test(urls_are_taken_apart),
        cmocka_unit_test(urls_that_cannot_be_used_are_refused),
        cmocka_unit_test(loopback_hosts_are_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
