/* The request fingerprint and its blinded form (30-delivery, Fingerprint; vectors/fingerprint.json). */
#ifndef CRYPTO_FINGERPRINT_H
#define CRYPTO_FINGERPRINT_H

#include "crypto/keys.h"

struct fingerprint {
    uint8_t bytes[SHA256_BYTES];
};
struct fingerprint_request {
    const char *destination_kind; /* "dm", "topic", "queue" */
    const char *destination_ref;
    const char *reply_to_id;        /* NULL: none */
    const char *priority;           /* "now", "next", "low" */
    struct text meta_canonical;     /* JCS; empty for none or {} */
    struct text mentions_canonical; /* JCS of the array; data NULL when the request has none: then no field */
    struct text body;
};
/* The hashed bytes, for the vectors. */
int fingerprint_canonical(const struct fingerprint_request *request, struct buffer *ret_bytes);
void fingerprint_of(const struct fingerprint_request *request, struct fingerprint *ret_fingerprint);

/* The member's blinding key, derived once from its seed; sodium_malloc. */
struct blinding_key;
struct blinding_key *blinding_key_of(const struct keypair *keypair);
void blinding_key_free(struct blinding_key *key);
void fingerprint_blind(const struct blinding_key *key, const struct fingerprint *fingerprint, const char *client_message_id,
                       struct fingerprint *ret_blinded);

#endif
