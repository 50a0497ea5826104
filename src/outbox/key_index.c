/* Owns the way from a client_message_id to its row: the newest ids in memory, the others in `outbox_key`, and the move from one to the other
 * (docs/decisions/0006). An entry is a hint, the row decides; what must hold is that no row after the stored `indexed_up_to` is missing in memory. Writer
 * thread only. */
#include "crypto/crypto.h"
#include "outbox/internal.h"
#include "util/memory.h"

enum {
    /* Enough that neighbours in hash order share pages of outbox_key even with millions of rows, and 1.5 MiB of memory. */
    MERGE_AT = 60000,
    /* Below this many, an idle daemon leaves the ids where they are: a start reads that many rows in a few milliseconds. */
    IDLE_KEEP = 2048,
    /* Slots moved for each id added: the table (131,072 slots) is gone long before the next is full. */
    SLOTS_FOR_ONE = 4,
    FIRST_BITS = 8,
    /* 47 bits: SQLite keeps such a number in 6 bytes. */
    HASH_BITS = 47,
};

static const char SELECT_IDS[] = "SELECT seq, client_message_id FROM outbox WHERE seq > ?1 ORDER BY seq";
static const char SELECT_ID[] = "SELECT client_message_id FROM outbox WHERE seq = ?1";
static const char SELECT_KEYS[] = "SELECT seq FROM outbox_key WHERE hash = ?1";
static const char INSERT_KEY[] = "INSERT OR IGNORE INTO outbox_key (hash, seq) VALUES (?1, ?2)";
static const char SET_INDEXED[] = "UPDATE outbox_progress SET indexed_up_to = ?1 WHERE id = 1";

/* Not one that a caller could aim at: collisions would make look-ups read rows. */
uint64_t key_hash(const char *client_message_id)
{
    struct sha256 digest;
    sha256_of(client_message_id, strlen(client_message_id), &digest);
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof(hash); i++) {
        hash = hash << 8 | digest.bytes[i];
    }
    return hash >> (64 - HASH_BITS);
}

/* ---- the table in memory --------------------------------------------------------------------------------- */

static size_t table_capacity(const struct key_table *table)
{
    return table->hashes == NULL ? 0 : (size_t)1 << table->bits;
}

static void table_release(struct key_table *table)
{
    free(table->hashes);
    free(table->offsets);
    *table = (struct key_table){ .hashes = NULL };
}

static size_t first_slot(const struct key_table *table, uint64_t hash)
{
    return (size_t)(hash >> (HASH_BITS - table->bits));
}

static size_t next_slot(const struct key_table *table, size_t slot)
{
    return (slot + 1) & (table_capacity(table) - 1);
}

static void table_put(struct key_table *table, uint64_t hash, uint32_t offset)
{
    size_t slot = first_slot(table, hash);
    while (table->offsets[slot] != 0) {
        slot = next_slot(table, slot);
    }
    table->hashes[slot] = hash;
    table->offsets[slot] = offset;
    table->count++;
}

static void table_grow(struct key_table *table)
{
    struct key_table larger = { .bits = table->hashes == NULL ? FIRST_BITS : table->bits + 1, .base = table->base };
    size_t capacity = (size_t)1 << larger.bits;
    larger.hashes = memory_calloc(capacity, sizeof(uint64_t));
    larger.offsets = memory_calloc(capacity, sizeof(uint32_t));
    for (size_t slot = 0; slot < table_capacity(table); slot++) {
        if (table->offsets[slot] != 0) {
            table_put(&larger, table->hashes[slot], table->offsets[slot]);
        }
    }
    table_release(table);
    *table = larger;
}

static void table_add(struct key_table *table, uint64_t hash, int64_t seq)
{
    if (table->count == 0) {
        table->base = seq - 1;
    }
    if ((table->count + 1) * 2 > table_capacity(table)) {
        table_grow(table);
    }
    table_put(table, hash, (uint32_t)(seq - table->base));
}

/* ---- looking up -------------------------------------------------------------------------------------------- */

static int is_row_of(struct db_connection *connection, int64_t seq, const char *client_message_id, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_ID, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "i", seq);
    if (status == 0) {
        status = db_step(statement, error);
    }
    if (status == 1) {
        status = string_equal(db_column_string(statement, 0), client_message_id) ? 1 : 0;
    }
    db_reset(statement);
    return status;
}

static int find_in_table(const struct key_table *table, struct db_connection *connection, uint64_t hash, const char *client_message_id,
                         int64_t *ret_seq, struct error *error)
{
    if (table->count == 0) {
        return 0;
    }
    for (size_t slot = first_slot(table, hash); table->offsets[slot] != 0; slot = next_slot(table, slot)) {
        if (table->hashes[slot] != hash) {
            continue;
        }
        int64_t seq = table->base + (int64_t)table->offsets[slot];
        int status = is_row_of(connection, seq, client_message_id, error);
        if (status != 0) {
            *ret_seq = seq;
            return status;
        }
    }
    return 0;
}

static int find_on_disk(struct db_connection *connection, uint64_t hash, const char *client_message_id, int64_t *ret_seq,
                        struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_KEYS, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "i", (int64_t)hash);
    while (status == 0) {
        status = db_step(statement, error);
        if (status != 1) {
            break;
        }
        int64_t seq = db_column_integer(statement, 0, 0);
        status = is_row_of(connection, seq, client_message_id, error);
        if (status == 1) {
            *ret_seq = seq;
        }
    }
    db_reset(statement);
    return status;
}

int key_index_find(struct key_index *index, struct db_connection *connection, const char *client_message_id, int64_t *ret_seq,
                   struct error *error)
{
    uint64_t hash = key_hash(client_message_id);
    int status = find_in_table(&index->recent, connection, hash, client_message_id, ret_seq, error);
    if (status == 0 && index->is_merging) {
        status = find_in_table(&index->merging, connection, hash, client_message_id, ret_seq, error);
    }
    return status == 0 ? find_on_disk(connection, hash, client_message_id, ret_seq, error) : status;
}

void key_index_add(struct key_index *index, const char *client_message_id, int64_t seq)
{
    table_add(&index->recent, key_hash(client_message_id), seq);
    index->added++;
    index->last_seq = seq;
}

int key_index_load(struct key_index *index, struct db_connection *connection, int64_t indexed_up_to, struct error *error)
{
    index->last_seq = indexed_up_to;
    sqlite3_stmt *statement = db_prepare(connection, SELECT_IDS, error);
    if (statement == NULL) {
        return -(int)error->code;
    }
    int status = db_bind(statement, error, "i", indexed_up_to);
    while (status == 0) {
        status = db_step(statement, error);
        if (status != 1) {
            break;
        }
        key_index_add(index, db_column_string(statement, 1), db_column_integer(statement, 0, 0));
        status = 0;
    }
    db_reset(statement);
    index->added = 0;
    return status;
}

void key_index_release(struct key_index *index)
{
    table_release(&index->recent);
    table_release(&index->merging);
}

/* ---- moving to disk ------------------------------------------------------------------------------------------ */

static int move_slots(struct key_index *index, struct db_connection *connection, size_t slots, struct error *error)
{
    const struct key_table *table = &index->merging;
    size_t capacity = table_capacity(table);
    size_t end = capacity - index->position > slots ? index->position + slots : capacity;
    for (size_t slot = index->position; slot < end; slot++) {
        if (table->offsets[slot] == 0) {
            continue;
        }
        int status = db_execute(connection, error, NULL, INSERT_KEY, "ii", (int64_t)table->hashes[slot],
                                table->base + (int64_t)table->offsets[slot]);
        if (status < 0) {
            return status;
        }
    }
    index->position = end;
    if (end < capacity) {
        return 0;
    }
    index->moved_all = true;
    return db_execute(connection, error, NULL, SET_INDEXED, "i", index->merging_up_to);
}

/* Only when nothing of `recent` is uncommitted: what a rollback takes away and a second run adds again would else stand under `merging_up_to`
 * without being in `merging`. */
static void start_merge(struct key_index *index)
{
    index->merging = index->recent;
    index->recent = (struct key_table){ .hashes = NULL };
    index->is_merging = true;
    index->merging_up_to = index->last_seq;
    index->position = 0;
    index->committed_position = 0;
}

int key_index_before_commit(struct key_index *index, struct db_connection *connection, struct error *error)
{
    size_t slots = index->added * SLOTS_FOR_ONE + index->idle_slots;
    if (!index->is_merging || index->moved_all || slots == 0) {
        return 0;
    }
    return move_slots(index, connection, slots, error);
}

void key_index_committed(struct key_index *index)
{
    index->committed_position = index->position;
    if (index->moved_all) {
        table_release(&index->merging);
        index->is_merging = false;
        index->moved_all = false;
    }
    if (!index->is_merging && (index->recent.count >= MERGE_AT || (index->idle_slots > 0 && index->recent.count > IDLE_KEEP))) {
        start_merge(index);
    }
    index->added = 0;
    index->idle_slots = 0;
}

void key_index_rolled_back(struct key_index *index)
{
    index->position = index->committed_position;
    index->moved_all = false;
    index->added = 0;
    index->idle_slots = 0;
}

bool key_index_is_idle_work(const struct key_index *index)
{
    return index->is_merging || index->recent.count > IDLE_KEEP;
}

int key_index_merge_all(struct key_index *index, struct db_connection *connection, struct error *error)
{
    int status = 0;
    if (index->is_merging) {
        status = move_slots(index, connection, SIZE_MAX, error);
        table_release(&index->merging);
        index->is_merging = false;
    }
    if (status == 0 && index->recent.count > 0) {
        start_merge(index);
        status = move_slots(index, connection, SIZE_MAX, error);
    }
    return status;
}
