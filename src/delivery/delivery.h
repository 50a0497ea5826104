/* A joined mesh in the daemon: drains the outbox outward, receives inward, keeps the directory of peers, receipts, and the profile (30-delivery Drain and Inbox; 45-trust
 * "Messages, at the recipient"; 40-wire). One `delivery` a mesh: one failing never touches another. Loop thread. Stands on link, outbox, inbox, trust; knows no HTTP. */
#ifndef DELIVERY_DELIVERY_H
#define DELIVERY_DELIVERY_H

#include <jansson.h>

#include "crypto/box.h"
#include "crypto/fingerprint.h"
#include "identity/archive.h"
#include "inbox/inbox.h"
#include "link/link.h"
#include "outbox/outbox.h"
#include "trust/trust.h"

/* What is counted for monitoring (80-operations, Metrics). */
enum delivery_figure {
    DELIVERY_RECONNECTED,      /* open again after it was lost; the label says why it was: link_loss_name */
    DELIVERY_DUPLICATE_IN,     /* a push of what the inbox has */
    DELIVERY_DUPLICATE_OUT,    /* the broker had what we sent again */
    DELIVERY_HISTORY_PRUNED,   /* and its message no longer */
    DELIVERY_INVALID_INBOUND,  /* a push that is no message; the label is the check's reason */
    DELIVERY_DECRYPT_ARCHIVED, /* opened with an archived key of ours */
    DELIVERY_DECRYPT_STALE,    /* sealed to a key of ours that is archived no more */
};

/* Where events for local programs go (20-ipc, events), and figures. data is given away. seq: for `message`, the row's; else -1. label: NULL, or a literal. NULLs allowed. */
struct delivery;
struct event_sink {
    void *argument;
    void (*publish)(void *argument, const char *type, const char *mesh_slug, json_t *data, int64_t inbox_seq);
    void (*count)(void *argument, enum delivery_figure figure, const char *mesh_slug, const char *label);
    /* A message is about to be stored: fills insert->hooks with those that run for it when it is new. mentions and meta (NULL none) are what was signed. May be NULL. */
    void (*arriving)(void *argument, struct delivery *delivery, const json_t *mentions, const json_t *meta, struct inbox_insert *insert);
};

struct delivery_options {
    struct loop *loop;
    struct outbox *outbox;
    struct inbox *inbox;
    struct db *trust_db;
    struct link_options link; /* mesh, keys, … ; strings are copied */
    const char *owner_pubkey; /* "" unknown */
    const char *role;
    struct event_sink events;
    size_t window; /* drain.window */
    int64_t backoff_initial_ms, backoff_max_ms;
    int jitter_pct;
    int64_t max_age_hours;          /* outbox.max_age_hours */
    int64_t max_age_override_hours; /* 0 none */
    bool allow_plaintext;
    const struct key_archive *archive; /* our former keys; borrowed for the delivery's life; NULL none */
    int64_t key_grace_ms;              /* crypto.key_grace_period_days */
};
int delivery_new(const struct delivery_options *options, struct delivery **ret_delivery, struct error *error) MUST_CHECK;
void delivery_start(struct delivery *delivery);
/* [drain] while it runs: from the next row on. */
void delivery_tune(struct delivery *delivery, size_t window, int64_t backoff_initial_ms, int64_t backoff_max_ms, int jitter_pct);
/* Settles the link: no new sends, answers awaited up to `grace_ms`, then link_stop, inflight rows back to pending; stopped(argument) once. */
void delivery_stop(struct delivery *delivery, int64_t grace_ms, void (*stopped)(void *argument), void *argument);
void delivery_free(struct delivery *delivery);

/* ---- a rotation of our key (50-identity); delivery/rotation.c ---- */
/* No new sends until delivery_resume; accepts go on. quiet(argument, idle) (NULL: nobody asks) once, when nothing awaits an answer any more, or after timeout_ms (idle false). Again: replaces. */
void delivery_quiesce(struct delivery *delivery, int64_t timeout_ms, void (*quiet)(void *argument, bool idle), void *argument);
void delivery_resume(struct delivery *delivery);
bool delivery_is_open(const struct delivery *delivery);
enum delivery_rotation {
    DELIVERY_ROTATED,          /* the broker goes by the new key */
    DELIVERY_ROTATION_REFUSED, /* for good: the old key stays */
    DELIVERY_ROTATION_UNKNOWN  /* no answer: either may be */
};
/* Asks the broker on the open link, which must be quiet; answered(argument, outcome, code, sentence) once. From here on nothing is acknowledged, unless it is refused. -1: not open. */
int delivery_ask_rotation(struct delivery *delivery, const struct keypair *next,
                          void (*answered)(void *argument, enum delivery_rotation outcome, const char *code, const char *sentence),
                          void *argument);

const char *delivery_mesh_slug(const struct delivery *delivery);
const char *delivery_mesh_id(const struct delivery *delivery);
const char *delivery_own_pubkey(const struct delivery *delivery);
struct trust *delivery_trust(struct delivery *delivery);
struct link *delivery_link(struct delivery *delivery);
const struct blinding_key *delivery_blinding_key(const struct delivery *delivery);

/* From the outbox's observer: a row of this mesh is there (borrowed; may be sent from memory when nothing waits before it). */
void delivery_row_inserted(struct delivery *delivery, const struct outbox_row *row);
/* An operator retired rows: forget what is held in memory for this client_message_id. */
void delivery_row_retired(struct delivery *delivery, int64_t seq);

/* What a send must know (20-ipc): the broker's limit for a body, whether an unknown key can be refused now. */
int64_t delivery_inline_bytes(const struct delivery *delivery);
bool delivery_members_are_fresh(const struct delivery *delivery); /* link up and the list merged */
bool delivery_peer_is_online(const struct delivery *delivery, const char *pubkey_hex);

/* GET /v1/peers: the array's objects as 20-ipc says. Fresh from the link (list_peers, list_members), or the last known with *stale. */
void delivery_peers(struct delivery *delivery, void (*done)(void *argument, json_t *peers /* given */, bool stale), void *argument);
/* GET /v1/members (docs: an addition for `member list`): [{pubkey,name,verified,role,revoked,joined_at,last_seen_at}]. */
json_t *delivery_members(const struct delivery *delivery) MUST_CHECK;

/* Profile: kept in outbox.db (trust's tables), sent now when open, and at each reconnect. Unknown fields are the caller's to refuse. */
json_t *delivery_profile(const struct delivery *delivery) MUST_CHECK;
/* Returns the names applied (array, given); *ret_deferred: the link is down. */
json_t *delivery_set_profile(struct delivery *delivery, const json_t *fields, bool *ret_deferred) MUST_CHECK;
void delivery_heartbeat(struct delivery *delivery); /* status `working` for 5 minutes */

/* Rows marked seen here: `seen` frame with rsig, now or when the link is open (kept durably by the inbox's seen state: not sent again after a restart unless the broker asks). */
void delivery_mark_seen(struct delivery *delivery, struct inbox_row *const *rows, size_t count);

/* Health of this mesh (GET /v1/health): {slug, connected, status, lag_ms, pending, inflight, dead, broker_version, …}. */
json_t *delivery_health(const struct delivery *delivery) MUST_CHECK;
/* Negotiated features for GET /v1/version: {feature: params…}. */
json_t *delivery_features(const struct delivery *delivery) MUST_CHECK;
const char *delivery_degraded_reason(const struct delivery *delivery); /* a word, static; NULL: well */
bool delivery_is_degraded(const struct delivery *delivery);            /* refused, dedupe off, membership fork */

/* Inbox row as in GET /v1/inbox: also the `message` event's data. */
json_t *inbox_row_to_json(const struct inbox_row *row, const char *mesh_slug) MUST_CHECK;

/* One message sealed for a member, as delivery and the cold path send it: envelope (or the bare text for a broker without sealed_envelope and an unverified member), SIV nonce, base64, send frame. */
struct seal_request {
    const char *mesh_id, *client_message_id, *destination_kind, *destination_ref, *priority, *reply_to_id, *rv;
    const char *recipient_key;  /* the key that the box is for; NULL: destination_ref, which a rotation leaves as it is (50-identity) */
    struct text meta_canonical; /* empty: none */
    struct text body;
    int64_t sent_at;
    struct fingerprint broker_fingerprint;
    bool sealed; /* bodyVersion 3 */
};
int delivery_seal(const struct seal_request *request, const struct keypair *keys, struct box_cache *boxes, struct buffer *ret_frame,
                  struct sha256 *ret_content, struct error *error) MUST_CHECK;

#endif
