/* What this mesh looks like from outside: GET /v1/health and /v1/version (20-ipc). Reads only. */
#include "delivery/delivery_internal.h"

#include "json/json.h"

const char *delivery_degraded_reason(const struct delivery *delivery)
{
    if (link_is_revoked(delivery->link) || trust_self_revoked(delivery->trust)) {
        return "member_revoked";
    }
    if (link_state(delivery->link) == LINK_REFUSED) {
        return "link_refused";
    }
    if (delivery->open && !link_features(delivery->link)->dedupe) {
        return "broker_without_dedupe";
    }
    if (trust_awaits_list(delivery->trust)) {
        return "awaiting_members";
    }
    return trust_membership_fork(delivery->trust) ? "membership_fork" : NULL;
}

bool delivery_is_degraded(const struct delivery *delivery)
{
    return delivery_degraded_reason(delivery) != NULL;
}

json_t *delivery_health(const struct delivery *delivery)
{
    struct outbox_counts counts;
    outbox_counts(delivery->outbox, delivery_row_mesh(delivery), &counts);
    const struct feature_set *features = link_features(delivery->link);
    const char *version = link_broker_version(delivery->link);
    json_t *health = json_new_object();
    json_put_string(health, "slug", delivery->slug);
    json_put_bool(health, "connected", delivery->open);
    json_put_string(health, "status", link_state_name(link_state(delivery->link)));
    json_put_string(health, "reason", link_reason(delivery->link));
    if (delivery->open && link_lag_ms(delivery->link) >= 0) {
        json_put_integer(health, "lag_ms", link_lag_ms(delivery->link));
    } else {
        json_put_null(health, "lag_ms");
    }
    json_put_integer(health, "pending", counts.pending);
    json_put_integer(health, "inflight", counts.inflight);
    json_put_integer(health, "dead", counts.dead);
    json_put_string(health, "broker_version", version[0] == '\0' ? NULL : version);
    json_put_integer(health, "clock_skew_ms", link_clock_skew_ms(delivery->link));
    json_put_integer(health, "quarantined", inbox_quarantine_count(delivery->inbox, delivery_row_mesh(delivery)));
    json_put_integer(health, "dedupe_history_pruned", drain_figures(delivery->drain)->history_pruned);
    json_put_string(health, "inbox_rebuild", history_state(delivery));
    json_put_bool(health, "revoked", link_is_revoked(delivery->link) || trust_self_revoked(delivery->trust));
    json_put_bool(health, "awaiting_members", trust_awaits_list(delivery->trust));
    json_put_bool(health, "membership_fork", trust_membership_fork(delivery->trust));
    if (delivery->open) {
        json_put_string(health, "dedupe", features->dedupe ? "broker" : "recipients");
    } else {
        json_put_null(health, "dedupe");
    }
    json_put_bool(health, "degraded", delivery_is_degraded(delivery));
    return health;
}

static json_t *put_feature(json_t *features, const char *name)
{
    json_t *params = json_new_object();
    json_put_integer(params, "version", 1);
    json_put(features, name, params);
    return params;
}

static void put_dedupe(json_t *object, const struct feature_set *features)
{
    json_t *params = put_feature(object, "client_message_id_dedupe");
    json_put_string(params, "mode", features->dedupe_permanent ? "permanent" : "retention_scoped");
    if (!features->dedupe_permanent) {
        json_put_integer(params, "dedupe_retention_days", features->dedupe_retention_days);
    }
    json_put_bool(params, "request_fingerprint", true);
}

json_t *delivery_features(const struct delivery *delivery)
{
    json_t *object = json_new_object();
    const struct feature_set *features = link_features(delivery->link);
    if (!delivery->was_open || !features->negotiated) {
        return object;
    }
    if (features->dedupe) {
        put_dedupe(object, features);
    }
    const struct {
        bool is_there;
        const char *name;
    } plain[] = {
        { features->concurrent_connection_policy, "concurrent_connection_policy" },
        { features->keypair_rotated_event, "member_keypair_rotated_event" },
        { features->sealed_envelope, "sealed_envelope" },
        { features->delivery_ack, "delivery_ack" },
        { features->files, "files" },
        { features->history, "history" },
    };
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (plain[i].is_there) {
            (void)put_feature(object, plain[i].name);
        }
    }
    if (features->key_epoch) {
        json_put_integer(put_feature(object, "key_epoch"), "max_concurrent_epochs", features->max_concurrent_epochs);
    }
    if (features->blob_bytes > 0) {
        json_t *params = put_feature(object, "max_payload");
        json_put_integer(params, "inline_bytes", features->inline_bytes);
        json_put_integer(params, "blob_bytes", features->blob_bytes);
    }
    return object;
}
