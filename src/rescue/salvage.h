/* From the pages of one damaged database into the tables of a new one. Internal to the room. */
#ifndef RESCUE_SALVAGE_H
#define RESCUE_SALVAGE_H

#include <sqlite3.h>

#include "outbox/states.h"
#include "rescue/rescue.h"
#include "rescue/tree.h"

struct salvage;

/* A table whose records are recognised without the tree that they belong to. */
struct salvage_shape {
    const char *table;
    /* A letter a column as stored: n null (the rowid stands for it), i integer, t text, k a key in hex, b blob of 32 bytes, p blob or lost; upper case: or null. */
    const char *columns;
};

struct salvage_plan {
    const struct salvage_shape *shapes;
    size_t shape_count;
    const char *main_table, *main_index; /* main_index: of (id, rowid), which knows of rows that are lost */
    const char *const *skip;             /* tables that the new file makes by itself; ends with NULL */
    /* Judges a record of the main table, and may change it. False: it is no row. May be NULL. */
    bool (*judge)(void *argument, struct rescue_record *record, bool orphan);
    /* A row of the main table that is gone, and whose id an index still has. May be NULL. */
    void (*lost)(void *argument, const char *id, int64_t rowid);
    void *argument;
};

/* `target` is the new file, empty but for its tables. Fills *ret_database's counts. *ret_damaged_table is called for each table that could not be read whole; may be NULL. */
int salvage_run(struct rescue_pages *pages, sqlite3 *target, const struct salvage_plan *plan, struct rescue_database *ret_database,
                void (*damaged_table)(void *argument, const char *table), struct error *error) MUST_CHECK;
bool salvage_text_is(const struct rescue_value *value, const char *text);

#endif
