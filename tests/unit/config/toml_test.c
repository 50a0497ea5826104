/* The subset of TOML: what is read, what is refused and where, and that damage never crashes it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "config/toml.h"
#include "util/memory.h"
#include "util/text.h"

static int parse(const char *text, struct toml_document *document, struct error *error)
{
    return toml_parse("f", text, strlen(text), document, error);
}

static const struct toml_entry *entry_of(const struct toml_document *document, const char *table, const char *subtable, const char *key)
{
    for (size_t index = 0; index < document->entry_count; index++) {
        const struct toml_entry *entry = &document->entries[index];
        const struct toml_table *of = &document->tables[entry->table];
        if (strcmp(of->name, table) == 0 && string_equal(of->subname, subtable) && strcmp(entry->key, key) == 0) {
            return entry;
        }
    }
    fail_msg("no %s.%s", table, key);
    return NULL;
}

static void a_document_is_read_with_its_values(void **state)
{
    (void)state;
    static const char TEXT_OF_ALL[] = "# first\n"
                                      "root = 1\r\n"
                                      "\n"
                                      "[daemon]   # a comment\n"
                                      "  display_name = \"a\\\"b\\\\\\t\\u00e9\\U0001F600\" # b\n"
                                      "literal='C:\\no\\escape'\n"
                                      "empty = \"\"\n"
                                      "tcp-port\t=\t47_823\n"
                                      "minus = -5\n"
                                      "plus = +0\n"
                                      "yes = true\n"
                                      "no = false\n"
                                      "list = [ \"a\", # one\n"
                                      "  'b',\n"
                                      "\n"
                                      "]\n"
                                      "none = []\n"
                                      "[ mesh . \"a.b\" ]\n"
                                      "\"quoted key\" = \"x#y\"\n"
                                      "[mesh.c]\n"
                                      "last = \"no newline\"";
    struct toml_document document;
    assert_int_equal(parse(TEXT_OF_ALL, &document, NULL), 0);
    assert_int_equal(entry_of(&document, "", NULL, "root")->value.integer, 1);
    assert_string_equal(entry_of(&document, "daemon", NULL, "display_name")->value.text, "a\"b\\\t\xC3\xA9\xF0\x9F\x98\x80");
    assert_string_equal(entry_of(&document, "daemon", NULL, "literal")->value.text, "C:\\no\\escape");
    assert_string_equal(entry_of(&document, "daemon", NULL, "empty")->value.text, "");
    assert_int_equal(entry_of(&document, "daemon", NULL, "tcp-port")->value.integer, 47823);
    assert_int_equal(entry_of(&document, "daemon", NULL, "minus")->value.integer, -5);
    assert_int_equal(entry_of(&document, "daemon", NULL, "plus")->value.integer, 0);
    assert_true(entry_of(&document, "daemon", NULL, "yes")->value.boolean);
    assert_int_equal(entry_of(&document, "daemon", NULL, "no")->value.kind, TOML_BOOLEAN);
    const struct toml_entry *list = entry_of(&document, "daemon", NULL, "list");
    assert_int_equal(list->value.item_count, 2);
    assert_string_equal(list->value.items[1], "b");
    assert_int_equal(entry_of(&document, "daemon", NULL, "none")->value.item_count, 0);
    assert_int_equal(entry_of(&document, "daemon", NULL, "none")->line, 17);
    assert_string_equal(entry_of(&document, "mesh", "a.b", "quoted key")->value.text, "x#y");
    assert_string_equal(entry_of(&document, "mesh", "c", "last")->value.text, "no newline");
    toml_document_release(&document);
    toml_document_release(NULL);
    assert_int_equal(parse("", &document, NULL), 0);
    assert_int_equal(document.entry_count, 0);
    toml_document_release(&document);
}

static void mistakes_are_refused_at_their_line_and_column(void **state)
{
    (void)state;
    static const struct {
        const char *text, *where;
    } CASES[] = {
        { "a", "f:1:2:" },
        { "a =", "f:1:4:" },
        { "a = \n", "f:1:5:" },
        { "a = b", "f:1:5:" },
        { "a = 1 2", "f:1:7:" },
        { "a = 1 = 2", "f:1:7:" },
        { "= 1", "f:1:1:" },
        { "a.b = 1", "f:1:2:" },
        { "\xC3\xA9 = 1", "f:1:1:" },
        { "\"\xC3\xA9\xC3\xA9\" = ?", "f:1:8:" }, /* characters, not bytes */
        { "x = 1\n\ny = \"a", "f:3:7:" },
        { "a = 'b\n'", "f:1:7:" },
        { "a = \"\"\"b\"\"\"", "f:1:5:" },
        { "a = '''b'''", "f:1:5:" },
        { "a = \"\\x41\"", "f:1:7:" },
        { "a = \"\\ud800\"", "f:1:12:" },
        { "a = \"\\u0000\"", "f:1:12:" },
        { "a = \"\\u12\"", "f:1:10:" },
        { "a = \"\\U00110000\"", "f:1:16:" },
        { "a = \"b\x01\"", "f:1:7:" },
        { "a = 'b\x7F'", "f:1:7:" },
        { "# \x01", "f:1:3:" },
        { "a = 1\rb = 2", "f:1:6:" },
        { "a = 01", "f:1:5:" },
        { "a = -01", "f:1:5:" },
        { "a = 0x10", "f:1:5:" },
        { "a = 1_", "f:1:5:" },
        { "a = _1", "f:1:5:" },
        { "a = 1__0", "f:1:5:" },
        { "a = 1.5", "f:1:5:" },
        { "a = 1e3", "f:1:5:" },
        { "a = +-1", "f:1:5:" },
        { "a = 9223372036854775808", "f:1:5:" },
        { "a = 11111111111111111111111111111111111111111111111", "f:1:5:" },
        { "a = True", "f:1:5:" },
        { "a = inf", "f:1:5:" },
        { "a = 2026-01-01", "f:1:5:" },
        { "a = {b = 1}", "f:1:5:" },
        { "a = [1, 2]", "f:1:6:" },
        { "a = [\"b\", 1]", "f:1:11:" },
        { "a = [[\"b\"]]", "f:1:6:" },
        { "a = [\"b\" \"c\"]", "f:1:10:" },
        { "a = [,]", "f:1:6:" },
        { "a = [\"b\"", "f:1:9:" },
        { "a = [\n\"b\",\n", "f:3:1:" },
        { "a = 1\na = 2", "f:2:1:" },
        { "a = 1\n\"a\" = 2", "f:2:1:" },
        { "[a]\n[a]", "f:2:1:" },
        { "[a.b]\n[a.\"b\"]", "f:2:1:" },
        { "[a]\nb = 1\n[a.b]", "f:3:1:" },
        { "a = 1\n[a]", "f:2:1:" },
        { "a = 1\n[a.b]", "f:2:1:" },
        { "[a.b]\nc = 1\n[a]\nb = 1", "f:4:1:" },
        { "[]", "f:1:2:" },
        { "[\"\"]", "f:1:1:" },
        { "[a", "f:1:3:" },
        { "[a.]", "f:1:4:" },
        { "[a.b.c]", "f:1:5:" },
        { "[[a]]", "f:1:2:" },
        { "[a] b = 1", "f:1:5:" },
        { "a = \xFF", "f:" },
        { "\xEF\xBB\xBF"
          "a = 1",
          "f:1:1:" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct toml_document document;
        struct error error = { 0 };
        if (parse(CASES[index].text, &document, &error) != -(int)ERROR_INVALID) {
            fail_msg("read: %s", CASES[index].text);
        }
        if (!string_has_prefix(error.message, CASES[index].where)) {
            fail_msg("%s: expected %s, got %s", CASES[index].text, CASES[index].where, error.message);
        }
    }
    struct toml_document document;
    assert_int_equal(toml_parse("f", "a = 1\0", 6, &document, NULL), -(int)ERROR_INVALID);
}

static void a_table_may_follow_its_subtable(void **state)
{
    (void)state;
    struct toml_document document;
    assert_int_equal(parse("[a.b]\nx = 1\n[a]\nx = 2\n[c]\nx = 3", &document, NULL), 0);
    assert_int_equal(entry_of(&document, "a", "b", "x")->value.integer, 1);
    assert_int_equal(entry_of(&document, "a", NULL, "x")->value.integer, 2);
    toml_document_release(&document);
}

static void a_single_value_is_read_alone(void **state)
{
    (void)state;
    struct toml_value value;
    assert_int_equal(toml_parse_value("[\"a\"]", &value, NULL), 0);
    assert_int_equal(value.item_count, 1);
    toml_value_release(&value);
    toml_value_release(NULL);
    assert_int_not_equal(toml_parse_value("1 ", &value, NULL), 0);
    assert_int_not_equal(toml_parse_value("[\"a\"] x", &value, NULL), 0);
    assert_int_not_equal(toml_parse_value("", &value, NULL), 0);
}

static void damaged_documents_never_crash_the_parser(void **state)
{
    (void)state;
    static const char SEED[] = "[a]\nb = \"c\\u00e9\\n\" # d\ne = [\"f\",\n 'g']\n[mesh.\"h\"]\ni = 1_0\nj = true\n";
    uint32_t random = 99;
    size_t good = 0;
    for (int round = 0; round < 30000; round++) {
        char text[sizeof(SEED)];
        size_t length = sizeof(SEED) - 1;
        memcpy(text, SEED, sizeof(SEED));
        for (int change = 0; change < 1 + round % 3; change++) {
            static const char BYTES[] = "[]\"'#=.,\\\n\r\t ab01_-+\x01\xC3\xA9\xFF";
            random = random * 1664525u + 1013904223u;
            text[(random >> 8) % length] = BYTES[(random >> 20) % (sizeof(BYTES) - 1)];
        }
        random = random * 1664525u + 1013904223u;
        length -= (random >> 9) % 8;
        char *exact = memory_dup(text, length); /* so that a read past the end is seen */
        struct toml_document document;
        if (toml_parse("f", exact, length, &document, NULL) == 0) {
            good++;
            toml_document_release(&document);
        }
        free(exact);
    }
    assert_true(good > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_is_read_with_its_values),       cmocka_unit_test(mistakes_are_refused_at_their_line_and_column),
        cmocka_unit_test(a_table_may_follow_its_subtable),          cmocka_unit_test(a_single_value_is_read_alone),
        cmocka_unit_test(damaged_documents_never_crash_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
