/* One file a join, <configuration directory>/join-<invite id>.key, 0600: the secret key's hex. Must not outlive the join. */
#include "cli/pending_key.h"

#include <unistd.h>

#include "crypto/crypto.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

static char *file_of(const struct config_paths *paths, const char *invite_id)
{
    return memory_printf("%s/join-%s.key", paths->root, invite_id);
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

int pending_key_make(const struct config_paths *paths, const char *invite_id, struct keypair **ret_keys, struct error *error)
{
    char *path;
    struct buffer hex;
    int status;

    if (!id_is_valid(invite_id)) { /* it becomes a file's name */
        return error_set(error, ERROR_INVALID, "the invite's id is malformed");
    }
    path = file_of(paths, invite_id);
    buffer_init_secret(&hex, SECRET_HEX_SIZE);
    status = file_check_private(path, error);
    if (status == 0) {
        struct error missing = { 0 };
        bool kept = file_read(path, &hex, &missing) == 0 && keypair_from_secret_hex(hex.data, ret_keys, &missing) == 0;
        status = kept ? 0 : keep_new(path, ret_keys, error);
    }
    buffer_release(&hex);
    free(path);
    return status;
}

void pending_key_forget(const struct config_paths *paths, const char *invite_id)
{
    char *path = file_of(paths, invite_id);
    (void)unlink(path);
    free(path);
}
