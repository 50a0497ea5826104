/* Capabilities inside ipc/: who holds which, and what one is good for (60-hooks, Capability tokens). */
#ifndef IPC_CAPABILITY_H
#define IPC_CAPABILITY_H

#include "ipc/hook_access.h"
#include "net/http_server.h"

enum capability_scope { CAPABILITY_REPLY = 1, CAPABILITY_DM_SENDER = 2, CAPABILITY_TOPIC_POST = 4 };

struct ipc_capability {
    struct ipc_capability *next; /* in the ipc's list, while it is open */
    unsigned references;
    char token[CAPABILITY_TOKEN_SIZE]; /* "": none */
    unsigned scopes;                   /* what the configured ones come to for this event */
    char *hook, *event_id, *mesh_slug, *sender_pubkey, *topic, *broker_message_id;
    int64_t depth;
    int64_t expires_at_ms; /* monotonic */
    struct http_narrow *socket;
    unsigned calls;
    unsigned refusals_told;     /* in the log */
    char *reply_id;             /* the client_message_id that used reply:event; NULL: not used */
    unsigned replies_under_way; /* requests with it that are not answered */
    bool reply_stands;          /* one of them was accepted */
};
struct ipc_capability *capability_hold(struct ipc_capability *capability); /* takes NULL */
void capability_let_go(struct ipc_capability *capability);                 /* takes NULL */

/* Whether the log is to tell one more refusal of this run: a hook must not push out of the log what else stands there. */
bool capability_may_tell(struct ipc_capability *capability) MUST_CHECK;

enum capability_presented { CAPABILITY_ABSENT, CAPABILITY_GOOD, CAPABILITY_BAD };
/* What a request presents, by its Authorization header and by the socket that it came in on: there only the run's own is good. *ret_capability (borrowed) when GOOD. */
enum capability_presented capability_of_request(const struct ipc *ipc, const struct http_request *request,
                                                struct ipc_capability **ret_capability);

/* A send that it would make: whether its scopes say so. */
struct capability_send {
    const char *mesh_slug, *kind, *ref, *reply_to_id, *client_message_id;
};
bool capability_allows_send(const struct ipc_capability *capability, const struct capability_send *send, bool *ret_uses_reply) MUST_CHECK;
bool capability_allows_topic(const struct ipc_capability *capability, const char *topic) MUST_CHECK;
/* reply:event is taken for this id, before anything waits; and what became of it. One that was refused gives it back. */
void capability_take_reply(struct ipc_capability *capability, const char *client_message_id);
void capability_reply_ended(struct ipc_capability *capability, bool accepted);

#endif
