/* Whether `daemon up` starts an ephemeral member, and with which invite (50-identity, Modes). */
#ifndef CLI_EPHEMERAL_H
#define CLI_EPHEMERAL_H

#include "cli/command.h"
#include "daemon/daemon.h"
#include "proto/invite.h"

struct ephemeral {
    struct invite invite;
    char *name;
};

/* By the flags --ephemeral, --persistent, --ttl and --invite, $CLAUDEMESH_INVITE, and where this runs. Fills what *options has for it; prints on failure. The invite no longer
 * stands in the environment or the argument list afterwards. */
int ephemeral_decide(struct cli *cli, struct ephemeral *ret_ephemeral, struct daemon_options *options);
void ephemeral_release(struct ephemeral *ephemeral); /* takes a zeroed one */

#endif
