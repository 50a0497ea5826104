/* Owns ed25519 identities: making and reading keys, signing and checking. */
#include "crypto/internal.h"

void seed_derive(const uint8_t seed[static SEED_BYTES], const char context[static crypto_kdf_CONTEXTBYTES],
                 uint8_t ret_key[static DERIVED_KEY_BYTES])
{
    uint8_t master[crypto_kdf_KEYBYTES];
    generic_hash(seed, SEED_BYTES, master);
    int result = crypto_kdf_derive_from_key(ret_key, DERIVED_KEY_BYTES, 1, context, master);
    sodium_memzero(master, sizeof(master));
    if (result != 0) {
        crypto_failed("key derivation");
    }
}

int keypair_from_seed(const uint8_t seed[static SEED_BYTES], struct keypair **ret_keypair, struct error *error)
{
    struct keypair *keypair = secret_alloc(sizeof(*keypair));
    if (crypto_sign_seed_keypair(keypair->public_key.bytes, keypair->secret, seed) != 0 ||
        crypto_sign_ed25519_sk_to_curve25519(keypair->box_secret, keypair->secret) != 0) {
        sodium_free(keypair);
        return error_set(error, ERROR_INTERNAL, "no key can be made from this seed");
    }
    seed_derive(keypair->secret, "cm-nonce", keypair->nonce_key);
    keypair->opens_only = false;
    public_key_hex(&keypair->public_key, keypair->public_hex);
    *ret_keypair = keypair;
    return 0;
}

int keypair_generate(struct keypair **ret_keypair, struct error *error)
{
    uint8_t seed[SEED_BYTES];
    randombytes_buf(seed, sizeof(seed));
    int result = keypair_from_seed(seed, ret_keypair, error);
    sodium_memzero(seed, sizeof(seed));
    return result;
}

int keypair_from_secret_hex(const char *hex, struct keypair **ret_keypair, struct error *error)
{
    uint8_t secret[crypto_sign_SECRETKEYBYTES];
    struct keypair *keypair = NULL;
    if (hex_decode(hex, strlen(hex), secret, sizeof(secret)) != 0) {
        return error_set(error, ERROR_INVALID, "a secret key is 128 lower-case hex digits");
    }
    int result = keypair_from_seed(secret, &keypair, error);
    if (result == 0 && !secret_equal(keypair->secret, secret, sizeof(secret))) {
        result = error_set(error, ERROR_INVALID, "the secret key's two halves do not belong together");
        keypair_free(keypair);
        keypair = NULL;
    }
    sodium_memzero(secret, sizeof(secret));
    if (result == 0) {
        *ret_keypair = keypair;
    }
    return result;
}

/* ---- former keys ------------------------------------------------------------------------------------------------- */

void keypair_box_secret_hex(const struct keypair *keypair, char ret_hex[KEY_HEX_SIZE])
{
    hex_encode(keypair->box_secret, sizeof(keypair->box_secret), ret_hex);
}

void keypair_nonce_key_hex(const struct keypair *keypair, char ret_hex[KEY_HEX_SIZE])
{
    hex_encode(keypair->nonce_key, sizeof(keypair->nonce_key), ret_hex);
}

int public_key_box_hex(const struct public_key *key, char ret_hex[KEY_HEX_SIZE], struct error *error)
{
    uint8_t box_public[crypto_box_PUBLICKEYBYTES];
    if (crypto_sign_ed25519_pk_to_curve25519(box_public, key->bytes) != 0) {
        return error_set(error, ERROR_INVALID, "no box can be made for this public key");
    }
    hex_encode(box_public, sizeof(box_public), ret_hex);
    return 0;
}

static int fill_former(struct keypair *keypair, const char *public_hex, const char *box_secret_hex, const char *nonce_key_hex,
                       struct error *error)
{
    uint8_t of_secret[crypto_box_PUBLICKEYBYTES], of_public[crypto_box_PUBLICKEYBYTES];
    int result = public_key_parse(public_hex, &keypair->public_key, error);
    if (result != 0) {
        return result;
    }
    if (hex_decode(box_secret_hex, strlen(box_secret_hex), keypair->box_secret, sizeof(keypair->box_secret)) != 0 ||
        (nonce_key_hex != NULL && hex_decode(nonce_key_hex, strlen(nonce_key_hex), keypair->nonce_key, sizeof(keypair->nonce_key)) != 0)) {
        return error_set(error, ERROR_INVALID, "a secret half of a former key is 64 lower-case hex digits");
    }
    if (crypto_scalarmult_base(of_secret, keypair->box_secret) != 0 ||
        crypto_sign_ed25519_pk_to_curve25519(of_public, keypair->public_key.bytes) != 0 ||
        memcmp(of_secret, of_public, sizeof(of_secret)) != 0) {
        return error_set(error, ERROR_INVALID, "the two halves of a former key do not belong together");
    }
    if (nonce_key_hex == NULL) {
        randombytes_buf(keypair->nonce_key, sizeof(keypair->nonce_key));
    }
    public_key_hex(&keypair->public_key, keypair->public_hex);
    keypair->opens_only = true;
    return 0;
}

int keypair_for_opening(const char *public_hex, const char *box_secret_hex, const char *nonce_key_hex, struct keypair **ret_keypair,
                        struct error *error)
{
    struct keypair *keypair = secret_alloc(sizeof(*keypair));
    sodium_memzero(keypair, sizeof(*keypair));
    int result = fill_former(keypair, public_hex, box_secret_hex, nonce_key_hex, error);
    if (result != 0) {
        keypair_free(keypair);
        return result;
    }
    *ret_keypair = keypair;
    return 0;
}

bool keypair_can_sign(const struct keypair *keypair)
{
    return !keypair->opens_only;
}

/* ---- use ---------------------------------------------------------------------------------------------------------- */

void keypair_free(struct keypair *keypair)
{
    sodium_free(keypair); /* wipes */
}

const struct public_key *keypair_public(const struct keypair *keypair)
{
    return &keypair->public_key;
}

const char *keypair_public_hex(const struct keypair *keypair)
{
    return keypair->public_hex;
}

void keypair_secret_hex(const struct keypair *keypair, char ret_hex[SECRET_HEX_SIZE])
{
    hex_encode(keypair->secret, sizeof(keypair->secret), ret_hex);
}

void keypair_seed(const struct keypair *keypair, uint8_t ret_seed[static SEED_BYTES])
{
    memcpy(ret_seed, keypair->secret, SEED_BYTES);
}

void keypair_sign(const struct keypair *keypair, const void *data, size_t size, struct signature *ret_signature)
{
    if (keypair->opens_only || crypto_sign_detached(ret_signature->bytes, NULL, data, size, keypair->secret) != 0) {
        crypto_failed("signing");
    }
}

void keypair_sign_hex(const struct keypair *keypair, const void *data, size_t size, char ret_hex[SIGNATURE_HEX_SIZE])
{
    struct signature signature;
    keypair_sign(keypair, data, size, &signature);
    hex_encode(signature.bytes, sizeof(signature.bytes), ret_hex);
}

bool signature_is_valid(const struct public_key *by, const void *data, size_t size, const struct signature *signature)
{
    return crypto_sign_verify_detached(signature->bytes, data, size, by->bytes) == 0;
}

bool signature_hex_is_valid(const char *by_hex, const void *data, size_t size, const char *signature_hex)
{
    struct public_key by;
    struct signature signature;
    if (by_hex == NULL || signature_hex == NULL || hex_decode(by_hex, strlen(by_hex), by.bytes, sizeof(by.bytes)) != 0 ||
        hex_decode(signature_hex, strlen(signature_hex), signature.bytes, sizeof(signature.bytes)) != 0) {
        return false;
    }
    return signature_is_valid(&by, data, size, &signature);
}

/* The check of the curve costs as much as a signature, and a daemon sees the same few keys in every message: each thread
 * remembers keys that passed. Only valid keys get in, so nobody can make a wrong one pass. */
static bool is_valid_point(const struct public_key *key)
{
    enum { REMEMBERED = 64 };
    static _Thread_local struct public_key remembered[REMEMBERED];
    struct public_key *slot = &remembered[key->bytes[0] % REMEMBERED];
    if (memcmp(slot, key, sizeof(*key)) == 0 && !sodium_is_zero(key->bytes, sizeof(key->bytes))) {
        return true;
    }
    if (crypto_core_ed25519_is_valid_point(key->bytes) != 1) {
        return false;
    }
    *slot = *key;
    return true;
}

int public_key_parse(const char *hex, struct public_key *ret_key, struct error *error)
{
    struct public_key key;
    if (!hex_is_key(hex) || hex_decode(hex, strlen(hex), key.bytes, sizeof(key.bytes)) != 0) {
        return error_set(error, ERROR_INVALID, "a public key is 64 lower-case hex digits");
    }
    if (!is_valid_point(&key)) {
        return error_set(error, ERROR_INVALID, "%s is no valid public key", hex);
    }
    *ret_key = key;
    return 0;
}

void public_key_hex(const struct public_key *key, char ret_hex[KEY_HEX_SIZE])
{
    hex_encode(key->bytes, sizeof(key->bytes), ret_hex);
}

bool public_key_equal(const struct public_key *a, const struct public_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}
