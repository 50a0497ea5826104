/* The parts of a backup: which file of the directory each is. Internal to the room. */
#ifndef BACKUP_PARTS_H
#define BACKUP_PARTS_H

#include "backup/backup.h"

extern const char PART_MANIFEST[], PART_OUTBOX[], PART_INBOX[];
extern const char PART_HOOK[], PART_HOOK_PROGRAM[]; /* before a hook's file name: 0600, 0700 */

struct backup_file {
    const char *part;
    size_t path;    /* offset of its path in struct config_paths */
    size_t maximum; /* bytes */
};
extern const struct backup_file BACKUP_FILES[]; /* config.json is the first */
extern const size_t BACKUP_FILE_COUNT;
const char *backup_file_path(const struct backup_file *file, const struct config_paths *paths);

/* ERROR_BUSY: `daemon recover` was interrupted; what stands there is not yet an outbox, and its ids must not be taken for all. */
int backup_check_recovered(const struct config_paths *paths, struct error *error) MUST_CHECK;

enum { HOOK_FILE_MAXIMUM = 64 * 1024 * 1024, HOOK_FILES_MAXIMUM = 256 };
/* A name that a hook's file may have: no way out of its directory. */
bool hook_name_is_plain(const char *name);

#endif
