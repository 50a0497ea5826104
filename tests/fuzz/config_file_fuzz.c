/* config.json: what is read of it is what stands there; a file of a newer version, or of the wrong shape, is refused whole. Rewriting it with a mesh more keeps everything else. */
#include <stdlib.h>

#include "config/config.h"
#include "fuzz_json.h"
#include "memory_file.h"
#include "util/file.h"
#include "util/limits.h"

static void check_meshes(const struct config_file *file)
{
    const json_t *meshes = json_object_get(file->document, "meshes");

    REQUIRE(file->mesh_count == json_array_size(meshes) && file->mesh_count <= LIMIT_MESHES);
    for (size_t i = 0; i < file->mesh_count; i++) {
        const struct config_mesh *mesh = &file->meshes[i];
        const json_t *object = json_array_get(meshes, i);
        const struct {
            const char *name, *value;
        } fields[] = {
            { "meshId", mesh->mesh_id },
            { "memberId", mesh->member_id },
            { "slug", mesh->slug },
            { "name", mesh->name },
            { "pubkey", mesh->pubkey },
            { "secretKey", mesh->secret_key },
            { "brokerUrl", mesh->broker_url },
            { "joinedAt", mesh->joined_at },
            { "rootKey", mesh->root_key },
            { "role", mesh->role },
            { "ownerPubkey", mesh->owner_pubkey },
        };
        for (size_t field = 0; field < ARRAY_LENGTH(fields); field++)
            REQUIRE(string_equal(json_string_value(json_object_get(object, fields[field].name)), fields[field].value));
        REQUIRE(name_is_valid(mesh->slug) && config_file_mesh(file, mesh->slug) == mesh);
    }
}

static void check_kept(const struct config_file *before, const struct config_file *after)
{
    const json_t *meshes = json_object_get(before->document, "meshes"), *now = json_object_get(after->document, "meshes");
    const bool replaced = after->mesh_count == before->mesh_count; /* it had that mesh */
    const char *name;
    json_t *value;

    json_object_foreach(before->document, name, value)
    {
        if (!string_equal(name, "meshes"))
            REQUIRE(json_equal(json_object_get(after->document, name), value));
    }
    for (size_t i = 0; i < before->mesh_count; i++)
        REQUIRE(replaced || json_equal(json_array_get(now, i), json_array_get(meshes, i)));
}

/* In a directory of our own in memory; the file's other fields, and the other meshes', stay. */
static void check_rewrite(const struct config_file *file, const uint8_t *data, size_t size)
{
    static char directory[64], path[80];
    static char id[] = "another", member[] = "m", slug[] = "zz", text[] = "t";
    const struct config_mesh mesh_more = { .mesh_id = id,
                                           .member_id = member,
                                           .slug = slug,
                                           .name = text,
                                           .pubkey = text,
                                           .secret_key = text,
                                           .broker_url = text,
                                           .joined_at = text };
    struct config_file again;
    struct error error = { .code = ERROR_NONE };

    if (directory[0] == '\0') {
        (void)snprintf(directory, sizeof(directory), "%s/claudemesh-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        REQUIRE(mkdtemp(directory) != NULL);
        (void)snprintf(path, sizeof(path), "%s/config.json", directory);
    }
    REQUIRE(file_write_atomic(path, 0600, data, size, &error) == 0);
    const int result = config_file_add_mesh(path, &mesh_more, &error);
    REQUIRE(result == 0 || error.code == ERROR_CONFLICT || error.code == ERROR_FULL);
    if (result == 0) {
        REQUIRE(config_file_read(path, &again, &error) == 0);
        const struct config_mesh *mesh = config_file_mesh(&again, mesh_more.slug);
        REQUIRE(mesh != NULL && string_equal(mesh->mesh_id, mesh_more.mesh_id) &&
                (mesh->root_key == NULL || again.mesh_count == file->mesh_count));
        check_kept(file, &again);
        REQUIRE(config_file_remove_mesh(path, mesh_more.slug, &error) == 0);
        config_file_release(&again);
    }
    (void)unlink(path);
    char *lock = memory_printf("%s.lock", path);
    (void)unlink(lock);
    free(lock);
    (void)rmdir(directory);
    directory[0] = '\0';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config_file file = { .document = NULL };
    struct error error = { .code = ERROR_NONE };

    if (config_file_read(memory_file_write(data, size), &file, &error) != 0) {
        REQUIRE(file.document == NULL && file.meshes == NULL);
        REQUIRE(error.code == ERROR_INVALID || error.code == ERROR_NEWER || error.code == ERROR_TOO_LARGE);
        return 0;
    }
    check_meshes(&file);
    check_rewrite(&file, data, size);
    config_file_release(&file);
    return 0;
}
