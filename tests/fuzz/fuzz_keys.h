/* The same keys in every run: what a seed holds that they signed stays signed. Nobody else uses them. */
#ifndef FUZZ_FUZZ_KEYS_H
#define FUZZ_FUZZ_KEYS_H

#include "crypto/keys.h"
#include "fuzz.h"

enum fuzz_person { FUZZ_OWNER, FUZZ_ADMIN, FUZZ_MEMBER, FUZZ_STRANGER, FUZZ_PERSONS };

static inline const struct keypair *fuzz_keys(enum fuzz_person person)
{
    static struct keypair *keys[FUZZ_PERSONS];
    const uint8_t seed[SEED_BYTES] = { 0xF0, (uint8_t)person };
    struct error error;

    if (keys[person] == NULL)
        REQUIRE(crypto_start(&error) == 0 && keypair_from_seed(seed, &keys[person], &error) == 0);
    return keys[person];
}

static const char FUZZ_MESH[] = "01890a5d-ac96-774b-bcce-b302099a8057";

#endif
