/* `claudemesh mesh list` and `mesh leave`. Lists from config.json; leaving is a signed statement to the broker, then the entry goes. */
#include "cli/broker_link.h"
#include "cli/mesh_leave.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/pending_key.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "proto/member_leave.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

static const struct cli_option OPTIONS_LEAVE[] = {
    { "force", 0, OPTION_FLAG, NULL, "forget it here even when the broker cannot be told" },
    { "yes", 'y', OPTION_FLAG, NULL, "do not ask" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static bool is_owner(const struct config_mesh *mesh)
{
    return string_equal(mesh->owner_pubkey, mesh->pubkey);
}

static json_t *mesh_to_json(const struct config_mesh *mesh)
{
    json_t *object = json_new_object();
    json_put_string(object, "slug", mesh->slug);
    json_put_string(object, "name", mesh->name);
    json_put_string(object, "mesh_id", mesh->mesh_id);
    json_put_string(object, "member_id", mesh->member_id);
    json_put_string(object, "pubkey", mesh->pubkey);
    json_put_string(object, "broker_url", mesh->broker_url);
    json_put_string(object, "joined_at", mesh->joined_at);
    json_put_string(object, "role", mesh->role);
    json_put_string(object, "owner_pubkey", mesh->owner_pubkey);
    json_put_bool(object, "owner", is_owner(mesh));
    return object;
}

static void print_meshes(const struct cli *cli, const struct config_file *file)
{
    static const char *const TITLES[] = { "MESH", "NAME", "ROLE", "BROKER", "YOUR KEY" };
    struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
    for (size_t i = 0; i < file->mesh_count; i++) {
        const struct config_mesh *mesh = &file->meshes[i];
        table_cell(table, STYLE_PLAIN, mesh->slug);
        table_cell(table, STYLE_PLAIN, mesh->name == NULL ? "-" : mesh->name);
        table_cell(table, STYLE_PLAIN, is_owner(mesh) ? "owner" : mesh->role == NULL ? "-" : mesh->role);
        table_cell(table, STYLE_PLAIN, mesh->broker_url);
        table_cell(table, STYLE_DIM, mesh->pubkey);
    }
    table_print_free(table);
}

static int run_list(struct cli *cli)
{
    struct config_file file = { 0 };
    int status = meshes_read(cli, &file);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        json_t *document = json_new_object(), *meshes = json_new_array();
        for (size_t i = 0; i < file.mesh_count; i++) {
            (void)json_array_append_new(meshes, mesh_to_json(&file.meshes[i]));
        }
        json_put(document, "meshes", meshes);
        cli_print_json(document);
        json_decref(document);
    } else if (file.mesh_count == 0) {
        cli_note(cli, "no mesh is joined yet; use 'claudemesh join <invite>' or 'claudemesh mesh create'");
    } else {
        print_meshes(cli, &file);
    }
    config_file_release(&file);
    return EXIT_DONE;
}

/* Left by a try that ended before it was noted here, or removed by somebody: what was asked for is so. An owner's key, and one that may have been replaced already, is not given up on a broker's word. */
static bool is_gone_already(const struct config_mesh *mesh, const struct error *why)
{
    bool says_so = strstr(why->message, "unauthorized") != NULL || strstr(why->message, "revoked") != NULL ||
                   strstr(why->message, "unknown_member") != NULL;
    return why->code == ERROR_DENIED && says_so && !is_owner(mesh) && mesh->next_secret_key == NULL && mesh->spare_secret_key == NULL;
}

static int open_link(struct cli *cli, const struct config_mesh *mesh, const struct keypair *keys, const struct settings *settings,
                     struct broker_link **ret_link, bool *ret_gone)
{
    struct error error = { 0 };
    if (broker_link_open(mesh, keys, settings, BROKER_LINK_OPEN_MS, ret_link, &error) == 0) {
        return EXIT_DONE;
    }
    *ret_gone = is_gone_already(mesh, &error);
    if (*ret_gone) {
        cli_note(cli, "the broker of '%s' does not know this member any more: there was nothing left to leave", mesh->slug);
        return EXIT_DONE;
    }
    return error.code == ERROR_CONFLICT ? cli_fail(cli, EXIT_LINK_REFUSED, "%s", error.message) : cli_fail_error(cli, &error);
}

int mesh_leave_tell(struct cli *cli, const struct config_mesh *mesh)
{
    struct settings *settings = NULL;
    struct keypair *keys = NULL;
    struct broker_link *link = NULL;
    json_t *request = NULL, *answer = NULL;
    struct error error = { 0 };
    bool gone = false;
    int status = meshes_settings(cli, &settings);

    if (status == EXIT_DONE) {
        status = meshes_keys(cli, mesh, &keys);
    }
    if (status == EXIT_DONE) {
        status = open_link(cli, mesh, keys, settings, &link, &gone);
    }
    if (status == EXIT_DONE && !gone) {
        if (member_leave_make(mesh->mesh_id, mesh->member_id, keys, clock_wall_ms(), &request, &error) != 0 ||
            broker_link_request(link, request, BROKER_LINK_ANSWER_MS, &answer, &error) != 0 || broker_answer_check(answer, &error) != 0) {
            status = cli_fail_error(cli, &error);
        }
    }
    json_decref(request);
    json_decref(answer);
    broker_link_close(link);
    keypair_free(keys);
    settings_free(settings);
    return status;
}

/* Left by a making that ended before it was done: the next mesh of this name must not be this one. */
static void forget_pending_key(struct cli *cli, const struct config_mesh *mesh)
{
    char id[PENDING_ID_SIZE];
    struct error error;
    if (crypto_start(&error) == 0) {
        pending_key_name_mesh(mesh->slug, mesh->broker_url, id);
        pending_key_forget(&cli->paths, &(struct pending_key){ .kind = PENDING_KIND_MESH, .id = id });
    }
}

static int leave(struct cli *cli, const struct config_mesh *mesh)
{
    struct error error = { 0 };
    char question[200];
    (void)snprintf(question, sizeof question, "Leave '%.64s'? %s", mesh->slug,
                   is_owner(mesh) ? "You are its owner: its keys are deleted, and nobody can invite again." : "Your key in it is deleted.");
    if (!cli_has(cli, "yes") && meshes_can_ask() && !meshes_confirm(question)) {
        return cli_fail(cli, EXIT_FAILED, "not left");
    }
    cli->error_printed = cli_has(cli, "force"); /* then the broker's absence is no result */
    int told = mesh_leave_tell(cli, mesh);
    if (told != EXIT_DONE && !cli_has(cli, "force")) {
        cli_note(cli, "nothing was changed; 'mesh leave --force' forgets the mesh here without telling the broker");
        return told;
    }
    if (config_file_remove_mesh(cli->paths.config_json, mesh->slug, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    forget_pending_key(cli, mesh);
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "slug", mesh->slug);
        json_put_bool(document, "broker_told", told == EXIT_DONE);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, told == EXIT_DONE ? "left '%s'" : "forgot '%s' here; the broker still lists this member", mesh->slug);
    return EXIT_DONE;
}

static int run_leave(struct cli *cli)
{
    struct config_file file = { 0 };
    int status = meshes_read(cli, &file);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->argument_count == 1) {
        cli->mesh = cli->arguments[0];
    }
    const struct config_mesh *mesh = meshes_choose(cli, &file, &status);
    if (mesh != NULL) {
        status = leave(cli, mesh);
    }
    config_file_release(&file);
    return status;
}

const struct cli_command COMMAND_MESH_LIST = {
    .name = "mesh list",
    .group = GROUP_MESHES,
    .arguments = "",
    .summary = "The meshes this host has joined",
    .example = "claudemesh mesh list --json",
    .run = run_list,
};

const struct cli_command COMMAND_MESH_LEAVE = {
    .name = "mesh leave",
    .group = GROUP_MESHES,
    .arguments = "[slug]",
    .maximum = 1,
    .summary = "Leave a mesh; a running daemon drops it at once",
    .example = "claudemesh mesh leave acme",
    .options = OPTIONS_LEAVE,
    .run = run_leave,
};
