/* The broker's tables in SQLite (70-broker, Stores). Times are Unix milliseconds; `id` columns are the store's own numbers. What an operator
 * reads is text. Steps are only ever added. */
#include "broker/store/sqlite.h"

static const char FIRST[] =
    "CREATE TABLE mesh ("
    "  id INTEGER PRIMARY KEY,"
    "  mesh_id TEXT NOT NULL UNIQUE,"
    "  slug TEXT NOT NULL UNIQUE,"
    "  name TEXT NOT NULL,"
    "  owner_pubkey TEXT NOT NULL,"
    /* The highest history_id that was pruned: the next one is above it even when no message is left. */
    "  history_floor INTEGER NOT NULL DEFAULT 0,"
    "  created_at INTEGER NOT NULL"
    ") STRICT;"
    "CREATE TABLE member ("
    "  id INTEGER PRIMARY KEY,"
    "  mesh_id INTEGER NOT NULL,"
    "  member_id TEXT NOT NULL,"
    "  pubkey TEXT NOT NULL,"
    "  display_name TEXT NOT NULL,"
    "  role TEXT NOT NULL CHECK (role IN ('admin', 'member')),"
    "  state TEXT NOT NULL CHECK (state IN ('active', 'left', 'revoked')),"
    "  certificate TEXT,"
    /* Who used signature2 once must use it always (45-trust, Hello). */
    "  hello_v2 INTEGER NOT NULL DEFAULT 0,"
    "  joined_at INTEGER NOT NULL,"
    "  last_seen_at INTEGER,"
    "  UNIQUE (mesh_id, pubkey),"
    "  UNIQUE (mesh_id, member_id)"
    ") STRICT;"
    "CREATE TABLE invite ("
    "  mesh_id INTEGER NOT NULL,"
    "  invite_id TEXT NOT NULL,"
    "  expires_at INTEGER,"
    "  uses INTEGER NOT NULL DEFAULT 0,"
    "  revoked_at INTEGER,"
    "  PRIMARY KEY (mesh_id, invite_id)"
    ") STRICT, WITHOUT ROWID;"
    /* Verified statements (45-trust), as they travel. Revocations stay for ever. */
    "CREATE TABLE statement ("
    "  id INTEGER PRIMARY KEY,"
    "  mesh_id INTEGER NOT NULL,"
    "  kind TEXT NOT NULL CHECK (kind IN ('revocation', 'leave', 'name', 'grant', 'invite_revocation')),"
    "  subject TEXT NOT NULL,"
    "  seq INTEGER NOT NULL,"
    "  by_pubkey TEXT NOT NULL,"
    "  document TEXT NOT NULL,"
    "  stored_at INTEGER NOT NULL,"
    "  UNIQUE (mesh_id, kind, subject, seq, by_pubkey)"
    ") STRICT;"
    "CREATE TABLE session ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  member_id INTEGER NOT NULL,"
    "  session_uid TEXT NOT NULL,"
    "  session_pubkey TEXT,"
    "  presence TEXT," /* status, summary, groups, profile, visible: what survives a reconnect */
    "  last_seen_at INTEGER NOT NULL,"
    "  UNIQUE (member_id, session_uid)"
    ") STRICT;"
    "CREATE INDEX session_by_pubkey ON session (session_pubkey) WHERE session_pubkey IS NOT NULL;"
    "CREATE TABLE hello_seen ("
    "  member_id INTEGER NOT NULL,"
    "  timestamp INTEGER NOT NULL,"
    "  seen_at INTEGER NOT NULL,"
    "  PRIMARY KEY (member_id, timestamp)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE message ("
    "  id INTEGER PRIMARY KEY,"
    "  mesh_id INTEGER NOT NULL,"
    "  history_id INTEGER NOT NULL,"
    "  broker_message_id TEXT NOT NULL UNIQUE,"
    "  client_message_id TEXT NOT NULL,"
    "  sender_member_id INTEGER NOT NULL,"
    "  recipient_member_id INTEGER," /* of a direct message */
    "  sender_pubkey TEXT NOT NULL," /* the routing key when it was accepted */
    "  target_spec TEXT NOT NULL,"
    "  priority INTEGER NOT NULL,"
    "  body_version INTEGER NOT NULL,"
    "  key_epoch INTEGER,"
    "  reply_to_id TEXT,"
    "  mentions TEXT,"
    "  created_at INTEGER NOT NULL,"
    "  nonce TEXT NOT NULL,"      /* base64, as it came */
    "  ciphertext TEXT NOT NULL," /* last: what looks at the others need not read it */
    "  UNIQUE (mesh_id, history_id)"
    ") STRICT;"
    /* The primary key begins with the client's id: those of one moment lie together whoever sent them, so a batch of accepts touches few pages. */
    "CREATE TABLE client_message_dedupe ("
    "  mesh_id INTEGER NOT NULL,"
    "  client_message_id TEXT NOT NULL,"
    "  broker_message_id TEXT NOT NULL," /* no foreign key: the message may be pruned first */
    "  request_fingerprint BLOB NOT NULL CHECK (length(request_fingerprint) = 32),"
    "  destination_kind TEXT NOT NULL,"
    "  destination_ref TEXT NOT NULL,"
    "  first_seen_at INTEGER NOT NULL,"
    "  expires_at INTEGER," /* NULL: never */
    "  history_available INTEGER NOT NULL DEFAULT 1,"
    "  history_id INTEGER NOT NULL,"
    "  sender_member_id INTEGER NOT NULL,"
    "  PRIMARY KEY (client_message_id, sender_member_id, mesh_id)"
    ") STRICT;"
    "CREATE INDEX dedupe_by_expiry ON client_message_dedupe (expires_at) WHERE expires_at IS NOT NULL;"
    "CREATE TABLE delivery_queue ("
    "  member_id INTEGER NOT NULL,"
    "  session_id INTEGER NOT NULL," /* 0: for the member, while no session of it is known */
    "  priority INTEGER NOT NULL,"
    "  history_id INTEGER NOT NULL,"
    "  message_id INTEGER NOT NULL,"
    "  PRIMARY KEY (member_id, session_id, priority, history_id)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE receipt ("
    "  message_id INTEGER NOT NULL,"
    "  by_member_id INTEGER NOT NULL,"
    "  state INTEGER NOT NULL CHECK (state IN (0, 1, 2, 3))," /* quarantined, implied, stored, seen */
    "  at INTEGER NOT NULL,"
    "  rsig TEXT,"
    "  sender_member_id INTEGER NOT NULL,"
    "  pending INTEGER NOT NULL," /* the sender has not acknowledged it */
    "  PRIMARY KEY (message_id, by_member_id, state)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX receipt_pending ON receipt (sender_member_id, message_id) WHERE pending = 1;"
    "CREATE TABLE audit ("
    "  id INTEGER PRIMARY KEY,"
    "  mesh_id INTEGER NOT NULL,"
    "  member_id INTEGER,"
    "  event TEXT NOT NULL,"
    "  detail TEXT,"
    "  at INTEGER NOT NULL"
    ") STRICT;";

/* The highest history_id whose dedupe record expired: the check must tell an expired record from a lost one. What a store of the first version lacks has expired. */
static const char DEDUPE_FLOOR[] =
    "ALTER TABLE mesh ADD COLUMN dedupe_floor INTEGER NOT NULL DEFAULT 0;"
    "UPDATE mesh SET dedupe_floor = coalesce((SELECT max(m.history_id) FROM message m LEFT JOIN client_message_dedupe d"
    " ON d.client_message_id = m.client_message_id AND d.sender_member_id = m.sender_member_id AND d.mesh_id = m.mesh_id AND d.history_id "
    "= m.history_id"
    " WHERE m.mesh_id = mesh.id AND d.mesh_id IS NULL), 0);";

/* Former keys: each rotation statement (45-trust) as it travels, for ever, since who joins later must be led from the certificate's key to today's. history_id: the newest message
 * of the mesh at that moment; what is not above it was sent under the old key. */
static const char ROTATION[] = "CREATE TABLE rotation ("
                               "  id INTEGER PRIMARY KEY,"
                               "  mesh_id INTEGER NOT NULL,"
                               "  member_id INTEGER NOT NULL,"
                               "  seq INTEGER NOT NULL,"
                               "  old_pubkey TEXT NOT NULL,"
                               "  new_pubkey TEXT NOT NULL,"
                               "  at INTEGER NOT NULL,"           /* the statement's */
                               "  usable_until INTEGER NOT NULL," /* sends to the old key reach the member so long */
                               "  history_id INTEGER NOT NULL,"
                               "  document TEXT NOT NULL,"
                               "  stored_at INTEGER NOT NULL,"
                               "  UNIQUE (mesh_id, old_pubkey),"
                               "  UNIQUE (mesh_id, new_pubkey),"
                               "  UNIQUE (member_id, seq)"
                               ") STRICT;"
                               /* A receipt is signed by the key of its time; NULL: the member's key of today. */
                               "ALTER TABLE receipt ADD COLUMN by_pubkey TEXT;";

/* The hash of the host that a member's newest hello came from (50-identity, Host fingerprint); NULL: none was given yet. */
static const char HOST_FINGERPRINT[] = "ALTER TABLE member ADD COLUMN host_fingerprint TEXT;";

const struct db_migration SQLITE_BROKER_MIGRATIONS[] = {
    { 1, FIRST },
    { 2, DEDUPE_FLOOR },
    { 3, ROTATION },
    { 4, HOST_FINGERPRINT },
};
const size_t SQLITE_BROKER_MIGRATION_COUNT = ARRAY_LENGTH(SQLITE_BROKER_MIGRATIONS);
