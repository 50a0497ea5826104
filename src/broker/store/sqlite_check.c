/* The consistency check (70-broker, Keeping house), a bounded step at a time: every dedupe record has its message or says that history is gone; no delivery lacks its
 * message; history_id ascends in the order of acceptance; every message has its dedupe record unless that expired. A finding says what, which, and what to do. Reads
 * only. Works on any connection: the broker's reader, or a file that nobody serves. */
#include "broker/store/sqlite.h"

enum { STEP_ROWS = 1000, STEP_KEYS = 4 };

/* A name where the row still has one, else the store's number: a finding must not vanish in a NULL. */
#define MESH_OF(key) "coalesce((SELECT slug FROM mesh WHERE id = " key "), " key ")"
#define MEMBER_OF(key) "coalesce((SELECT pubkey FROM member WHERE id = " key "), " key ")"
#define DEDUPE_TITLE                                                                                                              \
    "'dedupe record ' || d.client_message_id || ' of member ' || " MEMBER_OF("d.sender_member_id") " || ' in mesh ' || " MESH_OF( \
        "d.mesh_id")
#define DELIVERY_TITLE \
    "'delivery of history_id ' || d.history_id || ' to member ' || " MEMBER_OF("d.member_id") " || ', session ' || d.session_id"
#define MESSAGE_TITLE "'message ' || m.broker_message_id || ' in mesh ' || " MESH_OF("m.mesh_id")

/* Each gives the key of every row of one step, past ?1 to ?4 and at most ?5 of them, and what is wrong with it: NULL nothing. */
static const char CHECK_DEDUPE[] =
    "SELECT d.key, 0, 0, 0, CASE"
    " WHEN d.history_available = 1 AND m.id IS NULL THEN " DEDUPE_TITLE
    " || ': its message ' || d.broker_message_id || ' is not there, and the record says it is. Restore a backup of the store; without one, "
    "have the sender send it"
    " again under a new id.'"
    " WHEN d.history_available = 0 AND m.id IS NOT NULL THEN " DEDUPE_TITLE " || ': its message ' || d.broker_message_id ||"
    " ' is there, and the record says that history is gone. Set its history_available to 1.'"
    " WHEN m.history_id <> d.history_id THEN " DEDUPE_TITLE
    " || ': says history_id ' || d.history_id || ', and its message ' || d.broker_message_id"
    " || ' has ' || m.history_id || '. Restore a backup of the store.'"
    " END FROM (SELECT rowid AS key, * FROM client_message_dedupe WHERE rowid > ?1 ORDER BY rowid LIMIT ?5) d"
    " LEFT JOIN message m ON m.broker_message_id = d.broker_message_id AND m.mesh_id = d.mesh_id AND m.sender_member_id = "
    "d.sender_member_id"
    " AND m.client_message_id = d.client_message_id";
static const char CHECK_DELIVERY[] =
    "SELECT d.member_id, d.session_id, d.priority, d.history_id, CASE"
    " WHEN m.id IS NULL THEN " DELIVERY_TITLE
    " || ': its message (row ' || d.message_id || ') is not there. Restore a backup of the store; without one, delete the"
    " delivery, which can never be made.'"
    " WHEN m.history_id <> d.history_id OR m.priority <> d.priority THEN " DELIVERY_TITLE
    " || ': its message ' || m.broker_message_id || ' has history_id ' ||"
    " m.history_id || ' and another place in the queue. Restore a backup of the store.'"
    " END FROM (SELECT * FROM delivery_queue WHERE (member_id, session_id, priority, history_id) > (?1, ?2, ?3, ?4)"
    " ORDER BY member_id, session_id, priority, history_id LIMIT ?5) d LEFT JOIN message m ON m.id = d.message_id";
static const char CHECK_HISTORY[] =
    "SELECT m.id, 0, 0, 0, CASE"
    " WHEN m.history_id < 1 OR m.id <"
    " (SELECT p.id FROM message p WHERE p.mesh_id = m.mesh_id AND p.history_id < m.history_id ORDER BY p.history_id DESC LIMIT 1) "
    "THEN " MESSAGE_TITLE " || ': its history_id ' || m.history_id || ' is out of the order of acceptance, and a reader of history may "
    "miss it. Restore a backup of the store.'"
    " END FROM (SELECT id, mesh_id, history_id, broker_message_id FROM message WHERE id > ?1 ORDER BY id LIMIT ?5) m";
static const char CHECK_MESSAGE[] =
    "SELECT m.id, 0, 0, 0, CASE"
    " WHEN d.sender_member_id IS NULL AND m.history_id > coalesce((SELECT dedupe_floor FROM mesh WHERE id = m.mesh_id), 0) "
    "THEN " MESSAGE_TITLE " || ', ' || m.client_message_id || ' of member ' || " MEMBER_OF(
        "m.sender_member_id") " || ': it has no dedupe record, and a resend of it would be accepted once"
                              " more. Restore a backup of the store.'"
                              " END FROM (SELECT id, mesh_id, history_id, broker_message_id, sender_member_id, client_message_id FROM "
                              "message WHERE id > ?1 ORDER BY id LIMIT ?5) m"
                              " LEFT JOIN client_message_dedupe d ON d.client_message_id = m.client_message_id AND d.sender_member_id = "
                              "m.sender_member_id"
                              " AND d.mesh_id = m.mesh_id AND d.broker_message_id = m.broker_message_id";

/* Each step of a member's keys follows the one before it, and the last leads to the key that it has. */
static const char CHECK_ROTATION[] =
    "SELECT k.id, 0, 0, 0, CASE"
    " WHEN m.id IS NULL THEN 'rotation ' || k.seq || ' of key ' || k.old_pubkey || ': its member is not there. Restore a backup of the "
    "store.'"
    " WHEN k.seq <> (SELECT count(*) FROM rotation p WHERE p.member_id = k.member_id AND p.id <= k.id)"
    " OR coalesce((SELECT n.old_pubkey FROM rotation n WHERE n.member_id = k.member_id AND n.seq = k.seq + 1), m.pubkey) <> k.new_pubkey"
    " THEN 'rotation ' || k.seq || ' of member ' || m.pubkey || ': it does not lead to the key that follows. Restore a backup of the "
    "store.'"
    " END FROM (SELECT * FROM rotation WHERE id > ?1 ORDER BY id LIMIT ?5) k LEFT JOIN member m ON m.id = k.member_id";

static const char *const STAGES[CHECK_STAGES] = { CHECK_DEDUPE, CHECK_DELIVERY, CHECK_HISTORY, CHECK_MESSAGE, CHECK_ROTATION };

static int fail(sqlite3 *handle, struct error *error)
{
    return error_set(error, ERROR_SYSTEM, "the consistency check failed: %s", sqlite3_errmsg(handle));
}

static int bind_place(sqlite3_stmt *statement, const struct store_check_place *place)
{
    int status = sqlite3_bind_int(statement, STEP_KEYS + 1, STEP_ROWS);
    for (int i = 0; i < STEP_KEYS && status == SQLITE_OK; i++)
        status = sqlite3_bind_int64(statement, i + 1, place->keys[i]);
    return status;
}

int check_step(sqlite3 *handle, struct store_check_place *place, bool *ret_more, struct buffer *findings, size_t *found,
               struct error *error)
{
    sqlite3_stmt *statement = NULL;
    int status = 0, step = SQLITE_DONE, rows = 0;
    if (sqlite3_prepare_v2(handle, STAGES[place->stage], -1, &statement, NULL) != SQLITE_OK || bind_place(statement, place) != SQLITE_OK) {
        status = fail(handle, error);
        goto out;
    }
    while ((step = sqlite3_step(statement)) == SQLITE_ROW) {
        rows++;
        for (int i = 0; i < STEP_KEYS; i++)
            place->keys[i] = sqlite3_column_int64(statement, i);
        const char *finding = (const char *)sqlite3_column_text(statement, STEP_KEYS);
        if (finding == NULL)
            continue;
        buffer_append_text(findings, finding);
        buffer_append_byte(findings, '\n');
        (*found)++;
    }
    if (step != SQLITE_DONE)
        status = fail(handle, error);
    if (rows < STEP_ROWS)
        *place = (struct store_check_place){ .stage = place->stage + 1 };
    *ret_more = place->stage < CHECK_STAGES;
out:
    if (sqlite3_finalize(statement) != SQLITE_OK && status == 0)
        status = fail(handle, error);
    return status;
}

static int run_check(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_check *check = CONTAINER_OF(request, struct store_check, request);
    buffer_reset(&check->findings);
    check->found = 0;
    return check_step(db_handle(connection), &check->place, &check->more, &check->findings, &check->found, error);
}

void sqlite_check(struct store *store, struct store_check *request)
{
    sqlite_submit(store, &request->request, STORE_OP_KEEP, RUN_READING, run_check);
}

/* ---- a file, with or without a broker beside it ------------------------------------------------------------------- */

/* The tables must be those that the statements above know. */
static int check_version(sqlite3 *handle, struct error *error)
{
    sqlite3_stmt *statement = NULL;
    int status = 0;
    if (sqlite3_prepare_v2(handle, "SELECT version FROM schema", -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW) {
        status = error_set(error, ERROR_INVALID, "this is no broker's store: %s", sqlite3_errmsg(handle));
    } else {
        int64_t version = sqlite3_column_int64(statement, 0), known = (int64_t)SQLITE_BROKER_MIGRATION_COUNT;
        if (version > known)
            status = error_set(error, ERROR_NEWER,
                               "the store has schema version %" PRId64 " and this program knows %" PRId64 ": a newer claudemesh is needed",
                               version, known);
        else if (version < known)
            status = error_set(error, ERROR_INVALID, "the store has schema version %" PRId64 ": start this version's broker on it once",
                               version);
    }
    (void)sqlite3_finalize(statement); /* what it could say was said */
    return status;
}

static void report(struct buffer *findings, void (*found)(void *argument, const char *finding), void *argument)
{
    char *line = findings->data;
    for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        found(argument, line);
    }
    buffer_reset(findings);
}

int64_t sqlite_check_file(const char *path, void (*found)(void *argument, const char *finding), void *argument, struct error *error)
{
    int status = db_check_file(path, error);
    if (status != 0)
        return status;
    struct buffer findings;
    buffer_init(&findings, BUFFER_UNLIMITED);
    struct store_check_place place = { 0 };
    size_t total = 0;
    sqlite3 *handle = NULL;
    if (sqlite3_open_v2(path, &handle, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK || sqlite3_busy_timeout(handle, 5000) != SQLITE_OK) {
        status = error_set(error, ERROR_SYSTEM, "cannot open %s: %s", path, handle == NULL ? "out of memory" : sqlite3_errmsg(handle));
        goto out;
    }
    status = check_version(handle, error);
    for (bool more = true; more && status == 0;) {
        status = check_step(handle, &place, &more, &findings, &total, error);
        report(&findings, found, argument);
    }
out:
    if (sqlite3_close(handle) != SQLITE_OK && status == 0)
        status = error_set(error, ERROR_INTERNAL, "the store could not be closed after the check");
    buffer_release(&findings);
    return status != 0 ? status : (int64_t)total;
}
