/* Hex, base64, base64url: one spelling of everything. What decodes encodes to the very same text, whatever is encoded decodes, and what is refused leaves the output as it was. */
#include "crypto/crypto.h"
#include "fuzz.h"

typedef int encoder(const void *data, size_t size, struct buffer *ret_text);
typedef int decoder(const char *text, size_t length, struct buffer *ret_data);

static const char FRONT[] = "before";

static void check_base64(encoder *encode, decoder *decode, const uint8_t *data, size_t size)
{
    struct buffer encoded, decoded;
    char *text = memory_dup(data, size);
    buffer_init(&encoded, BUFFER_UNLIMITED);
    buffer_init(&decoded, BUFFER_UNLIMITED);
    (void)buffer_append_text(&decoded, FRONT);
    const size_t front = decoded.length;

    if (decode(text, size, &decoded) == 0) {
        REQUIRE(encode(decoded.data + front, decoded.length - front, &encoded) == 0);
        REQUIRE(encoded.length == size && memcmp(encoded.data, text, size) == 0);
    } else {
        REQUIRE(decoded.length == front && !decoded.overflow);
    }
    REQUIRE(memcmp(decoded.data, FRONT, front) == 0 && decoded.data[decoded.length] == '\0');
    buffer_reset(&encoded);
    buffer_reset(&decoded);
    REQUIRE(encode(text, size, &encoded) == 0 && decode(encoded.data, encoded.length, &decoded) == 0);
    REQUIRE(decoded.length == size && memcmp(decoded.data, text, size) == 0);

    /* A maximum that just fits is enough; one less is too little. */
    struct buffer exact;
    buffer_init(&exact, size);
    REQUIRE(decode(encoded.data, encoded.length, &exact) == 0);
    buffer_release(&exact);
    if (size > 0) {
        buffer_init(&exact, size - 1);
        REQUIRE(decode(encoded.data, encoded.length, &exact) != 0);
        buffer_release(&exact);
    }
    buffer_release(&encoded);
    buffer_release(&decoded);
    free(text);
}

static void check_hex(const uint8_t *data, size_t size)
{
    const size_t half = size / 2;
    char *text = memory_dup(data, size);
    uint8_t *bytes = memory_alloc(half + 1);
    char *again = memory_alloc(size + 2);

    memset(bytes, 0xA5, half + 1);
    if (hex_decode(text, size, bytes, half) == 0) {
        hex_encode(bytes, half, again);
        REQUIRE(size % 2 == 0 && strlen(again) == size && memcmp(again, text, size) == 0);
    } else {
        for (size_t i = 0; i < half; i++)
            REQUIRE(bytes[i] == 0xA5);
    }
    REQUIRE(bytes[half] == 0xA5);
    hex_encode(text, half, again);
    REQUIRE(hex_decode(again, half * 2, bytes, half) == 0 && memcmp(bytes, text, half) == 0);
    free(again);
    free(bytes);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_base64(base64_encode, base64_decode, data, size);
    check_base64(base64url_encode, base64url_decode, data, size);
    check_hex(data, size);

    struct fuzz_input input = { data, size };
    char *text = fuzz_take_string(&input, '\0');
    if (hex_is_key(text))
        REQUIRE(strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64);
    free(text);
    return 0;
}
