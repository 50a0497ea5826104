/* The handlers of frames, by the file of their subject; session.c's table names them. Each gets a frame that is an object with a "type"; what else is in it is the client's
 * word. */
#ifndef BROKER_HANDLERS_H
#define BROKER_HANDLERS_H

#include "broker/state.h"
#include "proto/frames.h"

/* hello.c */
void hello_handle(struct session *session, const json_t *frame);

/* negotiation.c */
void negotiation_handle(struct session *session, const json_t *frame);
void negotiation_expect(struct session *session); /* after hello_ack: pushes wait for it, but not for ever */
void negotiation_skip(struct session *session);   /* an existing client: pushes begin */

/* accept.c */
void accept_handle_send(struct session *session, const json_t *frame);

/* deliver.c */
void deliver_start(struct session *session);
void deliver_stop(struct session *session);
void deliver_accepted(struct broker *broker, const struct store_accept *accept, const struct member *sender);
void deliver_drained(struct session *session);
void deliver_pump(struct session *session);
/* Deliveries came to this session behind its cursors. */
void deliver_rescan(struct session *session);
void deliver_check_leases(void *broker);
/* True when that message was in flight there. */
bool deliver_acknowledge(struct session *session, const char *message_id);

/* acks.c */
void acks_handle_client_ack(struct session *session, const json_t *frame);
void acks_handle_seen(struct session *session, const json_t *frame);
void acks_handle_receipt_ack(struct session *session, const json_t *frame);
void acks_add_implied(struct session *session, const char *message_id);
void acks_flush(void *broker);
void acks_fetch_receipts(struct session *session);

/* presence.c */
/* Gives the session its presence: the one that it replaces (NULL: none), or one in grace, or a new one from what the store kept (state, NULL: nothing). True when it was there
 * before. */
bool presence_enter(struct session *session, const json_t *state, const struct frame_hello *hello, struct presence *replaced);
/* The one that `session` has gives its place to the next connection: no grace, nothing is told. NULL: it had none. */
struct presence *presence_take(struct session *session);
void presence_leave(struct session *session);                    /* the connection is lost: grace begins */
void presence_end_member(struct broker *broker, int64_t member); /* those in grace, at once: it is no member any more */
void presence_end_all(struct broker *broker);
void presence_grace_over(void *broker);
bool presence_is_dnd(const struct presence *presence);
void presence_announce(struct session *session);   /* peer_joined, once */
void presence_withdraw(struct presence *presence); /* peer_left, if it was announced */
void presence_save(struct session *session);
void presence_set_text(char **field, const char *text, size_t maximum);
bool presence_groups_are_usable(const json_t *groups);
const char *presence_find_status(const char *name); /* static storage; NULL: no such status */
void presence_handle_list_peers(struct session *session, const json_t *frame);

/* profile.c */
void profile_handle_status(struct session *session, const json_t *frame);
void profile_handle_summary(struct session *session, const json_t *frame);
void profile_handle_visible(struct session *session, const json_t *frame);
void profile_handle_profile(struct session *session, const json_t *frame);
void profile_handle_join_group(struct session *session, const json_t *frame);
void profile_handle_leave_group(struct session *session, const json_t *frame);

/* members.c */
void members_handle_list(struct session *session, const json_t *frame);
void members_handle_revoke(struct session *session, const json_t *frame);
void members_handle_leave(struct session *session, const json_t *frame);
void members_handle_rename(struct session *session, const json_t *frame);
void members_handle_grant(struct session *session, const json_t *frame);
void members_handle_revoke_invite(struct session *session, const json_t *frame);
void members_tell_joined(struct broker *broker, int64_t mesh, const char *pubkey);
void members_audit(struct broker *broker, int64_t mesh, int64_t member, const char *event, const char *detail);

/* rotate.c */
void rotate_handle(struct session *session, const json_t *frame);

/* queries.c */
void queries_handle_history(struct session *session, const json_t *frame);
void queries_handle_message_status(struct session *session, const json_t *frame);

#endif
