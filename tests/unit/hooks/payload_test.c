/* What a hook reads (60-hooks, The contract): redacted paths are gone, wherever they hide; 256 KiB at most, and then it says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "hooks/payload.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static json_t *parse(const char *text, size_t length)
{
    struct error error = { .message = "" };
    json_t *value = NULL;
    if (json_parse_strict(text, length, &value, &error) != 0)
        fail_msg("%s", error.message);
    return value;
}

static void expect(const char *event, const char *path, const char *expected)
{
    char *paths[] = { memory_strdup(path) };
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    json_t *value = parse(event, strlen(event));
    char *before = json_to_string(value, NULL);
    hook_payload_print(value, paths, 1, 4096, &text);
    assert_string_equal(text.data, expected);
    char *after = json_to_string(value, NULL);
    assert_string_equal(before, after); /* the event itself is somebody else's */
    free(before);
    free(after);
    free(paths[0]);
    json_decref(value);
    buffer_release(&text);
}

static void test_redacted_paths_are_removed(void **state)
{
    (void)state;
    expect("{\"meta\":{\"api_key\":\"k\",\"a\":1}}", "meta.api_key", "{\"meta\":{\"a\":1}}");
    expect("{\"meta\":{\"a\":1}}", "meta.api_key", "{\"meta\":{\"a\":1}}");
    expect("{\"meta\":{\"a\":{\"b\":2}},\"c\":3}", "meta", "{\"c\":3}");
    expect("{\"list\":[{\"k\":1},{\"k\":2,\"l\":3},4]}", "list.k", "{\"list\":[{},{\"l\":3},4]}");
    expect("{\"meta.api_key\":1,\"b\":2}", "meta.api_key", "{\"b\":2}");
    expect("{\"meta\":{\"a.b\":1,\"c\":2}}", "meta.a.b", "{\"meta\":{\"c\":2}}");
}

static void test_a_path_leads_into_a_body_that_is_json(void **state)
{
    (void)state;
    expect("{\"body\":\"{\\\"password\\\":\\\"p\\\",\\\"user\\\":\\\"u\\\"}\"}", "body.password",
           "{\"body\":\"{\\\"user\\\":\\\"u\\\"}\"}");
    expect("{\"body\":\"{ \\\"user\\\" : 1 }\"}", "body.password",
           "{\"body\":\"{ \\\"user\\\" : 1 }\"}"); /* nothing to remove: as it was */
    expect("{\"body\":\"password\"}", "body.password", "{\"body\":\"password\"}");
    expect("{\"body\":\"[{\\\"password\\\":1}]\"}", "body.password", "{\"body\":\"[{}]\"}");
}

/* At least that much of the body is left. */
static void check_cut(json_t *event, size_t maximum, size_t left)
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    hook_payload_print(event, NULL, 0, maximum, &text);
    assert_true(text.length <= maximum);
    json_t *cut = parse(text.data, text.length);
    assert_true(json_is_true(json_object_get(cut, "_truncated")));
    assert_string_equal(json_string_value(json_object_get(cut, "id")), "1");
    assert_true(json_string_length(json_object_get(cut, "body")) >= left);
    json_decref(cut);
    buffer_release(&text);
}

static void test_what_is_too_long_is_cut_and_stays_an_object(void **state)
{
    enum { BIG = 300 * 1024, MAXIMUM = 256 * 1024 };
    char *body = memory_alloc(BIG);
    (void)state;
    for (size_t i = 0; i < BIG; i += 2)
        memcpy(body + i, "\xC3\xA9", 2);
    json_t *event = json_pack("{s:s, s:s%}", "id", "1", "body", body, (size_t)BIG);
    check_cut(event, MAXIMUM, 250 * 1024);
    memset(body, '"', BIG); /* each takes two */
    json_put(event, "body", json_stringn(body, BIG));
    check_cut(event, MAXIMUM, 64 * 1024);
    memset(body, 1, BIG); /* each takes six */
    json_put(event, "body", json_stringn(body, BIG));
    check_cut(event, MAXIMUM, 16 * 1024);
    json_put(event, "body", json_string("short"));
    json_t *many = json_new_array(); /* nothing in it is long */
    for (size_t i = 0; i < 100000; i++)
        (void)json_array_append_new(many, json_string("xxxx"));
    json_put(event, "many", many);
    check_cut(event, MAXIMUM, 5);
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    hook_payload_print(event, NULL, 0, MAXIMUM, &text);
    assert_non_null(strstr(text.data, "\"short\""));
    buffer_release(&text);
    json_decref(event);
    free(body);
}

static void test_what_just_fits_is_not_touched(void **state)
{
    struct buffer text;
    (void)state;
    json_t *event = parse("{\"body\":\"0123456789\"}", 21);
    buffer_init(&text, BUFFER_UNLIMITED);
    hook_payload_print(event, NULL, 0, 21, &text);
    assert_string_equal(text.data, "{\"body\":\"0123456789\"}");
    json_decref(event);
    buffer_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_redacted_paths_are_removed),
        cmocka_unit_test(test_a_path_leads_into_a_body_that_is_json),
        cmocka_unit_test(test_what_is_too_long_is_cut_and_stays_an_object),
        cmocka_unit_test(test_what_just_fits_is_not_touched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
