/* The command line, sorted by the tables: nothing is lost, nothing is run, and what was sorted, put together again behind `--`, is sorted the same. */
#include "cli/command.h"
#include "fuzz.h"
#include "util/text.h"

enum { WORDS_MAXIMUM = 24 };

static bool is_of(char *const *words, int count, const char *text)
{
    for (int i = 0; i < count; i++) {
        if (text >= words[i] && text <= words[i] + strlen(words[i]))
            return true;
    }
    return false;
}

static void check_parts(const struct cli *cli, char *const *words, int count)
{
    REQUIRE(cli->argument_count + cli->given_count <= (size_t)count);
    for (size_t i = 0; i < cli->argument_count; i++)
        REQUIRE(is_of(words, count, cli->arguments[i]));
    for (size_t i = 0; i < cli->given_count; i++) {
        const struct cli_option *option = cli->given[i].option;
        REQUIRE(cli->command != NULL && option >= cli->command->options);
        REQUIRE(cli->given[i].value == NULL || is_of(words, count, cli->given[i].value));
        REQUIRE((option->kind == OPTION_FLAG) <= (cli->given[i].value == NULL));
        REQUIRE(cli_has(cli, option->name) && (option->kind != OPTION_VALUE || cli_value(cli, option->name) != NULL));
        (void)cli_value_at(cli, option->name, i);
        struct error error;
        int64_t number = -3;
        if (cli_integer(cli, option->name, 0, 10, 5, &number, &error) == 0)
            REQUIRE(number >= 0 && number <= 10);
        else
            REQUIRE(number == -3);
    }
}

static char *option_word(const struct cli_given *given)
{
    return given->value == NULL ? memory_printf("--%s", given->option->name) : memory_printf("--%s=%s", given->option->name, given->value);
}

/* claudemesh <name> --options… -- arguments… */
static void check_again(const struct cli *cli)
{
    char *words[3 * WORDS_MAXIMUM + 8], name[64];
    int count = 0;
    words[count++] = memory_strdup("claudemesh");
    REQUIRE(string_copy(name, sizeof(name), cli->command->name) == 0);
    for (char *at = name, *next; at != NULL; at = next) {
        next = strchr(at, ' ');
        if (next != NULL)
            *next++ = '\0';
        words[count++] = memory_strdup(at);
    }
    for (size_t i = 0; i < cli->given_count; i++)
        words[count++] = option_word(&cli->given[i]);
    words[count++] = memory_strdup("--");
    for (size_t i = 0; i < cli->argument_count; i++)
        words[count++] = memory_strdup(cli->arguments[i]);
    struct cli again;
    struct error error;
    const int result = cli_parse(count, words, &again, &error);
    REQUIRE((result == 0 || cli->help || cli->version) && again.command == cli->command);
    REQUIRE(again.argument_count == cli->argument_count && again.given_count == cli->given_count);
    for (size_t i = 0; i < cli->argument_count; i++)
        REQUIRE(string_equal(again.arguments[i], cli->arguments[i]));
    for (size_t i = 0; i < cli->given_count; i++)
        REQUIRE(again.given[i].option == cli->given[i].option && string_equal(again.given[i].value, cli->given[i].value));
    cli_release(&again);
    for (int i = 0; i < count; i++)
        free(words[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    char *words[WORDS_MAXIMUM];
    int count = 1;
    struct cli cli;
    struct error error = { .code = ERROR_NONE };

    words[0] = memory_strdup("claudemesh");
    while (input.left > 0 && count < WORDS_MAXIMUM)
        words[count++] = fuzz_take_string(&input, '\n');
    const int result = cli_parse(count, words, &cli, &error);
    check_parts(&cli, words, count);
    if (result != 0)
        REQUIRE(error.code == ERROR_INVALID && error.message[0] != '\0' && strchr(error.message, '\n') == NULL);
    else if (cli.command != NULL)
        check_again(&cli);
    cli_release(&cli);
    for (int i = 0; i < count; i++)
        free(words[i]);
    return 0;
}
