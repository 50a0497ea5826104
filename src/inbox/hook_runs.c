/* Owns the table of hook runs: written with a row, claimed before they start, removed at their end. Must not decide which hook a message has, and runs none. */
#include "inbox/hook_runs.h"

#include "inbox/internal.h"
#include "util/clock.h"
#include "util/memory.h"

static const char INSERT_RUN[] = "INSERT INTO hook_runs (inbox_seq, hook) VALUES (?1, ?2)";
static const char COUNT_RUNS[] =
    "SELECT count(*) FILTER (WHERE claimed_at IS NULL), count(*) FILTER (WHERE claimed_at IS NOT NULL) FROM hook_runs";
static const char FORGET_LOST[] = "DELETE FROM hook_runs WHERE claimed_at IS NOT NULL";
static const char SELECT_WAITING[] =
    "SELECT id, hook, inbox_seq FROM hook_runs INDEXED BY hook_runs_waiting WHERE claimed_at IS NULL ORDER BY id LIMIT ?1";
static const char CLAIM_RUN[] = "UPDATE hook_runs SET claimed_at = ?2 WHERE id = ?1 AND claimed_at IS NULL";
static const char RELEASE_RUN[] = "UPDATE hook_runs SET claimed_at = NULL WHERE id = ?1";
static const char DELETE_RUN[] = "DELETE FROM hook_runs WHERE id = ?1";
static const char SELECT_EVENT[] = "SELECT " INBOX_COLUMNS ", body FROM inbox WHERE seq = ?1";

void hook_run_free(struct hook_run *run)
{
    if (run == NULL)
        return;
    free(run->hook);
    inbox_row_free(run->row);
    *run = (struct hook_run){ 0 };
}

size_t inbox_hook_runs_waiting(const struct inbox *inbox)
{
    return inbox->hook_runs_waiting;
}

int64_t inbox_hook_runs_dropped(const struct inbox *inbox)
{
    return inbox->hook_runs_dropped;
}

int64_t inbox_hook_runs_lost(const struct inbox *inbox)
{
    return inbox->hook_runs_lost;
}

/* ---- with the row ---------------------------------------------------------------------------------------------------- */

void hook_runs_admit(struct inbox *inbox, struct inbox_insert *insert)
{
    if (insert->hook_count == 0)
        return;
    if (inbox->hook_runs_waiting + insert->hook_count > HOOK_RUNS_MAXIMUM) {
        inbox->hook_runs_dropped += (int64_t)insert->hook_count;
        insert->hook_count = 0; /* the names are freed all the same */
    }
    inbox->hook_runs_waiting += insert->hook_count;
}

int hook_runs_insert(struct db_connection *connection, const struct inbox_insert *insert, struct error *error)
{
    int status = 0;
    for (size_t i = 0; i < insert->hook_count && status == 0; i++)
        status = db_execute(connection, error, NULL, INSERT_RUN, "it", insert->row->seq, insert->hooks[i]);
    return status;
}

void hook_runs_inserted(struct inbox *inbox, const struct inbox_insert *insert)
{
    if (!insert->is_new)
        inbox->hook_runs_waiting -= insert->hook_count;
}

/* ---- at the start ---------------------------------------------------------------------------------------------------- */

int hook_runs_load(struct inbox *inbox, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, COUNT_RUNS, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_step(statement, error);
    if (status == 1) {
        inbox->hook_runs_waiting = (size_t)db_column_integer(statement, 0, 0);
        inbox->hook_runs_lost = db_column_integer(statement, 1, 0);
    }
    db_reset(statement);
    if (status < 0)
        return status;
    return inbox->hook_runs_lost > 0 ? db_execute(connection, error, NULL, FORGET_LOST, "") : 0;
}

/* ---- claiming -------------------------------------------------------------------------------------------------------- */

struct claim_task {
    struct db_task task;
    struct inbox *inbox;
    size_t limit;
    struct hook_run *runs;
    int64_t *seqs;
    size_t found, count; /* looked at; of them, with their row */
    void (*done)(void *argument, int status, struct hook_run *runs, size_t count);
    void *argument;
};

static void clear(struct claim_task *claim)
{
    for (size_t i = 0; i < claim->found; i++)
        hook_run_free(&claim->runs[i]);
    claim->found = claim->count = 0;
}

static int find_waiting(struct claim_task *claim, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_WAITING, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", (int64_t)claim->limit);
    while (status == 0 && (status = db_step(statement, error)) == 1) {
        struct hook_run *run = &claim->runs[claim->found];
        run->id = db_column_integer(statement, 0, -1);
        run->hook = db_column_dup(statement, 1);
        claim->seqs[claim->found++] = db_column_integer(statement, 2, -1);
        status = 0;
    }
    db_reset(statement);
    return status;
}

static int read_event(struct db_connection *connection, int64_t seq, struct inbox_row **ret_row, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_EVENT, error);
    if (statement == NULL)
        return -(int)error->code;
    int status = db_bind(statement, error, "i", seq);
    if (status == 0)
        status = db_step(statement, error);
    if (status == 1)
        status = inbox_row_read(statement, true, ret_row, error);
    db_reset(statement);
    return status;
}

/* A row that is there takes the run's next place; one that was pruned ends the run. */
static int claim_one(struct claim_task *claim, struct db_connection *connection, size_t index, int64_t now_ms, struct error *error)
{
    struct hook_run *run = &claim->runs[index];
    int status = read_event(connection, claim->seqs[index], &run->row, error);
    if (status == 0 && run->row == NULL)
        return db_execute(connection, error, NULL, DELETE_RUN, "i", run->id);
    if (status == 0)
        status = db_execute(connection, error, NULL, CLAIM_RUN, "ii", run->id, now_ms);
    if (status == 0) {
        struct hook_run claimed = *run;
        *run = claim->runs[claim->count];
        claim->runs[claim->count++] = claimed;
    }
    return status;
}

static int run_claim(struct db_connection *connection, struct db_task *task)
{
    struct claim_task *claim = CONTAINER_OF(task, struct claim_task, task);
    clear(claim); /* it may run a second time */
    int64_t now_ms = clock_steady_ms();
    int status = find_waiting(claim, connection, &task->error);
    for (size_t i = 0; i < claim->found && status == 0; i++)
        status = claim_one(claim, connection, i, now_ms, &task->error);
    return status;
}

static void done_claim(struct db_task *task)
{
    struct claim_task *claim = CONTAINER_OF(task, struct claim_task, task);
    inbox_note_result(claim->inbox, task->status);
    if (task->status < 0)
        clear(claim);
    claim->inbox->hook_runs_waiting -= claim->found < claim->inbox->hook_runs_waiting ? claim->found : claim->inbox->hook_runs_waiting;
    for (size_t i = claim->count; i < claim->found; i++)
        hook_run_free(&claim->runs[i]);
    claim->done(claim->argument, task->status, claim->runs, claim->count);
    free(claim->seqs);
    free(claim);
}

void inbox_hook_runs_claim(struct inbox *inbox, size_t limit, void (*done)(void *argument, int status, struct hook_run *runs, size_t count),
                           void *argument)
{
    struct claim_task *claim = memory_zalloc(sizeof(*claim));
    claim->task = (struct db_task){ .run = run_claim, .done = done_claim, .flags = DB_DURABLE | DB_SAVEPOINT };
    claim->inbox = inbox;
    claim->limit = limit;
    claim->runs = memory_calloc(limit, sizeof(*claim->runs));
    claim->seqs = memory_calloc(limit, sizeof(*claim->seqs));
    claim->done = done;
    claim->argument = argument;
    db_write(inbox->db, &claim->task);
}

/* ---- the end --------------------------------------------------------------------------------------------------------- */

struct finish_task {
    struct db_task task;
    int64_t id;
    const char *sql;
};

static int run_finish(struct db_connection *connection, struct db_task *task)
{
    const struct finish_task *finish = CONTAINER_OF(task, struct finish_task, task);
    return db_execute(connection, &task->error, NULL, finish->sql, "i", finish->id);
}

/* One that could not be removed stays claimed, and is counted as lost at the next start: it never runs again. */
static void done_finish(struct db_task *task)
{
    free(CONTAINER_OF(task, struct finish_task, task));
}

static void end_claim(struct inbox *inbox, int64_t id, const char *sql)
{
    struct finish_task *finish = memory_zalloc(sizeof(*finish));
    finish->sql = sql;
    finish->task = (struct db_task){ .run = run_finish, .done = done_finish, .flags = DB_PATIENT };
    finish->id = id;
    db_write(inbox->db, &finish->task);
}

void inbox_hook_runs_finish(struct inbox *inbox, int64_t id)
{
    end_claim(inbox, id, DELETE_RUN);
}

void inbox_hook_runs_release(struct inbox *inbox, int64_t id)
{
    inbox->hook_runs_waiting++;
    end_claim(inbox, id, RELEASE_RUN);
}
