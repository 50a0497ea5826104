/* Keeping house on a timer, and the consistency check once a day (70-broker). Loop thread. */
#ifndef BROKER_KEEPING_H
#define BROKER_KEEPING_H

#include "broker/state.h"

void keeping_start(struct broker *broker);
void keeping_stop(struct broker *broker);
void keeping_touch(const struct session *session); /* its store session is seen now */

#endif
