/* Owns where a send goes: its mesh, what `to` means there, and what forbids a new row (20-ipc, POST /v1/send). Must not touch the outbox. */
#include <stdarg.h>

#include "ipc/send.h"
#include "json/json.h"
#include "link/link.h"
#include "util/memory.h"

void send_refuse(struct send *send, int status, const char *code, json_t *more, const char *format, ...)
{
    char detail[400];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(detail, sizeof(detail), format, arguments);
    va_end(arguments);
    json_decref(send->refusal.more);
    free(send->refusal.detail);
    send->refusal = (struct send_refusal){ .status = status, .code = code, .more = more, .detail = memory_strdup(detail) };
}

/* ---- what `to` means ------------------------------------------------------------------------------------------------ */

static bool is_own_key(const struct delivery *delivery, const char *ref)
{
    return strcmp(ref, delivery_own_pubkey(delivery)) == 0;
}

/* A key that resolves may still be no member's. */
static void check_member(struct send *send, struct delivery *delivery, const struct trust_destination *destination)
{
    if (trust_is_revoked(delivery_trust(delivery), destination->ref))
        send_refuse(send, 404, "destination_not_found", NULL, "That member was revoked from mesh '%s'.", send->slug);
    else if (!destination->known_member && !is_own_key(delivery, destination->ref) && delivery_members_are_fresh(delivery))
        send_refuse(send, 404, "destination_not_found", NULL, "No member of mesh '%s' has that key; see `claudemesh member list`.",
                    send->slug);
}

static void take_destination(struct send *send, const struct trust_destination *destination)
{
    send->resolved = true;
    send->kind = destination->kind;
    memcpy(send->ref, destination->ref, sizeof(send->ref));
    memcpy(send->name, destination->name, sizeof(send->name));
}

static void resolve(struct send *send, struct delivery *delivery)
{
    struct trust_destination found, *destination = &found;
    json_t *more;
    switch (trust_resolve(delivery_trust(delivery), send->request.to, &found)) {
    case RESOLVED:
        take_destination(send, destination);
        check_member(send, delivery, destination);
        return;
    case RESOLVE_UNKNOWN:
        send_refuse(send, 404, "destination_not_found", NULL, "Nobody in mesh '%s' has that name or key; see `claudemesh peer list`.",
                    send->slug);
        return;
    case RESOLVE_AMBIGUOUS:
        send_refuse(send, 409, "destination_ambiguous", exchange_candidates(destination),
                    "More than one member fits; send to one of the candidates' keys.");
        return;
    case RESOLVE_KEY_CHANGED:
        more = exchange_candidates(destination);
        json_put_string(more, "pinned_pubkey", destination->candidates[0]);
        json_put_string(more, "new_pubkey", destination->candidates[1]);
        send_refuse(send, 409, "destination_key_changed", more,
                    "Another key now goes by that name; compare safety numbers, then run `claudemesh verify <name> --accept`.");
        return;
    case RESOLVE_INVALID:
        break;
    }
    send_refuse(send, 400, "invalid_request", NULL,
                "Field 'to' must be a name, a key, a prefix of one of 8 digits or more, #topic, @group or *.");
}

/* Destinations that are no member's: their fingerprints hold, sending to them is not built. True: `to` is one. */
static bool place_elsewhere(struct send *send)
{
    const char *to = send->request.to;
    if (*to != '#' && *to != '@' && strcmp(to, "*") != 0)
        return false;
    if (*to != '*' && !name_is_valid(to + 1)) {
        send_refuse(send, 400, "invalid_request", NULL, "Field 'to': names of topics and groups are 1 to 64 of a-z 0-9 _ . -.");
        return true;
    }
    send->kind = *to == '#' ? "topic" : "queue";
    (void)snprintf(send->ref, sizeof(send->ref), "%s", *to == '#' ? to + 1 : to);
    send->resolved = true;
    send_refuse(send, 501, "not_implemented", NULL, "This version sends direct messages only; send to a member.");
    return true;
}

/* ---- which mesh ----------------------------------------------------------------------------------------------------- */

static bool mesh_knows(const struct ipc_mesh *mesh, const char *to)
{
    struct trust_destination destination;
    enum trust_resolution resolution = trust_resolve(delivery_trust(mesh->delivery), to, &destination);
    if (resolution == RESOLVED)
        return destination.known_member || is_own_key(mesh->delivery, destination.ref);
    return resolution == RESOLVE_AMBIGUOUS || resolution == RESOLVE_KEY_CHANGED;
}

/* The only mesh that knows the destination; NULL when none or several do. */
static struct ipc_mesh *mesh_of_destination(const struct ipc *ipc, const char *to)
{
    struct ipc_mesh *found = NULL;
    for (size_t i = 0; i < ipc->mesh_count; i++) {
        if (ipc->meshes[i].delivery == NULL || !mesh_knows(&ipc->meshes[i], to))
            continue;
        if (found != NULL)
            return NULL;
        found = &ipc->meshes[i];
    }
    return found;
}

static struct ipc_mesh *choose(struct send *send, const char *slug)
{
    const struct ipc *ipc = send->exchange->ipc;
    if (slug != NULL) {
        struct ipc_mesh *mesh = ipc_mesh_by_slug(ipc, slug);
        if (mesh == NULL)
            send_refuse(send, 404, "mesh_not_found", NULL, "This daemon serves no mesh '%.64s'; see `claudemesh mesh list`.", slug);
        return mesh;
    }
    if (ipc->mesh_count == 0) {
        send_refuse(send, 404, "mesh_not_found", NULL, "No mesh is joined; join one with `claudemesh join <invite>`.");
        return NULL;
    }
    struct ipc_mesh *mesh = ipc->mesh_count == 1 ? &ipc->meshes[0] : mesh_of_destination(ipc, send->request.to);
    if (mesh == NULL) {
        json_t *more = json_new_object();
        json_put(more, "meshes", ipc_slugs(ipc));
        send_refuse(send, 400, "mesh_required", more,
                    "This daemon serves more than one mesh and the destination does not decide; say which with `mesh`.");
    }
    return mesh;
}

static bool is_revoked(struct delivery *delivery)
{
    return trust_self_revoked(delivery_trust(delivery)) || link_is_revoked(delivery_link(delivery));
}

struct delivery *send_place(struct send *send)
{
    const char *slug = NULL;
    struct error error;
    if (exchange_mesh_slug(send->exchange, &slug, &error) != 0) {
        send_refuse(send, 400, "invalid_request", NULL, "%s", error.message);
        return NULL;
    }
    bool elsewhere = place_elsewhere(send);
    struct ipc_mesh *mesh = elsewhere && slug == NULL && send->exchange->ipc->mesh_count != 1 ? NULL : choose(send, slug);
    if (mesh == NULL)
        return NULL;
    if (string_copy(send->slug, sizeof(send->slug), mesh->slug) != 0 ||
        string_copy(send->row_mesh, sizeof(send->row_mesh), ipc_row_mesh(mesh)) != 0) {
        send_refuse(send, 503, "mesh_failed", NULL, "The mesh's slug or id is too long; repair config.json.");
        return NULL;
    }
    send->placed = true;
    if (mesh->delivery == NULL) {
        send_refuse(send, 503, "mesh_failed", NULL, "Mesh '%s' could not be started: %.200s", mesh->slug, mesh->failure);
        return NULL;
    }
    if (elsewhere)
        return mesh->delivery;
    resolve(send, mesh->delivery);
    int64_t limit = delivery_inline_bytes(mesh->delivery);
    if (is_revoked(mesh->delivery))
        send_refuse(send, 403, "member_revoked", NULL,
                    "This member was revoked from mesh '%s': what is stored can be read, nothing can be sent.", mesh->slug);
    else if (send->refusal.status == 0 && send->request.message.length > (size_t)limit)
        send_refuse(send, 413, "payload_too_large", NULL,
                    "The message has %zu bytes and the broker takes %" PRId64 "; share it as a file, or split it.",
                    send->request.message.length, limit);
    return mesh->delivery;
}

/* ---- the reading of an id that has a row -------------------------------------------------------------------------------- */

static bool mesh_means_row(const struct send *send, const struct outbox_row *row)
{
    if (send->placed)
        return strcmp(send->row_mesh, row->mesh) == 0;
    const char *slug = NULL;
    struct error error;
    if (exchange_mesh_slug(send->exchange, &slug, &error) != 0)
        return false;
    /* Not named: whichever the row is in. Named, and not served: the row's, when that was left too. */
    return slug == NULL || ipc_mesh_by_id(send->exchange->ipc, row->mesh) == NULL;
}

static bool name_is_members(struct trust *trust, const char *to, const char *pubkey)
{
    const struct trust_member *member = trust_member(trust, pubkey);
    if (member == NULL || member->folded_name == NULL)
        return false;
    char *folded = trust_fold_name(to);
    bool same = strcmp(folded, member->folded_name) == 0;
    free(folded);
    return same;
}

static bool is_candidate(const json_t *more, const char *pubkey)
{
    size_t index;
    const json_t *candidate;
    json_array_foreach(json_object_get(more, "candidates"), index,
                       candidate) if (string_equal(json_string_value(json_object_get(candidate, "pubkey")), pubkey)) return true;
    return false;
}

bool send_means_row(const struct send *send, const struct outbox_row *row)
{
    const char *to = send->request.to, *ref = row->destination_ref;
    if (!mesh_means_row(send, row))
        return false;
    if (send->resolved)
        return strcmp(send->kind, row->destination_kind) == 0 && strcmp(send->ref, ref) == 0;
    if (strcmp(row->destination_kind, "dm") != 0)
        return false;
    size_t length = strlen(to);
    if (length >= 8 && length <= strlen(ref) && strncasecmp(to, ref, length) == 0)
        return true; /* the key, or a prefix of it that is not unique any more */
    if (is_candidate(send->refusal.more, ref))
        return true;
    struct delivery *delivery = ipc_delivery_of_row(send->exchange->ipc, row->mesh);
    return delivery != NULL && name_is_members(delivery_trust(delivery), to, ref);
}
