/* A member goes on under another key (50-identity, Key rotation; 45-trust): the statement, the member's row, and the former keys in one transaction. The signatures were verified before. */
#include "broker/store/sqlite.h"
#include "util/text.h"

static const char FIND_FORMER[] = "SELECT member_id, usable_until FROM rotation WHERE mesh_id = ? AND old_pubkey = ?";
static const char FIND_STEP[] = "SELECT new_pubkey FROM rotation WHERE mesh_id = ? AND old_pubkey = ?";
static const char FIND_ASKER[] = "SELECT coalesce((SELECT max(seq) FROM rotation WHERE member_id = m.id), 0) FROM member m WHERE m.id = ? "
                                 "AND m.pubkey = ? AND m.state = 'active'";
static const char KEY_IS_TAKEN[] = "SELECT 1 FROM member WHERE mesh_id = ?1 AND pubkey = ?2"
                                   " UNION ALL SELECT 1 FROM rotation WHERE mesh_id = ?1 AND (old_pubkey = ?2 OR new_pubkey = ?2)"
                                   " UNION ALL SELECT 1 FROM session s JOIN member m ON m.id = s.member_id WHERE s.session_pubkey = ?2 AND "
                                   "m.mesh_id = ?1 AND m.id <> ?3";
static const char INSERT_ROTATION[] =
    "INSERT INTO rotation (mesh_id, member_id, seq, old_pubkey, new_pubkey, at, usable_until, history_id, document, stored_at)"
    " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7,"
    " max(history_floor, coalesce((SELECT max(history_id) FROM message WHERE mesh_id = ?1), 0)), ?8, ?9 FROM mesh WHERE id = ?1";
static const char SET_KEY[] = "UPDATE member SET pubkey = ? WHERE id = ?";
/* By the index of what is pending; the rest is never sent again. */
static const char NAME_RECEIPTS[] = "UPDATE receipt SET by_pubkey = ? WHERE pending = 1 AND by_member_id = ? AND by_pubkey IS NULL";

int find_former_key(struct db_connection *connection, int64_t mesh, const char *pubkey, struct former_key *ret_former, struct error *error)
{
    *ret_former = (struct former_key){ 0 };
    sqlite3_stmt *statement = db_prepare(connection, FIND_FORMER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", mesh, pubkey);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        ret_former->member = db_column_integer(statement, 0, 0);
        ret_former->usable_until = db_column_integer(statement, 1, 0);
        status = 0;
    }
    db_reset(statement);
    return status;
}

/* 1: the old key was rotated out before; *rotate is answered. */
static int was_rotated(struct db_connection *connection, struct store_rotate *rotate, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_STEP, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", rotate->mesh, rotate->old_pubkey);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1)
        rotate->outcome = string_equal(db_column_string(statement, 0), rotate->new_pubkey) ? STORE_ROTATED_BEFORE : STORE_ROTATION_STALE;
    db_reset(statement);
    return status;
}

/* 1: the asker has the old key, and this is its next step. 0: answered. */
static int is_next(struct db_connection *connection, struct store_rotate *rotate, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_ASKER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", rotate->member, rotate->old_pubkey);
    if (status == 0)
        status = db_step(statement, error);
    bool next = status == 1 && rotate->seq == db_column_integer(statement, 0, 0) + 1;
    rotate->outcome = status == 1 ? STORE_ROTATION_STALE : STORE_ROTATION_FORBIDDEN;
    db_reset(statement);
    return status < 0 ? status : next;
}

static int new_key_is_taken(struct db_connection *connection, struct store_rotate *rotate, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, KEY_IS_TAKEN, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "iti", rotate->mesh, rotate->new_pubkey, rotate->member);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1)
        rotate->outcome = STORE_ROTATION_TAKEN;
    db_reset(statement);
    return status;
}

static int run_rotate(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_rotate *rotate = CONTAINER_OF(request, struct store_rotate, request);
    int status = was_rotated(connection, rotate, error);
    if (status != 0)
        return status < 0 ? status : 0;
    status = is_next(connection, rotate, error);
    if (status <= 0)
        return status;
    status = new_key_is_taken(connection, rotate, error);
    if (status != 0)
        return status < 0 ? status : 0;
    status = db_execute(connection, error, NULL, INSERT_ROTATION, "iiittiiti", rotate->mesh, rotate->member, rotate->seq,
                        rotate->old_pubkey, rotate->new_pubkey, rotate->at, rotate->usable_until, rotate->document, rotate->now_ms);
    if (status == 0)
        status = db_execute(connection, error, NULL, SET_KEY, "ti", rotate->new_pubkey, rotate->member);
    if (status == 0)
        status = db_execute(connection, error, NULL, NAME_RECEIPTS, "ti", rotate->old_pubkey, rotate->member);
    rotate->outcome = STORE_ROTATED;
    return status;
}

void sqlite_rotate(struct store *store, struct store_rotate *request)
{
    sqlite_submit(store, &request->request, STORE_OP_STATEMENT, RUN_WRITING_DURABLY, run_rotate);
}
