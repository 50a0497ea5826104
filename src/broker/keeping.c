/* The timer behind the store's housekeeping: one small step after another, each behind what waits for the store by then. Decides when, not what. */
#include "broker/keeping.h"

#include "broker/handlers.h"
#include "broker/session.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

enum { TICK_MS = 5 * 1000, KEEP_EVERY_MS = 60 * 1000, TOUCH_EVERY_MS = 6 * 60 * 60 * 1000 };
enum { FIRST_CHECK_MS = 60 * 60 * 1000 }; /* after a start: one that is started every day is checked too */
static const int64_t DAY_MS = INT64_C(24) * 60 * 60 * 1000;
enum { SESSION_RETENTION_DAYS = 30, AUDIT_RETENTION_DAYS = 90 };

/* ---- housekeeping ----------------------------------------------------------------------------------------------------------------- */

static void step(struct broker *broker, struct store_keep *keep, int stage);

static void kept(struct store_request *base)
{
    struct store_keep *keep = CONTAINER_OF(base, struct store_keep, request);
    struct broker *broker = base->argument;
    if (base->status != 0) {
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "keep"), LOG_TEXT("detail", base->error->message), LOG_END);
    } else {
        broker->metrics.deliveries_waiting += keep->deliveries_change;
        for (size_t i = 0; i < keep->moved_count; i++) {
            struct session *session = session_find_key(broker, keep->moved_to[i]);
            if (session != NULL && session->ready)
                deliver_rescan(session);
        }
        if (keep->more && !broker->stopping) {
            step(broker, keep, keep->next_stage);
            return;
        }
    }
    broker->keeping = false;
    free(keep);
}

static void step(struct broker *broker, struct store_keep *keep, int stage)
{
    keep->request.done = kept;
    keep->request.argument = broker;
    int64_t wall_ms = clock_wall_ms();
    int64_t steady_ms = clock_steady_ms();
    keep->now_ms = wall_ms < steady_ms ? wall_ms : steady_ms; /* nothing is forgotten because a clock was wrong for a while, or is */
    keep->message_retention_ms = broker->figures.message_retention_ms;
    keep->session_retention_ms = SESSION_RETENTION_DAYS * DAY_MS;
    keep->audit_retention_ms = AUDIT_RETENTION_DAYS * DAY_MS;
    keep->stage = stage;
    broker->store->operations->keep(broker->store, keep);
}

/* ---- sessions that stay connected for weeks are seen all the same ---------------------------------------------------------------- */

static void touched(struct store_request *base)
{
    if (base->status != 0)
        log_event(LOG_LEVEL_WARN, "store_failed", LOG_TEXT("op", "touch"), LOG_TEXT("detail", base->error->message), LOG_END);
    free(CONTAINER_OF(base, struct store_save_session, request));
}

void keeping_touch(const struct session *session)
{
    struct store_save_session *save = memory_zalloc(sizeof(*save));
    save->request.done = touched;
    save->session = session->key;
    save->member = session->member->key;
    save->now_ms = clock_wall_ms();
    session->broker->store->operations->save_session(session->broker->store, save);
}

static void touch(void *argument, struct table_node *node)
{
    (void)argument;
    keeping_touch(CONTAINER_OF(node, struct session, by_key));
}

/* ---- the consistency check ----------------------------------------------------------------------------------------------------------- */

static void log_findings(struct buffer *findings)
{
    char *line = findings->data;
    for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        log_event(LOG_LEVEL_ERROR, "atomicity_violation", LOG_TEXT("finding", line), LOG_END);
    }
}

static void checked(struct store_request *base)
{
    struct store_check *check = CONTAINER_OF(base, struct store_check, request);
    struct broker *broker = base->argument;
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "check"), LOG_TEXT("detail", base->error->message), LOG_END);
    broker->metrics.atomicity_violations += check->found;
    log_findings(&check->findings);
    if (base->status == 0 && check->more && !broker->stopping) {
        broker->store->operations->check(broker->store, check);
        return;
    }
    broker->checking = false;
    buffer_release(&check->findings);
    free(check);
}

static void begin_check(struct broker *broker)
{
    struct store_check *check = memory_zalloc(sizeof(*check));
    broker->checking = true;
    check->request.done = checked;
    check->request.argument = broker;
    buffer_init(&check->findings, BUFFER_UNLIMITED);
    broker->store->operations->check(broker->store, check);
}

/* ---- memory -------------------------------------------------------------------------------------------------------------------------- */

/* A thousand clients that connect at once make buffers that nobody needs a second later; the allocator keeps what is free between what is not, for ever, unless it is told. */
static void give_memory_back(void)
{
#ifdef __GLIBC__
    enum { WORTH_IT = 8 * 1024 * 1024 };
    if (mallinfo2().fordblks > WORTH_IT)
        (void)malloc_trim(0);
#endif
}

/* ---- the timer ------------------------------------------------------------------------------------------------------------------------- */

static void fired(void *argument)
{
    struct broker *broker = argument;
    int64_t now = clock_monotonic_ms();
    give_memory_back();
    if (!broker->keeping && now - broker->kept_at_ms >= KEEP_EVERY_MS) {
        broker->keeping = true;
        broker->kept_at_ms = now;
        step(broker, memory_zalloc(sizeof(struct store_keep)), 0);
    }
    if (now - broker->touched_at_ms >= TOUCH_EVERY_MS) {
        broker->touched_at_ms = now;
        table_each(&broker->sessions_by_key, touch, broker);
    }
    if (!broker->checking && now >= broker->check_due_ms) {
        broker->check_due_ms = now + broker->figures.check_interval_ms;
        begin_check(broker);
    }
    loop_timer_start(broker->keep_timer, TICK_MS);
}

void keeping_start(struct broker *broker)
{
    int64_t now = clock_monotonic_ms(), interval = broker->figures.check_interval_ms;
    broker->kept_at_ms = broker->touched_at_ms = now;
    broker->check_due_ms = now + (interval < FIRST_CHECK_MS ? interval : FIRST_CHECK_MS);
    broker->keep_timer = loop_timer_new(broker->loop, fired, broker);
    loop_timer_start(broker->keep_timer, TICK_MS);
}

void keeping_stop(struct broker *broker)
{
    loop_timer_free(broker->keep_timer);
    broker->keep_timer = NULL;
}
