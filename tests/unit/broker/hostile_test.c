/* Clients that send nonsense (90-quality, Hostile input): wrong types in every field of every frame, unknown frames, junk; and the broker's HTTP. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"
#include "world.h"

/* Each field of each frame; the tests put every wrong thing into each. */
static const char *const FRAMES[] = {
    ("{\"type\":\"send\",\"id\":\"x\",\"client_message_id\":\"x\",\"request_fingerprint\":\"\",\"targetSpec\":\"\",\"priority\":\"next\","
     "\"nonce\":\"\",\"ciphertext\":\"\",\"bodyVersion\":3,"
     "\"keyEpoch\":1,\"replyToId\":\"\",\"mentions\":[],\"destination_kind\":\"dm\",\"destination_ref\":\"\"}"),
    "{\"type\":\"client_ack\",\"clientMessageId\":\"\",\"brokerMessageId\":\"\",\"acks\":[],\"state\":\"\",\"at\":1,\"rsig\":\"\"}",
    "{\"type\":\"seen\",\"ids\":[],\"acks\":[]}",
    "{\"type\":\"receipt_ack\",\"receipts\":[{\"messageId\":\"\",\"by\":\"\",\"state\":\"\"}]}",
    "{\"type\":\"feature_negotiation_request\",\"require\":[],\"optional\":[],\"_reqId\":1}",
    "{\"type\":\"list_peers\",\"after\":\"\"}",
    "{\"type\":\"list_members\",\"after\":1}",
    "{\"type\":\"set_status\",\"status\":\"\"}",
    "{\"type\":\"set_summary\",\"summary\":\"\"}",
    "{\"type\":\"set_visible\",\"visible\":true}",
    "{\"type\":\"set_profile\",\"avatar\":\"\",\"title\":\"\",\"bio\":\"\",\"capabilities\":[],\"profile\":{}}",
    "{\"type\":\"join_group\",\"name\":\"\",\"role\":\"\"}",
    "{\"type\":\"leave_group\",\"group\":\"\"}",
    "{\"type\":\"history\",\"after_history_id\":1,\"limit\":1}",
    "{\"type\":\"message_status\",\"messageId\":\"\"}",
    "{\"type\":\"member_revoke\",\"pubkey\":\"\",\"timestamp\":1,\"signature\":\"\",\"member_id\":\"\",\"by\":\"\",\"mesh\":\"\"}",
    "{\"type\":\"member_leave\",\"timestamp\":1,\"signature\":\"\",\"member_id\":\"\",\"pubkey\":\"\"}",
    "{\"type\":\"member_rename\",\"name\":\"\",\"seq\":1,\"sig\":\"\",\"pubkey\":\"\"}",
    "{\"type\":\"member_grant\",\"pubkey\":\"\",\"role\":\"\",\"seq\":1,\"at\":1,\"by\":\"\",\"sig\":\"\"}",
    "{\"type\":\"invite_revoke\",\"invite_id\":\"\",\"at\":1,\"by\":\"\",\"sig\":\"\"}",
    "{\"type\":\"topic_create\",\"name\":1}",
    "{\"type\":\"member_rotate\"}",
    "{\"type\":\"no_such_frame\",\"x\":1}",
};
static const char *const WRONG[] = { "null",
                                     "true",
                                     "5",
                                     "-1.5",
                                     "1e308",
                                     "\"\"",
                                     "\"a\\u0000b\"",
                                     "\"\\uFFFF\"",
                                     "[]",
                                     "[null,5,\"x\",[[]],{}]",
                                     "{}",
                                     "{\"type\":\"send\"}" };

static void wrong_types_anywhere_are_survived(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    world_begin(&world, NULL);
    client_connect(&client, &world, 0, NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(FRAMES); i++) {
        json_t *frame = json_loads(FRAMES[i], 0, NULL);
        assert_non_null(frame);
        const char *name;
        json_t *value;
        json_object_foreach(frame, name, value)
        {
            for (size_t j = 0; j < ARRAY_LENGTH(WRONG); j++) {
                json_t *broken = json_copy(frame);
                json_t *wrong = json_loads(WRONG[j], JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
                assert_non_null(wrong);
                json_put(broken, name, wrong);
                client_send(&client, broken);
            }
        }
        json_decref(frame);
        json_decref(client_drain(&client)); /* it answers still, on the same connection */
    }
    client_close(&client);
    world_end(&world);
}

static void a_wrong_hello_of_any_kind_is_refused(void **state)
{
    (void)state;
    static const char HELLO[] = "{\"type\":\"hello\",\"protocolVersion\":1,\"meshId\":\"m\",\"memberId\":\"m\",\"pubkey\":\"p\","
                                "\"sessionId\":\"s\",\"sessionPubkey\":\"s\",\"pid\":1,\"cwd\":\"\","
                                "\"hostname\":\"\",\"displayName\":\"\",\"peerType\":\"ai\",\"channel\":\"c\",\"groups\":[],"
                                "\"capabilities\":[],\"hostFingerprint\":\"\",\"timestamp\":1,"
                                "\"signature\":\"\",\"signature2\":\"\",\"receive\":true}";
    struct world world;
    world_begin(&world, NULL);
    json_t *frame = json_loads(HELLO, 0, NULL);
    const char *name;
    json_t *value;
    json_object_foreach(frame, name, value)
    {
        for (size_t j = 0; j < ARRAY_LENGTH(WRONG); j += 3) {
            struct client client;
            json_t *broken = json_copy(frame);
            json_put(broken, name, json_loads(WRONG[j], JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL));
            client_open(&client, &world);
            client_send(&client, broken);
            client_expect_close(&client, 1008, NULL);
            client_close(&client);
        }
    }
    json_decref(frame);
    world_end(&world);
}

static void junk_closes_at_most_its_own_connection(void **state)
{
    (void)state;
    static const char *const JUNK[] = {
        "", "{", "nonsense", "\"hello\"", "[1,2,3]", "{\"type\":5}", "{\"type\":\"send\",\"type\":\"send\"}"
    };
    struct world world;
    struct client client, other;
    world_begin(&world, NULL);
    client_connect(&other, &world, 1, NULL);
    client_connect(&client, &world, 0, NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(JUNK); i++) {
        client_send_text(&client, JUNK[i]);
        json_t *error = client_expect(&client, "error", NULL);
        json_decref(error);
    }
    char *large = memory_alloc(1024 * 1024 + 2);
    memset(large, ' ', 1024 * 1024 + 1);
    large[1024 * 1024 + 1] = '\0';
    client_send_text(&client, large);
    client_expect_close(&client, 1009, NULL);
    free(large);
    client_close(&client);
    client_message_ok(&other, &world, 0, "still-served", 201);
    client_close(&other);
    world_end(&world);
}

static void a_flood_of_questions_is_answered_in_turn(void **state)
{
    (void)state;
    enum { QUESTIONS = 500 };
    struct world world;
    struct client client;
    world_begin(&world, NULL);
    client_connect(&client, &world, 0, NULL);
    for (int i = 0; i < QUESTIONS; i++)
        client_send_text(&client, i % 2 == 0 ? "{\"type\":\"list_members\"}" : "{\"type\":\"history\"}");
    for (int i = 0; i < QUESTIONS; i++)
        json_decref(client_expect(&client, i % 2 == 0 ? "members_list" : "history_result", NULL));
    client_close(&client);
    world_end(&world);
}

static void a_send_says_what_is_wrong_with_it_for_good(void **state)
{
    (void)state;
    static const struct {
        const char *field, *value;
        int status;
        const char *error;
    } CASES[] = {
        { "targetSpec", "\"#topic\"", 400, "unsupported_destination" },
        { "targetSpec", "\"@group\"", 400, "unsupported_destination" },
        { "targetSpec", "\"*\"", 400, "unsupported_destination" },
        { "targetSpec", "\"nobody\"", 400, "invalid_destination" },
        { "destination_kind", "\"topic\"", 400, "invalid_destination" },
        { "destination_ref", "\"other\"", 400, "invalid_destination" },
        { "nonce", "\"AAAA\"", 400, "invalid_request" },
        { "ciphertext", "\"AAA\"", 400, "invalid_request" },
        { "ciphertext", "\"AAB=\"", 400, "invalid_request" }, /* bits past the end */
        { "priority", "\"urgent\"", 400, "invalid_request" },
        { "request_fingerprint", "\"12\"", 400, "invalid_request" },
    };
    struct world world;
    struct client client;
    world_begin(&world, NULL);
    client_connect(&client, &world, 0, NULL);
    const char *key = keypair_public_hex(world.members[1].keys);
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        char *text = memory_printf("{\"type\":\"send\",\"id\":\"case\",\"targetSpec\":\"%s\",\"destination_kind\":\"dm\",\"destination_"
                                   "ref\":\"%s\",\"priority\":\"next\","
                                   "\"nonce\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"ciphertext\":\"AAAA\"}",
                                   key, key);
        json_t *frame = json_loads(text, 0, NULL);
        json_put(frame, CASES[i].field, json_loads(CASES[i].value, JSON_DECODE_ANY, NULL));
        client_send(&client, frame);
        json_t *ack = client_expect(&client, "ack", NULL);
        assert_int_equal((int)json_number_value(json_object_get(ack, "status")), CASES[i].status);
        assert_true(string_has_prefix(json_string_value(json_object_get(ack, "error")), CASES[i].error));
        json_decref(ack);
        free(text);
    }
    client_message_ok(&client, &world, 1, "case", 201); /* the id stayed free */
    client_close(&client);
    world_end(&world);
}

static void the_largest_message_passes_and_one_byte_more_does_not(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.inline_bytes", "1024", NULL };
    enum { LARGEST = 6 * 1024 + 131072 }; /* decoded */
    struct world world;
    struct client sender, recipient;
    world_begin(&world, OVERRIDES);
    client_connect(&sender, &world, 0, NULL);
    client_connect(&recipient, &world, 1, NULL);
    const char *key = keypair_public_hex(world.members[1].keys);
    for (int extra = 1; extra >= 0; extra--) {
        size_t digits = (size_t)(LARGEST + extra + 2) / 3 * 4, padding = (size_t)(3 - (LARGEST + extra) % 3) % 3;
        char *ciphertext = memory_zalloc(digits + 1);
        memset(ciphertext, 'A', digits - padding);
        memset(ciphertext + digits - padding, '=', padding);
        char *text = memory_printf("{\"type\":\"send\",\"id\":\"large\",\"targetSpec\":\"%s\",\"nonce\":"
                                   "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"ciphertext\":\"%s\"}",
                                   key, ciphertext);
        client_send_text(&sender, text);
        json_t *ack = client_expect(&sender, "ack", NULL);
        assert_int_equal((int)json_number_value(json_object_get(ack, "status")), extra == 1 ? 413 : 201);
        json_decref(ack);
        free(ciphertext);
        free(text);
    }
    client_expect_message(&recipient, "large", true);
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

/* ---- HTTP -------------------------------------------------------------------------------------------------------------------- */

static void ask(const struct world *world, const char *method, const char *path, const char *headers, const char *body, int status,
                const char *error)
{
    struct buffer answer;
    buffer_init(&answer, BUFFER_UNLIMITED);
    int got = http_ask(world->port, method, path, headers, body, &answer);
    if (got != status || (error != NULL && strstr(answer.data, error) == NULL))
        fail_msg("%s %s %s: %d %s", method, path, headers == NULL ? "" : headers, got, answer.data);
    buffer_release(&answer);
}

static void every_route_applies_the_checks_in_their_order(void **state)
{
    (void)state;
    struct world world;
    char admin[160];
    world_begin(&world, NULL);
    (void)snprintf(admin, sizeof admin, "Authorization: Bearer %s\r\n", world.admin_token);
    ask(&world, "GET", "/health", NULL, NULL, 200, "\"version\"");
    ask(&world, "GET", "/health/ready", NULL, NULL, 200, "\"ok\":true");
    ask(&world, "GET", "/metrics", NULL, NULL, 200, "cm_broker_build_info");
    ask(&world, "GET", "/health?token=x", "Host: evil.example\r\n", NULL, 400, "token_in_query");
    ask(&world, "GET", "/health?api_key=x", NULL, NULL, 400, "token_in_query");
    ask(&world, "GET", "/health", "Host: evil.example\r\nOrigin: https://evil.example\r\n", NULL, 403, "forbidden_host");
    ask(&world, "GET", "/health", "Origin: https://evil.example\r\n", NULL, 403, "forbidden_origin");
    ask(&world, "GET", "/ws", "Sec-Fetch-Site: cross-site\r\n", NULL, 403, "forbidden_origin");
    ask(&world, "OPTIONS", "/join", NULL, NULL, 403, NULL);
    ask(&world, "GET", "/", NULL, NULL, 401, "missing_token");
    ask(&world, "GET", "/", "Authorization: Bearer wrong\r\n", NULL, 401, "invalid_token");
    ask(&world, "GET", "/", admin, NULL, 200, "connections");
    ask(&world, "POST", "/mesh", NULL, "{}", 401, "missing_token");
    ask(&world, "POST", "/mesh", admin, "{}", 400, "malformed");
    ask(&world, "POST", "/join", NULL, "{}", 400, "malformed");
    ask(&world, "POST", "/join", NULL, "{\"root_key\":\"x\"}", 400, "malformed");
    ask(&world, "POST", "/join", NULL, "{", 400, NULL);
    ask(&world, "POST", "/join", NULL, NULL, 400, "malformed");
    ask(&world, "GET", "/nothing", NULL, NULL, 404, "not_found");
    ask(&world, "DELETE", "/health", NULL, NULL, 405, "method_not_allowed");
    ask(&world, "GET", "/ws", NULL, NULL, 426, NULL);
    world_end(&world);
}

static void new_connections_of_an_address_are_limited(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.max_new_connections_per_second", "10", NULL };
    enum { ATTEMPTS = 120 }; /* more than two seconds may take */
    struct world world;
    int served = 0;
    world_begin(&world, OVERRIDES);
    for (int i = 0; i < ATTEMPTS; i++)
        served += http_ask(world.port, "GET", "/health", NULL, NULL, NULL) == 200;
    assert_true(served >= 1 && served < ATTEMPTS);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_types_anywhere_are_survived),
        cmocka_unit_test(a_wrong_hello_of_any_kind_is_refused),
        cmocka_unit_test(junk_closes_at_most_its_own_connection),
        cmocka_unit_test(a_flood_of_questions_is_answered_in_turn),
        cmocka_unit_test(a_send_says_what_is_wrong_with_it_for_good),
        cmocka_unit_test(the_largest_message_passes_and_one_byte_more_does_not),
        cmocka_unit_test(every_route_applies_the_checks_in_their_order),
        cmocka_unit_test(new_connections_of_an_address_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
