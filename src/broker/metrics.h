/* The broker's measures (80-operations): counters, histograms, and their Prometheus text. No labels with ids, keys or free text. The loop thread. */
#ifndef BROKER_METRICS_H
#define BROKER_METRICS_H

#include <stdint.h>

#include "broker/store/store.h"
#include "util/buffer.h"

enum { HISTOGRAM_BUCKETS = 14 };
struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS + 1]; /* the last: above all bounds */
    uint64_t count;
    double sum_s;
};
void histogram_add(struct histogram *histogram, int64_t duration_us);

enum accept_result { ACCEPT_FAILED = STORE_OUTCOMES, ACCEPT_RESULTS }; /* the store's outcomes, and its failures */

struct metrics {
    uint64_t accepted[ACCEPT_RESULTS];
    struct histogram accept_seconds;
    struct histogram store_seconds[STORE_OPS];
    int64_t deliveries_waiting, deliveries_leased; /* rows in the store; of these, pushed and not acknowledged */
    uint64_t deliveries_done;
    uint64_t redeliveries, atomicity_violations;
    uint64_t hello_refused;
};

struct broker;
void metrics_print(const struct broker *broker, struct buffer *text);

#endif
