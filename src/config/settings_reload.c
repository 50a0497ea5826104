/* Owns what differs between two readings of the settings, and how settings are shown. Reads no file. */
#include "config/settings_internal.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

const char *setting_origin_name(enum setting_origin origin)
{
    static const char *const NAMES[] = {
        [ORIGIN_DEFAULT] = "default",
        [ORIGIN_FILE] = "config.toml",
        [ORIGIN_ENVIRONMENT] = "environment",
        [ORIGIN_FLAG] = "flag",
    };
    return NAMES[origin];
}

/* ---- shown ------------------------------------------------------------------------------------------------------ */

static json_t *value_to_json(const struct setting *setting)
{
    json_t *list = NULL;
    switch (setting->definition->type) {
    case SETTING_INTEGER:
    case SETTING_SIZE:
        return json_integer(setting->integer);
    case SETTING_BOOL:
        return json_boolean(setting->integer != 0);
    case SETTING_LIST:
        list = json_new_array();
        for (size_t i = 0; i < setting->item_count; i++) {
            (void)json_array_append_new(list, json_string(setting->items[i]));
        }
        return list;
    case SETTING_TEXT:
    case SETTING_CHOICE:
        break;
    }
    return json_string(setting->text);
}

static void append(json_t *list, const char *name, const struct setting *setting)
{
    json_t *entry = json_new_object();
    json_put_string(entry, "name", name);
    json_put(entry, "value", value_to_json(setting));
    json_put_string(entry, "from", setting_origin_name(setting->origin));
    (void)json_array_append_new(list, entry);
}

/* "mesh.*" and "acme" and "allow_plaintext": mesh.acme.allow_plaintext. */
static char *name_of(const struct named_setting *named)
{
    const char *section = named->setting.definition->section;
    return memory_printf("%.*s%s.%s", (int)strcspn(section, "*"), section, named->subname, named->setting.definition->key);
}

json_t *settings_to_json(const struct settings *settings)
{
    json_t *list = json_new_array();
    for (size_t i = 0; i < settings->count; i++) {
        append(list, settings->rows[i].name, &settings->rows[i]);
    }
    for (size_t i = 0; i < settings->named_count; i++) {
        char *name = name_of(&settings->named[i]);
        append(list, name, &settings->named[i].setting);
        free(name);
    }
    return list;
}

/* ---- compared --------------------------------------------------------------------------------------------------- */

/* By items too: one with a comma in it reads as two. */
static bool is_equal(const struct setting *a, const struct setting *b)
{
    bool equal = string_equal(a->text, b->text) && a->integer == b->integer && a->item_count == b->item_count;
    for (size_t i = 0; equal && i < a->item_count; i++) {
        equal = strcmp(a->items[i], b->items[i]) == 0;
    }
    return equal;
}

static void copy_value(struct setting *to, const struct setting *from)
{
    setting_release_value(to);
    to->text = memory_strdup(from->text);
    to->integer = from->integer;
    to->items = memory_calloc(from->item_count, sizeof(*to->items));
    to->item_count = from->item_count;
    for (size_t i = 0; i < from->item_count; i++) {
        to->items[i] = memory_strdup(from->items[i]);
    }
    to->origin = from->origin;
}

static const struct named_setting *find_named(const struct settings *settings, const struct named_setting *like)
{
    for (size_t i = 0; i < settings->named_count; i++) {
        const struct named_setting *named = &settings->named[i];
        if (named->setting.definition == like->setting.definition && strcmp(named->subname, like->subname) == 0) {
            return named;
        }
    }
    return NULL;
}

/* Tells those of `one` that `other` lacks, or has (`both`) with another value. */
static void tell_named(const struct settings *one, const struct settings *other, bool both,
                       void (*changed)(void *argument, const char *name, bool live), void *argument)
{
    for (size_t i = 0; i < one->named_count; i++) {
        const struct named_setting *twin = find_named(other, &one->named[i]);
        if (twin == NULL || (both && !is_equal(&one->named[i].setting, &twin->setting))) {
            char *name = name_of(&one->named[i]);
            changed(argument, name, false);
            free(name);
        }
    }
}

static void keep_named(struct settings *fresh, const struct settings *running)
{
    for (size_t i = 0; i < fresh->named_count; i++) {
        setting_release_value(&fresh->named[i].setting);
        free(fresh->named[i].subname);
    }
    free(fresh->named);
    fresh->named = memory_calloc(running->named_count, sizeof(*fresh->named));
    fresh->named_count = running->named_count;
    for (size_t i = 0; i < running->named_count; i++) {
        struct named_setting *named = &fresh->named[i];
        named->subname = memory_strdup(running->named[i].subname);
        named->setting.definition = running->named[i].setting.definition;
        copy_value(&named->setting, &running->named[i].setting);
    }
}

void settings_reload(struct settings *fresh, const struct settings *running, void (*changed)(void *argument, const char *name, bool live),
                     void *argument)
{
    for (size_t i = 0; i < fresh->count; i++) {
        struct setting *row = &fresh->rows[i];
        if (is_equal(row, &running->rows[i])) {
            continue;
        }
        changed(argument, row->name, row->definition->live);
        if (!row->definition->live) {
            copy_value(row, &running->rows[i]);
        }
    }
    tell_named(fresh, running, true, changed, argument);
    tell_named(running, fresh, false, changed, argument);
    keep_named(fresh, running);
}
