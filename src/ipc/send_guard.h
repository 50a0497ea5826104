/* What every new row has in common before pre-send: the message as the hook sees it, and what becomes of it (60-hooks). */
#ifndef IPC_SEND_GUARD_H
#define IPC_SEND_GUARD_H

#include "ipc/hook_access.h"
#include "util/buffer.h"

struct guard_subject { /* borrowed; NULL: none */
    const char *client_message_id, *mesh_slug, *kind, *ref, *name, *priority, *reply_to_id;
    struct text body, meta; /* meta in canonical form */
};
bool guard_is_wanted(const struct ipc *ipc);
json_t *guard_message(const struct guard_subject *subject) MUST_CHECK;
/* Puts what the hook replaced in place: *message then points to *ret_replaced (heap, given), meta is another one, with the row's depth. An error says why the hook's answer
 * cannot be used; nothing is changed then. */
int guard_apply(const struct send_verdict *verdict, int64_t inline_bytes, int64_t depth, struct text *message, char **ret_replaced,
                struct buffer *meta, struct error *error) MUST_CHECK;

#endif
