/* Owns GET /v1/inbox/search (20-ipc): the query's parameters, the page with its snippets. Must not know the index's language: inbox/ does. */
#include "ipc/internal.h"
#include "ipc/page.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/text.h"

enum { LIST_DEFAULT = 100, LIST_MAX = 1000 };

static int read_cursor(const struct exchange *exchange, int64_t *ret_before, struct error *error)
{
    const char *cursor = http_query(exchange->http, "cursor");
    enum cursor_kind kind;
    int64_t seq;
    *ret_before = INT64_MAX;
    if (cursor == NULL)
        return 0;
    if (cursor_decode(cursor, &kind, &seq) != 0 || kind != CURSOR_SEARCH)
        return error_set(error, ERROR_INVALID, "Parameter 'cursor' must be the next_cursor of an earlier page of a search.");
    *ret_before = seq;
    return 0;
}

static void answer_failure(struct exchange *exchange, const struct inbox_found *found)
{
    if (found->status == -ERROR_INVALID)
        exchange_fail(exchange, 400, "invalid_query", "%s", found->error.message);
    else if (found->status == -ERROR_DENIED)
        exchange_fail(exchange, 501, "search_disabled",
                      "This daemon keeps no full-text index: set inbox.fts = true in config.toml and restart it.");
    else if (found->status == -ERROR_TIMEOUT)
        exchange_fail(exchange, 503, "search_too_slow", "%s", found->error.message);
    else
        exchange_fail_store(exchange, found->status);
}

static void on_found(void *argument, struct inbox_found *found)
{
    struct exchange *exchange = argument;
    if (found->status != 0 || exchange->http == NULL) {
        answer_failure(exchange, found);
        inbox_found_release(found);
        return;
    }
    struct page page;
    page_init(&page);
    for (size_t i = 0; i < found->count; i++) {
        const struct inbox_row *row = found->rows[i];
        json_t *item = inbox_row_to_json(row, ipc_slug_of_row(exchange->ipc, row->mesh));
        json_put_string(item, "snippet", found->snippets[i]);
        page_add(&page, item, row->seq);
    }
    page.more_fields = found->complete ? ",\"complete\":true" : ",\"complete\":false";
    bool more = found->more;
    inbox_found_release(found);
    page_answer(&page, exchange, CURSOR_SEARCH, more);
}

void route_inbox_search(struct exchange *exchange)
{
    struct inbox_search search = { .query = http_query(exchange->http, "q"), .maximum_bytes = LIMIT_HTTP_RESPONSE };
    int64_t limit = LIST_DEFAULT;
    struct error error;
    if (ipc_mesh_filter(exchange, &search.mesh) != 0)
        return;
    if (exchange_query_integer(exchange, "limit", 1, LIST_MAX, &limit, &error) != 0 ||
        read_cursor(exchange, &search.before_seq, &error) != 0) {
        exchange_fail_shape(exchange, &error);
        return;
    }
    if (search.query == NULL) {
        exchange_fail(exchange, 400, "invalid_request", "Parameter 'q' is missing: what to search for.");
        return;
    }
    search.limit = (size_t)limit;
    inbox_search(exchange->ipc->inbox, &search, on_found, exchange);
}
