/* Owns the routes about the daemon itself: version, compat, health, prove, metrics, and what is not built yet. */
#include <unistd.h>

#include "crypto/crypto.h"
#include "ipc/internal.h"
#include "json/json.h"
#include "link/link.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

#define IPC_API "v1"

static json_t *strings(const char *const *texts, size_t count)
{
    json_t *list = json_new_array();
    for (size_t i = 0; i < count; i++)
        if (json_array_append_new(list, json_string(texts[i])) != 0)
            memory_exhausted();
    return list;
}

void route_not_implemented(struct exchange *exchange)
{
    exchange_fail(exchange, 501, "not_implemented", "This version of the daemon does not have %s %s yet.", exchange->route->method,
                  exchange->route->path);
}

/* ---- version and compat ---------------------------------------------------------------------------------------------- */

void route_version(struct exchange *exchange)
{
    static const char *const FEATURES[] = { "send",      "send_wait",     "inbox",  "inbox_seen", "inbox_search",
                                            "events",    "events_resume", "peers",  "members",    "profile",
                                            "heartbeat", "verify",        "outbox", "prove",      "metrics" };
    const struct ipc *ipc = exchange->ipc;
    json_t *answer = json_new_object(), *negotiated = json_new_object();
    json_put_string(answer, "daemon_version", CLAUDEMESH_VERSION);
    json_put_string(answer, "ipc_api", IPC_API);
    json_put(answer, "ipc_features", strings(FEATURES, ARRAY_LENGTH(FEATURES)));
    json_put_integer(answer, "schema_version", ipc->schema_version);
    json_put(answer, "meshes", ipc_slugs(ipc));
    for (size_t i = 0; i < ipc->mesh_count; i++)
        if (ipc->meshes[i].delivery != NULL)
            json_put(negotiated, ipc->meshes[i].slug, delivery_features(ipc->meshes[i].delivery));
    json_put(answer, "broker_features_negotiated", negotiated);
    exchange_answer_json(exchange, 200, answer);
}

void route_compat(struct exchange *exchange)
{
    static const char *const REQUIRED[] = { "client_message_id_dedupe", "concurrent_connection_policy" };
    static const char *const OPTIONAL[] = {
        "member_keypair_rotated_event", "key_epoch", "max_payload", "sealed_envelope", "delivery_ack", "files", "history"
    };
    json_t *answer = json_new_object(), *broker = json_new_object(), *features = json_new_object(), *clients = json_new_object();
    json_put_string(answer, "daemon_version", CLAUDEMESH_VERSION);
    json_put_string(answer, "ipc_api", IPC_API);
    json_put_integer(answer, "schema_version", exchange->ipc->schema_version);
    json_put_integer(broker, "protocol_version", 1);
    json_put(features, "required", strings(REQUIRED, ARRAY_LENGTH(REQUIRED)));
    json_put(features, "optional", strings(OPTIONAL, ARRAY_LENGTH(OPTIONAL)));
    json_put(broker, "features", features);
    json_put(answer, "broker", broker);
    json_put_string(clients, "ipc_api", IPC_API);
    json_put(answer, "command_line", json_incref(clients));
    json_put(answer, "sdk", clients);
    exchange_answer_json(exchange, 200, answer);
}

/* ---- health ---------------------------------------------------------------------------------------------------------- */

static json_t *failed_mesh_health(const struct ipc *ipc, const struct ipc_mesh *mesh)
{
    struct outbox_counts counts;
    outbox_counts(ipc->outbox, ipc_row_mesh(mesh), &counts);
    json_t *value = json_new_object();
    json_put_string(value, "slug", mesh->slug);
    json_put_bool(value, "connected", false);
    json_put_string(value, "status", "failed");
    json_put_string(value, "detail", mesh->failure);
    json_put_null(value, "lag_ms");
    json_put_integer(value, "pending", counts.pending);
    json_put_integer(value, "inflight", counts.inflight);
    json_put_integer(value, "dead", counts.dead);
    json_put_null(value, "broker_version");
    return value;
}

static void add_reason(json_t *reasons, const char *reason)
{
    if (json_array_append_new(reasons, json_string(reason)) != 0)
        memory_exhausted();
}

/* What of the host's is at its end; words that `daemon status` has a remedy for. */
static void add_room_reasons(const struct ipc *ipc, json_t *reasons)
{
    if (outbox_is_out_of_space(ipc->outbox))
        add_reason(reasons, "outbox_disk_full");
    else if (outbox_is_degraded(ipc->outbox))
        add_reason(reasons, "outbox_limit");
    if (inbox_is_degraded(ipc->inbox))
        add_reason(reasons, "inbox_disk_full");
    else if (inbox_is_full(ipc->inbox))
        add_reason(reasons, "inbox_limit");
}

json_t *ipc_health(const struct ipc *ipc)
{
    json_t *reasons = json_new_array();
    add_room_reasons(ipc, reasons);
    bool connected = ipc->mesh_count > 0;
    json_t *meshes = json_new_array();
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        struct delivery *delivery = ipc->meshes[i].delivery;
        connected = connected && delivery != NULL && link_state(delivery_link(delivery)) == LINK_OPEN;
        const char *reason = delivery != NULL ? delivery_degraded_reason(delivery) : "mesh_failed";
        if (reason != NULL)
            add_reason(reasons, reason);
        json_t *mesh = delivery != NULL ? delivery_health(delivery) : failed_mesh_health(ipc, &ipc->meshes[i]);
        if (json_array_append_new(meshes, mesh) != 0)
            memory_exhausted();
    }
    bool degraded = json_array_size(reasons) > 0;
    json_t *health = json_new_object();
    json_put_bool(health, "ok", !degraded);
    json_put_integer(health, "pid", getpid());
    json_put_integer(health, "uptime_s", (clock_monotonic_ms() - ipc->started_at_ms) / 1000);
    json_put_string(health, "daemon_version", CLAUDEMESH_VERSION);
    json_put_integer(health, "schema_version", ipc->schema_version);
    json_put_bool(health, "connected", connected);
    json_put_bool(health, "degraded", degraded);
    json_put_string(health, "reason", json_string_value(json_array_get(reasons, 0)));
    json_put(health, "reasons", reasons);
    json_put_integer(health, "inbox_pressure_pct", inbox_pressure_pct(ipc->inbox));
    if (ipc->disk_pct >= 0)
        json_put_integer(health, "disk_pct", ipc->disk_pct);
    else
        json_put_null(health, "disk_pct");
    json_put_integer(health, "outbox_pressure_pct", outbox_pressure_pct(ipc->outbox));
    json_put_integer(health, "quarantined", inbox_quarantine_count(ipc->inbox, NULL));
    json_put(health, "meshes", meshes);
    return health;
}

void route_health(struct exchange *exchange)
{
    exchange_answer_json(exchange, 200, ipc_health(exchange->ipc));
}

/* ---- prove ----------------------------------------------------------------------------------------------------------- */

enum { NONCE_MAX = 128 };

static void put_proof(json_t *answer, const char *name, const char *token, const char *text, size_t length)
{
    struct sha256 mac;
    char hex[SHA256_HEX_SIZE];
    hmac_sha256((const uint8_t *)token, strlen(token), text, length, &mac);
    hex_encode(mac.bytes, sizeof(mac.bytes), hex);
    json_put_string(answer, name, hex);
}

/* 45-trust, Against the local side: who holds the token can answer, who squats on the port cannot. */
void route_prove(struct exchange *exchange)
{
    static const char DOMAIN[] = "claudemesh-local-v1\0server";
    const struct ipc *ipc = exchange->ipc;
    const char *nonce = http_header(exchange->http, "X-Claudemesh-Nonce");
    if (nonce == NULL || !client_message_id_is_valid(nonce, strlen(nonce))) {
        exchange_fail(exchange, 400, "invalid_request",
                      "Header 'X-Claudemesh-Nonce' must be 1 to %d printable ASCII characters without spaces.", NONCE_MAX);
        return;
    }
    char text[sizeof(DOMAIN) + NONCE_MAX + 8];
    memcpy(text, DOMAIN, sizeof(DOMAIN)); /* with its last NUL */
    size_t length = sizeof(DOMAIN), nonce_size = strlen(nonce) + 1;
    memcpy(text + length, nonce, nonce_size);
    length += nonce_size;
    length += (size_t)snprintf(text + length, sizeof(text) - length, "%u", (unsigned)ipc->tcp_port);
    const char *old[ARRAY_LENGTH(ipc->guard.old_tokens)];
    size_t count = guard_old_tokens(&ipc->guard, clock_monotonic_ms(), old, ARRAY_LENGTH(old));
    json_t *answer = json_new_object();
    put_proof(answer, "proof", ipc->guard.token, text, length);
    for (size_t i = 0; i < count; i++) { /* for who has not yet read the new token */
        static const char *const NAMES[] = { "old_proof", "old_proof_2", "old_proof_3", "old_proof_4" };
        put_proof(answer, NAMES[i], old[i], text, length);
    }
    exchange_answer_json(exchange, 200, answer);
}
