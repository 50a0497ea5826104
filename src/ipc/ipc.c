/* Owns the API's set-up: server, meshes served, and the way of a request from its head through the checks to its route. Must not know what a route does. */
#include "ipc/internal.h"

#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- the checks before any route ------------------------------------------------------------------------------- */

static void log_refusal(const struct guard_request *view, const struct guard_refusal *refusal)
{
    log_event(LOG_LEVEL_WARN, refusal->code, LOG_TEXT("transport", view->transport == HTTP_TCP ? "tcp" : "unix"),
              LOG_TEXT("parameter", view->forbidden_parameter), LOG_TEXT("value", view->forbidden_parameter != NULL ? "[redacted]" : NULL),
              LOG_SECURITY, LOG_END);
}

/* Whoever may connect may be refused as often as it likes: that must not push out of the log what else was of concern. Each one is in the metrics. */
static bool may_log_refusal(struct refusal_log *log, int64_t now_ms)
{
    enum { MINUTE_MS = 60000, TOLD_A_MINUTE = 500 };
    if (log->told == 0 || now_ms - log->since_ms >= MINUTE_MS) {
        if (log->untold > 0)
            log_event(LOG_LEVEL_WARN, "refusals_not_logged", LOG_NUMBER("count", log->untold), LOG_SECURITY, LOG_END);
        *log = (struct refusal_log){ .since_ms = now_ms };
    }
    if (log->told == TOLD_A_MINUTE) {
        log->untold++;
        return false;
    }
    log->told++;
    return true;
}

static void answer_preflight(struct http_request *request)
{
    http_add_header(request, "Access-Control-Allow-Methods", "GET, POST");
    http_add_header(request, "Access-Control-Allow-Headers",
                    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Claudemesh-Nonce");
    http_add_header(request, "Access-Control-Max-Age", "600");
    http_respond(request, 204, NULL, "", 0);
}

static void answer_refusal(struct http_request *request, const struct guard_refusal *refusal)
{
    if (refusal->ask_for_bearer)
        http_add_header(request, "WWW-Authenticate", "Bearer realm=\"claudemesh\"");
    if (refusal->retry_after_s > 0) {
        char seconds[24];
        (void)snprintf(seconds, sizeof(seconds), "%" PRId64, refusal->retry_after_s);
        http_add_header(request, "Retry-After", seconds);
    }
    http_respond_error(request, refusal->status, refusal->code, refusal->detail);
}

static void on_head(void *argument, struct http_request *request)
{
    struct ipc *ipc = argument;
    struct ipc_capability *capability = NULL;
    struct guard_request view = {
        .transport = http_transport(request),
        .port = ipc->tcp_port,
        .method = http_method(request),
        .path = http_path(request),
        .host = http_header(request, "Host"),
        .origin = http_header(request, "Origin"),
        .sec_fetch_site = http_header(request, "Sec-Fetch-Site"),
        .authorization = http_header(request, "Authorization"),
        .capability = capability_of_request(ipc, request, &capability),
        .run_socket = http_narrow_owner(request) != NULL,
        .forbidden_parameter = guard_forbidden_parameter(request),
        .in_flight = http_server_busy_count(ipc->server),
        .streams = events_stream_count(ipc->events),
        .now_ms = clock_monotonic_ms(),
    };
    struct guard_refusal refusal;
    bool allowlisted;
    if (capability != NULL)
        capability->calls++;
    enum guard_result result = guard_check(&ipc->guard, &view, &refusal, &allowlisted);
    if (allowlisted) {
        http_add_header(request, "Access-Control-Allow-Origin", view.origin);
        http_add_header(request, "Vary", "Origin");
    }
    if (result == GUARD_PASSED)
        return;
    int status = result == GUARD_PREFLIGHT ? 204 : refusal.status;
    ipc_metrics_request(ipc->metrics, NULL, view.transport, status, clock_monotonic_us() - http_started_us(request));
    struct ipc_capability *run = capability != NULL ? capability : http_narrow_owner(request);
    if (refusal.security && (run == NULL ? may_log_refusal(&ipc->refusal_log, view.now_ms) : capability_may_tell(run)))
        log_refusal(&view, &refusal);
    if (result == GUARD_PREFLIGHT)
        answer_preflight(request);
    else
        answer_refusal(request, &refusal);
}

/* "application/json", with parameters or none. */
static bool is_json(const char *content_type)
{
    static const char JSON[] = "application/json";
    size_t length = sizeof(JSON) - 1;
    if (strncasecmp(content_type, JSON, length) != 0)
        return false;
    const char *rest = content_type + length;
    rest += strspn(rest, " \t");
    return *rest == '\0' || *rest == ';';
}

/* Check 6, once the body is there. False: answered. */
static bool read_body(struct exchange *exchange)
{
    struct text body = http_body(exchange->http);
    if (body.length == 0)
        return true;
    const char *content_type = http_header(exchange->http, "Content-Type");
    if (content_type != NULL && !is_json(content_type)) {
        exchange_fail(exchange, 415, "unsupported_media_type", "Bodies are JSON; send Content-Type: application/json.");
        return false;
    }
    struct error error;
    if (json_parse_strict(body.data, body.length, &exchange->body, &error) != 0) {
        exchange_fail(exchange, 400, "invalid_json", "The body cannot be read: %s", error.message);
        return false;
    }
    return true;
}

/* The capability that the guard saw, which may have ended while the body came. False: answered. */
static bool take_capability(struct exchange *exchange)
{
    struct ipc_capability *capability = NULL;
    enum capability_presented presented = capability_of_request(exchange->ipc, exchange->http, &capability);
    if (presented == CAPABILITY_BAD || (presented == CAPABILITY_ABSENT && http_narrow_owner(exchange->http) != NULL)) {
        exchange_fail(exchange, 401, "invalid_token", "The run of the hook that this capability was made for is over.");
        return false;
    }
    exchange->capability = capability_hold(capability);
    return true;
}

/* Posting to a topic is all that a capability may do beside sending, whose rights send.c looks at. False: answered. */
static bool capability_allows(struct exchange *exchange)
{
    if (exchange->capability == NULL || exchange->route->handle == route_send)
        return true;
    const char *topic = json_string_value(json_object_get(exchange->body, "topic"));
    if (strcmp(exchange->route->path, "/v1/topic/post") == 0 && topic != NULL &&
        capability_allows_topic(exchange->capability, *topic == '#' ? topic + 1 : topic))
        return true;
    exchange_fail(exchange, 403, "capability_scope", "The capability's scopes do not let it do this.");
    return false;
}

/* Check 7. False: answered. */
static bool find_route(struct exchange *exchange)
{
    char allow[ROUTE_ALLOW_SIZE];
    const char *path = http_path(exchange->http);
    exchange->route = route_find(http_method(exchange->http), path, &exchange->rest, allow);
    if (exchange->route != NULL)
        return true;
    if (allow[0] == '\0') {
        exchange_fail(exchange, 404, "not_found", "There is no such path; see docs/local-api.md for those that are.");
        return false;
    }
    http_add_header(exchange->http, "Allow", allow);
    exchange_fail(exchange, 405, "method_not_allowed", "This path takes %s.", allow);
    return false;
}

static void on_request(void *argument, struct http_request *request)
{
    struct ipc *ipc = argument;
    struct exchange *exchange = exchange_new(ipc, request);
    if (!take_capability(exchange) || !read_body(exchange) || !find_route(exchange))
        return;
    if (exchange->body == NULL && exchange->route->body == BODY_REQUIRED) {
        exchange_fail(exchange, 400, "invalid_json", "The body is empty; send a JSON object.");
        return;
    }
    if (exchange->body != NULL && !json_is_object(exchange->body)) {
        exchange_fail(exchange, 400, "invalid_request", "The body must be a JSON object.");
        return;
    }
    if (capability_allows(exchange))
        exchange->route->handle(exchange);
}

static void on_gone(void *argument, struct http_request *request)
{
    (void)argument;
    struct exchange *exchange = http_user(request);
    if (exchange == NULL)
        return;
    exchange->http = NULL;
    if (exchange->on_gone != NULL)
        exchange->on_gone(exchange);
}

/* ---- set-up -------------------------------------------------------------------------------------------------- */

int ipc_new(const struct ipc_options *options, struct ipc **ret_ipc, struct error *error)
{
    struct ipc *ipc = memory_zalloc(sizeof(*ipc));
    ipc->loop = options->loop;
    ipc->outbox = options->outbox;
    ipc->inbox = options->inbox;
    ipc->metrics = options->metrics;
    ipc->directory = memory_strdup(options->directory);
    ipc->control = options->control;
    ipc->schema_version = options->schema_version;
    ipc->disk_pct = -1;
    ipc->started_at_ms = clock_monotonic_ms();
    buffer_init(&ipc->scratch, BUFFER_UNLIMITED);
    guard_init(&ipc->guard, options->token);
    ipc_set_limits(ipc, &options->limits);
    ipc->waits = waits_new(ipc->loop);
    ipc->events = events_new(ipc);
    const struct http_callbacks callbacks = { .argument = ipc, .head = on_head, .request = on_request, .gone = on_gone };
    if (http_server_new(ipc->loop, &callbacks, LIMIT_HTTP_BODY, &ipc->server, error) != 0) {
        ipc_free(ipc);
        return -(int)error->code;
    }
    *ret_ipc = ipc;
    return 0;
}

void ipc_free(struct ipc *ipc)
{
    if (ipc == NULL)
        return;
    http_server_free(ipc->server); /* `gone` for what is left: the streams go with it */
    waits_free(ipc->waits);
    events_free(ipc->events);
    while (ipc->exchanges != NULL)
        exchange_drop(ipc->exchanges);
    ipc_release_meshes(ipc);
    guard_release(&ipc->guard);
    free(ipc->directory);
    buffer_release(&ipc->scratch);
    free(ipc);
}

void ipc_set_maximum(struct ipc *ipc, size_t connections)
{
    http_server_set_maximum(ipc->server, HTTP_UNIX, connections);
    http_server_set_maximum(ipc->server, HTTP_TCP, connections);
}

int ipc_listen_unix(struct ipc *ipc, const char *path, struct error *error)
{
    return http_server_listen_unix(ipc->server, path, error);
}

int ipc_listen_tcp(struct ipc *ipc, uint16_t port, uint16_t *ret_port, struct error *error)
{
    int status = http_server_listen_tcp(ipc->server, "127.0.0.1", port, NULL, &ipc->tcp_port, error);
    if (status == 0)
        *ret_port = ipc->tcp_port;
    return status;
}

void ipc_set_disk_pct(struct ipc *ipc, int pct)
{
    ipc->disk_pct = pct;
}

void ipc_set_limits(struct ipc *ipc, const struct ipc_limits *limits)
{
    ipc->guard.max_in_flight = limits->max_in_flight;
    ipc->guard.max_streams = limits->max_streams;
    ipc->guard.public_health_check = limits->public_health_check;
    guard_set_rate(&ipc->guard, limits->rate_limit_rps, limits->rate_limit_burst, clock_monotonic_ms());
    guard_set_origins(&ipc->guard, limits->allowed_origins, limits->allowed_origin_count);
}

void ipc_set_token(struct ipc *ipc, const char *token)
{
    guard_set_token(&ipc->guard, token, clock_monotonic_ms(), IPC_OLD_TOKEN_MS);
}

void ipc_stop_accepting(struct ipc *ipc)
{
    ipc->stopping = true;
    http_server_stop_accepting(ipc->server);
    events_end_all(ipc->events);
    waits_end_all(ipc->waits);
}

void ipc_set_guard(struct ipc *ipc, const struct send_guard *guard)
{
    ipc->send_guard = *guard;
}

size_t ipc_busy(const struct ipc *ipc)
{
    return http_server_busy_count(ipc->server);
}
