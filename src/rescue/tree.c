/* Owns walking b-trees and decoding their cells. Must not know what a record means. */
#include "rescue/tree.h"

#include <string.h>

#include "util/memory.h"

enum {
    INTERIOR_INDEX = 2,
    INTERIOR_TABLE = 5,
    LEAF_INDEX = 10,
    LEAF_TABLE = 13,
    FILE_HEAD = 100, /* before the first page's tree */
    DEPTH_MAXIMUM = 20
};

/* ---- records ----------------------------------------------------------------------------------------------------------- */

/* Bytes read; 0: it does not end before `end`. */
static size_t get_varint(const uint8_t *at, const uint8_t *end, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (size_t i = 0; i < 9 && at + i < end; i++) {
        if (i == 8) {
            *ret_value = value << 8 | at[i];
            return 9;
        }
        value = value << 7 | (at[i] & 0x7f);
        if ((at[i] & 0x80) == 0) {
            *ret_value = value;
            return i + 1;
        }
    }
    return 0;
}

static int64_t get_integer(const uint8_t *bytes, size_t size)
{
    uint64_t value = (bytes[0] & 0x80) != 0 ? UINT64_MAX : 0;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    return (int64_t)value;
}

static bool size_of_type(uint64_t type, uint64_t *ret_size)
{
    static const uint64_t SIZES[] = { 0, 1, 2, 3, 4, 6, 8, 8, 0, 0 };
    if (type < 10)
        *ret_size = SIZES[type];
    else if (type >= 12)
        *ret_size = (type - 12) / 2;
    return type < 10 || type >= 12;
}

static void set_value(struct rescue_value *value, uint64_t type, const uint8_t *bytes, size_t size)
{
    *value = (struct rescue_value){ .type = RESCUE_NULL };
    if (type >= 12) {
        *value = (struct rescue_value){ .type = type % 2 == 0 ? RESCUE_BLOB : RESCUE_TEXT, .bytes = bytes, .size = size };
    } else if (type == 7) {
        uint64_t bits = (uint64_t)get_integer(bytes, 8);
        value->type = RESCUE_REAL;
        memcpy(&value->real, &bits, sizeof(value->real));
    } else if (type == 8 || type == 9) {
        *value = (struct rescue_value){ .type = RESCUE_INTEGER, .integer = type == 9 ? 1 : 0 };
    } else if (type >= 1 && type <= 6) {
        *value = (struct rescue_value){ .type = RESCUE_INTEGER, .integer = get_integer(bytes, size) };
    }
}

/* `size` bytes of `whole` are there. False: this is no record. */
static bool decode_record(const uint8_t *bytes, size_t size, uint64_t whole, struct rescue_record *record)
{
    const uint8_t *end = bytes + size;
    uint64_t head = 0;
    size_t read = get_varint(bytes, end, &head);
    if (read == 0 || head < read || head > size)
        return false;
    uint64_t at = head;
    record->count = 0;
    for (const uint8_t *type_at = bytes + read; type_at < bytes + head;) {
        uint64_t type = 0, length = 0;
        size_t step = get_varint(type_at, bytes + head, &type);
        if (step == 0 || !size_of_type(type, &length) || record->count == RESCUE_COLUMNS_MAXIMUM || length > whole || at > whole - length)
            return false;
        struct rescue_value *value = &record->values[record->count++];
        if (at + length <= size)
            set_value(value, type, bytes + at, (size_t)length);
        else
            *value = (struct rescue_value){ .type = RESCUE_LOST };
        at += length;
        type_at += step;
    }
    return at == whole && record->count > 0;
}

/* ---- cells -------------------------------------------------------------------------------------------------------------- */

struct cell {
    uint64_t whole; /* the payload's size */
    const uint8_t *local;
    size_t local_size;
    uint32_t overflow; /* page; 0 none */
};

/* How much of a payload lies on the page itself (fileformat2, "Cell payload overflow pages"). */
static size_t local_part(uint64_t whole, size_t usable, bool is_table)
{
    size_t maximum = is_table ? usable - 35 : (usable - 12) * 64 / 255 - 23;
    size_t minimum = (usable - 12) * 32 / 255 - 23;
    if (whole <= maximum)
        return (size_t)whole;
    size_t part = minimum + (size_t)((whole - minimum) % (usable - 4));
    return part <= maximum ? part : minimum;
}

static bool find_payload(const struct rescue_pages *pages, const uint8_t *at, const uint8_t *end, bool is_table, struct cell *ret_cell)
{
    if (ret_cell->whole > RESCUE_RECORD_MAXIMUM)
        return false;
    ret_cell->local = at;
    ret_cell->local_size = local_part(ret_cell->whole, pages->usable, is_table);
    bool spills = ret_cell->local_size < ret_cell->whole;
    if ((size_t)(end - at) < ret_cell->local_size + (spills ? 4 : 0))
        return false;
    ret_cell->overflow = spills ? rescue_get_32(at + ret_cell->local_size) : 0;
    return true;
}

/* The payload as far as its pages can be read, and as long as there is patience with chains that go round; heap. */
static uint8_t *gather(struct rescue_walk *walk, const struct cell *cell, size_t *ret_size)
{
    struct rescue_pages *pages = walk->pages;
    uint8_t *bytes = memory_alloc((size_t)cell->whole + 1);
    uint8_t *page = memory_alloc(pages->page_size);
    size_t size = cell->local_size, part = pages->usable - 4;
    memcpy(bytes, cell->local, size);
    for (uint32_t next = cell->overflow; next != 0 && size < cell->whole;) {
        if (pages->overflow_left == 0 || rescue_page_read(pages, next, page) != 0)
            break;
        pages->overflow_left--;
        size_t length = cell->whole - size < part ? (size_t)(cell->whole - size) : part;
        memcpy(bytes + size, page + 4, length);
        size += length;
        next = rescue_get_32(page);
    }
    free(page);
    *ret_size = size;
    return bytes;
}

static void give_record(struct rescue_walk *walk, const struct cell *cell, bool is_table, int64_t rowid)
{
    struct rescue_record record = { .has_rowid = is_table, .rowid = rowid };
    uint8_t *gathered = NULL;
    const uint8_t *bytes = cell->local;
    size_t size = cell->local_size;
    if (cell->overflow != 0 && walk->pages->overflow_left > 0)
        bytes = gathered = gather(walk, cell, &size);
    if (decode_record(bytes, size, cell->whole, &record))
        walk->callback(walk->argument, &record);
    else
        walk->bad_cells++;
    free(gathered);
}

/* ---- pages --------------------------------------------------------------------------------------------------------------- */

struct node {
    uint8_t *page;
    uint8_t kind;
    size_t head, cells; /* where its header stands, and how many cells it says it has */
};

static bool node_parse(const struct rescue_pages *pages, uint8_t *page, uint32_t number, struct node *ret_node)
{
    struct node node = { .page = page, .head = number == 1 ? FILE_HEAD : 0 };
    node.kind = page[node.head];
    node.cells = rescue_get_16(page + node.head + 3);
    bool interior = node.kind == INTERIOR_INDEX || node.kind == INTERIOR_TABLE;
    bool leaf = node.kind == LEAF_INDEX || node.kind == LEAF_TABLE;
    if (!interior && !leaf)
        return false;
    if (node.head + (interior ? 12 : 8) + 2 * node.cells > pages->usable)
        return false;
    *ret_node = node;
    return true;
}

/* NULL: it points out of the page, or into its head. */
static const uint8_t *cell_at(const struct rescue_pages *pages, const struct node *node, size_t index)
{
    bool interior = node->kind == INTERIOR_INDEX || node->kind == INTERIOR_TABLE;
    size_t pointers = node->head + (interior ? 12 : 8);
    size_t offset = rescue_get_16(node->page + pointers + 2 * index);
    return offset < pointers + 2 * node->cells || offset + 4 > pages->usable ? NULL : node->page + offset;
}

static void take_cell(struct rescue_walk *walk, const struct node *node, size_t index)
{
    const uint8_t *at = cell_at(walk->pages, node, index), *end = node->page + walk->pages->usable;
    bool is_table = node->kind == LEAF_TABLE;
    struct cell cell = { .whole = 0 };
    uint64_t rowid = 0;
    size_t read = 0;
    if (at != NULL && node->kind == INTERIOR_INDEX)
        at += 4;
    if (at != NULL)
        read = get_varint(at, end, &cell.whole);
    at = read == 0 ? NULL : at + read;
    if (at != NULL && is_table) {
        read = get_varint(at, end, &rowid);
        at = read == 0 ? NULL : at + read;
    }
    if (at == NULL || !find_payload(walk->pages, at, end, is_table, &cell))
        walk->bad_cells++;
    else
        give_record(walk, &cell, is_table, (int64_t)rowid);
}

static void take_cells(struct rescue_walk *walk, const struct node *node)
{
    for (size_t i = 0; node->kind != INTERIOR_TABLE && i < node->cells; i++)
        take_cell(walk, node, i);
}

/* Once in this tree. Another tree may come here too: which of them was misled, the records say. */
static bool enter_page(struct rescue_walk *walk, uint32_t number)
{
    if (number < 1 || number > walk->pages->count || (walk->seen[(number - 1) / 8] >> ((number - 1) % 8) & 1) != 0)
        return false;
    walk->seen[(number - 1) / 8] = (uint8_t)(walk->seen[(number - 1) / 8] | 1U << ((number - 1) % 8));
    (void)rescue_page_visit(walk->pages, number);
    return true;
}

static void walk_page(struct rescue_walk *walk, uint32_t number, unsigned depth)
{
    struct node node;
    if (depth > DEPTH_MAXIMUM || !enter_page(walk, number)) {
        walk->bad_pages++;
        return;
    }
    uint8_t *page = memory_alloc(walk->pages->page_size);
    if (rescue_page_read(walk->pages, number, page) != 0 || !node_parse(walk->pages, page, number, &node)) {
        walk->bad_pages++;
        free(page);
        return;
    }
    take_cells(walk, &node);
    bool interior = node.kind == INTERIOR_INDEX || node.kind == INTERIOR_TABLE;
    for (size_t i = 0; interior && i < node.cells; i++) {
        const uint8_t *at = cell_at(walk->pages, &node, i);
        if (at == NULL)
            walk->bad_cells++;
        else
            walk_page(walk, rescue_get_32(at), depth + 1);
    }
    if (interior)
        walk_page(walk, rescue_get_32(page + node.head + 8), depth + 1);
    free(page);
}

void rescue_walk_tree(struct rescue_walk *walk, uint32_t root)
{
    walk->seen = memory_calloc(walk->pages->count / 8 + 1, 1);
    walk_page(walk, root, 0);
    free(walk->seen);
    walk->seen = NULL;
}

/* An interior page of a table holds no records; that of an index does. */
static void take_orphan(struct rescue_walk *walk, uint8_t *page, uint32_t number)
{
    struct node node;
    if (node_parse(walk->pages, page, number, &node))
        take_cells(walk, &node);
}

void rescue_walk_orphans(struct rescue_walk *walk)
{
    uint8_t *page = memory_alloc(walk->pages->page_size);
    for (uint32_t number = 1; number <= walk->pages->count; number++) {
        if (!rescue_page_was_visited(walk->pages, number) && rescue_page_read(walk->pages, number, page) == 0)
            take_orphan(walk, page, number);
    }
    for (size_t i = walk->pages->loose_count; i-- > 0;) { /* the newest version of a row first */
        if (rescue_page_read_loose(walk->pages, i, page) == 0)
            take_orphan(walk, page, 2);
    }
    free(page);
}
