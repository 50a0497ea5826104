/* The frames that carry messages, as structs, both ways; and names of frame types (40-wire). The rest are read with json/ where
 * they are used. Pure: no sockets, no SQL. Strings in parsed frames are borrowed from the json_t. Unknown fields and types are ignored. */
#ifndef PROTO_FRAMES_H
#define PROTO_FRAMES_H

#include <jansson.h>

#include "crypto/keys.h"
#include "util/text.h"

struct frame_hello {
    int64_t protocol_version;
    const char *mesh_id, *member_id, *pubkey, *session_id, *hostname, *cwd, *display_name, *peer_type, *channel;
    const char *session_pubkey;   /* NULL: none */
    const char *host_fingerprint; /* NULL: none */
    int64_t pid;
    bool receive;                                          /* default true */
    const json_t *groups;                                  /* array or NULL */
    bool client_ack, feature_negotiation, sealed_envelope; /* capabilities */
    int64_t timestamp;                                     /* ms */
    const char *signature, *signature2;
};
/* meshId|memberId|pubkey|timestamp. */
int frame_hello_text(const struct frame_hello *hello, struct buffer *ret_text);
/* Prints the frame with both signatures made; hello->pubkey is set to the keys' own, hello's signatures are not looked at. broker_url and challenge NULL: no signature2. */
int frame_hello_build(struct frame_hello *hello, const struct keypair *keys, const char *broker_url, const char *challenge,
                      struct buffer *ret_frame, struct error *error) MUST_CHECK;
int frame_hello_parse(const json_t *frame, struct frame_hello *ret_hello, struct error *error) MUST_CHECK;

struct frame_send {
    const char *id;                  /* client_message_id */
    const char *request_fingerprint; /* 64 hex; NULL from an existing client */
    const char *target_spec, *priority;
    const char *nonce, *ciphertext; /* base64 */
    size_t ciphertext_length;       /* of the text */
    int64_t body_version;           /* default 1 */
    int64_t key_epoch;              /* -1: absent */
    const char *reply_to_id;
    const json_t *mentions;
    const char *destination_kind, *destination_ref; /* may be NULL from an existing client */
};
int frame_send_build(const struct frame_send *send, struct buffer *ret_frame);
/* `client_message_id`, else `id`; one of them must be there. priority absent: "next". */
int frame_send_parse(const json_t *frame, struct frame_send *ret_send, struct error *error) MUST_CHECK;

struct frame_ack {
    const char *client_message_id, *message_id;
    bool queued;
    int64_t status; /* -1: absent (an existing broker) */
    bool duplicate;
    int64_t history_id;    /* -1: absent */
    int history_available; /* 1, 0, -1 absent */
    int64_t first_seen_at; /* -1: absent */
    const char *error;     /* "code: sentence" or NULL */
    const char *broker_fingerprint_prefix;
    int64_t retry_after_ms; /* -1: absent */
};
int frame_ack_build(const struct frame_ack *ack, struct buffer *ret_frame);
int frame_ack_parse(const json_t *frame, struct frame_ack *ret_ack, struct error *error) MUST_CHECK;
/* The row's fate (30-delivery, the drain table), also for brokers without `status`. */
enum ack_verdict { ACK_ACCEPTED, ACK_DUPLICATE, ACK_KEY_REUSED, ACK_REFUSED, ACK_RETRY };
enum ack_verdict frame_ack_verdict(const struct frame_ack *ack);

struct frame_push {
    const char *message_id, *mesh_id, *sender_pubkey, *sender_member_pubkey, *sender_member_id, *sender_name;
    const char *priority, *nonce, *ciphertext;
    size_t ciphertext_length;
    int64_t body_version; /* default 1 */
    int64_t key_epoch;    /* -1 */
    int64_t created_at;   /* ms; -1 */
    const char *topic, *reply_to_id, *client_message_id, *target_spec;
    const json_t *mentions;
    int64_t history_id;          /* -1 */
    const char *subtype, *event; /* "system", "reminder" or NULL */
    const json_t *event_data;
};
int frame_push_build(const struct frame_push *push, struct buffer *ret_frame);
/* Absent: priority "next", client_message_id = message_id, sender_member_pubkey = sender_pubkey, names and ids "", topic and the like NULL. A system push may lack
 * sender, nonce and ciphertext (""). createdAt may be ms or, from an existing broker, RFC 3339. */
int frame_push_parse(const json_t *frame, struct frame_push *ret_push, struct error *error) MUST_CHECK;

/* One of client_ack's `acks`: {clientMessageId, brokerMessageId, state?, at?, rsig?}. */
struct frame_client_ack {
    const char *client_message_id, *broker_message_id;
    bool quarantined;
    int64_t at;       /* ms; -1 */
    const char *rsig; /* NULL */
};
/* One element of `acks`, or a client_ack frame that has none. One of the two ids may be missing: then it is "". */
int frame_client_ack_parse(const json_t *item, struct frame_client_ack *ret_ack, struct error *error) MUST_CHECK;
/* One frame: the flat form for one, `acks` for many. */
int frame_client_ack_build(const struct frame_client_ack *acks, size_t count, struct buffer *ret_frame);

#endif
