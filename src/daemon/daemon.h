/* The daemon: wires the rooms, starts, stops, reloads. The only caller is the command line's `daemon up --foreground` (and its detached form, which forks before
 * any thread exists). */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "util/error.h"

struct invite;

struct daemon_options {
    const struct config_paths *paths;
    const char *mesh;         /* --mesh: serve that one only; NULL: all joined */
    const char *display_name; /* --name; NULL */
    int tcp;                  /* -1 as configured or by environment (container, CI: off); 0 --no-tcp; 1 on */
    int tcp_port;             /* -1: as configured; 0: any free one */
    bool public_health;
    bool container;              /* --container: as in one, whatever the signs say */
    const char *clone_policy;    /* --clone-policy; NULL */
    bool accept_cloned_identity; /* another host is recorded, this once */
    struct invite
        *invite; /* an ephemeral member of this invite's mesh alone; NULL: the joined meshes. Outlives the run; released once it is used */
    const char *member_name; /* ephemeral: the name when no setting gives one; a piece of the key is added */
    int64_t ttl_ms;          /* ephemeral: how long; 0 until it is stopped */
    bool exit_on_refused;
    bool log_to_stderr; /* --foreground */
    int ready_fd;       /* -1, or a pipe: "ready\n", or one error line, is written and it is closed */
};

/* Runs until SIGTERM or SIGINT. Returns the exit status of 10-cli (0 clean; 1 failed; 4; 8). What happened was logged, and written to ready_fd. */
int daemon_run(const struct daemon_options *options);

/* environment.c: one of the variables that CI systems set (50-identity, Modes). */
bool environment_is_ci(void);

/* What `daemon up` does where it runs when no flag says it (50-identity, Modes): in CI, with an invite, an ephemeral member. */
bool daemon_is_ephemeral_by_default(void);

#endif
