/* Strict parsing: the corpus of JSONTestSuite, and where 20-ipc is stricter than it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>

#include "json/json.h"
#include "util/file.h"
#include "util/memory.h"

static int parse(const char *bytes, size_t length)
{
    json_t *value = NULL;
    struct error error = { 0 };
    int result = json_parse_strict(bytes, length, &value, &error);
    assert_true(result == 0 || (result == -(int)ERROR_INVALID && error.message[0] != '\0' && value == NULL));
    json_decref(value);
    return result;
}

static int parse_text(const char *text)
{
    return parse(text, strlen(text));
}

static void one_value_of_any_kind_parses(void **state)
{
    (void)state;
    static const char *const GOOD[] = { "1", " true\n", "null", "\"a\"", "[]", "{}", "-0", "1e308", "[1,2,{\"a\":null}]" };
    for (size_t index = 0; index < ARRAY_LENGTH(GOOD); index++) {
        assert_int_equal(parse_text(GOOD[index]), 0);
    }
}

static void what_the_specification_refuses_is_refused(void **state)
{
    (void)state;
    static const char *const BAD[] = {
        "",
        " ",
        "1 2",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}", /* the same key, spelled otherwise */
        "{\"a\\u0000b\":1}",
        "1e400",
        "-1e400",
        "[1e999999999999999999999]",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\xED\xA0\x80\"",
        "\"\xC0\x80\"",
        "\"\xFF\"",
        "\xEF\xBB\xBF{}",
        "NaN",
        "[1,]",
        "01",
        "'a'",
        "\"a\nb\"",
    };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        if (parse_text(BAD[index]) == 0) {
            fail_msg("parsed: %s", BAD[index]);
        }
    }
    assert_int_not_equal(parse("1\0", 2), 0);
    assert_int_not_equal(parse("\"a\0b\"", 5), 0);
    assert_int_not_equal(parse(NULL, 0), 0);
}

static void escaped_nul_in_a_value_is_kept(void **state)
{
    (void)state;
    json_t *value = NULL;
    assert_int_equal(json_parse_strict("\"a\\u0000b\"", 10, &value, NULL), 0);
    assert_int_equal(json_string_length(value), 3);
    assert_memory_equal(json_string_value(value), "a\0b", 3);
    json_decref(value);
}

static void nothing_after_the_length_is_looked_at(void **state)
{
    (void)state;
    assert_int_equal(parse("12xyz", 2), 0);
    assert_int_not_equal(parse("[1]", 2), 0);
}

static int parse_nested(size_t levels, const char *inside)
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    for (size_t level = 0; level < levels; level++) {
        assert_int_equal(buffer_append_text(&text, level % 2 == 0 ? "[" : "{\"k\":"), 0);
    }
    assert_int_equal(buffer_append_text(&text, inside), 0);
    for (size_t level = levels; level > 0; level--) {
        assert_int_equal(buffer_append_text(&text, (level - 1) % 2 == 0 ? "]" : "}"), 0);
    }
    int result = parse(text.data, text.length);
    buffer_release(&text);
    return result;
}

static void sixty_four_levels_pass_and_sixty_five_do_not(void **state)
{
    (void)state;
    assert_int_equal(parse_nested(63, "1"), 0);
    assert_int_equal(parse_nested(64, "1"), 0);
    assert_int_not_equal(parse_nested(65, "1"), 0);
    /* Brackets in strings are no levels, whatever escapes stand before them. */
    assert_int_equal(parse_nested(64, "\"[[[[{{{{\\\"[[[\\\\\""), 0);
    assert_int_equal(parse_nested(11, "[],[],[],[],{},{}"), 0);
}

static void an_error_says_where_and_does_not_show_what_stands_there(void **state)
{
    (void)state;
    json_t *value = NULL;
    struct error error = { 0 };
    const char *text = "{\n \"secretKey\" \"0123456789abcdef\"}";
    assert_int_equal(json_parse_strict(text, strlen(text), &value, &error), -(int)ERROR_INVALID);
    assert_non_null(strstr(error.message, "line 2"));
    assert_null(strstr(error.message, "0123456789abcdef"));
}

/* ---- the corpus ------------------------------------------------------------------------------------------------- */

/* 20-ipc wins over the suite: duplicate keys and a NUL in a key. */
static bool is_stricter_here(const char *name)
{
    static const char *const STRICTER[] = {
        "y_object_duplicated_key.json",
        "y_object_duplicated_key_and_value.json",
        "y_object_escaped_null_in_key.json",
    };
    for (size_t index = 0; index < ARRAY_LENGTH(STRICTER); index++) {
        if (strcmp(name, STRICTER[index]) == 0) {
            return true;
        }
    }
    return false;
}

static void check_case(const char *directory, const char *name)
{
    char *path = path_join(directory, name);
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(path, &bytes, NULL), 0);
    bool parsed = parse(bytes.data, bytes.length) == 0;
    if (name[0] == 'y' && parsed == is_stricter_here(name)) {
        fail_msg("%s: %s", name, parsed ? "parsed" : "refused");
    }
    if (name[0] == 'n' && parsed) {
        fail_msg("%s: parsed", name);
    }
    buffer_release(&bytes);
    free(path);
}

static void every_case_of_the_suite_is_decided_right(void **state)
{
    (void)state;
    const char *root = getenv("CLAUDEMESH_SOURCE_ROOT");
    char *directory = path_join(root == NULL ? "." : root, "../shared/vectors/json");
    DIR *entries = opendir(directory);
    if (entries == NULL) {
        printf("SKIPPED vectors/json\n");
        free(directory);
        skip();
    }
    size_t count = 0;
    for (struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (entry->d_name[0] != '.') {
            check_case(directory, entry->d_name);
            count++;
        }
    }
    closedir(entries);
    free(directory);
    assert_true(count >= 318);
}

/* ---- damage ----------------------------------------------------------------------------------------------------- */

static void damaged_text_never_crashes_the_parser(void **state)
{
    (void)state;
    static const char SEED[] =
        "{\"a\":[1,-2.5e+10,true,false,null,\"\\u00e9\\ud83d\\ude00\\n\"],\"\xC3\xA9\":{\"b\":{\"c\":[[[]]]}},\"z\":\"\"}";
    char text[sizeof(SEED)];
    uint32_t random = 12345;
    for (int round = 0; round < 20000; round++) {
        memcpy(text, SEED, sizeof(SEED));
        for (int change = 0; change < 3; change++) {
            random = random * 1664525u + 1013904223u;
            text[(random >> 8) % (sizeof(SEED) - 1)] = (char)(random >> 24);
        }
        json_t *value = NULL;
        if (json_parse_strict(text, sizeof(SEED) - 1, &value, NULL) == 0) {
            /* What parses prints, and what is printed parses to the same. */
            size_t length = 0;
            char *printed = json_to_string(value, &length);
            json_t *again = NULL;
            assert_int_equal(json_parse_strict(printed, length, &again, NULL), 0);
            assert_true(json_equal(value, again));
            json_decref(again);
            free(printed);
        }
        json_decref(value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_value_of_any_kind_parses),
        cmocka_unit_test(what_the_specification_refuses_is_refused),
        cmocka_unit_test(escaped_nul_in_a_value_is_kept),
        cmocka_unit_test(nothing_after_the_length_is_looked_at),
        cmocka_unit_test(sixty_four_levels_pass_and_sixty_five_do_not),
        cmocka_unit_test(an_error_says_where_and_does_not_show_what_stands_there),
        cmocka_unit_test(every_case_of_the_suite_is_decided_right),
        cmocka_unit_test(damaged_text_never_crashes_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
