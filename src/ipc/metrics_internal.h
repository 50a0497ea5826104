/* The inside of struct ipc_metrics: metrics.c counts, metrics_print.c prints. */
#ifndef IPC_METRICS_INTERNAL_H
#define IPC_METRICS_INTERNAL_H

#include <stdatomic.h>

#include "ipc/metrics.h"
#include "ipc/routes.h"

enum { METRICS_BUCKETS = 11, METRICS_TRANSPORTS = 2 };
/* Ascending; one more bucket is everything. Microseconds, tasks, milliseconds. */
extern const int64_t METRICS_REQUEST_BOUNDS_US[METRICS_BUCKETS], METRICS_COMMIT_BOUNDS_US[METRICS_BUCKETS],
    METRICS_BATCH_BOUNDS[METRICS_BUCKETS], METRICS_HOOK_BOUNDS_MS[METRICS_BUCKETS];

/* What the API and its server answer with; the last place is any other. */
enum { METRICS_STATUSES = 20 };
extern const int METRICS_STATUS_CODES[METRICS_STATUSES];

struct metrics_histogram {
    _Atomic uint64_t buckets[METRICS_BUCKETS + 1];
    _Atomic uint64_t sum;
};

struct route_figures {
    uint64_t answers[METRICS_TRANSPORTS][METRICS_STATUSES];
    struct metrics_histogram duration_us;
};

struct traffic { /* of one mesh and kind */
    struct traffic *next;
    char *mesh, *kind;
    uint64_t sent[SEND_OUTCOMES], received;
};

/* A counter with up to two labels, whose values are met while running. mesh_count bounds what a fault elsewhere may do to whoever collects them. */
struct metrics_series {
    struct metrics_series *next;
    char *labels[2]; /* the second NULL where there is one only */
    uint64_t value;
};
struct metrics_family {
    struct metrics_series *series;
    size_t count;
};

struct hook_duration {
    struct hook_duration *next;
    char *hook;
    struct metrics_histogram duration_ms;
};

struct disk_figure {
    struct disk_figure *next;
    char *kind;
    int pct;
};

struct ipc_metrics {
    struct route_figures *routes; /* one more than ROUTES: refused before a route was found */
    struct traffic *traffic;
    struct metrics_histogram commit_us, batch;
    struct metrics_family reconnects, dedupe;            /* mesh, reason; mesh, direction */
    struct metrics_family invalid_inbound;               /* reason */
    struct metrics_family hook_runs, hook_unenforceable; /* hook, exit; hook, reason */
    struct hook_duration *hook_durations;
    size_t hook_count;
    struct disk_figure *disks;
    uint64_t history_pruned, decrypt_stale, decrypt_archived, hook_events_dropped, token_rotations, clone_suspected;
};

#endif
