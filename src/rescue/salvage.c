/* Owns the way of records into the new file: table by table along its tree, then what no tree led to by its shape, then what an index still knows of. A row found along its tree
 * comes first; what was found beside it never replaces it. Must not know what a row means: the plan does. */
#include "rescue/salvage.h"

#include <string.h>

#include "crypto/crypto.h"
#include "util/memory.h"
#include "util/text.h"

enum { TABLES_MAXIMUM = 32, CANDIDATES_MAXIMUM = 100000, ULID_LENGTH = 26, SCHEMA_COLUMNS = 5 };

struct target_table {
    char *name;
    bool without_rowid;
    size_t count;     /* columns */
    int rowid_column; /* which of them is the rowid; -1 none */
    sqlite3_stmt *insert;
    const char *shape; /* NULL: recognised along its tree only */
    uint32_t root;     /* in the old file; 0 unknown */
    int64_t taken;
};

struct candidate {
    char id[ULID_LENGTH + 1];
    int64_t rowid;
};

struct salvage {
    struct rescue_pages *pages;
    sqlite3 *target;
    const struct salvage_plan *plan;
    struct target_table tables[TABLES_MAXIMUM];
    size_t table_count;
    uint32_t index_root;
    sqlite3_stmt *has_row;
    struct candidate *candidates;
    size_t candidate_count;
    struct target_table *current; /* whose tree is walked; NULL: orphans */
    int64_t refused;
    int failure; /* SQLite's result that ends it: a full disk */
};

static int fail_target(struct salvage *salvage, struct error *error)
{
    int result = salvage->failure != SQLITE_OK ? salvage->failure : sqlite3_extended_errcode(salvage->target);
    enum error_code code = (result & 0xff) == SQLITE_FULL ? ERROR_FULL : ERROR_SYSTEM;
    return error_set(error, code, "Cannot write the new database: %s",
                     code == ERROR_FULL ? "the disk is full" : sqlite3_errmsg(salvage->target));
}

/* ---- the new file's tables ------------------------------------------------------------------------------------------------ */

static bool is_skipped(const struct salvage_plan *plan, const char *name)
{
    for (size_t i = 0; plan->skip[i] != NULL; i++) {
        if (strcmp(plan->skip[i], name) == 0)
            return true;
    }
    return strncmp(name, "sqlite_", 7) == 0;
}

/* As stored: a table without rowid has its key first. */
static const char COLUMNS_WITHOUT_ROWID[] = "SELECT name, 0 FROM pragma_table_info(?1) ORDER BY pk = 0, pk, cid";
static const char COLUMNS_WITH_ROWID[] = "SELECT name, pk = 1 AND type = 'INTEGER' FROM pragma_table_info(?1) ORDER BY cid";

static int prepare_insert(struct salvage *salvage, struct target_table *table, struct error *error)
{
    struct buffer sql;
    sqlite3_stmt *columns = NULL;
    int result = sqlite3_prepare_v2(salvage->target, table->without_rowid ? COLUMNS_WITHOUT_ROWID : COLUMNS_WITH_ROWID, -1, &columns, NULL);
    buffer_init(&sql, BUFFER_UNLIMITED);
    (void)buffer_printf(&sql, "INSERT OR IGNORE INTO \"%s\" (", table->name);
    if (result == SQLITE_OK)
        result = sqlite3_bind_text(columns, 1, table->name, -1, SQLITE_STATIC);
    while (result == SQLITE_OK && (result = sqlite3_step(columns)) == SQLITE_ROW) {
        (void)buffer_printf(&sql, "%s\"%s\"", table->count == 0 ? "" : ", ", (const char *)sqlite3_column_text(columns, 0));
        if (sqlite3_column_int(columns, 1) != 0)
            table->rowid_column = (int)table->count;
        table->count++;
        result = SQLITE_OK;
    }
    (void)sqlite3_finalize(columns);
    (void)buffer_append_text(&sql, ") VALUES (");
    for (size_t i = 0; i < table->count; i++)
        (void)buffer_printf(&sql, "%s?%zu", i == 0 ? "" : ", ", i + 1);
    (void)buffer_append_text(&sql, ")");
    if (result == SQLITE_DONE)
        result = sqlite3_prepare_v2(salvage->target, sql.data, -1, &table->insert, NULL);
    buffer_release(&sql);
    return result == SQLITE_OK ? 0 : fail_target(salvage, error);
}

static int list_tables(struct salvage *salvage, struct error *error)
{
    static const char LIST[] = "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name";
    sqlite3_stmt *list = NULL;
    int result = sqlite3_prepare_v2(salvage->target, LIST, -1, &list, NULL);
    while (result == SQLITE_OK && (result = sqlite3_step(list)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(list, 0);
        result = SQLITE_OK;
        if (is_skipped(salvage->plan, name) || salvage->table_count == TABLES_MAXIMUM)
            continue;
        struct target_table *table = &salvage->tables[salvage->table_count++];
        *table =
            (struct target_table){ .name = memory_strdup(name), .without_rowid = sqlite3_column_int(list, 1) != 0, .rowid_column = -1 };
        for (size_t i = 0; i < salvage->plan->shape_count; i++) {
            if (strcmp(salvage->plan->shapes[i].table, name) == 0)
                table->shape = salvage->plan->shapes[i].columns;
        }
    }
    (void)sqlite3_finalize(list);
    if (result != SQLITE_DONE)
        return fail_target(salvage, error);
    int status = 0;
    for (size_t i = 0; i < salvage->table_count && status == 0; i++)
        status = prepare_insert(salvage, &salvage->tables[i], error);
    return status;
}

/* ---- the old file's roots -------------------------------------------------------------------------------------------------- */

bool salvage_text_is(const struct rescue_value *value, const char *text)
{
    return value->type == RESCUE_TEXT && value->size == strlen(text) && memcmp(value->bytes, text, value->size) == 0;
}

/* sqlite_schema: type, name, table, root page, SQL. */
static void take_schema_row(void *argument, const struct rescue_record *record)
{
    struct salvage *salvage = argument;
    if (!record->has_rowid || record->count != SCHEMA_COLUMNS || record->values[3].type != RESCUE_INTEGER ||
        record->values[3].integer < 2 || record->values[3].integer > UINT32_MAX)
        return;
    uint32_t root = (uint32_t)record->values[3].integer;
    for (size_t i = 0; i < salvage->table_count; i++) {
        if (salvage_text_is(&record->values[0], "table") && salvage_text_is(&record->values[1], salvage->tables[i].name))
            salvage->tables[i].root = root;
    }
    if (salvage_text_is(&record->values[0], "index") && salvage_text_is(&record->values[1], salvage->plan->main_index))
        salvage->index_root = root;
}

/* ---- shapes ----------------------------------------------------------------------------------------------------------------- */

static bool fits(char letter, const struct rescue_value *value)
{
    bool may_be_null = letter >= 'A' && letter <= 'Z';
    if (value->type == RESCUE_NULL)
        return may_be_null || letter == 'n';
    switch (may_be_null ? letter + ('a' - 'A') : letter) {
    case 'i':
        return value->type == RESCUE_INTEGER;
    case 't':
        return value->type == RESCUE_TEXT || value->type == RESCUE_LOST;
    case 'k':
        return value->type == RESCUE_TEXT && value->size == 64;
    case 'b':
        return value->type == RESCUE_BLOB && value->size == SHA256_BYTES;
    case 'p':
        return value->type == RESCUE_BLOB || value->type == RESCUE_LOST;
    default:
        return false;
    }
}

static bool has_shape(const struct target_table *table, const struct rescue_record *record)
{
    if (table->shape == NULL || record->count != strlen(table->shape) || record->has_rowid == table->without_rowid)
        return false;
    for (size_t i = 0; i < record->count; i++) {
        /* What was cut off may have been anything. */
        if (record->values[i].type != RESCUE_LOST && !fits(table->shape[i], &record->values[i]))
            return false;
    }
    return record->values[0].type != RESCUE_LOST;
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

static int bind_value(sqlite3_stmt *statement, int index, const struct rescue_value *value)
{
    switch (value->type) {
    case RESCUE_INTEGER:
        return sqlite3_bind_int64(statement, index, value->integer);
    case RESCUE_REAL:
        return sqlite3_bind_double(statement, index, value->real);
    case RESCUE_TEXT:
        return sqlite3_bind_text64(statement, index, (const char *)value->bytes, value->size, SQLITE_STATIC, SQLITE_UTF8);
    case RESCUE_BLOB:
        return value->size == 0 ? sqlite3_bind_zeroblob(statement, index, 0)
                                : sqlite3_bind_blob64(statement, index, value->bytes, value->size, SQLITE_STATIC);
    case RESCUE_NULL:
    case RESCUE_LOST:
        break;
    }
    return sqlite3_bind_null(statement, index);
}

/* The new file's own constraints have the last word. */
static void insert(struct salvage *salvage, struct target_table *table, const struct rescue_record *record)
{
    int result = SQLITE_OK;
    for (size_t i = 0; i < table->count && result == SQLITE_OK; i++) {
        if ((int)i == table->rowid_column)
            result = sqlite3_bind_int64(table->insert, (int)i + 1, record->rowid);
        else if (i < record->count)
            result = bind_value(table->insert, (int)i + 1, &record->values[i]);
        else
            result = sqlite3_bind_null(table->insert, (int)i + 1);
    }
    if (result == SQLITE_OK)
        result = sqlite3_step(table->insert);
    if (result == SQLITE_DONE)
        table->taken += sqlite3_changes(salvage->target);
    else if ((result & 0xff) == SQLITE_CONSTRAINT || (result & 0xff) == SQLITE_MISMATCH || (result & 0xff) == SQLITE_TOOBIG)
        salvage->refused++;
    else if (salvage->failure == SQLITE_OK)
        salvage->failure = result;
    (void)sqlite3_reset(table->insert);
    (void)sqlite3_clear_bindings(table->insert);
}

static void take_row(struct salvage *salvage, struct target_table *table, const struct rescue_record *record)
{
    struct rescue_record row = *record;
    bool main_table = strcmp(table->name, salvage->plan->main_table) == 0;
    bool whole = true;
    for (size_t i = 0; i < row.count; i++)
        whole = whole && row.values[i].type != RESCUE_LOST;
    if (main_table && salvage->plan->judge != NULL)
        whole = salvage->plan->judge(salvage->plan->argument, &row, salvage->current == NULL);
    if (whole)
        insert(salvage, table, &row);
    else
        salvage->refused++;
}

static void take_tree_record(void *argument, const struct rescue_record *record)
{
    struct salvage *salvage = argument;
    struct target_table *table = salvage->current;
    /* A tree that was misled leads to others' records. */
    bool plausible =
        table->shape != NULL ? has_shape(table, record) : record->has_rowid != table->without_rowid && record->count <= table->count;
    if (salvage->failure == SQLITE_OK && plausible)
        take_row(salvage, table, record);
    else
        salvage->refused++;
}

/* ---- what an index knows ------------------------------------------------------------------------------------------------------- */

static bool is_row(struct salvage *salvage, int64_t rowid)
{
    bool found = sqlite3_bind_int64(salvage->has_row, 1, rowid) == SQLITE_OK && sqlite3_step(salvage->has_row) == SQLITE_ROW;
    (void)sqlite3_reset(salvage->has_row);
    return found;
}

static bool is_id(const struct rescue_value *value)
{
    if (value->type != RESCUE_TEXT || value->size != ULID_LENGTH)
        return false;
    for (size_t i = 0; i < value->size; i++) {
        if (!((value->bytes[i] >= '0' && value->bytes[i] <= '9') || (value->bytes[i] >= 'A' && value->bytes[i] <= 'Z')))
            return false;
    }
    return true;
}

static void take_index_record(void *argument, const struct rescue_record *record)
{
    struct salvage *salvage = argument;
    if (record->has_rowid || record->count != 2 || !is_id(&record->values[0]) || record->values[1].type != RESCUE_INTEGER ||
        salvage->candidate_count == CANDIDATES_MAXIMUM || is_row(salvage, record->values[1].integer))
        return;
    if ((salvage->candidate_count & (salvage->candidate_count - 1)) == 0)
        salvage->candidates = memory_realloc(salvage->candidates,
                                             (salvage->candidate_count == 0 ? 1 : 2 * salvage->candidate_count) * sizeof(struct candidate));
    struct candidate *candidate = &salvage->candidates[salvage->candidate_count++];
    memcpy(candidate->id, record->values[0].bytes, ULID_LENGTH);
    candidate->id[ULID_LENGTH] = '\0';
    candidate->rowid = record->values[1].integer;
}

static void take_orphan_record(void *argument, const struct rescue_record *record)
{
    struct salvage *salvage = argument;
    for (size_t i = 0; salvage->failure == SQLITE_OK && i < salvage->table_count; i++) {
        if (has_shape(&salvage->tables[i], record)) {
            take_row(salvage, &salvage->tables[i], record);
            return;
        }
    }
    take_index_record(salvage, record);
}

static int compare_candidates(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    return a->rowid < b->rowid ? -1 : a->rowid > b->rowid ? 1 : 0;
}

/* What an orphan found later is no candidate any more. */
static void settle_candidates(struct salvage *salvage, struct rescue_database *database)
{
    if (salvage->candidate_count > 0)
        qsort(salvage->candidates, salvage->candidate_count, sizeof(struct candidate), compare_candidates);
    for (size_t i = 0; i < salvage->candidate_count; i++) {
        const struct candidate *candidate = &salvage->candidates[i];
        if ((i > 0 && candidate->rowid == candidate[-1].rowid) || is_row(salvage, candidate->rowid))
            continue;
        database->lost++;
        if (salvage->plan->lost != NULL)
            salvage->plan->lost(salvage->plan->argument, candidate->id, candidate->rowid);
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------------ */

static void walk_tables(struct salvage *salvage, struct rescue_database *database, void (*damaged_table)(void *argument, const char *table))
{
    for (size_t i = 0; i < salvage->table_count && salvage->failure == SQLITE_OK; i++) {
        struct target_table *table = &salvage->tables[i];
        struct rescue_walk walk = { .pages = salvage->pages, .callback = take_tree_record, .argument = salvage };
        int64_t refused = salvage->refused;
        salvage->current = table;
        if (table->root != 0)
            rescue_walk_tree(&walk, table->root);
        bool damaged = table->root == 0 || walk.bad_pages > 0 || walk.bad_cells > 0 || salvage->refused > refused;
        if (damaged && damaged_table != NULL)
            damaged_table(salvage->plan->argument, table->name);
        database->bad_pages += walk.bad_pages;
        database->bad_cells += walk.bad_cells;
    }
    salvage->current = NULL;
}

static int prepare_has_row(struct salvage *salvage, struct error *error)
{
    char *sql = memory_printf("SELECT 1 FROM \"%s\" WHERE rowid = ?1", salvage->plan->main_table);
    int result = sqlite3_prepare_v2(salvage->target, sql, -1, &salvage->has_row, NULL);
    free(sql);
    return result == SQLITE_OK ? 0 : fail_target(salvage, error);
}

static void release(struct salvage *salvage)
{
    for (size_t i = 0; i < salvage->table_count; i++) {
        (void)sqlite3_finalize(salvage->tables[i].insert);
        free(salvage->tables[i].name);
    }
    (void)sqlite3_finalize(salvage->has_row);
    free(salvage->candidates);
}

int salvage_run(struct rescue_pages *pages, sqlite3 *target, const struct salvage_plan *plan, struct rescue_database *ret_database,
                void (*damaged_table)(void *argument, const char *table), struct error *error)
{
    struct salvage salvage = { .pages = pages, .target = target, .plan = plan };
    struct rescue_walk schema = { .pages = pages, .callback = take_schema_row, .argument = &salvage };
    struct rescue_walk orphans = { .pages = pages, .callback = take_orphan_record, .argument = &salvage };
    struct rescue_walk index = { .pages = pages, .callback = take_index_record, .argument = &salvage };
    int status = list_tables(&salvage, error);
    if (status == 0)
        status = prepare_has_row(&salvage, error);
    if (status != 0)
        goto out;
    rescue_walk_tree(&schema, 1);
    walk_tables(&salvage, ret_database, damaged_table);
    if (salvage.index_root != 0)
        rescue_walk_tree(&index, salvage.index_root);
    rescue_pages_visit_free(pages);
    rescue_walk_orphans(&orphans);
    if (salvage.failure != SQLITE_OK) {
        status = fail_target(&salvage, error);
        goto out;
    }
    settle_candidates(&salvage, ret_database);
    ret_database->bad_cells += salvage.refused;
    ret_database->bad_pages += schema.bad_pages;
    for (size_t i = 0; i < salvage.table_count; i++) {
        bool main_table = strcmp(salvage.tables[i].name, plan->main_table) == 0;
        *(main_table ? &ret_database->rows : &ret_database->other_rows) += salvage.tables[i].taken;
    }
out:
    release(&salvage);
    return status;
}
