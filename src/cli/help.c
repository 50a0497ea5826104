/* Help, from the table of commands: of everything, of a family, of one command. */
#include "cli/output.h"
#include "util/text.h"

static const char *const GROUP_TITLES[] = {
    [GROUP_MESSAGES] = "Using a mesh", [GROUP_MESHES] = "Meshes",     [GROUP_DAEMON] = "The daemon",
    [GROUP_BROKER] = "The broker",     [GROUP_SETTINGS] = "Settings",
};

static void print_row(const struct cli *cli, const struct cli_command *command)
{
    printf("  %s%-22s%s %s\n", style_start(cli, STYLE_BOLD), command->name, style_end(cli), command->summary);
}

void help_print_all(const struct cli *cli)
{
    puts("claudemesh: encrypted messages between programs, agents and people on any host.\n");
    puts("Usage: claudemesh [global options] <command> [arguments]\n");
    for (int group = 0; group < CLI_GROUPS; group++) {
        printf("%s%s%s\n", style_start(cli, STYLE_BOLD), GROUP_TITLES[group], style_end(cli));
        for (size_t i = 0; i < CLI_COMMAND_COUNT; i++) {
            if ((int)CLI_COMMANDS[i]->group == group) {
                print_row(cli, CLI_COMMANDS[i]);
            }
        }
        (void)putchar('\n');
    }
    puts("Global options: --config-dir DIR, --mesh SLUG, --json, --quiet, --no-color, --version");
    puts("'claudemesh <command> --help' says more, with an example.");
}

void help_print_family(const struct cli *cli, const char *family)
{
    size_t length = strlen(family);
    printf("Commands of 'claudemesh %s':\n", family);
    for (size_t i = 0; i < CLI_COMMAND_COUNT; i++) {
        if (string_has_prefix(CLI_COMMANDS[i]->name, family) && CLI_COMMANDS[i]->name[length] == ' ') {
            print_row(cli, CLI_COMMANDS[i]);
        }
    }
}

static void print_options(const struct cli_option *options)
{
    for (; options != NULL && options->name != NULL; options++) {
        char left[64];
        char letter[8] = "";
        if (options->letter != 0) {
            (void)snprintf(letter, sizeof letter, "-%c, ", options->letter);
        }
        (void)snprintf(left, sizeof left, "%s--%s%s%s%s", letter, options->name,
                       options->kind == OPTION_OPTIONAL_VALUE ? "[="
                       : options->argument != NULL            ? " "
                                                              : "",
                       options->argument != NULL ? options->argument : "", options->kind == OPTION_OPTIONAL_VALUE ? "]" : "");
        printf("  %-28s %s%s\n", left, options->help, options->kind == OPTION_REPEATED ? " (may be repeated)" : "");
    }
}

void help_print_command(const struct cli *cli, const struct cli_command *command)
{
    const char *bold = style_start(cli, STYLE_BOLD), *end = style_end(cli);
    printf("%sclaudemesh %s%s: %s\n\n", bold, command->name, end, command->summary);
    printf("Usage: claudemesh %s%s%s%s\n", command->name, command->arguments[0] == '\0' ? "" : " ", command->arguments,
           command->options == NULL ? "" : " [options]");
    if (command->alias != NULL) {
        printf("Also:  claudemesh %s\n", command->alias);
    }
    if (command->options != NULL) {
        printf("\n%sOptions%s\n", bold, end);
        print_options(command->options);
    }
    printf("\n%sGlobal options%s\n", bold, end);
    print_options(CLI_GLOBAL_OPTIONS);
    printf("\n%sExample%s\n  %s\n", bold, end, command->example);
}
