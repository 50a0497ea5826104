/* Owns the reads: pages for the drain, lists and single rows for operators. Must not change anything. */
#include "outbox/internal.h"
#include "util/memory.h"

enum {
    /* A chain longer than this was made by a loop in somebody's script; its beginning tells enough. */
    MAX_CHAIN = 1000,
    MAX_RECEIPTS = 1000,
    /* Up to this many pending rows are sorted for a list; beyond, most of the newest rows are pending, and the table is walked from its end. */
    SORT_PENDING_BELOW = 20000,
};

static const char SELECT_PENDING[] =
    "SELECT " ROW_COLUMNS ", payload FROM outbox"
    " WHERE mesh = ?1 AND priority = ?2 AND status = 'pending' AND seq > ?3 AND seq <= ?4 ORDER BY seq LIMIT ?5";
static const char SELECT_LANE[] =
    "SELECT " ROW_COLUMNS ", payload FROM outbox"
    " WHERE mesh = ?1 AND priority = ?2 AND status = 'pending' AND seq > ?3 AND seq <= ?4 AND destination_ref = ?6 ORDER BY seq LIMIT ?5";

/* Newest first. One text a state: a partial index serves only a query that names its state. */
static const char LIST_ALL[] = "SELECT " ROW_COLUMNS " FROM outbox WHERE seq < ?1 AND (?2 IS NULL OR mesh = ?2) ORDER BY seq DESC LIMIT ?3";
#define LIST_STATE(from, state)                                          \
    "SELECT " ROW_COLUMNS " FROM outbox " from " WHERE status = '" state \
    "' AND seq < ?1 AND (?2 IS NULL OR mesh = ?2) ORDER BY seq DESC LIMIT ?3"
static const char LIST_PENDING_FEW[] = LIST_STATE("INDEXED BY outbox_pending", "pending");
static const char LIST_PENDING_MANY[] = LIST_STATE("NOT INDEXED", "pending");
static const char LIST_INFLIGHT[] = LIST_STATE("INDEXED BY outbox_inflight", "inflight");
static const char LIST_DONE[] = LIST_STATE("NOT INDEXED", "done");
static const char LIST_DEAD[] = LIST_STATE("INDEXED BY outbox_dead", "dead");
static const char LIST_ABORTED[] = LIST_STATE("INDEXED BY outbox_aborted", "aborted");

static const char SELECT_WITH_PAYLOAD[] = "SELECT " ROW_COLUMNS ", payload FROM outbox WHERE seq = ?1";
static const char SELECT_SUCCESSOR[] = "SELECT " ROW_COLUMNS " FROM outbox WHERE id = ?1";
static const char SELECT_RECEIPTS[] =
    "SELECT client_message_id, mesh, broker_message_id, by, rsig, state, at, signed_at, verified FROM receipt"
    " WHERE mesh = ?1 AND broker_message_id = ?2 ORDER BY at, by, state LIMIT ?3";

/* ---- pages ------------------------------------------------------------------------------------------------------------ */

struct rows_task {
    struct db_task task;
    const char *sql;
    bool with_payload;
    char *mesh, *destination_ref;
    enum outbox_priority priority;
    int64_t after_seq, up_to_seq;
    size_t limit;
    struct outbox_row **rows;
    size_t count, capacity;
    void (*done)(void *argument, int status, struct outbox_row **rows, size_t count);
    void *argument;
};

static void free_rows(struct outbox_row **rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        outbox_row_free(rows[i]);
    }
    free(rows);
}

static int collect(struct rows_task *query, sqlite3_stmt *statement, struct error *error)
{
    for (;;) {
        int status = db_step(statement, error);
        if (status != 1) {
            return status;
        }
        struct outbox_row *row = row_read(statement, query->with_payload, error);
        if (row == NULL) {
            return -(int)error->code;
        }
        if (query->count == query->capacity) {
            query->capacity = query->capacity == 0 ? 16 : query->capacity * 2;
            query->rows = memory_realloc(query->rows, query->capacity * sizeof(struct outbox_row *));
        }
        query->rows[query->count++] = row;
    }
}

static int run_fetch(struct db_connection *connection, struct db_task *task)
{
    struct rows_task *query = CONTAINER_OF(task, struct rows_task, task);
    sqlite3_stmt *statement = db_prepare(connection, query->sql, &task->error);
    if (statement == NULL) {
        return -(int)task->error.code;
    }
    const char *priority = priority_name(query->priority);
    int status = query->destination_ref == NULL ? db_bind(statement, &task->error, "ttiii", query->mesh, priority, query->after_seq,
                                                          query->up_to_seq, (int64_t)query->limit)
                                                : db_bind(statement, &task->error, "ttiiit", query->mesh, priority, query->after_seq,
                                                          query->up_to_seq, (int64_t)query->limit, query->destination_ref);
    return status == 0 ? collect(query, statement, &task->error) : status;
}

static int run_list(struct db_connection *connection, struct db_task *task)
{
    struct rows_task *query = CONTAINER_OF(task, struct rows_task, task);
    sqlite3_stmt *statement = db_prepare(connection, query->sql, &task->error);
    if (statement == NULL) {
        return -(int)task->error.code;
    }
    int status = db_bind(statement, &task->error, "iti", query->up_to_seq, query->mesh, (int64_t)query->limit);
    return status == 0 ? collect(query, statement, &task->error) : status;
}

static void done_rows(struct db_task *task)
{
    struct rows_task *query = CONTAINER_OF(task, struct rows_task, task);
    if (task->status < 0) {
        free_rows(query->rows, query->count);
        query->rows = NULL;
        query->count = 0;
    }
    query->done(query->argument, task->status, query->rows, query->count);
    free(query->mesh);
    free(query->destination_ref);
    free(query);
}

static int64_t sql_limit(size_t limit)
{
    return limit > INT32_MAX ? INT32_MAX : (int64_t)limit;
}

void outbox_fetch_pending(struct outbox *outbox, const struct outbox_fetch *fetch,
                          void (*done)(void *argument, int status, struct outbox_row **rows, size_t count), void *argument)
{
    struct rows_task *query = memory_zalloc(sizeof(*query));
    query->task = (struct db_task){ .run = run_fetch, .done = done_rows };
    query->sql = fetch->destination_ref == NULL ? SELECT_PENDING : SELECT_LANE;
    query->with_payload = true;
    query->mesh = memory_strdup(fetch->mesh);
    query->destination_ref = memory_strdup(fetch->destination_ref);
    query->priority = fetch->priority;
    query->after_seq = fetch->after_seq;
    query->up_to_seq = fetch->up_to_seq;
    query->limit = (size_t)sql_limit(fetch->limit);
    query->done = done;
    query->argument = argument;
    outbox_read(outbox, &query->task);
}

static const char *list_sql(struct outbox *outbox, const struct outbox_list *list)
{
    if (!list->has_state) {
        return LIST_ALL;
    }
    struct outbox_counts counts;
    switch (list->state) {
    case OUTBOX_PENDING:
        outbox_counts(outbox, NULL, &counts);
        return counts.pending < SORT_PENDING_BELOW ? LIST_PENDING_FEW : LIST_PENDING_MANY;
    case OUTBOX_INFLIGHT:
        return LIST_INFLIGHT;
    case OUTBOX_DONE:
        return LIST_DONE;
    case OUTBOX_DEAD:
        return LIST_DEAD;
    case OUTBOX_ABORTED:
        return LIST_ABORTED;
    case OUTBOX_STATES:
        break;
    }
    return LIST_ALL;
}

void outbox_list(struct outbox *outbox, const struct outbox_list *list,
                 void (*done)(void *argument, int status, struct outbox_row **rows, size_t count), void *argument)
{
    struct rows_task *query = memory_zalloc(sizeof(*query));
    query->task = (struct db_task){ .run = run_list, .done = done_rows };
    query->sql = list_sql(outbox, list);
    query->mesh = memory_strdup(list->mesh);
    query->up_to_seq = list->before_seq;
    query->limit = (size_t)sql_limit(list->limit);
    query->done = done;
    query->argument = argument;
    outbox_read(outbox, &query->task);
}

/* ---- one row, with what belongs to it ---------------------------------------------------------------------------------- */

struct find_task {
    struct db_task task;
    struct outbox *outbox;
    char *id;
    bool with_payload;
    struct outbox_found found;
    void (*done)(void *argument, int status, struct outbox_found *found);
    void *argument;
};

void outbox_found_release(struct outbox_found *found)
{
    outbox_row_free(found->row);
    free_rows(found->chain, found->chain_count);
    for (size_t i = 0; i < found->receipt_count; i++) {
        struct outbox_receipt *receipt = &found->receipts[i];
        free(receipt->client_message_id);
        free(receipt->mesh);
        free(receipt->broker_message_id);
        free(receipt->by);
        free(receipt->rsig);
    }
    free(found->receipts);
    *found = (struct outbox_found){ .row = NULL };
}

static int read_row(struct find_task *find, struct db_connection *connection, int64_t seq, struct error *error)
{
    if (!find->with_payload) {
        return row_load(connection, seq, &find->found.row, error);
    }
    sqlite3_stmt *statement = db_prepare(connection, SELECT_WITH_PAYLOAD, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "i", seq);
    if (status == 0 && (status = db_step(statement, error)) == 1) {
        find->found.row = row_read(statement, true, error);
        status = find->found.row == NULL ? -(int)error->code : 0;
    }
    return status;
}

static int read_chain(struct outbox_found *found, struct db_connection *connection, struct error *error)
{
    const struct outbox_row *last = found->row;
    while (last->superseded_by != NULL && found->chain_count < MAX_CHAIN) {
        sqlite3_stmt *statement = db_prepare(connection, SELECT_SUCCESSOR, error);
        if (statement == NULL) {
            return -(int)error->code;
        }
        int status = db_bind(statement, error, "t", last->superseded_by);
        if (status == 0) {
            status = db_step(statement, error);
        }
        if (status <= 0) {
            return status;
        }
        struct outbox_row *row = row_read(statement, false, error);
        if (row == NULL) {
            return -(int)error->code;
        }
        found->chain = memory_realloc(found->chain, (found->chain_count + 1) * sizeof(struct outbox_row *));
        found->chain[found->chain_count++] = row;
        last = row;
    }
    return 0;
}

static int read_receipts(struct outbox_found *found, struct db_connection *connection, struct error *error)
{
    if (found->row->broker_message_id == NULL) {
        return 0;
    }
    sqlite3_stmt *statement = db_prepare(connection, SELECT_RECEIPTS, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "tti", found->row->mesh, found->row->broker_message_id, (int64_t)MAX_RECEIPTS);
    while (status == 0 && (status = db_step(statement, error)) == 1) {
        found->receipts = memory_realloc(found->receipts, (found->receipt_count + 1) * sizeof(struct outbox_receipt));
        struct outbox_receipt *receipt = &found->receipts[found->receipt_count++];
        *receipt = (struct outbox_receipt){
            .client_message_id = db_column_dup(statement, 0),
            .mesh = db_column_dup(statement, 1),
            .broker_message_id = db_column_dup(statement, 2),
            .by = db_column_dup(statement, 3),
            .rsig = db_column_dup(statement, 4),
            .at = db_column_integer(statement, 6, -1),
            .signed_at = db_column_integer(statement, 7, -1),
            .verified = db_column_integer(statement, 8, 0) != 0,
        };
        const char *state = db_column_string(statement, 5);
        status = string_copy(receipt->state, sizeof(receipt->state), state == NULL ? "" : state) == 0
                     ? 0
                     : error_set(error, ERROR_CORRUPT, "a receipt is damaged");
    }
    return status;
}

static int run_find(struct db_connection *connection, struct db_task *task)
{
    struct find_task *find = CONTAINER_OF(task, struct find_task, task);
    outbox_found_release(&find->found); /* of a run that was undone */
    int64_t seq = 0;
    int status = row_find(find->outbox, connection, find->id, &seq, &task->error);
    if (status == 0) {
        status = read_row(find, connection, seq, &task->error);
    }
    if (status == 0 && find->found.row == NULL) {
        status = error_set(&task->error, ERROR_NOT_FOUND, "there is no outbox row %s", find->id);
    }
    if (status == 0) {
        status = read_chain(&find->found, connection, &task->error);
    }
    return status == 0 ? read_receipts(&find->found, connection, &task->error) : status;
}

static void done_find(struct db_task *task)
{
    struct find_task *find = CONTAINER_OF(task, struct find_task, task);
    if (task->status < 0) {
        outbox_found_release(&find->found);
    }
    find->done(find->argument, task->status, &find->found);
    free(find->id);
    free(find);
}

/* On the writer: only it knows the newest ids (key_index.c), and the answer is as of everything that was submitted before. */
void outbox_find(struct outbox *outbox, const char *id, bool with_payload,
                 void (*done)(void *argument, int status, struct outbox_found *found), void *argument)
{
    struct find_task *find = memory_zalloc(sizeof(*find));
    find->task = (struct db_task){ .run = run_find, .done = done_find };
    find->outbox = outbox;
    find->id = memory_strdup(id);
    find->with_payload = with_payload;
    find->done = done;
    find->argument = argument;
    outbox_write(outbox, &find->task);
}
