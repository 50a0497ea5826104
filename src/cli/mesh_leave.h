/* Leaving a mesh, for commands that leave. */
#ifndef CLI_MESH_LEAVE_H
#define CLI_MESH_LEAVE_H

#include "cli/command.h"

/* Tells the broker, with a signed statement. EXIT_DONE, or what was printed and its exit code. */
int mesh_leave_tell(struct cli *cli, const struct config_mesh *mesh);

#endif
