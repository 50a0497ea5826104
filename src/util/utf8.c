/* Owns reading UTF-8 strictly, and making untrusted text safe for a terminal. */
#include "util/memory.h"
#include "util/text.h"

size_t utf8_decode(const char *text, size_t length, uint32_t *ret_code_point)
{
    const unsigned char *bytes = (const unsigned char *)text;
    if (length == 0) {
        return 0;
    }
    if (bytes[0] < 0x80) {
        *ret_code_point = bytes[0];
        return 1;
    }
    size_t needed = 0;
    uint32_t code_point = 0;
    uint32_t smallest = 0;
    if (bytes[0] >= 0xC2 && bytes[0] <= 0xDF) {
        needed = 2;
        code_point = bytes[0] & 0x1Fu;
        smallest = 0x80;
    } else if (bytes[0] >= 0xE0 && bytes[0] <= 0xEF) {
        needed = 3;
        code_point = bytes[0] & 0x0Fu;
        smallest = 0x800;
    } else if (bytes[0] >= 0xF0 && bytes[0] <= 0xF4) {
        needed = 4;
        code_point = bytes[0] & 0x07u;
        smallest = 0x10000;
    } else {
        return 0;
    }
    if (length < needed) {
        return 0;
    }
    for (size_t index = 1; index < needed; index++) {
        if ((bytes[index] & 0xC0) != 0x80) {
            return 0;
        }
        code_point = (code_point << 6) | (bytes[index] & 0x3Fu);
    }
    if (code_point < smallest || code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
        return 0;
    }
    *ret_code_point = code_point;
    return needed;
}

bool utf8_is_valid(const char *text, size_t length)
{
    size_t index = 0;
    while (index < length) {
        /* Most text is ASCII: eight bytes at a time. */
        uint64_t word = 0;
        while (length - index >= sizeof(word)) {
            memcpy(&word, text + index, sizeof(word));
            if ((word & UINT64_C(0x8080808080808080)) != 0) {
                break;
            }
            index += sizeof(word);
        }
        if (index == length) {
            break;
        }
        uint32_t code_point = 0;
        size_t size = utf8_decode(text + index, length - index, &code_point);
        if (size == 0) {
            return false;
        }
        index += size;
    }
    return true;
}

/* Could move the cursor, change colours, break the line, or show characters in another order than they stand. */
static bool is_unsafe_on_terminal(uint32_t code_point)
{
    return code_point < 0x20 || (code_point >= 0x7F && code_point <= 0x9F) || code_point == 0x061C || code_point == 0x200E ||
           code_point == 0x200F || code_point == 0x2028 || code_point == 0x2029 || (code_point >= 0x202A && code_point <= 0x202E) ||
           (code_point >= 0x2066 && code_point <= 0x2069);
}

char *text_printable(const char *text, size_t length)
{
    if (length > SIZE_MAX / 3 - 1) {
        memory_exhausted();
    }
    char *copy = memory_alloc(length * 3 + 1); /* an invalid byte becomes the three of U+FFFD */
    size_t out = 0;
    size_t index = 0;
    while (index < length) {
        uint32_t code_point = 0;
        size_t size = utf8_decode(text + index, length - index, &code_point);
        if (size == 0) {
            memcpy(copy + out, "\xEF\xBF\xBD", 3);
            out += 3;
            index++;
            continue;
        }
        if (!is_unsafe_on_terminal(code_point)) {
            memcpy(copy + out, text + index, size);
            out += size;
        }
        index += size;
    }
    copy[out] = '\0';
    return copy;
}
