/* A member that appears with another host's fingerprint (50-identity, Host fingerprint): told to admins, audited, never refused, and not for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sqlite3.h>
#include <signal.h>

#include "json/json.h"
#include "util/memory.h"
#include "world.h"

#define HOST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HOST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void appear(struct world *world, int member, const char *host, bool send_only)
{
    struct client client;
    client_connect(&client, world, member, &(struct hello_options){ .host_fingerprint = host, .send_only = send_only });
    client_close(&client);
}

static size_t count_told(struct client *watcher)
{
    json_t *frames = client_drain(watcher);
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(frames); i++)
        count += json_has(json_array_get(frames, i), "event", "member_clone_suspected") ? 1 : 0;
    json_decref(frames);
    return count;
}

static int count_audited(const struct world *world)
{
    sqlite3 *handle = NULL;
    sqlite3_stmt *statement = NULL;
    char *path = memory_printf("%s/broker.db", world->directory);
    assert_int_equal(sqlite3_open_v2(path, &handle, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(handle, "SELECT count(*) FROM audit WHERE event = 'member_clone_suspected'", -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int count = sqlite3_column_int(statement, 0);
    (void)sqlite3_finalize(statement);
    (void)sqlite3_close(handle);
    free(path);
    return count;
}

static void another_host_is_told_to_admins_and_audited_once_for_each_change(void **state)
{
    (void)state;
    struct world world;
    struct client admin, other;
    world_begin(&world, NULL);
    client_connect(&admin, &world, 0, NULL);
    client_connect(&other, &world, 2, NULL);
    appear(&world, 1, NULL, false);
    appear(&world, 1, HOST_A, false); /* the first that is known */
    appear(&world, 1, HOST_A, false);
    assert_int_equal(count_told(&admin), 0);
    appear(&world, 1, HOST_B, false);
    json_t *told = client_expect(&admin, "push", "member_clone_suspected");
    const json_t *data = json_object_get(told, "eventData");
    assert_true(json_has(data, "memberPubkey", keypair_public_hex(world.members[1].keys)));
    assert_true(json_has(data, "memberId", world.members[1].member_id));
    char *text = json_dumps(told, 0);
    assert_null(strstr(text, "bbbbbbbb"));
    free(text);
    json_decref(told);
    appear(&world, 1, HOST_B, false);
    appear(&world, 1, NULL, true); /* a command line's connection says nothing of a host */
    assert_int_equal(count_told(&admin), 0);
    assert_int_equal(count_told(&other), 0);
    appear(&world, 1, HOST_A, false); /* two that take turns are told each time */
    assert_int_equal(count_told(&admin), 1);
    client_close(&admin);
    client_close(&other);
    world_stop(&world, SIGTERM);
    assert_int_equal(count_audited(&world), 2);
    world_start(&world); /* it is kept over a restart */
    appear(&world, 1, HOST_A, false);
    world_stop(&world, SIGTERM);
    assert_int_equal(count_audited(&world), 2);
    world_start(&world);
    world_end(&world);
}

static void what_is_no_hash_is_passed_over(void **state)
{
    (void)state;
    struct world world;
    world_begin(&world, NULL);
    appear(&world, 1, HOST_A, false);
    appear(&world, 1, "", false);
    appear(&world, 1, "not a hash", false);
    appear(&world, 1, HOST_A "00", false);
    world_stop(&world, SIGTERM);
    assert_int_equal(count_audited(&world), 0);
    world_start(&world);
    world_end(&world);
}

static void a_copy_that_is_refused_because_the_older_stays_is_told_once_too(void **state)
{
    (void)state;
    static const char *const OVERRIDES[] = { "broker.connection_policy", "prefer_oldest", NULL };
    struct world world;
    struct client admin, older;
    world_begin(&world, OVERRIDES);
    client_connect(&admin, &world, 0, NULL);
    client_connect(&older, &world, 1, &(struct hello_options){ .session = "one", .host_fingerprint = HOST_A });
    for (int i = 0; i < 3; i++) {
        struct client copy;
        client_open(&copy, &world);
        client_hello(&copy, &world, 1, &(struct hello_options){ .session = "two", .host_fingerprint = HOST_B });
        client_expect_close(&copy, 4004, NULL);
        client_close(&copy);
    }
    assert_int_equal(count_told(&admin), 1);
    client_close(&older);
    client_close(&admin);
    world_stop(&world, SIGTERM);
    assert_int_equal(count_audited(&world), 1);
    world_start(&world);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_host_is_told_to_admins_and_audited_once_for_each_change),
        cmocka_unit_test(what_is_no_hash_is_passed_over),
        cmocka_unit_test(a_copy_that_is_refused_because_the_older_stays_is_told_once_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
