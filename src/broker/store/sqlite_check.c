/* The consistency check (70-broker, Keeping house), a bounded step at a time: every dedupe record has its message or says that history is gone; no delivery lacks its
 * message; history_id ascends in the order of acceptance. Reads only. Works on any connection: the broker's reader, or a file that nobody serves. */
#include "broker/store/sqlite.h"

static const char CHUNK_END_DEDUPE[] =
    "SELECT max(rowid) FROM (SELECT rowid FROM client_message_dedupe WHERE rowid > ?1 ORDER BY rowid LIMIT 5000)";
static const char ORPHANED_DEDUPE[] =
    "SELECT 'dedupe record ' || d.client_message_id || ' of member ' || d.sender_member_id || ' says that message ' || d.broker_message_id "
    "||"
    " ' is there, and it is not' FROM client_message_dedupe d LEFT JOIN message m ON m.broker_message_id = d.broker_message_id"
    " WHERE d.rowid > ?1 AND d.rowid <= ?2 AND d.history_available = 1 AND m.id IS NULL";
static const char CHUNK_END_DELIVERY[] = "SELECT min(member_id) FROM delivery_queue WHERE member_id > ?1";
static const char ORPHANED_DELIVERY[] =
    "SELECT 'delivery of history_id ' || d.history_id || ' to member ' || d.member_id || ' has no message' FROM delivery_queue d"
    " LEFT JOIN message m ON m.id = d.message_id AND m.history_id = d.history_id"
    " WHERE d.member_id > ?1 AND d.member_id <= ?2 AND m.id IS NULL";
static const char CHUNK_END_MESSAGE[] = "SELECT max(id) FROM (SELECT id FROM message WHERE id > ?1 ORDER BY id LIMIT 5000)";
static const char DISORDERED_MESSAGE[] =
    "SELECT 'message ' || m.broker_message_id || ' has history_id ' || m.history_id || ', out of the order of acceptance' FROM message m"
    " WHERE m.id > ?1 AND m.id <= ?2 AND (m.history_id < 1 OR m.id <"
    " (SELECT p.id FROM message p WHERE p.mesh_id = m.mesh_id AND p.history_id < m.history_id ORDER BY p.history_id DESC LIMIT 1))";

static const struct {
    const char *chunk_end, *findings;
} STAGES[CHECK_STAGES] = {
    { CHUNK_END_DEDUPE, ORPHANED_DEDUPE },
    { CHUNK_END_DELIVERY, ORPHANED_DELIVERY },
    { CHUNK_END_MESSAGE, DISORDERED_MESSAGE },
};

static int fail(sqlite3 *handle, struct error *error)
{
    return error_set(error, ERROR_SYSTEM, "the consistency check failed: %s", sqlite3_errmsg(handle));
}

/* 0: *ret_end is where this step ends; *ret_more false when there is nothing past `position`. */
static int find_end(sqlite3 *handle, int stage, int64_t position, int64_t *ret_end, bool *ret_more, struct error *error)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(handle, STAGES[stage].chunk_end, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_bind_int64(statement, 1, position) != SQLITE_OK || sqlite3_step(statement) != SQLITE_ROW) {
        (void)sqlite3_finalize(statement);
        return fail(handle, error);
    }
    *ret_more = sqlite3_column_type(statement, 0) != SQLITE_NULL;
    *ret_end = sqlite3_column_int64(statement, 0);
    return sqlite3_finalize(statement) == SQLITE_OK ? 0 : fail(handle, error);
}

int check_step(sqlite3 *handle, int stage, int64_t position, int64_t *ret_position, bool *ret_more, struct buffer *findings, size_t *found,
               struct error *error)
{
    int64_t end = 0;
    int status = find_end(handle, stage, position, &end, ret_more, error);
    if (status != 0 || !*ret_more)
        return status;
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(handle, STAGES[stage].findings, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_bind_int64(statement, 1, position) != SQLITE_OK || sqlite3_bind_int64(statement, 2, end) != SQLITE_OK) {
        (void)sqlite3_finalize(statement);
        return fail(handle, error);
    }
    int step;
    while ((step = sqlite3_step(statement)) == SQLITE_ROW) {
        const char *finding = (const char *)sqlite3_column_text(statement, 0);
        buffer_append_text(findings, finding == NULL ? "an unreadable row" : finding);
        buffer_append_byte(findings, '\n');
        (*found)++;
    }
    if (step != SQLITE_DONE)
        status = fail(handle, error);
    if (sqlite3_finalize(statement) != SQLITE_OK && status == 0)
        status = fail(handle, error);
    *ret_position = end;
    return status;
}

static int run_check(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_check *check = CONTAINER_OF(request, struct store_check, request);
    buffer_reset(&check->findings);
    check->found = 0;
    bool more = false;
    check->next_position = 0;
    int status = check_step(db_handle(connection), check->stage, check->position, &check->next_position, &more, &check->findings,
                            &check->found, error);
    check->next_stage = more ? check->stage : check->stage + 1;
    check->more = check->next_stage < CHECK_STAGES;
    return status;
}

void sqlite_check(struct store *store, struct store_check *request)
{
    sqlite_submit(store, &request->request, STORE_OP_KEEP, RUN_READING, run_check);
}
