/* member_rotate (50-identity, Key rotation; 45-trust): both keys sign; stored before it is told; then everybody hears of it, and the sessions of the old key end. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "proto/rotation.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { CLOSE_POLICY = 1008 };
static const int64_t SKEW_MS = 60000; /* as hello's */

struct rotate_request {
    struct store_rotate store;
    struct broker *broker;
    json_t *request_id;
    struct rotation_statement statement; /* what the store's strings point into */
    char *text;                          /* the statement, printed */
};

static void free_request(struct rotate_request *request)
{
    json_decref(request->request_id);
    json_decref(request->statement.document);
    free(request->text);
    free(request);
}

/* The asker heard member_ok before; whoever else holds the old key is told by the close. */
static void end_sessions(struct broker *broker, const struct member *member)
{
    (void)broker;
    struct session *session, *next;
    for (session = LIST_FIRST(&member->sessions); session != NULL; session = next) {
        next = LIST_NEXT(session, of_member);
        session_close(session, CLOSE_POLICY, "key_rotated");
    }
}

/* A mesh may go with the member's last session, so the closing comes last. The presence stays for its grace: who comes back under the new key was never away. */
static void follow(struct broker *broker, const struct rotate_request *request)
{
    struct mesh *mesh = state_find_mesh(broker, request->store.mesh);
    struct member *member = state_find_member(broker, request->store.member);
    members_audit(broker, request->store.mesh, request->store.member, "member_keypair_rotated", request->store.old_pubkey);
    if (mesh != NULL)
        session_broadcast_event(mesh, NULL, "member_keypair_rotated", request->statement.document);
    if (member != NULL) {
        member->references++;
        end_sessions(broker, member);
        state_rekey_member(broker, member, request->store.new_pubkey);
        member->rotation_seq = request->store.seq;
        state_release_member(broker, member);
    }
}

static void answer(struct session *session, const struct rotate_request *request)
{
    static const struct {
        const char *code, *message;
    } REFUSALS[] = {
        [STORE_ROTATION_FORBIDDEN] = { "forbidden", "the old key is not the key of who asks" },
        [STORE_ROTATION_STALE] = { "stale_statement", "this is not the next step of this member's keys" },
        [STORE_ROTATION_TAKEN] = { "key_taken", "the new key is or was somebody's" },
    };
    if (request->store.request.status != 0) {
        session_error(session, request->request_id, "store_unavailable", "the store does not answer", NULL);
    } else if (request->store.outcome == STORE_ROTATED || request->store.outcome == STORE_ROTATED_BEFORE) {
        json_t *ok = json_new_object();
        json_put_string(ok, "type", "member_ok");
        session_answer(session, request->request_id, ok);
    } else {
        session_error(session, request->request_id, REFUSALS[request->store.outcome].code, REFUSALS[request->store.outcome].message, NULL);
    }
}

static void rotated(struct store_request *base)
{
    struct rotate_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_rotate, request), struct rotate_request, store);
    struct session *session = session_find_asker(request->broker, request->store.connection);
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "rotate"), LOG_TEXT("detail", base->error->message), LOG_END);
    if (session != NULL)
        answer(session, request);
    if (base->status == 0 && request->store.outcome == STORE_ROTATED)
        follow(request->broker, request);
    free_request(request);
}

static bool judge(struct session *session, const json_t *frame, struct rotate_request *request)
{
    struct error error;
    const struct member *member = session->member;
    int status =
        rotation_read_request(frame, member->mesh->mesh_id, member->member_id, member->rotation_seq + 1, &request->statement, &error);
    if (status != 0) {
        session_error(session, request->request_id, status == -(int)ERROR_DENIED ? "bad_signature" : "invalid_request", error.message,
                      NULL);
        return false;
    }
    int64_t now = clock_wall_ms();
    if (request->statement.at < now - SKEW_MS || request->statement.at > now + SKEW_MS) {
        session_error(session, request->request_id, "timestamp_skew", "the rotation's time is more than 60 s off", NULL);
        return false;
    }
    return true;
}

void rotate_handle(struct session *session, const json_t *frame)
{
    struct broker *broker = session->broker;
    struct rotate_request *request = memory_zalloc(sizeof(*request));
    const json_t *id = session_request_id(frame);
    request->broker = broker;
    request->request_id = id == NULL ? NULL : json_deep_copy(id);
    if (!judge(session, frame, request)) {
        free_request(request);
        return;
    }
    request->text = json_to_string(request->statement.document, NULL);
    request->store.request.done = rotated;
    request->store.connection = session->connection;
    request->store.mesh = session->member->mesh->key;
    request->store.member = session->member->key;
    request->store.seq = request->statement.seq;
    request->store.at = request->statement.at;
    request->store.old_pubkey = request->statement.old_pubkey;
    request->store.new_pubkey = request->statement.new_pubkey;
    request->store.document = request->text;
    request->store.now_ms = clock_wall_ms();
    request->store.usable_until = request->store.now_ms + broker->figures.key_grace_ms;
    session_ask(session);
    broker->store->operations->rotate(broker->store, &request->store);
}
