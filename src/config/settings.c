/* Owns the values of settings and where each came from: defaults, file, environment, flags. The rows are in
 * settings_tables.c, the file's grammar in toml.c. */
#include "config/config.h"
#include "config/setting_names.h"
#include "config/settings_internal.h"
#include "config/toml.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- values ----------------------------------------------------------------------------------------------------- */

void setting_release_value(struct setting *setting)
{
    for (size_t index = 0; index < setting->item_count; index++) {
        free(setting->items[index]);
    }
    free(setting->items);
    free(setting->text);
    setting->items = NULL;
    setting->item_count = 0;
    setting->text = NULL;
    setting->integer = 0;
}

static bool is_choice(const char *choices, const char *word)
{
    size_t length = strlen(word);
    for (const char *choice = choices; *choice != '\0';) {
        size_t size = strcspn(choice, "|");
        if (size == length && memcmp(choice, word, size) == 0) {
            return true;
        }
        choice += size + (choice[size] == '|' ? 1 : 0);
    }
    return false;
}

static int check_range(const struct setting_definition *definition, int64_t value, struct error *error)
{
    if (value < definition->minimum || value > definition->maximum) {
        return error_set(error, ERROR_INVALID, "must be from %" PRId64 " to %" PRId64, definition->minimum, definition->maximum);
    }
    return 0;
}

static int assign_size(struct setting *setting, const struct toml_value *value, struct error *error)
{
    uint64_t size = 0;
    if (value->kind == TOML_INTEGER && value->integer >= 0) {
        size = (uint64_t)value->integer;
    } else if (value->kind != TOML_STRING || size_parse(value->text, &size) != 0) {
        return error_set(error, ERROR_INVALID, "must be a size as \"100MB\" (KB, MB, GB, TB) or a number of bytes");
    }
    int result = check_range(setting->definition, (int64_t)size, error);
    if (result == 0) {
        setting_release_value(setting);
        setting->integer = (int64_t)size;
        setting->text = memory_printf("%" PRIu64, size);
    }
    return result;
}

static int assign_integer(struct setting *setting, const struct toml_value *value, struct error *error)
{
    if (value->kind != TOML_INTEGER) {
        return error_set(error, ERROR_INVALID, "must be a whole number");
    }
    int result = check_range(setting->definition, value->integer, error);
    if (result == 0) {
        setting_release_value(setting);
        setting->integer = value->integer;
        setting->text = memory_printf("%" PRId64, value->integer);
    }
    return result;
}

static int assign_list(struct setting *setting, const struct toml_value *value, struct error *error)
{
    if (value->kind != TOML_LIST) {
        return error_set(error, ERROR_INVALID, "must be a list of strings");
    }
    setting_release_value(setting);
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    setting->items = memory_calloc(value->item_count, sizeof(*setting->items));
    for (size_t index = 0; index < value->item_count; index++) {
        setting->items[index] = memory_strdup(value->items[index]);
        (void)buffer_printf(&text, "%s%s", index == 0 ? "" : ",", value->items[index]);
    }
    setting->item_count = value->item_count;
    setting->text = buffer_take(&text, NULL);
    return 0;
}

/* The value is untouched on failure. */
static int setting_assign(struct setting *setting, const struct toml_value *value, struct error *error)
{
    const struct setting_definition *definition = setting->definition;
    switch (definition->type) {
    case SETTING_INTEGER:
        return assign_integer(setting, value, error);
    case SETTING_SIZE:
        return assign_size(setting, value, error);
    case SETTING_LIST:
        return assign_list(setting, value, error);
    case SETTING_BOOL:
        if (value->kind != TOML_BOOLEAN) {
            return error_set(error, ERROR_INVALID, "must be true or false");
        }
        setting_release_value(setting);
        setting->integer = value->boolean ? 1 : 0;
        setting->text = memory_strdup(value->boolean ? "true" : "false");
        return 0;
    case SETTING_CHOICE:
        if (value->kind != TOML_STRING || !is_choice(definition->choices, value->text)) {
            return error_set(error, ERROR_INVALID, "must be one of %s", definition->choices);
        }
        break;
    case SETTING_TEXT:
    default:
        if (value->kind != TOML_STRING) {
            return error_set(error, ERROR_INVALID, "must be a string");
        }
        break;
    }
    setting_release_value(setting);
    setting->text = memory_strdup(value->text);
    return 0;
}

static void split_list(const char *text, struct toml_value *ret_value)
{
    ret_value->kind = TOML_LIST;
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        size_t blanks = strspn(text, " ");
        size_t start = blanks < length ? blanks : length;
        size_t end = length;
        while (end > start && text[end - 1] == ' ') {
            end--;
        }
        if (end > start) {
            toml_list_append(ret_value, memory_strndup(text + start, end - start));
        }
        text += length + (text[length] == ',' ? 1 : 0);
    }
}

/* From the environment or a flag, where strings stand without quotes and lists with commas. */
static int setting_assign_text(struct setting *setting, const char *text, struct error *error)
{
    struct toml_value value = { .kind = TOML_STRING };
    switch (setting->definition->type) {
    case SETTING_INTEGER:
        value.kind = parse_int64(text, &value.integer) == 0 ? TOML_INTEGER : TOML_STRING;
        break;
    case SETTING_BOOL:
        value.boolean = strcmp(text, "true") == 0;
        value.kind = value.boolean || strcmp(text, "false") == 0 ? TOML_BOOLEAN : TOML_STRING;
        break;
    case SETTING_LIST:
        split_list(text, &value);
        break;
    case SETTING_TEXT:
    case SETTING_SIZE:
    case SETTING_CHOICE:
    default:
        break;
    }
    if (value.kind == TOML_STRING) {
        value.text = memory_strdup(text);
    }
    int result = setting_assign(setting, &value, error);
    toml_value_release(&value);
    return result;
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static const char *nearest_name(const struct settings *settings, const char *name)
{
    const char *nearest = settings->rows[0].name;
    size_t least = SIZE_MAX;
    for (size_t index = 0; index < settings->count; index++) {
        size_t distance = setting_name_distance(name, settings->rows[index].name);
        if (distance < least) {
            least = distance;
            nearest = settings->rows[index].name;
        }
    }
    return nearest;
}

static struct setting *find_row(const struct settings *settings, const char *name)
{
    for (size_t index = 0; index < settings->count; index++) {
        if (strcmp(settings->rows[index].name, name) == 0) {
            return &settings->rows[index];
        }
    }
    return NULL;
}

/* As in the file; with `subname` in place of the table's own when there is one. Rows of a [section.name] are called
 * section.*.key. */
static char *key_name(const struct toml_table *table, const char *subname, const char *key)
{
    if (table->name[0] == '\0') {
        return memory_strdup(key);
    }
    const char *dot = table->subname == NULL ? "" : ".";
    return memory_printf("%s%s%s.%s", table->name, dot, table->subname == NULL ? "" : subname, key);
}

static const char *nearest_section(const struct settings *settings, const char *name)
{
    const char *nearest = settings->rows[0].definition->section;
    size_t least = SIZE_MAX;
    for (size_t index = 0; index < settings->count; index++) {
        size_t distance = setting_name_distance(name, settings->rows[index].definition->section);
        if (distance < least) {
            least = distance;
            nearest = settings->rows[index].definition->section;
        }
    }
    return nearest;
}

/* ---- loading ---------------------------------------------------------------------------------------------------- */

static void load_defaults(const struct setting_definition *definitions, size_t count, struct settings *settings)
{
    settings->rows = memory_calloc(count, sizeof(*settings->rows));
    settings->count = count;
    for (size_t index = 0; index < count; index++) {
        struct setting *row = &settings->rows[index];
        struct toml_value value = { .kind = TOML_STRING };
        struct error error;
        row->definition = &definitions[index];
        row->name = memory_printf("%s.%s", definitions[index].section, definitions[index].key);
        row->origin = ORIGIN_DEFAULT;
        if (toml_parse_value(definitions[index].default_value, &value, &error) != 0 || setting_assign(row, &value, &error) != 0) {
            (void)fprintf(stderr, "claudemesh: the default of %s: %s\n", row->name, error.message);
            abort(); /* a row of our own table is wrong */
        }
        toml_value_release(&value);
    }
}

static struct setting *add_named(struct settings *settings, const struct setting *row, const char *subname)
{
    settings->named = memory_realloc(settings->named, (settings->named_count + 1) * sizeof(*settings->named));
    struct named_setting *named = &settings->named[settings->named_count++];
    *named = (struct named_setting){ .subname = memory_strdup(subname), .setting = { .definition = row->definition } };
    return &named->setting;
}

static int apply_entry(struct settings *settings, const char *path, const struct toml_document *document, const struct toml_entry *entry,
                       struct error *error)
{
    const struct toml_table *table = &document->tables[entry->table];
    char *name = key_name(table, table->subname, entry->key);
    char *row_name = key_name(table, "*", entry->key);
    /* Rows are found by their joined names: a dot inside quotes must not stand for a table. */
    bool has_dot = strchr(table->name, '.') != NULL || strchr(entry->key, '.') != NULL;
    struct setting *row = has_dot ? NULL : find_row(settings, row_name);
    int result = 0;
    if (row == NULL) {
        result = error_set(error, ERROR_INVALID, "%s:%d:%d: unknown key '%s'; the nearest known one is '%s'", path, entry->line,
                           entry->column, name, nearest_name(settings, row_name));
    } else {
        struct setting *target = table->subname == NULL ? row : add_named(settings, row, table->subname);
        result = setting_assign(target, &entry->value, error);
        if (result != 0) {
            (void)error_prefix(error, "%s:%d:%d: '%s'", path, entry->line, entry->column, name);
        }
        target->origin = ORIGIN_FILE;
    }
    free(row_name);
    free(name);
    return result;
}

/* A table without keys: with keys, the first of them was refused already. */
static int check_tables(const struct settings *settings, const char *path, const struct toml_document *document, struct error *error)
{
    int result = 0;
    for (size_t index = 1; index < document->table_count && result == 0; index++) {
        const struct toml_table *table = &document->tables[index];
        char *name = memory_printf("%s%s", table->name, table->subname == NULL ? "" : ".*");
        const char *nearest = nearest_section(settings, name);
        if (strcmp(nearest, name) != 0) {
            result = error_set(error, ERROR_INVALID, "%s:%d:%d: unknown table '%s'; the nearest known one is '%s'", path, table->line,
                               table->column, name, nearest);
        }
        free(name);
    }
    return result;
}

static int load_file(struct settings *settings, const char *path, struct error *error)
{
    struct buffer bytes;
    struct toml_document document = { .tables = NULL };
    buffer_init(&bytes, LIMIT_CONFIG_FILE);
    int result = file_read(path, &bytes, error);
    if (result == -(int)ERROR_NOT_FOUND) {
        buffer_release(&bytes);
        return 0;
    }
    if (result == 0) {
        result = toml_parse(path, bytes.data, bytes.length, &document, error);
    }
    for (size_t index = 0; index < document.entry_count && result == 0; index++) {
        result = apply_entry(settings, path, &document, &document.entries[index], error);
    }
    if (result == 0) {
        result = check_tables(settings, path, &document, error);
    }
    toml_document_release(&document);
    buffer_release(&bytes);
    return result;
}

static int load_environment(struct settings *settings, const char *prefix, struct error *error)
{
    int result = 0;
    for (size_t index = 0; index < settings->count && result == 0; index++) {
        struct setting *row = &settings->rows[index];
        if (strchr(row->name, '*') != NULL) {
            continue; /* it has no name of its own */
        }
        char *variable = setting_variable_name(prefix, row->name);
        const char *text = getenv(variable);
        if (text != NULL) {
            result = setting_assign_text(row, text, error);
            row->origin = ORIGIN_ENVIRONMENT;
            if (result != 0) {
                (void)error_prefix(error, "the environment variable %s", variable);
            }
        }
        free(variable);
    }
    return result;
}

int settings_load(const struct setting_definition *definitions, size_t count, const char *environment_prefix, const char *path,
                  struct settings **ret_settings, struct error *error)
{
    struct settings *settings = memory_zalloc(sizeof(*settings));
    load_defaults(definitions, count, settings);
    int result = path == NULL ? 0 : load_file(settings, path, error);
    if (result == 0) {
        result = load_environment(settings, environment_prefix, error);
    }
    if (result != 0) {
        settings_free(settings);
        return result;
    }
    *ret_settings = settings;
    return 0;
}

void settings_free(struct settings *settings)
{
    if (settings == NULL) {
        return;
    }
    for (size_t index = 0; index < settings->count; index++) {
        setting_release_value(&settings->rows[index]);
        free(settings->rows[index].name);
    }
    for (size_t index = 0; index < settings->named_count; index++) {
        setting_release_value(&settings->named[index].setting);
        free(settings->named[index].subname);
    }
    free(settings->rows);
    free(settings->named);
    free(settings);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static struct setting *require_row(const struct settings *settings, const char *name)
{
    struct setting *row = find_row(settings, name);
    if (row == NULL) {
        (void)fprintf(stderr, "claudemesh: there is no setting '%s'\n", name);
        abort();
    }
    return row;
}

static const struct setting *require_type(const struct settings *settings, const char *name, enum setting_type type,
                                          enum setting_type other)
{
    const struct setting *row = require_row(settings, name);
    if (row->definition->type != type && row->definition->type != other) {
        (void)fprintf(stderr, "claudemesh: the setting '%s' is of another type\n", name);
        abort();
    }
    return row;
}

const char *settings_text(const struct settings *settings, const char *name)
{
    return require_row(settings, name)->text;
}

int64_t settings_integer(const struct settings *settings, const char *name)
{
    return require_type(settings, name, SETTING_INTEGER, SETTING_SIZE)->integer;
}

bool settings_bool(const struct settings *settings, const char *name)
{
    return require_type(settings, name, SETTING_BOOL, SETTING_BOOL)->integer != 0;
}

const char *const *settings_list(const struct settings *settings, const char *name, size_t *ret_count)
{
    const struct setting *row = require_type(settings, name, SETTING_LIST, SETTING_LIST);
    *ret_count = row->item_count;
    return (const char *const *)row->items;
}

enum setting_origin settings_origin(const struct settings *settings, const char *name)
{
    return require_row(settings, name)->origin;
}

int settings_override(struct settings *settings, const char *name, const char *value, struct error *error)
{
    struct setting *row = require_row(settings, name);
    int result = setting_assign_text(row, value, error);
    if (result != 0) {
        return error_prefix(error, "'%s'", name);
    }
    row->origin = ORIGIN_FLAG;
    return 0;
}

bool settings_mesh_bool(const struct settings *settings, const char *slug, const char *key, bool otherwise)
{
    for (size_t index = 0; index < settings->named_count; index++) {
        const struct named_setting *named = &settings->named[index];
        const struct setting_definition *definition = named->setting.definition;
        if (strcmp(named->subname, slug) == 0 && strcmp(definition->section, "mesh.*") == 0 && strcmp(definition->key, key) == 0) {
            return named->setting.integer != 0;
        }
    }
    return otherwise;
}
