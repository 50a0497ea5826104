/* Owns retention: old rows go in small steps, their dedupe keys stay; old keys go too, and raise the floor under which a message that is not stored is taken for a
 * replay (30-delivery, Inbox; 45-trust, the recipient's table). */
#include "inbox/internal.h"
#include "util/memory.h"

enum {
    /* A step stays short beside the messages that come meanwhile: each row goes from five indexes and from the full-text one. */
    STEP_ROWS = 50,
    STEP_BYTES = 64 * 1024,
    STEP_KEYS = 500
};

static const char SELECT_OLD[] = "SELECT seq, length(CAST(body AS BLOB)) FROM inbox INDEXED BY inbox_received WHERE received_at < ?1"
                                 " ORDER BY received_at, seq LIMIT ?2";
static const char KEEP_KEY[] = "INSERT OR IGNORE INTO inbox_pruned (mesh, sender_pubkey, client_message_id, sent_at, received_at)"
                               " SELECT mesh, sender_pubkey, client_message_id, sent_at, received_at FROM inbox WHERE seq = ?1";
static const char DELETE_ROW[] = "DELETE FROM inbox WHERE seq = ?1";
static const char RAISE_FLOOR[] =
    "INSERT INTO inbox_floor (mesh, sent_at) SELECT mesh, max(sent_at) FROM (SELECT mesh, sent_at FROM inbox_pruned INDEXED BY "
    "inbox_pruned_received"
    " WHERE received_at < ?1 ORDER BY received_at, mesh, sender_pubkey, client_message_id LIMIT ?2) WHERE sent_at IS NOT NULL GROUP BY mesh"
    " ON CONFLICT (mesh) DO UPDATE SET sent_at = max(sent_at, excluded.sent_at)";
static const char DELETE_KEYS[] =
    "DELETE FROM inbox_pruned WHERE (mesh, sender_pubkey, client_message_id) IN (SELECT mesh, sender_pubkey, client_message_id"
    " FROM inbox_pruned INDEXED BY inbox_pruned_received WHERE received_at < ?1 ORDER BY received_at, mesh, sender_pubkey, "
    "client_message_id LIMIT ?2)";

struct prune_task {
    struct db_task task;
    struct inbox *inbox;
    int64_t received_before_ms, keys_before_ms;
    int64_t rows, keys; /* removed by this step */
};

int prune_row(struct inbox *inbox, struct db_connection *connection, int64_t seq, struct error *error)
{
    int64_t changes = 0;
    int status = db_execute(connection, error, NULL, KEEP_KEY, "i", seq);
    if (status == 0)
        status = search_remove(inbox, connection, seq, error);
    if (status == 0)
        status = db_execute(connection, error, &changes, DELETE_ROW, "i", seq);
    return status < 0 ? status : (int)changes;
}

static int collect_old(const struct prune_task *prune, struct db_connection *connection, int64_t seqs[static STEP_ROWS], size_t *ret_count,
                       struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_OLD, error);
    if (statement == NULL)
        return -(int)error->code;
    size_t count = 0;
    int64_t bytes = 0;
    int status = db_bind(statement, error, "ii", prune->received_before_ms, (int64_t)STEP_ROWS);
    while (status == 0 && count < STEP_ROWS && bytes < STEP_BYTES && (status = db_step(statement, error)) == 1) {
        seqs[count++] = db_column_integer(statement, 0, 0);
        bytes += db_column_integer(statement, 1, 0);
        status = 0;
    }
    db_reset(statement);
    if (status < 0)
        return status;
    *ret_count = count;
    return 0;
}

static int run_prune(struct db_connection *connection, struct db_task *task)
{
    struct prune_task *prune = CONTAINER_OF(task, struct prune_task, task);
    struct error *error = &task->error;
    int64_t seqs[STEP_ROWS];
    size_t count = 0;
    prune->rows = prune->keys = 0;
    int status = collect_old(prune, connection, seqs, &count, error);
    for (size_t i = 0; i < count && status >= 0; i++) {
        status = prune_row(prune->inbox, connection, seqs[i], error);
        prune->rows += status > 0 ? 1 : 0;
    }
    if (status >= 0)
        status = db_execute(connection, error, NULL, RAISE_FLOOR, "ii", prune->keys_before_ms, (int64_t)STEP_KEYS);
    if (status == 0)
        status = db_execute(connection, error, &prune->keys, DELETE_KEYS, "ii", prune->keys_before_ms, (int64_t)STEP_KEYS);
    return status;
}

static void done_prune(struct db_task *task)
{
    struct prune_task *prune = CONTAINER_OF(task, struct prune_task, task);
    struct inbox *inbox = prune->inbox;
    inbox_note_result(inbox, task->status);
    if (atomic_exchange(&inbox->index_damaged, false))
        search_renew(inbox);
    if (task->status == 0 && (prune->rows > 0 || prune->keys > 0) && !atomic_load(&inbox->closed)) {
        db_write(inbox->db, task);
        return;
    }
    inbox->pruning = false;
    free(prune);
}

void inbox_prune(struct inbox *inbox, int64_t received_before_ms, int64_t keys_before_ms)
{
    if (inbox->pruning || atomic_load(&inbox->closed))
        return;
    struct prune_task *prune = memory_zalloc(sizeof(*prune));
    /* Not durable: what the power takes is pruned again, keys and rows together. */
    prune->task = (struct db_task){ .run = run_prune, .done = done_prune, .flags = DB_SAVEPOINT };
    prune->inbox = inbox;
    prune->received_before_ms = received_before_ms;
    prune->keys_before_ms = keys_before_ms;
    inbox->pruning = true;
    db_write(inbox->db, &prune->task);
}
