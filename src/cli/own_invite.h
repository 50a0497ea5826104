/* An invite that the owner makes on this host. */
#ifndef CLI_OWN_INVITE_H
#define CLI_OWN_INVITE_H

#include "cli/command.h"
#include "proto/invite.h"

/* The mesh's fields, its root key and a new seed. The owner's own invites only: an admin's need the owner's grant. Prints on failure. */
int own_invite_fill(struct cli *cli, const struct config_mesh *mesh, struct invite *invite);

#endif
