/* Owns the number that two people compare out of band (10-cli, verify). */
#include "crypto/internal.h"

enum {
    /* A forger who looks for keys with the same number pays this for each try; an honest side pays it once, in
     * milliseconds. */
    ITERATIONS = 5200,
    GROUPS = 12,
    GROUP_BYTES = 5, /* 40 bits taken modulo 100,000: no digit is noticeably likelier */
    GROUP_DIGITS = 5
};

static const char DOMAIN[] = "claudemesh-safety-number-v1"; /* hashed with its NUL */

static void hash_round(const uint8_t *before, size_t size, const struct public_key *low, const struct public_key *high,
                       uint8_t ret_digest[static crypto_hash_sha512_BYTES])
{
    crypto_hash_sha512_state state;
    if (crypto_hash_sha512_init(&state) != 0 || crypto_hash_sha512_update(&state, before, size) != 0 ||
        crypto_hash_sha512_update(&state, low->bytes, sizeof(low->bytes)) != 0 ||
        crypto_hash_sha512_update(&state, high->bytes, sizeof(high->bytes)) != 0 || crypto_hash_sha512_final(&state, ret_digest) != 0) {
        crypto_failed("SHA-512");
    }
}

void safety_number(const struct public_key *a, const struct public_key *b, char ret_number[SAFETY_NUMBER_SIZE])
{
    bool in_order = memcmp(a->bytes, b->bytes, sizeof(a->bytes)) <= 0;
    const struct public_key *low = in_order ? a : b;
    const struct public_key *high = in_order ? b : a;
    uint8_t digest[crypto_hash_sha512_BYTES];
    hash_round((const uint8_t *)DOMAIN, sizeof(DOMAIN), low, high, digest);
    for (int round = 1; round < ITERATIONS; round++) {
        hash_round(digest, sizeof(digest), low, high, digest);
    }
    size_t out = 0;
    for (size_t group = 0; group < GROUPS; group++) {
        uint64_t number = 0;
        for (size_t index = 0; index < GROUP_BYTES; index++) {
            number = number << 8 | digest[group * GROUP_BYTES + index];
        }
        const char *space = group == 0 ? "" : " ";
        (void)snprintf(ret_number + out, SAFETY_NUMBER_SIZE - out, "%s%05u", space, (unsigned)(number % 100000));
        out += strlen(space) + GROUP_DIGITS;
    }
}
