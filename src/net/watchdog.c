/* Owns the timer that feeds the service manager's watchdog. Must not run anywhere but on the loop that it speaks for. */
#include "net/watchdog.h"

#include "util/memory.h"
#include "util/notify.h"

enum { STATUS_MS = 5000 }; /* for a manager that does not watch */

struct watchdog {
    struct loop_timer *timer;
    void (*status)(void *argument, char ret_line[static WATCHDOG_STATUS_SIZE]);
    void *argument;
};

static void feed(void *argument)
{
    struct watchdog *watchdog = argument;
    char line[WATCHDOG_STATUS_SIZE] = "";
    const int64_t interval_ms = notify_watchdog_ms();
    if (interval_ms > 0)
        notify_watchdog();
    watchdog->status(watchdog->argument, line);
    notify_status(line);
    loop_timer_start(watchdog->timer, interval_ms > 0 ? interval_ms : STATUS_MS);
}

struct watchdog *watchdog_new(struct loop *loop, void (*status)(void *argument, char ret_line[static WATCHDOG_STATUS_SIZE]), void *argument)
{
    if (!notify_is_on())
        return NULL;
    struct watchdog *watchdog = memory_zalloc(sizeof(*watchdog));
    watchdog->status = status;
    watchdog->argument = argument;
    watchdog->timer = loop_timer_new(loop, feed, watchdog);
    loop_timer_start(watchdog->timer, 0);
    watchdog_tell_ready(watchdog);
    return watchdog;
}

void watchdog_tell_ready(const struct watchdog *watchdog)
{
    char line[WATCHDOG_STATUS_SIZE] = "";
    if (watchdog == NULL)
        return;
    watchdog->status(watchdog->argument, line);
    notify_ready(line);
}

void watchdog_free(struct watchdog *watchdog)
{
    if (watchdog == NULL)
        return;
    loop_timer_free(watchdog->timer);
    free(watchdog);
}
