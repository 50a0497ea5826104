/* `daemon status`: room that is at its end, with a remedy. Prints nothing when there is plenty. */
#ifndef CLI_ROOM_STATUS_H
#define CLI_ROOM_STATUS_H

#include <jansson.h>

#include "cli/command.h"

void room_status_print(const struct cli *cli, const json_t *health);

#endif
