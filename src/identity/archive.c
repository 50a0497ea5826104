/* Owns keypair-archive.json: its form, its limits, and what becomes of a file that cannot be used. Must not decide when a key is rotated. */
#include "identity/archive.h"

#include <stdio.h>
#include <sys/stat.h>

#include "json/json.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { SCHEMA_VERSION = 1 };
static const int64_t DAY_MS = INT64_C(24) * 3600 * 1000;
static const int64_t LAST_TIME_MS = INT64_C(253402300799999); /* the last that RFC 3339 can write */

/* ---- entries ---------------------------------------------------------------------------------------------------- */

/* The same key of the same mesh has the same id, however often its rotation is tried. */
static void name_key(const char *mesh_id, const char *pubkey_hex, char ret_key_id[ARCHIVE_KEY_ID_SIZE])
{
    static const char DOMAIN[] = "claudemesh-archive-key-v1";
    const struct text parts[] = { { DOMAIN, sizeof(DOMAIN) }, { mesh_id, strlen(mesh_id) + 1 }, text_from(pubkey_hex) };
    struct sha256 digest;
    char hex[SHA256_HEX_SIZE];
    sha256_of_parts(parts, ARRAY_LENGTH(parts), &digest);
    hex_encode(digest.bytes, sizeof(digest.bytes), hex);
    (void)snprintf(ret_key_id, ARCHIVE_KEY_ID_SIZE, "%.32s", hex);
}

static void remove_at(struct key_archive *archive, size_t index)
{
    keypair_free(archive->keys[index].keys);
    archive->count--;
    memmove(&archive->keys[index], &archive->keys[index + 1], (archive->count - index) * sizeof(*archive->keys));
}

static void insert(struct key_archive *archive, const struct archived_key *key)
{
    size_t at = archive->count;
    while (at > 0 && archive->keys[at - 1].rotated_out_at > key->rotated_out_at) {
        at--;
    }
    archive->keys = memory_realloc(archive->keys, (archive->count + 1) * sizeof(*archive->keys));
    memmove(&archive->keys[at + 1], &archive->keys[at], (archive->count - at) * sizeof(*archive->keys));
    archive->keys[at] = *key;
    archive->count++;
}

static size_t drop_surplus(struct key_archive *archive)
{
    size_t dropped = 0;
    for (; archive->count > ARCHIVE_KEYS_MAXIMUM; dropped++) {
        remove_at(archive, 0);
    }
    return dropped;
}

void key_archive_release(struct key_archive *archive)
{
    while (archive->count > 0) {
        remove_at(archive, archive->count - 1);
    }
    free(archive->keys);
    *archive = (struct key_archive){ 0 };
}

bool key_archive_remove(struct key_archive *archive, const char *mesh_id, const char *pubkey_hex)
{
    for (size_t index = 0; index < archive->count; index++) {
        if (string_equal(archive->keys[index].mesh_id, mesh_id) &&
            string_equal(keypair_public_hex(archive->keys[index].keys), pubkey_hex)) {
            remove_at(archive, index);
            return true;
        }
    }
    return false;
}

size_t key_archive_expire(struct key_archive *archive, int64_t now_ms)
{
    size_t removed = 0;
    for (size_t index = archive->count; index > 0; index--) {
        if (archive->keys[index - 1].expires_at <= now_ms) {
            remove_at(archive, index - 1);
            removed++;
        }
    }
    return removed;
}

/* The half that opens, without the half that signs. */
static struct keypair *copy_for_opening(const struct keypair *keys)
{
    char box_secret[KEY_HEX_SIZE], nonce_key[KEY_HEX_SIZE];
    struct keypair *copy = NULL;
    keypair_box_secret_hex(keys, box_secret);
    keypair_nonce_key_hex(keys, nonce_key);
    int result = keypair_for_opening(keypair_public_hex(keys), box_secret, nonce_key, &copy, NULL);
    secret_wipe(box_secret, sizeof(box_secret));
    secret_wipe(nonce_key, sizeof(nonce_key));
    return result == 0 ? copy : NULL;
}

size_t key_archive_add(struct key_archive *archive, const char *mesh_id, const struct keypair *keys, int64_t created_at, int64_t now_ms,
                       int64_t grace_days)
{
    struct archived_key key = { .created_at = created_at, .rotated_out_at = now_ms, .expires_at = now_ms + grace_days * DAY_MS };
    (void)snprintf(key.mesh_id, sizeof(key.mesh_id), "%s", mesh_id);
    name_key(mesh_id, keypair_public_hex(keys), key.key_id);
    key.keys = copy_for_opening(keys); /* a whole pair always has its half */
    (void)key_archive_remove(archive, mesh_id, keypair_public_hex(keys));
    insert(archive, &key);
    return drop_surplus(archive);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* RFC 3339, as it is written here, or Unix milliseconds. */
static int read_time(const json_t *object, const char *name, int64_t *ret_ms, struct error *error)
{
    if (json_is_string(json_object_get(object, name))) {
        const char *value = NULL;
        int result = json_read_string(object, name, JSON_REQUIRED, &value, error);
        if (result == 0 && (time_parse_rfc3339(value, ret_ms) != 0 || *ret_ms < 0)) {
            result = error_set(error, ERROR_INVALID, "field '%s' is no time", name);
        }
        return result;
    }
    return json_read_integer(object, name, JSON_REQUIRED, 0, LAST_TIME_MS, ret_ms, error);
}

struct key_fields { /* borrowed from the document */
    const char *key_id, *mesh_id, *ed25519_pubkey, *x25519_pubkey, *x25519_privkey, *nonce_key;
};

static int read_fields(const json_t *object, struct key_fields *fields, struct error *error)
{
    const struct {
        const char *name;
        enum json_presence presence;
        const char **value;
    } FIELDS[] = {
        { "key_id", JSON_REQUIRED, &fields->key_id },
        { "mesh_id", JSON_OPTIONAL, &fields->mesh_id },
        { "ed25519_pubkey", JSON_REQUIRED, &fields->ed25519_pubkey },
        { "x25519_pubkey", JSON_REQUIRED, &fields->x25519_pubkey },
        { "x25519_privkey", JSON_REQUIRED, &fields->x25519_privkey },
        { "nonce_key", JSON_OPTIONAL, &fields->nonce_key },
    };
    int result = json_is_object(object) ? 0 : error_set(error, ERROR_INVALID, "a key must be an object");
    for (size_t index = 0; index < ARRAY_LENGTH(FIELDS) && result == 0; index++) {
        result = json_read_string(object, FIELDS[index].name, FIELDS[index].presence, FIELDS[index].value, error);
    }
    return result;
}

static int read_key(const json_t *object, struct archived_key *key, struct error *error)
{
    struct key_fields fields = { .mesh_id = "" };
    char box_public[KEY_HEX_SIZE];
    int result = read_fields(object, &fields, error);
    if (result == 0) {
        result = read_time(object, "created_at", &key->created_at, error);
    }
    if (result == 0) {
        result = read_time(object, "rotated_out_at", &key->rotated_out_at, error);
    }
    if (result == 0) {
        result = read_time(object, "expires_at", &key->expires_at, error);
    }
    if (result == 0 && (!id_is_valid(fields.key_id) || string_copy(key->key_id, sizeof(key->key_id), fields.key_id) != 0)) {
        result = error_set(error, ERROR_INVALID, "field 'key_id' is 1 to %d of A-Z, a-z, 0-9, '.', '_' and '-'", ARCHIVE_KEY_ID_SIZE - 1);
    }
    if (result == 0 && ((fields.mesh_id[0] != '\0' && !id_is_valid(fields.mesh_id)) ||
                        string_copy(key->mesh_id, sizeof(key->mesh_id), fields.mesh_id) != 0)) {
        result = error_set(error, ERROR_INVALID, "field 'mesh_id' is no mesh's id");
    }
    if (result == 0) {
        result = keypair_for_opening(fields.ed25519_pubkey, fields.x25519_privkey, fields.nonce_key, &key->keys, error);
    }
    if (result == 0) {
        result = public_key_box_hex(keypair_public(key->keys), box_public, error);
    }
    if (result == 0 && !string_equal(box_public, fields.x25519_pubkey)) {
        result = error_set(error, ERROR_INVALID, "field 'x25519_pubkey' does not belong to the other two");
    }
    return result;
}

static int check_unique(const struct key_archive *archive, const char *key_id, struct error *error)
{
    for (size_t index = 0; index < archive->count; index++) {
        if (string_equal(archive->keys[index].key_id, key_id)) {
            return error_set(error, ERROR_INVALID, "the key_id %s stands there twice", key_id);
        }
    }
    return 0;
}

static int read_document(const json_t *document, struct key_archive *archive, struct error *error)
{
    int64_t version = 0;
    const json_t *keys = NULL;
    int result = json_is_object(document) ? 0 : error_set(error, ERROR_INVALID, "it must be a JSON object");
    if (result == 0) {
        result = json_read_integer(document, "schema_version", JSON_REQUIRED, 1, INT64_C(1) << 53, &version, error);
    }
    if (result == 0 && version > SCHEMA_VERSION) {
        return error_set(error, ERROR_NEWER, "it is of schema %" PRId64 "; this program knows %d", version, (int)SCHEMA_VERSION);
    }
    if (result == 0) {
        result = json_read_array(document, "keys", JSON_REQUIRED, &keys, error);
    }
    for (size_t index = 0; index < json_array_size(keys) && result == 0; index++) {
        struct archived_key key = { .keys = NULL };
        result = read_key(json_array_get(keys, index), &key, error);
        if (result == 0) {
            result = check_unique(archive, key.key_id, error);
        }
        if (result == 0) {
            insert(archive, &key);
        } else {
            keypair_free(key.keys);
            (void)error_prefix(error, "keys[%zu]", index);
        }
    }
    return result;
}

/* jansson frees strings as they are; these belong to nobody else. */
static void wipe_document(json_t *document)
{
    static const char *const SECRETS[] = { "x25519_privkey", "nonce_key" };
    const json_t *keys = json_object_get(document, "keys");
    for (size_t index = 0; index < json_array_size(keys); index++) {
        for (size_t name = 0; name < ARRAY_LENGTH(SECRETS); name++) {
            const json_t *value = json_object_get(json_array_get(keys, index), SECRETS[name]);
            if (json_is_string(value)) {
                union {
                    const char *constant;
                    char *variable;
                } text = { .constant = json_string_value(value) };
                memory_wipe(text.variable, json_string_length(value));
            }
        }
    }
    json_decref(document);
}

int key_archive_parse(const char *bytes, size_t length, struct key_archive *ret_archive, struct error *error)
{
    struct key_archive archive = { 0 };
    json_t *document = NULL;
    int result = json_parse_strict(bytes, length, &document, error);
    if (result == 0) {
        result = read_document(document, &archive, error);
    }
    wipe_document(document);
    if (result != 0) {
        key_archive_release(&archive);
        return result;
    }
    *ret_archive = archive;
    return 0;
}

static int move_aside(const char *path, int64_t now_ms, struct archive_findings *findings, struct error *error)
{
    char *directory = memory_strndup(path, (size_t)(strrchr(path, '/') - path));
    int result = 0;
    (void)snprintf(findings->moved_to, sizeof(findings->moved_to), "%s.malformed-%" PRId64, path, now_ms / 1000);
    for (int more = 1; file_exists(findings->moved_to); more++) { /* two in one second: neither is lost */
        (void)snprintf(findings->moved_to, sizeof(findings->moved_to), "%s.malformed-%" PRId64 "-%d", path, now_ms / 1000, more);
    }
    if (rename(path, findings->moved_to) != 0) {
        result = error_set_errno(error, "cannot move %s aside", path);
        findings->moved_to[0] = '\0';
    } else {
        result = directory_fsync(directory, error);
    }
    free(directory);
    return result;
}

int key_archive_read(const char *path, int64_t now_ms, struct key_archive *ret_archive, struct archive_findings *ret_findings,
                     struct error *error)
{
    struct archive_findings findings = { .wrong_mode = file_check_private(path, NULL) == -(int)ERROR_DENIED };
    struct key_archive archive = { 0 };
    struct error why = { .code = ERROR_NONE };
    struct buffer bytes;
    buffer_init_secret(&bytes, LIMIT_CONFIG_FILE);
    int result = file_read(path, &bytes, error);
    bool absent = result == -(int)ERROR_NOT_FOUND;
    bool too_large = result == -(int)ERROR_TOO_LARGE;
    if (absent) {
        result = 0;
    } else if (result == 0 || too_large) {
        result = too_large ? error_set(&why, ERROR_INVALID, "it is larger than an archive can be")
                           : key_archive_parse(bytes.data, bytes.length, &archive, &why);
        if (result != 0 && result != -(int)ERROR_NEWER) {
            (void)snprintf(findings.why, sizeof(findings.why), "%.255s", why.message);
            result = move_aside(path, now_ms, &findings, error);
        } else if (result != 0) {
            result = error_set(error, why.code, "%s: %s", path, why.message);
        }
    }
    buffer_release(&bytes);
    if (result != 0) {
        key_archive_release(&archive);
        return result;
    }
    findings.dropped = drop_surplus(&archive);
    *ret_archive = archive;
    *ret_findings = findings;
    return 0;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void print_key(struct buffer *text, const struct archived_key *key)
{
    char created[RFC3339_SIZE], rotated[RFC3339_SIZE], expires[RFC3339_SIZE];
    char box_public[KEY_HEX_SIZE] = "", box_secret[KEY_HEX_SIZE], nonce_key[KEY_HEX_SIZE];
    time_format_rfc3339(key->created_at, created);
    time_format_rfc3339(key->rotated_out_at, rotated);
    time_format_rfc3339(key->expires_at, expires);
    keypair_box_secret_hex(key->keys, box_secret);
    keypair_nonce_key_hex(key->keys, nonce_key);
    if (public_key_box_hex(keypair_public(key->keys), box_public, NULL) == 0) { /* it was checked when the key was made */
        buffer_printf(text,
                      "{\"key_id\":\"%s\",\"mesh_id\":\"%s\",\"ed25519_pubkey\":\"%s\",\"x25519_pubkey\":\"%s\",\"x25519_privkey\":\"%s\","
                      "\"nonce_key\":\"%s\",\"created_at\":\"%s\",\"rotated_out_at\":\"%s\",\"expires_at\":\"%s\"}",
                      key->key_id, key->mesh_id, keypair_public_hex(key->keys), box_public, box_secret, nonce_key, created, rotated,
                      expires);
    }
    secret_wipe(box_secret, sizeof(box_secret));
    secret_wipe(nonce_key, sizeof(nonce_key));
}

void key_archive_print(const struct key_archive *archive, struct buffer *ret_text)
{
    buffer_printf(ret_text, "{\"schema_version\":%d,\"max_archived_keys\":%d,\"keys\":[", (int)SCHEMA_VERSION, (int)ARCHIVE_KEYS_MAXIMUM);
    for (size_t index = 0; index < archive->count; index++) {
        if (index > 0) {
            buffer_append_byte(ret_text, ',');
        }
        print_key(ret_text, &archive->keys[index]);
    }
    buffer_append_text(ret_text, "]}\n");
}

int key_archive_write(const char *path, const struct key_archive *archive, struct error *error)
{
    struct buffer text;
    buffer_init_secret(&text, LIMIT_CONFIG_FILE);
    key_archive_print(archive, &text);
    int result = text.overflow ? error_set(error, ERROR_TOO_LARGE, "%s would be too large", path)
                               : file_write_atomic(path, 0600, text.data, text.length, error);
    buffer_release(&text);
    return result;
}

int key_archive_clean(const char *path, int64_t now_ms, size_t *ret_removed, size_t *ret_left, struct archive_findings *ret_findings,
                      struct error *error)
{
    struct key_archive archive = { 0 };
    int result = key_archive_read(path, now_ms, &archive, ret_findings, error);
    if (result != 0) {
        return result;
    }
    size_t removed = key_archive_expire(&archive, now_ms);
    if (removed > 0 || ret_findings->dropped > 0) {
        result = key_archive_write(path, &archive, error);
    }
    if (result == 0) {
        *ret_removed = removed;
        *ret_left = archive.count;
    }
    key_archive_release(&archive);
    return result;
}
