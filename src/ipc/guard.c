/* Owns the order of the checks before any route and what each says. Must not answer, log or look at bodies: ipc.c does. */
#include "ipc/guard.h"

#include "crypto/crypto.h"
#include "util/memory.h"
#include "util/text.h"

void guard_init(struct guard *guard, const char *token)
{
    *guard = (struct guard){ .token = memory_strdup(token), .token_length = strlen(token) };
}

static void forget_token(char **token)
{
    if (*token != NULL)
        secret_wipe(*token, strlen(*token));
    free(*token);
    *token = NULL;
}

void guard_set_token(struct guard *guard, const char *token, int64_t now_ms, int64_t grace_ms)
{
    size_t last = ARRAY_LENGTH(guard->old_tokens) - 1;
    forget_token(&guard->old_tokens[last].token);
    memmove(&guard->old_tokens[1], &guard->old_tokens[0], last * sizeof(guard->old_tokens[0]));
    guard->old_tokens[0] = (struct guard_old_token){ guard->token, now_ms + grace_ms };
    guard->token = memory_strdup(token);
    guard->token_length = strlen(token);
}

size_t guard_old_tokens(const struct guard *guard, int64_t now_ms, const char **ret_tokens, size_t maximum)
{
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(guard->old_tokens) && count < maximum; i++)
        if (guard->old_tokens[i].token != NULL && now_ms < guard->old_tokens[i].until_ms)
            ret_tokens[count++] = guard->old_tokens[i].token;
    return count;
}

static void release_origins(struct guard *guard)
{
    for (size_t i = 0; i < guard->allowed_origin_count; i++)
        free(guard->allowed_origins[i]);
    free(guard->allowed_origins);
    guard->allowed_origins = NULL;
    guard->allowed_origin_count = 0;
}

void guard_release(struct guard *guard)
{
    if (guard == NULL)
        return;
    release_origins(guard);
    forget_token(&guard->token);
    for (size_t i = 0; i < ARRAY_LENGTH(guard->old_tokens); i++)
        forget_token(&guard->old_tokens[i].token);
    *guard = (struct guard){ 0 };
}

void guard_set_rate(struct guard *guard, int64_t requests_per_second, int64_t burst, int64_t now_ms)
{
    if (guard->rate_limit_rps == requests_per_second && guard->rate_limit_burst == burst)
        return;
    guard->rate_limit_rps = requests_per_second;
    guard->rate_limit_burst = burst;
    guard->bucket = (struct guard_bucket){ burst * 1000, now_ms };
}

void guard_set_origins(struct guard *guard, const char *const *origins, size_t count)
{
    release_origins(guard);
    guard->allowed_origins = memory_calloc(count + 1, sizeof(*guard->allowed_origins));
    for (size_t i = 0; i < count; i++)
        guard->allowed_origins[i] = memory_strdup(origins[i]);
    guard->allowed_origin_count = count;
}

const char *guard_forbidden_parameter(const struct http_request *request)
{
    static const char *const NAMES[] = { "token", "access_token", "api_key" };
    for (size_t i = 0; i < ARRAY_LENGTH(NAMES); i++)
        if (http_query_has(request, NAMES[i]))
            return NAMES[i];
    return NULL;
}

/* ---- one function a check: true lets the request go on to the next ---------------------------------------------------- */

struct guard_case {
    struct guard *guard;
    const struct guard_request *request;
    struct guard_refusal *refusal;
    bool allowlisted, preflight;
};

static bool refuse(struct guard_case *this, int status, const char *code, const char *detail)
{
    this->refusal->status = status;
    this->refusal->code = code;
    this->refusal->detail = detail;
    return false;
}

static bool refuse_for_security(struct guard_case *this, int status, const char *code, const char *detail)
{
    this->refusal->security = true;
    return refuse(this, status, code, detail);
}

static bool refuse_for_now(struct guard_case *this, const char *code, const char *detail, int64_t retry_after_s)
{
    this->refusal->retry_after_s = retry_after_s;
    return refuse(this, 429, code, detail);
}

static bool check_query(struct guard_case *this)
{
    if (this->request->forbidden_parameter == NULL)
        return true;
    return refuse_for_security(this, 400, "token_in_query",
                               "A query string ends up in logs and histories; send the token in the Authorization header, and change it "
                               "with `claudemesh daemon rotate-token`.");
}

static bool check_host(struct guard_case *this)
{
    const struct guard_request *request = this->request;
    if (request->host == NULL) {
        if (request->transport == HTTP_UNIX)
            return true;
        return refuse(this, 400, "bad_request", "The Host header is missing; send localhost or 127.0.0.1.");
    }
    if (http_host_is_allowed(request->host, request->port, NULL, 0))
        return true;
    return refuse_for_security(this, 403, "forbidden_host",
                               "The Host header must be localhost, 127.0.0.1 or [::1], with this daemon's port or none.");
}

static bool check_origin(struct guard_case *this)
{
    const struct guard_request *request = this->request;
    const char *const *allowed = (const char *const *)this->guard->allowed_origins;
    if (http_origin_is_allowed(request->origin, request->sec_fetch_site, allowed, this->guard->allowed_origin_count, &this->allowlisted))
        return true;
    return refuse_for_security(this, 403, "forbidden_origin",
                               "Web pages may not use this API; list the page's origin in [ipc] allowed_origins if it should.");
}

static bool check_options(struct guard_case *this)
{
    if (strcmp(this->request->method, "OPTIONS") != 0)
        return true;
    this->preflight = this->allowlisted;
    if (this->preflight)
        return false;
    return refuse(this, 403, "forbidden_origin", "OPTIONS is answered for the origins in [ipc] allowed_origins alone.");
}

static bool is_get(const struct guard_request *request, const char *path)
{
    return strcmp(request->method, "GET") == 0 && strcmp(request->path, path) == 0;
}

/* The token after "Bearer", or NULL. */
static const char *bearer_of(const char *authorization)
{
    if (authorization == NULL || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    const char *token = authorization + 7;
    while (*token == ' ')
        token++;
    return *token == '\0' ? NULL : token;
}

/* A capability has its own rights wherever it is presented, and those of nobody else (60-hooks). *ret_decided: the bearer is not asked for. */
static bool check_capability(struct guard_case *this, bool *ret_decided)
{
    const struct guard_request *request = this->request;
    *ret_decided = true;
    if (request->capability == CAPABILITY_GOOD)
        return true;
    if (request->capability == CAPABILITY_BAD)
        return refuse_for_security(
            this, 401, "invalid_token",
            "The capability is unknown here, or its run is over; it is good for one run of one hook, for 5 minutes.");
    if (request->run_socket)
        return refuse(this, 401, "missing_token",
                      "This socket is one run's of a hook: send `Authorization: Capability <token>` with $CLAUDEMESH_CAPABILITY_TOKEN.");
    *ret_decided = false;
    return true;
}

static bool needs_no_bearer(const struct guard *guard, const struct guard_request *request)
{
    if (request->transport == HTTP_UNIX)
        return true; /* the peer's credentials were checked when it connected */
    return is_get(request, "/v1/prove") || (guard->public_health_check && is_get(request, "/v1/health"));
}

/* In constant time but for how many there are. */
static bool is_valid_token(const struct guard *guard, const char *token, int64_t now_ms)
{
    const char *old[ARRAY_LENGTH(guard->old_tokens)];
    size_t length = strlen(token), count = guard_old_tokens(guard, now_ms, old, ARRAY_LENGTH(old));
    bool valid = length == guard->token_length && secret_equal(token, guard->token, length);
    for (size_t i = 0; i < count; i++)
        valid = (length == strlen(old[i]) && secret_equal(token, old[i], length)) || valid;
    return valid;
}

static bool check_bearer(struct guard_case *this)
{
    bool decided, passed = check_capability(this, &decided);
    if (decided)
        return passed;
    if (needs_no_bearer(this->guard, this->request))
        return true;
    const char *token = bearer_of(this->request->authorization);
    this->refusal->ask_for_bearer = true;
    if (token == NULL)
        return refuse(this, 401, "missing_token",
                      "Send `Authorization: Bearer <token>`; the token is in daemon/local-token of the configuration directory.");
    if (is_valid_token(this->guard, token, this->request->now_ms)) {
        this->refusal->ask_for_bearer = false;
        return true;
    }
    return refuse_for_security(this, 401, "invalid_token",
                               "The token is not this daemon's; read it again from daemon/local-token of the configuration directory.");
}

/* Half of the places are no hook's: a run that keeps its requests open must not shut the API to everybody else (60-hooks). */
static bool check_in_flight(struct guard_case *this)
{
    size_t most = this->guard->max_in_flight;
    if (this->request->capability == CAPABILITY_GOOD)
        most -= most / 2;
    if (this->request->in_flight <= most)
        return true;
    return refuse_for_now(this, "daemon_busy", "Too many requests wait for an answer; try again in a second.", 1);
}

static bool check_streams(struct guard_case *this)
{
    if (!is_get(this->request, "/v1/events") || this->request->streams < this->guard->max_streams)
        return true;
    return refuse_for_now(this, "too_many_streams", "Too many event streams are open; close one and try again.", 5);
}

static bool check_rate(struct guard_case *this)
{
    struct guard *guard = this->guard;
    struct guard_bucket *bucket = &guard->bucket;
    if (this->request->transport != HTTP_TCP || guard->rate_limit_rps == 0 || guard->rate_limit_burst == 0)
        return true;
    int64_t full = guard->rate_limit_burst * 1000;
    int64_t elapsed_ms = this->request->now_ms - bucket->filled_at_ms;
    bucket->filled_at_ms = this->request->now_ms;
    /* Long idle times would overflow the product, and fill the bucket anyway. */
    bucket->level_milli = elapsed_ms > full / guard->rate_limit_rps ? full : bucket->level_milli + elapsed_ms * guard->rate_limit_rps;
    if (bucket->level_milli > full)
        bucket->level_milli = full;
    if (bucket->level_milli >= 1000) {
        bucket->level_milli -= 1000;
        return true;
    }
    int64_t missing_ms = (1000 - bucket->level_milli) / guard->rate_limit_rps;
    return refuse_for_now(this, "rate_limited", "Too many requests with this token; wait, or use the Unix socket, which has no rate limit.",
                          missing_ms / 1000 + 1);
}

/* What a capability is good for stands in the body, and is judged there; what it is never good for ends here, and was counted by the limits. */
static bool check_scope(struct guard_case *this)
{
    const struct guard_request *request = this->request;
    bool sends =
        strcmp(request->method, "POST") == 0 && (strcmp(request->path, "/v1/send") == 0 || strcmp(request->path, "/v1/topic/post") == 0);
    if (request->capability != CAPABILITY_GOOD || sends)
        return true;
    return refuse_for_security(this, 403, "capability_scope",
                               "A capability only sends, as its scopes say: POST /v1/send or POST /v1/topic/post; it reads nothing.");
}

/* First failure answers (20-ipc, Before any route). */
static bool (*const CHECKS[])(struct guard_case *) = {
    check_query, check_host, check_origin, check_options, check_bearer, check_in_flight, check_streams, check_rate, check_scope,
};

enum guard_result guard_check(struct guard *guard, const struct guard_request *request, struct guard_refusal *ret_refusal,
                              bool *ret_allowlisted)
{
    struct guard_case this = { .guard = guard, .request = request, .refusal = ret_refusal };
    *ret_refusal = (struct guard_refusal){ 0 };
    enum guard_result result = GUARD_PASSED;
    for (size_t i = 0; i < ARRAY_LENGTH(CHECKS); i++) {
        if (!CHECKS[i](&this)) {
            result = this.preflight ? GUARD_PREFLIGHT : GUARD_REFUSED;
            break;
        }
    }
    *ret_allowlisted = this.allowlisted;
    return result;
}
