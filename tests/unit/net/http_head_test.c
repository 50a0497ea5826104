/* The head parser and the chunked decoder: what is accepted, and that everything else is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "net/http_chunked.h"
#include "net/http_head.h"
#include "net/http_server.h"
#include "util/memory.h"

struct parsed {
    struct http_head head;
    char *bytes;
    const char *problem;
};

/* -1 refused, 0 accepted, 1 incomplete. The bytes are in a block of exactly their size, so that a sanitizer sees every step beyond. */
static int parse_as(const char *text, size_t size, bool response, struct parsed *parsed)
{
    size_t scanned = 0, head_size = 0;

    parsed->bytes = memory_dup(text, size);
    parsed->problem = NULL;
    switch (http_head_find_end(parsed->bytes, size, &scanned, &head_size, &parsed->problem)) {
    case HTTP_SCAN_MORE:
        return 1;
    case HTTP_SCAN_BAD:
        return -1;
    case HTTP_SCAN_DONE:
        break;
    }
    if (response)
        return http_head_parse_response(parsed->bytes, head_size, &parsed->head, &parsed->problem);
    return http_head_parse_request(parsed->bytes, head_size, &parsed->head, &parsed->problem);
}

static int parse(const char *text, size_t size, struct parsed *parsed)
{
    return parse_as(text, size, false, parsed);
}

#define REQUEST(literal)             \
    {                                \
        literal, sizeof(literal) - 1 \
    }

struct sample {
    const char *text;
    size_t size;
};

static void requests_in_the_one_accepted_form_are_accepted(void **state)
{
    static const struct sample accepted[] = {
        REQUEST("GET / HTTP/1.1\r\n\r\n"),
        REQUEST("GET / HTTP/1.0\r\n\r\n"),
        REQUEST("GET /a?b=c&d HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        REQUEST("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        REQUEST("M-SEARCH / HTTP/1.1\r\n\r\n"),
        REQUEST("GET /?a=http://x/%7e HTTP/1.1\r\n\r\n"),
        REQUEST("GET /path-%0D-uri HTTP/1.1\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length:5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: \t 22220  \t\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\ncontent-length: 9223372036854775807\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTrAnSfEr-EnCoDiNg: ChUnKeD\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX:\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX: \r\nY:  \t \r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nMy-Header.!#$%&'*+^_`|~0123456789: \tv;`\x85\x93\xa0\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nCookie: a\r\nCookie: b\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"),
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(accepted); i++) {
        struct parsed parsed;
        if (parse(accepted[i].text, accepted[i].size, &parsed) != 0)
            fail_msg("refused: %s (%s)", accepted[i].text, parsed.problem);
        assert_int_equal(parsed.head.size, accepted[i].size);
        free(parsed.bytes);
    }
}

static void malformed_and_smuggling_requests_are_refused(void **state)
{
    static const struct sample refused[] = {
        /* request line */
        REQUEST("\r\nGET / HTTP/1.1\r\n\r\n"),
        REQUEST("\x16\x03\x01\x02"),
        REQUEST(" GET / HTTP/1.1\r\n\r\n"),
        REQUEST("get / HTTP/1.1\r\n\r\n"),
        REQUEST("BAD_METHOD / HTTP/1.1\r\n\r\n"),
        REQUEST("G\0T / HTTP/1.1\r\n\r\n"),
        REQUEST("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n\r\n"),
        REQUEST("GET  / HTTP/1.1\r\n\r\n"),
        REQUEST("GET\t/ HTTP/1.1\r\n\r\n"),
        REQUEST("GET /\tHTTP/1.1\r\n\r\n"),
        REQUEST("GET /  HTTP/1.1\r\n\r\n"),
        REQUEST("GET / HTTP/1.1 \r\n\r\n"),
        REQUEST("GET / HTTP/1.1 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /a b HTTP/1.1\r\n\r\n"),
        REQUEST("GET / HTTP/2.0\r\n\r\n"),
        REQUEST("GET / HTTP/1.2\r\n\r\n"),
        REQUEST("GET / HTTP/1.10\r\n\r\n"),
        REQUEST("GET / HTTP/0.9\r\n\r\n"),
        REQUEST("GET / http/1.1\r\n\r\n"),
        REQUEST("GET /\r\n\r\n"),
        REQUEST("GET\r\n\r\n"),
        REQUEST("GET  HTTP/1.1\r\n\r\n"),
        REQUEST("GET http://localhost/ HTTP/1.1\r\n\r\n"),
        REQUEST("GET localhost HTTP/1.1\r\n\r\n"),
        REQUEST("GET * HTTP/1.1\r\n\r\n"),
        REQUEST("OPTIONS ** HTTP/1.1\r\n\r\n"),
        REQUEST("CONNECT localhost:80 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /#x HTTP/1.1\r\n\r\n"),
        REQUEST("GET /\xd1\x81 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /\x7f HTTP/1.1\r\n\r\n"),
        REQUEST("GET /\x01 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /\0 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /a\rb HTTP/1.1\r\n\r\n"),
        REQUEST("GET /a\nb HTTP/1.1\r\n\r\n"),
        REQUEST("GET /% HTTP/1.1\r\n\r\n"),
        REQUEST("GET /%1 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /%zz HTTP/1.1\r\n\r\n"),
        REQUEST("GET /%00 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /?a=%g0 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /?a=%00 HTTP/1.1\r\n\r\n"),
        REQUEST("GET /?a% HTTP/1.1\r\n\r\n"),
        /* line ends */
        REQUEST("GET / HTTP/1.1\n\n"),
        REQUEST("GET / HTTP/1.1\r\nHost: a\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nHost: a\r\n\n"),
        REQUEST("GET / HTTP/1.1\rHost: a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\n\rX: a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX: a\r\r\n\r\n"),
        /* names and values */
        REQUEST("GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX: a\r\n\tb: c\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\n: a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nHost\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nH\xc3\xb6st: a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX(a): a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX: a\0b\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX: a\x01\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nX: a\x7f\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\n\0X: a\r\n\r\n"),
        /* what may come once */
        REQUEST("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nOrigin: a\r\nOrigin: b\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n"),
        REQUEST("GET / HTTP/1.1\r\nIdempotency-Key: a\r\nIdempotency-Key: a\r\n\r\n"),
        /* lengths */
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 5 5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 5.0\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 5\xa0\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: chunked;a\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer-Encoding: \x0b"
                "chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContent_Length: 5\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nTransfer---Encoding: chunked\r\n\r\n"),
        REQUEST("POST / HTTP/1.1\r\nContentLength: 5\r\n\r\n"),
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(refused); i++) {
        struct parsed parsed;
        if (parse(refused[i].text, refused[i].size, &parsed) != -1)
            fail_msg("not refused: %s", refused[i].text);
        assert_non_null(parsed.problem);
        free(parsed.bytes);
    }
}

static void every_prefix_of_a_head_waits_for_more(void **state)
{
    static const char text[] = "POST /x?y=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n";
    size_t scanned = 0, head_size = 0;
    const char *problem = NULL;

    (void)state;
    for (size_t size = 0; size < sizeof(text) - 1; size++) {
        struct parsed parsed;
        assert_int_equal(parse(text, size, &parsed), 1);
        free(parsed.bytes);
        assert_int_equal(http_head_find_end(text, size, &scanned, &head_size, &problem), HTTP_SCAN_MORE);
    }
    assert_int_equal(http_head_find_end(text, sizeof(text) - 1, &scanned, &head_size, &problem), HTTP_SCAN_DONE);
    assert_int_equal(head_size, sizeof(text) - 1);
}

static char *head_of_size(size_t size)
{
    static const char start[] = "GET / HTTP/1.1\r\nX: ";
    char *text = memory_alloc(size + 1);

    memset(text, 'a', size);
    memcpy(text, start, sizeof(start) - 1);
    memcpy(text + size - 4, "\r\n\r\n", 5);
    return text;
}

static void a_head_over_16_kib_is_refused_and_one_of_16_kib_is_not(void **state)
{
    struct parsed parsed;
    char *text = head_of_size(LIMIT_HTTP_HEAD);

    (void)state;
    assert_int_equal(parse(text, LIMIT_HTTP_HEAD, &parsed), 0);
    free(parsed.bytes);
    free(text);

    text = head_of_size(LIMIT_HTTP_HEAD + 1);
    assert_int_equal(parse(text, LIMIT_HTTP_HEAD + 1, &parsed), -1);
    free(parsed.bytes);
    assert_int_equal(parse(text, LIMIT_HTTP_HEAD, &parsed), 1);
    free(parsed.bytes);
    free(text);

    text = head_of_size(LIMIT_HTTP_HEAD + 100);
    assert_int_equal(parse(text, LIMIT_HTTP_HEAD + 1, &parsed), -1);
    free(parsed.bytes);
    free(text);
}

static void the_hundred_and_first_header_is_refused(void **state)
{
    for (int count = 100; count <= 101; count++) {
        struct buffer text;
        struct parsed parsed;
        (void)state;
        buffer_init(&text, BUFFER_UNLIMITED);
        assert_int_equal(buffer_append_text(&text, "GET / HTTP/1.1\r\n"), 0);
        for (int i = 0; i < count; i++)
            assert_int_equal(buffer_printf(&text, "X%d: %d\r\n", i, i), 0);
        assert_int_equal(buffer_append_text(&text, "\r\n"), 0);
        assert_int_equal(parse(text.data, text.length, &parsed), count == 100 ? 0 : -1);
        free(parsed.bytes);
        buffer_release(&text);
    }
}

static void a_head_is_taken_apart(void **state)
{
    static const char text[] = "PUT /caf%C3%A9/%2F?tok%65n=a+b&x HTTP/1.0\r\nHost:  a.b:80 \t\r\nConnection: Upgrade , Close\r\n"
                               "content-LENGTH: 12\r\nExpect: 100-Continue\r\n\r\nrest";
    struct parsed parsed;
    size_t position = 0;

    (void)state;
    assert_int_equal(parse(text, sizeof(text) - 1, &parsed), 0);
    assert_int_equal(parsed.head.size, sizeof(text) - 1 - 4);
    assert_string_equal(parsed.bytes + parsed.head.method, "PUT");
    assert_string_equal(parsed.bytes + parsed.head.path, "/caf\xc3\xa9//");
    assert_string_equal(parsed.bytes + parsed.head.query, "tok%65n=a+b&x");
    assert_int_equal(parsed.head.minor, 0);
    assert_int_equal(parsed.head.length, 12);
    assert_false(parsed.head.chunked);
    assert_true(parsed.head.connection_close);
    assert_true(parsed.head.connection_upgrade);
    assert_true(parsed.head.expect_continue);
    assert_false(parsed.head.expect_other);
    assert_int_equal(parsed.head.field_count, 4);
    assert_string_equal(http_head_field(&parsed.head, parsed.bytes, "HOST", &position), "a.b:80");
    assert_null(http_head_field(&parsed.head, parsed.bytes, "host", &position));
    free(parsed.bytes);
}

static void a_head_without_a_query_has_none(void **state)
{
    struct parsed parsed;
    static const char text[] = "GET /a HTTP/1.1\r\n\r\n";

    (void)state;
    assert_int_equal(parse(text, sizeof(text) - 1, &parsed), 0);
    assert_int_equal(parsed.head.query, 0);
    assert_int_equal(parsed.head.length, -1);
    free(parsed.bytes);
}

static void responses_are_parsed_as_strictly(void **state)
{
    static const struct {
        const char *text;
        int status; /* -1: refused */
    } samples[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200 },
        { "HTTP/1.1 404 \r\n\r\n", 404 },
        { "HTTP/1.0 599\r\n\r\n", 599 },
        { "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", 101 },
        { "HTTP/1.1 099 X\r\n\r\n", -1 },
        { "HTTP/1.1 20 X\r\n\r\n", -1 },
        { "HTTP/1.1 2000 X\r\n\r\n", -1 },
        { "HTTP/2 200 OK\r\n\r\n", -1 },
        { "HTTP/1.1  200 OK\r\n\r\n", -1 },
        { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", -1 },
        { "HTTP/1.1 200 O\x01K\r\n\r\n", -1 },
        { "HTTP/1.1 200 OK\n\n", -1 },
        { "SSH-2.0-x\r\n\r\n", -1 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        struct parsed parsed;
        const int result = parse_as(samples[i].text, strlen(samples[i].text), true, &parsed);
        if (samples[i].status < 0) {
            assert_int_equal(result, -1);
        } else {
            assert_int_equal(result, 0);
            assert_int_equal(parsed.head.status, samples[i].status);
        }
        free(parsed.bytes);
    }
}

static void lists_are_searched_by_whole_tokens(void **state)
{
    (void)state;
    assert_true(http_list_has("keep-alive, Upgrade", "upgrade"));
    assert_true(http_list_has("a;q=1,close", "close"));
    assert_false(http_list_has("closed", "close"));
    assert_false(http_list_has("x close", "close"));
    assert_false(http_list_has("", "close"));
}

/* ---- chunked ------------------------------------------------------------------------------------------------- */

/* Decodes in pieces of `step` bytes; the data, or NULL when refused; *ret_rest counts what follows the body. */
static char *decode(const char *text, size_t size, size_t step, size_t maximum, size_t *ret_length, size_t *ret_rest,
                    enum http_chunked_state *ret_state)
{
    struct http_chunked chunked = { 0 };
    char *data = memory_alloc(size + 1);
    size_t at = 0, length = 0;
    bool too_large = false;

    while (at < size && chunked.state != CHUNKED_DONE) {
        const size_t piece = size - at < step ? size - at : step;
        char *input = memory_dup(text + at, piece);
        size_t consumed = 0, produced = 0;
        const int result = http_chunked_decode(&chunked, input, piece, data + length, length, maximum, &consumed, &produced, &too_large);
        free(input);
        if (result != 0) {
            free(data);
            *ret_length = too_large ? SIZE_MAX : 0;
            return NULL;
        }
        at += consumed;
        length += produced;
    }
    *ret_length = length;
    *ret_rest = size - at;
    *ret_state = chunked.state;
    return data;
}

static void a_chunked_body_is_decoded_whatever_the_pieces(void **state)
{
    static const char text[] = "5\r\nhello\r\n00006\r\n world\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET ";

    (void)state;
    for (size_t step = 1; step < sizeof(text); step++) {
        size_t length, rest;
        enum http_chunked_state end;
        char *data = decode(text, sizeof(text) - 1, step, 1000, &length, &rest, &end);
        assert_non_null(data);
        assert_int_equal(end, CHUNKED_DONE);
        assert_int_equal(length, 21);
        assert_memory_equal(data, "hello world0123456789", 21);
        assert_int_equal(rest, 4);
        free(data);
    }
}

static void malformed_chunks_are_refused(void **state)
{
    static const char *const refused[] = {
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x5\r\n",
        " 5\r\n",
        "5 \r\n",
        "5;ext=1\r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhello\n",
        "5\r\nhelloX",
        "5\rX",
        "5\r\nhello\rX",
        "0\r\n X: folded\r\n\r\n",
        "0\r\nX: a\nb\r\n\r\n",
        "0\r\n\rX",
        "0\r\nX: \x01\r\n\r\n",
        "1000000000000000\r\n",
        "ffffffffffffffffff\r\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(refused); i++) {
        size_t length, rest;
        enum http_chunked_state end;
        char *data = decode(refused[i], strlen(refused[i]), 1000, 1000, &length, &rest, &end);
        if (data != NULL)
            fail_msg("not refused: %s", refused[i]);
    }
}

static void chunks_over_the_maximum_are_too_large(void **state)
{
    size_t length, rest;
    enum http_chunked_state end;
    char *data = decode("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", 25, 1000, 10, &length, &rest, &end);

    (void)state;
    assert_non_null(data);
    free(data);
    assert_null(decode("5\r\nhello\r\n6\r\nworlds\r\n0\r\n\r\n", 26, 1000, 10, &length, &rest, &end));
    assert_true(length == SIZE_MAX);
}

static void endless_trailers_are_refused(void **state)
{
    struct buffer text;
    size_t length, rest;
    enum http_chunked_state end;

    (void)state;
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_int_equal(buffer_append_text(&text, "0\r\n"), 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(buffer_append_text(&text, "X: 1234567890\r\n"), 0);
    assert_null(decode(text.data, text.length, 1000, 10, &length, &rest, &end));
    buffer_release(&text);
}

/* ---- guards -------------------------------------------------------------------------------------------------- */

static void only_local_hosts_with_the_right_port_pass(void **state)
{
    static const char *const allowed[] = { "broker.example.com", "other.example.com:8443" };
    static const struct {
        const char *host;
        bool passes;
    } samples[] = {
        { "localhost", true },
        { "LOCALHOST:47823", true },
        { "127.0.0.1:47823", true },
        { "[::1]:47823", true },
        { "[::1]", true },
        { "localhost:1", false },
        { "127.0.0.1:47824", false },
        { "localhost:", false },
        { "localhost:47823x", false },
        { "localhost:047823", true },
        { "localhost.", false },
        { "localhost.evil.com", false },
        { "evil.com", false },
        { "evil.com:47823", false },
        { "::1", false },
        { "[::1", false },
        { "[::1]x", false },
        { "user@localhost", false },
        { "127.0.0.1.evil.com:47823", false },
        { "", false },
        { "127.1", false },
        { "broker.example.com", true },
        { "Broker.Example.Com:443", true },
        { "other.example.com:8443", true },
        { "other.example.com", true },
        { "other.example.com:1", false },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        if (http_host_is_allowed(samples[i].host, 47823, allowed, 2) != samples[i].passes)
            fail_msg("%s", samples[i].host);
    }
    assert_false(http_host_is_allowed(NULL, 47823, allowed, 2));
    assert_true(http_host_is_allowed("localhost:47823", 0, NULL, 0));
}

static void only_allowlisted_origins_pass(void **state)
{
    static const char *const allowed[] = { "https://app.example.com" };
    bool listed = true;

    (void)state;
    assert_true(http_origin_is_allowed(NULL, NULL, allowed, 1, &listed));
    assert_false(listed);
    assert_true(http_origin_is_allowed(NULL, "none", allowed, 1, &listed));
    assert_false(http_origin_is_allowed(NULL, "same-origin", allowed, 1, &listed));
    assert_false(http_origin_is_allowed(NULL, "cross-site", allowed, 1, &listed));
    assert_false(http_origin_is_allowed("http://localhost:47823", NULL, allowed, 1, &listed));
    assert_false(http_origin_is_allowed("null", NULL, allowed, 1, &listed));
    assert_false(http_origin_is_allowed("https://app.example.com.evil.com", NULL, allowed, 1, &listed));
    assert_false(listed);
    assert_true(http_origin_is_allowed("https://app.example.com", "cross-site", allowed, 1, &listed));
    assert_true(listed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_in_the_one_accepted_form_are_accepted),
        cmocka_unit_test(malformed_and_smuggling_requests_are_refused),
        cmocka_unit_test(every_prefix_of_a_head_waits_for_more),
        cmocka_unit_test(a_head_over_16_kib_is_refused_and_one_of_16_kib_is_not),
        cmocka_unit_test(the_hundred_and_first_header_is_refused),
        cmocka_unit_test(a_head_is_taken_apart),
        cmocka_unit_test(a_head_without_a_query_has_none),
        cmocka_unit_test(responses_are_parsed_as_strictly),
        cmocka_unit_test(lists_are_searched_by_whole_tokens),
        cmocka_unit_test(a_chunked_body_is_decoded_whatever_the_pieces),
        cmocka_unit_test(malformed_chunks_are_refused),
        cmocka_unit_test(chunks_over_the_maximum_are_too_large),
        cmocka_unit_test(endless_trailers_are_refused),
        cmocka_unit_test(only_local_hosts_with_the_right_port_pass),
        cmocka_unit_test(only_allowlisted_origins_pass),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
