/* Owns inbox.max_bytes: how full the inbox is, when to say so, and what goes at the limit (docs/decisions/0014): the oldest messages that were marked seen, never one that nobody
 * has seen. Receiving goes on at the limit: only a database that cannot commit stops it (30-delivery, A full disk). */
#include "inbox/internal.h"
#include "util/clock.h"
#include "util/memory.h"

enum {
    HIGH_PCT = 80,
    ALMOST_PCT = 95,
    FULL_PCT = 100,
    STEP_LOOK = 500,  /* rows looked at in a step, of which some were seen */
    STEP_REMOVE = 50, /* of these, removed */
    LOOK_AGAIN_MS = 60 * 1000
};

static const char SELECT_NEXT[] = "SELECT seq, seen_at FROM inbox WHERE seq > ?1 ORDER BY seq LIMIT ?2";

int inbox_pressure_pct(const struct inbox *inbox)
{
    if (inbox->max_bytes <= 0 || atomic_load(&inbox->closed))
        return 0;
    uint64_t used = db_data_size(inbox->db);
    uint64_t percent = used > UINT64_MAX / 100 ? FULL_PCT : used * 100 / (uint64_t)inbox->max_bytes;
    return percent > FULL_PCT ? FULL_PCT : (int)percent;
}

bool inbox_is_full(const struct inbox *inbox)
{
    return inbox->nothing_to_prune && inbox_pressure_pct(inbox) >= FULL_PCT;
}

void pressure_report(struct inbox *inbox)
{
    int percent = inbox_pressure_pct(inbox);
    int level = percent >= FULL_PCT ? FULL_PCT : percent >= ALMOST_PCT ? ALMOST_PCT : percent >= HIGH_PCT ? HIGH_PCT : 0;
    if (level < ALMOST_PCT) /* not at once: what waits in the log comes and goes */
        inbox->nothing_to_prune = false;
    bool degraded = inbox->degraded || inbox_is_full(inbox);
    if (level == inbox->pressure_level && degraded == inbox->was_degraded)
        return;
    inbox->pressure_level = level;
    inbox->was_degraded = degraded;
    if (inbox->observer.pressure != NULL)
        inbox->observer.pressure(inbox->observer.argument, percent, degraded);
}

void inbox_observe(struct inbox *inbox, const struct inbox_observer *observer)
{
    inbox->observer = *observer;
}

void inbox_set_maximum(struct inbox *inbox, int64_t max_bytes)
{
    inbox->max_bytes = max_bytes;
    inbox->prune_again_ms = 0;
    pressure_report(inbox);
}

void pressure_seen(struct inbox *inbox)
{
    inbox->prune_again_ms = 0;
}

/* ---- at the limit ------------------------------------------------------------------------------------------------------ */

struct room_task {
    struct db_task task;
    struct inbox *inbox;
    int64_t after_seq; /* this walk */
    int64_t next_seq;  /* of this step; taken over when it is committed */
    int64_t removed;   /* by this step */
    bool end;
    int64_t removed_in_all;
};

/* The seqs of seen rows among the next ones. */
static int collect_seen(struct room_task *room, struct db_connection *connection, int64_t seqs[static STEP_REMOVE], size_t *ret_count,
                        struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_NEXT, error);
    if (statement == NULL)
        return -(int)error->code;
    size_t count = 0, looked = 0;
    int status = db_bind(statement, error, "ii", room->after_seq, (int64_t)STEP_LOOK);
    while (status == 0 && count < STEP_REMOVE && (status = db_step(statement, error)) == 1) {
        room->next_seq = db_column_integer(statement, 0, 0);
        if (db_column_integer(statement, 1, -1) >= 0)
            seqs[count++] = room->next_seq;
        looked++;
        status = 0;
    }
    db_reset(statement);
    if (status < 0)
        return status;
    room->end = looked < STEP_LOOK && count < STEP_REMOVE;
    *ret_count = count;
    return 0;
}

static int run_room(struct db_connection *connection, struct db_task *task)
{
    struct room_task *room = CONTAINER_OF(task, struct room_task, task);
    int64_t seqs[STEP_REMOVE];
    size_t count = 0;
    room->removed = 0;
    room->next_seq = room->after_seq;
    int status = collect_seen(room, connection, seqs, &count, &task->error);
    for (size_t i = 0; i < count && status >= 0; i++) {
        status = prune_row(room->inbox, connection, seqs[i], &task->error);
        room->removed += status > 0 ? 1 : 0;
    }
    return status < 0 ? status : 0;
}

static void done_room(struct db_task *task)
{
    struct room_task *room = CONTAINER_OF(task, struct room_task, task);
    struct inbox *inbox = room->inbox;
    if (task->status == 0) {
        room->after_seq = room->next_seq;
        room->removed_in_all += room->removed;
    }
    bool roomy = inbox_pressure_pct(inbox) < ALMOST_PCT;
    if (task->status == 0 && !room->end && !roomy && !atomic_load(&inbox->closed)) {
        db_write(inbox->db, task);
        return;
    }
    inbox->pruning = false;
    inbox->nothing_to_prune = !roomy && room->removed_in_all == 0;
    inbox->prune_again_ms = roomy ? 0 : clock_monotonic_ms() + LOOK_AGAIN_MS;
    if (room->removed_in_all > 0 && inbox->observer.pruned_early != NULL)
        inbox->observer.pruned_early(inbox->observer.argument, room->removed_in_all);
    inbox_note_result(inbox, task->status);
    free(room);
}

void pressure_poke(struct inbox *inbox)
{
    pressure_report(inbox);
    if (inbox->pressure_level < FULL_PCT || inbox->pruning || inbox->degraded || atomic_load(&inbox->closed) ||
        clock_monotonic_ms() < inbox->prune_again_ms)
        return;
    struct room_task *room = memory_zalloc(sizeof(*room));
    room->task = (struct db_task){ .run = run_room, .done = done_room, .flags = DB_SAVEPOINT };
    room->inbox = inbox;
    inbox->pruning = true;
    db_write(inbox->db, &room->task);
}
