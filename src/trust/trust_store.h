/* Trust's tables in outbox.db: what is kept, and when it is on disk. Changes are collected and written as one durable task in the order they were made; what a full disk refused is
 * written with the next change. Nobody outside this room includes it. */
#ifndef TRUST_STORE_H
#define TRUST_STORE_H

#include "db/db.h"

struct trust;
struct trust_store;
struct trust_member;

struct facts_of_mesh {
    int64_t retention_days;
    bool challenge_seen;
    char *profile; /* NULL none */
};

struct trust_store *trust_store_new(struct db *db, const char *mesh_id);
/* What is on its way still arrives. */
void trust_store_free(struct trust_store *store);

/* Everything of this mesh, into `trust`; after what was queued before. Blocking. */
int trust_store_load(struct trust_store *store, struct trust *trust, struct error *error) MUST_CHECK;

void trust_store_put_statement(struct trust_store *store, const char *kind, const char *id, const char *document);
void trust_store_put_member(struct trust_store *store, const struct trust_member *member, const char *broker_name);
void trust_store_drop_member(struct trust_store *store, const char *pubkey_hex);
void trust_store_put_pin(struct trust_store *store, const char *folded_name, const char *pubkey_hex, int64_t first_seen, bool settled);
void trust_store_put_body_version(struct trust_store *store, const char *pubkey_hex, int64_t body_version);
void trust_store_drop_awaiting(struct trust_store *store);
void trust_store_put_facts(struct trust_store *store, const struct facts_of_mesh *facts);
/* Queues what was put since the last time. */
void trust_store_flush(struct trust_store *store);

#endif
