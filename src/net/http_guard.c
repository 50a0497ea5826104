/* The two checks of 20-ipc "Before any route" that look at one header each: Host (against DNS rebinding) and Origin (against web pages).
 * Pure. */
#include "net/http_server.h"

struct authority {
    struct text host; /* with its brackets */
    bool has_port;
    uint16_t port;
};

static int parse_authority(const char *text, struct authority *ret_authority)
{
    const char *end = text[0] == '[' ? strchr(text, ']') : text + strcspn(text, ":");
    uint64_t port = 0;

    if (end == NULL)
        return -1;
    if (text[0] == '[')
        end++;
    ret_authority->host = (struct text){ text, (size_t)(end - text) };
    ret_authority->has_port = *end == ':';
    if (ret_authority->host.length == 0 || (*end != ':' && *end != '\0'))
        return -1;
    if (ret_authority->has_port && (parse_uint64(end + 1, &port) != 0 || port == 0 || port > UINT16_MAX))
        return -1;
    ret_authority->port = (uint16_t)port;
    return 0;
}

static bool host_equal(struct text a, struct text b)
{
    return a.length == b.length && strncasecmp(a.data, b.data, a.length) == 0;
}

static bool is_local_name(struct text host)
{
    static const char *const names[] = { "localhost", "127.0.0.1", "[::1]" };

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        if (host_equal(host, text_from(names[i])))
            return true;
    }
    return false;
}

bool http_host_is_allowed(const char *host, uint16_t local_port, const char *const *allowed, size_t allowed_count)
{
    struct authority asked, listed;

    if (host == NULL || parse_authority(host, &asked) != 0)
        return false;
    if (is_local_name(asked.host) && (!asked.has_port || local_port == 0 || asked.port == local_port))
        return true;
    for (size_t i = 0; i < allowed_count; i++) {
        if (parse_authority(allowed[i], &listed) == 0 && host_equal(asked.host, listed.host) &&
            (!asked.has_port || !listed.has_port || asked.port == listed.port))
            return true;
    }
    return false;
}

bool http_origin_is_allowed(const char *origin, const char *sec_fetch_site, const char *const *allowed, size_t allowed_count,
                            bool *ret_allowlisted)
{
    *ret_allowlisted = false;
    if (origin == NULL)
        return sec_fetch_site == NULL || string_equal(sec_fetch_site, "none");
    for (size_t i = 0; i < allowed_count; i++) {
        if (strcasecmp(origin, allowed[i]) == 0) {
            *ret_allowlisted = true;
            return true;
        }
    }
    return false;
}
