/* Messages through a broker that runs: offline, order, leases, windows, receipts, restarts (70-broker, Delivering; 40-wire). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>

#include "json/json.h"
#include "util/clock.h"
#include "util/memory.h"
#include "world.h"

static void what_was_sent_to_somebody_offline_comes_in_order_of_priority(void **state)
{
    (void)state;
    static const char *const ORDER[] = { "now-1", "now-2", "next-1", "next-2", "low-1" };
    struct world world;
    struct client sender, recipient;
    world_begin(&world, NULL);
    client_connect(&sender, &world, 0, NULL);
    client_message(&sender, &world, 1, "low-1", "low");
    client_message(&sender, &world, 1, "next-1", "next");
    client_message(&sender, &world, 1, "now-1", "now");
    client_message(&sender, &world, 1, "next-2", "next");
    client_message(&sender, &world, 1, "now-2", "now");
    for (int i = 0; i < 5; i++)
        json_decref(client_expect(&sender, "ack", NULL));
    client_connect(&recipient, &world, 1, NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(ORDER); i++)
        client_expect_message(&recipient, ORDER[i], true);
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

static void a_push_without_acknowledgement_comes_again_and_with_one_never(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.lease_s", "1", NULL };
    struct world world;
    struct client sender, recipient;
    world_begin(&world, OVERRIDES);
    client_connect(&sender, &world, 0, NULL);
    client_connect(&recipient, &world, 1, NULL);
    client_message_ok(&sender, &world, 1, "a", 201);
    client_message_ok(&sender, &world, 1, "b", 201);
    client_message_ok(&sender, &world, 1, "c", 201);
    client_expect_message(&recipient, "a", true);
    client_expect_message(&recipient, "b", false);
    client_expect_message(&recipient, "c", true);
    client_expect_message(&recipient, "b", false); /* the lease ran out: from the lowest, and not what is acknowledged */
    assert_true(world_metric(&world, "cm_broker_redeliveries_total") >= 1);
    client_close(&recipient);
    client_connect(&recipient, &world, 1, NULL);
    client_expect_message(&recipient, "b", true); /* the connection was lost */
    json_t *rest = client_drain(&recipient);
    json_decref(rest);
    client_close(&recipient);
    client_connect(&recipient, &world, 1, NULL);
    client_message_ok(&sender, &world, 1, "d", 201);
    client_expect_message(&recipient, "d", true);
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

static void only_a_window_full_is_under_way(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.window", "4", NULL };
    struct world world;
    struct client sender, recipient;
    char id[8];
    world_begin(&world, OVERRIDES);
    client_connect(&sender, &world, 0, NULL);
    client_connect(&recipient, &world, 1, NULL);
    for (int i = 0; i < 10; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        client_message_ok(&sender, &world, 1, id, 201);
    }
    json_t *came = client_drain(&recipient);
    size_t pushes = 0;
    for (size_t i = 0; i < json_array_size(came); i++)
        pushes += json_object_get(json_array_get(came, i), "client_message_id") != NULL;
    assert_int_equal(pushes, 4);
    for (size_t i = 0; i < json_array_size(came); i++) {
        const json_t *push = json_array_get(came, i);
        if (json_object_get(push, "client_message_id") == NULL)
            continue;
        json_t *ack = json_new_object();
        json_put_string(ack, "type", "client_ack");
        json_put_string(ack, "brokerMessageId", json_string_value(json_object_get(push, "messageId")));
        client_send(&recipient, ack);
    }
    json_decref(came);
    for (int i = 4; i < 10; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        client_expect_message(&recipient, id, true);
    }
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

static void who_does_not_want_to_be_disturbed_gets_only_what_is_urgent(void **state)
{
    (void)state;
    struct world world;
    struct client sender, recipient;
    world_begin(&world, NULL);
    client_connect(&sender, &world, 0, NULL);
    client_connect(&recipient, &world, 1, NULL);
    client_send_text(&recipient, "{\"type\":\"set_status\",\"status\":\"dnd\"}");
    json_decref(client_drain(&recipient));
    client_message_ok(&sender, &world, 1, "later", 201);
    client_message(&sender, &world, 1, "urgent", "now");
    client_expect_message(&recipient, "urgent", true);
    client_close(&recipient);
    client_connect(&recipient, &world, 1, NULL); /* the status survives a reconnect */
    client_message(&sender, &world, 1, "urgent-2", "now");
    client_expect_message(&recipient, "urgent-2", true);
    client_send_text(&recipient, "{\"type\":\"set_status\",\"status\":\"working\"}");
    client_expect_message(&recipient, "later", true);
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

static void nothing_accepted_is_lost_when_the_broker_is_killed_or_stopped(void **state)
{
    (void)state;
    struct world world;
    struct client sender, recipient;
    static const int SIGNALS[] = { SIGKILL, SIGTERM };
    world_begin(&world, NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(SIGNALS); i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "through-%zu", i);
        client_connect(&sender, &world, 0, NULL);
        client_connect(&recipient, &world, 1, NULL);
        client_message_ok(&sender, &world, 1, id, 201);
        client_expect_message(&recipient, id, false);
        world_stop(&world, SIGNALS[i]);
        client_expect_close(&sender, SIGNALS[i] == SIGTERM ? 1001 : 1006, NULL);
        client_close(&sender);
        client_close(&recipient);
        world_start(&world);
        client_connect(&sender, &world, 0, NULL);
        client_message_ok(&sender, &world, 1, id, 200);
        client_connect(&recipient, &world, 1, NULL);
        client_expect_message(&recipient, id, true);
        json_decref(client_drain(&recipient));
        client_close(&sender);
        client_close(&recipient);
    }
    world_end(&world);
}

static void an_existing_client_needs_neither_acknowledgement_nor_negotiation(void **state)
{
    (void)state;
    struct world world;
    struct client sender, recipient;
    const struct hello_options old = { .no_ack = true, .no_negotiation = true };
    world_begin(&world, NULL);
    client_connect(&sender, &world, 0, NULL);
    client_message_ok(&sender, &world, 1, "a", 201);
    client_connect(&recipient, &world, 1, &old);
    client_expect_message(&recipient, "a", false);
    client_message_ok(&sender, &world, 1, "b", 201);
    client_expect_message(&recipient, "b", false);
    json_decref(client_drain(&recipient));
    json_decref(client_drain(&recipient));
    client_close(&recipient);
    client_connect(&recipient, &world, 1, &old);
    client_message_ok(&sender, &world, 1, "c", 201);
    client_expect_message(&recipient, "c", false);
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

static void a_send_only_connection_is_never_pushed_to_and_shows_nobody(void **state)
{
    (void)state;
    struct world world;
    struct client sender, recipient;
    world_begin(&world, NULL);
    client_connect(&recipient, &world, 1, NULL);
    client_connect(&sender, &world, 0, &(struct hello_options){ .send_only = true });
    client_message_ok(&recipient, &world, 0, "to-the-sender", 201);
    client_message_ok(&sender, &world, 1, "a", 201);
    client_expect_message(&recipient, "a", true);
    json_t *came = client_drain(&sender);
    for (size_t i = 0; i < json_array_size(came); i++)
        assert_false(json_has(json_array_get(came, i), "type", "push"));
    json_decref(came);
    client_send_text(&recipient, "{\"type\":\"list_peers\"}");
    json_t *list = client_expect(&recipient, "peers_list", NULL);
    assert_int_equal(json_array_size(json_object_get(list, "peers")), 1);
    json_decref(list);
    client_close(&sender);
    client_connect(&sender, &world, 0, NULL);
    client_expect_message(&sender, "to-the-sender", true);
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

/* ---- receipts -------------------------------------------------------------------------------------------------------------- */

static void a_receipt_waits_for_its_sender_until_it_is_acknowledged(void **state)
{
    (void)state;
    struct world world;
    struct client sender, recipient;
    world_begin(&world, NULL);
    client_connect(&sender, &world, 0, NULL);
    client_message_ok(&sender, &world, 1, "a", 201);
    client_close(&sender);
    client_connect(&recipient, &world, 1, NULL);
    json_t *push = client_expect(&recipient, "push", NULL);
    while (!json_has(push, "client_message_id", "a")) {
        json_decref(push);
        push = client_expect(&recipient, "push", NULL);
    }
    char *id = memory_strdup(json_string_value(json_object_get(push, "messageId")));
    char *ack = memory_printf(
        "{\"type\":\"client_ack\",\"acks\":[{\"clientMessageId\":\"a\",\"brokerMessageId\":\"%s\",\"at\":123,\"rsig\":\"%s\"}]}", id, "5a");
    char *seen = memory_printf("{\"type\":\"seen\",\"ids\":[\"%s\"]}", id);
    client_send_text(&recipient, ack);
    client_send_text(&recipient, seen);
    json_decref(client_drain(&recipient));
    for (int round = 0; round < 2; round++) { /* kept while it is not acknowledged */
        client_connect(&sender, &world, 0, NULL);
        json_t *stored = client_expect(&sender, "receipt", NULL);
        assert_true(json_has(stored, "state", "stored") && json_has(stored, "client_message_id", "a") && json_has(stored, "messageId", id));
        assert_true(json_has(stored, "by", keypair_public_hex(world.members[1].keys)) && json_has(stored, "rsig", "5a"));
        assert_int_equal((int)json_number_value(json_object_get(stored, "at")), 123);
        json_decref(stored);
        json_t *second = client_expect(&sender, "receipt", NULL);
        assert_true(json_has(second, "state", "seen"));
        json_decref(second);
        if (round == 0)
            client_close(&sender);
    }
    char *settle = memory_printf("{\"type\":\"receipt_ack\",\"receipts\":[{\"messageId\":\"%s\",\"by\":\"%s\",\"state\":\"stored\"},"
                                 "{\"messageId\":\"%s\",\"by\":\"%s\",\"state\":\"seen\"}]}",
                                 id, keypair_public_hex(world.members[1].keys), id, keypair_public_hex(world.members[1].keys));
    client_send_text(&sender, settle);
    json_decref(client_drain(&sender));
    client_close(&sender);
    client_connect(&sender, &world, 0, NULL);
    json_t *rest = client_drain(&sender);
    for (size_t i = 0; i < json_array_size(rest); i++)
        assert_false(json_has(json_array_get(rest, i), "type", "receipt"));
    json_decref(rest);
    json_decref(push);
    free(id);
    free(ack);
    free(seen);
    free(settle);
    client_close(&sender);
    client_close(&recipient);
    world_end(&world);
}

static void history_and_status_answer_the_parties_alone(void **state)
{
    (void)state;
    struct world world;
    struct client sender, stranger;
    world_begin(&world, NULL);
    client_connect(&sender, &world, 0, NULL);
    client_connect(&stranger, &world, 2, NULL);
    client_message(&sender, &world, 1, "a", "next");
    json_t *ack = client_expect(&sender, "ack", NULL);
    char *ask = memory_printf("{\"type\":\"message_status\",\"messageId\":\"%s\",\"_reqId\":1}",
                              json_string_value(json_object_get(ack, "messageId")));
    json_decref(ack);
    client_send_text(&sender, ask);
    json_t *answer = client_expect(&sender, "message_status_result", NULL);
    const json_t *recipient = json_array_get(json_object_get(answer, "recipients"), 0);
    assert_true(json_has(recipient, "status", "disconnected") && json_has(recipient, "name", "m1"));
    assert_true(json_is_false(json_object_get(answer, "delivered")));
    json_decref(answer);
    client_send_text(&stranger, ask);
    answer = client_expect(&stranger, "error", NULL);
    assert_true(json_has(answer, "code", "not_found"));
    json_decref(answer);
    client_send_text(&stranger, "{\"type\":\"history\"}");
    answer = client_expect(&stranger, "history_result", NULL);
    assert_int_equal(json_array_size(json_object_get(answer, "items")), 0);
    json_decref(answer);
    client_send_text(&sender, "{\"type\":\"history\",\"after_history_id\":0,\"limit\":5}");
    answer = client_expect(&sender, "history_result", NULL);
    assert_int_equal(json_array_size(json_object_get(answer, "items")), 1);
    assert_true(json_is_null(json_object_get(answer, "next")));
    json_decref(answer);
    free(ask);
    client_close(&sender);
    client_close(&stranger);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_sent_to_somebody_offline_comes_in_order_of_priority),
        cmocka_unit_test(a_push_without_acknowledgement_comes_again_and_with_one_never),
        cmocka_unit_test(only_a_window_full_is_under_way),
        cmocka_unit_test(who_does_not_want_to_be_disturbed_gets_only_what_is_urgent),
        cmocka_unit_test(nothing_accepted_is_lost_when_the_broker_is_killed_or_stopped),
        cmocka_unit_test(an_existing_client_needs_neither_acknowledgement_nor_negotiation),
        cmocka_unit_test(a_send_only_connection_is_never_pushed_to_and_shows_nobody),
        cmocka_unit_test(a_receipt_waits_for_its_sender_until_it_is_acknowledged),
        cmocka_unit_test(history_and_status_answer_the_parties_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
