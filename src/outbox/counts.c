/* Owns how many rows each mesh has in each state: in memory for the loop, exact as of what was committed; in `outbox_count` for the next start, written once a
 * batch in the transaction that changed it. Must not look at rows after the start. */
#include "outbox/internal.h"
#include "util/memory.h"

/* Tables this small are counted at the start, whatever the stored numbers say: somebody may have repaired rows by hand. */
enum { COUNT_AGAIN_BELOW = 2000 };

static const char SELECT_COUNTS[] = "SELECT mesh, pending, inflight, done, dead, aborted FROM outbox_count";
static const char SELECT_STATES[] = "SELECT mesh, status, count(*) FROM outbox WHERE seq > ?1 GROUP BY mesh, status";
static const char SELECT_COUNTED[] = "SELECT counted_up_to, (SELECT max(seq) FROM outbox) FROM outbox_progress WHERE id = 1";
static const char ADD_COUNTS[] =
    "INSERT INTO outbox_count (mesh, pending, inflight, done, dead, aborted) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
    " ON CONFLICT (mesh) DO UPDATE SET pending = pending + excluded.pending, inflight = inflight + excluded.inflight,"
    " done = done + excluded.done, dead = dead + excluded.dead, aborted = aborted + excluded.aborted";
static const char DELETE_COUNTS[] = "DELETE FROM outbox_count";
static const char SET_COUNTED[] = "UPDATE outbox_progress SET counted_up_to = ?1 WHERE id = 1";

struct mesh_counts *counts_mesh(struct outbox *outbox, const char *mesh)
{
    for (struct mesh_counts *counts = atomic_load(&outbox->meshes); counts != NULL; counts = counts->next) {
        if (string_equal(counts->mesh, mesh)) {
            return counts;
        }
    }
    struct mesh_counts *counts = memory_zalloc(sizeof(*counts));
    counts->mesh = memory_strdup(mesh);
    counts->next = atomic_load(&outbox->meshes);
    atomic_store(&outbox->meshes, counts);
    return counts;
}

void counts_move(struct mesh_counts *counts, enum outbox_state from, enum outbox_state to)
{
    if (from != OUTBOX_STATES) {
        counts->delta[from]--;
    }
    counts->delta[to]++;
}

static bool has_delta(const struct mesh_counts *counts)
{
    for (size_t state = 0; state < OUTBOX_STATES; state++) {
        if (counts->delta[state] != 0) {
            return true;
        }
    }
    return false;
}

/* Writes nothing for a transaction without new rows or moves: an id that has a row is answered even when the disk is full. */
int counts_before_commit(struct outbox *outbox, struct db_connection *connection, struct error *error)
{
    bool changed = false;
    for (struct mesh_counts *counts = atomic_load(&outbox->meshes); counts != NULL; counts = counts->next) {
        if (!has_delta(counts)) {
            continue;
        }
        changed = true;
        const int64_t *delta = counts->delta;
        int status = db_execute(connection, error, NULL, ADD_COUNTS, "tiiiii", counts->mesh, delta[OUTBOX_PENDING], delta[OUTBOX_INFLIGHT],
                                delta[OUTBOX_DONE], delta[OUTBOX_DEAD], delta[OUTBOX_ABORTED]);
        if (status < 0) {
            return status;
        }
    }
    int64_t newest = outbox->next_seq - 1;
    if (!changed || newest == outbox->counted_up_to) {
        return 0;
    }
    int status = db_execute(connection, error, NULL, SET_COUNTED, "i", newest);
    if (status == 0) {
        outbox->counted_up_to = newest; /* rolled back: written again with the next row */
    }
    return status;
}

void counts_forget(struct outbox *outbox)
{
    for (struct mesh_counts *counts = atomic_load(&outbox->meshes); counts != NULL; counts = counts->next) {
        memset(counts->delta, 0, sizeof(counts->delta));
    }
}

/* ---- the start -------------------------------------------------------------------------------------------- */

static int read_stored(struct outbox *outbox, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_COUNTS, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status;
    while ((status = db_step(statement, error)) == 1) {
        struct mesh_counts *counts = counts_mesh(outbox, db_column_string(statement, 0));
        for (int state = 0; state < OUTBOX_STATES; state++) {
            counts->committed[state] = db_column_integer(statement, state + 1, 0);
        }
    }
    db_reset(statement);
    return status;
}

/* Rows after `after` become deltas. */
static int count_rows(struct outbox *outbox, struct db_connection *connection, int64_t after, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_STATES, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "i", after);
    while (status == 0 && (status = db_step(statement, error)) == 1) {
        struct mesh_counts *counts = counts_mesh(outbox, db_column_string(statement, 0));
        enum outbox_state state = OUTBOX_PENDING;
        if (outbox_state_parse(db_column_string(statement, 1), &state)) {
            counts->delta[state] += db_column_integer(statement, 2, 0);
        }
        status = 0;
    }
    db_reset(statement);
    return status;
}

static int read_progress(struct db_connection *connection, int64_t *ret_counted, int64_t *ret_newest, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_COUNTED, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_step(statement, error);
    if (status == 1) {
        *ret_counted = db_column_integer(statement, 0, 0);
        *ret_newest = db_column_integer(statement, 1, 0);
        status = 0;
    } else if (status == 0) {
        status = error_set(error, ERROR_CORRUPT, "outbox_progress has no row");
    }
    db_reset(statement);
    return status;
}

/* What was counted differs from what is stored: the stored numbers are replaced. Written only then, so that a start of a file in order writes nothing. */
static int correct_stored(struct outbox *outbox, struct db_connection *connection, struct error *error)
{
    bool differs = false;
    for (struct mesh_counts *counts = atomic_load(&outbox->meshes); counts != NULL; counts = counts->next) {
        differs = differs || memcmp(counts->delta, counts->committed, sizeof(counts->delta)) != 0;
        memcpy(counts->committed, counts->delta, sizeof(counts->committed));
    }
    int status = 0;
    if (differs) {
        status = db_execute(connection, error, NULL, DELETE_COUNTS, "");
    } else {
        counts_forget(outbox);
    }
    return status;
}

int counts_load(struct outbox *outbox, struct db_connection *connection, struct error *error)
{
    int64_t counted = 0;
    int64_t newest = 0;
    int status = read_progress(connection, &counted, &newest, error);
    if (status == 0) {
        status = read_stored(outbox, connection, error);
    }
    if (status < 0) {
        return status;
    }
    outbox->counted_up_to = counted;
    if (newest <= COUNT_AGAIN_BELOW) {
        status = count_rows(outbox, connection, 0, error);
        return status == 0 ? correct_stored(outbox, connection, error) : status;
    }
    if (newest > counted) {
        status = count_rows(outbox, connection, counted, error);
        for (struct mesh_counts *counts = atomic_load(&outbox->meshes); counts != NULL; counts = counts->next) {
            for (size_t state = 0; state < OUTBOX_STATES; state++) {
                counts->committed[state] += counts->delta[state];
            }
        }
    }
    return status;
}

/* ---- the loop's side ----------------------------------------------------------------------------------------- */

static int64_t live_rows(const int64_t rows[static OUTBOX_STATES])
{
    return rows[OUTBOX_PENDING] + rows[OUTBOX_INFLIGHT] + rows[OUTBOX_DEAD];
}

void counts_commit(struct outbox *outbox, struct mesh_counts *counts, enum outbox_state from, enum outbox_state to)
{
    int64_t before = live_rows(counts->committed);
    if (from != OUTBOX_STATES) {
        counts->committed[from]--;
    }
    counts->committed[to]++;
    outbox->live += live_rows(counts->committed) - before;
}

void outbox_counts(struct outbox *outbox, const char *mesh, struct outbox_counts *ret_counts)
{
    int64_t sum[OUTBOX_STATES] = { 0 };
    for (struct mesh_counts *counts = atomic_load(&outbox->meshes); counts != NULL; counts = counts->next) {
        if (mesh != NULL && !string_equal(counts->mesh, mesh)) {
            continue;
        }
        for (size_t state = 0; state < OUTBOX_STATES; state++) {
            sum[state] += counts->committed[state];
        }
    }
    *ret_counts = (struct outbox_counts){
        .pending = sum[OUTBOX_PENDING],
        .inflight = sum[OUTBOX_INFLIGHT],
        .done = sum[OUTBOX_DONE],
        .dead = sum[OUTBOX_DEAD],
        .aborted = sum[OUTBOX_ABORTED],
    };
}
