/* The chunked transfer coding, byte by byte but for the data. Owns nothing; bounds sizes before anybody allocates for them. */
#include "net/http_chunked.h"

#include <string.h>

enum { SIZE_DIGITS_MAXIMUM = 15, TRAILER_MAXIMUM = 8 * 1024 };

static int hex_digit(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    if (byte >= 'A' && byte <= 'F')
        return byte - 'A' + 10;
    return -1;
}

static enum http_chunked_state step_size(struct http_chunked *chunked, char byte)
{
    int digit = hex_digit(byte);

    if (digit >= 0 && chunked->digits < SIZE_DIGITS_MAXIMUM) {
        chunked->remaining = chunked->remaining * 16 + (uint64_t)digit;
        chunked->digits++;
        return CHUNKED_SIZE;
    }
    return byte == '\r' && chunked->digits > 0 ? CHUNKED_SIZE_LF : CHUNKED_BAD;
}

static enum http_chunked_state step_trailer(struct http_chunked *chunked, char byte)
{
    const unsigned char value = (unsigned char)byte;

    if (++chunked->trailer_size > TRAILER_MAXIMUM)
        return CHUNKED_BAD;
    if (byte == '\r')
        return chunked->state == CHUNKED_TRAILER ? CHUNKED_END_LF : CHUNKED_TRAILER_LF;
    /* A line that begins with a space would be folded into the one before. */
    if (chunked->state == CHUNKED_TRAILER && (byte == ' ' || byte == '\t'))
        return CHUNKED_BAD;
    if ((value < 0x20 && byte != '\t') || value == 0x7f)
        return CHUNKED_BAD;
    return CHUNKED_TRAILER_LINE;
}

/* Every state but CHUNKED_DATA and CHUNKED_DONE: one byte. */
static enum http_chunked_state step(struct http_chunked *chunked, char byte)
{
    switch (chunked->state) {
    case CHUNKED_SIZE:
        return step_size(chunked, byte);
    case CHUNKED_SIZE_LF:
        if (byte != '\n')
            return CHUNKED_BAD;
        chunked->digits = 0;
        return chunked->remaining > 0 ? CHUNKED_DATA : CHUNKED_TRAILER;
    case CHUNKED_DATA_CR:
        return byte == '\r' ? CHUNKED_DATA_LF : CHUNKED_BAD;
    case CHUNKED_DATA_LF:
        return byte == '\n' ? CHUNKED_SIZE : CHUNKED_BAD;
    case CHUNKED_TRAILER:
    case CHUNKED_TRAILER_LINE:
        return step_trailer(chunked, byte);
    case CHUNKED_TRAILER_LF:
        return byte == '\n' ? CHUNKED_TRAILER : CHUNKED_BAD;
    case CHUNKED_END_LF:
        return byte == '\n' ? CHUNKED_DONE : CHUNKED_BAD;
    case CHUNKED_DATA:
    case CHUNKED_DONE:
    case CHUNKED_BAD:
        break;
    }
    return CHUNKED_BAD;
}

int http_chunked_decode(struct http_chunked *chunked, const char *input, size_t size, char *output, size_t already, size_t maximum,
                        size_t *ret_consumed, size_t *ret_produced, bool *ret_too_large)
{
    size_t consumed = 0, produced = 0;

    while (consumed < size && chunked->state != CHUNKED_DONE) {
        if (chunked->state == CHUNKED_DATA) {
            size_t take = size - consumed;
            if (take > chunked->remaining)
                take = (size_t)chunked->remaining;
            memmove(output + produced, input + consumed, take);
            consumed += take;
            produced += take;
            chunked->remaining -= take;
            if (chunked->remaining == 0)
                chunked->state = CHUNKED_DATA_CR;
            continue;
        }
        chunked->state = step(chunked, input[consumed++]);
        if (chunked->state == CHUNKED_BAD)
            return -1;
        if (chunked->state == CHUNKED_DATA && chunked->remaining > maximum - already - produced) {
            chunked->state = CHUNKED_BAD;
            *ret_too_large = true;
            return -1;
        }
    }
    *ret_consumed = consumed;
    *ret_produced = produced;
    return 0;
}
