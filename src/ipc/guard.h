/* The checks of 20-ipc "Before any route", 1 to 5, as an ordered table. Pure: judges a plain view of a request, answers nothing itself. */
#ifndef IPC_GUARD_H
#define IPC_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/capability.h"
#include "net/http_server.h"

/* A token bucket in thousandths of a request. */
struct guard_bucket {
    int64_t level_milli, filled_at_ms;
};

struct guard {
    char *token; /* heap; wiped */
    size_t token_length;
    struct guard_old_token { /* rotated out, and still good for a while; the newest first */
        char *token;         /* NULL none; wiped */
        int64_t until_ms;    /* monotonic */
    } old_tokens[4];
    char **allowed_origins;
    size_t allowed_origin_count;
    size_t max_in_flight, max_streams;
    int64_t rate_limit_rps, rate_limit_burst;
    bool public_health_check;
    struct guard_bucket bucket;
};
void guard_init(struct guard *guard, const char *token);
void guard_release(struct guard *guard);
/* The one before stays good for grace_ms. More than fit: the oldest ends early. */
void guard_set_token(struct guard *guard, const char *token, int64_t now_ms, int64_t grace_ms);
/* Those still good at now_ms, for a proof to who has no newer one. Borrowed; returns how many. */
size_t guard_old_tokens(const struct guard *guard, int64_t now_ms, const char **ret_tokens, size_t maximum);
/* A changed rate starts with a full bucket. */
void guard_set_rate(struct guard *guard, int64_t requests_per_second, int64_t burst, int64_t now_ms);
void guard_set_origins(struct guard *guard, const char *const *origins, size_t count);

struct guard_request { /* header values NULL when absent */
    enum http_transport transport;
    uint16_t port; /* the TCP port in use; 0 none */
    const char *method, *path, *host, *origin, *sec_fetch_site, *authorization;
    enum capability_presented capability; /* presented in `authorization` */
    bool run_socket;                      /* it came in on the socket of one run of a hook */
    const char *forbidden_parameter;      /* the first of token, access_token, api_key that the query holds; NULL */
    size_t in_flight;                     /* with this one */
    size_t streams;                       /* open now */
    int64_t now_ms;                       /* monotonic */
};

enum guard_result { GUARD_PASSED, GUARD_REFUSED, GUARD_PREFLIGHT };
struct guard_refusal {
    int status;
    const char *code, *detail;
    int64_t retry_after_s; /* 0: no header */
    bool ask_for_bearer;   /* WWW-Authenticate */
    bool security;         /* a line in the security log */
};
/* *ret_allowlisted: the origin is in the allowlist: it gets Access-Control-Allow-Origin whatever the result. */
enum guard_result guard_check(struct guard *guard, const struct guard_request *request, struct guard_refusal *ret_refusal,
                              bool *ret_allowlisted) MUST_CHECK;

/* The name of a secret that must not stand in a query, or NULL. */
const char *guard_forbidden_parameter(const struct http_request *request);

#endif
