/* One file for each, <configuration directory>/<kind>-<id>.key, 0600: the secret key's hex. Must not outlive what it is for. */
#include "cli/pending_key.h"

#include <unistd.h>

#include "crypto/crypto.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

static char *file_of(const struct config_paths *paths, const struct pending_key *pending)
{
    return memory_printf("%s/%s-%s.key", paths->root, pending->kind, pending->id);
}

static int keep_new(const char *path, struct keypair **ret_keys, struct error *error)
{
    char hex[SECRET_HEX_SIZE];
    struct keypair *keys = NULL;
    int status = keypair_generate(&keys, error);
    if (status != 0) {
        return status;
    }
    keypair_secret_hex(keys, hex);
    status = file_write_atomic(path, 0600, hex, sizeof hex - 1, error);
    secret_wipe(hex, sizeof hex);
    if (status != 0) {
        keypair_free(keys);
        return status;
    }
    *ret_keys = keys;
    return 0;
}

int pending_key_make(const struct config_paths *paths, struct pending_key *pending, struct keypair **ret_keys, struct error *error)
{
    char *path;
    struct buffer hex;
    int status;

    if (!id_is_valid(pending->id)) { /* it becomes a file's name */
        return error_set(error, ERROR_INVALID, "the invite's id is malformed");
    }
    path = file_of(paths, pending);
    buffer_init_secret(&hex, SECRET_HEX_SIZE);
    status = file_check_private(path, error);
    if (status == 0) {
        status = file_read(path, &hex, error);
        /* A file that cannot be read now may hold a key that the broker knows: only one that is not there, or holds none, is replaced. */
        pending->fresh = status == -(int)ERROR_NOT_FOUND || (status == 0 && keypair_from_secret_hex(hex.data, ret_keys, NULL) != 0);
        status = pending->fresh ? keep_new(path, ret_keys, error) : status;
    }
    buffer_release(&hex);
    free(path);
    return status;
}

struct keypair *pending_key_peek(const struct config_paths *paths, const struct pending_key *pending)
{
    struct keypair *keys = NULL;
    struct buffer hex;
    char *path = file_of(paths, pending);
    buffer_init_secret(&hex, SECRET_HEX_SIZE);
    if (file_check_private(path, NULL) != 0 || file_read(path, &hex, NULL) != 0 || keypair_from_secret_hex(hex.data, &keys, NULL) != 0) {
        keys = NULL;
    }
    buffer_release(&hex);
    free(path);
    return keys;
}

void pending_key_forget(const struct config_paths *paths, const struct pending_key *pending)
{
    char *path = file_of(paths, pending);
    if (unlink(path) == 0) {
        int ignored = directory_fsync(paths->root, NULL); /* should it come back, it is in nobody's way */
        (void)ignored;
    }
    free(path);
}

void pending_key_refused(const struct config_paths *paths, const struct pending_key *pending, int http_status, const char *code)
{
    /* Said by a broker that has looked, and found that this key is no member. */
    static const char *const NO_MEMBER[] = { "exhausted", "revoked", "slug_taken", "mesh_exists" };
    bool forget = pending->fresh && http_status >= 400 && http_status <= 499;
    for (size_t i = 0; i < ARRAY_LENGTH(NO_MEMBER) && !forget; i++) {
        forget = string_equal(code, NO_MEMBER[i]);
    }
    if (forget) {
        pending_key_forget(paths, pending);
    }
}

void pending_key_name_mesh(const char *slug, const char *broker_url, char ret_id[static PENDING_ID_SIZE])
{
    char digest[SHA256_HEX_SIZE];
    char *text = memory_printf("%s %s", slug, broker_url);
    sha256_hex(text, strlen(text), digest);
    free(text);
    memcpy(ret_id, digest, PENDING_ID_SIZE - 1);
    ret_id[PENDING_ID_SIZE - 1] = '\0';
}
