/* What is asked of a broker over HTTP, beside the link: POST /mesh, POST /join (70-broker, 50-identity). Blocking: commands, and a daemon's start. */
#ifndef LINK_BROKER_HTTP_H
#define LINK_BROKER_HTTP_H

#include <jansson.h>

#include "crypto/keys.h"
#include "proto/invite.h"

struct broker_http {
    const char *broker_url; /* as in invites: ws:// or wss://, with a path */
    const char *ca_file;    /* "" the system's */
    bool allow_insecure;    /* ws:// to other hosts */
};

/* ws:// only to loopback, or with allow_insecure: ERROR_DENIED. ERROR_INVALID when it is no such URL. */
int broker_url_check(const char *url, bool allow_insecure, struct error *error) MUST_CHECK;
/* To the broker's URL with its path's last part replaced by `route`. bearer NULL: none. *ret_answer (new reference) NULL when the body is no JSON. */
int broker_http_post(const struct broker_http *broker, const char *route, const char *bearer, const json_t *body, int *ret_status,
                     json_t **ret_answer, struct error *error) MUST_CHECK;
/* POST /join: `keys` become a member called `name`. The invite goes without its secrets. The status and the answer are the caller's to judge. */
int broker_http_join(const struct broker_http *broker, const struct invite *invite, const struct keypair *keys, const char *name,
                     int64_t now_ms, int *ret_status, json_t **ret_answer, struct error *error) MUST_CHECK;

#endif
