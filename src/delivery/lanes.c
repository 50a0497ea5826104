/* Lanes: which (destination, priority) waits, since which row, until when. Bookkeeping only: no database, no clock of its own. */
#include "delivery/drain_internal.h"

#include "util/memory.h"
#include "util/text.h"

static struct lane_bucket *bucket_of(struct lanes *lanes, enum outbox_priority priority, const char *destination_ref)
{
    uint32_t hash = 2166136261u ^ (uint32_t)priority;
    for (const char *byte = destination_ref; *byte != '\0'; byte++) {
        hash = (hash ^ (uint8_t)*byte) * 16777619u;
    }
    return &lanes->buckets[hash % LANE_BUCKETS];
}

static struct lane_queue *queue_of(struct lanes *lanes, const struct lane *lane)
{
    switch (lane->state) {
    case LANE_WAITING:
        return &lanes->waiting;
    case LANE_CATCHING:
        return &lanes->catching[lane->priority];
    case LANE_FREE:
        break;
    }
    return NULL;
}

static void set_state(struct lanes *lanes, struct lane *lane, enum lane_state state)
{
    if (lane->state == state) {
        return;
    }
    struct lane_queue *from = queue_of(lanes, lane);
    if (from != NULL) {
        TAILQ_REMOVE(from, lane, entry);
    }
    lane->state = state;
    struct lane_queue *to = queue_of(lanes, lane);
    if (to != NULL) {
        TAILQ_INSERT_TAIL(to, lane, entry);
    }
}

static void free_when_ordinary(struct lane *lane)
{
    if (lane->state == LANE_FREE && lane->flights == 0) {
        LIST_REMOVE(lane, bucket);
        free(lane->destination_ref);
        free(lane);
    }
}

void lanes_init(struct lanes *lanes)
{
    for (size_t i = 0; i < LANE_BUCKETS; i++) {
        LIST_INIT(&lanes->buckets[i]);
    }
    TAILQ_INIT(&lanes->waiting);
    for (size_t i = 0; i < PRIORITIES; i++) {
        TAILQ_INIT(&lanes->catching[i]);
    }
}

void lanes_release(struct lanes *lanes)
{
    for (size_t i = 0; i < LANE_BUCKETS; i++) {
        struct lane *lane = NULL;
        while ((lane = LIST_FIRST(&lanes->buckets[i])) != NULL) {
            lane->flights = 0;
            set_state(lanes, lane, LANE_FREE);
            free_when_ordinary(lane);
        }
    }
}

struct lane *lanes_find(struct lanes *lanes, enum outbox_priority priority, const char *destination_ref)
{
    struct lane *lane = NULL;
    LIST_FOREACH(lane, bucket_of(lanes, priority, destination_ref), bucket)
    {
        if (lane->priority == priority && string_equal(lane->destination_ref, destination_ref)) {
            return lane;
        }
    }
    return NULL;
}

struct lane *lanes_get(struct lanes *lanes, enum outbox_priority priority, const char *destination_ref)
{
    struct lane *lane = lanes_find(lanes, priority, destination_ref);
    if (lane == NULL) {
        lane = memory_zalloc(sizeof(*lane));
        lane->destination_ref = memory_strdup(destination_ref);
        lane->priority = priority;
        lane->resume_after = INT64_MAX;
        lane->last_skipped = -1;
        lane->holder_seq = -1;
        LIST_INSERT_HEAD(bucket_of(lanes, priority, destination_ref), lane, bucket);
    }
    return lane;
}

void lanes_skip(struct lane *lane, int64_t seq)
{
    if (lane->resume_after > seq - 1) {
        lane->resume_after = seq - 1;
    }
    if (lane->last_skipped < seq) {
        lane->last_skipped = seq;
    }
}

void lanes_wait(struct lanes *lanes, struct lane *lane, int64_t delay_ms, int64_t now_ms)
{
    lane->due_ms = now_ms + delay_ms;
    set_state(lanes, lane, LANE_WAITING);
}

int64_t lanes_wake(struct lanes *lanes, int64_t now_ms)
{
    int64_t next_ms = -1;
    struct lane *lane = TAILQ_FIRST(&lanes->waiting);
    while (lane != NULL) {
        struct lane *following = TAILQ_NEXT(lane, entry);
        if (lane->due_ms > now_ms) {
            int64_t left_ms = lane->due_ms - now_ms;
            next_ms = next_ms < 0 || left_ms < next_ms ? left_ms : next_ms;
        } else if (lane->flights == 0) { /* else the last one to land wakes it: only then is its oldest row known */
            set_state(lanes, lane, lane->resume_after == INT64_MAX ? LANE_FREE : LANE_CATCHING);
            free_when_ordinary(lane);
        }
        lane = following;
    }
    return next_ms;
}

struct lane *lanes_next_catching(struct lanes *lanes, enum outbox_priority priority)
{
    return TAILQ_FIRST(&lanes->catching[priority]);
}

void lanes_caught_up(struct lanes *lanes, struct lane *lane)
{
    lane->resume_after = INT64_MAX;
    lane->last_skipped = -1;
    set_state(lanes, lane, LANE_FREE);
    free_when_ordinary(lane);
}

void lanes_land(struct lane *lane)
{
    lane->flights--;
    free_when_ordinary(lane);
}

void lanes_rewind(struct lanes *lanes)
{
    for (size_t i = 0; i < LANE_BUCKETS; i++) {
        struct lane *lane = LIST_FIRST(&lanes->buckets[i]);
        while (lane != NULL) {
            struct lane *following = LIST_NEXT(lane, bucket);
            lane->resume_after = INT64_MAX;
            lane->last_skipped = -1;
            lane->holder_seq = -1; /* what was held was held for that connection */
            if (lane->state == LANE_CATCHING) {
                set_state(lanes, lane, LANE_FREE);
            }
            free_when_ordinary(lane);
            lane = following;
        }
    }
}
