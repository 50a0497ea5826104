/* One WebSocket's life as a table of states, frames to their handlers as another; answers, errors, broadcasts. Decides nothing about messages. */
#include "broker/session.h"

#include "broker/handlers.h"
#include "json/json.h"
#include "proto/frames.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { CLOSE_POLICY = 1008, CLOSE_GOING_AWAY = 1001 };

/* ---- frames and states as data ------------------------------------------------------------------------------------------ */

enum frame_action { IGNORE_FRAME, HANDLE_FRAME, KEEP_FRAME, REFUSE_BEFORE_HELLO, REFUSE_SECOND_HELLO };

static const struct {
    enum frame_action hello, other;
} ACTIONS[SESSION_STATES] = {
    [SESSION_NEW] = { HANDLE_FRAME, REFUSE_BEFORE_HELLO },
    [SESSION_ADMITTING] = { REFUSE_SECOND_HELLO, KEEP_FRAME },
    [SESSION_OPEN] = { REFUSE_SECOND_HELLO, HANDLE_FRAME },
    [SESSION_CLOSING] = { IGNORE_FRAME, IGNORE_FRAME },
};

static void not_implemented(struct session *session, const json_t *frame)
{
    const char *type = json_string_value(json_object_get(frame, "type"));
    char message[128];
    (void)snprintf(message, sizeof message, "this broker does not serve %s yet", type);
    session_error(session, session_request_id(frame), "not_implemented", message, NULL);
}

static const struct frame_row {
    const char *type;
    void (*handle)(struct session *session, const json_t *frame);
} FRAMES[] = {
    /* What comes most stands first. */
    { "send", accept_handle_send },
    { "client_ack", acks_handle_client_ack },
    { "receipt_ack", acks_handle_receipt_ack },
    { "seen", acks_handle_seen },
    { "hello", hello_handle },
    { "feature_negotiation_request", negotiation_handle },
    { "list_peers", presence_handle_list_peers },
    { "list_members", members_handle_list },
    { "set_status", profile_handle_status },
    { "set_summary", profile_handle_summary },
    { "set_visible", profile_handle_visible },
    { "set_profile", profile_handle_profile },
    { "join_group", profile_handle_join_group },
    { "leave_group", profile_handle_leave_group },
    { "history", queries_handle_history },
    { "message_status", queries_handle_message_status },
    { "member_revoke", members_handle_revoke },
    { "member_rotate", rotate_handle },
    { "member_leave", members_handle_leave },
    { "member_rename", members_handle_rename },
    { "member_grant", members_handle_grant },
    { "invite_revoke", members_handle_revoke_invite },
    { "member_rotate", not_implemented },
    { "topic_create", not_implemented },
    { "topic_join", not_implemented },
    { "topic_leave", not_implemented },
    { "topic_members", not_implemented },
    { "topic_history", not_implemented },
    { "topic_list", not_implemented },
    { "topic_mark_read", not_implemented },
    { "topic_key_put", not_implemented },
    { "topic_key_get", not_implemented },
    { "file_put", not_implemented },
    { "file_get", not_implemented },
    { "list_files", not_implemented },
};

static const struct frame_row *find_row(const char *type)
{
    for (size_t i = 0; i < ARRAY_LENGTH(FRAMES); i++)
        if (strcmp(FRAMES[i].type, type) == 0)
            return &FRAMES[i];
    return NULL;
}

/* ---- finding ------------------------------------------------------------------------------------------------------------------ */

static bool has_connection(const struct table_node *node, const void *key)
{
    const void *session = (const char *)node - offsetof(struct session, by_connection);
    return ((const struct session *)session)->connection == *(const uint64_t *)key;
}

static bool has_key(const struct table_node *node, const void *key)
{
    const void *session = (const char *)node - offsetof(struct session, by_key);
    return ((const struct session *)session)->key == *(const int64_t *)key;
}

struct session *session_find(const struct broker *broker, uint64_t connection)
{
    struct table_node *node = table_find(&broker->sessions, table_hash_number(connection), has_connection, &connection);
    if (node == NULL)
        return NULL;
    struct session *session = CONTAINER_OF(node, struct session, by_connection);
    return session->state == SESSION_CLOSING ? NULL : session;
}

struct session *session_find_key(const struct broker *broker, int64_t key)
{
    struct table_node *node = table_find(&broker->sessions_by_key, table_hash_number((uint64_t)key), has_key, &key);
    return node == NULL ? NULL : CONTAINER_OF(node, struct session, by_key);
}

/* ---- sending -------------------------------------------------------------------------------------------------------------------- */

void session_send(struct session *session, const char *text, size_t size)
{
    if (session->state == SESSION_CLOSING)
        return;
    /* -1: too slow a reader, or gone. `closed` follows. */
    (void)websocket_send(session->socket, text, size);
}

void session_send_json(struct session *session, json_t *frame)
{
    struct buffer text;
    buffer_init(&text, LIMIT_FRAME);
    if (json_print(frame, &text) == 0)
        session_send(session, text.data, text.length);
    else
        log_event(LOG_LEVEL_ERROR, "answer_too_large", LOG_TEXT("type", json_string_value(json_object_get(frame, "type"))), LOG_END);
    buffer_release(&text);
    json_decref(frame);
}

const json_t *session_request_id(const json_t *frame)
{
    const json_t *id = json_object_get(frame, "_reqId");
    if (json_is_number(id) || (json_is_string(id) && json_string_length(id) <= LIMIT_CLIENT_MESSAGE_ID))
        return id;
    return NULL;
}

void session_answer(struct session *session, const json_t *request_id, json_t *frame)
{
    if (request_id != NULL)
        json_put(frame, "_reqId", json_deep_copy(request_id));
    session_send_json(session, frame);
}

static json_t *error_frame(const char *code, const char *message)
{
    json_t *frame = json_new_object();
    json_put_string(frame, "type", "error");
    json_put_string(frame, "code", code);
    json_put_string(frame, "message", message);
    return frame;
}

void session_error(struct session *session, const json_t *request_id, const char *code, const char *message, const char *id)
{
    json_t *frame = error_frame(code, message);
    if (id != NULL)
        json_put_string(frame, "id", id);
    session_answer(session, request_id, frame);
}

void session_broadcast(struct mesh *mesh, const struct session *except, const char *text, size_t size)
{
    struct session *session, *next;
    for (session = LIST_FIRST(&mesh->sessions); session != NULL; session = next) {
        next = LIST_NEXT(session, of_mesh);
        if (session != except && session->ready && session->presence != NULL)
            session_send(session, text, size);
    }
}

int session_event_frame(const struct mesh *mesh, const char *event, const json_t *data, struct buffer *ret_frame)
{
    char message_id[ULID_SIZE];
    ulid_generate(message_id);
    const struct frame_push push = {
        .message_id = message_id,
        .mesh_id = mesh->mesh_id,
        .sender_pubkey = "system",
        .sender_name = "system",
        .priority = "low",
        .nonce = "",
        .ciphertext = "",
        .body_version = 1,
        .key_epoch = -1,
        .created_at = clock_wall_ms(),
        .history_id = -1,
        .subtype = "system",
        .event = event,
        .event_data = data,
    };
    return frame_push_build(&push, ret_frame);
}

void session_broadcast_event(struct mesh *mesh, const struct session *except, const char *event, const json_t *data)
{
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    if (session_event_frame(mesh, event, data, &frame) == 0)
        session_broadcast(mesh, except, frame.data, frame.length);
    buffer_release(&frame);
}

void session_balance(struct session *session)
{
    if (session->state == SESSION_CLOSING)
        return;
    bool pause = session->broker->stopping || session->undecided >= BROKER_UNDECIDED_SENDS || session->questions >= BROKER_QUESTIONS ||
                 (session->undecided > 0 && session->broker->reading_stopped) || websocket_backlog(session->socket) > BROKER_ANSWER_BACKLOG;
    if (pause == session->paused)
        return;
    session->paused = pause;
    websocket_pause(session->socket, pause);
}

void session_ask(struct session *session)
{
    session->questions++;
}

struct session *session_find_asker(const struct broker *broker, uint64_t connection)
{
    struct session *session = session_find(broker, connection);
    if (session != NULL) {
        session->questions--;
        session_balance(session);
    }
    return session;
}

/* ---- from the socket ------------------------------------------------------------------------------------------------------------ */

static void keep_early(struct session *session, const char *text, size_t size)
{
    session->early_bytes += size;
    if (session->early_bytes > BROKER_EARLY_BYTES) {
        session_refuse(session, CLOSE_POLICY, "hello_required", "too much came before the hello was answered", NULL);
        return;
    }
    struct early_frame *frame = memory_alloc(sizeof(*frame) + size);
    frame->next = NULL;
    frame->size = size;
    memcpy(frame->text, text, size);
    *session->early_end = frame;
    session->early_end = &frame->next;
}

static void free_early(struct session *session)
{
    while (session->early != NULL) {
        struct early_frame *next = session->early->next;
        free(session->early);
        session->early = next;
    }
    session->early_end = &session->early;
}

static void handle_frame(struct session *session, const json_t *frame)
{
    const char *type = json_string_value(json_object_get(frame, "type"));
    bool is_hello = type != NULL && strcmp(type, "hello") == 0;
    switch (is_hello ? ACTIONS[session->state].hello : ACTIONS[session->state].other) {
    case REFUSE_BEFORE_HELLO:
        session_refuse(session, CLOSE_POLICY, "hello_required", "the first frame must be a hello", NULL);
        return;
    case REFUSE_SECOND_HELLO:
        session_error(session, session_request_id(frame), "already_open", "this connection has said hello", NULL);
        return;
    case IGNORE_FRAME:
    case KEEP_FRAME:
        return;
    case HANDLE_FRAME:
        break;
    }
    if (type == NULL) {
        session_error(session, session_request_id(frame), "invalid_request", "a frame is an object with a string 'type'", NULL);
        return;
    }
    const struct frame_row *row = find_row(type);
    if (row != NULL)
        row->handle(session, frame);
}

static void receive(void *argument, struct websocket *socket, const char *text, size_t size)
{
    (void)socket;
    struct session *session = argument;
    if (session->state == SESSION_CLOSING || session->broker->stopping)
        return;
    if (ACTIONS[session->state].other == KEEP_FRAME) {
        keep_early(session, text, size);
        return;
    }
    json_t *frame = NULL;
    struct error error;
    if (json_parse_strict(text, size, &frame, &error) != 0) {
        if (session->state == SESSION_NEW)
            session_refuse(session, CLOSE_POLICY, "hello_required", "the first frame must be a hello", NULL);
        else
            session_error(session, NULL, "invalid_json", error.message, NULL);
        return;
    }
    handle_frame(session, frame);
    json_decref(frame);
    session_balance(session);
}

void session_run_early(struct session *session)
{
    struct early_frame *frame = session->early;
    session->early = NULL;
    session->early_end = &session->early;
    session->early_bytes = 0;
    while (frame != NULL) {
        struct early_frame *next = frame->next;
        receive(session, session->socket, frame->text, frame->size);
        free(frame);
        frame = next;
    }
}

/* ---- coming and going --------------------------------------------------------------------------------------------------------------- */

static void forgotten(struct store_request *request)
{
    free(CONTAINER_OF(request, struct store_forget_connection, request));
}

/* Also when sends are under way that may yet be refused: they are decided before this is read. */
static void tell_admission(struct session *session)
{
    if (!session->refused_in_passing && session->undecided == 0)
        return;
    struct store_forget_connection *forget = memory_zalloc(sizeof(*forget));
    forget->request.done = forgotten;
    forget->connection = session->connection;
    session->broker->store->operations->forget_connection(session->broker->store, forget);
}

/* Out of everything but the socket. */
static void detach(struct session *session)
{
    session->state = SESSION_CLOSING;
    session->ready = false;
    loop_timer_free(session->timer);
    session->timer = NULL;
    free_early(session);
    if (session->member == NULL)
        return;
    deliver_stop(session);
    if (session->key != 0)
        table_remove(&session->broker->sessions_by_key, &session->by_key);
    session->key = 0;
    LIST_REMOVE(session, of_mesh);
    LIST_REMOVE(session, of_member);
    session->member->mesh->session_count--;
    if (session->presence != NULL)
        presence_leave(session);
    tell_admission(session);
    struct member *member = session->member;
    session->member = NULL;
    state_release_member(session->broker, member);
}

static void free_session(struct session *session)
{
    table_remove(&session->broker->sessions, &session->by_connection);
    session->broker->connection_count--;
    free(session->challenge);
    free(session->session_uid);
    free(session);
}

void session_drop(struct session *session)
{
    if (session->state != SESSION_CLOSING)
        detach(session);
    websocket_abort(session->socket);
    free_session(session);
}

static void closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    (void)socket;
    struct session *session = argument;
    struct broker *broker = session->broker;
    if (session->state != SESSION_CLOSING) {
        if (session->member != NULL)
            log_event(LOG_LEVEL_INFO, "session_lost", LOG_TEXT("mesh", session->member->mesh->slug), LOG_NUMBER("code", code),
                      LOG_TEXT("reason", reason), LOG_END);
        detach(session);
    }
    free_session(session);
    if (broker->stopping && broker->connection_count == 0)
        loop_timer_start(broker->stop_timer, 0);
}

static void drained(void *argument, struct websocket *socket)
{
    (void)socket;
    struct session *session = argument;
    if (session->state != SESSION_OPEN)
        return;
    deliver_drained(session);
    acks_fetch_receipts(session);
    session_balance(session);
}

void session_close(struct session *session, int code, const char *reason)
{
    if (session->state == SESSION_CLOSING)
        return;
    detach(session);
    websocket_close(session->socket, code, reason);
}

void session_refuse(struct session *session, int close_code, const char *code, const char *message, json_t *extra)
{
    if (session->state == SESSION_CLOSING) {
        json_decref(extra);
        return;
    }
    json_t *frame = error_frame(code, message);
    if (extra != NULL && json_object_update(frame, extra) != 0)
        memory_exhausted();
    json_decref(extra);
    session_send_json(session, frame);
    session_close(session, close_code, code);
}

static void stop_one(void *argument, struct table_node *node)
{
    const struct broker *broker = argument;
    struct session *session = CONTAINER_OF(node, struct session, by_connection);
    if (broker->undecided_bytes == 0)
        session_close(session, CLOSE_GOING_AWAY, "the broker is stopping");
    else
        session_balance(session);
}

void session_stop_all(struct broker *broker)
{
    table_each(&broker->sessions, stop_one, broker);
}

static void hello_overdue(void *argument)
{
    session_refuse(argument, CLOSE_POLICY, "hello_timeout", "no hello came in time", NULL);
}

void session_accept(struct broker *broker, struct http_request *request)
{
    static const struct websocket_callbacks CALLBACKS = { .message = receive, .closed = closed, .drained = drained };
    uint8_t random[BROKER_CHALLENGE_BYTES];
    struct session *session = memory_zalloc(sizeof(*session));
    random_bytes(random, sizeof random);
    session->challenge = memory_alloc(2 * sizeof random + 1);
    hex_encode(random, sizeof random, session->challenge);
    session->broker = broker;
    session->early_end = &session->early;
    session->receipts_after = -1;
    session->socket = websocket_accept(broker->loop, request, session->challenge, &CALLBACKS, session);
    if (session->socket == NULL) {
        free(session->challenge);
        free(session);
        return;
    }
    websocket_set_maximum(session->socket, BROKER_EARLY_BYTES);
    session->connection = ++broker->last_connection;
    table_insert(&broker->sessions, &session->by_connection, table_hash_number(session->connection));
    broker->connection_count++;
    session->timer = loop_timer_new(broker->loop, hello_overdue, session);
    loop_timer_start(session->timer, broker->figures.hello_timeout_ms);
    if (broker->connection_count > broker->figures.max_connections)
        session_refuse(session, CLOSE_POLICY, "capacity", "this broker has as many connections as it may", NULL);
}

void session_open(struct session *session, const struct store_hello *hello, const char *routing_key)
{
    struct broker *broker = session->broker;
    session->state = SESSION_OPEN;
    websocket_set_maximum(session->socket, LIMIT_FRAME);
    session->member = state_hold_member(broker, hello);
    LIST_INSERT_HEAD(&session->member->mesh->sessions, session, of_mesh);
    LIST_INSERT_HEAD(&session->member->sessions, session, of_member);
    session->member->mesh->session_count++;
    session->session_uid = memory_strdup(hello->session_uid);
    if (string_copy(session->routing_key, sizeof session->routing_key, routing_key) != 0)
        session->routing_key[0] = '\0'; /* cannot be: hello checked it */
    session->key = hello->session;
    if (session->key != 0)
        table_insert(&broker->sessions_by_key, &session->by_key, table_hash_number((uint64_t)session->key));
}
