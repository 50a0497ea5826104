/* Members over the WebSocket: the list, and the statements by which members revoke, leave, rename, grant (45-trust). The signature is checked here, who may say it in the store; what holds is
 * stored before it is told. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "proto/statement.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { CLOSE_NORMAL = 1000, CLOSE_REVOKED = 4002 };

/* ---- list_members ------------------------------------------------------------------------------------------------------------------- */

struct list_request {
    struct store_list_members store;
    struct broker *broker;
    json_t *request_id; /* NULL none */
};

static json_t *copy_request_id(const json_t *frame)
{
    const json_t *id = session_request_id(frame);
    return id == NULL ? NULL : json_deep_copy(id);
}

static void send_members(struct session *session, const struct list_request *request)
{
    struct buffer text;
    buffer_init(&text, LIMIT_FRAME);
    buffer_append_text(&text, "{\"type\":\"members_list\",");
    buffer_append(&text, request->store.text.data, request->store.text.length);
    if (request->store.next >= 0)
        buffer_printf(&text, ",\"next\":%" PRId64, request->store.next);
    if (request->request_id != NULL) {
        buffer_append_text(&text, ",\"_reqId\":");
        (void)json_print(request->request_id, &text);
    }
    buffer_append_byte(&text, '}');
    if (!text.overflow)
        session_send(session, text.data, text.length);
    else
        session_error(session, request->request_id, "too_large", "the list does not fit a frame", NULL);
    buffer_release(&text);
}

static void listed(struct store_request *base)
{
    struct list_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_list_members, request), struct list_request, store);
    struct session *session = session_find_asker(request->broker, request->store.connection);
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "list_members"), LOG_TEXT("detail", base->error->message), LOG_END);
    if (session != NULL && base->status == 0)
        send_members(session, request);
    else if (session != NULL)
        session_error(session, request->request_id, "store_unavailable", "the store does not answer", NULL);
    buffer_release(&request->store.text);
    json_decref(request->request_id);
    free(request);
}

/* `after`: what the last page's `next` was. */
void members_handle_list(struct session *session, const json_t *frame)
{
    int64_t after = 0;
    struct error error;
    if (json_read_integer(frame, "after", JSON_OPTIONAL, 0, INT64_C(1) << 53, &after, &error) != 0) {
        session_error(session, session_request_id(frame), "invalid_request", error.message, NULL);
        return;
    }
    struct list_request *request = memory_zalloc(sizeof(*request));
    request->broker = session->broker;
    request->request_id = copy_request_id(frame);
    request->store.request.done = listed;
    request->store.connection = session->connection;
    request->store.mesh = session->member->mesh->key;
    request->store.after = after;
    request->store.byte_limit = BROKER_LIST_BYTES;
    buffer_init(&request->store.text, BUFFER_UNLIMITED);
    session_ask(session);
    session->broker->store->operations->list_members(session->broker->store, &request->store);
}

/* ---- telling --------------------------------------------------------------------------------------------------------------------------- */

struct find_request {
    struct store_find_member store;
    struct broker *broker;
};

static void found(struct store_request *base)
{
    struct find_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_find_member, request), struct find_request, store);
    struct mesh *mesh = state_find_mesh(request->broker, request->store.mesh);
    json_t *data = NULL;
    struct error error;
    if (base->status == 0 && mesh != NULL && json_parse_strict(request->store.text.data, request->store.text.length, &data, &error) == 0)
        session_broadcast_event(mesh, NULL, "member_joined", data);
    json_decref(data);
    buffer_release(&request->store.text);
    free(request);
}

void members_tell_joined(struct broker *broker, int64_t mesh, const char *pubkey)
{
    if (state_find_mesh(broker, mesh) == NULL)
        return; /* nobody is there to hear it */
    struct find_request *request = memory_zalloc(sizeof(*request));
    request->broker = broker;
    request->store.request.done = found;
    request->store.mesh = mesh;
    buffer_init(&request->store.text, BUFFER_UNLIMITED);
    if (string_copy(request->store.pubkey, sizeof request->store.pubkey, pubkey) != 0)
        request->store.pubkey[0] = '\0';
    broker->store->operations->find_member(broker->store, &request->store);
}

static void audited(struct store_request *base)
{
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "audit"), LOG_TEXT("detail", base->error->message), LOG_END);
    free(CONTAINER_OF(base, struct store_audit, request));
}

void members_audit(struct broker *broker, int64_t mesh, int64_t member, const char *event, const char *detail)
{
    size_t size = strlen(detail) + 1;
    struct store_audit *audit = memory_zalloc(sizeof(*audit) + size);
    char *copy = (char *)(audit + 1);
    memcpy(copy, detail, size);
    audit->request.done = audited;
    audit->mesh = mesh;
    audit->member = member;
    audit->event = event; /* a literal */
    audit->detail = copy;
    audit->now_ms = clock_wall_ms();
    broker->store->operations->audit(broker->store, audit);
}

/* ---- statements ------------------------------------------------------------------------------------------------------------------------ */

struct statement_request {
    struct store_statement store;
    struct broker *broker;
    json_t *request_id;
    json_t *document;
    char *text; /* the document, printed */
};

static void free_statement(struct statement_request *request)
{
    json_decref(request->request_id);
    json_decref(request->document);
    free(request->text);
    free(request);
}

static void close_sessions(struct broker *broker, struct mesh *mesh, int64_t key, int code, const char *reason)
{
    struct session *session, *next;
    for (session = LIST_FIRST(&mesh->sessions); session != NULL; session = next) {
        next = LIST_NEXT(session, of_mesh);
        if (session->member->key == key)
            session_close(session, code, reason);
    }
    presence_end_member(broker, key);
}

/* Told while the mesh is here; a mesh may go with the member's last session, so the closing comes last. */
static void follow(struct broker *broker, const struct statement_request *request)
{
    static const char *const EVENTS[STORE_STATEMENT_KINDS] = {
        [STORE_REVOCATION] = "member_revoked",
        [STORE_LEAVE] = "member_left",
        [STORE_NAME] = "member_renamed",
    };
    static const char *const AUDITED[STORE_STATEMENT_KINDS] = {
        [STORE_REVOCATION] = "member_revoked",
        [STORE_LEAVE] = "member_left",
        [STORE_NAME] = "member_renamed",
        [STORE_GRANT] = "member_granted",
        [STORE_INVITE_REVOCATION] = "invite_revoked",
    };
    const struct store_statement *store = &request->store;
    struct mesh *mesh = state_find_mesh(broker, store->mesh);
    struct member *member = state_find_member(broker, store->member);
    members_audit(broker, store->mesh, store->member, AUDITED[store->kind], store->subject);
    broker->metrics.deliveries_waiting += store->deliveries_change;
    if (member != NULL && store->kind == STORE_NAME) {
        free(member->name);
        member->name = memory_strdup(store->value);
    }
    if (member != NULL && store->kind == STORE_GRANT)
        member->admin = string_equal(store->value, "admin");
    if (mesh != NULL && EVENTS[store->kind] != NULL)
        session_broadcast_event(mesh, NULL, EVENTS[store->kind], request->document);
    if (store->kind == STORE_GRANT)
        members_tell_joined(broker, store->mesh, store->subject);
    if (mesh != NULL && store->kind == STORE_REVOCATION)
        close_sessions(broker, mesh, store->member, CLOSE_REVOKED, "revoked");
    if (mesh != NULL && store->kind == STORE_LEAVE)
        close_sessions(broker, mesh, store->member, CLOSE_NORMAL, "left");
}

static void answer_statement(struct session *session, const struct statement_request *request)
{
    static const struct {
        const char *code, *message;
    } REFUSALS[] = {
        [STORE_STATEMENT_UNKNOWN_SUBJECT] = { "unknown_member", "nobody in this mesh has this key" },
        [STORE_STATEMENT_FORBIDDEN] = { "forbidden", "who signed this may not say it" },
        [STORE_STATEMENT_STALE] = { "stale_statement", "a newer statement of this kind is known" },
    };
    if (request->store.request.status != 0) {
        session_error(session, request->request_id, "store_unavailable", "the store does not answer", NULL);
        return;
    }
    if (request->store.outcome == STORE_STATED || request->store.outcome == STORE_STATED_BEFORE) {
        json_t *ok = json_new_object();
        json_put_string(ok, "type", "member_ok");
        session_answer(session, request->request_id, ok);
        return;
    }
    session_error(session, request->request_id, REFUSALS[request->store.outcome].code, REFUSALS[request->store.outcome].message, NULL);
}

static void stated(struct store_request *base)
{
    struct statement_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_statement, request), struct statement_request, store);
    struct broker *broker = request->broker;
    struct session *session = session_find_asker(broker, request->store.connection);
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "statement"), LOG_TEXT("detail", base->error->message), LOG_END);
    if (session != NULL)
        answer_statement(session, request);
    if (base->status == 0 && request->store.outcome == STORE_STATED)
        follow(broker, request);
    free_statement(request);
}

struct statement_form {
    enum store_statement_kind store_kind;
    enum statement_kind kind;
    const char *subject, *by, *seq; /* which fields they are */
    const char *value;              /* NULL none */
};

static const struct statement_form REVOCATION = { STORE_REVOCATION, STATEMENT_REVOCATION, "subject_pubkey", "by", "at", NULL };
static const struct statement_form LEAVE = { STORE_LEAVE, STATEMENT_LEAVE, "pubkey", "pubkey", "at", NULL };
static const struct statement_form NAME = { STORE_NAME, STATEMENT_NAME, "pubkey", "pubkey", "seq", "name" };
static const struct statement_form GRANT = { STORE_GRANT, STATEMENT_GRANT, "pubkey", "by", "seq", "role" };
static const struct statement_form INVITE_REVOCATION = {
    STORE_INVITE_REVOCATION, STATEMENT_INVITE_REVOCATION, "invite_id", "by", "at", NULL
};

/* The statement as it travels: its own fields, each under its name or the older one that 40-wire's frames use, or what is known of the sender. */
static json_t *gather(const struct session *session, const json_t *frame, enum statement_kind kind)
{
    static const struct {
        const char *name, *older;
    } FIELDS[] = { { "subject_pubkey", "pubkey" }, { "at", "timestamp" }, { "member_id", "memberId" }, { "sig", "signature" } };
    json_t *document = json_new_object();
    for (size_t i = 0; i <= statement_field_count(kind); i++) {
        const char *name = i < statement_field_count(kind) ? statement_field_name(kind, i) : "sig";
        json_t *value = json_object_get(frame, name);
        for (size_t j = 0; value == NULL && j < ARRAY_LENGTH(FIELDS); j++)
            if (string_equal(FIELDS[j].name, name))
                value = json_object_get(frame, FIELDS[j].older);
        if (value != NULL)
            json_put(document, name, json_deep_copy(value));
        else if (string_equal(name, "mesh"))
            json_put_string(document, name, session->member->mesh->mesh_id);
        else if (string_equal(name, "by") || string_equal(name, "pubkey"))
            json_put_string(document, name, session->member->pubkey);
        else if (string_equal(name, "member_id") && kind == STATEMENT_LEAVE)
            json_put_string(document, name, session->member->member_id);
    }
    return document;
}

/* Fields present and of their types, the mesh this one, the signature valid. */
static int check_statement(const struct session *session, const struct statement_form *form, struct statement_request *request,
                           struct error *error)
{
    const char *mesh = NULL;
    struct store_statement *store = &request->store;
    int status = json_read_string(request->document, "mesh", JSON_REQUIRED, &mesh, error);
    if (status == 0)
        status = json_read_string(request->document, form->subject, JSON_REQUIRED, &store->subject, error);
    if (status == 0)
        status = json_read_string(request->document, form->by, JSON_REQUIRED, &store->by, error);
    if (status == 0)
        status = json_read_integer(request->document, form->seq, JSON_REQUIRED, 0, INT64_C(1) << 53, &store->seq, error);
    if (status == 0 && form->value != NULL)
        status = json_read_string(request->document, form->value, JSON_REQUIRED, &store->value, error);
    if (status == 0 && !string_equal(mesh, session->member->mesh->mesh_id))
        status = error_set(error, ERROR_INVALID, "field 'mesh' must be this mesh");
    if (status == 0 && form->store_kind == STORE_NAME && (store->value[0] == '\0' || strlen(store->value) > LIMIT_DISPLAY_NAME))
        status = error_set(error, ERROR_INVALID, "field 'name' must have 1 to 128 bytes");
    return status != 0 ? status : statement_verify_json(form->kind, request->document, store->by, "sig", error);
}

static void handle(struct session *session, const json_t *frame, const struct statement_form *form)
{
    struct statement_request *request = memory_zalloc(sizeof(*request));
    struct error error;
    request->broker = session->broker;
    request->request_id = copy_request_id(frame);
    request->document = gather(session, frame, form->kind);
    int status = check_statement(session, form, request, &error);
    if (status != 0) {
        session_error(session, request->request_id, status == -ERROR_DENIED ? "bad_signature" : "invalid_request", error.message, NULL);
        free_statement(request);
        return;
    }
    request->text = json_to_string(request->document, NULL);
    request->store.request.done = stated;
    request->store.connection = session->connection;
    request->store.mesh = session->member->mesh->key;
    request->store.kind = form->store_kind;
    request->store.document = request->text;
    request->store.now_ms = clock_wall_ms();
    session_ask(session);
    session->broker->store->operations->state(session->broker->store, &request->store);
}

void members_handle_revoke(struct session *session, const json_t *frame)
{
    handle(session, frame, &REVOCATION);
}

void members_handle_leave(struct session *session, const json_t *frame)
{
    handle(session, frame, &LEAVE);
}

void members_handle_rename(struct session *session, const json_t *frame)
{
    handle(session, frame, &NAME);
}

void members_handle_grant(struct session *session, const json_t *frame)
{
    handle(session, frame, &GRANT);
}

void members_handle_revoke_invite(struct session *session, const json_t *frame)
{
    handle(session, frame, &INVITE_REVOCATION);
}
