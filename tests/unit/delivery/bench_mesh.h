/* A mesh for tests of delivery/: an owner, me, carol (verified by a certificate), a stranger; databases in a directory of the test's own. */
#ifndef TESTS_DELIVERY_BENCH_MESH_H
#define TESTS_DELIVERY_BENCH_MESH_H

#include <jansson.h>

#include "crypto/box.h"
#include "crypto/keys.h"
#include "db/db.h"
#include "inbox/inbox.h"
#include "net/loop.h"
#include "outbox/outbox.h"

extern const char MESH_ID[];

struct bench_mesh {
    char directory[64];
    struct loop *loop;
    struct db *outbox_db, *inbox_db;
    struct outbox *outbox;
    struct inbox *inbox;
    struct keypair *owner, *me, *carol, *stranger;
    struct box_cache *boxes;
};

void bench_init(struct bench_mesh *bench);
/* Closes the databases, runs what they still had to say, removes the files. Deliveries are freed before. */
void bench_release(struct bench_mesh *bench);

/* A certificate of this key, signed by the owner's invite. */
json_t *bench_certificate(const struct bench_mesh *bench, const struct keypair *member, const char *name);
json_t *bench_member(const struct bench_mesh *bench, const struct keypair *member, const char *name, bool certified);
/* members_list's content: owner, me and carol, certified. */
json_t *bench_members(const struct bench_mesh *bench);
json_t *bench_revocation(const struct bench_mesh *bench, const struct keypair *subject);

/* What goes into the box: the envelope of an honest sender, signed and padded, with members of `change` put over it (null removes). */
struct bench_letter {
    const struct keypair *from;   /* NULL: carol */
    const struct keypair *signer; /* NULL: from */
    const struct keypair *sealer; /* NULL: from */
    const char *to;               /* NULL: me */
    const char *id, *body, *priority, *reply_to, *rv;
    int64_t sent_at;  /* 0: now */
    json_t *meta;     /* given */
    json_t *change;   /* after signing; given */
    const char *bare; /* bodyVersion 1: this text instead of an envelope */
};
/* A push of it, as an honest broker sends it, with members of `change` put over it (null removes; given). */
json_t *bench_push(const struct bench_mesh *bench, const struct bench_letter *letter, json_t *change);

#endif
