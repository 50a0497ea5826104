/* What the broker tells about members (40-wire, members_list): printed here, on the reader's thread. A page ends below a maximum, because a frame
 * has one; the statements come before the members, so that who reads one page knows all revocations. */
#include "broker/store/sqlite.h"
#include "util/text.h"

/* Of today's key or a former one; their numbers are counted apart, so it is the one that came last. */
#define NEWEST_STATEMENT(kind)                                                                              \
    " (SELECT n.document FROM statement n WHERE n.mesh_id = m.mesh_id AND n.kind = '" kind                  \
    "' AND (n.subject = m.pubkey OR n.subject IN (SELECT old_pubkey FROM rotation WHERE member_id = m.id))" \
    " ORDER BY n.stored_at DESC, n.seq DESC LIMIT 1)"
#define MEMBER_COLUMNS                                                                                        \
    "m.id, m.member_id, m.pubkey, m.display_name, m.role, m.joined_at, m.last_seen_at, m.state = 'revoked', " \
    "m.certificate," NEWEST_STATEMENT("name") "," NEWEST_STATEMENT("grant")
static const char LIST_MEMBERS[] =
    "SELECT " MEMBER_COLUMNS " FROM member m WHERE m.mesh_id = ? AND m.id > ? AND m.state <> 'left' ORDER BY m.id";
static const char FIND_MEMBER[] = "SELECT " MEMBER_COLUMNS " FROM member m WHERE m.mesh_id = ? AND m.pubkey = ?";
static const char LIST_STATEMENTS[] = "SELECT id, kind, document FROM statement WHERE mesh_id = ? AND id > ? ORDER BY id";
static const char LIST_ROTATIONS[] = "SELECT id, document FROM rotation WHERE mesh_id = ? AND id > ? ORDER BY id";

/* `after` of a page that begins among the rotations, or the members, is this much higher than its number. */
static const int64_t ROTATIONS_FROM = INT64_C(1) << 51;
static const int64_t MEMBERS_FROM = INT64_C(1) << 52;

static void put_string(struct buffer *text, const char *name, const char *value)
{
    buffer_printf(text, ",\"%s\":", name);
    if (value == NULL)
        buffer_append_text(text, "null");
    else
        buffer_append_json_string(text, value, strlen(value));
}

static void put_document(struct buffer *text, const char *name, const char *document)
{
    if (document == NULL)
        return;
    buffer_printf(text, ",\"%s\":", name);
    buffer_append_text(text, document);
}

static void put_member(struct buffer *text, sqlite3_stmt *statement)
{
    const char *id = db_column_string(statement, 1);
    buffer_append_text(text, "{\"id\":");
    buffer_append_json_string(text, id, strlen(id));
    put_string(text, "pubkey", db_column_string(statement, 2));
    put_string(text, "displayName", db_column_string(statement, 3));
    put_string(text, "role", db_column_string(statement, 4));
    buffer_printf(text, ",\"joinedAt\":%" PRId64, db_column_integer(statement, 5, 0));
    int64_t last_seen_at = db_column_integer(statement, 6, -1);
    if (last_seen_at >= 0)
        buffer_printf(text, ",\"lastSeenAt\":%" PRId64, last_seen_at);
    else
        buffer_append_text(text, ",\"lastSeenAt\":null");
    buffer_append_text(text, db_column_integer(statement, 7, 0) != 0 ? ",\"revoked\":true" : ",\"revoked\":false");
    put_document(text, "cert", db_column_string(statement, 8));
    put_document(text, "name_statement", db_column_string(statement, 9));
    put_document(text, "grant", db_column_string(statement, 10));
    buffer_append_byte(text, '}');
}

struct statement_list {
    const char *kind, *name; /* in the table; in the answer */
    struct buffer documents;
};

static size_t add_document(struct statement_list *lists, size_t count, const char *kind, const char *document)
{
    for (size_t i = 0; i < count; i++)
        if (string_equal(lists[i].kind, kind)) {
            if (lists[i].documents.length > 0)
                buffer_append_byte(&lists[i].documents, ',');
            buffer_append_text(&lists[i].documents, document);
            return strlen(document) + 1;
        }
    return 0;
}

/* 1: the page is full, and the next one begins after *ret_after. */
static int list_statements(struct db_connection *connection, const struct store_list_members *list, struct buffer *text, int64_t *ret_after,
                           struct error *error)
{
    struct statement_list lists[] = {
        { "revocation", "revocations", { 0 } },
        { "leave", "leaves", { 0 } },
        { "name", "names", { 0 } },
        { "grant", "grants", { 0 } },
        { "invite_revocation", "invite_revocations", { 0 } },
    };
    sqlite3_stmt *statement = db_prepare(connection, LIST_STATEMENTS, error);
    if (statement == NULL)
        return -(int)error->code;
    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++)
        buffer_init(&lists[i].documents, BUFFER_UNLIMITED);
    size_t size = 0;
    int status = db_bind(statement, error, "ii", list->mesh, list->after);
    while (status == 0) {
        status = db_step(statement, error);
        if (status != 1 || size >= list->byte_limit)
            break;
        size += add_document(lists, ARRAY_LENGTH(lists), db_column_string(statement, 1), db_column_string(statement, 2));
        *ret_after = db_column_integer(statement, 0, 0);
        status = 0;
    }
    db_reset(statement);
    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++) {
        buffer_printf(text, ",\"%s\":[%s]", lists[i].name, lists[i].documents.data);
        buffer_release(&lists[i].documents);
    }
    return status;
}

/* As above. */
static int list_rotations(struct db_connection *connection, const struct store_list_members *list, int64_t after, struct buffer *text,
                          int64_t *ret_after, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, LIST_ROTATIONS, error);
    if (statement == NULL)
        return -(int)error->code;
    bool first = true;
    buffer_append_text(text, ",\"rotations\":[");
    int status = db_bind(statement, error, "ii", list->mesh, after);
    while (status == 0) {
        status = db_step(statement, error);
        if (status != 1 || text->length >= list->byte_limit)
            break;
        if (!first)
            buffer_append_byte(text, ',');
        first = false;
        buffer_append_text(text, db_column_string(statement, 1));
        *ret_after = db_column_integer(statement, 0, 0);
        status = 0;
    }
    db_reset(statement);
    buffer_append_byte(text, ']');
    return status;
}

static int list_members(struct db_connection *connection, const struct store_list_members *list, int64_t after, struct buffer *text,
                        int64_t *ret_next, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, LIST_MEMBERS, error);
    if (statement == NULL)
        return -(int)error->code;
    bool first = true;
    int status = db_bind(statement, error, "ii", list->mesh, after);
    while (status == 0) {
        status = db_step(statement, error);
        if (status != 1)
            break;
        if (!first && text->length >= list->byte_limit) {
            *ret_next = MEMBERS_FROM + after;
            break;
        }
        if (!first)
            buffer_append_byte(text, ',');
        first = false;
        put_member(text, statement);
        after = db_column_integer(statement, 0, 0);
        status = 0;
    }
    db_reset(statement);
    return status < 0 ? status : 0;
}

static int run_list_members(struct sqlite_store *store, struct db_connection *connection, struct store_request *request,
                            struct error *error)
{
    (void)store;
    struct store_list_members *list = CONTAINER_OF(request, struct store_list_members, request);
    struct buffer statements;
    buffer_init(&statements, BUFFER_UNLIMITED);
    buffer_reset(&list->text);
    list->next = -1;
    buffer_append_text(&list->text, "\"members\":[");
    int status = 0;
    bool full = false;
    int64_t members_after = list->after - MEMBERS_FROM;
    if (members_after < 0) {
        members_after = 0;
        int64_t after = list->after, rotations_after = list->after > ROTATIONS_FROM ? list->after - ROTATIONS_FROM : 0;
        if (list->after < ROTATIONS_FROM) {
            status = list_statements(connection, list, &statements, &after, error);
            full = status == 1;
        }
        if (status == 0) {
            status = list_rotations(connection, list, rotations_after, &statements, &rotations_after, error);
            full = status == 1;
            after = ROTATIONS_FROM + rotations_after;
        }
        if (full)
            list->next = after;
    }
    if (status >= 0 && !full) {
        struct store_list_members rest = *list;
        rest.byte_limit = statements.length < list->byte_limit ? list->byte_limit - statements.length : 1;
        status = list_members(connection, &rest, members_after, &list->text, &list->next, error);
    }
    buffer_append_byte(&list->text, ']');
    buffer_append(&list->text, statements.data, statements.length);
    buffer_release(&statements);
    return status < 0 ? status : 0;
}

void sqlite_list_members(struct store *store, struct store_list_members *request)
{
    sqlite_submit(store, &request->request, STORE_OP_LIST, RUN_READING, run_list_members);
}

static int run_find_member(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_find_member *find = CONTAINER_OF(request, struct store_find_member, request);
    buffer_reset(&find->text);
    sqlite3_stmt *statement = db_prepare(connection, FIND_MEMBER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", find->mesh, find->pubkey);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1)
        put_member(&find->text, statement);
    db_reset(statement);
    return status < 0 ? status : 0;
}

void sqlite_find_member(struct store *store, struct store_find_member *request)
{
    sqlite_submit(store, &request->request, STORE_OP_LIST, RUN_READING, run_find_member);
}
