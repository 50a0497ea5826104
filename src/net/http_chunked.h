/* Strict decoding of a chunked body over bytes: no sockets, no allocation. Pure. */
#ifndef NET_HTTP_CHUNKED_H
#define NET_HTTP_CHUNKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"

enum http_chunked_state {
    CHUNKED_SIZE,    /* in the digits of a size */
    CHUNKED_SIZE_LF, /* behind its CR */
    CHUNKED_DATA,
    CHUNKED_DATA_CR, /* behind the data */
    CHUNKED_DATA_LF,
    CHUNKED_TRAILER,      /* at the start of a trailer line, or of the last, empty one */
    CHUNKED_TRAILER_LINE, /* inside one */
    CHUNKED_TRAILER_LF,
    CHUNKED_END_LF, /* behind the CR of the last, empty line */
    CHUNKED_DONE,
    CHUNKED_BAD
};

/* Zeroed: at the start of a body. */
struct http_chunked {
    enum http_chunked_state state;
    uint8_t digits;        /* of the size being read */
    uint16_t trailer_size; /* bytes of trailers so far */
    uint64_t remaining;    /* of the chunk's data; the size, while it is read */
};

/* Decodes what is at input, of size bytes, to output (which may be input or before it: data only moves down). *ret_consumed input bytes
 * were used, *ret_produced are data. Until CHUNKED_DONE everything is consumed. 0, or -1 when malformed: chunk extensions are, too, as
 * nobody needs them and parsers differ in them. A size over `maximum` less `already` sets *ret_too_large, with -1. Trailers up to 8 KiB
 * are dropped. */
int http_chunked_decode(struct http_chunked *chunked, const char *input, size_t size, char *output, size_t already, size_t maximum,
                        size_t *ret_consumed, size_t *ret_produced, bool *ret_too_large) MUST_CHECK;

#endif
