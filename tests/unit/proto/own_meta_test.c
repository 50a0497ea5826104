/* claudemesh's own keys in meta: what they say, and what nobody gets by spelling them wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above first */
#include <cmocka.h>

#include "json/json.h"
#include "proto/own_meta.h"
#include "util/text.h"

static json_t *parse(const char *text)
{
    json_t *value;
    struct error error;
    if (json_parse_strict(text, strlen(text), &value, &error) != 0)
        fail_msg("%s", error.message);
    return value;
}

static void a_depth_is_a_whole_number_from_one_and_anything_else_counts_as_one(void **state)
{
    (void)state;
    static const struct {
        const char *meta;
        int64_t depth;
    } CASES[] = {
        { "{}", 0 },
        { "{\"depth\":3}", 0 },
        { "{\"claudemesh.depth\":1}", 1 },
        { "{\"claudemesh.depth\":7}", 7 },
        { "{\"claudemesh.depth\":0}", 1 },
        { "{\"claudemesh.depth\":-1}", 1 },
        { "{\"claudemesh.depth\":1.5}", 1 },
        { "{\"claudemesh.depth\":null}", 1 },
        { "{\"claudemesh.depth\":\"0\"}", 1 },
        { "{\"claudemesh.depth\":1e300}", 1 },
    };
    assert_int_equal(meta_depth(NULL), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        json_t *meta = parse(CASES[i].meta);
        assert_int_equal(meta_depth(meta), CASES[i].depth);
        json_decref(meta);
    }
}

static void a_depth_is_set_in_canonical_form_or_not_at_all(void **state)
{
    (void)state;
    struct buffer meta;
    struct error error;
    buffer_init(&meta, 64);
    assert_int_equal(meta_set_depth(&meta, 1, &error), 0);
    assert_string_equal(meta.data, "{\"claudemesh.depth\":1}");
    assert_int_equal(meta_set_depth(&meta, 2, &error), 0);
    assert_string_equal(meta.data, "{\"claudemesh.depth\":2}");
    buffer_reset(&meta);
    assert_int_equal(buffer_append_text(&meta, "{\"a\":1,\"z\":[]}"), 0);
    assert_int_equal(meta_set_depth(&meta, 1, &error), 0);
    assert_string_equal(meta.data, "{\"a\":1,\"claudemesh.depth\":1,\"z\":[]}");
    buffer_reset(&meta);
    static const char LONG[] = "{\"a\":\"0123456789012345678901234567890123456789012345678\"}";
    assert_int_equal(buffer_append_text(&meta, LONG), 0);
    assert_int_equal(meta_set_depth(&meta, 1, &error), -ERROR_TOO_LARGE);
    assert_string_equal(meta.data, LONG);
    buffer_release(&meta);
}

static void a_file_is_said_with_all_that_makes_one(void **state)
{
    (void)state;
#define DIGITS "abababababababababababababababababababababababababababababababab"
    static const struct {
        const char *meta;
        bool is_file;
    } CASES[] = {
        { "{\"claudemesh.file\":{\"id\":\"f\",\"name\":\"n\",\"size\":3,\"sha256\":\"" DIGITS "\",\"key\":\"k\"}}", true },
        { "{\"file\":{\"id\":\"f\",\"name\":\"n\",\"size\":3,\"sha256\":\"" DIGITS "\"}}", false },
        { "{\"claudemesh.file\":\"f\"}", false },
        { "{\"claudemesh.file\":{\"id\":\"\",\"name\":\"n\",\"size\":3,\"sha256\":\"" DIGITS "\"}}", false },
        { "{\"claudemesh.file\":{\"id\":\"f\",\"name\":\"\",\"size\":3,\"sha256\":\"" DIGITS "\"}}", false },
        { "{\"claudemesh.file\":{\"id\":\"f\",\"name\":\"n\",\"size\":-3,\"sha256\":\"" DIGITS "\"}}", false },
        { "{\"claudemesh.file\":{\"id\":\"f\",\"name\":\"n\",\"size\":0.5,\"sha256\":\"" DIGITS "\"}}", false },
        { "{\"claudemesh.file\":{\"id\":\"f\",\"name\":\"n\",\"size\":3,\"sha256\":\"ab\"}}", false },
        { "{\"claudemesh.file\":{\"id\":\"f\",\"name\":\"n\",\"size\":3}}", false },
    };
    struct meta_file file;
    assert_false(meta_read_file(NULL, &file));
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        json_t *meta = parse(CASES[i].meta);
        assert_int_equal(meta_read_file(meta, &file), CASES[i].is_file);
        if (CASES[i].is_file) {
            assert_string_equal(file.id, "f");
            assert_string_equal(file.name, "n");
            assert_string_equal(file.sha256, DIGITS);
            assert_int_equal(file.size, 3);
        }
        json_decref(meta);
    }
}

static void own_keys_are_those_with_the_prefix(void **state)
{
    (void)state;
    json_t *meta = parse("{\"a\":1,\"claudemesh\":1,\"Claudemesh.depth\":1,\"x\":{\"claudemesh.depth\":1}}");
    assert_null(meta_own_key(meta));
    assert_null(meta_own_key(NULL));
    json_put_integer(meta, "claudemesh.anything", 1);
    assert_string_equal(meta_own_key(meta), "claudemesh.anything");
    json_decref(meta);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_depth_is_a_whole_number_from_one_and_anything_else_counts_as_one),
        cmocka_unit_test(a_depth_is_set_in_canonical_form_or_not_at_all),
        cmocka_unit_test(a_file_is_said_with_all_that_makes_one),
        cmocka_unit_test(own_keys_are_those_with_the_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
