/* What a service manager is told, by systemd's protocol (sd_notify(3)): datagrams on the socket that $NOTIFY_SOCKET names. Process-wide; one thread. */
#ifndef UTIL_NOTIFY_H
#define UTIL_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attributes.h"

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and takes them out of the environment: no process that is started later speaks for this one. Before
 * there are threads. With `listen` false they are only taken out. */
void notify_start(bool listen);
/* Whether somebody listens. */
bool notify_is_on(void);
/* How often, in ms, the manager wants to hear that the loop turns: half of what it allows; 0: it does not watch. */
int64_t notify_watchdog_ms(void);

/* Never blocks, never fails for the caller: a manager that does not read is no reason to stop serving. Nothing happens when nobody listens. */
void notify_ready(const char *status);
void notify_reloading(void); /* notify_ready ends it */
void notify_stopping(void);
void notify_watchdog(void);
/* One line for a person, for `systemctl status`; sent when it differs from the last. */
void notify_status(const char *status);
void notify_end(void); /* closes the socket */

#endif
