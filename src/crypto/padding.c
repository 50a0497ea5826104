/* Owns the padding of envelopes (45-trust, Padding): ISO/IEC 7816-4 bytes, as sodium_pad writes them, to a length of our
 * own choice. */
#include "crypto/box.h"

enum { BLOCK = 128, PADME_FROM = 1024 };

static unsigned floor_log2(size_t number)
{
    unsigned log = 0;
    while (number >>= 1) {
        log++;
    }
    return log;
}

/* Padmé: as many low bits are zero as leave the length a floating point number whose mantissa is no longer than its
 * exponent: at most 12 per cent more, and few lengths that can be told apart. */
static size_t padme(size_t length)
{
    unsigned exponent = floor_log2(length);
    unsigned mantissa_bits = floor_log2(exponent) + 1;
    size_t mask = ((size_t)1 << (exponent - mantissa_bits)) - 1;
    return (length + mask) & ~mask;
}

static size_t padded_size(size_t size)
{
    size_t padded = (size / BLOCK + 1) * BLOCK; /* at least one byte of padding */
    if (padded <= PADME_FROM) {
        return padded;
    }
    return (padme(padded) + BLOCK - 1) / BLOCK * BLOCK;
}

int envelope_pad(struct buffer *plaintext, struct error *error)
{
    size_t size = plaintext->length;
    if (size > SIZE_MAX / 4) {
        return error_set(error, ERROR_TOO_LARGE, "an envelope of %zu bytes is too large", size);
    }
    size_t added = padded_size(size) - size;
    char *room = buffer_reserve(plaintext, added);
    if (room == NULL) {
        return error_set(error, ERROR_TOO_LARGE, "an envelope of %zu bytes is too large", size);
    }
    memset(room, 0, added);
    room[0] = (char)0x80;
    buffer_commit(plaintext, added);
    return 0;
}

int envelope_unpad(const void *padded, size_t size, size_t *ret_size, struct error *error)
{
    const uint8_t *bytes = padded;
    while (size > 0 && bytes[size - 1] == 0) {
        size--;
    }
    if (size == 0 || bytes[size - 1] != 0x80) {
        return error_set(error, ERROR_INVALID, "no padding");
    }
    *ret_size = size - 1;
    return 0;
}
