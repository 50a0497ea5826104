/* What the broker keeps (70-broker, Stores): one struct of asynchronous operations, so that SQLite and, later, PostgreSQL pass the same tests.
 *
 * Each operation takes a request from the heap, given away until its `done` is called, on the loop thread, which frees it. Operations that write run
 * one after another in the order of submission, on the store's thread; those that read run beside them and see everything whose `done` was called before they
 * were submitted. Strings of a request are borrowed: they must live until `done` (put them in the same block). Meshes, members and sessions are named by the
 * store's own numbers ("keys"), which `hello` gives.
 *
 * Never here: sockets, signatures, time of its own (now_ms comes with the request), policy other than that of the tables. */
#ifndef BROKER_STORE_STORE_H
#define BROKER_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/buffer.h"
#include "util/error.h"
#include "util/ids.h"
#include "util/limits.h"
#include "util/mailbox.h"

enum {
    STORE_KEY_SIZE = 65, /* 64 hex digits and the NUL */
    STORE_SIGNATURE_SIZE = 129,
    STORE_PRIORITIES = 3, /* 0 now, 1 next, 2 low: the order of delivery */
    STORE_SESSIONS_MAXIMUM =
        16 /* known sessions of one member; past it the one unseen for longest is forgotten. Each costs a row for every message */
};

struct store;

struct store_request {
    void (*done)(struct store_request *request);
    void *argument;            /* the caller's */
    bool patient;              /* others are about to follow, and may share its commit (DB_PATIENT) */
    int status;                /* 0, or a negative error code; -ERROR_FULL: the disk is full */
    const struct error *error; /* valid during done */
    int64_t submitted_us;      /* monotonic */
};

/* ---- accepting a send: B0 to B3 in one task ------------------------------------------------------------------------ */

enum store_outcome {
    STORE_ACCEPTED,       /* 201 */
    STORE_DUPLICATE,      /* 200: accepted before, the same fingerprint */
    STORE_CONFLICT,       /* 409: accepted before, another fingerprint */
    STORE_REFUSED,        /* B1: as `refused` says */
    STORE_RATE_LIMITED,   /* 429 */
    STORE_HELD,           /* 503: waits for an earlier one that was refused in passing */
    STORE_SENDER_GONE,    /* 403: the sender is no longer a member */
    STORE_SENDER_ROTATED, /* 503: it has another key by now, and this connection is about to end */
    STORE_UNKNOWN_MEMBER, /* 404 */
    STORE_MEMBER_REVOKED, /* 403: the destination was */
    STORE_RECIPIENT_FULL, /* 507: every session of the recipient has the maximum waiting */
    STORE_OUTCOMES
};

struct store_accept {
    struct store_request request;
    /* given */
    int64_t mesh, sender; /* keys */
    uint64_t connection;
    int64_t session;       /* the sender's session key; 0: a send-only connection */
    bool other_connection; /* the sender has another connection that receives, open now */
    bool refused;          /* B1, as far as it needs no store, was decided: after B0, no more */
    const char *client_message_id;
    uint8_t fingerprint[32];
    const char *destination_kind, *destination_ref, *target_spec; /* kind "dm": ref is a member's or session's key */
    int priority;
    const char *sender_pubkey;        /* the connection's routing key */
    const char *sender_member_pubkey; /* the key that it said hello with */
    const char *nonce, *ciphertext;
    size_t ciphertext_length;
    int64_t body_version, key_epoch /* -1 none */;
    const char *reply_to_id, *mentions; /* NULL none; mentions as JSON */
    int64_t now_ms;
    int64_t dedupe_expires_at;          /* -1: never */
    int64_t number;                     /* the store's, in the order of submission */
    int64_t finished_before;            /* the store's: the newest number that was done by then */
    bool ran;                           /* the store's: false when its transaction could not even begin */
    char claimed_message_id[ULID_SIZE]; /* the new message's id, if there will be one */
    /* returned */
    enum store_outcome outcome;
    char broker_message_id[ULID_SIZE]; /* the claimed one, or that of the first time; "" refused */
    int64_t message;                   /* key of the new message */
    int64_t history_id, first_seen_at;
    bool history_available;
    int64_t retry_after_ms;                             /* rate-limited */
    char fingerprint_prefix[17];                        /* conflict: of what was accepted */
    int64_t recipient;                                  /* member key */
    int64_t recipient_sessions[STORE_SESSIONS_MAXIMUM]; /* session keys; 0: none is known yet */
    size_t recipient_session_count;
};

/* Asked within accept, on the store's thread alone (broker/admission.c). */
struct store_admission {
    void *argument;
    /* After B0 and B1: 0 goes on, 429 (with *ret_retry_after_ms) or 503 refuses. May be asked again for the same request when a commit failed. */
    int (*admit)(void *argument, const struct store_accept *request, int64_t *ret_retry_after_ms);
    /* What became of it, unless the commit fails; refused_in_passing: 429, 503, 507 or a failure. Of two that were refused on one way, the one with the
     * smaller number holds the other, in whatever order they are told. */
    void (*decided)(void *argument, const struct store_accept *request, bool refused_in_passing);
    /* The transaction that holds what was decided since the last of these calls is on disk; it was undone, and its requests are asked about again. */
    void (*committed)(void *argument);
    void (*rolled_back)(void *argument);
    void (*forget)(void *argument, uint64_t connection);
};

/* ---- messages on their way out -------------------------------------------------------------------------------------- */

struct store_message { /* one block of memory: free() */
    struct store_message *next;
    int64_t message, history_id, created_at, body_version, key_epoch;
    int priority;
    const char *broker_message_id, *client_message_id;
    const char *sender_pubkey, *sender_member_pubkey, *sender_member_id, *sender_name;
    int64_t sender;
    const char *target_spec, *nonce, *ciphertext, *reply_to_id, *mentions; /* the last two may be NULL */
    size_t ciphertext_length;
};
void store_messages_free(struct store_message *first);

struct store_fetch { /* reads: what waits for a session past the cursors, by priority, then history_id */
    struct store_request request;
    int64_t session, member;
    uint64_t connection;
    int64_t cursor[STORE_PRIORITIES];
    bool wanted[STORE_PRIORITIES];
    size_t limit, byte_limit;
    /* returned */
    struct store_message *first; /* given */
    bool more[STORE_PRIORITIES]; /* there may be further ones past the last that came */
};

enum store_ack_kind { STORE_ACK_QUARANTINED, STORE_ACK_IMPLIED, STORE_ACK_STORED, STORE_ACK_SEEN };
const char *store_ack_kind_name(enum store_ack_kind kind); /* "stored", "seen", … */
struct store_ack {
    /* given */
    enum store_ack_kind kind;
    int64_t mesh, member, session; /* who acknowledges; SEEN: session is not used */
    char broker_message_id[ULID_SIZE];
    int64_t at;                      /* ms */
    char rsig[STORE_SIGNATURE_SIZE]; /* "" none */
    char by
        [STORE_KEY_SIZE]; /* the member's key as the connection holds it: it may be replaced before the store comes to this; "": the one of then */
    /* returned */
    bool receipt;     /* a new receipt for the sender came of it */
    size_t delivered; /* deliveries that ended with it */
    int64_t sender;   /* member key */
    char client_message_id[LIMIT_CLIENT_MESSAGE_ID + 1];
};
struct store_acknowledge { /* not durable: after a power failure the delivery is due again */
    struct store_request request;
    size_t count;
    struct store_ack acks[];
};

struct store_receipt {
    int64_t message;
    char broker_message_id[ULID_SIZE], client_message_id[LIMIT_CLIENT_MESSAGE_ID + 1], by[STORE_KEY_SIZE], rsig[STORE_SIGNATURE_SIZE];
    enum store_ack_kind kind;
    int64_t at;
};
struct store_fetch_receipts { /* reads: a sender's receipts that it has not acknowledged, by message, past `after` */
    struct store_request request;
    int64_t member, after;
    uint64_t connection;
    enum { STORE_RECEIPT_PAGE = 128 } page;
    /* returned */
    size_t count;
    struct store_receipt receipts[STORE_RECEIPT_PAGE];
    int64_t next; /* `after` of the next page; -1: this was the last */
};
struct store_receipt_ack {
    char broker_message_id[ULID_SIZE], by[STORE_KEY_SIZE];
    enum store_ack_kind kind;
};
struct store_settle_receipts { /* not durable */
    struct store_request request;
    int64_t mesh, member;
    size_t count;
    struct store_receipt_ack acks[];
};

/* ---- members ------------------------------------------------------------------------------------------------------- */

enum store_join_outcome {
    STORE_JOINED,
    STORE_JOINED_BEFORE,
    STORE_JOIN_UNKNOWN_MESH,
    STORE_JOIN_OTHER_OWNER, /* the invite names another owner than the mesh has */
    STORE_JOIN_EXPIRED,
    STORE_JOIN_REVOKED, /* the invite, or the member */
    STORE_JOIN_EXHAUSTED
};
struct store_create_mesh {
    struct store_request request;
    const char *mesh_id, *slug, *name, *owner_pubkey, *display_name;
    const char *name_statement; /* as JSON; NULL none */
    int64_t name_seq;
    char member_id[ULID_SIZE]; /* for the owner; returned: the one it has */
    int64_t now_ms;
    /* returned */
    bool created, slug_taken, id_taken;
};
struct store_join {
    struct store_request request;
    const char *mesh_id, *invite_id, *owner_pubkey, *signer_pubkey /* NULL: the owner */, *pubkey, *name, *role, *certificate /* JSON */;
    int64_t invite_expires_at /* ms */, max_uses, now_ms;
    char member_id[ULID_SIZE]; /* for the newcomer; returned: the one it has */
    /* returned */
    enum store_join_outcome outcome;
    int64_t mesh, member;
};

enum store_hello_outcome {
    STORE_WELCOME,
    STORE_HELLO_UNKNOWN, /* mesh or member, or a memberId that is another's */
    STORE_HELLO_REVOKED,
    STORE_HELLO_REPLAYED,
    STORE_HELLO_V2_REQUIRED, /* this member has used signature2 before */
    STORE_HELLO_KEY_TAKEN,   /* its sessionPubkey is another member's key */
    STORE_HELLO_KEY_ROTATED  /* a former key: the member has another one by now */
};
struct store_hello { /* durable: a replay is refused also after a power failure */
    struct store_request request;
    uint64_t connection;
    const char *mesh_id, *member_id, *pubkey, *session_uid, *session_pubkey /* NULL none */;
    const char *host_fingerprint; /* NULL: none was given; the one kept stays */
    int64_t timestamp, now_ms;
    bool v2, receive;
    bool alone; /* no other connection of this member receives: a session never seen before also gets what nobody acknowledged */
    /* returned */
    enum store_hello_outcome outcome;
    bool other_host; /* another host_fingerprint than the member's last one: kept from now on, and audited, with this hello */
    int64_t mesh, member, session /* 0 when receive is false */;
    int64_t rotation_seq; /* of the member's last rotation; 0: none */
    int64_t deliveries_change;
    char *mesh_slug, *display_name, *role, *certificate, *state; /* heap, given; NULL: none. state: what save_session kept */
};

enum store_statement_kind { STORE_REVOCATION, STORE_LEAVE, STORE_NAME, STORE_GRANT, STORE_INVITE_REVOCATION, STORE_STATEMENT_KINDS };
enum store_statement_outcome {
    STORE_STATED,
    STORE_STATED_BEFORE,
    STORE_STATEMENT_UNKNOWN_SUBJECT,
    STORE_STATEMENT_FORBIDDEN, /* who signed may not say this (45-trust) */
    STORE_STATEMENT_STALE      /* a newer one of its kind is known */
};
struct store_statement { /* a verified statement */
    struct store_request request;
    uint64_t connection;
    int64_t mesh;
    enum store_statement_kind kind;
    const char *subject;  /* a member's key, or an invite's id */
    const char *by;       /* who signed: a member's key */
    const char *value;    /* name: the name; grant: the role; else NULL */
    int64_t seq;          /* name: seq; else `at` */
    const char *document; /* the statement as it travels, JSON */
    int64_t now_ms;
    /* returned */
    enum store_statement_outcome outcome;
    int64_t member; /* of the subject; 0 for invites */
    int64_t deliveries_change;
};

enum store_rotation_outcome {
    STORE_ROTATED,
    STORE_ROTATED_BEFORE,     /* the same step was taken already */
    STORE_ROTATION_FORBIDDEN, /* the old key is not the asking member's */
    STORE_ROTATION_STALE,     /* not the next seq, or the old key leads elsewhere already */
    STORE_ROTATION_TAKEN      /* the new key is, or was, somebody's */
};
struct store_rotate { /* a verified rotation: the member goes on under the new key */
    struct store_request request;
    uint64_t connection;
    int64_t mesh, member; /* who asks */
    int64_t seq, at, usable_until /* ms: sends to the old key reach the member */, now_ms;
    const char *old_pubkey, *new_pubkey, *document /* the statement as it travels, JSON */;
    /* returned */
    enum store_rotation_outcome outcome;
};

struct store_list_members { /* reads */
    struct store_request request;
    uint64_t connection;
    int64_t mesh, after;
    size_t byte_limit;
    struct buffer text; /* appended: "members":[…],"revocations":[…],… without braces; the statements come with the first page */
    int64_t next;       /* `after` of the next page; -1: this was the last */
};
struct store_find_member { /* reads: by key */
    struct store_request request;
    int64_t mesh;
    char pubkey[STORE_KEY_SIZE];
    struct buffer text; /* its object as in members_list; empty: none */
};

struct store_history { /* reads: what a member sent or was sent */
    struct store_request request;
    uint64_t connection;
    int64_t mesh, member, after;
    size_t limit, byte_limit, scan_limit;
    struct store_message *first; /* given */
    size_t count;
    int64_t scanned_to; /* the history_id up to which was looked */
    bool end;           /* nothing after it */
};
struct store_message_status { /* reads; asked by its sender or recipient */
    struct store_request request;
    uint64_t connection;
    int64_t mesh, member;
    char broker_message_id[ULID_SIZE];
    bool found, delivered;
    int64_t delivered_at, recipient;
    char target_spec[STORE_KEY_SIZE], recipient_name[LIMIT_DISPLAY_NAME_SIZE], recipient_pubkey[STORE_KEY_SIZE];
};
struct store_save_session { /* not durable */
    struct store_request request;
    int64_t session, member, now_ms;
    const char *state; /* JSON; NULL: only that it was seen */
};
struct store_audit { /* not durable */
    struct store_request request;
    int64_t mesh, member, now_ms;
    const char *event, *detail;
};
struct store_forget_connection {
    struct store_request request;
    uint64_t connection;
};

/* ---- keeping house --------------------------------------------------------------------------------------------------- */

struct store_keep { /* one small step; repeat with stage = next_stage while `more` */
    struct store_request request;
    int64_t now_ms, message_retention_ms, session_retention_ms, audit_retention_ms;
    int stage; /* 0 first */
    /* returned */
    int next_stage;
    bool more;
    int64_t removed; /* rows */
    int64_t deliveries_change;
    int64_t moved_to[32]; /* sessions that got the deliveries of one that was forgotten */
    size_t moved_count;
};
struct store_check_place { /* zeroed: the beginning; the keys are the store's */
    int stage;
    int64_t keys[4];
};
struct store_check { /* reads: one step of the consistency check; repeat from the place that came back while `more` */
    struct store_request request;
    struct store_check_place place;
    /* returned */
    bool more;
    struct buffer findings; /* one a line */
    size_t found;
};
struct store_count { /* reads; also how readiness is asked */
    struct store_request request;
    int64_t meshes, members, deliveries;
};

struct store_operations {
    /* Runs what is queued; the completions stay in the mailbox: run them until there are none (what they ask for in turn fails through the mailbox), then free. */
    void (*close)(struct store *store);
    void (*free)(struct store *store);
    void (*create_mesh)(struct store *store, struct store_create_mesh *request);
    void (*join)(struct store *store, struct store_join *request);
    void (*hello)(struct store *store, struct store_hello *request);
    void (*accept)(struct store *store, struct store_accept *request);
    void (*fetch)(struct store *store, struct store_fetch *request);
    void (*acknowledge)(struct store *store, struct store_acknowledge *request);
    void (*fetch_receipts)(struct store *store, struct store_fetch_receipts *request);
    void (*settle_receipts)(struct store *store, struct store_settle_receipts *request);
    void (*state)(struct store *store, struct store_statement *request);
    void (*rotate)(struct store *store, struct store_rotate *request);
    void (*list_members)(struct store *store, struct store_list_members *request);
    void (*find_member)(struct store *store, struct store_find_member *request);
    void (*history)(struct store *store, struct store_history *request);
    void (*message_status)(struct store *store, struct store_message_status *request);
    void (*save_session)(struct store *store, struct store_save_session *request);
    void (*audit)(struct store *store, struct store_audit *request);
    void (*forget_connection)(struct store *store, struct store_forget_connection *request);
    void (*keep)(struct store *store, struct store_keep *request);
    void (*check)(struct store *store, struct store_check *request);
    void (*count)(struct store *store, struct store_count *request);
};
struct store {
    const struct store_operations *operations;
};

enum store_measure {
    STORE_OP_CREATE_MESH,
    STORE_OP_JOIN,
    STORE_OP_HELLO,
    STORE_OP_ACCEPT,
    STORE_OP_FETCH,
    STORE_OP_ACKNOWLEDGE,
    STORE_OP_RECEIPTS,
    STORE_OP_STATEMENT,
    STORE_OP_LIST,
    STORE_OP_HISTORY,
    STORE_OP_STATUS,
    STORE_OP_SESSION,
    STORE_OP_KEEP,
    STORE_OP_COUNT,
    STORE_OPS
};
const char *store_measure_name(enum store_measure op); /* the label of cm_broker_store_seconds */

struct store_options {
    struct mailbox *completions;
    struct store_admission admission;
    int64_t waiting_maximum; /* deliveries of one session */
    bool batched;            /* what is durable survives a crash of the process only, not the loss of power */
    /* Each request's time from submission to done, on the loop thread. May be NULL. */
    void (*measured)(void *argument, enum store_measure op, int64_t duration_us);
    void *argument;
};
/* "sqlite:PATH". Another scheme is ERROR_INVALID. */
int store_open(const char *where, const struct store_options *options, struct store **ret_store, struct error *error) MUST_CHECK;
/* The whole consistency check, reading only, beside a broker or without one. Returns the number of findings, or a negative error. */
int64_t store_check_file(const char *where, void (*found)(void *argument, const char *finding), void *argument,
                         struct error *error) MUST_CHECK;

#endif
