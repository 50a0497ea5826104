/* The key of a join that has not been confirmed yet. It is on disk before the broker hears of it, so that a join whose answer is lost can be repeated with the same key:
 * the broker then counts it once (50-identity, Invites). */
#ifndef CLI_PENDING_KEY_H
#define CLI_PENDING_KEY_H

#include "config/config.h"
#include "crypto/keys.h"

/* The key kept for this invite, else a new one, kept. The configuration directory must be there. */
int pending_key_make(const struct config_paths *paths, const char *invite_id, struct keypair **ret_keys, struct error *error) MUST_CHECK;
void pending_key_forget(const struct config_paths *paths, const char *invite_id);

#endif
