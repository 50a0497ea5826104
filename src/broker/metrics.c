/* The text of GET /metrics. */
#include "broker/metrics.h"

#include "broker/state.h"

/* Seconds: from what a commit in memory takes to what nobody should wait. */
static const double BOUNDS[HISTOGRAM_BUCKETS] = { 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5 };

static const char *const ACCEPT_NAMES[ACCEPT_RESULTS] = {
    [STORE_ACCEPTED] = "accepted",
    [STORE_DUPLICATE] = "duplicate",
    [STORE_CONFLICT] = "fingerprint_mismatch",
    [STORE_REFUSED] = "refused",
    [STORE_RATE_LIMITED] = "rate_limited",
    [STORE_HELD] = "held",
    [STORE_SENDER_GONE] = "sender_gone",
    [STORE_UNKNOWN_MEMBER] = "unknown_member",
    [STORE_MEMBER_REVOKED] = "member_revoked",
    [STORE_RECIPIENT_FULL] = "recipient_full",
    [ACCEPT_FAILED] = "failed",
};

void histogram_add(struct histogram *histogram, int64_t duration_us)
{
    double seconds = (double)duration_us / 1e6;
    size_t bucket = 0;
    while (bucket < HISTOGRAM_BUCKETS && seconds > BOUNDS[bucket])
        bucket++;
    histogram->buckets[bucket]++;
    histogram->count++;
    histogram->sum_s += seconds;
}

static void put_head(struct buffer *text, const char *name, const char *type, const char *help)
{
    buffer_printf(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_histogram(struct buffer *text, const char *name, const char *label, const struct histogram *histogram)
{
    const char *separator = label[0] == '\0' ? "" : ",";
    uint64_t below = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        below += histogram->buckets[i];
        buffer_printf(text, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, label, separator, BOUNDS[i], below);
    }
    buffer_printf(text, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, label, separator, histogram->count);
    const char *open = label[0] == '\0' ? "" : "{", *close = label[0] == '\0' ? "" : "}";
    buffer_printf(text, "%s_sum%s%s%s %.9g\n%s_count%s%s%s %" PRIu64 "\n", name, open, label, close, histogram->sum_s, name, open, label,
                  close, histogram->count);
}

static void put_counter(struct buffer *text, const char *name, const char *help, uint64_t value)
{
    put_head(text, name, "counter", help);
    buffer_printf(text, "%s %" PRIu64 "\n", name, value);
}

struct mesh_printing {
    struct buffer *text;
};

static void put_mesh(void *argument, struct table_node *node)
{
    const struct mesh_printing *printing = argument;
    const struct mesh *mesh = (const struct mesh *)(const void *)node;
    buffer_printf(printing->text, "cm_broker_connections{mesh=\"%s\"} %zu\n", mesh->slug, mesh->session_count);
}

static void put_connections(const struct broker *broker, struct buffer *text)
{
    put_head(text, "cm_broker_connections", "gauge", "WebSocket connections that said hello, by mesh.");
    struct mesh_printing printing = { text };
    struct table meshes = broker->meshes;
    table_each(&meshes, put_mesh, &printing);
}

static void put_deliveries(const struct metrics *metrics, struct buffer *text)
{
    put_head(text, "cm_broker_deliveries", "gauge", "Deliveries in the store that wait, and those that are pushed and not acknowledged.");
    buffer_printf(text, "cm_broker_deliveries{state=\"waiting\"} %" PRId64 "\n", metrics->deliveries_waiting - metrics->deliveries_leased);
    buffer_printf(text, "cm_broker_deliveries{state=\"leased\"} %" PRId64 "\n", metrics->deliveries_leased);
    put_counter(text, "cm_broker_deliveries_done_total", "Deliveries that were acknowledged.", metrics->deliveries_done);
}

static void put_accepts(const struct metrics *metrics, struct buffer *text)
{
    put_head(text, "cm_broker_accept_total", "counter", "Sends by what became of them.");
    for (size_t i = 0; i < ACCEPT_RESULTS; i++)
        buffer_printf(text, "cm_broker_accept_total{outcome=\"%s\"} %" PRIu64 "\n", ACCEPT_NAMES[i], metrics->accepted[i]);
    put_head(text, "cm_broker_accept_seconds", "histogram", "From a send frame to its ack.");
    put_histogram(text, "cm_broker_accept_seconds", "", &metrics->accept_seconds);
    put_counter(text, "cm_broker_dedupe_fingerprint_mismatch_total", "Sends that reused an id for another request.",
                metrics->accepted[STORE_CONFLICT]);
    put_counter(text, "cm_broker_rate_limit_rejection_total", "Sends refused by the rate limit.", metrics->accepted[STORE_RATE_LIMITED]);
}

void metrics_print(const struct broker *broker, struct buffer *text)
{
    const struct metrics *metrics = &broker->metrics;
    put_connections(broker, text);
    put_accepts(metrics, text);
    put_deliveries(metrics, text);
    put_counter(text, "cm_broker_redeliveries_total", "Pushes that were due again because their lease ran out.", metrics->redeliveries);
    put_counter(text, "cm_broker_atomicity_violation_total", "Findings of the consistency check.", metrics->atomicity_violations);
    put_counter(text, "cm_broker_hello_refused_total", "Hellos that were refused.", metrics->hello_refused);
    put_head(text, "cm_broker_store_seconds", "histogram", "From a request to the store to its answer.");
    for (size_t op = 0; op < STORE_OPS; op++) {
        char label[64];
        (void)snprintf(label, sizeof label, "op=\"%s\"", store_measure_name((enum store_measure)op));
        put_histogram(text, "cm_broker_store_seconds", label, &metrics->store_seconds[op]);
    }
    put_head(text, "cm_broker_build_info", "gauge", "The version that runs.");
    buffer_printf(text, "cm_broker_build_info{version=\"%s\"} 1\n", CLAUDEMESH_VERSION);
}
