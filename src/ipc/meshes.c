/* Owns the table of meshes that are served, and how a request names one. Must not look at destinations: send.c does. */
#include "ipc/internal.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static struct ipc_mesh *add(struct ipc *ipc, const char *slug, const char *mesh_id)
{
    ipc_remove_mesh(ipc, mesh_id);
    ipc->meshes = memory_realloc(ipc->meshes, (ipc->mesh_count + 1) * sizeof(*ipc->meshes));
    size_t at = 0;
    while (at < ipc->mesh_count && strcmp(ipc->meshes[at].slug, slug) < 0)
        at++;
    memmove(&ipc->meshes[at + 1], &ipc->meshes[at], (ipc->mesh_count - at) * sizeof(*ipc->meshes));
    ipc->mesh_count++;
    ipc->meshes[at] = (struct ipc_mesh){ .slug = memory_strdup(slug), .mesh_id = memory_strdup(mesh_id) };
    return &ipc->meshes[at];
}

void ipc_add_mesh(struct ipc *ipc, struct delivery *delivery)
{
    add(ipc, delivery_mesh_slug(delivery), delivery_mesh_id(delivery))->delivery = delivery;
}

void ipc_add_failed_mesh(struct ipc *ipc, const char *slug, const char *mesh_id, const char *reason)
{
    add(ipc, slug, mesh_id)->failure = memory_strdup(reason);
}

void ipc_remove_mesh(struct ipc *ipc, const char *mesh_id)
{
    struct ipc_mesh *mesh = ipc_mesh_by_id(ipc, mesh_id);
    if (mesh == NULL)
        return;
    ipc_metrics_forget_mesh(ipc->metrics, mesh->slug);
    free(mesh->slug);
    free(mesh->mesh_id); /* may be the caller's argument: not used after this */
    free(mesh->failure);
    size_t at = (size_t)(mesh - ipc->meshes);
    ipc->mesh_count--;
    memmove(mesh, mesh + 1, (ipc->mesh_count - at) * sizeof(*mesh));
}

void ipc_release_meshes(struct ipc *ipc)
{
    while (ipc->mesh_count > 0)
        ipc_remove_mesh(ipc, ipc->meshes[0].mesh_id);
    free(ipc->meshes);
    ipc->meshes = NULL;
}

struct ipc_mesh *ipc_mesh_by_slug(const struct ipc *ipc, const char *slug)
{
    for (size_t i = 0; i < ipc->mesh_count; i++)
        if (strcmp(ipc->meshes[i].slug, slug) == 0)
            return &ipc->meshes[i];
    return NULL;
}

struct ipc_mesh *ipc_mesh_by_id(const struct ipc *ipc, const char *mesh_id)
{
    for (size_t i = 0; i < ipc->mesh_count; i++)
        if (strcmp(ipc->meshes[i].mesh_id, mesh_id) == 0)
            return &ipc->meshes[i];
    return NULL;
}

const char *ipc_row_mesh(const struct ipc_mesh *mesh)
{
    return mesh->mesh_id;
}

struct delivery *ipc_delivery_of_row(const struct ipc *ipc, const char *row_mesh)
{
    const struct ipc_mesh *mesh = ipc_mesh_by_id(ipc, row_mesh);
    return mesh != NULL ? mesh->delivery : NULL;
}

const char *ipc_slug_of_row(const struct ipc *ipc, const char *row_mesh)
{
    const struct ipc_mesh *mesh = ipc_mesh_by_id(ipc, row_mesh);
    return mesh != NULL ? mesh->slug : row_mesh;
}

json_t *ipc_slugs(const struct ipc *ipc)
{
    json_t *slugs = json_new_array();
    for (size_t i = 0; i < ipc->mesh_count; i++)
        if (json_array_append_new(slugs, json_string(ipc->meshes[i].slug)) != 0)
            memory_exhausted();
    return slugs;
}

static void fail_required(struct exchange *exchange)
{
    json_t *more = json_new_object();
    json_put(more, "meshes", ipc_slugs(exchange->ipc));
    exchange_fail_with(exchange, 400, "mesh_required", more, "This daemon serves more than one mesh; say which with `mesh`.");
}

struct delivery *ipc_choose_mesh(struct exchange *exchange, struct ipc_mesh **ret_mesh)
{
    struct ipc *ipc = exchange->ipc;
    struct error error;
    const char *slug = NULL;
    if (exchange_mesh_slug(exchange, &slug, &error) != 0) {
        exchange_fail_shape(exchange, &error);
        return NULL;
    }
    if (slug == NULL && ipc->mesh_count > 1) {
        fail_required(exchange);
        return NULL;
    }
    struct ipc_mesh *mesh = slug != NULL ? ipc_mesh_by_slug(ipc, slug) : ipc->mesh_count == 1 ? &ipc->meshes[0] : NULL;
    if (mesh == NULL) {
        if (slug != NULL)
            exchange_fail(exchange, 404, "mesh_not_found", "This daemon serves no mesh '%s'; see `claudemesh mesh list`.", slug);
        else
            exchange_fail(exchange, 404, "mesh_not_found", "No mesh is joined; join one with `claudemesh join <invite>`.");
        return NULL;
    }
    if (mesh->delivery == NULL) {
        exchange_fail(exchange, 503, "mesh_failed", "Mesh '%s' could not be started: %s", mesh->slug, mesh->failure);
        return NULL;
    }
    *ret_mesh = mesh;
    return mesh->delivery;
}

int ipc_mesh_filter(struct exchange *exchange, const char **ret_row_mesh)
{
    struct error error;
    const char *slug = NULL;
    *ret_row_mesh = NULL;
    if (exchange_mesh_slug(exchange, &slug, &error) != 0) {
        exchange_fail_shape(exchange, &error);
        return -1;
    }
    if (slug == NULL)
        return 0;
    const struct ipc_mesh *mesh = ipc_mesh_by_slug(exchange->ipc, slug);
    if (mesh == NULL) {
        exchange_fail(exchange, 404, "mesh_not_found", "This daemon serves no mesh '%s'; see `claudemesh mesh list`.", slug);
        return -1;
    }
    *ret_row_mesh = ipc_row_mesh(mesh);
    return 0;
}
