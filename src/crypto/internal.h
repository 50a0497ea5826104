/* What the files of this room share and nobody else may see. */
#ifndef CRYPTO_INTERNAL_H
#define CRYPTO_INTERNAL_H

#include <sodium.h>

#include "crypto/keys.h"

enum { DERIVED_KEY_BYTES = 32 };

struct keypair {                                /* sodium_malloc */
    uint8_t secret[crypto_sign_SECRETKEYBYTES]; /* seed, then public key */
    uint8_t box_secret[crypto_box_SECRETKEYBYTES];
    uint8_t nonce_key[DERIVED_KEY_BYTES];
    struct public_key public_key;
    char public_hex[KEY_HEX_SIZE];
    bool opens_only; /* a former key: `secret` is zero */
};

/* For what only fails when memory is damaged or the library is broken: going on would send or accept something unsafe. */
NO_RETURN void crypto_failed(const char *what);
/* sodium_malloc that never gives NULL. */
void *secret_alloc(size_t size) MUST_CHECK;
/* crypto_kdf, subkey 1, of the generic hash of the seed (30-delivery). */
void seed_derive(const uint8_t seed[static SEED_BYTES], const char context[static crypto_kdf_CONTEXTBYTES],
                 uint8_t ret_key[static DERIVED_KEY_BYTES]);

#endif
