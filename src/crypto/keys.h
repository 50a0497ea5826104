/* ed25519 identities. Secret halves live in sodium_malloc memory, locked and wiped; nothing
 * outside crypto/ sees them in the clear but through keypair_secret_hex, for config.json. */
#ifndef CRYPTO_KEYS_H
#define CRYPTO_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "crypto/crypto.h"

enum {
    PUBLIC_KEY_BYTES = 32,
    KEY_HEX_SIZE = 65, /* with the NUL */
    SECRET_HEX_SIZE = 129,
    SIGNATURE_BYTES = 64,
    SIGNATURE_HEX_SIZE = 129,
    SEED_BYTES = 32
};
struct public_key {
    uint8_t bytes[PUBLIC_KEY_BYTES];
};
struct signature {
    uint8_t bytes[SIGNATURE_BYTES];
};
struct keypair; /* opaque */

int keypair_generate(struct keypair **ret_keypair, struct error *error) MUST_CHECK;
int keypair_from_seed(const uint8_t seed[static SEED_BYTES], struct keypair **ret_keypair, struct error *error) MUST_CHECK;
/* 128 hex digits, seed then public key; the two must belong together. */
int keypair_from_secret_hex(const char *hex, struct keypair **ret_keypair, struct error *error) MUST_CHECK;
void keypair_free(struct keypair *keypair); /* wipes; takes NULL */
const struct public_key *keypair_public(const struct keypair *keypair);
const char *keypair_public_hex(const struct keypair *keypair);                         /* the keypair's */
void keypair_secret_hex(const struct keypair *keypair, char ret_hex[SECRET_HEX_SIZE]); /* wipe after use */
void keypair_seed(const struct keypair *keypair, uint8_t ret_seed[static SEED_BYTES]); /* wipe after use */
/* For the archive of former keys (50-identity, Key rotation): the X25519 half, and what the nonces of its boxes are made with (decision 0005). Wipe after use. */
void keypair_box_secret_hex(const struct keypair *keypair, char ret_hex[KEY_HEX_SIZE]);
void keypair_nonce_key_hex(const struct keypair *keypair, char ret_hex[KEY_HEX_SIZE]);
/* The X25519 public key that boxes to this member are made for; ERROR_INVALID when it has none. */
int public_key_box_hex(const struct public_key *key, char ret_hex[KEY_HEX_SIZE], struct error *error) MUST_CHECK;
/* A former key from its archived parts: opens boxes and recognises its own; signing with it ends the process, for there is nothing left to sign with. nonce_key_hex NULL: it
 * recognises none. ERROR_INVALID when the parts are malformed or do not belong together. */
int keypair_for_opening(const char *public_hex, const char *box_secret_hex, const char *nonce_key_hex, struct keypair **ret_keypair,
                        struct error *error) MUST_CHECK;
bool keypair_can_sign(const struct keypair *keypair);

void keypair_sign(const struct keypair *keypair, const void *data, size_t size, struct signature *ret_signature);
void keypair_sign_hex(const struct keypair *keypair, const void *data, size_t size, char ret_hex[SIGNATURE_HEX_SIZE]);
bool signature_is_valid(const struct public_key *by, const void *data, size_t size, const struct signature *signature);
/* Strict lower-case hex for both; anything malformed is simply not valid. */
bool signature_hex_is_valid(const char *by_hex, const void *data, size_t size, const char *signature_hex);

/* 64 lower-case hex digits to a key that is a valid curve point of large order; else ERROR_INVALID. */
int public_key_parse(const char *hex, struct public_key *ret_key, struct error *error) MUST_CHECK;
void public_key_hex(const struct public_key *key, char ret_hex[KEY_HEX_SIZE]);
bool public_key_equal(const struct public_key *a, const struct public_key *b);

/* The key that blinds fingerprints (30-delivery): crypto_kdf, context "cm-fprnt", subkey 1, of the generic hash of the seed. */
/* Safety number of two keys (10-cli, verify): 60 digits in 12 groups of 5, the same from both sides. */
enum { SAFETY_NUMBER_SIZE = 72 };
void safety_number(const struct public_key *a, const struct public_key *b, char ret_number[SAFETY_NUMBER_SIZE]);

#endif
