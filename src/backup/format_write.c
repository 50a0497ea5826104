/* Owns writing a backup file: parts into chunks, chunks into a temporary file that gets its name at the end. Must not know what a part holds. */
#include "backup/format_head.h"
#include "util/ids.h"
#include "util/memory.h"

struct backup_writer {
    struct file_writer file;
    struct sealed_stream *stream;
    struct backup_head head;
    size_t length;               /* of `plain` */
    uint8_t plain[BACKUP_CHUNK]; /* wiped with the writer */
    uint8_t sealed[BACKUP_CHUNK + SEALED_STREAM_OVERHEAD];
};

int backup_writer_open(const char *path, struct text passphrase, struct passphrase_cost cost, struct backup_writer **ret_writer,
                       struct error *error)
{
    struct backup_writer *writer = memory_zalloc(sizeof(*writer));
    struct backup_head_fields fields = { .cost = cost };
    writer->file.fd = -1;
    random_bytes(fields.salt, sizeof(fields.salt));
    int result = sealed_stream_new(passphrase, fields.salt, cost, &writer->stream, error);
    if (result == 0) {
        sealed_stream_begin(writer->stream, fields.stream_header);
        backup_head_make(&fields, writer->stream, &writer->head);
        result = file_writer_open(&writer->file, path, 0600, error);
    }
    if (result == 0) {
        result = file_writer_write(&writer->file, writer->head.bytes, sizeof(writer->head.bytes), error);
    }
    if (result != 0) {
        backup_writer_free(writer);
        return result;
    }
    *ret_writer = writer;
    return 0;
}

void backup_writer_free(struct backup_writer *writer)
{
    if (writer != NULL) {
        file_writer_abandon(&writer->file);
        sealed_stream_free(writer->stream);
        secret_wipe(writer->plain, sizeof(writer->plain));
        free(writer);
    }
}

static int seal(struct backup_writer *writer, bool final, struct error *error)
{
    const struct text plain = { (const char *)writer->plain, writer->length };
    sealed_stream_seal(writer->stream, plain, backup_head_bound(&writer->head), final, writer->sealed);
    writer->length = 0;
    return file_writer_write(&writer->file, writer->sealed, plain.length + SEALED_STREAM_OVERHEAD, error);
}

/* A full chunk is sealed when more comes, so that the last one, full or not, can be the final one. */
static int put(struct backup_writer *writer, const void *data, size_t size, struct error *error)
{
    const uint8_t *bytes = data;
    while (size > 0) {
        if (writer->length == BACKUP_CHUNK) {
            int result = seal(writer, false, error);
            if (result != 0) {
                return result;
            }
        }
        size_t part = BACKUP_CHUNK - writer->length < size ? BACKUP_CHUNK - writer->length : size;
        memcpy(writer->plain + writer->length, bytes, part);
        writer->length += part;
        bytes += part;
        size -= part;
    }
    return 0;
}

static int put_length(struct backup_writer *writer, size_t length, struct error *error)
{
    const uint8_t bytes[4] = { (uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length };
    return put(writer, bytes, sizeof(bytes), error);
}

int backup_writer_begin_part(struct backup_writer *writer, const char *name, struct error *error)
{
    size_t length = strlen(name);
    const uint8_t head[2] = { 'P', (uint8_t)length };
    if (length == 0 || length > BACKUP_PART_NAME_MAXIMUM) {
        return error_set(error, ERROR_TOO_LARGE, "the name %.100s is too long for a backup", name);
    }
    int result = put(writer, head, sizeof(head), error);
    return result == 0 ? put(writer, name, length, error) : result;
}

int backup_writer_put(struct backup_writer *writer, const void *data, size_t size, struct error *error)
{
    const uint8_t *bytes = data;
    int result = 0;
    while (size > 0 && result == 0) {
        size_t part = size < BACKUP_CHUNK ? size : BACKUP_CHUNK;
        result = put_length(writer, part, error);
        if (result == 0) {
            result = put(writer, bytes, part, error);
        }
        bytes += part;
        size -= part;
    }
    return result;
}

int backup_writer_end_part(struct backup_writer *writer, struct error *error)
{
    return put_length(writer, 0, error);
}

int backup_writer_finish(struct backup_writer *writer, bool replace, struct error *error)
{
    int result = put(writer, "Z", 1, error);
    if (result == 0) {
        result = seal(writer, true, error);
    }
    if (result == 0) {
        result = file_writer_finish(&writer->file, replace, error);
    }
    backup_writer_free(writer);
    return result;
}
