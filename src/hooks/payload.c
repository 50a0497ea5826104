/* Owns the text of an event for a hook: redacted, then cut to size. */
#include "hooks/payload.h"

#include <stdint.h>

#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- redaction ------------------------------------------------------------------------------------------------------ */

static bool redact(json_t *value, const char *path);

/* A text that holds a JSON object: its inside is redacted, and it is written anew. */
static void redact_text(json_t *object, const char *key, const json_t *text, const char *path)
{
    json_t *inner = NULL;
    struct error error;
    if (json_parse_strict(json_string_value(text), json_string_length(text), &inner, &error) != 0) {
        return;
    }
    if (redact(inner, path)) {
        size_t length = 0;
        char *printed = json_to_string(inner, &length);
        json_put(object, key, json_stringn(printed, length));
        free(printed);
    }
    json_decref(inner);
}

/* True when something was removed. */
static bool redact_member(json_t *object, const char *path)
{
    bool removed = json_object_del(object, path) == 0; /* a name that has the dots in it */
    const char *dot = strchr(path, '.');
    while (dot != NULL) { /* every way to part the path: names may have dots themselves */
        char *name = memory_strndup(path, (size_t)(dot - path));
        json_t *member = json_object_get(object, name);
        if (json_is_string(member)) {
            redact_text(object, name, member, dot + 1);
            removed = true;
        } else if (member != NULL) {
            removed = redact(member, dot + 1) || removed;
        }
        free(name);
        dot = strchr(dot + 1, '.');
    }
    return removed;
}

static bool redact(json_t *value, const char *path)
{
    bool removed = false;
    if (json_is_object(value)) {
        removed = redact_member(value, path);
    } else if (json_is_array(value)) {
        for (size_t index = 0; index < json_array_size(value); index++) {
            removed = redact(json_array_get(value, index), path) || removed;
        }
    }
    return removed;
}

/* ---- cutting --------------------------------------------------------------------------------------------------------- */

struct longest { /* the longest text within a value, and where it hangs */
    json_t *parent;
    const char *key; /* NULL: item `index` of a list */
    size_t index, length;
};

static void find_longest(json_t *value, struct longest *longest)
{
    const char *key;
    json_t *member;
    size_t index;
    json_object_foreach(value, key, member)
    {
        if (json_is_string(member) && json_string_length(member) > longest->length) {
            *longest = (struct longest){ value, key, 0, json_string_length(member) };
        }
        find_longest(member, longest);
    }
    json_array_foreach(value, index, member)
    {
        if (json_is_string(member) && json_string_length(member) > longest->length) {
            *longest = (struct longest){ value, NULL, index, json_string_length(member) };
        }
        find_longest(member, longest);
    }
}

/* By what is too much, by half at most: an escape makes several bytes of one, so that more may be taken than is needed, but never everything. */
static void shorten(const struct longest *longest, size_t excess)
{
    json_t *text = longest->key != NULL ? json_object_get(longest->parent, longest->key) : json_array_get(longest->parent, longest->index);
    size_t cut = excess < longest->length / 2 ? excess : longest->length / 2;
    size_t length = longest->length - (cut == 0 ? 1 : cut);
    const char *bytes = json_string_value(text);
    while (length > 0 && ((unsigned char)bytes[length] & 0xC0) == 0x80) {
        length--;
    }
    json_t *shorter = json_stringn(bytes, length);
    if (longest->key != NULL) {
        json_put(longest->parent, longest->key, shorter);
    } else {
        (void)json_array_set_new(longest->parent, longest->index, shorter);
    }
}

/* The first of the members that are no plain value; then any. */
static void drop_member(json_t *event)
{
    const char *key, *any = NULL;
    json_t *member;
    json_object_foreach(event, key, member)
    {
        if (string_equal(key, "_truncated")) {
            continue;
        }
        any = key;
        if (json_is_object(member) || json_is_array(member)) {
            break;
        }
    }
    if (any != NULL) {
        char *name = memory_strdup(any);
        (void)json_object_del(event, name);
        free(name);
    }
}

void hook_payload_print(const json_t *event, char *const *paths, size_t path_count, size_t maximum, struct buffer *ret_text)
{
    enum { SHORT_TEXT = 256, SHORTENINGS = 32 /* whoever sends thousands of texts must not keep the loop busy */ };
    int shortenings = 0;
    json_t *copy = NULL;
    if (path_count > 0) {
        copy = json_deep_copy(event);
        for (size_t index = 0; index < path_count; index++) {
            (void)redact(copy, paths[index]);
        }
    }
    (void)json_print(copy != NULL ? copy : event, ret_text);
    if (ret_text->length > maximum && copy == NULL) {
        copy = json_deep_copy(event);
    }
    while (ret_text->length > maximum) {
        struct longest longest = { .length = 0 };
        json_put_bool(copy, "_truncated", true);
        find_longest(copy, &longest);
        if (longest.length > SHORT_TEXT && shortenings++ < SHORTENINGS) {
            shorten(&longest, ret_text->length - maximum);
        } else {
            drop_member(copy);
        }
        buffer_reset(ret_text);
        (void)json_print(copy, ret_text);
    }
    json_decref(copy);
}
