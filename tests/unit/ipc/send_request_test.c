/* The body of a send: which key counts, which shapes are refused and how. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ipc/send_request.h"
#include "json/json.h"

static json_t *parse(const char *text)
{
    json_t *value = NULL;
    struct error error;
    assert_int_equal(json_parse_strict(text, strlen(text), &value, &error), 0);
    return value;
}

static void assert_id(const char *body_text, const char *header, const char *expected)
{
    json_t *body = parse(body_text);
    struct send_request request;
    const char *code;
    struct error error;
    assert_int_equal(send_request_read(body, header, &request, &code, &error), 0);
    if (expected != NULL)
        assert_string_equal(request.client_message_id, expected);
    assert_int_equal(request.id_was_given, expected != NULL);
    send_request_release(&request);
    json_decref(body);
}

static void assert_refused(const char *body_text, const char *header, const char *expected_code, const char *named)
{
    json_t *body = parse(body_text);
    struct send_request request;
    const char *code;
    struct error error;
    assert_int_not_equal(send_request_read(body, header, &request, &code, &error), 0);
    assert_string_equal(code, expected_code);
    if (named != NULL)
        assert_non_null(strstr(error.message, named));
    json_decref(body);
}

static void the_header_wins_then_the_field_then_a_fresh_id(void **state)
{
    (void)state;
    assert_id("{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"field\"}", "header", "header");
    assert_id("{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"field\"}", "\"quoted\"", "quoted");
    assert_id("{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"field\"}", NULL, "field");
    assert_id("{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":null}", NULL, NULL);
    assert_id("{\"to\":\"a\",\"message\":\"m\"}", "\"a\\\\b\\\"c\"", "a\\b\"c");
    assert_id("{\"to\":\"a\",\"message\":\"m\"}", "a\"b", "a\"b"); /* bare: a quote inside is a character */
}

static void a_key_is_1_to_128_printable_characters_without_spaces(void **state)
{
    (void)state;
    static const char *const BAD_HEADERS[] = { "", "\"\"", "\"open", "\"a\"b", "\"a\\x\"", "\"a b\"", "a b", "\"a\";p=1", "\"a\\" };
    for (size_t i = 0; i < ARRAY_LENGTH(BAD_HEADERS); i++)
        assert_refused("{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"fine\"}", BAD_HEADERS[i], "invalid_client_message_id",
                       NULL);
    static const char *const BAD_FIELDS[] = {
        "{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"\"}",
        "{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"a b\"}",
        "{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"\xc3\xa9\"}",
        "{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":\"a\\u0000\"}",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(BAD_FIELDS); i++)
        assert_refused(BAD_FIELDS[i], NULL, "invalid_client_message_id", NULL);
    char id[LIMIT_CLIENT_MESSAGE_ID + 1], longest[LIMIT_CLIENT_MESSAGE_ID + 2];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(idempotency_key_parse(longest, id), -1);
    longest[LIMIT_CLIENT_MESSAGE_ID] = '\0';
    assert_int_equal(idempotency_key_parse(longest, id), 0);
}

static void a_wrong_shape_names_its_field(void **state)
{
    (void)state;
    static const struct {
        const char *body, *field;
    } CASES[] = {
        { "{\"message\":\"m\"}", "'to'" },
        { "{\"to\":5,\"message\":\"m\"}", "'to'" },
        { "{\"to\":\"\",\"message\":\"m\"}", "'to'" },
        { "{\"to\":\"a\\u0000\",\"message\":\"m\"}", "'to'" },
        { "{\"to\":\"a\"}", "'message'" },
        { "{\"to\":\"a\",\"message\":\"\"}", "'message'" },
        { "{\"to\":\"a\",\"message\":[]}", "'message'" },
        { "{\"to\":\"a\",\"message\":\"m\",\"priority\":\"soon\"}", "'priority'" },
        { "{\"to\":\"a\",\"message\":\"m\",\"meta\":[]}", "'meta'" },
        { "{\"to\":\"a\",\"message\":\"m\",\"reply_to_id\":7}", "'reply_to_id'" },
        { "{\"to\":\"a\",\"message\":\"m\",\"reply_to_id\":\"x y\"}", "'reply_to_id'" },
        { "{\"to\":\"a\",\"message\":\"m\",\"reply_to_id\":\"x\",\"replyToId\":\"y\"}", "'replyToId'" },
        { "{\"to\":\"a\",\"message\":\"m\",\"client_message_id\":7}", "'client_message_id'" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++)
        assert_refused(CASES[i].body, NULL, "invalid_request", CASES[i].field);
}

static void what_is_left_out_has_its_default_and_meta_is_canonical(void **state)
{
    (void)state;
    struct send_request request;
    const char *code;
    struct error error;
    json_t *body = parse("{\"to\":\"a\",\"message\":\"m\\u0000n\",\"meta\":{\"b\":1.0,\"a\":[]},\"replyToId\":\"r\"}");
    assert_int_equal(send_request_read(body, NULL, &request, &code, &error), 0);
    assert_int_equal(request.priority, PRIORITY_NEXT);
    assert_string_equal(request.reply_to_id, "r");
    assert_int_equal(request.message.length, 3);
    assert_string_equal(request.meta.data, "{\"a\":[],\"b\":1}");
    send_request_release(&request);
    json_decref(body);
    body = parse("{\"to\":\"a\",\"message\":\"m\",\"meta\":{},\"reply_to_id\":null,\"priority\":\"low\"}");
    assert_int_equal(send_request_read(body, NULL, &request, &code, &error), 0);
    assert_int_equal(request.meta.length, 0);
    assert_null(request.reply_to_id);
    assert_int_equal(request.priority, PRIORITY_LOW);
    send_request_release(&request);
    json_decref(body);
}

static void meta_may_have_16_kib_in_canonical_form_and_not_a_byte_more(void **state)
{
    (void)state;
    enum { FRAME = sizeof("{\"x\":\"\"}") - 1 };
    for (size_t over = 0; over < 2; over++) {
        size_t length = LIMIT_META - FRAME + over;
        char *value = malloc(length + 1);
        assert_non_null(value);
        memset(value, 'y', length);
        value[length] = '\0';
        json_t *meta = json_pack("{s:s}", "x", value);
        struct buffer canonical;
        struct error error;
        buffer_init(&canonical, LIMIT_META);
        assert_int_equal(meta_read(meta, &canonical, &error), over ? -ERROR_TOO_LARGE : 0);
        buffer_release(&canonical);
        json_decref(meta);
        free(value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_wins_then_the_field_then_a_fresh_id),
        cmocka_unit_test(a_key_is_1_to_128_printable_characters_without_spaces),
        cmocka_unit_test(a_wrong_shape_names_its_field),
        cmocka_unit_test(what_is_left_out_has_its_default_and_meta_is_canonical),
        cmocka_unit_test(meta_may_have_16_kib_in_canonical_form_and_not_a_byte_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
