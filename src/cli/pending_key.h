/* The key of a new member whose enrolment nothing here confirms yet. It is on disk before the broker hears of it, so that a join, or the making of a mesh, that ended before
 * its answer was kept can be repeated with the same key: the broker then counts it once (50-identity, Invites), and a mesh never belongs to a key that is lost. */
#ifndef CLI_PENDING_KEY_H
#define CLI_PENDING_KEY_H

#include <stdbool.h>

#include "config/config.h"
#include "crypto/keys.h"

#define PENDING_KIND_MESH "mesh"
enum { PENDING_ID_SIZE = 41 };

/* What the key is for: `kind` a literal of ours, `id` of the invite or the mesh. */
struct pending_key {
    const char *kind, *id;
    bool fresh; /* made by this process: nobody has heard of it but whom it told */
};

/* The key kept for this, else a new one, kept; sets `fresh`. The configuration directory must be there. */
int pending_key_make(const struct config_paths *paths, struct pending_key *pending, struct keypair **ret_keys,
                     struct error *error) MUST_CHECK;
/* The key that is kept for this; NULL when there is none, or none that can be read. */
struct keypair *pending_key_peek(const struct config_paths *paths, const struct pending_key *pending) MUST_CHECK;
/* The key has its place in config.json now, or is nobody's. Durable; what cannot be removed stays for the next time. */
void pending_key_forget(const struct config_paths *paths, const struct pending_key *pending);
/* The id of the key of a mesh that is made: a slug is one mesh's at a broker, so that the same command finds the same key again. */
void pending_key_name_mesh(const char *slug, const char *broker_url, char ret_id[static PENDING_ID_SIZE]);
/* The broker refused, with `http_status` and the code of its answer: forgets the key, unless an earlier try may have been accepted. */
void pending_key_refused(const struct config_paths *paths, const struct pending_key *pending, int http_status, const char *code);

#endif
