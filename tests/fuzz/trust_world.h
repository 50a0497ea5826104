/* A trust without a database, for targets that need one: the functions of trust/trust_store.h stand here, so the linker takes none of the real ones. What is stored is forgotten. */
#ifndef FUZZ_TRUST_WORLD_H
#define FUZZ_TRUST_WORLD_H

#include "fuzz_keys.h"
#include "trust/trust.h"
#include "trust/trust_store.h"

struct trust_store {
    size_t statements;
};

struct trust_store *trust_store_new(struct db *db, const char *mesh_id)
{
    REQUIRE(db == NULL && mesh_id != NULL);
    return memory_zalloc(sizeof(struct trust_store));
}

void trust_store_free(struct trust_store *store)
{
    free(store);
}

int trust_store_load(struct trust_store *store, struct trust *trust, struct error *error)
{
    (void)store;
    (void)trust;
    (void)error;
    return 0;
}

void trust_store_put_statement(struct trust_store *store, const char *kind, const char *id, const char *document)
{
    REQUIRE(kind[0] != '\0' && id[0] != '\0' && document[0] == '{');
    store->statements++;
}

void trust_store_put_member(struct trust_store *store, const struct trust_member *member, const char *broker_name)
{
    (void)store;
    REQUIRE(hex_is_key(member->pubkey) && broker_name != NULL);
}

void trust_store_drop_member(struct trust_store *store, const char *pubkey_hex)
{
    (void)store;
    REQUIRE(hex_is_key(pubkey_hex));
}

void trust_store_drop_awaiting(struct trust_store *store)
{
    (void)store;
}

void trust_store_put_pin(struct trust_store *store, const char *folded_name, const char *pubkey_hex, int64_t first_seen, bool settled)
{
    (void)store;
    (void)settled;
    REQUIRE(folded_name[0] != '\0' && hex_is_key(pubkey_hex) && first_seen >= 0);
}

void trust_store_put_body_version(struct trust_store *store, const char *pubkey_hex, int64_t body_version)
{
    (void)store;
    REQUIRE(hex_is_key(pubkey_hex) && body_version > 0);
}

void trust_store_put_facts(struct trust_store *store, const struct facts_of_mesh *facts)
{
    (void)store;
    (void)facts;
}

void trust_store_flush(struct trust_store *store)
{
    (void)store;
}

/* Of the mesh that FUZZ_OWNER owns, as `own` sees it. */
static inline struct trust *trust_world_open(enum fuzz_person own)
{
    const struct trust_identity identity = { .mesh_id = FUZZ_MESH,
                                             .mesh_slug = "ops",
                                             .owner_pubkey = keypair_public_hex(fuzz_keys(FUZZ_OWNER)),
                                             .own_pubkey = keypair_public_hex(fuzz_keys(own)),
                                             .own_member_id = "m-own" };
    struct trust *trust = NULL;
    struct error error;
    REQUIRE(trust_open(NULL, &identity, &trust, &error) == 0);
    return trust;
}

/* One of the keys that sign what is in the seeds. Nobody can make a signature by another. */
static inline bool trust_world_knows(const char *pubkey)
{
    for (int person = 0; person < FUZZ_PERSONS; person++) {
        if (string_equal(pubkey, keypair_public_hex(fuzz_keys((enum fuzz_person)person))))
            return true;
    }
    return false;
}

#endif
