/* Who is verified, by which chain, in which role: honest chains and every invented one. */
#include "fixture.h"

static void the_owner_is_verified_by_the_pin_alone(void **state)
{
    struct world *world = *state;
    assert_true(is_verified(world, OWNER));
    assert_int_equal(member_of(world, OWNER)->role, ROLE_ADMIN);
    assert_false(trust_is_fresh(world->trust));
    list_member_named(world, OWNER, "whatever the broker says", NULL);
    json_put(json_array_get(json_object_get(world->list, "members"), 0), "name_statement", make_name(world, OWNER, OWNER, "the owner", 1));
    merge_list(world);
    assert_true(trust_is_fresh(world->trust));
    assert_string_equal(member_of(world, OWNER)->name, "the owner");
    assert_true(member_of(world, OWNER)->name_signed);
    trust_mark_stale(world->trust);
    assert_false(trust_is_fresh(world->trust));
}

static void a_certificate_by_the_owners_invite_verifies(void **state)
{
    struct world *world = *state;
    list_member_named(world, BOB, "boss", own_certificate(world, BOB, T0));
    list_member(world, CAROL, admin_certificate(world, CAROL, T0));
    list_member(world, EVE, NULL);
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_int_equal(member_of(world, BOB)->role, ROLE_MEMBER);
    assert_string_equal(member_of(world, BOB)->name, "bob");
    assert_true(is_verified(world, CAROL));
    assert_int_equal(member_of(world, CAROL)->role, ROLE_ADMIN);
    assert_false(is_verified(world, EVE));
    assert_string_equal(member_of(world, EVE)->name, "eve");
    assert_false(member_of(world, EVE)->name_signed);
    assert_int_equal(world->changes.new_members, 3);
    assert_int_equal(world->changes.newly_verified, 2);
    assert_int_equal(world->changes.refused, 0);
    assert_string_equal(member_of(world, BOB)->member_id, "m-bob");
    assert_int_equal(member_of(world, BOB)->joined_at, T0);
    merge_list(world);
    assert_int_equal(world->changes.new_members + world->changes.newly_verified + world->changes.renamed, 0);
}

static void a_role_that_the_broker_claims_is_not_believed(void **state)
{
    struct world *world = *state;
    json_put_string(list_member(world, BOB, own_certificate(world, BOB, T0)), "role", "admin");
    json_put_string(list_member(world, EVE, NULL), "role", "admin");
    merge_list(world);
    assert_int_equal(member_of(world, BOB)->role, ROLE_MEMBER);
    assert_int_equal(member_of(world, EVE)->role, ROLE_MEMBER);
}

static json_t *tampered(json_t *certificate, const char *name, json_t *value)
{
    json_put(json_object_get(certificate, "join"), name, value);
    return certificate;
}

static void invented_members_are_never_verified(void **state)
{
    struct world *world = *state;
    const struct invite_options eves_own = { .owner = EVE, .signer = EVE };
    const struct invite_options other_mesh = { .mesh_id = OTHER_MESH_ID };
    const struct invite_options self_granted = { .signer = EVE, .grant = make_grant(world, EVE, EVE, "admin", 1, T0) };
    json_t *late = tampered(own_certificate(world, EVE, T0), "at", json_integer((EXPIRES_S + 1) * 1000));
    json_t *certificates[] = {
        make_certificate(world, &eves_own, EVE, "eve", T0),
        make_certificate(world, &other_mesh, EVE, "eve", T0),
        make_certificate(world, &self_granted, EVE, "eve", T0),
        tampered(own_certificate(world, BOB, T0), "pubkey", json_string(hex_of(world, EVE))), /* somebody else's */
        tampered(own_certificate(world, EVE, T0), "role", json_string("admin")),
        tampered(own_certificate(world, EVE, T0), "name", json_string("owner")),
        late,
        json_new_object(),
        json_string("certificate"),
        json_integer(5),
    };
    for (size_t index = 0; index < ARRAY_LENGTH(certificates); index++) {
        list_new(world);
        list_member(world, EVE, certificates[index]);
        merge_list(world);
        assert_false(is_verified(world, EVE));
        assert_int_equal(world->changes.refused, 1);
        assert_int_equal(world->changes.newly_verified, 0);
    }
}

static void somebody_elses_certificate_verifies_only_its_own_key(void **state)
{
    struct world *world = *state;
    list_member(world, EVE, own_certificate(world, BOB, T0));
    merge_list(world);
    assert_false(is_verified(world, EVE));
    assert_true(is_verified(world, BOB));
    assert_false(member_of(world, BOB)->listed);
}

static void an_admins_invite_with_the_owners_grant_verifies(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .signer = CAROL, .grant = make_grant(world, OWNER, CAROL, "admin", 1, T0) };
    list_member(world, BOB, make_certificate(world, &options, BOB, "bob", T0 + 5));
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_true(is_verified(world, CAROL)); /* the invite brought its grant */
    assert_int_equal(member_of(world, CAROL)->role, ROLE_ADMIN);
}

static void a_grant_by_the_owner_verifies_a_member_of_the_existing_network(void **state)
{
    struct world *world = *state;
    list_member(world, BOB, NULL);
    json_put(list_member(world, CAROL, NULL), "grant", make_grant(world, OWNER, CAROL, "admin", 1, T0));
    list_statement(world, "grants", make_grant(world, OWNER, BOB, "member", 1, T0));
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_true(is_verified(world, CAROL));
    assert_int_equal(member_of(world, CAROL)->role, ROLE_ADMIN);
    assert_false(member_of(world, BOB)->name_signed);
    assert_string_equal(member_of(world, BOB)->name, "bob");
}

static void an_admin_vouches_for_members_and_makes_no_admins(void **state)
{
    struct world *world = *state;
    list_member(world, CAROL, admin_certificate(world, CAROL, T0));
    list_member(world, BOB, own_certificate(world, BOB, T0));
    list_statement(world, "grants", make_grant(world, CAROL, DAVE, "member", 1, T0 + 5)); /* stands before what it rests on in no order */
    list_statement(world, "grants", make_grant(world, CAROL, EVE, "admin", 1, T0 + 5));
    list_statement(world, "grants", make_grant(world, BOB, FRANK, "member", 1, T0 + 5));
    merge_list(world);
    assert_true(is_verified(world, DAVE));
    assert_false(is_verified(world, EVE));
    assert_false(is_verified(world, FRANK));
    assert_int_equal(world->changes.refused, 2);
}

static void the_owners_newest_grant_decides_the_role_and_older_ones_do_not_come_back(void **state)
{
    struct world *world = *state;
    list_statement(world, "grants", make_grant(world, OWNER, CAROL, "admin", 1, T0));
    merge_list(world);
    assert_int_equal(member_of(world, CAROL)->role, ROLE_ADMIN);
    list_statement(world, "grants", make_grant(world, OWNER, CAROL, "member", 2, T0 + 10));
    merge_list(world);
    assert_int_equal(member_of(world, CAROL)->role, ROLE_MEMBER);
    assert_true(is_verified(world, CAROL));
    list_new(world);
    list_statement(world, "grants", make_grant(world, OWNER, CAROL, "admin", 1, T0));
    merge_list(world);
    assert_int_equal(member_of(world, CAROL)->role, ROLE_MEMBER);
    /* what she did while she was one holds; what she does after does not */
    list_statement(world, "grants", make_grant(world, CAROL, BOB, "member", 1, T0 + 9));
    list_statement(world, "grants", make_grant(world, CAROL, DAVE, "member", 1, T0 + 10));
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_false(is_verified(world, DAVE));
}

static void surplus_certificates_of_one_invite_do_not_count(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .max_uses = 2 };
    list_member(world, BOB, make_certificate(world, &options, BOB, "bob", T0 + 30));
    list_member(world, CAROL, make_certificate(world, &options, CAROL, "carol", T0 + 10));
    merge_list(world);
    assert_true(is_verified(world, BOB) && is_verified(world, CAROL));
    list_member(world, DAVE, make_certificate(world, &options, DAVE, "dave", T0 + 20));
    merge_list(world);
    assert_true(is_verified(world, CAROL) && is_verified(world, DAVE));
    assert_false(is_verified(world, BOB)); /* the last by time, whenever we heard of it */
    world_reopen(world);
    assert_false(is_verified(world, BOB));
}

static void at_one_time_the_smaller_key_has_the_place(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .max_uses = 1 };
    list_member(world, BOB, make_certificate(world, &options, BOB, "bob", T0));
    list_member(world, CAROL, make_certificate(world, &options, CAROL, "carol", T0));
    merge_list(world);
    bool bob_is_smaller = strcmp(hex_of(world, BOB), hex_of(world, CAROL)) < 0;
    assert_int_equal(is_verified(world, BOB), bob_is_smaller);
    assert_int_equal(is_verified(world, CAROL), !bob_is_smaller);
}

static void joining_twice_with_one_key_uses_one_place(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .max_uses = 2 };
    list_member(world, BOB, make_certificate(world, &options, BOB, "bob", T0 + 1));
    list_statement(world, "certs", make_certificate(world, &options, BOB, "bob", T0 + 2));
    list_member(world, CAROL, make_certificate(world, &options, CAROL, "carol", T0 + 3));
    merge_list(world);
    assert_true(is_verified(world, BOB) && is_verified(world, CAROL));
    assert_int_equal(world->changes.refused, 0);
}

static void of_two_joins_with_one_key_the_earlier_has_the_place(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .max_uses = 1 };
    list_member(world, BOB, make_certificate(world, &options, BOB, "bob", T0 + 5));
    list_member(world, CAROL, make_certificate(world, &options, CAROL, "carol", T0 + 3));
    merge_list(world);
    assert_false(is_verified(world, BOB));
    list_statement(world, "certs", make_certificate(world, &options, BOB, "bob", T0 + 2));
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_false(is_verified(world, CAROL));
    world_reopen(world);
    assert_true(is_verified(world, BOB));
}

static void names_come_from_certificates_and_statements_never_from_the_broker(void **state)
{
    struct world *world = *state;
    json_t *bob = list_member_named(world, BOB, "the boss", own_certificate(world, BOB, T0));
    json_put(bob, "name_statement", make_name(world, EVE, BOB, "the boss", 1)); /* by another key */
    merge_list(world);
    assert_string_equal(member_of(world, BOB)->name, "bob");
    assert_int_equal(world->changes.refused, 1);
    json_put(bob, "name_statement", make_name(world, BOB, BOB, "robert", 3));
    merge_list(world);
    assert_string_equal(member_of(world, BOB)->name, "robert");
    assert_int_equal(world->changes.renamed, 1);
    json_put(bob, "name_statement", make_name(world, BOB, BOB, "bobby", 2)); /* played again */
    list_statement(world, "names", make_name(world, BOB, BOB, "robby", 3));
    merge_list(world);
    assert_string_equal(member_of(world, BOB)->name, "robert");
    list_statement(world, "names", make_name(world, BOB, BOB, "Bob IV", 4));
    merge_list(world);
    assert_string_equal(member_of(world, BOB)->name, "Bob IV");
    assert_string_equal(member_of(world, BOB)->folded_name, "bob iv");
    world_reopen(world);
    assert_string_equal(member_of(world, BOB)->name, "Bob IV");
}

static void a_name_statement_that_names_another_maker_is_refused(void **state)
{
    struct world *world = *state;
    json_t *statement = make_name(world, BOB, BOB, "robert", 1);
    json_put_string(statement, "by", hex_of(world, EVE));
    list_member(world, BOB, NULL);
    list_statement(world, "names", statement);
    list_statement(world, "names", make_name(world, EVE, EVE, "nobody knows eve", 1));
    merge_list(world);
    assert_string_equal(member_of(world, BOB)->name, "bob");
    assert_int_equal(world->changes.refused, 2);
    assert_null(trust_member(world->trust, hex_of(world, EVE)));
}

static void nobody_verifies_without_an_owner(void **state)
{
    struct world *world = *state;
    struct trust_identity identity = identity_of(world);
    struct trust *trust = NULL;
    identity.owner_pubkey = "";
    list_member(world, BOB, own_certificate(world, BOB, T0));
    list_statement(world, "grants", make_grant(world, OWNER, CAROL, "admin", 1, T0));
    list_statement(world, "revocations", make_revocation(world, OWNER, BOB, T0));
    assert_ok(trust_open(world->db, &identity, &trust, error));
    assert_ok(trust_merge_members(trust, world->list, &world->changes, error));
    assert_non_null(trust_member(trust, hex_of(world, BOB)));
    assert_false(trust_member(trust, hex_of(world, BOB))->verified);
    assert_false(trust_is_revoked(trust, hex_of(world, BOB)));
    assert_null(trust_member(trust, hex_of(world, CAROL)));
    assert_int_equal(world->changes.refused, 3);
    trust_free(trust);
}

static void malformed_entries_are_counted_and_the_rest_holds(void **state)
{
    struct world *world = *state;
    json_t *members = json_object_get(world->list, "members");
    char upper[KEY_HEX_SIZE];
    for (size_t index = 0; index < sizeof(upper); index++) {
        char digit = hex_of(world, EVE)[index];
        upper[index] = digit >= 'a' && digit <= 'f' ? (char)(digit - 'a' + 'A') : digit;
    }
    (void)json_array_append_new(members, json_integer(5));
    (void)json_array_append_new(members, json_null());
    (void)json_array_append_new(members, json_pack("{s:s}", "pubkey", upper));
    (void)json_array_append_new(members, json_pack("{s:s}", "pubkey", "00"));
    (void)json_array_append_new(members, json_pack("{s:s}", "pubkey", "0000000000000000000000000000000000000000000000000000000000000000"));
    (void)json_array_append_new(members, json_pack("{s:i}", "pubkey", 5));
    (void)json_array_append_new(members, json_pack("{s:s,s:i,s:i,s:s,s:s,s:i}", "pubkey", hex_of(world, EVE), "id", 5, "displayName", 5,
                                                   "joinedAt", "soon", "lastSeenAt", "2026-11-23T12:34:56Z", "revoked", 1));
    list_statement(world, "grants", json_string("grant"));
    list_statement(world, "revocations", json_new_array());
    json_put(world->list, "names", json_string("none"));
    list_member(world, BOB, own_certificate(world, BOB, T0));
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_int_equal(world->changes.refused, 8);
    assert_string_equal(member_of(world, EVE)->name, "");
    assert_int_equal(member_of(world, EVE)->joined_at, -1);
    assert_int_equal(member_of(world, EVE)->last_seen_at, 1795437296000);
    json_t *no_members = json_pack("{s:i}", "members", 5);
    struct error error;
    assert_int_equal(trust_merge_members(world->trust, no_members, &world->changes, &error), -(int)ERROR_INVALID);
    json_decref(no_members);
    assert_true(is_verified(world, BOB));
}

static void long_and_zero_ridden_names_of_the_broker_do_no_harm(void **state)
{
    struct world *world = *state;
    char name[400];
    for (size_t index = 0; index + 2 < sizeof(name); index += 2) {
        memcpy(name + index, "\xc3\xa9", 2);
    }
    name[398] = '\0';
    json_put_string(list_member(world, BOB, NULL), "displayName", name);
    json_put(list_member(world, EVE, NULL), "displayName", json_stringn_nocheck("e\0ve", 4));
    merge_list(world);
    assert_int_equal(strlen(member_of(world, BOB)->name), 128);
    assert_string_equal(member_of(world, EVE)->name, "");
}

static void who_is_no_longer_listed_and_vouched_for_by_nobody_is_forgotten(void **state)
{
    struct world *world = *state;
    list_member(world, BOB, own_certificate(world, BOB, T0));
    list_member(world, EVE, NULL);
    merge_list(world);
    assert_true(member_of(world, EVE)->listed);
    list_new(world);
    list_member(world, CAROL, NULL);
    merge_list(world);
    assert_null(trust_member(world->trust, hex_of(world, EVE)));
    assert_true(is_verified(world, BOB)); /* the broker cannot unmake a member */
    assert_false(member_of(world, BOB)->listed);
    world_reopen(world);
    assert_null(trust_member(world->trust, hex_of(world, EVE)));
    assert_true(is_verified(world, BOB));
    assert_false(member_of(world, BOB)->listed);
    assert_true(member_of(world, CAROL)->listed);
    assert_false(trust_is_fresh(world->trust));
}

static void a_list_may_come_in_pages(void **state)
{
    struct world *world = *state;
    list_member(world, EVE, NULL);
    merge_list(world);
    trust_mark_stale(world->trust);
    list_new(world);
    list_member(world, BOB, own_certificate(world, BOB, T0));
    json_put_integer(world->list, "next", 2);
    merge_list(world);
    assert_false(trust_is_fresh(world->trust));
    assert_non_null(trust_member(world->trust, hex_of(world, EVE)));
    list_new(world);
    list_member(world, CAROL, NULL);
    json_put_integer(world->list, "after", 2);
    merge_list(world);
    assert_true(trust_is_fresh(world->trust));
    assert_true(member_of(world, BOB)->listed && member_of(world, CAROL)->listed);
    assert_null(trust_member(world->trust, hex_of(world, EVE)));
}

/* A broker's pages begin with the statements; whom they rest on stands among the members, at the end. */
static void a_statement_may_stand_pages_before_what_it_rests_on(void **state)
{
    struct world *world = *state;
    list_statement(world, "revocations", make_revocation(world, CAROL, BOB, T0 + 5));
    list_statement(world, "revocations", make_revocation(world, EVE, FRANK, T0 + 5));
    list_statement(world, "rotations", make_rotation(world, FRANK, DAVE, 1, T0 + 5));
    json_put_integer(world->list, "next", 2);
    merge_list(world);
    assert_int_equal(world->changes.refused, 0);
    list_new(world);
    list_member(world, BOB, own_certificate(world, BOB, T0));
    json_put_integer(world->list, "after", 2);
    json_put_integer(world->list, "next", 3);
    merge_list(world);
    assert_false(trust_is_fresh(world->trust));
    list_new(world);
    list_member(world, CAROL, admin_certificate(world, CAROL, T0));
    list_member(world, FRANK, own_certificate(world, FRANK, T0));
    json_put_integer(world->list, "after", 3);
    merge_list(world);
    assert_true(trust_is_fresh(world->trust));
    assert_true(member_of(world, BOB)->revoked);
    assert_string_equal(trust_current_key(world->trust, hex_of(world, FRANK)), hex_of(world, DAVE));
    assert_true(is_verified(world, DAVE));
    assert_int_equal(world->changes.refused, 1); /* eve's */
    world_reopen(world);
    assert_true(member_of(world, BOB)->revoked);
    assert_true(is_verified(world, DAVE));
}

static int merge_event(struct world *world, const char *event, json_t *data /* taken over */)
{
    int result = trust_merge_event(world->trust, event, data, &world->changes, NULL);
    json_decref(data);
    return result;
}

static void events_bring_members_and_statements_one_by_one(void **state)
{
    struct world *world = *state;
    json_t *bob = json_deep_copy(list_member(world, BOB, own_certificate(world, BOB, T0)));
    assert_int_equal(merge_event(world, "member_joined", bob), 0);
    assert_true(is_verified(world, BOB) && member_of(world, BOB)->listed);
    assert_int_equal(world->changes.newly_verified, 1);
    assert_int_equal(merge_event(world, "member_renamed", make_name(world, BOB, BOB, "robert", 1)), 0);
    assert_string_equal(member_of(world, BOB)->name, "robert");
    json_t *nested = json_new_object();
    json_put(nested, "statement", make_name(world, BOB, BOB, "rob", 2));
    assert_int_equal(merge_event(world, "member_renamed", nested), 0);
    assert_string_equal(member_of(world, BOB)->name, "rob");
    nested = json_new_object();
    json_put_string(nested, "pubkey", hex_of(world, BOB));
    json_put(nested, "revocation", make_revocation(world, OWNER, BOB, T0 + 5));
    assert_int_equal(merge_event(world, "member_revoked", nested), 0);
    assert_true(trust_is_revoked(world->trust, hex_of(world, BOB)));
    assert_int_equal(world->changes.newly_revoked, 1);
    assert_int_equal(merge_event(world, "member_joined", json_pack("{s:s,s:s}", "memberPubkey", hex_of(world, EVE), "displayName", "eve")),
                     0);
    assert_false(is_verified(world, EVE));
}

static void an_event_that_proves_nothing_says_so(void **state)
{
    struct world *world = *state;
    list_member(world, BOB, own_certificate(world, BOB, T0));
    merge_list(world);
    assert_int_equal(merge_event(world, "member_revoked", json_pack("{s:s}", "pubkey", hex_of(world, BOB))), -(int)ERROR_INVALID);
    assert_int_equal(merge_event(world, "member_revoked", make_revocation(world, EVE, BOB, T0 + 5)), -(int)ERROR_INVALID);
    assert_int_equal(merge_event(world, "member_renamed", make_name(world, EVE, BOB, "x", 9)), -(int)ERROR_INVALID);
    assert_int_equal(merge_event(world, "member_joined", json_null()), -(int)ERROR_INVALID);
    assert_int_equal(merge_event(world, "member_unheard_of", make_revocation(world, OWNER, BOB, T0 + 5)), -(int)ERROR_INVALID);
    assert_false(trust_is_revoked(world->trust, hex_of(world, BOB)));
    assert_string_equal(member_of(world, BOB)->name, "bob");
}

static void everything_is_there_after_a_restart(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .signer = CAROL, .grant = make_grant(world, OWNER, CAROL, "admin", 1, T0) };
    list_member(world, BOB, make_certificate(world, &options, BOB, "bob", T0 + 5));
    list_member(world, DAVE, own_certificate(world, DAVE, T0));
    json_put_bool(list_member_named(world, EVE, "Eve", NULL), "revoked", true);
    list_statement(world, "grants", make_grant(world, CAROL, FRANK, "member", 1, T0 + 6));
    list_statement(world, "revocations", make_revocation(world, OWNER, DAVE, T0 + 9));
    merge_list(world);
    char *rv = memory_strdup(trust_rv(world->trust));
    size_t count = trust_member_count(world->trust);
    world_reopen(world);
    assert_int_equal(trust_member_count(world->trust), count);
    assert_true(is_verified(world, BOB) && is_verified(world, CAROL) && is_verified(world, FRANK));
    assert_false(is_verified(world, DAVE) || is_verified(world, EVE));
    assert_true(member_of(world, DAVE)->revoked);
    assert_false(member_of(world, EVE)->revoked);
    assert_true(member_of(world, EVE)->revoked_claim);
    assert_string_equal(member_of(world, EVE)->name, "Eve");
    assert_string_equal(trust_rv(world->trust), rv);
    free(rv);
    merge_list(world);
    assert_int_equal(world->changes.newly_verified + world->changes.newly_revoked + world->changes.new_members + world->changes.refused, 0);
}

static void statements_of_another_mesh_mean_nothing_here(void **state)
{
    struct world *world = *state;
    json_t *grant = make_grant(world, OWNER, BOB, "admin", 1, T0);
    json_put_string(grant, "mesh", OTHER_MESH_ID);
    sign(STATEMENT_GRANT, grant, world->keys[OWNER], "sig");
    list_statement(world, "grants", grant);
    merge_list(world);
    assert_int_equal(world->changes.refused, 1);
    assert_null(trust_member(world->trust, hex_of(world, BOB)));
}

static void a_mesh_with_a_malformed_key_is_not_opened(void **state)
{
    struct world *world = *state;
    struct trust_identity identity = identity_of(world);
    struct trust *trust = NULL;
    struct error error = { 0 };
    identity.owner_pubkey = "F00";
    assert_int_equal(trust_open(world->db, &identity, &trust, &error), -(int)ERROR_INVALID);
    identity = identity_of(world);
    identity.own_pubkey = "";
    assert_int_equal(trust_open(world->db, &identity, &trust, &error), -(int)ERROR_INVALID);
    assert_null(trust);
}

#define WORLD_TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(the_owner_is_verified_by_the_pin_alone),
        WORLD_TEST(a_certificate_by_the_owners_invite_verifies),
        WORLD_TEST(a_role_that_the_broker_claims_is_not_believed),
        WORLD_TEST(invented_members_are_never_verified),
        WORLD_TEST(somebody_elses_certificate_verifies_only_its_own_key),
        WORLD_TEST(an_admins_invite_with_the_owners_grant_verifies),
        WORLD_TEST(a_grant_by_the_owner_verifies_a_member_of_the_existing_network),
        WORLD_TEST(an_admin_vouches_for_members_and_makes_no_admins),
        WORLD_TEST(the_owners_newest_grant_decides_the_role_and_older_ones_do_not_come_back),
        WORLD_TEST(surplus_certificates_of_one_invite_do_not_count),
        WORLD_TEST(at_one_time_the_smaller_key_has_the_place),
        WORLD_TEST(joining_twice_with_one_key_uses_one_place),
        WORLD_TEST(of_two_joins_with_one_key_the_earlier_has_the_place),
        WORLD_TEST(names_come_from_certificates_and_statements_never_from_the_broker),
        WORLD_TEST(a_name_statement_that_names_another_maker_is_refused),
        WORLD_TEST(nobody_verifies_without_an_owner),
        WORLD_TEST(malformed_entries_are_counted_and_the_rest_holds),
        WORLD_TEST(long_and_zero_ridden_names_of_the_broker_do_no_harm),
        WORLD_TEST(who_is_no_longer_listed_and_vouched_for_by_nobody_is_forgotten),
        WORLD_TEST(a_list_may_come_in_pages),
        WORLD_TEST(a_statement_may_stand_pages_before_what_it_rests_on),
        WORLD_TEST(events_bring_members_and_statements_one_by_one),
        WORLD_TEST(an_event_that_proves_nothing_says_so),
        WORLD_TEST(everything_is_there_after_a_restart),
        WORLD_TEST(statements_of_another_mesh_mean_nothing_here),
        WORLD_TEST(a_mesh_with_a_malformed_key_is_not_opened),
    };
    assert_ok(crypto_start(error));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
