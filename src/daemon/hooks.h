/* The daemon's hooks (60-hooks): events become runs, runs get their rights, what they print becomes replies and verdicts. Between the room hooks/, which starts programs and
 * knows no event, and the rooms that know events and start no program. Loop thread. */
#ifndef DAEMON_HOOKS_H
#define DAEMON_HOOKS_H

#include <jansson.h>

#include "daemon/internal.h"
#include "hooks/hooks.h"

struct daemon_hooks;

/* After the API and the databases, before the meshes: their messages find it. */
int daemon_hooks_open(struct daemon *daemon, struct hooks_spawner *spawner, struct error *error) MUST_CHECK;
/* The links start: on-startup, and what waited since the last life. */
void daemon_hooks_start(struct daemon *daemon);
/* Once a second. */
void daemon_hooks_poke(struct daemon *daemon);
void daemon_hooks_reload(struct daemon *daemon);

/* struct event_sink's: which hooks run for a message that is about to be stored. */
void daemon_hooks_arriving(void *argument, struct delivery *delivery, const json_t *mentions, const json_t *meta,
                           struct inbox_insert *insert);
/* What a delivery published, and the API after it: a `message` starts what was written with it, and says its file; a `broker_status` may be an event itself. */
void daemon_hooks_published(struct daemon *daemon, const char *type, const char *mesh_slug, const json_t *data);

/* The daemon stops: nothing new starts, what runs is ended. */
void daemon_hooks_stop(struct daemon *daemon);
bool daemon_hooks_are_stopped(const struct daemon *daemon);
void daemon_hooks_close(struct daemon *daemon); /* before the API and the databases are freed */

#endif
