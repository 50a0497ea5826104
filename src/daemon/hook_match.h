/* Which hooks a message is an event for (60-hooks, Which, and when; 45-trust; docs/decisions/0016). Pure. */
#ifndef DAEMON_HOOK_MATCH_H
#define DAEMON_HOOK_MATCH_H

#include <jansson.h>
#include <stdbool.h>

#include "inbox/inbox.h"

struct hook_match {           /* what is known of a message that is about to be stored */
    const char *kind, *topic; /* topic NULL: none */
    enum inbox_verified verified;
    bool mentions_us, says_file;
    /* Whether this hook runs at all, and for messages verified like this one. */
    bool (*runs)(void *argument, const char *hook, enum inbox_verified verified);
    void *argument;
};
/* Names (heap) into ret_hooks, in the order in which they run; how many. */
size_t hook_match(const struct hook_match *match, char *ret_hooks[static INBOX_HOOKS_MAXIMUM]);

/* Whether one of the mentions is this member: its key in any case, or its name as `send` would fold it; a leading '@' is no part of either. folded_name "" or NULL: it has none.
 * mentions NULL: none. */
bool hook_mentions(const json_t *mentions, const char *pubkey, const char *folded_name);

#endif
