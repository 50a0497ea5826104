/* Owns the daemon's counters. Those of the loop are plain; those of the writer threads are atomic. Must not print (metrics_print.c), nor reach into a database. */
#include "ipc/metrics.h"

#include "ipc/internal.h"
#include "ipc/metrics_internal.h"
#include "util/memory.h"
#include "util/text.h"

const int64_t METRICS_REQUEST_BOUNDS_US[] = { 100, 250, 500, 1000, 2500, 5000, 10000, 50000, 250000, 1000000, 10000000 };
const int64_t METRICS_COMMIT_BOUNDS_US[] = { 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 500000 };
const int64_t METRICS_BATCH_BOUNDS[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024 };
const int64_t METRICS_HOOK_BOUNDS_MS[] = { 5, 10, 25, 50, 100, 250, 1000, 5000, 15000, 30000, 60000 };

const int METRICS_STATUS_CODES[METRICS_STATUSES] = { 200, 202, 204, 400, 401, 403, 404, 405, 408, 409,
                                                     413, 415, 417, 429, 500, 501, 502, 503, 507, 0 };

/* Series of one family. Meshes and hooks are few; what comes beyond is a fault, and must not become everybody's who collects the text. */
enum { SERIES_MAXIMUM = 2048, HOOKS_MAXIMUM = 256, DISKS_MAXIMUM = 8 };
static const char OTHER[] = "other";

static void release_family(struct metrics_family *family)
{
    while (family->series != NULL) {
        struct metrics_series *series = family->series;
        family->series = series->next;
        free(series->labels[0]);
        free(series->labels[1]);
        free(series);
    }
    family->count = 0;
}

static void free_traffic(struct traffic *traffic)
{
    free(traffic->mesh);
    free(traffic->kind);
    free(traffic);
}

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
        free_traffic(traffic);
    }
    struct metrics_family *const families[] = { &metrics->reconnects, &metrics->dedupe, &metrics->invalid_inbound, &metrics->hook_runs,
                                                &metrics->hook_unenforceable };
    for (size_t i = 0; i < ARRAY_LENGTH(families); i++)
        release_family(families[i]);
    while (metrics->hook_durations != NULL) {
        struct hook_duration *duration = metrics->hook_durations;
        metrics->hook_durations = duration->next;
        free(duration->hook);
        free(duration);
    }
    while (metrics->disks != NULL) {
        struct disk_figure *disk = metrics->disks;
        metrics->disks = disk->next;
        free(disk->kind);
        free(disk);
    }
    free(metrics->routes);
    free(metrics);
}

static void observe(struct metrics_histogram *histogram, const int64_t bounds[static METRICS_BUCKETS], int64_t value)
{
    size_t bucket = 0;
    while (bucket < METRICS_BUCKETS && value > bounds[bucket])
        bucket++;
    atomic_fetch_add_explicit(&histogram->buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum, value > 0 ? (uint64_t)value : 0, memory_order_relaxed);
}

/* second NULL: the family has one label. */
static void count(struct metrics_family *family, const char *first, const char *second, uint64_t by)
{
    for (;;) {
        for (struct metrics_series *series = family->series; series != NULL; series = series->next)
            if (strcmp(series->labels[0], first) == 0 && string_equal(series->labels[1], second)) {
                series->value += by;
                return;
            }
        if (family->count < SERIES_MAXIMUM || strcmp(first, OTHER) == 0)
            break;
        first = OTHER;
        second = second != NULL ? OTHER : NULL;
    }
    struct metrics_series *series = memory_zalloc(sizeof(*series));
    series->labels[0] = memory_strdup(first);
    series->labels[1] = memory_strdup(second);
    series->value = by;
    series->next = family->series;
    family->series = series;
    family->count++;
}

/* ---- the local API ----------------------------------------------------------------------------------------------- */

void ipc_metrics_commit(struct ipc_metrics *metrics, int64_t commit_us, size_t batch)
{
    observe(&metrics->commit_us, METRICS_COMMIT_BOUNDS_US, commit_us);
    observe(&metrics->batch, METRICS_BATCH_BOUNDS, (int64_t)batch);
}

void ipc_metrics_request(struct ipc_metrics *metrics, const struct route *route, enum http_transport transport, int status,
                         int64_t duration_us)
{
    struct route_figures *figures = &metrics->routes[route != NULL ? (size_t)(route - ROUTES) : ROUTE_COUNT];
    size_t place = 0;
    while (place < METRICS_STATUSES - 1 && METRICS_STATUS_CODES[place] != status)
        place++;
    figures->answers[transport == HTTP_TCP][place]++;
    observe(&figures->duration_us, METRICS_REQUEST_BOUNDS_US, duration_us);
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
    if (outcome == SEND_DUPLICATE)
        count(&metrics->dedupe, mesh_slug, "out", 1);
}

void ipc_metrics_received(struct ipc_metrics *metrics, const char *mesh_slug, const char *kind)
{
    traffic_of(metrics, mesh_slug, kind)->received++;
}

/* ---- other rooms --------------------------------------------------------------------------------------------------- */

void ipc_metrics_delivery(struct ipc_metrics *metrics, const char *mesh_slug, enum delivery_figure figure, const char *label)
{
    switch (figure) {
    case DELIVERY_RECONNECTED:
        count(&metrics->reconnects, mesh_slug, label, 1);
        break;
    case DELIVERY_DUPLICATE_IN:
        count(&metrics->dedupe, mesh_slug, "in", 1);
        break;
    case DELIVERY_DUPLICATE_OUT:
        count(&metrics->dedupe, mesh_slug, "out", 1);
        break;
    case DELIVERY_HISTORY_PRUNED:
        metrics->history_pruned++;
        break;
    case DELIVERY_INVALID_INBOUND:
        count(&metrics->invalid_inbound, label, NULL, 1);
        break;
    case DELIVERY_DECRYPT_ARCHIVED:
        metrics->decrypt_archived++;
        break;
    case DELIVERY_DECRYPT_STALE:
        metrics->decrypt_stale++;
        break;
    }
}

static struct hook_duration *duration_of(struct ipc_metrics *metrics, const char *hook)
{
    struct hook_duration *duration = metrics->hook_durations;
    while (duration != NULL && strcmp(duration->hook, hook) != 0)
        duration = duration->next;
    if (duration != NULL)
        return duration;
    if (metrics->hook_count >= HOOKS_MAXIMUM && strcmp(hook, OTHER) != 0)
        return duration_of(metrics, OTHER);
    duration = memory_zalloc(sizeof(*duration));
    duration->hook = memory_strdup(hook);
    duration->next = metrics->hook_durations;
    metrics->hook_durations = duration;
    metrics->hook_count++;
    return duration;
}

void ipc_metrics_hook_run(struct ipc_metrics *metrics, const char *hook, int exit_status, int64_t duration_ms)
{
    char text[16];
    if (exit_status == HOOK_EXIT_TIMEOUT)
        (void)snprintf(text, sizeof(text), "timeout");
    else if (exit_status == HOOK_EXIT_SIGNAL)
        (void)snprintf(text, sizeof(text), "signal");
    else if (exit_status == HOOK_EXIT_NOT_STARTED)
        (void)snprintf(text, sizeof(text), "not_started");
    else
        (void)snprintf(text, sizeof(text), "%d", exit_status & 0xff);
    count(&metrics->hook_runs, hook, text, 1);
    if (exit_status != HOOK_EXIT_NOT_STARTED)
        observe(&duration_of(metrics, hook)->duration_ms, METRICS_HOOK_BOUNDS_MS, duration_ms);
}

void ipc_metrics_hook_unenforceable(struct ipc_metrics *metrics, const char *hook, const char *reason)
{
    count(&metrics->hook_unenforceable, hook, reason, 1);
}

void ipc_metrics_hook_dropped(struct ipc_metrics *metrics, uint64_t events)
{
    metrics->hook_events_dropped += events;
}

void ipc_metrics_token_rotated(struct ipc_metrics *metrics)
{
    metrics->token_rotations++;
}

void ipc_metrics_clone_suspected(struct ipc_metrics *metrics)
{
    metrics->clone_suspected++;
}

void ipc_metrics_disk_pct(struct ipc_metrics *metrics, const char *kind, int pct)
{
    size_t known = 0;
    struct disk_figure *disk = metrics->disks;
    for (; disk != NULL && strcmp(disk->kind, kind) != 0; disk = disk->next)
        known++;
    if (disk == NULL && known < DISKS_MAXIMUM) {
        disk = memory_zalloc(sizeof(*disk));
        disk->kind = memory_strdup(kind);
        disk->next = metrics->disks;
        metrics->disks = disk;
    }
    if (disk != NULL)
        disk->pct = pct < 0 ? 0 : pct > 100 ? 100 : pct;
}

/* ---- a mesh that was left -------------------------------------------------------------------------------------------- */

static void forget_series(struct metrics_family *family, const char *mesh_slug)
{
    struct metrics_series **place = &family->series;
    while (*place != NULL) {
        struct metrics_series *series = *place;
        if (strcmp(series->labels[0], mesh_slug) != 0) {
            place = &series->next;
            continue;
        }
        *place = series->next;
        free(series->labels[0]);
        free(series->labels[1]);
        free(series);
        family->count--;
    }
}

void ipc_metrics_forget_mesh(struct ipc_metrics *metrics, const char *mesh_slug)
{
    forget_series(&metrics->reconnects, mesh_slug);
    forget_series(&metrics->dedupe, mesh_slug);
    struct traffic **place = &metrics->traffic;
    while (*place != NULL) {
        struct traffic *traffic = *place;
        if (strcmp(traffic->mesh, mesh_slug) != 0) {
            place = &traffic->next;
            continue;
        }
        *place = traffic->next;
        free_traffic(traffic);
    }
}
