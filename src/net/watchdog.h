/* Tells the service manager, from the loop, that the loop turns (80-operations, Service): a loop that is stuck says nothing, and is restarted. Loop thread. */
#ifndef NET_WATCHDOG_H
#define NET_WATCHDOG_H

#include <stddef.h>

#include "net/loop.h"

enum { WATCHDOG_STATUS_SIZE = 128 };
struct watchdog;
/* Says that it is ready, at once that the loop turns, and then at half the interval that the manager asked for; with each, the line that `status` writes
 * (`systemctl status` shows it).
 * NULL when no manager listens. */
struct watchdog *watchdog_new(struct loop *loop, void (*status)(void *argument, char ret_line[static WATCHDOG_STATUS_SIZE]),
                              void *argument) MUST_CHECK;
/* A reload is over. */
void watchdog_tell_ready(const struct watchdog *watchdog); /* takes NULL */
void watchdog_free(struct watchdog *watchdog);             /* takes NULL */

#endif
