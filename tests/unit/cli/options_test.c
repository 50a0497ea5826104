/* The parsing of command lines by the tables, and the tables themselves. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/command.h"
#include "util/attributes.h"
#include "util/memory.h"
#include "util/text.h"

enum { WORDS_MAXIMUM = 32 };

/* Splits at spaces; double quotes hold a word together; stops at a redirection. */
static int split(char *line, char *words[WORDS_MAXIMUM])
{
    int count = 0;
    for (char *at = line; *at != '\0';) {
        while (*at == ' ') {
            at++;
        }
        if (*at == '<' || *at == '\0') {
            break;
        }
        char end = *at == '"' ? '"' : ' ';
        at += end == '"' ? 1 : 0;
        assert_true(count < WORDS_MAXIMUM);
        words[count++] = at;
        while (*at != '\0' && *at != end) {
            at++;
        }
        if (*at != '\0') {
            *at++ = '\0';
        }
    }
    return count;
}

/* The words point into *ret_line, to be freed after the cli. */
static int parse(const char *line, struct cli *ret_cli, char **ret_line, struct error *error)
{
    char *words[WORDS_MAXIMUM];
    *ret_line = memory_strdup(line);
    *error = (struct error){ 0 };
    int count = split(*ret_line, words);
    return cli_parse(count, words, ret_cli, error);
}

#define PARSED(text)    \
    struct cli cli;     \
    struct error error; \
    char *line;         \
    int status = parse((text), &cli, &line, &error)
#define DONE           \
    cli_release(&cli); \
    free(line)

static void a_command_gets_its_arguments_in_order(void **state)
{
    (void)state;
    PARSED("claudemesh send bob \"two words\"");
    assert_int_equal(status, 0);
    assert_string_equal(cli.command->name, "send");
    assert_int_equal(cli.argument_count, 2);
    assert_string_equal(cli.arguments[0], "bob");
    assert_string_equal(cli.arguments[1], "two words");
    DONE;
}

static void global_flags_stand_anywhere(void **state)
{
    (void)state;
    PARSED("claudemesh --mesh acme send --json bob --config-dir=/c hi --quiet --no-color");
    assert_int_equal(status, 0);
    assert_string_equal(cli.mesh, "acme");
    assert_string_equal(cli.config_dir, "/c");
    assert_true(cli.json && cli.quiet && cli.no_color);
    assert_int_equal(cli.argument_count, 2);
    DONE;
}

static void a_value_stands_apart_or_after_an_equals_sign(void **state)
{
    (void)state;
    PARSED("claudemesh inbox --limit 5 --since=2h --limit=7");
    assert_int_equal(status, 0);
    assert_string_equal(cli_value(&cli, "limit"), "7");
    assert_string_equal(cli_value(&cli, "since"), "2h");
    assert_null(cli_value(&cli, "from"));
    DONE;
}

static void an_optional_value_only_counts_after_an_equals_sign(void **state)
{
    (void)state;
    {
        PARSED("claudemesh send bob --wait hi");
        assert_int_equal(status, 0);
        assert_true(cli_has(&cli, "wait"));
        assert_null(cli_value(&cli, "wait"));
        assert_int_equal(cli.argument_count, 2);
        DONE;
    }
    {
        PARSED("claudemesh send bob hi --wait=9");
        assert_int_equal(status, 0);
        assert_string_equal(cli_value(&cli, "wait"), "9");
        DONE;
    }
}

static void a_repeated_option_keeps_every_value_in_order(void **state)
{
    (void)state;
    PARSED("claudemesh send --meta a=1 bob --meta=b=2 hi");
    assert_int_equal(status, 0);
    assert_string_equal(cli_value_at(&cli, "meta", 0), "a=1");
    assert_string_equal(cli_value_at(&cli, "meta", 1), "b=2");
    assert_null(cli_value_at(&cli, "meta", 2));
    DONE;
}

static void after_two_dashes_everything_is_an_argument(void **state)
{
    (void)state;
    PARSED("claudemesh send bob -- --json");
    assert_int_equal(status, 0);
    assert_false(cli.json);
    assert_string_equal(cli.arguments[1], "--json");
    DONE;
}

static void a_single_dash_is_an_argument(void **state)
{
    (void)state;
    PARSED("claudemesh send bob -");
    assert_int_equal(status, 0);
    assert_string_equal(cli.arguments[1], "-");
    DONE;
}

static void names_of_several_words_and_aliases_are_found(void **state)
{
    (void)state;
    {
        PARSED("claudemesh daemon outbox list --failed");
        assert_int_equal(status, 0);
        assert_string_equal(cli.command->name, "daemon outbox list");
        DONE;
    }
    {
        PARSED("claudemesh peers");
        assert_int_equal(status, 0);
        assert_string_equal(cli.command->name, "peer list");
        DONE;
    }
    {
        PARSED("claudemesh daemon logs -f");
        assert_int_equal(status, 0);
        assert_true(cli_has(&cli, "follow"));
        DONE;
    }
}

static void words_that_only_begin_commands_are_a_family(void **state)
{
    (void)state;
    PARSED("claudemesh daemon outbox --help");
    assert_int_equal(status, 0);
    assert_null(cli.command);
    assert_true(cli.help);
    assert_string_equal(cli.family, "daemon outbox");
    DONE;
}

static void nothing_at_all_is_no_mistake(void **state)
{
    (void)state;
    PARSED("claudemesh");
    assert_int_equal(status, 0);
    assert_null(cli.command);
    assert_string_equal(cli.family, "");
    DONE;
}

static void help_asks_for_no_arguments(void **state)
{
    (void)state;
    PARSED("claudemesh send --help");
    assert_int_equal(status, 0);
    assert_true(cli.help);
    assert_string_equal(cli.command->name, "send");
    DONE;
}

static void each_mistake_says_what_to_do(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } MISTAKES[] = {
        { "claudemesh sned bob hi", "did you mean 'send'" },
        { "claudemesh daemon outbox lsit", "did you mean 'daemon outbox list'" },
        { "claudemesh topic list", "there is no command 'topic'" },
        { "claudemesh send bob hi --prioriy now", "did you mean '--priority'" },
        { "claudemesh send bob hi --jsno", "did you mean '--json'" },
        { "claudemesh send bob hi --completely-else", "there is no option '--completely-else'" },
        { "claudemesh send bob hi -x", "there is no option '-x'" },
        { "claudemesh --priority now send bob hi", "a command's options come after its name" },
        { "claudemesh send bob", "something is missing" },
        { "claudemesh send bob two words", "one argument too many" },
        { "claudemesh send bob hi --priority", "--priority needs a value" },
        { "claudemesh send bob hi --self=yes", "--self takes no value" },
        { "claudemesh inbox --mesh", "--mesh needs a value" },
        { "claudemesh inbox foo", "one argument too many" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(MISTAKES); i++) {
        PARSED(MISTAKES[i].line);
        assert_int_not_equal(status, 0);
        assert_int_equal(error.code, ERROR_INVALID);
        if (strstr(error.message, MISTAKES[i].says) == NULL) {
            fail_msg("%s: %s", MISTAKES[i].line, error.message);
        }
        assert_null(strchr(error.message, '\n'));
        DONE;
    }
}

static void a_mistake_never_repeats_an_options_value_or_control_characters(void **state)
{
    (void)state;
    {
        PARSED("claudemesh join --tokn=hunter2 x");
        assert_int_not_equal(status, 0);
        assert_null(strstr(error.message, "hunter2"));
        DONE;
    }
    {
        PARSED("claudemesh \033[2J");
        assert_int_not_equal(status, 0);
        assert_null(strchr(error.message, '\033'));
        DONE;
    }
}

static void integers_are_whole_and_within_bounds(void **state)
{
    (void)state;
    static const char *const WRONG[] = { "0", "61", "-1", "5s", "", "1e1", "0x10", "99999999999999999999" };
    for (size_t i = 0; i < ARRAY_LENGTH(WRONG); i++) {
        char text[128];
        int64_t value = 77;
        (void)snprintf(text, sizeof text, "claudemesh send bob hi --wait=%s", WRONG[i]);
        PARSED(text);
        assert_int_equal(status, 0);
        assert_int_equal(cli_integer(&cli, "wait", 1, 60, 15, &value, &error), -ERROR_INVALID);
        assert_int_equal(value, 77);
        DONE;
    }
    {
        int64_t value = 0;
        PARSED("claudemesh send bob hi");
        assert_int_equal(status, 0);
        assert_int_equal(cli_integer(&cli, "wait", 1, 60, 15, &value, &error), 0);
        assert_int_equal(value, 15);
        DONE;
    }
}

static void every_row_is_whole_and_its_example_parses_to_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < CLI_COMMAND_COUNT; i++) {
        const struct cli_command *row = CLI_COMMANDS[i];
        assert_non_null(row->run);
        assert_true(row->summary[0] != '\0');
        assert_true(row->minimum <= row->maximum);
        assert_true((row->maximum == 0) == (row->arguments[0] == '\0'));
        for (const struct cli_option *option = row->options; option != NULL && option->name != NULL; option++) {
            assert_non_null(option->help);
            assert_true((option->kind == OPTION_FLAG) == (option->argument == NULL));
            for (const struct cli_option *global = CLI_GLOBAL_OPTIONS; global->name != NULL; global++) {
                assert_string_not_equal(option->name, global->name);
            }
        }
        PARSED(row->example);
        if (status != 0) {
            fail_msg("%s: %s", row->example, error.message);
        }
        assert_ptr_equal(cli.command, row);
        DONE;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_gets_its_arguments_in_order),
        cmocka_unit_test(global_flags_stand_anywhere),
        cmocka_unit_test(a_value_stands_apart_or_after_an_equals_sign),
        cmocka_unit_test(an_optional_value_only_counts_after_an_equals_sign),
        cmocka_unit_test(a_repeated_option_keeps_every_value_in_order),
        cmocka_unit_test(after_two_dashes_everything_is_an_argument),
        cmocka_unit_test(a_single_dash_is_an_argument),
        cmocka_unit_test(names_of_several_words_and_aliases_are_found),
        cmocka_unit_test(words_that_only_begin_commands_are_a_family),
        cmocka_unit_test(nothing_at_all_is_no_mistake),
        cmocka_unit_test(help_asks_for_no_arguments),
        cmocka_unit_test(each_mistake_says_what_to_do),
        cmocka_unit_test(a_mistake_never_repeats_an_options_value_or_control_characters),
        cmocka_unit_test(integers_are_whole_and_within_bounds),
        cmocka_unit_test(every_row_is_whole_and_its_example_parses_to_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
