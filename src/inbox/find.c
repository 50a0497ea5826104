/* Owns a search: from a person's words to the index's language, the page of what was found, and that it ends in time. Must not change the index (search.c).
 *
 * A query is words, all of which must be there; "phrases"; beginnings*; AND, OR, NOT and parentheses. Every word reaches SQLite in quotes, so that nothing else of its language can be
 * said, and a query that makes no sense is told so by SQLite's own parser. */
#include "inbox/internal.h"
#include "util/clock.h"
#include "util/memory.h"

enum {
    TERMS_MAXIMUM = 64,
    SNIPPET_MAXIMUM = 1024, /* bytes */
    SNIPPET_BEFORE = 256,   /* of these, before what matched */
    SNIPPET_COLUMN = INBOX_BODY_COLUMN + 1,
    PROGRESS_STEPS = 2000 /* of SQLite's machine between two looks at the clock: well under a millisecond */
};

static const char SELECT_STATE[] =
    "SELECT down_to, EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'inbox_search') FROM inbox_index"
    " WHERE id = 1";
static const char SELECT_FOUND[] =
    "SELECT " INBOX_COLUMNS_OF("inbox.") ", inbox.body, snippet(inbox_search, -1, '" INBOX_SNIPPET_BEGIN "', '" INBOX_SNIPPET_END
                                         "', '\xE2\x80\xA6', 24)"
                                         " FROM inbox_search CROSS JOIN inbox ON inbox.seq = inbox_search.rowid"
                                         " WHERE inbox_search MATCH ?1 AND inbox_search.rowid < ?2 AND (?3 IS NULL OR inbox.mesh = ?3)"
                                         " ORDER BY inbox_search.rowid DESC LIMIT ?4";

/* ---- the query ------------------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_operator(const char *word, size_t length)
{
    return (length == 3 && (memcmp(word, "AND", 3) == 0 || memcmp(word, "NOT", 3) == 0)) || (length == 2 && memcmp(word, "OR", 2) == 0);
}

/* "…", with an asterisk when it is the beginning of a word. */
static void put_quoted(struct buffer *text, const char *word, size_t length)
{
    bool prefix = length > 1 && word[length - 1] == '*';
    buffer_append_byte(text, '"');
    for (size_t i = 0; i < length - (prefix ? 1 : 0); i++) {
        if (word[i] == '"')
            buffer_append_byte(text, '"');
        buffer_append_byte(text, word[i]);
    }
    buffer_append_text(text, prefix ? "\"* " : "\" ");
}

/* One word or phrase from *at on; moves it behind. 0, or what is wrong. */
static int put_term(struct buffer *text, const char **at, struct error *error)
{
    const char *begin = *at;
    if (*begin == '(' || *begin == ')') {
        buffer_append_byte(text, *begin);
        buffer_append_byte(text, ' ');
        *at = begin + 1;
        return 0;
    }
    if (*begin == '"') {
        const char *end = strchr(begin + 1, '"');
        if (end == NULL)
            return error_set(error, ERROR_INVALID, "A quotation mark in the query has no partner.");
        put_quoted(text, begin + 1, (size_t)(end - begin - 1));
        *at = end + 1;
        return 0;
    }
    const char *end = begin;
    while (*end != '\0' && *end != '(' && *end != ')' && *end != '"' && !is_space(*end))
        end++;
    if (is_operator(begin, (size_t)(end - begin))) {
        buffer_append(text, begin, (size_t)(end - begin));
        buffer_append_byte(text, ' ');
    } else {
        put_quoted(text, begin, (size_t)(end - begin));
    }
    *at = end;
    return 0;
}

static int translate(const char *query, struct buffer *text, struct error *error)
{
    size_t terms = 0;
    if (strlen(query) > INBOX_QUERY_MAXIMUM)
        return error_set(error, ERROR_INVALID, "The query is longer than %d bytes.", (int)INBOX_QUERY_MAXIMUM);
    if (!utf8_is_valid(query, strlen(query)))
        return error_set(error, ERROR_INVALID, "The query is not valid UTF-8.");
    for (const char *at = query; *at != '\0';) {
        if (is_space(*at)) {
            at++;
            continue;
        }
        if (++terms > TERMS_MAXIMUM)
            return error_set(error, ERROR_INVALID, "The query has more than %d words.", (int)TERMS_MAXIMUM);
        int status = put_term(text, &at, error);
        if (status != 0)
            return status;
    }
    return terms == 0 ? error_set(error, ERROR_INVALID, "The query is empty: give one word at least.") : 0;
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

struct find_task {
    struct db_task task;
    struct inbox *inbox;
    struct inbox_search search;
    struct buffer match;
    char *mesh;
    struct inbox_found found;
    int64_t deadline_ms; /* monotonic */
    void (*done)(void *argument, struct inbox_found *found);
    void *argument;
};

static int is_over(void *argument)
{
    const struct find_task *find = argument;
    return clock_monotonic_ms() >= find->deadline_ms ? 1 : 0;
}

/* 1: there is an index. */
static int read_state(struct find_task *find, struct db_connection *connection, struct error *error)
{
    sqlite3_stmt *statement = db_prepare(connection, SELECT_STATE, error);
    if (statement == NULL)
        return -(int)error->code;
    bool exists = false;
    int status = db_step(statement, error);
    if (status == 1) {
        find->found.complete = db_column_integer(statement, 0, 1) == 0;
        exists = db_column_integer(statement, 1, 0) != 0;
    }
    db_reset(statement);
    return status < 0 ? status : exists ? 1 : 0;
}

static bool is_middle_of_character(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

/* A text without spaces is one word to the index, however long: cut around what matched first. Heap. */
static char *cut_snippet(struct text snippet)
{
    static const char DOTS[] = "\xE2\x80\xA6";
    if (snippet.length <= SNIPPET_MAXIMUM)
        return memory_strndup(snippet.data == NULL ? "" : snippet.data, snippet.length);
    const char *mark = memchr(snippet.data, INBOX_SNIPPET_BEGIN[0], snippet.length);
    size_t begin = mark == NULL || mark - snippet.data < SNIPPET_BEFORE ? 0 : (size_t)(mark - snippet.data) - SNIPPET_BEFORE;
    while (begin > 0 && is_middle_of_character(snippet.data[begin]))
        begin--;
    size_t end = snippet.length - begin <= SNIPPET_MAXIMUM ? snippet.length : begin + SNIPPET_MAXIMUM;
    while (end < snippet.length && is_middle_of_character(snippet.data[end]))
        end--;
    return memory_printf("%s%.*s%s", begin > 0 ? DOTS : "", (int)(end - begin), snippet.data + begin, end < snippet.length ? DOTS : "");
}

static int add_found(struct find_task *find, sqlite3_stmt *statement, struct error *error)
{
    struct inbox_found *found = &find->found;
    struct text snippet = db_column_text(statement, SNIPPET_COLUMN);
    int status = inbox_row_read(statement, true, &found->rows[found->count], error);
    if (status < 0)
        return status;
    found->snippets[found->count] = cut_snippet(snippet);
    found->count++;
    return 0;
}

static int read_found(struct find_task *find, sqlite3_stmt *statement, struct error *error)
{
    struct inbox_found *found = &find->found;
    size_t bytes = 0;
    int status;
    while ((status = db_step(statement, error)) == 1) {
        size_t size = db_column_text(statement, INBOX_BODY_COLUMN).length + db_column_text(statement, 10).length;
        if (found->count == find->search.limit || (found->count > 0 && bytes + size > find->search.maximum_bytes)) {
            found->more = true;
            return 0;
        }
        status = add_found(find, statement, error);
        if (status < 0)
            return status;
        bytes += size;
    }
    return status;
}

/* What a failed step means: time is up; the query makes no sense; the index is damaged; else the database's failure. */
static int judge_failure(struct find_task *find, struct db_connection *connection, int status, struct error *error)
{
    int result = sqlite3_extended_errcode(db_handle(connection));
    if ((result & 0xff) == SQLITE_INTERRUPT) {
        find->found.more = true;
        return find->found.count > 0
                   ? 0
                   : error_set(error, ERROR_TIMEOUT, "Nothing was found within %d ms: ask for something rarer.", (int)INBOX_SEARCH_MS);
    }
    if ((result & 0xff) == SQLITE_ERROR)
        return error_set(error, ERROR_INVALID,
                         "The query makes no sense: give words, \"phrases\", or words with AND, OR, NOT and parentheses.");
    if (status == -ERROR_CORRUPT && result == SQLITE_CORRUPT_VTAB)
        atomic_store(&find->inbox->index_damaged, true);
    return status;
}

static void clear_found(struct inbox_found *found)
{
    for (size_t i = 0; i < found->count; i++) {
        inbox_row_free(found->rows[i]);
        free(found->snippets[i]);
    }
    found->count = 0;
    found->more = false;
}

static int run_find(struct db_connection *connection, struct db_task *task)
{
    struct find_task *find = CONTAINER_OF(task, struct find_task, task);
    struct error *error = &task->error;
    clear_found(&find->found);
    int status = read_state(find, connection, error);
    if (status == 0)
        return error_set(error, ERROR_DENIED, "There is no full-text index: inbox.fts is false.");
    sqlite3_stmt *statement = status == 1 ? db_prepare(connection, SELECT_FOUND, error) : NULL;
    if (statement == NULL)
        return -(int)error->code;
    find->deadline_ms = clock_monotonic_ms() + INBOX_SEARCH_MS;
    sqlite3_progress_handler(db_handle(connection), PROGRESS_STEPS, is_over, find);
    status = db_bind(statement, error, "titi", find->match.data, find->search.before_seq, find->mesh, (int64_t)find->search.limit + 1);
    if (status == 0)
        status = read_found(find, statement, error);
    if (status < 0)
        status = judge_failure(find, connection, status, error);
    db_reset(statement);
    sqlite3_progress_handler(db_handle(connection), 0, NULL, NULL);
    return status;
}

static void finish(struct find_task *find, int status, const struct error *error)
{
    if (status < 0)
        clear_found(&find->found);
    find->found.status = status;
    if (status < 0)
        find->found.error = *error;
    find->done(find->argument, &find->found);
    buffer_release(&find->match);
    free(find->mesh);
    free(find);
}

static void done_find(struct db_task *task)
{
    struct find_task *find = CONTAINER_OF(task, struct find_task, task);
    if (atomic_exchange(&find->inbox->index_damaged, false))
        search_renew(find->inbox);
    finish(find, task->status, &task->error);
}

void inbox_found_release(struct inbox_found *found)
{
    clear_found(found);
    free(found->rows);
    free(found->snippets);
    found->rows = NULL;
    found->snippets = NULL;
}

void inbox_search(struct inbox *inbox, const struct inbox_search *search, void (*done)(void *argument, struct inbox_found *found),
                  void *argument)
{
    struct find_task *find = memory_zalloc(sizeof(*find));
    struct error error;
    find->task = (struct db_task){ .run = run_find, .done = done_find };
    find->inbox = inbox;
    find->search = *search;
    find->mesh = memory_strdup(search->mesh);
    find->done = done;
    find->argument = argument;
    find->found.rows = memory_calloc(search->limit + 1, sizeof(struct inbox_row *));
    find->found.snippets = memory_calloc(search->limit + 1, sizeof(char *));
    buffer_init(&find->match, BUFFER_UNLIMITED);
    int status = translate(search->query, &find->match, &error);
    if (status < 0)
        finish(find, status, &error);
    else
        db_read(inbox->db, &find->task);
}
