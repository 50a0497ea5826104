/* Owns the daemon's counters. Those of the loop are plain; those of the writer threads are atomic. Must not reach into a database. */
#include "ipc/metrics.h"

#include <stdatomic.h>

#include "ipc/internal.h"
#include "link/link.h"
#include "util/clock.h"
#include "util/memory.h"

/* Microseconds, ascending; one more bucket is everything. */
static const int64_t REQUEST_BOUNDS_US[] = { 100, 250, 500, 1000, 2500, 5000, 10000, 50000, 250000, 1000000, 10000000 };
static const int64_t COMMIT_BOUNDS_US[] = { 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 500000 };
static const int64_t BATCH_BOUNDS[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024 };
enum { BUCKETS = 11 };

static const int STATUSES[] = { 200, 202, 204, 400, 401, 403, 404, 405, 409, 413, 415, 429, 500, 501, 502, 503, 507 };
enum { STATUS_COUNT = ARRAY_LENGTH(STATUSES), TRANSPORTS = 2 };

struct histogram {
    _Atomic uint64_t buckets[BUCKETS + 1];
    _Atomic uint64_t sum;
};

struct route_figures {
    uint64_t answers[TRANSPORTS][STATUS_COUNT];
    struct histogram duration_us;
};

struct traffic { /* of one mesh and kind */
    struct traffic *next;
    char *mesh, *kind;
    uint64_t sent[SEND_OUTCOMES], received;
};

struct ipc_metrics {
    struct route_figures *routes; /* one more than ROUTES: refused before a route was found */
    struct traffic *traffic;
    struct histogram commit_us, batch;
};

struct ipc_metrics *ipc_metrics_new(void)
{
    struct ipc_metrics *metrics = memory_zalloc(sizeof(*metrics));
    metrics->routes = memory_calloc(ROUTE_COUNT + 1, sizeof(*metrics->routes));
    return metrics;
}

void ipc_metrics_free(struct ipc_metrics *metrics)
{
    if (metrics == NULL)
        return;
    while (metrics->traffic != NULL) {
        struct traffic *traffic = metrics->traffic;
        metrics->traffic = traffic->next;
        free(traffic->mesh);
        free(traffic->kind);
        free(traffic);
    }
    free(metrics->routes);
    free(metrics);
}

static void observe(struct histogram *histogram, const int64_t bounds[static BUCKETS], int64_t value)
{
    size_t bucket = 0;
    while (bucket < BUCKETS && value > bounds[bucket])
        bucket++;
    atomic_fetch_add_explicit(&histogram->buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum, value > 0 ? (uint64_t)value : 0, memory_order_relaxed);
}

void ipc_metrics_commit(struct ipc_metrics *metrics, int64_t commit_us, size_t batch)
{
    observe(&metrics->commit_us, COMMIT_BOUNDS_US, commit_us);
    observe(&metrics->batch, BATCH_BOUNDS, (int64_t)batch);
}

void ipc_metrics_request(struct ipc_metrics *metrics, const struct route *route, enum http_transport transport, int status,
                         int64_t duration_us)
{
    struct route_figures *figures = &metrics->routes[route != NULL ? (size_t)(route - ROUTES) : ROUTE_COUNT];
    for (size_t i = 0; i < STATUS_COUNT; i++)
        if (STATUSES[i] == status)
            figures->answers[transport == HTTP_TCP][i]++;
    observe(&figures->duration_us, REQUEST_BOUNDS_US, duration_us);
}

static struct traffic *traffic_of(struct ipc_metrics *metrics, const char *mesh, const char *kind)
{
    for (struct traffic *traffic = metrics->traffic; traffic != NULL; traffic = traffic->next)
        if (strcmp(traffic->mesh, mesh) == 0 && strcmp(traffic->kind, kind) == 0)
            return traffic;
    struct traffic *traffic = memory_zalloc(sizeof(*traffic));
    traffic->mesh = memory_strdup(mesh);
    traffic->kind = memory_strdup(kind);
    traffic->next = metrics->traffic;
    metrics->traffic = traffic;
    return traffic;
}

void ipc_metrics_send(struct ipc_metrics *metrics, const char *mesh_slug, const char *kind, enum send_outcome outcome)
{
    traffic_of(metrics, mesh_slug, kind)->sent[outcome]++;
}

void ipc_metrics_received(struct ipc_metrics *metrics, const char *mesh_slug, const char *kind)
{
    traffic_of(metrics, mesh_slug, kind)->received++;
}

/* ---- print -------------------------------------------------------------------------------------------------- */

static void head(struct buffer *text, const char *name, const char *type, const char *help)
{
    buffer_printf(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* divisor: what one unit of the observed values is of the printed one. labels: "" or `a="b",`. */
static void print_histogram(struct buffer *text, const char *name, const char *labels, const struct histogram *histogram,
                            const int64_t bounds[static BUCKETS], double divisor)
{
    uint64_t total = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        total += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
        buffer_printf(text, "%s_bucket{%sle=\"%g\"} %" PRIu64 "\n", name, labels, (double)bounds[i] / divisor, total);
    }
    total += atomic_load_explicit(&histogram->buckets[BUCKETS], memory_order_relaxed);
    double sum = (double)atomic_load_explicit(&histogram->sum, memory_order_relaxed) / divisor;
    size_t length = strlen(labels);
    const char *open = length > 0 ? "{" : "", *close = length > 0 ? "}" : "";
    int shown = length > 0 ? (int)length - 1 : 0; /* without the comma */
    buffer_printf(text, "%s_bucket{%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, total);
    buffer_printf(text, "%s_sum%s%.*s%s %.6f\n%s_count%s%.*s%s %" PRIu64 "\n", name, open, shown, labels, close, sum, name, open, shown,
                  labels, close, total);
}

static void print_requests(const struct ipc_metrics *metrics, struct buffer *text)
{
    static const char *const TRANSPORT_NAMES[TRANSPORTS] = { "unix", "tcp" };
    head(text, "cm_daemon_ipc_requests_total", "counter", "Requests answered by the local API.");
    for (size_t r = 0; r <= ROUTE_COUNT; r++)
        for (size_t t = 0; t < TRANSPORTS; t++)
            for (size_t s = 0; s < STATUS_COUNT; s++)
                if (metrics->routes[r].answers[t][s] > 0)
                    buffer_printf(text, "cm_daemon_ipc_requests_total{route=\"%s%s%s\",status=\"%d\",transport=\"%s\"} %" PRIu64 "\n",
                                  r < ROUTE_COUNT ? ROUTES[r].method : "none", r < ROUTE_COUNT ? " " : "",
                                  r < ROUTE_COUNT ? ROUTES[r].path : "", STATUSES[s], TRANSPORT_NAMES[t], metrics->routes[r].answers[t][s]);
    head(text, "cm_daemon_ipc_duration_seconds", "histogram", "From a request's head to its answer.");
    for (size_t r = 0; r < ROUTE_COUNT; r++) {
        const struct histogram *duration = &metrics->routes[r].duration_us;
        bool used = atomic_load_explicit(&duration->sum, memory_order_relaxed) > 0;
        if (!used)
            continue;
        char labels[96];
        (void)snprintf(labels, sizeof(labels), "route=\"%s %s\",", ROUTES[r].method, ROUTES[r].path);
        print_histogram(text, "cm_daemon_ipc_duration_seconds", labels, duration, REQUEST_BOUNDS_US, 1e6);
    }
}

static void print_traffic(const struct ipc_metrics *metrics, struct buffer *text)
{
    static const char *const OUTCOMES[SEND_OUTCOMES] = { "queued", "duplicate", "conflict", "refused" };
    head(text, "cm_daemon_send_total", "counter", "Sends answered, by what became of them.");
    for (const struct traffic *traffic = metrics->traffic; traffic != NULL; traffic = traffic->next)
        for (size_t i = 0; i < SEND_OUTCOMES; i++)
            if (traffic->sent[i] > 0)
                buffer_printf(text, "cm_daemon_send_total{mesh=\"%s\",kind=\"%s\",outcome=\"%s\"} %" PRIu64 "\n", traffic->mesh,
                              traffic->kind, OUTCOMES[i], traffic->sent[i]);
    head(text, "cm_daemon_recv_total", "counter", "Messages stored in the inbox.");
    for (const struct traffic *traffic = metrics->traffic; traffic != NULL; traffic = traffic->next)
        if (traffic->received > 0)
            buffer_printf(text, "cm_daemon_recv_total{mesh=\"%s\",kind=\"%s\"} %" PRIu64 "\n", traffic->mesh, traffic->kind,
                          traffic->received);
    head(text, "cm_daemon_dedupe_total", "counter", "Sends that were answered from the outbox because their id had a row.");
    for (const struct traffic *traffic = metrics->traffic; traffic != NULL; traffic = traffic->next)
        if (traffic->sent[SEND_DUPLICATE] > 0)
            buffer_printf(text, "cm_daemon_dedupe_total{mesh=\"%s\",direction=\"out\",kind=\"%s\"} %" PRIu64 "\n", traffic->mesh,
                          traffic->kind, traffic->sent[SEND_DUPLICATE]);
}

static void print_meshes(const struct ipc *ipc, struct buffer *text)
{
    head(text, "cm_daemon_connected", "gauge", "1 while the mesh's link is open.");
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        struct delivery *delivery = ipc->meshes[i].delivery;
        bool open = delivery != NULL && link_state(delivery_link(delivery)) == LINK_OPEN;
        buffer_printf(text, "cm_daemon_connected{mesh=\"%s\"} %d\n", ipc->meshes[i].slug, open ? 1 : 0);
    }
    head(text, "cm_daemon_lag_ms", "gauge", "Round trip of the newest ping.");
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        struct delivery *delivery = ipc->meshes[i].delivery;
        int64_t lag_ms = delivery != NULL ? link_lag_ms(delivery_link(delivery)) : -1;
        if (lag_ms >= 0)
            buffer_printf(text, "cm_daemon_lag_ms{mesh=\"%s\"} %" PRId64 "\n", ipc->meshes[i].slug, lag_ms);
    }
    head(text, "cm_daemon_outbox_depth", "gauge", "Rows of the outbox by status.");
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        struct outbox_counts counts;
        outbox_counts(ipc->outbox, ipc_row_mesh(&ipc->meshes[i]), &counts);
        const int64_t by_state[OUTBOX_STATES] = { [OUTBOX_PENDING] = counts.pending,
                                                  [OUTBOX_INFLIGHT] = counts.inflight,
                                                  [OUTBOX_DONE] = counts.done,
                                                  [OUTBOX_DEAD] = counts.dead,
                                                  [OUTBOX_ABORTED] = counts.aborted };
        for (size_t s = 0; s < OUTBOX_STATES; s++)
            buffer_printf(text, "cm_daemon_outbox_depth{mesh=\"%s\",status=\"%s\"} %" PRId64 "\n", ipc->meshes[i].slug,
                          outbox_state_name((enum outbox_state)s), by_state[s]);
    }
}

void ipc_metrics_print(const struct ipc *ipc, struct buffer *text)
{
    const struct ipc_metrics *metrics = ipc->metrics;
    head(text, "cm_daemon_build_info", "gauge", "The version that runs.");
    buffer_printf(text, "cm_daemon_build_info{version=\"%s\"} 1\n", CLAUDEMESH_VERSION);
    print_meshes(ipc, text);
    head(text, "cm_daemon_disk_pct", "gauge", "How full the outbox is, of its fuller limit.");
    buffer_printf(text, "cm_daemon_disk_pct{kind=\"outbox\"} %d\n", outbox_pressure_pct(ipc->outbox));
    head(text, "cm_daemon_quarantined", "gauge", "Messages kept in quarantine.");
    buffer_printf(text, "cm_daemon_quarantined %" PRId64 "\n", inbox_quarantine_count(ipc->inbox, NULL));
    print_traffic(metrics, text);
    head(text, "cm_daemon_commit_seconds", "histogram", "Group commits of both databases.");
    print_histogram(text, "cm_daemon_commit_seconds", "", &metrics->commit_us, COMMIT_BOUNDS_US, 1e6);
    head(text, "cm_daemon_commit_batch_size", "histogram", "Tasks that shared a commit.");
    print_histogram(text, "cm_daemon_commit_batch_size", "", &metrics->batch, BATCH_BOUNDS, 1);
    print_requests(metrics, text);
}
