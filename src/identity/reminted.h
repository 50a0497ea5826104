/* The mark that a mesh's member here got new keys while no daemon ran (50-identity, `daemon remint`): what waits in the outbox was the former member's to send, who has it in its own
 * outbox on the other host. The mark is on disk before config.json changes, and goes when the next start has ended those rows. Blocking; start-up and commands. */
#ifndef IDENTITY_REMINTED_H
#define IDENTITY_REMINTED_H

#include "config/config.h"

/* daemon/reminted-<mesh id>, 0600: the former member's key. ERROR_INVALID when the id cannot be a file's name. */
int reminted_mark(const struct config_paths *paths, const char *mesh_id, const char *former_pubkey, struct error *error) MUST_CHECK;
/* *ret_pending: there is a mark, and the mesh's key is another one by now. A mark whose key is still the mesh's is of a remint that never came so far: it is removed. */
int reminted_look(const struct config_paths *paths, const char *mesh_id, const char *pubkey, bool *ret_pending,
                  struct error *error) MUST_CHECK;
/* Durably. */
int reminted_clear(const struct config_paths *paths, const char *mesh_id, struct error *error) MUST_CHECK;

#endif
