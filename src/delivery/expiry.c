/* Maximum age (30-delivery): how old a row may become, by the broker's retention; ends those past it, before anything is sent and whenever the oldest is due. */
#include "delivery/delivery_internal.h"

#include "util/clock.h"
#include "util/log.h"

enum { RETENTION_UNKNOWN = 0, RETENTION_PERMANENT = -1, PERMANENT_MAXIMUM_HOURS = 720 };
enum { SHORTEST_WAIT_MS = 1000, LONGEST_WAIT_MS = 60000 };
static const int64_t HOUR_MS = 3600000;
enum { ROW_BYTES_READ_AT_ONCE = 8 * 1024 * 1024, ROWS_READ_LEAST = 8, ROWS_READ_MOST = 128 };

static int64_t max_age_hours(const struct delivery *delivery)
{
    if (delivery->max_age_override_hours > 0) {
        return delivery->max_age_override_hours;
    }
    int64_t days = trust_retention_days(delivery->trust);
    if (delivery->open && !link_features(delivery->link)->dedupe) {
        days = RETENTION_UNKNOWN; /* this broker does not say */
    }
    if (days == RETENTION_PERMANENT) {
        return delivery->max_age_hours < PERMANENT_MAXIMUM_HOURS ? delivery->max_age_hours : PERMANENT_MAXIMUM_HOURS;
    }
    return days > 0 ? maximum_age_hours(days) : delivery->max_age_hours;
}

int64_t expiry_max_age_ms(const struct delivery *delivery)
{
    return max_age_hours(delivery) * HOUR_MS;
}

int64_t expiry_override_limit(const struct delivery *delivery, int64_t dedupe_retention_days)
{
    int64_t limit = dedupe_retention_days * 24 - 1;
    return dedupe_retention_days > 0 && delivery->max_age_override_hours > limit ? limit : 0;
}

static void open_drain(struct delivery *delivery)
{
    delivery->expiry.open_after = false;
    if (!delivery->open || delivery->stopping) {
        return;
    }
    int64_t rows = ROW_BYTES_READ_AT_ONCE / delivery_inline_bytes(delivery);
    rows = rows < ROWS_READ_LEAST ? ROWS_READ_LEAST : rows;
    rows = rows > ROWS_READ_MOST ? ROWS_READ_MOST : rows;
    drain_open(delivery->drain, expiry_max_age_ms(delivery), (size_t)rows);
}

static void wait_for_oldest(struct delivery *delivery, int64_t oldest_enqueued_at)
{
    if (oldest_enqueued_at < 0) {
        return; /* nothing waits: the next accept starts the timer */
    }
    int64_t wait_ms = oldest_enqueued_at + expiry_max_age_ms(delivery) - clock_steady_ms();
    wait_ms = wait_ms < SHORTEST_WAIT_MS ? SHORTEST_WAIT_MS : wait_ms;
    wait_ms = wait_ms > LONGEST_WAIT_MS ? LONGEST_WAIT_MS : wait_ms; /* a step of the wall clock may be believed meanwhile */
    loop_timer_start(delivery->expiry.timer, wait_ms);
}

static void expired(void *argument, int64_t count, int64_t oldest_enqueued_at)
{
    struct delivery *delivery = argument;
    if (!delivery->freed) {
        delivery->expiry.running = false;
        if (count > 0) {
            log_event(LOG_LEVEL_WARN, "outbox_expired", LOG_TEXT("mesh", delivery->slug), LOG_NUMBER("rows", count), LOG_END);
        }
        if (delivery->expiry.again) {
            expiry_run(delivery);
        } else {
            wait_for_oldest(delivery, oldest_enqueued_at);
            if (delivery->expiry.open_after) {
                open_drain(delivery);
            }
        }
    }
    delivery_let_go(delivery);
}

void expiry_run(struct delivery *delivery)
{
    struct expiry *expiry = &delivery->expiry;
    if (expiry->running) {
        expiry->again = true;
        return;
    }
    expiry->again = false;
    expiry->running = true;
    loop_timer_stop(expiry->timer);
    delivery_hold(delivery);
    outbox_expire(delivery->outbox, delivery_row_mesh(delivery), clock_steady_ms() - expiry_max_age_ms(delivery), expired, delivery);
}

void expiry_run_and_open(struct delivery *delivery)
{
    delivery->expiry.open_after = true;
    expiry_run(delivery);
}

void expiry_row_inserted(struct delivery *delivery)
{
    if (!delivery->expiry.running && !loop_timer_is_running(delivery->expiry.timer)) {
        loop_timer_start(delivery->expiry.timer, LONGEST_WAIT_MS);
    }
}

static void timer_fired(void *argument)
{
    expiry_run(argument);
}

void expiry_init(struct delivery *delivery)
{
    delivery->expiry.timer = loop_timer_new(delivery->loop, timer_fired, delivery);
}

void expiry_release(struct delivery *delivery)
{
    loop_timer_free(delivery->expiry.timer);
    delivery->expiry.timer = NULL;
}
