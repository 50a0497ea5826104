/* `claudemesh daemon reload`: the daemon reads its configuration again and says what took effect. A mistake in the file is found by whoever reads it: by the daemon, whose environment
 * counts, not by us. */
#include "cli/api.h"
#include "cli/output.h"

static void say_list(const struct cli *cli, const json_t *names, const char *before, const char *after)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        cli_say(cli, "%s%s%s", before, name == NULL ? "" : name, after);
    }
}

static int run(struct cli *cli)
{
    json_t *answer = NULL;
    int status = api_call(cli, "POST", "/v1/daemon/reload", NULL, &answer);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    }
    const json_t *applied = json_object_get(answer, "applied"), *needs_restart = json_object_get(answer, "needs_restart");
    say_list(cli, applied, "applied: ", "");
    say_list(cli, needs_restart, "needs a restart: ", "; run 'claudemesh daemon restart'");
    if (json_array_size(applied) + json_array_size(needs_restart) == 0) {
        cli_say(cli, "read again; nothing changed");
    }
    if (answer_text(answer, "warning")[0] != '\0') {
        cli_note(cli, "%s", answer_text(answer, "warning"));
    }
    json_decref(answer);
    return EXIT_DONE;
}

const struct cli_command COMMAND_DAEMON_RELOAD = {
    .name = "daemon reload",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Read config.toml again without dropping links; says what needs a restart",
    .example = "claudemesh daemon reload",
    .run = run,
};
