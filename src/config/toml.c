/* Owns TOML documents: tables, keys, and that none stands twice. Values are scanned in toml_value.c. */
#include "config/toml.h"

#include "config/toml_scanner.h"
#include "util/memory.h"
#include "util/text.h"

struct parser {
    struct toml_scanner scanner;
    struct toml_document document;
    size_t table; /* where keys go now */
};

static bool is_bare(char byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_' || byte == '-';
}

/* A bare key or one in quotes. */
static int scan_key(struct toml_scanner *scanner, char **ret_key)
{
    char byte = toml_peek(scanner);
    if (byte == '"' || byte == '\'') {
        return toml_scan_string(scanner, ret_key);
    }
    const char *start = scanner->position;
    while (is_bare(toml_peek(scanner))) {
        scanner->position++;
    }
    if (scanner->position == start) {
        return toml_fail(scanner, "expected a key");
    }
    *ret_key = memory_strndup(start, (size_t)(scanner->position - start));
    return 0;
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static size_t find_table(const struct toml_document *document, const char *name, const char *subname)
{
    for (size_t index = 0; index < document->table_count; index++) {
        const struct toml_table *table = &document->tables[index];
        if (strcmp(table->name, name) == 0 && string_equal(table->subname, subname)) {
            return index;
        }
    }
    return document->table_count;
}

static size_t add_table(struct toml_document *document, const struct toml_table *table)
{
    document->tables = memory_realloc(document->tables, (document->table_count + 1) * sizeof(*document->tables));
    document->tables[document->table_count] = *table;
    return document->table_count++;
}

static const struct toml_entry *find_entry(const struct toml_document *document, size_t table, const char *key)
{
    for (size_t index = 0; index < document->entry_count; index++) {
        if (document->entries[index].table == table && strcmp(document->entries[index].key, key) == 0) {
            return &document->entries[index];
        }
    }
    return NULL;
}

/* A key and a table of one name would be two values for it. */
static bool clashes_with_key(const struct toml_document *document, const struct toml_table *table)
{
    if (find_entry(document, 0, table->name) != NULL) {
        return true;
    }
    size_t parent = find_table(document, table->name, NULL);
    return table->subname != NULL && parent < document->table_count && find_entry(document, parent, table->subname) != NULL;
}

/* Behind the opening bracket: one or two keys with a dot between. */
static int scan_table_name(struct toml_scanner *scanner, struct toml_table *table)
{
    toml_skip_blanks(scanner);
    int result = scan_key(scanner, &table->name);
    toml_skip_blanks(scanner);
    if (result == 0 && toml_peek(scanner) == '.') {
        scanner->position++;
        toml_skip_blanks(scanner);
        result = scan_key(scanner, &table->subname);
        toml_skip_blanks(scanner);
    }
    if (result == 0 && toml_peek(scanner) == '.') {
        result = toml_fail(scanner, "tables are at most two levels deep");
    } else if (result == 0 && toml_peek(scanner) != ']') {
        result = toml_fail(scanner, "expected ']'");
    }
    return result;
}

static int parse_table(struct parser *parser)
{
    struct toml_scanner *scanner = &parser->scanner;
    struct toml_scanner start = *scanner;
    struct toml_table table = { .line = scanner->line, .column = toml_column(scanner) };
    scanner->position++;
    int result = 0;
    if (toml_peek(scanner) == '[') {
        result = toml_fail(scanner, "arrays of tables are not supported");
    } else {
        result = scan_table_name(scanner, &table);
    }
    if (result == 0 && table.name[0] == '\0') {
        result = toml_fail(&start, "a table without a name");
    }
    if (result == 0 && find_table(&parser->document, table.name, table.subname) < parser->document.table_count) {
        result = toml_fail(&start, "this table stands here a second time");
    }
    if (result == 0 && clashes_with_key(&parser->document, &table)) {
        result = toml_fail(&start, "this table's name is a key already");
    }
    if (result != 0) {
        free(table.name);
        free(table.subname);
        return result;
    }
    scanner->position++;
    parser->table = add_table(&parser->document, &table);
    return toml_end_line(scanner);
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static bool clashes_with_table(const struct parser *parser, const char *key)
{
    const struct toml_document *document = &parser->document;
    const struct toml_table *table = &document->tables[parser->table];
    if (parser->table != 0) {
        return table->subname == NULL && find_table(document, table->name, key) < document->table_count;
    }
    return find_table(document, key, NULL) < document->table_count;
}

/* Behind the key. */
static int scan_assignment(struct toml_scanner *scanner, struct toml_value *ret_value)
{
    toml_skip_blanks(scanner);
    if (toml_peek(scanner) == '.') {
        return toml_fail(scanner, "keys with dots are not supported; use a [table]");
    }
    if (toml_peek(scanner) != '=') {
        return toml_fail(scanner, "expected '='");
    }
    scanner->position++;
    toml_skip_blanks(scanner);
    int result = toml_scan_value(scanner, ret_value);
    if (result == 0) {
        result = toml_end_line(scanner);
    }
    return result;
}

static int parse_key(struct parser *parser)
{
    struct toml_scanner start = parser->scanner;
    struct toml_entry entry = { .table = parser->table, .line = start.line, .column = toml_column(&start) };
    int result = scan_key(&parser->scanner, &entry.key);
    if (result == 0 && find_entry(&parser->document, parser->table, entry.key) != NULL) {
        result = toml_fail(&start, "'%s' stands here a second time", entry.key);
    }
    if (result == 0 && clashes_with_table(parser, entry.key)) {
        result = toml_fail(&start, "'%s' is a table already", entry.key);
    }
    if (result == 0) {
        result = scan_assignment(&parser->scanner, &entry.value);
    }
    if (result != 0) {
        free(entry.key);
        toml_value_release(&entry.value);
        return result;
    }
    struct toml_document *document = &parser->document;
    document->entries = memory_realloc(document->entries, (document->entry_count + 1) * sizeof(*document->entries));
    document->entries[document->entry_count++] = entry;
    return 0;
}

/* ---- documents -------------------------------------------------------------------------------------------------- */

static int check_encoding(struct toml_scanner *scanner)
{
    size_t length = (size_t)(scanner->end - scanner->position);
    if (length > 0 && memchr(scanner->position, '\0', length) != NULL) {
        return error_set(scanner->error, ERROR_INVALID, "%s: a NUL byte", scanner->name);
    }
    if (!utf8_is_valid(scanner->position, length)) {
        return error_set(scanner->error, ERROR_INVALID, "%s: not UTF-8", scanner->name);
    }
    return 0;
}

int toml_parse(const char *name, const char *bytes, size_t length, struct toml_document *ret_document, struct error *error)
{
    struct parser parser = { .table = 0 };
    toml_scanner_init(&parser.scanner, name, bytes, length, error);
    int result = check_encoding(&parser.scanner);
    struct toml_table nameless = { .name = memory_strdup(""), .line = 1, .column = 1 };
    (void)add_table(&parser.document, &nameless);
    while (result == 0 && parser.scanner.position < parser.scanner.end) {
        toml_skip_blanks(&parser.scanner);
        switch (toml_peek(&parser.scanner)) {
        case '\0':
        case '#':
        case '\n':
        case '\r':
            result = toml_end_line(&parser.scanner);
            break;
        case '[':
            result = parse_table(&parser);
            break;
        default:
            result = parse_key(&parser);
            break;
        }
    }
    if (result != 0) {
        toml_document_release(&parser.document);
        return result;
    }
    *ret_document = parser.document;
    return 0;
}

void toml_document_release(struct toml_document *document)
{
    if (document == NULL) {
        return;
    }
    for (size_t index = 0; index < document->table_count; index++) {
        free(document->tables[index].name);
        free(document->tables[index].subname);
    }
    for (size_t index = 0; index < document->entry_count; index++) {
        free(document->entries[index].key);
        toml_value_release(&document->entries[index].value);
    }
    free(document->tables);
    free(document->entries);
    *document = (struct toml_document){ .tables = NULL };
}
