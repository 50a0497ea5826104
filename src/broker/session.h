/* One WebSocket's life: upgraded, hello, open, closing. Frames to their handlers, as a table; answers and errors back. Loop thread. */
#ifndef BROKER_SESSION_H
#define BROKER_SESSION_H

#include "broker/state.h"

/* Answers an upgrade request of GET /ws. */
void session_accept(struct broker *broker, struct http_request *request);
struct session *session_find(const struct broker *broker, uint64_t connection); /* NULL: gone, or closing */
struct session *session_find_key(const struct broker *broker, int64_t key);

/* The store's welcome: the session is open. Takes no ownership. */
void session_open(struct session *session, const struct store_hello *hello, const char *routing_key);
/* Leaves its mesh at once (presence stays for its grace, or not), then closes. Nothing is sent or handled after. */
void session_close(struct session *session, int code, const char *reason);
/* A refusal that closes: an error frame, then the close with the code as its reason. extra (given, may be NULL): more fields of the error. */
void session_refuse(struct session *session, int close_code, const char *code, const char *message, json_t *extra);
/* The broker is stopping: nothing more is read; 1001 to everybody as soon as the store has decided every send. */
void session_stop_all(struct broker *broker);
/* At once, without a goodbye; frees. */
void session_drop(struct session *session);

/* The queue of what came before the hello was decided. */
void session_run_early(struct session *session);

void session_send(struct session *session, const char *text, size_t size);
void session_send_json(struct session *session, json_t *frame /* given */);
/* The same with the request's _reqId, when it has a usable one. request_id: from session_request_id; borrowed; may be NULL. */
void session_answer(struct session *session, const json_t *request_id, json_t *frame /* given */);
const json_t *session_request_id(const json_t *frame); /* borrowed; NULL none */
void session_error(struct session *session, const json_t *request_id, const char *code, const char *message, const char *id /* NULL */);

/* Everybody of the mesh who receives and is ready, but `except` (may be NULL). */
void session_broadcast(struct mesh *mesh, const struct session *except, const char *text, size_t size);
/* A system push {event, eventData} to all of them. data is borrowed. */
void session_broadcast_event(struct mesh *mesh, const struct session *except, const char *event, const json_t *data);
int session_event_frame(const struct mesh *mesh, const char *event, const json_t *data, struct buffer *ret_frame);

/* A question went to the store; its answer came (NULL: who asked is gone). */
void session_ask(struct session *session);
struct session *session_find_asker(const struct broker *broker, uint64_t connection);

/* Stops or goes on reading, as what is undecided and unsent says. */
void session_balance(struct session *session);

#endif
