/* Whole tables as a stream of bytes, and back: what backups and resets are made of. The reader is a read-only connection of its own in one transaction, so that a writer may go
 * on meanwhile (30-delivery: exactly one writes); constant memory, whatever the tables hold. Blocking; any thread that is not a database's own.
 *
 * The stream, all numbers big-endian: schema version (4), then for each table 'T', its name, the count of columns (2), their names; for each of its rows 'R' and a value a column; 'E' ends. A name is
 * its length (1) and bytes. A value is '0' null, 'I' and 8 bytes, 'F' and the 8 bytes of a double, 'T' or 'B', a length (4) and bytes. */
#ifndef DB_DUMP_H
#define DB_DUMP_H

#include "db/db.h"

enum { DB_DUMP_VALUE_MAXIMUM = 16 * 1024 * 1024 }; /* bytes of one value; the largest that any room stores is a frame, 1 MiB, in JSON */

/* What is read in a column's place, as SQL over the row: "NULL", "x''". Static. */
struct db_substitute {
    const char *table, *column, *expression;
};
struct db_selection {
    const struct db_substitute *substitutes;
    size_t substitute_count;
    const char *const *without; /* tables that are left out; NULL ends the list, or there is none */
};
struct db_sink {
    void *argument;
    int (*write)(void *argument, const void *data, size_t size, struct error *error);
};
struct db_source {
    void *argument;
    int (*read)(void *argument, void *data, size_t size, struct error *error); /* exactly so many, or ERROR_CORRUPT */
};

/* Every ordinary table but `schema` (virtual tables and what belongs to them are made again by who owns them). ERROR_NOT_FOUND: no such file, or nothing in it yet.
 * `rows` (may be NULL): rows written. */
int db_dump(const char *path, const struct db_selection *selection, const struct db_sink *sink, int64_t *ret_rows,
            struct error *error) MUST_CHECK;

/* Makes the database at `path`, which must not exist: the steps up to the stream's version, its rows, the steps that follow, then `finish` (may be NULL), and the mark of a clean stop. Synced. A table or a column that
 * the schema lacks: ERROR_CORRUPT; a version above the steps: ERROR_NEWER. On failure nothing of the file is left. */
int db_load(const char *path, const struct db_migration *migrations, size_t migration_count, const struct db_source *source,
            int (*finish)(void *argument, struct db_connection *connection, struct error *error), void *finish_argument,
            struct error *error) MUST_CHECK;

/* One read-only look: statements over `path` in one transaction. ERROR_NOT_FOUND: no such file. */
int db_look(const char *path, int (*look)(void *argument, struct db_connection *connection, struct error *error), void *argument,
            struct error *error) MUST_CHECK;

/* Changes a database that nobody has open, after it was found whole: `run` in one transaction; then the file is made anew, without what was removed. ERROR_NOT_FOUND, ERROR_CORRUPT, ERROR_NEWER: untouched. */
int db_change(const char *path, const struct db_migration *migrations, size_t migration_count,
              int (*run)(void *argument, struct db_connection *connection, struct error *error), void *argument,
              struct error *error) MUST_CHECK;

#endif
