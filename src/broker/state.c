/* Meshes and members while somebody of them is here. Made by a hello, gone with the last session and presence. */
#include "broker/state.h"

#include "util/memory.h"
#include "util/text.h"

static bool is_mesh(const struct table_node *node, const void *key)
{
    return ((const struct mesh *)(const void *)node)->key == *(const int64_t *)key;
}

static bool is_member(const struct table_node *node, const void *key)
{
    return ((const struct member *)(const void *)node)->key == *(const int64_t *)key;
}

struct mesh *state_find_mesh(const struct broker *broker, int64_t key)
{
    return (struct mesh *)(void *)table_find(&broker->meshes, table_hash_number((uint64_t)key), is_mesh, &key);
}

struct member *state_find_member(const struct broker *broker, int64_t key)
{
    return (struct member *)(void *)table_find(&broker->members, table_hash_number((uint64_t)key), is_member, &key);
}

struct pubkey_search {
    const char *mesh_id, *pubkey;
};

static bool has_pubkey(const struct table_node *node, const void *key)
{
    const void *at = (const char *)node - offsetof(struct member, by_pubkey);
    const struct member *member = at;
    const struct pubkey_search *search = key;
    return string_equal(member->pubkey, search->pubkey) && string_equal(member->mesh->mesh_id, search->mesh_id);
}

struct member *state_find_member_by_pubkey(const struct broker *broker, const char *mesh_id, const char *pubkey)
{
    const struct pubkey_search search = { mesh_id, pubkey };
    struct table_node *node = table_find(&broker->members_by_pubkey, table_hash_bytes(pubkey, strlen(pubkey)), has_pubkey, &search);
    return node == NULL ? NULL : CONTAINER_OF(node, struct member, by_pubkey);
}

static struct mesh *find_or_make_mesh(struct broker *broker, const struct store_hello *hello)
{
    struct mesh *mesh = state_find_mesh(broker, hello->mesh);
    if (mesh != NULL)
        return mesh;
    mesh = memory_zalloc(sizeof(*mesh));
    mesh->key = hello->mesh;
    mesh->mesh_id = memory_strdup(hello->mesh_id);
    mesh->slug = memory_strdup(hello->mesh_slug);
    LIST_INIT(&mesh->sessions);
    LIST_INIT(&mesh->presences);
    table_insert(&broker->meshes, &mesh->node, table_hash_number((uint64_t)mesh->key));
    return mesh;
}

struct member *state_hold_member(struct broker *broker, const struct store_hello *hello)
{
    struct member *member = state_find_member(broker, hello->member);
    if (member == NULL) {
        member = memory_zalloc(sizeof(*member));
        member->key = hello->member;
        member->mesh = find_or_make_mesh(broker, hello);
        member->mesh->members++;
        member->member_id = memory_strdup(hello->member_id);
        if (string_copy(member->pubkey, sizeof member->pubkey, hello->pubkey) != 0)
            member->pubkey[0] = '\0'; /* cannot be: a hello whose key is not a key was refused */
        LIST_INIT(&member->sessions);
        table_insert(&broker->members, &member->node, table_hash_number((uint64_t)member->key));
        table_insert(&broker->members_by_pubkey, &member->by_pubkey, table_hash_bytes(member->pubkey, strlen(member->pubkey)));
    }
    /* The store's word is newer than what is held. */
    free(member->name);
    free(member->certificate);
    member->name = memory_strdup(hello->display_name);
    member->certificate = memory_strdup(hello->certificate);
    member->rotation_seq = hello->rotation_seq;
    member->admin = string_equal(hello->role, "admin");
    if (hello->host_fingerprint != NULL &&
        string_copy(member->host_fingerprint, sizeof member->host_fingerprint, hello->host_fingerprint) != 0)
        member->host_fingerprint[0] = '\0'; /* cannot be: what is no hash was dropped */
    member->references++;
    return member;
}

void state_rekey_member(struct broker *broker, struct member *member, const char *pubkey)
{
    table_remove(&broker->members_by_pubkey, &member->by_pubkey);
    if (string_copy(member->pubkey, sizeof member->pubkey, pubkey) != 0)
        member->pubkey[0] = '\0'; /* cannot be: it was read as a key */
    table_insert(&broker->members_by_pubkey, &member->by_pubkey, table_hash_bytes(member->pubkey, strlen(member->pubkey)));
}

void state_release_member(struct broker *broker, struct member *member)
{
    if (--member->references > 0)
        return;
    struct mesh *mesh = member->mesh;
    table_remove(&broker->members, &member->node);
    table_remove(&broker->members_by_pubkey, &member->by_pubkey);
    free(member->member_id);
    free(member->name);
    free(member->certificate);
    free(member);
    if (--mesh->members > 0)
        return;
    table_remove(&broker->meshes, &mesh->node);
    free(mesh->mesh_id);
    free(mesh->slug);
    free(mesh);
}
