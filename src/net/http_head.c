/* Owns the syntax of HTTP/1.x heads. What is not exactly one form is refused: leniency is what request smuggling lives on. Knows no sockets
 * and no routes. */
#include "net/http_head.h"

#include "util/text.h"

/* What a byte may be part of. */
enum { IN_TOKEN = 1, IN_VALUE = 2, IN_TARGET = 4, IN_METHOD = 8 };

/* The combinations that occur: a value only; a value and a target; a token and a value ('#': a fragment has no place in a request); all
 * three; those and a method. */
enum { V = IN_VALUE, X = IN_VALUE | IN_TARGET, H = IN_TOKEN | IN_VALUE, T = H | IN_TARGET, M = T | IN_METHOD };

static const uint8_t classes[256] = {
    /* 00 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, V, 0, 0, 0, 0, 0, 0,
    /* 10 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    /*  ! */ V, T, X, H, T, T, T, T, X, X, T, T, X, M, T, X,
    /*  0 */ T, T, T, T, T, T, T, T, T, T, X, X, X, X, X, X,
    /*  @ */ X, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    /*  P */ M, M, M, M, M, M, M, M, M, M, M, X, X, X, T, T,
    /*  ` */ T, T, T, T, T, T, T, T, T, T, T, T, T, T, T, T,
    /*  p */ T, T, T, T, T, T, T, T, T, T, T, X, T, X, T, 0,
    /* 80 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    /* 90 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    /* a0 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    /* b0 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    /* c0 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    /* d0 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    /* e0 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
    /* f0 */ V, V, V, V, V, V, V, V, V, V, V, V, V, V, V, V,
};

enum { METHOD_MAXIMUM = 32 };

/* A cursor over the head; `problem` is set once, by whoever finds it. */
struct parser {
    char *bytes;
    size_t position, end;
    struct http_head *head;
    const char *problem;
    uint32_t seen; /* bits of the fields that may come once */
};

static int refuse(struct parser *parser, const char *problem)
{
    parser->problem = problem;
    return -1;
}

static bool byte_is(char byte, uint8_t class)
{
    return (classes[(unsigned char)byte] & class) != 0;
}

static void skip_class(struct parser *parser, uint8_t class)
{
    while (parser->position < parser->end && byte_is(parser->bytes[parser->position], class))
        parser->position++;
}

/* The byte here must be `byte`; it becomes a NUL, so that what stands before it is a string. */
static bool end_string_at(struct parser *parser, char byte)
{
    if (parser->position >= parser->end || parser->bytes[parser->position] != byte)
        return false;
    parser->bytes[parser->position++] = '\0';
    return true;
}

static bool end_line(struct parser *parser)
{
    return end_string_at(parser, '\r') && end_string_at(parser, '\n');
}

/* ---- finding the end ------------------------------------------------------------------------------------------- */

enum http_scan http_head_find_end(const char *bytes, size_t size, size_t *scanned, size_t *ret_head_size, const char **ret_problem)
{
    if (size > 0 && !byte_is(bytes[0], IN_METHOD)) {
        *ret_problem = "The connection does not begin with an HTTP message.";
        return HTTP_SCAN_BAD;
    }
    while (*scanned < size) {
        const char *line_feed = memchr(bytes + *scanned, '\n', size - *scanned);
        size_t at;
        if (line_feed == NULL) {
            *scanned = size;
            break;
        }
        at = (size_t)(line_feed - bytes);
        if (bytes[at - 1] != '\r') {
            *ret_problem = "A line of the head ends in a bare line feed.";
            return HTTP_SCAN_BAD;
        }
        *scanned = at + 1;
        if (at >= 3 && bytes[at - 2] == '\n') {
            if (at + 1 > LIMIT_HTTP_HEAD)
                break;
            *ret_head_size = at + 1;
            return HTTP_SCAN_DONE;
        }
    }
    if (*scanned > LIMIT_HTTP_HEAD) {
        *ret_problem = "The head is larger than 16 KiB.";
        return HTTP_SCAN_BAD;
    }
    return HTTP_SCAN_MORE;
}

/* ---- percent encoding ------------------------------------------------------------------------------------------ */

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    return -1;
}

/* The byte that the escape at text stands for; -1 when malformed or NUL. */
static int escaped_byte(const char *text, size_t length)
{
    int high, low;

    if (length < 3)
        return -1;
    high = hex_value(text[1]);
    low = hex_value(text[2]);
    if (high < 0 || low < 0 || high * 16 + low == 0)
        return -1;
    return high * 16 + low;
}

int http_percent_decode(char *text, size_t length, bool plus_is_space)
{
    size_t to = 0;

    for (size_t from = 0; from < length; from++) {
        char byte = text[from];
        if (byte == '%') {
            int decoded = escaped_byte(text + from, length - from);
            if (decoded < 0)
                return -1;
            byte = (char)decoded;
            from += 2;
        } else if (byte == '+' && plus_is_space) {
            byte = ' ';
        }
        text[to++] = byte;
    }
    return (int)to;
}

static bool escapes_are_valid(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '%' && escaped_byte(text + i, length - i) < 0)
            return false;
    }
    return true;
}

/* ---- start lines ----------------------------------------------------------------------------------------------- */

static int parse_version(struct parser *parser)
{
    static const char prefix[] = "HTTP/1.";
    const size_t prefix_length = sizeof(prefix) - 1;
    const char *at = parser->bytes + parser->position;

    if (parser->end - parser->position < prefix_length + 1 || memcmp(at, prefix, prefix_length) != 0 ||
        (at[prefix_length] != '0' && at[prefix_length] != '1'))
        return refuse(parser, "The HTTP version is not 1.0 or 1.1.");
    parser->head->minor = (uint8_t)(at[prefix_length] - '0');
    parser->position += prefix_length + 1;
    return 0;
}

static int parse_target(struct parser *parser)
{
    const size_t start = parser->position;
    char *target = parser->bytes + start;
    char *question;
    size_t length, path_length;
    int decoded;

    skip_class(parser, IN_TARGET);
    length = parser->position - start;
    if (!end_string_at(parser, ' '))
        return refuse(parser, "The request target has a character that must be encoded, or no version follows it.");
    if (target[0] != '/' && !(string_equal(target, "*") && string_equal(parser->bytes + parser->head->method, "OPTIONS")))
        return refuse(parser, "The request target does not begin with '/'.");
    question = memchr(target, '?', length);
    path_length = question == NULL ? length : (size_t)(question - target);
    if (question != NULL) {
        if (!escapes_are_valid(question + 1, length - path_length - 1))
            return refuse(parser, "The query has a malformed percent escape.");
        parser->head->query = (uint16_t)(start + path_length + 1);
    }
    decoded = http_percent_decode(target, path_length, false);
    if (decoded < 0)
        return refuse(parser, "The path has a malformed percent escape.");
    target[decoded] = '\0';
    parser->head->path = (uint16_t)start;
    return 0;
}

static int parse_request_line(struct parser *parser)
{
    parser->head->method = 0;
    skip_class(parser, IN_METHOD);
    if (parser->position == 0 || parser->position > METHOD_MAXIMUM || !end_string_at(parser, ' '))
        return refuse(parser, "The request line does not begin with a method.");
    if (parse_target(parser) != 0 || parse_version(parser) != 0)
        return -1;
    if (!end_line(parser))
        return refuse(parser, "The request line has something after the version.");
    return 0;
}

static int parse_status_line(struct parser *parser)
{
    int status = 0;

    if (parse_version(parser) != 0)
        return -1;
    if (!end_string_at(parser, ' '))
        return refuse(parser, "The status line has no status.");
    for (int i = 0; i < 3; i++) {
        if (parser->position >= parser->end || parser->bytes[parser->position] < '0' || parser->bytes[parser->position] > '9')
            return refuse(parser, "The status is not three digits.");
        status = status * 10 + (parser->bytes[parser->position++] - '0');
    }
    if (status < 100)
        return refuse(parser, "The status is below 100.");
    parser->head->status = status;
    if (parser->bytes[parser->position] == ' ')
        skip_class(parser, IN_VALUE); /* the reason, for nobody */
    if (!end_line(parser))
        return refuse(parser, "The status line is malformed.");
    return 0;
}

/* ---- fields ---------------------------------------------------------------------------------------------------- */

static int take_content_length(struct parser *parser, const char *value)
{
    uint64_t length;

    if (parse_uint64(value, &length) != 0 || length > INT64_MAX)
        return refuse(parser, "Content-Length is not one decimal number.");
    parser->head->length = (int64_t)length;
    return 0;
}

static int take_transfer_encoding(struct parser *parser, const char *value)
{
    if (strcasecmp(value, "chunked") != 0)
        return refuse(parser, "Transfer-Encoding is not 'chunked'.");
    if (parser->head->minor == 0)
        return refuse(parser, "HTTP/1.0 knows no Transfer-Encoding.");
    parser->head->chunked = true;
    return 0;
}

static int take_connection(struct parser *parser, const char *value)
{
    if (http_list_has(value, "close"))
        parser->head->connection_close = true;
    if (http_list_has(value, "upgrade"))
        parser->head->connection_upgrade = true;
    return 0;
}

static int take_expect(struct parser *parser, const char *value)
{
    if (strcasecmp(value, "100-continue") == 0)
        parser->head->expect_continue = true;
    else
        parser->head->expect_other = true;
    return 0;
}

static int take_nothing(struct parser *parser, const char *value)
{
    (void)parser;
    (void)value;
    return 0;
}

struct known_field {
    const char *name;
    uint8_t length;
    bool once; /* a second one is refused: which of them counts would be a guess */
    int (*take)(struct parser *parser, const char *value);
};

static const struct known_field known_fields[] = {
    { "host", 4, true, take_nothing },
    { "authorization", 13, true, take_nothing },
    { "origin", 6, true, take_nothing },
    { "content-type", 12, true, take_nothing },
    { "idempotency-key", 15, true, take_nothing },
    { "content-length", 14, true, take_content_length },
    { "transfer-encoding", 17, true, take_transfer_encoding },
    { "connection", 10, false, take_connection },
    { "expect", 6, true, take_expect },
};

static int take_known_field(struct parser *parser, const struct http_field *field)
{
    const char *name = parser->bytes + field->name;

    for (size_t i = 0; i < ARRAY_LENGTH(known_fields); i++) {
        const struct known_field *known = &known_fields[i];
        if (known->length != field->name_length || strcasecmp(known->name, name) != 0)
            continue;
        if (known->once && (parser->seen & (1u << i)) != 0)
            return refuse(parser, "A header that may come once came twice.");
        parser->seen |= 1u << i;
        return known->take(parser, parser->bytes + field->value);
    }
    return 0;
}

/* Whether only punctuation tells the name from one that decides the body's length ("Content_Length"): some front server may take it for
 * that. */
static bool name_is_deceptive(const char *name, size_t length)
{
    static const char *const imitated[] = { "contentlength", "transferencoding" };
    char letters[17];
    size_t count = 0;

    if (length < 13)
        return false;
    for (size_t i = 0; i < length; i++) {
        char lower = (char)(name[i] | 0x20);
        if (lower < 'a' || lower > 'z')
            continue;
        if (count == sizeof(letters) - 1)
            return false;
        letters[count++] = lower;
    }
    letters[count] = '\0';
    for (size_t i = 0; i < ARRAY_LENGTH(imitated); i++) {
        if (string_equal(letters, imitated[i]))
            return strcasecmp(name, i == 0 ? "content-length" : "transfer-encoding") != 0;
    }
    return false;
}

static int parse_field(struct parser *parser, struct http_field *field)
{
    const size_t name = parser->position;
    size_t value, value_end;

    skip_class(parser, IN_TOKEN);
    field->name = (uint16_t)name;
    field->name_length = (uint16_t)(parser->position - name);
    if (field->name_length == 0 || !end_string_at(parser, ':'))
        return refuse(parser, "A header's name is malformed.");
    if (name_is_deceptive(parser->bytes + name, field->name_length))
        return refuse(parser, "A header's name imitates one that decides the body's length.");
    while (parser->bytes[parser->position] == ' ' || parser->bytes[parser->position] == '\t')
        parser->position++;
    value = parser->position;
    skip_class(parser, IN_VALUE);
    value_end = parser->position;
    if (!end_line(parser))
        return refuse(parser, "A header's value has a control character.");
    while (value_end > value && (parser->bytes[value_end - 1] == ' ' || parser->bytes[value_end - 1] == '\t'))
        value_end--;
    parser->bytes[value_end] = '\0';
    field->value = (uint16_t)value;
    field->value_length = (uint16_t)(value_end - value);
    return 0;
}

static int parse_fields(struct parser *parser)
{
    struct http_head *head = parser->head;

    while (parser->bytes[parser->position] != '\r') {
        struct http_field *field;
        if (head->field_count == LIMIT_HTTP_HEADERS)
            return refuse(parser, "The head has more than 100 headers.");
        field = &head->fields[head->field_count];
        if (parse_field(parser, field) != 0 || take_known_field(parser, field) != 0)
            return -1;
        head->field_count++;
    }
    if (!end_line(parser) || parser->position != parser->end)
        return refuse(parser, "The head has a bare carriage return.");
    if (head->chunked && head->length >= 0)
        return refuse(parser, "The head has both Content-Length and Transfer-Encoding.");
    return 0;
}

static int parse_head(char *bytes, size_t head_size, int (*parse_start_line)(struct parser *), struct http_head *head,
                      const char **ret_problem)
{
    struct parser parser = { .bytes = bytes, .end = head_size, .head = head };

    memset(head, 0, offsetof(struct http_head, fields));
    head->length = -1;
    if (head_size < 4 || head_size > LIMIT_HTTP_HEAD || memcmp(bytes + head_size - 4, "\r\n\r\n", 4) != 0) {
        *ret_problem = "The head has no end.";
        return -1;
    }
    head->size = (uint16_t)head_size;
    if (parse_start_line(&parser) != 0 || parse_fields(&parser) != 0) {
        *ret_problem = parser.problem;
        return -1;
    }
    return 0;
}

int http_head_parse_request(char *bytes, size_t head_size, struct http_head *ret_head, const char **ret_problem)
{
    return parse_head(bytes, head_size, parse_request_line, ret_head, ret_problem);
}

int http_head_parse_response(char *bytes, size_t head_size, struct http_head *ret_head, const char **ret_problem)
{
    return parse_head(bytes, head_size, parse_status_line, ret_head, ret_problem);
}

/* ---- looking things up ----------------------------------------------------------------------------------------- */

const char *http_head_field(const struct http_head *head, const char *bytes, const char *name, size_t *position)
{
    const size_t length = strlen(name);

    for (; *position < head->field_count; ++*position) {
        const struct http_field *field = &head->fields[*position];
        if (field->name_length == length && strcasecmp(bytes + field->name, name) == 0) {
            ++*position;
            return bytes + field->value;
        }
    }
    return NULL;
}

bool http_list_has(const char *value, const char *token)
{
    const size_t length = strlen(token);

    for (const char *at = value; *at != '\0';) {
        const char *end;
        at += strspn(at, " \t,");
        end = at + strcspn(at, " \t,;");
        if ((size_t)(end - at) == length && strncasecmp(at, token, length) == 0)
            return true;
        at = end + strcspn(end, ",");
    }
    return false;
}
