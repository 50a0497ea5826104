/* Owns a backup file's head. */
#include "backup/format_head.h"

static const char MAGIC[] = "CMBACKUP";
enum { AT_VERSION = 8, AT_OPERATIONS = 12, AT_MEMORY = 16, AT_SALT = 24, AT_STREAM = 40, AT_PROOF = 64, AT_HASH = 96, HASH_BYTES = 32 };
_Static_assert((int)AT_SALT + (int)PASSPHRASE_SALT_BYTES == (int)AT_STREAM &&
                   (int)AT_STREAM + (int)SEALED_STREAM_HEADER_BYTES == (int)AT_PROOF,
               "the bound bytes");
_Static_assert((int)AT_PROOF == (int)BACKUP_BOUND_BYTES && (int)AT_PROOF + (int)SEALED_STREAM_PROOF_BYTES == (int)AT_HASH, "the proof");
_Static_assert((int)AT_HASH + (int)HASH_BYTES == (int)BACKUP_HEAD_BYTES, "the hash");

static void put_number(uint8_t *place, uint64_t number, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        place[i] = (uint8_t)(number >> (8 * (size - 1 - i)));
    }
}

static uint64_t get_number(const uint8_t *place, size_t size)
{
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++) {
        number = number << 8 | place[i];
    }
    return number;
}

void backup_head_make(const struct backup_head_fields *fields, const struct sealed_stream *stream, struct backup_head *ret_head)
{
    uint8_t *bytes = ret_head->bytes;
    memcpy(bytes, MAGIC, AT_VERSION);
    put_number(bytes + AT_VERSION, BACKUP_VERSION, 4);
    put_number(bytes + AT_OPERATIONS, fields->cost.operations, 4);
    put_number(bytes + AT_MEMORY, fields->cost.memory, 8);
    memcpy(bytes + AT_SALT, fields->salt, sizeof(fields->salt));
    memcpy(bytes + AT_STREAM, fields->stream_header, sizeof(fields->stream_header));
    sealed_stream_proof(stream, bytes, AT_PROOF, bytes + AT_PROOF);
    generic_hash(bytes, AT_HASH, bytes + AT_HASH);
}

int backup_head_parse(const struct backup_head *head, const char *path, struct backup_head_fields *ret_fields, struct error *error)
{
    const uint8_t *bytes = head->bytes;
    uint8_t hash[HASH_BYTES];
    struct backup_head_fields fields;
    if (memcmp(bytes, MAGIC, AT_VERSION) != 0) {
        return error_set(error, ERROR_INVALID, "%s is no backup of claudemesh", path);
    }
    uint64_t version = get_number(bytes + AT_VERSION, 4);
    if (version > BACKUP_VERSION) {
        return error_set(error, ERROR_NEWER, "%s has format %" PRIu64 ", and this program knows up to %d: a newer claudemesh is needed",
                         path, version, (int)BACKUP_VERSION);
    }
    fields.cost.operations = (uint32_t)get_number(bytes + AT_OPERATIONS, 4);
    fields.cost.memory = get_number(bytes + AT_MEMORY, 8);
    if (version == 0 || passphrase_cost_check(fields.cost, error) != 0) {
        return version == 0 ? error_set(error, ERROR_CORRUPT, "the head of %s is damaged", path)
                            : error_prefix(error, "%s is refused", path);
    }
    generic_hash(bytes, AT_HASH, hash);
    if (memcmp(hash, bytes + AT_HASH, sizeof(hash)) != 0) {
        return error_set(error, ERROR_CORRUPT, "the head of %s is damaged", path);
    }
    memcpy(fields.salt, bytes + AT_SALT, sizeof(fields.salt));
    memcpy(fields.stream_header, bytes + AT_STREAM, sizeof(fields.stream_header));
    *ret_fields = fields;
    return 0;
}

bool backup_head_is_proven(const struct backup_head *head, const struct sealed_stream *stream)
{
    uint8_t proof[SEALED_STREAM_PROOF_BYTES];
    sealed_stream_proof(stream, head->bytes, AT_PROOF, proof);
    return secret_equal(proof, head->bytes + AT_PROOF, sizeof(proof));
}

struct text backup_head_bound(const struct backup_head *head)
{
    return (struct text){ (const char *)head->bytes, BACKUP_BOUND_BYTES };
}
