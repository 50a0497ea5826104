/* Paths, config.json (joined meshes and their keys), config.toml (settings as one table). Blocking file access; no sockets. */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/buffer.h"
#include "util/error.h"

/* ---- paths (10-cli, Files) ---------------------------------------------------------------------------------- */
struct config_paths { /* heap strings */
    char *root;       /* the configuration directory */
    char *config_json, *sockets;
    char *daemon, *pid_file, *socket, *http_port, *local_token, *config_toml, *outbox_db, *inbox_db, *host_fingerprint, *keypair_archive,
        *topic_keys, *log, *hooks, *session_id;
    char *inbox_rebuild;                           /* there: every mesh's history is to be asked for at the next start */
    char *outbox_recovery;                         /* there: `daemon recover` was interrupted, and is to be run again */
    char *broker, *broker_db, *broker_admin_token; /* broker/, broker/broker.db, broker/admin-token */
};
/* --config-dir, else $CLAUDEMESH_CONFIG_DIR, else ~/.claudemesh. A variable that names a directory that does not exist: *ret_ignored_variable true (the
 * caller warns once on a terminal) and the default is used. */
int config_paths_init(const char *config_dir_flag, struct config_paths *ret_paths, bool *ret_ignored_variable,
                      struct error *error) MUST_CHECK;
void config_paths_release(struct config_paths *paths);
/* Makes root, daemon/, sockets/, hooks/ with 0700 where absent. */
int config_paths_make(const struct config_paths *paths, struct error *error) MUST_CHECK;

/* ---- config.json -------------------------------------------------------------------------------------------- */
struct config_mesh { /* heap strings */
    char *mesh_id, *member_id, *slug, *name, *pubkey, *secret_key /* 128 hex; wiped on release */, *broker_url, *joined_at;
    char *root_key;            /* base64url; NULL; wiped */
    char *role, *owner_pubkey; /* NULL unknown */
    /* A rotation of the key (docs/decisions/0012); secret keys as above, NULL, wiped. */
    char *next_secret_key;  /* the broker is or was about to be asked: which key is current is not known before it answers */
    char *spare_secret_key; /* of a rotation that was refused: the next one uses it, so that no two keys are ever signed for one step */
    char *owner_secret_key; /* the pinned owner key, once the owner's own key is another: it signs statements, and nothing else */
};
struct config_file {
    char *display_name; /* NULL */
    struct config_mesh *meshes;
    size_t mesh_count;
    json_t *document; /* as read: unknown fields are kept when it is rewritten */
};
/* Absent: an empty configuration. Readable by others: ERROR_DENIED with the remedy. */
int config_file_read(const char *path, struct config_file *ret_file, struct error *error) MUST_CHECK;
void config_file_release(struct config_file *file);
const struct config_mesh *config_file_mesh(const struct config_file *file, const char *slug);
/* Under a lock of config.json.lock: reads, adds or replaces (by mesh id) / removes (by slug), writes atomically 0600. A slug taken by another mesh: ERROR_CONFLICT. */
int config_file_add_mesh(const char *path, const struct config_mesh *mesh, struct error *error) MUST_CHECK;
/* That lock, for who changes more than one file: close() lets it go. Waits, not for ever (ERROR_BUSY). */
int config_file_lock(const char *path, int *ret_fd, struct error *error) MUST_CHECK;
/* Changes fields of the mesh with this id, whose pubkey must still be `pubkey` (else ERROR_CONFLICT): a NULL value removes the field. The caller holds the lock. */
struct config_change {
    const char *name, *value;
};
int config_file_change_mesh(const char *path, const char *mesh_id, const char *pubkey, const struct config_change *changes, size_t count,
                            struct error *error) MUST_CHECK;
int config_file_remove_mesh(const char *path, const char *slug, struct error *error) MUST_CHECK;

/* ---- config.toml: a strict subset of TOML, settings as a table (80-operations) ------------------------------------ */
enum setting_type { SETTING_TEXT, SETTING_INTEGER, SETTING_BOOL, SETTING_SIZE, SETTING_LIST, SETTING_CHOICE };
enum setting_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_FLAG };
struct setting_definition {
    const char *section, *key;
    enum setting_type type;
    const char *default_value; /* as in the file */
    int64_t minimum, maximum;  /* integers and sizes */
    const char *choices;       /* "a|b|c" */
    bool live;                 /* applied by reload without a restart */
    const char *help;
};
extern const struct setting_definition SETTINGS[]; /* the daemon's */
extern const size_t SETTING_COUNT;
extern const struct setting_definition BROKER_SETTINGS[]; /* `broker serve --config`; the figures of 70-broker.md */
extern const size_t BROKER_SETTING_COUNT;

struct settings;
/* Defaults, then the file (absent is fine), then CLAUDEMESH_<SECTION>_<KEY> (the broker: CLAUDEMESH_BROKER_<SECTION>_<KEY>). Errors name file, line, column, the key and the nearest known one. */
int settings_load(const struct setting_definition *definitions, size_t count, const char *environment_prefix, const char *path,
                  struct settings **ret_settings, struct error *error) MUST_CHECK;
void settings_free(struct settings *settings);
/* Each variable that begins with CLAUDEMESH_ and that neither daemon nor broker nor anything else of claudemesh reads, and the nearest that is read.
 * A slip is worth a warning and no more: the environment is shared with whoever started the process. */
void settings_check_environment(void (*found)(void *argument, const char *variable, const char *nearest), void *argument);
/* "section.key"; an unknown name is a bug and ends the process. */
const char *settings_text(const struct settings *settings, const char *name);
int64_t settings_integer(const struct settings *settings, const char *name); /* sizes in bytes */
bool settings_bool(const struct settings *settings, const char *name);
const char *const *settings_list(const struct settings *settings, const char *name, size_t *ret_count);
enum setting_origin settings_origin(const struct settings *settings, const char *name);
int settings_override(struct settings *settings, const char *name, const char *value, struct error *error) MUST_CHECK; /* a flag */
const char *setting_origin_name(enum setting_origin origin); /* "default", "config.toml", "environment", "flag" */
/* [{name, value, from}…], the rows in the order of the table, then those of [section.name] tables. New reference. */
json_t *settings_to_json(const struct settings *settings) MUST_CHECK;
/* What a reload changes. Each row whose value is another one is told; one that is not live keeps the value of `running`, with its origin, so that what is read later agrees with what
 * was read at the start, and the next reload tells it again. Keys of [section.name] tables are not live. */
void settings_reload(struct settings *fresh, const struct settings *running, void (*changed)(void *argument, const char *name, bool live),
                     void *argument);
/* [mesh.<slug>] allow_plaintext and the like. */
bool settings_mesh_bool(const struct settings *settings, const char *slug, const char *key, bool otherwise);

#endif
