/* Who may revoke whom, what a revocation of an admin or of an invite undoes, leaving, rotations, rv; and that the order in which statements come changes nothing. */
#include <time.h>

#include "util/clock.h"
#include "fixture.h"
#include "util/ids.h"

/* Carol and Dave are admins, Bob and Eve members. */
static void settle_mesh(struct world *world)
{
    list_member(world, OWNER, NULL);
    list_member(world, ALICE, own_certificate(world, ALICE, T0));
    list_member(world, BOB, own_certificate(world, BOB, T0));
    list_member(world, CAROL, admin_certificate(world, CAROL, T0));
    list_member(world, DAVE, admin_certificate(world, DAVE, T0));
    list_member(world, EVE, own_certificate(world, EVE, T0));
    merge_list(world);
}

static bool is_revoked(const struct world *world, enum who who)
{
    return trust_is_revoked(world->trust, hex_of(world, who));
}

static void revoke_member(struct world *world, enum who by, enum who subject, int64_t at)
{
    list_statement(world, "revocations", make_revocation(world, by, subject, at));
    merge_list(world);
}

static void the_owner_revokes_anybody(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    revoke_member(world, OWNER, BOB, T0 + 5);
    revoke_member(world, OWNER, CAROL, T0 + 5);
    assert_true(is_revoked(world, BOB) && is_revoked(world, CAROL));
    assert_false(is_verified(world, BOB) || is_verified(world, CAROL));
    assert_int_equal(trust_revocation_count(world->trust), 2);
    assert_false(trust_self_revoked(world->trust));
    revoke_member(world, OWNER, ALICE, T0 + 5);
    assert_true(trust_self_revoked(world->trust));
}

static void an_admin_revokes_members_and_nobody_else(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    revoke_member(world, CAROL, BOB, T0 + 5);
    assert_true(is_revoked(world, BOB));
    assert_int_equal(world->changes.newly_revoked, 1);
    revoke_member(world, CAROL, DAVE, T0 + 5);
    assert_false(is_revoked(world, DAVE));
    revoke_member(world, CAROL, DAVE, 0); /* nor by dating it before Dave was made one */
    assert_false(is_revoked(world, DAVE));
    revoke_member(world, CAROL, OWNER, T0 + 5);
    assert_false(is_revoked(world, OWNER));
    assert_true(is_verified(world, OWNER));
    assert_int_equal(trust_revocation_count(world->trust), 1);
}

static void nobody_revokes_the_owner_and_members_revoke_nobody(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    revoke_member(world, OWNER, OWNER, T0 + 5);
    revoke_member(world, BOB, EVE, T0 + 5);
    revoke_member(world, EVE, EVE, T0 + 5);
    revoke_member(world, FRANK, BOB, T0 + 5);
    assert_int_equal(trust_revocation_count(world->trust), 0);
    assert_int_equal(world->changes.refused, 4);
    assert_true(is_verified(world, OWNER) && is_verified(world, BOB) && is_verified(world, EVE));
}

static void a_forged_or_changed_revocation_is_refused(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    json_t *forged = make_revocation(world, EVE, BOB, T0 + 5);
    json_put_string(forged, "by", hex_of(world, OWNER));
    json_t *redirected = make_revocation(world, OWNER, EVE, T0 + 5);
    json_put_string(redirected, "subject_pubkey", hex_of(world, BOB));
    json_t *unsigned_one = make_revocation(world, OWNER, BOB, T0 + 5);
    assert_int_equal(json_object_del(unsigned_one, "sig"), 0);
    list_statement(world, "revocations", forged);
    list_statement(world, "revocations", redirected);
    list_statement(world, "revocations", unsigned_one);
    merge_list(world);
    assert_int_equal(world->changes.refused, 3);
    assert_false(is_revoked(world, BOB));
}

static void a_brokers_word_is_shown_and_not_believed(void **state)
{
    struct world *world = *state;
    json_put_bool(list_member(world, BOB, own_certificate(world, BOB, T0)), "revoked", true);
    merge_list(world);
    assert_false(is_revoked(world, BOB));
    assert_true(is_verified(world, BOB));
    assert_true(member_of(world, BOB)->revoked_claim);
}

static void revocations_are_kept_for_ever(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    revoke_member(world, OWNER, BOB, T0 + 5);
    revoke_member(world, OWNER, FRANK, T0 + 5); /* of somebody whom we have never heard of */
    list_new(world);
    list_member(world, BOB, own_certificate(world, BOB, T0));
    list_statement(world, "grants", make_grant(world, OWNER, BOB, "admin", 1, T0 + 50));
    list_member(world, FRANK, own_certificate(world, FRANK, T0 + 50));
    merge_list(world);
    assert_true(is_revoked(world, BOB) && is_revoked(world, FRANK));
    assert_false(is_verified(world, BOB) || is_verified(world, FRANK));
    world_reopen(world);
    assert_true(is_revoked(world, BOB) && is_revoked(world, FRANK));
    assert_int_equal(trust_revocation_count(world->trust), 2);
}

static void acts_of_a_revoked_admin_are_void_from_then_on(void **state)
{
    struct world *world = *state;
    const struct invite_options options = {
        .number = 9, .signer = CAROL, .max_uses = 5, .grant = make_grant(world, OWNER, CAROL, "admin", 1, T0)
    };
    settle_mesh(world);
    list_statement(world, "certs", make_certificate(world, &options, FRANK, "frank", T0 + 20));
    list_statement(world, "revocations", make_revocation(world, CAROL, BOB, T0 + 9));
    list_statement(world, "revocations", make_revocation(world, CAROL, EVE, T0 + 10));
    merge_list(world);
    assert_true(is_verified(world, FRANK));
    assert_true(is_revoked(world, BOB) && is_revoked(world, EVE));
    revoke_member(world, OWNER, CAROL, T0 + 10);
    assert_false(is_verified(world, FRANK)); /* joined with her invite after it */
    assert_true(is_revoked(world, BOB));
    assert_false(is_revoked(world, EVE));
    assert_int_equal(trust_revocation_count(world->trust), 2);
}

static const char *invite_id_of_certificate(const json_t *certificate)
{
    return json_string_value(json_object_get(json_object_get(certificate, "invite"), "invite_id"));
}

static void a_revoked_invite_lets_nobody_in_any_more(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .number = 9, .max_uses = 5 };
    json_t *before = make_certificate(world, &options, BOB, "bob", T0 + 9);
    char *invite_id = memory_strdup(invite_id_of_certificate(before));
    list_member(world, CAROL, admin_certificate(world, CAROL, T0));
    list_member(world, BOB, before);
    list_member(world, EVE, make_certificate(world, &options, EVE, "eve", T0 + 10));
    list_member(world, FRANK, own_certificate(world, FRANK, T0));
    list_statement(world, "invite_revocations", make_invite_revocation(world, FRANK, invite_id, T0)); /* by a mere member */
    merge_list(world);
    assert_true(is_verified(world, BOB) && is_verified(world, EVE));
    assert_int_equal(world->changes.refused, 1);
    list_statement(world, "invite_revocations", make_invite_revocation(world, CAROL, invite_id, T0 + 10));
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_false(is_verified(world, EVE));
    world_reopen(world);
    assert_false(is_verified(world, EVE));
    free(invite_id);
}

static void only_the_owner_revokes_the_invite_that_made_an_admin(void **state)
{
    struct world *world = *state;
    json_t *certificate = admin_certificate(world, DAVE, T0 + 5);
    char *invite_id = memory_strdup(invite_id_of_certificate(certificate));
    list_member(world, CAROL, admin_certificate(world, CAROL, T0));
    list_member(world, DAVE, certificate);
    list_statement(world, "invite_revocations", make_invite_revocation(world, CAROL, invite_id, T0 + 1));
    merge_list(world);
    assert_true(is_verified(world, DAVE));
    list_statement(world, "invite_revocations", make_invite_revocation(world, OWNER, invite_id, T0 + 1));
    merge_list(world);
    assert_false(is_verified(world, DAVE));
    free(invite_id);
}

static void who_left_is_gone_until_joining_anew(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_statement(world, "leaves", make_leave(world, EVE, BOB, T0 + 5)); /* not his own word */
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_int_equal(world->changes.refused, 1);
    list_statement(world, "leaves", make_leave(world, BOB, BOB, T0 + 5));
    merge_list(world);
    assert_false(is_verified(world, BOB));
    assert_true(member_of(world, BOB)->left);
    assert_false(is_revoked(world, BOB));
    assert_int_equal(trust_revocation_count(world->trust), 0);
    world_reopen(world);
    assert_true(member_of(world, BOB)->left);
    const struct invite_options options = { .number = 40 };
    list_statement(world, "certs", make_certificate(world, &options, BOB, "bob", T0 + 6));
    merge_list(world);
    assert_true(is_verified(world, BOB));
    assert_false(member_of(world, BOB)->left);
    list_statement(world, "leaves", make_leave(world, OWNER, OWNER, T0 + 5));
    merge_list(world);
    assert_true(is_verified(world, OWNER)); /* the pin */
}

/* ---- rotations -------------------------------------------------------------------------------------------- */

static void a_rotation_carries_membership_over_to_the_new_key(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_statement(world, "rotations", make_rotation(world, CAROL, FRANK, 1, T0 + 5));
    merge_list(world);
    assert_true(is_verified(world, FRANK));
    assert_int_equal(member_of(world, FRANK)->role, ROLE_ADMIN);
    assert_string_equal(member_of(world, FRANK)->name, "carol");
    assert_true(member_of(world, CAROL)->superseded);
    assert_false(member_of(world, FRANK)->superseded);
    world_reopen(world);
    assert_true(is_verified(world, FRANK));
    revoke_member(world, OWNER, CAROL, T0 + 6); /* her old key: it is the same member */
    assert_true(is_revoked(world, FRANK) && is_revoked(world, CAROL));
}

static void rotations_follow_each_other_in_whatever_order_they_come(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_statement(world, "rotations", make_rotation(world, FRANK, DAVE, 2, T0 + 6));
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 1, T0 + 5));
    merge_list(world);
    assert_true(member_of(world, BOB)->superseded && member_of(world, FRANK)->superseded);
    assert_int_equal(world->changes.refused, 0);
    world_reopen(world);
    assert_true(member_of(world, BOB)->superseded && member_of(world, FRANK)->superseded);
    assert_false(member_of(world, DAVE)->superseded);
}

static void a_rotation_needs_both_signatures_and_the_next_seq(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    json_t *one_sided = make_rotation(world, BOB, FRANK, 1, T0 + 5);
    json_put(one_sided, "sig_new", json_incref(json_object_get(one_sided, "sig_old")));
    json_t *stolen = make_rotation(world, EVE, FRANK, 1, T0 + 5);
    json_put_string(stolen, "old", hex_of(world, BOB));
    list_statement(world, "rotations", one_sided);
    list_statement(world, "rotations", stolen);
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 2, T0 + 5));
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 0, T0 + 5));
    list_statement(world, "rotations", make_rotation(world, FRANK, BOB, 1, T0 + 5)); /* of nobody */
    merge_list(world);
    assert_int_equal(world->changes.refused, 5);
    assert_false(member_of(world, BOB)->superseded);
    assert_null(trust_member(world->trust, hex_of(world, FRANK)));
}

static void a_line_of_keys_never_runs_into_itself(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 1, T0 + 5));
    list_statement(world, "rotations", make_rotation(world, FRANK, BOB, 2, T0 + 6));
    list_statement(world, "rotations", make_rotation(world, EVE, FRANK, 1, T0 + 6)); /* another's new key */
    merge_list(world);
    assert_int_equal(world->changes.refused, 2);
    assert_true(member_of(world, BOB)->superseded);
    assert_false(member_of(world, FRANK)->superseded || member_of(world, EVE)->superseded);
}

static void list_member_of_key(struct world *world, const struct keypair *keys)
{
    json_t *member = json_new_object();
    json_put_string(member, "id", "m-of-a-key");
    json_put_string(member, "pubkey", keypair_public_hex(keys));
    list_statement(world, "members", member);
}

static json_t *rotation_of_keys(const struct keypair *old, const struct keypair *new, int64_t seq)
{
    char sig_old[SIGNATURE_HEX_SIZE], sig_new[SIGNATURE_HEX_SIZE];
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", MESH_ID);
    json_put_string(fields, "member_id", "m-of-a-key");
    json_put_integer(fields, "seq", seq);
    json_put_string(fields, "old", keypair_public_hex(old));
    json_put_string(fields, "new", keypair_public_hex(new));
    json_put_integer(fields, "at", T0 + 5);
    assert_ok(statement_sign_json(STATEMENT_ROTATION, fields, old, sig_old, error));
    assert_ok(statement_sign_json(STATEMENT_ROTATION, fields, new, sig_new, error));
    json_put_string(fields, "sig_old", sig_old);
    json_put_string(fields, "sig_new", sig_new);
    return fields;
}

/* A line of keys, told from its end, so that each pass over the list accepts one; beside it forgeries of which each pass could look at every signature again. */
static void a_forged_statement_is_looked_at_once_however_the_list_is_ordered(void **state)
{
    enum { LINE = 120, FORGED = 600 };
    struct world *world = *state;
    struct keypair *line[LINE + 1], *forger[FORGED];
    for (size_t i = 0; i <= LINE; i++) {
        assert_ok(keypair_generate(&line[i], error));
        list_member_of_key(world, line[i]);
    }
    for (size_t i = LINE; i > 0; i--) {
        list_statement(world, "rotations", rotation_of_keys(line[i - 1], line[i], (int64_t)i));
    }
    for (size_t i = 0; i < FORGED; i++) {
        assert_ok(keypair_generate(&forger[i], error));
        list_member_of_key(world, forger[i]);
        json_t *forged = rotation_of_keys(forger[i], line[0], 1);
        json_put_string(forged, "sig_old", json_string_value(json_object_get(forged, "sig_new")));
        list_statement(world, "rotations", forged);
    }
    clock_t before = clock();
    merge_list(world);
    double seconds = (double)(clock() - before) / CLOCKS_PER_SEC; /* of this process: a busy machine changes little */
    assert_int_equal(world->changes.refused, FORGED);
    assert_true(trust_member(world->trust, keypair_public_hex(line[LINE - 1]))->superseded);
    assert_true(seconds < 2.5); /* some 800 signatures; 72,000 took 5 s */
    for (size_t i = 0; i <= LINE; i++) {
        keypair_free(line[i]);
    }
    for (size_t i = 0; i < FORGED; i++) {
        keypair_free(forger[i]);
    }
}

/* A member may rotate as often as it likes: what it makes each daemon do grows with the number of its keys, not with its square. */
static void a_member_that_rotates_for_ever_costs_little(void **state)
{
    enum { LINE = 4000, AT_ONCE = 500 };
    struct world *world = *state;
    settle_mesh(world);
    struct keypair **line = memory_calloc(LINE + 1, sizeof(*line));
    for (size_t i = 0; i <= LINE; i++) {
        assert_ok(keypair_generate(&line[i], error));
    }
    clock_t before = clock();
    list_member_of_key(world, line[0]);
    for (size_t i = 1; i <= LINE; i++) {
        list_statement(world, "rotations", rotation_of_keys(line[i - 1], line[i], (int64_t)i));
        if (i % AT_ONCE == 0) {
            merge_list(world);
            list_new(world);
            list_member_of_key(world, line[0]);
        }
    }
    double told = (double)(clock() - before) / CLOCKS_PER_SEC;
    before = clock();
    enum { LISTS = 20 };
    for (size_t i = 0; i < LISTS; i++) {
        merge_list(world);
    }
    double judged = (double)(clock() - before) / CLOCKS_PER_SEC;
    before = clock();
    world_reopen(world);
    double loaded = (double)(clock() - before) / CLOCKS_PER_SEC;
    print_message("told %.2f s, judged again %.3f s each, loaded %.2f s\n", told, judged / LISTS, loaded);
    assert_string_equal(trust_current_key(world->trust, keypair_public_hex(line[0])), keypair_public_hex(line[LINE]));
    assert_true(judged / LISTS < 0.05);
    assert_true(loaded < 1.5);
    for (size_t i = 0; i <= LINE; i++) {
        keypair_free(line[i]);
    }
    free(line);
}

/* As a hostile broker hands it out: from its end, pages before its first key. */
static void a_long_line_that_is_told_backwards_costs_little(void **state)
{
    enum { LINE = 3000 };
    struct world *world = *state;
    settle_mesh(world);
    struct keypair **line = memory_calloc(LINE + 1, sizeof(*line));
    assert_ok(keypair_generate(&line[LINE], error));
    for (size_t i = LINE; i > 0; i--) {
        assert_ok(keypair_generate(&line[i - 1], error));
        list_statement(world, "rotations", rotation_of_keys(line[i - 1], line[i], (int64_t)i));
    }
    json_put_integer(world->list, "next", 5);
    clock_t before = clock();
    merge_list(world);
    list_new(world);
    json_put_integer(world->list, "after", 5);
    list_member_of_key(world, line[0]);
    merge_list(world);
    double seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    print_message("told backwards %.2f s\n", seconds);
    assert_string_equal(trust_current_key(world->trust, keypair_public_hex(line[0])), keypair_public_hex(line[LINE]));
    assert_true(seconds < 2.5); /* 6000 signatures */
    for (size_t i = 0; i <= LINE; i++) {
        keypair_free(line[i]);
    }
    free(line);
}

static void a_second_rotation_for_one_seq_is_a_fork_until_a_grant(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 1, T0 + 5));
    merge_list(world);
    list_statement(world, "rotations", make_rotation(world, BOB, EVE, 1, T0 + 6));
    merge_list(world);
    assert_int_equal(world->changes.rotation_forks, 1);
    assert_true(member_of(world, FRANK)->rotation_fork);
    assert_true(is_verified(world, FRANK)); /* the first is kept */
    merge_list(world);
    assert_int_equal(world->changes.rotation_forks, 0);
    world_reopen(world);
    assert_true(member_of(world, FRANK)->rotation_fork);
    assert_false(member_of(world, EVE)->superseded);
    list_statement(world, "grants", make_grant(world, OWNER, FRANK, "member", 1, T0 + 7));
    merge_list(world);
    assert_false(member_of(world, FRANK)->rotation_fork);
}

/* Who died before the broker's answer signs the same step again. */
static void the_same_step_at_another_time_is_no_fork(void **state)
{
    struct world *world = *state;
    int64_t at = 0;
    settle_mesh(world);
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 1, T0 + 5));
    merge_list(world);
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 1, T0 + 60));
    merge_list(world);
    assert_int_equal(world->changes.rotation_forks, 0);
    assert_false(trust_is_forked(world->trust, hex_of(world, BOB)));
    assert_true(trust_rotated_out(world->trust, hex_of(world, BOB), &at));
    assert_int_equal(at, T0 + 5); /* the first that was seen */
    assert_string_equal(trust_current_key(world->trust, hex_of(world, BOB)), hex_of(world, FRANK));
    assert_true(trust_same_member(world->trust, hex_of(world, FRANK), hex_of(world, BOB)));
    assert_false(trust_same_member(world->trust, hex_of(world, FRANK), hex_of(world, EVE)));
}

/* Else whoever holds an old key could silence its member for ever. */
static void a_fork_that_is_dated_ahead_is_settled_by_a_grant_of_today(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 1, T0 + 5));
    merge_list(world);
    list_statement(world, "rotations", make_rotation(world, BOB, EVE, 1, INT64_C(1) << 52));
    merge_list(world);
    assert_true(trust_is_forked(world->trust, hex_of(world, BOB)) && trust_is_forked(world->trust, hex_of(world, FRANK)));
    world_reopen(world);
    assert_true(trust_is_forked(world->trust, hex_of(world, FRANK)));
    list_statement(world, "grants", make_grant(world, OWNER, FRANK, "member", 1, clock_wall_ms() + 1));
    merge_list(world);
    assert_false(trust_is_forked(world->trust, hex_of(world, BOB)));
}

/* ---- rv --------------------------------------------------------------------------------------------------- */

static void rv_is_that_of_what_counts(void **state)
{
    struct world *world = *state;
    struct sha256 hashes[2];
    char expected[RV_SIZE];
    json_t *statements[] = { make_revocation(world, OWNER, BOB, T0 + 5), make_revocation(world, CAROL, EVE, T0 + 5) };
    assert_string_equal(trust_rv(world->trust), "0:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    settle_mesh(world);
    for (size_t index = 0; index < ARRAY_LENGTH(statements); index++) {
        struct buffer text;
        buffer_init(&text, BUFFER_UNLIMITED);
        assert_ok(statement_text_of_json(STATEMENT_REVOCATION, statements[index], &text, error));
        sha256_of(text.data, text.length, &hashes[index]);
        buffer_release(&text);
        list_statement(world, "revocations", statements[index]);
    }
    list_statement(world, "revocations", make_revocation(world, CAROL, DAVE, T0 + 5)); /* void */
    merge_list(world);
    statement_rv(hashes, 2, expected);
    assert_string_equal(trust_rv(world->trust), expected);
    merge_list(world);
    assert_string_equal(trust_rv(world->trust), expected);
}

static void a_broker_that_cannot_show_what_a_peer_knows_is_a_fork(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    assert_false(trust_expect_rv(world->trust, trust_rv(world->trust)));
    assert_false(trust_expect_rv(world->trust, NULL));
    assert_false(trust_expect_rv(world->trust, ""));
    assert_false(trust_expect_rv(world->trust, "many:00"));
    assert_false(trust_expect_rv(world->trust, "-1:00"));
    assert_false(trust_expect_rv(world->trust, "99999999999999999999:00"));
    assert_false(trust_membership_fork(world->trust));
    assert_true(trust_expect_rv(world->trust, "1:f02bb2074ab84d5edfb9c3c237349597b0bc6545a5a8ff4c491057f8cb825175"));
    assert_false(trust_membership_fork(world->trust)); /* the broker is asked first */
    merge_list(world);
    assert_true(world->changes.fork);
    assert_true(trust_membership_fork(world->trust));
    revoke_member(world, OWNER, BOB, T0 + 5);
    assert_false(world->changes.fork);
    assert_false(trust_membership_fork(world->trust));
    assert_false(trust_expect_rv(world->trust, "1:f02bb2074ab84d5edfb9c3c237349597b0bc6545a5a8ff4c491057f8cb825175"));
}

/* ---- order ------------------------------------------------------------------------------------------------ */

struct scattered {
    const char *list;
    json_t *statement;
};

/* The outcome as text: everybody's standing, and rv. */
static char *standing_text(struct world *world)
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    for (enum who who = OWNER; who < PEOPLE; who++) {
        const struct trust_member *member = trust_member(world->trust, hex_of(world, who));
        (void)buffer_printf(&text, "%s:%d%d%d%d%d%d%s ", NAMES[who], member != NULL, member != NULL && member->verified,
                            member != NULL && member->revoked, member != NULL && member->left, member != NULL && member->superseded,
                            member == NULL ? -1 : (int)member->role, member == NULL ? "" : member->name);
    }
    (void)buffer_append_text(&text, trust_rv(world->trust));
    return buffer_take(&text, NULL);
}

static void the_order_in_which_statements_come_changes_nothing(void **state)
{
    struct world *world = *state;
    const struct invite_options shared = { .number = 9, .max_uses = 2 };
    const struct invite_options by_carol = {
        .number = 10, .max_uses = 5, .signer = CAROL, .grant = make_grant(world, OWNER, CAROL, "admin", 1, T0)
    };
    struct scattered statements[] = {
        { "certs", make_certificate(world, &shared, BOB, "bob", T0 + 3) },
        { "certs", make_certificate(world, &shared, DAVE, "dave", T0 + 2) },
        { "certs", make_certificate(world, &shared, EVE, "eve", T0 + 1) },
        { "certs", make_certificate(world, &by_carol, FRANK, "frank", T0 + 4) },
        { "certs", own_certificate(world, ALICE, T0) },
        { "grants", make_grant(world, OWNER, CAROL, "admin", 1, T0) },
        { "grants", make_grant(world, OWNER, CAROL, "member", 2, T0 + 20) },
        { "grants", make_grant(world, CAROL, BOB, "member", 1, T0 + 19) },
        { "revocations", make_revocation(world, CAROL, EVE, T0 + 10) },
        { "revocations", make_revocation(world, CAROL, FRANK, T0 + 30) },
        { "revocations", make_revocation(world, OWNER, ALICE, T0 + 10) },
        { "names", make_name(world, BOB, BOB, "robert", 1) },
        { "names", make_name(world, BOB, BOB, "rob", 2) },
        { "leaves", make_leave(world, DAVE, DAVE, T0 + 8) },
    };
    enum { ROUNDS = 40 };
    char *expected = NULL;
    for (size_t round = 0; round < ROUNDS; round++) {
        /* some of them one at a time, and then everything, as a broker would in the end */
        for (size_t index = ARRAY_LENGTH(statements) - 1; index > 0; index--) {
            size_t other = random_uniform((uint32_t)index + 1);
            struct scattered held = statements[index];
            statements[index] = statements[other];
            statements[other] = held;
        }
        trust_free(world->trust);
        write_sql(world->db, "DELETE FROM trust_statement");
        write_sql(world->db, "DELETE FROM trust_member");
        const struct trust_identity identity = identity_of(world);
        assert_ok(trust_open(world->db, &identity, &world->trust, error));
        for (size_t index = 0; index < ARRAY_LENGTH(statements); index++) {
            if (round % 2 == 0) {
                list_new(world);
                list_statement(world, statements[index].list, json_incref(statements[index].statement));
                merge_list(world);
            }
        }
        list_new(world);
        for (size_t index = 0; index < ARRAY_LENGTH(statements); index++) {
            list_statement(world, statements[index].list, json_incref(statements[index].statement));
        }
        merge_list(world);
        char *outcome = standing_text(world);
        if (expected == NULL) {
            expected = memory_strdup(outcome);
        }
        assert_string_equal(outcome, expected);
        free(outcome);
        trust_free(world->trust);
        assert_ok(trust_open(world->db, &identity, &world->trust, error));
        outcome = standing_text(world);
        assert_string_equal(outcome, expected);
        free(outcome);
    }
    assert_non_null(strstr(expected, "bob:110000rob "));
    assert_non_null(strstr(expected, "eve:101"));
    assert_non_null(strstr(expected, "frank:110"));
    assert_non_null(strstr(expected, "dave:1001"));
    free(expected);
    for (size_t index = 0; index < ARRAY_LENGTH(statements); index++) {
        json_decref(statements[index].statement);
    }
}

#define WORLD_TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(the_owner_revokes_anybody),
        WORLD_TEST(an_admin_revokes_members_and_nobody_else),
        WORLD_TEST(nobody_revokes_the_owner_and_members_revoke_nobody),
        WORLD_TEST(a_forged_or_changed_revocation_is_refused),
        WORLD_TEST(a_brokers_word_is_shown_and_not_believed),
        WORLD_TEST(revocations_are_kept_for_ever),
        WORLD_TEST(acts_of_a_revoked_admin_are_void_from_then_on),
        WORLD_TEST(a_revoked_invite_lets_nobody_in_any_more),
        WORLD_TEST(only_the_owner_revokes_the_invite_that_made_an_admin),
        WORLD_TEST(who_left_is_gone_until_joining_anew),
        WORLD_TEST(a_rotation_carries_membership_over_to_the_new_key),
        WORLD_TEST(rotations_follow_each_other_in_whatever_order_they_come),
        WORLD_TEST(a_rotation_needs_both_signatures_and_the_next_seq),
        WORLD_TEST(a_line_of_keys_never_runs_into_itself),
        WORLD_TEST(a_forged_statement_is_looked_at_once_however_the_list_is_ordered),
        WORLD_TEST(a_member_that_rotates_for_ever_costs_little),
        WORLD_TEST(a_long_line_that_is_told_backwards_costs_little),
        WORLD_TEST(a_second_rotation_for_one_seq_is_a_fork_until_a_grant),
        WORLD_TEST(the_same_step_at_another_time_is_no_fork),
        WORLD_TEST(a_fork_that_is_dated_ahead_is_settled_by_a_grant_of_today),
        WORLD_TEST(rv_is_that_of_what_counts),
        WORLD_TEST(a_broker_that_cannot_show_what_a_peer_knows_is_a_fork),
        WORLD_TEST(the_order_in_which_statements_come_changes_nothing),
    };
    assert_ok(crypto_start(error));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
