/* `claudemesh daemon remint`: this directory is a copy, so it gets keys of its own: a new member in each mesh, a new session id and token, and this host recorded (50-identity, Host
 * fingerprint). Each step can end at any moment and be repeated: a new key is on disk before a broker hears of it (cli/pending_key.h), the mark for the outbox before config.json
 * changes (identity/reminted.h), and the host is accepted last. */
#include <errno.h>
#include <unistd.h>

#include "cli/invite_argument.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/own_invite.h"
#include "cli/pending_key.h"
#include "crypto/crypto.h"
#include "identity/host.h"
#include "identity/identity.h"
#include "identity/reminted.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { INVITE_LIFETIME_S = 600 };

static const struct cli_option OPTIONS[] = {
    { "invite", 0, OPTION_REPEATED, "LINK", "an invite for one of the meshes ('-' reads it from standard input); once for each" },
    { "name", 0, OPTION_VALUE, "N", "the new member's display name (else displayName of config.json, else user@host)" },
    { "as-admin", 0, OPTION_FLAG, NULL, "where the owner's key lies here: leave it to the other host, and become an admin with a new key" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

struct minted { /* one mesh of config.json */
    const struct config_mesh *mesh;
    const struct invite *invite; /* NULL: done before, or signed here */
    char pending_id[PENDING_ID_SIZE];
    bool done, owner;
};

struct remint {
    struct config_file file;
    struct settings *settings;
    char *display_name;
    struct invite *invites;
    size_t invite_count;
    struct minted *meshes; /* as in file */
    int lock;
    bool begun; /* a broker may know of a new key */
};

static void remint_release(struct remint *remint)
{
    for (size_t i = 0; i < remint->invite_count; i++) {
        invite_release(&remint->invites[i]);
    }
    free(remint->invites);
    free(remint->meshes);
    free(remint->display_name);
    settings_free(remint->settings);
    config_file_release(&remint->file);
    if (remint->lock >= 0) {
        identity_unlock(remint->lock);
    }
}

/* ---- what is to be done ------------------------------------------------------------------------------------------------------ */

/* Of the mesh and this host: what was begun here goes on here, and never on a copy of this copy. */
static void name_pending(const char *mesh_id, const struct host_facts *facts, char ret_id[static PENDING_ID_SIZE])
{
    char digest[SHA256_HEX_SIZE];
    char *text = memory_printf("remint %s %s %s", mesh_id, facts->id, facts->mac);
    sha256_hex(text, strlen(text), digest);
    free(text);
    memcpy(ret_id, digest, PENDING_ID_SIZE - 1);
    ret_id[PENDING_ID_SIZE - 1] = '\0';
}

static struct pending_key pending_of(const struct minted *minted)
{
    return (struct pending_key){ .kind = "remint", .id = minted->pending_id };
}

static bool is_done(struct cli *cli, const struct minted *minted)
{
    const struct pending_key pending = pending_of(minted);
    struct keypair *keys = pending_key_peek(&cli->paths, &pending);
    bool done = keys != NULL && string_equal(keypair_public_hex(keys), minted->mesh->pubkey);
    keypair_free(keys);
    return done;
}

static int read_invites(struct cli *cli, struct remint *remint)
{
    const char *given;
    int status = EXIT_DONE;
    remint->invites = memory_calloc(LIMIT_MESHES, sizeof *remint->invites);
    for (size_t i = 0; status == EXIT_DONE && (given = cli_value_at(cli, "invite", i)) != NULL; i++) {
        if (i >= LIMIT_MESHES) {
            return cli_fail_usage(cli, "more invites than there can be meshes");
        }
        status = invite_argument_read(cli, given, &remint->invites[i]);
        remint->invite_count += status == EXIT_DONE ? 1 : 0;
    }
    return status;
}

static int match_invite(struct cli *cli, struct remint *remint, const struct invite *invite)
{
    for (size_t i = 0; i < remint->file.mesh_count; i++) {
        struct minted *minted = &remint->meshes[i];
        if (!string_equal(minted->mesh->mesh_id, invite->mesh_id)) {
            continue;
        }
        const char *differs = invite_argument_differs(invite, minted->mesh);
        if (differs != NULL) {
            return cli_fail(cli, EXIT_CONFLICT, "the invite for '%s' names another %s (mesh_conflict): do not trust it", minted->mesh->slug,
                            differs);
        }
        minted->invite = invite;
        return EXIT_DONE;
    }
    return cli_fail_usage(cli, "an invite is for '%s', which is not joined here; use 'claudemesh join' for it", invite->mesh_slug);
}

static int check_mesh(struct cli *cli, const struct minted *minted)
{
    const char *slug = minted->mesh->slug;
    if (minted->done || (minted->owner && cli_has(cli, "as-admin")) || (minted->invite != NULL && !minted->owner)) {
        return EXIT_DONE;
    }
    if (minted->owner) {
        return cli_fail(cli, EXIT_FAILED,
                        "this host has the owner's key of '%s', which cannot be made anew: everybody in the mesh has pinned it, and all "
                        "that its members are rests on its "
                        "signatures. If another host keeps it, say --as-admin: this one becomes an admin with a key of its own, and the "
                        "owner's key goes from it. If "
                        "this is the owner's only host, use 'claudemesh daemon accept-host'. Nothing was changed",
                        slug);
    }
    return cli_fail(cli, EXIT_FAILED,
                    "an invite for '%s' is needed: ask its owner for one (claudemesh mesh invite), then --invite LINK. Nothing was changed",
                    slug);
}

static int plan(struct cli *cli, struct remint *remint)
{
    struct error error = { 0 };
    struct host_facts facts = { .present = NULL };
    remint->meshes = memory_calloc(remint->file.mesh_count, sizeof *remint->meshes);
    if (host_facts_read(NULL, &facts, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    for (size_t i = 0; i < remint->file.mesh_count; i++) {
        struct minted *minted = &remint->meshes[i];
        minted->mesh = &remint->file.meshes[i];
        minted->owner = meshes_is_owner(minted->mesh);
        name_pending(minted->mesh->mesh_id, &facts, minted->pending_id);
        minted->done = is_done(cli, minted);
    }
    host_facts_release(&facts);
    int status = EXIT_DONE;
    for (size_t i = 0; i < remint->invite_count && status == EXIT_DONE; i++) {
        status = match_invite(cli, remint, &remint->invites[i]);
    }
    for (size_t i = 0; i < remint->file.mesh_count && status == EXIT_DONE; i++) {
        status = check_mesh(cli, &remint->meshes[i]);
    }
    return status;
}

/* ---- one mesh ------------------------------------------------------------------------------------------------------------------ */

/* The owner invites the new key, as an admin, with the key that goes. */
static int sign_invite(struct cli *cli, const struct config_mesh *mesh, struct invite *invite)
{
    struct error error = { 0 };
    struct keypair *owner = NULL;
    int status = meshes_statement_keys(cli, mesh, &owner);
    invite->role = memory_strdup("admin");
    invite->max_uses = 1;
    invite->expires_at_s = clock_wall_ms() / 1000 + INVITE_LIFETIME_S;
    if (status == EXIT_DONE) {
        status = own_invite_fill(cli, mesh, invite);
    }
    if (status == EXIT_DONE && invite_sign(invite, owner, &error) != 0) {
        status = cli_fail_error(cli, &error);
    }
    keypair_free(owner);
    return status;
}

static int save(struct cli *cli, const struct config_mesh *mesh, const struct invite *invite, const struct keypair *keys,
                const json_t *answer)
{
    struct error error = { 0 };
    char secret[SECRET_HEX_SIZE], joined_at[RFC3339_SIZE], pubkey[KEY_HEX_SIZE];
    char *member_id = memory_strdup(answer_text(answer, "memberId"));
    struct config_mesh changed = *mesh;
    keypair_secret_hex(keys, secret);
    memcpy(pubkey, keypair_public_hex(keys), sizeof pubkey);
    time_format_rfc3339(clock_wall_ms(), joined_at);
    changed.member_id = member_id;
    changed.pubkey = pubkey;
    changed.secret_key = secret;
    changed.next_secret_key = changed.spare_secret_key = changed.owner_secret_key = NULL; /* the copied member's */
    changed.joined_at = joined_at;
    changed.role = invite->role;
    bool marked = reminted_mark(&cli->paths, mesh->mesh_id, mesh->pubkey, &error) == 0;
    int status = marked && config_file_add_mesh(cli->paths.config_json, &changed, &error) == 0 ? EXIT_DONE : cli_fail_error(cli, &error);
    secret_wipe(secret, sizeof secret);
    free(member_id);
    return status;
}

static int mint(struct cli *cli, struct remint *remint, struct minted *minted)
{
    struct pending_key pending = pending_of(minted);
    struct keypair *keys = NULL;
    struct invite own = { 0 };
    json_t *answer = NULL;
    struct error error = { 0 };
    int http_status = 0, status = EXIT_DONE;
    const struct broker_http broker = meshes_broker_http(remint->settings, minted->mesh->broker_url);
    const struct invite *invite = minted->owner ? &own : minted->invite;
    if (minted->owner) {
        status = sign_invite(cli, minted->mesh, &own);
    }
    if (status == EXIT_DONE && pending_key_make(&cli->paths, &pending, &keys, &error) != 0) {
        status = cli_fail_error(cli, &error);
    }
    if (status == EXIT_DONE &&
        broker_http_join(&broker, invite, keys, remint->display_name, clock_wall_ms(), &http_status, &answer, &error) != 0) {
        status = cli_fail_error(cli, &error);
    }
    if (status == EXIT_DONE) {
        status = broker_answer_print(cli, http_status, answer);
        if (status != EXIT_DONE) {
            pending_key_refused(&cli->paths, &pending, http_status, answer_text(answer, "error"));
        }
    }
    if (status == EXIT_DONE) {
        status = save(cli, minted->mesh, invite, keys, answer);
    }
    if (status == EXIT_DONE) {
        cli_note(cli, "'%s': a new member, %s, with the key %.16s…", minted->mesh->slug, remint->display_name, keypair_public_hex(keys));
    }
    invite_release(&own);
    keypair_free(keys);
    json_decref(answer);
    return status;
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------------- */

static int remove_file(const char *path, struct error *error)
{
    return unlink(path) != 0 && errno != ENOENT ? error_set_errno(error, "cannot remove %s", path) : 0;
}

/* What the copy has in common with its original beside the keys; both are made anew at the next start. The host is accepted last: until then a start is refused, and
 * repeating the command goes on. */
static int finish(struct cli *cli, const struct remint *remint)
{
    struct error error = { 0 };
    if (remove_file(cli->paths.session_id, &error) != 0 || remove_file(cli->paths.local_token, &error) != 0 ||
        host_accept(&cli->paths, NULL, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    for (size_t i = 0; i < remint->file.mesh_count; i++) {
        const struct pending_key pending = pending_of(&remint->meshes[i]);
        pending_key_forget(&cli->paths, &pending);
    }
    return EXIT_DONE;
}

static void print_reminted(struct cli *cli, const struct config_file *file)
{
    if (cli->json) {
        json_t *document = json_new_object(), *meshes = json_new_array();
        for (size_t i = 0; i < file->mesh_count; i++) {
            json_t *mesh = json_new_object();
            json_put_string(mesh, "slug", file->meshes[i].slug);
            json_put_string(mesh, "pubkey", file->meshes[i].pubkey);
            json_put_string(mesh, "member_id", file->meshes[i].member_id);
            (void)json_array_append_new(meshes, mesh);
        }
        json_put(document, "meshes", meshes);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(
        cli,
        "this host has keys of its own now; what waited in the outbox is the other host's to send, and is given up here at the next start");
    cli_say(cli, "start it with: claudemesh daemon up");
}

static int prepare(struct cli *cli, struct remint *remint)
{
    struct error error = { 0 };
    int64_t holder = 0;
    if (crypto_start(&error) != 0 || config_paths_make(&cli->paths, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    if (identity_lock(&cli->paths, &remint->lock, &holder, &error) != 0) {
        return error.code == ERROR_BUSY
                   ? cli_fail(cli, EXIT_FAILED, "a daemon is running (pid %" PRId64 "); stop it first: claudemesh daemon down", holder)
                   : cli_fail_error(cli, &error);
    }
    int status = meshes_read(cli, &remint->file);
    if (status == EXIT_DONE) {
        status = meshes_settings(cli, &remint->settings);
    }
    if (status == EXIT_DONE && meshes_display_name(cli_value(cli, "name"), &remint->file, &remint->display_name, &error) != 0) {
        status = cli_fail_usage(cli, "%s", error.message);
    }
    if (status == EXIT_DONE) {
        status = read_invites(cli, remint);
    }
    return status == EXIT_DONE ? plan(cli, remint) : status;
}

static int run(struct cli *cli)
{
    struct remint remint = { .lock = -1 };
    struct config_file after = { 0 };
    int status = prepare(cli, &remint);
    for (size_t i = 0; i < remint.file.mesh_count && status == EXIT_DONE; i++) {
        if (!remint.meshes[i].done) {
            remint.begun = true;
            status = mint(cli, &remint, &remint.meshes[i]);
        }
    }
    if (status == EXIT_DONE) {
        status = finish(cli, &remint);
    } else if (remint.begun) {
        cli_note(cli, "run the command again to go on where it ended");
    }
    if (status == EXIT_DONE) {
        status = meshes_read(cli, &after);
    }
    if (status == EXIT_DONE) {
        print_reminted(cli, &after);
    }
    config_file_release(&after);
    remint_release(&remint);
    return status;
}

const struct cli_command COMMAND_DAEMON_REMINT = {
    .name = "daemon remint",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "This directory is a copy: make new keys and enrol as a new member of each mesh",
    .example = "claudemesh daemon remint --name build-2 --invite - < invite.txt",
    .options = OPTIONS,
    .run = run,
};
