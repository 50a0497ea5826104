/* Owns requeue and drop: a row becomes `aborted`, and its successor, when there is one, is inserted in the same transaction (30-delivery, Outbox). */
#include "outbox/internal.h"
#include "util/memory.h"

void outbox_retire_free(struct outbox_retire *retire)
{
    if (retire != NULL) {
        free(retire->id);
        outbox_row_free(retire->successor);
        outbox_row_free(retire->retired);
        if (retire->note != NULL) {
            move_note_release(retire->note);
            free(retire->note);
        }
        free(retire);
    }
}

static int check_move(const struct outbox_move *move, const char *id, struct error *error)
{
    if (move->moved) {
        return 0;
    }
    if (move->from == OUTBOX_INFLIGHT) {
        return error_set(error, ERROR_BUSY, "%s is being sent and may have been accepted: only with force", id);
    }
    return error_set(error, ERROR_CONFLICT, "%s is %s, which is final", id, outbox_state_name(move->from));
}

static int insert_successor(struct outbox_retire *retire, struct db_connection *connection, struct error *error)
{
    int64_t seq = 0;
    const char *client_message_id = retire->successor->client_message_id;
    int status = key_index_find(&retire->outbox->keys, connection, client_message_id, &seq, error);
    if (status == 1) {
        return error_set(error, ERROR_AMBIGUOUS, "the client_message_id %s was used before", client_message_id);
    }
    if (status == 0 && retire->refuse_new) {
        return error_set(error, ERROR_FULL, "the outbox is full: what is queued must be sent first");
    }
    return status == 0 ? row_insert(retire->outbox, connection, retire->successor, error) : status;
}

static int run_retire(struct db_connection *connection, struct db_task *task)
{
    struct outbox_retire *retire = CONTAINER_OF(task, struct outbox_retire, task);
    move_note_release(retire->note); /* of a run that was undone */
    outbox_row_free(retire->retired);
    retire->retired = NULL;
    if (!retire->force &&
        retire->outbox->moves_run < retire->moves_before) { /* a mark that found no room waits: what looks pending may be on its way */
        return error_set(&task->error, ERROR_BUSY, "%s may have been sent, which the disk has had no room to say: only with force",
                         retire->id);
    }
    int64_t seq = 0;
    int status = row_find(retire->outbox, connection, retire->id, &seq, &task->error);
    if (status < 0) {
        return status;
    }
    struct outbox_move move = { .seq = seq, .event = retire->force ? OUTBOX_EVENT_FORCED : OUTBOX_EVENT_RETIRED, .history_id = -1 };
    struct outbox_row *successor = retire->successor;
    status = move_row(retire->outbox, connection, &move, successor == NULL ? NULL : successor->id, retire->note, &task->error);
    if (status == 0) {
        status = check_move(&move, retire->id, &task->error);
    }
    if (status == 0) {
        status = row_load(connection, seq, &retire->retired, &task->error);
    }
    if (status == 0 && successor != NULL) {
        status = insert_successor(retire, connection, &task->error);
    }
    if (status < 0 && move.moved) {
        counts_move(retire->note->mesh, move.to, move.from); /* the savepoint takes the row back: its count goes with it */
    }
    retire->from = move.from;
    return status;
}

static void done_retire(struct db_task *task)
{
    struct outbox_retire *retire = CONTAINER_OF(task, struct outbox_retire, task);
    struct outbox *outbox = retire->outbox;
    retire->status = task->status;
    retire->error = task->error;
    if (retire->status == 0) {
        struct outbox_move move = { .from = retire->from, .to = OUTBOX_ABORTED, .moved = true };
        move_report(outbox, &move, retire->note);
        if (retire->successor != NULL) {
            counts_commit(outbox, counts_mesh(outbox, retire->successor->mesh), OUTBOX_STATES, OUTBOX_PENDING);
            if (outbox->observer.inserted != NULL) {
                outbox->observer.inserted(outbox->observer.argument, retire->successor);
            }
        }
    }
    outbox_note_result(outbox, retire->refuse_new ? 0 : retire->status, retire->status == 0);
    retire->done(retire);
}

void outbox_retire(struct outbox_retire *retire)
{
    retire->task = (struct db_task){ .run = run_retire, .done = done_retire, .flags = DB_DURABLE | DB_SAVEPOINT };
    retire->moves_before = retire->outbox->moves_submitted;
    retire->note = memory_zalloc(sizeof(*retire->note));
    retire->refuse_new = retire->successor != NULL && outbox_bytes_are_full(retire->outbox);
    outbox_write(retire->outbox, &retire->task);
}
