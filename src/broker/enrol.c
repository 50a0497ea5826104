/* POST /mesh and POST /join (70-broker, 50-identity): the shape, the signatures, then one durable transaction. The root key never comes here; a body that carries it is refused and
 * kept nowhere. */
#include "broker/handlers.h"
#include "broker/web.h"
#include "json/json.h"
#include "proto/invite.h"
#include "proto/statement.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

static void refuse_malformed(struct http_request *request, const struct error *error)
{
    http_respond_error(request, 400, "malformed", error->message);
}

static void refuse_store(struct http_request *request, const struct store_request *base, const char *op)
{
    log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", op), LOG_TEXT("detail", base->error->message), LOG_END);
    if (base->status == -ERROR_FULL)
        http_respond_error(request, 507, "insufficient_storage", "The broker's disk is full.");
    else
        http_respond_error(request, 503, "store_unavailable", "The store does not answer.");
}

static int check_name(const char *field, const char *name, struct error *error)
{
    size_t length = strlen(name);
    if (length == 0 || length > LIMIT_DISPLAY_NAME)
        return error_set(error, ERROR_INVALID, "field '%s' must have 1 to %d bytes", field, LIMIT_DISPLAY_NAME);
    return 0;
}

/* ---- POST /mesh --------------------------------------------------------------------------------------------------------------------- */

struct mesh_call {
    struct store_create_mesh store;
    struct web_call call;
    json_t *body;         /* ours: what the strings point into */
    char *name_statement; /* NULL none */
};

static void free_mesh_call(struct mesh_call *mesh)
{
    json_decref(mesh->body);
    free(mesh->name_statement);
    free(mesh);
}

static void mesh_created(struct store_request *base)
{
    struct mesh_call *mesh = CONTAINER_OF(CONTAINER_OF(base, struct store_create_mesh, request), struct mesh_call, store);
    struct broker *broker = mesh->call.broker;
    struct http_request *request = web_call_end(&mesh->call);
    if (base->status == 0 && mesh->store.created) {
        broker->mesh_count++;
        log_event(LOG_LEVEL_INFO, "mesh_created", LOG_TEXT("mesh", mesh->store.slug), LOG_END);
    }
    if (request != NULL && base->status != 0) {
        refuse_store(request, base, "create_mesh");
    } else if (request != NULL && mesh->store.id_taken) {
        http_respond_error(request, 409, "mesh_exists", "This mesh_id is taken by another owner or slug.");
    } else if (request != NULL && mesh->store.slug_taken) {
        http_respond_error(request, 409, "slug_taken", "Another mesh has this slug.");
    } else if (request != NULL) {
        json_t *answer = json_new_object();
        json_put_bool(answer, "ok", true);
        json_put_string(answer, "meshId", mesh->store.mesh_id);
        json_put_string(answer, "memberId", mesh->store.member_id);
        json_put_bool(answer, "created", mesh->store.created);
        web_respond_json(request, 200, answer);
    }
    free_mesh_call(mesh);
}

/* The owner's name as a statement, so that others may believe it from the first day. Optional. */
static int read_name_statement(struct mesh_call *mesh, struct error *error)
{
    const json_t *statement = NULL;
    const char *mesh_id = NULL, *pubkey = NULL, *name = NULL;
    int status = json_read_object(mesh->body, "name_statement", JSON_OPTIONAL, &statement, error);
    if (status != 0 || statement == NULL)
        return status;
    status = json_read_string(statement, "mesh", JSON_REQUIRED, &mesh_id, error);
    if (status == 0)
        status = json_read_string(statement, "pubkey", JSON_REQUIRED, &pubkey, error);
    if (status == 0)
        status = json_read_string(statement, "name", JSON_REQUIRED, &name, error);
    if (status == 0)
        status = json_read_integer(statement, "seq", JSON_REQUIRED, 0, INT64_C(1) << 53, &mesh->store.name_seq, error);
    if (status == 0 && (!string_equal(mesh_id, mesh->store.mesh_id) || !string_equal(pubkey, mesh->store.owner_pubkey) ||
                        !string_equal(name, mesh->store.display_name)))
        status = error_set(error, ERROR_INVALID, "field 'name_statement' speaks of another mesh, key or name");
    if (status == 0)
        status = statement_verify_json(STATEMENT_NAME, statement, pubkey, "sig", error);
    if (status == 0)
        mesh->name_statement = json_to_string(statement, NULL);
    mesh->store.name_statement = mesh->name_statement;
    return status;
}

static int read_mesh(struct mesh_call *mesh, const char **ret_signature, int64_t *ret_timestamp, struct error *error)
{
    static const char *const NAMES[] = { "mesh_id", "slug", "name", "owner_pubkey", "display_name", "signature" };
    const char **const values[] = { &mesh->store.mesh_id,      &mesh->store.slug,         &mesh->store.name,
                                    &mesh->store.owner_pubkey, &mesh->store.display_name, ret_signature };
    int status = 0;
    if (!json_is_object(mesh->body))
        return error_set(error, ERROR_INVALID, "the body must be a JSON object");
    for (size_t i = 0; i < ARRAY_LENGTH(NAMES) && status == 0; i++)
        status = json_read_string(mesh->body, NAMES[i], JSON_REQUIRED, values[i], error);
    if (status == 0)
        status = json_read_integer(mesh->body, "timestamp", JSON_REQUIRED, 0, INT64_C(1) << 53, ret_timestamp, error);
    if (status != 0)
        return status;
    if (!uuid_is_valid(mesh->store.mesh_id))
        return error_set(error, ERROR_INVALID, "field 'mesh_id' must be a lower-case UUID");
    if (!name_is_valid(mesh->store.slug))
        return error_set(error, ERROR_INVALID, "field 'slug' must have 1 to 64 of a-z 0-9 _ . -");
    struct public_key owner;
    if (public_key_parse(mesh->store.owner_pubkey, &owner, error) != 0)
        return error_set(error, ERROR_INVALID, "field 'owner_pubkey' must be an ed25519 key, 64 lower-case hex digits");
    status = check_name("name", mesh->store.name, error);
    return status != 0 ? status : check_name("display_name", mesh->store.display_name, error);
}

void enrol_handle_mesh(struct broker *broker, struct http_request *request, const json_t *body)
{
    struct mesh_call *mesh = memory_zalloc(sizeof(*mesh));
    const char *signature = NULL;
    int64_t timestamp = 0;
    struct error error;
    mesh->body = body == NULL ? json_new_object() : json_deep_copy(body);
    int status = read_mesh(mesh, &signature, &timestamp, &error);
    if (status == 0) {
        char *text = memory_printf("mesh|%s|%s|%s|%" PRId64, mesh->store.mesh_id, mesh->store.slug, mesh->store.owner_pubkey, timestamp);
        if (!signature_hex_is_valid(mesh->store.owner_pubkey, text, strlen(text), signature))
            status = error_set(&error, ERROR_DENIED, "the owner's signature does not fit");
        free(text);
    }
    if (status == 0)
        status = read_name_statement(mesh, &error);
    if (status != 0) {
        if (status == -ERROR_DENIED)
            http_respond_error(request, 403, "bad_signature", error.message);
        else
            refuse_malformed(request, &error);
        free_mesh_call(mesh);
        return;
    }
    web_call_begin(&mesh->call, broker, request);
    ulid_generate(mesh->store.member_id);
    mesh->store.request.done = mesh_created;
    mesh->store.now_ms = clock_wall_ms();
    broker->store->operations->create_mesh(broker->store, &mesh->store);
}

/* ---- POST /join --------------------------------------------------------------------------------------------------------------------- */

struct join_call {
    struct store_join store;
    struct web_call call;
    struct certificate certificate; /* the strings' */
    char *text;                     /* the certificate, printed */
    bool has_certificate;
};

static void free_join_call(struct join_call *join)
{
    if (join->has_certificate)
        certificate_release(&join->certificate);
    free(join->text);
    free(join);
}

static void respond_joined(struct http_request *request, const struct store_join *join)
{
    json_t *answer;
    switch (join->outcome) {
    case STORE_JOINED:
    case STORE_JOINED_BEFORE:
        answer = json_new_object();
        json_put_bool(answer, "ok", true);
        json_put_string(answer, "memberId", join->member_id);
        json_put_bool(answer, "alreadyMember", join->outcome == STORE_JOINED_BEFORE);
        web_respond_json(request, 200, answer);
        return;
    case STORE_JOIN_UNKNOWN_MESH:
        http_respond_error(request, 404, "unknown_mesh", "This broker does not have the invite's mesh.");
        return;
    case STORE_JOIN_OTHER_OWNER:
        http_respond_error(request, 403, "bad_signature", "The invite was not signed by this mesh's owner.");
        return;
    case STORE_JOIN_EXPIRED:
        http_respond_error(request, 410, "expired", "The invite has expired.");
        return;
    case STORE_JOIN_REVOKED:
        http_respond_error(request, 410, "revoked", "The invite, or this member, was revoked.");
        return;
    case STORE_JOIN_EXHAUSTED:
        http_respond_error(request, 410, "exhausted", "The invite has been used as often as it may.");
        return;
    }
}

static void joined(struct store_request *base)
{
    struct join_call *join = CONTAINER_OF(CONTAINER_OF(base, struct store_join, request), struct join_call, store);
    struct broker *broker = join->call.broker;
    struct http_request *request = web_call_end(&join->call);
    if (base->status == 0 && join->store.outcome == STORE_JOINED) {
        members_tell_joined(broker, join->store.mesh, join->store.pubkey);
        members_audit(broker, join->store.mesh, join->store.member, "member_joined", join->store.invite_id);
        log_event(LOG_LEVEL_INFO, "member_joined", LOG_TEXT("mesh", join->certificate.invite.mesh_slug), LOG_TEXT("role", join->store.role),
                  LOG_END);
    }
    if (request != NULL && base->status != 0)
        refuse_store(request, base, "join");
    else if (request != NULL)
        respond_joined(request, &join->store);
    free_join_call(join);
}

/* The invite beside the certificate must be the same one. */
static int compare_invites(const json_t *body, const struct certificate *certificate, struct error *error)
{
    const json_t *object = NULL;
    struct invite invite = { 0 };
    int status = json_read_object(body, "invite", JSON_OPTIONAL, &object, error);
    if (status != 0 || object == NULL)
        return status;
    status = invite_parse_public(object, &invite, error);
    if (status != 0)
        return status;
    if (strcmp(invite.signature, certificate->invite.signature) != 0 || !string_equal(invite.invite_id, certificate->invite.invite_id))
        status = error_set(error, ERROR_INVALID, "field 'invite' is another one than the certificate's");
    invite_release(&invite);
    return status;
}

static int read_join(struct join_call *join, const json_t *body, struct error *error)
{
    const json_t *cert = NULL;
    const char *name = NULL;
    int64_t timestamp;
    if (!json_is_object(body))
        return error_set(error, ERROR_INVALID, "the body must be a JSON object");
    if (json_object_get(body, "root_key") != NULL || json_object_get(body, "invite_seed") != NULL)
        return error_set(error, ERROR_INVALID, "the root key and the invite's seed never go to the broker");
    int status = json_read_object(body, "cert", JSON_REQUIRED, &cert, error);
    if (status == 0)
        status = json_read_string(body, "name", JSON_OPTIONAL, &name, error);
    if (status == 0)
        status = json_read_integer(body, "timestamp", JSON_REQUIRED, 0, INT64_C(1) << 53, &timestamp, error);
    if (status == 0)
        status = certificate_parse(cert, &join->certificate, error);
    if (status != 0)
        return status;
    join->has_certificate = true;
    status = compare_invites(body, &join->certificate, error);
    if (status == 0 && name != NULL && !string_equal(name, join->certificate.name))
        status = error_set(error, ERROR_INVALID, "field 'name' is another one than the certificate's");
    return status != 0 ? status : check_name("name", join->certificate.name, error);
}

/* Everything but time, which the store judges after it knows whether this key is a member already. A certificate made after its invite's end is simply late. */
static int verify_join(struct join_call *join, const json_t *body, struct error *error)
{
    const struct invite *invite = &join->certificate.invite;
    struct certificate verified;
    int status = certificate_verify(json_object_get(body, "cert"), invite->mesh_id, invite->owner_pubkey, &verified, error);
    if (status == 0)
        certificate_release(&verified);
    return status;
}

/* Everybody gets it, with each list: fields that nobody signed must not make it large. */
static int print_certificate(struct join_call *join, const json_t *body, struct error *error)
{
    size_t size;
    join->text = json_to_string(json_object_get(body, "cert"), &size);
    return size <= BROKER_CERTIFICATE ? 0 : error_set(error, ERROR_INVALID, "field 'cert' is larger than %d bytes", BROKER_CERTIFICATE);
}

void enrol_handle_join(struct broker *broker, struct http_request *request, const json_t *body)
{
    struct join_call *join = memory_zalloc(sizeof(*join));
    struct error error;
    if (read_join(join, body, &error) != 0) {
        refuse_malformed(request, &error);
        free_join_call(join);
        return;
    }
    const struct certificate *certificate = &join->certificate;
    int status = verify_join(join, body, &error);
    if (status == 0)
        status = print_certificate(join, body, &error);
    if (status != 0) {
        if (certificate->at_ms > certificate->invite.expires_at_s * 1000)
            http_respond_error(request, 410, "expired", "The invite has expired.");
        else if (status == -ERROR_DENIED)
            http_respond_error(request, 403, "bad_signature", error.message);
        else
            refuse_malformed(request, &error);
        free_join_call(join);
        return;
    }
    web_call_begin(&join->call, broker, request);
    ulid_generate(join->store.member_id);
    join->store.request.done = joined;
    join->store.mesh_id = certificate->invite.mesh_id;
    join->store.invite_id = certificate->invite.invite_id;
    join->store.owner_pubkey = certificate->invite.owner_pubkey;
    join->store.signer_pubkey = certificate->invite.signer_pubkey;
    join->store.pubkey = certificate->pubkey;
    join->store.name = certificate->name;
    join->store.role = certificate->role;
    join->store.certificate = join->text;
    join->store.invite_expires_at = certificate->invite.expires_at_s * 1000;
    join->store.max_uses = certificate->invite.max_uses;
    join->store.now_ms = clock_wall_ms();
    broker->store->operations->join(broker->store, &join->store);
}
