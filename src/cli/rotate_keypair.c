/* `claudemesh daemon rotate-keypair` (50-identity, Key rotation; docs/decisions/0012): asks the daemon that serves the mesh; where none runs, takes the same steps over a connection of its own, holding the daemon's
 * lock meanwhile. */
#include <unistd.h>

#include "cli/api.h"
#include "cli/broker_link.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "identity/identity.h"
#include "identity/rotation.h"
#include "json/json.h"
#include "proto/rotation.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

enum { DAEMON_ANSWER_MS = 90000 }; /* sends that are under way, and the broker's answer */

static int report(struct cli *cli, const char *slug, const char *old_key, const char *new_key)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "mesh", slug);
        json_put_string(document, "old_pubkey", old_key);
        json_put_string(document, "new_pubkey", new_key);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, "your key in '%s' is a new one: %.16s… (before: %.16s…); others learn it by themselves", slug, new_key, old_key);
    return EXIT_DONE;
}

/* ---- through the daemon ------------------------------------------------------------------------------------------------- */

static int ask_daemon(struct cli *cli, struct api *api, const char *slug)
{
    struct error error = { 0 };
    struct buffer target;
    json_t *answer = NULL;
    int http_status = 0, status;
    buffer_init(&target, 512);
    (void)buffer_append_text(&target, "/v1/daemon/rotate-keypair");
    api_target_add(&target, "mesh", slug);
    if (api_request(api, "POST", target.data, NULL, DAEMON_ANSWER_MS, &http_status, &answer, &error) != 0) {
        status = cli_fail(cli, EXIT_FAILED, "the daemon went away while answering (%s); it settles the rotation when it starts again",
                          error.message);
    } else if (http_status != 200) {
        status = api_fail(cli, http_status, answer);
    } else {
        status = report(cli, slug, answer_text(answer, "old_pubkey"), answer_text(answer, "new_pubkey"));
    }
    buffer_release(&target);
    json_decref(answer);
    return status;
}

/* ---- without one ---------------------------------------------------------------------------------------------------------- */

struct rotating {
    struct cli *cli;
    const struct config_mesh *mesh;
    const struct settings *settings;
    struct keypair *keys;
    struct broker_link *link;
    struct rotation_files files;
    struct rotation_prepared prepared;
};

static void tell_findings(const struct cli *cli, const struct rotation_prepared *prepared)
{
    if (prepared->findings.moved_to[0] != '\0') {
        cli_note(cli, "the archive of former keys could not be used (%s); it was moved to %s", prepared->findings.why,
                 prepared->findings.moved_to);
    }
    if (prepared->findings.wrong_mode) {
        cli_note(cli, "the archive of former keys could be read by others; it is written anew for you alone");
    }
    if (prepared->dropped > 0) {
        cli_note(cli, "%zu former keys left the archive early: it keeps %d", prepared->dropped, (int)ARCHIVE_KEYS_MAXIMUM);
    }
    if (prepared->not_archived) {
        cli_note(cli, "the archive of former keys could not be written now; the rotation that was begun goes on all the same");
    }
}

static int take_the_new_key(struct rotating *rotating)
{
    struct error error = { 0 };
    if (rotation_finish(&rotating->files, rotating->prepared.next, &error) != 0) {
        return cli_fail(rotating->cli, EXIT_FAILED,
                        "the broker goes by the new key, and config.json could not be written: %s; run this command again", error.message);
    }
    return report(rotating->cli, rotating->mesh->slug, keypair_public_hex(rotating->prepared.current),
                  keypair_public_hex(rotating->prepared.next));
}

static int keep_the_old_key(struct rotating *rotating, const struct error *why)
{
    struct error error = { 0 };
    if (rotation_call_off(&rotating->files, &error) != 0) {
        cli_note(rotating->cli, "what was prepared could not be put away (%s); it does no harm", error.message);
    }
    return cli_fail(rotating->cli, exit_code_of_error(why->code), "the key stays as it was: %s", why->message);
}

static int next_seq(struct rotating *rotating, int64_t *ret_seq, struct error *error)
{
    json_t *list = NULL;
    int result = broker_link_list_members(rotating->link, &list, error);
    if (result == 0) {
        *ret_seq = rotation_next_seq(json_object_get(list, "rotations"), rotating->mesh->mesh_id, keypair_public_hex(rotating->keys));
    }
    json_decref(list);
    return result;
}

/* EXIT_DONE with *ret_answer; else nothing is known of what the broker did. */
static int ask_broker(struct rotating *rotating, int64_t seq, json_t **ret_answer, struct error *error)
{
    json_t *request = NULL;
    int result =
        rotation_make_request(rotating->mesh->mesh_id, rotating->mesh->member_id, seq, rotating->prepared.current, rotating->prepared.next,
                              clock_wall_ms() + broker_link_clock_skew_ms(rotating->link), &request, error);
    if (result == 0) {
        result = broker_link_request(rotating->link, request, BROKER_LINK_ANSWER_MS, ret_answer, error);
    }
    json_decref(request);
    return result;
}

static int rotate_over_link(struct rotating *rotating)
{
    struct error error = { 0 };
    json_t *answer = NULL;
    int64_t seq = 0;
    if (!broker_link_features(rotating->link)->keypair_rotated_event) {
        return cli_fail(rotating->cli, EXIT_FAILED, "this broker does not know rotations; nothing was changed");
    }
    if (next_seq(rotating, &seq, &error) != 0 || rotation_prepare(&rotating->files, &rotating->prepared, &error) != 0) {
        return cli_fail(rotating->cli, exit_code_of_error(error.code), "nothing was changed: %s", error.message);
    }
    tell_findings(rotating->cli, &rotating->prepared);
    if (ask_broker(rotating, seq, &answer, &error) != 0) {
        return cli_fail(
            rotating->cli, exit_code_of_error(error.code),
            "the broker did not say whether it took the new key (%s); run this command again, or start the daemon, to settle it",
            error.message);
    }
    bool unknown = string_equal(answer_text(answer, "code"), "store_unavailable");
    int refused = broker_answer_check(answer, &error);
    json_decref(answer);
    if (unknown) {
        return cli_fail(rotating->cli, EXIT_FAILED, "the broker's store does not answer; run this command again to settle it");
    }
    return refused != 0 ? keep_the_old_key(rotating, &error) : take_the_new_key(rotating);
}

/* A rotation that was begun and not ended, and a broker that does not know the old key any more. Whatever else it refuses, and whoever is not let in for another reason, keeps the key: the broker may never have
 * seen the next one. */
static int settle(struct rotating *rotating, const struct error *why)
{
    struct error error = { 0 };
    const struct config_mesh *mesh = rotating->mesh;
    bool rotated = strstr(why->message, "key_rotated") != NULL, unknown = strstr(why->message, "unauthorized") != NULL;
    bool begun = mesh->next_secret_key != NULL || (rotated && mesh->spare_secret_key != NULL);
    if (!begun || !(rotated || unknown)) {
        enum exit_code status = rotated                       ? EXIT_NOT_AUTHORISED
                                : why->code == ERROR_CONFLICT ? EXIT_LINK_REFUSED
                                                              : exit_code_of_error(why->code);
        return cli_fail(rotating->cli, status, "nothing was changed: %s", why->message);
    }
    if (rotation_prepare(&rotating->files, &rotating->prepared, &error) != 0) {
        return cli_fail_error(rotating->cli, &error);
    }
    tell_findings(rotating->cli, &rotating->prepared);
    return take_the_new_key(rotating);
}

static int rotate_alone(struct cli *cli, const struct config_mesh *mesh, const struct settings *settings)
{
    struct error error = { 0 };
    struct rotating rotating = {
        .cli = cli,
        .mesh = mesh,
        .settings = settings,
        .files = { .paths = &cli->paths,
                   .mesh_id = mesh->mesh_id,
                   .pubkey = mesh->pubkey,
                   .now_ms = clock_wall_ms(),
                   .grace_days = settings_integer(settings, "crypto.key_grace_period_days") },
    };
    int status = meshes_keys(cli, mesh, &rotating.keys);
    if (status == EXIT_DONE) {
        status = broker_link_open(mesh, rotating.keys, settings, BROKER_LINK_OPEN_MS, &rotating.link, &error) == 0
                     ? rotate_over_link(&rotating)
                     : settle(&rotating, &error);
    }
    broker_link_close(rotating.link);
    rotation_prepared_release(&rotating.prepared);
    keypair_free(rotating.keys);
    return status;
}

/* No daemon may start with the old key while it is replaced. */
static int rotate_locked(struct cli *cli, const struct config_mesh *mesh, const struct settings *settings, bool served_elsewhere)
{
    struct error error = { 0 };
    int64_t holder = 0;
    int lock = -1;
    if (served_elsewhere) { /* a daemon runs, and leaves this mesh alone */
        return rotate_alone(cli, mesh, settings);
    }
    if (config_paths_make(&cli->paths, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    if (identity_lock(&cli->paths, &lock, &holder, &error) != 0) {
        return cli_fail(cli, EXIT_UNREACHABLE,
                        "a daemon runs and does not answer; nothing was changed. 'claudemesh daemon logs' may say why");
    }
    int status = rotate_alone(cli, mesh, settings);
    identity_unlock(lock);
    return status;
}

static int run(struct cli *cli)
{
    struct config_file file = { 0 };
    struct settings *settings = NULL;
    struct api api = { 0 };
    struct error error = { 0 };
    const struct config_mesh *mesh = NULL;
    int status = meshes_read(cli, &file);
    if (status == EXIT_DONE) {
        mesh = meshes_choose(cli, &file, &status);
    }
    if (status == EXIT_DONE) {
        status = meshes_settings(cli, &settings);
    }
    if (status == EXIT_DONE) {
        bool daemon_runs = api_open(cli, API_BUDGET_MS, &api, &error) == 0;
        status = daemon_runs && api_serves(&api, mesh->slug) ? ask_daemon(cli, &api, mesh->slug)
                                                             : rotate_locked(cli, mesh, settings, daemon_runs);
        api_close(&api);
    }
    settings_free(settings);
    config_file_release(&file);
    return status;
}

const struct cli_command COMMAND_DAEMON_ROTATE_KEYPAIR = {
    .name = "daemon rotate-keypair",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Replace your key in a mesh by a new one; what was sent to the old one still opens for a while",
    .example = "claudemesh daemon rotate-keypair --mesh acme",
    .run = run,
};
