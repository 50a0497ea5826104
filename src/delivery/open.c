/* Which of our keys opens a direct message. */
#include "delivery/open.h"

#include "util/text.h"

static bool is_usable(const struct opener *opener, const struct archived_key *key)
{
    return key->expires_at > opener->now_ms && (key->mesh_id[0] == '\0' || string_equal(key->mesh_id, opener->mesh_id));
}

bool opener_is_ours(const struct opener *opener, const char *pubkey_hex)
{
    for (size_t i = 0; opener->archive != NULL && i < opener->archive->count; i++) {
        const struct archived_key *key = &opener->archive->keys[i];
        if (is_usable(opener, key) && string_equal(keypair_public_hex(key->keys), pubkey_hex)) {
            return true;
        }
    }
    /* A sender that knows the rotation seals for today's key and leaves the name of the old one, however long ago that was. */
    return trust_same_member(opener->trust, pubkey_hex, keypair_public_hex(opener->keys));
}

static bool opens(const struct opener *opener, const struct keypair *keys, const struct public_key *sender, const struct nonce *nonce,
                  const struct buffer *sealed, struct buffer *ret_plaintext, const struct keypair **ret_with)
{
    if (box_open(opener->boxes, keys, sender, nonce, sealed->data, sealed->length, ret_plaintext, NULL) != 0) {
        return false;
    }
    *ret_with = keys;
    return true;
}

enum opened opener_open(const struct opener *opener, const char *target, const struct public_key *sender, const struct nonce *nonce,
                        const struct buffer *sealed, struct buffer *ret_plaintext, const struct keypair **ret_with)
{
    if (opens(opener, opener->keys, sender, nonce, sealed, ret_plaintext, ret_with)) {
        return OPENED_CURRENT;
    }
    bool archived = false;
    for (size_t i = opener->archive == NULL ? 0 : opener->archive->count; i > 0; i--) { /* the newest first */
        const struct archived_key *key = &opener->archive->keys[i - 1];
        if (!is_usable(opener, key)) {
            continue;
        }
        archived = archived || string_equal(keypair_public_hex(key->keys), target);
        if (opens(opener, key->keys, sender, nonce, sealed, ret_plaintext, ret_with)) {
            return OPENED_ARCHIVED;
        }
    }
    bool is_former =
        target != NULL && !archived && !string_equal(target, keypair_public_hex(opener->keys)) && opener_is_ours(opener, target);
    return is_former ? OPENED_STALE : OPENED_NOT;
}
