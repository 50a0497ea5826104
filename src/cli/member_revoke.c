/* `claudemesh member revoke`: a signed statement that a key is no member any more (45-trust, Revocations). */
#include "cli/broker_link.h"
#include "cli/cold_members.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "json/json.h"
#include "proto/statement.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

static const struct cli_option OPTIONS[] = {
    { "yes", 'y', OPTION_FLAG, NULL, "do not ask" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

struct revoking {
    struct config_file file;
    struct settings *settings;
    struct keypair *keys;
    struct keypair *signer; /* of the statement */
    struct broker_link *link;
    struct cold_members members;
    const struct config_mesh *mesh;
    const struct cold_member *member;
};

static void revoking_release(struct revoking *revoking)
{
    cold_members_release(&revoking->members);
    broker_link_close(revoking->link);
    keypair_free(revoking->keys);
    keypair_free(revoking->signer);
    settings_free(revoking->settings);
    config_file_release(&revoking->file);
}

static int find_member(struct revoking *revoking, const char *who, struct error *error)
{
    json_t *list = NULL;
    int status = broker_link_list_members(revoking->link, &list, error);
    if (status == 0) {
        status = cold_members_read(list, revoking->mesh, &revoking->members, error);
    }
    if (status == 0) {
        status = cold_members_resolve(&revoking->members, who, &revoking->member, error);
    }
    json_decref(list);
    return status;
}

/* The statement's fields, and 40-wire's names for the same things. NULL: not signed. */
static json_t *revoke_request(const struct revoking *revoking, struct error *error)
{
    char signature[SIGNATURE_HEX_SIZE];
    int64_t now = clock_wall_ms();
    json_t *request = json_new_object();
    json_put_string(request, "type", "member_revoke");
    json_put_string(request, "mesh", revoking->mesh->mesh_id);
    json_put_string(request, "subject_pubkey", revoking->member->pubkey);
    json_put_string(request, "member_id", revoking->member->member_id);
    json_put_integer(request, "at", now);
    json_put_string(request, "by", keypair_public_hex(revoking->signer));
    if (statement_sign_json(STATEMENT_REVOCATION, request, revoking->signer, signature, error) != 0) {
        json_decref(request);
        return NULL;
    }
    json_put_string(request, "sig", signature);
    json_put_string(request, "pubkey", revoking->member->pubkey);
    json_put_integer(request, "timestamp", now);
    json_put_string(request, "signature", signature);
    return request;
}

static int revoke(struct cli *cli, struct revoking *revoking)
{
    struct error error = { 0 };
    char question[300];
    json_t *request = NULL, *answer = NULL;
    int status = EXIT_DONE;

    if (find_member(revoking, cli->arguments[0], &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    if (revoking->member->owner) {
        return cli_fail(cli, EXIT_NOT_AUTHORISED, "nobody revokes the owner");
    }
    if (revoking->member->admin && !meshes_is_owner(revoking->mesh)) {
        return cli_fail(cli, EXIT_NOT_AUTHORISED, "only the owner revokes an admin");
    }
    char *name = text_printable(revoking->member->name, strlen(revoking->member->name));
    (void)snprintf(question, sizeof question, "Remove %.100s (%.16s…) from '%.64s' for ever?", name, revoking->member->pubkey,
                   revoking->mesh->slug);
    if (!cli_has(cli, "yes") && meshes_can_ask() && !meshes_confirm(question)) {
        status = cli_fail(cli, EXIT_FAILED, "not revoked");
        goto out;
    }
    request = revoke_request(revoking, &error);
    if (request == NULL || broker_link_request(revoking->link, request, BROKER_LINK_ANSWER_MS, &answer, &error) != 0 ||
        broker_answer_check(answer, &error) != 0) {
        status = cli_fail_error(cli, &error);
        goto out;
    }
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "mesh", revoking->mesh->slug);
        json_put_string(document, "pubkey", revoking->member->pubkey);
        json_put_string(document, "name", revoking->member->name);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, "%s is no member of '%s' any more", name, revoking->mesh->slug);
out:
    free(name);
    json_decref(request);
    json_decref(answer);
    return status;
}

static int run(struct cli *cli)
{
    struct revoking revoking = { 0 };
    int status = meshes_read(cli, &revoking.file);

    if (status == EXIT_DONE) {
        revoking.mesh = meshes_choose(cli, &revoking.file, &status);
    }
    if (status == EXIT_DONE) {
        status = meshes_settings(cli, &revoking.settings);
    }
    if (status == EXIT_DONE) {
        status = meshes_keys(cli, revoking.mesh, &revoking.keys);
    }
    if (status == EXIT_DONE) {
        status = meshes_statement_keys(cli, revoking.mesh, &revoking.signer);
    }
    if (status == EXIT_DONE) {
        status = broker_link_need(cli, revoking.mesh, revoking.keys, revoking.settings, &revoking.link);
    }
    if (status == EXIT_DONE) {
        status = revoke(cli, &revoking);
    }
    revoking_release(&revoking);
    return status;
}

const struct cli_command COMMAND_MEMBER_REVOKE = {
    .name = "member revoke",
    .group = GROUP_MESHES,
    .arguments = "<key>",
    .minimum = 1,
    .maximum = 1,
    .summary = "Remove a member from the mesh for ever (the owner, or an admin)",
    .example = "claudemesh member revoke 3f9a0c12 --mesh acme",
    .options = OPTIONS,
    .run = run,
};
