/* Owns JSON as text: compact, and canonical (RFC 8785), which differs in the order of keys only. */
#include <math.h>

#include "json/json.h"
#include "json/number.h"
#include "util/memory.h"

enum print_order { ORDER_INSERTION, ORDER_CANONICAL };

static int print_value(const json_t *value, enum print_order order, struct buffer *text);

static int print_number(double number, struct buffer *text)
{
    char digits[NUMBER_SIZE];
    if (!isfinite(number)) {
        return -1; /* no JSON for it */
    }
    number_format(number, digits);
    return buffer_append_text(text, digits);
}

static int print_array(const json_t *array, enum print_order order, struct buffer *text)
{
    int result = buffer_append_byte(text, '[');
    size_t count = json_array_size(array);
    for (size_t index = 0; index < count && result == 0; index++) {
        if (index > 0) {
            result = buffer_append_byte(text, ',');
        }
        if (result == 0) {
            result = print_value(json_array_get(array, index), order, text);
        }
    }
    return result == 0 ? buffer_append_byte(text, ']') : result;
}

struct member {
    const char *key;
    size_t key_length;
    const json_t *value;
};

/* UTF-16 code units order as UTF-8 bytes do, but for one thing: what takes surrogates (first byte F0 and up) stands before
 * U+E000 to U+FFFF (first byte EE or EF). */
static int compare_members(const void *left, const void *right)
{
    const struct member *a = left;
    const struct member *b = right;
    size_t shorter = a->key_length < b->key_length ? a->key_length : b->key_length;
    for (size_t index = 0; index < shorter; index++) {
        unsigned char x = (unsigned char)a->key[index];
        unsigned char y = (unsigned char)b->key[index];
        if (x == y) {
            continue;
        }
        bool x_is_pair = x >= 0xF0;
        bool y_is_pair = y >= 0xF0;
        if (x_is_pair != y_is_pair && x >= 0xEE && y >= 0xEE) {
            return x_is_pair ? -1 : 1;
        }
        return x < y ? -1 : 1;
    }
    return a->key_length == b->key_length ? 0 : a->key_length < b->key_length ? -1 : 1;
}

/* jansson iterates over objects that are not const; nothing is changed. */
static json_t *without_const(const json_t *value)
{
    union {
        const json_t *constant;
        json_t *variable;
    } pointer = { .constant = value };
    return pointer.variable;
}

static size_t collect_members(const json_t *object, struct member *members)
{
    json_t *mutable_object = without_const(object);
    size_t count = 0;
    for (void *position = json_object_iter(mutable_object); position != NULL; position = json_object_iter_next(mutable_object, position)) {
        members[count++] = (struct member){ .key = json_object_iter_key(position),
                                            .key_length = json_object_iter_key_len(position),
                                            .value = json_object_iter_value(position) };
    }
    return count;
}

static int print_members(const struct member *members, size_t count, enum print_order order, struct buffer *text)
{
    int result = buffer_append_byte(text, '{');
    for (size_t index = 0; index < count && result == 0; index++) {
        if (index > 0) {
            result = buffer_append_byte(text, ',');
        }
        if (result == 0) {
            result = buffer_append_json_string(text, members[index].key, members[index].key_length);
        }
        if (result == 0) {
            result = buffer_append_byte(text, ':');
        }
        if (result == 0) {
            result = print_value(members[index].value, order, text);
        }
    }
    return result == 0 ? buffer_append_byte(text, '}') : result;
}

static int print_object(const json_t *object, enum print_order order, struct buffer *text)
{
    enum { FEW = 16 };
    struct member few[FEW];
    size_t count = json_object_size(object);
    struct member *members = count <= FEW ? few : memory_calloc(count, sizeof(*members));
    count = collect_members(object, members);
    if (order == ORDER_CANONICAL && count > 1) {
        qsort(members, count, sizeof(*members), compare_members);
    }
    int result = print_members(members, count, order, text);
    if (members != few) {
        free(members);
    }
    return result;
}

static int print_value(const json_t *value, enum print_order order, struct buffer *text)
{
    if (value == NULL) {
        return -1;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return print_object(value, order, text);
    case JSON_ARRAY:
        return print_array(value, order, text);
    case JSON_STRING:
        return buffer_append_json_string(text, json_string_value(value), json_string_length(value));
    case JSON_INTEGER:
        return print_number((double)json_integer_value(value), text);
    case JSON_REAL:
        return print_number(json_real_value(value), text);
    case JSON_TRUE:
        return buffer_append_text(text, "true");
    case JSON_FALSE:
        return buffer_append_text(text, "false");
    case JSON_NULL:
        return buffer_append_text(text, "null");
    default:
        return -1;
    }
}

int json_print(const json_t *value, struct buffer *ret_text)
{
    return print_value(value, ORDER_INSERTION, ret_text);
}

int json_print_canonical(const json_t *value, struct buffer *ret_text)
{
    return print_value(value, ORDER_CANONICAL, ret_text);
}

char *json_to_string(const json_t *value, size_t *ret_length)
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    if (json_print(value, &text) != 0) {
        abort(); /* without a maximum only a value that is no JSON fails, and jansson makes none */
    }
    return buffer_take(&text, ret_length);
}
