/* Owns hex and base64, in one form each. Runs the same steps whatever the bytes are: secrets are among them. */
#include <sodium.h>

#include "crypto/crypto.h"

void hex_encode(const void *data, size_t size, char *ret_hex) {
    (void)sodium_bin2hex(ret_hex, size * 2 + 1, data, size);
}

/* 0 to 15, or -1, without a branch on the digit. */
static int hex_value(char digit) {
    int byte = (unsigned char)digit;
    int number = byte - '0';
    int letter = byte - 'a';
    int is_number = (int)(((unsigned)number - 10u) >> 31) & ~(int)((unsigned)number >> 31);
    int is_letter = (int)(((unsigned)letter - 6u) >> 31) & ~(int)((unsigned)letter >> 31);
    return (-is_number & number) | (-is_letter & (letter + 10)) | -(1 - (is_number | is_letter));
}

int hex_decode(const char *hex, size_t hex_length, void *ret_data, size_t size) {
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

bool hex_is_key(const char *text) {
    enum { KEY_DIGITS = 64 };
    return strnlen(text, KEY_DIGITS + 1) == KEY_DIGITS && strspn(text, "0123456789abcdef") == KEY_DIGITS;
}

static int encode(const void *data, size_t size, int variant, struct buffer *ret_text) {
    if (size > SIZE_MAX / 4) {
        return -1;
    }
    size_t room = sodium_base64_encoded_len(size, variant); /* with the NUL, for which a buffer always has room */
    char *text = buffer_reserve(ret_text, room - 1);
    if (text == NULL) {
        return -1;
    }
    (void)sodium_bin2base64(text, room, data, size, variant);
    buffer_commit(ret_text, strlen(text));
    return 0;
}

static int decode(const char *text, size_t length, int variant, struct buffer *ret_data) {
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
    if (sodium_base642bin((unsigned char *)data, room, text, length, NULL, &decoded, NULL, variant) != 0) {
        buffer_commit(ret_data, 0); /* puts the NUL back */
        return -1;
    }
    buffer_commit(ret_data, decoded);
    return 0;
}

int base64_encode(const void *data, size_t size, struct buffer *ret_text) {
    return encode(data, size, sodium_base64_VARIANT_ORIGINAL, ret_text);
}

int base64_decode(const char *text, size_t length, struct buffer *ret_data) {
    return decode(text, length, sodium_base64_VARIANT_ORIGINAL, ret_data);
}

int base64url_encode(const void *data, size_t size, struct buffer *ret_text) {
    return encode(data, size, sodium_base64_VARIANT_URLSAFE_NO_PADDING, ret_text);
}

int base64url_decode(const char *text, size_t length, struct buffer *ret_data) {
    return decode(text, length, sodium_base64_VARIANT_URLSAFE_NO_PADDING, ret_data);
}
