/* Hello, as far as the store decides it, and the sessions of a member: a session is an installation that holds a queue of deliveries of its own, known until it was not
 * seen for long. */
#include "broker/store/sqlite.h"

static const char FIND_CALLER[] = "SELECT mesh.id, mesh.slug, m.id, m.member_id, m.state = 'active', m.state = 'revoked', m.display_name, "
                                  "m.role, m.certificate, m.hello_v2, m.host_fingerprint,"
                                  " (SELECT max(seq) FROM rotation WHERE member_id = m.id)"
                                  " FROM mesh JOIN member m ON m.mesh_id = mesh.id WHERE mesh.mesh_id = ? AND m.pubkey = ?";
static const char FIND_FORMER[] = "SELECT m.state = 'revoked', m.state = 'active' FROM mesh JOIN rotation k ON k.mesh_id = mesh.id"
                                  " JOIN member m ON m.id = k.member_id WHERE mesh.mesh_id = ? AND k.old_pubkey = ?";
static const char CLAIM_HELLO[] = "INSERT INTO hello_seen (member_id, timestamp, seen_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
static const char SEE_CALLER[] = "UPDATE member SET last_seen_at = ?, hello_v2 = max(hello_v2, ?) WHERE id = ?";
static const char SET_HOST[] = "UPDATE member SET host_fingerprint = ? WHERE id = ?";
static const char KEY_IS_TAKEN[] =
    "SELECT 1 FROM member WHERE mesh_id = ?1 AND pubkey = ?2 AND id <> ?3"
    " UNION ALL SELECT 1 FROM rotation WHERE mesh_id = ?1 AND old_pubkey = ?2 AND member_id <> ?3"
    " UNION ALL SELECT 1 FROM session s JOIN member m ON m.id = s.member_id WHERE s.session_pubkey = ?2 AND m.mesh_id = ?1 AND m.id <> ?3";
static const char FIND_SESSION[] = "SELECT id, presence FROM session WHERE member_id = ? AND session_uid = ?";
static const char SEE_SESSION[] = "UPDATE session SET last_seen_at = ?, session_pubkey = ? WHERE id = ?";
static const char INSERT_SESSION[] = "INSERT INTO session (member_id, session_uid, session_pubkey, last_seen_at) VALUES (?, ?, ?, ?)";
static const char TAKE_OVER_UNASSIGNED[] = "UPDATE delivery_queue SET session_id = ? WHERE member_id = ? AND session_id = 0";
static const char COPY_UNACKNOWLEDGED[] =
    "INSERT INTO delivery_queue (member_id, session_id, priority, history_id, message_id)"
    " SELECT d.member_id, ?1, d.priority, d.history_id, d.message_id FROM delivery_queue d"
    " WHERE d.member_id = ?2 AND d.session_id <> ?1"
    " AND NOT EXISTS (SELECT 1 FROM receipt r WHERE r.message_id = d.message_id AND r.by_member_id = d.member_id)"
    " ON CONFLICT DO NOTHING";
static const char OLDEST_SESSIONS[] =
    "SELECT id FROM session WHERE member_id = ? AND id <> ? ORDER BY last_seen_at DESC, id DESC LIMIT -1 OFFSET ?";
static const char MOVE_UNACKNOWLEDGED[] =
    "UPDATE OR IGNORE delivery_queue SET session_id = ?1 WHERE member_id = ?2 AND session_id = ?3"
    " AND NOT EXISTS (SELECT 1 FROM receipt r WHERE r.message_id = delivery_queue.message_id AND r.by_member_id = ?2)";
static const char DELETE_DELIVERIES[] = "DELETE FROM delivery_queue WHERE member_id = ? AND session_id = ?";
static const char DELETE_SESSION[] = "DELETE FROM session WHERE id = ?";
static const char LIST_SESSIONS[] = "SELECT id FROM session WHERE member_id = ?";
static const char DELETE_ALL_DELIVERIES[] = "DELETE FROM delivery_queue WHERE member_id = ?";
static const char DELETE_ALL_SESSIONS[] = "DELETE FROM session WHERE member_id = ?";

int session_forget(struct sqlite_store *store, struct db_connection *connection, int64_t member, int64_t session, int64_t heir,
                   int64_t *deliveries_change, struct error *error)
{
    int64_t deleted = 0;
    int status = db_execute(connection, error, NULL, MOVE_UNACKNOWLEDGED, "iii", heir, member, session);
    if (status == 0)
        status = db_execute(connection, error, &deleted, DELETE_DELIVERIES, "ii", member, session);
    if (status == 0)
        status = db_execute(connection, error, NULL, DELETE_SESSION, "i", session);
    waiting_forget(store, member, session);
    waiting_forget(store, member, heir);
    if (status == 0)
        *deliveries_change -= deleted;
    return status;
}

int session_forget_all(struct sqlite_store *store, struct db_connection *connection, int64_t member, int64_t *deliveries_change,
                       struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, LIST_SESSIONS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", member);
    while (status == 0 && (status = db_step(statement, error)) == 1) {
        waiting_forget(store, member, db_column_integer(statement, 0, 0));
        status = 0;
    }
    db_reset(statement);
    waiting_forget(store, member, 0);
    int64_t deleted = 0;
    if (status == 0)
        status = db_execute(connection, error, &deleted, DELETE_ALL_DELIVERIES, "i", member);
    if (status == 0)
        status = db_execute(connection, error, NULL, DELETE_ALL_SESSIONS, "i", member);
    if (status == 0)
        *deliveries_change -= deleted;
    return status;
}

/* A new session of a member that already has the most it may: the ones unseen for longest go. */
static int forget_surplus(struct sqlite_store *store, struct db_connection *connection, struct store_hello *hello, struct error *error)
{
    int64_t surplus[STORE_SESSIONS_MAXIMUM];
    size_t count = 0;
    sqlite3_stmt *statement = db_prepare(connection, OLDEST_SESSIONS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "iii", hello->member, hello->session, (int64_t)STORE_SESSIONS_MAXIMUM - 1);
    while (status == 0 && count < STORE_SESSIONS_MAXIMUM) {
        status = db_step(statement, error);
        if (status != 1)
            break;
        surplus[count++] = db_column_integer(statement, 0, 0);
        status = 0;
    }
    db_reset(statement);
    for (size_t i = 0; i < count && status == 0; i++)
        status = session_forget(store, connection, hello->member, surplus[i], hello->session, &hello->deliveries_change, error);
    return status;
}

static int make_session(struct sqlite_store *store, struct db_connection *connection, struct store_hello *hello, struct error *error)
{
    int64_t copied = 0;
    int status = db_execute(connection, error, NULL, INSERT_SESSION, "itti", hello->member, hello->session_uid, hello->session_pubkey,
                            hello->now_ms);
    if (status != 0)
        return status;
    hello->session = sqlite3_last_insert_rowid(db_handle(connection));
    status = db_execute(connection, error, NULL, TAKE_OVER_UNASSIGNED, "ii", hello->session, hello->member);
    if (status == 0 && hello->alone)
        status = db_execute(connection, error, &copied, COPY_UNACKNOWLEDGED, "ii", hello->session, hello->member);
    if (status != 0)
        return status;
    waiting_forget(store, hello->member, 0);
    waiting_forget(store, hello->member, hello->session);
    hello->deliveries_change += copied;
    return forget_surplus(store, connection, hello, error);
}

/* 1: taken. */
static int key_is_taken(struct db_connection *connection, const struct store_hello *hello, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, KEY_IS_TAKEN, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "iti", hello->mesh, hello->session_pubkey, hello->member);
    if (status == 0)
        status = db_step(statement, error);
    db_reset(statement);
    return status;
}

static int find_or_make_session(struct sqlite_store *store, struct db_connection *connection, struct store_hello *hello,
                                struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_SESSION, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", hello->member, hello->session_uid);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        hello->session = db_column_integer(statement, 0, 0);
        hello->state = db_column_dup(statement, 1);
    }
    db_reset(statement);
    if (status < 0)
        return status;
    if (status == 0)
        return make_session(store, connection, hello, error);
    return db_execute(connection, error, NULL, SEE_SESSION, "iti", hello->now_ms, hello->session_pubkey, hello->session);
}

static void release_answer(struct store_hello *hello)
{
    free(hello->mesh_slug);
    free(hello->display_name);
    free(hello->role);
    free(hello->certificate);
    free(hello->state);
    hello->mesh_slug = hello->display_name = hello->role = hello->certificate = hello->state = NULL;
    hello->session = hello->deliveries_change = 0;
    hello->other_host = false;
}

/* Its owner must be told that it goes on under another key, or that it is revoked whatever its key. */
static int judge_former_key(struct db_connection *connection, struct store_hello *hello, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_FORMER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "tt", hello->mesh_id, hello->pubkey);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1 && db_column_integer(statement, 0, 0) != 0)
        hello->outcome = STORE_HELLO_REVOKED;
    else if (status == 1 && db_column_integer(statement, 1, 0) != 0)
        hello->outcome = STORE_HELLO_KEY_ROTATED;
    db_reset(statement);
    return status < 0 ? status : 0;
}

enum { HOST_SHOWN = 16 }; /* hex digits: enough to tell two hosts apart in the audit */

/* The newest host is the one that is kept: one that was accepted is reported once, two that take turns each time. */
static int note_host(struct db_connection *connection, struct store_hello *hello, const char *known, struct error *error)
{
    if (hello->host_fingerprint == NULL || (known != NULL && strcmp(known, hello->host_fingerprint) == 0))
        return 0;
    int status = db_execute(connection, error, NULL, SET_HOST, "ti", hello->host_fingerprint, hello->member);
    if (status != 0 || known == NULL)
        return status;
    char detail[64];
    (void)snprintf(detail, sizeof detail, "%.*s to %.*s", HOST_SHOWN, known, HOST_SHOWN, hello->host_fingerprint);
    hello->other_host = true;
    return audit_insert(connection, hello->mesh, hello->member, "member_clone_suspected", detail, hello->now_ms, error);
}

/* 1: the caller is a member, *hello filled, *ret_uses_v2 whether it has ever used signature2, *ret_host its last host (heap, NULL none). 0: answered. */
static int find_caller(struct db_connection *connection, struct store_hello *hello, bool *ret_uses_v2, char **ret_host, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_CALLER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "tt", hello->mesh_id, hello->pubkey);
    if (status == 0)
        status = db_step(statement, error);
    hello->outcome = STORE_HELLO_UNKNOWN;
    if (status != 1)
        goto out;
    const char *member_id = db_column_string(statement, 3);
    if (db_column_integer(statement, 5, 0) != 0)
        hello->outcome = STORE_HELLO_REVOKED;
    else if (db_column_integer(statement, 4, 0) != 0 && member_id != NULL && strcmp(member_id, hello->member_id) == 0)
        hello->outcome = STORE_WELCOME;
    hello->mesh = db_column_integer(statement, 0, 0);
    hello->mesh_slug = db_column_dup(statement, 1);
    hello->member = db_column_integer(statement, 2, 0);
    hello->display_name = db_column_dup(statement, 6);
    hello->role = db_column_dup(statement, 7);
    hello->certificate = db_column_dup(statement, 8);
    hello->rotation_seq = db_column_integer(statement, 11, 0);
    *ret_uses_v2 = db_column_integer(statement, 9, 0) != 0;
    *ret_host = db_column_dup(statement, 10);
    status = hello->outcome == STORE_WELCOME ? 1 : 0;
out:
    db_reset(statement);
    return status;
}

static int run_hello(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    struct store_hello *hello = CONTAINER_OF(request, struct store_hello, request);
    release_answer(hello);
    bool uses_v2 = false;
    char *known_host = NULL;
    int64_t claimed = 0;
    int status = find_caller(connection, hello, &uses_v2, &known_host, error);
    if (status == 0 && hello->outcome == STORE_HELLO_UNKNOWN)
        status = judge_former_key(connection, hello, error);
    if (status <= 0)
        goto out;
    status = 0;
    if (uses_v2 && !hello->v2) {
        hello->outcome = STORE_HELLO_V2_REQUIRED;
        goto out;
    }
    if (hello->receive && hello->session_pubkey != NULL) {
        status = key_is_taken(connection, hello, error);
        if (status < 0)
            goto out;
        if (status == 1) {
            hello->outcome = STORE_HELLO_KEY_TAKEN;
            status = 0;
            goto out;
        }
    }
    status = db_execute(connection, error, &claimed, CLAIM_HELLO, "iii", hello->member, hello->timestamp, hello->now_ms);
    if (status != 0)
        goto out;
    if (claimed == 0) {
        hello->outcome = STORE_HELLO_REPLAYED;
        goto out;
    }
    status = db_execute(connection, error, NULL, SEE_CALLER, "iii", hello->now_ms, (int64_t)hello->v2, hello->member);
    if (status == 0)
        status = note_host(connection, hello, known_host, error);
    if (status == 0 && hello->receive)
        status = find_or_make_session(store, connection, hello, error);
out:
    free(known_host);
    return status;
}

void sqlite_hello(struct store *store, struct store_hello *request)
{
    sqlite_submit(store, &request->request, STORE_OP_HELLO, RUN_WRITING_DURABLY, run_hello);
}
