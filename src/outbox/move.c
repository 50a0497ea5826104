/* Owns every change of a row's state: one function, by OUTBOX_MOVES, with the old state in the WHERE and one changed row demanded; and batches of such moves,
 * tried again until they are committed. */
#include "outbox/internal.h"
#include "util/clock.h"
#include "util/memory.h"

static const char SELECT_STATE[] = "SELECT status, mesh, id, client_message_id FROM outbox WHERE seq = ?1";
static const char SET_INFLIGHT[] = "UPDATE outbox SET status = 'inflight' WHERE seq = ?1 AND status = ?2";
static const char SET_PENDING[] =
    "UPDATE outbox SET status = 'pending', attempts = attempts + 1, next_attempt_at = ?3, last_error = coalesce(?4, last_error)"
    " WHERE seq = ?1 AND status = ?2";
static const char SET_DONE[] = "UPDATE outbox SET status = 'done', attempts = attempts + (status = 'inflight'), delivered_at = ?3, "
                               "broker_message_id = ?4, history_id = ?5"
                               " WHERE seq = ?1 AND status = ?2";
static const char SET_DEAD[] =
    "UPDATE outbox SET status = 'dead', attempts = attempts + (status = 'inflight'), last_error = ?3 WHERE seq = ?1 AND status = ?2";
static const char SET_ABORTED[] =
    "UPDATE outbox SET status = 'aborted', aborted_at = ?3, aborted_by = 'operator', superseded_by = ?4 WHERE seq = ?1 AND status = ?2";
static const char ADD_ATTEMPT[] = "INSERT OR IGNORE INTO outbox_attempt (seq, content, sent_at) VALUES (?1, ?2, ?3)";

void move_note_release(struct move_note *note)
{
    free(note->id);
    free(note->client_message_id);
    free(note->broker_message_id);
    free(note->last_error);
    *note = (struct move_note){ .mesh = NULL };
}

static bool is_final_for_observers(enum outbox_state state)
{
    return state == OUTBOX_DONE || state == OUTBOX_DEAD || state == OUTBOX_ABORTED;
}

/* 1: the row is there. */
static int read_state(struct outbox *outbox, struct db_connection *connection, struct outbox_move *move, struct move_note *ret_note,
                      struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_STATE, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "i", move->seq);
    if (status == 0) {
        status = db_step(statement, error);
    }
    if (status == 1 && !outbox_state_parse(db_column_string(statement, 0), &move->from)) {
        status = error_set(error, ERROR_CORRUPT, "outbox row %" PRId64 " is in no known state", move->seq);
    }
    if (status == 1) {
        move->to = OUTBOX_MOVES[move->from][move->event];
        ret_note->mesh = counts_mesh(outbox, db_column_string(statement, 1));
        if (move->to != OUTBOX_STATES && is_final_for_observers(move->to)) {
            ret_note->id = db_column_dup(statement, 2);
            ret_note->client_message_id = db_column_dup(statement, 3);
        }
    }
    db_reset(statement);
    return status;
}

static int write_state(struct db_connection *connection, const struct outbox_move *move, const char *superseded_by, int64_t *ret_changes,
                       struct error *error)
{
    const char *from = outbox_state_name(move->from);
    switch (move->to) {
    case OUTBOX_INFLIGHT:
        return db_execute(connection, error, ret_changes, SET_INFLIGHT, "it", move->seq, from);
    case OUTBOX_PENDING:
        return db_execute(connection, error, ret_changes, SET_PENDING, "itit", move->seq, from, move->next_attempt_at, move->error);
    case OUTBOX_DONE:
        return move->history_id < 0 ? db_execute(connection, error, ret_changes, SET_DONE, "ititn", move->seq, from, clock_wall_ms(),
                                                 move->broker_message_id)
                                    : db_execute(connection, error, ret_changes, SET_DONE, "ititi", move->seq, from, clock_wall_ms(),
                                                 move->broker_message_id, move->history_id);
    case OUTBOX_DEAD:
        return db_execute(connection, error, ret_changes, SET_DEAD, "itt", move->seq, from, move->error);
    case OUTBOX_ABORTED:
        return db_execute(connection, error, ret_changes, SET_ABORTED, "itit", move->seq, from, clock_wall_ms(), superseded_by);
    case OUTBOX_STATES:
        break;
    }
    return error_set(error, ERROR_INTERNAL, "no state to move outbox row %" PRId64 " to", move->seq);
}

int move_row(struct outbox *outbox, struct db_connection *connection, struct outbox_move *move, const char *superseded_by,
             struct move_note *ret_note, struct error *error)
{
    move->moved = false;
    move->from = OUTBOX_STATES;
    move->to = OUTBOX_STATES;
    struct move_note note = { .history_id = move->history_id };
    int status = read_state(outbox, connection, move, &note, error);
    if (status <= 0 || move->to == OUTBOX_STATES) {
        move_note_release(&note);
        return status < 0 ? status : 0;
    }
    int64_t changes = 0;
    status = write_state(connection, move, superseded_by, &changes, error);
    if (status == 0 && changes != 1) {
        status = error_set(error, ERROR_INTERNAL, "%" PRId64 " rows moved instead of one", changes);
    }
    if (status == 0 && move->event == OUTBOX_EVENT_SENT && move->has_content) {
        status = db_execute(connection, error, NULL, ADD_ATTEMPT, "ibi", move->seq, (const void *)move->content.bytes,
                            sizeof(move->content.bytes), clock_wall_ms());
    }
    if (status < 0) {
        move_note_release(&note);
        return status;
    }
    if (is_final_for_observers(move->to)) {
        note.broker_message_id = memory_strdup(move->broker_message_id);
        note.last_error = memory_strdup(move->error);
    }
    move->moved = true;
    counts_move(note.mesh, move->from, move->to);
    *ret_note = note;
    return 0;
}

void move_report(struct outbox *outbox, const struct outbox_move *move, struct move_note *note)
{
    if (move->moved) {
        counts_commit(outbox, note->mesh, move->from, move->to);
        if (is_final_for_observers(move->to) && outbox->observer.finished != NULL) {
            outbox->observer.finished(outbox->observer.argument, note->mesh->mesh, note->client_message_id, note->id, move->to,
                                      note->broker_message_id, note->history_id, note->last_error);
        }
    }
    move_note_release(note);
}

/* ---- batches --------------------------------------------------------------------------------------------------------- */

struct move_task {
    struct db_task task;
    struct outbox *outbox;
    struct outbox_move *moves;
    struct move_note *notes;
    size_t count;
    uint64_t number; /* in the order of submission, from 1 */
    void (*done)(void *argument, struct outbox_move *moves, size_t count);
    void *argument;
    struct move_task *next_kept;
};

static void move_task_free(struct move_task *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        move_note_release(&batch->notes[i]);
        free(batch->moves[i].broker_message_id);
        free(batch->moves[i].error);
    }
    free(batch->notes);
    free(batch->moves);
    free(batch);
}

/* One that failed goes first when it is tried again: a `sent` that came after its row's `retry` would leave the row inflight with nobody waiting for it. */
static int run_moves(struct db_connection *connection, struct db_task *task)
{
    struct move_task *batch = CONTAINER_OF(task, struct move_task, task);
    if (batch->number != batch->outbox->moves_run + 1) {
        return error_set(&task->error, ERROR_BUSY, "an earlier change of the outbox is not committed yet");
    }
    for (size_t i = 0; i < batch->count; i++) {
        move_note_release(&batch->notes[i]); /* of a run that was undone */
        int status = move_row(batch->outbox, connection, &batch->moves[i], NULL, &batch->notes[i], &task->error);
        if (status < 0) {
            return status;
        }
    }
    batch->outbox->moves_run = batch->number;
    return 0;
}

static void keep(struct outbox *outbox, struct move_task *batch)
{
    struct move_task **place = &outbox->kept_first;
    while (*place != NULL && (*place)->number < batch->number) {
        place = &(*place)->next_kept;
    }
    batch->next_kept = *place;
    *place = batch;
}

static void done_moves(struct db_task *task)
{
    struct move_task *batch = CONTAINER_OF(task, struct move_task, task);
    struct outbox *outbox = batch->outbox;
    bool was_kept = outbox->kept_running == batch;
    if (was_kept) {
        outbox->kept_running = NULL;
    }
    if (task->status < 0) {
        keep(outbox, batch);
        outbox_note_result(outbox, task->status, false);
        return;
    }
    bool wrote = false;
    for (size_t i = 0; i < batch->count; i++) {
        wrote = wrote || batch->moves[i].moved;
        move_report(outbox, &batch->moves[i], &batch->notes[i]);
    }
    outbox_note_result(outbox, 0, wrote);
    if (was_kept) {
        move_resubmit(outbox); /* the next of them, whatever this one wrote */
    }
    if (batch->done != NULL) {
        batch->done(batch->argument, batch->moves, batch->count);
    }
    move_task_free(batch);
}

void move_resubmit(struct outbox *outbox)
{
    struct move_task *first = outbox->kept_first;
    if (first != NULL && outbox->kept_running == NULL && !atomic_load(&outbox->closed)) {
        outbox->kept_first = first->next_kept;
        outbox->kept_running = first;
        outbox_write(outbox, &first->task);
    }
}

void move_free_kept(struct outbox *outbox)
{
    while (outbox->kept_first != NULL) {
        struct move_task *batch = outbox->kept_first;
        outbox->kept_first = batch->next_kept;
        for (size_t i = 0; i < batch->count; i++) {
            batch->moves[i].moved = false;
        }
        if (batch->done != NULL) {
            batch->done(batch->argument, batch->moves, batch->count);
        }
        move_task_free(batch);
    }
}

void outbox_move_batch(struct outbox *outbox, struct outbox_move *moves, size_t count, bool patient,
                       void (*done)(void *argument, struct outbox_move *moves, size_t count), void *argument)
{
    struct move_task *batch = memory_zalloc(sizeof(*batch));
    batch->outbox = outbox;
    batch->moves = moves;
    batch->notes = memory_calloc(count, sizeof(struct move_note));
    batch->count = count;
    batch->number = ++outbox->moves_submitted;
    batch->done = done;
    batch->argument = argument;
    batch->task = (struct db_task){ .run = run_moves, .done = done_moves, .flags = patient ? DB_PATIENT : 0 };
    for (size_t i = 0; i < count; i++) {
        batch->task.flags |= OUTBOX_EVENT_DURABLE[moves[i].event] ? (unsigned)DB_DURABLE : 0;
    }
    if (outbox->kept_first != NULL || outbox->kept_running != NULL) {
        keep(outbox, batch); /* what happened to a row later is not written before what happened earlier */
        move_resubmit(outbox);
        return;
    }
    outbox_write(outbox, &batch->task);
}
