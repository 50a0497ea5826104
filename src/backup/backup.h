/* Backup, restore, reset and the removal of everything (50-identity, Backup, reset, uninstall; 45-trust, Restore). What is in a backup, how it comes back so that a crash leaves the
 * old state whole or the new one, and what a reset keeps. Blocking, for commands; starts no process, opens no socket. `crypto_start` came before. */
#ifndef BACKUP_BACKUP_H
#define BACKUP_BACKUP_H

#include "config/config.h"
#include "crypto/sealed_stream.h"

/* ---- backup and restore ------------------------------------------------------------------------------------------ */

struct backup_request {
    const struct config_paths *paths;
    const char *file;            /* written, or read */
    struct text passphrase;      /* 1 to BACKUP_PASSPHRASE_MAXIMUM bytes */
    struct passphrase_cost cost; /* writing: PASSPHRASE_COST_MODERATE but in tests; reading takes the file's */
    bool with_data;              /* writing: messages too */
    bool force;                  /* writing: over an existing file; restoring: over an existing configuration, which is kept aside */
};
struct backup_summary {
    int64_t created_at; /* ms */
    char made_by[64];   /* the version of claudemesh */
    bool with_data;
    size_t meshes, hooks;            /* hooks: programs of daemon/hooks */
    int64_t outbox_rows, inbox_rows; /* rows of the databases' tables, all together; -1: there was no such database */
    bool other_host;                 /* restored: the backup was made on another host, as far as can be told */
    char *aside;                     /* restored with force: where the former state is kept; NULL nothing was kept */
};
void backup_summary_release(struct backup_summary *summary);

/* May run beside a daemon. Constant memory. ERROR_NOT_FOUND: there is no config.json; ERROR_CONFLICT: the file exists; ERROR_BUSY: config.json
 * was changed meanwhile, and what was read after it may not belong to it. On failure no file is left. */
int backup_write(const struct backup_request *request, struct backup_summary *ret_summary, struct error *error) MUST_CHECK;

/* ERROR_BUSY: a daemon runs, or another restore. ERROR_CONFLICT: there is a configuration. ERROR_DENIED: the wrong passphrase. ERROR_CORRUPT, ERROR_TOO_LARGE, ERROR_NEWER,
 * ERROR_INVALID: the file. On failure nothing has changed. New: the local token, the session id, the inbox's epoch, the host's fingerprint. Each mesh waits for its members_list. */
int backup_restore(const struct backup_request *request, struct backup_summary *ret_summary, struct error *error) MUST_CHECK;

/* Finishes a restore that was decided, and then interrupted by a crash: to be called before anything else looks into the directory. One look when there is none. Left for later when a daemon
 * runs on the former state. */
int backup_settle(const struct config_paths *paths, struct error *error) MUST_CHECK;

/* ---- reset and removal --------------------------------------------------------------------------------------------- */

struct reset_summary {
    int64_t ids_kept; /* rows of the outbox of which id, fingerprint and outcome stay */
    int64_t aborted;  /* of these, what was still to be sent, or dead */
};
/* ERROR_BUSY: a daemon runs. Stays: config.json, config.toml, the archive, topic keys, the host's fingerprint, hooks, what trust knows, consumed ids, the dedupe keys of what was received. Goes:
 * messages, receipts, logs, the token and the session id (new ones are made). Each database as a whole, the outbox first; what fails in between is cleared by the next reset. */
int backup_reset(const struct config_paths *paths, struct reset_summary *ret_summary, struct error *error) MUST_CHECK;

/* Removes everything that claudemesh's client made in the configuration directory, and the directory when nothing else is in it. Never the broker's. *ret_left: the names of what is left, one
 * a line (heap), or NULL. ERROR_BUSY: a daemon runs. */
int backup_remove_everything(const struct config_paths *paths, char **ret_left, struct error *error) MUST_CHECK;

#endif
