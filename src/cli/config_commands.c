/* `claudemesh config path` and `config show`. */
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

static const char *const ORIGINS[] = {
    [ORIGIN_DEFAULT] = "default",
    [ORIGIN_FILE] = "config.toml",
    [ORIGIN_ENVIRONMENT] = "environment",
    [ORIGIN_FLAG] = "flag",
};

static json_t *value_of(const struct settings *settings, const struct setting_definition *definition, const char *name)
{
    size_t count = 0;
    const char *const *items = NULL;
    json_t *list;
    switch (definition->type) {
    case SETTING_INTEGER:
    case SETTING_SIZE:
        return json_integer(settings_integer(settings, name));
    case SETTING_BOOL:
        return json_boolean(settings_bool(settings, name));
    case SETTING_LIST:
        list = json_new_array();
        items = settings_list(settings, name, &count);
        for (size_t i = 0; i < count; i++) {
            (void)json_array_append_new(list, json_string(items[i]));
        }
        return list;
    case SETTING_TEXT:
    case SETTING_CHOICE:
        break;
    }
    return json_string(settings_text(settings, name));
}

static json_t *settings_to_json(const struct settings *settings)
{
    json_t *list = json_new_array();
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        char name[128];
        json_t *entry = json_new_object();
        (void)snprintf(name, sizeof name, "%s.%s", SETTINGS[i].section, SETTINGS[i].key);
        json_put_string(entry, "name", name);
        json_put(entry, "value", value_of(settings, &SETTINGS[i], name));
        json_put_string(entry, "from", ORIGINS[settings_origin(settings, name)]);
        (void)json_array_append_new(list, entry);
    }
    return list;
}

static void note_variable(void *argument, const char *variable, const char *nearest)
{
    cli_note(argument, "nothing reads the environment variable %s; did you mean %s?", variable, nearest);
}

static int run_show(struct cli *cli)
{
    static const char *const TITLES[] = { "SETTING", "VALUE", "FROM" };
    struct settings *settings = NULL;
    int status = meshes_settings(cli, &settings);
    if (status != EXIT_DONE) {
        return status;
    }
    settings_check_environment(note_variable, cli);
    json_t *list = settings_to_json(settings);
    if (cli->json) {
        json_t *document = json_new_object();
        json_put(document, "settings", json_incref(list));
        cli_print_json(document);
        json_decref(document);
    } else {
        struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *entry = json_array_get(list, i);
            size_t length;
            char *value = json_to_string(json_object_get(entry, "value"), &length);
            bool is_default = string_equal(answer_text(entry, "from"), ORIGINS[ORIGIN_DEFAULT]);
            table_cell(table, STYLE_PLAIN, answer_text(entry, "name"));
            table_cell(table, STYLE_PLAIN, value);
            table_cell(table, is_default ? STYLE_DIM : STYLE_GREEN, answer_text(entry, "from"));
            free(value);
        }
        table_print_free(table);
    }
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
