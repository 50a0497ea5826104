/* `claudemesh daemon rotate-token` and `daemon archive-cleanup` (50-identity): through the daemon where one runs, so that it knows at once; else on the files. */
#include "cli/api.h"
#include "cli/output.h"
#include "crypto/crypto.h"
#include "identity/identity.h"
#include "identity/rotation.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/memory.h"

/* True: asked, and *ret_status is what came of it. False: none runs. */
static bool ask_daemon(struct cli *cli, const char *target, json_t **ret_answer, int *ret_status)
{
    struct api api = { 0 };
    struct error error = { 0 };
    if (api_open(cli, API_BUDGET_MS, &api, &error) == 0) {
        *ret_status = api_ask(cli, &api, "POST", target, NULL, ret_answer);
        api_close(&api);
        return true;
    }
    if (file_is_locked(cli->paths.pid_file)) {
        *ret_status =
            cli_fail(cli, EXIT_UNREACHABLE, "a daemon runs and does not answer; nothing was changed. 'claudemesh daemon logs' may say why");
        return true;
    }
    return false;
}

/* ---- the token --------------------------------------------------------------------------------------------------------- */

static int report_token(struct cli *cli, bool running)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "path", cli->paths.local_token);
        json_put_integer(document, "old_token_valid_s", running ? 60 : 0);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, running ? "a new token is in %s; the one before works for 60 s more" : "a new token is in %s", cli->paths.local_token);
    return EXIT_DONE;
}

static int run_token(struct cli *cli)
{
    struct error error = { 0 };
    json_t *answer = NULL;
    char *token = NULL;
    int status = EXIT_DONE;
    if (ask_daemon(cli, "/v1/daemon/rotate-token", &answer, &status)) {
        json_decref(answer);
        return status == EXIT_DONE ? report_token(cli, true) : status;
    }
    if (crypto_start(&error) != 0 || config_paths_make(&cli->paths, &error) != 0 ||
        identity_rotate_token(&cli->paths, &token, &error) != 0) {
        return cli_fail(cli, EXIT_FAILED, "the token stays as it was: %s", error.message);
    }
    secret_wipe(token, strlen(token));
    free(token);
    return report_token(cli, false);
}

/* ---- the archive ------------------------------------------------------------------------------------------------------- */

static int report_archive(struct cli *cli, int64_t removed, int64_t left, const char *moved_to)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_integer(document, "removed", removed);
        json_put_integer(document, "left", left);
        json_put_string(document, "moved_to", moved_to[0] == '\0' ? NULL : moved_to);
        cli_print_json(document);
        json_decref(document);
    }
    if (moved_to[0] != '\0') {
        cli_note(cli, "the archive could not be used; it was moved to %s", moved_to);
    }
    cli_say(cli, "%" PRId64 " expired keys removed, %" PRId64 " left", removed, left);
    return EXIT_DONE;
}

static int run_archive(struct cli *cli)
{
    struct error error = { 0 };
    struct archive_findings findings = { .wrong_mode = false };
    json_t *answer = NULL;
    size_t removed = 0, left = 0;
    int status = EXIT_DONE;
    if (ask_daemon(cli, "/v1/daemon/archive-cleanup", &answer, &status)) {
        if (status == EXIT_DONE) {
            status = report_archive(cli, answer_integer(answer, "removed", 0), answer_integer(answer, "left", 0),
                                    answer_text(answer, "moved_to"));
        }
        json_decref(answer);
        return status;
    }
    if (crypto_start(&error) != 0 || (file_exists(cli->paths.keypair_archive) &&
                                      rotation_clean_archive(&cli->paths, clock_wall_ms(), &removed, &left, &findings, &error) != 0)) {
        return cli_fail_error(cli, &error);
    }
    if (findings.wrong_mode) {
        cli_note(cli, "%s can be read by others; run: chmod 600 %s", cli->paths.keypair_archive, cli->paths.keypair_archive);
    }
    return report_archive(cli, (int64_t)removed, (int64_t)left, findings.moved_to);
}

const struct cli_command COMMAND_DAEMON_ROTATE_TOKEN = {
    .name = "daemon rotate-token",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Write a new token for the local API on TCP; the old one works for 60 s more",
    .example = "claudemesh daemon rotate-token",
    .run = run_token,
};

const struct cli_command COMMAND_DAEMON_ARCHIVE_CLEANUP = {
    .name = "daemon archive-cleanup",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Remove former keys whose grace is over (the daemon does it daily)",
    .example = "claudemesh daemon archive-cleanup",
    .run = run_archive,
};
