/* `claudemesh config path` and `config show`. */
#include "cli/api.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static int run_path(struct cli *cli)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "directory", cli->paths.root);
        json_put_string(document, "config_json", cli->paths.config_json);
        json_put_string(document, "config_toml", cli->paths.config_toml);
        cli_print_json(document);
        json_decref(document);
    } else {
        puts(cli->paths.root);
    }
    return EXIT_DONE;
}

static void note_variable(void *argument, const char *variable, const char *nearest)
{
    cli_note(argument, "nothing reads the environment variable %s; did you mean %s?", variable, nearest);
}

/* What a running daemon goes by, where that is not what would be read now: its flags, its environment, and what changed since it started. */
static json_t *settings_of_daemon(const struct cli *cli)
{
    struct api api;
    struct error error;
    json_t *answer = NULL, *settings = NULL;
    int http_status = 0;
    if (api_open(cli, API_SEND_BUDGET_MS, &api, &error) != 0) {
        return NULL;
    }
    if (api_request(&api, "GET", "/v1/daemon/settings", NULL, API_BUDGET_MS, &http_status, &answer, &error) == 0 && http_status == 200) {
        settings = json_incref(json_object_get(answer, "settings"));
    }
    json_decref(answer);
    api_close(&api);
    return settings;
}

static const json_t *entry_of(const json_t *list, const char *name)
{
    size_t index;
    const json_t *entry;
    json_array_foreach(list, index, entry)
    {
        if (string_equal(answer_text(entry, "name"), name)) {
            return entry;
        }
    }
    return NULL;
}

/* By their text: numbers that were read are of another kind than those that were made. */
static bool values_equal(const json_t *a, const json_t *b)
{
    size_t a_length, b_length;
    char *a_text = json_to_string(a, &a_length), *b_text = json_to_string(b, &b_length);
    bool equal = string_equal(a_text, b_text);
    free(a_text);
    free(b_text);
    return equal;
}

/* Adds `running` and `running_from` to what differs. */
static bool compare(json_t *list, const json_t *running)
{
    bool differs = false;
    size_t index;
    json_t *entry;
    json_array_foreach(list, index, entry)
    {
        const json_t *other = entry_of(running, answer_text(entry, "name"));
        if (other != NULL && !values_equal(json_object_get(other, "value"), json_object_get(entry, "value"))) {
            json_put(entry, "running", json_deep_copy(json_object_get(other, "value")));
            json_put_string(entry, "running_from", answer_text(other, "from"));
            differs = true;
        }
    }
    return differs;
}

static void cell_value(struct table *table, const json_t *value)
{
    size_t length;
    char *text = value == NULL ? memory_strdup("") : json_to_string(value, &length);
    table_cell(table, STYLE_PLAIN, text);
    free(text);
}

static void print_settings(const struct cli *cli, const json_t *list, bool differs)
{
    static const char *const TITLES[] = { "SETTING", "VALUE", "FROM", "RUNNING", "FROM" };
    struct table *table = table_new(cli, differs ? 5 : 3, TITLES);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        bool is_default = string_equal(answer_text(entry, "from"), setting_origin_name(ORIGIN_DEFAULT));
        table_cell(table, STYLE_PLAIN, answer_text(entry, "name"));
        cell_value(table, json_object_get(entry, "value"));
        table_cell(table, is_default ? STYLE_DIM : STYLE_GREEN, answer_text(entry, "from"));
        if (differs) {
            cell_value(table, json_object_get(entry, "running"));
            table_cell(table, STYLE_YELLOW, answer_text(entry, "running_from"));
        }
    }
    table_print_free(table);
    if (differs) {
        cli_note(cli, "the running daemon goes by other values where RUNNING is filled; 'claudemesh daemon reload' or 'daemon restart' "
                      "changes that, but for its flags");
    }
}

static int run_show(struct cli *cli)
{
    struct settings *settings = NULL;
    int status = meshes_settings(cli, &settings);
    if (status != EXIT_DONE) {
        return status;
    }
    settings_check_environment(note_variable, cli);
    json_t *list = settings_to_json(settings), *running = settings_of_daemon(cli);
    bool differs = running != NULL && compare(list, running);
    if (cli->json) {
        json_t *document = json_new_object();
        json_put(document, "settings", json_incref(list));
        cli_print_json(document);
        json_decref(document);
    } else {
        print_settings(cli, list, differs);
    }
    json_decref(running);
    json_decref(list);
    settings_free(settings);
    return EXIT_DONE;
}

const struct cli_command COMMAND_CONFIG_PATH = {
    .name = "config path",
    .group = GROUP_SETTINGS,
    .arguments = "",
    .summary = "The configuration directory in use",
    .example = "claudemesh config path",
    .run = run_path,
};

const struct cli_command COMMAND_CONFIG_SHOW = {
    .name = "config show",
    .group = GROUP_SETTINGS,
    .arguments = "",
    .summary = "Each setting, its value, and where it comes from",
    .example = "claudemesh config show",
    .run = run_show,
};
