/* Presence and profile at a broker that runs (70-broker, Presence; 40-wire). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>

#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"
#include "world.h"

static size_t count_events(const json_t *frames, const char *event)
{
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(frames); i++)
        count += json_has(json_array_get(frames, i), "event", event) ? 1 : 0;
    return count;
}

/* The peers that are told, as an array (a new reference). */
static json_t *list(struct client *client)
{
    client_send_text(client, "{\"type\":\"list_peers\",\"_reqId\":\"p\"}");
    json_t *answer = client_expect(client, "peers_list", NULL);
    json_t *peers = json_incref(json_object_get(answer, "peers"));
    json_decref(answer);
    return peers;
}

static json_t *find_peer(struct client *client, const struct world *world, int member)
{
    json_t *peers = list(client), *found = NULL;
    for (size_t i = 0; i < json_array_size(peers); i++)
        if (json_has(json_array_get(peers, i), "memberPubkey", keypair_public_hex(world->members[member].keys)))
            found = json_incref(json_array_get(peers, i));
    json_decref(peers);
    return found;
}

static void who_comes_is_told_once_and_who_is_gone_after_the_grace(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.presence_grace_s", "1", NULL };
    struct world world;
    struct client watcher, peer;
    world_begin(&world, OVERRIDES);
    client_connect(&watcher, &world, 0, NULL);
    client_connect(&peer, &world, 1, NULL);
    json_t *event = client_expect(&watcher, "push", "peer_joined");
    const json_t *data = json_object_get(event, "eventData");
    assert_true(json_has(data, "pubkey", keypair_public_hex(world.members[1].keys)) && json_has(data, "displayName", "m1"));
    assert_true(json_has(event, "subtype", "system") && json_has(data, "sessionId", "session-1"));
    json_decref(event);
    for (int i = 0; i < 3; i++) { /* lost and back */
        client_close(&peer);
        client_connect(&peer, &world, 1, NULL);
    }
    json_t *came = client_drain(&watcher);
    assert_int_equal(count_events(came, "peer_joined") + count_events(came, "peer_left"), 0);
    json_decref(came);
    client_close(&peer);
    json_t *still = find_peer(&watcher, &world, 1);
    assert_non_null(still);
    json_decref(still);
    event = client_expect(&watcher, "push", "peer_left");
    assert_true(json_has(json_object_get(event, "eventData"), "pubkey", keypair_public_hex(world.members[1].keys)));
    json_decref(event);
    assert_null(find_peer(&watcher, &world, 1));
    client_connect(&peer, &world, 1, NULL);
    json_decref(client_expect(&watcher, "push", "peer_joined"));
    client_close(&peer);
    client_close(&watcher);
    world_end(&world);
}

static void a_newer_connection_takes_the_presence_over(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.presence_grace_s", "1", NULL };
    struct world world;
    struct client watcher, older, newer;
    world_begin(&world, OVERRIDES);
    client_connect(&watcher, &world, 0, NULL);
    client_connect(&older, &world, 1, &(struct hello_options){ .session = "one" });
    json_decref(client_expect(&watcher, "push", "peer_joined"));
    client_send_text(&older, "{\"type\":\"set_summary\",\"summary\":\"building\"}");
    json_decref(client_drain(&older));
    client_open(&newer, &world);
    client_hello(&newer, &world, 1, &(struct hello_options){ .session = "two" });
    json_t *ack = client_expect(&newer, "hello_ack", NULL);
    assert_true(json_is_true(json_object_get(ack, "restored")) && json_has(ack, "lastSummary", "building"));
    json_decref(ack);
    client_expect_close(&older, 4003, NULL);
    json_t *peer = find_peer(&watcher, &world, 1);
    assert_true(json_has(peer, "sessionId", "two") && json_has(peer, "summary", "building"));
    json_decref(peer);
    json_t *came = client_drain(&watcher);
    assert_int_equal(count_events(came, "peer_joined") + count_events(came, "peer_left"), 0);
    json_decref(came);
    client_close(&older);
    client_close(&newer);
    client_close(&watcher);
    world_end(&world);
}

static void what_was_set_survives_a_reconnect_and_a_restart(void **state)
{
    (void)state;
    static const char *const SET[] = {
        "{\"type\":\"set_status\",\"status\":\"working\"}",
        "{\"type\":\"set_summary\",\"summary\":\"building\"}",
        "{\"type\":\"set_profile\",\"title\":\"Builder\",\"capabilities\":[\"build\",\"test\"]}",
        "{\"type\":\"set_profile\",\"profile\":{\"bio\":\"born in CI\"}}",
        "{\"type\":\"join_group\",\"name\":\"ci\",\"role\":\"lead\"}",
        "{\"type\":\"join_group\",\"name\":\"gone\"}",
        "{\"type\":\"leave_group\",\"name\":\"gone\"}",
    };
    struct world world;
    struct client watcher, peer;
    world_begin(&world, NULL);
    client_connect(&peer, &world, 1, NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(SET); i++)
        client_send_text(&peer, SET[i]);
    json_t *answers = client_drain(&peer);
    for (size_t i = 0; i < json_array_size(answers); i++)
        assert_false(json_has(json_array_get(answers, i), "type", "error"));
    json_decref(answers);
    client_close(&peer);
    world_stop(&world, SIGTERM);
    world_start(&world);
    client_connect(&peer, &world, 1, NULL);
    client_connect(&watcher, &world, 0, NULL);
    json_t *seen = find_peer(&watcher, &world, 1);
    const json_t *profile = json_object_get(seen, "profile"), *groups = json_object_get(seen, "groups");
    assert_true(json_has(seen, "status", "working") && json_has(seen, "summary", "building"));
    assert_true(json_has(profile, "title", "Builder") && json_has(profile, "bio", "born in CI"));
    assert_int_equal(json_array_size(json_object_get(profile, "capabilities")), 2);
    assert_int_equal(json_array_size(groups), 1);
    assert_true(json_has(json_array_get(groups, 0), "name", "ci") && json_has(json_array_get(groups, 0), "role", "lead"));
    assert_true(json_is_object(json_object_get(seen, "cert")));
    json_decref(seen);
    client_close(&peer);
    client_close(&watcher);
    world_end(&world);
}

static void who_hides_is_in_no_list_and_gets_direct_messages(void **state)
{
    (void)state;
    struct world world;
    struct client watcher, peer;
    world_begin(&world, NULL);
    client_connect(&watcher, &world, 0, NULL);
    client_connect(&peer, &world, 1, NULL);
    json_decref(client_expect(&watcher, "push", "peer_joined"));
    client_send_text(&peer, "{\"type\":\"set_visible\",\"visible\":false}");
    json_decref(client_expect(&watcher, "push", "peer_left"));
    assert_null(find_peer(&watcher, &world, 1));
    json_t *own = find_peer(&peer, &world, 1);
    assert_non_null(own);
    json_decref(own);
    client_message_ok(&watcher, &world, 1, "psst", 201);
    client_expect_message(&peer, "psst", true);
    client_close(&peer);
    client_connect(&peer, &world, 1, NULL); /* hidden still */
    assert_null(find_peer(&watcher, &world, 1));
    client_send_text(&peer, "{\"type\":\"set_visible\",\"visible\":true}");
    json_decref(client_expect(&watcher, "push", "peer_joined"));
    client_close(&peer);
    client_close(&watcher);
    world_end(&world);
}

static void a_new_name_is_told_and_listed_with_its_statement(void **state)
{
    (void)state;
    struct world world;
    struct client watcher, peer;
    char signature[SIGNATURE_HEX_SIZE];
    world_begin(&world, NULL);
    client_connect(&watcher, &world, 0, NULL);
    client_connect(&peer, &world, 1, NULL);
    const char *key = keypair_public_hex(world.members[1].keys);
    const char *const fields[] = { "claudemesh-name-v1", world.mesh_id, key, "robert", "1" };
    world_sign(&world, 1, fields, ARRAY_LENGTH(fields), signature);
    char *frame = memory_printf("{\"type\":\"member_rename\",\"name\":\"robert\",\"seq\":1,\"sig\":\"%s\",\"_reqId\":1}", signature);
    client_send_text(&peer, frame);
    json_decref(client_expect(&peer, "member_ok", NULL));
    json_t *event = client_expect(&watcher, "push", "member_renamed");
    assert_true(json_has(json_object_get(event, "eventData"), "name", "robert"));
    json_decref(event);
    client_send_text(&watcher, "{\"type\":\"list_members\"}");
    json_t *members = client_expect(&watcher, "members_list", NULL);
    const json_t *member = json_array_get(json_object_get(members, "members"), 1);
    assert_true(json_has(member, "displayName", "robert"));
    assert_true(json_has(json_object_get(member, "name_statement"), "sig", signature));
    json_decref(members);
    client_message_ok(&peer, &world, 0, "signed", 201);
    json_t *push = client_expect(&watcher, "push", NULL);
    while (!json_has(push, "client_message_id", "signed")) {
        json_decref(push);
        push = client_expect(&watcher, "push", NULL);
    }
    assert_true(json_has(push, "senderName", "robert"));
    json_decref(push);
    free(frame);
    client_close(&peer);
    client_close(&watcher);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_comes_is_told_once_and_who_is_gone_after_the_grace),
        cmocka_unit_test(a_newer_connection_takes_the_presence_over),
        cmocka_unit_test(what_was_set_survives_a_reconnect_and_a_restart),
        cmocka_unit_test(who_hides_is_in_no_list_and_gets_direct_messages),
        cmocka_unit_test(a_new_name_is_told_and_listed_with_its_statement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
