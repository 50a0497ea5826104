/* Meshes, members, invites and the statements about them (45-trust). The signatures were verified before; here stands who may say what, and it is done in one
 * transaction. */
#include "broker/store/sqlite.h"
#include "util/text.h"

static const char FIND_MESH[] = "SELECT id, slug, owner_pubkey FROM mesh WHERE mesh_id = ?";
static const char SLUG_IS_TAKEN[] = "SELECT 1 FROM mesh WHERE slug = ?";
static const char INSERT_MESH[] = "INSERT INTO mesh (mesh_id, slug, name, owner_pubkey, created_at) VALUES (?, ?, ?, ?, ?)";
static const char INSERT_MEMBER[] = "INSERT INTO member (mesh_id, member_id, pubkey, display_name, role, state, certificate, joined_at) "
                                    "VALUES (?, ?, ?, ?, ?, 'active', ?, ?)";
static const char RETURN_MEMBER[] =
    "UPDATE member SET state = 'active', display_name = ?, role = ?, certificate = ?, joined_at = ? WHERE id = ?";
static const char FIND_MEMBER[] = "SELECT id, member_id, role = 'admin', state = 'active', state = 'revoked', pubkey <> ?2 FROM member "
                                  "WHERE mesh_id = ?1 AND (pubkey = ?2"
                                  " OR id = (SELECT member_id FROM rotation WHERE mesh_id = ?1 AND old_pubkey = ?2))";
static const char SIGNER_IS_VOID[] =
    "SELECT 1 FROM member m WHERE m.mesh_id = ?1 AND (m.pubkey = ?2 OR m.id = (SELECT member_id FROM rotation WHERE mesh_id = ?1 AND "
    "old_pubkey = "
    "?2)) AND (m.state = 'revoked' OR (m.role <> 'admin' AND EXISTS (SELECT 1 FROM statement g WHERE g.mesh_id = ?1 AND g.kind = 'grant'"
    " AND (g.subject = m.pubkey OR g.subject IN (SELECT old_pubkey FROM rotation WHERE member_id = m.id)))))";
static const char FIND_INVITE[] = "SELECT uses, revoked_at FROM invite WHERE mesh_id = ? AND invite_id = ?";
static const char USE_INVITE[] = "INSERT INTO invite (mesh_id, invite_id, expires_at, uses) VALUES (?, ?, ?, 1)"
                                 " ON CONFLICT DO UPDATE SET uses = uses + 1, expires_at = excluded.expires_at";
static const char REVOKE_INVITE[] =
    "INSERT INTO invite (mesh_id, invite_id, revoked_at) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET revoked_at = excluded.revoked_at";
static const char INSERT_STATEMENT[] = "INSERT INTO statement (mesh_id, kind, subject, seq, by_pubkey, document, stored_at) VALUES (?, ?, "
                                       "?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
static const char NEWEST_SEQ[] = "SELECT max(seq) FROM statement WHERE mesh_id = ? AND kind = ? AND subject = ?";
static const char DELETE_OLDER[] = "DELETE FROM statement WHERE mesh_id = ? AND kind = ? AND subject = ? AND seq < ?";
static const char SET_STATE[] = "UPDATE member SET state = ? WHERE id = ?";
static const char SET_NAME[] = "UPDATE member SET display_name = ? WHERE id = ?";
static const char SET_ROLE[] = "UPDATE member SET role = ? WHERE id = ?";
static const char FIND_OWNER[] = "SELECT owner_pubkey FROM mesh WHERE id = ?";

static const char *const STATEMENT_NAMES[STORE_STATEMENT_KINDS] = {
    [STORE_REVOCATION] = "revocation",
    [STORE_LEAVE] = "leave",
    [STORE_NAME] = "name",
    [STORE_GRANT] = "grant",
    [STORE_INVITE_REVOCATION] = "invite_revocation",
};

struct found_member {
    int64_t key; /* 0: there is none */
    char member_id[ULID_SIZE];
    bool admin, active, revoked;
    bool former; /* it has another key by now: who signs with this one says nothing any more */
};

static int find_member(struct db_connection *connection, int64_t mesh, const char *pubkey, struct found_member *ret_member,
                       struct error *error)
{
    *ret_member = (struct found_member){ 0 };
    sqlite3_stmt *statement = db_prepare(connection, FIND_MEMBER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", mesh, pubkey);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        status = 0;
        ret_member->key = db_column_integer(statement, 0, 0);
        ret_member->admin = db_column_integer(statement, 2, 0) != 0;
        ret_member->active = db_column_integer(statement, 3, 0) != 0;
        ret_member->revoked = db_column_integer(statement, 4, 0) != 0;
        ret_member->former = db_column_integer(statement, 5, 0) != 0;
        if (string_copy(ret_member->member_id, sizeof ret_member->member_id, db_column_string(statement, 1)) != 0)
            status = error_set(error, ERROR_CORRUPT, "a member's id is damaged");
    }
    db_reset(statement);
    return status;
}

struct found_mesh {
    int64_t key; /* 0: there is none */
    bool same_slug, same_owner;
};

static int find_mesh(struct db_connection *connection, const char *mesh_id, const char *slug, const char *owner,
                     struct found_mesh *ret_mesh, struct error *error)
{
    *ret_mesh = (struct found_mesh){ 0 };
    sqlite3_stmt *statement = db_prepare(connection, FIND_MESH, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "t", mesh_id);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        status = 0;
        ret_mesh->key = db_column_integer(statement, 0, 0);
        ret_mesh->same_slug = string_equal(db_column_string(statement, 1), slug);
        ret_mesh->same_owner = string_equal(db_column_string(statement, 2), owner);
    }
    db_reset(statement);
    return status;
}

static int insert_statement(struct db_connection *connection, int64_t mesh, enum store_statement_kind kind, const char *subject,
                            int64_t seq, const char *by, const char *document, int64_t now_ms, int64_t *ret_inserted, struct error *error)
{
    return db_execute(connection, error, ret_inserted, INSERT_STATEMENT, "ittitti", mesh, STATEMENT_NAMES[kind], subject, seq, by, document,
                      now_ms);
}

/* ---- POST /mesh ----------------------------------------------------------------------------------------------------- */

static int slug_is_taken(struct db_connection *connection, struct store_create_mesh *create, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SLUG_IS_TAKEN, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "t", create->slug);
    if (status == 0)
        status = db_step(statement, error);
    db_reset(statement);
    create->slug_taken = status == 1;
    return status < 0 ? status : 0;
}

/* The same request again finds its mesh; an owner who had left is back. */
static int find_again(struct db_connection *connection, struct store_create_mesh *create, const struct found_mesh *mesh,
                      struct error *error)
{
    if (!mesh->same_owner || !mesh->same_slug) {
        create->id_taken = true;
        return 0;
    }
    struct found_member owner;
    int status = find_member(connection, mesh->key, create->owner_pubkey, &owner, error);
    if (status != 0)
        return status;
    if (owner.key == 0)
        return error_set(error, ERROR_CORRUPT, "a mesh has no owner");
    memcpy(create->member_id, owner.member_id, sizeof create->member_id);
    return owner.active ? 0 : db_execute(connection, error, NULL, SET_STATE, "ti", "active", owner.key);
}

static int run_create_mesh(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_create_mesh *create = CONTAINER_OF(request, struct store_create_mesh, request);
    create->created = create->slug_taken = create->id_taken = false;
    struct found_mesh mesh;
    int status = find_mesh(connection, create->mesh_id, create->slug, create->owner_pubkey, &mesh, error);
    if (status != 0)
        return status;
    if (mesh.key != 0)
        return find_again(connection, create, &mesh, error);
    status = slug_is_taken(connection, create, error);
    if (status != 0 || create->slug_taken)
        return status;
    status = db_execute(connection, error, NULL, INSERT_MESH, "tttti", create->mesh_id, create->slug, create->name, create->owner_pubkey,
                        create->now_ms);
    if (status != 0)
        return status;
    mesh.key = sqlite3_last_insert_rowid(db_handle(connection));
    status = db_execute(connection, error, NULL, INSERT_MEMBER, "ittttti", mesh.key, create->member_id, create->owner_pubkey,
                        create->display_name, "admin", (const char *)NULL, create->now_ms);
    if (status == 0 && create->name_statement != NULL)
        status = insert_statement(connection, mesh.key, STORE_NAME, create->owner_pubkey, create->name_seq, create->owner_pubkey,
                                  create->name_statement, create->now_ms, NULL, error);
    create->created = true;
    return status;
}

void sqlite_create_mesh(struct store *store, struct store_create_mesh *request)
{
    sqlite_submit(store, &request->request, STORE_OP_CREATE_MESH, RUN_WRITING_DURABLY, run_create_mesh);
}

/* ---- POST /join ------------------------------------------------------------------------------------------------------- */

/* STORE_JOINED: the invite has a place left. */
static int judge_invite(struct db_connection *connection, struct store_join *join, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_INVITE, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", join->mesh, join->invite_id);
    if (status == 0)
        status = db_step(statement, error);
    int64_t uses = status == 1 ? db_column_integer(statement, 0, 0) : 0;
    bool revoked = status == 1 && db_column_integer(statement, 1, -1) >= 0;
    db_reset(statement);
    if (revoked)
        join->outcome = STORE_JOIN_REVOKED;
    else if (join->invite_expires_at <= join->now_ms)
        join->outcome = STORE_JOIN_EXPIRED;
    else
        join->outcome = uses >= join->max_uses ? STORE_JOIN_EXHAUSTED : STORE_JOINED;
    return status < 0 ? status : 0;
}

/* An admin's invites are void with the admin (45-trust, Members). 1: they are. */
static int signer_is_void(struct db_connection *connection, const struct store_join *join, struct error *error)
{
    if (join->signer_pubkey == NULL)
        return 0;
    sqlite3_stmt *statement = db_prepare(connection, SIGNER_IS_VOID, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", join->mesh, join->signer_pubkey);
    if (status == 0)
        status = db_step(statement, error);
    db_reset(statement);
    return status;
}

static int run_join(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_join *join = CONTAINER_OF(request, struct store_join, request);
    struct found_mesh mesh;
    int status = find_mesh(connection, join->mesh_id, "", join->owner_pubkey, &mesh, error);
    if (status != 0)
        return status;
    if (mesh.key == 0 || !mesh.same_owner) {
        join->outcome = mesh.key == 0 ? STORE_JOIN_UNKNOWN_MESH : STORE_JOIN_OTHER_OWNER;
        return 0;
    }
    join->mesh = mesh.key;
    struct found_member member;
    status = find_member(connection, mesh.key, join->pubkey, &member, error);
    if (status != 0)
        return status;
    if (member.active || member.revoked || member.former) {
        join->outcome = member.active && !member.former ? STORE_JOINED_BEFORE : STORE_JOIN_REVOKED;
        join->member = member.key;
        memcpy(join->member_id, member.member_id, sizeof join->member_id);
        return 0;
    }
    status = signer_is_void(connection, join, error);
    if (status != 0) {
        join->outcome = STORE_JOIN_REVOKED;
        return status < 0 ? status : 0;
    }
    status = judge_invite(connection, join, error);
    if (status != 0 || join->outcome != STORE_JOINED)
        return status;
    status = db_execute(connection, error, NULL, USE_INVITE, "iti", mesh.key, join->invite_id, join->invite_expires_at);
    if (status != 0)
        return status;
    if (member.key != 0) { /* it had left, and comes back with a place of its own */
        join->member = member.key;
        memcpy(join->member_id, member.member_id, sizeof join->member_id);
        return db_execute(connection, error, NULL, RETURN_MEMBER, "tttii", join->name, join->role, join->certificate, join->now_ms,
                          member.key);
    }
    status = db_execute(connection, error, NULL, INSERT_MEMBER, "ittttti", mesh.key, join->member_id, join->pubkey, join->name, join->role,
                        join->certificate, join->now_ms);
    join->member = sqlite3_last_insert_rowid(db_handle(connection));
    return status;
}

void sqlite_join(struct store *store, struct store_join *request)
{
    sqlite_submit(store, &request->request, STORE_OP_JOIN, RUN_WRITING_DURABLY, run_join);
}

/* ---- statements ---------------------------------------------------------------------------------------------------------- */

static int find_owner_key(struct db_connection *connection, int64_t mesh, char ret_owner[STORE_KEY_SIZE], struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_OWNER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", mesh);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1 && string_copy(ret_owner, STORE_KEY_SIZE, db_column_string(statement, 0)) != 0)
        status = error_set(error, ERROR_CORRUPT, "a mesh's owner is damaged");
    else if (status == 0)
        status = error_set(error, ERROR_NOT_FOUND, "the mesh is gone");
    db_reset(statement);
    return status < 0 ? status : 0;
}

/* Who may say it (45-trust): only the owner revokes an admin or makes one, nobody revokes the owner; a member speaks for its own name and its own leaving. */
static bool may_state(const struct store_statement *statement, const char *owner, const struct found_member *subject,
                      const struct found_member *by)
{
    bool by_owner = string_equal(statement->by, owner);
    bool by_admin = by_owner || (by->active && by->admin && !by->former);
    switch (statement->kind) {
    case STORE_REVOCATION:
        return by_admin && !string_equal(statement->subject, owner) && (by_owner || !subject->admin);
    case STORE_GRANT:
        return by_admin && !subject->revoked && !string_equal(statement->subject, owner) &&
               (by_owner || (!subject->admin && string_equal(statement->value, "member")));
    case STORE_INVITE_REVOCATION:
        return by_admin;
    case STORE_LEAVE:
    case STORE_NAME:
        return by->active && !by->former && string_equal(statement->by, statement->subject);
    case STORE_STATEMENT_KINDS:
        break;
    }
    return false;
}

/* A name or a grant with a lower or the same number changes nothing any more. 1: stale. */
static int is_stale(struct db_connection *connection, const struct store_statement *statement, struct error *error)
{
    if (statement->kind != STORE_NAME && statement->kind != STORE_GRANT)
        return 0;
    sqlite3_stmt *newest = db_prepare(connection, NEWEST_SEQ, error);
    if (newest == NULL)
        return -(int)error->code;
    int status = db_bind(newest, error, "itt", statement->mesh, STATEMENT_NAMES[statement->kind], statement->subject);
    if (status == 0)
        status = db_step(newest, error);
    if (status == 1)
        status = db_column_integer(newest, 0, -1) >= statement->seq ? 1 : 0;
    db_reset(newest);
    return status;
}

static int apply_statement(struct sqlite_store *store, struct db_connection *connection, struct store_statement *statement,
                           struct error *error)
{
    int status = 0;
    switch (statement->kind) {
    case STORE_REVOCATION:
    case STORE_LEAVE:
        status =
            db_execute(connection, error, NULL, SET_STATE, "ti", statement->kind == STORE_LEAVE ? "left" : "revoked", statement->member);
        return status != 0 ? status : session_forget_all(store, connection, statement->member, &statement->deliveries_change, error);
    case STORE_NAME:
        status = db_execute(connection, error, NULL, DELETE_OLDER, "itti", statement->mesh, STATEMENT_NAMES[STORE_NAME], statement->subject,
                            statement->seq);
        return status != 0 ? status : db_execute(connection, error, NULL, SET_NAME, "ti", statement->value, statement->member);
    case STORE_GRANT:
        return db_execute(connection, error, NULL, SET_ROLE, "ti", statement->value, statement->member);
    case STORE_INVITE_REVOCATION:
        return db_execute(connection, error, NULL, REVOKE_INVITE, "iti", statement->mesh, statement->subject, statement->now_ms);
    case STORE_STATEMENT_KINDS:
        break;
    }
    return error_set(error, ERROR_INTERNAL, "a statement of no kind");
}

static int run_state(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    struct store_statement *statement = CONTAINER_OF(request, struct store_statement, request);
    statement->deliveries_change = 0;
    char owner[STORE_KEY_SIZE];
    struct found_member subject = { 0 }, by;
    int status = find_owner_key(connection, statement->mesh, owner, error);
    if (status == 0)
        status = find_member(connection, statement->mesh, statement->by, &by, error);
    if (status == 0 && statement->kind != STORE_INVITE_REVOCATION)
        status = find_member(connection, statement->mesh, statement->subject, &subject, error);
    if (status != 0)
        return status;
    statement->member = subject.key;
    if (statement->kind != STORE_INVITE_REVOCATION && subject.key == 0) {
        statement->outcome = STORE_STATEMENT_UNKNOWN_SUBJECT;
        return 0;
    }
    if (!may_state(statement, owner, &subject, &by)) {
        statement->outcome = STORE_STATEMENT_FORBIDDEN;
        return 0;
    }
    status = is_stale(connection, statement, error);
    if (status != 0) {
        statement->outcome = STORE_STATEMENT_STALE;
        return status < 0 ? status : 0;
    }
    int64_t inserted = 0;
    status = insert_statement(connection, statement->mesh, statement->kind, statement->subject, statement->seq, statement->by,
                              statement->document, statement->now_ms, &inserted, error);
    if (status != 0)
        return status;
    statement->outcome = inserted > 0 ? STORE_STATED : STORE_STATED_BEFORE;
    return inserted > 0 ? apply_statement(store, connection, statement, error) : 0;
}

void sqlite_state(struct store *store, struct store_statement *request)
{
    sqlite_submit(store, &request->request, STORE_OP_STATEMENT, RUN_WRITING_DURABLY, run_state);
}
