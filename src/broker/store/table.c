/* The hash table of table.h: chained buckets, doubled when full; SipHash-2-4 under a random key of this process. */
#include "broker/store/table.h"

#include <pthread.h>

#include "util/ids.h"
#include "util/memory.h"

static uint64_t hash_key[2];
static pthread_once_t hash_key_made = PTHREAD_ONCE_INIT;

static void make_hash_key(void)
{
    random_bytes(hash_key, sizeof hash_key);
}

static uint64_t rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

struct sip {
    uint64_t a, b, c, d;
};

static void sip_round(struct sip *sip)
{
    sip->a += sip->b;
    sip->b = rotate(sip->b, 13) ^ sip->a;
    sip->a = rotate(sip->a, 32);
    sip->c += sip->d;
    sip->d = rotate(sip->d, 16) ^ sip->c;
    sip->a += sip->d;
    sip->d = rotate(sip->d, 21) ^ sip->a;
    sip->c += sip->b;
    sip->b = rotate(sip->b, 17) ^ sip->c;
    sip->c = rotate(sip->c, 32);
}

static void sip_word(struct sip *sip, uint64_t word)
{
    sip->d ^= word;
    sip_round(sip);
    sip_round(sip);
    sip->a ^= word;
}

uint64_t table_hash_bytes(const void *data, size_t size)
{
    (void)pthread_once(&hash_key_made, make_hash_key);
    struct sip sip = { hash_key[0] ^ UINT64_C(0x736f6d6570736575), hash_key[1] ^ UINT64_C(0x646f72616e646f6d),
                       hash_key[0] ^ UINT64_C(0x6c7967656e657261), hash_key[1] ^ UINT64_C(0x7465646279746573) };
    const uint8_t *bytes = data;
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        memcpy(&word, bytes + at, sizeof word);
        sip_word(&sip, word);
    }
    uint64_t last = (uint64_t)size << 56;
    for (size_t shift = 0; at < size; at++, shift += 8)
        last |= (uint64_t)bytes[at] << shift;
    sip_word(&sip, last);
    sip.c ^= 0xff;
    for (int round = 0; round < 4; round++)
        sip_round(&sip);
    return sip.a ^ sip.b ^ sip.c ^ sip.d;
}

uint64_t table_hash_number(uint64_t number)
{
    return table_hash_bytes(&number, sizeof number);
}

void table_release(struct table *table)
{
    if (table == NULL)
        return;
    free(table->buckets);
    *table = (struct table){ 0 };
}

static void grow(struct table *table)
{
    size_t bucket_count = table->bucket_count == 0 ? 16 : table->bucket_count * 2;
    struct table_node **buckets = memory_calloc(bucket_count, sizeof(*buckets));
    for (size_t i = 0; i < table->bucket_count; i++) {
        struct table_node *node = table->buckets[i];
        while (node != NULL) {
            struct table_node *next = node->next;
            struct table_node **bucket = &buckets[node->hash & (bucket_count - 1)];
            node->next = *bucket;
            *bucket = node;
            node = next;
        }
    }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = bucket_count;
}

void table_insert(struct table *table, struct table_node *node, uint64_t hash)
{
    if (table->count >= table->bucket_count)
        grow(table);
    struct table_node **bucket = &table->buckets[hash & (table->bucket_count - 1)];
    node->hash = hash;
    node->next = *bucket;
    *bucket = node;
    table->count++;
}

void table_remove(struct table *table, struct table_node *node)
{
    struct table_node **at = &table->buckets[node->hash & (table->bucket_count - 1)];
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    table->count--;
}

struct table_node *table_find(const struct table *table, uint64_t hash, bool (*matches)(const struct table_node *node, const void *key),
                              const void *key)
{
    if (table->bucket_count == 0)
        return NULL;
    for (struct table_node *node = table->buckets[hash & (table->bucket_count - 1)]; node != NULL; node = node->next)
        if (node->hash == hash && matches(node, key))
            return node;
    return NULL;
}

void table_each(struct table *table, void (*visit)(void *argument, struct table_node *node), void *argument)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        struct table_node *node = table->buckets[i];
        while (node != NULL) {
            struct table_node *next = node->next;
            visit(argument, node);
            node = next;
        }
    }
}
