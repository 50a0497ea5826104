/* What the files of this room share; nobody else includes it. The statements that were accepted, as facts; what follows from them is derived anew by recount.c. */
#ifndef TRUST_INTERNAL_H
#define TRUST_INTERNAL_H

#include "trust/trust.h"
#include "trust/trust_store.h"
#include "util/text.h"

enum { TRUST_ID_SIZE = 65 }; /* an id of 1 to 64, with the NUL */

struct certificate_fact {
    char invite_id[TRUST_ID_SIZE];
    char signer[KEY_HEX_SIZE]; /* who signed the invite: the owner or an admin */
    enum trust_role role;
    int64_t at, max_uses;
    char *name;
    bool surplus, counts; /* derived */
};

struct grant_fact {
    char by[KEY_HEX_SIZE];
    enum trust_role role;
    int64_t seq, at;
};

/* Everything known about one key. Keys that a rotation joins stand in a line, oldest first. */
struct person {
    struct trust_member member; /* derived, but for what the broker says: member_id, joined_at, last_seen_at, listed, revoked_claim */
    char *broker_name;
    struct certificate_fact *certificates;
    size_t certificate_count;
    struct grant_fact *grants;
    size_t grant_count;
    char *signed_name; /* of the name statement with the highest seq; NULL none */
    int64_t name_seq;  /* -1 none */
    int64_t left_at;   /* ms; -1 none */
    struct person *predecessor, *successor;
    int64_t rotation_seq; /* of the rotation that led here; 0: none did */
    int64_t rotated_at;   /* ms, of the rotation that leads on from here; -1 none */
    int64_t fork_at;      /* of a second rotation of this key, never later than when it was first seen; -1 none */
    int64_t body_version;
    uint64_t list_generation; /* of the newest members_list that named it */
    bool authority_known;     /* derived, once a recount, for the line's first: */
    bool ever_admin;
    int64_t authority_until; /* acts at or after it are void; INT64_MAX: none are */
    bool line_revoked;
};

struct revocation_fact {
    char subject[KEY_HEX_SIZE], by[KEY_HEX_SIZE];
    int64_t at;
    struct sha256 text_hash;
    bool counts; /* derived */
};

struct invite_revocation_fact {
    char invite_id[TRUST_ID_SIZE], by[KEY_HEX_SIZE];
    int64_t at;
    struct sha256 text_hash;
};

struct pin {
    char *folded_name;
    char pubkey[KEY_HEX_SIZE];
    int64_t first_seen;
    bool settled; /* by `verify --accept`: other claims on the name no longer matter while its key holds it */
    bool swapped; /* derived: the name is another key's now */
};

struct trust {
    struct trust_store *store;
    char *mesh_id, *mesh_slug;
    char owner_pubkey[KEY_HEX_SIZE]; /* "" unknown: nobody verifies */
    char own_pubkey[KEY_HEX_SIZE];
    struct person **people; /* all */
    size_t people_count;
    struct person **slots; /* by key, open addressing; a power of two */
    size_t slot_count;
    struct person **visible; /* those that trust_member shows */
    size_t visible_count;
    struct revocation_fact *revocations;
    size_t revocation_count;
    struct invite_revocation_fact *invite_revocations;
    size_t invite_revocation_count;
    struct pin *pins;
    size_t pin_count;
    char rv[RV_SIZE];
    int64_t counted_revocations;  /* the count in rv */
    int64_t expected_revocations; /* the highest that a verified peer spoke of */
    bool awaits_list;             /* restored, and no list was merged since */
    bool fork, fresh, loading;
    uint64_t list_generation;
    json_t *deferred; /* statements of a list's earlier pages that rest on nothing yet (merge.c); NULL none */
    size_t deferred_bytes;
    struct facts_of_mesh facts;
};

/* ---- people.c: the table of keys ------------------------------------------------------------------------------- */
struct person *people_find(const struct trust *trust, const char *pubkey_hex);
/* Finds or makes. NULL when it is no valid key. */
struct person *people_get(struct trust *trust, const char *pubkey_hex);
/* Forgets who is nothing but a name that the broker no longer lists. */
void people_drop_strangers(struct trust *trust);
void people_collect_visible(struct trust *trust);
void people_free(struct trust *trust);
/* The first and the newest key of a line. */
struct person *person_root(struct person *person);
struct person *person_current(struct person *person);
/* trust_member and trust_member_at show it. */
bool person_is_visible(const struct trust *trust, const struct person *person);
/* A member that can be written to: not revoked, gone or superseded, and listed or verified. */
bool person_is_known(const struct person *person);

/* ---- evidence.c: one statement at a time, verified, then kept ----------------------------------------------------- */
/* REFUSED: not by what is known now. FALSE: never; looking at its signatures again, as often as a broker likes, would only cost time. */
enum acceptance { EVIDENCE_NEW, EVIDENCE_KNOWN, EVIDENCE_REFUSED, EVIDENCE_FALSE };
/* With trust->loading nothing is verified or stored again: it comes from our own tables. */
enum acceptance evidence_certificate(struct trust *trust, const json_t *document);
enum acceptance evidence_grant(struct trust *trust, const json_t *document);
enum acceptance evidence_name(struct trust *trust, const json_t *document);
enum acceptance evidence_leave(struct trust *trust, const json_t *document);
enum acceptance evidence_revocation(struct trust *trust, const json_t *document);
enum acceptance evidence_invite_revocation(struct trust *trust, const json_t *document);
/* *ret_fork: a second one for its seq; the first is kept. */
enum acceptance evidence_rotation(struct trust *trust, const json_t *document, bool *ret_fork);

/* ---- recount.c ------------------------------------------------------------------------------------------------ */
/* Everything derived, from the facts alone: in whatever order they came, the result is the same. Adds to *changes (NULL: start-up). */
void recount(struct trust *trust, struct trust_changes *changes);
/* The owner, or an admin at some time by the owner's word: whose statements are worth keeping. */
bool recount_is_authority(struct trust *trust, const char *pubkey_hex);

/* ---- names.c -------------------------------------------------------------------------------------------------- */
void names_load_pin(struct trust *trust, const char *folded_name, const char *pubkey_hex, int64_t first_seen, bool settled);
bool names_is_pinned(const struct trust *trust, const char *pubkey_hex);
/* Counts names that became another key's since the last time. */
void names_check_pins(struct trust *trust, struct trust_changes *changes);
void names_free(struct trust *trust);

#endif
