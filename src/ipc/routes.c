/* Owns which path is served by which function. Must not know how. */
#include "ipc/routes.h"

#include "util/attributes.h"
#include "util/text.h"

const struct route ROUTES[] = {
    { "POST", "/v1/send", route_send, BODY_REQUIRED },
    { "GET", "/v1/version", route_version, BODY_NONE },
    { "GET", "/v1/compat", route_compat, BODY_NONE },
    { "GET", "/v1/health", route_health, BODY_NONE },
    { "GET", "/v1/prove", route_prove, BODY_NONE },
    { "GET", "/v1/metrics", route_metrics, BODY_NONE },
    { "POST", "/v1/daemon/reload", route_daemon_reload, BODY_OPTIONAL },
    { "GET", "/v1/daemon/settings", route_daemon_settings, BODY_NONE },
    { "POST", "/v1/topic/post", route_not_implemented, BODY_OPTIONAL },
    { "POST", "/v1/topic/create", route_not_implemented, BODY_OPTIONAL },
    { "POST", "/v1/topic/subscribe", route_not_implemented, BODY_OPTIONAL },
    { "POST", "/v1/topic/unsubscribe", route_not_implemented, BODY_OPTIONAL },
    { "GET", "/v1/topic/list", route_not_implemented, BODY_NONE },
    { "GET", "/v1/topic/history", route_not_implemented, BODY_NONE },
    { "GET", "/v1/inbox", route_inbox, BODY_NONE },
    { "GET", "/v1/inbox/search", route_inbox_search, BODY_NONE },
    { "POST", "/v1/inbox/seen", route_inbox_seen, BODY_REQUIRED },
    { "GET", "/v1/events", route_events, BODY_NONE },
    { "GET", "/v1/peers", route_peers, BODY_NONE },
    { "GET", "/v1/members", route_members, BODY_NONE },
    { "GET", "/v1/profile", route_profile_show, BODY_NONE },
    { "POST", "/v1/profile", route_profile_set, BODY_REQUIRED },
    { "POST", "/v1/group/join", route_not_implemented, BODY_OPTIONAL },
    { "POST", "/v1/group/leave", route_not_implemented, BODY_OPTIONAL },
    { "POST", "/v1/heartbeat", route_heartbeat, BODY_OPTIONAL },
    { "GET", "/v1/verify", route_verify_show, BODY_NONE },
    { "POST", "/v1/verify", route_verify_accept, BODY_REQUIRED },
    { "POST", "/v1/file/share", route_not_implemented, BODY_OPTIONAL },
    { "GET", "/v1/file/get", route_not_implemented, BODY_NONE },
    { "GET", "/v1/file/list", route_not_implemented, BODY_NONE },
    { "POST", "/v1/daemon/rotate-keypair", route_rotate_keypair, BODY_OPTIONAL },
    { "POST", "/v1/daemon/rotate-token", route_rotate_token, BODY_OPTIONAL },
    { "POST", "/v1/daemon/archive-cleanup", route_archive_cleanup, BODY_OPTIONAL },
    { "GET", "/v1/outbox", route_outbox_list, BODY_NONE },
    { "POST", "/v1/outbox/requeue", route_outbox_requeue, BODY_REQUIRED },
    { "POST", "/v1/outbox/drop", route_outbox_drop, BODY_REQUIRED },
    /* After its literal siblings: an id may look like one of them. */
    { "GET", "/v1/outbox/{id}", route_outbox_show, BODY_NONE },
};
const size_t ROUTE_COUNT = ARRAY_LENGTH(ROUTES);

/* Whether `path` is this route's; *ret_rest is what stands for {id}, or "". */
static bool path_matches(const char *pattern, const char *path, const char **ret_rest)
{
    const char *brace = strchr(pattern, '{');
    if (brace == NULL) {
        *ret_rest = "";
        return strcmp(pattern, path) == 0;
    }
    size_t length = (size_t)(brace - pattern);
    if (strncmp(pattern, path, length) != 0 || path[length] == '\0')
        return false;
    *ret_rest = path + length;
    return true;
}

static void add_method(char allow[static ROUTE_ALLOW_SIZE], const char *method)
{
    size_t length = strlen(allow);
    (void)snprintf(allow + length, ROUTE_ALLOW_SIZE - length, "%s%s", length == 0 ? "" : ", ", method);
}

const struct route *route_find(const char *method, const char *path, const char **ret_rest, char ret_allow[static ROUTE_ALLOW_SIZE])
{
    ret_allow[0] = '\0';
    const char *known = NULL; /* the first pattern that fits decides which path this is */
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        const char *rest;
        if (!path_matches(ROUTES[i].path, path, &rest) || (known != NULL && strcmp(known, ROUTES[i].path) != 0))
            continue;
        known = ROUTES[i].path;
        if (strcmp(ROUTES[i].method, method) == 0) {
            *ret_rest = rest;
            return &ROUTES[i];
        }
        add_method(ret_allow, ROUTES[i].method);
    }
    return NULL;
}
