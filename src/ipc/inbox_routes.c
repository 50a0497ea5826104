/* Owns GET /v1/inbox and POST /v1/inbox/seen (20-ipc). Must not read the database itself: inbox/ does. */
#include "crypto/crypto.h"
#include "ipc/internal.h"
#include "ipc/page.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { LIST_DEFAULT = 100, LIST_MAX = 1000, SEEN_IDS_MAX = 10000 };

/* ---- list --------------------------------------------------------------------------------------------------------- */

struct inbox_request {
    struct inbox_query query;
    char *mesh, *topic, *sender; /* what the query points at: the page may come after the caller went */
    struct exchange *exchange;
};

static void inbox_request_free(struct inbox_request *request)
{
    free(request->mesh);
    free(request->topic);
    free(request->sender);
    free(request);
}

/* A key in either case, or a name. */
static void read_sender(struct inbox_request *request, const char *from)
{
    request->sender = memory_strdup(from);
    char *lower = memory_strdup(from);
    for (char *at = lower; *at != '\0'; at++)
        if (*at >= 'A' && *at <= 'F')
            *at = (char)(*at + ('a' - 'A'));
    if (hex_is_key(lower)) {
        free(request->sender);
        request->sender = lower;
        request->query.sender_pubkey = request->sender;
        return;
    }
    free(lower);
    request->query.sender_name = request->sender;
}

static int read_order(struct inbox_request *request, struct error *error)
{
    struct http_request *http = request->exchange->http;
    const char *order = http_query(http, "order"), *cursor = http_query(http, "cursor");
    if (order != NULL && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return error_set(error, ERROR_INVALID, "Parameter 'order' must be asc or desc.");
    request->query.ascending = order != NULL && strcmp(order, "asc") == 0;
    if (cursor == NULL)
        return 0;
    enum cursor_kind kind;
    int64_t seq;
    if (cursor_decode(cursor, &kind, &seq) != 0 || kind == CURSOR_OUTBOX)
        return error_set(error, ERROR_INVALID, "Parameter 'cursor' must be the next_cursor of an earlier page.");
    bool ascending = kind == CURSOR_INBOX_ASCENDING;
    if (order != NULL && ascending != request->query.ascending)
        return error_set(error, ERROR_INVALID, "Parameter 'cursor' is of a list in the other order.");
    request->query.ascending = ascending;
    request->query.after_seq = seq;
    return 0;
}

static int read_list(struct inbox_request *request, struct error *error)
{
    struct exchange *exchange = request->exchange;
    struct inbox_query *query = &request->query;
    int64_t limit = LIST_DEFAULT;
    if (exchange_query_integer(exchange, "limit", 1, LIST_MAX, &limit, error) != 0 ||
        exchange_query_bool(exchange, "unread", &query->unread, error) != 0 || read_order(request, error) != 0)
        return -(int)error->code;
    query->limit = (size_t)limit;
    const char *since = http_query(exchange->http, "since");
    if (since != NULL && time_parse_rfc3339(since, &query->since_ms) != 0)
        return error_set(error, ERROR_INVALID, "Parameter 'since' must be a time as 2026-01-31T12:00:00Z.");
    const char *topic = http_query(exchange->http, "topic");
    if (topic != NULL && !name_is_valid(topic))
        return error_set(error, ERROR_INVALID, "Parameter 'topic' must be 1 to 64 of a-z 0-9 _ . -.");
    request->topic = memory_strdup(topic);
    query->topic = request->topic;
    const char *from = http_query(exchange->http, "from");
    if (from != NULL && (*from == '\0' || !utf8_is_valid(from, strlen(from))))
        return error_set(error, ERROR_INVALID, "Parameter 'from' must be a name or a key.");
    if (from != NULL)
        read_sender(request, from);
    return 0;
}

static void on_rows(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    struct inbox_request *request = argument;
    struct exchange *exchange = request->exchange;
    enum cursor_kind kind = request->query.ascending ? CURSOR_INBOX_ASCENDING : CURSOR_INBOX_DESCENDING;
    inbox_request_free(request);
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

void route_inbox(struct exchange *exchange)
{
    const char *row_mesh;
    if (ipc_mesh_filter(exchange, &row_mesh) != 0)
        return;
    struct inbox_request *request = memory_zalloc(sizeof(*request));
    request->exchange = exchange;
    request->mesh = memory_strdup(row_mesh);
    request->query = (struct inbox_query){ .mesh = request->mesh, .since_ms = -1, .after_seq = -1, .maximum_bytes = LIMIT_HTTP_RESPONSE };
    struct error error;
    if (read_list(request, &error) != 0) {
        inbox_request_free(request);
        exchange_fail_shape(exchange, &error);
        return;
    }
    inbox_list(exchange->ipc->inbox, &request->query, on_rows, request);
}

/* ---- seen --------------------------------------------------------------------------------------------------------- */

struct seen_request {
    struct exchange *exchange;
    char *mesh;
    char **ids;
    size_t count;
    int64_t marked;
};

static void seen_request_free(struct seen_request *request)
{
    for (size_t i = 0; i < request->count; i++)
        free(request->ids[i]);
    free(request->ids);
    free(request->mesh);
    free(request);
}

static int read_ids(struct seen_request *request, const json_t *ids, struct error *error)
{
    size_t count = json_array_size(ids);
    if (count == 0 || count > SEEN_IDS_MAX)
        return error_set(error, ERROR_INVALID, "Field 'ids' must hold 1 to %d ids.", SEEN_IDS_MAX);
    request->ids = memory_calloc(count, sizeof(*request->ids));
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_string(id) || json_string_length(id) != strlen(json_string_value(id)))
            return error_set(error, ERROR_INVALID, "Field 'ids' must be an array of strings.");
        request->ids[request->count++] = memory_strdup(json_string_value(id));
    }
    return 0;
}

static int read_seen(struct seen_request *request, const json_t *body, struct error *error)
{
    const json_t *ids = NULL;
    bool all = false;
    if (json_read_array(body, "ids", JSON_OPTIONAL, &ids, error) != 0 || json_read_bool(body, "all", JSON_OPTIONAL, &all, error) != 0)
        return -(int)error->code;
    if ((ids != NULL) == all)
        return error_set(error, ERROR_INVALID, "Give field 'ids', or field 'all' as true.");
    return ids != NULL ? read_ids(request, ids, error) : 0;
}

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
    request->marked += (int64_t)count;
    tell_meshes(request->exchange->ipc, rows, count);
    for (size_t i = 0; i < count; i++)
        inbox_row_free(rows[i]);
    free(rows);
    if (!final)
        return;
    struct exchange *exchange = request->exchange;
    int64_t marked = request->marked;
    seen_request_free(request);
    if (status != 0) {
        exchange_fail_store(exchange, status);
        return;
    }
    json_t *answer = json_new_object();
    json_put_bool(answer, "ok", true);
    json_put_integer(answer, "marked", marked);
    exchange_answer_json(exchange, 200, answer);
}

void route_inbox_seen(struct exchange *exchange)
{
    const char *row_mesh;
    if (ipc_mesh_filter(exchange, &row_mesh) != 0)
        return;
    struct seen_request *request = memory_zalloc(sizeof(*request));
    request->exchange = exchange;
    request->mesh = memory_strdup(row_mesh);
    struct error error;
    if (read_seen(request, exchange->body, &error) != 0) {
        seen_request_free(request);
        exchange_fail_shape(exchange, &error);
        return;
    }
    inbox_mark_seen(exchange->ipc->inbox, (const char *const *)request->ids, request->count, request->mesh, on_marked, request);
}
