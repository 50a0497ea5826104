/* The broker's HTTP: checks before any route in the order of 20-ipc, routes as a table, health, metrics, the status answer. Making and joining meshes is enrol.c's. */
#include "broker/web.h"

#include "broker/session.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { READY_MS = 2000 };

/* ---- new connections a second from one address ------------------------------------------------------------------------------- */

struct address_rate {
    struct table_node node;
    char *address;
    size_t count;
};

static bool is_address(const struct table_node *node, const void *key)
{
    return string_equal(((const struct address_rate *)(const void *)node)->address, key);
}

static void drop_address(void *argument, struct table_node *node)
{
    struct broker *broker = argument;
    struct address_rate *rate = (struct address_rate *)(void *)node;
    table_remove(&broker->addresses, node);
    free(rate->address);
    free(rate);
}

static bool count_address(struct broker *broker, const char *address)
{
    if (broker->figures.max_new_connections_per_second == 0)
        return true;
    int64_t second = clock_monotonic_ms() / 1000;
    if (second != broker->addresses_second) {
        table_each(&broker->addresses, drop_address, broker);
        broker->addresses_second = second;
    }
    uint64_t hash = table_hash_bytes(address, strlen(address));
    struct address_rate *rate = (struct address_rate *)(void *)table_find(&broker->addresses, hash, is_address, address);
    if (rate == NULL) {
        rate = memory_zalloc(sizeof(*rate));
        rate->address = memory_strdup(address);
        table_insert(&broker->addresses, &rate->node, hash);
    }
    return ++rate->count <= broker->figures.max_new_connections_per_second;
}

static bool is_trusted_proxy(const struct broker *broker, const char *address)
{
    for (size_t i = 0; i < broker->trusted_proxy_count; i++)
        if (string_equal(broker->trusted_proxies[i], address))
            return true;
    return false;
}

static bool admit(void *argument, const char *peer_address)
{
    struct broker *broker = argument;
    if (broker->connection_count + http_server_connection_count(broker->server) >= broker->figures.max_connections + BROKER_HTTP_SPARE)
        return false;
    return is_trusted_proxy(broker, peer_address) || count_address(broker, peer_address);
}

/* Behind a trusted proxy each request counts for whom it was forwarded: the last address, which that proxy wrote itself. */
static bool admit_forwarded(struct broker *broker, struct http_request *request)
{
    const char *forwarded = http_header(request, "X-Forwarded-For");
    if (forwarded == NULL || !is_trusted_proxy(broker, http_peer_address(request)))
        return true;
    const char *last = strrchr(forwarded, ',');
    last = last == NULL ? forwarded : last + 1;
    while (*last == ' ')
        last++;
    return count_address(broker, last);
}

void web_release(struct broker *broker)
{
    table_each(&broker->addresses, drop_address, broker);
    table_release(&broker->addresses);
}

/* ---- answers -------------------------------------------------------------------------------------------------------------------- */

void web_respond_json(struct http_request *request, int status, json_t *body)
{
    struct buffer text;
    buffer_init(&text, LIMIT_HTTP_RESPONSE);
    (void)json_print(body, &text);
    http_respond(request, status, NULL, text.data, text.length);
    buffer_release(&text);
    json_decref(body);
}

void web_call_begin(struct web_call *call, struct broker *broker, struct http_request *request)
{
    call->broker = broker;
    call->request = request;
    http_set_user(request, call);
}

struct http_request *web_call_end(struct web_call *call)
{
    struct http_request *request = call->request;
    call->request = NULL;
    loop_timer_free(call->timer);
    call->timer = NULL;
    if (request != NULL)
        http_set_user(request, NULL);
    return request;
}

static void gone(void *argument, struct http_request *request)
{
    (void)argument;
    struct web_call *call = http_user(request);
    if (call != NULL)
        call->request = NULL;
}

/* ---- health, metrics, status ------------------------------------------------------------------------------------------------------ */

static json_t *describe(const struct broker *broker, bool ok)
{
    json_t *body = json_new_object();
    json_put_bool(body, "ok", ok);
    json_put_string(body, "version", CLAUDEMESH_VERSION);
    json_put_integer(body, "connections", (int64_t)broker->connection_count);
    json_put_integer(body, "meshes", broker->mesh_count);
    json_put_integer(body, "meshes_online", (int64_t)broker->meshes.count);
    json_put_integer(body, "members_online", (int64_t)broker->members.count);
    return body;
}

static void handle_health(struct broker *broker, struct http_request *request, const json_t *body)
{
    (void)body;
    web_respond_json(request, 200, describe(broker, true));
}

struct ready_call {
    struct store_count store;
    struct web_call call;
};

static void not_ready(struct web_call *call)
{
    struct broker *broker = call->broker;
    struct http_request *request = web_call_end(call);
    if (request != NULL)
        web_respond_json(request, 503, describe(broker, false));
}

static void ready_overdue(void *argument)
{
    not_ready(argument);
}

static void ready_counted(struct store_request *base)
{
    struct ready_call *ready = CONTAINER_OF(CONTAINER_OF(base, struct store_count, request), struct ready_call, store);
    struct broker *broker = ready->call.broker;
    if (base->status != 0) {
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "ready"), LOG_TEXT("detail", base->error->message), LOG_END);
        not_ready(&ready->call);
    }
    struct http_request *request = web_call_end(&ready->call);
    if (request != NULL) {
        json_t *body = describe(broker, true);
        json_put_integer(body, "members", ready->store.members);
        json_put_integer(body, "deliveries", ready->store.deliveries);
        web_respond_json(request, 200, body);
    }
    free(ready);
}

static void handle_ready(struct broker *broker, struct http_request *request, const json_t *body)
{
    (void)body;
    struct ready_call *ready = memory_zalloc(sizeof(*ready));
    web_call_begin(&ready->call, broker, request);
    ready->call.timer = loop_timer_new(broker->loop, ready_overdue, &ready->call);
    loop_timer_start(ready->call.timer, READY_MS);
    ready->store.request.done = ready_counted;
    broker->store->operations->count(broker->store, &ready->store);
}

static void handle_metrics(struct broker *broker, struct http_request *request, const json_t *body)
{
    (void)body;
    struct buffer text;
    buffer_init(&text, LIMIT_HTTP_RESPONSE);
    metrics_print(broker, &text);
    http_respond(request, 200, "text/plain; version=0.0.4; charset=utf-8", text.data, text.length);
    buffer_release(&text);
}

static void handle_status(struct broker *broker, struct http_request *request, const json_t *unused)
{
    (void)unused;
    json_t *body = describe(broker, true);
    json_put_integer(body, "deliveries_waiting", broker->metrics.deliveries_waiting);
    json_put_integer(body, "accepted", (int64_t)broker->metrics.accepted[STORE_ACCEPTED]);
    web_respond_json(request, 200, body);
}

static void handle_websocket(struct broker *broker, struct http_request *request, const json_t *body)
{
    (void)body;
    if (broker->stopping) {
        http_respond_error(request, 503, "stopping", "The broker is stopping.");
        return;
    }
    session_accept(broker, request);
}

/* ---- routes ---------------------------------------------------------------------------------------------------------------------------- */

static const struct route {
    const char *method, *path;
    bool admin; /* the admin token, always (45-trust) */
    void (*handle)(struct broker *broker, struct http_request *request, const json_t *body);
} ROUTES[] = {
    { "GET", "/ws", false, handle_websocket },
    { "GET", "/health", false, handle_health },
    { "GET", "/health/ready", false, handle_ready },
    { "GET", "/metrics", false, handle_metrics },
    { "GET", "/", true, handle_status },
    { "POST", "/mesh", true, enrol_handle_mesh },
    { "POST", "/join", false, enrol_handle_join },
};

static const struct route *find_route(const struct http_request *request)
{
    for (size_t i = 0; i < ARRAY_LENGTH(ROUTES); i++)
        if (string_equal(ROUTES[i].path, http_path(request)) && string_equal(ROUTES[i].method, http_method(request)))
            return &ROUTES[i];
    return NULL;
}

static void refuse_route(struct http_request *request)
{
    for (size_t i = 0; i < ARRAY_LENGTH(ROUTES); i++)
        if (string_equal(ROUTES[i].path, http_path(request))) {
            http_add_header(request, "Allow", ROUTES[i].method);
            http_respond_error(request, 405, "method_not_allowed", "This path takes another method.");
            return;
        }
    http_respond_error(request, 404, "not_found", "There is nothing at this path.");
}

/* ---- checks, in the order of 20-ipc ----------------------------------------------------------------------------------------------- */

/* The path only when it is one of ours: what callers write into others may be a token. */
static void log_security(const char *event, const struct http_request *request)
{
    const struct route *route = find_route(request);
    log_event(LOG_LEVEL_WARN, event, LOG_SECURITY, LOG_TEXT("peer", http_peer_address(request)),
              LOG_TEXT("path", route != NULL ? route->path : "other"), LOG_END);
}

static bool check_query(struct http_request *request)
{
    static const char *const NAMES[] = { "token", "access_token", "api_key" };
    for (size_t i = 0; i < ARRAY_LENGTH(NAMES); i++)
        if (http_query_has(request, NAMES[i])) {
            log_security("token_in_query", request);
            http_respond_error(request, 400, "token_in_query", "A token never goes into a URL; send it in the Authorization header.");
            return false;
        }
    return true;
}

static bool check_host(const struct broker *broker, struct http_request *request)
{
    const char *host = http_header(request, "Host");
    if (host == NULL) {
        http_respond_error(request, 400, "bad_request", "The Host header is missing.");
        return false;
    }
    if (http_host_is_allowed(host, http_local_port(request), (const char *const *)broker->authorities, broker->authority_count))
        return true;
    log_security("forbidden_host", request);
    http_respond_error(request, 403, "forbidden_host", "This broker does not go by that name; list it in broker.public_urls if it should.");
    return false;
}

static bool check_origin(const struct broker *broker, struct http_request *request)
{
    bool allowlisted = false;
    const char *origin = http_header(request, "Origin");
    if (!http_origin_is_allowed(origin, http_header(request, "Sec-Fetch-Site"), broker->allowed_origins, broker->allowed_origin_count,
                                &allowlisted)) {
        log_security("forbidden_origin", request);
        http_respond_error(request, 403, "forbidden_origin", "Web pages of this origin may not use this broker.");
        return false;
    }
    if (allowlisted) {
        http_add_header(request, "Access-Control-Allow-Origin", origin);
        http_add_header(request, "Vary", "Origin");
    }
    if (!string_equal(http_method(request), "OPTIONS"))
        return true;
    if (allowlisted) {
        http_add_header(request, "Access-Control-Allow-Methods", "GET, POST");
        http_add_header(request, "Access-Control-Allow-Headers", "Authorization, Content-Type");
        http_respond(request, 204, NULL, "", 0);
    } else {
        http_respond_error(request, 403, "forbidden_origin", "Preflights are answered for allowed origins only.");
    }
    return false;
}

/* The token after "Bearer"; NULL: there is none. */
static const char *bearer_of(struct http_request *request)
{
    const char *authorization = http_header(request, "Authorization");
    if (authorization == NULL || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    authorization += 7;
    while (*authorization == ' ')
        authorization++;
    return *authorization == '\0' ? NULL : authorization;
}

/* Hashed first, so that neither the length nor the place of a difference shows in the time. */
static bool tokens_are_equal(const char *a, const char *b)
{
    struct sha256 first, second;
    sha256_of(a, strlen(a), &first);
    sha256_of(b, strlen(b), &second);
    return secret_equal(first.bytes, second.bytes, sizeof first.bytes);
}

static bool check_token(const struct broker *broker, struct http_request *request)
{
    const struct route *route = find_route(request);
    if (route == NULL || !route->admin)
        return true;
    const char *token = bearer_of(request);
    if (token != NULL && tokens_are_equal(token, broker->admin_token))
        return true;
    log_security(token == NULL ? "missing_token" : "invalid_token", request);
    if (token == NULL)
        http_respond_error(request, 401, "missing_token", "This takes the broker's admin token, as Authorization: Bearer.");
    else
        http_respond_error(request, 401, "invalid_token", "That is not this broker's admin token.");
    return false;
}

static bool check_rate(struct broker *broker, struct http_request *request)
{
    if (admit_forwarded(broker, request))
        return true;
    http_add_header(request, "Retry-After", "1");
    http_respond_error(request, 429, "rate_limited", "Too many new connections from this address.");
    return false;
}

static void check_head(void *argument, struct http_request *request)
{
    struct broker *broker = argument;
    if (check_query(request) && check_host(broker, request) && check_origin(broker, request) && check_token(broker, request))
        (void)check_rate(broker, request);
}

/* False: answered. *ret_body: a new reference, NULL when there is none. */
static bool read_body(struct http_request *request, json_t **ret_body)
{
    *ret_body = NULL;
    if (!http_has_body(request))
        return true;
    const char *type = http_header(request, "Content-Type");
    static const char JSON[] = "application/json";
    if (type != NULL && (strncasecmp(type, JSON, sizeof JSON - 1) != 0 || strchr("; \t", type[sizeof JSON - 1]) == NULL)) {
        http_respond_error(request, 415, "unsupported_media_type", "A body must be application/json.");
        return false;
    }
    struct text text = http_body(request);
    struct error error;
    if (json_parse_strict(text.data, text.length, ret_body, &error) != 0) {
        http_respond_error(request, 400, "malformed", error.message);
        return false;
    }
    return true;
}

static void serve(void *argument, struct http_request *request)
{
    struct broker *broker = argument;
    json_t *body;
    if (!read_body(request, &body))
        return;
    const struct route *route = find_route(request);
    if (route == NULL)
        refuse_route(request);
    else
        route->handle(broker, request, body);
    json_decref(body);
}

struct http_callbacks web_callbacks(struct broker *broker)
{
    return (struct http_callbacks){ .argument = broker, .head = check_head, .request = serve, .gone = gone, .admit = admit };
}
