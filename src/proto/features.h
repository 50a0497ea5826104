/* Feature negotiation (40-wire, Features): the table of features, versions and parameter bounds; the broker's answer judged. Pure. */
#ifndef PROTO_FEATURES_H
#define PROTO_FEATURES_H

#include <jansson.h>

#include "util/buffer.h"
#include "util/error.h"

enum feature_failure { FEATURE_OK, FEATURE_UNAVAILABLE, FEATURE_PARAM_INVALID, FEATURE_PARAM_BELOW_FLOOR };
/* "feature_unavailable", "feature_param_invalid", "feature_param_below_floor". */
const char *feature_failure_name(enum feature_failure failure);

struct feature_set { /* what a link may use; the defaults hold before and without negotiation */
    bool negotiated; /* an answer came */
    bool dedupe;     /* client_message_id_dedupe */
    bool dedupe_permanent;
    int64_t dedupe_retention_days; /* 0: unknown */
    bool concurrent_connection_policy, keypair_rotated_event, key_epoch, sealed_envelope, delivery_ack, files, history;
    int64_t max_concurrent_epochs; /* default 1 */
    int64_t inline_bytes;          /* default LIMIT_INLINE_DEFAULT */
    int64_t blob_bytes;            /* 0: unknown */
};
void feature_set_defaults(struct feature_set *ret_features);
bool feature_is_known(const char *name);

/* The request frame with `_reqId`. `require` are names (of the configuration). */
int features_request_build(const char *const *require, size_t require_count, const char *request_id, struct buffer *ret_frame);
struct feature_verdict {
    enum feature_failure failure;
    char feature[64];
    char detail[160];
    bool optional_ignored; /* a bad optional parameter: defaults used; the caller warns */
    char warning[160];
};
/* Judges a feature_negotiation_response. *ret_features is filled from what is supported even when something fails. */
void features_judge(const json_t *response, const char *const *require, size_t require_count, struct feature_set *ret_features,
                    struct feature_verdict *ret_verdict);
/* {"close_reason":{…}} cut to fit 123 bytes, still valid JSON. */
int features_close_reason(const struct feature_verdict *verdict, struct buffer *ret_reason);

/* The broker's side: the response to a request, from its parameters. */
struct feature_offer {
    bool permanent;
    int64_t dedupe_retention_days, inline_bytes, blob_bytes, max_concurrent_epochs;
    const char *default_policy;
    const json_t *override; /* NULL; tests and operators: features to leave out or params to replace, {"feature":null|{params}} */
};
json_t *features_response(const json_t *request, const struct feature_offer *offer) MUST_CHECK;

/* 30-delivery "Maximum age": hours for a retention of `days` (≥ 3; what is above a century counts as one). Vectors in wire.json. */
int64_t maximum_age_hours(int64_t dedupe_retention_days);

#endif
