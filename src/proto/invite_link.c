/* Owns the invite link: claudemesh://join/… both ways, ic://join/… reading only (50-identity, "Invites"). The link holds the root key and the invite's seed: they are wiped on every
 * path, and no error says more than a field's name. */
#include "json/json.h"
#include "proto/invite_fields.h"
#include "util/limits.h"
#include "util/memory.h"

static const char SCHEME[] = "claudemesh://join/";
static const char OLDER_SCHEME[] = "ic://join/";

/* 32 bytes, base64url without padding, in its one form. */
static int read_secret(const json_t *object, const char *name, uint8_t ret_secret[static 32], struct error *error)
{
    struct text text = { NULL, 0 };
    struct buffer bytes;
    buffer_init_secret(&bytes, 32);
    int result = json_read_text(object, name, JSON_REQUIRED, &text, error);
    if (result == 0) {
        if (base64url_decode(text.data, text.length, &bytes) == 0 && bytes.length == 32) {
            memcpy(ret_secret, bytes.data, 32);
        } else {
            result = error_set(error, ERROR_INVALID, "the invite's '%s' must be 32 bytes in base64url", name);
        }
    }
    buffer_release(&bytes);
    return result;
}

static int read_current(const json_t *object, struct invite *invite, struct error *error)
{
    struct buffer text;
    int result = invite_read_fields(object, invite, error);
    if (result == 0) {
        result = read_secret(object, "root_key", invite->root_key, error);
    }
    if (result == 0) {
        invite->has_root_key = true;
        result = read_secret(object, "invite_seed", invite->invite_seed, error);
    }
    if (result == 0) {
        invite->has_invite_seed = true;
        result = invite_derive(invite, error);
    }
    if (result == 0) {
        buffer_init(&text, BUFFER_UNLIMITED);
        result = invite_text(invite, &text, error); /* checks every field's shape */
        buffer_release(&text);
    }
    return result;
}

/* The older form has no seed, no id and no number of uses. */
static int read_older(const json_t *object, struct invite *invite, struct error *error)
{
    int64_t version = 0;
    const char *role = "member";
    int result = json_read_integer(object, "v", JSON_REQUIRED, 1, 1, &version, error);
    invite->version = 1;
    const struct {
        const char *name;
        char **field;
        bool (*check)(const char *value);
    } texts[] = {
        { "mesh_id", &invite->mesh_id, id_is_valid },
        { "mesh_slug", &invite->mesh_slug, name_is_valid },
        { "broker_url", &invite->broker_url, invite_broker_url_is_valid },
        { "owner_pubkey", &invite->owner_pubkey, hex_is_key },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(texts) && result == 0; index++) {
        result = invite_read_string(object, texts[index].name, texts[index].field, error);
        if (result == 0 && !texts[index].check(*texts[index].field)) {
            result = error_set(error, ERROR_INVALID, "the invite's '%s' is malformed", texts[index].name);
        }
    }
    if (result == 0) {
        result = json_read_integer(object, "expires_at", JSON_REQUIRED, 1, INVITE_EXPIRY_MAXIMUM_S, &invite->expires_at_s, error);
    }
    if (result == 0) {
        result = json_read_string(object, "role", JSON_OPTIONAL, &role, error);
        invite->role = memory_strdup(role);
    }
    if (result == 0 && !string_equal(role, "member") && !string_equal(role, "admin")) {
        result = error_set(error, ERROR_INVALID, "the invite's 'role' is malformed");
    }
    if (result == 0) {
        result = invite_read_signature(object, invite->signature, error);
    }
    if (result == 0) {
        const char *name = json_object_get(object, "mesh_root_key") != NULL ? "mesh_root_key" : "root_key";
        result = read_secret(object, name, invite->root_key, error);
        invite->has_root_key = result == 0;
    }
    return result == 0 ? invite_derive(invite, error) : result;
}

/* jansson hands its strings out read-only and frees them as they are; these two must not stay in freed memory. */
static void wipe_secret_strings(const json_t *object)
{
    static const char *const NAMES[] = { "root_key", "mesh_root_key", "invite_seed" };
    for (size_t index = 0; index < ARRAY_LENGTH(NAMES); index++) {
        const json_t *value = json_object_get(object, NAMES[index]);
        if (json_is_string(value)) {
            secret_wipe((void *)(uintptr_t)json_string_value(value), json_string_length(value));
        }
    }
}

int invite_parse_link(const char *link, struct invite *ret_invite, struct error *error)
{
    struct invite invite = { 0 };
    struct buffer bytes;
    json_t *object = NULL;
    bool is_older = string_has_prefix(link, OLDER_SCHEME);
    int result = 0;
    buffer_init_secret(&bytes, LIMIT_INVITE_LINK);
    if (!is_older && !string_has_prefix(link, SCHEME)) {
        result = error_set(error, ERROR_INVALID, "an invite link starts with claudemesh://join/");
        goto done;
    }
    const char *content = link + (is_older ? sizeof(OLDER_SCHEME) : sizeof(SCHEME)) - 1;
    size_t length = strnlen(content, LIMIT_INVITE_LINK + 1);
    if (length > LIMIT_INVITE_LINK) {
        result = error_set(error, ERROR_TOO_LARGE, "the invite link is too long");
        goto done;
    }
    if (base64url_decode(content, length, &bytes) != 0 || json_parse_strict(bytes.data, bytes.length, &object, NULL) != 0 ||
        !json_is_object(object)) {
        result = error_set(error, ERROR_INVALID, "the invite link is damaged: what follows join/ is no invite");
        goto done;
    }
    result = is_older ? read_older(object, &invite, error) : read_current(object, &invite, error);
    if (result == 0) {
        *ret_invite = invite;
        secret_wipe(&invite, sizeof(invite)); /* the caller has it now */
    }
done:
    invite_release(&invite);
    wipe_secret_strings(object);
    json_decref(object);
    buffer_release(&bytes);
    return result;
}

static void append_field(struct buffer *text, const char *name, const char *value)
{
    (void)buffer_printf(text, ",\"%s\":", name);
    (void)buffer_append_json_string(text, value, strlen(value));
}

static void append_secret(struct buffer *text, const char *name, const uint8_t secret[static 32])
{
    (void)buffer_printf(text, ",\"%s\":\"", name);
    (void)base64url_encode(secret, 32, text);
    (void)buffer_append_byte(text, '"');
}

char *invite_format_link(const struct invite *invite)
{
    struct buffer text;
    struct buffer link;
    buffer_init_secret(&text, BUFFER_UNLIMITED);
    buffer_init_secret(&link, BUFFER_UNLIMITED);
    (void)buffer_append_text(&text, "{\"v\":3");
    append_field(&text, "mesh_id", invite->mesh_id);
    append_field(&text, "mesh_slug", invite->mesh_slug);
    append_field(&text, "mesh_name", invite->mesh_name);
    append_field(&text, "broker_url", invite->broker_url);
    append_field(&text, "invite_id", invite->invite_id);
    append_field(&text, "role", invite->role);
    (void)buffer_printf(&text, ",\"expires_at\":%" PRId64 ",\"max_uses\":%" PRId64, invite->expires_at_s, invite->max_uses);
    append_field(&text, "owner_pubkey", invite->owner_pubkey);
    if (invite->signer_pubkey != NULL) {
        append_field(&text, "signer_pubkey", invite->signer_pubkey);
        (void)buffer_append_text(&text, ",\"signer_grant\":");
        (void)json_print(invite->signer_grant, &text);
    }
    append_secret(&text, "root_key", invite->root_key);
    append_secret(&text, "invite_seed", invite->invite_seed);
    append_field(&text, "signature", invite->signature);
    (void)buffer_append_byte(&text, '}');
    (void)buffer_append_text(&link, SCHEME);
    (void)base64url_encode(text.data, text.length, &link);
    buffer_release(&text);
    return buffer_take(&link, NULL);
}
