/* Time. Tests replace the wall clock with clock_set_for_test. Any thread. */
#ifndef UTIL_CLOCK_H
#define UTIL_CLOCK_H

#include <stdint.h>

int64_t clock_wall_ms(void);      /* Unix time; may step */
int64_t clock_monotonic_ms(void); /* never steps; counts from boot */
int64_t clock_monotonic_us(void);
int64_t clock_boot_ms(void); /* never steps; goes on while the machine sleeps, where the system can tell */
/* Unix time for judging ages: follows the wall clock, but not a step of it, before that has stood for an hour or somebody who knows said that it is right. What is stamped
 * with it does not grow old, or young, by a clock that is wrong for a while after it was right; before it was ever right, as on a host that starts without the time, it does when the right one is believed. The loop thread; call it once at the start, so that it knows the time before a step. */
int64_t clock_steady_ms(void);
void clock_believe_wall(void); /* somebody else's clock agrees with ours */
/* NULL restores the real one. Only for tests, before threads start. */
void clock_set_for_test(int64_t (*wall_ms)(void));

#endif
