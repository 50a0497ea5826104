/* A hash table of structs that carry their own link: the broker's sessions, members and waiting counts. Keyed hashing, so that
 * who chooses the keys cannot choose the collisions. One thread at a time. */
#ifndef BROKER_STORE_TABLE_H
#define BROKER_STORE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct table_node {
    struct table_node *next;
    uint64_t hash;
};

struct table {
    struct table_node **buckets; /* NULL while empty */
    size_t bucket_count;         /* a power of two */
    size_t count;
};

/* A zeroed struct is an empty table. The nodes stay their owners'. */
void table_release(struct table *table);
void table_insert(struct table *table, struct table_node *node, uint64_t hash);
void table_remove(struct table *table, struct table_node *node); /* it must be in */
/* NULL when none matches. */
struct table_node *table_find(const struct table *table, uint64_t hash, bool (*matches)(const struct table_node *node, const void *key),
                              const void *key);
/* Calls back for each node; the callback may remove that node (from the table) and free it, and must not insert. */
void table_each(struct table *table, void (*visit)(void *argument, struct table_node *node), void *argument);

uint64_t table_hash_bytes(const void *data, size_t size);
uint64_t table_hash_number(uint64_t number);

#endif
