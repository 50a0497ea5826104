/* Owns the reading of hooks.toml: sections and keys as a table. Must not look at files: whether a hook is there is its runner's question. */
#include "hooks/hook_config.h"

#include <stddef.h>

#include "config/setting_names.h"
#include "config/toml.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    TIMEOUT_DEFAULT_S = 30,
    TIMEOUT_MAXIMUM_S = 3600,
    OUTPUT_DEFAULT = 64 * 1024,
    OUTPUT_MAXIMUM = 1024 * 1024 /* eight at once are held in memory */
};

static const char TOPIC_PREFIX[] = "on-topic-";
static const char *const NAMES[] = { "on-message",    "on-dm",        "on-mention", "on-file-share",
                                     "on-disconnect", "on-reconnect", "on-startup", "pre-send" };

bool hook_name_is_valid(const char *name)
{
    for (size_t index = 0; index < ARRAY_LENGTH(NAMES); index++) {
        if (string_equal(name, NAMES[index])) {
            return true;
        }
    }
    return string_has_prefix(name, TOPIC_PREFIX) && name_is_valid(name + strlen(TOPIC_PREFIX));
}

/* ---- values ------------------------------------------------------------------------------------------------------- */

/* Each sets one field, or says what is wrong as a heap string. */
static char *set_bool(bool *ret_value, const struct toml_value *value)
{
    if (value->kind != TOML_BOOLEAN) {
        return memory_strdup("must be true or false");
    }
    *ret_value = value->boolean;
    return NULL;
}

static char *set_choice(bool *ret_second, const struct toml_value *value, const char *first, const char *second)
{
    if (value->kind != TOML_STRING || (!string_equal(value->text, first) && !string_equal(value->text, second))) {
        return memory_printf("must be \"%s\" or \"%s\"", first, second);
    }
    *ret_second = string_equal(value->text, second);
    return NULL;
}

static char *check_integer(const struct toml_value *value, int64_t minimum, int64_t maximum)
{
    if (value->kind != TOML_INTEGER || value->integer < minimum || value->integer > maximum) {
        return memory_printf("must be a number from %" PRId64 " to %" PRId64, minimum, maximum);
    }
    return NULL;
}

static bool is_scope(const char *text)
{
    static const char PREFIX[] = "topic:", SUFFIX[] = ":post";
    size_t length = strlen(text), frame = sizeof(PREFIX) + sizeof(SUFFIX) - 2;
    if (string_equal(text, "reply:event") || string_equal(text, "dm:send:sender")) {
        return true;
    }
    if (length <= frame || !string_has_prefix(text, PREFIX) || !string_equal(text + length - strlen(SUFFIX), SUFFIX)) {
        return false;
    }
    char *name = memory_strndup(text + strlen(PREFIX), length - frame);
    bool valid = name_is_valid(name);
    free(name);
    return valid;
}

static bool is_path(const char *text)
{
    size_t length = strlen(text);
    return length > 0 && text[0] != '.' && text[length - 1] != '.' && strstr(text, "..") == NULL;
}

static char *set_list(char ***ret_items, size_t *ret_count, const struct toml_value *value, bool (*is_item)(const char *text),
                      const char *what)
{
    if (value->kind != TOML_LIST) {
        return memory_printf("must be a list of %s", what);
    }
    for (size_t index = 0; index < value->item_count; index++) {
        if (!is_item(value->items[index])) {
            return memory_printf("has \"%s\", which is not one of: %s", value->items[index], what);
        }
    }
    char **items = memory_calloc(value->item_count + 1, sizeof(*items));
    for (size_t index = 0; index < value->item_count; index++) {
        items[index] = memory_strdup(value->items[index]);
    }
    *ret_items = items;
    *ret_count = value->item_count;
    return NULL;
}

/* ---- keys --------------------------------------------------------------------------------------------------------- */

static char *set_enabled(struct hook_config *hook, const struct toml_value *value)
{
    char *wrong = set_bool(&hook->enabled, value);
    hook->is_disabled = wrong == NULL && !hook->enabled;
    return wrong;
}

static char *set_timeout(struct hook_config *hook, const struct toml_value *value)
{
    char *wrong = check_integer(value, 1, TIMEOUT_MAXIMUM_S);
    if (wrong == NULL) {
        hook->timeout_ms = value->integer * 1000;
    }
    return wrong;
}

static char *set_output_size_limit(struct hook_config *hook, const struct toml_value *value)
{
    char *wrong = check_integer(value, 0, OUTPUT_MAXIMUM);
    if (wrong == NULL) {
        hook->output_size_limit = (size_t)value->integer;
    }
    return wrong;
}

static char *set_redact_payload(struct hook_config *hook, const struct toml_value *value)
{
    return set_list(&hook->redact_payload, &hook->redact_count, value, is_path, "paths like \"body.password\"");
}

static char *set_allow_reply(struct hook_config *hook, const struct toml_value *value)
{
    return set_bool(&hook->allow_reply, value);
}

static char *set_scope(struct hook_config *hook, const struct toml_value *value)
{
    return set_list(&hook->capability_token_scope, &hook->scope_count, value, is_scope,
                    "\"reply:event\", \"dm:send:sender\", \"topic:<name>:post\"");
}

static char *set_network_policy(struct hook_config *hook, const struct toml_value *value)
{
    return set_choice(&hook->network_allow, value, "deny", "allow");
}

static char *set_sandbox(struct hook_config *hook, const struct toml_value *value)
{
    return set_choice(&hook->bubblewrap, value, "", "bubblewrap");
}

static char *set_allow_unverified(struct hook_config *hook, const struct toml_value *value)
{
    return set_bool(&hook->allow_unverified, value);
}

static char *set_accept_legacy(struct hook_config *hook, const struct toml_value *value)
{
    return set_bool(&hook->accept_legacy, value);
}

static const struct hook_key {
    const char *name;
    char *(*set)(struct hook_config *hook, const struct toml_value *value);
} KEYS[] = {
    { "enabled", set_enabled },
    { "timeout_s", set_timeout },
    { "output_size_limit", set_output_size_limit },
    { "redact_payload", set_redact_payload },
    { "allow_reply", set_allow_reply },
    { "capability_token_scope", set_scope },
    { "network_policy", set_network_policy },
    { "sandbox", set_sandbox },
    { "allow_unverified", set_allow_unverified },
    { "accept_legacy", set_accept_legacy },
};

static const char *nearest_key(const char *key)
{
    const char *nearest = KEYS[0].name;
    size_t least = SIZE_MAX;
    for (size_t index = 0; index < ARRAY_LENGTH(KEYS); index++) {
        size_t distance = setting_name_distance(key, KEYS[index].name);
        if (distance < least) {
            least = distance;
            nearest = KEYS[index].name;
        }
    }
    return nearest;
}

static const char *nearest_name(const char *name)
{
    const char *nearest = NAMES[0];
    size_t least = SIZE_MAX;
    for (size_t index = 0; index < ARRAY_LENGTH(NAMES); index++) {
        size_t distance = setting_name_distance(name, NAMES[index]);
        if (distance < least) {
            least = distance;
            nearest = NAMES[index];
        }
    }
    return nearest;
}

/* ---- sections ------------------------------------------------------------------------------------------------------- */

/* The first mistake is the one that is told. */
static void add_problem(struct hook_config *hook, char *problem)
{
    if (hook->problem == NULL) {
        hook->problem = problem;
    } else {
        free(problem);
    }
}

static void read_entry(const char *file, struct hook_config *hook, const struct toml_entry *entry)
{
    for (size_t index = 0; index < ARRAY_LENGTH(KEYS); index++) {
        if (!string_equal(entry->key, KEYS[index].name)) {
            continue;
        }
        char *wrong = KEYS[index].set(hook, &entry->value);
        if (wrong != NULL) {
            add_problem(hook, memory_printf("%s:%d:%d: %s %s", file, entry->line, entry->column, entry->key, wrong));
            free(wrong);
        }
        return;
    }
    add_problem(hook, memory_printf("%s:%d:%d: unknown key '%s'; the nearest is '%s'", file, entry->line, entry->column, entry->key,
                                    nearest_key(entry->key)));
}

static struct hook_config *add_hook(struct hooks_file *file, const char *name)
{
    file->hooks = memory_realloc(file->hooks, (file->count + 1) * sizeof(*file->hooks));
    struct hook_config *hook = &file->hooks[file->count++];
    *hook =
        (struct hook_config){ .name = memory_strdup(name), .timeout_ms = TIMEOUT_DEFAULT_S * 1000, .output_size_limit = OUTPUT_DEFAULT };
    return hook;
}

static void read_table(const char *file_name, const struct toml_document *document, size_t index, struct hooks_file *file)
{
    const struct toml_table *table = &document->tables[index];
    char *name = table->subname == NULL ? memory_strdup(table->name) : memory_printf("%s.%s", table->name, table->subname);
    struct hook_config *hook = add_hook(file, name);
    if (table->subname != NULL) {
        /* [on-topic-a.b] is a table within a table to TOML, and most likely meant as the topic a.b. */
        add_problem(hook, memory_printf("%s:%d:%d: a name with a dot is written [\"%s\"]", file_name, table->line, table->column, name));
    } else if (!hook_name_is_valid(name)) {
        add_problem(hook, memory_printf("%s:%d:%d: there is no hook '%s'; the nearest is '%s'", file_name, table->line, table->column, name,
                                        string_has_prefix(name, TOPIC_PREFIX) ? "on-topic-<name>" : nearest_name(name)));
    }
    for (size_t entry = 0; entry < document->entry_count; entry++) {
        if (document->entries[entry].table == index) {
            read_entry(file_name, hook, &document->entries[entry]);
        }
    }
    free(name);
}

int hooks_file_parse(const char *name, const char *bytes, size_t length, struct hooks_file *ret_file, struct error *error)
{
    struct toml_document document;
    struct hooks_file file = { .hooks = NULL };
    int result = toml_parse(name, bytes, length, &document, error);
    if (result != 0) {
        return result;
    }
    for (size_t entry = 0; entry < document.entry_count && result == 0; entry++) {
        if (document.entries[entry].table == 0) {
            result = error_set(error, ERROR_INVALID, "%s:%d:%d: '%s' stands before any [hook]", name, document.entries[entry].line,
                               document.entries[entry].column, document.entries[entry].key);
        }
    }
    for (size_t table = 1; table < document.table_count && result == 0; table++) {
        read_table(name, &document, table, &file);
    }
    toml_document_release(&document);
    if (result == 0) {
        *ret_file = file;
    }
    return result;
}

static void free_list(char **items, size_t count)
{
    for (size_t index = 0; index < count; index++) {
        free(items[index]);
    }
    free(items);
}

void hooks_file_release(struct hooks_file *file)
{
    if (file == NULL) {
        return;
    }
    for (size_t index = 0; index < file->count; index++) {
        struct hook_config *hook = &file->hooks[index];
        free(hook->name);
        free(hook->problem);
        free_list(hook->redact_payload, hook->redact_count);
        free_list(hook->capability_token_scope, hook->scope_count);
    }
    free(file->hooks);
    *file = (struct hooks_file){ .hooks = NULL };
}

const struct hook_config *hooks_file_find(const struct hooks_file *file, const char *name)
{
    for (size_t index = 0; index < file->count; index++) {
        if (string_equal(file->hooks[index].name, name)) {
            return &file->hooks[index];
        }
    }
    return NULL;
}
