/* Typed reading and putting of fields. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "json/json.h"

static const char SAMPLE[] = "{\"s\":\"text\",\"nul\":\"a\\u0000b\",\"i\":7,\"f\":1.5,\"big\":1e300,\"b\":true,\"n\":null,\"o\":{\"x\":1},"
                             "\"a\":[1],\"max\":9007199254740992,\"over\":9007199254740994}";

static json_t *sample(void)
{
    json_t *value = NULL;
    assert_int_equal(json_parse_strict(SAMPLE, sizeof(SAMPLE) - 1, &value, NULL), 0);
    return value;
}

static void fields_of_the_right_type_are_read(void **state)
{
    (void)state;
    json_t *object = sample();
    const char *string = NULL;
    struct text text = { NULL, 0 };
    int64_t integer = 0;
    bool boolean = false;
    const json_t *value = NULL;
    assert_int_equal(json_read_string(object, "s", JSON_REQUIRED, &string, NULL), 0);
    assert_string_equal(string, "text");
    assert_int_equal(json_read_text(object, "nul", JSON_REQUIRED, &text, NULL), 0);
    assert_int_equal(text.length, 3);
    assert_int_equal(json_read_integer(object, "i", JSON_REQUIRED, 0, 10, &integer, NULL), 0);
    assert_int_equal(integer, 7);
    assert_int_equal(json_read_integer(object, "max", JSON_REQUIRED, 0, INT64_MAX, &integer, NULL), 0);
    assert_true(integer == INT64_C(9007199254740992));
    assert_int_equal(json_read_bool(object, "b", JSON_REQUIRED, &boolean, NULL), 0);
    assert_true(boolean);
    assert_int_equal(json_read_object(object, "o", JSON_REQUIRED, &value, NULL), 0);
    assert_int_equal(json_object_size(value), 1);
    assert_int_equal(json_read_array(object, "a", JSON_REQUIRED, &value, NULL), 0);
    assert_int_equal(json_array_size(value), 1);
    json_decref(object);
}

static void an_absent_or_null_field_is_missing_or_left_alone(void **state)
{
    (void)state;
    json_t *object = sample();
    static const char *const NAMES[] = { "absent", "n" };
    for (size_t index = 0; index < ARRAY_LENGTH(NAMES); index++) {
        const char *string = "untouched";
        int64_t integer = -5;
        struct error error = { 0 };
        assert_int_equal(json_read_string(object, NAMES[index], JSON_OPTIONAL, &string, &error), 0);
        assert_string_equal(string, "untouched");
        assert_int_equal(json_read_integer(object, NAMES[index], JSON_OPTIONAL, 0, 1, &integer, &error), 0);
        assert_int_equal(integer, -5);
        assert_int_equal(json_read_string(object, NAMES[index], JSON_REQUIRED, &string, &error), -(int)ERROR_INVALID);
        assert_string_equal(string, "untouched");
        assert_non_null(strstr(error.message, NAMES[index]));
        assert_non_null(strstr(error.message, "is missing"));
    }
    json_decref(object);
}

static void a_field_of_another_type_is_named(void **state)
{
    (void)state;
    json_t *object = sample();
    const char *string = NULL;
    struct text text = { NULL, 0 };
    int64_t integer = 0;
    bool boolean = false;
    const json_t *value = NULL;
    struct error error = { 0 };
    assert_int_equal(json_read_string(object, "i", JSON_OPTIONAL, &string, &error), -(int)ERROR_INVALID);
    assert_string_equal(error.message, "field 'i' must be a string");
    assert_int_equal(json_read_string(object, "nul", JSON_OPTIONAL, &string, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_text(object, "a", JSON_OPTIONAL, &text, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_integer(object, "s", JSON_OPTIONAL, 0, 9, &integer, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_integer(object, "f", JSON_OPTIONAL, 0, 9, &integer, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_integer(object, "big", JSON_OPTIONAL, 0, 9, &integer, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_integer(object, "over", JSON_OPTIONAL, 0, INT64_MAX, &integer, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_integer(object, "i", JSON_OPTIONAL, 8, 9, &integer, &error), -(int)ERROR_INVALID);
    assert_string_equal(error.message, "field 'i' must be from 8 to 9");
    assert_int_equal(json_read_bool(object, "i", JSON_OPTIONAL, &boolean, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_object(object, "a", JSON_OPTIONAL, &value, &error), -(int)ERROR_INVALID);
    assert_int_equal(json_read_array(object, "o", JSON_OPTIONAL, &value, &error), -(int)ERROR_INVALID);
    json_decref(object);
}

static void what_is_put_prints_in_order(void **state)
{
    (void)state;
    json_t *object = json_new_object();
    json_put_string(object, "z", "text");
    json_put_string(object, "none", NULL);
    json_put_text(object, "nul", TEXT("a\0b"));
    json_put_text(object, "no_text", (struct text){ NULL, 0 });
    json_put_integer(object, "i", -3);
    json_put_bool(object, "b", false);
    json_put_null(object, "n");
    json_put_time(object, "t", INT64_C(1795437296789));
    json_put_time(object, "no_time", -1);
    json_put(object, "a", json_new_array());
    json_put_string(object, "bad", "x\xFFy");
    char *text = json_to_string(object, NULL);
    assert_string_equal(text, "{\"z\":\"text\",\"none\":null,\"nul\":\"a\\u0000b\",\"no_text\":null,\"i\":-3,\"b\":false,\"n\":null,"
                              "\"t\":\"2026-11-23T12:34:56.789Z\",\"no_time\":null,\"a\":[],\"bad\":\"x\xEF\xBF\xBDy\"}");
    free(text);
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_of_the_right_type_are_read),
        cmocka_unit_test(an_absent_or_null_field_is_missing_or_left_alone),
        cmocka_unit_test(a_field_of_another_type_is_named),
        cmocka_unit_test(what_is_put_prints_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
