/* Reading a request that was parsed: path, query, headers, body. Owns the copies made for it. */
#include "net/http_internal.h"
#include "util/memory.h"

const char *http_method(const struct http_request *request)
{
    return connection_head_bytes(request->connection) + request->head.method;
}

const char *http_path(const struct http_request *request)
{
    return connection_head_bytes(request->connection) + request->head.path;
}

/* ---- query ----------------------------------------------------------------------------------------------------- */

/* Splits at '&' and '=', then decodes: the escapes were found valid with the head. */
static void parse_query(struct http_request *request, const char *query)
{
    size_t pairs = 1;
    char *at;

    for (const char *byte = query; *byte != '\0'; byte++)
        pairs += *byte == '&';
    request->query_text = memory_strdup(query);
    request->query_pairs = memory_calloc(pairs, sizeof(*request->query_pairs));
    at = request->query_text;
    for (size_t i = 0; i < pairs; i++) {
        const size_t length = strcspn(at, "&");
        char *name = at, *value = NULL;
        int decoded;

        at += length + 1;
        name[length] = '\0';
        value = memchr(name, '=', length);
        if (value != NULL) {
            *value++ = '\0';
            decoded = http_percent_decode(value, strlen(value), true);
            value[decoded < 0 ? 0 : decoded] = '\0';
        }
        decoded = http_percent_decode(name, strlen(name), true);
        name[decoded < 0 ? 0 : decoded] = '\0';
        request->query_pairs[i] = (struct http_query_pair){ name, value == NULL ? "" : value };
    }
    request->query_count = pairs;
}

/* A const request learns its query at the first question: what the question answers does not change by it. */
static const struct http_query_pair *query_pairs(const struct http_request *request, size_t *ret_count)
{
    if (request->head.query == 0) {
        *ret_count = 0;
        return NULL;
    }
    if (request->query_pairs == NULL) {
        struct http_request *learning = &request->connection->request;
        parse_query(learning, connection_head_bytes(request->connection) + request->head.query);
    }
    *ret_count = request->query_count;
    return request->query_pairs;
}

const char *http_query(const struct http_request *request, const char *name)
{
    size_t count;
    const struct http_query_pair *pairs = query_pairs(request, &count);

    for (size_t i = 0; i < count; i++) {
        if (string_equal(pairs[i].name, name))
            return pairs[i].value;
    }
    return NULL;
}

bool http_query_has(const struct http_request *request, const char *name)
{
    size_t count;
    const struct http_query_pair *pairs = query_pairs(request, &count);

    for (size_t i = 0; i < count; i++) {
        if (strcasecmp(pairs[i].name, name) == 0)
            return true;
    }
    return false;
}

/* ---- headers and body ------------------------------------------------------------------------------------------ */

static const char *keep_joined(struct http_request *request, char *joined)
{
    request->joined = memory_realloc(request->joined, (request->joined_count + 1) * sizeof(*request->joined));
    request->joined[request->joined_count++] = joined;
    return joined;
}

const char *http_header(const struct http_request *request, const char *name)
{
    const char *bytes = connection_head_bytes(request->connection);
    size_t position = 0;
    const char *first = http_head_field(&request->head, bytes, name, &position);
    const char *more = first == NULL ? NULL : http_head_field(&request->head, bytes, name, &position);
    char *joined;

    if (more == NULL)
        return first;
    joined = memory_strdup(first);
    for (; more != NULL; more = http_head_field(&request->head, bytes, name, &position)) {
        char *longer = memory_printf("%s, %s", joined, more);
        free(joined);
        joined = longer;
    }
    return keep_joined(&request->connection->request, joined);
}

struct text http_body(const struct http_request *request)
{
    if (request->body != NULL)
        return (struct text){ request->body, request->body_length };
    return (struct text){ connection_head_bytes(request->connection) + request->head.size, request->body_length };
}

bool http_has_body(const struct http_request *request)
{
    return request->head.chunked || request->head.length > 0;
}

/* ---- the rest -------------------------------------------------------------------------------------------------- */

enum http_transport http_transport(const struct http_request *request)
{
    return request->connection->transport;
}

uint16_t http_local_port(const struct http_request *request)
{
    return request->connection->local_port;
}

const char *http_peer_address(const struct http_request *request)
{
    return request->connection->peer_address;
}

void http_set_user(struct http_request *request, void *user)
{
    request->user = user;
}

void *http_user(const struct http_request *request)
{
    return request->user;
}

int64_t http_started_us(const struct http_request *request)
{
    return request->started_us;
}

int http_status_of(const struct http_request *request)
{
    return request->status;
}

void request_release(struct http_request *request)
{
    free(request->body);
    free(request->query_text);
    free(request->query_pairs);
    for (size_t i = 0; i < request->joined_count; i++)
        free(request->joined[i]);
    free(request->joined);
    if (request->extra_headers.data != NULL)
        buffer_release(&request->extra_headers);
}
