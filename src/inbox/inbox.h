/* The durable, deduped store of what was received, and the quarantine (30-delivery, Inbox). Owns inbox.db's tables; no HTTP, no
 * sockets, no keys. Calls and callbacks on the loop thread. */
#ifndef INBOX_INBOX_H
#define INBOX_INBOX_H

#include "crypto/crypto.h"
#include "db/db.h"

extern const struct db_migration INBOX_MIGRATIONS[];
extern const size_t INBOX_MIGRATION_COUNT;

struct inbox;
struct inbox_options {
    bool search;  /* keep the full-text index (inbox.fts). Off: an index that is there is dropped now, which takes as long as it is large */
    bool rebuild; /* the file before this one was damaged: every mesh's history is to be asked for (inbox_rebuild_next) */
    int64_t max_bytes; /* inbox.max_bytes, of the database without its WAL, which comes and goes */
};
/* Reads or makes the epoch (random, 16 hex), the newest seq. Blocking: start-up only. */
int inbox_open(struct db *db, const struct inbox_options *options, struct inbox **ret_inbox, struct error *error) MUST_CHECK;
void inbox_free(struct inbox *inbox);
const char *inbox_epoch(const struct inbox *inbox);
int64_t inbox_newest_seq(const struct inbox *inbox); /* committed */

enum inbox_verified { INBOX_UNVERIFIED, INBOX_VERIFIED, INBOX_LEGACY }; /* JSON false, true, "legacy" */

struct inbox_row {
    int64_t seq;
    char id[27]; /* ULID; made by inbox_insert */
    char *client_message_id, *mesh, *broker_message_id, *kind, *topic, *sender_pubkey, *sender_name;
    char *body;
    size_t body_size;
    char *meta; /* JCS; NULL */
    char *priority, *reply_to_id;
    enum inbox_verified verified;
    int64_t history_id, sent_at, received_at, seen_at; /* -1 null */
    /* for the receipt that `seen` sends later: */
    struct sha256 content; /* of nonce ‖ ciphertext */
};
void inbox_row_free(struct inbox_row *row);

/* A message is several events at most: a message, one of its kind, a mention, a file. */
enum { INBOX_HOOKS_MAXIMUM = 4, INBOX_OTHER_KEYS = 9 };

struct inbox_insert {
    struct inbox_row *row;            /* taken over; after done: seq set when new */
    char *hooks[INBOX_HOOKS_MAXIMUM]; /* names of those that run for it when it is new (inbox/hook_runs.h); freed with the insert */
    size_t hook_count;
    char *other_keys
        [INBOX_OTHER_KEYS]; /* that the sender had or has beside sender_pubkey: what is there under one of them is this message; freed with the insert */
    size_t other_key_count;
    bool legacy_once; /* bodyVersion 1: also deduped for ever by `content` */
    bool
        from_history; /* not published when it is new; a push of the same message that comes later is new all the same, and takes its place */
    bool patient;     /* others are about to follow, and may share its commit (DB_PATIENT) */
    /* results: */
    int status; /* 0; negative: not stored, do not acknowledge */
    bool is_new;
    bool replay_suspected; /* sent_at at or below the floor of pruned dedupe keys, and not stored before; or its id is another message's,
                                  which only bodyVersion 1 makes possible: not stored as a message */
    void *argument;
};
/* Insert-or-ignore by (mesh, sender_pubkey, client_message_id) and by the pruned keys; durable; messages that arrive together share a commit.
 * done is called once for each, in order. */
void inbox_insert(struct inbox *inbox, struct inbox_insert *insert /* heap, given to done, freed by it with inbox_insert_free */,
                  void (*done)(struct inbox_insert *insert));
void inbox_insert_free(struct inbox_insert *insert);

/* The quarantine: the push as it came, why, never shown as a message. Durable, deduped by (mesh, sender, broker_message_id, content). */
struct quarantine_row {
    int64_t seq;
    char *mesh, *sender_pubkey, *client_message_id, *broker_message_id, *reason, *push; /* push: the frame's JSON */
    int64_t received_at;
};
void quarantine_row_free(struct quarantine_row *row);
void inbox_quarantine(struct inbox *inbox, struct quarantine_row *row /* taken over */,
                      void (*done)(void *argument, int status, bool is_new), void *argument);
/* Rows with one of the reasons that a new key may mend, to be tried again; and removal of one that was. */
void inbox_quarantine_list(struct inbox *inbox, const char *mesh, int64_t after_seq, size_t limit,
                           void (*done)(void *argument, int status, struct quarantine_row **rows, size_t count), void *argument);
void inbox_quarantine_remove(struct inbox *inbox, int64_t seq);
int64_t inbox_quarantine_count(const struct inbox *inbox, const char *mesh /* NULL: all */);

struct inbox_query {
    const char *mesh, *topic, *sender_pubkey, *sender_name; /* NULL: any; sender_name matches case-insensitively when the key is NULL */
    int64_t since_ms;                                       /* received_at at or later; -1 any */
    bool unread, ascending;
    bool came_live;    /* without what was rebuilt from a broker's history */
    int64_t after_seq; /* exclusive bound in the direction of reading; -1 none */
    size_t limit;
    size_t maximum_bytes; /* stops before the page's bodies and metas pass it (at least one row) */
};
/* rows are the callback's. more: there are further rows. */
void inbox_list(struct inbox *inbox, const struct inbox_query *query,
                void (*done)(void *argument, int status, struct inbox_row **rows, size_t count, bool more), void *argument);

/* Marks seen; done gets the rows newly marked (without body), for `seen` frames. ids NULL: all (in steps, called back for each step, last with final true). Durable. */
void inbox_mark_seen(struct inbox *inbox, const char *const *ids, size_t count, const char *mesh,
                     void (*done)(void *argument, int status, struct inbox_row **rows, size_t count, bool final), void *argument);
/* Retention: prunes rows received before, in small steps; keeps their dedupe keys (sender, id) until keys_before_ms passes them. The room in the file is used again. */
void inbox_prune(struct inbox *inbox, int64_t received_before_ms, int64_t keys_before_ms);

/* ---- search (find.c) --------------------------------------------------------------------------------------- */

/* Around what was found in a snippet: no message that a person writes holds them, and no markup that a reader might run. */
#define INBOX_SNIPPET_BEGIN "\x02"
#define INBOX_SNIPPET_END "\x03"
enum { INBOX_QUERY_MAXIMUM = 1024, INBOX_SEARCH_MS = 1000 /* then it answers with what it found */ };

struct inbox_search {
    const char *query;  /* words (all of them), "phrases", beginnings*, AND, OR, NOT and parentheses */
    const char *mesh;   /* NULL any */
    int64_t before_seq; /* INT64_MAX: from the newest */
    size_t limit;
    size_t maximum_bytes;
};
struct inbox_found {
    /* 0; -ERROR_INVALID: the query, *error says what is wrong with it; -ERROR_DENIED: there is no index (inbox.fts); -ERROR_TIMEOUT: nothing found in the time there is */
    int status;
    struct error error;
    struct inbox_row **rows; /* the callback's */
    char **snippets;         /* one a row; the callback's */
    size_t count;
    bool more;     /* the limit, or the time, ended it */
    bool complete; /* every row is in the index */
};
void inbox_search(struct inbox *inbox, const struct inbox_search *search, void (*done)(void *argument, struct inbox_found *found),
                  void *argument);
void inbox_found_release(struct inbox_found *found);

/* ---- rebuilding from a broker's history (rebuild.c) ---------------------------------------------------------- */

/* The history_id after which this mesh's history is still to be asked for; -1: nothing is to be asked. */
int64_t inbox_rebuild_next(const struct inbox *inbox, const char *mesh);
/* A page is stored: durable, in order after its inserts. finished: there is no more. done may be NULL. */
void inbox_rebuild_advance(struct inbox *inbox, const char *mesh, int64_t next, bool finished, void (*done)(void *argument, int status),
                           void *argument);

/* ---- limits ------------------------------------------------------------------------------------------------- */

struct inbox_observer {
    void *argument;
    /* The inbox passed 80, 95 or 100 % of inbox.max_bytes, or fell below; or its commits began or ceased to fail. */
    void (*pressure)(void *argument, int pct, bool degraded);
    /* At the limit the oldest messages that were marked seen went before their time. */
    void (*pruned_early)(void *argument, int64_t rows);
};
void inbox_observe(struct inbox *inbox, const struct inbox_observer *observer);
void inbox_set_maximum(struct inbox *inbox, int64_t max_bytes); /* reload */
int inbox_pressure_pct(const struct inbox *inbox);
bool inbox_is_full(const struct inbox *inbox);     /* at the limit, and nothing that was seen is left to go */
bool inbox_is_degraded(const struct inbox *inbox); /* its last commit failed */
/* Once a second: when the last commit failed, whether there is room again (nothing else may come to be stored for long); what waits for the index; the limit. */
void inbox_poke(struct inbox *inbox);

#endif
