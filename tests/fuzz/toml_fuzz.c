/* TOML: a document that is accepted, printed from its tables and entries, is accepted again and the same; errors name a line and a column; so does each value by itself. */
#include "config/toml.h"
#include "fuzz.h"
#include "util/buffer.h"
#include "util/text.h"

static void print_string(const char *value, struct buffer *text)
{
    (void)buffer_append_byte(text, '"');
    for (const char *at = value; *at != '\0'; at++) {
        const unsigned char byte = (unsigned char)*at;
        if (byte < 0x20 || byte == 0x7F || byte == '"' || byte == '\\')
            (void)buffer_printf(text, "\\u%04X", byte);
        else
            (void)buffer_append_byte(text, *at);
    }
    (void)buffer_append_byte(text, '"');
}

static void print_value(const struct toml_value *value, struct buffer *text)
{
    switch (value->kind) {
    case TOML_STRING:
        print_string(value->text, text);
        break;
    case TOML_INTEGER:
        (void)buffer_printf(text, "%" PRId64, value->integer);
        break;
    case TOML_BOOLEAN:
        (void)buffer_append_text(text, value->boolean ? "true" : "false");
        break;
    case TOML_LIST:
        (void)buffer_append_byte(text, '[');
        for (size_t i = 0; i < value->item_count; i++) {
            print_string(value->items[i], text);
            (void)buffer_append_text(text, ",\n");
        }
        (void)buffer_append_byte(text, ']');
        break;
    }
}

static void print_document(const struct toml_document *document, struct buffer *text)
{
    for (size_t table = 0; table < document->table_count; table++) {
        if (table > 0) {
            (void)buffer_append_byte(text, '[');
            print_string(document->tables[table].name, text);
            if (document->tables[table].subname != NULL) {
                (void)buffer_append_byte(text, '.');
                print_string(document->tables[table].subname, text);
            }
            (void)buffer_append_text(text, "]\n");
        }
        for (size_t i = 0; i < document->entry_count; i++) {
            if (document->entries[i].table != table)
                continue;
            print_string(document->entries[i].key, text);
            (void)buffer_append_text(text, " = ");
            print_value(&document->entries[i].value, text);
            (void)buffer_append_byte(text, '\n');
        }
    }
}

static void check_same_value(const struct toml_value *a, const struct toml_value *b)
{
    REQUIRE(a->kind == b->kind && string_equal(a->text, b->text) && a->integer == b->integer && a->boolean == b->boolean);
    REQUIRE(a->item_count == b->item_count);
    for (size_t i = 0; i < a->item_count; i++)
        REQUIRE(string_equal(a->items[i], b->items[i]));
}

static void check_same(const struct toml_document *a, const struct toml_document *b)
{
    REQUIRE(a->table_count == b->table_count && a->entry_count == b->entry_count);
    for (size_t i = 0; i < a->table_count; i++)
        REQUIRE(string_equal(a->tables[i].name, b->tables[i].name) && string_equal(a->tables[i].subname, b->tables[i].subname));
    for (size_t i = 0; i < a->entry_count; i++) {
        REQUIRE(a->entries[i].table == b->entries[i].table && string_equal(a->entries[i].key, b->entries[i].key));
        check_same_value(&a->entries[i].value, &b->entries[i].value);
    }
}

/* "name:line:column: what", within the text; or "name: what" for a text that is none. */
static void check_error(const struct error *error, const char *bytes, size_t size)
{
    int line = 0, column = 0;
    size_t lines = 1;
    for (size_t i = 0; i < size; i++)
        lines += bytes[i] == '\n' ? 1 : 0;
    REQUIRE(error->code == ERROR_INVALID && string_has_prefix(error->message, "file:"));
    if (error->message[5] != ' ') {
        REQUIRE(sscanf(error->message, "file:%d:%d: ", &line, &column) == 2);
        REQUIRE(line >= 1 && (size_t)line <= lines && column >= 1 && (size_t)column <= size + 1);
    }
}

static void check_value(const char *text)
{
    struct toml_value value = { .kind = TOML_STRING }, again;
    struct error error;
    struct buffer printed;

    if (toml_parse_value(text, &value, &error) != 0) {
        REQUIRE(value.text == NULL && value.items == NULL && error.code == ERROR_INVALID);
        return;
    }
    buffer_init(&printed, BUFFER_UNLIMITED);
    print_value(&value, &printed);
    REQUIRE(toml_parse_value(printed.data, &again, &error) == 0);
    check_same_value(&value, &again);
    toml_value_release(&again);
    toml_value_release(&value);
    buffer_release(&printed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    struct toml_document document = { .tables = NULL }, again;
    struct error error = { .code = ERROR_NONE };
    struct buffer text;
    char *bytes = memory_dup(data, size);

    buffer_init(&text, BUFFER_UNLIMITED);
    if (toml_parse("file", bytes, size, &document, &error) == 0) {
        print_document(&document, &text);
        REQUIRE(toml_parse("file", text.data, text.length, &again, &error) == 0);
        check_same(&document, &again);
        toml_document_release(&again);
    } else {
        REQUIRE(document.tables == NULL && document.entries == NULL);
        check_error(&error, bytes, size);
    }
    toml_document_release(&document);
    buffer_release(&text);
    free(bytes);

    char *line = fuzz_take_string(&input, '\0');
    if (utf8_is_valid(line, strlen(line)))
        check_value(line);
    free(line);
    return 0;
}
