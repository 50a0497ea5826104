/* Brokers' URLs, and the guards on Host and Origin: what parses prints as a URL that parses to the same parts, and no spelling of another host passes for ours. */
#include "fuzz.h"
#include "net/http_server.h"
#include "net/websocket.h"
#include "proto/invite_fields.h"
#include "util/text.h"

static void check_url(const char *url)
{
    struct url_parts parts = { .host = NULL, .port = 0 }, again = { .host = NULL };
    struct error error = { .code = ERROR_NONE };

    if (url_parse(url, &parts, &error) != 0) {
        REQUIRE(parts.host == NULL && parts.path == NULL && parts.port == 0 && error.code == ERROR_INVALID);
        return;
    }
    REQUIRE(parts.port > 0 && parts.host[0] != '\0' && parts.path[0] == '/' && strpbrk(parts.host, "/?#@[] \r\n\t") == NULL);
    REQUIRE(strpbrk(parts.path, " #\r\n\t") == NULL);
    const bool bracketed = strchr(parts.host, ':') != NULL;
    char *printed = memory_printf("%s://%s%s%s:%u%s", parts.tls ? "wss" : "ws", bracketed ? "[" : "", parts.host, bracketed ? "]" : "",
                                  parts.port, parts.path);
    REQUIRE(url_parse(printed, &again, &error) == 0);
    REQUIRE(again.tls == parts.tls && again.port == parts.port && string_equal(again.host, parts.host) &&
            string_equal(again.path, parts.path));
    (void)host_is_loopback(parts.host);
    free(printed);
    url_parts_release(&again);
    url_parts_release(&parts);
}

/* Without an allowlist exactly these are allowed. */
static bool names_us(const char *host)
{
    static const char *const NAMES[] = { "localhost", "127.0.0.1", "[::1]" };

    for (size_t i = 0; i < ARRAY_LENGTH(NAMES); i++) {
        const size_t length = strlen(NAMES[i]);
        if (strncasecmp(host, NAMES[i], length) != 0)
            continue;
        const char *rest = host + length;
        if (*rest == '\0' || (*rest == ':' && string_equal(rest + 1 + strspn(rest + 1, "0"), "47823")))
            return true;
    }
    return false;
}

static void check_host(const char *host)
{
    static const char *const ALLOWED[] = { "mesh.example.org", "mesh.example.org:8443" };

    REQUIRE(http_host_is_allowed(host, 47823, NULL, 0) == names_us(host));
    if (http_host_is_allowed(host, 47823, ALLOWED, ARRAY_LENGTH(ALLOWED)))
        REQUIRE(names_us(host) || strncasecmp(host, "mesh.example.org", 16) == 0);
}

static void check_origin(const char *origin, const char *site)
{
    static const char *const ALLOWED[] = { "https://app.example.org" };
    bool listed = true;

    if (http_origin_is_allowed(origin, NULL, ALLOWED, 1, &listed))
        REQUIRE(listed && strcasecmp(origin, ALLOWED[0]) == 0);
    listed = true;
    if (http_origin_is_allowed(NULL, site, ALLOWED, 1, &listed))
        REQUIRE(!listed && string_equal(site, "none"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    char *text = fuzz_take_string(&input, '\0');

    check_url(text);
    check_host(text);
    check_origin(text, text);
    if (invite_broker_url_is_valid(text))
        REQUIRE(strchr(text, '|') == NULL && strpbrk(text, " \t\r\n") == NULL);
    free(text);
    return 0;
}
