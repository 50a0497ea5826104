/* Owns the local token, the session id, and reading a member's keys from its configuration. */
#include "identity/identity.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

enum { TOKEN_BYTES = 32, TOKEN_FILE_MAXIMUM = 256, SESSION_FILE_MAXIMUM = 256 };

static void trim_line(struct buffer *bytes)
{
    if (bytes->length > 0 && bytes->data[bytes->length - 1] == '\n') {
        bytes->data[--bytes->length] = '\0';
    }
}

/* What others could read would not be this user's secret. An own file of 0644 names its remedy. */
static int read_private(const char *path, struct buffer *bytes, struct error *error)
{
    int result = file_check_private(path, error);
    if (result == 0) {
        result = file_read(path, bytes, error);
    }
    if (result == 0) {
        trim_line(bytes);
    }
    return result;
}

/* ---- the token -------------------------------------------------------------------------------------------------- */

static int token_make(const char *path, struct buffer *token, struct error *error)
{
    uint8_t bytes[TOKEN_BYTES];
    random_bytes(bytes, sizeof(bytes));
    int result = base64url_encode(bytes, sizeof(bytes), token);
    secret_wipe(bytes, sizeof(bytes));
    if (result != 0) {
        return error_set(error, ERROR_INTERNAL, "the token does not fit");
    }
    return file_write_atomic(path, 0600, token->data, token->length, error);
}

static int token_check(const char *path, const struct buffer *token, struct error *error)
{
    struct buffer bytes;
    buffer_init_secret(&bytes, TOKEN_FILE_MAXIMUM);
    bool good = base64url_decode(token->data, token->length, &bytes) == 0 && bytes.length == TOKEN_BYTES;
    buffer_release(&bytes);
    if (!good) {
        return error_set(error, ERROR_CORRUPT, "%s holds no token; remove it, and a new one is made", path);
    }
    return 0;
}

int identity_local_token(const struct config_paths *paths, char **ret_token, struct error *error)
{
    struct buffer token;
    buffer_init_secret(&token, TOKEN_FILE_MAXIMUM);
    int result = read_private(paths->local_token, &token, error);
    if (result == -(int)ERROR_NOT_FOUND) {
        result = token_make(paths->local_token, &token, error);
    } else if (result == 0) {
        result = token_check(paths->local_token, &token, error);
    }
    if (result == 0) {
        *ret_token = buffer_take(&token, NULL);
    }
    buffer_release(&token);
    return result;
}

int identity_rotate_token(const struct config_paths *paths, char **ret_token, struct error *error)
{
    struct buffer token;
    buffer_init_secret(&token, TOKEN_FILE_MAXIMUM);
    int result = token_make(paths->local_token, &token, error);
    if (result == 0) {
        *ret_token = buffer_take(&token, NULL);
    }
    buffer_release(&token);
    return result;
}

/* ---- the session id --------------------------------------------------------------------------------------------- */

int identity_session_id(const struct config_paths *paths, char **ret_session_id, struct error *error)
{
    struct buffer id;
    buffer_init(&id, SESSION_FILE_MAXIMUM);
    int result = read_private(paths->session_id, &id, error);
    if (result == -(int)ERROR_NOT_FOUND) {
        char uuid[UUID_SIZE];
        uuid_generate(uuid);
        (void)buffer_append_text(&id, uuid); /* it fits */
        result = file_write_atomic(paths->session_id, 0600, id.data, id.length, error);
    } else if (result == 0 && (strlen(id.data) != id.length || !id_is_valid(id.data))) {
        result = error_set(error, ERROR_CORRUPT, "%s holds no session id; remove it, and a new one is made", paths->session_id);
    }
    if (result == 0) {
        *ret_session_id = buffer_take(&id, NULL);
    }
    buffer_release(&id);
    return result;
}

/* ---- member keys ------------------------------------------------------------------------------------------------ */

int identity_mesh_keys(const struct config_mesh *mesh, struct keypair **ret_keys, struct error *error)
{
    struct keypair *keys = NULL;
    int result = keypair_from_secret_hex(mesh->secret_key, &keys, error);
    if (result == 0 && !string_equal(keypair_public_hex(keys), mesh->pubkey)) {
        result = error_set(error, ERROR_INVALID, "pubkey and secretKey do not belong together");
    }
    if (result != 0) {
        keypair_free(keys);
        return error_prefix(error, "the keys of mesh '%s'", mesh->slug);
    }
    *ret_keys = keys;
    return 0;
}
