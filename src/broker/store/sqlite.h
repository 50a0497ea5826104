/* What the files of the SQLite store share. Not for others: they see store.h. */
#ifndef BROKER_STORE_SQLITE_H
#define BROKER_STORE_SQLITE_H

#include "broker/store/store.h"
#include "broker/store/table.h"
#include "db/db.h"

struct sqlite_store {
    struct store store;
    struct db *db;
    struct store_options options;
    int64_t submitted, finished; /* numbers of accepts; the loop thread's */
    /* The writer thread's. */
    int64_t newest_run, gap_end;
    struct table waiting; /* struct waiting: how much waits for a session, counted once */
};

/* What an operation does on its thread. 0, or a negative error code with *error: its writes are undone. May run twice for one request. */
typedef int sqlite_run(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error);

enum sqlite_way { RUN_READING, RUN_WRITING, RUN_WRITING_DURABLY };
void sqlite_submit(struct store *store, struct store_request *request, enum store_measure op, enum sqlite_way way, sqlite_run *run);

/* sqlite_schema.c */
extern const struct db_migration SQLITE_BROKER_MIGRATIONS[];
extern const size_t SQLITE_BROKER_MIGRATION_COUNT;

/* sqlite_waiting.c: counts of waiting deliveries; the writer thread */
int waiting_count(struct sqlite_store *store, struct db_connection *connection, int64_t member, int64_t session, int64_t *ret_count,
                  struct error *error) MUST_CHECK;
void waiting_add(struct sqlite_store *store, int64_t member, int64_t session, int64_t change);
void waiting_forget(struct sqlite_store *store, int64_t member, int64_t session); /* counted anew when asked */
void waiting_clear(struct sqlite_store *store);

/* sqlite.c */
int audit_insert(struct db_connection *connection, int64_t mesh, int64_t member, const char *event, const char *detail, int64_t now_ms,
                 struct error *error) MUST_CHECK;

/* sqlite_sessions.c */
/* What nobody of the member acknowledged goes to `heir`; the rest of the session's deliveries, and it, are deleted. */
int session_forget(struct sqlite_store *store, struct db_connection *connection, int64_t member, int64_t session, int64_t heir,
                   int64_t *deliveries_change, struct error *error) MUST_CHECK;
/* All sessions and deliveries of a member that is none any more. */
int session_forget_all(struct sqlite_store *store, struct db_connection *connection, int64_t member, int64_t *deliveries_change,
                       struct error *error) MUST_CHECK;

/* sqlite_rotate.c: former keys */
/* The key that message m's sender s had when m was accepted. */
#define SQLITE_SENDER_KEY                                                                                                               \
    "coalesce((SELECT k.old_pubkey FROM rotation k WHERE k.member_id = s.id AND k.history_id >= m.history_id ORDER BY k.seq LIMIT 1), " \
    "s.pubkey)"
struct former_key {
    int64_t member; /* 0: nobody's former key */
    int64_t usable_until;
};
int find_former_key(struct db_connection *connection, int64_t mesh, const char *pubkey, struct former_key *ret_former,
                    struct error *error) MUST_CHECK;

/* sqlite_messages.c: a message's columns, in this order, into a struct store_message. */
#define SQLITE_MESSAGE_COLUMNS                                                                                             \
    "m.id, m.history_id, m.created_at, m.body_version, m.key_epoch, m.priority, m.sender_member_id, m.broker_message_id, " \
    "m.client_message_id, "                                                                                                \
    "m.sender_pubkey, " SQLITE_SENDER_KEY ", s.member_id, s.display_name, m.target_spec, m.nonce, m.reply_to_id, m.mentions, m.ciphertext"
struct store_message *message_of_row(sqlite3_stmt *statement) MUST_CHECK;

/* sqlite_accept.c */
sqlite_run sqlite_run_accept;
void sqlite_accept_finished(struct sqlite_store *store, const struct store_accept *accept); /* the loop thread, before its done */

/* sqlite_check.c: one step from *place, which goes on with it. Findings are appended, one a line, and counted. */
enum { CHECK_STAGES = 5 };
int check_step(sqlite3 *handle, struct store_check_place *place, bool *ret_more, struct buffer *findings, size_t *found,
               struct error *error) MUST_CHECK;
int64_t sqlite_check_file(const char *path, void (*found)(void *argument, const char *finding), void *argument,
                          struct error *error) MUST_CHECK;

/* The operations, each in the file of its subject. */
void sqlite_create_mesh(struct store *store, struct store_create_mesh *request);
void sqlite_join(struct store *store, struct store_join *request);
void sqlite_hello(struct store *store, struct store_hello *request);
void sqlite_accept(struct store *store, struct store_accept *request);
void sqlite_fetch(struct store *store, struct store_fetch *request);
void sqlite_acknowledge(struct store *store, struct store_acknowledge *request);
void sqlite_fetch_receipts(struct store *store, struct store_fetch_receipts *request);
void sqlite_settle_receipts(struct store *store, struct store_settle_receipts *request);
void sqlite_state(struct store *store, struct store_statement *request);
void sqlite_rotate(struct store *store, struct store_rotate *request);
void sqlite_list_members(struct store *store, struct store_list_members *request);
void sqlite_find_member(struct store *store, struct store_find_member *request);
void sqlite_history(struct store *store, struct store_history *request);
void sqlite_message_status(struct store *store, struct store_message_status *request);
void sqlite_save_session(struct store *store, struct store_save_session *request);
void sqlite_audit(struct store *store, struct store_audit *request);
void sqlite_keep(struct store *store, struct store_keep *request);
void sqlite_check(struct store *store, struct store_check *request);
void sqlite_count(struct store *store, struct store_count *request);

#endif
