/* Owns the table of parts. */
#include "backup/parts.h"

#include <stddef.h>

#include "util/file.h"
#include "util/limits.h"

const char PART_MANIFEST[] = "manifest.json";
const char PART_OUTBOX[] = "outbox";
const char PART_INBOX[] = "inbox";
const char PART_HOOK[] = "hook/";
const char PART_HOOK_PROGRAM[] = "hook-program/";

enum { TOPIC_KEYS_MAXIMUM = 16 * LIMIT_CONFIG_FILE };

#define FILE_OF(part, field, maximum)                         \
    {                                                         \
        (part), offsetof(struct config_paths, field), maximum \
    }
const struct backup_file BACKUP_FILES[] = {
    FILE_OF("config.json", config_json, LIMIT_CONFIG_FILE),
    FILE_OF("keypair-archive.json", keypair_archive, LIMIT_CONFIG_FILE),
    FILE_OF("topic_keys.json", topic_keys, TOPIC_KEYS_MAXIMUM),
    FILE_OF("config.toml", config_toml, LIMIT_CONFIG_FILE),
    FILE_OF("host_fingerprint.json", host_fingerprint, LIMIT_CONFIG_FILE),
};
const size_t BACKUP_FILE_COUNT = ARRAY_LENGTH(BACKUP_FILES);

const char *backup_file_path(const struct backup_file *file, const struct config_paths *paths)
{
    return *(char *const *)(const void *)((const char *)paths + file->path);
}

bool hook_name_is_plain(const char *name)
{
    static const char ALLOWED[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(name);
    return length > 0 && length <= 64 && name[0] != '.' && strspn(name, ALLOWED) == length;
}

int backup_check_recovered(const struct config_paths *paths, struct error *error)
{
    bool there = false;
    int result = file_look(paths->outbox_recovery, &there, error);
    return result == 0 && there
               ? error_set(error, ERROR_BUSY, "a recovery of outbox.db was interrupted; finish it first with 'claudemesh daemon recover'")
               : result;
}
