/* keypair-archive.json: the former keys of this host's members, kept so that what was sent to them still opens (50-identity, Key rotation). Each entry says which mesh its key was
 * a member of ("mesh_id", a field more than the specification has), since meshes rotate one by one. Secrets live in locked memory and are wiped. Blocking; one thread. */
#ifndef IDENTITY_ARCHIVE_H
#define IDENTITY_ARCHIVE_H

#include "config/config.h"
#include "crypto/keys.h"

enum { ARCHIVE_KEYS_MAXIMUM = 8, ARCHIVE_KEY_ID_SIZE = 33, ARCHIVE_MESH_ID_SIZE = 65 };

struct archived_key {
    char key_id[ARCHIVE_KEY_ID_SIZE];
    char mesh_id[ARCHIVE_MESH_ID_SIZE];             /* "": of whichever mesh */
    struct keypair *keys;                           /* keypair_for_opening; the archive's */
    int64_t created_at, rotated_out_at, expires_at; /* Unix ms */
};
struct key_archive {
    struct archived_key *keys; /* the first that was rotated out first */
    size_t count;
};

/* What the caller logs, once. */
struct archive_findings {
    char moved_to[512]; /* "" or where the unusable file was moved, as `keypair-archive.json.malformed-<time>` */
    char why[256];
    bool wrong_mode; /* others can read it */
    size_t dropped;  /* more than ARCHIVE_KEYS_MAXIMUM: the oldest went early */
};

/* Absent: empty. Malformed, a key_id twice, a pair that does not match: moved aside, and empty. Fails only when the file cannot be read or moved, or is of a newer schema (then nothing
 * is touched). */
int key_archive_read(const char *path, int64_t now_ms, struct key_archive *ret_archive, struct archive_findings *ret_findings,
                     struct error *error) MUST_CHECK;
/* The same from bytes, moving nothing: for backups and the fuzzer. ERROR_INVALID, ERROR_NEWER. */
int key_archive_parse(const char *bytes, size_t length, struct key_archive *ret_archive, struct error *error) MUST_CHECK;
/* Durably, 0600. */
int key_archive_write(const char *path, const struct key_archive *archive, struct error *error) MUST_CHECK;
/* Its one form, as it is written: appended; full of secrets. */
void key_archive_print(const struct key_archive *archive, struct buffer *ret_text);
void key_archive_release(struct key_archive *archive); /* wipes */

/* The mesh's key `keys` was or will be rotated out now. An entry of the same key is replaced. Returns how many others had to go early. */
size_t key_archive_add(struct key_archive *archive, const char *mesh_id, const struct keypair *keys, int64_t created_at, int64_t now_ms,
                       int64_t grace_days);
/* True when it was there. */
bool key_archive_remove(struct key_archive *archive, const char *mesh_id, const char *pubkey_hex);
/* Takes out what has expired; how many. */
size_t key_archive_expire(struct key_archive *archive, int64_t now_ms);
/* Reads, takes out what has expired, writes if that changed anything: the daily pass and `daemon archive-cleanup`. */
int key_archive_clean(const char *path, int64_t now_ms, size_t *ret_removed, size_t *ret_left, struct archive_findings *ret_findings,
                      struct error *error) MUST_CHECK;

#endif
