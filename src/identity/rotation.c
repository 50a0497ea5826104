/* Owns what a rotation writes, and in which order. Must not talk to the broker. */
#include "identity/rotation.h"

#include <unistd.h>

#include "identity/identity.h"
#include "util/memory.h"
#include "util/text.h"

struct found { /* the mesh as config.json has it now, and keeps it until it is let go */
    struct config_file file;
    const struct config_mesh *mesh;
    int lock;
};

static void let_go(struct found *found)
{
    config_file_release(&found->file);
    close(found->lock);
}

static int find(const struct rotation_files *files, struct found *ret_found, struct error *error)
{
    *ret_found = (struct found){ .lock = -1 };
    int result = config_file_lock(files->paths->config_json, &ret_found->lock, error);
    if (result != 0) {
        return result;
    }
    result = config_file_read(files->paths->config_json, &ret_found->file, error);
    if (result != 0) {
        close(ret_found->lock);
        return result;
    }
    for (size_t index = 0; index < ret_found->file.mesh_count; index++) {
        if (string_equal(ret_found->file.meshes[index].mesh_id, files->mesh_id)) {
            ret_found->mesh = &ret_found->file.meshes[index];
            return 0;
        }
    }
    let_go(ret_found);
    return error_set(error, ERROR_NOT_FOUND, "mesh %s is not joined any more", files->mesh_id);
}

static int check_current(const struct rotation_files *files, const struct found *found, struct error *error)
{
    return string_equal(found->mesh->pubkey, files->pubkey)
               ? 0
               : error_set(error, ERROR_CONFLICT, "the key of mesh '%s' was changed meanwhile", found->mesh->slug);
}

/* When the key that goes out came: with the one that it replaced, else with the joining. */
static int64_t born_at(const struct key_archive *archive, const struct config_mesh *mesh)
{
    int64_t born = 0;
    for (size_t index = 0; index < archive->count; index++) {
        if (string_equal(archive->keys[index].mesh_id, mesh->mesh_id) &&
            !string_equal(keypair_public_hex(archive->keys[index].keys), mesh->pubkey)) {
            born = archive->keys[index].rotated_out_at; /* the last one stands last */
        }
    }
    return born != 0 || time_parse_rfc3339(mesh->joined_at, &born) == 0 ? born : 0;
}

/* Durably, before anything else: what was sent to the old key must open whatever happens after. */
static int archive_key(const struct rotation_files *files, const struct config_mesh *mesh, const struct keypair *keys,
                       struct rotation_prepared *prepared, struct error *error)
{
    struct key_archive archive = { 0 };
    int result = key_archive_read(files->paths->keypair_archive, files->now_ms, &archive, &prepared->findings, error);
    if (result != 0) {
        return result;
    }
    prepared->expired = key_archive_expire(&archive, files->now_ms);
    prepared->dropped = key_archive_add(&archive, mesh->mesh_id, keys, born_at(&archive, mesh), files->now_ms, files->grace_days) +
                        prepared->findings.dropped;
    result = key_archive_write(files->paths->keypair_archive, &archive, error);
    key_archive_release(&archive);
    return result;
}

static int next_keys(const struct config_mesh *mesh, struct keypair **ret_next, struct error *error)
{
    const char *made_before = mesh->next_secret_key != NULL ? mesh->next_secret_key : mesh->spare_secret_key;
    return made_before != NULL ? keypair_from_secret_hex(made_before, ret_next, error) : keypair_generate(ret_next, error);
}

static int write_next(const struct rotation_files *files, const struct config_mesh *mesh, const struct keypair *next, struct error *error)
{
    char secret[SECRET_HEX_SIZE];
    keypair_secret_hex(next, secret);
    const struct config_change changes[] = { { "nextSecretKey", secret }, { "spareSecretKey", NULL } };
    int result = config_file_change_mesh(files->paths->config_json, mesh->mesh_id, mesh->pubkey, changes, ARRAY_LENGTH(changes), error);
    secret_wipe(secret, sizeof(secret));
    return result;
}

int rotation_prepare(const struct rotation_files *files, struct rotation_prepared *ret_prepared, struct error *error)
{
    struct rotation_prepared prepared = { 0 };
    struct found found;
    int result = find(files, &found, error);
    if (result != 0) {
        return result;
    }
    result = check_current(files, &found, error);
    if (result == 0) {
        result = identity_mesh_keys(found.mesh, &prepared.current, error);
    }
    if (result == 0) {
        result = next_keys(found.mesh, &prepared.next, error);
    }
    if (result == 0) {
        result = archive_key(files, found.mesh, prepared.current, &prepared, error);
    }
    if (result == 0 && found.mesh->next_secret_key == NULL) {
        result = write_next(files, found.mesh, prepared.next, error);
    } else if (result != 0 && prepared.next != NULL && found.mesh->next_secret_key != NULL) {
        prepared.not_archived = true; /* the broker may have the next key already: only forward is safe */
        result = 0;
    }
    let_go(&found);
    if (result != 0) {
        rotation_prepared_release(&prepared);
        return result;
    }
    *ret_prepared = prepared;
    return 0;
}

void rotation_prepared_release(struct rotation_prepared *prepared)
{
    keypair_free(prepared->current);
    keypair_free(prepared->next);
    prepared->current = prepared->next = NULL;
}

/* The owner's first rotation: the key that everybody pinned stays here, to sign statements with. */
static bool keeps_owner_key(const struct config_mesh *mesh)
{
    return mesh->owner_pubkey != NULL && string_equal(mesh->pubkey, mesh->owner_pubkey) && mesh->owner_secret_key == NULL;
}

int rotation_finish(const struct rotation_files *files, const struct keypair *next, struct error *error)
{
    struct found found;
    struct keypair *current = NULL;
    struct rotation_prepared again = { 0 };
    struct error unheard;
    char secret[SECRET_HEX_SIZE];
    int result = find(files, &found, error);
    if (result != 0) {
        return result;
    }
    if (string_equal(found.mesh->pubkey, keypair_public_hex(next))) {
        let_go(&found); /* done before */
        return 0;
    }
    keypair_secret_hex(next, secret);
    result = check_current(files, &found, error);
    if (result == 0) {
        result = identity_mesh_keys(found.mesh, &current, error);
    }
    if (result == 0) {
        /* The grace counts from now, when it took a restart to come this far; without room the older times stand. */
        (void)archive_key(files, found.mesh, current, &again, &unheard);
        const struct config_change changes[] = {
            { "pubkey", keypair_public_hex(next) },
            { "secretKey", secret },
            { "nextSecretKey", NULL },
            { "spareSecretKey", NULL },
            { "ownerSecretKey", keeps_owner_key(found.mesh) ? found.mesh->secret_key : found.mesh->owner_secret_key },
        };
        result = config_file_change_mesh(files->paths->config_json, found.mesh->mesh_id, found.mesh->pubkey, changes, ARRAY_LENGTH(changes),
                                         error);
    }
    secret_wipe(secret, sizeof(secret));
    keypair_free(current);
    let_go(&found);
    return result;
}

static int remove_from_archive(const struct rotation_files *files, const struct config_mesh *mesh, struct error *error)
{
    struct key_archive archive = { 0 };
    struct archive_findings findings;
    int result = key_archive_read(files->paths->keypair_archive, files->now_ms, &archive, &findings, error);
    if (result == 0 && key_archive_remove(&archive, mesh->mesh_id, mesh->pubkey)) {
        result = key_archive_write(files->paths->keypair_archive, &archive, error);
    }
    key_archive_release(&archive);
    return result;
}

int rotation_call_off(const struct rotation_files *files, struct error *error)
{
    struct found found;
    int result = find(files, &found, error);
    if (result != 0) {
        return result;
    }
    if (found.mesh->next_secret_key != NULL && string_equal(found.mesh->pubkey, files->pubkey)) {
        const struct config_change changes[] = { { "nextSecretKey", NULL }, { "spareSecretKey", found.mesh->next_secret_key } };
        result = config_file_change_mesh(files->paths->config_json, found.mesh->mesh_id, found.mesh->pubkey, changes, ARRAY_LENGTH(changes),
                                         error);
        if (result == 0) {
            result = remove_from_archive(files, found.mesh, error);
        }
    }
    let_go(&found);
    return result;
}

int rotation_clean_archive(const struct config_paths *paths, int64_t now_ms, size_t *ret_removed, size_t *ret_left,
                           struct archive_findings *ret_findings, struct error *error)
{
    int lock = -1;
    int result = config_file_lock(paths->config_json, &lock, error);
    if (result == 0) {
        result = key_archive_clean(paths->keypair_archive, now_ms, ret_removed, ret_left, ret_findings, error);
        close(lock);
    }
    return result;
}
