/* The pages of a damaged SQLite file, with what lies committed in its log over them: read without SQLite, which refuses as a whole what is damaged in part. Internal to the room.
 *
 * The file format is public and fixed (sqlite.org/fileformat2.html). Nothing read here is believed before it was checked: every number has a bound. */
#ifndef RESCUE_PAGES_H
#define RESCUE_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/error.h"

enum { RESCUE_PAGE_MAXIMUM = 65536, RESCUE_PAGE_DEFAULT = 4096 /* what db/ makes, when the head is unreadable */ };

struct rescue_pages {
    int fd, log_fd; /* -1: there is none */
    size_t page_size;
    size_t usable;         /* of a page */
    uint32_t count;        /* pages, of file and log */
    uint64_t *log_offsets; /* by page - 1: where the log has its newest committed version; 0: it has none */
    /* Versions behind a damaged place of the log: of a transaction that was committed, or not. */
    uint64_t *loose;
    size_t loose_count;
    uint8_t *visited;       /* a bit a page */
    uint64_t overflow_left; /* how many more overflow pages are read, so that a file made for it keeps nobody for hours */
};
int rescue_pages_open(const char *path, struct rescue_pages *ret_pages, struct error *error) MUST_CHECK;
void rescue_pages_close(struct rescue_pages *pages);
/* 0 with page_size bytes; -1: it is not there, or cannot be read. Numbers begin with 1. */
int rescue_page_read(const struct rescue_pages *pages, uint32_t number, uint8_t *ret_bytes) MUST_CHECK;
int rescue_page_read_loose(const struct rescue_pages *pages, size_t index, uint8_t *ret_bytes) MUST_CHECK;
/* Whether it was visited before; it is now. */
bool rescue_page_visit(struct rescue_pages *pages, uint32_t number);
bool rescue_page_was_visited(const struct rescue_pages *pages, uint32_t number);
/* Marks what the list of free pages names: old versions of rows lie there. */
void rescue_pages_visit_free(struct rescue_pages *pages);

static inline uint32_t rescue_get_32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static inline size_t rescue_get_16(const uint8_t *bytes)
{
    return (size_t)bytes[0] << 8 | bytes[1];
}

#endif
