/* Owns reading the clocks. Must not format times (util/text.h does). */
#include "util/clock.h"

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

enum {
    STEP_MS = 60 * 1000,             /* more is no correction of drift */
    BELIEVED_AFTER_MS = 3600 * 1000, /* a step that stands so long is the truth */
};

static int64_t (*test_wall_ms)(void);
static int64_t steady_wall_ms, steady_boot_ms = -1; /* the newest pair that is believed */
static int64_t stepped_boot_ms = -1;                /* since when the wall clock says something else; -1: it does not */

static int64_t read_us(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) {
        abort(); /* these clocks always exist; a made-up time would corrupt decisions about order */
    }
    return (int64_t)now.tv_sec * 1000000 + (int64_t)now.tv_nsec / 1000;
}

int64_t clock_wall_ms(void)
{
    return test_wall_ms != NULL ? test_wall_ms() : read_us(CLOCK_REALTIME) / 1000;
}

int64_t clock_monotonic_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_monotonic_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t clock_boot_ms(void)
{
#ifdef CLOCK_BOOTTIME
    return read_us(CLOCK_BOOTTIME) / 1000;
#else
    return read_us(CLOCK_MONOTONIC) / 1000;
#endif
}

void clock_believe_wall(void)
{
    steady_wall_ms = clock_wall_ms();
    steady_boot_ms = clock_boot_ms();
    stepped_boot_ms = -1;
}

int64_t clock_steady_ms(void)
{
    int64_t wall_ms = clock_wall_ms();
    int64_t boot_ms = clock_boot_ms();
    int64_t expected_ms = steady_wall_ms + boot_ms - steady_boot_ms;
    int64_t off_ms = wall_ms - expected_ms;
    bool stepped = steady_boot_ms >= 0 && (off_ms > STEP_MS || off_ms < -STEP_MS);
    if (stepped && stepped_boot_ms < 0) {
        stepped_boot_ms = boot_ms;
    }
    if (test_wall_ms != NULL || !stepped || boot_ms - stepped_boot_ms >= BELIEVED_AFTER_MS) {
        clock_believe_wall();
        return wall_ms;
    }
    return expected_ms;
}

void clock_set_for_test(int64_t (*wall_ms)(void))
{
    test_wall_ms = wall_ms;
}
