/* Keeping house (70-broker) in small steps of one transaction each, so that an accept waits for no more than one of them. Expired dedupe records, messages past their
 * retention, replay records, invites, sessions unseen for long, old audit lines. */
#include "broker/store/sqlite.h"
#include "util/memory.h"

#define EXPIRED_DEDUPE \
    " (SELECT rowid FROM client_message_dedupe WHERE expires_at IS NOT NULL AND expires_at <= ?1 ORDER BY expires_at, rowid LIMIT 500)"
static const char RAISE_DEDUPE_FLOOR[] =
    "UPDATE mesh SET dedupe_floor = e.floor FROM (SELECT mesh_id, max(history_id) AS floor FROM client_message_dedupe"
    " WHERE rowid IN" EXPIRED_DEDUPE " GROUP BY mesh_id) e WHERE e.mesh_id = mesh.id AND e.floor > dedupe_floor";
static const char DELETE_DEDUPE[] = "DELETE FROM client_message_dedupe WHERE rowid IN" EXPIRED_DEDUPE;
static const char OLD_MESSAGES[] = "SELECT id, mesh_id, history_id, client_message_id, sender_member_id, created_at, recipient_member_id, "
                                   "priority FROM message ORDER BY id LIMIT 200";
static const char RAISE_FLOOR[] = "UPDATE mesh SET history_floor = max(history_floor, ?) WHERE id = ?";
static const char MARK_DEDUPE[] =
    "UPDATE client_message_dedupe SET history_available = 0 WHERE client_message_id = ? AND sender_member_id = ? AND mesh_id = ?"
    " AND history_id = ?"; /* an id may have been used again after its record expired */
static const char DELETE_DELIVERY[] =
    "DELETE FROM delivery_queue WHERE member_id = ?1 AND session_id IN (SELECT id FROM session WHERE member_id = ?1 UNION ALL SELECT 0)"
    " AND priority = ?2 AND history_id = ?3";
static const char DELETE_RECEIPTS[] = "DELETE FROM receipt WHERE message_id = ?";
static const char DELETE_MESSAGE[] = "DELETE FROM message WHERE id = ?";
static const char DELETE_HELLOS[] = "DELETE FROM hello_seen WHERE seen_at < ?";
static const char DELETE_INVITES[] = "DELETE FROM invite WHERE expires_at <= ?";
static const char OLD_SESSIONS[] = "SELECT s.id, s.member_id, (SELECT o.id FROM session o WHERE o.member_id = s.member_id AND "
                                   "o.last_seen_at >= ?1 ORDER BY o.last_seen_at DESC LIMIT 1)"
                                   " FROM session s WHERE s.last_seen_at < ?1"
                                   " AND EXISTS (SELECT 1 FROM session o WHERE o.member_id = s.member_id AND o.last_seen_at >= ?1) LIMIT 8";
static const char DELETE_AUDIT[] = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ? ORDER BY id LIMIT 500)";

enum { REPLAY_WINDOW_MS = 150000 }; /* 45-trust, Hello */

struct old_message {
    int64_t id, mesh, history_id, sender, recipient, priority;
    char client_message_id[LIMIT_CLIENT_MESSAGE_ID + 1];
};

static int delete_message(struct sqlite_store *store, struct db_connection *connection, struct store_keep *keep,
                          const struct old_message *old, struct error *error)
{
    int64_t deliveries = 0;
    int status = db_execute(connection, error, NULL, RAISE_FLOOR, "ii", old->history_id, old->mesh);
    if (status == 0)
        status = db_execute(connection, error, NULL, MARK_DEDUPE, "tiii", old->client_message_id, old->sender, old->mesh, old->history_id);
    if (status == 0)
        status = db_execute(connection, error, &deliveries, DELETE_DELIVERY, "iii", old->recipient, old->priority, old->history_id);
    if (status == 0)
        status = db_execute(connection, error, NULL, DELETE_RECEIPTS, "i", old->id);
    if (status == 0)
        status = db_execute(connection, error, NULL, DELETE_MESSAGE, "i", old->id);
    if (deliveries > 0)
        waiting_clear(store);
    keep->deliveries_change -= deliveries;
    return status;
}

static void read_old_message(sqlite3_stmt *statement, struct old_message *ret_old)
{
    ret_old->id = db_column_integer(statement, 0, 0);
    ret_old->mesh = db_column_integer(statement, 1, 0);
    ret_old->history_id = db_column_integer(statement, 2, 0);
    ret_old->sender = db_column_integer(statement, 4, 0);
    ret_old->recipient = db_column_integer(statement, 6, 0);
    ret_old->priority = db_column_integer(statement, 7, 0);
    struct text id = db_column_text(statement, 3);
    size_t length = id.length < sizeof ret_old->client_message_id ? id.length : sizeof ret_old->client_message_id - 1;
    memcpy(ret_old->client_message_id, id.data, length);
    ret_old->client_message_id[length] = '\0';
}

/* Messages were inserted in the order of their times, so the oldest stand first. */
static int prune_messages(struct sqlite_store *store, struct db_connection *connection, struct store_keep *keep, struct error *error)
{
    enum { STEP = 200 };
    size_t count = 0;
    sqlite3_stmt *statement = db_prepare(connection, OLD_MESSAGES, error);
    if (statement == NULL)
        return -(int)error->code;
    struct old_message *old = memory_calloc(STEP, sizeof(*old));
    int status = 0;
    while (status == 0 && count < STEP) {
        status = db_step(statement, error);
        if (status != 1)
            break;
        status = 0;
        if (db_column_integer(statement, 5, 0) >= keep->now_ms - keep->message_retention_ms)
            break;
        read_old_message(statement, &old[count++]);
    }
    db_reset(statement);
    for (size_t i = 0; i < count && status == 0; i++)
        status = delete_message(store, connection, keep, &old[i], error);
    free(old);
    keep->removed = (int64_t)count;
    keep->more = count == STEP;
    return status < 0 ? status : 0;
}

static int forget_sessions(struct sqlite_store *store, struct db_connection *connection, struct store_keep *keep, struct error *error)
{
    enum { STEP = 8 };
    int64_t sessions[STEP][3];
    size_t count = 0;
    sqlite3_stmt *statement = db_prepare(connection, OLD_SESSIONS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", keep->now_ms - keep->session_retention_ms);
    while (status == 0 && count < STEP) {
        status = db_step(statement, error);
        if (status != 1)
            break;
        for (int column = 0; column < 3; column++)
            sessions[count][column] = db_column_integer(statement, column, 0);
        count++;
        status = 0;
    }
    db_reset(statement);
    for (size_t i = 0; i < count && status == 0; i++) {
        status = session_forget(store, connection, sessions[i][1], sessions[i][0], sessions[i][2], &keep->deliveries_change, error);
        keep->moved_to[keep->moved_count++] = sessions[i][2];
    }
    keep->removed = (int64_t)count;
    keep->more = count == STEP;
    return status < 0 ? status : 0;
}

static int delete_rows(struct db_connection *connection, struct store_keep *keep, const char *sql, int64_t before_ms, int64_t step,
                       struct error *error)
{
    int status = db_execute(connection, error, &keep->removed, sql, "i", before_ms);
    keep->more = step > 0 && keep->removed >= step;
    return status;
}

enum keep_stage { KEEP_DEDUPE, KEEP_MESSAGES, KEEP_HELLOS, KEEP_INVITES, KEEP_SESSIONS, KEEP_AUDIT, KEEP_STAGES };

static int run_stage(struct sqlite_store *store, struct db_connection *connection, struct store_keep *keep, struct error *error)
{
    keep->removed = keep->deliveries_change = 0;
    keep->moved_count = 0;
    keep->more = false; /* in this stage, until the end */
    switch ((enum keep_stage)keep->stage) {
    case KEEP_DEDUPE:
        if (db_execute(connection, error, NULL, RAISE_DEDUPE_FLOOR, "i", keep->now_ms) != 0)
            return -(int)error->code;
        return delete_rows(connection, keep, DELETE_DEDUPE, keep->now_ms, 500, error);
    case KEEP_MESSAGES:
        return prune_messages(store, connection, keep, error);
    case KEEP_HELLOS:
        return delete_rows(connection, keep, DELETE_HELLOS, keep->now_ms - REPLAY_WINDOW_MS, 0, error);
    case KEEP_INVITES:
        return delete_rows(connection, keep, DELETE_INVITES, keep->now_ms, 0, error);
    case KEEP_SESSIONS:
        return forget_sessions(store, connection, keep, error);
    case KEEP_AUDIT:
        return delete_rows(connection, keep, DELETE_AUDIT, keep->now_ms - keep->audit_retention_ms, 500, error);
    case KEEP_STAGES:
        break;
    }
    return error_set(error, ERROR_INTERNAL, "no such stage of housekeeping");
}

/* A stage with more to do comes again, else the next one, until the last has nothing left. */
static int run_keep(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    struct store_keep *keep = CONTAINER_OF(request, struct store_keep, request);
    int status = run_stage(store, connection, keep, error);
    keep->next_stage = keep->more ? keep->stage : keep->stage + 1;
    keep->more = keep->next_stage < KEEP_STAGES;
    return status;
}

void sqlite_keep(struct store *store, struct store_keep *request)
{
    sqlite_submit(store, &request->request, STORE_OP_KEEP, RUN_WRITING, run_keep);
}
