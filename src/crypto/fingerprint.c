/* Owns the request fingerprint and its blinded form (30-delivery, Fingerprint). Must not look at payloads after the
 * request was accepted: it is computed once. */
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

/* The HMAC's state after the key: half of the work on a short text is done once. */
struct blinding_key {
    crypto_auth_hmacsha256_state begun;
};

struct blinding_key *blinding_key_of(const struct keypair *keypair)
{
    struct blinding_key *key = secret_alloc(sizeof(*key));
    uint8_t derived[DERIVED_KEY_BYTES];
    seed_derive(keypair->secret, "cm-fprnt", derived);
    int result = crypto_auth_hmacsha256_init(&key->begun, derived, sizeof(derived));
    sodium_memzero(derived, sizeof(derived));
    if (result != 0) {
        crypto_failed("HMAC");
    }
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
    crypto_auth_hmacsha256_state state = key->begun;
    if (crypto_auth_hmacsha256_update(&state, fingerprint->bytes, sizeof(fingerprint->bytes)) != 0 ||
        crypto_auth_hmacsha256_update(&state, SEPARATOR, sizeof(SEPARATOR)) != 0 ||
        crypto_auth_hmacsha256_update(&state, (const uint8_t *)client_message_id, strlen(client_message_id)) != 0 ||
        crypto_auth_hmacsha256_final(&state, ret_blinded->bytes) != 0) {
        crypto_failed("HMAC");
    }
    sodium_memzero(&state, sizeof(state));
}
