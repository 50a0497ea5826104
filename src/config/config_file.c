/* Owns config.json: joined meshes and their keys (10-cli, Files). What it does not know it keeps. Must not check keys
 * (identity/ does): here they are text. */
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "json/json.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { CONFIG_VERSION = 1 };

/* ---- a mesh between JSON and struct ----------------------------------------------------------------------------- */

struct mesh_field {
    const char *name; /* in the file */
    size_t offset;    /* of a char * in struct config_mesh */
    enum json_presence presence;
    bool secret;
};

#define MESH_FIELD(name, field, presence, secret)                         \
    {                                                                     \
        (name), offsetof(struct config_mesh, field), (presence), (secret) \
    }

static const struct mesh_field MESH_FIELDS[] = {
    MESH_FIELD("meshId", mesh_id, JSON_REQUIRED, false),
    MESH_FIELD("memberId", member_id, JSON_REQUIRED, false),
    MESH_FIELD("slug", slug, JSON_REQUIRED, false),
    MESH_FIELD("name", name, JSON_REQUIRED, false),
    MESH_FIELD("pubkey", pubkey, JSON_REQUIRED, false),
    MESH_FIELD("secretKey", secret_key, JSON_REQUIRED, true),
    MESH_FIELD("brokerUrl", broker_url, JSON_REQUIRED, false),
    MESH_FIELD("joinedAt", joined_at, JSON_REQUIRED, false),
    MESH_FIELD("rootKey", root_key, JSON_OPTIONAL, true),
    MESH_FIELD("role", role, JSON_OPTIONAL, false),
    MESH_FIELD("ownerPubkey", owner_pubkey, JSON_OPTIONAL, false),
    MESH_FIELD("nextSecretKey", next_secret_key, JSON_OPTIONAL, true),
    MESH_FIELD("spareSecretKey", spare_secret_key, JSON_OPTIONAL, true),
    MESH_FIELD("ownerSecretKey", owner_secret_key, JSON_OPTIONAL, true),
};

static char **mesh_member(struct config_mesh *mesh, const struct mesh_field *field)
{
    return (char **)(void *)((char *)mesh + field->offset);
}

static const char *mesh_value(const struct config_mesh *mesh, const struct mesh_field *field)
{
    return *(char *const *)(const void *)((const char *)mesh + field->offset);
}

static void free_secret(char *text)
{
    if (text != NULL) {
        memory_wipe(text, strlen(text));
        free(text);
    }
}

static void mesh_release(struct config_mesh *mesh)
{
    for (size_t index = 0; index < ARRAY_LENGTH(MESH_FIELDS); index++) {
        free_secret(*mesh_member(mesh, &MESH_FIELDS[index]));
    }
    *mesh = (struct config_mesh){ .mesh_id = NULL };
}

static int mesh_read(const json_t *object, struct config_mesh *ret_mesh, struct error *error)
{
    if (!json_is_object(object)) {
        return error_set(error, ERROR_INVALID, "a mesh must be an object");
    }
    *ret_mesh = (struct config_mesh){ .mesh_id = NULL };
    int result = 0;
    for (size_t index = 0; index < ARRAY_LENGTH(MESH_FIELDS) && result == 0; index++) {
        const char *value = NULL;
        result = json_read_string(object, MESH_FIELDS[index].name, MESH_FIELDS[index].presence, &value, error);
        *mesh_member(ret_mesh, &MESH_FIELDS[index]) = memory_strdup(value);
    }
    /* The slug becomes part of a socket's path. */
    if (result == 0 && !name_is_valid(ret_mesh->slug)) {
        result = error_set(error, ERROR_INVALID, "a slug is 1 to %d of a-z, 0-9, '_', '.' and '-'", (int)LIMIT_NAME);
    }
    if (result != 0) {
        mesh_release(ret_mesh);
    }
    return result;
}

static void mesh_write(json_t *object, const struct config_mesh *mesh)
{
    for (size_t index = 0; index < ARRAY_LENGTH(MESH_FIELDS); index++) {
        const char *value = mesh_value(mesh, &MESH_FIELDS[index]);
        if (value != NULL) {
            json_put_string(object, MESH_FIELDS[index].name, value);
        } else {
            (void)json_object_del(object, MESH_FIELDS[index].name); /* absent already: as wanted */
        }
    }
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static int check_version(const json_t *document, struct error *error)
{
    int64_t version = CONFIG_VERSION;
    int result = json_read_integer(document, "version", JSON_OPTIONAL, 1, INT64_MAX, &version, error);
    if (result == 0 && version > CONFIG_VERSION) {
        result = error_set(error, ERROR_NEWER, "it is of version %" PRId64 "; this program knows version %d", version, (int)CONFIG_VERSION);
    }
    return result;
}

/* NULL in *ret_document when there is no file. */
static int document_read(const char *path, json_t **ret_document, struct error *error)
{
    struct buffer bytes;
    json_t *document = NULL;
    buffer_init_secret(&bytes, LIMIT_CONFIG_FILE);
    int result = file_check_private(path, error);
    if (result != 0) {
        goto done;
    }
    result = file_read(path, &bytes, error);
    if (result == -(int)ERROR_NOT_FOUND) {
        *ret_document = NULL;
        result = 0;
        goto done;
    }
    if (result == 0) {
        result = json_parse_strict(bytes.data, bytes.length, &document, error);
        if (result == 0 && !json_is_object(document)) {
            result = error_set(error, ERROR_INVALID, "it must be a JSON object");
        }
        if (result == 0) {
            result = check_version(document, error);
        }
        if (result != 0) {
            (void)error_prefix(error, "%s", path);
        }
    }
    if (result == 0) {
        *ret_document = document;
        document = NULL;
    }
done:
    json_decref(document);
    buffer_release(&bytes);
    return result;
}

static int check_unique(const struct config_file *file, const struct config_mesh *mesh, struct error *error)
{
    for (size_t index = 0; index < file->mesh_count; index++) {
        if (strcmp(file->meshes[index].slug, mesh->slug) == 0) {
            return error_set(error, ERROR_INVALID, "two meshes have the slug '%s'", mesh->slug);
        }
        if (strcmp(file->meshes[index].mesh_id, mesh->mesh_id) == 0) {
            return error_set(error, ERROR_INVALID, "mesh %s stands there twice", mesh->mesh_id);
        }
    }
    return 0;
}

static int meshes_read(struct config_file *file, struct error *error)
{
    const json_t *meshes = NULL;
    const char *display_name = NULL;
    int result = json_read_string(file->document, "displayName", JSON_OPTIONAL, &display_name, error);
    if (result == 0) {
        result = json_read_array(file->document, "meshes", JSON_OPTIONAL, &meshes, error);
    }
    size_t count = json_array_size(meshes);
    if (result == 0 && count > LIMIT_MESHES) {
        result = error_set(error, ERROR_TOO_LARGE, "more than %d meshes", (int)LIMIT_MESHES);
    }
    if (result != 0) {
        return result;
    }
    file->display_name = memory_strdup(display_name);
    file->meshes = memory_calloc(count, sizeof(*file->meshes));
    for (size_t index = 0; index < count && result == 0; index++) {
        struct config_mesh *mesh = &file->meshes[index];
        result = mesh_read(json_array_get(meshes, index), mesh, error);
        if (result != 0) {
            return error_prefix(error, "meshes[%zu]", index);
        }
        result = check_unique(file, mesh, error);
        file->mesh_count++; /* it is released with the others, also when it is not unique */
    }
    return result;
}

int config_file_read(const char *path, struct config_file *ret_file, struct error *error)
{
    struct config_file file = { .document = NULL };
    int result = document_read(path, &file.document, error);
    if (result != 0) {
        return result;
    }
    if (file.document == NULL) {
        file.document = json_new_object();
    }
    result = meshes_read(&file, error);
    if (result != 0) {
        config_file_release(&file);
        return error_prefix(error, "%s", path);
    }
    *ret_file = file;
    return 0;
}

/* jansson frees strings as they are; these belong to nobody else. name NULL: all of them. */
static void wipe_secrets_of(const json_t *mesh, const char *name)
{
    for (size_t index = 0; index < ARRAY_LENGTH(MESH_FIELDS); index++) {
        const json_t *value = json_object_get(mesh, MESH_FIELDS[index].name);
        if (MESH_FIELDS[index].secret && json_is_string(value) && (name == NULL || strcmp(name, MESH_FIELDS[index].name) == 0)) {
            union {
                const char *constant;
                char *variable;
            } text = { .constant = json_string_value(value) };
            memory_wipe(text.variable, json_string_length(value));
        }
    }
}

static void wipe_secrets(const json_t *document)
{
    const json_t *meshes = json_object_get(document, "meshes");
    for (size_t mesh = 0; mesh < json_array_size(meshes); mesh++) {
        wipe_secrets_of(json_array_get(meshes, mesh), NULL);
    }
}

static void document_free(json_t *document)
{
    wipe_secrets(document);
    json_decref(document);
}

void config_file_release(struct config_file *file)
{
    if (file == NULL) {
        return;
    }
    for (size_t index = 0; index < file->mesh_count; index++) {
        mesh_release(&file->meshes[index]);
    }
    free(file->meshes);
    free(file->display_name);
    document_free(file->document);
    *file = (struct config_file){ .document = NULL };
}

const struct config_mesh *config_file_mesh(const struct config_file *file, const char *slug)
{
    for (size_t index = 0; index < file->mesh_count; index++) {
        if (strcmp(file->meshes[index].slug, slug) == 0) {
            return &file->meshes[index];
        }
    }
    return NULL;
}

/* ---- changing --------------------------------------------------------------------------------------------------- */

/* Two commands may change the file at once: the second waits, not for ever. */
static int lock_wait(const char *path, int *ret_fd, struct error *error)
{
    enum { TRIES = 500, PAUSE_NS = 10000000 };
    char *lock_path = memory_printf("%s.lock", path);
    int result = -(int)ERROR_BUSY;
    for (int try = 0; try < TRIES && result == -(int)ERROR_BUSY; try++) {
        if (try > 0) {
            struct timespec pause = { .tv_sec = 0, .tv_nsec = PAUSE_NS };
            nanosleep(&pause, NULL);
        }
        result = file_lock(lock_path, 0600, ret_fd, error);
    }
    free(lock_path);
    return result;
}

static int document_write(const char *path, const json_t *document, struct error *error)
{
    struct buffer text;
    buffer_init_secret(&text, LIMIT_CONFIG_FILE);
    int result = 0;
    if (json_print(document, &text) != 0 || buffer_append_byte(&text, '\n') != 0) {
        result = error_set(error, ERROR_TOO_LARGE, "%s would be larger than %d bytes", path, (int)LIMIT_CONFIG_FILE);
    } else {
        result = file_write_atomic(path, 0600, text.data, text.length, error);
    }
    buffer_release(&text);
    return result;
}

/* The index of the mesh of which `key` is that value; the array's size when none is. */
static size_t find_mesh(const json_t *meshes, const char *key, const char *value)
{
    size_t count = json_array_size(meshes);
    for (size_t index = 0; index < count; index++) {
        if (string_equal(json_string_value(json_object_get(json_array_get(meshes, index), key)), value)) {
            return index;
        }
    }
    return count;
}

static int add_to_document(struct config_file *file, const struct config_mesh *mesh, struct error *error)
{
    json_t *meshes = json_object_get(file->document, "meshes");
    if (!json_is_array(meshes)) {
        meshes = json_new_array();
        json_put(file->document, "meshes", meshes);
    }
    size_t count = json_array_size(meshes);
    size_t at = find_mesh(meshes, "meshId", mesh->mesh_id);
    size_t same_slug = find_mesh(meshes, "slug", mesh->slug);
    if (same_slug < count && same_slug != at) {
        return error_set(error, ERROR_CONFLICT, "another mesh has the slug '%s'", mesh->slug);
    }
    if (at == count) {
        if (count >= LIMIT_MESHES) {
            return error_set(error, ERROR_FULL, "%d meshes are joined already", (int)LIMIT_MESHES);
        }
        if (json_array_append_new(meshes, json_new_object()) != 0) {
            memory_exhausted();
        }
    }
    if (json_object_get(file->document, "version") == NULL) {
        json_put_integer(file->document, "version", CONFIG_VERSION);
    }
    mesh_write(json_array_get(meshes, at), mesh);
    return 0;
}

static int check_complete(const struct config_mesh *mesh, struct error *error)
{
    for (size_t index = 0; index < ARRAY_LENGTH(MESH_FIELDS); index++) {
        if (MESH_FIELDS[index].presence == JSON_REQUIRED && mesh_value(mesh, &MESH_FIELDS[index]) == NULL) {
            return error_set(error, ERROR_INVALID, "a mesh without %s", MESH_FIELDS[index].name);
        }
    }
    if (!name_is_valid(mesh->slug)) {
        return error_set(error, ERROR_INVALID, "a slug is 1 to %d of a-z, 0-9, '_', '.' and '-'", (int)LIMIT_NAME);
    }
    return 0;
}

int config_file_add_mesh(const char *path, const struct config_mesh *mesh, struct error *error)
{
    struct config_file file = { .document = NULL };
    int lock = -1;
    int result = check_complete(mesh, error);
    if (result == 0) {
        result = lock_wait(path, &lock, error);
    }
    if (result == 0) {
        result = config_file_read(path, &file, error);
    }
    if (result == 0) {
        result = add_to_document(&file, mesh, error);
    }
    if (result == 0) {
        result = document_write(path, file.document, error);
    }
    config_file_release(&file);
    if (lock >= 0) {
        close(lock);
    }
    return result;
}

static int change_document(struct config_file *file, const char *mesh_id, const char *pubkey, const struct config_change *changes,
                           size_t count, struct error *error)
{
    json_t *meshes = json_object_get(file->document, "meshes");
    size_t at = find_mesh(meshes, "meshId", mesh_id);
    if (at == json_array_size(meshes)) {
        return error_set(error, ERROR_NOT_FOUND, "mesh %s is not joined any more", mesh_id);
    }
    json_t *mesh = json_array_get(meshes, at);
    if (!string_equal(json_string_value(json_object_get(mesh, "pubkey")), pubkey)) {
        return error_set(error, ERROR_CONFLICT, "the key of mesh '%s' was changed meanwhile", file->meshes[at].slug);
    }
    for (size_t index = 0; index < count; index++) {
        wipe_secrets_of(mesh, changes[index].name);
        if (changes[index].value != NULL) {
            json_put_string(mesh, changes[index].name, changes[index].value);
        } else {
            (void)json_object_del(mesh, changes[index].name); /* absent already: as wanted */
        }
    }
    return 0;
}

int config_file_lock(const char *path, int *ret_fd, struct error *error)
{
    return lock_wait(path, ret_fd, error);
}

int config_file_change_mesh(const char *path, const char *mesh_id, const char *pubkey, const struct config_change *changes, size_t count,
                            struct error *error)
{
    struct config_file file = { .document = NULL };
    int result = config_file_read(path, &file, error);
    if (result == 0) {
        result = change_document(&file, mesh_id, pubkey, changes, count, error);
    }
    if (result == 0) {
        result = document_write(path, file.document, error);
    }
    config_file_release(&file);
    return result;
}

int config_file_remove_mesh(const char *path, const char *slug, struct error *error)
{
    struct config_file file = { .document = NULL };
    int lock = -1;
    int result = lock_wait(path, &lock, error);
    if (result == 0) {
        result = config_file_read(path, &file, error);
    }
    if (result == 0) {
        json_t *meshes = json_object_get(file.document, "meshes");
        size_t at = find_mesh(meshes, "slug", slug);
        if (at < json_array_size(meshes)) {
            (void)json_array_remove(meshes, at); /* the index was just found */
            result = document_write(path, file.document, error);
        } else {
            result = error_set(error, ERROR_NOT_FOUND, "no mesh '%s' is joined", slug);
        }
    }
    config_file_release(&file);
    if (lock >= 0) {
        close(lock);
    }
    return result;
}
