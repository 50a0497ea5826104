/* Owns the inbox as a whole: its schema, opening, and the insert that stores a message once. Must not list (query.c), prune (prune.c) or judge a message. */
#include "inbox/internal.h"
#include "util/ids.h"
#include "util/memory.h"

const struct db_migration INBOX_MIGRATIONS[] = {
    { .version = 1,
      .sql = "CREATE TABLE inbox ("
             "  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
             "  client_message_id TEXT NOT NULL, mesh TEXT NOT NULL, broker_message_id TEXT, history_id INTEGER,"
             "  kind TEXT NOT NULL, topic TEXT, sender_pubkey TEXT NOT NULL, sender_name TEXT NOT NULL,"
             "  body TEXT, meta TEXT, priority TEXT, reply_to_id TEXT,"
             "  sent_at INTEGER, received_at INTEGER NOT NULL, seen_at INTEGER,"
             "  verified INTEGER NOT NULL," /* enum inbox_verified */
             "  content BLOB NOT NULL,"     /* SHA-256 of nonce and ciphertext: what the receipt signs */
             "  from_history INTEGER NOT NULL DEFAULT 0,"
             "  UNIQUE (mesh, sender_pubkey, client_message_id)) STRICT;"
             "CREATE INDEX inbox_unread ON inbox (seq) WHERE seen_at IS NULL;"
             "CREATE INDEX inbox_sender ON inbox (sender_pubkey, seq);"
             "CREATE INDEX inbox_received ON inbox (received_at);"
             /* Dedupe keys of pruned rows; and, for each mesh, the newest sent_at among the keys that were dropped in turn. */
             "CREATE TABLE inbox_pruned (mesh TEXT NOT NULL, sender_pubkey TEXT NOT NULL, client_message_id TEXT NOT NULL,"
             "  sent_at INTEGER, received_at INTEGER NOT NULL,"
             "  PRIMARY KEY (mesh, sender_pubkey, client_message_id)) STRICT, WITHOUT ROWID;"
             "CREATE INDEX inbox_pruned_received ON inbox_pruned (received_at);"
             "CREATE TABLE inbox_floor (mesh TEXT PRIMARY KEY, sent_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
             /* bodyVersion 1 has no signed id: its content is its name, for ever (45-trust). */
             "CREATE TABLE inbox_legacy (mesh TEXT NOT NULL, content BLOB NOT NULL, PRIMARY KEY (mesh, content)) STRICT, WITHOUT ROWID;"
             "CREATE TABLE inbox_epoch (id INTEGER PRIMARY KEY CHECK (id = 1), epoch TEXT NOT NULL) STRICT;"
             "CREATE TABLE quarantine (seq INTEGER PRIMARY KEY AUTOINCREMENT, mesh TEXT NOT NULL, sender_pubkey TEXT NOT NULL,"
             "  client_message_id TEXT NOT NULL, broker_message_id TEXT NOT NULL, reason TEXT NOT NULL, push TEXT NOT NULL,"
             "  push_hash BLOB NOT NULL, received_at INTEGER NOT NULL,"
             "  UNIQUE (mesh, sender_pubkey, broker_message_id, push_hash)) STRICT;" },
    /* Hooks that have to run for a message: claimed_at is set, durably, before one starts (60-hooks). */
    { .version = 2,
      .sql = "CREATE TABLE hook_runs (id INTEGER PRIMARY KEY AUTOINCREMENT, inbox_seq INTEGER NOT NULL, hook TEXT NOT NULL,"
             "  claimed_at INTEGER) STRICT;"
             "CREATE INDEX hook_runs_waiting ON hook_runs (id) WHERE claimed_at IS NULL;" },
    { .version = 3,
      /* Rows from this seq on are in the index (search.c); 0: all. The index itself comes and goes with a setting. */
      .sql = "CREATE TABLE inbox_index (id INTEGER PRIMARY KEY CHECK (id = 1), down_to INTEGER NOT NULL) STRICT;"
             "INSERT INTO inbox_index VALUES (1, 0);"
             /* Up to where a mesh's history was asked for (rebuild.c); mesh '': every mesh without a row of its own, from the beginning. */
             "CREATE TABLE inbox_rebuild (mesh TEXT PRIMARY KEY, after_history_id INTEGER NOT NULL, finished INTEGER NOT NULL)"
             " STRICT, WITHOUT ROWID;" },
};
const size_t INBOX_MIGRATION_COUNT = ARRAY_LENGTH(INBOX_MIGRATIONS);

static const char SELECT_EPOCH[] = "SELECT epoch FROM inbox_epoch WHERE id = 1";
static const char INSERT_EPOCH[] = "INSERT INTO inbox_epoch (id, epoch) VALUES (1, ?1)";
static const char TOUCH_EPOCH[] = "UPDATE inbox_epoch SET epoch = epoch WHERE id = 1";
/* Not max(seq): pruned rows count too, a seq is never used again. */
static const char SELECT_NEWEST[] = "SELECT seq FROM sqlite_sequence WHERE name = 'inbox'";
static const char SELECT_LEGACY[] = "SELECT 1 FROM inbox_legacy WHERE mesh = ?1 AND content = ?2";
static const char INSERT_LEGACY[] = "INSERT INTO inbox_legacy (mesh, content) VALUES (?1, ?2)";
static const char SELECT_PRUNED[] = "SELECT 1 FROM inbox_pruned WHERE mesh = ?1 AND sender_pubkey = ?2 AND client_message_id = ?3";
static const char SELECT_FLOOR[] = "SELECT 1 FROM inbox_floor WHERE mesh = ?1 AND sent_at >= ?2";
/* A legacy id is only what the broker said: it takes nothing from the message whose signed id it is. */
static const char SELECT_SIGNED[] =
    "SELECT 1 FROM inbox WHERE mesh = ?1 AND sender_pubkey = ?2 AND client_message_id = ?3 AND verified <> 2";
static const char SELECT_STORED[] = "SELECT 1 FROM inbox WHERE mesh = ?1 AND sender_pubkey = ?2 AND client_message_id = ?3";
static const char INSERT_ROW[] =
    "INSERT INTO inbox (id, client_message_id, mesh, broker_message_id, history_id, kind, topic, sender_pubkey, sender_name, body, meta,"
    " priority, reply_to_id, sent_at, received_at, verified, content, from_history)"
    " VALUES (?1, ?2, ?3, ?4, nullif(?5, -1), ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, nullif(?14, -1), ?15, ?16, ?17, ?18)"
    " ON CONFLICT (mesh, sender_pubkey, client_message_id) DO NOTHING";
static const char SELECT_REBUILT[] = "SELECT seq, id, seen_at FROM inbox WHERE mesh = ?1 AND sender_pubkey = ?2 AND client_message_id = ?3"
                                     " AND from_history = 1";
static const char DELETE_REBUILT[] = "DELETE FROM inbox WHERE seq = ?1";
static const char KEEP_SEEN[] = "UPDATE inbox SET seen_at = ?2 WHERE seq = ?1";

/* ---- opening --------------------------------------------------------------------------------------------------- */

struct open_task {
    struct db_task task;
    struct inbox *inbox;
    bool rebuild;
};

/* 1 and the first column's text (cut to size) when there is a row, 0 when there is none. */
static int read_epoch(struct inbox *inbox, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_EPOCH, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_step(statement, error);
    if (status == 1) {
        const char *epoch = db_column_string(statement, 0);
        if (epoch == NULL || string_copy(inbox->epoch, sizeof(inbox->epoch), epoch) != 0)
            status = error_set(error, ERROR_CORRUPT, "the inbox's epoch is damaged");
    }
    db_reset(statement);
    return status;
}

static int read_newest(struct inbox *inbox, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_NEWEST, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_step(statement, error);
    if (status == 1)
        inbox->newest_seq = db_column_integer(statement, 0, 0);
    db_reset(statement);
    return status < 0 ? status : 0;
}

static int run_open(struct db_connection *connection, struct db_task *task)
{
    const struct open_task *open = CONTAINER_OF(task, struct open_task, task);
    struct inbox *inbox = open->inbox;
    int status = read_epoch(inbox, connection, &task->error);
    if (status == 0) {
        uint8_t random[8];
        random_bytes(random, sizeof(random));
        hex_encode(random, sizeof(random), inbox->epoch);
        status = db_execute(connection, &task->error, NULL, INSERT_EPOCH, "t", inbox->epoch);
    }
    if (status >= 0)
        status = read_newest(inbox, connection, &task->error);
    if (status == 0)
        status = quarantine_load_counts(inbox, connection, &task->error);
    if (status == 0)
        status = hook_runs_load(inbox, connection, &task->error);
    if (status == 0)
        status = rebuild_load(inbox, connection, open->rebuild, &task->error);
    return status == 0 ? search_open(inbox, connection, &task->error) : status;
}

static void committed(void *argument)
{
    struct inbox *inbox = argument;
    inbox->inserts_committed = inbox->inserts_run;
    inbox->attempt_committed = inbox->attempt_run;
}

static void rolled_back(void *argument)
{
    struct inbox *inbox = argument;
    inbox->inserts_run = inbox->inserts_committed;
    inbox->attempt_run = inbox->attempt_committed;
}

static int closing(void *argument, struct db_connection *connection, struct error *error)
{
    (void)connection;
    (void)error;
    struct inbox *inbox = argument;
    atomic_store(&inbox->closed, true);
    return 0;
}

int inbox_open(struct db *db, const struct inbox_options *options, struct inbox **ret_inbox, struct error *error)
{
    struct inbox *inbox = memory_zalloc(sizeof(*inbox));
    inbox->db = db;
    inbox->first_of_attempt = 1;
    inbox->searchable = options->search;
    inbox->max_bytes = options->max_bytes;
    db_set_hooks(db, &(struct db_hooks){ .argument = inbox, .committed = committed, .rolled_back = rolled_back, .closing = closing });
    struct open_task open = { .task = { .run = run_open, .flags = DB_SAVEPOINT | DB_DURABLE },
                              .inbox = inbox,
                              .rebuild = options->rebuild };
    int status = db_write_wait(db, &open.task);
    if (status < 0) {
        db_set_hooks(db, &(struct db_hooks){ .argument = NULL });
        inbox_free(inbox);
        if (error != NULL)
            *error = open.task.error;
        return status;
    }
    *ret_inbox = inbox;
    return 0;
}

void inbox_free(struct inbox *inbox)
{
    if (inbox == NULL)
        return;
    for (struct quarantine_count *count = inbox->quarantined, *next; count != NULL; count = next) {
        next = count->next;
        free(count->mesh);
        free(count);
    }
    rebuild_release(inbox);
    free(inbox);
}

const char *inbox_epoch(const struct inbox *inbox)
{
    return inbox->epoch;
}

int64_t inbox_newest_seq(const struct inbox *inbox)
{
    return inbox->newest_seq;
}

bool inbox_is_degraded(const struct inbox *inbox)
{
    return inbox->degraded;
}

void inbox_note_result(struct inbox *inbox, int status)
{
    inbox->degraded = status < 0;
    pressure_report(inbox);
}

/* ---- room again? ---------------------------------------------------------------------------------------------------- */

struct probe_task {
    struct db_task task;
    struct inbox *inbox;
};

static int run_probe(struct db_connection *connection, struct db_task *task)
{
    return db_execute(connection, &task->error, NULL, TOUCH_EPOCH, "");
}

static void done_probe(struct db_task *task)
{
    struct probe_task *probe = CONTAINER_OF(task, struct probe_task, task);
    probe->inbox->probing = false;
    inbox_note_result(probe->inbox, task->status);
    free(probe);
}

void inbox_poke(struct inbox *inbox)
{
    search_continue(inbox);
    pressure_poke(inbox);
    if (!inbox->degraded || inbox->probing)
        return;
    struct probe_task *probe = memory_zalloc(sizeof(*probe));
    probe->task = (struct db_task){ .run = run_probe, .done = done_probe, .flags = DB_DURABLE };
    probe->inbox = inbox;
    inbox->probing = true;
    db_write(inbox->db, &probe->task);
}

/* ---- insert -------------------------------------------------------------------------------------------------------- */

struct insert_task {
    struct db_task task;
    struct inbox *inbox;
    uint64_t number, attempt, first_of_attempt;
    struct inbox_insert *insert;
    void (*done)(struct inbox_insert *insert);
};

/* 1 when the statement gives a row. */
static int key_exists(struct db_connection *connection, const char *sql, const struct inbox_row *row, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, sql, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "ttt", row->mesh, row->sender_pubkey, row->client_message_id);
    if (status == 0)
        status = db_step(statement, error);
    db_reset(statement);
    return status;
}

static int below_floor(struct db_connection *connection, const struct inbox_row *row, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_FLOOR, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "ti", row->mesh, row->sent_at);
    if (status == 0)
        status = db_step(statement, error);
    db_reset(statement);
    return status;
}

/* 1 when this content was stored before, or its id, which nobody signed, is another message's; else it is remembered. */
static int legacy_was_seen(struct db_connection *connection, struct inbox_insert *insert, struct error *error)
{
    const struct inbox_row *row = insert->row;
    sqlite3_stmt *statement = db_prepare(connection, SELECT_LEGACY, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "tb", row->mesh, (const void *)row->content.bytes, (size_t)SHA256_BYTES);
    if (status == 0)
        status = db_step(statement, error);
    db_reset(statement);
    if (status == 0) {
        status = key_exists(connection, SELECT_STORED, row, error);
        insert->replay_suspected = status == 1;
    }
    if (status != 0)
        return status;
    return db_execute(connection, error, NULL, INSERT_LEGACY, "tb", row->mesh, (const void *)row->content.bytes, (size_t)SHA256_BYTES);
}

/* What came from history, and now comes for the first time: it is published, so it takes a place after what was published before it. 1: *ret_seen_at is what was known of it. */
static int take_place_of_rebuilt(struct inbox *inbox, struct db_connection *connection, struct inbox_row *row, int64_t *ret_seen_at,
                                 struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_REBUILT, error);
    if (statement == NULL)
        return -(int)error->code;
    int64_t seq = -1, seen_at = -1;
    int status = db_bind(statement, error, "ttt", row->mesh, row->sender_pubkey, row->client_message_id);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        const char *id = db_column_string(statement, 1);
        seq = db_column_integer(statement, 0, -1);
        seen_at = db_column_integer(statement, 2, -1);
        if (id == NULL || string_copy(row->id, sizeof(row->id), id) != 0)
            status = error_set(error, ERROR_CORRUPT, "inbox row %" PRId64 " is damaged", seq);
    }
    db_reset(statement);
    if (status != 1)
        return status;
    status = search_remove(inbox, connection, seq, error);
    if (status == 0)
        status = db_execute(connection, error, NULL, DELETE_REBUILT, "i", seq);
    if (status < 0)
        return status;
    *ret_seen_at = seen_at;
    return 1;
}

static int insert_row(struct inbox *inbox, struct db_connection *connection, struct inbox_insert *insert, struct error *error)
{
    struct inbox_row *row = insert->row;
    sqlite3_stmt *statement = db_prepare(connection, INSERT_ROW, error);
    if (statement == NULL)
        return -(int)error->code;
    struct text body = { row->body == NULL ? "" : row->body, row->body_size };
    int status =
        db_bind(statement, error,
                "ttttitttt"
                "xttt"
                "iiibi",
                row->id, row->client_message_id, row->mesh, row->broker_message_id, row->history_id, row->kind, row->topic,
                row->sender_pubkey, row->sender_name, body, row->meta, row->priority, row->reply_to_id, row->sent_at, row->received_at,
                (int64_t)row->verified, (const void *)row->content.bytes, (size_t)SHA256_BYTES, (int64_t)insert->from_history);
    if (status == 0)
        status = db_step(statement, error);
    db_reset(statement);
    if (status < 0)
        return status;
    insert->is_new = sqlite3_changes(db_handle(connection)) == 1;
    if (insert->is_new) {
        row->seq = sqlite3_last_insert_rowid(db_handle(connection));
        status = search_add(inbox, connection, row, error);
        if (status == 0)
            status = hook_runs_insert(connection, insert, error);
    } else if (!insert->legacy_once) {
        status = key_exists(connection, SELECT_SIGNED, row, error);
        insert->replay_suspected = status == 0;
    }
    return status < 0 ? status : 0;
}

/* A push of what is there, but came from a broker's history only, counts as the first. */
static int insert_or_replace(struct inbox *inbox, struct db_connection *connection, struct inbox_insert *insert, struct error *error)
{
    int status = insert_row(inbox, connection, insert, error);
    if (status != 0 || insert->is_new || insert->replay_suspected || insert->from_history || !inbox->rebuilt)
        return status;
    int64_t seen_at = -1;
    status = take_place_of_rebuilt(inbox, connection, insert->row, &seen_at, error);
    if (status != 1)
        return status;
    status = insert_row(inbox, connection, insert, error);
    if (status == 0 && seen_at >= 0) {
        insert->row->seen_at = seen_at;
        status = db_execute(connection, error, NULL, KEEP_SEEN, "ii", insert->row->seq, seen_at);
    }
    return status;
}

/* A sender that rotated its key and sent again, not knowing that the first was accepted: the same message under another of its keys. 1: it is there. */
static int is_there_under_another_key(struct db_connection *connection, const struct inbox_insert *insert, struct error *error)
{
    int found = 0;
    for (size_t i = 0; i < insert->other_key_count && found == 0; i++) {
        struct inbox_row other = *insert->row;
        other.sender_pubkey = insert->other_keys[i];
        found = key_exists(connection, SELECT_STORED, &other, error);
        if (found == 0)
            found = key_exists(connection, SELECT_PRUNED, &other, error);
    }
    return found;
}

static int store_once(struct inbox *inbox, struct db_connection *connection, struct db_task *task)
{
    struct inbox_insert *insert = CONTAINER_OF(task, struct insert_task, task)->insert;
    insert->is_new = insert->replay_suspected = false;
    int found = is_there_under_another_key(connection, insert, &task->error);
    if (found == 0)
        found = key_exists(connection, SELECT_PRUNED, insert->row, &task->error);
    if (found != 0)
        return found < 0 ? found : 0;
    found = below_floor(connection, insert->row, &task->error);
    if (found == 1) {
        found = key_exists(connection, SELECT_STORED, insert->row, &task->error);
        insert->replay_suspected = found == 0;
        return found < 0 ? found : 0;
    }
    if (found == 0 && insert->legacy_once) {
        found = legacy_was_seen(connection, insert, &task->error);
        if (found == 1)
            return 0;
    }
    return found < 0 ? found : insert_or_replace(inbox, connection, insert, &task->error);
}

static int run_insert(struct db_connection *connection, struct db_task *task)
{
    const struct insert_task *work = CONTAINER_OF(task, struct insert_task, task);
    struct inbox *inbox = work->inbox;
    bool follows = work->attempt == inbox->attempt_run && work->number == inbox->inserts_run + 1;
    if (!follows && work->number != work->first_of_attempt)
        return error_set(&task->error, ERROR_BUSY, "an earlier message is not stored yet");
    int status = store_once(inbox, connection, task);
    if (status == 0) {
        inbox->attempt_run = work->attempt;
        inbox->inserts_run = work->number;
    }
    return status;
}

static void done_insert(struct db_task *task)
{
    struct insert_task *work = CONTAINER_OF(task, struct insert_task, task);
    struct inbox_insert *insert = work->insert;
    insert->status = task->status;
    inbox_note_result(work->inbox, task->status);
    if (atomic_exchange(&work->inbox->index_damaged, false))
        search_renew(work->inbox);
    if (task->status < 0)
        insert->is_new = insert->replay_suspected = false;
    hook_runs_inserted(work->inbox, insert);
    if (task->status < 0 && work->attempt == work->inbox->attempt) {
        work->inbox->attempt++;
        work->inbox->first_of_attempt = work->inbox->insert_count + 1;
    }
    if (insert->is_new && insert->row->seq > work->inbox->newest_seq)
        work->inbox->newest_seq = insert->row->seq;
    void (*done)(struct inbox_insert *) = work->done;
    free(work);
    done(insert);
}

void inbox_insert(struct inbox *inbox, struct inbox_insert *insert, void (*done)(struct inbox_insert *insert))
{
    struct insert_task *work = memory_zalloc(sizeof(*work));
    ulid_generate(insert->row->id);
    work->task = (struct db_task){ .run = run_insert, .done = done_insert, .flags = DB_DURABLE };
    hook_runs_admit(inbox, insert);
    bool several = insert->legacy_once || insert->hook_count > 0;
    work->task.flags |= (several ? (unsigned)DB_SAVEPOINT : 0) | (insert->patient ? (unsigned)DB_PATIENT : 0);
    work->inbox = inbox;
    work->number = ++inbox->insert_count;
    work->attempt = inbox->attempt;
    work->first_of_attempt = inbox->first_of_attempt;
    work->insert = insert;
    work->done = done;
    db_write(inbox->db, &work->task);
}

void inbox_insert_free(struct inbox_insert *insert)
{
    if (insert == NULL)
        return;
    inbox_row_free(insert->row);
    for (size_t i = 0; i < ARRAY_LENGTH(insert->hooks); i++)
        free(insert->hooks[i]);
    for (size_t i = 0; i < insert->other_key_count; i++)
        free(insert->other_keys[i]);
    free(insert);
}
