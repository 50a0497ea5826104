/* What a command is: one row of the table (name, arguments, options, help, run), and what its run gets. The table drives dispatch, help
 * and the parsing of options. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/exit_codes.h"
#include "config/config.h"
#include "util/error.h"

struct cli;

enum cli_group { GROUP_MESSAGES, GROUP_MESHES, GROUP_DAEMON, GROUP_BROKER, GROUP_SETTINGS, CLI_GROUPS };

enum cli_option_kind {
    OPTION_FLAG,           /* --force */
    OPTION_VALUE,          /* --limit N, --limit=N; the last one counts */
    OPTION_OPTIONAL_VALUE, /* --wait, --wait=5 */
    OPTION_REPEATED        /* --meta k=v --meta k=v */
};

struct cli_option {
    const char *name; /* without the dashes; NULL ends a table */
    char letter;      /* -f; 0 none */
    enum cli_option_kind kind;
    const char *argument; /* "SECONDS" in help; NULL for flags */
    const char *help;
};

struct cli_command {
    const char *name;  /* one to three words */
    const char *alias; /* NULL */
    enum cli_group group;
    const char *arguments;   /* "<to> <message>", "" */
    size_t minimum, maximum; /* how many */
    const char *summary;
    const char *example;              /* a command line that works */
    const struct cli_option *options; /* NULL none */
    int (*run)(struct cli *cli);      /* returns an exit code; has printed what went wrong */
};

extern const struct cli_command *const CLI_COMMANDS[];
extern const size_t CLI_COMMAND_COUNT;
extern const struct cli_option CLI_GLOBAL_OPTIONS[];

struct cli_given {
    const struct cli_option *option;
    const char *value; /* NULL: none given */
};

struct cli {
    const struct cli_command *command; /* NULL: help, of everything or of `family` */
    char family[64];                   /* "daemon", when the words name no command but begin some */
    bool help, version;
    /* global flags */
    const char *config_dir, *mesh;
    bool json, quiet, no_color;
    /* this command's */
    const char **arguments;
    size_t argument_count;
    struct cli_given *given;
    size_t given_count;
    /* filled before run */
    struct config_paths paths;
    bool color;     /* stdout is a terminal and nobody objected */
    bool streaming; /* --json prints an object a line, and nothing about errors */
    bool error_printed;
};

/* Sorts argv into `cli` by the tables. ERROR_INVALID: one line why, and what to do. Strings are argv's. */
int cli_parse(int argc, char *const *argv, struct cli *ret_cli, struct error *error) MUST_CHECK;
void cli_release(struct cli *cli);

bool cli_has(const struct cli *cli, const char *option);
/* The last value given; NULL when none. Naming an option that the command's table lacks is a bug and ends the process. */
const char *cli_value(const struct cli *cli, const char *option);
/* Values of a repeated option in order: NULL past the last. */
const char *cli_value_at(const struct cli *cli, const char *option, size_t index);
/* A whole number in [minimum, maximum], `otherwise` when not given. ERROR_INVALID says which option and what it takes. */
int cli_integer(const struct cli *cli, const char *option, int64_t minimum, int64_t maximum, int64_t otherwise, int64_t *ret_value,
                struct error *error) MUST_CHECK;

/* The nearest of `count` names within a plausible typing mistake; NULL none. */
const char *cli_nearest(const char *word, const char *(*name_at)(const void *argument, size_t index), const void *argument, size_t count);

/* help.c */
void help_print_all(const struct cli *cli);
void help_print_family(const struct cli *cli, const char *family);
void help_print_command(const struct cli *cli, const struct cli_command *command);

#endif
