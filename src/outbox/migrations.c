/* Owns outbox.db's tables as this room made them, step by step. A step that was released is never changed: tests/unit/outbox opens a file of each.
 *
 * outbox.db also holds trust's tables (docs/decisions/0004). backup/outbox_steps.c joins the lists, renumbered: step 1 is OUTBOX_MIGRATIONS[0], step 2 is
 * TRUST_SCHEMA_SQL, and later steps follow in the order in which they were released, whichever room they come from.
 *
 * Why client_message_id has no UNIQUE index of SQLite's: callers choose random ids, and a random index costs an accept one whole page in the log and one
 * in the checkpoint, the more surely the more rows there are. The same promise is kept by `outbox_key`, which is filled late and in order
 * (key_index.c, docs/decisions/0006). */
#include "outbox/outbox.h"

const struct db_migration OUTBOX_MIGRATIONS[] = {
    { 1,
      "CREATE TABLE outbox ("
      "  seq INTEGER PRIMARY KEY," /* the order of acceptance; never used twice */
      "  id TEXT NOT NULL UNIQUE," /* ULID */
      "  client_message_id TEXT NOT NULL,"
      "  request_fingerprint BLOB NOT NULL,"
      "  broker_fingerprint BLOB NOT NULL,"
      "  mesh TEXT NOT NULL, destination_kind TEXT NOT NULL, destination_ref TEXT NOT NULL,"
      "  priority TEXT NOT NULL, reply_to_id TEXT, meta TEXT, mentions TEXT,"
      "  enqueued_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_attempt_at INTEGER NOT NULL,"
      "  status TEXT NOT NULL CHECK (status IN ('pending','inflight','done','dead','aborted')),"
      "  last_error TEXT, delivered_at INTEGER, broker_message_id TEXT, history_id INTEGER,"
      "  aborted_at INTEGER, aborted_by TEXT, superseded_by TEXT,"
      "  payload BLOB NOT NULL) STRICT;" /* last: what stands before it is read without it */
      /* Only rows that still have work, and the few that an operator looks for: `done` rows are in none of them. The row's seq is each index's last column. */
      "CREATE INDEX outbox_pending ON outbox (mesh, priority) WHERE status = 'pending';"
      "CREATE INDEX outbox_inflight ON outbox (seq) WHERE status = 'inflight';"
      "CREATE INDEX outbox_dead ON outbox (seq) WHERE status = 'dead';"
      "CREATE INDEX outbox_aborted ON outbox (seq) WHERE status = 'aborted';"
      /* From a hash of client_message_id to rows that may have it. */
      "CREATE TABLE outbox_key (hash INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (hash, seq)) STRICT, WITHOUT ROWID;"
      "CREATE TABLE outbox_count ("
      "  mesh TEXT PRIMARY KEY, pending INTEGER NOT NULL, inflight INTEGER NOT NULL, done INTEGER NOT NULL,"
      "  dead INTEGER NOT NULL, aborted INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
      /* Up to which row outbox_key and outbox_count hold everything, and up to which the payloads of old `done` rows are gone. */
      "CREATE TABLE outbox_progress ("
      "  id INTEGER PRIMARY KEY CHECK (id = 1), indexed_up_to INTEGER NOT NULL, counted_up_to INTEGER NOT NULL,"
      "  pruned_up_to INTEGER NOT NULL) STRICT;"
      "INSERT INTO outbox_progress VALUES (1, 0, 0, 0);"
      /* What each attempt sent: receipts sign it. */
      "CREATE TABLE outbox_attempt ("
      "  seq INTEGER NOT NULL, content BLOB NOT NULL, sent_at INTEGER NOT NULL, PRIMARY KEY (seq, content)) STRICT, WITHOUT ROWID;"
      "CREATE TABLE receipt ("
      "  mesh TEXT NOT NULL, broker_message_id TEXT NOT NULL, by TEXT NOT NULL, state TEXT NOT NULL,"
      "  client_message_id TEXT NOT NULL, at INTEGER NOT NULL, signed_at INTEGER NOT NULL, rsig TEXT, verified INTEGER NOT NULL,"
      "  PRIMARY KEY (mesh, broker_message_id, by, state)) STRICT, WITHOUT ROWID;" },
};
const size_t OUTBOX_MIGRATION_COUNT = ARRAY_LENGTH(OUTBOX_MIGRATIONS);
