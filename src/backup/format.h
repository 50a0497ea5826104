/* The backup file: what it looks like, and nothing of what is in it. A head of 128 bytes, then the parts, sealed in chunks . Internal to the room, and its tests'.
 *
 * Head, numbers big-endian: "CMBACKUP" (8), version 1 (4), Argon2id's passes (4), its memory in bytes (8), salt (16), secretstream's header (24): 64 bytes; a keyed hash of these 64 (32): who wrote them knew
 * the passphrase; a plain hash of these 96 (32): damage is told from a wrong passphrase. Every chunk is bound to the 64 bytes. Each but the last carries 65,536 bytes of plaintext; the
 * last is final, and nothing follows it.
 *
 * Plaintext: parts, each 'P', the length of its name (1), the name, then blocks of a length (4, 1 to 65,536) and bytes, and a length of 0; then 'Z', and nothing. */
#ifndef BACKUP_FORMAT_H
#define BACKUP_FORMAT_H

#include "crypto/sealed_stream.h"
#include "util/file.h"

enum {
    BACKUP_VERSION = 1,
    BACKUP_HEAD_BYTES = 128,
    BACKUP_BOUND_BYTES = 64, /* of the head: what the chunks are bound to */
    BACKUP_CHUNK = 64 * 1024,
    BACKUP_PART_NAME_MAXIMUM = 96,
    BACKUP_PASSPHRASE_MAXIMUM = 1024
};

/* ---- writing ----------------------------------------------------------------------------------------------- */

struct backup_writer; /* holds at most two chunks */
/* A temporary file beside `path`, 0600. */
int backup_writer_open(const char *path, struct text passphrase, struct passphrase_cost cost, struct backup_writer **ret_writer,
                       struct error *error) MUST_CHECK;
int backup_writer_begin_part(struct backup_writer *writer, const char *name, struct error *error) MUST_CHECK;
int backup_writer_put(struct backup_writer *writer, const void *data, size_t size, struct error *error) MUST_CHECK;
int backup_writer_end_part(struct backup_writer *writer, struct error *error) MUST_CHECK;
/* The final chunk, synced, and its name. Without `replace`: ERROR_CONFLICT when the name is taken. Frees the writer, whatever becomes of it. */
int backup_writer_finish(struct backup_writer *writer, bool replace, struct error *error) MUST_CHECK;
void backup_writer_free(struct backup_writer *writer); /* gives up: nothing is left; takes NULL */

/* ---- reading ----------------------------------------------------------------------------------------------- */

struct backup_reader; /* holds one chunk */
/* Reads and judges the head before any work is done for it. ERROR_INVALID: no backup; ERROR_NEWER; ERROR_TOO_LARGE: a cost above the bounds; ERROR_CORRUPT: a damaged head;
 * ERROR_DENIED: the passphrase is wrong. */
int backup_reader_open(const char *path, struct text passphrase, struct backup_reader **ret_reader, struct error *error) MUST_CHECK;
void backup_reader_free(struct backup_reader *reader); /* takes NULL */
/* The next part's name, when the one before was read to its end: 1. The end of the file, and that it is one: 0. ERROR_CORRUPT: changed, cut, out of order. */
int backup_reader_next(struct backup_reader *reader, char ret_name[static BACKUP_PART_NAME_MAXIMUM + 1], struct error *error) MUST_CHECK;
/* Up to `size` bytes of the part; 0 at its end; negative errors. */
int64_t backup_reader_get(struct backup_reader *reader, void *data, size_t size, struct error *error) MUST_CHECK;
/* Exactly so many of the part, or ERROR_CORRUPT. */
int backup_reader_need(struct backup_reader *reader, void *data, size_t size, struct error *error) MUST_CHECK;

#endif
