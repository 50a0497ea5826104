/* A list's answer, printed item by item and cut below 10 MiB (20-ipc, Before any route): {"items":[…],"next_cursor":…}. */
#ifndef IPC_PAGE_H
#define IPC_PAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "ipc/cursor.h"
#include "ipc/exchange.h"

struct page {
    struct buffer text;
    size_t count;
    int64_t last_seq;
    bool cut;                /* an item did not fit any more */
    const char *more_fields; /* static: `,"name":value` after the cursor; NULL none */
};
void page_init(struct page *page);
/* item is taken over; nothing is added once cut. The first item always is. */
void page_add(struct page *page, json_t *item, int64_t seq);
/* Answers 200 and releases. more: further rows are stored beyond what was added. */
void page_answer(struct page *page, struct exchange *exchange, enum cursor_kind kind, bool more);
void page_release(struct page *page);

#endif
