/* Stopping the daemon that runs, for commands that need it stopped. */
#ifndef CLI_DAEMON_STOP_H
#define CLI_DAEMON_STOP_H

#include "cli/command.h"

/* SIGTERM, and waits up to the command's --timeout. EXIT_DONE when it stopped or none ran (*ret_pid 0); else prints. */
int daemon_stop_running(struct cli *cli, int64_t *ret_pid);

/* daemon_restart.c: the whole of `daemon restart`, when its flags are in order. Returns only when it failed, or a service manager did it. */
int daemon_restart(struct cli *cli);

#endif
