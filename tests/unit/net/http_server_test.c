/* The HTTP server over real sockets: order, limits, refusals, streams, and what is left when either side goes. */
#include "fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "net/http_server.h"

enum { MAX_BODY = 1024 * 1024, HELD_MAXIMUM = 8 };

struct fixture {
    struct loop_thread loop;
    struct http_server *server;
    char directory[64];
    char path[128];
    uint16_t port;
    bool refuse_connections;
    int64_t head_ms, body_ms, idle_ms;
    struct http_request *held[HELD_MAXIMUM];
    size_t held_count;
    struct counter arrived, gone, drained;
    int gone_status;
    size_t asked_backlog;
    char *stream_bytes; /* what the test has the loop write */
    size_t stream_size;
};

/* ---- the server's callbacks: on the loop ----------------------------------------------------------------------- */

static void on_head(void *argument, struct http_request *request)
{
    (void)argument;
    if (string_has_prefix(http_path(request), "/refused"))
        http_respond_error(request, 403, "forbidden_host", "No \"entry\".");
}

static void echo(struct http_request *request)
{
    struct text body = http_body(request);
    struct buffer answer;

    buffer_init(&answer, BUFFER_UNLIMITED);
    assert_int_equal(buffer_printf(&answer, "%s %s a=%s x=%s ", http_method(request), http_path(request),
                                   http_query(request, "a") == NULL ? "-" : http_query(request, "a"),
                                   http_header(request, "x-test") == NULL ? "-" : http_header(request, "X-Test")),
                     0);
    assert_int_equal(buffer_append(&answer, body.data, body.length), 0);
    http_respond(request, 200, "text/plain", answer.data, answer.length);
    buffer_release(&answer);
}

static void on_stream_drained(void *argument, struct http_request *request)
{
    struct fixture *fixture = argument;

    assert_int_equal(http_stream_backlog(request), 0);
    counter_raise(&fixture->drained);
}

static void on_request(void *argument, struct http_request *request)
{
    struct fixture *fixture = argument;

    if (string_equal(http_path(request), "/later")) {
        assert_true(fixture->held_count < HELD_MAXIMUM);
        fixture->held[fixture->held_count++] = request;
    } else if (string_equal(http_path(request), "/stream")) {
        fixture->held[fixture->held_count++] = request;
        http_stream_start(request, 200, "text/event-stream", on_stream_drained);
        http_stream_write(request, ": connected\n\n", 13);
    } else if (string_equal(http_path(request), "/big")) {
        char *bytes = memory_alloc(9 * 1024 * 1024);
        memset(bytes, 'b', 9 * 1024 * 1024);
        http_respond(request, 200, "text/plain", bytes, 9 * 1024 * 1024);
        free(bytes);
    } else if (string_equal(http_path(request), "/headers")) {
        http_add_header(request, "Retry-After", "3");
        http_add_header(request, "X-Bad", "a\r\nInjected: 1");
        http_respond(request, 429, NULL, "{}", 2);
    } else {
        echo(request);
    }
    counter_raise(&fixture->arrived);
}

static void on_gone(void *argument, struct http_request *request)
{
    struct fixture *fixture = argument;

    fixture->gone_status = http_status_of(request);
    counter_raise(&fixture->gone);
}

static bool on_admit(void *argument, const char *peer_address)
{
    const struct fixture *fixture = argument;

    assert_true(string_equal(peer_address, "unix") || string_equal(peer_address, "127.0.0.1"));
    return !fixture->refuse_connections;
}

/* ---- what a test asks the loop to do --------------------------------------------------------------------------- */

static void open_server(void *argument)
{
    struct fixture *fixture = argument;
    const struct http_callbacks callbacks = { fixture, on_head, on_request, on_gone, on_admit };
    struct error error;

    assert_int_equal(http_server_new(fixture->loop.loop, &callbacks, MAX_BODY, &fixture->server, &error), 0);
    if (fixture->head_ms > 0)
        http_server_set_timeouts(fixture->server, fixture->head_ms, fixture->body_ms, fixture->idle_ms);
    assert_int_equal(http_server_listen_unix(fixture->server, fixture->path, &error), 0);
    assert_int_equal(http_server_listen_tcp(fixture->server, "127.0.0.1", 0, NULL, &fixture->port, &error), 0);
    assert_int_not_equal(fixture->port, 0);
}

static void answer_first_held(void *argument)
{
    struct fixture *fixture = argument;
    struct http_request *request = fixture->held[0];

    fixture->held_count--;
    memmove(&fixture->held[0], &fixture->held[1], fixture->held_count * sizeof(fixture->held[0]));
    echo(request);
}

static void write_to_stream(void *argument)
{
    struct fixture *fixture = argument;

    http_stream_write(fixture->held[0], fixture->stream_bytes, fixture->stream_size);
    fixture->asked_backlog = http_stream_backlog(fixture->held[0]);
}

static void end_stream(void *argument)
{
    struct fixture *fixture = argument;

    http_stream_end(fixture->held[0]);
    fixture->held_count = 0;
}

static void cut_stream(void *argument)
{
    struct fixture *fixture = argument;

    http_stream_cut(fixture->held[0]);
    fixture->held_count = 0;
}

static void stop_accepting(void *argument)
{
    struct fixture *fixture = argument;

    http_server_stop_accepting(fixture->server);
}

static void close_server(void *argument)
{
    struct fixture *fixture = argument;

    http_server_free(fixture->server);
    fixture->server = NULL;
}

static size_t connection_count;
static void count_connections(void *argument)
{
    const struct fixture *fixture = argument;

    connection_count = http_server_connection_count(fixture->server);
}

static size_t busy_count;
static void count_busy(void *argument)
{
    const struct fixture *fixture = argument;

    busy_count = http_server_busy_count(fixture->server);
}

/* ---- setup ------------------------------------------------------------------------------------------------------ */

static struct fixture *begin_with(int64_t head_ms, int64_t body_ms, int64_t idle_ms)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    static const struct counter zero = COUNTER_INITIALIZER;

    fixture->arrived = fixture->gone = fixture->drained = zero;
    fixture->head_ms = head_ms;
    fixture->body_ms = body_ms;
    fixture->idle_ms = idle_ms;
    memcpy(fixture->directory, "/tmp/http_server_XXXXXX", 24);
    assert_non_null(mkdtemp(fixture->directory));
    assert_true(snprintf(fixture->path, sizeof(fixture->path), "%s/test.sock", fixture->directory) > 0);
    loop_thread_start(&fixture->loop);
    on_loop(&fixture->loop, open_server, fixture);
    return fixture;
}

static int setup(void **state)
{
    *state = begin_with(0, 0, 0);
    return 0;
}

static int setup_impatient(void **state)
{
    *state = begin_with(200, 200, 400);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    if (fixture->server != NULL)
        on_loop(&fixture->loop, close_server, fixture);
    loop_thread_stop(&fixture->loop);
    loop_free(fixture->loop.loop);
    assert_int_equal(rmdir(fixture->directory), 0); /* the socket file is gone, too */
    free(fixture);
    return 0;
}

static struct buffer *buffer_new(void)
{
    struct buffer *buffer = memory_zalloc(sizeof(*buffer));

    buffer_init(buffer, BUFFER_UNLIMITED);
    return buffer;
}

static void buffer_free(struct buffer *buffer)
{
    buffer_release(buffer);
    free(buffer);
}

/* Sends, reads to the end, compares the beginning. */
static void expect_and_close(int fd, const char *request, const char *status_line, const char *part)
{
    struct buffer *answer = buffer_new();

    send_text(fd, request);
    receive_until_end(fd, answer);
    assert_begins(answer->data, status_line);
    assert_contains(answer->data, part);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static void a_request_is_answered_on_both_transports(void **state)
{
    struct fixture *fixture = *state;
    const int fds[] = { connect_unix(fixture->path), connect_tcp(fixture->port) };

    for (size_t i = 0; i < 2; i++) {
        struct buffer *answer = buffer_new();
        send_text(fds[i],
                  "POST /e%63ho?b=1&a=x%20y+z HTTP/1.1\r\nHost: localhost\r\nX-Test: 1\r\nx-test: 2\r\nContent-Length: 5\r\n\r\nhello");
        receive_until(fds[i], answer, "hello");
        assert_string_equal(answer->data, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 31\r\n\r\n"
                                          "POST /echo a=x y z x=1, 2 hello");
        buffer_free(answer);
        assert_int_equal(close(fds[i]), 0);
    }
}

static void pipelined_requests_are_answered_in_order_even_when_the_first_answer_comes_late(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_unix(fixture->path);
    struct buffer *answer = buffer_new();
    const char *one, *two, *three, *four;

    send_text(fd, "GET /one HTTP/1.1\r\n\r\nGET /later?a=two HTTP/1.1\r\n\r\nPOST /three HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "3\r\nabc\r\n0\r\n\r\nGET /four HTTP/1.1\r\nConnection: close\r\n\r\nGET /five HTTP/1.1\r\n\r\n");
    counter_wait(&fixture->arrived, 2);
    receive_until(fd, answer, "/one");
    on_loop(&fixture->loop, count_busy, fixture);
    assert_int_equal(busy_count, 1);
    on_loop(&fixture->loop, answer_first_held, fixture);
    receive_until_end(fd, answer);
    one = strstr(answer->data, "GET /one");
    two = strstr(answer->data, "GET /later a=two");
    three = strstr(answer->data, "POST /three a=- x=- abc");
    four = strstr(answer->data, "GET /four");
    assert_non_null(one);
    assert_true(two > one && three > two && four > three);
    assert_null(strstr(answer->data, "five"));
    assert_int_equal(counter_value(&fixture->gone), 0);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

/* Chunked bodies are read from what is put back, heads from a small input: every way from one to the other is taken. */
static void pipelined_chunked_bodies_lose_no_byte_of_what_follows_them(void **state)
{
    enum { REQUESTS = 64 };
    static const size_t sizes[] = { 1, 100, 1000, 5000 };
    struct fixture *fixture = *state;
    struct buffer *requests = buffer_new(), *answer = buffer_new();
    char *body = memory_zalloc(sizes[3] + 1);
    char expected[32];

    memset(body, 'c', sizes[3]);
    for (size_t i = 0; i < REQUESTS; i++) {
        const size_t size = sizes[i * 7 % 4];
        assert_int_equal(buffer_printf(requests, "POST /echo?a=n%zu HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n%.*s\r\n0\r\n\r\n", i,
                                       size, (int)size, body),
                         0);
    }
    for (int round = 0; round < 2; round++) {
        const int fd = round == 0 ? connect_unix(fixture->path) : connect_tcp(fixture->port);
        const char *at;
        buffer_reset(answer);
        send_bytes(fd, requests->data, requests->length);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        receive_until_end(fd, answer);
        at = answer->data;
        for (size_t i = 0; i < REQUESTS; i++) {
            (void)snprintf(expected, sizeof(expected), " a=n%zu ", i);
            at = strstr(at, expected);
            assert_non_null(at);
        }
        assert_int_equal(close(fd), 0);
    }
    free(body);
    buffer_free(requests);
    buffer_free(answer);
}

static void a_client_that_closes_its_side_still_gets_all_its_answers(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_tcp(fixture->port);
    struct buffer *answer = buffer_new();

    send_text(fd, "GET /later?a=1 HTTP/1.1\r\n\r\nGET /later?a=2 HTTP/1.1\r\n\r\n");
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    counter_wait(&fixture->arrived, 1);
    on_loop(&fixture->loop, answer_first_held, fixture);
    counter_wait(&fixture->arrived, 2);
    on_loop(&fixture->loop, answer_first_held, fixture);
    receive_until_end(fd, answer);
    assert_contains(answer->data, "a=1");
    assert_contains(answer->data, "a=2");
    assert_int_equal(counter_value(&fixture->gone), 0);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void a_client_that_leaves_is_reported_gone_once(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_unix(fixture->path);

    send_text(fd, "GET /later HTTP/1.1\r\n\r\n");
    counter_wait(&fixture->arrived, 1);
    assert_int_equal(close(fd), 0);
    counter_wait(&fixture->gone, 1);
    on_loop(&fixture->loop, count_connections, fixture);
    assert_int_equal(connection_count, 0);
    on_loop(&fixture->loop, count_busy, fixture);
    assert_int_equal(busy_count, 0);
    assert_int_equal(counter_value(&fixture->gone), 1);
}

static void requests_of_a_server_that_ends_are_reported_gone(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_unix(fixture->path);
    struct buffer *answer = buffer_new();

    send_text(fd, "GET /later HTTP/1.1\r\n\r\n");
    counter_wait(&fixture->arrived, 1);
    on_loop(&fixture->loop, close_server, fixture);
    assert_int_equal(counter_value(&fixture->gone), 1);
    receive_until_end(fd, answer);
    assert_int_equal(answer->length, 0);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void a_body_arrives_whole_whatever_its_pieces(void **state)
{
    struct fixture *fixture = *state;
    static const char chunked[] = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n5\r\npedia\r\n0\r\nT: x\r\n\r\n";
    static const char sized[] = "POST /echo HTTP/1.1\r\nContent-Length: 9\r\nConnection: close\r\n\r\nwikipedia";
    const int fd = connect_unix(fixture->path);
    struct buffer *answer = buffer_new();

    for (size_t i = 0; i < sizeof(chunked) - 1; i++)
        send_bytes(fd, chunked + i, 1);
    for (size_t i = 0; i < sizeof(sized) - 1; i++)
        send_bytes(fd, sized + i, 1);
    receive_until_end(fd, answer);
    assert_contains(answer->data, "wikipediaHTTP/1.1 200 OK");
    assert_contains(answer->data + 100, "wikipedia");
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void echo_large_body(const struct fixture *fixture, const char *framing, size_t size, bool chunked)
{
    const int fd = connect_unix(fixture->path);
    struct buffer *answer = buffer_new();
    char *body = memory_alloc(size);
    char *found;

    for (size_t i = 0; i < size; i++)
        body[i] = (char)('a' + i * 7 % 26);
    send_text(fd, "POST /echo HTTP/1.1\r\nConnection: close\r\n");
    send_text(fd, framing);
    if (chunked) {
        for (size_t at = 0; at < size; at += 1000) {
            char line[16];
            const size_t piece = size - at < 1000 ? size - at : 1000;
            assert_true(snprintf(line, sizeof(line), "%zx\r\n", piece) > 0);
            send_text(fd, line);
            send_bytes(fd, body + at, piece);
            send_text(fd, "\r\n");
        }
        send_text(fd, "0\r\n\r\n");
    } else {
        send_bytes(fd, body, size);
    }
    receive_until_end(fd, answer);
    found = strstr(answer->data, "x=- ");
    assert_non_null(found);
    assert_int_equal(answer->length - (size_t)(found + 4 - answer->data), size);
    assert_memory_equal(found + 4, body, size);
    free(body);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void a_body_of_the_maximum_is_accepted(void **state)
{
    echo_large_body(*state, "Content-Length: 1048576\r\n\r\n", MAX_BODY, false);
    echo_large_body(*state, "Transfer-Encoding: chunked\r\n\r\n", MAX_BODY, true);
}

static void an_answer_larger_than_the_sockets_buffer_arrives_whole(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_tcp(fixture->port);
    struct buffer *answer = buffer_new();

    send_text(fd, "GET /big HTTP/1.1\r\n\r\nGET /after HTTP/1.1\r\nConnection: close\r\n\r\n");
    receive_until_end(fd, answer);
    assert_true(answer->length > 9 * 1024 * 1024);
    assert_contains(answer->data + 9 * 1024 * 1024, "GET /after");
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------ */

static void malformed_heads_are_answered_400_and_closed(void **state)
{
    struct fixture *fixture = *state;
    static const char *const requests[] = {
        "GET / HTTP/1.1\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhelloGET /smuggled HTTP/1.1\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\n\r\n",
        "\x16\x03\x01",
    };

    for (size_t i = 0; i < ARRAY_LENGTH(requests); i++)
        expect_and_close(connect_tcp(fixture->port), requests[i], "HTTP/1.1 400 Bad Request\r\n",
                         "Connection: close\r\n\r\n{\"error\":\"bad_request\",\"detail\":\"");
    assert_int_equal(counter_value(&fixture->arrived), 0);
    assert_int_equal(counter_value(&fixture->gone), 0);
}

static void a_head_that_never_ends_is_answered_400_though_more_is_sent(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_tcp(fixture->port);
    struct buffer *answer = buffer_new();
    char *junk = memory_alloc(100000);

    memset(junk, 'j', 100000);
    send_text(fd, "GET / HTTP/1.1\r\nX: ");
    send_bytes(fd, junk, 100000);
    receive_until_end(fd, answer);
    assert_begins(answer->data, "HTTP/1.1 400 ");
    free(junk);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void a_malformed_chunk_is_answered_400_and_the_request_reported_gone(void **state)
{
    struct fixture *fixture = *state;

    expect_and_close(connect_unix(fixture->path), "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
                     "HTTP/1.1 400 ", "bad_request");
    assert_int_equal(counter_value(&fixture->gone), 1);
    assert_int_equal(fixture->gone_status, 400);
    assert_int_equal(counter_value(&fixture->arrived), 0);
}

static void a_body_over_the_maximum_is_answered_413_without_being_read(void **state)
{
    struct fixture *fixture = *state;

    expect_and_close(connect_tcp(fixture->port), "POST /echo HTTP/1.1\r\nContent-Length: 1048577\r\n\r\nabc", "HTTP/1.1 413 ",
                     "\"body_too_large\"");
    expect_and_close(connect_tcp(fixture->port), "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nffffe\r\n",
                     "HTTP/1.1 413 ", "\"body_too_large\"");
    assert_int_equal(counter_value(&fixture->gone), 2);
    assert_int_equal(counter_value(&fixture->arrived), 0);
}

static void a_client_may_finish_sending_after_it_was_refused(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_tcp(fixture->port);
    struct buffer *answer = buffer_new();
    char *rest = memory_zalloc(500 * 1000);

    send_text(fd, "POST /echo HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n");
    receive_until_end(fd, answer);
    assert_begins(answer->data, "HTTP/1.1 413 ");
    for (int i = 0; i < 10; i++)
        send_bytes(fd, rest + i * 50 * 1000, 50 * 1000); /* no reset */
    free(rest);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void what_head_refuses_comes_before_413(void **state)
{
    struct fixture *fixture = *state;

    expect_and_close(connect_tcp(fixture->port), "POST /refused HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nabc", "HTTP/1.1 403 ",
                     "Connection: close\r\n\r\n{\"error\":\"forbidden_host\",\"detail\":\"No \\\"entry\\\".\"}");
    assert_int_equal(counter_value(&fixture->gone), 0);
}

static void the_body_of_a_request_refused_early_is_dropped_and_the_next_one_served(void **state)
{
    struct fixture *fixture = *state;
    static const char *const bodies[] = {
        "Content-Length: 30\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n....",
        "Transfer-Encoding: chunked\r\n\r\n1e\r\nGET /smuggled HTTP/1.1\r\n\r\n....\r\n0\r\n\r\n",
    };

    for (size_t i = 0; i < ARRAY_LENGTH(bodies); i++) {
        for (int pieces = 0; pieces < 2; pieces++) {
            const int fd = connect_unix(fixture->path);
            struct buffer *answer = buffer_new();
            send_text(fd, "POST /refused HTTP/1.1\r\n");
            if (pieces == 0) {
                send_text(fd, bodies[i]);
            } else {
                for (const char *byte = bodies[i]; *byte != '\0'; byte++)
                    send_bytes(fd, byte, 1);
            }
            send_text(fd, "GET /next HTTP/1.1\r\nConnection: close\r\n\r\n");
            receive_until_end(fd, answer);
            assert_begins(answer->data, "HTTP/1.1 403 ");
            assert_contains(answer->data, "GET /next");
            assert_null(strstr(answer->data, "smuggled"));
            buffer_free(answer);
            assert_int_equal(close(fd), 0);
        }
    }
}

static void expect_100_continue_is_answered_once_head_accepts(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_unix(fixture->path);
    struct buffer *answer = buffer_new();

    send_text(fd, "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    receive_until(fd, answer, "HTTP/1.1 100 Continue\r\n\r\n");
    send_text(fd, "hello");
    receive_until(fd, answer, "hello");
    assert_begins(answer->data, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n");
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void a_refused_expectation_closes_as_the_body_may_come_or_not(void **state)
{
    struct fixture *fixture = *state;

    expect_and_close(connect_unix(fixture->path), "POST /refused HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
                     "HTTP/1.1 403 ", "Connection: close");
    expect_and_close(connect_unix(fixture->path), "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n",
                     "HTTP/1.1 413 ", "Connection: close");
    expect_and_close(connect_unix(fixture->path), "POST /echo HTTP/1.1\r\nExpect: tea\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 417 ",
                     "Connection: close");
}

static void http_1_0_close_and_bodies_without_meaning_end_the_connection(void **state)
{
    struct fixture *fixture = *state;

    expect_and_close(connect_unix(fixture->path), "GET /a HTTP/1.0\r\n\r\n", "HTTP/1.1 200 ", "Connection: close");
    expect_and_close(connect_unix(fixture->path), "GET /a HTTP/1.1\r\nConnection: x, Close\r\n\r\n", "HTTP/1.1 200 ", "Connection: close");
    expect_and_close(connect_unix(fixture->path), "GET /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 ", "Connection: close");
}

static void a_head_request_gets_no_body(void **state)
{
    struct fixture *fixture = *state;
    int fd = connect_unix(fixture->path);
    struct buffer *answer = buffer_new();

    send_text(fd, "HEAD /a HTTP/1.1\r\nConnection: close\r\n\r\n");
    receive_until_end(fd, answer);
    assert_contains(answer->data, "Content-Length: 16\r\n");
    assert_string_equal(answer->data + answer->length - 4, "\r\n\r\n");
    assert_int_equal(close(fd), 0);
    buffer_reset(answer);
    fd = connect_unix(fixture->path);
    send_text(fd, "HEAD /a HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n");
    receive_until_end(fd, answer);
    assert_begins(answer->data, "HTTP/1.1 413 ");
    assert_string_equal(answer->data + answer->length - 4, "\r\n\r\n");
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void headers_with_control_characters_are_not_sent(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_unix(fixture->path);
    struct buffer *answer = buffer_new();

    send_text(fd, "GET /headers HTTP/1.1\r\n\r\n");
    receive_until(fd, answer, "{}");
    assert_contains(answer->data, "Retry-After: 3\r\n");
    assert_null(strstr(answer->data, "Injected"));
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void a_connection_that_is_not_admitted_is_closed(void **state)
{
    struct fixture *fixture = *state;
    struct buffer *answer = buffer_new();
    int fd;

    fixture->refuse_connections = true;
    fd = connect_tcp(fixture->port);
    receive_until_end(fd, answer);
    assert_int_equal(answer->length, 0);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void allow_two_of_tcp(void *argument)
{
    struct fixture *fixture = argument;

    http_server_set_maximum(fixture->server, HTTP_TCP, 2);
}

static void more_connections_of_a_transport_than_its_maximum_are_closed_and_take_nothing_from_the_other(void **state)
{
    struct fixture *fixture = *state;
    struct buffer *answer = buffer_new();
    int first, second, fd;

    on_loop(&fixture->loop, allow_two_of_tcp, fixture);
    first = connect_tcp(fixture->port);
    second = connect_tcp(fixture->port);
    fd = connect_tcp(fixture->port);
    receive_until_end(fd, answer);
    assert_int_equal(answer->length, 0);
    assert_int_equal(close(fd), 0);
    expect_and_close(connect_unix(fixture->path), "GET /a HTTP/1.0\r\n\r\n", "HTTP/1.1 200 ", "GET /a");
    expect_and_close(first, "GET /a HTTP/1.0\r\n\r\n", "HTTP/1.1 200 ", "GET /a");
    expect_and_close(connect_tcp(fixture->port), "GET /a HTTP/1.0\r\n\r\n", "HTTP/1.1 200 ", "GET /a");
    assert_int_equal(close(second), 0);
    buffer_free(answer);
}

/* ---- time ----------------------------------------------------------------------------------------------------------- */

static void a_slow_head_is_answered_408(void **state)
{
    struct fixture *fixture = *state;

    expect_and_close(connect_tcp(fixture->port), "GET / HTTP/1.1\r\nHost: loc", "HTTP/1.1 408 ", "Connection: close");
    assert_int_equal(counter_value(&fixture->gone), 0);
}

static void a_body_that_stops_is_answered_408_and_the_request_reported_gone(void **state)
{
    struct fixture *fixture = *state;

    expect_and_close(connect_tcp(fixture->port), "POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel", "HTTP/1.1 408 ",
                     "Connection: close");
    assert_int_equal(counter_value(&fixture->gone), 1);
    assert_int_equal(fixture->gone_status, 408);
}

static void a_body_that_trickles_is_answered_408_though_it_never_stops(void **state)
{
    static const char *const framings[] = { "Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n" };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < 2; i++) {
        struct buffer *answer = buffer_new();
        const int fd = connect_tcp(fixture->port);
        struct pollfd answered = { .fd = fd, .events = POLLIN };
        send_text(fd, "POST /echo HTTP/1.1\r\n");
        send_text(fd, framings[i]);
        for (int bytes = 0; poll(&answered, 1, 20) == 0; bytes++) {
            assert_true(bytes < WAIT_MS / 20);
            send_text(fd, "x");
        }
        receive_until_end(fd, answer);
        assert_begins(answer->data, "HTTP/1.1 408 ");
        buffer_free(answer);
        assert_int_equal(close(fd), 0);
    }
    assert_int_equal(counter_value(&fixture->gone), 2);
}

static void an_idle_connection_is_closed_without_a_word(void **state)
{
    struct fixture *fixture = *state;
    const int silent = connect_tcp(fixture->port), served = connect_tcp(fixture->port);
    struct buffer *answer = buffer_new();

    send_text(served, "GET /a HTTP/1.1\r\n\r\n");
    receive_until(served, answer, "GET /a");
    buffer_reset(answer);
    receive_until_end(served, answer);
    receive_until_end(silent, answer);
    assert_int_equal(answer->length, 0);
    buffer_free(answer);
    assert_int_equal(close(served), 0);
    assert_int_equal(close(silent), 0);
}

static void an_answer_that_takes_long_is_waited_for(void **state)
{
    struct fixture *fixture = *state;
    const int fd = connect_tcp(fixture->port), idle = connect_tcp(fixture->port);
    struct buffer *answer = buffer_new();

    send_text(fd, "GET /later HTTP/1.1\r\n\r\n");
    counter_wait(&fixture->arrived, 1);
    receive_until_end(idle, answer); /* all of the short times are over */
    on_loop(&fixture->loop, answer_first_held, fixture);
    receive_until(fd, answer, "GET /later");
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
    assert_int_equal(close(idle), 0);
}

/* ---- streams --------------------------------------------------------------------------------------------------------- */

static int open_stream(struct fixture *fixture, struct buffer *answer)
{
    const int fd = connect_unix(fixture->path);

    send_text(fd, "GET /stream HTTP/1.1\r\n\r\n");
    receive_until(fd, answer, ": connected\n\n");
    assert_begins(answer->data, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: connected\n\n");
    counter_wait(&fixture->drained, 1);
    return fd;
}

static void write_stream(struct fixture *fixture, const char *bytes, size_t size)
{
    fixture->stream_bytes = memory_dup(bytes, size);
    fixture->stream_size = size;
    on_loop(&fixture->loop, write_to_stream, fixture);
    free(fixture->stream_bytes);
}

static void a_stream_carries_what_is_written_until_its_end(void **state)
{
    struct fixture *fixture = *state;
    struct buffer *answer = buffer_new();
    const int fd = open_stream(fixture, answer);

    on_loop(&fixture->loop, count_busy, fixture);
    assert_int_equal(busy_count, 0);
    write_stream(fixture, "data: 1\n\n", 9);
    receive_until(fd, answer, "data: 1\n\n");
    write_stream(fixture, "data: 2\n\n", 9);
    on_loop(&fixture->loop, end_stream, fixture);
    receive_until_end(fd, answer);
    assert_contains(answer->data, "data: 1\n\ndata: 2\n\n");
    assert_int_equal(counter_value(&fixture->gone), 0);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void what_a_stream_is_behind_is_counted_and_drains(void **state)
{
    struct fixture *fixture = *state;
    struct buffer *answer = buffer_new();
    const int fd = open_stream(fixture, answer);
    const size_t size = 4 * 1024 * 1024;
    char *bytes = memory_alloc(size);

    memset(bytes, 's', size);
    counter_reset(&fixture->drained);
    write_stream(fixture, bytes, size);
    assert_int_equal(fixture->asked_backlog, size);
    write_stream(fixture, "!", 1);
    assert_true(fixture->asked_backlog > 1024 * 1024 && fixture->asked_backlog < size);
    assert_int_equal(counter_value(&fixture->drained), 0);
    receive_until(fd, answer, "!");
    counter_wait(&fixture->drained, 1);
    on_loop(&fixture->loop, cut_stream, fixture);
    receive_until_end(fd, answer);
    assert_int_equal(counter_value(&fixture->gone), 0);
    free(bytes);
    buffer_free(answer);
    assert_int_equal(close(fd), 0);
}

static void a_stream_whose_reader_left_is_reported_gone(void **state)
{
    struct fixture *fixture = *state;
    struct buffer *answer = buffer_new();

    assert_int_equal(close(open_stream(fixture, answer)), 0);
    counter_wait(&fixture->gone, 1);
    on_loop(&fixture->loop, count_connections, fixture);
    assert_int_equal(connection_count, 0);
    buffer_free(answer);
}

/* ---- stopping, sockets ------------------------------------------------------------------------------------------------ */

static void stopping_closes_idle_connections_at_once_and_busy_ones_after_their_answer(void **state)
{
    struct fixture *fixture = *state;
    const int idle = connect_tcp(fixture->port), busy = connect_tcp(fixture->port);
    struct buffer *answer = buffer_new();

    send_text(idle, "GET /a HTTP/1.1\r\n\r\n");
    receive_until(idle, answer, "GET /a");
    buffer_reset(answer);
    send_text(busy, "GET /later HTTP/1.1\r\n\r\n");
    counter_wait(&fixture->arrived, 2);
    on_loop(&fixture->loop, stop_accepting, fixture);
    receive_until_end(idle, answer);
    assert_int_equal(answer->length, 0);
    on_loop(&fixture->loop, answer_first_held, fixture);
    receive_until_end(busy, answer);
    assert_contains(answer->data, "Connection: close\r\n");
    buffer_free(answer);
    assert_int_equal(close(idle), 0);
    assert_int_equal(close(busy), 0);
}

static void the_unix_socket_is_private_and_removed_at_the_end(void **state)
{
    struct fixture *fixture = *state;
    struct stat file;

    assert_int_equal(stat(fixture->path, &file), 0);
    assert_int_equal(file.st_mode & 07777, 0600);
    on_loop(&fixture->loop, close_server, fixture);
    assert_int_equal(access(fixture->path, F_OK), -1);
}

static struct error second_error;
static int second_result;
static const char *second_path;
static void listen_again(void *argument)
{
    struct fixture *fixture = argument;

    second_result = http_server_listen_unix(fixture->server, second_path, &second_error);
}

static void a_live_socket_is_left_alone_and_a_stale_one_replaced(void **state)
{
    struct fixture *fixture = *state;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char stale[sizeof(address.sun_path)];
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    second_path = fixture->path;
    on_loop(&fixture->loop, listen_again, fixture);
    assert_int_equal(second_result, -ERROR_BUSY);
    assert_int_equal(close(connect_unix(fixture->path)), 0);

    assert_true(snprintf(stale, sizeof(stale), "%s/stale.sock", fixture->directory) > 0);
    memcpy(address.sun_path, stale, sizeof(stale));
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(close(fd), 0);
    second_path = stale;
    on_loop(&fixture->loop, listen_again, fixture);
    assert_int_equal(second_result, 0);
    assert_int_equal(close(connect_unix(stale)), 0);
}

static void paths_that_are_too_long_or_no_sockets_are_refused(void **state)
{
    struct fixture *fixture = *state;
    char file[128], lengthy[200];
    int fd;

    memset(lengthy, 'a', sizeof(lengthy));
    lengthy[0] = '/';
    lengthy[sizeof(lengthy) - 1] = '\0';
    second_path = lengthy;
    on_loop(&fixture->loop, listen_again, fixture);
    assert_int_equal(second_result, -ERROR_TOO_LARGE);
    assert_contains(second_error.message, "--config-dir");

    assert_true(snprintf(file, sizeof(file), "%s/file", fixture->directory) > 0);
    fd = open(file, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    second_path = file;
    on_loop(&fixture->loop, listen_again, fixture);
    assert_int_equal(second_result, -ERROR_CONFLICT);
    assert_int_equal(unlink(file), 0);
}

static void listen_tcp_again(void *argument)
{
    struct fixture *fixture = argument;
    uint16_t port;

    second_result = http_server_listen_tcp(fixture->server, "127.0.0.1", fixture->port, NULL, &port, &second_error);
}

static void a_taken_port_is_busy(void **state)
{
    struct fixture *fixture = *state;

    on_loop(&fixture->loop, listen_tcp_again, fixture);
    assert_int_equal(second_result, -ERROR_BUSY);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define IMPATIENT(name) cmocka_unit_test_setup_teardown(name, setup_impatient, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_request_is_answered_on_both_transports),
        TEST(pipelined_requests_are_answered_in_order_even_when_the_first_answer_comes_late),
        TEST(pipelined_chunked_bodies_lose_no_byte_of_what_follows_them),
        TEST(a_client_that_closes_its_side_still_gets_all_its_answers),
        TEST(a_client_that_leaves_is_reported_gone_once),
        TEST(requests_of_a_server_that_ends_are_reported_gone),
        TEST(a_body_arrives_whole_whatever_its_pieces),
        TEST(a_body_of_the_maximum_is_accepted),
        TEST(an_answer_larger_than_the_sockets_buffer_arrives_whole),
        TEST(malformed_heads_are_answered_400_and_closed),
        TEST(a_head_that_never_ends_is_answered_400_though_more_is_sent),
        TEST(a_malformed_chunk_is_answered_400_and_the_request_reported_gone),
        TEST(a_body_over_the_maximum_is_answered_413_without_being_read),
        TEST(a_client_may_finish_sending_after_it_was_refused),
        TEST(what_head_refuses_comes_before_413),
        TEST(the_body_of_a_request_refused_early_is_dropped_and_the_next_one_served),
        TEST(expect_100_continue_is_answered_once_head_accepts),
        TEST(a_refused_expectation_closes_as_the_body_may_come_or_not),
        TEST(http_1_0_close_and_bodies_without_meaning_end_the_connection),
        TEST(a_head_request_gets_no_body),
        TEST(headers_with_control_characters_are_not_sent),
        TEST(a_connection_that_is_not_admitted_is_closed),
        TEST(more_connections_of_a_transport_than_its_maximum_are_closed_and_take_nothing_from_the_other),
        IMPATIENT(a_slow_head_is_answered_408),
        IMPATIENT(a_body_that_stops_is_answered_408_and_the_request_reported_gone),
        IMPATIENT(a_body_that_trickles_is_answered_408_though_it_never_stops),
        IMPATIENT(an_idle_connection_is_closed_without_a_word),
        IMPATIENT(an_answer_that_takes_long_is_waited_for),
        TEST(a_stream_carries_what_is_written_until_its_end),
        TEST(what_a_stream_is_behind_is_counted_and_drains),
        TEST(a_stream_whose_reader_left_is_reported_gone),
        TEST(stopping_closes_idle_connections_at_once_and_busy_ones_after_their_answer),
        TEST(the_unix_socket_is_private_and_removed_at_the_end),
        TEST(a_live_socket_is_left_alone_and_a_stale_one_replaced),
        TEST(paths_that_are_too_long_or_no_sockets_are_refused),
        TEST(a_taken_port_is_busy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
