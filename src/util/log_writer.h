/* The log's own: lines for a descriptor where a write may wait (a pipe that nobody reads, a terminal that was stopped, a journal that hangs) are kept here, and written by a thread
 * of their own. Any thread may call; for log.c alone. */
#ifndef UTIL_LOG_WRITER_H
#define UTIL_LOG_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Starts the thread, once in a process; fd stays the caller's, and open until the process ends. -1 with errno: there is none. */
int log_writer_start(int fd);
/* Never waits. Copies one or two parts of a line; false: no room, the line is lost. */
bool log_writer_put(const char *head, size_t head_length, const char *line, size_t length);
/* How many lines the thread could not write (the reader is gone) since it was last asked. */
uint64_t log_writer_take_lost(void);
/* Waits until all is written, or the time is over. */
void log_writer_flush(int timeout_ms);

#endif
