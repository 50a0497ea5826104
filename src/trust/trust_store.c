/* Owns the SQL of trust's tables. Must not judge what it keeps: whatever is put here was verified by the others. */
#include "trust/trust_store.h"

#include "json/json.h"
#include "trust/trust_internal.h"
#include "util/memory.h"

const char TRUST_SCHEMA_SQL[] =
    "CREATE TABLE trust_statement (mesh TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, document TEXT NOT NULL,"
    " PRIMARY KEY (mesh, kind, id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE trust_member (mesh TEXT NOT NULL, pubkey TEXT NOT NULL, member_id TEXT NOT NULL, name TEXT NOT NULL,"
    " joined_at INTEGER NOT NULL, last_seen_at INTEGER NOT NULL, listed INTEGER NOT NULL, revoked_claim INTEGER NOT NULL,"
    " PRIMARY KEY (mesh, pubkey)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE trust_pin (mesh TEXT NOT NULL, name TEXT NOT NULL, pubkey TEXT NOT NULL, first_seen INTEGER NOT NULL,"
    " settled INTEGER NOT NULL, PRIMARY KEY (mesh, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE trust_sender (mesh TEXT NOT NULL, pubkey TEXT NOT NULL, body_version INTEGER NOT NULL,"
    " PRIMARY KEY (mesh, pubkey)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE trust_mesh (mesh TEXT NOT NULL PRIMARY KEY, retention_days INTEGER NOT NULL, challenge_seen INTEGER NOT NULL,"
    " profile TEXT) STRICT, WITHOUT ROWID;";

/* Set by a restore, in the transaction that makes the database; gone in the one that stores what the first members_list after it brought. */
const char TRUST_AWAITING_SQL[] =
    "CREATE TABLE trust_awaiting (mesh TEXT NOT NULL PRIMARY KEY, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;";

static const char PUT_STATEMENT[] = "INSERT OR REPLACE INTO trust_statement (mesh, kind, id, document) VALUES (?, ?, ?, ?)";
static const char PUT_MEMBER[] =
    "INSERT OR REPLACE INTO trust_member (mesh, pubkey, member_id, name, joined_at, last_seen_at, listed, revoked_claim)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
static const char DROP_MEMBER[] = "DELETE FROM trust_member WHERE mesh = ? AND pubkey = ?";
static const char DROP_OWN_STATEMENTS[] = "DELETE FROM trust_statement WHERE mesh = ? AND kind IN ('name', 'leave') AND id = ?";
static const char PUT_PIN[] = "INSERT OR REPLACE INTO trust_pin (mesh, name, pubkey, first_seen, settled) VALUES (?, ?, ?, ?, ?)";
/* Never lowered, whatever order restored files and new messages come in. */
static const char PUT_SENDER[] = "INSERT INTO trust_sender (mesh, pubkey, body_version) VALUES (?, ?, ?)"
                                 " ON CONFLICT (mesh, pubkey) DO UPDATE SET body_version = max(body_version, excluded.body_version)";
static const char PUT_MESH[] = "INSERT OR REPLACE INTO trust_mesh (mesh, retention_days, challenge_seen, profile) VALUES (?, ?, ?, ?)";

static const char LOAD_MEMBERS[] =
    "SELECT pubkey, member_id, name, joined_at, last_seen_at, listed, revoked_claim FROM trust_member WHERE mesh = ? ORDER BY pubkey";
static const char LOAD_STATEMENTS[] = "SELECT document FROM trust_statement WHERE mesh = ? AND kind = ? ORDER BY id";
static const char LOAD_PINS[] = "SELECT name, pubkey, first_seen, settled FROM trust_pin WHERE mesh = ? ORDER BY name";
static const char LOAD_SENDERS[] = "SELECT pubkey, body_version FROM trust_sender WHERE mesh = ?";
static const char DROP_AWAITING[] = "DELETE FROM trust_awaiting WHERE mesh = ?";
static const char PUT_AWAITING[] = "INSERT OR REPLACE INTO trust_awaiting (mesh, since) VALUES (?1, ?2)";
static const char LOAD_AWAITING[] = "SELECT since FROM trust_awaiting WHERE mesh = ?";
static const char LOAD_MESH[] = "SELECT retention_days, challenge_seen, profile FROM trust_mesh WHERE mesh = ?";

/* ---- writing ---------------------------------------------------------------------------------------------- */

enum { VALUES_MAXIMUM = 8 };

struct store_value {
    bool is_number;
    int64_t number;
    char *text; /* NULL: null */
};

struct store_change {
    struct store_change *next;
    const char *sql;
    size_t value_count;
    struct store_value values[VALUES_MAXIMUM];
};

struct change_list {
    struct store_change *first, *last;
};

struct trust_store {
    struct db *db;
    char *mesh_id;
    size_t references;          /* the trust's, and one for each write on its way */
    struct change_list changes; /* not queued yet, what failed before in front */
};

struct store_write {
    struct db_task task;
    struct trust_store *store;
    struct change_list changes;
};

static void change_list_free(struct change_list *list)
{
    while (list->first != NULL) {
        struct store_change *next = list->first->next;
        for (size_t index = 0; index < list->first->value_count; index++) {
            free(list->first->values[index].text);
        }
        free(list->first);
        list->first = next;
    }
    list->last = NULL;
}

static void change_list_append(struct change_list *list, struct change_list *more)
{
    if (more->first == NULL) {
        return;
    }
    if (list->first == NULL) {
        *list = *more;
    } else {
        list->last->next = more->first;
        list->last = more->last;
    }
    *more = (struct change_list){ NULL, NULL };
}

struct trust_store *trust_store_new(struct db *db, const char *mesh_id)
{
    struct trust_store *store = memory_zalloc(sizeof(*store));
    store->db = db;
    store->mesh_id = memory_strdup(mesh_id);
    store->references = 1;
    return store;
}

void trust_store_free(struct trust_store *store)
{
    if (store == NULL || --store->references > 0) {
        return;
    }
    change_list_free(&store->changes);
    free(store->mesh_id);
    free(store);
}

static int bind_change(sqlite3_stmt *statement, const struct store_change *change, struct error *error)
{
    for (size_t index = 0; index < change->value_count; index++) {
        const struct store_value *value = &change->values[index];
        int parameter = (int)index + 1;
        int result = value->is_number      ? sqlite3_bind_int64(statement, parameter, value->number)
                     : value->text == NULL ? sqlite3_bind_null(statement, parameter)
                                           : sqlite3_bind_text(statement, parameter, value->text, -1, SQLITE_STATIC);
        if (result != SQLITE_OK) {
            return error_set(error, ERROR_INTERNAL, "a value of trust's cannot be bound: %s", sqlite3_errstr(result));
        }
    }
    return 0;
}

/* The writer's thread. */
static int write_run(struct db_connection *connection, struct db_task *task)
{
    struct store_write *write = CONTAINER_OF(task, struct store_write, task);
    for (const struct store_change *change = write->changes.first; change != NULL; change = change->next) {
        sqlite3_stmt *statement = db_prepare(connection, change->sql, &task->error);
        if (statement == NULL) {
            return -(int)task->error.code;
        }
        int result = bind_change(statement, change, &task->error);
        if (result == 0) {
            result = db_step(statement, &task->error);
        }
        db_reset(statement);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

/* A change is never dropped: what could not be written goes before the next ones. Queueing it again here would turn round and round on a full disk. */
static void write_done(struct db_task *task)
{
    struct store_write *write = CONTAINER_OF(task, struct store_write, task);
    struct trust_store *store = write->store;
    if (task->status < 0) {
        change_list_append(&write->changes, &store->changes);
        store->changes = write->changes;
    } else {
        change_list_free(&write->changes);
    }
    free(write);
    trust_store_free(store);
}

void trust_store_flush(struct trust_store *store)
{
    if (store->changes.first == NULL) {
        return;
    }
    struct store_write *write = memory_zalloc(sizeof(*write));
    write->task.flags = DB_DURABLE | DB_SAVEPOINT;
    write->task.run = write_run;
    write->task.done = write_done;
    write->store = store;
    change_list_append(&write->changes, &store->changes);
    store->references++;
    db_write(store->db, &write->task);
}

static struct store_change *change_new(struct trust_store *store, const char *sql)
{
    struct store_change *change = memory_zalloc(sizeof(*change));
    struct change_list one = { change, change };
    change->sql = sql;
    change_list_append(&store->changes, &one);
    return change;
}

static void change_text(struct store_change *change, const char *text)
{
    change->values[change->value_count++].text = memory_strdup(text);
}

static void change_number(struct store_change *change, int64_t number)
{
    change->values[change->value_count++] = (struct store_value){ .is_number = true, .number = number };
}

void trust_store_put_statement(struct trust_store *store, const char *kind, const char *id, const char *document)
{
    struct store_change *change = change_new(store, PUT_STATEMENT);
    change_text(change, store->mesh_id);
    change_text(change, kind);
    change_text(change, id);
    change_text(change, document);
}

void trust_store_put_member(struct trust_store *store, const struct trust_member *member, const char *broker_name)
{
    struct store_change *change = change_new(store, PUT_MEMBER);
    change_text(change, store->mesh_id);
    change_text(change, member->pubkey);
    change_text(change, member->member_id);
    change_text(change, broker_name);
    change_number(change, member->joined_at);
    change_number(change, member->last_seen_at);
    change_number(change, member->listed ? 1 : 0);
    change_number(change, member->revoked_claim ? 1 : 0);
}

void trust_store_drop_member(struct trust_store *store, const char *pubkey_hex)
{
    struct store_change *change = change_new(store, DROP_MEMBER);
    change_text(change, store->mesh_id);
    change_text(change, pubkey_hex);
    change = change_new(store, DROP_OWN_STATEMENTS);
    change_text(change, store->mesh_id);
    change_text(change, pubkey_hex);
}

void trust_store_put_pin(struct trust_store *store, const char *folded_name, const char *pubkey_hex, int64_t first_seen, bool settled)
{
    struct store_change *change = change_new(store, PUT_PIN);
    change_text(change, store->mesh_id);
    change_text(change, folded_name);
    change_text(change, pubkey_hex);
    change_number(change, first_seen);
    change_number(change, settled ? 1 : 0);
}

void trust_store_put_body_version(struct trust_store *store, const char *pubkey_hex, int64_t body_version)
{
    struct store_change *change = change_new(store, PUT_SENDER);
    change_text(change, store->mesh_id);
    change_text(change, pubkey_hex);
    change_number(change, body_version);
}

void trust_store_put_facts(struct trust_store *store, const struct facts_of_mesh *facts)
{
    struct store_change *change = change_new(store, PUT_MESH);
    change_text(change, store->mesh_id);
    change_number(change, facts->retention_days);
    change_number(change, facts->challenge_seen ? 1 : 0);
    change_text(change, facts->profile);
}

void trust_store_drop_awaiting(struct trust_store *store)
{
    change_text(change_new(store, DROP_AWAITING), store->mesh_id);
}

int trust_mark_awaiting(struct db_connection *connection, const char *mesh_id, int64_t since, struct error *error)
{
    return db_execute(connection, error, NULL, PUT_AWAITING, "ti", mesh_id, since);
}

/* ---- loading ---------------------------------------------------------------------------------------------- */

struct store_load {
    struct db_task task;
    struct trust_store *store;
    struct trust *trust; /* the loop waits: it is the writer's for that time */
};

static void load_member(struct trust *trust, sqlite3_stmt *row)
{
    struct person *person = people_get(trust, db_column_string(row, 0));
    if (person == NULL) {
        return;
    }
    free(person->member.member_id);
    free(person->broker_name);
    person->member.member_id = db_column_dup(row, 1);
    person->broker_name = db_column_dup(row, 2);
    person->member.joined_at = db_column_integer(row, 3, -1);
    person->member.last_seen_at = db_column_integer(row, 4, -1);
    person->member.listed = db_column_integer(row, 5, 0) != 0;
    person->member.revoked_claim = db_column_integer(row, 6, 0) != 0;
}

static void load_pin(struct trust *trust, sqlite3_stmt *row)
{
    names_load_pin(trust, db_column_string(row, 0), db_column_string(row, 1), db_column_integer(row, 2, 0),
                   db_column_integer(row, 3, 0) != 0);
}

static void load_sender(struct trust *trust, sqlite3_stmt *row)
{
    struct person *person = people_get(trust, db_column_string(row, 0));
    if (person != NULL) {
        person->body_version = db_column_integer(row, 1, 0);
    }
}

static void load_mesh(struct trust *trust, sqlite3_stmt *row)
{
    free(trust->facts.profile);
    trust->facts = (struct facts_of_mesh){ db_column_integer(row, 0, 0), db_column_integer(row, 1, 0) != 0, db_column_dup(row, 2) };
}

static void load_awaiting(struct trust *trust, sqlite3_stmt *row)
{
    (void)row;
    trust->awaits_list = true;
}

static enum acceptance load_rotation(struct trust *trust, const json_t *document)
{
    bool is_fork = false;
    return evidence_rotation(trust, document, &is_fork);
}

/* In this order: rotations and names need the people that certificates and grants make. */
static const struct statement_table {
    const char *kind;
    enum acceptance (*accept)(struct trust *trust, const json_t *document);
    bool by_seq; /* a rotation can only follow the one before it, and ids do not sort that way */
} STATEMENT_TABLES[] = {
    { "certificate", evidence_certificate, false },
    { "grant", evidence_grant, false },
    { "revocation", evidence_revocation, false },
    { "invite_revocation", evidence_invite_revocation, false },
    { "rotation", load_rotation, true },
    { "rotation_fork", load_rotation, false },
    { "name", evidence_name, false },
    { "leave", evidence_leave, false },
};

struct loaded_statement {
    json_t *document;
    int64_t seq;
};

struct loaded_statements {
    struct loaded_statement *items;
    size_t count, capacity;
};

static int compare_seq(const void *left, const void *right)
{
    const struct loaded_statement *a = left, *b = right;
    return a->seq < b->seq ? -1 : a->seq > b->seq ? 1 : 0;
}

static void keep_loaded(struct loaded_statements *statements, json_t *document /* given */)
{
    struct loaded_statement loaded = { .document = document };
    if (json_read_integer(document, "seq", JSON_REQUIRED, 0, INT64_C(1) << 53, &loaded.seq, NULL) != 0) {
        loaded.seq = 0; /* none of ours: whoever accepts it says so */
    }
    if (statements->count == statements->capacity) {
        statements->capacity = statements->capacity == 0 ? 64 : statements->capacity * 2;
        statements->items = memory_realloc(statements->items, statements->capacity * sizeof(*statements->items));
    }
    statements->items[statements->count++] = loaded;
}

/* One look at each: a member may have made any number of them. */
static void accept_by_seq(struct trust *trust, const struct statement_table *table, const struct loaded_statements *statements)
{
    if (statements->count > 0) {
        qsort(statements->items, statements->count, sizeof(*statements->items), compare_seq);
    }
    for (size_t index = 0; index < statements->count; index++) {
        (void)table->accept(trust, statements->items[index].document);
        json_decref(statements->items[index].document);
    }
    free(statements->items);
}

static int load_rows(struct db_connection *connection, struct store_load *load, const char *sql,
                     void (*take)(struct trust *trust, sqlite3_stmt *row))
{
    sqlite3_stmt *statement = db_prepare(connection, sql, &load->task.error);
    if (statement == NULL) {
        return -(int)load->task.error.code;
    }
    int result = db_bind(statement, &load->task.error, "t", load->store->mesh_id);
    if (result == 0) {
        while ((result = db_step(statement, &load->task.error)) == 1) {
            take(load->trust, statement);
        }
    }
    db_reset(statement);
    return result;
}

static int load_table(struct db_connection *connection, struct store_load *load, const struct statement_table *table)
{
    struct loaded_statements in_order = { NULL, 0, 0 };
    sqlite3_stmt *statement = db_prepare(connection, LOAD_STATEMENTS, &load->task.error);
    if (statement == NULL) {
        return -(int)load->task.error.code;
    }
    int result = db_bind(statement, &load->task.error, "tt", load->store->mesh_id, table->kind);
    if (result == 0) {
        while ((result = db_step(statement, &load->task.error)) == 1) {
            struct text text = db_column_text(statement, 0);
            json_t *document = NULL;
            if (json_parse_strict(text.data, text.length, &document, NULL) != 0) {
                continue;
            }
            if (table->by_seq) {
                keep_loaded(&in_order, document);
            } else {
                (void)table->accept(load->trust, document);
                json_decref(document);
            }
        }
    }
    db_reset(statement);
    accept_by_seq(load->trust, table, &in_order);
    return result;
}

static int load_run(struct db_connection *connection, struct db_task *task)
{
    struct store_load *load = CONTAINER_OF(task, struct store_load, task);
    int result = load_rows(connection, load, LOAD_MEMBERS, load_member);
    for (size_t index = 0; index < ARRAY_LENGTH(STATEMENT_TABLES) && result == 0; index++) {
        result = load_table(connection, load, &STATEMENT_TABLES[index]);
    }
    if (result == 0) {
        result = load_rows(connection, load, LOAD_PINS, load_pin);
    }
    if (result == 0) {
        result = load_rows(connection, load, LOAD_SENDERS, load_sender);
    }
    if (result == 0) {
        result = load_rows(connection, load, LOAD_AWAITING, load_awaiting);
    }
    return result == 0 ? load_rows(connection, load, LOAD_MESH, load_mesh) : result;
}

int trust_store_load(struct trust_store *store, struct trust *trust, struct error *error)
{
    struct store_load load = { .task = { .run = load_run }, .store = store, .trust = trust };
    int result = db_write_wait(store->db, &load.task); /* the writer's queue: whatever was put before is in it */
    if (result < 0 && error != NULL) {
        *error = load.task.error;
    }
    return result;
}
