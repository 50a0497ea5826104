/* `claudemesh daemon reset` and `daemon uninstall`: ask, stop the daemon, and say what went and what stayed. */
#include "backup/backup.h"

#include "cli/daemon_stop.h"
#include "cli/mesh_leave.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/service.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static const struct cli_option OPTIONS_RESET[] = {
    { "yes", 'y', OPTION_FLAG, NULL, "do not ask" },
    { "timeout", 0, OPTION_VALUE, "SECONDS", "how long to wait for the daemon to stop (5)" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_UNINSTALL[] = {
    { "yes", 'y', OPTION_FLAG, NULL, "do not ask" },
    { "force", 0, OPTION_FLAG, NULL, "go on when a broker cannot be told" },
    { "timeout", 0, OPTION_VALUE, "SECONDS", "how long to wait for the daemon to stop (5)" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

/* EXIT_DONE: go on. */
static int ask(struct cli *cli, const char *question, const char *refusal)
{
    if (cli_has(cli, "yes")) {
        return EXIT_DONE;
    }
    if (!meshes_can_ask()) {
        return cli_fail_usage(cli, "there is no terminal to ask on; add --yes");
    }
    return meshes_confirm(question) ? EXIT_DONE : cli_fail(cli, EXIT_FAILED, "%s", refusal);
}

/* Said also when what came after it failed. */
static void say_stopped(struct cli *cli, int64_t pid)
{
    if (pid != 0) {
        cli_note(cli, "the daemon (pid %" PRId64 ") was stopped; 'claudemesh daemon up' starts it again", pid);
    }
}

/* ---- reset ---------------------------------------------------------------------------------------------------------- */

static void report_reset(struct cli *cli, const struct reset_summary *summary)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_integer(document, "ids_kept", summary->ids_kept);
        json_put_integer(document, "aborted", summary->aborted);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, "messages, receipts, logs and the local token are gone; you are still a member of every mesh");
    cli_say(cli, "kept: %" PRId64 " used message ids, so that none is sent twice%s", summary->ids_kept,
            summary->aborted > 0 ? "; of these," : "");
    if (summary->aborted > 0) {
        cli_say(cli, "%" PRId64 " had not been sent, and will not be", summary->aborted);
    }
}

static int run_reset(struct cli *cli)
{
    static const char QUESTION[] = "Clear the inbox, everything that waits to be sent, receipts, logs and the local token? "
                                   "Memberships, keys, settings, hooks, and the ids of what was sent stay.";
    struct reset_summary summary = { 0 };
    struct error error = { 0 };
    int64_t pid = 0;
    int status = ask(cli, QUESTION, "nothing was reset");
    if (status == EXIT_DONE) {
        status = daemon_stop_running(cli, &pid);
    }
    if (status == EXIT_DONE && backup_reset(&cli->paths, &summary, &error) != 0) {
        status = cli_fail_error(cli, &error);
    }
    if (status == EXIT_DONE) {
        report_reset(cli, &summary);
    }
    say_stopped(cli, pid);
    return status;
}

/* ---- uninstall -------------------------------------------------------------------------------------------------------- */

static bool is_owner(const struct config_mesh *mesh)
{
    return string_equal(mesh->owner_pubkey, mesh->pubkey);
}

/* Said also with --yes: it cannot be undone. */
static void warn_owner(const struct cli *cli, const struct config_file *file)
{
    for (size_t i = 0; i < file->mesh_count; i++) {
        if (is_owner(&file->meshes[i])) {
            cli_note(cli,
                     "YOU OWN THE MESH '%s'. Its owner's key exists here only (and in backups). Without it nobody can invite with a role, "
                     "remove an admin, or prove to "
                     "be its owner, ever again. 'claudemesh daemon backup' keeps it",
                     file->meshes[i].slug);
        }
    }
}

/* One after the other; a mesh that was left is out of config.json, so that a second try goes on with the others. */
static int leave_meshes(struct cli *cli, const struct config_file *file, size_t *ret_untold)
{
    struct error error = { 0 };
    for (size_t i = 0; i < file->mesh_count; i++) {
        const struct config_mesh *mesh = &file->meshes[i];
        cli->error_printed = cli_has(cli, "force"); /* then a broker's absence is no result */
        int told = mesh_leave_tell(cli, mesh);
        if (told != EXIT_DONE && !cli_has(cli, "force")) {
            cli_note(cli,
                     "the broker of '%s' could not be told. Nothing of it was removed here; 'daemon uninstall --force' goes on without it, "
                     "and the "
                     "broker then lists this member still",
                     mesh->slug);
            return told;
        }
        *ret_untold += told == EXIT_DONE ? 0 : 1;
        if (config_file_remove_mesh(cli->paths.config_json, mesh->slug, &error) != 0) {
            return cli_fail_error(cli, &error);
        }
    }
    return EXIT_DONE;
}

static void report_uninstall(struct cli *cli, size_t meshes, size_t untold, bool had_service, const char *left)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_integer(document, "meshes_left", (int64_t)(meshes - untold));
        json_put_integer(document, "brokers_not_told", (int64_t)untold);
        json_put_bool(document, "service_removed", had_service);
        json_put_bool(document, "directory_removed", left == NULL);
        cli_print_json(document);
        json_decref(document);
    }
    if (left == NULL) {
        cli_say(cli, "everything of claudemesh in %s is gone; the program itself is where you installed it", cli->paths.root);
    } else {
        cli_say(cli, "what claudemesh's client had in %s is gone. Left, because it is not the client's:", cli->paths.root);
        print_body("  ", left, strlen(left));
        cli_say(cli, "%s", "");
    }
}

static int uninstall(struct cli *cli, const struct config_file *file)
{
    struct error error = { 0 };
    size_t untold = 0;
    char *left = NULL;
    int64_t pid = 0;
    bool had_service = false;
    int status = daemon_stop_running(cli, &pid);
    if (status == EXIT_DONE) {
        status = leave_meshes(cli, file, &untold);
    }
    if (status == EXIT_DONE) {
        status = service_remove_all(cli, &had_service);
    }
    if (status == EXIT_DONE && backup_remove_everything(&cli->paths, &left, &error) != 0) {
        status = cli_fail_error(cli, &error);
    }
    if (status == EXIT_DONE) {
        report_uninstall(cli, file->mesh_count, untold, had_service, left);
    } else {
        say_stopped(cli, pid);
    }
    free(left);
    return status;
}

static int run_uninstall(struct cli *cli)
{
    char question[300];
    struct config_file file = { 0 };
    int status = meshes_read(cli, &file);
    if (status != EXIT_DONE && cli_has(cli, "force")) {
        cli_note(cli, "going on without it: no broker is told, and each lists this member still");
        status = EXIT_DONE;
    } else if (status != EXIT_DONE) {
        cli_note(cli, "'daemon uninstall --force' removes everything without it; no broker is told then");
    }
    if (status == EXIT_DONE) {
        warn_owner(cli, &file);
        (void)snprintf(question, sizeof question, "Leave %zu mesh%s, and remove the service, all keys and all messages in %.150s?",
                       file.mesh_count, file.mesh_count == 1 ? "" : "es", cli->paths.root);
        status = ask(cli, question, "nothing was removed");
    }
    if (status == EXIT_DONE) {
        status = uninstall(cli, &file);
    }
    config_file_release(&file);
    return status;
}

const struct cli_command COMMAND_DAEMON_RESET = {
    .name = "daemon reset",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Clear messages and logs; stay a member",
    .example = "claudemesh daemon reset --yes",
    .options = OPTIONS_RESET,
    .run = run_reset,
};

const struct cli_command COMMAND_DAEMON_UNINSTALL = {
    .name = "daemon uninstall",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Leave every mesh, and remove the service, all keys and all messages",
    .example = "claudemesh daemon uninstall",
    .options = OPTIONS_UNINSTALL,
    .run = run_uninstall,
};
