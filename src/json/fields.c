/* Owns typed reading of an object's fields, with errors that name the field, and putting fields into objects. */
#include <math.h>

#include "json/json.h"
#include "util/memory.h"

/* NULL for absent and null. */
static const json_t *field_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return value == NULL || json_is_null(value) ? NULL : value;
}

static int missing(const char *name, enum json_presence presence, struct error *error)
{
    return presence == JSON_OPTIONAL ? 0 : error_set(error, ERROR_INVALID, "field '%s' is missing", name);
}

static int wrong_type(const char *name, const char *expected, struct error *error)
{
    return error_set(error, ERROR_INVALID, "field '%s' must be %s", name, expected);
}

int json_read_text(const json_t *object, const char *name, enum json_presence presence, struct text *ret_value, struct error *error)
{
    const json_t *value = field_of(object, name);
    if (value == NULL) {
        return missing(name, presence, error);
    }
    if (!json_is_string(value)) {
        return wrong_type(name, "a string", error);
    }
    *ret_value = (struct text){ json_string_value(value), json_string_length(value) };
    return 0;
}

int json_read_string(const json_t *object, const char *name, enum json_presence presence, const char **ret_value, struct error *error)
{
    struct text text = { NULL, 0 };
    int result = json_read_text(object, name, presence, &text, error);
    if (result != 0 || text.data == NULL) {
        return result;
    }
    if (memchr(text.data, '\0', text.length) != NULL) {
        return error_set(error, ERROR_INVALID, "field '%s' must not contain U+0000", name);
    }
    *ret_value = text.data;
    return 0;
}

int json_read_integer(const json_t *object, const char *name, enum json_presence presence, int64_t minimum, int64_t maximum,
                      int64_t *ret_value, struct error *error)
{
    static const double EXACT_MAXIMUM = 9007199254740992.0;
    const json_t *value = field_of(object, name);
    if (value == NULL) {
        return missing(name, presence, error);
    }
    if (!json_is_number(value)) {
        return wrong_type(name, "an integer", error);
    }
    double number = json_number_value(value);
    if (!(number >= -EXACT_MAXIMUM && number <= EXACT_MAXIMUM) || number != trunc(number)) {
        return wrong_type(name, "an integer of at most 2^53", error);
    }
    int64_t integer = (int64_t)number;
    if (integer < minimum || integer > maximum) {
        return error_set(error, ERROR_INVALID, "field '%s' must be from %" PRId64 " to %" PRId64, name, minimum, maximum);
    }
    *ret_value = integer;
    return 0;
}

int json_read_bool(const json_t *object, const char *name, enum json_presence presence, bool *ret_value, struct error *error)
{
    const json_t *value = field_of(object, name);
    if (value == NULL) {
        return missing(name, presence, error);
    }
    if (!json_is_boolean(value)) {
        return wrong_type(name, "true or false", error);
    }
    *ret_value = json_is_true(value);
    return 0;
}

int json_read_object(const json_t *object, const char *name, enum json_presence presence, const json_t **ret_value, struct error *error)
{
    const json_t *value = field_of(object, name);
    if (value == NULL) {
        return missing(name, presence, error);
    }
    if (!json_is_object(value)) {
        return wrong_type(name, "an object", error);
    }
    *ret_value = value;
    return 0;
}

int json_read_array(const json_t *object, const char *name, enum json_presence presence, const json_t **ret_value, struct error *error)
{
    const json_t *value = field_of(object, name);
    if (value == NULL) {
        return missing(name, presence, error);
    }
    if (!json_is_array(value)) {
        return wrong_type(name, "an array", error);
    }
    *ret_value = value;
    return 0;
}

/* Invalid UTF-8 can come from the outside world (a host's name): each bad byte becomes U+FFFD, as everywhere. */
static json_t *string_repaired(const char *data, size_t length)
{
    struct buffer repaired;
    buffer_init(&repaired, BUFFER_UNLIMITED);
    for (size_t index = 0; index < length;) {
        uint32_t code_point = 0;
        size_t size = utf8_decode(data + index, length - index, &code_point);
        (void)(size == 0 ? buffer_append_text(&repaired, "\xEF\xBF\xBD") : buffer_append(&repaired, data + index, size));
        index += size == 0 ? 1 : size;
    }
    json_t *value = json_stringn_nocheck(repaired.data, repaired.length);
    buffer_release(&repaired);
    return value;
}

void json_put(json_t *object, const char *name, json_t *value)
{
    if (value == NULL || json_object_set_new(object, name, value) != 0) {
        memory_exhausted(); /* names are literals and values were made: nothing else can fail */
    }
}

void json_put_text(json_t *object, const char *name, struct text value)
{
    if (value.data == NULL) {
        json_put(object, name, json_null());
    } else if (utf8_is_valid(value.data, value.length)) {
        json_put(object, name, json_stringn_nocheck(value.data, value.length));
    } else {
        json_put(object, name, string_repaired(value.data, value.length));
    }
}

void json_put_string(json_t *object, const char *name, const char *value)
{
    json_put_text(object, name, (struct text){ value, value == NULL ? 0 : strlen(value) });
}

void json_put_integer(json_t *object, const char *name, int64_t value)
{
    json_put(object, name, json_integer(value));
}

void json_put_bool(json_t *object, const char *name, bool value)
{
    json_put(object, name, json_boolean(value));
}

void json_put_null(json_t *object, const char *name)
{
    json_put(object, name, json_null());
}

void json_put_time(json_t *object, const char *name, int64_t time_ms)
{
    if (time_ms < 0) {
        json_put_null(object, name);
        return;
    }
    char text[RFC3339_SIZE];
    time_format_rfc3339(time_ms, text);
    json_put_string(object, name, text);
}

json_t *json_new_object(void)
{
    json_t *object = json_object();
    if (object == NULL) {
        memory_exhausted();
    }
    return object;
}

json_t *json_new_array(void)
{
    json_t *array = json_array();
    if (array == NULL) {
        memory_exhausted();
    }
    return array;
}
