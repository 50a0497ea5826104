/* The files of identity: local-token, session-id, a mesh's keys in config.json. What is accepted is in its one form, and a file that holds something else is refused, never replaced. (Host fingerprint, archive and
 * backup join them when they exist.) */
#include "fuzz_keys.h"
#include "identity/identity.h"
#include "memory_file.h"
#include "util/file.h"
#include "util/text.h"

static void check_unchanged(const char *path, const uint8_t *data, size_t size)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    REQUIRE(file_read(path, &bytes, NULL) == 0 && bytes.length == size && memcmp(bytes.data, data, size) == 0);
    buffer_release(&bytes);
}

static bool is_content(const char *text, const uint8_t *data, size_t size)
{
    const size_t length = strlen(text);
    return (length == size || (length + 1 == size && data[length] == '\n')) && memcmp(text, data, length) == 0;
}

static void check_token(const struct config_paths *paths, const uint8_t *data, size_t size)
{
    char *token = NULL;
    struct error error = { .code = ERROR_NONE };

    if (identity_local_token(paths, &token, &error) == 0)
        REQUIRE(strlen(token) == 43 && is_content(token, data, size));
    else
        REQUIRE(token == NULL && (error.code == ERROR_CORRUPT || error.code == ERROR_TOO_LARGE));
    free(token);
}

static void check_session_id(const struct config_paths *paths, const uint8_t *data, size_t size)
{
    char *id = NULL;
    struct error error = { .code = ERROR_NONE };

    if (identity_session_id(paths, &id, &error) == 0)
        REQUIRE(id_is_valid(id) && is_content(id, data, size));
    else
        REQUIRE(id == NULL && (error.code == ERROR_CORRUPT || error.code == ERROR_TOO_LARGE));
    free(id);
}

static void check_keys(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    struct config_mesh mesh = { .slug = (char[]){ "ops" } };
    struct keypair *keys = NULL;
    struct error error = { .code = ERROR_NONE };
    char secret[SECRET_HEX_SIZE];

    mesh.secret_key = fuzz_take_string(&input, '\n');
    mesh.pubkey = fuzz_take_string(&input, '\n');
    if (identity_mesh_keys(&mesh, &keys, &error) == 0) {
        keypair_secret_hex(keys, secret);
        REQUIRE(string_equal(secret, mesh.secret_key) && string_equal(keypair_public_hex(keys), mesh.pubkey));
    } else {
        REQUIRE(keys == NULL && error.code == ERROR_INVALID &&
                (strlen(mesh.secret_key) < 16 || strstr(error.message, mesh.secret_key) == NULL));
    }
    keypair_free(keys);
    free(mesh.secret_key);
    free(mesh.pubkey);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path_copy[64];
    struct config_paths paths = { .root = NULL };

    (void)fuzz_keys(FUZZ_MEMBER);
    REQUIRE(string_copy(path_copy, sizeof(path_copy), memory_file_write(data, size)) == 0);
    paths.local_token = paths.session_id = path_copy;
    check_token(&paths, data, size);
    check_session_id(&paths, data, size);
    check_unchanged(path_copy, data, size);
    check_keys(data, size);
    return 0;
}
