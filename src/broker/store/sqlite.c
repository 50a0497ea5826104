/* The SQLite store: opening, and the way of a request to its thread and back. What runs there stands in the file of its subject. */
#include "broker/store/sqlite.h"

#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

struct sqlite_task {
    struct db_task task;
    struct sqlite_store *store;
    struct store_request *request;
    sqlite_run *run;
    enum store_measure op;
};

static const char *const MEASURE_NAMES[STORE_OPS] = {
    [STORE_OP_CREATE_MESH] = "create_mesh",
    [STORE_OP_JOIN] = "join",
    [STORE_OP_HELLO] = "hello",
    [STORE_OP_ACCEPT] = "accept",
    [STORE_OP_FETCH] = "fetch",
    [STORE_OP_ACKNOWLEDGE] = "acknowledge",
    [STORE_OP_RECEIPTS] = "receipts",
    [STORE_OP_STATEMENT] = "statement",
    [STORE_OP_LIST] = "list_members",
    [STORE_OP_HISTORY] = "history",
    [STORE_OP_STATUS] = "message_status",
    [STORE_OP_SESSION] = "session",
    [STORE_OP_KEEP] = "keep",
    [STORE_OP_COUNT] = "count",
};

const char *store_measure_name(enum store_measure op)
{
    return MEASURE_NAMES[op];
}

const char *store_ack_kind_name(enum store_ack_kind kind)
{
    static const char *const NAMES[] = {
        [STORE_ACK_QUARANTINED] = "quarantined", [STORE_ACK_IMPLIED] = "implied", [STORE_ACK_STORED] = "stored", [STORE_ACK_SEEN] = "seen"
    };
    return NAMES[kind];
}

/* Counts and promises that stand in memory go back with a transaction that does. */
static void rolled_back(void *argument)
{
    struct sqlite_store *store = argument;
    waiting_clear(store);
    store->options.admission.rolled_back(store->options.admission.argument);
}

static void committed(void *argument)
{
    const struct sqlite_store *store = argument;
    store->options.admission.committed(store->options.admission.argument);
}

static int run_task(struct db_connection *connection, struct db_task *base)
{
    struct sqlite_task *task = CONTAINER_OF(base, struct sqlite_task, task);
    return task->run(task->store, connection, task->request, &base->error);
}

static void finish_task(struct db_task *base)
{
    struct sqlite_task *task = CONTAINER_OF(base, struct sqlite_task, task);
    struct store_request *request = task->request;
    const struct store_options *options = &task->store->options;
    request->status = base->status;
    request->error = &base->error;
    if (options->measured != NULL)
        options->measured(options->argument, task->op, clock_monotonic_us() - request->submitted_us);
    if (task->run == sqlite_run_accept)
        sqlite_accept_finished(task->store, CONTAINER_OF(request, struct store_accept, request));
    request->done(request);
    free(task);
}

void sqlite_submit(struct store *store, struct store_request *request, enum store_measure op, enum sqlite_way way, sqlite_run *run)
{
    struct sqlite_store *sqlite = CONTAINER_OF(store, struct sqlite_store, store);
    struct sqlite_task *task = memory_zalloc(sizeof(*task));
    task->store = sqlite;
    task->request = request;
    task->run = run;
    task->op = op;
    task->task.done = finish_task;
    request->submitted_us = clock_monotonic_us();
    task->task.run = run_task;
    if (way == RUN_READING) {
        db_read(sqlite->db, &task->task);
        return;
    }
    task->task.flags = DB_SAVEPOINT | (way == RUN_WRITING_DURABLY ? DB_DURABLE : 0u) | (request->patient ? DB_PATIENT : 0u);
    db_write(sqlite->db, &task->task);
}

/* ---- what is too small for a file of its own ---------------------------------------------------------------- */

static const char SAVE_SESSION[] = "UPDATE session SET presence = coalesce(?, presence), last_seen_at = max(last_seen_at, ?) WHERE id = ?";
static const char SEEN_MEMBER[] = "UPDATE member SET last_seen_at = max(coalesce(last_seen_at, 0), ?) WHERE id = ?";
static const char INSERT_AUDIT[] = "INSERT INTO audit (mesh_id, member_id, event, detail, at) VALUES (?, nullif(?, 0), ?, ?, ?)";
static const char COUNT_ALL[] =
    "SELECT (SELECT count(*) FROM mesh), (SELECT count(*) FROM member WHERE state = 'active'), (SELECT count(*) FROM delivery_queue)";

static int run_save_session(struct sqlite_store *store, struct db_connection *connection, struct store_request *request,
                            struct error *error)
{
    (void)store;
    const struct store_save_session *save = CONTAINER_OF(request, struct store_save_session, request);
    int status = db_execute(connection, error, NULL, SEEN_MEMBER, "ii", save->now_ms, save->member);
    if (status == 0 && save->session != 0)
        status = db_execute(connection, error, NULL, SAVE_SESSION, "tii", save->state, save->now_ms, save->session);
    return status;
}

void sqlite_save_session(struct store *store, struct store_save_session *request)
{
    sqlite_submit(store, &request->request, STORE_OP_SESSION, RUN_WRITING, run_save_session);
}

int audit_insert(struct db_connection *connection, int64_t mesh, int64_t member, const char *event, const char *detail, int64_t now_ms,
                 struct error *error)
{
    return db_execute(connection, error, NULL, INSERT_AUDIT, "iitti", mesh, member, event, detail, now_ms);
}

static int run_audit(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    const struct store_audit *audit = CONTAINER_OF(request, struct store_audit, request);
    return audit_insert(connection, audit->mesh, audit->member, audit->event, audit->detail, audit->now_ms, error);
}

void sqlite_audit(struct store *store, struct store_audit *request)
{
    sqlite_submit(store, &request->request, STORE_OP_SESSION, RUN_WRITING, run_audit);
}

static int run_forget_connection(struct sqlite_store *store, struct db_connection *connection, struct store_request *request,
                                 struct error *error)
{
    (void)connection;
    (void)error;
    const struct store_forget_connection *forget = CONTAINER_OF(request, struct store_forget_connection, request);
    store->options.admission.forget(store->options.admission.argument, forget->connection);
    return 0;
}

static void sqlite_forget_connection(struct store *store, struct store_forget_connection *request)
{
    sqlite_submit(store, &request->request, STORE_OP_SESSION, RUN_WRITING, run_forget_connection);
}

static int run_count(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_count *count = CONTAINER_OF(request, struct store_count, request);
    sqlite3_stmt *statement = db_prepare(connection, COUNT_ALL, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_step(statement, error);
    if (status == 1) {
        count->meshes = db_column_integer(statement, 0, 0);
        count->members = db_column_integer(statement, 1, 0);
        count->deliveries = db_column_integer(statement, 2, 0);
        status = 0;
    }
    db_reset(statement);
    return status;
}

void sqlite_count(struct store *store, struct store_count *request)
{
    sqlite_submit(store, &request->request, STORE_OP_COUNT, RUN_READING, run_count);
}

/* ---- opening ------------------------------------------------------------------------------------------------- */

static void sqlite_close(struct store *store)
{
    struct sqlite_store *sqlite = CONTAINER_OF(store, struct sqlite_store, store);
    db_stop(sqlite->db);
}

static void sqlite_free(struct store *store)
{
    struct sqlite_store *sqlite = CONTAINER_OF(store, struct sqlite_store, store);
    db_close(sqlite->db);
    waiting_clear(sqlite);
    table_release(&sqlite->waiting);
    free(sqlite);
}

static const struct store_operations OPERATIONS = {
    .close = sqlite_close,
    .free = sqlite_free,
    .create_mesh = sqlite_create_mesh,
    .join = sqlite_join,
    .hello = sqlite_hello,
    .accept = sqlite_accept,
    .fetch = sqlite_fetch,
    .acknowledge = sqlite_acknowledge,
    .fetch_receipts = sqlite_fetch_receipts,
    .settle_receipts = sqlite_settle_receipts,
    .state = sqlite_state,
    .rotate = sqlite_rotate,
    .list_members = sqlite_list_members,
    .find_member = sqlite_find_member,
    .history = sqlite_history,
    .message_status = sqlite_message_status,
    .save_session = sqlite_save_session,
    .audit = sqlite_audit,
    .forget_connection = sqlite_forget_connection,
    .keep = sqlite_keep,
    .check = sqlite_check,
    .count = sqlite_count,
};

static const char SCHEME[] = "sqlite:";

static int path_of(const char *where, const char **ret_path, struct error *error)
{
    if (!string_has_prefix(where, SCHEME) || where[sizeof SCHEME - 1] == '\0')
        return error_set(error, ERROR_INVALID, "the store must be given as sqlite:PATH; PostgreSQL is not built in yet");
    *ret_path = where + sizeof SCHEME - 1;
    return 0;
}

int store_open(const char *where, const struct store_options *options, struct store **ret_store, struct error *error)
{
    const char *path = NULL;
    int status = path_of(where, &path, error);
    if (status != 0)
        return status;
    struct sqlite_store *store = memory_zalloc(sizeof(*store));
    store->store.operations = &OPERATIONS;
    store->options = *options;
    const struct db_options db_options = {
        .path = path,
        .migrations = SQLITE_BROKER_MIGRATIONS,
        .migration_count = SQLITE_BROKER_MIGRATION_COUNT,
        .durability = options->batched ? DB_BATCHED : DB_STRICT,
        .completions = options->completions,
        .background_check_above = UINT64_C(64) * 1024 * 1024,
    };
    status = db_open(&db_options, &store->db, error);
    if (status != 0) {
        free(store);
        return status;
    }
    const struct db_hooks hooks = { .argument = store, .committed = committed, .rolled_back = rolled_back };
    db_set_hooks(store->db, &hooks);
    *ret_store = &store->store;
    return 0;
}

int64_t store_check_file(const char *where, void (*found)(void *argument, const char *finding), void *argument, struct error *error)
{
    const char *path = NULL;
    int status = path_of(where, &path, error);
    if (status != 0)
        return status;
    return sqlite_check_file(path, found, argument, error);
}
