/* A new state of the directory, made beside the old one and put in its place (config.json and daemon/, together). Until the decision, one rename, the old state is whole; from then on the
 * new one is, because whoever looks next finishes what is left (backup_settle). Internal to the room. */
#ifndef BACKUP_SWAP_H
#define BACKUP_SWAP_H

#include "config/config.h"

struct staging {
    const struct config_paths *paths;
    struct config_paths made; /* where the new state is made: its root has config.json and daemon/ */
    char *directory;          /* NULL: none */
    int fd;                   /* its lock */
    bool made_root;
};
/* Makes the directory, with daemon/ and hooks/ in it. What a dead predecessor left is removed. ERROR_BUSY: another one is at it. */
int staging_open(const struct config_paths *paths, struct staging *ret_staging, struct error *error) MUST_CHECK;
/* Gives up, as if it had never been; takes one that was not opened. */
void staging_abandon(struct staging *staging);
/* Everything in it is on stable storage. Then, under the daemon's lock: `check` (may be NULL) is asked once more; the decision; the swap. keep: the former state stays, as *ret_aside (heap);
 * else it goes. ERROR_BUSY: a daemon runs. */
int staging_install(struct staging *staging, int (*check)(const struct config_paths *paths, struct error *error), bool keep,
                    char **ret_aside, struct error *error) MUST_CHECK;

#endif
