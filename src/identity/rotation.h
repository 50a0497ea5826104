/* The files of a rotation (50-identity, Key rotation; docs/decisions/0012), step by step. A death between any two leaves a state that the next start can tell: nothing begun; or `nextSecretKey` stands beside the
 * key in config.json, and the broker knows which of the two is current; or all done. Blocking: not on the loop thread. */
#ifndef IDENTITY_ROTATION_H
#define IDENTITY_ROTATION_H

#include "identity/archive.h"

struct rotation_files {
    const struct config_paths *paths;
    const char *mesh_id;
    const char *pubkey; /* the key that goes out: ERROR_CONFLICT when config.json has another one by now */
    int64_t now_ms;
    int64_t grace_days; /* crypto.key_grace_period_days */
};
struct rotation_prepared {
    struct keypair *current, *next;
    struct archive_findings findings;
    size_t expired, dropped; /* keys that left the archive for their age, and for want of room */
    bool not_archived;       /* gone on with although the archive could not be written: the key stands there since the rotation began */
};
/* 1. The old key's X25519 secret into the archive; then the new key into config.json beside the old one. Fails with nothing changed. A rotation that was begun before is gone on with: its key is
 * the next one. Two at once prepare the same key. */
int rotation_prepare(const struct rotation_files *files, struct rotation_prepared *ret_prepared, struct error *error) MUST_CHECK;
void rotation_prepared_release(struct rotation_prepared *prepared);
/* 2. The broker goes by that new key: config.json does, too, whatever stands there beside the old one. */
int rotation_finish(const struct rotation_files *files, const struct keypair *next, struct error *error) MUST_CHECK;
/* 2. It refused: the old key stays, out of the archive again. The new one is kept aside for the next try. */
int rotation_call_off(const struct rotation_files *files, struct error *error) MUST_CHECK;
/* key_archive_clean, under the lock that the steps above hold: a key that is put there meanwhile stays. */
int rotation_clean_archive(const struct config_paths *paths, int64_t now_ms, size_t *ret_removed, size_t *ret_left,
                           struct archive_findings *ret_findings, struct error *error) MUST_CHECK;

#endif
