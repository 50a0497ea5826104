/* keypair-archive.json: whatever is in it, it is read whole or not at all; what was read is written in its one form, which reads as the same again; and a file that cannot be used is moved aside, never
 * lost. */
#include "fuzz_keys.h"
#include "identity/archive.h"
#include "memory_file.h"
#include "util/file.h"
#include "util/text.h"

static void check_same(const struct key_archive *a, const struct key_archive *b)
{
    REQUIRE(a->count == b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct archived_key *x = &a->keys[i], *y = &b->keys[i];
        REQUIRE(string_equal(x->key_id, y->key_id) && string_equal(x->mesh_id, y->mesh_id) && x->created_at == y->created_at &&
                x->rotated_out_at == y->rotated_out_at && x->expires_at == y->expires_at &&
                string_equal(keypair_public_hex(x->keys), keypair_public_hex(y->keys)) && !keypair_can_sign(y->keys));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct key_archive archive = { 0 }, again = { 0 };
    struct error error = { .code = ERROR_NONE };
    (void)fuzz_keys(FUZZ_MEMBER);
    if (key_archive_parse((const char *)data, size, &archive, &error) != 0) {
        REQUIRE(archive.count == 0 && (error.code == ERROR_INVALID || error.code == ERROR_NEWER || error.code == ERROR_TOO_LARGE));
        return 0;
    }
    for (size_t i = 1; i < archive.count; i++)
        REQUIRE(archive.keys[i - 1].rotated_out_at <= archive.keys[i].rotated_out_at);
    char path[64];
    struct buffer bytes;
    struct archive_findings findings;
    REQUIRE(string_copy(path, sizeof(path), memory_file_write(data, size)) == 0);
    buffer_init(&bytes, BUFFER_UNLIMITED);
    key_archive_print(&archive, &bytes);
    REQUIRE(key_archive_parse(bytes.data, bytes.length, &again, &error) == 0);
    check_same(&archive, &again);
    key_archive_release(&again);
    REQUIRE(key_archive_read(path, 0, &again, &findings, &error) == 0);
    REQUIRE(again.count <= ARCHIVE_KEYS_MAXIMUM && again.count + findings.dropped == archive.count && findings.moved_to[0] == '\0');
    size_t left = again.count - key_archive_expire(&again, INT64_MAX);
    REQUIRE(left == 0 && again.count == 0);
    key_archive_release(&again);
    key_archive_release(&archive);
    buffer_wipe_release(&bytes);
    return 0;
}
