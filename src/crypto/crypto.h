/* Start-up, digests, encodings, constant-time comparison. libsodium and OpenSSL's SHA-256.
 * Any thread after crypto_init. */
#ifndef CRYPTO_CRYPTO_H
#define CRYPTO_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/buffer.h"
#include "util/error.h"
#include "util/text.h"

enum { SHA256_BYTES = 32, SHA256_HEX_SIZE = 65 };
struct sha256 {
    uint8_t bytes[SHA256_BYTES];
};

int crypto_start(struct error *error) MUST_CHECK; /* once, first */

void sha256_of(const void *data, size_t size, struct sha256 *ret_digest);
void sha256_of_parts(const struct text *parts, size_t count, struct sha256 *ret_digest); /* concatenated */
void sha256_hex(const void *data, size_t size, char ret_hex[SHA256_HEX_SIZE]);
void hmac_sha256(const uint8_t *key, size_t key_size, const void *data, size_t size, struct sha256 *ret_mac);
/* 32-byte BLAKE2b (libsodium's generic hash), no key. */
void generic_hash(const void *data, size_t size, uint8_t ret_digest[static 32]);

bool secret_equal(const void *a, const void *b, size_t size); /* constant time */
void secret_wipe(void *data, size_t size);

/* Lower-case hex. ret_hex has 2 * size + 1 bytes. */
void hex_encode(const void *data, size_t size, char *ret_hex);
/* Exactly 2 * size lower-case digits and nothing else; else -1. */
int hex_decode(const char *hex, size_t hex_length, void *ret_data, size_t size) MUST_CHECK;
bool hex_is_key(const char *text); /* 64 lower-case hex digits */

/* Standard alphabet, padded (40-wire); strict when decoding: no spaces, canonical padding. */
int base64_encode(const void *data, size_t size, struct buffer *ret_text);
int base64_decode(const char *text, size_t length, struct buffer *ret_data) MUST_CHECK;
/* How many bytes base64_decode would give; -1 where it would refuse. */
int64_t base64_decoded_length(const char *text, size_t length) MUST_CHECK;
/* URL-safe alphabet, no padding. */
int base64url_encode(const void *data, size_t size, struct buffer *ret_text);
int base64url_decode(const char *text, size_t length, struct buffer *ret_data) MUST_CHECK;

#endif
