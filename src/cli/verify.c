/* `claudemesh verify`: the safety number of this member's key and a peer's, to compare out of band; and with --accept, a changed key's acceptance under its name. */
#include "cli/api.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

static const struct cli_option OPTIONS[] = {
    { "accept", 0, OPTION_FLAG, NULL, "the numbers match: from now on the peer's name means this key" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static void print_answer(struct cli *cli, const json_t *answer, bool accepted)
{
    const char *name = answer_text(answer, "name");
    if (cli->json) {
        cli_print_json(answer);
        return;
    }
    char *printable = text_printable(name, strlen(name));
    printf("peer    %s%s\n", printable[0] == '\0' ? "(no name)" : printable,
           answer_bool(answer, "revoked")    ? ", revoked"
           : answer_bool(answer, "verified") ? ", a verified member"
                                             : ", not verified");
    printf("key     %s\n", answer_text(answer, "pubkey"));
    printf("number  %s%s%s\n", style_start(cli, STYLE_BOLD), answer_text(answer, "safety_number"), style_end(cli));
    free(printable);
    if (accepted) {
        cli_say(cli, "accepted: '%s' means this key now", name);
    } else if (answer_bool(answer, "key_changed")) {
        printf("%sThis is another key than the one known by that name until now (%.16s…).%s\n", style_start(cli, STYLE_RED),
               answer_text(answer, "pinned_pubkey"), style_end(cli));
        cli_say(cli, "Compare the number with the peer over another channel; if it matches: claudemesh verify %s --accept",
                cli->arguments[0]);
    } else {
        cli_say(cli, "The peer sees the same number with 'claudemesh verify'. Compare over another channel.");
    }
}

/* Without a daemon a whole key is enough: the number needs nothing else. */
static int verify_key_alone(struct cli *cli, const char *peer)
{
    struct config_file file = { 0 };
    struct public_key mine, theirs;
    struct error error = { 0 };
    char number[SAFETY_NUMBER_SIZE];
    int status = crypto_start(&error) == 0 ? meshes_read(cli, &file) : cli_fail_error(cli, &error);
    const struct config_mesh *mesh = status == EXIT_DONE ? meshes_choose(cli, &file, &status) : NULL;

    if (mesh == NULL) {
        goto out;
    }
    if (public_key_parse(mesh->pubkey, &mine, &error) != 0 || public_key_parse(peer, &theirs, &error) != 0) {
        status = cli_fail_error(cli, &error);
        goto out;
    }
    safety_number(&mine, &theirs, number);
    json_t *answer = json_new_object();
    json_put_string(answer, "mesh", mesh->slug);
    json_put_string(answer, "pubkey", peer);
    json_put_string(answer, "name", NULL);
    json_put_bool(answer, "verified", false);
    json_put_string(answer, "safety_number", number);
    json_put_string(answer, "own_pubkey", mesh->pubkey);
    print_answer(cli, answer, false);
    json_decref(answer);
out:
    config_file_release(&file);
    return status;
}

static int run(struct cli *cli)
{
    struct api api;
    struct error error = { 0 };
    struct buffer target;
    json_t *answer = NULL;
    const char *peer = cli->arguments[0];
    bool accept = cli_has(cli, "accept");
    int status;

    if (peer[0] == '\0' || !utf8_is_valid(peer, strlen(peer))) {
        return cli_fail_usage(cli, "the peer is empty or no text; give a name, a key, or 8 or more digits of one");
    }
    if (!accept && hex_is_key(peer) && api_open(cli, API_BUDGET_MS, &api, &error) != 0) {
        return verify_key_alone(cli, peer);
    }
    if (!accept && hex_is_key(peer)) {
        api_close(&api);
    }
    if (accept) {
        json_t *body = json_new_object();
        json_put_string(body, "peer", peer);
        json_put_bool(body, "accept", true);
        status = api_call(cli, "POST", "/v1/verify", body, &answer);
        json_decref(body);
    } else {
        buffer_init(&target, LIMIT_HTTP_HEAD);
        (void)buffer_append_text(&target, "/v1/verify");
        api_target_add(&target, "peer", peer);
        status = api_call(cli, "GET", target.data, NULL, &answer);
        buffer_release(&target);
    }
    if (status == EXIT_DONE) {
        print_answer(cli, answer, accept);
        json_decref(answer);
    }
    return status;
}

const struct cli_command COMMAND_VERIFY = {
    .name = "verify",
    .group = GROUP_MESSAGES,
    .arguments = "<peer>",
    .minimum = 1,
    .maximum = 1,
    .summary = "A safety number of both keys, to compare out of band",
    .example = "claudemesh verify bob",
    .options = OPTIONS,
    .run = run,
};
