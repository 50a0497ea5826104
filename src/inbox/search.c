/* Owns the full-text index as something that is kept: made, filled with what was there before it in small steps, changed in the transaction that changes a row, made anew when it is
 * damaged. Must not answer a query (find.c). The index holds no text of its own: it points into the table. */
#include "inbox/internal.h"
#include "util/memory.h"

enum {
    /* What one step may take from the messages that come meanwhile: a few milliseconds. */
    STEP_ROWS = 100,
    STEP_BYTES = 64 * 1024,
    BUSY_BACKLOG = 4 /* tasks waiting: others come first, the next second goes on */
};

static const char SELECT_EXISTS[] = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'inbox_search'";
static const char CREATE_INDEX[] =
    "CREATE VIRTUAL TABLE inbox_search USING fts5 (body, sender_name, meta, content = 'inbox', content_rowid = 'seq',"
    " tokenize = \"unicode61 remove_diacritics 2\")";
static const char DROP_INDEX[] = "DROP TABLE IF EXISTS inbox_search";
static const char SET_DOWN_TO[] = "UPDATE inbox_index SET down_to = ?1 WHERE id = 1";
static const char SET_DOWN_TO_NEWEST[] =
    "UPDATE inbox_index SET down_to = coalesce((SELECT seq + 1 FROM sqlite_sequence WHERE name = 'inbox'), 0) WHERE id = 1";
static const char SELECT_DOWN_TO[] = "SELECT down_to FROM inbox_index WHERE id = 1";
static const char ADD_ROW[] = "INSERT INTO inbox_search (rowid, body, sender_name, meta) VALUES (?1, ?2, ?3, ?4)";
static const char REMOVE_ROW[] = "INSERT INTO inbox_search (inbox_search, rowid, body, sender_name, meta)"
                                 " SELECT 'delete', seq, body, sender_name, meta FROM inbox WHERE seq = ?1"
                                 " AND seq >= (SELECT down_to FROM inbox_index WHERE id = 1)";
static const char SELECT_OLDER[] =
    "SELECT seq, length(CAST(body AS BLOB)) + coalesce(length(CAST(meta AS BLOB)), 0) FROM inbox WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2";
/* In ascending order: the index keeps what is added in memory until a seq is lower than the one before. */
static const char ADD_OLDER[] = "INSERT INTO inbox_search (rowid, body, sender_name, meta)"
                                " SELECT seq, body, sender_name, meta FROM inbox WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";

/* ---- made and dropped ------------------------------------------------------------------------------------------------ */

static int index_exists(struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_EXISTS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_step(statement, error);
    db_reset(statement);
    return status;
}

static int make_index(struct db_connection *connection, struct error *error)
{
    int status = db_execute(connection, error, NULL, CREATE_INDEX, "");
    return status == 0 ? db_execute(connection, error, NULL, SET_DOWN_TO_NEWEST, "") : status;
}

int search_open(struct inbox *inbox, struct db_connection *connection, struct error *error)
{
    int exists = index_exists(connection, error);
    if (exists < 0)
        return exists;
    if (inbox->searchable && exists == 0)
        return make_index(connection, error);
    if (!inbox->searchable && exists == 1)
        return db_execute(connection, error, NULL, DROP_INDEX, "");
    return 0;
}

/* ---- with the row ------------------------------------------------------------------------------------------------------ */

/* Damage of the index alone is mended by making it anew; that of the file is not ours. */
static int note_damage(struct inbox *inbox, struct db_connection *connection, int status)
{
    if (status == -ERROR_CORRUPT && sqlite3_extended_errcode(db_handle(connection)) == SQLITE_CORRUPT_VTAB)
        atomic_store(&inbox->index_damaged, true);
    return status;
}

int search_add(struct inbox *inbox, struct db_connection *connection, const struct inbox_row *row, struct error *error)
{
    if (!inbox->searchable)
        return 0;
    struct text body = { row->body == NULL ? "" : row->body, row->body_size };
    return note_damage(inbox, connection,
                       db_execute(connection, error, NULL, ADD_ROW, "ixtt", row->seq, body, row->sender_name, row->meta));
}

int search_remove(struct inbox *inbox, struct db_connection *connection, int64_t seq, struct error *error)
{
    if (!inbox->searchable)
        return 0;
    return note_damage(inbox, connection, db_execute(connection, error, NULL, REMOVE_ROW, "i", seq));
}

/* ---- what was there before it ------------------------------------------------------------------------------------------- */

struct index_task {
    struct db_task task;
    struct inbox *inbox;
    bool renew;
    bool whole;
};

static int read_down_to(struct db_connection *connection, int64_t *ret_seq, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_DOWN_TO, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_step(statement, error);
    if (status == 1)
        *ret_seq = db_column_integer(statement, 0, 0);
    db_reset(statement);
    return status < 0 ? status : 0;
}

/* From which seq on the next step takes rows; 0: there are none. */
static int choose_step(struct db_connection *connection, int64_t down_to, int64_t *ret_from, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_OLDER, error);
    if (statement == NULL)
        return -(int)error->code;
    int64_t from = 0, bytes = 0;
    int status = db_bind(statement, error, "ii", down_to, (int64_t)STEP_ROWS);
    while (status == 0 && bytes < STEP_BYTES && (status = db_step(statement, error)) == 1) {
        from = db_column_integer(statement, 0, 0);
        bytes += db_column_integer(statement, 1, 0);
        status = 0;
    }
    db_reset(statement);
    if (status < 0)
        return status;
    *ret_from = from;
    return 0;
}

static int run_step(struct db_connection *connection, struct db_task *task)
{
    struct index_task *step = CONTAINER_OF(task, struct index_task, task);
    struct error *error = &task->error;
    int64_t down_to = 0, from = 0;
    if (step->renew) {
        int status = db_execute(connection, error, NULL, DROP_INDEX, "");
        return status == 0 ? make_index(connection, error) : status;
    }
    int status = read_down_to(connection, &down_to, error);
    if (status == 0 && down_to > 0)
        status = choose_step(connection, down_to, &from, error);
    if (status == 0 && from > 0)
        status = note_damage(step->inbox, connection, db_execute(connection, error, NULL, ADD_OLDER, "ii", from, down_to));
    if (status == 0 && from != down_to)
        status = db_execute(connection, error, NULL, SET_DOWN_TO, "i", from);
    step->whole = from == 0;
    return status;
}

static void done_step(struct db_task *task)
{
    struct index_task *step = CONTAINER_OF(task, struct index_task, task);
    struct inbox *inbox = step->inbox;
    bool renewed = step->renew;
    inbox->index_whole = task->status == 0 && step->whole && !renewed;
    step->renew = atomic_exchange(&inbox->index_damaged, false);
    bool more = task->status == 0 && !inbox->index_whole && !atomic_load(&inbox->closed) && db_write_backlog(inbox->db) < BUSY_BACKLOG;
    if (more || (step->renew && !renewed && !atomic_load(&inbox->closed))) {
        db_write(inbox->db, task);
        return;
    }
    inbox->indexing = false;
    free(step);
}

static void submit(struct inbox *inbox, bool renew)
{
    struct index_task *step = memory_zalloc(sizeof(*step));
    /* Not durable: what the power takes is done again. */
    step->task = (struct db_task){ .run = run_step, .done = done_step, .flags = DB_SAVEPOINT };
    step->inbox = inbox;
    step->renew = renew;
    inbox->indexing = true;
    db_write(inbox->db, &step->task);
}

void search_continue(struct inbox *inbox)
{
    if (!inbox->searchable || inbox->indexing || inbox->index_whole || inbox->degraded || atomic_load(&inbox->closed))
        return;
    submit(inbox, atomic_exchange(&inbox->index_damaged, false));
}

void search_renew(struct inbox *inbox)
{
    inbox->index_whole = false;
    if (!inbox->searchable || atomic_load(&inbox->closed))
        return;
    if (inbox->indexing)
        atomic_store(&inbox->index_damaged, true); /* the step that is under way goes on with it */
    else
        submit(inbox, true);
}
