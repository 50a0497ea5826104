/* The b-trees of a damaged SQLite file: their leaves, cell by cell, and each cell's record as values. Internal to the room. What cannot be read is counted, and left out. */
#ifndef RESCUE_TREE_H
#define RESCUE_TREE_H

#include "rescue/pages.h"

enum {
    RESCUE_COLUMNS_MAXIMUM = 32,
    RESCUE_RECORD_MAXIMUM = 16 * 1024 * 1024 /* bytes; the largest row that the rooms write is far below */
};

enum rescue_type { RESCUE_NULL, RESCUE_INTEGER, RESCUE_REAL, RESCUE_TEXT, RESCUE_BLOB, RESCUE_LOST /* its bytes are not there */ };

struct rescue_value {
    enum rescue_type type;
    int64_t integer;
    double real;
    const uint8_t *bytes; /* valid during the callback */
    size_t size;
};

struct rescue_record {
    bool has_rowid; /* of a table; else an index's, or that of a table without rowid */
    int64_t rowid;
    size_t count;
    struct rescue_value values[RESCUE_COLUMNS_MAXIMUM];
};

typedef void rescue_record_callback(void *argument, const struct rescue_record *record);

struct rescue_walk {
    struct rescue_pages *pages;
    rescue_record_callback *callback;
    void *argument;
    int64_t bad_pages, bad_cells; /* counted up */
    uint8_t *seen;                /* internal */
};
/* All records under `root`; each page once, however the pages point. */
void rescue_walk_tree(struct rescue_walk *walk, uint32_t root);
/* All records of leaves that no tree led to: with rowids, and without; then the loose pages of the log. */
void rescue_walk_orphans(struct rescue_walk *walk);

#endif
