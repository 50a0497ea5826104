/* Strict JSON (20-ipc, check 6): what is accepted and what is refused, against a reader of the grammar of another make and against jansson; values survive printing; typed fields are what they say. */
#include "fuzz_json.h"
#include "util/limits.h"

/* ---- RFC 8259 by hand --------------------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at, *end;
    unsigned depth;
};

static bool read_value(struct reader *reader);

static bool read_byte(struct reader *reader, char byte)
{
    if (reader->at == reader->end || *reader->at != (uint8_t)byte)
        return false;
    reader->at++;
    return true;
}

static void read_blanks(struct reader *reader)
{
    while (reader->at < reader->end && memchr(" \t\r\n", *reader->at, 4) != NULL)
        reader->at++;
}

static bool read_word(struct reader *reader, const char *word)
{
    const size_t length = strlen(word);
    if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, word, length) != 0)
        return false;
    reader->at += length;
    return true;
}

static bool read_digits(struct reader *reader)
{
    const uint8_t *start = reader->at;
    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9')
        reader->at++;
    return reader->at > start;
}

static bool read_number(struct reader *reader)
{
    (void)read_byte(reader, '-');
    if (!read_byte(reader, '0') && !read_digits(reader))
        return false;
    if (read_byte(reader, '.') && !read_digits(reader))
        return false;
    if (read_byte(reader, 'e') || read_byte(reader, 'E')) {
        if (!read_byte(reader, '+'))
            (void)read_byte(reader, '-');
        return read_digits(reader);
    }
    return true;
}

/* Four hex digits; -1: not. */
static int32_t read_hex(struct reader *reader)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++, reader->at++) {
        static const char HEX[] = "0123456789abcdef0123456789ABCDEF";
        const char *digit = reader->at == reader->end || *reader->at == 0 ? NULL : strchr(HEX, *reader->at);
        if (digit == NULL)
            return -1;
        value = value * 16 + (int32_t)((digit - HEX) % 16);
    }
    return value;
}

static bool read_escape(struct reader *reader, bool is_key)
{
    if (reader->at == reader->end)
        return false;
    const uint8_t letter = *reader->at++;
    if (letter != 'u')
        return letter != 0 && strchr("\"\\/bfnrt", letter) != NULL;
    const int32_t first = read_hex(reader);
    if (first < 0 || (first == 0 && is_key) || (first >= 0xDC00 && first <= 0xDFFF))
        return false;
    if (first < 0xD800 || first > 0xDBFF)
        return true;
    if (!read_word(reader, "\\u"))
        return false;
    const int32_t second = read_hex(reader);
    return second >= 0xDC00 && second <= 0xDFFF;
}

static bool read_string(struct reader *reader, bool is_key)
{
    if (!read_byte(reader, '"'))
        return false;
    while (reader->at < reader->end && *reader->at != '"') {
        uint32_t code_point;
        if (*reader->at == '\\') {
            reader->at++;
            if (!read_escape(reader, is_key))
                return false;
            continue;
        }
        const size_t length = utf8_decode((const char *)reader->at, (size_t)(reader->end - reader->at), &code_point);
        if (length == 0 || code_point < 0x20)
            return false;
        reader->at += length;
    }
    return read_byte(reader, '"');
}

static bool read_members(struct reader *reader, bool object)
{
    const char close = object ? '}' : ']';
    bool good = ++reader->depth <= LIMIT_JSON_DEPTH;
    reader->at++;
    read_blanks(reader);
    if (good && read_byte(reader, close)) {
        reader->depth--;
        return true;
    }
    while (good) {
        if (object) {
            read_blanks(reader);
            good = read_string(reader, true);
            read_blanks(reader);
            good = good && read_byte(reader, ':');
        }
        good = good && read_value(reader);
        if (good && read_byte(reader, close)) {
            reader->depth--;
            return true;
        }
        good = good && read_byte(reader, ',');
    }
    return false;
}

static bool read_value(struct reader *reader)
{
    bool good = false;
    read_blanks(reader);
    switch (reader->at < reader->end ? *reader->at : 0) {
    case '{':
        good = read_members(reader, true);
        break;
    case '[':
        good = read_members(reader, false);
        break;
    case '"':
        good = read_string(reader, false);
        break;
    case 't':
        good = read_word(reader, "true");
        break;
    case 'f':
        good = read_word(reader, "false");
        break;
    case 'n':
        good = read_word(reader, "null");
        break;
    default:
        good = read_number(reader);
        break;
    }
    read_blanks(reader);
    return good;
}

/* ---- the two references -------------------------------------------------------------------------------------------- */

/* What the grammar cannot say (duplicate keys, numbers beyond a double) jansson does. */
static void check_verdict(const uint8_t *data, size_t size, const json_t *value)
{
    struct reader reader = { data, data + size, 0 };
    const bool grammar = read_value(&reader) && reader.at == reader.end;
    json_error_t reason;
    json_t *reference = NULL;

    REQUIRE(value == NULL || grammar);
    if (!grammar)
        return;
    reference =
        json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL | JSON_DECODE_ANY, &reason);
    REQUIRE((value != NULL) == (reference != NULL));
    if (reference == NULL)
        REQUIRE(json_error_code(&reason) == json_error_duplicate_key || json_error_code(&reason) == json_error_numeric_overflow);
    else
        REQUIRE(json_equal(value, reference));
    json_decref(reference);
}

/* ---- printing ------------------------------------------------------------------------------------------------------- */

static void check_printing(const json_t *value)
{
    struct buffer text, again_text, canonical, small;
    buffer_init(&text, BUFFER_UNLIMITED);
    buffer_init(&again_text, BUFFER_UNLIMITED);
    buffer_init(&canonical, BUFFER_UNLIMITED);
    REQUIRE(json_print(value, &text) == 0);
    json_t *again = fuzz_reparse(&text);
    REQUIRE(json_equal(value, again) && json_print(again, &again_text) == 0);
    REQUIRE(text.length == again_text.length && memcmp(text.data, again_text.data, text.length) == 0);
    REQUIRE(json_print_canonical(value, &canonical) == 0 && canonical.length == text.length);
    buffer_init(&small, text.length - 1);
    REQUIRE(json_print(value, &small) != 0);
    buffer_release(&small);
    json_decref(again);
    buffer_release(&text);
    buffer_release(&again_text);
    buffer_release(&canonical);
}

/* ---- fields --------------------------------------------------------------------------------------------------------- */

static void check_result(int result, enum json_presence presence, const json_t *value, bool fits, bool changed, const char *name,
                         const struct error *error)
{
    const bool absent = value == NULL || json_is_null(value);
    REQUIRE((result == 0) == (absent ? presence == JSON_OPTIONAL : fits));
    REQUIRE(changed == (!absent && fits));
    if (result != 0)
        REQUIRE(result == -(int)ERROR_INVALID && error->code == ERROR_INVALID &&
                (strlen(name) > 100 || strstr(error->message, name) != NULL));
}

static void check_field(const json_t *object, const char *name, enum json_presence presence)
{
    static const char unset[] = "unset";
    const json_t *value = json_object_get(object, name), *container = object;
    struct error error = { .code = ERROR_NONE };
    const char *string = unset;
    struct text text = TEXT("unset");
    const struct text text_before = text;
    int64_t integer = -77;
    bool flag = false;
    double number = json_is_number(value) ? json_number_value(value) : 0.5;

    int result = json_read_string(object, name, presence, &string, &error);
    check_result(result, presence, value, json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value),
                 string != unset, name, &error);
    result = json_read_text(object, name, presence, &text, &error);
    check_result(result, presence, value, json_is_string(value), text.data != text_before.data, name, &error);
    result = json_read_integer(object, name, presence, 0, 1000, &integer, &error);
    check_result(result, presence, value, number >= 0 && number <= 1000 && number == (double)(int)number, integer != -77, name, &error);
    result = json_read_bool(object, name, presence, &flag, &error);
    check_result(result, presence, value, json_is_boolean(value), flag || json_is_false(value), name, &error);
    result = json_read_object(object, name, presence, &container, &error);
    check_result(result, presence, value, json_is_object(value), container != object, name, &error);
    container = object;
    result = json_read_array(object, name, presence, &container, &error);
    check_result(result, presence, value, json_is_array(value), container != object, name, &error);
}

static void check_fields(json_t *value)
{
    const char *name;
    json_t *field;
    json_object_foreach(value, name, field)
    {
        check_field(value, name, JSON_OPTIONAL);
        check_field(value, name, JSON_REQUIRED);
    }
    check_field(value, "no such field", JSON_OPTIONAL);
    check_field(value, "no such field", JSON_REQUIRED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *value = fuzz_parse_json(data, size);

    check_verdict(data, size, value);
    if (value != NULL) {
        check_printing(value);
        check_fields(value);
    }
    json_decref(value);
    return 0;
}
