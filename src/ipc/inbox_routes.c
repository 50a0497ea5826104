/* Owns GET /v1/inbox and POST /v1/inbox/seen (20-ipc). Must not read the database itself: inbox/ does. */
#include "crypto/keys.h"
#include "ipc/internal.h"
#include "ipc/page.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { LIST_DEFAULT = 100, LIST_MAX = 1000, SEEN_IDS_MAX = 10000 };

/* ---- list --------------------------------------------------------------------------------------------------------- */

/* A key in either case, or a name. lower holds the key that the query then points at. */
static int read_sender(struct inbox_query *query, const char *from, char lower[static KEY_HEX_SIZE], struct error *error)
{
    if (from == NULL)
        return 0;
    if (*from == '\0' || !utf8_is_valid(from, strlen(from)))
        return error_set(error, ERROR_INVALID, "Parameter 'from' must be a name or a key.");
    if (string_copy(lower, KEY_HEX_SIZE, from) == 0)
        for (char *at = lower; *at != '\0'; at++)
            if (*at >= 'A' && *at <= 'F')
                *at = (char)(*at + ('a' - 'A'));
    if (hex_is_key(lower))
        query->sender_pubkey = lower;
    else
        query->sender_name = from;
    return 0;
}

static int read_order(const struct http_request *http, struct inbox_query *query, struct error *error)
{
    const char *order = http_query(http, "order"), *cursor = http_query(http, "cursor");
    if (order != NULL && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return error_set(error, ERROR_INVALID, "Parameter 'order' must be asc or desc.");
    query->ascending = order != NULL && strcmp(order, "asc") == 0;
    if (cursor == NULL)
        return 0;
    enum cursor_kind kind;
    int64_t seq;
    if (cursor_decode(cursor, &kind, &seq) != 0 || (kind != CURSOR_INBOX_ASCENDING && kind != CURSOR_INBOX_DESCENDING))
        return error_set(error, ERROR_INVALID, "Parameter 'cursor' must be the next_cursor of an earlier page.");
    bool ascending = kind == CURSOR_INBOX_ASCENDING;
    if (order != NULL && ascending != query->ascending)
        return error_set(error, ERROR_INVALID, "Parameter 'cursor' is of a list in the other order.");
    query->ascending = ascending;
    query->after_seq = seq;
    return 0;
}

static int read_list(const struct exchange *exchange, struct inbox_query *query, char sender[static KEY_HEX_SIZE], struct error *error)
{
    const struct http_request *http = exchange->http;
    int64_t limit = LIST_DEFAULT;
    if (exchange_query_integer(exchange, "limit", 1, LIST_MAX, &limit, error) != 0 ||
        exchange_query_bool(exchange, "unread", &query->unread, error) != 0 || read_order(http, query, error) != 0 ||
        read_sender(query, http_query(http, "from"), sender, error) != 0)
        return -(int)error->code;
    query->limit = (size_t)limit;
    const char *since = http_query(http, "since");
    if (since != NULL && time_parse_rfc3339(since, &query->since_ms) != 0)
        return error_set(error, ERROR_INVALID, "Parameter 'since' must be a time as 2026-01-31T12:00:00Z.");
    query->topic = http_query(http, "topic");
    if (query->topic != NULL && !name_is_valid(query->topic))
        return error_set(error, ERROR_INVALID, "Parameter 'topic' must be 1 to 64 of a-z 0-9 _ . -.");
    return 0;
}

static void answer_rows(struct exchange *exchange, enum cursor_kind kind, int status, struct inbox_row **rows, size_t count, bool more)
{
    struct page page;
    page_init(&page);
    for (size_t i = 0; i < count; i++) {
        if (exchange->http != NULL)
            page_add(&page, inbox_row_to_json(rows[i], ipc_slug_of_row(exchange->ipc, rows[i]->mesh)), rows[i]->seq);
        inbox_row_free(rows[i]);
    }
    free(rows);
    if (status == 0) {
        page_answer(&page, exchange, kind, more);
        return;
    }
    page_release(&page);
    exchange_fail_store(exchange, status);
}

static void on_rows_up(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    answer_rows(argument, CURSOR_INBOX_ASCENDING, status, rows, count, more);
}

static void on_rows_down(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    answer_rows(argument, CURSOR_INBOX_DESCENDING, status, rows, count, more);
}

void route_inbox(struct exchange *exchange)
{
    struct inbox_query query = { .since_ms = -1, .after_seq = -1, .maximum_bytes = LIMIT_HTTP_RESPONSE };
    char sender[KEY_HEX_SIZE] = "";
    struct error error;
    if (ipc_mesh_filter(exchange, &query.mesh) != 0)
        return;
    if (read_list(exchange, &query, sender, &error) != 0) {
        exchange_fail_shape(exchange, &error);
        return;
    }
    inbox_list(exchange->ipc->inbox, &query, query.ascending ? on_rows_up : on_rows_down, exchange);
}

/* ---- seen --------------------------------------------------------------------------------------------------------- */

struct seen_request {
    struct exchange *exchange;
    int64_t marked;
};

/* The `seen` frames, one list a mesh. */
static void tell_meshes(const struct ipc *ipc, struct inbox_row **rows, size_t count)
{
    struct inbox_row **of_mesh = memory_calloc(count + 1, sizeof(struct inbox_row *));
    for (size_t m = 0; m < ipc->mesh_count; m++) {
        size_t found = 0;
        for (size_t i = 0; i < count; i++)
            if (strcmp(rows[i]->mesh, ipc_row_mesh(&ipc->meshes[m])) == 0)
                of_mesh[found++] = rows[i];
        if (found > 0 && ipc->meshes[m].delivery != NULL)
            delivery_mark_seen(ipc->meshes[m].delivery, of_mesh, found);
    }
    free(of_mesh);
}

static void on_marked(void *argument, int status, struct inbox_row **rows, size_t count, bool final)
{
    struct seen_request *request = argument;
    struct exchange *exchange = request->exchange;
    request->marked += (int64_t)count;
    tell_meshes(exchange->ipc, rows, count);
    for (size_t i = 0; i < count; i++)
        inbox_row_free(rows[i]);
    free(rows);
    if (!final)
        return;
    int64_t marked = request->marked;
    free(request);
    if (status != 0) {
        exchange_fail_store(exchange, status);
        return;
    }
    json_t *answer = json_new_object();
    json_put_bool(answer, "ok", true);
    json_put_integer(answer, "marked", marked);
    exchange_answer_json(exchange, 200, answer);
}

/* *ret_ids: the strings of `ids`, borrowed; NULL for all. */
static int read_seen(const json_t *body, const char ***ret_ids, size_t *ret_count, struct error *error)
{
    const json_t *ids = NULL, *id;
    bool all = false;
    size_t index, count;
    if (json_read_array(body, "ids", JSON_OPTIONAL, &ids, error) != 0 || json_read_bool(body, "all", JSON_OPTIONAL, &all, error) != 0)
        return -(int)error->code;
    if ((ids != NULL) == all)
        return error_set(error, ERROR_INVALID, "Give field 'ids', or field 'all' as true.");
    count = json_array_size(ids);
    if (ids != NULL && (count == 0 || count > SEEN_IDS_MAX))
        return error_set(error, ERROR_INVALID, "Field 'ids' must hold 1 to %d ids.", SEEN_IDS_MAX);
    json_array_foreach(ids, index, id) if (!json_is_string(id) || json_string_length(id) != strlen(json_string_value(id))) return error_set(
        error, ERROR_INVALID, "Field 'ids' must be an array of strings.");
    if (ids != NULL)
        *ret_ids = memory_calloc(count, sizeof(char *));
    json_array_foreach(ids, index, id)(*ret_ids)[index] = json_string_value(id);
    *ret_count = count;
    return 0;
}

void route_inbox_seen(struct exchange *exchange)
{
    const char *row_mesh, **ids = NULL;
    size_t count = 0;
    struct error error;
    if (ipc_mesh_filter(exchange, &row_mesh) != 0)
        return;
    if (read_seen(exchange->body, &ids, &count, &error) != 0) {
        exchange_fail_shape(exchange, &error);
        return;
    }
    struct seen_request *request = memory_zalloc(sizeof(*request));
    request->exchange = exchange;
    inbox_mark_seen(exchange->ipc->inbox, ids, count, row_mesh, on_marked, request);
    free(ids);
}
