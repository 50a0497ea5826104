/* Owns reading pages of the file and of its log. Must not know what is on them. */
#include "rescue/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/memory.h"

enum { HEAD_BYTES = 100, LOG_HEAD_BYTES = 32, FRAME_HEAD_BYTES = 24, SMALLEST_PAGE = 512, SMALLEST_USABLE = 480, PAGES_MAXIMUM = 1 << 28 };

/* An overflow page is one cell's, which stands on as many versions of its leaf as the log has of it. Who reads them more often goes round in circles. */
enum { OVERFLOW_FREE = 100000, OVERFLOW_TIMES = 64 };

static const char MAGIC[16] = "SQLite format 3";

static int read_at(int fd, uint64_t offset, void *ret_bytes, size_t size)
{
    uint8_t *to = ret_bytes;
    while (size > 0) {
        ssize_t got = pread(fd, to, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1; /* a bad sector is as good as an end */
        to += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return 0;
}

static bool is_page_size(size_t size)
{
    return size >= SMALLEST_PAGE && size <= RESCUE_PAGE_MAXIMUM && (size & (size - 1)) == 0;
}

/* ---- the log -------------------------------------------------------------------------------------------------------- */

struct log_scan {
    uint8_t head[LOG_HEAD_BYTES];
    bool little_endian; /* of the words that are summed */
    uint32_t sum[2];
    bool sound; /* so far; what is ours is told by the salts then */
};

static void add_to_sum(struct log_scan *scan, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint32_t words[2];
        for (size_t w = 0; w < 2; w++) {
            const uint8_t *at = bytes + i + 4 * w;
            words[w] =
                scan->little_endian ? (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0] : rescue_get_32(at);
        }
        scan->sum[0] += words[0] + scan->sum[1];
        scan->sum[1] += words[1] + scan->sum[0];
    }
}

static bool log_begin(struct rescue_pages *pages, struct log_scan *scan)
{
    if (pages->log_fd < 0 || read_at(pages->log_fd, 0, scan->head, sizeof(scan->head)) != 0)
        return false;
    uint32_t magic = rescue_get_32(scan->head);
    uint8_t first[FRAME_HEAD_BYTES];
    scan->little_endian = magic == 0x377f0682;
    scan->sum[0] = scan->sum[1] = 0;
    add_to_sum(scan, scan->head, 24);
    scan->sound = (scan->little_endian || magic == 0x377f0683) && scan->sum[0] == rescue_get_32(scan->head + 24) &&
                  scan->sum[1] == rescue_get_32(scan->head + 28);
    if (scan->sound && is_page_size(rescue_get_32(scan->head + 8)))
        return true;
    /* Its head is ruined: what belongs to the first frame is loose. */
    scan->sound = false;
    if (read_at(pages->log_fd, LOG_HEAD_BYTES, first, sizeof(first)) != 0)
        return false;
    memcpy(scan->head + 16, first + 8, 8);
    return true;
}

static void note_page(struct rescue_pages *pages, uint64_t **offsets, uint32_t *capacity, uint32_t number, uint64_t offset)
{
    if (number > *capacity) {
        uint32_t wanted = number + number / 2 + 64;
        *offsets = memory_realloc(*offsets, wanted * sizeof(uint64_t));
        memset(*offsets + *capacity, 0, (wanted - *capacity) * sizeof(uint64_t));
        *capacity = wanted;
    }
    (*offsets)[number - 1] = offset;
    pages->count = number > pages->count ? number : pages->count;
}

static void note_loose(struct rescue_pages *pages, uint64_t offset)
{
    pages->loose = memory_realloc(pages->loose, (pages->loose_count + 1) * sizeof(uint64_t));
    pages->loose[pages->loose_count++] = offset;
}

/* Left by the log before this one, which began anew in the same file: SQLite counts the first salt up. */
static bool is_of_earlier_log(const struct log_scan *scan, const uint8_t *frame_head)
{
    enum { LOGS_BACK = 1 << 16 };
    uint32_t back = rescue_get_32(scan->head + 16) - rescue_get_32(frame_head + 8);
    return back != 0 && back < LOGS_BACK;
}

/* Frames up to the last whole commit stand over the file; those behind a damaged one are loose. A transaction that the log ends in was never committed, and one that was taken back may
 * stand behind the last that was: neither is anything that somebody was told is stored. */
static void log_read(struct rescue_pages *pages, struct log_scan *scan)
{
    struct {
        uint32_t number;
        uint64_t offset;
    } *open = NULL; /* of the transaction that is not committed yet */
    size_t open_count = 0, open_capacity = 0;
    size_t committed_loose = 0; /* up to the last loose frame that ends a transaction */
    bool broke_between = false; /* two transactions */
    uint32_t capacity = 0;
    uint8_t head[FRAME_HEAD_BYTES];
    uint8_t *page = memory_alloc(pages->page_size);
    for (uint64_t at = LOG_HEAD_BYTES;; at += FRAME_HEAD_BYTES + pages->page_size) {
        uint64_t offset = at + FRAME_HEAD_BYTES;
        if (read_at(pages->log_fd, at, head, sizeof(head)) != 0 || read_at(pages->log_fd, offset, page, pages->page_size) != 0)
            break;
        uint32_t number = rescue_get_32(head);
        bool ours = memcmp(head + 8, scan->head + 16, 8) == 0 && number >= 1 && number < PAGES_MAXIMUM;
        bool ends = rescue_get_32(head + 4) != 0;
        if (scan->sound) {
            add_to_sum(scan, head, 8);
            add_to_sum(scan, page, pages->page_size);
            scan->sound = ours && scan->sum[0] == rescue_get_32(head + 16) && scan->sum[1] == rescue_get_32(head + 20);
            broke_between = !scan->sound && open_count == 0;
            for (size_t i = 0; !scan->sound && i < open_count && !is_of_earlier_log(scan, head); i++)
                note_loose(pages, open[i].offset);
        }
        if (!scan->sound && ours)
            note_loose(pages, offset);
        if (!scan->sound) {
            committed_loose = ours && ends ? pages->loose_count : committed_loose;
            continue;
        }
        if (open_count == open_capacity) {
            open_capacity = open_capacity == 0 ? 64 : open_capacity * 2;
            open = memory_realloc(open, open_capacity * sizeof(*open));
        }
        open[open_count].number = number;
        open[open_count++].offset = offset;
        for (size_t i = 0; ends && i < open_count; i++)
            note_page(pages, &pages->log_offsets, &capacity, open[i].number, open[i].offset);
        open_count = ends ? 0 : open_count;
    }
    if (broke_between)
        pages->loose_count = committed_loose;
    if (capacity < pages->count) {
        pages->log_offsets = memory_realloc(pages->log_offsets, (size_t)pages->count * sizeof(uint64_t));
        memset(pages->log_offsets + capacity, 0, ((size_t)pages->count - capacity) * sizeof(uint64_t));
    }
    free(open);
    free(page);
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

/* From the file's head, from the log's, or as we make them. */
static void find_page_size(struct rescue_pages *pages, const struct log_scan *scan, bool has_log)
{
    uint8_t head[HEAD_BYTES];
    pages->page_size = pages->usable = RESCUE_PAGE_DEFAULT;
    has_log = has_log && scan->sound;
    if (has_log)
        pages->page_size = pages->usable = rescue_get_32(scan->head + 8);
    if (read_at(pages->fd, 0, head, sizeof(head)) != 0 || memcmp(head, MAGIC, sizeof(MAGIC)) != 0)
        return;
    size_t size = rescue_get_16(head + 16) == 1 ? RESCUE_PAGE_MAXIMUM : rescue_get_16(head + 16);
    if (!is_page_size(size) || (has_log && size != pages->page_size))
        return;
    pages->page_size = pages->usable = size;
    if (head[20] <= size - SMALLEST_USABLE)
        pages->usable = size - head[20];
}

int rescue_pages_open(const char *path, struct rescue_pages *ret_pages, struct error *error)
{
    struct rescue_pages pages = { .fd = open(path, O_RDONLY | O_CLOEXEC), .log_fd = -1 };
    struct stat status;
    struct log_scan scan;
    if (pages.fd < 0 || fstat(pages.fd, &status) != 0) {
        int failed = error_set_errno(error, "Cannot read '%s'", path);
        rescue_pages_close(&pages);
        return failed;
    }
    char *log_path = memory_printf("%s-wal", path);
    pages.log_fd = open(log_path, O_RDONLY | O_CLOEXEC);
    free(log_path);
    bool has_log = log_begin(&pages, &scan);
    find_page_size(&pages, &scan, has_log);
    uint64_t count = ((uint64_t)status.st_size + pages.page_size - 1) / pages.page_size;
    pages.count = count < PAGES_MAXIMUM ? (uint32_t)count : PAGES_MAXIMUM;
    if (has_log)
        log_read(&pages, &scan);
    pages.overflow_left = OVERFLOW_FREE + OVERFLOW_TIMES * ((uint64_t)pages.count + pages.loose_count);
    pages.visited = memory_calloc(pages.count / 8 + 1, 1);
    *ret_pages = pages;
    return 0;
}

void rescue_pages_close(struct rescue_pages *pages)
{
    if (pages->fd >= 0)
        (void)close(pages->fd);
    if (pages->log_fd >= 0)
        (void)close(pages->log_fd);
    free(pages->log_offsets);
    free(pages->loose);
    free(pages->visited);
    *pages = (struct rescue_pages){ .fd = -1, .log_fd = -1 };
}

/* ---- pages -------------------------------------------------------------------------------------------------------------- */

int rescue_page_read(const struct rescue_pages *pages, uint32_t number, uint8_t *ret_bytes)
{
    if (number < 1 || number > pages->count)
        return -1;
    uint64_t in_log = pages->log_offsets == NULL ? 0 : pages->log_offsets[number - 1];
    if (in_log != 0)
        return read_at(pages->log_fd, in_log, ret_bytes, pages->page_size);
    return read_at(pages->fd, (uint64_t)(number - 1) * pages->page_size, ret_bytes, pages->page_size);
}

int rescue_page_read_loose(const struct rescue_pages *pages, size_t index, uint8_t *ret_bytes)
{
    return index < pages->loose_count ? read_at(pages->log_fd, pages->loose[index], ret_bytes, pages->page_size) : -1;
}

bool rescue_page_was_visited(const struct rescue_pages *pages, uint32_t number)
{
    return number < 1 || number > pages->count || (pages->visited[(number - 1) / 8] >> ((number - 1) % 8) & 1) != 0;
}

bool rescue_page_visit(struct rescue_pages *pages, uint32_t number)
{
    bool before = rescue_page_was_visited(pages, number);
    if (!before)
        pages->visited[(number - 1) / 8] = (uint8_t)(pages->visited[(number - 1) / 8] | 1U << ((number - 1) % 8));
    return before;
}

/* The whole list, or nothing of it: one that does not add up may name pages that are in use. */
void rescue_pages_visit_free(struct rescue_pages *pages)
{
    uint8_t *page = memory_alloc(pages->page_size);
    uint32_t *free_pages = NULL;
    size_t count = 0, expected = 0;
    uint32_t trunk = 0;
    if (rescue_page_read(pages, 1, page) == 0 && memcmp(page, MAGIC, sizeof(MAGIC)) == 0) {
        trunk = rescue_get_32(page + 32);
        expected = rescue_get_32(page + 36);
    }
    if (expected > pages->count)
        expected = 0;
    free_pages = memory_calloc(expected + 1, sizeof(uint32_t));
    while (trunk != 0 && count < expected && rescue_page_read(pages, trunk, page) == 0) {
        size_t leaves = rescue_get_32(page + 4);
        free_pages[count++] = trunk;
        for (size_t i = 0; i < leaves && count < expected && 8 + 4 * i + 4 <= pages->usable; i++)
            free_pages[count++] = rescue_get_32(page + 8 + 4 * i);
        trunk = rescue_get_32(page);
    }
    for (size_t i = 0; trunk == 0 && count == expected && i < count; i++)
        (void)rescue_page_visit(pages, free_pages[i]);
    free(free_pages);
    free(page);
}
