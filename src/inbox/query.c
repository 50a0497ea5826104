/* Owns reading the inbox in pages, and marking rows seen. A page is bounded by rows and by bytes; its order is that of seq, so that paging neither repeats
 * nor skips whatever arrives meanwhile. */
#include "inbox/internal.h"
#include "util/clock.h"
#include "util/memory.h"

/* One statement for each way in: the whole table by seq, the unread ones by their partial index, one sender by its index. */
#define SELECT_PAGE(index, condition, bound, order)                                                               \
    "SELECT " INBOX_COLUMNS ", body FROM inbox INDEXED BY " index " WHERE " condition " AND " bound               \
    " AND (?1 IS NULL OR mesh = ?1) AND (?2 IS NULL OR topic = ?2) AND (?3 IS NULL OR sender_pubkey = ?3)"        \
    " AND (?4 IS NULL OR sender_name = ?4 COLLATE NOCASE) AND received_at >= ?5 AND (?8 = 0 OR from_history = 0)" \
    " ORDER BY seq " order " LIMIT ?7"
#define SELECT_ANY(bound, order)                                                                                  \
    "SELECT " INBOX_COLUMNS ", body FROM inbox NOT INDEXED WHERE " bound                                          \
    " AND (?1 IS NULL OR mesh = ?1) AND (?2 IS NULL OR topic = ?2) AND (?3 IS NULL OR sender_pubkey = ?3)"        \
    " AND (?4 IS NULL OR sender_name = ?4 COLLATE NOCASE) AND received_at >= ?5 AND (?8 = 0 OR from_history = 0)" \
    " ORDER BY seq " order " LIMIT ?7"
#define UP "seq > ?6"
#define DOWN "seq < ?6"

static const char ANY_UP[] = SELECT_ANY(UP, "ASC");
static const char ANY_DOWN[] = SELECT_ANY(DOWN, "DESC");
static const char UNREAD_UP[] = SELECT_PAGE("inbox_unread", "seen_at IS NULL", UP, "ASC");
static const char UNREAD_DOWN[] = SELECT_PAGE("inbox_unread", "seen_at IS NULL", DOWN, "DESC");
static const char SENDER_UP[] = SELECT_PAGE("inbox_sender", "sender_pubkey = ?3", UP, "ASC");
static const char SENDER_DOWN[] = SELECT_PAGE("inbox_sender", "sender_pubkey = ?3", DOWN, "DESC");

static const char MARK_ONE[] = "UPDATE inbox SET seen_at = ?1 WHERE id = ?2 AND seen_at IS NULL AND (?3 IS NULL OR mesh = ?3)"
                               " RETURNING " INBOX_COLUMNS;
static const char MARK_STEP[] = "UPDATE inbox SET seen_at = ?1 WHERE seq IN (SELECT seq FROM inbox INDEXED BY inbox_unread"
                                " WHERE seen_at IS NULL AND (?3 IS NULL OR mesh = ?3) ORDER BY seq LIMIT ?2)"
                                " RETURNING " INBOX_COLUMNS;

/* ---- pages ----------------------------------------------------------------------------------------------------------- */

struct list_task {
    struct db_task task;
    struct inbox_query query; /* its strings are copies */
    char *mesh, *topic, *sender_pubkey, *sender_name;
    struct inbox_row **rows;
    size_t count;
    bool more;
    void (*done)(void *argument, int status, struct inbox_row **rows, size_t count, bool more);
    void *argument;
};

static const char *statement_of(const struct inbox_query *query)
{
    if (query->unread)
        return query->ascending ? UNREAD_UP : UNREAD_DOWN;
    if (query->sender_pubkey != NULL)
        return query->ascending ? SENDER_UP : SENDER_DOWN;
    return query->ascending ? ANY_UP : ANY_DOWN;
}

static void list_clear(struct list_task *list)
{
    for (size_t index = 0; index < list->count; index++)
        inbox_row_free(list->rows[index]);
    list->count = 0;
    list->more = false;
}

/* Takes rows until the page is full; what comes after it only says that there is more. */
static int read_page(struct list_task *list, sqlite3_stmt *statement, struct error *error)
{
    size_t bytes = 0;
    int status;
    while ((status = db_step(statement, error)) == 1) {
        size_t size = db_column_text(statement, INBOX_BODY_COLUMN).length + db_column_text(statement, 10).length;
        bool full = list->count == list->query.limit ||
                    (list->query.maximum_bytes > 0 && list->count > 0 && bytes + size > list->query.maximum_bytes);
        if (full) {
            list->more = true;
            return 0;
        }
        status = inbox_row_read(statement, true, &list->rows[list->count], error);
        if (status < 0)
            return status;
        list->count++;
        bytes += size;
    }
    return status;
}

static int run_list(struct db_connection *connection, struct db_task *task)
{
    struct list_task *list = CONTAINER_OF(task, struct list_task, task);
    const struct inbox_query *query = &list->query;
    list_clear(list);
    sqlite3_stmt *statement = db_prepare(connection, statement_of(query), &task->error);
    if (statement == NULL)
        return -(int)task->error.code;
    int64_t bound = query->after_seq >= 0 ? query->after_seq : query->ascending ? -1 : INT64_MAX;
    int status = db_bind(statement, &task->error, "ttttiiii", query->mesh, query->topic, query->sender_pubkey, query->sender_name,
                         query->since_ms < 0 ? INT64_MIN : query->since_ms, bound, (int64_t)query->limit + 1, (int64_t)query->came_live);
    if (status == 0)
        status = read_page(list, statement, &task->error);
    db_reset(statement);
    return status;
}

static void done_list(struct db_task *task)
{
    struct list_task *list = CONTAINER_OF(task, struct list_task, task);
    if (task->status < 0)
        list_clear(list);
    list->done(list->argument, task->status, list->rows, list->count, list->more);
    free(list->mesh);
    free(list->topic);
    free(list->sender_pubkey);
    free(list->sender_name);
    free(list);
}

void inbox_list(struct inbox *inbox, const struct inbox_query *query,
                void (*done)(void *argument, int status, struct inbox_row **rows, size_t count, bool more), void *argument)
{
    struct list_task *list = memory_zalloc(sizeof(*list));
    list->task = (struct db_task){ .run = run_list, .done = done_list };
    list->query = *query;
    list->query.mesh = list->mesh = memory_strdup(query->mesh);
    list->query.topic = list->topic = memory_strdup(query->topic);
    list->query.sender_pubkey = list->sender_pubkey = memory_strdup(query->sender_pubkey);
    /* A key decides alone; the name is for senders whose key nobody knows. */
    list->query.sender_name = list->sender_name = query->sender_pubkey == NULL ? memory_strdup(query->sender_name) : NULL;
    list->rows = memory_calloc(query->limit + 1, sizeof(struct inbox_row *));
    list->done = done;
    list->argument = argument;
    db_read(inbox->db, &list->task);
}

/* ---- seen ------------------------------------------------------------------------------------------------------------- */

struct mark_task {
    struct db_task task;
    struct inbox *inbox;
    char **ids; /* NULL: all, in steps */
    size_t id_count;
    char *mesh;
    int64_t now_ms;
    struct inbox_row **rows;
    size_t count, capacity;
    void (*done)(void *argument, int status, struct inbox_row **rows, size_t count, bool final);
    void *argument;
};

static void mark_clear(struct mark_task *mark)
{
    inbox_rows_free(mark->rows, mark->count);
    mark->rows = NULL;
    mark->count = mark->capacity = 0;
}

static int collect_marked(struct mark_task *mark, sqlite3_stmt *statement, struct error *error)
{
    int status;
    while ((status = db_step(statement, error)) == 1) {
        if (mark->count == mark->capacity) {
            mark->capacity = mark->capacity == 0 ? 16 : mark->capacity * 2;
            mark->rows = memory_realloc(mark->rows, mark->capacity * sizeof(struct inbox_row *));
        }
        status = inbox_row_read(statement, false, &mark->rows[mark->count], error);
        if (status < 0)
            break;
        mark->count++;
    }
    db_reset(statement);
    return status;
}

static int mark_ids(struct mark_task *mark, struct db_connection *connection, struct error *error)
{
    int status = 0;
    for (size_t index = 0; index < mark->id_count && status == 0; index++) {
        sqlite3_stmt *statement = db_prepare(connection, MARK_ONE, error);
        if (statement == NULL)
            return -(int)error->code;
        status = db_bind(statement, error, "itt", mark->now_ms, mark->ids[index], mark->mesh);
        if (status == 0)
            status = collect_marked(mark, statement, error);
        else
            db_reset(statement);
    }
    return status;
}

static int run_mark(struct db_connection *connection, struct db_task *task)
{
    struct mark_task *mark = CONTAINER_OF(task, struct mark_task, task);
    mark_clear(mark); /* it may run again */
    if (mark->ids != NULL)
        return mark_ids(mark, connection, &task->error);
    sqlite3_stmt *statement = db_prepare(connection, MARK_STEP, &task->error);
    if (statement == NULL)
        return -(int)task->error.code;
    int status = db_bind(statement, &task->error, "iit", mark->now_ms, (int64_t)INBOX_STEP_ROWS, mark->mesh);
    if (status == 0)
        return collect_marked(mark, statement, &task->error);
    db_reset(statement);
    return status;
}

static void done_mark(struct db_task *task)
{
    struct mark_task *mark = CONTAINER_OF(task, struct mark_task, task);
    struct inbox *inbox = mark->inbox;
    inbox_note_result(inbox, task->status);
    if (task->status < 0)
        mark_clear(mark);
    if (mark->count > 0)
        pressure_seen(inbox);
    bool final = mark->ids != NULL || task->status < 0 || mark->count < INBOX_STEP_ROWS;
    struct inbox_row **rows = mark->rows;
    size_t count = mark->count;
    mark->rows = NULL;
    mark->count = mark->capacity = 0;
    mark->done(mark->argument, task->status, rows, count, final);
    if (!final) {
        db_write(inbox->db, task);
        return;
    }
    for (size_t index = 0; index < mark->id_count; index++)
        free(mark->ids[index]);
    free(mark->ids);
    free(mark->mesh);
    free(mark);
}

void inbox_mark_seen(struct inbox *inbox, const char *const *ids, size_t count, const char *mesh,
                     void (*done)(void *argument, int status, struct inbox_row **rows, size_t count, bool final), void *argument)
{
    struct mark_task *mark = memory_zalloc(sizeof(*mark));
    mark->task = (struct db_task){ .run = run_mark, .done = done_mark, .flags = DB_DURABLE | DB_SAVEPOINT };
    mark->inbox = inbox;
    if (ids != NULL) {
        mark->ids = memory_calloc(count + 1, sizeof(char *));
        mark->id_count = count;
        for (size_t index = 0; index < count; index++)
            mark->ids[index] = memory_strdup(ids[index]);
    }
    mark->mesh = memory_strdup(mesh);
    mark->now_ms = clock_wall_ms();
    mark->done = done;
    mark->argument = argument;
    db_write(inbox->db, &mark->task);
}
