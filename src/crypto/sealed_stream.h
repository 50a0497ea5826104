/* A stream sealed under a passphrase: Argon2id makes the keys, secretstream (XChaCha20-Poly1305) seals chunk after chunk. Bytes in, bytes out: files, and what the header
 * looks like, are the caller's. Any thread; one stream belongs to one thread. */
#ifndef CRYPTO_SEALED_STREAM_H
#define CRYPTO_SEALED_STREAM_H

#include "crypto/crypto.h"

enum {
    PASSPHRASE_SALT_BYTES = 16,
    SEALED_STREAM_HEADER_BYTES = 24, /* what the reader must have to begin */
    SEALED_STREAM_OVERHEAD = 17,     /* a chunk's, beyond its plaintext */
    SEALED_STREAM_PROOF_BYTES = 32
};

/* What deriving the keys costs: passes over the memory, and bytes of it. */
struct passphrase_cost {
    uint32_t operations;
    uint64_t memory;
};
extern const struct passphrase_cost PASSPHRASE_COST_MODERATE; /* libsodium's: 3 passes over 256 MiB */
/* What may be asked of us (45-trust: 1 GiB, 10). */
extern const struct passphrase_cost PASSPHRASE_COST_MAXIMUM;
/* Above the maximum, or below what Argon2id can do: ERROR_TOO_LARGE, ERROR_INVALID. Nothing was computed. */
int passphrase_cost_check(struct passphrase_cost cost, struct error *error) MUST_CHECK;

struct sealed_stream; /* opaque; sodium_malloc */
/* Checks the cost, then derives. ERROR_FULL: there is not that much memory. */
int sealed_stream_new(struct text passphrase, const uint8_t salt[static PASSPHRASE_SALT_BYTES], struct passphrase_cost cost,
                      struct sealed_stream **ret_stream, struct error *error) MUST_CHECK;
void sealed_stream_free(struct sealed_stream *stream); /* wipes; takes NULL */

/* Begins to seal, and gives the stream's header. */
void sealed_stream_begin(struct sealed_stream *stream, uint8_t ret_header[static SEALED_STREAM_HEADER_BYTES]);
/* Begins to open. -1: no header that could be anybody's. */
int sealed_stream_resume(struct sealed_stream *stream, const uint8_t header[static SEALED_STREAM_HEADER_BYTES]) MUST_CHECK;
/* Proves that who wrote `data` (a file's head) knew the passphrase: a keyed hash under a key of its own. */
void sealed_stream_proof(const struct sealed_stream *stream, const void *data, size_t size,
                         uint8_t ret_proof[static SEALED_STREAM_PROOF_BYTES]);

/* ret_sealed has size + SEALED_STREAM_OVERHEAD bytes. The last chunk is final; nothing is sealed after it. `bound` is authenticated with each chunk. */
void sealed_stream_seal(struct sealed_stream *stream, struct text plaintext, struct text bound, bool final, uint8_t *ret_sealed);
/* -1: changed, cut, out of its order, or from another stream. ret_plaintext has sealed.length - SEALED_STREAM_OVERHEAD bytes. */
int sealed_stream_open(struct sealed_stream *stream, struct text sealed, struct text bound, uint8_t *ret_plaintext,
                       bool *ret_final) MUST_CHECK;

#endif
