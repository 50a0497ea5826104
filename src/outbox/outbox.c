/* Owns the outbox as a whole: opening with crash recovery, the hooks in every transaction, limits and pressure. Must not hold a rule of accept or of a move: they have their
 * own files. */
#include "outbox/internal.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"

enum {
    PRESSURE_HIGH_PCT = 80,
    ROW_MAXIMUM_BYTES = LIMIT_HTTP_BODY, /* a row is never larger than the request that made it */
    PRUNE_AGAIN_MS = 10000,
    PRESSURE_FULL_PCT = 95, /* new sends are refused from here (30-delivery, A full disk) */
};

static const char SELECT_PROGRESS[] = "SELECT indexed_up_to, (SELECT max(seq) FROM outbox) FROM outbox_progress WHERE id = 1";
static const char SELECT_INFLIGHT[] = "SELECT mesh, count(*) FROM outbox WHERE status = 'inflight' GROUP BY mesh";
static const char TOUCH_PROGRESS[] = "UPDATE outbox_progress SET pruned_up_to = pruned_up_to WHERE id = 1";
static const char RECOVER_INFLIGHT[] =
    "UPDATE outbox SET status = 'pending', attempts = attempts + 1, next_attempt_at = ?1 WHERE status = 'inflight'";

/* ---- the hooks ----------------------------------------------------------------------------------------------- */

static int before_commit(void *argument, struct db_connection *connection, struct error *error)
{
    struct outbox *outbox = argument;
    int status = counts_before_commit(outbox, connection, error);
    return status == 0 ? key_index_before_commit(&outbox->keys, connection, error) : status;
}

static void committed(void *argument)
{
    struct outbox *outbox = argument;
    outbox->moves_committed = outbox->moves_run;
    counts_forget(outbox);
    key_index_committed(&outbox->keys);
    atomic_store(&outbox->idle_work, key_index_is_idle_work(&outbox->keys));
}

static void rolled_back(void *argument)
{
    struct outbox *outbox = argument;
    outbox->moves_run = outbox->moves_committed;
    counts_forget(outbox);
    outbox->counted_up_to = -1; /* whatever was stored: it is written again */
    key_index_rolled_back(&outbox->keys);
}

static int closing(void *argument, struct db_connection *connection, struct error *error)
{
    struct outbox *outbox = argument;
    atomic_store(&outbox->closed, true);
    return key_index_merge_all(&outbox->keys, connection, error);
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

struct open_task {
    struct db_task task;
    struct outbox *outbox;
};

static int read_progress(struct outbox *outbox, struct db_connection *connection, int64_t *ret_indexed_up_to, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_PROGRESS, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_step(statement, error);
    if (status == 1) {
        int64_t indexed = db_column_integer(statement, 0, 0);
        int64_t newest = db_column_integer(statement, 1, 0);
        *ret_indexed_up_to = indexed;
        outbox->next_seq = (newest > indexed ? newest : indexed) + 1;
        status = 0;
    } else if (status == 0) {
        status = error_set(error, ERROR_CORRUPT, "outbox_progress has no row");
    }
    db_reset(statement);
    return status;
}

/* 30-delivery, Crash recovery, step 3. */
static int recover_inflight(struct outbox *outbox, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_INFLIGHT, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int64_t found = 0;
    int status;
    while ((status = db_step(statement, error)) == 1) {
        struct mesh_counts *counts = counts_mesh(outbox, db_column_string(statement, 0));
        int64_t rows = db_column_integer(statement, 1, 0);
        counts->delta[OUTBOX_INFLIGHT] -= rows;
        counts->delta[OUTBOX_PENDING] += rows;
        counts->committed[OUTBOX_INFLIGHT] -= rows;
        counts->committed[OUTBOX_PENDING] += rows;
        found += rows;
    }
    db_reset(statement);
    if (status == 0 && found > 0) {
        status = db_execute(connection, error, NULL, RECOVER_INFLIGHT, "i", clock_wall_ms());
    }
    return status;
}

static int run_open(struct db_connection *connection, struct db_task *task)
{
    struct outbox *outbox = CONTAINER_OF(task, struct open_task, task)->outbox;
    int64_t indexed_up_to = 0;
    int status = read_progress(outbox, connection, &indexed_up_to, &task->error);
    if (status == 0) {
        status = key_index_load(&outbox->keys, connection, indexed_up_to, &task->error);
    }
    if (status == 0) {
        status = counts_load(outbox, connection, &task->error);
    }
    return status == 0 ? recover_inflight(outbox, connection, &task->error) : status;
}

int outbox_open(struct db *db, const struct outbox_limits *limits, struct outbox **ret_outbox, struct error *error)
{
    struct outbox *outbox = memory_zalloc(sizeof(*outbox));
    outbox->db = db;
    outbox->limits = *limits;
    struct db_hooks hooks = {
        .argument = outbox, .before_commit = before_commit, .committed = committed, .rolled_back = rolled_back, .closing = closing
    };
    db_set_hooks(db, &hooks);
    struct open_task open = { .task = { .run = run_open, .flags = DB_SAVEPOINT }, .outbox = outbox };
    int status = db_write_wait(db, &open.task);
    if (status < 0) {
        db_set_hooks(db, &(struct db_hooks){ .argument = NULL });
        outbox_free(outbox);
        if (error != NULL) {
            *error = open.task.error;
        }
        return status;
    }
    for (struct mesh_counts *counts = atomic_load(&outbox->meshes); counts != NULL; counts = counts->next) {
        outbox->live += counts->committed[OUTBOX_PENDING] + counts->committed[OUTBOX_INFLIGHT] + counts->committed[OUTBOX_DEAD];
    }
    *ret_outbox = outbox;
    return 0;
}

void outbox_free(struct outbox *outbox)
{
    if (outbox == NULL) {
        return;
    }
    move_free_kept(outbox);
    key_index_release(&outbox->keys);
    for (struct mesh_counts *counts = atomic_load(&outbox->meshes), *next; counts != NULL; counts = next) {
        next = counts->next;
        free(counts->mesh);
        free(counts);
    }
    free(outbox);
}

static void submit(struct outbox *outbox, struct db_task *task, void (*to)(struct db *, struct db_task *))
{
    if (atomic_load(&outbox->closed)) {
        task->status = error_set(&task->error, ERROR_UNREACHABLE, "the outbox is closed");
        task->done(task);
        return;
    }
    to(outbox->db, task);
}

void outbox_write(struct outbox *outbox, struct db_task *task)
{
    submit(outbox, task, db_write);
}

void outbox_read(struct outbox *outbox, struct db_task *task)
{
    submit(outbox, task, db_read);
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static int percent_of(uint64_t used, int64_t maximum)
{
    if (maximum <= 0) {
        return 0;
    }
    uint64_t percent = used > UINT64_MAX / 100 ? 100 : used * 100 / (uint64_t)maximum;
    return percent > 100 ? 100 : (int)percent;
}

static int rows_pct(const struct outbox *outbox, int64_t rows)
{
    return percent_of(rows < 0 ? 0 : (uint64_t)rows, outbox->limits.max_rows);
}

/* The file, but never more than the rows that count can take: a file that is full of `done` rows refuses nothing once the queue is empty (decision 0014). */
static int bytes_pct(const struct outbox *outbox, int64_t rows)
{
    if (atomic_load(&outbox->closed)) {
        return 0;
    }
    uint64_t used = db_file_size(outbox->db);
    uint64_t most = rows < 0 ? 0 : (uint64_t)rows * ROW_MAXIMUM_BYTES;
    return percent_of(used < most ? used : most, outbox->limits.max_bytes);
}

bool outbox_bytes_are_full(const struct outbox *outbox)
{
    return bytes_pct(outbox, outbox->live + outbox->reserved) >= PRESSURE_FULL_PCT;
}

bool outbox_is_full(const struct outbox *outbox)
{
    return rows_pct(outbox, outbox->live + outbox->reserved) >= PRESSURE_FULL_PCT || outbox_bytes_are_full(outbox);
}

int outbox_pressure_pct(struct outbox *outbox)
{
    int rows = rows_pct(outbox, outbox->live);
    int bytes = bytes_pct(outbox, outbox->live);
    return rows > bytes ? rows : bytes;
}

bool outbox_is_out_of_space(const struct outbox *outbox)
{
    return outbox->no_space;
}

bool outbox_is_degraded(struct outbox *outbox)
{
    return outbox->no_space || outbox_pressure_pct(outbox) >= 100;
}

static void report_pressure(struct outbox *outbox)
{
    int percent = outbox_pressure_pct(outbox);
    int level = percent >= PRESSURE_FULL_PCT ? PRESSURE_FULL_PCT : percent >= PRESSURE_HIGH_PCT ? PRESSURE_HIGH_PCT : 0;
    bool degraded = outbox->no_space || percent >= 100;
    if (level == outbox->pressure_level && degraded == outbox->was_degraded) {
        return;
    }
    outbox->pressure_level = level;
    outbox->was_degraded = degraded;
    if (outbox->observer.pressure != NULL) {
        outbox->observer.pressure(outbox->observer.argument, percent, degraded);
    }
}

void outbox_note_result(struct outbox *outbox, int status, bool wrote)
{
    if (status == -ERROR_FULL) {
        outbox->no_space = true;
    } else if (status == 0 && wrote) {
        outbox->no_space = false;
        move_resubmit(outbox);
    }
    report_pressure(outbox);
}

void outbox_set_limits(struct outbox *outbox, const struct outbox_limits *limits)
{
    outbox->limits = *limits;
    report_pressure(outbox);
}

void outbox_observe(struct outbox *outbox, const struct outbox_observer *observer)
{
    outbox->observer = *observer;
}

/* ---- once a second -------------------------------------------------------------------------------------------------- */

enum { IDLE_MERGE_SLOTS = 16384 };

struct merge_task {
    struct db_task task;
    struct outbox *outbox;
};

/* The work itself is before_commit's. */
static int run_merge(struct db_connection *connection, struct db_task *task)
{
    (void)connection;
    CONTAINER_OF(task, struct merge_task, task)->outbox->keys.idle_slots = IDLE_MERGE_SLOTS;
    return 0;
}

static bool may_merge(const struct outbox *outbox)
{
    return !atomic_load(&outbox->closed) && atomic_load(&outbox->idle_work) && db_write_backlog(outbox->db) == 0;
}

static void done_merge(struct db_task *task)
{
    struct merge_task *merge = CONTAINER_OF(task, struct merge_task, task);
    struct outbox *outbox = merge->outbox;
    if (task->status == 0 && may_merge(outbox)) {
        db_write(outbox->db, task);
        return;
    }
    outbox->merging = false;
    free(merge);
}

/* ---- room again? ----------------------------------------------------------------------------------------------------- */

struct probe_task {
    struct db_task task;
    struct outbox *outbox;
};

static int run_probe(struct db_connection *connection, struct db_task *task)
{
    return db_execute(connection, &task->error, NULL, TOUCH_PROGRESS, "");
}

static void done_probe(struct db_task *task)
{
    struct probe_task *probe = CONTAINER_OF(task, struct probe_task, task);
    probe->outbox->probing = false;
    outbox_note_result(probe->outbox, task->status, true);
    free(probe);
}

/* Nothing may be waiting to be written, and health must not say "degraded" for ever. */
static void probe_space(struct outbox *outbox)
{
    if (!outbox->no_space || outbox->probing || outbox->kept_first != NULL || outbox->kept_running != NULL ||
        atomic_load(&outbox->closed)) {
        return;
    }
    struct probe_task *probe = memory_zalloc(sizeof(*probe));
    probe->task = (struct db_task){ .run = run_probe, .done = done_probe, .flags = DB_DURABLE };
    probe->outbox = outbox;
    outbox->probing = true;
    db_write(outbox->db, &probe->task);
}

/* What `done` rows once sent is of no use any more: when the file nears its limit it goes before its time, and makes room in it. */
static void prune_early(struct outbox *outbox)
{
    bool large = !atomic_load(&outbox->closed) && percent_of(db_file_size(outbox->db), outbox->limits.max_bytes) >= PRESSURE_HIGH_PCT;
    if (large && !outbox->no_space && clock_monotonic_ms() >= outbox->prune_again_ms) {
        outbox->prune_again_ms = clock_monotonic_ms() + PRUNE_AGAIN_MS;
        outbox_prune(outbox, INT64_MAX);
    }
}

void outbox_poke(struct outbox *outbox)
{
    report_pressure(outbox); /* a checkpoint gives back what waited in the log */
    prune_early(outbox);
    move_resubmit(outbox);
    probe_space(outbox);
    if (!outbox->merging && may_merge(outbox)) {
        struct merge_task *merge = memory_zalloc(sizeof(*merge));
        merge->task = (struct db_task){ .run = run_merge, .done = done_merge };
        merge->outbox = outbox;
        outbox->merging = true;
        db_write(outbox->db, &merge->task);
    }
    report_pressure(outbox);
}
