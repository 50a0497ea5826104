/* Owns reading a backup file. Nothing of it is believed before it was opened with the passphrase's key; the order of chunks, and that the last one is the last, are the
 * stream's. Must not know what a part holds. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backup/format_head.h"
#include "util/memory.h"

struct backup_reader {
    char *path;
    int fd;
    struct sealed_stream *stream;
    struct backup_head head;
    bool final;        /* the chunk in `plain` is the last */
    bool in_part;      /* between a part's name and its end */
    size_t block;      /* bytes left of the part's current block */
    size_t at, length; /* of `plain` */
    uint8_t plain[BACKUP_CHUNK];
    uint8_t sealed[BACKUP_CHUNK + SEALED_STREAM_OVERHEAD];
};

static int damaged(const struct backup_reader *reader, struct error *error)
{
    return error_set(error, ERROR_CORRUPT, "%s is damaged: it was cut off, or changed after it was written", reader->path);
}

/* As much as there is, up to `size`. */
static int64_t read_up_to(const struct backup_reader *reader, uint8_t *data, size_t size, struct error *error)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(reader->fd, data + done, size - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set_errno(error, "cannot read %s", reader->path);
        }
        if (got == 0) {
            break;
        }
        done += (size_t)got;
    }
    return (int64_t)done;
}

/* ---- opening ----------------------------------------------------------------------------------------------- */

static int unlock(struct backup_reader *reader, struct text passphrase, struct error *error)
{
    struct backup_head_fields fields;
    int64_t got = read_up_to(reader, reader->head.bytes, sizeof(reader->head.bytes), error);
    if (got < 0) {
        return (int)got;
    }
    if (got < (int64_t)sizeof(reader->head.bytes)) {
        return error_set(error, ERROR_INVALID, "%s is no backup of claudemesh, or was cut off", reader->path);
    }
    int result = backup_head_parse(&reader->head, reader->path, &fields, error);
    if (result == 0) {
        result = sealed_stream_new(passphrase, fields.salt, fields.cost, &reader->stream, error);
    }
    if (result != 0) {
        return result;
    }
    if (!backup_head_is_proven(&reader->head, reader->stream)) {
        return error_set(error, ERROR_DENIED, "the passphrase is not the one that %s was made with", reader->path);
    }
    return sealed_stream_resume(reader->stream, fields.stream_header) == 0 ? 0 : damaged(reader, error);
}

int backup_reader_open(const char *path, struct text passphrase, struct backup_reader **ret_reader, struct error *error)
{
    struct backup_reader *reader = memory_zalloc(sizeof(*reader));
    reader->path = memory_strdup(path);
    reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    int result = reader->fd < 0 ? error_set_errno(error, "cannot open %s", path) : unlock(reader, passphrase, error);
    if (result != 0) {
        backup_reader_free(reader);
        return result;
    }
    *ret_reader = reader;
    return 0;
}

void backup_reader_free(struct backup_reader *reader)
{
    if (reader == NULL) {
        return;
    }
    if (reader->fd >= 0) {
        close(reader->fd);
    }
    sealed_stream_free(reader->stream);
    secret_wipe(reader->plain, sizeof(reader->plain));
    free(reader->path);
    free(reader);
}

/* ---- chunks ------------------------------------------------------------------------------------------------ */

/* The next chunk: a full one, or the final one. After the final one there is nothing. */
static int next_chunk(struct backup_reader *reader, struct error *error)
{
    uint8_t more;
    int64_t got = read_up_to(reader, reader->sealed, sizeof(reader->sealed), error);
    if (got < 0) {
        return (int)got;
    }
    const struct text sealed = { (const char *)reader->sealed, (size_t)got };
    if (reader->final || sealed_stream_open(reader->stream, sealed, backup_head_bound(&reader->head), reader->plain, &reader->final) != 0) {
        return damaged(reader, error);
    }
    reader->at = 0;
    reader->length = sealed.length - SEALED_STREAM_OVERHEAD;
    if (!reader->final) {
        return reader->length == BACKUP_CHUNK ? 0 : damaged(reader, error);
    }
    got = read_up_to(reader, &more, 1, error);
    return got < 0 ? (int)got : got == 0 ? 0 : damaged(reader, error);
}

/* At least one byte in hand, or an error: the plaintext says itself where it ends. */
static int ensure_bytes(struct backup_reader *reader, struct error *error)
{
    return reader->at < reader->length ? 0 : next_chunk(reader, error);
}

static int need(struct backup_reader *reader, void *data, size_t size, struct error *error)
{
    uint8_t *bytes = data;
    while (size > 0) {
        int result = ensure_bytes(reader, error);
        if (result != 0) {
            return result;
        }
        size_t part = reader->length - reader->at < size ? reader->length - reader->at : size;
        memcpy(bytes, reader->plain + reader->at, part);
        reader->at += part;
        bytes += part;
        size -= part;
    }
    return 0;
}

/* ---- parts ------------------------------------------------------------------------------------------------- */

static bool is_name(const char *name, size_t length)
{
    static const char ALLOWED[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/";
    return strlen(name) == length && strspn(name, ALLOWED) == length;
}

int backup_reader_next(struct backup_reader *reader, char ret_name[static BACKUP_PART_NAME_MAXIMUM + 1], struct error *error)
{
    uint8_t kind = 0;
    uint8_t length = 0;
    int result =
        reader->in_part ? error_set(error, ERROR_INTERNAL, "a part of the backup was not read to its end") : need(reader, &kind, 1, error);
    if (result != 0) {
        return result;
    }
    if (kind == 'Z') { /* the last byte of the last chunk */
        return reader->final && reader->at == reader->length ? 0 : damaged(reader, error);
    }
    result = kind == 'P' ? need(reader, &length, 1, error) : damaged(reader, error);
    if (result == 0 && (length == 0 || length > BACKUP_PART_NAME_MAXIMUM)) {
        result = damaged(reader, error);
    }
    if (result == 0) {
        result = need(reader, ret_name, length, error);
    }
    if (result != 0) {
        return result;
    }
    ret_name[length] = '\0';
    reader->in_part = true;
    reader->block = 0;
    return is_name(ret_name, length) ? 1 : damaged(reader, error);
}

static int next_block(struct backup_reader *reader, struct error *error)
{
    uint8_t bytes[4];
    int result = need(reader, bytes, sizeof(bytes), error);
    if (result != 0) {
        return result;
    }
    reader->block = (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | (size_t)bytes[3];
    if (reader->block > BACKUP_CHUNK) {
        return damaged(reader, error);
    }
    reader->in_part = reader->block > 0;
    return 0;
}

int64_t backup_reader_get(struct backup_reader *reader, void *data, size_t size, struct error *error)
{
    int result = reader->in_part && reader->block == 0 ? next_block(reader, error) : 0;
    if (result != 0) {
        return result;
    }
    size_t part = reader->block < size ? reader->block : size;
    result = need(reader, data, part, error);
    if (result != 0) {
        return result;
    }
    reader->block -= part;
    return (int64_t)part;
}

int backup_reader_need(struct backup_reader *reader, void *data, size_t size, struct error *error)
{
    uint8_t *bytes = data;
    while (size > 0) {
        int64_t got = backup_reader_get(reader, bytes, size, error);
        if (got <= 0) {
            return got < 0 ? (int)got : damaged(reader, error);
        }
        bytes += got;
        size -= (size_t)got;
    }
    return 0;
}
