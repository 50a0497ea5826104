/* The process's start for every command: parses, prepares what all commands need, runs one, turns what happened into an exit status. */
#include "cli/cli.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "backup/backup.h"
#include "cli/output.h"
#include "json/json.h"
#include "privilege/privilege.h"
#include "util/memory.h"
#include "util/text.h"

/* A terminal that will show the result, and nobody who objects. */
static bool color_is_wanted(const struct cli *cli)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    return !cli->no_color && (no_color == NULL || no_color[0] == '\0') && isatty(STDOUT_FILENO) && !string_equal(term, "dumb");
}

static int prepare_paths(struct cli *cli)
{
    struct error error = { 0 };
    bool ignored = false;
    if (cli->config_dir != NULL && cli->config_dir[0] == '\0') {
        return cli_fail_usage(cli, "--config-dir is empty; give it a directory");
    }
    if (config_paths_init(cli->config_dir, &cli->paths, &ignored, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    if (ignored && isatty(STDERR_FILENO)) {
        cli_note(cli, "$CLAUDEMESH_CONFIG_DIR names a directory that does not exist; using %s", cli->paths.root);
    }
    /* Before anybody looks into the directory: a restore that a crash interrupted after it was decided. */
    return backup_settle(&cli->paths, &error) == 0 ? EXIT_DONE : cli_fail_error(cli, &error);
}

static int run_parsed(struct cli *cli)
{
    if (cli->version) {
        puts(cli->json ? "{\"version\":\"" CLAUDEMESH_VERSION "\"}" : "claudemesh " CLAUDEMESH_VERSION);
        return EXIT_DONE;
    }
    if (cli->command == NULL) {
        if (cli->family[0] == '\0') {
            help_print_all(cli);
            return EXIT_DONE;
        }
        if (cli->help) {
            help_print_family(cli, cli->family);
            return EXIT_DONE;
        }
        return cli_fail_usage(cli, "'%s' needs a further word; 'claudemesh %s --help' lists them", cli->family, cli->family);
    }
    if (cli->help) {
        help_print_command(cli, cli->command);
        return EXIT_DONE;
    }
    if (cli->mesh != NULL && !name_is_valid(cli->mesh)) {
        return cli_fail_usage(cli, "--mesh takes a mesh's slug (1 to 64 of a-z 0-9 _ . -); 'claudemesh mesh list' shows them");
    }
    int status = prepare_paths(cli);
    return status != EXIT_DONE ? status : cli->command->run(cli);
}

int cli_main(int argc, char **argv)
{
    struct cli cli;
    struct error error = { 0 };
    int status;

    /* A socket that is gone must be an error to handle, not a signal; cli_flush gives stdout's readers the usual one. */
    (void)signal(SIGPIPE, SIG_IGN);
    json_start();
    if (cli_parse(argc, argv, &cli, &error) != 0) {
        status = cli_fail(&cli, EXIT_USAGE, "%s", error.message);
    } else if (privilege_no_core_dumps(&error) != 0) { /* commands hold keys and passphrases, too */
        status = cli_fail_error(&cli, &error);
    } else {
        cli.color = color_is_wanted(&cli);
        status = run_parsed(&cli);
    }
    int flushed = cli_flush(&cli);
    cli_release(&cli);
    return status != EXIT_DONE ? status : flushed;
}
