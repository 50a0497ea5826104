/* Owns the request fingerprint and its blinded form (30-delivery, Fingerprint). Must not look at payloads after the
 * request was accepted: it is computed once. */
#define OPENSSL_API_COMPAT 10101 /* the plain SHA-256 state below */
#include <openssl/sha.h>

#include "crypto/fingerprint.h"
#include "crypto/internal.h"

enum { FIELD_COUNT = 8, PART_COUNT = 2 * FIELD_COUNT - 1 };

/* The fields with a zero byte between each two. Returns how many parts. */
static size_t collect_parts(const struct fingerprint_request *request, const char *body_hex, struct text ret_parts[static PART_COUNT])
{
    const struct text fields[FIELD_COUNT] = {
        TEXT("1"), /* envelope_version */
        text_from(request->destination_kind),
        text_from(request->destination_ref),
        text_from(request->reply_to_id),
        text_from(request->priority),
        request->meta_canonical,
        text_from(body_hex),
        request->mentions_canonical,
    };
    size_t field_count = request->mentions_canonical.data == NULL ? FIELD_COUNT - 1 : FIELD_COUNT;
    size_t count = 0;
    for (size_t index = 0; index < field_count; index++) {
        if (index > 0) {
            ret_parts[count++] = TEXT("\0");
        }
        ret_parts[count++] = fields[index];
    }
    return count;
}

int fingerprint_canonical(const struct fingerprint_request *request, struct buffer *ret_bytes)
{
    char body_hex[SHA256_HEX_SIZE];
    struct text parts[PART_COUNT];
    sha256_hex(request->body.data, request->body.length, body_hex);
    size_t count = collect_parts(request, body_hex, parts);
    int result = 0;
    for (size_t index = 0; index < count && result == 0; index++) {
        result = buffer_append(ret_bytes, parts[index].data, parts[index].length);
    }
    return result;
}

void fingerprint_of(const struct fingerprint_request *request, struct fingerprint *ret_fingerprint)
{
    char body_hex[SHA256_HEX_SIZE];
    struct text parts[PART_COUNT];
    struct sha256 digest;
    sha256_hex(request->body.data, request->body.length, body_hex);
    size_t count = collect_parts(request, body_hex, parts);
    sha256_of_parts(parts, count, &digest);
    memcpy(ret_fingerprint->bytes, digest.bytes, sizeof(digest.bytes));
}

/* HMAC (RFC 2104), both hashes begun with the key: half of the work on a short text is done once. OpenSSL's SHA-256, since libsodium's does without the
 * processor's instructions; its plain state, since it must lie in protected memory: who has it can blind. */
struct blinding_key {
    SHA256_CTX inner, outer;
};

static void begin(SHA256_CTX *state, const uint8_t derived[static DERIVED_KEY_BYTES], uint8_t pad)
{
    uint8_t block[SHA256_CBLOCK];
    memset(block, pad, sizeof(block));
    for (size_t index = 0; index < DERIVED_KEY_BYTES; index++) {
        block[index] ^= derived[index];
    }
    if (SHA256_Init(state) != 1 || SHA256_Update(state, block, sizeof(block)) != 1) {
        crypto_failed("HMAC");
    }
    sodium_memzero(block, sizeof(block));
}

struct blinding_key *blinding_key_of(const struct keypair *keypair)
{
    enum { INNER_PAD = 0x36, OUTER_PAD = 0x5c };
    struct blinding_key *key = secret_alloc(sizeof(*key));
    uint8_t derived[DERIVED_KEY_BYTES];
    seed_derive(keypair->secret, "cm-fprnt", derived);
    begin(&key->inner, derived, INNER_PAD);
    begin(&key->outer, derived, OUTER_PAD);
    sodium_memzero(derived, sizeof(derived));
    return key;
}

void blinding_key_free(struct blinding_key *key)
{
    sodium_free(key); /* wipes */
}

void fingerprint_blind(const struct blinding_key *key, const struct fingerprint *fingerprint, const char *client_message_id,
                       struct fingerprint *ret_blinded)
{
    static const uint8_t SEPARATOR[1] = { 0 };
    uint8_t digest[SHA256_BYTES];
    SHA256_CTX state = key->inner;
    bool hashed = SHA256_Update(&state, fingerprint->bytes, sizeof(fingerprint->bytes)) == 1 &&
                  SHA256_Update(&state, SEPARATOR, sizeof(SEPARATOR)) == 1 &&
                  SHA256_Update(&state, client_message_id, strlen(client_message_id)) == 1 && SHA256_Final(digest, &state) == 1;
    state = key->outer;
    hashed = hashed && SHA256_Update(&state, digest, sizeof(digest)) == 1 && SHA256_Final(ret_blinded->bytes, &state) == 1;
    if (!hashed) {
        crypto_failed("HMAC");
    }
    sodium_memzero(digest, sizeof(digest));
    sodium_memzero(&state, sizeof(state));
}
