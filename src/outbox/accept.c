/* Owns the accept of a send: look the id up, act by ACCEPT_TABLE, insert only when there is no row (30-delivery, Accepting a send). Must not change a row that
 * is there. */
#include "outbox/internal.h"
#include "util/memory.h"

struct outbox_accept *outbox_accept_new(struct outbox *outbox)
{
    struct outbox_accept *accept = memory_zalloc(sizeof(*accept));
    accept->outbox = outbox;
    return accept;
}

void outbox_accept_free(struct outbox_accept *accept)
{
    if (accept != NULL) {
        outbox_row_free(accept->row);
        outbox_row_free(accept->found);
        free(accept);
    }
}

static int answer_from_row(struct db_connection *connection, struct outbox_accept *accept, int64_t seq, struct error *error)
{
    outbox_row_free(accept->found); /* of a run that was undone */
    accept->found = NULL;
    int status = row_load(connection, seq, &accept->found, error);
    if (status < 0) {
        return status;
    }
    const struct outbox_row *row = accept->row;
    const struct outbox_row *found = accept->found;
    bool same = memcmp(found->request_fingerprint.bytes, row->request_fingerprint.bytes, sizeof(row->request_fingerprint.bytes)) == 0 &&
                string_equal(found->mesh, row->mesh);
    accept->found_state = found->state;
    accept->outcome = ACCEPT_TABLE[found->state][same ? 1 : 0].outcome;
    return 0;
}

static int run_accept(struct db_connection *connection, struct db_task *task)
{
    struct outbox_accept *accept = CONTAINER_OF(task, struct outbox_accept, task);
    int64_t seq = 0;
    int status = key_index_find(&accept->outbox->keys, connection, accept->row->client_message_id, &seq, &task->error);
    if (status < 0) {
        return status;
    }
    if (status == 1) {
        return answer_from_row(connection, accept, seq, &task->error);
    }
    accept->outcome = ACCEPT_NO_ROW;
    if (accept->lookup_only) {
        return 0;
    }
    if (accept->refuse_new) {
        return error_set(&task->error, ERROR_FULL, "the outbox is full: what is queued must be sent first");
    }
    status = row_insert(accept->outbox, connection, accept->row, &task->error);
    if (status == 0) {
        accept->outcome = ACCEPT_STORED;
    }
    return status;
}

static void done_accept(struct db_task *task)
{
    struct outbox_accept *accept = CONTAINER_OF(task, struct outbox_accept, task);
    struct outbox *outbox = accept->outbox;
    accept->status = task->status;
    accept->error = task->error;
    if (accept->reserves) {
        outbox->reserved--;
    }
    if (accept->status == 0 && accept->outcome == ACCEPT_STORED) {
        counts_commit(outbox, counts_mesh(outbox, accept->row->mesh), OUTBOX_STATES, OUTBOX_PENDING);
        outbox_note_result(outbox, 0, true);
        if (outbox->observer.inserted != NULL) {
            outbox->observer.inserted(outbox->observer.argument, accept->row);
        }
    } else if (!accept->refuse_new) {
        outbox_note_result(outbox, accept->status, false);
    }
    accept->done(accept);
}

void outbox_accept(struct outbox_accept *accept)
{
    struct outbox *outbox = accept->outbox;
    accept->task = (struct db_task){ .run = run_accept, .done = done_accept, .flags = DB_DURABLE };
    accept->refuse_new = !accept->lookup_only && outbox_is_full(outbox);
    accept->reserves = !accept->lookup_only && !accept->refuse_new;
    if (accept->reserves) {
        outbox->reserved++;
    }
    outbox_write(outbox, &accept->task);
}
