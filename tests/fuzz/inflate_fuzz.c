/* permessage-deflate: any bytes, within a maximum; and whatever zlib deflates comes back the same. */
#include <zlib.h>

#include "fuzz.h"
#include "net/websocket_internal.h"

enum { MAXIMUM = 8192, DEFLATED_MAXIMUM = 16384 };

static void check_inflate(const char *bytes, size_t size, size_t maximum)
{
    struct buffer text;
    const int result = websocket_inflate(bytes, size, maximum, &text);

    REQUIRE(result == 0 || result == -1 || result == -2);
    if (result == 0) {
        REQUIRE(text.length <= maximum && text.data[text.length] == '\0');
        buffer_release(&text);
    }
}

/* As RFC 7692 says: a raw stream with a sync flush, without its last four bytes. */
static void check_round_trip(const uint8_t *data, size_t size, int level)
{
    static z_stream streams[10];
    static unsigned char deflated[DEFLATED_MAXIMUM];
    z_stream *stream = &streams[level];
    struct buffer text;

    if (stream->state == NULL)
        REQUIRE(deflateInit2(stream, level, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    REQUIRE(deflateReset(stream) == Z_OK);
    stream->next_in = (Bytef *)(uintptr_t)data;
    stream->avail_in = (uInt)size;
    stream->next_out = deflated;
    stream->avail_out = sizeof(deflated);
    REQUIRE(deflate(stream, Z_SYNC_FLUSH) == Z_OK && stream->avail_in == 0 && stream->avail_out > 0);
    const size_t length = sizeof(deflated) - stream->avail_out;
    REQUIRE(length >= 4 && memcmp(deflated + length - 4, "\x00\x00\xff\xff", 4) == 0);
    REQUIRE(websocket_inflate(deflated, length - 4, MAXIMUM, &text) == 0);
    REQUIRE(text.length == size && memcmp(text.data, data, size) == 0);
    buffer_release(&text);
    if (size > 0 && length - 4 <= size - 1)
        REQUIRE(websocket_inflate(deflated, length - 4, size - 1, &text) == -2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096)
        return 0;
    char *bytes = memory_dup(data, size);

    check_inflate(bytes, size, MAXIMUM);
    check_inflate(bytes, size, size);
    check_round_trip(data, size, size % 2 == 0 ? 1 : 6);
    free(bytes);
    return 0;
}
