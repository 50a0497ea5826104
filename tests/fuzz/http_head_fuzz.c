/* Heads of requests and responses: whatever comes, no byte beyond; and what is accepted, printed from its parts, is accepted again with the same parts, so that two readers of it cannot disagree. */
#include "fuzz.h"
#include "net/http_head.h"
#include "util/buffer.h"
#include "util/text.h"

static void check_fields(const struct http_head *head, const char *bytes)
{
    REQUIRE(!(head->chunked && head->length >= 0) && head->field_count <= LIMIT_HTTP_HEADERS);
    for (size_t i = 0; i < head->field_count; i++) {
        const char *name = bytes + head->fields[i].name, *value = bytes + head->fields[i].value;
        REQUIRE(strlen(name) == head->fields[i].name_length && name[0] != '\0' && strpbrk(name, " \t:\r\n") == NULL);
        REQUIRE(strlen(value) == head->fields[i].value_length && strpbrk(value, "\r\n") == NULL);
        REQUIRE(value[0] != ' ' && value[0] != '\t');
    }
}

static void print_path(const char *path, struct buffer *text)
{
    for (const char *at = path; *at != '\0'; at++) {
        if (strchr("/*-._~", *at) != NULL || (*at >= '0' && *at <= '9') || (*at >= 'A' && *at <= 'Z') || (*at >= 'a' && *at <= 'z'))
            (void)buffer_append_byte(text, *at);
        else
            (void)buffer_printf(text, "%%%02X", (unsigned char)*at);
    }
}

static void print_head(const struct http_head *head, const char *bytes, bool response, struct buffer *text)
{
    if (response) {
        (void)buffer_printf(text, "HTTP/1.%u %d\r\n", head->minor, head->status);
    } else {
        (void)buffer_printf(text, "%s ", bytes + head->method);
        print_path(bytes + head->path, text);
        if (head->query != 0)
            (void)buffer_printf(text, "?%s", bytes + head->query);
        (void)buffer_printf(text, " HTTP/1.%u\r\n", head->minor);
    }
    for (size_t i = 0; i < head->field_count; i++)
        (void)buffer_printf(text, "%s:%s\r\n", bytes + head->fields[i].name, bytes + head->fields[i].value);
    (void)buffer_append_text(text, "\r\n");
}

static void check_same(const struct http_head *a, const char *a_bytes, const struct http_head *b, const char *b_bytes, bool response)
{
    REQUIRE(a->minor == b->minor && a->status == b->status && a->length == b->length && a->field_count == b->field_count);
    REQUIRE(a->chunked == b->chunked && a->connection_close == b->connection_close && a->connection_upgrade == b->connection_upgrade);
    REQUIRE(a->expect_continue == b->expect_continue && a->expect_other == b->expect_other && (a->query == 0) == (b->query == 0));
    if (!response) {
        REQUIRE(string_equal(a_bytes + a->method, b_bytes + b->method) && string_equal(a_bytes + a->path, b_bytes + b->path));
        REQUIRE(a->query == 0 || string_equal(a_bytes + a->query, b_bytes + b->query));
    }
    for (size_t i = 0; i < a->field_count; i++) {
        REQUIRE(string_equal(a_bytes + a->fields[i].name, b_bytes + b->fields[i].name));
        REQUIRE(string_equal(a_bytes + a->fields[i].value, b_bytes + b->fields[i].value));
    }
}

static int parse(char *bytes, size_t size, bool response, struct http_head *ret_head)
{
    const char *problem = NULL;
    const int result =
        response ? http_head_parse_response(bytes, size, ret_head, &problem) : http_head_parse_request(bytes, size, ret_head, &problem);
    REQUIRE((result == 0) == (problem == NULL));
    return result;
}

static void check_accepted(const struct http_head *head, const char *bytes, bool response)
{
    static struct http_head again;
    struct buffer text;
    size_t scanned = 0, size = 0, position = 0;
    const char *problem = NULL;

    check_fields(head, bytes);
    REQUIRE(response ? head->status >= 100 && head->status <= 999 : bytes[head->path] == '/' || bytes[head->path] == '*');
    if (head->field_count > 0)
        REQUIRE(http_head_field(head, bytes, bytes + head->fields[0].name, &position) == bytes + head->fields[0].value && position == 1);
    buffer_init(&text, BUFFER_UNLIMITED);
    print_head(head, bytes, response, &text);
    if (text.length <= LIMIT_HTTP_HEAD) {
        REQUIRE(http_head_find_end(text.data, text.length, &scanned, &size, &problem) == HTTP_SCAN_DONE && size == text.length);
        REQUIRE(parse(text.data, size, response, &again) == 0);
        check_same(head, bytes, &again, text.data, response);
    }
    buffer_release(&text);
}

/* Byte by byte the end is found where it is found at once. */
static void check_scan(const char *bytes, size_t size, enum http_scan expected, size_t expected_size)
{
    enum http_scan found = HTTP_SCAN_MORE;
    size_t scanned = 0, head_size = 0;
    const char *problem = NULL;

    for (size_t length = 1; length <= size && found == HTTP_SCAN_MORE; length++)
        found = http_head_find_end(bytes, length, &scanned, &head_size, &problem);
    REQUIRE(found == expected && (found != HTTP_SCAN_DONE || head_size == expected_size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct http_head head;
    const char *problem = NULL;
    size_t scanned = 0, head_size = 0;
    char *bytes = memory_dup(data, size);
    const enum http_scan found = http_head_find_end(bytes, size, &scanned, &head_size, &problem);

    REQUIRE((found == HTTP_SCAN_BAD) == (problem != NULL));
    check_scan(bytes, size, found, head_size);
    free(bytes);
    if (found != HTTP_SCAN_DONE)
        return 0;
    REQUIRE(head_size <= size && head_size <= LIMIT_HTTP_HEAD);
    for (int response = 0; response < 2; response++) {
        bytes = memory_dup(data, head_size);
        if (parse(bytes, head_size, response == 1, &head) == 0)
            check_accepted(&head, bytes, response == 1);
        free(bytes);
    }
    return 0;
}
