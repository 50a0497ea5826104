/* Who is a member, who holds which name, who is revoked: what the broker cannot forge (45-trust). One `trust` a mesh, in memory, with its
 * tables in outbox.db (migrations with the outbox's; docs/decisions/0004). Loop thread. No sockets: delivery feeds it what
 * arrives. Everything that changes it is verified here first. */
#ifndef TRUST_TRUST_H
#define TRUST_TRUST_H

#include <jansson.h>

#include "crypto/keys.h"
#include "db/db.h"
#include "proto/statement.h"
#include "trust/schema.h"
#include "util/limits.h"

struct trust;
struct trust_identity {
    const char *mesh_id, *mesh_slug, *owner_pubkey /* "" when unknown: an old config; nobody verifies */, *own_pubkey, *own_member_id;
};
/* Loads what is stored. Blocking: start-up, and when a mesh is joined (a read of a few rows). */
int trust_open(struct db *db, const struct trust_identity *identity, struct trust **ret_trust, struct error *error) MUST_CHECK;
void trust_free(struct trust *trust);

enum trust_role { ROLE_MEMBER, ROLE_ADMIN };
struct trust_member { /* borrowed from the trust until it changes */
    char pubkey[KEY_HEX_SIZE];
    struct public_key key;
    char *member_id; /* as the broker says; "" unknown */
    char *name; /* from the certificate or name statement when verified; else what the broker says (shown, pinned, marked unverified) */
    char *folded_name;    /* NFKC, case-folded */
    enum trust_role role; /* from the chain */
    bool verified, revoked, listed /* in the broker's newest list */;
    bool name_signed;   /* the name is from a certificate or a name statement */
    bool revoked_claim; /* the broker says revoked; believed only with a statement (then `revoked`) */
    bool left;          /* a leave statement ended the membership */
    bool superseded;    /* a rotation leads from this key to another */
    bool rotation_fork; /* two rotations for one seq were seen: the first is kept; send nothing until a newer grant (45-trust) */
    int64_t joined_at, last_seen_at; /* ms; -1 */
};
const struct trust_member *trust_member(const struct trust *trust, const char *pubkey_hex);
size_t trust_member_count(const struct trust *trust);
const struct trust_member *trust_member_at(const struct trust *trust, size_t index);
bool trust_is_fresh(const struct trust *trust); /* a members_list was merged since the link opened; trust_mark_stale undoes */
void trust_mark_stale(struct trust *trust);
/* The mesh was restored from a backup, and no whole members_list was merged since: nothing may be sent, and nothing judged, with what the backup knew (45-trust, Restore). Durable;
 * ends with the merge. */
bool trust_awaits_list(const struct trust *trust);
/* Sets that mark while a database is made. */
int trust_mark_awaiting(struct db_connection *connection, const char *mesh_id, int64_t since, struct error *error) MUST_CHECK;

struct trust_changes {
    size_t new_members, newly_verified, newly_revoked, renamed, refused /* invalid certs, statements */,
        key_swaps /* pinned name, another key */;
    size_t rotation_forks; /* a second rotation for one seq: alert */
    bool fork;             /* membership_fork: the broker cannot produce what rv says */
};
/* members_list {members:[{id,pubkey,displayName,role,joinedAt,lastSeenAt,revoked,cert?,name_statement?,grant?}], certs?, revocations?, rotations?, names?, grants?, invite_revocations?, leaves?}. Verifies all, merges (revocations:
 * union; a broker's `revoked` without a statement is not believed for trust but shown), recounts surplus certificates of one invite, stores. */
int trust_merge_members(struct trust *trust, const json_t *members_list, struct trust_changes *ret_changes, struct error *error) MUST_CHECK;
/* One statement or certificate from a system push (member_joined, member_revoked, member_renamed, member_keypair_rotated). event_data is a member as in members_list,
 * or the statement itself, or holds it under `revocation`, `rotation`, `name_statement`, `grant`, `leave`, `invite_revocation`, `cert` or `statement`. */
int trust_merge_event(struct trust *trust, const char *event, const json_t *event_data, struct trust_changes *ret_changes,
                      struct error *error) MUST_CHECK;

/* rv of the revocations known (45-trust): for envelopes; and how many. */
const char *trust_rv(const struct trust *trust);
int64_t trust_revocation_count(const struct trust *trust);
/* A verified peer's envelope said this rv. True: it knows more revocations than we do, fetch members_list; a merge after which we still know fewer sets
 * changes.fork and trust_membership_fork until a later one brings them. */
bool trust_expect_rv(struct trust *trust, const char *rv);
/* The broker gave no list when it was asked: what it was to bring, it cannot produce. */
void trust_list_failed(struct trust *trust);
bool trust_membership_fork(const struct trust *trust);
bool trust_is_revoked(const struct trust *trust, const char *pubkey_hex);
bool trust_self_revoked(const struct trust *trust);

/* Rotations (45-trust, 50-identity): keys that statements join are one member's. False, and nothing set, for a key that none leads on from. at: ms, the statement's. */
bool trust_rotated_out(const struct trust *trust, const char *pubkey_hex, int64_t *ret_at);
/* The newest key of that member, hex; the key itself when nothing leads on from it. Borrowed. */
const char *trust_current_key(const struct trust *trust, const char *pubkey_hex);
bool trust_same_member(const struct trust *trust, const char *pubkey_hex, const char *other_hex);
/* The keys that this member had or has, the first first, at most `maximum` of the newest; itself alone when it is in no line. Borrowed. Returns how many. */
size_t trust_keys_of(const struct trust *trust, const char *pubkey_hex, const char **ret_keys, size_t maximum);
/* Two rotations of one seq were seen, and no grant settled it since: nothing is sent to that member. */
bool trust_is_forked(const struct trust *trust, const char *pubkey_hex);
/* Of our own next rotation. */
int64_t trust_next_rotation_seq(const struct trust *trust);

/* 20-ipc "`to` resolves": the table there, in that order, and pins (45-trust Names). */
enum trust_resolution {
    RESOLVED,
    RESOLVE_UNKNOWN,     /* 404 destination_not_found */
    RESOLVE_AMBIGUOUS,   /* 409 destination_ambiguous */
    RESOLVE_KEY_CHANGED, /* 409 destination_key_changed, candidates = pinned key and new key */
    RESOLVE_INVALID      /* 400: empty, a bad topic or group name */
};
struct trust_destination {
    const char *kind; /* "dm", "topic", "queue" */
    char ref[160];
    bool known_member;                  /* dm: in the list */
    char name[LIMIT_DISPLAY_NAME_SIZE]; /* dm: the member's name, or "" */
    char candidates[8][KEY_HEX_SIZE];
    char candidate_names[8][LIMIT_DISPLAY_NAME_SIZE];
    size_t candidate_count;
};
/* Resolving by name pins (name, key) on first use; the pin is queued to the writer before anything the caller queues after. */
enum trust_resolution trust_resolve(struct trust *trust, const char *to, struct trust_destination *ret_destination);
/* `verify --accept`: the pin of this name moves to this key. */
int trust_accept_key(struct trust *trust, const char *name, const char *pubkey_hex, struct error *error) MUST_CHECK;

/* Facts about senders, durable: the highest bodyVersion a sender has used (body_downgrade). */
int64_t trust_sender_body_version(const struct trust *trust, const char *pubkey_hex); /* 0: none yet */
void trust_note_body_version(struct trust *trust, const char *pubkey_hex, int64_t body_version);
/* The broker's advertised retention (30-delivery Maximum age: D is kept for each mesh); 0 unknown, -1 permanent. */
int64_t trust_retention_days(const struct trust *trust);
void trust_set_retention_days(struct trust *trust, int64_t days);
/* Whether this broker URL has ever sent a challenge header (hello v2: once used, always required). */
bool trust_challenge_seen(const struct trust *trust);
void trust_set_challenge_seen(struct trust *trust);

/* The profile that delivery keeps for this mesh: JSON text, NULL when none was set. Borrowed until the next set. */
const char *trust_profile(const struct trust *trust);
void trust_set_profile(struct trust *trust, const char *json);

/* NFKC, case-folded, trimmed; heap. Invalid UTF-8, or more than 1,024 bytes, gives "", which names nobody. */
char *trust_fold_name(const char *name) MUST_CHECK;

#endif
