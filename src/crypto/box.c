/* Owns sealing and opening: direct boxes, symmetric boxes, nonces. Padding stands in padding.c. */
#include "crypto/box.h"

#include "crypto/internal.h"
#include "util/memory.h"

_Static_assert(NONCE_BYTES == crypto_box_NONCEBYTES && NONCE_BYTES == crypto_secretbox_NONCEBYTES, "one kind of nonce");
_Static_assert(BOX_OVERHEAD == crypto_box_MACBYTES && BOX_OVERHEAD == crypto_secretbox_MACBYTES, "one overhead");
_Static_assert(SYMMETRIC_KEY_BYTES == crypto_secretbox_KEYBYTES, "the symmetric key's size");

void nonce_random(struct nonce *ret_nonce)
{
    randombytes_buf(ret_nonce->bytes, sizeof(ret_nonce->bytes));
}

void nonce_derive(const struct keypair *mine, const struct public_key *theirs, const void *plaintext, size_t size, struct nonce *ret_nonce)
{
    crypto_generichash_state state;
    if (crypto_generichash_init(&state, mine->nonce_key, sizeof(mine->nonce_key), NONCE_BYTES) != 0 ||
        crypto_generichash_update(&state, theirs->bytes, sizeof(theirs->bytes)) != 0 ||
        crypto_generichash_update(&state, plaintext, size) != 0 || crypto_generichash_final(&state, ret_nonce->bytes, NONCE_BYTES) != 0) {
        crypto_failed("the nonce's hash");
    }
    sodium_memzero(&state, sizeof(state));
}

/* ---- shared keys of pairs --------------------------------------------------------------------------------------- */

enum { NO_ENTRY = UINT16_MAX, CACHE_MAXIMUM = 32768 };

struct pair {
    struct public_key mine, theirs;
};

struct entry {
    struct pair pair;
    uint8_t shared[crypto_box_BEFORENMBYTES];
    uint16_t bucket_next, older, newer;
};

/* A hash of chains over a fixed array, and a list through it from the newest to the oldest. */
struct box_cache {
    uint8_t hash_key[crypto_shorthash_KEYBYTES]; /* peers choose keys; they must not choose buckets */
    size_t capacity, used, bucket_mask;
    uint16_t newest, oldest;
    uint16_t *buckets;
    struct entry *entries; /* sodium_allocarray */
};

struct box_cache *box_cache_new(size_t capacity)
{
    struct box_cache *cache = memory_zalloc(sizeof(*cache));
    cache->capacity = capacity < 1 ? 1 : capacity > CACHE_MAXIMUM ? CACHE_MAXIMUM : capacity;
    size_t bucket_count = 1;
    while (bucket_count < cache->capacity) {
        bucket_count *= 2;
    }
    cache->bucket_mask = bucket_count - 1;
    cache->buckets = memory_calloc(bucket_count, sizeof(*cache->buckets));
    for (size_t index = 0; index < bucket_count; index++) {
        cache->buckets[index] = NO_ENTRY;
    }
    cache->newest = cache->oldest = NO_ENTRY;
    cache->entries = secret_alloc(cache->capacity * sizeof(*cache->entries));
    crypto_shorthash_keygen(cache->hash_key);
    return cache;
}

void box_cache_free(struct box_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    sodium_free(cache->entries); /* wipes */
    free(cache->buckets);
    free(cache);
}

static uint16_t *cache_bucket(struct box_cache *cache, const struct pair *pair)
{
    uint64_t hash = 0;
    uint8_t bytes[crypto_shorthash_BYTES];
    if (crypto_shorthash(bytes, (const uint8_t *)pair, sizeof(*pair), cache->hash_key) != 0) {
        crypto_failed("the short hash");
    }
    memcpy(&hash, bytes, sizeof(hash));
    return &cache->buckets[hash & cache->bucket_mask];
}

static void cache_unlink(struct box_cache *cache, uint16_t index)
{
    struct entry *entry = &cache->entries[index];
    if (entry->newer != NO_ENTRY) {
        cache->entries[entry->newer].older = entry->older;
    } else {
        cache->newest = entry->older;
    }
    if (entry->older != NO_ENTRY) {
        cache->entries[entry->older].newer = entry->newer;
    } else {
        cache->oldest = entry->newer;
    }
}

static void cache_link_newest(struct box_cache *cache, uint16_t index)
{
    struct entry *entry = &cache->entries[index];
    entry->newer = NO_ENTRY;
    entry->older = cache->newest;
    if (cache->newest != NO_ENTRY) {
        cache->entries[cache->newest].newer = index;
    } else {
        cache->oldest = index;
    }
    cache->newest = index;
}

/* A place for a new pair: a fresh one, or the oldest pair's, which is forgotten. */
static uint16_t cache_make_room(struct box_cache *cache)
{
    if (cache->used < cache->capacity) {
        return (uint16_t)cache->used++;
    }
    uint16_t index = cache->oldest;
    uint16_t *link = cache_bucket(cache, &cache->entries[index].pair);
    while (*link != index) {
        link = &cache->entries[*link].bucket_next;
    }
    *link = cache->entries[index].bucket_next;
    cache_unlink(cache, index);
    return index;
}

static int shared_key(struct box_cache *cache, const struct keypair *mine, const struct public_key *theirs, const uint8_t **ret_shared,
                      struct error *error)
{
    struct pair pair = { .mine = mine->public_key, .theirs = *theirs };
    uint16_t *bucket = cache_bucket(cache, &pair);
    for (uint16_t index = *bucket; index != NO_ENTRY; index = cache->entries[index].bucket_next) {
        if (memcmp(&cache->entries[index].pair, &pair, sizeof(pair)) == 0) {
            if (cache->newest != index) {
                cache_unlink(cache, index);
                cache_link_newest(cache, index);
            }
            *ret_shared = cache->entries[index].shared;
            return 0;
        }
    }
    uint8_t box_public[crypto_box_PUBLICKEYBYTES];
    uint8_t shared[crypto_box_BEFORENMBYTES];
    if (crypto_sign_ed25519_pk_to_curve25519(box_public, theirs->bytes) != 0 ||
        crypto_box_beforenm(shared, box_public, mine->box_secret) != 0) {
        return error_set(error, ERROR_INVALID, "no box can be made with this public key");
    }
    uint16_t index = cache_make_room(cache);
    struct entry *entry = &cache->entries[index];
    entry->pair = pair;
    memcpy(entry->shared, shared, sizeof(shared));
    sodium_memzero(shared, sizeof(shared));
    entry->bucket_next = *bucket;
    *bucket = index;
    cache_link_newest(cache, index);
    *ret_shared = entry->shared;
    return 0;
}

/* ---- direct boxes ----------------------------------------------------------------------------------------------- */

/* Room for what will be sealed or opened; NULL with the error set. */
static uint8_t *make_room(struct buffer *buffer, size_t size, size_t extra, struct error *error)
{
    char *room = size > SIZE_MAX - extra ? NULL : buffer_reserve(buffer, size + extra);
    if (room == NULL) {
        (void)error_set(error, ERROR_TOO_LARGE, "a box of %zu bytes is too large", size);
    }
    return (uint8_t *)room;
}

int box_seal(struct box_cache *cache, const struct keypair *mine, const struct public_key *theirs, const struct nonce *nonce,
             const void *plaintext, size_t size, struct buffer *ret_sealed, struct error *error)
{
    const uint8_t *shared = NULL;
    int result = shared_key(cache, mine, theirs, &shared, error);
    if (result != 0) {
        return result;
    }
    uint8_t *room = make_room(ret_sealed, size, BOX_OVERHEAD, error);
    if (room == NULL) {
        return -(int)ERROR_TOO_LARGE;
    }
    if (crypto_box_easy_afternm(room, plaintext, size, nonce->bytes, shared) != 0) {
        crypto_failed("sealing a box");
    }
    buffer_commit(ret_sealed, size + BOX_OVERHEAD);
    return 0;
}

int box_open(struct box_cache *cache, const struct keypair *mine, const struct public_key *theirs, const struct nonce *nonce,
             const void *sealed, size_t size, struct buffer *ret_plaintext, struct error *error)
{
    const uint8_t *shared = NULL;
    if (size < BOX_OVERHEAD) {
        return error_set(error, ERROR_DENIED, "the box is too short");
    }
    int result = shared_key(cache, mine, theirs, &shared, error);
    if (result != 0) {
        return result;
    }
    uint8_t *room = make_room(ret_plaintext, size - BOX_OVERHEAD, 0, error);
    if (room == NULL) {
        return -(int)ERROR_TOO_LARGE;
    }
    if (crypto_box_open_easy_afternm(room, sealed, size, nonce->bytes, shared) != 0) {
        buffer_commit(ret_plaintext, 0);
        return error_set(error, ERROR_DENIED, "the box does not open");
    }
    buffer_commit(ret_plaintext, size - BOX_OVERHEAD);
    return 0;
}

/* ---- symmetric boxes -------------------------------------------------------------------------------------------- */

struct symmetric_key {
    uint8_t bytes[SYMMETRIC_KEY_BYTES];
};

struct symmetric_key *symmetric_key_from(const uint8_t bytes[static SYMMETRIC_KEY_BYTES])
{
    struct symmetric_key *key = secret_alloc(sizeof(*key));
    memcpy(key->bytes, bytes, SYMMETRIC_KEY_BYTES);
    return key;
}

struct symmetric_key *symmetric_key_generate(void)
{
    struct symmetric_key *key = secret_alloc(sizeof(*key));
    crypto_secretbox_keygen(key->bytes);
    return key;
}

void symmetric_key_free(struct symmetric_key *key)
{
    sodium_free(key); /* wipes */
}

struct symmetric_key *symmetric_key_of_queue(const uint8_t root_key[static SYMMETRIC_KEY_BYTES])
{
    struct symmetric_key *key = secret_alloc(sizeof(*key));
    if (crypto_kdf_derive_from_key(key->bytes, sizeof(key->bytes), 1, "cm-queue", root_key) != 0) {
        crypto_failed("key derivation");
    }
    return key;
}

void symmetric_key_bytes(const struct symmetric_key *key, uint8_t ret_bytes[static SYMMETRIC_KEY_BYTES])
{
    memcpy(ret_bytes, key->bytes, SYMMETRIC_KEY_BYTES);
}

int secretbox_seal(const struct symmetric_key *key, const struct nonce *nonce, const void *plaintext, size_t size,
                   struct buffer *ret_sealed, struct error *error)
{
    uint8_t *room = make_room(ret_sealed, size, BOX_OVERHEAD, error);
    if (room == NULL) {
        return -(int)ERROR_TOO_LARGE;
    }
    if (crypto_secretbox_easy(room, plaintext, size, nonce->bytes, key->bytes) != 0) {
        crypto_failed("sealing a box");
    }
    buffer_commit(ret_sealed, size + BOX_OVERHEAD);
    return 0;
}

int secretbox_open(const struct symmetric_key *key, const struct nonce *nonce, const void *sealed, size_t size,
                   struct buffer *ret_plaintext, struct error *error)
{
    if (size < BOX_OVERHEAD) {
        return error_set(error, ERROR_DENIED, "the box is too short");
    }
    uint8_t *room = make_room(ret_plaintext, size - BOX_OVERHEAD, 0, error);
    if (room == NULL) {
        return -(int)ERROR_TOO_LARGE;
    }
    if (crypto_secretbox_open_easy(room, sealed, size, nonce->bytes, key->bytes) != 0) {
        buffer_commit(ret_plaintext, 0);
        return error_set(error, ERROR_DENIED, "the box does not open");
    }
    buffer_commit(ret_plaintext, size - BOX_OVERHEAD);
    return 0;
}
