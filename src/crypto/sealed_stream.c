/* Owns deriving keys from a passphrase, and the stream sealed with them. Must not know files. */
#include "crypto/sealed_stream.h"

#include "crypto/internal.h"

enum { PROOF_KEY_BYTES = 32 };

_Static_assert(PASSPHRASE_SALT_BYTES == crypto_pwhash_argon2id_SALTBYTES, "the salt's size");
_Static_assert(SEALED_STREAM_HEADER_BYTES == crypto_secretstream_xchacha20poly1305_HEADERBYTES, "the header's size");
_Static_assert(SEALED_STREAM_OVERHEAD == crypto_secretstream_xchacha20poly1305_ABYTES, "the overhead");

const struct passphrase_cost PASSPHRASE_COST_MODERATE = { crypto_pwhash_argon2id_OPSLIMIT_MODERATE,
                                                          crypto_pwhash_argon2id_MEMLIMIT_MODERATE };
const struct passphrase_cost PASSPHRASE_COST_MAXIMUM = { 10, UINT64_C(1) << 30 };

/* Two keys from one derivation: the stream's, and the proof's, so that neither says anything of the other. */
struct sealed_stream {
    struct {
        uint8_t stream[crypto_secretstream_xchacha20poly1305_KEYBYTES];
        uint8_t proof[PROOF_KEY_BYTES];
    } keys;
    crypto_secretstream_xchacha20poly1305_state state;
};

int passphrase_cost_check(struct passphrase_cost cost, struct error *error)
{
    if (cost.operations > PASSPHRASE_COST_MAXIMUM.operations || cost.memory > PASSPHRASE_COST_MAXIMUM.memory) {
        return error_set(error, ERROR_TOO_LARGE,
                         "it asks for %" PRIu32 " passes over %" PRIu64 " MiB of memory, and no more than %" PRIu32 " over %" PRIu64
                         " are allowed",
                         cost.operations, cost.memory >> 20, PASSPHRASE_COST_MAXIMUM.operations, PASSPHRASE_COST_MAXIMUM.memory >> 20);
    }
    if (cost.operations < crypto_pwhash_argon2id_OPSLIMIT_MIN || cost.memory < crypto_pwhash_argon2id_MEMLIMIT_MIN) {
        return error_set(error, ERROR_INVALID, "its cost of deriving a key is none that Argon2id knows");
    }
    return 0;
}

int sealed_stream_new(struct text passphrase, const uint8_t salt[static PASSPHRASE_SALT_BYTES], struct passphrase_cost cost,
                      struct sealed_stream **ret_stream, struct error *error)
{
    int result = passphrase_cost_check(cost, error);
    if (result != 0) {
        return result;
    }
    struct sealed_stream *stream = secret_alloc(sizeof(*stream));
    if (crypto_pwhash_argon2id((unsigned char *)&stream->keys, sizeof(stream->keys), passphrase.data, passphrase.length, salt,
                               cost.operations, (size_t)cost.memory, crypto_pwhash_argon2id_ALG_ARGON2ID13) != 0) {
        sealed_stream_free(stream);
        return error_set(error, ERROR_FULL, "deriving the key takes %" PRIu64 " MiB of memory, which are not free here", cost.memory >> 20);
    }
    *ret_stream = stream;
    return 0;
}

void sealed_stream_free(struct sealed_stream *stream)
{
    sodium_free(stream);
}

void sealed_stream_begin(struct sealed_stream *stream, uint8_t ret_header[static SEALED_STREAM_HEADER_BYTES])
{
    if (crypto_secretstream_xchacha20poly1305_init_push(&stream->state, ret_header, stream->keys.stream) != 0) {
        crypto_failed("beginning a sealed stream");
    }
}

int sealed_stream_resume(struct sealed_stream *stream, const uint8_t header[static SEALED_STREAM_HEADER_BYTES])
{
    return crypto_secretstream_xchacha20poly1305_init_pull(&stream->state, header, stream->keys.stream) == 0 ? 0 : -1;
}

void sealed_stream_proof(const struct sealed_stream *stream, const void *data, size_t size,
                         uint8_t ret_proof[static SEALED_STREAM_PROOF_BYTES])
{
    if (crypto_generichash(ret_proof, SEALED_STREAM_PROOF_BYTES, data, size, stream->keys.proof, sizeof(stream->keys.proof)) != 0) {
        crypto_failed("the proof of a sealed stream");
    }
}

void sealed_stream_seal(struct sealed_stream *stream, struct text plaintext, struct text bound, bool final, uint8_t *ret_sealed)
{
    unsigned char tag = final ? crypto_secretstream_xchacha20poly1305_TAG_FINAL : crypto_secretstream_xchacha20poly1305_TAG_MESSAGE;
    if (crypto_secretstream_xchacha20poly1305_push(&stream->state, ret_sealed, NULL, (const unsigned char *)plaintext.data,
                                                   plaintext.length, (const unsigned char *)bound.data, bound.length, tag) != 0) {
        crypto_failed("sealing a chunk");
    }
}

int sealed_stream_open(struct sealed_stream *stream, struct text sealed, struct text bound, uint8_t *ret_plaintext, bool *ret_final)
{
    unsigned char tag = 0;
    if (sealed.length < SEALED_STREAM_OVERHEAD ||
        crypto_secretstream_xchacha20poly1305_pull(&stream->state, ret_plaintext, NULL, &tag, (const unsigned char *)sealed.data,
                                                   sealed.length, (const unsigned char *)bound.data, bound.length) != 0) {
        return -1;
    }
    if (tag != crypto_secretstream_xchacha20poly1305_TAG_FINAL && tag != crypto_secretstream_xchacha20poly1305_TAG_MESSAGE) {
        return -1;
    }
    *ret_final = tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL;
    return 0;
}
