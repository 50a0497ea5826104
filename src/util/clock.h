/* Time. Tests replace the wall clock with clock_set_for_test. Any thread. */
#ifndef UTIL_CLOCK_H
#define UTIL_CLOCK_H

#include <stdint.h>

int64_t clock_wall_ms(void);      /* Unix time; may step */
int64_t clock_monotonic_ms(void); /* never steps; counts from boot */
int64_t clock_monotonic_us(void);
/* NULL restores the real one. Only for tests, before threads start. */
void clock_set_for_test(int64_t (*wall_ms)(void));

#endif
