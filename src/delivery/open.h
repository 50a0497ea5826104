/* Opening what was sealed for us: with today's key, then with the archived ones (50-identity, Key rotation). The one place where it is decided which of our keys opens a direct message; the way
 * inward and what reads the broker's history both come here. Decides; keeps nothing. */
#ifndef DELIVERY_OPEN_H
#define DELIVERY_OPEN_H

#include "crypto/box.h"
#include "identity/archive.h"
#include "trust/trust.h"

struct opener { /* all borrowed */
    const char *mesh_id;
    const struct keypair *keys;
    const struct key_archive *archive; /* NULL: none */
    struct box_cache *boxes;
    const struct trust *trust;
    int64_t now_ms; /* an archived key that has expired by then opens nothing, even where the daily pass has not been */
};

enum opened {
    OPENED_NOT, /* by no key of ours, and it is for none that is gone */
    OPENED_CURRENT,
    OPENED_ARCHIVED,
    OPENED_STALE /* it is for a former key of ours that is archived no more */
};

/* Ours now, archived, or before ours in the line of rotations. */
bool opener_is_ours(const struct opener *opener, const char *pubkey_hex);
/* target: the key that it was sent to, NULL unknown. The plaintext is appended; *ret_with is the key that opened it. */
enum opened opener_open(const struct opener *opener, const char *target, const struct public_key *sender, const struct nonce *nonce,
                        const struct buffer *sealed, struct buffer *ret_plaintext, const struct keypair **ret_with);

#endif
