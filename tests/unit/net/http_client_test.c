/* The blocking client against our server (Unix, TCP, TLS), and against servers that answer nonsense, late, or not at all. */
#include "fixture.h"

#include "certificate.h"
#include "net/http_client.h"
#include "net/http_server.h"
#include "net/tls.h"

struct fixture {
    struct loop_thread loop;
    struct http_server *server;
    char directory[64], path[128], certificate_file[128], key_file[128];
    char tcp_url[64], tls_url[64];
    struct http_request *stream;
    struct counter streams;
};

/* ---- the server -------------------------------------------------------------------------------------------------- */

static void on_head(void *argument, struct http_request *request)
{
    (void)argument;
    if (string_equal(http_path(request), "/refused"))
        http_respond_error(request, 403, "forbidden", "No.");
}

static void on_request(void *argument, struct http_request *request)
{
    struct fixture *fixture = argument;
    struct text body = http_body(request);

    if (string_equal(http_path(request), "/stream")) {
        fixture->stream = request;
        http_stream_start(request, 200, "text/event-stream", NULL);
        counter_raise(&fixture->streams);
    } else if (string_equal(http_path(request), "/never")) {
        counter_raise(&fixture->streams);
    } else if (string_equal(http_path(request), "/busy")) {
        http_add_header(request, "Retry-After", "7");
        http_respond_error(request, 429, "daemon_busy", "Later.");
    } else if (string_equal(http_path(request), "/close")) {
        http_close_after(request);
        http_respond(request, 200, NULL, "closing", 7);
    } else if (string_equal(http_path(request), "/host")) {
        const char *host = http_header(request, "Host");
        http_respond(request, 200, NULL, host, strlen(host));
    } else {
        const char *mark = http_header(request, "X-Mark");
        if (mark != NULL)
            http_add_header(request, "X-Mark", mark);
        http_respond(request, http_has_body(request) ? 201 : 200, NULL, body.data, body.length);
    }
}

static void on_gone(void *argument, struct http_request *request)
{
    struct fixture *fixture = argument;

    if (fixture->stream == request)
        fixture->stream = NULL;
}

static void open_server(void *argument)
{
    struct fixture *fixture = argument;
    const struct http_callbacks callbacks = { fixture, on_head, on_request, on_gone, NULL };
    SSL_CTX *tls = NULL;
    struct error error;
    uint16_t port;

    assert_int_equal(tls_server_context_new(fixture->certificate_file, fixture->key_file, &tls, &error), 0);
    assert_int_equal(http_server_new(fixture->loop.loop, &callbacks, 1 << 20, &fixture->server, &error), 0);
    assert_int_equal(http_server_listen_unix(fixture->server, fixture->path, &error), 0);
    assert_int_equal(http_server_listen_tcp(fixture->server, "127.0.0.1", 0, NULL, &port, &error), 0);
    assert_true(snprintf(fixture->tcp_url, sizeof(fixture->tcp_url), "http://127.0.0.1:%u/", port) > 0);
    assert_int_equal(http_server_listen_tcp(fixture->server, "127.0.0.1", 0, tls, &port, &error), 0);
    assert_true(snprintf(fixture->tls_url, sizeof(fixture->tls_url), "wss://127.0.0.1:%u/ws", port) > 0);
    SSL_CTX_free(tls);
}

static void close_server(void *argument)
{
    struct fixture *fixture = argument;

    http_server_free(fixture->server);
}

static void write_lines(void *argument)
{
    struct fixture *fixture = argument;

    http_stream_write(fixture->stream, "one\ntw", 6);
    http_stream_write(fixture->stream, "o\r\n\nthr", 7);
}

static void end_stream(void *argument)
{
    struct fixture *fixture = argument;

    http_stream_end(fixture->stream);
    fixture->stream = NULL;
}

static int setup(void **state)
{
    static const struct counter zero = COUNTER_INITIALIZER;
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));

    fixture->streams = zero;
    memcpy(fixture->directory, "/tmp/http_client_XXXXXX", 24);
    assert_non_null(mkdtemp(fixture->directory));
    assert_true(snprintf(fixture->path, sizeof(fixture->path), "%s/socket", fixture->directory) > 0);
    assert_true(snprintf(fixture->certificate_file, sizeof(fixture->certificate_file), "%s/certificate", fixture->directory) > 0);
    assert_true(snprintf(fixture->key_file, sizeof(fixture->key_file), "%s/key", fixture->directory) > 0);
    certificate_write(fixture->certificate_file, fixture->key_file, "IP:127.0.0.1");
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
    assert_int_equal(rmdir(fixture->directory), 0);
    free(fixture);
    return 0;
}

static struct http_client *open_unix(const struct fixture *fixture)
{
    struct http_client *client = NULL;
    struct error error;

    assert_int_equal(http_client_open_unix(fixture->path, WAIT_MS, &client, &error), 0);
    return client;
}

static struct http_client *open_url(const char *url, const char *ca_file)
{
    struct http_client *client = NULL;
    struct error error;

    if (http_client_open_url(url, ca_file, WAIT_MS, &client, &error) != 0)
        fail_msg("%s", error.message);
    return client;
}

static void expect(struct http_client *client, const char *method, const char *target, const char *body, int status, const char *answer)
{
    struct http_response response;
    struct error error;

    if (http_client_request(client, method, target, NULL, body, body == NULL ? 0 : strlen(body), &response, &error) != 0)
        fail_msg("%s", error.message);
    assert_int_equal(response.status, status);
    assert_string_equal(response.body.data, answer);
    http_response_release(&response);
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

static void requests_are_answered_one_after_another_on_each_transport(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *clients[] = { open_unix(fixture), open_url(fixture->tcp_url, NULL),
                                      open_url(fixture->tls_url, fixture->certificate_file) };

    for (size_t i = 0; i < ARRAY_LENGTH(clients); i++) {
        const int fd = http_client_fd(clients[i]);
        expect(clients[i], "POST", "/echo", "{\"a\":1}", 201, "{\"a\":1}");
        expect(clients[i], "GET", "/echo", NULL, 200, "");
        expect(clients[i], "POST", "/echo", "", 200, "");
        expect(clients[i], "HEAD", "/host", NULL, 200, "");
        expect(clients[i], "GET", "/refused", NULL, 403, "{\"error\":\"forbidden\",\"detail\":\"No.\"}");
        expect(clients[i], "POST", "/echo", "last", 201, "last");
        assert_int_equal(http_client_fd(clients[i]), fd); /* one connection */
        http_client_free(clients[i]);
    }
}

static void the_host_header_names_where_it_went(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *client = open_unix(fixture);
    char host[64];

    expect(client, "GET", "/host", NULL, 200, "localhost");
    http_client_free(client);
    client = open_url(fixture->tcp_url, NULL);
    assert_true(snprintf(host, sizeof(host), "%s", fixture->tcp_url + 7) > 0);
    host[strlen(host) - 1] = '\0';
    expect(client, "GET", "/host", NULL, 200, host);
    http_client_free(client);
}

static void retry_after_is_told(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *client = open_unix(fixture);
    struct http_response response;
    struct error error;

    assert_int_equal(http_client_request(client, "GET", "/busy", "X-Mark: 1\r\n", NULL, 0, &response, &error), 0);
    assert_int_equal(response.status, 429);
    assert_int_equal(response.retry_after_s, 7);
    http_response_release(&response);
    http_client_free(client);
}

static void a_megabyte_goes_there_and_back(void **state)
{
    const struct fixture *fixture = *state;
    char *body = memory_alloc((1 << 20) + 1);
    struct http_client *clients[] = { open_unix(fixture), open_url(fixture->tls_url, fixture->certificate_file) };

    memset(body, 'm', 1 << 20);
    body[1 << 20] = '\0';
    for (size_t i = 0; i < ARRAY_LENGTH(clients); i++) {
        expect(clients[i], "POST", "/echo", body, 201, body);
        http_client_free(clients[i]);
    }
    free(body);
}

static void a_refusal_of_a_body_too_large_is_read(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *client = open_unix(fixture);
    const size_t size = (1 << 20) + 300 * 1024;
    char *body = memory_alloc(size);
    struct http_response response;
    struct error error;

    memset(body, 'x', size);
    assert_int_equal(http_client_request(client, "POST", "/echo", NULL, body, size, &response, &error), 0);
    assert_int_equal(response.status, 413);
    http_response_release(&response);
    expect(client, "GET", "/echo", NULL, 200, ""); /* over a new connection */
    free(body);
    http_client_free(client);
}

static void a_closed_connection_is_replaced_only_where_the_other_end_is_known(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *unix_client = open_unix(fixture), *tls = open_url(fixture->tls_url, fixture->certificate_file),
                       *tcp = open_url(fixture->tcp_url, NULL);
    struct http_response response;
    struct error error;

    expect(unix_client, "GET", "/close", NULL, 200, "closing");
    expect(unix_client, "GET", "/echo", NULL, 200, "");
    expect(tls, "GET", "/close", NULL, 200, "closing");
    expect(tls, "GET", "/echo", NULL, 200, "");
    expect(tcp, "GET", "/close", NULL, 200, "closing");
    assert_int_equal(http_client_request(tcp, "GET", "/echo", NULL, NULL, 0, &response, &error), -ERROR_UNREACHABLE);
    http_client_free(unix_client);
    http_client_free(tls);
    http_client_free(tcp);
}

/* ---- streams --------------------------------------------------------------------------------------------------------- */

static void a_stream_is_read_line_by_line_to_its_end(void **state)
{
    struct fixture *fixture = *state;
    struct http_client *client = open_unix(fixture);
    struct buffer line;
    struct error error;
    int status = 0;

    buffer_init(&line, 1000);
    assert_int_equal(http_client_stream(client, "/stream", "Last-Event-ID: 1\r\n", &status, &error), 0);
    assert_int_equal(status, 200);
    assert_false(http_client_has_line(client));
    counter_wait(&fixture->streams, 1);
    on_loop(&fixture->loop, write_lines, fixture);
    assert_int_equal(http_client_read_line(client, &line, &error), 0);
    assert_string_equal(line.data, "one");
    assert_int_equal(http_client_read_line(client, &line, &error), 0);
    assert_string_equal(line.data, "two");
    assert_true(http_client_has_line(client));
    assert_int_equal(http_client_read_line(client, &line, &error), 0);
    assert_string_equal(line.data, "");
    http_client_set_timeout(client, 30);
    assert_int_equal(http_client_read_line(client, &line, &error), -ERROR_TIMEOUT);
    http_client_set_timeout(client, WAIT_MS);
    on_loop(&fixture->loop, end_stream, fixture);
    assert_int_equal(http_client_read_line(client, &line, &error), 0);
    assert_string_equal(line.data, "thr");
    assert_int_equal(http_client_read_line(client, &line, &error), -ERROR_UNREACHABLE);
    buffer_release(&line);
    http_client_free(client);
}

static void a_refused_stream_gives_its_body_as_lines(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *client = open_unix(fixture);
    struct buffer line;
    struct error error;
    int status = 0;

    buffer_init(&line, 1000);
    assert_int_equal(http_client_stream(client, "/refused", NULL, &status, &error), 0);
    assert_int_equal(status, 403);
    assert_int_equal(http_client_read_line(client, &line, &error), 0);
    assert_string_equal(line.data, "{\"error\":\"forbidden\",\"detail\":\"No.\"}");
    assert_int_equal(http_client_read_line(client, &line, &error), -ERROR_UNREACHABLE);
    expect(client, "GET", "/echo", NULL, 200, "");
    buffer_release(&line);
    http_client_free(client);
}

/* ---- what goes wrong -------------------------------------------------------------------------------------------------- */

static void an_answer_that_does_not_come_times_out(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *client = open_unix(fixture);
    struct http_response response;
    struct error error;

    http_client_set_timeout(client, 50);
    assert_int_equal(http_client_request(client, "GET", "/never", NULL, NULL, 0, &response, &error), -ERROR_TIMEOUT);
    http_client_free(client);
}

static void nobody_there_is_unreachable(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *client = NULL;
    struct error error;
    char lengthy[200];

    (void)fixture;
    assert_int_equal(http_client_open_unix("/nonexistent/socket", 100, &client, &error), -ERROR_UNREACHABLE);
    assert_int_equal(http_client_open_url("http://127.0.0.1:1/", NULL, 1000, &client, &error), -ERROR_UNREACHABLE);
    assert_int_equal(http_client_open_url("nonsense", NULL, 1000, &client, &error), -ERROR_INVALID);
    memset(lengthy, 'l', sizeof(lengthy));
    lengthy[sizeof(lengthy) - 1] = '\0';
    assert_int_equal(http_client_open_unix(lengthy, 100, &client, &error), -ERROR_TOO_LARGE);
    assert_null(client);
}

static void certificates_are_checked(void **state)
{
    const struct fixture *fixture = *state;
    struct http_client *client = NULL;
    struct error error;
    char url[64];

    assert_int_equal(http_client_open_url(fixture->tls_url, NULL, WAIT_MS, &client, &error), -ERROR_UNREACHABLE);
    assert_contains(error.message, "certificate");
    assert_true(snprintf(url, sizeof(url), "wss://localhost%s", strrchr(fixture->tls_url, ':')) > 0);
    assert_int_equal(http_client_open_url(url, fixture->certificate_file, WAIT_MS, &client, &error), -ERROR_UNREACHABLE);
    assert_contains(error.message, "ostname mismatch");
}

struct raw_server {
    pthread_t thread;
    int fd;
    char url[64];
    const char *answer;
};

static void *serve_raw(void *argument)
{
    struct raw_server *server = argument;
    const int fd = accept(server->fd, NULL, NULL);
    struct buffer request;

    buffer_init(&request, BUFFER_UNLIMITED);
    receive_until(fd, &request, "\r\n\r\n");
    send_text(fd, server->answer);
    assert_int_equal(close(fd), 0);
    buffer_release(&request);
    return NULL;
}

static int request_raw(const char *answer, struct http_response *response)
{
    struct raw_server server = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .answer = answer };
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);
    struct http_client *client;
    struct error error;
    int result;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(server.fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(server.fd, 1), 0);
    assert_int_equal(getsockname(server.fd, (struct sockaddr *)&address, &size), 0);
    assert_true(snprintf(server.url, sizeof(server.url), "http://127.0.0.1:%u", ntohs(address.sin_port)) > 0);
    assert_int_equal(pthread_create(&server.thread, NULL, serve_raw, &server), 0);
    client = open_url(server.url, NULL);
    result = http_client_request(client, "GET", "/", NULL, NULL, 0, response, &error);
    assert_int_equal(pthread_join(server.thread, NULL), 0);
    assert_int_equal(close(server.fd), 0);
    http_client_free(client);
    return result;
}

static void bodies_are_read_in_each_framing(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.0 200\r\n\r\nhello",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(answers); i++) {
        struct http_response response;
        assert_int_equal(request_raw(answers[i], &response), 0);
        assert_string_equal(response.body.data, "hello");
        assert_int_equal(response.retry_after_s, -1);
        http_response_release(&response);
    }
}

static void nonsense_and_cut_answers_are_errors(void **state)
{
    static const struct {
        const char *answer;
        int result;
    } samples[] = {
        { "SSH-2.0-OpenSSH\r\n\r\n", -ERROR_INVALID },
        { "HTTP/1.1 200 OK\n\nhello", -ERROR_INVALID },
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", -ERROR_INVALID },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", -ERROR_INVALID },
        { "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", -ERROR_UNREACHABLE },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", -ERROR_UNREACHABLE },
        { "HTTP/1.1 200 OK\r\nContent-Le", -ERROR_UNREACHABLE },
        { "", -ERROR_UNREACHABLE },
        { "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nhello", -ERROR_UNREACHABLE },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        struct http_response response;
        const int result = request_raw(samples[i].answer, &response);
        if (result != samples[i].result)
            fail_msg("%d instead of %d for: %s", result, samples[i].result, samples[i].answer);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(requests_are_answered_one_after_another_on_each_transport),
        TEST(the_host_header_names_where_it_went),
        TEST(retry_after_is_told),
        TEST(a_megabyte_goes_there_and_back),
        TEST(a_refusal_of_a_body_too_large_is_read),
        TEST(a_closed_connection_is_replaced_only_where_the_other_end_is_known),
        TEST(a_stream_is_read_line_by_line_to_its_end),
        TEST(a_refused_stream_gives_its_body_as_lines),
        TEST(an_answer_that_does_not_come_times_out),
        TEST(nobody_there_is_unreachable),
        TEST(certificates_are_checked),
        cmocka_unit_test(bodies_are_read_in_each_framing),
        cmocka_unit_test(nonsense_and_cut_answers_are_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
