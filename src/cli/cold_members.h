/* Who is a member, as far as one members_list proves it to a command that has no database (10-cli, the cold path; 45-trust, Members): certificates and grants up to the
 * pinned owner, signed names, revocations. Nothing is remembered, so nothing is pinned. Pure. */
#ifndef CLI_COLD_MEMBERS_H
#define CLI_COLD_MEMBERS_H

#include <jansson.h>

#include "config/config.h"
#include "crypto/keys.h"
#include "proto/statement.h"

struct cold_member {
    char pubkey[KEY_HEX_SIZE];
    char (*former)[KEY_HEX_SIZE]; /* the keys that rotations lead from to this one, the newest first */
    size_t former_count;
    bool owner;          /* the pinned owner's key is, or was, its */
    char *member_id;     /* as the broker says */
    char *name, *folded; /* folded NULL: the name is not signed, and resolves nothing */
    char *invite_id;     /* of its certificate; NULL */
    int64_t joined_at;   /* the certificate's */
    int64_t max_uses;
    bool verified, admin, revoked;
};
struct cold_members {
    struct cold_member *items;
    size_t count;
    char rv[RV_SIZE];
};

int cold_members_read(const json_t *members_list, const struct config_mesh *mesh, struct cold_members *ret_members,
                      struct error *error) MUST_CHECK;
void cold_members_release(struct cold_members *members);

/* Whether that is a key which the member has or had. */
bool cold_member_has_key(const struct cold_member *member, const char *pubkey);
/* A whole key, of today or before a rotation, names any listed member; a prefix (8 hex digits or more) or a name only a verified one. ERROR_NOT_FOUND, ERROR_AMBIGUOUS (the candidates are in
 * the message), ERROR_DENIED (revoked). */
int cold_members_resolve(const struct cold_members *members, const char *to, const struct cold_member **ret_member,
                         struct error *error) MUST_CHECK;

#endif
