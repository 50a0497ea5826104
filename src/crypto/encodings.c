/* Owns hex and base64, in one form each. Hex and the URL-safe alphabet carry secrets (keys, tokens, invites): they run the
 * same steps whatever the bytes are. The standard alphabet carries what everybody may see (ciphertext, nonces), a lot of
 * it: tables, four times as fast. */
#include <sodium.h>

#include "crypto/crypto.h"

void hex_encode(const void *data, size_t size, char *ret_hex)
{
    (void)sodium_bin2hex(ret_hex, size * 2 + 1, data, size);
}

/* 0 to 15, or -1, without a branch on the digit. */
static int hex_value(char digit)
{
    int byte = (unsigned char)digit;
    int number = byte - '0';
    int letter = byte - 'a';
    int is_number = (int)(((unsigned)number - 10u) >> 31) & ~(int)((unsigned)number >> 31);
    int is_letter = (int)(((unsigned)letter - 6u) >> 31) & ~(int)((unsigned)letter >> 31);
    return (-is_number & number) | (-is_letter & (letter + 10)) | -(1 - (is_number | is_letter));
}

int hex_decode(const char *hex, size_t hex_length, void *ret_data, size_t size)
{
    if (size > SIZE_MAX / 2 || hex_length != size * 2) {
        return -1;
    }
    int wrong = 0;
    for (size_t index = 0; index < hex_length; index++) {
        wrong |= hex_value(hex[index]);
    }
    if (wrong < 0) {
        return -1;
    }
    uint8_t *bytes = ret_data;
    for (size_t index = 0; index < size; index++) {
        bytes[index] = (uint8_t)(hex_value(hex[index * 2]) << 4 | hex_value(hex[index * 2 + 1]));
    }
    return 0;
}

bool hex_is_key(const char *text)
{
    enum { KEY_DIGITS = 64 };
    return strnlen(text, KEY_DIGITS + 1) == KEY_DIGITS && strspn(text, "0123456789abcdef") == KEY_DIGITS;
}

/* ---- the standard alphabet -------------------------------------------------------------------------------------- */

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

enum { NO_DIGIT = 0x80 }; /* a bit that no digit's value has */

/* Values plus one, so that what is not named is 0: no digit. */
static const uint8_t VALUES_PLUS_ONE[256] = {
    ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,  ['H'] = 8,  ['I'] = 9,  ['J'] = 10, ['K'] = 11,
    ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16, ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22,
    ['W'] = 23, ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32, ['g'] = 33,
    ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40, ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44,
    ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48, ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55,
    ['3'] = 56, ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64,
};

static uint32_t digit_value(char digit)
{
    uint8_t value = VALUES_PLUS_ONE[(unsigned char)digit];
    return value == 0 ? NO_DIGIT : (uint32_t)value - 1;
}

int base64_encode(const void *data, size_t size, struct buffer *ret_text)
{
    const uint8_t *bytes = data;
    size_t length = size > SIZE_MAX / 2 ? SIZE_MAX : (size + 2) / 3 * 4;
    char *text = buffer_reserve(ret_text, length);
    if (text == NULL) {
        return -1;
    }
    for (; size >= 3; size -= 3, bytes += 3) {
        uint32_t group = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 8 | bytes[2];
        *text++ = ALPHABET[group >> 18];
        *text++ = ALPHABET[group >> 12 & 63];
        *text++ = ALPHABET[group >> 6 & 63];
        *text++ = ALPHABET[group & 63];
    }
    if (size > 0) {
        uint32_t group = (uint32_t)bytes[0] << 16 | (size == 2 ? (uint32_t)bytes[1] << 8 : 0);
        *text++ = ALPHABET[group >> 18];
        *text++ = ALPHABET[group >> 12 & 63];
        *text++ = size == 2 ? ALPHABET[group >> 6 & 63] : '=';
        *text++ = '=';
    }
    buffer_commit(ret_text, length);
    return 0;
}

/* The last group of a text: one, two or three bytes. The bits that belong to no byte must be zero, or one value would have
 * several spellings. Returns how many bytes; 0 when it is malformed. */
static size_t decode_last_group(const char *text, uint8_t ret_bytes[static 3])
{
    size_t padding = text[3] != '=' ? 0 : text[2] != '=' ? 1 : 2;
    uint32_t third = padding == 2 ? 0 : digit_value(text[2]);
    uint32_t fourth = padding > 0 ? 0 : digit_value(text[3]);
    uint32_t first = digit_value(text[0]);
    uint32_t second = digit_value(text[1]);
    if (((first | second | third | fourth) & NO_DIGIT) != 0) {
        return 0;
    }
    uint32_t group = first << 18 | second << 12 | third << 6 | fourth;
    uint32_t unused = padding == 0 ? 0 : padding == 1 ? 0xFF : 0xFFFF;
    if ((group & unused) != 0) {
        return 0;
    }
    ret_bytes[0] = (uint8_t)(group >> 16);
    ret_bytes[1] = (uint8_t)(group >> 8);
    ret_bytes[2] = (uint8_t)group;
    return 3 - padding;
}

int base64_decode(const char *text, size_t length, struct buffer *ret_data)
{
    uint8_t last[3];
    size_t last_size = 0;
    if (length % 4 != 0) {
        return -1;
    }
    size_t groups = length / 4;
    if (groups > 0) {
        groups--;
        last_size = decode_last_group(text + groups * 4, last);
        if (last_size == 0) {
            return -1;
        }
    }
    uint8_t *bytes = (uint8_t *)buffer_reserve(ret_data, groups * 3 + last_size);
    if (bytes == NULL) {
        return -1;
    }
    uint32_t wrong = 0;
    for (size_t index = 0; index < groups; index++, text += 4, bytes += 3) {
        uint32_t first = digit_value(text[0]);
        uint32_t second = digit_value(text[1]);
        uint32_t third = digit_value(text[2]);
        uint32_t fourth = digit_value(text[3]);
        wrong |= first | second | third | fourth;
        bytes[0] = (uint8_t)(first << 2 | second >> 4);
        bytes[1] = (uint8_t)(second << 4 | third >> 2);
        bytes[2] = (uint8_t)(third << 6 | fourth);
    }
    memcpy(bytes, last, last_size);
    bool good = (wrong & NO_DIGIT) == 0;
    buffer_commit(ret_data, good ? groups * 3 + last_size : 0);
    return good ? 0 : -1;
}

int64_t base64_decoded_length(const char *text, size_t length)
{
    uint8_t last[3];
    if (length == 0) {
        return 0;
    }
    if (length % 4 != 0) {
        return -1;
    }
    size_t last_size = decode_last_group(text + length - 4, last);
    uint32_t wrong = last_size == 0 ? NO_DIGIT : 0;
    for (size_t index = 0; index < length - 4; index++) {
        wrong |= digit_value(text[index]);
    }
    return (wrong & NO_DIGIT) != 0 ? -1 : (int64_t)(length / 4 * 3 - 3 + last_size);
}

/* ---- the URL-safe alphabet -------------------------------------------------------------------------------------- */

int base64url_encode(const void *data, size_t size, struct buffer *ret_text)
{
    enum { VARIANT = sodium_base64_VARIANT_URLSAFE_NO_PADDING };
    if (size > SIZE_MAX / 4) {
        return -1;
    }
    size_t room = sodium_base64_encoded_len(size, VARIANT); /* with the NUL, for which a buffer always has room */
    char *text = buffer_reserve(ret_text, room - 1);
    if (text == NULL) {
        return -1;
    }
    (void)sodium_bin2base64(text, room, data, size, VARIANT);
    buffer_commit(ret_text, strlen(text));
    return 0;
}

/* libsodium 1.0.18 reads each of these as the digit 63. */
static bool has_high_bytes(const char *text, size_t length)
{
    unsigned all = 0;
    for (size_t index = 0; index < length; index++) {
        all |= (unsigned char)text[index];
    }
    return (all & 0x80) != 0;
}

int base64url_decode(const char *text, size_t length, struct buffer *ret_data)
{
    if (has_high_bytes(text, length)) {
        return -1;
    }
    size_t room = length / 4 * 3 + 3;
    size_t decoded = 0;
    /* The room is an upper bound; a maximum that just fits the data must not be refused for it. */
    size_t left = ret_data->maximum > ret_data->length ? ret_data->maximum - ret_data->length : 0;
    if (room > left) {
        room = left;
    }
    char *data = buffer_reserve(ret_data, room);
    if (data == NULL) {
        return -1;
    }
    if (sodium_base642bin((unsigned char *)data, room, text, length, NULL, &decoded, NULL, sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0) {
        buffer_commit(ret_data, 0); /* puts the NUL back */
        return -1;
    }
    buffer_commit(ret_data, decoded);
    return 0;
}
