/* Flights: the rows in the air, found by client_message_id, and where each of them is. Bookkeeping only. */
#include "delivery/drain_internal.h"

#include "util/memory.h"
#include "util/text.h"

static struct flight_bucket *bucket_of(struct flights *flights, const char *client_message_id)
{
    uint32_t hash = 2166136261u;
    for (const char *byte = client_message_id; *byte != '\0'; byte++) {
        hash = (hash ^ (uint8_t)*byte) * 16777619u;
    }
    return &flights->buckets[hash % FLIGHT_BUCKETS];
}

static struct flight_queue *queue_of(struct flights *flights, const struct flight *flight)
{
    switch (flight->state) {
    case FLIGHT_AWAITING:
        return &flights->awaiting;
    case FLIGHT_SETTLING:
        return &flights->settling;
    case FLIGHT_GATHERED:
    case FLIGHT_MARKING:
    case FLIGHT_READY:
        break;
    }
    return &flights->queue;
}

static void drop_frame(struct flights *flights, struct flight *flight)
{
    flights->queued_bytes -= flight->frame.length;
    buffer_release(&flight->frame);
    buffer_init(&flight->frame, 0);
}

void flights_init(struct flights *flights)
{
    for (size_t i = 0; i < FLIGHT_BUCKETS; i++) {
        LIST_INIT(&flights->buckets[i]);
    }
    TAILQ_INIT(&flights->queue);
    TAILQ_INIT(&flights->awaiting);
    TAILQ_INIT(&flights->settling);
    flights->in_air = 0;
    flights->queued_bytes = 0;
}

void flights_release(struct flights *flights)
{
    struct flight_queue *const queues[] = { &flights->queue, &flights->awaiting, &flights->settling };
    for (size_t i = 0; i < ARRAY_LENGTH(queues); i++) {
        while (!TAILQ_EMPTY(queues[i])) {
            flights_remove(flights, TAILQ_FIRST(queues[i]));
        }
    }
}

struct flight *flights_add(struct flights *flights, const struct outbox_row *row, struct lane *lane, bool fast, struct buffer *frame,
                           const struct sha256 *content)
{
    struct flight *flight = memory_zalloc(sizeof(*flight));
    flight->seq = row->seq;
    flight->client_message_id = memory_strdup(row->client_message_id);
    flight->lane = lane;
    flight->state = FLIGHT_GATHERED;
    flight->fast = fast;
    flight->frame = *frame;
    buffer_init(frame, 0);
    flight->content = *content;
    flights->queued_bytes += flight->frame.length;
    flights->in_air++;
    LIST_INSERT_HEAD(bucket_of(flights, flight->client_message_id), flight, bucket);
    TAILQ_INSERT_TAIL(&flights->queue, flight, entry);
    return flight;
}

struct flight *flights_find(struct flights *flights, const char *client_message_id)
{
    struct flight *flight = NULL;
    LIST_FOREACH(flight, bucket_of(flights, client_message_id), bucket)
    {
        if (string_equal(flight->client_message_id, client_message_id)) {
            return flight;
        }
    }
    return NULL;
}

struct flight *flights_find_seq(struct flights *flights, int64_t seq)
{
    struct flight *flight = NULL;
    TAILQ_FOREACH(flight, &flights->queue, entry)
    {
        if (flight->seq == seq) {
            return flight;
        }
    }
    TAILQ_FOREACH(flight, &flights->awaiting, entry)
    {
        if (flight->seq == seq) {
            return flight;
        }
    }
    return NULL;
}

void flights_written(struct flights *flights, struct flight *flight, int64_t now_ms)
{
    TAILQ_REMOVE(&flights->queue, flight, entry);
    drop_frame(flights, flight);
    flight->state = FLIGHT_AWAITING;
    flight->written_ms = now_ms;
    TAILQ_INSERT_TAIL(&flights->awaiting, flight, entry);
}

void flights_settle(struct flights *flights, struct flight *flight)
{
    TAILQ_REMOVE(queue_of(flights, flight), flight, entry);
    LIST_REMOVE(flight, bucket);
    drop_frame(flights, flight);
    flights->in_air--;
    flight->state = FLIGHT_SETTLING;
    TAILQ_INSERT_TAIL(&flights->settling, flight, entry);
}

void flights_remove(struct flights *flights, struct flight *flight)
{
    TAILQ_REMOVE(queue_of(flights, flight), flight, entry);
    if (flight->state != FLIGHT_SETTLING) {
        LIST_REMOVE(flight, bucket);
        flights->in_air--;
    }
    drop_frame(flights, flight);
    buffer_release(&flight->frame);
    free(flight->client_message_id);
    free(flight);
}
