/* Owns the choice between a member that stays and one that goes with its process. */
#include "cli/ephemeral.h"

#include "cli/invite_argument.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "crypto/crypto.h"
#include "util/text.h"

#define INVITE_VARIABLE "CLAUDEMESH_INVITE"

static const int64_t TTL_LONGEST_MS = 366LL * 86400000LL;

void ephemeral_release(struct ephemeral *ephemeral)
{
    invite_release(&ephemeral->invite);
    free(ephemeral->name);
}

static int read_ttl(struct cli *cli, int64_t *ret_ttl_ms)
{
    *ret_ttl_ms = 0;
    if (cli_has(cli, "ttl") &&
        (duration_parse(cli_value(cli, "ttl"), ret_ttl_ms) != 0 || *ret_ttl_ms < 1000 || *ret_ttl_ms > TTL_LONGEST_MS)) {
        return cli_fail_usage(cli, "--ttl takes a time like 90s, 30m, 2h, a second to a year");
    }
    return EXIT_DONE;
}

static int read_member(struct cli *cli, const char *given, struct ephemeral *ephemeral, struct daemon_options *options)
{
    struct error error = { 0 };
    const struct config_file nothing = { 0 };
    int status = crypto_start(&error) == 0 ? invite_argument_read(cli, given, &ephemeral->invite) : cli_fail_error(cli, &error);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->mesh != NULL && !string_equal(cli->mesh, ephemeral->invite.mesh_slug)) {
        return cli_fail_usage(cli, "the invite is for '%s', and --mesh says '%s'; an ephemeral member serves its invite's mesh alone",
                              ephemeral->invite.mesh_slug, cli->mesh);
    }
    if (meshes_display_name(options->display_name, &nothing, &ephemeral->name, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    options->invite = &ephemeral->invite;
    options->member_name = ephemeral->name;
    return EXIT_DONE;
}

static int decide(struct cli *cli, const char *given, struct ephemeral *ephemeral, struct daemon_options *options)
{
    bool asked = cli_has(cli, "ephemeral"), persistent = cli_has(cli, "persistent");
    if (asked && persistent) {
        return cli_fail_usage(cli, "--ephemeral and --persistent contradict each other");
    }
    if (asked && given == NULL) {
        return cli_fail_usage(cli,
                              "an ephemeral member needs an invite: --invite LINK ('-' reads it from standard input) or $" INVITE_VARIABLE);
    }
    if (asked || (!persistent && given != NULL && daemon_is_ephemeral_by_default())) {
        return read_member(cli, given, ephemeral, options);
    }
    if (cli_has(cli, "invite") || cli_has(cli, "ttl")) {
        return cli_fail_usage(
            cli, "--invite and --ttl are for an ephemeral member: add --ephemeral, or become a member that stays with 'claudemesh join'");
    }
    return EXIT_DONE;
}

int ephemeral_decide(struct cli *cli, struct ephemeral *ret_ephemeral, struct daemon_options *options)
{
    const char *variable = getenv(INVITE_VARIABLE), *flag = cli_value(cli, "invite");
    const char *given = flag != NULL ? flag : variable != NULL && variable[0] != '\0' ? variable : NULL;
    *ret_ephemeral = (struct ephemeral){ 0 };
    int status = read_ttl(cli, &options->ttl_ms);
    if (status == EXIT_DONE) {
        status = decide(cli, given, ret_ephemeral, options);
    }
    if (flag != NULL && !string_equal(flag, "-")) {
        invite_argument_hide(flag);
    }
    if (variable != NULL) {
        invite_argument_hide(variable);
        (void)unsetenv(INVITE_VARIABLE); /* nothing that this process starts needs it */
    }
    return status;
}
