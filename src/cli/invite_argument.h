/* An invite as a command gets it: on the command line, in a variable, or from standard input. The link is a secret: it never appears in a message. */
#ifndef CLI_INVITE_ARGUMENT_H
#define CLI_INVITE_ARGUMENT_H

#include "cli/command.h"
#include "proto/invite.h"

/* `given` is the link, or "-" for the first line of standard input. Parsed, of the form that can be checked, signed, with its secrets, not expired; else printed, and the exit
 * code. Release the invite. */
int invite_argument_read(struct cli *cli, const char *given, struct invite *ret_invite);
/* 45-trust: an invite for a joined mesh must agree with what was pinned. NULL: it does; else "owner", "broker" or "root key". */
const char *invite_argument_differs(const struct invite *invite, const struct config_mesh *mesh);
/* What stands in the command line's own memory, or in a variable's, is overwritten, so that a process that lives on does not show it in /proc. */
void invite_argument_hide(const char *given);

#endif
