/* Chunked bodies, decoded in pieces and in place, against a naive decoder of the whole: the same bytes, the same verdict, whatever the pieces. */
#include "fuzz.h"
#include "net/http_chunked.h"

enum { MAXIMUM = 4096, TRAILERS_MAXIMUM = 8192 };

enum verdict { INCOMPLETE, COMPLETE, REFUSED };

struct naive {
    enum verdict verdict;
    char data[MAXIMUM];
    size_t size, consumed;
    bool too_large;
};

static int hex_digit(uint8_t byte)
{
    static const char DIGITS[] = "0123456789abcdef0123456789ABCDEF";
    const char *found = byte == 0 ? NULL : strchr(DIGITS, byte);
    return found == NULL ? -1 : (int)((found - DIGITS) % 16);
}

/* The next byte must be this one. False: it is not there (INCOMPLETE) or another (REFUSED). */
static bool expect(const uint8_t *data, size_t size, struct naive *naive, uint8_t byte)
{
    if (naive->consumed == size) {
        naive->verdict = INCOMPLETE;
        return false;
    }
    if (data[naive->consumed] != byte) {
        naive->verdict = REFUSED;
        return false;
    }
    naive->consumed++;
    return true;
}

static bool read_size(const uint8_t *data, size_t size, struct naive *naive, uint64_t *ret_value)
{
    enum { DIGITS_MAXIMUM = 15 };
    uint64_t value = 0;
    size_t digits = 0;
    for (; naive->consumed < size && hex_digit(data[naive->consumed]) >= 0; naive->consumed++) {
        if (++digits > DIGITS_MAXIMUM) {
            naive->verdict = REFUSED;
            return false;
        }
        value = value * 16 + (uint64_t)hex_digit(data[naive->consumed]);
    }
    if (digits == 0) {
        naive->verdict = naive->consumed == size ? INCOMPLETE : REFUSED;
        return false;
    }
    *ret_value = value;
    return expect(data, size, naive, '\r') && expect(data, size, naive, '\n');
}

static void decode_whole(const uint8_t *data, size_t size, struct naive *naive)
{
    uint64_t chunk;
    while (read_size(data, size, naive, &chunk)) {
        if (chunk == 0) {
            naive->verdict = COMPLETE; /* but for the trailers, which are compared no further */
            return;
        }
        if (chunk > MAXIMUM - naive->size) {
            naive->too_large = true;
            naive->verdict = REFUSED;
            return;
        }
        for (; chunk > 0 && naive->consumed < size; chunk--)
            naive->data[naive->size++] = (char)data[naive->consumed++];
        if (chunk > 0) {
            naive->verdict = INCOMPLETE;
            return;
        }
        if (!expect(data, size, naive, '\r') || !expect(data, size, naive, '\n'))
            return;
    }
}

/* Moves data down in its own block, as the server does. */
static void decode_in_pieces(const uint8_t *data, size_t size, size_t step, const struct naive *naive)
{
    struct http_chunked chunked = { 0 };
    char *block = memory_dup(data, size);
    size_t at = 0, produced = 0;
    bool too_large = false, refused = false;

    while (at < size && chunked.state != CHUNKED_DONE && !refused) {
        const size_t piece = size - at < step ? size - at : step;
        size_t consumed = 0, more = 0;
        refused = http_chunked_decode(&chunked, block + at, piece, block + produced, produced, MAXIMUM, &consumed, &more, &too_large) != 0;
        if (refused)
            break;
        REQUIRE(consumed > 0 && consumed <= piece && more <= consumed && (consumed == piece || chunked.state == CHUNKED_DONE));
        at += consumed;
        produced += more;
    }
    REQUIRE(too_large == naive->too_large && (!too_large || refused));
    if (naive->verdict == REFUSED) {
        REQUIRE(refused);
    } else if (!refused) {
        REQUIRE(produced == naive->size && memcmp(block, naive->data, produced) == 0);
        if (naive->verdict == INCOMPLETE)
            REQUIRE(chunked.state != CHUNKED_DONE);
        else if (chunked.state == CHUNKED_DONE)
            REQUIRE(at >= naive->consumed + 2 && block[at - 1] == '\n' && at - naive->consumed <= TRAILERS_MAXIMUM + 2);
    }
    REQUIRE(!refused || naive->verdict != INCOMPLETE);
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t STEPS[] = { 1, 2, 3, 7, 64, SIZE_MAX };
    static struct naive naive;

    naive = (struct naive){ .verdict = INCOMPLETE };
    decode_whole(data, size, &naive);
    for (size_t i = 0; i < ARRAY_LENGTH(STEPS); i++)
        decode_in_pieces(data, size, STEPS[i], &naive);
    return 0;
}
