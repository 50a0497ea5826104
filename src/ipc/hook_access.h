/* What the API gives to hooks, and asks of one (60-hooks; 45-trust, Against the local side; docs/decisions/0016): a capability with a socket of its own for each run,
 * automatic replies through the ordinary accept path, and pre-send's say before a new row. Knows no hook's program: the daemon's wiring stands between. Loop thread. */
#ifndef IPC_HOOK_ACCESS_H
#define IPC_HOOK_ACCESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/error.h"
#include "util/text.h"

struct ipc;

/* ---- one run's rights ------------------------------------------------------------------------------------------------ */

enum {
    CAPABILITY_TOKEN_SIZE = 44,     /* 32 random bytes as base64url, and the NUL */
    CAPABILITY_LIFE_MS = 300 * 1000 /* 60-hooks: 5 minutes */
};

struct ipc_capability;
struct ipc_capability_facts { /* of the event that started the run; copied. NULL: it has none */
    const char *hook, *event_id;
    const char *mesh_slug, *sender_pubkey, *topic, *broker_message_id;
    int64_t depth; /* the event's: of an automatic reply 1, and then it is good for no message */
    const char *const *scopes;
    size_t scope_count;
};
/* Listens on socket_path (in a private directory), where only this capability counts; elsewhere it may be presented, too. Without scopes there is no token: ret_token is "",
 * and the socket answers 401 to everybody. */
int ipc_capability_open(struct ipc *ipc, const struct ipc_capability_facts *facts, const char *socket_path,
                        char ret_token[static CAPABILITY_TOKEN_SIZE], struct ipc_capability **ret_capability,
                        struct error *error) MUST_CHECK;
struct ipc_capability_use {
    unsigned calls; /* requests that presented it */
    bool replied;   /* reply:event was used */
};
/* The hook has ended: the token is worth nothing from now on, the socket and its connections are closed. Takes NULL. */
void ipc_capability_close(struct ipc *ipc, struct ipc_capability *capability, struct ipc_capability_use *ret_use);

/* ---- automatic replies ----------------------------------------------------------------------------------------------- */

struct ipc_reply { /* borrowed for the call */
    const char *mesh_slug, *to /* a key or "#topic" */, *reply_to_id /* NULL none */, *client_message_id;
    struct text message;
    int64_t depth; /* what it carries: 1, or more */
};
/* As POST /v1/send, pre-send and all. done once, maybe inside the call: status as of HTTP (2xx: its row is on disk); code: the error's, NULL for 2xx. */
void ipc_reply(struct ipc *ipc, const struct ipc_reply *reply, void (*done)(void *argument, int status, const char *code), void *argument);

/* ---- pre-send -------------------------------------------------------------------------------------------------------- */

enum send_verdict_action { SEND_ALLOWED, SEND_DENIED, SEND_REPLACED };
struct send_verdict { /* borrowed for the call of answered */
    enum send_verdict_action action;
    const char *reason;  /* SEND_DENIED: for the caller; NULL none */
    struct text message; /* SEND_REPLACED: data NULL: as it was */
    const json_t *meta;  /* SEND_REPLACED: an object; NULL: as it was */
};
struct send_guard {
    void *argument;
    bool (*wanted)(void *argument); /* whether a hook has to be asked at all */
    /* Asks about a new row; message is given: its fields as GET /v1/inbox names them. answered once, unless the question is cancelled.
     * NULL: it was answered inside the call. */
    void *(*ask)(void *argument, const char *mesh_slug, json_t *message,
                 void (*answered)(void *answered_argument, const struct send_verdict *verdict), void *answered_argument);
    void (*cancel)(void *argument, void *question);
};
void ipc_set_guard(struct ipc *ipc, const struct send_guard *guard); /* copied */

#endif
