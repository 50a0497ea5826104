/* Owns the scanning of TOML values: strings, integers, booleans, arrays of strings. */
#include <stdarg.h>

#include "config/toml_scanner.h"
#include "util/buffer.h"
#include "util/memory.h"
#include "util/text.h"

void toml_scanner_init(struct toml_scanner *scanner, const char *name, const char *bytes, size_t length, struct error *error)
{
    *scanner =
        (struct toml_scanner){ .name = name, .position = bytes, .end = bytes + length, .line_start = bytes, .line = 1, .error = error };
}

char toml_peek(const struct toml_scanner *scanner)
{
    return scanner->position < scanner->end ? *scanner->position : '\0';
}

int toml_column(const struct toml_scanner *scanner)
{
    int column = 1;
    for (const char *byte = scanner->line_start; byte < scanner->position; byte++) {
        column += ((unsigned char)*byte & 0xC0) != 0x80 ? 1 : 0;
    }
    return column;
}

int toml_fail(struct toml_scanner *scanner, const char *format, ...)
{
    va_list arguments;
    char message[ERROR_MESSAGE_SIZE];
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    return error_set(scanner->error, ERROR_INVALID, "%s:%d:%d: %s", scanner->name, scanner->line, toml_column(scanner), message);
}

void toml_skip_blanks(struct toml_scanner *scanner)
{
    while (toml_peek(scanner) == ' ' || toml_peek(scanner) == '\t') {
        scanner->position++;
    }
}

static bool is_control(char byte)
{
    return ((unsigned char)byte < 0x20 && byte != '\t') || byte == 0x7F;
}

int toml_end_line(struct toml_scanner *scanner)
{
    toml_skip_blanks(scanner);
    if (toml_peek(scanner) == '#') {
        while (scanner->position < scanner->end && !is_control(*scanner->position)) {
            scanner->position++;
        }
    }
    if (scanner->position == scanner->end) {
        return 0;
    }
    if (*scanner->position == '\r' && scanner->position + 1 < scanner->end && scanner->position[1] == '\n') {
        scanner->position++;
    }
    if (*scanner->position != '\n') {
        return toml_fail(scanner, is_control(*scanner->position) ? "a control character" : "something after the end of the line's value");
    }
    scanner->position++;
    scanner->line_start = scanner->position;
    scanner->line++;
    return 0;
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */

static void append_code_point(struct buffer *text, uint32_t code_point)
{
    char bytes[4];
    size_t size = code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    static const unsigned char LEADS[] = { 0, 0, 0xC0, 0xE0, 0xF0 };
    for (size_t index = size; index > 1; index--) {
        bytes[index - 1] = (char)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    bytes[0] = (char)(LEADS[size] | code_point);
    (void)buffer_append(text, bytes, size);
}

/* Behind \u or \U. */
static int scan_code_point(struct toml_scanner *scanner, size_t digits, struct buffer *text)
{
    uint32_t code_point = 0;
    for (size_t index = 0; index < digits; index++) {
        static const char HEX[] = "0123456789abcdef0123456789ABCDEF";
        char digit = toml_peek(scanner);
        const char *found = digit == '\0' ? NULL : strchr(HEX, digit);
        if (found == NULL) {
            return toml_fail(scanner, "an escape of %zu hex digits is cut short", digits);
        }
        code_point = (code_point << 4) | (uint32_t)((found - HEX) % 16);
        scanner->position++;
    }
    if (code_point == 0 || code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
        return toml_fail(scanner, "an escape for something that is no character");
    }
    append_code_point(text, code_point);
    return 0;
}

/* Behind the backslash. */
static int scan_escape(struct toml_scanner *scanner, struct buffer *text)
{
    static const char LETTERS[] = "btnfr\"\\";
    static const char MEANINGS[] = "\b\t\n\f\r\"\\";
    char letter = toml_peek(scanner);
    const char *found = letter == '\0' ? NULL : strchr(LETTERS, letter);
    if (found != NULL) {
        scanner->position++;
        (void)buffer_append_byte(text, MEANINGS[found - LETTERS]);
        return 0;
    }
    if (letter == 'u' || letter == 'U') {
        scanner->position++;
        return scan_code_point(scanner, letter == 'u' ? 4 : 8, text);
    }
    return toml_fail(scanner, "an unknown escape; a backslash itself is written \\\\");
}

int toml_scan_string(struct toml_scanner *scanner, char **ret_text)
{
    char quote = *scanner->position;
    if (scanner->end - scanner->position >= 3 && scanner->position[1] == quote && scanner->position[2] == quote) {
        return toml_fail(scanner, "strings over several lines are not supported");
    }
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    scanner->position++;
    int result = 0;
    while (result == 0 && toml_peek(scanner) != quote) {
        char byte = toml_peek(scanner);
        if (byte == '\0' || byte == '\n' || byte == '\r') {
            result = toml_fail(scanner, "a string that does not end on its line");
        } else if (is_control(byte)) {
            result = toml_fail(scanner, "a control character in a string");
        } else if (byte == '\\' && quote == '"') {
            scanner->position++;
            result = scan_escape(scanner, &text);
        } else {
            (void)buffer_append_byte(&text, byte);
            scanner->position++;
        }
    }
    if (result == 0) {
        scanner->position++;
        *ret_text = buffer_take(&text, NULL);
    }
    buffer_release(&text);
    return result;
}

/* ---- other values ----------------------------------------------------------------------------------------------- */

static bool is_word_byte(char byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_' || byte == '+' ||
           byte == '-' || byte == '.' || byte == ':';
}

/* Decimal digits, single underscores between digits, no zero in front. */
static int parse_integer(const char *word, size_t length, int64_t *ret_integer)
{
    char digits[32];
    size_t out = 0;
    size_t index = 0;
    if (word[0] == '+' || word[0] == '-') {
        if (word[0] == '-') {
            digits[out++] = '-';
        }
        index++;
    }
    bool starts_wrong = index == length || word[index] < '0' || word[index] > '9';
    if (starts_wrong || (word[index] == '0' && length > index + 1)) {
        return -1;
    }
    for (; index < length; index++) {
        bool between = word[index] == '_' && index > 0 && index + 1 < length && word[index - 1] >= '0' && word[index - 1] <= '9' &&
                       word[index + 1] >= '0' && word[index + 1] <= '9';
        if (between) {
            continue;
        }
        if (out + 1 >= sizeof(digits)) {
            return -1;
        }
        digits[out++] = word[index];
    }
    digits[out] = '\0';
    return parse_int64(digits, ret_integer);
}

static int scan_word(struct toml_scanner *scanner, struct toml_value *ret_value)
{
    const char *word = scanner->position;
    const char *after = word;
    while (after < scanner->end && is_word_byte(*after)) {
        after++;
    }
    struct text text = { word, (size_t)(after - word) };
    if (text_equal_c(text, "true") || text_equal_c(text, "false")) {
        ret_value->kind = TOML_BOOLEAN;
        ret_value->boolean = word[0] == 't';
    } else if (text.length > 0 && parse_integer(word, text.length, &ret_value->integer) == 0) {
        ret_value->kind = TOML_INTEGER;
    } else {
        return toml_fail(scanner, "no value: expected a string in quotes, a whole number, true, false, or a list of strings");
    }
    scanner->position = after;
    return 0;
}

/* Between the elements of a list lines may end and comments stand. */
static int skip_lines(struct toml_scanner *scanner)
{
    for (;;) {
        toml_skip_blanks(scanner);
        char byte = toml_peek(scanner);
        if (byte != '#' && byte != '\n' && byte != '\r') {
            return 0;
        }
        int result = toml_end_line(scanner);
        if (result != 0) {
            return result;
        }
    }
}

void toml_list_append(struct toml_value *list, char *item)
{
    list->items = memory_realloc(list->items, (list->item_count + 1) * sizeof(*list->items));
    list->items[list->item_count++] = item;
}

static int scan_list(struct toml_scanner *scanner, struct toml_value *ret_value)
{
    ret_value->kind = TOML_LIST;
    scanner->position++;
    for (;;) {
        int result = skip_lines(scanner);
        if (result != 0) {
            return result;
        }
        char byte = toml_peek(scanner);
        if (byte == ']') {
            scanner->position++;
            return 0;
        }
        if (byte != '"' && byte != '\'') {
            return toml_fail(scanner, byte == '\0' ? "a list that does not end" : "expected a string or the list's end");
        }
        char *item = NULL;
        result = toml_scan_string(scanner, &item);
        if (result != 0) {
            return result;
        }
        toml_list_append(ret_value, item);
        result = skip_lines(scanner);
        if (result != 0) {
            return result;
        }
        if (toml_peek(scanner) == ',') {
            scanner->position++;
        } else if (toml_peek(scanner) != ']') {
            return toml_fail(scanner, "expected a comma or the list's end");
        }
    }
}

int toml_scan_value(struct toml_scanner *scanner, struct toml_value *ret_value)
{
    struct toml_value value = { .kind = TOML_STRING };
    int result = 0;
    switch (toml_peek(scanner)) {
    case '"':
    case '\'':
        result = toml_scan_string(scanner, &value.text);
        break;
    case '[':
        result = scan_list(scanner, &value);
        break;
    default:
        result = scan_word(scanner, &value);
        break;
    }
    if (result != 0) {
        toml_value_release(&value);
        return result;
    }
    *ret_value = value;
    return 0;
}

int toml_parse_value(const char *text, struct toml_value *ret_value, struct error *error)
{
    struct toml_scanner scanner;
    struct toml_value value = { .kind = TOML_STRING };
    toml_scanner_init(&scanner, "value", text, strlen(text), error);
    int result = toml_scan_value(&scanner, &value);
    if (result == 0 && scanner.position != scanner.end) {
        result = toml_fail(&scanner, "something after the value");
        toml_value_release(&value);
    }
    if (result == 0) {
        *ret_value = value;
    }
    return result;
}

void toml_value_release(struct toml_value *value)
{
    if (value == NULL) {
        return;
    }
    for (size_t index = 0; index < value->item_count; index++) {
        free(value->items[index]);
    }
    free(value->items);
    free(value->text);
    *value = (struct toml_value){ .kind = TOML_STRING };
}
