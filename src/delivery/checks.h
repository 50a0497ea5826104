/* The recipient's checks as a table (45-trust, Messages, at the recipient): a push is taken apart step by step, and the first row that does not hold says why it is no message. Decides;
 * stores nothing, sends nothing. */
#ifndef DELIVERY_CHECKS_H
#define DELIVERY_CHECKS_H

#include "crypto/box.h"
#include "delivery/open.h"
#include "proto/envelope.h"
#include "proto/frames.h"
#include "trust/trust.h"

struct received {
    /* given */
    const char *mesh_id;
    const struct keypair *keys;
    const struct key_archive *archive; /* our former keys; NULL: none */
    struct box_cache *boxes;
    int64_t
        key_grace_ms; /* how long after its rotation a sender's former key is still good for what was said before; INT64_MAX: for ever, for what comes from history */
    const struct trust *trust;
    int64_t now_ms; /* the latest that it may be, clocks being what they are */
    const json_t *frame;
    const struct frame_push *push;

    /* found on the way */
    struct nonce nonce;
    struct buffer sealed, plaintext;
    struct sha256 content; /* of nonce ‖ ciphertext */
    struct public_key sender_key;
    enum opened opened; /* with which of our keys, or why not */
    const struct keypair *opened_with;
    bool is_envelope; /* bodyVersion 3, whatever was declared; else 1: the bare text */
    struct envelope envelope;
    json_t *document;              /* owns what envelope borrows */
    const char *client_message_id; /* what it will be stored and acknowledged under */
};
void received_init(struct received *received);
void received_release(struct received *received); /* wipes the plaintext */

enum check_scope { CHECK_EVERY, CHECK_ENVELOPE, CHECK_LEGACY };
struct check {
    enum check_scope scope;
    const char *reason; /* in the quarantine, the log and metrics */
    bool (*holds)(struct received *received);
};
extern const struct check CHECKS[];
extern const size_t CHECK_COUNT;

/* NULL: a message. Else the reason. */
const char *checks_judge(struct received *received);
/* The reason for what only the inbox can see: at or below the floor of pruned dedupe keys. */
extern const char CHECK_REPLAY_SUSPECTED[];

#endif
