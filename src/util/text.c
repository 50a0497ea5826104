/* Owns views of text, strict numbers, and the shapes of names and ids. */
#include "util/text.h"

#include "util/limits.h"

struct text text_from(const char *c_string)
{
    return (struct text){ c_string == NULL ? "" : c_string, c_string == NULL ? 0 : strlen(c_string) };
}

bool text_equal(struct text a, struct text b)
{
    return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

bool text_equal_c(struct text a, const char *c_string)
{
    return text_equal(a, text_from(c_string));
}

bool string_equal(const char *a, const char *b)
{
    if (a == NULL || b == NULL) {
        return a == b;
    }
    return strcmp(a, b) == 0;
}

bool string_has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

int string_copy(char *destination, size_t size, const char *source)
{
    size_t length = strlen(source);
    if (length >= size) {
        if (size > 0) {
            destination[0] = '\0';
        }
        return -1;
    }
    memcpy(destination, source, length + 1);
    return 0;
}

int parse_uint64(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;
    if (text == NULL || text[0] == '\0') {
        return -1;
    }
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') {
            return -1;
        }
        uint64_t digit = (uint64_t)(*text - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return -1;
        }
        value = value * 10 + digit;
    }
    *ret_value = value;
    return 0;
}

int parse_int64(const char *text, int64_t *ret_value)
{
    bool negative = text != NULL && text[0] == '-';
    uint64_t magnitude = 0;
    if (parse_uint64(negative ? text + 1 : text, &magnitude) != 0) {
        return -1;
    }
    if (magnitude > (uint64_t)INT64_MAX + (negative ? 1 : 0)) {
        return -1;
    }
    *ret_value = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return 0;
}

static bool is_lower(char byte)
{
    return byte >= 'a' && byte <= 'z';
}

static bool is_upper(char byte)
{
    return byte >= 'A' && byte <= 'Z';
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_punctuation_of_name(char byte)
{
    return byte == '_' || byte == '.' || byte == '-';
}

bool name_is_valid(const char *name)
{
    size_t length = 0;
    for (; name[length] != '\0'; length++) {
        if (length == LIMIT_NAME || !(is_lower(name[length]) || is_digit(name[length]) || is_punctuation_of_name(name[length]))) {
            return false;
        }
    }
    return length > 0;
}

bool id_is_valid(const char *id)
{
    size_t length = 0;
    for (; id[length] != '\0'; length++) {
        if (length == LIMIT_NAME ||
            !(is_lower(id[length]) || is_upper(id[length]) || is_digit(id[length]) || is_punctuation_of_name(id[length]))) {
            return false;
        }
    }
    return length > 0;
}

bool uuid_is_valid(const char *text)
{
    enum { UUID_LENGTH = 36 };
    for (size_t index = 0; index < UUID_LENGTH; index++) {
        bool is_dash = index == 8 || index == 13 || index == 18 || index == 23;
        bool is_hex = is_digit(text[index]) || (text[index] >= 'a' && text[index] <= 'f');
        if (is_dash ? text[index] != '-' : !is_hex) {
            return false;
        }
    }
    return text[UUID_LENGTH] == '\0';
}

bool client_message_id_is_valid(const char *text, size_t length)
{
    if (length == 0 || length > LIMIT_CLIENT_MESSAGE_ID) {
        return false;
    }
    for (size_t index = 0; index < length; index++) {
        if (text[index] < 0x21 || text[index] > 0x7E) {
            return false;
        }
    }
    return true;
}
