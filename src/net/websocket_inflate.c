/* Undoes permessage-deflate for one message (RFC 7692), bounded. Keeps nothing between messages. */
#define ZLIB_CONST /* input is const */
#include <zlib.h>

#include "net/websocket_internal.h"

enum { STEP = 16 * 1024 };

/* Inflates one stretch of input. 0, or as websocket_inflate. */
static int inflate_part(z_stream *stream, const void *data, size_t size, struct buffer *text)
{
    int result = Z_OK;

    stream->next_in = (const Bytef *)data;
    stream->avail_in = (uInt)size;
    while (result != Z_STREAM_END && (stream->avail_in > 0 || stream->avail_out == 0)) {
        const size_t left = text->maximum - text->length;
        const size_t room_size = left < STEP ? left : STEP;
        char *room = room_size == 0 ? NULL : buffer_reserve(text, room_size);
        if (room == NULL)
            return -2;
        stream->next_out = (Bytef *)room;
        stream->avail_out = (uInt)room_size;
        result = inflate(stream, Z_SYNC_FLUSH);
        buffer_commit(text, room_size - stream->avail_out);
        if (result == Z_BUF_ERROR && stream->avail_in == 0)
            break;
        if (result != Z_OK && result != Z_STREAM_END)
            return -1;
    }
    return 0;
}

int websocket_inflate(const void *data, size_t size, size_t maximum, struct buffer *ret_text)
{
    static const unsigned char tail[4] = { 0x00, 0x00, 0xff, 0xff };
    z_stream stream = { 0 };
    int result;

    if (size > maximum)
        return -2;
    if (inflateInit2(&stream, -15) != Z_OK)
        return -1;
    /* One byte more than allowed, to tell "exactly" from "too much". */
    buffer_init(ret_text, maximum + 1);
    result = inflate_part(&stream, data, size, ret_text);
    if (result == 0)
        result = inflate_part(&stream, tail, sizeof(tail), ret_text);
    (void)inflateEnd(&stream);
    if (result == 0 && ret_text->length > maximum)
        result = -2;
    if (result != 0)
        buffer_release(ret_text);
    return result;
}
