/* Hello against a broker that runs: signatures, skew, replay, the challenge, policies for two connections, limits (40-wire, 45-trust, 50-identity). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <signal.h>

#include "json/json.h"
#include "util/clock.h"
#include "world.h"

static void refused(struct world *world, int member, const struct hello_options *options, int code, const char *reason)
{
    struct client client;
    client_open(&client, world);
    client_hello(&client, world, member, options);
    client_expect_close(&client, code, reason);
    client_close(&client);
}

static void a_hello_is_refused_with_its_reason(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world, NULL);
    int64_t now = clock_wall_ms();
    refused(&world, 1, &(struct hello_options){ .bad_signature = true }, 1008, "bad_signature");
    refused(&world, 1, &(struct hello_options){ .timestamp = now - 61000 }, 1008, "timestamp_skew");
    refused(&world, 1, &(struct hello_options){ .timestamp = now + 61000 }, 1008, "timestamp_skew");
    refused(&world, 1, &(struct hello_options){ .url = "ws://elsewhere.example:7900/ws" }, 1008, "bad_signature");

    struct client client;
    client_connect(&client, &world, 1, &(struct hello_options){ .timestamp = now });
    client_close(&client);
    refused(&world, 1, &(struct hello_options){ .timestamp = now }, 1008, "replay");
    client_connect(&client, &world, 1, &(struct hello_options){ .timestamp = now + 1 });
    client_close(&client);

    struct keypair *stranger = NULL;
    struct error error;
    struct keypair *own = world.members[1].keys;
    assert_int_equal(keypair_generate(&stranger, &error), 0);
    world.members[1].keys = stranger;
    refused(&world, 1, NULL, 1008, "unauthorized");
    world.members[1].keys = own;
    keypair_free(stranger);
    char id = world.members[1].member_id[5];
    world.members[1].member_id[5] = '_';
    refused(&world, 1, NULL, 1008, "unauthorized");
    world.members[1].member_id[5] = id;
    world_end(&world);
}

static void a_skewed_hello_is_told_the_brokers_time(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    world_begin(&world, NULL);
    client_open(&client, &world);
    client_hello(&client, &world, 1, &(struct hello_options){ .timestamp = clock_wall_ms() - 3600 * 1000 });
    json_t *error = client_expect(&client, "error", NULL);
    assert_true(json_has(error, "code", "timestamp_skew"));
    double off = json_number_value(json_object_get(error, "serverTime")) - (double)clock_wall_ms();
    assert_true(off > -5000 && off < 5000);
    json_decref(error);
    client_close(&client);
    world_end(&world);
}

static void who_signs_the_challenge_must_go_on_signing_it(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    world_begin(&world, NULL);
    client_connect(&client, &world, 1, NULL);
    client_close(&client);
    client_connect(&client, &world, 1, &(struct hello_options){ .url = "" });
    client_close(&client);
    refused(&world, 1, NULL, 1008, "bad_signature");
    char localhost[64];
    (void)snprintf(localhost, sizeof localhost, "ws://localhost:%u/ws", (unsigned)world.port);
    client_connect(&client, &world, 1, &(struct hello_options){ .url = localhost });
    client_close(&client);
    /* A hello that somebody recorded, on another connection: another challenge. */
    struct client recorded;
    client_open(&recorded, &world);
    client_open(&client, &world);
    memcpy(recorded.challenge, client.challenge, sizeof recorded.challenge);
    client_hello(&recorded, &world, 1, &(struct hello_options){ .url = "" });
    client_expect_close(&recorded, 1008, "bad_signature");
    client_close(&recorded);
    client_close(&client);
    world_end(&world);
}

static void anything_before_the_hello_is_refused_and_silence_too(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.hello_timeout_s", "1", NULL };
    static const char *const FIRST[] = { "{\"type\":\"list_peers\"}", "nonsense", "[]", "{}", "{\"type\":5}", "\"hello\"" };
    struct world world;
    struct client client;
    world_begin(&world, OVERRIDES);
    for (size_t i = 0; i < ARRAY_LENGTH(FIRST); i++) {
        client_open(&client, &world);
        client_send_text(&client, FIRST[i]);
        client_expect_close(&client, 1008, "hello_required");
        client_close(&client);
    }
    client_open(&client, &world);
    client_expect_close(&client, 1008, "hello_timeout");
    client_close(&client);
    world_end(&world);
}

static void what_follows_a_hello_at_once_is_served_after_it(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    world_begin(&world, NULL);
    client_open(&client, &world);
    int together = 1; /* one segment: the second frame is there while the store is still asked about the first */
    assert_int_equal(setsockopt(client.fd, IPPROTO_TCP, TCP_CORK, &together, sizeof together), 0);
    client_hello(&client, &world, 1, NULL);
    client_message(&client, &world, 2, "eager", "next");
    together = 0;
    assert_int_equal(setsockopt(client.fd, IPPROTO_TCP, TCP_CORK, &together, sizeof together), 0);
    json_t *frame = client_receive(&client);
    assert_true(json_has(frame, "type", "hello_ack"));
    json_decref(frame);
    json_decref(client_expect(&client, "ack", NULL));
    client_hello(&client, &world, 1, NULL);
    frame = client_expect(&client, "error", NULL);
    assert_true(json_has(frame, "code", "already_open"));
    json_decref(frame);
    client_close(&client);
    world_end(&world);
}

/* ---- one member, two connections ---------------------------------------------------------------------------------------------- */

static void the_newer_connection_wins_by_default(void **state)
{
    (void)state;
    struct world world;
    struct client owner, older, newer;
    world_begin(&world, NULL);
    client_connect(&owner, &world, 0, NULL);
    client_connect(&older, &world, 1, &(struct hello_options){ .session = "one" });
    client_connect(&newer, &world, 1, &(struct hello_options){ .session = "two" });
    client_expect_close(&older, 4003, "replaced_by_newer_connection");
    json_decref(client_expect(&owner, "push", "member_concurrent_connection"));
    client_message_ok(&newer, &world, 0, "still-here", 201);
    client_close(&older);
    client_close(&newer);
    client_close(&owner);
    world_end(&world);
}

static void the_older_connection_stays_where_that_is_the_policy(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.connection_policy", "prefer_oldest", NULL };
    struct world world;
    struct client older, newer, sender;
    world_begin(&world, OVERRIDES);
    client_connect(&older, &world, 1, &(struct hello_options){ .session = "one" });
    refused(&world, 1, &(struct hello_options){ .session = "two" }, 4004, "member_already_connected");
    client_connect(&sender, &world, 1, &(struct hello_options){ .session = "two", .send_only = true });
    client_message_ok(&sender, &world, 0, "from-the-side", 201);
    client_connect(&newer, &world, 1, &(struct hello_options){ .session = "one" });
    client_expect_close(&older, 4003, NULL);
    client_close(&older);
    client_close(&newer);
    client_close(&sender);
    world_end(&world);
}

static void both_stay_where_that_is_the_policy_and_each_gets_its_copy(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.connection_policy", "allow_concurrent", NULL };
    struct world world;
    struct client one, two, owner;
    world_begin(&world, OVERRIDES);
    client_connect(&one, &world, 1, &(struct hello_options){ .session = "one" });
    client_connect(&two, &world, 1, &(struct hello_options){ .session = "two" });
    client_connect(&owner, &world, 0, NULL);
    client_message_ok(&owner, &world, 1, "to-both", 201);
    client_expect_message(&one, "to-both", true);
    client_expect_message(&two, "to-both", true);
    client_message_ok(&one, &world, 1, "to-my-other-self", 201);
    client_expect_message(&two, "to-my-other-self", true);
    client_close(&one);
    client_close(&two);
    client_close(&owner);
    world_end(&world);
}

/* ---- limits and revocation ------------------------------------------------------------------------------------------------------ */

static void a_mesh_and_the_broker_have_room_for_so_many(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.max_connections_per_mesh", "2", "broker.max_connections", "3", NULL };
    struct world world;
    struct client one, two, three, four;
    world_begin(&world, OVERRIDES);
    client_connect(&one, &world, 0, NULL);
    client_connect(&two, &world, 1, NULL);
    refused(&world, 2, NULL, 1008, "capacity");
    client_connect(&three, &world, 1, NULL); /* in its own place */
    client_expect_close(&two, 4003, NULL);
    client_close(&two);
    client_open(&two, &world);
    client_open(&four, &world);
    client_expect_close(&four, 1008, "capacity");
    client_close(&one);
    client_close(&two);
    client_close(&three);
    client_close(&four);
    world_end(&world);
}

static json_t *revocation(const struct world *world, int by, int subject)
{
    char at[24], signature[SIGNATURE_HEX_SIZE];
    int64_t now = clock_wall_ms();
    (void)snprintf(at, sizeof at, "%" PRId64, now);
    const char *by_key = keypair_public_hex(world->members[by].keys), *key = keypair_public_hex(world->members[subject].keys);
    const char *const fields[] = { "claudemesh-revoke-v1", world->mesh_id, key, world->members[subject].member_id, at, by_key };
    world_sign(world, by, fields, ARRAY_LENGTH(fields), signature);
    json_t *frame = json_new_object();
    json_put_string(frame, "type", "member_revoke");
    json_put_string(frame, "pubkey", key);
    json_put_string(frame, "member_id", world->members[subject].member_id);
    json_put_integer(frame, "timestamp", now);
    json_put_string(frame, "signature", signature);
    return frame;
}

static void a_revoked_member_is_closed_and_stays_out(void **state)
{
    (void)state;
    struct world world;
    struct client owner, one, two;
    world_begin(&world, NULL);
    client_connect(&owner, &world, 0, NULL);
    client_connect(&one, &world, 1, NULL);
    client_connect(&two, &world, 2, NULL);
    client_send(&one, revocation(&world, 1, 2));
    json_t *frame = client_expect(&one, "error", NULL);
    assert_true(json_has(frame, "code", "forbidden"));
    json_decref(frame);
    json_t *forged = revocation(&world, 0, 2);
    json_put_integer(forged, "timestamp", 5);
    client_send(&owner, forged);
    frame = client_expect(&owner, "error", NULL);
    assert_true(json_has(frame, "code", "bad_signature"));
    json_decref(frame);
    client_send(&owner, revocation(&world, 0, 2));
    json_decref(client_expect(&owner, "member_ok", NULL));
    client_expect_close(&two, 4002, "revoked");
    frame = client_expect(&one, "push", "member_revoked");
    assert_true(json_has(json_object_get(frame, "eventData"), "subject_pubkey", keypair_public_hex(world.members[2].keys)));
    json_decref(frame);
    refused(&world, 2, NULL, 4002, "revoked");
    client_message_ok(&one, &world, 2, "too-late", 404);
    client_close(&owner);
    client_close(&one);
    client_close(&two);
    world_end(&world);
}

static void a_member_that_leaves_is_gone(void **state)
{
    (void)state;
    struct world world;
    struct client owner, one;
    char at[24], signature[SIGNATURE_HEX_SIZE];
    int64_t now = clock_wall_ms();
    world_begin(&world, NULL);
    client_connect(&owner, &world, 0, NULL);
    client_connect(&one, &world, 1, NULL);
    (void)snprintf(at, sizeof at, "%" PRId64, now);
    const char *const fields[] = { "claudemesh-leave-v1", world.mesh_id, world.members[1].member_id,
                                   keypair_public_hex(world.members[1].keys), at };
    world_sign(&world, 1, fields, ARRAY_LENGTH(fields), signature);
    json_t *frame = json_new_object();
    json_put_string(frame, "type", "member_leave");
    json_put_integer(frame, "timestamp", now);
    json_put_string(frame, "signature", signature);
    client_send(&one, frame);
    json_decref(client_expect(&one, "member_ok", NULL));
    client_expect_close(&one, 1000, "left");
    json_decref(client_expect(&owner, "push", "member_left"));
    client_message_ok(&owner, &world, 1, "gone", 404);
    refused(&world, 1, NULL, 1008, "unauthorized");
    client_close(&owner);
    client_close(&one);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hello_is_refused_with_its_reason),
        cmocka_unit_test(a_skewed_hello_is_told_the_brokers_time),
        cmocka_unit_test(who_signs_the_challenge_must_go_on_signing_it),
        cmocka_unit_test(anything_before_the_hello_is_refused_and_silence_too),
        cmocka_unit_test(what_follows_a_hello_at_once_is_served_after_it),
        cmocka_unit_test(the_newer_connection_wins_by_default),
        cmocka_unit_test(the_older_connection_stays_where_that_is_the_policy),
        cmocka_unit_test(both_stay_where_that_is_the_policy_and_each_gets_its_copy),
        cmocka_unit_test(a_mesh_and_the_broker_have_room_for_so_many),
        cmocka_unit_test(a_revoked_member_is_closed_and_stays_out),
        cmocka_unit_test(a_member_that_leaves_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
