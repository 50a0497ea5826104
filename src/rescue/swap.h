/* Putting a new database in the place of an old one, so that a crash at any point leaves the old one whole under one of two names. Internal to the room. */
#ifndef RESCUE_SWAP_H
#define RESCUE_SWAP_H

#include "config/config.h"

/* The new file of a database while it is made: heap. */
char *swap_new_path(const char *database) MUST_CHECK;
/* Removes what an earlier run left of it, log included. */
int swap_clear(const char *database, struct error *error) MUST_CHECK;
/* The old one stays as <database>.damaged-<time> (*ret_aside, heap), the new one takes its name. From the first durable note on swap_finish does the rest. */
int swap_place(const struct config_paths *paths, const char *database, char **ret_aside, struct error *error) MUST_CHECK;
/* 1: a swap that was interrupted was finished; 0: there was none. */
int swap_finish(const struct config_paths *paths, struct error *error) MUST_CHECK;

#endif
