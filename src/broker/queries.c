/* What a member asks about messages (40-wire): history, message_status. Answered from the store's reader. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { HISTORY_LIMIT = 200, HISTORY_LIMIT_MAXIMUM = 1000, HISTORY_SCAN = 20000 };

static json_t *copy_request_id(const json_t *frame)
{
    const json_t *id = session_request_id(frame);
    return id == NULL ? NULL : json_deep_copy(id);
}

/* ---- history -------------------------------------------------------------------------------------------------------------------------- */

struct history_request {
    struct store_history store;
    struct broker *broker;
    json_t *request_id;
};

static json_t *item_of(const struct mesh *mesh, const struct store_message *message)
{
    static const char *const PRIORITIES[STORE_PRIORITIES] = { "now", "next", "low" };
    json_t *item = json_new_object();
    struct error error;
    json_t *mentions = NULL;
    json_put_string(item, "type", "push");
    json_put_string(item, "messageId", message->broker_message_id);
    json_put_string(item, "meshId", mesh->mesh_id);
    json_put_string(item, "senderPubkey", message->sender_pubkey);
    json_put_string(item, "senderMemberPubkey", message->sender_member_pubkey);
    json_put_string(item, "senderMemberId", message->sender_member_id);
    json_put_string(item, "senderName", message->sender_name);
    json_put_string(item, "priority", PRIORITIES[message->priority]);
    json_put_string(item, "nonce", message->nonce);
    json_put_text(item, "ciphertext", (struct text){ message->ciphertext, message->ciphertext_length });
    json_put_integer(item, "bodyVersion", message->body_version);
    if (message->key_epoch >= 0)
        json_put_integer(item, "keyEpoch", message->key_epoch);
    json_put_integer(item, "createdAt", message->created_at);
    if (message->reply_to_id != NULL)
        json_put_string(item, "replyToId", message->reply_to_id);
    if (message->mentions != NULL && json_parse_strict(message->mentions, strlen(message->mentions), &mentions, &error) == 0)
        json_put(item, "mentions", mentions);
    json_put_string(item, "client_message_id", message->client_message_id);
    json_put_integer(item, "history_id", message->history_id);
    json_put_string(item, "targetSpec", message->target_spec);
    return item;
}

static void send_history(struct session *session, const struct history_request *request)
{
    const struct store_history *store = &request->store;
    json_t *answer = json_new_object(), *items = json_new_array();
    for (const struct store_message *message = store->first; message != NULL; message = message->next)
        if (json_array_append_new(items, item_of(session->member->mesh, message)) != 0)
            memory_exhausted();
    json_put_string(answer, "type", "history_result");
    json_put(answer, "items", items);
    if (store->end)
        json_put_null(answer, "next");
    else
        json_put_integer(answer, "next", store->scanned_to);
    session_answer(session, request->request_id, answer);
}

static void free_history(struct history_request *request)
{
    store_messages_free(request->store.first);
    json_decref(request->request_id);
    free(request);
}

static void history_read(struct store_request *base)
{
    struct history_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_history, request), struct history_request, store);
    struct store *store = request->broker->store;
    struct session *session = session_find_asker(request->broker, request->store.connection);
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "history"), LOG_TEXT("detail", base->error->message), LOG_END);
    if (session != NULL && base->status != 0) {
        session_error(session, request->request_id, "store_unavailable", "the store does not answer", NULL);
    } else if (session != NULL && request->store.count == 0 && !request->store.end) {
        /* A stretch in which nothing is this member's: on to the next one, behind whoever else waits for the reader. */
        request->store.after = request->store.scanned_to;
        session_ask(session);
        store->operations->history(store, &request->store);
        return;
    } else if (session != NULL) {
        send_history(session, request);
    }
    free_history(request);
}

void queries_handle_history(struct session *session, const json_t *frame)
{
    int64_t after = 0, limit = HISTORY_LIMIT;
    struct error error;
    int status = json_read_integer(frame, "after_history_id", JSON_OPTIONAL, 0, INT64_C(1) << 53, &after, &error);
    if (status == 0)
        status = json_read_integer(frame, "limit", JSON_OPTIONAL, 1, HISTORY_LIMIT_MAXIMUM, &limit, &error);
    if (status != 0) {
        session_error(session, session_request_id(frame), "invalid_request", error.message, NULL);
        return;
    }
    struct history_request *request = memory_zalloc(sizeof(*request));
    request->broker = session->broker;
    request->request_id = copy_request_id(frame);
    request->store.request.done = history_read;
    request->store.connection = session->connection;
    request->store.mesh = session->member->mesh->key;
    request->store.member = session->member->key;
    request->store.after = after;
    request->store.limit = (size_t)limit;
    request->store.byte_limit =
        BROKER_FETCH_BYTES; /* with what surrounds them, and the last one beyond it, below LIMIT_FRAME but for the largest */
    request->store.scan_limit = HISTORY_SCAN;
    session_ask(session);
    session->broker->store->operations->history(session->broker->store, &request->store);
}

/* ---- message_status -------------------------------------------------------------------------------------------------------------------- */

struct status_request {
    struct store_message_status store;
    struct broker *broker;
    json_t *request_id;
};

static bool is_online(const struct broker *broker, int64_t key)
{
    const struct member *member = state_find_member(broker, key);
    const struct session *session;
    if (member == NULL)
        return false;
    LIST_FOREACH(session, &member->sessions, of_member)
    {
        if (session->presence != NULL)
            return true;
    }
    return false;
}

static void send_status(struct session *session, const struct status_request *request)
{
    const struct store_message_status *store = &request->store;
    json_t *answer = json_new_object(), *recipients = json_new_array(), *recipient = json_new_object();
    json_put_string(recipient, "name", store->recipient_name);
    json_put_string(recipient, "pubkey", store->recipient_pubkey);
    json_put_string(recipient, "status",
                    store->delivered                               ? "delivered"
                    : is_online(request->broker, store->recipient) ? "held"
                                                                   : "disconnected");
    if (json_array_append_new(recipients, recipient) != 0)
        memory_exhausted();
    json_put_string(answer, "type", "message_status_result");
    json_put_string(answer, "messageId", store->broker_message_id);
    json_put_string(answer, "targetSpec", store->target_spec);
    json_put_bool(answer, "delivered", store->delivered);
    if (store->delivered)
        json_put_integer(answer, "deliveredAt", store->delivered_at);
    else
        json_put_null(answer, "deliveredAt");
    json_put(answer, "recipients", recipients);
    session_answer(session, request->request_id, answer);
}

static void status_read(struct store_request *base)
{
    struct status_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_message_status, request), struct status_request, store);
    struct session *session = session_find_asker(request->broker, request->store.connection);
    if (base->status != 0)
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "message_status"), LOG_TEXT("detail", base->error->message), LOG_END);
    if (session != NULL && base->status != 0)
        session_error(session, request->request_id, "store_unavailable", "the store does not answer", NULL);
    else if (session != NULL && !request->store.found)
        session_error(session, request->request_id, "not_found", "no message of yours has this id", NULL);
    else if (session != NULL)
        send_status(session, request);
    json_decref(request->request_id);
    free(request);
}

void queries_handle_message_status(struct session *session, const json_t *frame)
{
    const char *message_id = NULL;
    struct error error;
    struct status_request *request = memory_zalloc(sizeof(*request));
    if (json_read_string(frame, "messageId", JSON_REQUIRED, &message_id, &error) != 0) {
        session_error(session, session_request_id(frame), "invalid_request", error.message, NULL);
        free(request);
        return;
    }
    if (string_copy(request->store.broker_message_id, sizeof request->store.broker_message_id, message_id) != 0) {
        session_error(session, session_request_id(frame), "not_found", "no message of yours has this id", NULL);
        free(request);
        return;
    }
    request->broker = session->broker;
    request->request_id = copy_request_id(frame);
    request->store.request.done = status_read;
    request->store.connection = session->connection;
    request->store.mesh = session->member->mesh->key;
    request->store.member = session->member->key;
    session_ask(session);
    session->broker->store->operations->message_status(session->broker->store, &request->store);
}
