/* Sends that are held until their row is finished (20-ipc, ?wait=): a registry by client_message_id. Knows no HTTP. Loop thread. */
#ifndef IPC_WAITS_H
#define IPC_WAITS_H

#include <stddef.h>
#include <stdint.h>

#include "net/loop.h"
#include "outbox/states.h"

struct waits;
struct wait;

struct wait_result { /* strings borrowed */
    bool finished;   /* false: time is up, or the daemon stops */
    enum outbox_state state;
    const char *id, *broker_message_id, *last_error;
    int64_t history_id;
};

struct waits *waits_new(struct loop *loop) MUST_CHECK;
void waits_free(struct waits *waits); /* forgets what is left, without a call */
/* over is called once, and the wait is gone before it is called. */
struct wait *waits_add(struct waits *waits, const char *client_message_id, int64_t timeout_ms,
                       void (*over)(void *argument, const struct wait_result *result), void *argument) MUST_CHECK;
/* Forgets it: no call. */
void waits_cancel(struct waits *waits, struct wait *wait);
/* A row is finished: everyone who waits for it is told. */
void waits_finished(struct waits *waits, const char *client_message_id, const struct wait_result *result);
void waits_end_all(struct waits *waits);
size_t waits_count(const struct waits *waits);

#endif
