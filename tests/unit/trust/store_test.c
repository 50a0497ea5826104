/* Facts that are kept: body versions, retention, challenge, profile; what a failing database refused is written later; meshes do not mix. */
#include "fixture.h"

static void facts_survive_a_restart(void **state)
{
    struct world *world = *state;
    assert_int_equal(trust_retention_days(world->trust), 0);
    assert_false(trust_challenge_seen(world->trust));
    assert_null(trust_profile(world->trust));
    assert_int_equal(trust_sender_body_version(world->trust, hex_of(world, EVE)), 0);
    trust_set_retention_days(world->trust, 365);
    trust_set_challenge_seen(world->trust);
    trust_set_profile(world->trust, "{\"summary\":\"busy\"}");
    trust_note_body_version(world->trust, hex_of(world, EVE), 3);
    world_reopen(world);
    assert_int_equal(trust_retention_days(world->trust), 365);
    assert_true(trust_challenge_seen(world->trust));
    assert_string_equal(trust_profile(world->trust), "{\"summary\":\"busy\"}");
    assert_int_equal(trust_sender_body_version(world->trust, hex_of(world, EVE)), 3);
    trust_set_retention_days(world->trust, -1);
    trust_set_profile(world->trust, NULL);
    world_reopen(world);
    assert_int_equal(trust_retention_days(world->trust), -1);
    assert_null(trust_profile(world->trust));
    assert_true(trust_challenge_seen(world->trust));
}

static void a_body_version_is_never_lowered(void **state)
{
    struct world *world = *state;
    trust_note_body_version(world->trust, hex_of(world, EVE), 3);
    trust_note_body_version(world->trust, hex_of(world, EVE), 1);
    assert_int_equal(trust_sender_body_version(world->trust, hex_of(world, EVE)), 3);
    trust_note_body_version(world->trust, "nobody", 3);
    assert_int_equal(trust_sender_body_version(world->trust, "nobody"), 0);
    world_reopen(world);
    assert_int_equal(trust_sender_body_version(world->trust, hex_of(world, EVE)), 3);
    assert_null(trust_member(world->trust, hex_of(world, EVE))); /* having written to us makes nobody a member */
    size_t before = trust_member_count(world->trust);
    merge_list(world);
    assert_int_equal(trust_member_count(world->trust), before);
    assert_int_equal(trust_sender_body_version(world->trust, hex_of(world, EVE)), 3);
}

static void what_could_not_be_written_is_written_with_the_next_change(void **state)
{
    struct world *world = *state;
    write_sql(world->db, "ALTER TABLE trust_mesh RENAME TO hidden");
    list_member(world, BOB, own_certificate(world, BOB, T0));
    trust_set_retention_days(world->trust, 30);
    assert_int_equal(read_number(world->db, "SELECT count(*) FROM hidden"), 0);
    assert_int_equal(trust_retention_days(world->trust), 30);
    while (place_run(&world->place) == 0) { /* the failed write comes back */
        bool closed = false;
        struct message *message = mailbox_wait_all(&world->place.completions, 1000, &closed);
        assert_non_null(message);
        message->handle(message);
        break;
    }
    write_sql(world->db, "ALTER TABLE hidden RENAME TO trust_mesh");
    merge_list(world);
    world_reopen(world);
    assert_int_equal(trust_retention_days(world->trust), 30);
    assert_true(is_verified(world, BOB));
}

static void writes_on_their_way_outlive_the_trust(void **state)
{
    struct world *world = *state;
    trust_set_retention_days(world->trust, 7);
    trust_free(world->trust);
    const struct trust_identity identity = identity_of(world);
    assert_ok(trust_open(world->db, &identity, &world->trust, error));
    assert_int_equal(trust_retention_days(world->trust), 7); /* read after what was queued before */
}

static void meshes_in_one_database_do_not_mix(void **state)
{
    struct world *world = *state;
    struct trust *other = NULL;
    struct trust_identity identity = identity_of(world);
    list_member(world, BOB, own_certificate(world, BOB, T0));
    list_statement(world, "revocations", make_revocation(world, OWNER, EVE, T0));
    merge_list(world);
    trust_set_retention_days(world->trust, 9);
    trust_note_body_version(world->trust, hex_of(world, EVE), 3);
    struct trust_destination destination;
    assert_int_equal(trust_resolve(world->trust, "bob", &destination), RESOLVED);
    identity.mesh_id = OTHER_MESH_ID;
    assert_ok(trust_open(world->db, &identity, &other, error));
    assert_null(trust_member(other, hex_of(world, BOB)));
    assert_false(trust_is_revoked(other, hex_of(world, EVE)));
    assert_int_equal(trust_retention_days(other), 0);
    assert_int_equal(trust_sender_body_version(other, hex_of(world, EVE)), 0);
    assert_int_equal(trust_resolve(other, "bob", &destination), RESOLVE_UNKNOWN);
    trust_free(other);
}

static void nothing_but_the_statement_itself_is_stored(void **state)
{
    struct world *world = *state;
    json_t *certificate = own_certificate(world, BOB, T0);
    json_put_string(certificate, "ballast", "ballast");
    json_put_string(json_object_get(certificate, "join"), "ballast", "ballast");
    json_put_string(json_object_get(certificate, "invite"), "ballast", "ballast");
    json_t *revocation = make_revocation(world, OWNER, EVE, T0);
    json_put_string(revocation, "ballast", "ballast");
    list_member(world, BOB, certificate);
    list_statement(world, "revocations", revocation);
    merge_list(world);
    write_sql(world->db, "SELECT 1"); /* behind the write */
    assert_int_equal(read_number(world->db, "SELECT count(*) FROM trust_statement"), 2);
    assert_int_equal(read_number(world->db, "SELECT count(*) FROM trust_statement WHERE document LIKE '%ballast%'"), 0);
}

static void a_damaged_row_is_skipped_and_the_rest_holds(void **state)
{
    struct world *world = *state;
    list_member(world, BOB, own_certificate(world, BOB, T0));
    merge_list(world);
    write_sql(world->db, "INSERT INTO trust_statement VALUES ('7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11', 'revocation', 'x', 'no json')");
    write_sql(world->db, "INSERT INTO trust_statement VALUES ('7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11', 'grant', 'x', '{}')");
    write_sql(world->db, "INSERT INTO trust_member VALUES ('7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11', 'short', '', '', 0, 0, 1, 0)");
    world_reopen(world);
    assert_true(is_verified(world, BOB));
    assert_int_equal(trust_revocation_count(world->trust), 0);
}

#define WORLD_TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(facts_survive_a_restart),
        WORLD_TEST(a_body_version_is_never_lowered),
        WORLD_TEST(what_could_not_be_written_is_written_with_the_next_change),
        WORLD_TEST(writes_on_their_way_outlive_the_trust),
        WORLD_TEST(meshes_in_one_database_do_not_mix),
        WORLD_TEST(nothing_but_the_statement_itself_is_stored),
        WORLD_TEST(a_damaged_row_is_skipped_and_the_rest_holds),
    };
    assert_ok(crypto_start(error));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
