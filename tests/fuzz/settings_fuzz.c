/* config.toml as settings: a file that is accepted says nothing that the table does not know, every value is of its type and within its bounds, and what a flag or the environment gives obeys the same. */
#include "config/config.h"
#include "config/toml.h"
#include "memory_file.h"
#include "util/text.h"

struct table {
    const struct setting_definition *definitions;
    size_t count;
    const char *prefix;
};

static bool is_within(const struct setting_definition *definition, int64_t value)
{
    return value >= definition->minimum && value <= definition->maximum;
}

static void check_row(const struct settings *settings, const struct setting_definition *definition)
{
    char *name = memory_printf("%s.%s", definition->section, definition->key);
    size_t count = 0;

    REQUIRE(settings_text(settings, name) != NULL);
    switch (definition->type) {
    case SETTING_INTEGER:
    case SETTING_SIZE:
        REQUIRE(is_within(definition, settings_integer(settings, name)));
        break;
    case SETTING_BOOL:
        REQUIRE(string_equal(settings_text(settings, name), settings_bool(settings, name) ? "true" : "false"));
        break;
    case SETTING_LIST:
        (void)settings_list(settings, name, &count);
        break;
    case SETTING_CHOICE:
        REQUIRE(strstr(definition->choices, settings_text(settings, name)) != NULL);
        break;
    case SETTING_TEXT:
        break;
    }
    free(name);
}

/* The row that an entry of the file stands for: its section and key are exactly these. */
static const struct setting_definition *row_of(const struct table *table, const struct toml_table *section, const char *key)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct setting_definition *row = &table->definitions[i];
        const size_t length = strcspn(row->section, ".");
        const bool named = row->section[length] == '.';
        if (strlen(section->name) == length && strncmp(row->section, section->name, length) == 0 && named == (section->subname != NULL) &&
            string_equal(row->key, key))
            return row;
    }
    return NULL;
}

static void check_entries(const struct settings *settings, const struct table *table, const char *bytes, size_t size)
{
    struct toml_document document;
    struct error error;

    REQUIRE(toml_parse("file", bytes, size, &document, &error) == 0);
    for (size_t i = 0; i < document.entry_count; i++) {
        const struct toml_entry *entry = &document.entries[i];
        const struct setting_definition *row = row_of(table, &document.tables[entry->table], entry->key);
        REQUIRE(row != NULL);
        char *name = memory_printf("%s.%s", row->section, row->key);
        const bool named = document.tables[entry->table].subname != NULL;
        REQUIRE(settings_origin(settings, name) == (named ? ORIGIN_DEFAULT : ORIGIN_FILE));
        if (entry->value.kind == TOML_INTEGER && row->type == SETTING_INTEGER)
            REQUIRE(named || settings_integer(settings, name) == entry->value.integer);
        if (entry->value.kind == TOML_STRING && !named && row->type != SETTING_SIZE)
            REQUIRE(string_equal(settings_text(settings, name), entry->value.text));
        if (named && row->type == SETTING_BOOL)
            REQUIRE(settings_mesh_bool(settings, document.tables[entry->table].subname, entry->key, !entry->value.boolean) ==
                    entry->value.boolean);
        free(name);
    }
    toml_document_release(&document);
}

static void check_flag(struct settings *settings, const struct setting_definition *definition, const char *value)
{
    char *name = memory_printf("%s.%s", definition->section, definition->key);
    char *before = memory_strdup(settings_text(settings, name));
    const enum setting_origin origin = settings_origin(settings, name);
    struct error error = { .code = ERROR_NONE };

    if (settings_override(settings, name, value, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID && string_equal(settings_text(settings, name), before));
        REQUIRE(settings_origin(settings, name) == origin);
    } else {
        REQUIRE(settings_origin(settings, name) == ORIGIN_FLAG);
    }
    check_row(settings, definition);
    free(before);
    free(name);
}

/* Some neighbouring rows of the daemon's table or the broker's: making the defaults of all of them would take most of the time. */
static struct table choose_slice(struct fuzz_input *input)
{
    enum { ROWS = 10 };
    const struct table tables[] = { { SETTINGS, SETTING_COUNT, "FUZZ_NONE_" },
                                    { BROKER_SETTINGS, BROKER_SETTING_COUNT, "FUZZ_NONE_BROKER_" } };
    struct table table = tables[fuzz_take_byte(input) & 1];
    const size_t first = fuzz_take_byte(input) % table.count;

    table.definitions += first;
    table.count = table.count - first < ROWS ? table.count - first : ROWS;
    return table;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    const struct table slice = choose_slice(&input), *table = &slice;
    const struct setting_definition *flag = &table->definitions[fuzz_take_byte(&input) % table->count];
    char *value = fuzz_take_string(&input, '\0');
    struct settings *settings = NULL;
    struct error error = { .code = ERROR_NONE };
    const char *path = memory_file_write(input.at, input.left);

    if (settings_load(table->definitions, table->count, table->prefix, path, &settings, &error) == 0) {
        for (size_t i = 0; i < table->count; i++)
            check_row(settings, &table->definitions[i]);
        check_entries(settings, table, (const char *)input.at, input.left);
        check_flag(settings, flag, value);
    } else {
        REQUIRE(settings == NULL && error.code == ERROR_INVALID && string_has_prefix(error.message, path));
    }
    settings_free(settings);
    free(value);
    return 0;
}
