/* Owns the Prometheus text of the daemon's metrics (80-operations): one block a metric, labels escaped, histograms cumulative and with +Inf. Counts nothing itself. */
#include <stdarg.h>

#include "ipc/internal.h"
#include "ipc/metrics_internal.h"
#include "link/link.h"
#include "util/clock.h"
#include "util/memory.h"

static void head(struct buffer *text, const char *name, const char *type, const char *help)
{
    buffer_printf(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Values are slugs, literals and the names of hooks; the last may hold anything that a file's name may. */
static void put_value(struct buffer *text, const char *value)
{
    for (const char *at = value; *at != '\0'; at++)
        switch (*at) {
        case '\\':
            buffer_printf(text, "\\\\");
            break;
        case '"':
            buffer_printf(text, "\\\"");
            break;
        case '\n':
            buffer_printf(text, "\\n");
            break;
        default:
            buffer_printf(text, "%c", *at);
        }
}

/* `name{label="value",…}`, pairs up to NULL; the caller adds the number. */
__attribute__((sentinel)) static void sample(struct buffer *text, const char *name, ...)
{
    va_list pairs;
    va_start(pairs, name);
    buffer_printf(text, "%s", name);
    char before = '{';
    for (const char *label = va_arg(pairs, const char *); label != NULL; label = va_arg(pairs, const char *)) {
        buffer_printf(text, "%c%s=\"", before, label);
        put_value(text, va_arg(pairs, const char *));
        buffer_printf(text, "\"");
        before = ',';
    }
    va_end(pairs);
    buffer_printf(text, "%s ", before == ',' ? "}" : "");
}

static void number(struct buffer *text, uint64_t value)
{
    buffer_printf(text, "%" PRIu64 "\n", value);
}

static uint64_t observations(const struct metrics_histogram *histogram)
{
    uint64_t total = 0;
    for (size_t i = 0; i <= METRICS_BUCKETS; i++)
        total += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
    return total;
}

/* divisor: what one unit of the observed values is of the printed one. label NULL: none. */
static void print_histogram(struct buffer *text, const char *name, const char *label, const char *value,
                            const struct metrics_histogram *histogram, const int64_t bounds[static METRICS_BUCKETS], double divisor)
{
    char part[96];
    uint64_t total = 0;
    (void)snprintf(part, sizeof(part), "%s_bucket", name);
    for (size_t i = 0; i <= METRICS_BUCKETS; i++) {
        char bound[32];
        total += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
        (void)snprintf(bound, sizeof(bound), i < METRICS_BUCKETS ? "%g" : "+Inf", (double)bounds[i < METRICS_BUCKETS ? i : 0] / divisor);
        if (label != NULL)
            sample(text, part, label, value, "le", bound, NULL);
        else
            sample(text, part, "le", bound, NULL);
        number(text, total);
    }
    (void)snprintf(part, sizeof(part), "%s_sum", name);
    sample(text, part, label, value, NULL);
    buffer_printf(text, "%.6f\n", (double)atomic_load_explicit(&histogram->sum, memory_order_relaxed) / divisor);
    (void)snprintf(part, sizeof(part), "%s_count", name);
    sample(text, part, label, value, NULL);
    number(text, total);
}

static void print_counter(struct buffer *text, const char *name, const char *help, uint64_t value)
{
    head(text, name, "counter", help);
    sample(text, name, NULL);
    number(text, value);
}

/* of_mesh: the first label is one that is served, or its series is not shown: what was on its way when a mesh was left may still have been counted. */
static void print_family(const struct ipc *ipc, struct buffer *text, const char *name, const char *help,
                         const struct metrics_family *family, const char *first, const char *second)
{
    bool of_mesh = strcmp(first, "mesh") == 0;
    head(text, name, "counter", help);
    for (const struct metrics_series *series = family->series; series != NULL; series = series->next) {
        if (of_mesh && ipc_mesh_by_slug(ipc, series->labels[0]) == NULL)
            continue;
        sample(text, name, first, series->labels[0], second, series->labels[1], NULL);
        number(text, series->value);
    }
}

/* ---- blocks --------------------------------------------------------------------------------------------------------- */

static void route_label(size_t route, char label[static 96])
{
    (void)snprintf(label, 96, "%s%s%s", route < ROUTE_COUNT ? ROUTES[route].method : "none", route < ROUTE_COUNT ? " " : "",
                   route < ROUTE_COUNT ? ROUTES[route].path : "");
}

static void print_route_answers(const struct ipc_metrics *metrics, size_t route, struct buffer *text)
{
    static const char *const TRANSPORT_NAMES[METRICS_TRANSPORTS] = { "unix", "tcp" };
    char label[96], status[8];
    route_label(route, label);
    for (size_t t = 0; t < METRICS_TRANSPORTS; t++)
        for (size_t s = 0; s < METRICS_STATUSES; s++) {
            uint64_t answers = metrics->routes[route].answers[t][s];
            if (answers == 0)
                continue;
            (void)snprintf(status, sizeof(status), s < METRICS_STATUSES - 1 ? "%d" : "other", METRICS_STATUS_CODES[s]);
            sample(text, "cm_daemon_ipc_requests_total", "route", label, "status", status, "transport", TRANSPORT_NAMES[t], NULL);
            number(text, answers);
        }
}

static void print_requests(const struct ipc_metrics *metrics, struct buffer *text)
{
    head(text, "cm_daemon_ipc_requests_total", "counter", "Requests answered by the local API.");
    for (size_t r = 0; r <= ROUTE_COUNT; r++)
        print_route_answers(metrics, r, text);
    head(text, "cm_daemon_ipc_duration_seconds", "histogram", "From a request's head to its answer.");
    for (size_t r = 0; r <= ROUTE_COUNT; r++) {
        const struct metrics_histogram *duration = &metrics->routes[r].duration_us;
        char label[96];
        if (observations(duration) == 0)
            continue;
        route_label(r, label);
        print_histogram(text, "cm_daemon_ipc_duration_seconds", "route", label, duration, METRICS_REQUEST_BOUNDS_US, 1e6);
    }
}

/* "": refused before its mesh was known. */
static bool is_shown(const struct ipc *ipc, const char *mesh)
{
    return *mesh == '\0' || ipc_mesh_by_slug(ipc, mesh) != NULL;
}

static void print_traffic(const struct ipc *ipc, struct buffer *text)
{
    static const char *const OUTCOMES[SEND_OUTCOMES] = { "queued", "duplicate", "conflict", "refused" };
    head(text, "cm_daemon_send_total", "counter", "Sends answered, by what became of them.");
    for (const struct traffic *traffic = ipc->metrics->traffic; traffic != NULL; traffic = traffic->next)
        for (size_t i = 0; i < SEND_OUTCOMES; i++)
            if (traffic->sent[i] > 0 && is_shown(ipc, traffic->mesh)) {
                sample(text, "cm_daemon_send_total", "mesh", traffic->mesh, "kind", traffic->kind, "outcome", OUTCOMES[i], NULL);
                number(text, traffic->sent[i]);
            }
    head(text, "cm_daemon_recv_total", "counter", "Messages stored in the inbox.");
    for (const struct traffic *traffic = ipc->metrics->traffic; traffic != NULL; traffic = traffic->next)
        if (traffic->received > 0 && is_shown(ipc, traffic->mesh)) {
            sample(text, "cm_daemon_recv_total", "mesh", traffic->mesh, "kind", traffic->kind, NULL);
            number(text, traffic->received);
        }
    print_family(ipc, text, "cm_daemon_dedupe_total",
                 "Messages recognised as ones that were there already: sent (out) or received (in) again.", &ipc->metrics->dedupe, "mesh",
                 "direction");
}

static void print_links(const struct ipc *ipc, struct buffer *text)
{
    head(text, "cm_daemon_connected", "gauge", "1 while the mesh's link is open.");
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        struct delivery *delivery = ipc->meshes[i].delivery;
        sample(text, "cm_daemon_connected", "mesh", ipc->meshes[i].slug, NULL);
        number(text, delivery != NULL && link_state(delivery_link(delivery)) == LINK_OPEN ? 1 : 0);
    }
    print_family(ipc, text, "cm_daemon_reconnects_total", "Links that opened again, by what ended them before.", &ipc->metrics->reconnects,
                 "mesh", "reason");
    head(text, "cm_daemon_lag_ms", "gauge", "Round trip of the newest ping.");
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        struct delivery *delivery = ipc->meshes[i].delivery;
        bool open = delivery != NULL && link_state(delivery_link(delivery)) == LINK_OPEN;
        int64_t lag_ms = open ? link_lag_ms(delivery_link(delivery)) : -1;
        if (lag_ms < 0)
            continue;
        sample(text, "cm_daemon_lag_ms", "mesh", ipc->meshes[i].slug, NULL);
        number(text, (uint64_t)lag_ms);
    }
}

static void print_backlog(const struct ipc *ipc, const struct outbox_backlog *backlog, struct buffer *text)
{
    int64_t now_ms = clock_steady_ms();
    head(text, "cm_daemon_outbox_age_seconds", "gauge", "Age of the oldest row that is not yet accepted; 0 when nothing waits.");
    for (size_t i = 0; backlog != NULL && i < backlog->count; i++) {
        const struct ipc_mesh *mesh = ipc_mesh_by_id(ipc, backlog->meshes[i].mesh);
        if (mesh == NULL)
            continue; /* left meanwhile */
        int64_t since = backlog->meshes[i].oldest_enqueued_at;
        sample(text, "cm_daemon_outbox_age_seconds", "mesh", mesh->slug, NULL);
        buffer_printf(text, "%.3f\n", since >= 0 && now_ms > since ? (double)(now_ms - since) / 1e3 : 0.0);
    }
}

static void print_outbox(const struct ipc *ipc, const struct outbox_backlog *backlog, struct buffer *text)
{
    head(text, "cm_daemon_outbox_depth", "gauge", "Rows of the outbox by status.");
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        struct outbox_counts counts;
        outbox_counts(ipc->outbox, ipc_row_mesh(&ipc->meshes[i]), &counts);
        const int64_t by_state[OUTBOX_STATES] = { [OUTBOX_PENDING] = counts.pending,
                                                  [OUTBOX_INFLIGHT] = counts.inflight,
                                                  [OUTBOX_DONE] = counts.done,
                                                  [OUTBOX_DEAD] = counts.dead,
                                                  [OUTBOX_ABORTED] = counts.aborted };
        for (size_t s = 0; s < OUTBOX_STATES; s++) {
            sample(text, "cm_daemon_outbox_depth", "mesh", ipc->meshes[i].slug, "status", outbox_state_name((enum outbox_state)s), NULL);
            buffer_printf(text, "%" PRId64 "\n", by_state[s]);
        }
    }
    print_backlog(ipc, backlog, text);
    head(text, "cm_daemon_disk_pct", "gauge", "How full what is limited is, in percent.");
    sample(text, "cm_daemon_disk_pct", "kind", "outbox", NULL);
    buffer_printf(text, "%d\n", outbox_pressure_pct(ipc->outbox));
    if (backlog != NULL && backlog->disk_used_pct >= 0) {
        sample(text, "cm_daemon_disk_pct", "kind", "filesystem", NULL);
        buffer_printf(text, "%d\n", backlog->disk_used_pct);
    }
    for (const struct disk_figure *disk = ipc->metrics->disks; disk != NULL; disk = disk->next) {
        sample(text, "cm_daemon_disk_pct", "kind", disk->kind, NULL);
        buffer_printf(text, "%d\n", disk->pct);
    }
}

static void print_inbound(const struct ipc *ipc, struct buffer *text)
{
    const struct ipc_metrics *metrics = ipc->metrics;
    print_family(ipc, text, "cm_daemon_invalid_inbound_total", "Pushes that are no message, by why.", &metrics->invalid_inbound, "reason",
                 NULL);
    print_counter(text, "cm_daemon_dedupe_history_pruned_total", "Sends that the broker knew already, and whose message it has no longer.",
                  metrics->history_pruned);
    print_counter(text, "cm_daemon_decrypt_stale_total", "Messages sealed to a key that is neither current nor archived any more.",
                  metrics->decrypt_stale);
    print_counter(text, "cm_daemon_decrypt_archived_total", "Messages opened with an archived key.", metrics->decrypt_archived);
    head(text, "cm_daemon_quarantined", "gauge", "Messages kept in quarantine.");
    sample(text, "cm_daemon_quarantined", NULL);
    buffer_printf(text, "%" PRId64 "\n", inbox_quarantine_count(ipc->inbox, NULL));
}

static void print_hooks(const struct ipc *ipc, struct buffer *text)
{
    const struct ipc_metrics *metrics = ipc->metrics;
    print_family(ipc, text, "cm_daemon_hook_invocations_total", "Runs of hooks, by exit status, or timeout, signal, not_started.",
                 &metrics->hook_runs, "hook", "exit");
    head(text, "cm_daemon_hook_duration_seconds", "histogram", "How long hooks ran.");
    for (const struct hook_duration *duration = metrics->hook_durations; duration != NULL; duration = duration->next)
        print_histogram(text, "cm_daemon_hook_duration_seconds", "hook", duration->hook, &duration->duration_ms, METRICS_HOOK_BOUNDS_MS,
                        1e3);
    print_family(ipc, text, "cm_daemon_hook_unenforceable_total", "Runs of hooks with a policy that this host cannot enforce.",
                 &metrics->hook_unenforceable, "hook", "reason");
    print_counter(text, "cm_daemon_hook_events_dropped_total", "Events that hooks missed because their queue was full.",
                  metrics->hook_events_dropped);
}

void ipc_metrics_print(const struct ipc *ipc, const struct outbox_backlog *backlog, struct buffer *text)
{
    const struct ipc_metrics *metrics = ipc->metrics;
    head(text, "cm_daemon_build_info", "gauge", "The version that runs.");
    sample(text, "cm_daemon_build_info", "version", CLAUDEMESH_VERSION, NULL);
    number(text, 1);
    print_links(ipc, text);
    print_outbox(ipc, backlog, text);
    print_traffic(ipc, text);
    print_inbound(ipc, text);
    head(text, "cm_daemon_commit_seconds", "histogram", "Group commits of both databases.");
    print_histogram(text, "cm_daemon_commit_seconds", NULL, NULL, &metrics->commit_us, METRICS_COMMIT_BOUNDS_US, 1e6);
    head(text, "cm_daemon_commit_batch_size", "histogram", "Tasks that shared a commit.");
    print_histogram(text, "cm_daemon_commit_batch_size", NULL, NULL, &metrics->batch, METRICS_BATCH_BOUNDS, 1);
    print_requests(metrics, text);
    print_hooks(ipc, text);
    print_counter(text, "cm_daemon_local_token_rotations_total", "Rotations of the local token.", metrics->token_rotations);
    print_counter(text, "cm_daemon_clone_suspected_total", "Signs that this installation runs on two hosts.", metrics->clone_suspected);
}
