/* The URLs of brokers: ws, wss, http, https; host, port, path. Stricter than RFC 3986: no user, no fragment, nothing that would need
 * escaping. */
#include "net/websocket.h"
#include "util/memory.h"

struct scheme {
    const char *prefix;
    bool tls;
    uint16_t port;
};

static const struct scheme schemes[] = {
    { "ws://", false, 80 },
    { "wss://", true, 443 },
    { "http://", false, 80 },
    { "https://", true, 443 },
};

static const struct scheme *find_scheme(const char *url)
{
    for (size_t i = 0; i < ARRAY_LENGTH(schemes); i++) {
        if (strncasecmp(url, schemes[i].prefix, strlen(schemes[i].prefix)) == 0)
            return &schemes[i];
    }
    return NULL;
}

static bool is_printable(const char *text)
{
    for (const char *byte = text; *byte != '\0'; byte++) {
        if (*byte <= 0x20 || *byte >= 0x7f)
            return false;
    }
    return true;
}

static bool is_host(const char *host, size_t length, bool bracketed)
{
    const char *allowed = bracketed ? "0123456789abcdefABCDEF:." : "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._";

    return length > 0 && length <= 253 && strspn(host, allowed) >= length;
}

static int parse_port(const char *text, size_t length, uint16_t *ret_port)
{
    char *digits = memory_strndup(text, length);
    uint64_t port = 0;
    const int result = parse_uint64(digits, &port);

    free(digits);
    if (result != 0 || port == 0 || port > UINT16_MAX)
        return -1;
    *ret_port = (uint16_t)port;
    return 0;
}

int url_parse(const char *url, struct url_parts *ret_parts, struct error *error)
{
    const struct scheme *scheme = find_scheme(url);
    const char *authority, *host, *host_end, *authority_end;
    uint16_t port;
    bool bracketed;

    if (scheme == NULL)
        return error_set(error, ERROR_INVALID, "A broker's URL begins with ws:// or wss://.");
    if (!is_printable(url) || strchr(url, '#') != NULL)
        return error_set(error, ERROR_INVALID, "The URL has a character that does not belong there.");
    authority = url + strlen(scheme->prefix);
    authority_end = authority + strcspn(authority, "/?");
    bracketed = authority[0] == '[';
    host = authority + (bracketed ? 1 : 0);
    host_end = host + strcspn(host, bracketed ? "]/?" : ":/?");
    if (!is_host(host, (size_t)(host_end - host), bracketed) || (bracketed && *host_end != ']'))
        return error_set(error, ERROR_INVALID, "The URL has no valid host.");
    port = scheme->port;
    authority = host_end + (bracketed ? 1 : 0);
    if (authority < authority_end && (*authority != ':' || parse_port(authority + 1, (size_t)(authority_end - authority - 1), &port) != 0))
        return error_set(error, ERROR_INVALID, "The URL has no valid port.");
    ret_parts->tls = scheme->tls;
    ret_parts->host = memory_strndup(host, (size_t)(host_end - host));
    ret_parts->port = port;
    ret_parts->path = *authority_end == '/' ? memory_strdup(authority_end) : memory_printf("/%s", authority_end);
    return 0;
}

void url_parts_release(struct url_parts *parts)
{
    if (parts == NULL)
        return;
    free(parts->host);
    free(parts->path);
    parts->host = parts->path = NULL;
}
