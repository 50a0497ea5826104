/* What the files of daemon/ share and nobody else sees. */
#ifndef DAEMON_INTERNAL_H
#define DAEMON_INTERNAL_H

#include "daemon/daemon.h"
#include "identity/archive.h"
#include "identity/identity.h"
#include "ipc/ipc.h"
#include "net/loop.h"
#include "net/watchdog.h"
#include "outbox/outbox.h"
#include "privilege/privilege.h"
#include "inbox/inbox.h"

enum daemon_exit {
    DAEMON_EXIT_DONE = 0,
    DAEMON_EXIT_FAILED = 1,
    DAEMON_EXIT_IDENTITY = 4,
    DAEMON_EXIT_LINK_REFUSED = 8
}; /* 10-cli, Exit codes */

enum daemon_place { PLACE_HOST, PLACE_CONTAINER, PLACE_CI };
struct daemon_modes { /* decided once, at the start (modes.c) */
    enum daemon_place place;
    bool ephemeral; /* keys in memory alone */
    bool tcp;       /* the API on TCP, too */
    bool hooks;     /* hooks run */
};

struct daemon_mesh { /* one that is served, or on its way out */
    struct daemon *daemon;
    struct daemon_mesh *next;
    char *mesh_id, *slug, *pubkey, *broker_url;
    struct keypair *keys;
    struct key_archive archive;       /* former keys, as they were when the mesh was taken up */
    struct delivery *delivery;        /* NULL: it could not be made */
    struct daemon_rotation *rotation; /* of its key, under way; NULL none (rotate.c) */
    bool waiting;                     /* for the same mesh under another key or broker, which is on its way out */
    bool leaving;                     /* dropped: stops, then is freed */
    bool stopped;
    bool link_open, link_was_open; /* as the hooks were told */
};

enum daemon_leave { LEAVE_NOT_ASKED, LEAVE_ASKED, LEAVE_OVER };

struct daemon {
    const struct daemon_options *options;
    struct settings *settings;
    struct daemon_modes modes;
    char host_fingerprint[SHA256_HEX_SIZE]; /* of this host (host.c) */
    int failure_status;                     /* the exit status of a start that fails; 0: DAEMON_EXIT_FAILED */
    int lock_fd, ready_fd;
    char *token, *session_id;
    struct loop *loop;
    struct db *outbox_db, *inbox_db;
    struct outbox *outbox;
    struct inbox *inbox;
    struct ipc_metrics *metrics;
    struct ipc *ipc;
    struct daemon_mesh *meshes;
    struct daemon_hooks *hooks; /* daemon/hooks.h; NULL: not open */
    struct hooks_spawner *spawner;
    struct loop_watch *config_watch;
    struct loop_timer *second, *upkeep;
    struct watchdog *watchdog;
    bool disk_looking; /* a look at the file system is under way */
    int disk_wait_s;   /* until the next */
    int disk_level;    /* 0, 80, 95 */
    bool serving;      /* deliveries are started as they are made */
    bool port_written;
    int64_t archive_cleaned_ms; /* since boot; 0: not yet */

    /* an ephemeral member (ephemeral.c) */
    char *scratch, *ephemeral_member_id;
    struct config_paths scratch_paths;
    struct daemon_options scratch_options;
    struct loop_timer *ttl;
    enum daemon_leave leave;

    /* stopping (stop.c) */
    int stop_phase;
    int64_t stop_deadline_ms;
    struct loop_timer *stop_timer;
    unsigned stop_barriers; /* database tasks that are still to come back */
    int exit_status;
};

/* settings.c */
int daemon_load_settings(const struct daemon_options *options, struct settings **ret_settings, struct error *error) MUST_CHECK;
void daemon_limits(const struct settings *settings, struct ipc_limits *ret_limits);
struct outbox_limits daemon_outbox_limits(const struct settings *settings) MUST_CHECK;
int daemon_open_log(const struct daemon *daemon, struct error *error) MUST_CHECK;
void daemon_check_environment(void); /* warns of variables that nobody reads */
/* Reads the configuration again and applies what is live. A file that cannot be read changes nothing. *ret_report: {applied:[name…], needs_restart:[name…], warning?}, new
 * reference. Logs what it does. */
int daemon_reload(struct daemon *daemon, json_t **ret_report, struct error *error) MUST_CHECK;

/* confine.c: after the log is open, before anything is read that others write, and before there is a second thread */
void daemon_confine(const struct daemon *daemon);

/* service.c */
void daemon_tell_ready(struct daemon *daemon); /* at the start, and when a reload is over */

/* databases.c */
int daemon_open_databases(struct daemon *daemon, struct error *error) MUST_CHECK;
void daemon_prune(struct daemon *daemon);

/* disk.c */
void daemon_watch_inbox(struct daemon *daemon);
void daemon_look_at_disk(struct daemon *daemon); /* once a second */

/* meshes.c */
int daemon_open_meshes(struct daemon *daemon, struct error *error) MUST_CHECK; /* at start */
void daemon_update_meshes(struct daemon *daemon);                              /* config.json changed */
int daemon_take_up(struct daemon *daemon, const struct config_file *file, const struct config_mesh *config, struct error *error) MUST_CHECK;
void daemon_start_links(struct daemon *daemon);
void daemon_stop_links(struct daemon *daemon, int64_t grace_ms);
bool daemon_links_are_stopped(const struct daemon *daemon);
void daemon_free_meshes(struct daemon *daemon);
/* The delivery that serves this row's mesh; NULL when none does. */
struct delivery *daemon_delivery_of_row(const struct daemon *daemon, const char *row_mesh);
bool daemon_every_link_is_refused(const struct daemon *daemon);

/* rotate.c (50-identity, Key rotation) */
void daemon_rotate_keypair(void *daemon, const char *mesh_id, ipc_answered *answered, void *argument);
void daemon_resume_rotation(struct daemon_mesh *mesh);        /* config.json says that one was begun */
void daemon_rotation_link_changed(struct daemon *daemon);     /* some link is in another state */
void daemon_forget_rotation(struct daemon_mesh *mesh);        /* the mesh goes */
bool daemon_rotation_settles(const struct daemon_mesh *mesh); /* the link is refused for a key that is about to be replaced */

/* keys.c */
void daemon_rotate_token(void *daemon, ipc_answered *answered, void *argument);
void daemon_clean_archive(void *daemon, ipc_answered *answered, void *argument);
void daemon_clean_archive_daily(struct daemon *daemon);
void daemon_tell_archive(const struct archive_findings *findings);
void daemon_read_archive(const struct daemon *daemon,
                         struct key_archive *ret_archive); /* blocking, a small file: when a mesh is taken up */

/* listeners.c */
int daemon_listen(struct daemon *daemon, struct error *error) MUST_CHECK;
void daemon_remove_port(struct daemon *daemon);

/* host.c (50-identity, Host fingerprint) */
int daemon_check_host(struct daemon *daemon,
                      struct error *error) MUST_CHECK; /* before anything is touched; sets failure_status when it refuses */
int daemon_record_host(struct daemon *daemon, struct error *error) MUST_CHECK; /* under the lock; fills host_fingerprint */

/* ephemeral.c (50-identity, Modes) */
void daemon_sweep_scratch(const struct daemon *daemon); /* under the lock: directories of ephemeral daemons that were killed */
int daemon_make_scratch(struct daemon *daemon, struct error *error) MUST_CHECK; /* from now on the options name files in it */
void daemon_remove_scratch(struct daemon *daemon);
int daemon_join_ephemeral(struct daemon *daemon,
                          struct error *error) MUST_CHECK; /* last in the start: it blocks, and a broker hears of it */
/* True: there is nothing to leave, or the broker said so, or it is too late. Else it is under way: ask again. */
bool daemon_has_left(struct daemon *daemon, bool late);

/* modes.c (50-identity, Modes) */
const char *daemon_place_name(enum daemon_place place);
enum daemon_place daemon_place(bool said_to_be_container);
void daemon_decide_modes(const struct daemon_options *options, const struct settings *settings, struct daemon_modes *ret_modes);
void daemon_tell_modes(
    const struct daemon_modes *modes); /* to the log, with a warning for each choice that is less safe than the default */

/* environment.c (50-identity, Modes) */
bool environment_is_container(void);

/* stop.c */
int daemon_watch_signals(struct daemon *daemon, struct error *error) MUST_CHECK;
/* Begins an orderly stop; again: hastens it. */
void daemon_stop(struct daemon *daemon, int exit_status);

#endif
