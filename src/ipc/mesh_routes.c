/* Owns the routes about a mesh's people: peers, members, profile, heartbeat, verify (20-ipc; docs/local-api.md). Must not decide whom to trust: trust/ does. */
#include "crypto/keys.h"
#include "ipc/internal.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- peers and members ---------------------------------------------------------------------------------------------- */

static void on_peers(void *argument, json_t *peers, bool stale)
{
    json_t *answer = json_new_object();
    json_put(answer, "peers", peers);
    if (stale)
        json_put_bool(answer, "stale", true);
    exchange_answer_json(argument, 200, answer);
}

void route_peers(struct exchange *exchange)
{
    struct ipc_mesh *mesh;
    struct delivery *delivery = ipc_choose_mesh(exchange, &mesh);
    if (delivery != NULL)
        delivery_peers(delivery, on_peers, exchange);
}

void route_members(struct exchange *exchange)
{
    struct ipc_mesh *mesh;
    struct delivery *delivery = ipc_choose_mesh(exchange, &mesh);
    if (delivery == NULL)
        return;
    json_t *answer = json_new_object();
    json_put(answer, "members", delivery_members(delivery));
    json_put_bool(answer, "stale", !delivery_members_are_fresh(delivery));
    exchange_answer_json(exchange, 200, answer);
}

/* ---- profile ------------------------------------------------------------------------------------------------------- */

enum { CAPABILITIES_MAX = 64 };

enum profile_type { PROFILE_TEXT, PROFILE_STATUS, PROFILE_FLAG, PROFILE_LIST };
static const struct profile_field {
    const char *name;
    enum profile_type type;
    size_t maximum; /* bytes of a text, or of each item */
} PROFILE_FIELDS[] = {
    { "summary", PROFILE_TEXT, 1024 },    { "status", PROFILE_STATUS, 0 }, { "visible", PROFILE_FLAG, 0 },
    { "avatar", PROFILE_TEXT, 2048 },     { "title", PROFILE_TEXT, 256 },  { "bio", PROFILE_TEXT, 4096 },
    { "capabilities", PROFILE_LIST, 64 },
};

static bool text_fits(const json_t *value, size_t maximum)
{
    return json_is_string(value) && json_string_length(value) <= maximum && strlen(json_string_value(value)) == json_string_length(value);
}

static int check_list(const struct profile_field *field, const json_t *value, struct error *error)
{
    size_t index;
    json_t *item;
    bool fits = json_is_array(value) && json_array_size(value) <= CAPABILITIES_MAX;
    json_array_foreach(value, index, item) fits = fits && text_fits(item, field->maximum);
    return fits ? 0
                : error_set(error, ERROR_INVALID, "Field '%s' must be an array of at most %d strings of at most %zu bytes.", field->name,
                            CAPABILITIES_MAX, field->maximum);
}

static int check_field(const struct profile_field *field, const json_t *value, struct error *error)
{
    const char *text = json_string_value(value);
    switch (field->type) {
    case PROFILE_TEXT:
        return text_fits(value, field->maximum)
                   ? 0
                   : error_set(error, ERROR_INVALID, "Field '%s' must be a string of at most %zu bytes.", field->name, field->maximum);
    case PROFILE_STATUS:
        if (text != NULL && (strcmp(text, "idle") == 0 || strcmp(text, "working") == 0 || strcmp(text, "dnd") == 0))
            return 0;
        return error_set(error, ERROR_INVALID, "Field '%s' must be idle, working or dnd.", field->name);
    case PROFILE_FLAG:
        return json_is_boolean(value) ? 0 : error_set(error, ERROR_INVALID, "Field '%s' must be true or false.", field->name);
    case PROFILE_LIST:
        return check_list(field, value, error);
    }
    return error_set(error, ERROR_INTERNAL, "Field '%s' has no known type.", field->name);
}

/* The body without `mesh`, each field known and of its type. */
static int read_profile(const json_t *body, json_t *fields, struct error *error)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)body, name, value)
    {
        if (strcmp(name, "mesh") == 0)
            continue;
        size_t i = 0;
        while (i < ARRAY_LENGTH(PROFILE_FIELDS) && strcmp(PROFILE_FIELDS[i].name, name) != 0)
            i++;
        if (i == ARRAY_LENGTH(PROFILE_FIELDS))
            return error_set(error, ERROR_INVALID, "Field '%.64s' is not one of a profile's.", name);
        if (check_field(&PROFILE_FIELDS[i], value, error) != 0)
            return -(int)error->code;
        json_put(fields, name, json_incref(value));
    }
    return 0;
}

void route_profile_show(struct exchange *exchange)
{
    struct ipc_mesh *mesh;
    struct delivery *delivery = ipc_choose_mesh(exchange, &mesh);
    if (delivery != NULL)
        exchange_answer_json(exchange, 200, delivery_profile(delivery));
}

void route_profile_set(struct exchange *exchange)
{
    json_t *fields = json_new_object();
    struct error error;
    struct ipc_mesh *mesh;
    struct delivery *delivery = NULL;
    if (read_profile(exchange->body, fields, &error) != 0)
        exchange_fail_shape(exchange, &error);
    else
        delivery = ipc_choose_mesh(exchange, &mesh);
    if (delivery != NULL) {
        bool deferred = false;
        json_t *applied = delivery_set_profile(delivery, fields, &deferred);
        json_t *answer = json_new_object();
        json_put_bool(answer, "ok", true);
        json_put(answer, "applied", applied);
        json_put_bool(answer, "deferred", deferred);
        exchange_answer_json(exchange, 200, answer);
    }
    json_decref(fields);
}

/* ---- heartbeat ------------------------------------------------------------------------------------------------------ */

/* The caller is alive in every mesh, unless it names one. */
void route_heartbeat(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    const char *row_mesh;
    if (ipc_mesh_filter(exchange, &row_mesh) != 0)
        return;
    for (size_t i = 0; i < ipc->mesh_count; i++)
        if (ipc->meshes[i].delivery != NULL && (row_mesh == NULL || strcmp(row_mesh, ipc_row_mesh(&ipc->meshes[i])) == 0))
            delivery_heartbeat(ipc->meshes[i].delivery);
    json_t *answer = json_new_object();
    json_put_bool(answer, "ok", true);
    exchange_answer_json(exchange, 200, answer);
}

/* ---- verify --------------------------------------------------------------------------------------------------------- */

struct peer_to_verify {
    struct delivery *delivery;
    char pubkey[KEY_HEX_SIZE], name[LIMIT_DISPLAY_NAME_SIZE], pinned[KEY_HEX_SIZE]; /* pinned: "" unless the name's pin is another key */
};

static void fail_unresolved(struct exchange *exchange, enum trust_resolution resolution, const struct trust_destination *destination)
{
    if (resolution != RESOLVE_AMBIGUOUS) {
        exchange_fail(exchange, 404, "destination_not_found", "No member has that name or key; see `claudemesh member list`.");
        return;
    }
    exchange_fail_with(exchange, 409, "destination_ambiguous", exchange_candidates(destination),
                       "More than one member fits; name one of the candidates' keys.");
}

/* 0, or -1: answered. A name whose pin is another key stands for the new key: that is what there is to verify. */
static int find_peer(struct exchange *exchange, const char *peer, struct peer_to_verify *ret_peer)
{
    struct ipc_mesh *mesh;
    struct peer_to_verify found = { .delivery = ipc_choose_mesh(exchange, &mesh) };
    if (found.delivery == NULL)
        return -1;
    struct trust_destination destination = { 0 };
    enum trust_resolution resolution = trust_resolve(delivery_trust(found.delivery), peer, &destination);
    bool swapped = resolution == RESOLVE_KEY_CHANGED;
    if (!swapped && (resolution != RESOLVED || strcmp(destination.kind, "dm") != 0)) {
        fail_unresolved(exchange, resolution, &destination);
        return -1;
    }
    const char *pubkey = swapped ? destination.candidates[1] : destination.ref;
    const char *name = swapped ? destination.candidate_names[1] : destination.name;
    int status = string_copy(found.pubkey, sizeof(found.pubkey), pubkey);
    status |= string_copy(found.name, sizeof(found.name), name);
    if (swapped)
        status |= string_copy(found.pinned, sizeof(found.pinned), destination.candidates[0]);
    if (status != 0) {
        fail_unresolved(exchange, RESOLVE_UNKNOWN, &destination);
        return -1;
    }
    *ret_peer = found;
    return 0;
}

static void answer_verify(struct exchange *exchange, const struct peer_to_verify *peer)
{
    struct public_key own, theirs;
    char number[SAFETY_NUMBER_SIZE];
    struct error error;
    if (public_key_parse(delivery_own_pubkey(peer->delivery), &own, &error) != 0 || public_key_parse(peer->pubkey, &theirs, &error) != 0) {
        exchange_fail(exchange, 409, "invalid_key", "That is no key that messages can be sealed for: %s", error.message);
        return;
    }
    safety_number(&own, &theirs, number);
    const struct trust_member *member = trust_member(delivery_trust(peer->delivery), peer->pubkey);
    json_t *answer = json_new_object();
    json_put_string(answer, "mesh", delivery_mesh_slug(peer->delivery));
    json_put_string(answer, "pubkey", peer->pubkey);
    json_put_string(answer, "name", peer->name[0] != '\0' ? peer->name : NULL);
    json_put_bool(answer, "verified", member != NULL && member->verified);
    json_put_bool(answer, "revoked", member != NULL && member->revoked);
    json_put_string(answer, "safety_number", number);
    json_put_string(answer, "own_pubkey", delivery_own_pubkey(peer->delivery));
    json_put_bool(answer, "key_changed", peer->pinned[0] != '\0');
    json_put_string(answer, "pinned_pubkey", peer->pinned[0] != '\0' ? peer->pinned : NULL);
    exchange_answer_json(exchange, 200, answer);
}

void route_verify_show(struct exchange *exchange)
{
    const char *name = http_query(exchange->http, "peer");
    if (name == NULL || *name == '\0') {
        exchange_fail(exchange, 400, "invalid_request", "Parameter 'peer' must be a name or a key.");
        return;
    }
    struct peer_to_verify peer;
    if (find_peer(exchange, name, &peer) == 0)
        answer_verify(exchange, &peer);
}

void route_verify_accept(struct exchange *exchange)
{
    const char *name = NULL;
    bool accept = false;
    struct error error;
    struct peer_to_verify peer;
    if (json_read_string(exchange->body, "peer", JSON_REQUIRED, &name, &error) != 0 ||
        json_read_bool(exchange->body, "accept", JSON_REQUIRED, &accept, &error) != 0) {
        exchange_fail_shape(exchange, &error);
        return;
    }
    if (!accept) {
        exchange_fail(exchange, 400, "invalid_request", "Field 'accept' must be true: there is nothing else to do here.");
        return;
    }
    if (find_peer(exchange, name, &peer) != 0)
        return;
    if (peer.name[0] == '\0') {
        exchange_fail(exchange, 404, "destination_not_found", "That key has no name to pin; it can be sent to as it is.");
        return;
    }
    if (trust_accept_key(delivery_trust(peer.delivery), peer.name, peer.pubkey, &error) != 0) {
        exchange_fail(exchange, 409, "not_accepted", "%s", error.message);
        return;
    }
    peer.pinned[0] = '\0';
    answer_verify(exchange, &peer);
}
