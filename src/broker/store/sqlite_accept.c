/* Accepting a send (70-broker): B0 to B3 in one task of the writer, in the order of arrival. A dedupe record exists if and only if its message was
 * committed, because one transaction holds both and nothing else ever inserts either. */
#include "broker/store/sqlite.h"
#include "util/memory.h"
#include "util/text.h"

static const char FIND_DEDUPE[] =
    "SELECT broker_message_id, request_fingerprint, first_seen_at, history_available, history_id FROM client_message_dedupe"
    " WHERE client_message_id = ? AND sender_member_id = ? AND mesh_id = ?";
static const char FIND_SENDER[] = "SELECT pubkey FROM member WHERE id = ? AND state = 'active'";
static const char FIND_MEMBER[] = "SELECT id, state = 'active', state = 'revoked' FROM member WHERE mesh_id = ? AND pubkey = ?";
static const char FIND_STATE[] = "SELECT state = 'active', state = 'revoked' FROM member WHERE id = ?";
static const char FIND_SESSION[] = "SELECT m.id, s.id FROM session s JOIN member m ON m.id = s.member_id WHERE s.session_pubkey = ? AND "
                                   "m.mesh_id = ? AND m.state = 'active'"
                                   " ORDER BY s.id LIMIT 1";
static const char LIST_SESSIONS[] = "SELECT id FROM session WHERE member_id = ? ORDER BY id";
static const char NEXT_HISTORY_ID[] =
    "SELECT max(history_floor, coalesce((SELECT max(history_id) FROM message WHERE mesh_id = ?1), 0)) + 1 FROM mesh WHERE id = ?1";
static const char INSERT_DEDUPE[] =
    "INSERT INTO client_message_dedupe (mesh_id, client_message_id, broker_message_id, request_fingerprint, destination_kind, "
    "destination_ref,"
    " first_seen_at, expires_at, history_id, sender_member_id) VALUES (?, ?, ?, ?, ?, ?, ?, nullif(?, -1), ?, ?)";
static const char INSERT_MESSAGE[] = "INSERT INTO message (mesh_id, history_id, broker_message_id, client_message_id, sender_member_id, "
                                     "recipient_member_id, sender_pubkey, target_spec,"
                                     " priority, body_version, key_epoch, reply_to_id, mentions, created_at, nonce, ciphertext)"
                                     " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, -1), ?, ?, ?, ?, ?)";
static const char INSERT_DELIVERY[] =
    "INSERT INTO delivery_queue (member_id, session_id, priority, history_id, message_id) VALUES (?, ?, ?, ?, ?)";

/* B0. 1: found, *accept answered. */
static int look_up_dedupe(struct db_connection *connection, struct store_accept *accept, struct error *error)
{
    static const char DIGITS[] = "0123456789abcdef";
    sqlite3_stmt *statement = db_prepare(connection, FIND_DEDUPE, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "tii", accept->client_message_id, accept->sender, accept->mesh);
    if (status == 0)
        status = db_step(statement, error);
    if (status != 1)
        goto out;
    struct text stored = db_column_text(statement, 1);
    const char *message_id = db_column_string(statement, 0);
    if (stored.length != sizeof accept->fingerprint || message_id == NULL ||
        string_copy(accept->broker_message_id, sizeof accept->broker_message_id, message_id) != 0) {
        status = error_set(error, ERROR_CORRUPT, "a dedupe record is damaged");
        goto out;
    }
    accept->outcome = memcmp(stored.data, accept->fingerprint, sizeof accept->fingerprint) == 0 ? STORE_DUPLICATE : STORE_CONFLICT;
    for (size_t i = 0; i < 8; i++) {
        unsigned byte = (unsigned char)stored.data[i];
        accept->fingerprint_prefix[2 * i] = DIGITS[byte >> 4];
        accept->fingerprint_prefix[2 * i + 1] = DIGITS[byte & 15];
    }
    accept->fingerprint_prefix[16] = '\0';
    accept->first_seen_at = db_column_integer(statement, 2, 0);
    accept->history_available = db_column_integer(statement, 3, 0) != 0;
    accept->history_id = db_column_integer(statement, 4, 0);
out:
    db_reset(statement);
    return status;
}

/* 1: it is, under the key of its hello. 0: answered. */
static int sender_is_member(struct db_connection *connection, struct store_accept *accept, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_SENDER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", accept->sender);
    if (status == 0)
        status = db_step(statement, error);
    accept->outcome = STORE_SENDER_GONE;
    if (status == 1 && strcmp(db_column_string(statement, 0), accept->sender_member_pubkey) != 0) {
        accept->outcome = STORE_SENDER_ROTATED; /* in passing: it is sent again under the new key */
        status = 0;
    }
    db_reset(statement);
    return status;
}

/* Sends to a former key reach the member while the grace lasts (50-identity, Key rotation). 1: *accept has the recipient; 0: answered, or nobody's (outcome unknown). */
static int find_former_recipient(struct db_connection *connection, struct store_accept *accept, struct error *error)
{
    struct former_key former;
    int status = find_former_key(connection, accept->mesh, accept->destination_ref, &former, error);
    if (status != 0 || former.member == 0)
        return status;
    sqlite3_stmt *statement = db_prepare(connection, FIND_STATE, error);
    if (statement == NULL)
        return -(int)error->code;
    status = db_bind(statement, error, "i", former.member);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        accept->recipient = former.member;
        accept->outcome = db_column_integer(statement, 1, 0) != 0 ? STORE_MEMBER_REVOKED : STORE_UNKNOWN_MEMBER;
        status = db_column_integer(statement, 0, 0) != 0 && former.usable_until > accept->now_ms ? 1 : 0;
    }
    db_reset(statement);
    return status;
}

/* 1: *accept has the recipient; *ret_session its one session when a session's key was named, else 0. 0: answered. */
static int find_recipient(struct db_connection *connection, struct store_accept *accept, int64_t *ret_session, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, FIND_MEMBER, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "it", accept->mesh, accept->destination_ref);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        accept->recipient = db_column_integer(statement, 0, 0);
        accept->outcome = db_column_integer(statement, 2, 0) != 0 ? STORE_MEMBER_REVOKED : STORE_UNKNOWN_MEMBER;
        status = db_column_integer(statement, 1, 0) != 0 ? 1 : 0;
        db_reset(statement);
        return status;
    }
    db_reset(statement);
    if (status < 0)
        return status;
    statement = db_prepare(connection, FIND_SESSION, error);
    if (statement == NULL)
        return -(int)error->code;
    status = db_bind(statement, error, "ti", accept->destination_ref, accept->mesh);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1) {
        accept->recipient = db_column_integer(statement, 0, 0);
        *ret_session = db_column_integer(statement, 1, 0);
    }
    db_reset(statement);
    if (status == 0) {
        accept->outcome = STORE_UNKNOWN_MEMBER;
        status = find_former_recipient(connection, accept, error);
    }
    return status;
}

/* The sessions that will have a row: all that are known; of a send to oneself the others, and the sending one when nobody else would see it now. */
static int choose_sessions(struct db_connection *connection, struct store_accept *accept, int64_t named, struct error *error)
{
    if (named != 0) {
        accept->recipient_sessions[accept->recipient_session_count++] = named;
        return 0;
    }
    sqlite3_stmt *statement = db_prepare(connection, LIST_SESSIONS, error);
    if (statement == NULL)
        return -(int)error->code;
    bool to_oneself = accept->recipient == accept->sender && accept->session != 0;
    int status = db_bind(statement, error, "i", accept->recipient);
    while (status == 0 && accept->recipient_session_count < STORE_SESSIONS_MAXIMUM) {
        status = db_step(statement, error);
        if (status != 1)
            break;
        int64_t session = db_column_integer(statement, 0, 0);
        if (!to_oneself || session != accept->session || !accept->other_connection)
            accept->recipient_sessions[accept->recipient_session_count++] = session;
        status = 0;
    }
    db_reset(statement);
    if (status < 0)
        return status;
    if (accept->recipient_session_count == 0)
        accept->recipient_sessions[accept->recipient_session_count++] = to_oneself ? accept->session : 0;
    return 0;
}

/* A session that has the maximum waiting gets no more while another one of the recipient has room: a device in a drawer must not silence the others. */
static int drop_full_sessions(struct sqlite_store *store, struct db_connection *connection, struct store_accept *accept,
                              struct error *error)
{
    size_t kept = 0;
    for (size_t i = 0; i < accept->recipient_session_count; i++) {
        int64_t count;
        int status = waiting_count(store, connection, accept->recipient, accept->recipient_sessions[i], &count, error);
        if (status != 0)
            return status;
        if (count < store->options.waiting_maximum)
            accept->recipient_sessions[kept++] = accept->recipient_sessions[i];
    }
    accept->recipient_session_count = kept;
    if (kept == 0)
        accept->outcome = STORE_RECIPIENT_FULL;
    return kept > 0 ? 1 : 0;
}

/* B3. */
static int insert_all(struct db_connection *connection, struct store_accept *accept, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, NEXT_HISTORY_ID, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", accept->mesh);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1)
        accept->history_id = db_column_integer(statement, 0, 0);
    else if (status == 0)
        status = error_set(error, ERROR_NOT_FOUND, "the mesh is gone");
    db_reset(statement);
    if (status < 0)
        return status;
    status = db_execute(connection, error, NULL, INSERT_DEDUPE, "ittbttiiii", accept->mesh, accept->client_message_id,
                        accept->claimed_message_id, accept->fingerprint, sizeof accept->fingerprint, accept->destination_kind,
                        accept->destination_ref, accept->now_ms, accept->dedupe_expires_at, accept->history_id, accept->sender);
    if (status != 0)
        return status;
    status = db_execute(connection, error, NULL, INSERT_MESSAGE, "iittiittiiittitx", accept->mesh, accept->history_id,
                        accept->claimed_message_id, accept->client_message_id, accept->sender, accept->recipient, accept->sender_pubkey,
                        accept->target_spec, (int64_t)accept->priority, accept->body_version, accept->key_epoch, accept->reply_to_id,
                        accept->mentions, accept->now_ms, accept->nonce, (struct text){ accept->ciphertext, accept->ciphertext_length });
    if (status != 0)
        return status;
    accept->message = sqlite3_last_insert_rowid(db_handle(connection));
    for (size_t i = 0; i < accept->recipient_session_count; i++) {
        status = db_execute(connection, error, NULL, INSERT_DELIVERY, "iiiii", accept->recipient, accept->recipient_sessions[i],
                            (int64_t)accept->priority, accept->history_id, accept->message);
        if (status != 0)
            return status;
    }
    return 0;
}

static int decide(struct sqlite_store *store, struct db_connection *connection, struct store_accept *accept, struct error *error)
{
    int status = look_up_dedupe(connection, accept, error);
    if (status != 0)
        return status < 0 ? status : 0;
    status = sender_is_member(connection, accept, error);
    if (status <= 0)
        return status;
    if (accept->refused) {
        accept->outcome = STORE_REFUSED;
        return 0;
    }
    const struct store_admission *admission = &store->options.admission;
    int refusal = admission->admit(admission->argument, accept, &accept->retry_after_ms);
    if (refusal != 0) {
        accept->outcome = refusal == 429 ? STORE_RATE_LIMITED : STORE_HELD;
        return 0;
    }
    int64_t named = 0;
    status = find_recipient(connection, accept, &named, error);
    if (status <= 0)
        return status;
    status = choose_sessions(connection, accept, named, error);
    if (status != 0)
        return status;
    status = drop_full_sessions(store, connection, accept, error);
    if (status <= 0)
        return status;
    status = insert_all(connection, accept, error);
    if (status != 0)
        return status;
    accept->outcome = STORE_ACCEPTED;
    memcpy(accept->broker_message_id, accept->claimed_message_id, sizeof accept->broker_message_id);
    accept->first_seen_at = accept->now_ms;
    accept->history_available = true;
    for (size_t i = 0; i < accept->recipient_session_count; i++)
        waiting_add(store, accept->recipient, accept->recipient_sessions[i], 1);
    return 0;
}

/* ---- accepts that the writer never saw -------------------------------------------------------------------------------------
 *
 * When a transaction cannot begin (an operator's tool holds the lock for long), its tasks fail without being run, and the admission never hears of them. What
 * was submitted behind them, before anybody knew, must not be accepted ahead of them: a hole in the numbers shows that there were such, and everything that was under way with
 * them is refused too. Their own destinations are held from then on by a task that follows. */

static bool was_under_way_with_the_lost(struct sqlite_store *store, const struct store_accept *accept)
{
    if (accept->number > store->newest_run + 1)
        store->gap_end = accept->number - 1;
    if (accept->number > store->newest_run)
        store->newest_run = accept->number;
    return accept->finished_before < store->gap_end;
}

struct hold_lost {
    struct store_request request;
    struct store_accept accept; /* with its strings after it */
};

static int run_hold_lost(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    (void)connection;
    (void)error;
    const struct hold_lost *hold = CONTAINER_OF(request, struct hold_lost, request);
    store->options.admission.decided(store->options.admission.argument, &hold->accept, true);
    return 0;
}

static void forget_hold(struct store_request *request)
{
    free(CONTAINER_OF(request, struct hold_lost, request));
}

static void hold_lost(struct sqlite_store *store, const struct store_accept *accept)
{
    size_t id = strlen(accept->client_message_id) + 1, ref = strlen(accept->destination_ref) + 1;
    struct hold_lost *hold = memory_zalloc(sizeof(*hold) + id + ref);
    char *text = (char *)(hold + 1);
    hold->request.done = forget_hold;
    hold->accept.connection = accept->connection;
    hold->accept.sender = accept->sender;
    hold->accept.priority = accept->priority;
    hold->accept.number = accept->number;
    hold->accept.client_message_id = memcpy(text, accept->client_message_id, id);
    hold->accept.destination_ref = memcpy(text + id, accept->destination_ref, ref);
    sqlite_submit(&store->store, &hold->request, STORE_OP_ACCEPT, RUN_WRITING, run_hold_lost);
}

void sqlite_accept_finished(struct sqlite_store *store, const struct store_accept *accept)
{
    store->finished = accept->number;
    if (!accept->ran)
        hold_lost(store, accept);
}

int sqlite_run_accept(struct sqlite_store *store, struct db_connection *connection, struct store_request *request, struct error *error)
{
    struct store_accept *accept = CONTAINER_OF(request, struct store_accept, request);
    accept->ran = true;
    accept->recipient_session_count = 0;
    accept->broker_message_id[0] = '\0';
    accept->retry_after_ms = -1;
    int status = was_under_way_with_the_lost(store, accept) ? error_set(error, ERROR_BUSY, "an earlier message could not be decided")
                                                            : decide(store, connection, accept, error);
    bool refused_in_passing = status < 0 || accept->outcome == STORE_SENDER_ROTATED || accept->outcome == STORE_RATE_LIMITED ||
                              accept->outcome == STORE_HELD || accept->outcome == STORE_RECIPIENT_FULL;
    store->options.admission.decided(store->options.admission.argument, accept, refused_in_passing);
    return status;
}

void sqlite_accept(struct store *base, struct store_accept *accept)
{
    struct sqlite_store *store = CONTAINER_OF(base, struct sqlite_store, store);
    accept->number = ++store->submitted;
    accept->finished_before = store->finished;
    accept->ran = false;
    sqlite_submit(base, &accept->request, STORE_OP_ACCEPT, RUN_WRITING_DURABLY, sqlite_run_accept);
}
