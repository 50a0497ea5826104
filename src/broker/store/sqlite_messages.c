/* Messages on their way out: what waits for a session, acknowledgements, receipts, history, status. */
#include "broker/store/sqlite.h"
#include "util/memory.h"
#include "util/text.h"

/* One list a priority, each in history_id order: the order of delivery. */
static const char FETCH[] =
    "SELECT " SQLITE_MESSAGE_COLUMNS
    " FROM delivery_queue d JOIN message m ON m.id = d.message_id JOIN member s ON s.id = m.sender_member_id"
    " WHERE d.member_id = ? AND d.session_id = ? AND d.priority = ? AND d.history_id > ? ORDER BY d.history_id LIMIT ?";
static const char FIND_ACKNOWLEDGED[] = "SELECT id, history_id, priority, sender_member_id, client_message_id FROM message"
                                        " WHERE broker_message_id = ? AND mesh_id = ? AND recipient_member_id = ?";
static const char DELETE_DELIVERY[] =
    "DELETE FROM delivery_queue WHERE member_id = ? AND session_id = ? AND priority = ? AND history_id = ?";
static const char INSERT_RECEIPT[] =
    "INSERT INTO receipt (message_id, by_member_id, state, at, rsig, sender_member_id, pending, by_pubkey)"
    " VALUES (?1, ?2, ?3, ?4, nullif(?5, ''), ?6, ?7, nullif(nullif(?8, ''), (SELECT pubkey FROM member WHERE id = ?2)))"
    " ON CONFLICT DO NOTHING";
static const char FETCH_RECEIPTS[] =
    "SELECT r.message_id, m.broker_message_id, m.client_message_id, coalesce(r.by_pubkey, b.pubkey), r.rsig, r.state, r.at"
    " FROM receipt r JOIN message m ON m.id = r.message_id JOIN member b ON b.id = r.by_member_id"
    " WHERE r.sender_member_id = ? AND r.pending = 1 AND r.message_id > ? ORDER BY r.message_id, r.state LIMIT ?";
static const char SETTLE_RECEIPT[] =
    "UPDATE receipt SET pending = 0 WHERE message_id = (SELECT id FROM message WHERE broker_message_id = ?1 AND mesh_id = ?2)"
    " AND by_member_id IN (SELECT id FROM member WHERE mesh_id = ?2 AND pubkey = ?3"
    " UNION ALL SELECT member_id FROM rotation WHERE mesh_id = ?2 AND old_pubkey = ?3)"
    " AND state = ?4 AND sender_member_id = ?5 AND pending = 1";
static const char HISTORY[] =
    "SELECT " SQLITE_MESSAGE_COLUMNS " FROM message m JOIN member s ON s.id = m.sender_member_id"
    " WHERE m.mesh_id = ?1 AND m.history_id > ?2 AND m.history_id <= ?3 AND (m.sender_member_id = ?4 OR m.recipient_member_id = ?4)"
    " ORDER BY m.history_id LIMIT ?5";
static const char NEWEST_HISTORY_ID[] = "SELECT coalesce(max(history_id), 0) FROM message WHERE mesh_id = ?";
static const char FIND_STATUS[] =
    "SELECT m.target_spec, r.id, r.display_name, r.pubkey,"
    " (SELECT min(at) FROM receipt WHERE message_id = m.id AND by_member_id = m.recipient_member_id AND state > 0)"
    " FROM message m JOIN member r ON r.id = m.recipient_member_id"
    " WHERE m.broker_message_id = ? AND m.mesh_id = ? AND ? IN (m.sender_member_id, m.recipient_member_id)";

void store_messages_free(struct store_message *first)
{
    while (first != NULL) {
        struct store_message *next = first->next;
        free(first);
        first = next;
    }
}

struct store_message *message_of_row(sqlite3_stmt *statement)
{
    enum { INTEGERS = 7, TEXTS = 11 };
    struct text texts[TEXTS];
    size_t size = sizeof(struct store_message);
    for (int i = 0; i < TEXTS; i++) {
        texts[i] = db_column_text(statement, INTEGERS + i);
        size += texts[i].length + 1;
    }
    struct store_message *message = memory_alloc(size);
    char *at = (char *)(message + 1);
    const char *copies[TEXTS];
    for (int i = 0; i < TEXTS; i++) {
        copies[i] = texts[i].data == NULL ? NULL : at;
        if (texts[i].data != NULL)
            memcpy(at, texts[i].data, texts[i].length);
        at[texts[i].length] = '\0';
        at += texts[i].length + 1;
    }
    *message = (struct store_message){
        .message = db_column_integer(statement, 0, 0),
        .history_id = db_column_integer(statement, 1, 0),
        .created_at = db_column_integer(statement, 2, 0),
        .body_version = db_column_integer(statement, 3, 1),
        .key_epoch = db_column_integer(statement, 4, -1),
        .priority = (int)db_column_integer(statement, 5, 1),
        .sender = db_column_integer(statement, 6, 0),
        .broker_message_id = copies[0],
        .client_message_id = copies[1],
        .sender_pubkey = copies[2],
        .sender_member_pubkey = copies[3],
        .sender_member_id = copies[4],
        .sender_name = copies[5],
        .target_spec = copies[6],
        .nonce = copies[7],
        .reply_to_id = copies[8],
        .mentions = copies[9],
        .ciphertext = copies[10],
        .ciphertext_length = texts[10].length,
    };
    return message;
}

/* Appends rows of a bound statement to a list until one of the maxima; *ret_more: it stopped early. */
static int collect(sqlite3_stmt *statement, struct store_message ***end, size_t *count, size_t limit, size_t *bytes, size_t byte_limit,
                   bool *ret_more, struct error *error)
{
    for (;;) {
        if (*count >= limit || *bytes >= byte_limit) {
            *ret_more = true;
            return 0;
        }
        int status = db_step(statement, error);
        if (status <= 0) {
            *ret_more = false;
            return status;
        }
        struct store_message *message = message_of_row(statement);
        **end = message;
        *end = &message->next;
        (*count)++;
        *bytes += message->ciphertext_length;
    }
}

static int run_fetch(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_fetch *fetch = CONTAINER_OF(request, struct store_fetch, request);
    store_messages_free(fetch->first);
    fetch->first = NULL;
    struct store_message **end = &fetch->first;
    size_t count = 0, bytes = 0;
    for (int priority = 0; priority < STORE_PRIORITIES; priority++) {
        fetch->more[priority] = true;
        if (!fetch->wanted[priority] || count >= fetch->limit || bytes >= fetch->byte_limit)
            continue;
        sqlite3_stmt *statement = db_prepare(connection, FETCH, error);
        if (statement == NULL)
            return -(int)error->code;
        int status = db_bind(statement, error, "iiiii", fetch->member, fetch->session, (int64_t)priority, fetch->cursor[priority],
                             (int64_t)(fetch->limit - count + 1));
        if (status == 0)
            status = collect(statement, &end, &count, fetch->limit, &bytes, fetch->byte_limit, &fetch->more[priority], error);
        db_reset(statement);
        if (status != 0)
            return status;
    }
    return 0;
}

void sqlite_fetch(struct store *store, struct store_fetch *request)
{
    sqlite_submit(store, &request->request, STORE_OP_FETCH, RUN_READING, run_fetch);
}

/* ---- acknowledgements and receipts ------------------------------------------------------------------------------- */

static int acknowledge_one(struct sqlite_store *store, struct db_connection *connection, struct store_ack *ack, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_ACKNOWLEDGED, error);
    if (statement == NULL)
        return -(int)error->code;
    int64_t message = 0, history_id = 0, priority = 0;
    int status = db_bind(statement, error, "tii", ack->broker_message_id, ack->mesh, ack->member);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        message = db_column_integer(statement, 0, 0);
        history_id = db_column_integer(statement, 1, 0);
        priority = db_column_integer(statement, 2, 0);
        ack->sender = db_column_integer(statement, 3, 0);
        if (string_copy(ack->client_message_id, sizeof ack->client_message_id, db_column_string(statement, 4)) != 0)
            status = error_set(error, ERROR_CORRUPT, "a message's client_message_id is damaged");
    }
    db_reset(statement);
    if (status != 1)
        return status;
    int64_t changes = 0;
    if (ack->kind != STORE_ACK_SEEN) {
        status = db_execute(connection, error, &changes, DELETE_DELIVERY, "iiii", ack->member, ack->session, priority, history_id);
        if (status != 0)
            return status;
        ack->delivered = (size_t)changes;
    }
    bool tells_sender = ack->kind == STORE_ACK_STORED || ack->kind == STORE_ACK_SEEN;
    int64_t inserted = 0;
    status = db_execute(connection, error, &inserted, INSERT_RECEIPT, "iiiitiit", message, ack->member, (int64_t)ack->kind, ack->at,
                        ack->rsig, ack->sender, (int64_t)tells_sender, ack->by);
    if (status != 0)
        return status;
    ack->receipt = tells_sender && inserted > 0;
    if (changes > 0)
        waiting_add(store, ack->member, ack->session, -changes);
    return 0;
}

static int run_acknowledge(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    struct store_acknowledge *acknowledge = CONTAINER_OF(request, struct store_acknowledge, request);
    for (size_t i = 0; i < acknowledge->count; i++) {
        struct store_ack *ack = &acknowledge->acks[i];
        ack->receipt = false;
        ack->delivered = 0;
        int status = acknowledge_one(store, connection, ack, error);
        if (status < 0) {
            waiting_clear(store); /* what was counted down for the earlier ones is undone with this failure */
            return status;
        }
    }
    return 0;
}

void sqlite_acknowledge(struct store *store, struct store_acknowledge *request)
{
    sqlite_submit(store, &request->request, STORE_OP_ACKNOWLEDGE, RUN_WRITING, run_acknowledge);
}

static int receipt_of_row(sqlite3_stmt *statement, struct store_receipt *receipt, struct error *error)
{
    const char *rsig = db_column_string(statement, 4);
    receipt->message = db_column_integer(statement, 0, 0);
    if (string_copy(receipt->broker_message_id, sizeof receipt->broker_message_id, db_column_string(statement, 1)) != 0 ||
        string_copy(receipt->client_message_id, sizeof receipt->client_message_id, db_column_string(statement, 2)) != 0 ||
        string_copy(receipt->by, sizeof receipt->by, db_column_string(statement, 3)) != 0 ||
        string_copy(receipt->rsig, sizeof receipt->rsig, rsig == NULL ? "" : rsig) != 0)
        return error_set(error, ERROR_CORRUPT, "a receipt is damaged");
    receipt->kind = db_column_integer(statement, 5, 0) == STORE_ACK_SEEN ? STORE_ACK_SEEN : STORE_ACK_STORED;
    receipt->at = db_column_integer(statement, 6, 0);
    return 0;
}

static int run_fetch_receipts(struct sqlite_store *store, struct db_connection *connection, struct store_request *request,
                              struct error *error)
{
    (void)store;
    struct store_fetch_receipts *fetch = CONTAINER_OF(request, struct store_fetch_receipts, request);
    fetch->count = 0;
    fetch->next = -1;
    sqlite3_stmt *statement = db_prepare(connection, FETCH_RECEIPTS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "iii", fetch->member, fetch->after, (int64_t)STORE_RECEIPT_PAGE);
    while (status == 0 && fetch->count < STORE_RECEIPT_PAGE) {
        status = db_step(statement, error);
        if (status != 1)
            break;
        status = receipt_of_row(statement, &fetch->receipts[fetch->count], error);
        if (status == 0)
            fetch->count++;
    }
    db_reset(statement);
    if (status < 0)
        return status;
    /* A page may end between the two receipts of one message: begin the next with that message again, for a receipt sent twice does no harm. */
    if (fetch->count == STORE_RECEIPT_PAGE)
        fetch->next = fetch->receipts[fetch->count - 1].message - 1;
    return 0;
}

void sqlite_fetch_receipts(struct store *store, struct store_fetch_receipts *request)
{
    sqlite_submit(store, &request->request, STORE_OP_RECEIPTS, RUN_READING, run_fetch_receipts);
}

static int run_settle_receipts(struct sqlite_store *store, struct db_connection *connection, struct store_request *request,
                               struct error *error)
{
    (void)store;
    const struct store_settle_receipts *settle = CONTAINER_OF(request, struct store_settle_receipts, request);
    for (size_t i = 0; i < settle->count; i++) {
        const struct store_receipt_ack *ack = &settle->acks[i];
        int status = db_execute(connection, error, NULL, SETTLE_RECEIPT, "titii", ack->broker_message_id, settle->mesh, ack->by,
                                (int64_t)ack->kind, settle->member);
        if (status != 0)
            return status;
    }
    return 0;
}

void sqlite_settle_receipts(struct store *store, struct store_settle_receipts *request)
{
    sqlite_submit(store, &request->request, STORE_OP_RECEIPTS, RUN_WRITING, run_settle_receipts);
}

/* ---- history and status -------------------------------------------------------------------------------------------- */

static int newest_history_id(struct db_connection *connection, int64_t mesh, int64_t *ret_history_id, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, NEWEST_HISTORY_ID, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", mesh);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        *ret_history_id = db_column_integer(statement, 0, 0);
        status = 0;
    }
    db_reset(statement);
    return status;
}

/* A member's messages are found by looking through the mesh's, a bounded stretch at a time: an index a member would cost every accept for what `recover` alone needs. */
static int run_history(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)store;
    struct store_history *history = CONTAINER_OF(request, struct store_history, request);
    store_messages_free(history->first);
    history->first = NULL;
    history->count = 0;
    int64_t newest;
    int status = newest_history_id(connection, history->mesh, &newest, error);
    if (status != 0)
        return status;
    sqlite3_stmt *statement = db_prepare(connection, HISTORY, error);
    if (statement == NULL)
        return -(int)error->code;
    struct store_message **end = &history->first;
    int64_t until = history->after + (int64_t)history->scan_limit;
    size_t bytes = 0;
    bool more = false;
    status = db_bind(statement, error, "iiiii", history->mesh, history->after, until, history->member, (int64_t)history->limit + 1);
    if (status == 0)
        status = collect(statement, &end, &history->count, history->limit, &bytes, history->byte_limit, &more, error);
    db_reset(statement);
    if (status != 0)
        return status;
    history->scanned_to = until;
    for (const struct store_message *message = history->first; more && message != NULL; message = message->next)
        history->scanned_to = message->history_id;
    history->end = history->scanned_to >= newest;
    return 0;
}

void sqlite_history(struct store *store, struct store_history *request)
{
    sqlite_submit(store, &request->request, STORE_OP_HISTORY, RUN_READING, run_history);
}

static int run_message_status(struct sqlite_store *store, struct db_connection *connection, struct store_request *request,
                              struct error *error)
{
    (void)store;
    struct store_message_status *asked = CONTAINER_OF(request, struct store_message_status, request);
    asked->found = false;
    sqlite3_stmt *statement = db_prepare(connection, FIND_STATUS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "tii", asked->broker_message_id, asked->mesh, asked->member);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        status = 0;
        asked->found = true;
        asked->recipient = db_column_integer(statement, 1, 0);
        asked->delivered_at = db_column_integer(statement, 4, -1);
        asked->delivered = asked->delivered_at >= 0;
        if (string_copy(asked->target_spec, sizeof asked->target_spec, db_column_string(statement, 0)) != 0 ||
            string_copy(asked->recipient_name, sizeof asked->recipient_name, db_column_string(statement, 2)) != 0 ||
            string_copy(asked->recipient_pubkey, sizeof asked->recipient_pubkey, db_column_string(statement, 3)) != 0)
            status = error_set(error, ERROR_CORRUPT, "a message's destination is damaged");
    }
    db_reset(statement);
    return status;
}

void sqlite_message_status(struct store *store, struct store_message_status *request)
{
    sqlite_submit(store, &request->request, STORE_OP_STATUS, RUN_READING, run_message_status);
}
