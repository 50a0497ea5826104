/* The meshes this host has joined, as commands pick one, and what every talk with a broker needs from config.toml. */
#ifndef CLI_MESHES_H
#define CLI_MESHES_H

#include <jansson.h>

#include "cli/command.h"
#include "crypto/keys.h"
#include "link/broker_http.h"

/* Reads config.json; prints on failure. Release with config_file_release. */
int meshes_read(struct cli *cli, struct config_file *ret_file);
/* The one named by --mesh, or the only one joined; else prints and sets *ret_status. */
const struct config_mesh *meshes_choose(struct cli *cli, const struct config_file *file, int *ret_status);
/* config.toml; prints on failure. */
int meshes_settings(struct cli *cli, struct settings **ret_settings);
/* Starts the cryptography and loads the mesh's keys; prints on failure. */
int meshes_keys(struct cli *cli, const struct config_mesh *mesh, struct keypair **ret_keys);

/* Whether this member is the mesh's owner, under whichever key it speaks today. */
bool meshes_is_owner(const struct config_mesh *mesh);
/* The keys that sign what this member states about others: the pinned owner's key for the owner (docs/decisions/0012), else the member's; prints on failure. */
int meshes_statement_keys(struct cli *cli, const struct config_mesh *mesh, struct keypair **ret_keys);

/* What `--broker` says, as the URL that stands in invites: ws:// or wss://, with a path. ERROR_INVALID when it is no such URL, ERROR_DENIED for ws:// to
 * another host unless broker.allow_insecure. Heap. */
int meshes_broker_url(const char *given, bool allow_insecure, char **ret_url, struct error *error) MUST_CHECK;
/* A display name for a new member: --name, else displayName of config.json, else user@host. ERROR_INVALID when it is empty, too long, or has control characters. Heap. */
int meshes_display_name(const char *given, const struct config_file *file, char **ret_name, struct error *error) MUST_CHECK;

/* How that broker is asked over HTTP, by the settings; borrowed strings. */
struct broker_http meshes_broker_http(const struct settings *settings, const char *broker_url);

/* What the broker answered: EXIT_DONE for 2xx, else printed (410 and the like in words) and the exit code. */
int broker_answer_print(struct cli *cli, int http_status, const json_t *answer);

/* y or yes on a terminal; false elsewhere and for everything else. */
bool meshes_confirm(const char *question);
/* Whether somebody can be asked. */
bool meshes_can_ask(void);

#endif
