/* Owns the invite: its fields and their bounds, the text that is signed, the signature's chain up to the owner, and its public form (50-identity, "Invites"). Must not look at the
 * clock: expiry, uses and revocation are judged by who knows them. Links are invite_link.c's. */
#include "proto/invite.h"

#include "json/json.h"
#include "proto/invite_fields.h"
#include "proto/statement.h"
#include "util/limits.h"
#include "util/memory.h"

enum { INVITE_TEXT_MAXIMUM = 2048, BROKER_URL_MAXIMUM = 1024 };
static const int64_t USES_MAXIMUM = INT32_MAX;

void invite_release(struct invite *invite)
{
    if (invite == NULL) {
        return;
    }
    free(invite->mesh_id);
    free(invite->mesh_slug);
    free(invite->mesh_name);
    free(invite->broker_url);
    free(invite->invite_id);
    free(invite->role);
    free(invite->owner_pubkey);
    free(invite->signer_pubkey);
    json_decref(invite->signer_grant);
    secret_wipe(invite, sizeof(*invite));
}

void invite_id_of(const char *invite_pubkey_hex, char ret_invite_id[INVITE_ID_SIZE])
{
    enum { ID_DIGITS = 40 };
    const struct text parts[] = { { "claudemesh-invite-key-v1", sizeof("claudemesh-invite-key-v1") }, /* with its zero byte */
                                  text_from(invite_pubkey_hex) };
    struct sha256 digest;
    char hex[SHA256_HEX_SIZE];
    sha256_of_parts(parts, ARRAY_LENGTH(parts), &digest);
    hex_encode(digest.bytes, sizeof(digest.bytes), hex);
    ret_invite_id[0] = 'k';
    memcpy(ret_invite_id + 1, hex, ID_DIGITS);
    ret_invite_id[1 + ID_DIGITS] = '\0';
}

/* ---- shape ------------------------------------------------------------------------------------------------ */

/* '|' separates the fields of the signed text: a URL that held one could be read as another invite. */
bool invite_broker_url_is_valid(const char *url)
{
    if (!string_has_prefix(url, "ws://") && !string_has_prefix(url, "wss://")) {
        return false;
    }
    size_t length = 0;
    for (; url[length] != '\0'; length++) {
        if (length == BROKER_URL_MAXIMUM || url[length] <= ' ' || url[length] > '~' || url[length] == '|') {
            return false;
        }
    }
    return true;
}

static bool role_is_valid(const char *role)
{
    return string_equal(role, "member") || string_equal(role, "admin");
}

static bool signature_is_hex(const char *signature)
{
    uint8_t bytes[SIGNATURE_BYTES];
    return hex_decode(signature, strlen(signature), bytes, sizeof(bytes)) == 0;
}

static int invite_check_shape(const struct invite *invite, struct error *error)
{
    const struct {
        const char *name;
        const char *value;
        bool (*check)(const char *value);
    } texts[] = {
        { "mesh_id", invite->mesh_id, uuid_is_valid },
        { "mesh_slug", invite->mesh_slug, name_is_valid },
        { "broker_url", invite->broker_url, invite_broker_url_is_valid },
        { "invite_id", invite->invite_id, id_is_valid },
        { "role", invite->role, role_is_valid },
        { "owner_pubkey", invite->owner_pubkey, hex_is_key },
        { "root_key_sha256", invite->root_key_sha256, hex_is_key },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(texts); index++) {
        if (texts[index].value == NULL || !texts[index].check(texts[index].value)) {
            return error_set(error, ERROR_INVALID, "the invite's '%s' is malformed", texts[index].name);
        }
    }
    if (invite->version != 3) {
        return error_set(error, ERROR_INVALID, "the invite's version is %d, not 3", invite->version);
    }
    if (invite->mesh_name == NULL || strlen(invite->mesh_name) > LIMIT_DISPLAY_NAME) {
        return error_set(error, ERROR_INVALID, "the invite's 'mesh_name' is malformed");
    }
    if (invite->expires_at_s < 1 || invite->expires_at_s > INVITE_EXPIRY_MAXIMUM_S) {
        return error_set(error, ERROR_INVALID, "the invite's 'expires_at' is out of range");
    }
    if (invite->max_uses < 1 || invite->max_uses > USES_MAXIMUM) {
        return error_set(error, ERROR_INVALID, "the invite's 'max_uses' is out of range");
    }
    if ((invite->signer_pubkey == NULL) != (invite->signer_grant == NULL)) {
        return error_set(error, ERROR_INVALID, "the invite must have both 'signer_pubkey' and 'signer_grant', or neither");
    }
    if (invite->signer_pubkey != NULL && !hex_is_key(invite->signer_pubkey)) {
        return error_set(error, ERROR_INVALID, "the invite's 'signer_pubkey' is malformed");
    }
    return 0;
}

/* ---- text and signature --------------------------------------------------------------------------------------- */

int invite_text(const struct invite *invite, struct buffer *ret_text, struct error *error)
{
    int result = invite_check_shape(invite, error);
    if (result != 0) {
        return result;
    }
    if (buffer_printf(ret_text, "v=3|%s|%s|%s|%s|%s|%" PRId64 "|%" PRId64 "|%s|%s", invite->mesh_id, invite->mesh_slug, invite->broker_url,
                      invite->invite_id, invite->role, invite->expires_at_s, invite->max_uses, invite->owner_pubkey,
                      invite->root_key_sha256) != 0) {
        return error_set(error, ERROR_TOO_LARGE, "the invite's text is too long");
    }
    return 0;
}

int invite_derive(struct invite *invite, struct error *error)
{
    if (invite->has_root_key) {
        sha256_hex(invite->root_key, sizeof(invite->root_key), invite->root_key_sha256);
    }
    if (invite->has_invite_seed) {
        struct keypair *keys = NULL;
        int result = keypair_from_seed(invite->invite_seed, &keys, error);
        if (result != 0) {
            return result;
        }
        memcpy(invite->invite_pubkey, keypair_public_hex(keys), KEY_HEX_SIZE);
        keypair_free(keys);
    }
    return 0;
}

/* The key that must have signed. */
static const char *invite_signer(const struct invite *invite)
{
    return invite->signer_pubkey != NULL ? invite->signer_pubkey : invite->owner_pubkey;
}

int invite_sign(struct invite *invite, const struct keypair *signer, struct error *error)
{
    struct buffer text;
    char invite_id[INVITE_ID_SIZE];
    buffer_init(&text, INVITE_TEXT_MAXIMUM);
    int result = invite_derive(invite, error);
    if (result != 0) {
        goto done;
    }
    if (invite->has_invite_seed) {
        invite_id_of(invite->invite_pubkey, invite_id);
        free(invite->invite_id);
        invite->invite_id = memory_strdup(invite_id);
    }
    result = invite_text(invite, &text, error);
    if (result != 0) {
        goto done;
    }
    if (!string_equal(keypair_public_hex(signer), invite_signer(invite))) {
        result = error_set(error, ERROR_DENIED, "the signing key is not the one that the invite names");
        goto done;
    }
    if (invite->signer_pubkey != NULL && string_equal(invite->role, "admin")) {
        result = error_set(error, ERROR_DENIED, "only the owner may invite an admin");
        goto done;
    }
    keypair_sign_hex(signer, text.data, text.length, invite->signature);
done:
    buffer_release(&text);
    return result;
}

/* owner → grant → signer: the grant makes the invite's signer an admin of this mesh, by the owner's own signature. */
static int verify_signer_grant(const struct invite *invite, struct error *error)
{
    const struct {
        const char *name;
        const char *value;
    } demands[] = {
        { "mesh", invite->mesh_id },
        { "pubkey", invite->signer_pubkey },
        { "role", "admin" },
        { "by", invite->owner_pubkey },
    };
    if (string_equal(invite->role, "admin")) {
        return error_set(error, ERROR_DENIED, "an invite for an admin takes the owner's own signature");
    }
    for (size_t index = 0; index < ARRAY_LENGTH(demands); index++) {
        const char *value = NULL;
        int result = json_read_string(invite->signer_grant, demands[index].name, JSON_REQUIRED, &value, error);
        if (result != 0) {
            return error_prefix(error, "the invite's 'signer_grant'");
        }
        if (!string_equal(value, demands[index].value)) {
            return error_set(error, ERROR_DENIED, "the invite's 'signer_grant' has another '%s'", demands[index].name);
        }
    }
    int result = statement_verify_json(STATEMENT_GRANT, invite->signer_grant, invite->owner_pubkey, "sig", error);
    return result == 0 ? 0 : error_prefix(error, "the invite's 'signer_grant'");
}

int invite_verify(const struct invite *invite, struct error *error)
{
    struct buffer text;
    char invite_id[INVITE_ID_SIZE];
    if (invite->version == 1) {
        return error_set(error, ERROR_DENIED, "an invite of the older form holds nothing that can be checked");
    }
    buffer_init(&text, INVITE_TEXT_MAXIMUM);
    int result = invite_text(invite, &text, error);
    if (result != 0) {
        goto done;
    }
    if (!hex_is_key(invite->invite_pubkey)) {
        result = error_set(error, ERROR_INVALID, "the invite's key is missing");
        goto done;
    }
    invite_id_of(invite->invite_pubkey, invite_id);
    if (!string_equal(invite_id, invite->invite_id)) {
        result = error_set(error, ERROR_DENIED, "the invite's id does not belong to its key");
        goto done;
    }
    if (!signature_hex_is_valid(invite_signer(invite), text.data, text.length, invite->signature)) {
        result = error_set(error, ERROR_DENIED, "the invite's signature is not its signer's");
        goto done;
    }
    result = invite->signer_pubkey == NULL ? 0 : verify_signer_grant(invite, error);
done:
    buffer_release(&text);
    return result;
}

/* ---- JSON ------------------------------------------------------------------------------------------------- */

int invite_read_string(const json_t *object, const char *name, char **ret_value, struct error *error)
{
    const char *value = NULL;
    int result = json_read_string(object, name, JSON_REQUIRED, &value, error);
    if (result == 0) {
        *ret_value = memory_strdup(value);
    }
    return result;
}

int invite_read_signature(const json_t *object, char ret_signature[SIGNATURE_HEX_SIZE], struct error *error)
{
    const char *signature = NULL;
    int result = json_read_string(object, "signature", JSON_REQUIRED, &signature, error);
    if (result != 0) {
        return result;
    }
    if (!signature_is_hex(signature)) {
        return error_set(error, ERROR_INVALID, "the invite's 'signature' must be 128 lower-case hex digits");
    }
    memcpy(ret_signature, signature, SIGNATURE_HEX_SIZE);
    return 0;
}

static int read_signer(const json_t *object, struct invite *invite, struct error *error)
{
    const char *signer = NULL;
    const json_t *grant = NULL;
    int result = json_read_string(object, "signer_pubkey", JSON_OPTIONAL, &signer, error);
    if (result != 0) {
        return result;
    }
    result = json_read_object(object, "signer_grant", JSON_OPTIONAL, &grant, error);
    if (result != 0) {
        return result;
    }
    invite->signer_pubkey = memory_strdup(signer);
    if (grant != NULL) {
        invite->signer_grant = json_deep_copy(grant);
        if (invite->signer_grant == NULL) {
            memory_exhausted();
        }
    }
    return 0;
}

int invite_read_fields(const json_t *object, struct invite *invite, struct error *error)
{
    const struct {
        const char *name;
        char **field;
    } texts[] = {
        { "mesh_id", &invite->mesh_id },           { "mesh_slug", &invite->mesh_slug }, { "mesh_name", &invite->mesh_name },
        { "broker_url", &invite->broker_url },     { "invite_id", &invite->invite_id }, { "role", &invite->role },
        { "owner_pubkey", &invite->owner_pubkey },
    };
    int64_t version = 0;
    int result = json_read_integer(object, "v", JSON_REQUIRED, 3, 3, &version, error);
    invite->version = 3;
    for (size_t index = 0; index < ARRAY_LENGTH(texts) && result == 0; index++) {
        result = invite_read_string(object, texts[index].name, texts[index].field, error);
    }
    if (result == 0) {
        result = json_read_integer(object, "expires_at", JSON_REQUIRED, 1, INVITE_EXPIRY_MAXIMUM_S, &invite->expires_at_s, error);
    }
    if (result == 0) {
        result = json_read_integer(object, "max_uses", JSON_REQUIRED, 1, USES_MAXIMUM, &invite->max_uses, error);
    }
    if (result == 0) {
        result = read_signer(object, invite, error);
    }
    if (result == 0) {
        result = invite_read_signature(object, invite->signature, error);
    }
    return result;
}

json_t *invite_public_json(const struct invite *invite)
{
    json_t *object = json_new_object();
    json_put_integer(object, "v", invite->version);
    json_put_string(object, "mesh_id", invite->mesh_id);
    json_put_string(object, "mesh_slug", invite->mesh_slug);
    json_put_string(object, "mesh_name", invite->mesh_name);
    json_put_string(object, "broker_url", invite->broker_url);
    json_put_string(object, "invite_id", invite->invite_id);
    json_put_string(object, "role", invite->role);
    json_put_integer(object, "expires_at", invite->expires_at_s);
    json_put_integer(object, "max_uses", invite->max_uses);
    json_put_string(object, "owner_pubkey", invite->owner_pubkey);
    if (invite->signer_pubkey != NULL) {
        json_put_string(object, "signer_pubkey", invite->signer_pubkey);
        json_put(object, "signer_grant", json_incref(invite->signer_grant));
    }
    json_put_string(object, "root_key_sha256", invite->root_key_sha256);
    json_put_string(object, "signature", invite->signature);
    return object;
}

int invite_parse_public(const json_t *object, struct invite *ret_invite, struct error *error)
{
    struct invite invite = { 0 };
    const char *digest = NULL;
    int result = 0;
    if (!json_is_object(object)) {
        return error_set(error, ERROR_INVALID, "the invite must be an object");
    }
    if (json_object_get(object, "root_key") != NULL || json_object_get(object, "invite_seed") != NULL) {
        return error_set(error, ERROR_INVALID, "a public invite must not carry 'root_key' or 'invite_seed'");
    }
    result = invite_read_fields(object, &invite, error);
    if (result != 0) {
        goto failed;
    }
    result = json_read_string(object, "root_key_sha256", JSON_REQUIRED, &digest, error);
    if (result != 0) {
        goto failed;
    }
    if (string_copy(invite.root_key_sha256, sizeof(invite.root_key_sha256), digest) != 0) {
        result = error_set(error, ERROR_INVALID, "the invite's 'root_key_sha256' is malformed");
        goto failed;
    }
    result = invite_check_shape(&invite, error);
    if (result != 0) {
        goto failed;
    }
    *ret_invite = invite;
    return 0;
failed:
    invite_release(&invite);
    return result;
}
