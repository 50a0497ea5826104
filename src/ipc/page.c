/* Owns how a list is printed and where it is cut. Must not know what the items are. */
#include "ipc/page.h"

#include "json/json.h"
#include "util/limits.h"

/* Room for the brackets and the cursor. */
enum { PAGE_MARGIN = 1024 };

void page_init(struct page *page)
{
    *page = (struct page){ .last_seq = -1 };
    buffer_init(&page->text, BUFFER_UNLIMITED);
    buffer_append_text(&page->text, "{\"items\":[");
}

void page_add(struct page *page, json_t *item, int64_t seq)
{
    size_t before = page->text.length;
    if (!page->cut) {
        if (page->count > 0)
            buffer_append_byte(&page->text, ',');
        json_print(item, &page->text);
        page->cut = page->count > 0 && page->text.length > LIMIT_HTTP_RESPONSE - PAGE_MARGIN;
        if (page->cut) {
            page->text.data[before] = '\0';
            page->text.length = before;
        } else {
            page->count++;
            page->last_seq = seq;
        }
    }
    json_decref(item);
}

void page_answer(struct page *page, struct exchange *exchange, enum cursor_kind kind, bool more)
{
    char *cursor = page->count > 0 && (more || page->cut) ? cursor_encode(kind, page->last_seq) : NULL;
    if (cursor != NULL)
        buffer_printf(&page->text, "],\"next_cursor\":\"%s\"", cursor);
    else
        buffer_append_text(&page->text, "],\"next_cursor\":null");
    buffer_append_text(&page->text, page->more_fields == NULL ? "" : page->more_fields);
    buffer_append_byte(&page->text, '}');
    free(cursor);
    exchange_answer(exchange, 200, NULL, page->text.data, page->text.length);
    page_release(page);
}

void page_release(struct page *page)
{
    buffer_release(&page->text);
}
