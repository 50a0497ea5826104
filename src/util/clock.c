/* Owns reading the clocks. Must not format times (util/text.h does). */
#include "util/clock.h"

#include <stddef.h>
#include <time.h>

static int64_t (*test_wall_ms)(void);

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

void clock_set_for_test(int64_t (*wall_ms)(void))
{
    test_wall_ms = wall_ms;
}
