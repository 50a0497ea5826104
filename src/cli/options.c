/* Sorts a command line into a command, its options and its arguments, by the tables. Must not print, and runs nothing. */
#include "cli/command.h"

#include "util/memory.h"
#include "util/text.h"

const struct cli_option CLI_GLOBAL_OPTIONS[] = {
    { "config-dir", 0, OPTION_VALUE, "DIR", "configuration directory (else $CLAUDEMESH_CONFIG_DIR, else ~/.claudemesh)" },
    { "mesh", 0, OPTION_VALUE, "SLUG", "which mesh, when more than one is joined" },
    { "json", 0, OPTION_FLAG, NULL, "one JSON document on stdout (an object a line for streams)" },
    { "quiet", 0, OPTION_FLAG, NULL, "no confirmations and notes; results and errors stay" },
    { "no-color", 0, OPTION_FLAG, NULL, "no colours (also $NO_COLOR)" },
    { "help", 'h', OPTION_FLAG, NULL, "this help" },
    { "version", 0, OPTION_FLAG, NULL, "the program's version" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

struct parse {
    struct cli *cli;
    char name[64]; /* the command's words so far */
    bool matching; /* further words may belong to the name */
    bool ended;    /* after -- */
};

const char *cli_nearest(const char *word, const char *(*name_at)(const void *argument, size_t index), const void *argument, size_t count)
{
    enum { LONGEST = 48 };
    size_t word_length = strlen(word);
    const char *best = NULL;
    size_t best_distance = word_length <= 3 ? 2 : word_length / 3 + 2; /* exclusive */
    if (word_length >= LONGEST) {
        return NULL;
    }
    for (size_t n = 0; n < count; n++) {
        const char *name = name_at(argument, n);
        size_t name_length = name == NULL ? LONGEST : strlen(name);
        size_t rows[3][LONGEST + 1];
        if (name_length >= LONGEST) {
            continue;
        }
        for (size_t j = 0; j <= name_length; j++) {
            rows[0][j] = j;
            rows[2][j] = 0;
        }
        /* Optimal string alignment: swapped neighbours count as one mistake. */
        for (size_t i = 1; i <= word_length; i++) {
            size_t *now = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
            now[0] = i;
            for (size_t j = 1; j <= name_length; j++) {
                size_t least = above[j - 1] + (word[i - 1] == name[j - 1] ? 0 : 1);
                least = above[j] + 1 < least ? above[j] + 1 : least;
                least = now[j - 1] + 1 < least ? now[j - 1] + 1 : least;
                if (i > 1 && j > 1 && word[i - 1] == name[j - 2] && word[i - 2] == name[j - 1] && above2[j - 2] + 1 < least) {
                    least = above2[j - 2] + 1;
                }
                now[j] = least;
            }
        }
        if (rows[word_length % 3][name_length] < best_distance) {
            best_distance = rows[word_length % 3][name_length];
            best = name;
        }
    }
    return best;
}

static const char *command_name_at(const void *argument, size_t index)
{
    (void)argument;
    return index < CLI_COMMAND_COUNT ? CLI_COMMANDS[index]->name : CLI_COMMANDS[index - CLI_COMMAND_COUNT]->alias;
}

static const char *option_name_at(const void *argument, size_t index)
{
    const struct cli_command *command = argument;
    size_t own = 0;
    while (command != NULL && command->options != NULL && command->options[own].name != NULL) {
        if (own == index) {
            return command->options[own].name;
        }
        own++;
    }
    return CLI_GLOBAL_OPTIONS[index - own].name;
}

static size_t option_count(const struct cli_command *command)
{
    size_t count = 0;
    while (command != NULL && command->options != NULL && command->options[count].name != NULL) {
        count++;
    }
    for (size_t i = 0; CLI_GLOBAL_OPTIONS[i].name != NULL; i++) {
        count++;
    }
    return count;
}

static const struct cli_command *command_named(const char *name)
{
    for (size_t i = 0; i < CLI_COMMAND_COUNT; i++) {
        if (string_equal(CLI_COMMANDS[i]->name, name) || string_equal(CLI_COMMANDS[i]->alias, name)) {
            return CLI_COMMANDS[i];
        }
    }
    return NULL;
}

static bool name_begins_commands(const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < CLI_COMMAND_COUNT; i++) {
        if (string_has_prefix(CLI_COMMANDS[i]->name, name) && CLI_COMMANDS[i]->name[length] == ' ') {
            return true;
        }
    }
    return false;
}

static int refuse_command(const char *word, struct error *error)
{
    const char *nearest = cli_nearest(word, command_name_at, NULL, 2 * CLI_COMMAND_COUNT);
    if (nearest != NULL) {
        return error_set(error, ERROR_INVALID, "there is no command '%s'; did you mean '%s'? ('claudemesh' alone lists all)", word,
                         nearest);
    }
    return error_set(error, ERROR_INVALID, "there is no command '%s'; 'claudemesh' alone lists all", word);
}

/* A word that is no option: part of the command's name, or an argument. */
static int take_word(struct parse *parse, const char *word, struct error *error)
{
    struct cli *cli = parse->cli;
    char candidate[sizeof parse->name];
    int written = snprintf(candidate, sizeof candidate, "%s%s%s", parse->name, parse->name[0] == '\0' ? "" : " ", word);
    bool fits = written > 0 && (size_t)written < sizeof candidate;

    if (parse->matching && fits && (command_named(candidate) != NULL || name_begins_commands(candidate))) {
        cli->command = command_named(candidate);
        parse->matching = name_begins_commands(candidate);
        memcpy(parse->name, candidate, sizeof candidate);
        return 0;
    }
    if (cli->command == NULL) {
        if (parse->name[0] == '\0' && string_equal(word, "help")) {
            cli->help = true;
            return 0;
        }
        char *printable = text_printable(fits ? candidate : word, strlen(fits ? candidate : word));
        int status = refuse_command(printable, error);
        free(printable);
        return status;
    }
    parse->matching = false;
    cli->arguments[cli->argument_count++] = word;
    return 0;
}

static const struct cli_option *option_find(const struct cli_option *table, const char *name, size_t length, char letter)
{
    for (; table != NULL && table->name != NULL; table++) {
        if (letter != 0 ? table->letter == letter : strlen(table->name) == length && strncmp(table->name, name, length) == 0) {
            return table;
        }
    }
    return NULL;
}

static int refuse_option(const struct parse *parse, const char *text, struct error *error)
{
    char *printable = text_printable(text, strcspn(text, "="));
    const struct cli_command *command = parse->cli->command;
    const char *nearest = NULL;
    if (string_has_prefix(printable, "--")) {
        nearest = cli_nearest(printable + 2, option_name_at, command, option_count(command));
    }
    if (nearest != NULL) {
        (void)error_set(error, ERROR_INVALID, "there is no option '%s'; did you mean '--%s'?", printable, nearest);
    } else if (command == NULL) {
        (void)error_set(error, ERROR_INVALID, "there is no option '%s' here; a command's options come after its name", printable);
    } else {
        (void)error_set(error, ERROR_INVALID,
                        "there is no option '%s'; see 'claudemesh %s --help', or put '--' before an argument that begins with a dash",
                        printable, command->name);
    }
    free(printable);
    return -ERROR_INVALID;
}

static void take_global(struct cli *cli, const struct cli_option *option, const char *value)
{
    const struct {
        const char *name;
        bool *flag;
        const char **value;
    } places[] = {
        { "config-dir", NULL, &cli->config_dir }, { "mesh", NULL, &cli->mesh },         { "json", &cli->json, NULL },
        { "quiet", &cli->quiet, NULL },           { "no-color", &cli->no_color, NULL }, { "help", &cli->help, NULL },
        { "version", &cli->version, NULL },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(places); i++) {
        if (string_equal(places[i].name, option->name)) {
            if (places[i].flag != NULL) {
                *places[i].flag = true;
            } else {
                *places[i].value = value;
            }
        }
    }
}

/* `text` begins with a dash. *position is argv's index of it, moved on when the value stands apart. */
static int take_option(struct parse *parse, int argc, char *const *argv, int *position, struct error *error)
{
    struct cli *cli = parse->cli;
    const char *text = argv[*position];
    bool is_long = text[1] == '-';
    const char *name = is_long ? text + 2 : text + 1;
    size_t length = is_long ? strcspn(name, "=") : 1;
    const char *value = name[length] == '\0' ? NULL : name + length + (is_long ? 1 : 0);
    char letter = is_long ? 0 : name[0];
    const struct cli_option *own = cli->command == NULL ? NULL : option_find(cli->command->options, name, length, letter);
    const struct cli_option *option = own != NULL ? own : option_find(CLI_GLOBAL_OPTIONS, name, length, letter);

    if (option == NULL) {
        return refuse_option(parse, text, error);
    }
    if (option->kind == OPTION_FLAG && value != NULL) {
        return error_set(error, ERROR_INVALID, "--%s takes no value", option->name);
    }
    if ((option->kind == OPTION_VALUE || option->kind == OPTION_REPEATED) && value == NULL) {
        if (*position + 1 >= argc) {
            return error_set(error, ERROR_INVALID, "--%s needs a value: --%s %s", option->name, option->name, option->argument);
        }
        value = argv[++*position];
    }
    if (own != NULL) {
        cli->given[cli->given_count++] = (struct cli_given){ own, value };
    } else {
        take_global(cli, option, value);
    }
    return 0;
}

static int check_argument_count(const struct cli *cli, struct error *error)
{
    const struct cli_command *command = cli->command;
    if (cli->help || cli->version || command == NULL) {
        return 0;
    }
    if (cli->argument_count < command->minimum) {
        return error_set(error, ERROR_INVALID, "something is missing: claudemesh %s %s", command->name, command->arguments);
    }
    if (cli->argument_count > command->maximum) {
        char *extra = text_printable(cli->arguments[command->maximum], strnlen(cli->arguments[command->maximum], 40));
        (void)error_set(error, ERROR_INVALID, "'%s' is one argument too many: claudemesh %s%s%s%s", extra, command->name,
                        command->arguments[0] == '\0' ? "" : " ", command->arguments,
                        command->maximum > 1 ? " (quote a message that has spaces)" : "");
        free(extra);
        return -ERROR_INVALID;
    }
    return 0;
}

int cli_parse(int argc, char *const *argv, struct cli *ret_cli, struct error *error)
{
    struct parse parse = { .cli = ret_cli, .matching = true };
    int status = 0;

    *ret_cli = (struct cli){ 0 };
    ret_cli->arguments = memory_calloc((size_t)argc + 1, sizeof *ret_cli->arguments);
    ret_cli->given = memory_calloc((size_t)argc + 1, sizeof *ret_cli->given);
    for (int i = 1; i < argc && status == 0; i++) {
        if (!parse.ended && string_equal(argv[i], "--")) {
            parse.ended = true;
            parse.matching = parse.matching && ret_cli->command == NULL;
        } else if (!parse.ended && argv[i][0] == '-' && argv[i][1] != '\0') {
            status = take_option(&parse, argc, argv, &i, error);
        } else {
            status = take_word(&parse, argv[i], error);
        }
    }
    if (status == 0) {
        status = check_argument_count(ret_cli, error);
    }
    if (ret_cli->command == NULL) {
        memcpy(ret_cli->family, parse.name, sizeof ret_cli->family);
    }
    return status;
}

void cli_release(struct cli *cli)
{
    if (cli == NULL) {
        return;
    }
    free(cli->arguments);
    free(cli->given);
    config_paths_release(&cli->paths);
    *cli = (struct cli){ 0 };
}

static const struct cli_option *own_option(const struct cli *cli, const char *name)
{
    const struct cli_option *option = option_find(cli->command->options, name, strlen(name), 0);
    if (option == NULL) {
        fprintf(stderr, "claudemesh: bug: %s has no option %s in its table\n", cli->command->name, name);
        abort();
    }
    return option;
}

bool cli_has(const struct cli *cli, const char *option)
{
    const struct cli_option *row = own_option(cli, option);
    for (size_t i = 0; i < cli->given_count; i++) {
        if (cli->given[i].option == row) {
            return true;
        }
    }
    return false;
}

const char *cli_value(const struct cli *cli, const char *option)
{
    const struct cli_option *row = own_option(cli, option);
    const char *value = NULL;
    for (size_t i = 0; i < cli->given_count; i++) {
        if (cli->given[i].option == row) {
            value = cli->given[i].value;
        }
    }
    return value;
}

const char *cli_value_at(const struct cli *cli, const char *option, size_t index)
{
    const struct cli_option *row = own_option(cli, option);
    for (size_t i = 0; i < cli->given_count; i++) {
        if (cli->given[i].option == row && index-- == 0) {
            return cli->given[i].value;
        }
    }
    return NULL;
}

int cli_integer(const struct cli *cli, const char *option, int64_t minimum, int64_t maximum, int64_t otherwise, int64_t *ret_value,
                struct error *error)
{
    const char *text = cli_value(cli, option);
    int64_t value;
    if (text == NULL) {
        *ret_value = otherwise;
        return 0;
    }
    if (parse_int64(text, &value) != 0 || value < minimum || value > maximum) {
        return error_set(error, ERROR_INVALID, "--%s takes a whole number from %" PRId64 " to %" PRId64, option, minimum, maximum);
    }
    *ret_value = value;
    return 0;
}
