/* Boxes: direct (crypto_box), topic and mesh (crypto_secretbox), 40-wire "Encryption". */
#ifndef CRYPTO_BOX_H
#define CRYPTO_BOX_H

#include "crypto/keys.h"

enum { NONCE_BYTES = 24, BOX_OVERHEAD = 16, SYMMETRIC_KEY_BYTES = 32 };
struct nonce {
    uint8_t bytes[NONCE_BYTES];
};

void nonce_random(struct nonce *ret_nonce);
/* A nonce that is a keyed hash of everything that will be in the box (synthetic IV): the key is derived from
 * the seed (crypto_kdf, context "cm-nonce", subkey 1), the input is recipient ‖ plaintext. A resend of the same row gives
 * the same bytes, another plaintext never the same nonce (docs/decisions/0005). */
void nonce_derive(const struct keypair *mine, const struct public_key *theirs, const void *plaintext, size_t size, struct nonce *ret_nonce);

/* Precomputed shared keys of pairs, least recently used dropped past `capacity`. One thread. */
struct box_cache;
struct box_cache *box_cache_new(size_t capacity);
void box_cache_free(struct box_cache *cache); /* wipes */
/* ed25519 keys; they are converted. Fails on keys that convert to a small-order point. `ret_sealed` gets MAC ‖ ciphertext appended. */
int box_seal(struct box_cache *cache, const struct keypair *mine, const struct public_key *theirs, const struct nonce *nonce,
             const void *plaintext, size_t size, struct buffer *ret_sealed, struct error *error) MUST_CHECK;
/* ERROR_DENIED when it does not open. */
int box_open(struct box_cache *cache, const struct keypair *mine, const struct public_key *theirs, const struct nonce *nonce,
             const void *sealed, size_t size, struct buffer *ret_plaintext, struct error *error) MUST_CHECK;

struct symmetric_key; /* sodium_malloc */
struct symmetric_key *symmetric_key_from(const uint8_t bytes[static SYMMETRIC_KEY_BYTES]);
struct symmetric_key *symmetric_key_generate(void);
void symmetric_key_free(struct symmetric_key *key);
/* Epoch 0 of the mesh key: crypto_kdf(root, 1, "cm-queue"). */
struct symmetric_key *symmetric_key_of_queue(const uint8_t root_key[static SYMMETRIC_KEY_BYTES]);
void symmetric_key_bytes(const struct symmetric_key *key, uint8_t ret_bytes[static SYMMETRIC_KEY_BYTES]); /* for sealing and tests; wipe */
int secretbox_seal(const struct symmetric_key *key, const struct nonce *nonce, const void *plaintext, size_t size,
                   struct buffer *ret_sealed, struct error *error) MUST_CHECK;
int secretbox_open(const struct symmetric_key *key, const struct nonce *nonce, const void *sealed, size_t size,
                   struct buffer *ret_plaintext, struct error *error) MUST_CHECK;

/* sodium_pad to `size` rounded up as 45-trust "Padding" says: multiples of 128 up to 1 KiB, above that Padmé
 * of the padded length rounded up to 128. Appends the padding to the buffer in place. */
int envelope_pad(struct buffer *plaintext, struct error *error) MUST_CHECK;
/* The length without padding (the last 0x80 and the zeros after it); ERROR_INVALID when there is none. */
int envelope_unpad(const void *padded, size_t size, size_t *ret_size, struct error *error) MUST_CHECK;

#endif
