/* Owns retention: old rows go in small steps, their dedupe keys stay; old keys go too, and raise the floor under which a message that is not stored is taken for a
 * replay (30-delivery, Inbox; 45-trust, the recipient's table). */
#include "inbox/internal.h"
#include "util/memory.h"

static const char KEEP_KEYS[] = "INSERT OR IGNORE INTO inbox_pruned (mesh, sender_pubkey, client_message_id, sent_at, received_at)"
                                " SELECT mesh, sender_pubkey, client_message_id, sent_at, received_at FROM inbox INDEXED BY inbox_received"
                                " WHERE received_at < ?1 ORDER BY received_at, seq LIMIT ?2";
static const char DELETE_ROWS[] = "DELETE FROM inbox WHERE seq IN (SELECT seq FROM inbox INDEXED BY inbox_received WHERE received_at < ?1 "
                                  "ORDER BY received_at, seq LIMIT ?2)";
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

static int run_prune(struct db_connection *connection, struct db_task *task)
{
    struct prune_task *prune = CONTAINER_OF(task, struct prune_task, task);
    struct error *error = &task->error;
    int64_t step = INBOX_STEP_ROWS;
    prune->rows = prune->keys = 0;
    int status = db_execute(connection, error, NULL, KEEP_KEYS, "ii", prune->received_before_ms, step);
    if (status == 0)
        status = db_execute(connection, error, &prune->rows, DELETE_ROWS, "ii", prune->received_before_ms, step);
    if (status == 0)
        status = db_execute(connection, error, NULL, RAISE_FLOOR, "ii", prune->keys_before_ms, step);
    if (status == 0)
        status = db_execute(connection, error, &prune->keys, DELETE_KEYS, "ii", prune->keys_before_ms, step);
    return status;
}

static void done_prune(struct db_task *task)
{
    struct prune_task *prune = CONTAINER_OF(task, struct prune_task, task);
    inbox_note_result(prune->inbox, task->status);
    if (task->status == 0 && (prune->rows > 0 || prune->keys > 0)) {
        db_write(prune->inbox->db, task);
        return;
    }
    prune->inbox->pruning = false;
    free(prune);
}

void inbox_prune(struct inbox *inbox, int64_t received_before_ms, int64_t keys_before_ms)
{
    if (inbox->pruning)
        return;
    struct prune_task *prune = memory_zalloc(sizeof(*prune));
    prune->task = (struct db_task){ .run = run_prune, .done = done_prune, .flags = DB_DURABLE | DB_SAVEPOINT };
    prune->inbox = inbox;
    prune->received_before_ms = received_before_ms;
    prune->keys_before_ms = keys_before_ms;
    inbox->pruning = true;
    db_write(inbox->db, &prune->task);
}
