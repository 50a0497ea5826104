/* How many deliveries wait for each session (70-broker, Limits): counted in the database once, then kept in memory, because counting 100,000 rows for every send would
 * cost more than the send. A transaction that is rolled back clears all of it. The writer thread's alone. */
#include "broker/store/sqlite.h"
#include "util/memory.h"

static const char COUNT_WAITING[] = "SELECT count(*) FROM delivery_queue WHERE member_id = ? AND session_id = ?";

enum { WAITING_KEPT = 65536 }; /* sessions; past it all are counted anew: 4 MiB at most */

struct waiting {
    struct table_node node;
    int64_t member, session, count;
};

static bool matches(const struct table_node *node, const void *key)
{
    const struct waiting *waiting = (const struct waiting *)(const void *)node;
    const struct waiting *wanted = key;
    return waiting->member == wanted->member && waiting->session == wanted->session;
}

static uint64_t hash_of(int64_t member, int64_t session)
{
    int64_t pair[2] = { member, session };
    return table_hash_bytes(pair, sizeof pair);
}

static struct waiting *find(struct sqlite_store *store, int64_t member, int64_t session)
{
    struct waiting key = { .member = member, .session = session };
    return (struct waiting *)(void *)table_find(&store->waiting, hash_of(member, session), matches, &key);
}

int waiting_count(struct sqlite_store *store, struct db_connection *connection, int64_t member, int64_t session, int64_t *ret_count,
                  struct error *error)
{
    struct waiting *waiting = find(store, member, session);
    if (waiting == NULL) {
        sqlite3_stmt *statement = db_prepare(connection, COUNT_WAITING, error);
        if (statement == NULL)
            return -(int)error->code;
        int status = db_bind(statement, error, "ii", member, session);
        if (status == 0)
            status = db_step(statement, error);
        int64_t count = status == 1 ? db_column_integer(statement, 0, 0) : 0;
        db_reset(statement);
        if (status < 0)
            return status;
        if (store->waiting.count >= WAITING_KEPT)
            waiting_clear(store);
        waiting = memory_zalloc(sizeof(*waiting));
        waiting->member = member;
        waiting->session = session;
        waiting->count = count;
        table_insert(&store->waiting, &waiting->node, hash_of(member, session));
    }
    *ret_count = waiting->count;
    return 0;
}

void waiting_add(struct sqlite_store *store, int64_t member, int64_t session, int64_t change)
{
    struct waiting *waiting = find(store, member, session);
    if (waiting != NULL)
        waiting->count += change;
}

static void drop(void *argument, struct table_node *node)
{
    struct sqlite_store *store = argument;
    table_remove(&store->waiting, node);
    free(node);
}

void waiting_forget(struct sqlite_store *store, int64_t member, int64_t session)
{
    struct waiting *waiting = find(store, member, session);
    if (waiting != NULL)
        drop(store, &waiting->node);
}

void waiting_clear(struct sqlite_store *store)
{
    table_each(&store->waiting, drop, store);
}
