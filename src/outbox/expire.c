/* Owns what time does to rows: the maximum age makes a pending row `dead`, old `done` rows lose their payload (30-delivery, Maximum age; Outbox). In small steps, so that
 * accepts pass in between. */
#include "outbox/internal.h"
#include "util/memory.h"

enum {
    EXPIRE_STEP = 500,
    PRUNE_STEP = 200,
};

/* The oldest of one priority; rows of a priority stand in the order of acceptance. */
static const char SELECT_OLDEST[] =
    "SELECT seq, enqueued_at FROM outbox WHERE mesh = ?1 AND priority = ?2 AND status = 'pending' ORDER BY seq LIMIT ?3";
static const char SELECT_PRUNABLE[] =
    "SELECT seq, status, delivered_at, enqueued_at, length(payload) FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2";
static const char SELECT_PRUNED[] = "SELECT pruned_up_to FROM outbox_progress WHERE id = 1";
static const char SET_PRUNED[] = "UPDATE outbox_progress SET pruned_up_to = ?1 WHERE id = 1";
static const char PRUNE_ROW[] = "UPDATE outbox SET payload = x'' WHERE seq = ?1 AND status = 'done'";

/* ---- maximum age ------------------------------------------------------------------------------------------------------ */

struct expire_task {
    struct db_task task;
    struct outbox *outbox;
    char *mesh;
    char *reason; /* last_error of what ends */
    int64_t before_ms;
    uint64_t moves_before; /* batches of moves that were submitted before */
    struct outbox_move moves[EXPIRE_STEP];
    struct move_note notes[EXPIRE_STEP];
    size_t count;
    int64_t oldest;  /* of what stays pending; -1 none */
    int64_t expired; /* in all steps */
    void (*done)(void *argument, int64_t expired, int64_t oldest_enqueued_at);
    void *argument;
};

/* Looks at the oldest rows of one priority, also behind one that is young: the clock may have been stepped while they were accepted. */
static int collect_expired(struct expire_task *expire, struct db_connection *connection, enum outbox_priority priority, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_OLDEST, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "tti", expire->mesh, priority_name(priority), (int64_t)EXPIRE_STEP);
    while (status == 0 && expire->count < EXPIRE_STEP) {
        status = db_step(statement, error);
        if (status != 1) {
            break;
        }
        status = 0;
        int64_t enqueued_at = db_column_integer(statement, 1, 0);
        if (enqueued_at < expire->before_ms) {
            expire->moves[expire->count++] =
                (struct outbox_move){ .seq = db_column_integer(statement, 0, 0), .event = OUTBOX_EVENT_EXPIRED, .history_id = -1 };
        } else if (expire->oldest < 0 || enqueued_at < expire->oldest) {
            expire->oldest = enqueued_at;
        }
    }
    db_reset(statement);
    return status;
}

static void forget_notes(struct expire_task *expire)
{
    for (size_t i = 0; i < expire->count; i++) {
        move_note_release(&expire->notes[i]);
    }
    expire->count = 0;
}

static void expire_free(struct expire_task *expire)
{
    free(expire->mesh);
    free(expire->reason);
    free(expire);
}

static int run_expire(struct db_connection *connection, struct db_task *task)
{
    struct expire_task *expire = CONTAINER_OF(task, struct expire_task, task);
    forget_notes(expire); /* of a run that was undone */
    expire->oldest = -1;
    if (expire->outbox->moves_run < expire->moves_before) { /* a mark that found no room waits: what looks pending may be on its way */
        return error_set(&task->error, ERROR_BUSY, "an earlier change of the outbox is not committed yet");
    }
    int status = 0;
    for (unsigned priority = 0; priority < PRIORITIES && status == 0; priority++) {
        status = collect_expired(expire, connection, (enum outbox_priority)priority, &task->error);
    }
    for (size_t i = 0; i < expire->count && status == 0; i++) {
        expire->moves[i].error = expire->reason; /* borrowed: these moves are never freed */
        status = move_row(expire->outbox, connection, &expire->moves[i], NULL, &expire->notes[i], &task->error);
    }
    return status;
}

static void done_expire(struct db_task *task)
{
    struct expire_task *expire = CONTAINER_OF(task, struct expire_task, task);
    struct outbox *outbox = expire->outbox;
    size_t count = task->status == 0 ? expire->count : 0;
    for (size_t i = 0; i < count; i++) {
        expire->expired += expire->moves[i].moved ? 1 : 0;
        move_report(outbox, &expire->moves[i], &expire->notes[i]);
    }
    forget_notes(expire);
    outbox_note_result(outbox, task->status, count > 0);
    if (count > 0) {
        expire->moves_before = outbox->moves_submitted;
        outbox_write(outbox, task);
        return;
    }
    if (task->status < 0) {
        expire->oldest = expire->before_ms; /* nothing ended: what is too old is there still, and is to be tried again */
    }
    if (expire->done != NULL) {
        expire->done(expire->argument, expire->expired, expire->oldest);
    }
    expire_free(expire);
}

static struct expire_task *expire_new(struct outbox *outbox, const char *mesh, const char *reason, int64_t before_ms)
{
    struct expire_task *expire = memory_zalloc(sizeof(*expire));
    expire->task = (struct db_task){ .run = run_expire, .done = done_expire, .flags = DB_DURABLE };
    expire->outbox = outbox;
    expire->mesh = memory_strdup(mesh);
    expire->reason = memory_strdup(reason);
    expire->before_ms = before_ms;
    expire->moves_before = outbox->moves_submitted;
    expire->oldest = -1;
    return expire;
}

void outbox_expire(struct outbox *outbox, const char *mesh, int64_t enqueued_before_ms,
                   void (*done)(void *argument, int64_t expired, int64_t oldest_enqueued_at), void *argument)
{
    struct expire_task *expire = expire_new(outbox, mesh, "max_age_exceeded", enqueued_before_ms);
    expire->done = done;
    expire->argument = argument;
    outbox_write(outbox, &expire->task);
}

int outbox_give_up(struct outbox *outbox, const char *mesh, const char *reason, int64_t *ret_given_up, struct error *error)
{
    struct expire_task *expire = expire_new(outbox, mesh, reason, INT64_MAX);
    int status;
    size_t count;
    expire->task.done = NULL;
    expire->task.flags = DB_DURABLE | DB_SAVEPOINT;
    do {
        status = db_write_wait(outbox->db, &expire->task);
        count = status == 0 ? expire->count : 0;
        for (size_t i = 0; i < count; i++) {
            expire->expired += expire->moves[i].moved ? 1 : 0;
            move_report(outbox, &expire->moves[i], &expire->notes[i]);
        }
        forget_notes(expire);
    } while (count > 0);
    if (status == 0) {
        *ret_given_up = expire->expired;
    } else if (error != NULL) {
        *error = expire->task.error;
    }
    expire_free(expire);
    return status;
}

/* ---- payloads of old `done` rows ------------------------------------------------------------------------------------------ */

struct prune_task {
    struct db_task task;
    struct outbox *outbox;
    int64_t before_ms;
    int64_t scanned_up_to; /* this walk; -1: not begun */
    int64_t final_up_to;   /* no row up to here will ever need a look again */
    bool more;
};

struct prune_step {
    int64_t seqs[PRUNE_STEP];
    size_t count;
    int64_t scanned_up_to, final_up_to;
    bool more;
};

/* A row enqueued after the limit was delivered after it too, and so are all behind it: the walk ends there. */
static int collect_prunable(const struct prune_task *prune, struct db_connection *connection, struct prune_step *step, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_PRUNABLE, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "ii", step->scanned_up_to, (int64_t)PRUNE_STEP);
    size_t seen = 0;
    while (status == 0) {
        status = db_step(statement, error);
        if (status != 1) {
            break;
        }
        status = 0;
        seen++;
        if (db_column_integer(statement, 3, 0) >= prune->before_ms) {
            seen = 0;
            break;
        }
        int64_t seq = db_column_integer(statement, 0, 0);
        enum outbox_state state = OUTBOX_PENDING;
        bool known = outbox_state_parse(db_column_string(statement, 1), &state);
        bool old = known && state == OUTBOX_DONE && db_column_integer(statement, 2, INT64_MAX) < prune->before_ms;
        if (old && db_column_integer(statement, 4, 0) > 0) {
            step->seqs[step->count++] = seq;
        }
        /* Rows that may still become `done`, or are not old enough, hold the mark. */
        bool settled = old || (known && (state == OUTBOX_DEAD || state == OUTBOX_ABORTED));
        if (settled && step->final_up_to == step->scanned_up_to) {
            step->final_up_to = seq;
        }
        step->scanned_up_to = seq;
    }
    db_reset(statement);
    step->more = seen == PRUNE_STEP;
    return status;
}

static int run_prune(struct db_connection *connection, struct db_task *task)
{
    struct prune_task *prune = CONTAINER_OF(task, struct prune_task, task);
    int64_t stored = 0;
    int status = db_read_number(connection, SELECT_PRUNED, &stored, &task->error);
    struct prune_step step = { .scanned_up_to = prune->scanned_up_to < 0 ? stored : prune->scanned_up_to,
                               .final_up_to = prune->scanned_up_to < 0 ? stored : prune->final_up_to };
    if (status == 0) {
        status = collect_prunable(prune, connection, &step, &task->error);
    }
    for (size_t i = 0; i < step.count && status == 0; i++) {
        status = db_execute(connection, &task->error, NULL, PRUNE_ROW, "i", step.seqs[i]);
    }
    if (status == 0 && step.final_up_to > stored) {
        status = db_execute(connection, &task->error, NULL, SET_PRUNED, "i", step.final_up_to);
    }
    if (status == 0) {
        prune->scanned_up_to = step.scanned_up_to;
        prune->final_up_to = step.final_up_to;
        prune->more = step.more;
    }
    return status;
}

static void done_prune(struct db_task *task)
{
    struct prune_task *prune = CONTAINER_OF(task, struct prune_task, task);
    struct outbox *outbox = prune->outbox;
    if (task->status == 0 && prune->more) {
        outbox_write(outbox, task);
        return;
    }
    outbox->pruning = false;
    free(prune);
}

void outbox_prune(struct outbox *outbox, int64_t delivered_before_ms)
{
    if (outbox->pruning) {
        return;
    }
    outbox->pruning = true;
    struct prune_task *prune = memory_zalloc(sizeof(*prune));
    prune->task = (struct db_task){ .run = run_prune, .done = done_prune };
    prune->outbox = outbox;
    prune->before_ms = delivered_before_ms;
    prune->scanned_up_to = -1;
    outbox_write(outbox, &prune->task);
}
