/* Owns the spelling of claudemesh's own keys in meta. Must not decide what follows from them. */
#include "proto/own_meta.h"

#include "crypto/crypto.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

static const char PREFIX[] = "claudemesh.";
static const char DEPTH[] = "claudemesh.depth";
static const char FILE_KEY[] = "claudemesh.file";

bool meta_key_is_own(const char *key)
{
    return string_has_prefix(key, PREFIX);
}

const char *meta_own_key(const json_t *meta)
{
    /* jansson iterates over objects that are not const; nothing is changed. */
    union {
        const json_t *borrowed;
        json_t *mutable;
    } object = { .borrowed = meta };
    for (void *at = json_object_iter(object.mutable); at != NULL; at = json_object_iter_next(object.mutable, at))
        if (meta_key_is_own(json_object_iter_key(at)))
            return json_object_iter_key(at);
    return NULL;
}

int64_t meta_depth(const json_t *meta)
{
    if (json_object_get(meta, DEPTH) == NULL)
        return 0;
    int64_t depth = 1;
    struct error error;
    if (json_read_integer(meta, DEPTH, JSON_REQUIRED, 1, INT64_C(1) << 53, &depth, &error) != 0)
        return 1;
    return depth;
}

int64_t meta_depth_of(const char *text)
{
    json_t *meta = NULL;
    struct error error;
    if (text == NULL || json_parse_strict(text, strlen(text), &meta, &error) != 0)
        return 0;
    int64_t depth = meta_depth(meta);
    json_decref(meta);
    return depth;
}

int meta_set_depth(struct buffer *canonical, int64_t depth, struct error *error)
{
    json_t *meta = NULL;
    if (canonical->length == 0)
        meta = json_new_object();
    else if (json_parse_strict(canonical->data, canonical->length, &meta, error) != 0)
        return -(int)error->code;
    json_put_integer(meta, DEPTH, depth);
    struct buffer printed;
    buffer_init(&printed, canonical->maximum);
    int status = json_print_canonical(meta, &printed);
    json_decref(meta);
    if (status != 0) {
        buffer_release(&printed);
        return error_set(error, ERROR_TOO_LARGE, "Field 'meta' has no room left for the mark of an automatic reply; make it shorter.");
    }
    buffer_release(canonical);
    *canonical = printed;
    return 0;
}

bool meta_read_file(const json_t *meta, struct meta_file *ret_file)
{
    const json_t *file = json_object_get(meta, FILE_KEY);
    struct meta_file read = { 0 };
    struct error error;
    if (!json_is_object(file) || json_read_string(file, "id", JSON_REQUIRED, &read.id, &error) != 0 ||
        json_read_string(file, "name", JSON_REQUIRED, &read.name, &error) != 0 ||
        json_read_string(file, "sha256", JSON_REQUIRED, &read.sha256, &error) != 0 ||
        json_read_integer(file, "size", JSON_REQUIRED, 0, INT64_C(1) << 53, &read.size, &error) != 0)
        return false;
    if (*read.id == '\0' || *read.name == '\0' || !hex_is_key(read.sha256))
        return false;
    *ret_file = read;
    return true;
}
