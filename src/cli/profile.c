/* `claudemesh profile [show|set]`: how others see this member. */
#include "cli/api.h"
#include "cli/output.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static const struct cli_option OPTIONS[] = {
    { "summary", 0, OPTION_VALUE, "TEXT", "what this member is doing" },
    { "status", 0, OPTION_VALUE, "idle|working|dnd", "dnd: only messages of priority now" },
    { "visible", 0, OPTION_VALUE, "true|false", "whether lists and broadcasts include this member" },
    { "avatar", 0, OPTION_VALUE, "TEXT", "a picture's URL, or an emoji" },
    { "title", 0, OPTION_VALUE, "TEXT", "a role in a few words" },
    { "bio", 0, OPTION_VALUE, "TEXT", "a sentence or two" },
    { "capability", 0, OPTION_REPEATED, "WORD", "something this member can do" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static const char *const TEXT_FIELDS[] = { "summary", "status", "avatar", "title", "bio" };

static int build_body(struct cli *cli, json_t **ret_body, struct error *error)
{
    json_t *body = json_new_object();
    const char *visible = cli_value(cli, "visible");
    const char *capability;
    json_t *capabilities = NULL;

    for (size_t i = 0; i < ARRAY_LENGTH(TEXT_FIELDS); i++) {
        const char *value = cli_value(cli, TEXT_FIELDS[i]);
        if (value != NULL && !utf8_is_valid(value, strlen(value))) {
            json_decref(body);
            return error_set(error, ERROR_INVALID, "--%s is not valid UTF-8 text", TEXT_FIELDS[i]);
        }
        if (value != NULL) {
            json_put_string(body, TEXT_FIELDS[i], value);
        }
    }
    if (visible != NULL && !string_equal(visible, "true") && !string_equal(visible, "false")) {
        json_decref(body);
        return error_set(error, ERROR_INVALID, "--visible is true or false");
    }
    if (visible != NULL) {
        json_put_bool(body, "visible", string_equal(visible, "true"));
    }
    for (size_t i = 0; (capability = cli_value_at(cli, "capability", i)) != NULL; i++) {
        capabilities = capabilities == NULL ? json_new_array() : capabilities;
        json_t *word = json_string(capability);
        if (word == NULL) {
            json_decref(capabilities);
            json_decref(body);
            return error_set(error, ERROR_INVALID, "--capability is not valid UTF-8 text");
        }
        (void)json_array_append_new(capabilities, word);
    }
    if (capabilities != NULL) {
        json_put(body, "capabilities", capabilities);
    }
    *ret_body = body;
    return 0;
}

static int set(struct cli *cli)
{
    struct error error = { 0 };
    json_t *body = NULL, *answer = NULL;
    if (cli->given_count == 0) {
        return cli_fail_usage(cli, "nothing to set; for example: claudemesh profile set --status working");
    }
    if (build_body(cli, &body, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    int status = api_call(cli, "POST", "/v1/profile", body, &answer);
    json_decref(body);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    }
    cli_say(cli, answer_bool(answer, "deferred") ? "kept; the broker is told when it is connected" : "set");
    json_decref(answer);
    return EXIT_DONE;
}

static void print_profile(const struct cli *cli, json_t *profile)
{
    static const char *const TITLES[] = { "FIELD", "VALUE" };
    struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
    const char *name;
    json_t *value;
    json_object_foreach(profile, name, value)
    {
        size_t length;
        char *text = json_is_string(value) ? memory_strdup(json_string_value(value)) : json_to_string(value, &length);
        table_cell(table, STYLE_PLAIN, name);
        table_cell(table, STYLE_PLAIN, json_is_null(value) ? "-" : text);
        free(text);
    }
    table_print_free(table);
}

static int run(struct cli *cli)
{
    const char *verb = cli->argument_count == 0 ? "show" : cli->arguments[0];
    json_t *answer = NULL;
    if (string_equal(verb, "set")) {
        return set(cli);
    }
    if (!string_equal(verb, "show")) {
        return cli_fail_usage(cli, "it is 'claudemesh profile show' or 'claudemesh profile set'");
    }
    if (cli->given_count != 0) {
        return cli_fail_usage(cli, "to change the profile: claudemesh profile set --%s …", cli->given[0].option->name);
    }
    int status = api_call(cli, "GET", "/v1/profile", NULL, &answer);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        json_t *inner = json_object_get(answer, "profile");
        print_profile(cli, json_is_object(inner) ? inner : answer);
    }
    json_decref(answer);
    return EXIT_DONE;
}

const struct cli_command COMMAND_PROFILE = {
    .name = "profile",
    .group = GROUP_MESSAGES,
    .arguments = "[show|set]",
    .maximum = 1,
    .summary = "How others see this member",
    .example = "claudemesh profile set --status working --summary \"reviewing the parser\"",
    .options = OPTIONS,
    .run = run,
};
