/* `claudemesh join`: checks an invite, shows where it leads, asks, makes a key, enrols it. The link is a secret: it never appears in a message. */
#include "cli/invite_argument.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/pending_key.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "proto/invite.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { OWNER_PREFIX_SHORTEST = 16 };

static const struct cli_option OPTIONS[] = {
    { "name", 0, OPTION_VALUE, "N", "your display name in the mesh (else displayName of config.json, else user@host)" },
    { "yes", 'y', OPTION_FLAG, NULL, "do not ask" },
    { "owner", 0, OPTION_VALUE, "HEX", "join only if the owner's key begins so (16 digits or more); then nothing is asked" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

struct joining {
    struct config_file file;
    struct settings *settings;
    struct invite invite;
    struct pending_key pending;
    struct keypair *keys;
    char *display_name;
    json_t *answer;
};

static void joining_release(struct joining *joining)
{
    config_file_release(&joining->file);
    settings_free(joining->settings);
    invite_release(&joining->invite);
    keypair_free(joining->keys);
    free(joining->display_name);
    json_decref(joining->answer);
}

/* 45-trust: an invite for a joined mesh must agree with what was pinned. *ret_joined: it does, and there is nothing to do. */
static int check_joined(struct cli *cli, const struct joining *joining, bool *ret_joined)
{
    const struct invite *invite = &joining->invite;
    *ret_joined = false;
    for (size_t i = 0; i < joining->file.mesh_count; i++) {
        const struct config_mesh *mesh = &joining->file.meshes[i];
        if (!string_equal(mesh->mesh_id, invite->mesh_id)) {
            if (string_equal(mesh->slug, invite->mesh_slug)) {
                return cli_fail(cli, EXIT_CONFLICT, "another mesh called '%s' is joined already (mesh_conflict); leave it first",
                                mesh->slug);
            }
            continue;
        }
        const char *differs = invite_argument_differs(invite, mesh);
        if (differs != NULL) {
            return cli_fail(cli, EXIT_CONFLICT, "'%s' is joined already, and this invite names another %s (mesh_conflict): do not trust it",
                            mesh->slug, differs);
        }
        *ret_joined = true;
    }
    return EXIT_DONE;
}

static bool owner_is(const char *prefix, const char *owner_pubkey)
{
    size_t length = strlen(prefix);
    return length <= strlen(owner_pubkey) && strncasecmp(prefix, owner_pubkey, length) == 0;
}

/* Shows where the invite leads, and gets a yes from --owner, --yes or a person. */
static int confirm(struct cli *cli, const struct invite *invite)
{
    const char *owner = cli_value(cli, "owner");
    char number[SAFETY_NUMBER_SIZE], question[128];
    struct public_key key;
    struct error error = { 0 };
    if (owner != NULL && (strlen(owner) < OWNER_PREFIX_SHORTEST || owner[strspn(owner, "0123456789abcdefABCDEF")] != '\0')) {
        return cli_fail_usage(cli, "--owner takes the first %d or more hex digits of the owner's key", OWNER_PREFIX_SHORTEST);
    }
    if (public_key_parse(invite->owner_pubkey, &key, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    safety_number(&key, &key, number);
    if (!cli->quiet) {
        char *broker = text_printable(invite->broker_url, strlen(invite->broker_url));
        char *slug = text_printable(invite->mesh_slug, strlen(invite->mesh_slug));
        fprintf(stderr, "mesh    %s (you become: %s)\nbroker  %s\nowner   %s\n        %s\n", slug,
                string_equal(invite->role, "admin") ? "admin" : "member", broker, number, invite->owner_pubkey);
        free(broker);
        free(slug);
    }
    if (owner != NULL) {
        return owner_is(owner, invite->owner_pubkey)
                   ? EXIT_DONE
                   : cli_fail(cli, EXIT_NOT_AUTHORISED, "the invite's owner is another one than --owner says: do not trust it");
    }
    if (cli_has(cli, "yes")) {
        return EXIT_DONE;
    }
    if (!meshes_can_ask()) {
        return cli_fail_usage(cli, "nobody can be asked here; add --yes, or better --owner with the owner's key as told by the owner");
    }
    (void)snprintf(question, sizeof question, "Does the owner's number match what the owner told you? Join '%.64s'?", invite->mesh_slug);
    return meshes_confirm(question) ? EXIT_DONE : cli_fail(cli, EXIT_FAILED, "not joined");
}

/* POST /join (50-identity, Invites): the certificate, and the invite without its secrets. */
static int enrol(struct cli *cli, struct joining *joining)
{
    struct error error = { 0 };
    int http_status = 0;
    const struct broker_http broker = meshes_broker_http(joining->settings, joining->invite.broker_url);
    if (broker_http_join(&broker, &joining->invite, joining->keys, joining->display_name, clock_wall_ms(), &http_status, &joining->answer,
                         &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    int status = broker_answer_print(cli, http_status, joining->answer);
    if (status != EXIT_DONE) {
        pending_key_refused(&cli->paths, &joining->pending, http_status, answer_text(joining->answer, "error"));
    }
    return status;
}

static int save(struct cli *cli, struct joining *joining)
{
    struct invite *invite = &joining->invite;
    char secret[SECRET_HEX_SIZE], joined_at[RFC3339_SIZE], pubkey[KEY_HEX_SIZE];
    char *member_id = memory_strdup(answer_text(joining->answer, "memberId"));
    char *name = text_printable(invite->mesh_name, strlen(invite->mesh_name));
    struct buffer root;
    struct error error = { 0 };

    buffer_init_secret(&root, 64);
    (void)base64url_encode(invite->root_key, sizeof invite->root_key, &root);
    keypair_secret_hex(joining->keys, secret);
    memcpy(pubkey, keypair_public_hex(joining->keys), sizeof pubkey);
    time_format_rfc3339(clock_wall_ms(), joined_at);
    const struct config_mesh mesh = {
        .mesh_id = invite->mesh_id,
        .member_id = member_id,
        .slug = invite->mesh_slug,
        .name = name,
        .pubkey = pubkey,
        .secret_key = secret,
        .broker_url = invite->broker_url,
        .joined_at = joined_at,
        .root_key = root.data,
        .role = invite->role,
        .owner_pubkey = invite->owner_pubkey,
    };
    int status = config_file_add_mesh(cli->paths.config_json, &mesh, &error);
    secret_wipe(secret, sizeof secret);
    buffer_release(&root);
    free(member_id);
    free(name);
    if (status != 0) {
        return cli_fail_error(cli, &error);
    }
    pending_key_forget(&cli->paths, &joining->pending);
    return EXIT_DONE;
}

static void print_joined(struct cli *cli, const struct joining *joining, bool already)
{
    const struct invite *invite = &joining->invite;
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "mesh_id", invite->mesh_id);
        json_put_string(document, "slug", invite->mesh_slug);
        json_put_string(document, "broker_url", invite->broker_url);
        json_put_string(document, "role", invite->role);
        json_put_bool(document, "already_joined", already);
        if (!already) {
            json_put_string(document, "member_id", answer_text(joining->answer, "memberId"));
            json_put_string(document, "pubkey", keypair_public_hex(joining->keys));
            json_put_string(document, "name", joining->display_name);
        }
        cli_print_json(document);
        json_decref(document);
    }
    if (already) {
        cli_say(cli, "'%s' is joined already; nothing was changed", invite->mesh_slug);
    } else {
        cli_say(cli, "joined '%s' as %s", invite->mesh_slug, joining->display_name);
    }
}

static int make_member(struct cli *cli, struct joining *joining)
{
    struct error error = { 0 };
    if (meshes_display_name(cli_value(cli, "name"), &joining->file, &joining->display_name, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    if (broker_url_check(joining->invite.broker_url, settings_bool(joining->settings, "broker.allow_insecure"), &error) != 0 ||
        config_paths_make(&cli->paths, &error) != 0 || pending_key_make(&cli->paths, &joining->pending, &joining->keys, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    int status = enrol(cli, joining);
    return status == EXIT_DONE ? save(cli, joining) : status;
}

static int run(struct cli *cli)
{
    struct joining joining = { 0 };
    struct error error = { 0 };
    bool already = false;
    int status = crypto_start(&error) == 0 ? invite_argument_read(cli, cli->arguments[0], &joining.invite) : cli_fail_error(cli, &error);

    if (status == EXIT_DONE) {
        status = meshes_read(cli, &joining.file);
    }
    if (status == EXIT_DONE) {
        status = meshes_settings(cli, &joining.settings);
    }
    if (status == EXIT_DONE) {
        status = check_joined(cli, &joining, &already);
    }
    joining.pending = (struct pending_key){ .kind = "join", .id = joining.invite.invite_id };
    if (status == EXIT_DONE && already) {
        pending_key_forget(&cli->paths, &joining.pending); /* of a join that ended between the two */
    }
    if (status == EXIT_DONE && !already) {
        status = confirm(cli, &joining.invite);
    }
    if (status == EXIT_DONE && !already) {
        status = make_member(cli, &joining);
    }
    if (status == EXIT_DONE) {
        print_joined(cli, &joining, already);
    }
    joining_release(&joining);
    return status;
}

const struct cli_command COMMAND_JOIN = {
    .name = "join",
    .group = GROUP_MESHES,
    .arguments = "<invite>",
    .minimum = 1,
    .maximum = 1,
    .summary = "Join a mesh with an invite link ('-' reads it from standard input)",
    .example = "claudemesh join - --name ci-runner --yes < invite.txt",
    .options = OPTIONS,
    .run = run,
};
