/* What the writer and the reader of a backup file share: the head. Internal to the room. */
#ifndef BACKUP_FORMAT_HEAD_H
#define BACKUP_FORMAT_HEAD_H

#include "backup/format.h"

struct backup_head {
    uint8_t bytes[BACKUP_HEAD_BYTES];
};
struct backup_head_fields {
    struct passphrase_cost cost;
    uint8_t salt[PASSPHRASE_SALT_BYTES];
    uint8_t stream_header[SEALED_STREAM_HEADER_BYTES];
};

void backup_head_make(const struct backup_head_fields *fields, const struct sealed_stream *stream, struct backup_head *ret_head);
/* Everything that can be judged without the passphrase. */
int backup_head_parse(const struct backup_head *head, const char *path, struct backup_head_fields *ret_fields,
                      struct error *error) MUST_CHECK;
bool backup_head_is_proven(const struct backup_head *head, const struct sealed_stream *stream);
struct text backup_head_bound(const struct backup_head *head);

#endif
