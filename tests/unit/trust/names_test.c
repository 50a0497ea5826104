/* The resolution of `to`, row by row, and pins: first use, swaps, rotations, acceptance. */
#include "fixture.h"

static struct trust_destination destination;

static enum trust_resolution resolve(struct world *world, const char *to)
{
    memset(&destination, 0xAA, sizeof(destination));
    return trust_resolve(world->trust, to, &destination);
}

static void expect_member(struct world *world, const char *to, enum who who)
{
    enum trust_resolution resolution = resolve(world, to);
    if (resolution != RESOLVED || !string_equal(destination.ref, hex_of(world, who))) {
        fail_msg("%s: %d, not %s", to, (int)resolution, NAMES[who]);
    }
    assert_string_equal(destination.kind, "dm");
    assert_true(destination.known_member);
}

static void expect(struct world *world, const char *to, enum trust_resolution expected)
{
    enum trust_resolution resolution = resolve(world, to);
    if (resolution != expected) {
        fail_msg("%s: %d, not %d", to, (int)resolution, (int)expected);
    }
}

static bool has_candidate(const struct world *world, enum who who, const char *name)
{
    for (size_t index = 0; index < destination.candidate_count; index++) {
        if (string_equal(destination.candidates[index], hex_of(world, who)) && string_equal(destination.candidate_names[index], name)) {
            return true;
        }
    }
    return false;
}

static void settle_mesh(struct world *world)
{
    list_member(world, OWNER, NULL);
    list_member(world, ALICE, own_certificate(world, ALICE, T0));
    list_member(world, BOB, own_certificate(world, BOB, T0));
    list_member(world, CAROL, own_certificate(world, CAROL, T0));
    list_member(world, EVE, NULL);
    merge_list(world);
}

/* The list anew, without those two; `entries` follow. */
static void list_again(struct world *world)
{
    list_new(world);
    list_member(world, OWNER, NULL);
    list_member(world, ALICE, own_certificate(world, ALICE, T0));
}

/* ---- the table -------------------------------------------------------------------------------------------- */

static void keys_are_taken_as_they_are_in_lower_case(void **state)
{
    struct world *world = *state;
    char upper[KEY_HEX_SIZE];
    settle_mesh(world);
    for (size_t index = 0; index < sizeof(upper); index++) {
        char digit = hex_of(world, BOB)[index];
        upper[index] = digit >= 'a' && digit <= 'f' ? (char)(digit - 'a' + 'A') : digit;
    }
    expect_member(world, hex_of(world, BOB), BOB);
    assert_string_equal(destination.name, "bob");
    expect_member(world, upper, BOB);
    expect(world, hex_of(world, FRANK), RESOLVED);
    assert_string_equal(destination.ref, hex_of(world, FRANK));
    assert_false(destination.known_member);
    assert_string_equal(destination.name, "");
}

static void a_unique_prefix_of_eight_or_more_digits_is_the_whole_key(void **state)
{
    struct world *world = *state;
    char prefix[KEY_HEX_SIZE];
    settle_mesh(world);
    for (size_t digits = 7; digits < 64; digits++) {
        memcpy(prefix, hex_of(world, BOB), digits);
        prefix[digits] = '\0';
        if (digits < 8) {
            expect(world, prefix, RESOLVE_UNKNOWN);
        } else {
            expect_member(world, prefix, BOB);
        }
    }
    prefix[8] = '\0';
    for (char *digit = prefix; *digit != '\0'; digit++) {
        *digit = *digit >= 'a' && *digit <= 'f' ? (char)(*digit - 'a' + 'A') : *digit;
    }
    expect_member(world, prefix, BOB);
    memcpy(prefix, hex_of(world, FRANK), 12);
    prefix[12] = '\0';
    expect(world, prefix, RESOLVE_UNKNOWN);
}

/* Two keys that begin alike are found by trying. */
static void a_prefix_of_two_keys_is_ambiguous(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    /* eight digits are 32 bits: too many to try; so the members' list gets a key that differs from Bob's in its end only */
    char twin[KEY_HEX_SIZE];
    struct public_key key;
    memcpy(twin, hex_of(world, BOB), KEY_HEX_SIZE);
    bool is_found = false;
    for (int number = 0; number < 65536 && !is_found; number++) {
        char digits[5];
        (void)snprintf(digits, sizeof(digits), "%04x", (unsigned)number & 0xFFFFU);
        memcpy(twin + 50, digits, 4);
        is_found = !string_equal(twin, hex_of(world, BOB)) && public_key_parse(twin, &key, NULL) == 0;
    }
    assert_true(is_found);
    (void)json_array_append_new(json_object_get(world->list, "members"), json_pack("{s:s,s:s}", "pubkey", twin, "displayName", "twin"));
    merge_list(world);
    char prefix[20];
    memcpy(prefix, twin, 19);
    prefix[19] = '\0';
    expect(world, prefix, RESOLVE_AMBIGUOUS);
    assert_int_equal(destination.candidate_count, 2);
    assert_true(has_candidate(world, BOB, "bob"));
    char longer[60];
    memcpy(longer, twin, 59);
    longer[59] = '\0';
    expect(world, longer, RESOLVED);
    assert_string_equal(destination.ref, twin);
    /* a full name of hex digits that is also a prefix of a key: the prefix row comes first */
    list_member_named(world, CAROL, prefix, NULL);
    merge_list(world);
    expect(world, prefix, RESOLVE_AMBIGUOUS);
}

static void a_name_of_hex_digits_is_a_name_when_no_key_begins_so(void **state)
{
    struct world *world = *state;
    list_member_named(world, EVE, "deadbeef", NULL);
    list_member_named(world, FRANK, "cafe", NULL);
    merge_list(world);
    expect_member(world, "deadbeef", EVE);
    expect_member(world, "DEADBEEF", EVE);
    expect_member(world, "cafe", FRANK);
}

static void names_match_whatever_their_case_and_width(void **state)
{
    struct world *world = *state;
    list_member_named(world, BOB,
                      "B\xc3\xb6"
                      "b Stra\xc3\x9f"
                      "e",
                      NULL);                               /* Böb Straße */
    list_member_named(world, EVE, "\xef\xbc\xa5ve", NULL); /* a full-width E */
    merge_list(world);
    expect_member(world,
                  "B\xc3\xb6"
                  "b Stra\xc3\x9f"
                  "e",
                  BOB);
    expect_member(world,
                  "b\xc3\x96"
                  "B STRASSE",
                  BOB);
    expect_member(world,
                  "  bo\xcc\x88"
                  "b stra\xc3\x9f"
                  "e ",
                  BOB); /* decomposed */
    expect_member(world, "eve", EVE);
    expect_member(world, "e\xe2\x80\x8bve", EVE); /* a zero-width space is nothing */
    expect(world, "bob", RESOLVE_UNKNOWN);
    expect(world, "b", RESOLVE_UNKNOWN);
    char endless[4097];
    memset(endless, 'e', sizeof(endless) - 1);
    endless[sizeof(endless) - 1] = '\0';
    expect(world, endless, RESOLVE_UNKNOWN);
}

static void topics_groups_and_all_are_taken_as_written(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    expect(world, "#alerts", RESOLVED);
    assert_string_equal(destination.kind, "topic");
    assert_string_equal(destination.ref, "alerts");
    expect(world, "@ops.team-1_x", RESOLVED);
    assert_string_equal(destination.kind, "queue");
    assert_string_equal(destination.ref, "@ops.team-1_x");
    expect(world, "*", RESOLVED);
    assert_string_equal(destination.kind, "queue");
    assert_string_equal(destination.ref, "*");
    assert_false(destination.known_member);
}

static void what_names_nothing_is_invalid_or_unknown(void **state)
{
    struct world *world = *state;
    static const char *const INVALID[] = {
        "", "#", "@", "#Alerts", "#a b", "@Ops", "#a/b", "#0123456789012345678901234567890123456789012345678901234567890123456789"
    };
    static const char *const UNKNOWN[] = { "nobody", " ", "**", "bo", "bobb", "\xff\xfe", "\xe2\x80\x8b" };
    settle_mesh(world);
    for (size_t index = 0; index < ARRAY_LENGTH(INVALID); index++) {
        expect(world, INVALID[index], RESOLVE_INVALID);
    }
    assert_int_equal(trust_resolve(world->trust, NULL, &destination), RESOLVE_INVALID);
    for (size_t index = 0; index < ARRAY_LENGTH(UNKNOWN); index++) {
        expect(world, UNKNOWN[index], RESOLVE_UNKNOWN);
        assert_int_equal(destination.candidate_count, 0);
    }
}

static void nobody_catches_a_topic_by_his_name(void **state)
{
    struct world *world = *state;
    list_member_named(world, EVE, "#alerts", NULL);
    list_member_named(world, BOB, "*", NULL);
    list_member_named(world, CAROL, "@ops", NULL);
    merge_list(world);
    expect(world, "#alerts", RESOLVED);
    assert_string_equal(destination.kind, "topic");
    expect(world, "*", RESOLVED);
    assert_string_equal(destination.kind, "queue");
    expect(world, "@ops", RESOLVED);
    assert_string_equal(destination.kind, "queue");
}

static void the_revoked_and_the_gone_are_no_known_members(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_statement(world, "revocations", make_revocation(world, OWNER, BOB, T0 + 5));
    list_statement(world, "leaves", make_leave(world, CAROL, CAROL, T0 + 5));
    merge_list(world);
    expect(world, "bob", RESOLVE_UNKNOWN);
    expect(world, "carol", RESOLVE_UNKNOWN);
    expect(world, hex_of(world, BOB), RESOLVED);
    assert_false(destination.known_member);
    char prefix[11];
    memcpy(prefix, hex_of(world, CAROL), 10);
    prefix[10] = '\0';
    expect(world, prefix, RESOLVE_UNKNOWN);
}

/* ---- ambiguity -------------------------------------------------------------------------------------------- */

static void two_verified_members_of_one_folded_name_are_ambiguous(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .number = 50 };
    settle_mesh(world);
    list_member_named(world, FRANK, "x", make_certificate(world, &options, FRANK, "BOB", T0));
    merge_list(world);
    expect(world, "bob", RESOLVE_AMBIGUOUS);
    assert_int_equal(destination.candidate_count, 2);
    assert_true(has_candidate(world, BOB, "bob") && has_candidate(world, FRANK, "BOB"));
    expect(world, "BOB", RESOLVE_AMBIGUOUS);
    expect_member(world, hex_of(world, FRANK), FRANK);
    /* a person decides */
    assert_ok(trust_accept_key(world->trust, "Bob", hex_of(world, FRANK), error));
    expect_member(world, "bob", FRANK);
    world_reopen(world);
    expect_member(world, "bob", FRANK);
}

static void a_second_verified_holder_of_a_pinned_name_makes_it_ambiguous(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .number = 50 };
    settle_mesh(world);
    expect_member(world, "bob", BOB);
    list_member_named(world, FRANK, "x", make_certificate(world, &options, FRANK, "bob", T0));
    merge_list(world);
    assert_int_equal(world->changes.key_swaps, 0);
    expect(world, "bob", RESOLVE_AMBIGUOUS);
    assert_ok(trust_accept_key(world->trust, "bob", hex_of(world, BOB), error));
    expect_member(world, "bob", BOB);
}

static void an_unverified_claim_beside_a_verified_one_is_ambiguous_at_first_contact(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    list_member_named(world, FRANK, "Bob", NULL);
    merge_list(world);
    expect(world, "bob", RESOLVE_AMBIGUOUS);
    assert_int_equal(destination.candidate_count, 2);
}

static void more_candidates_than_fit_are_cut(void **state)
{
    struct world *world = *state;
    for (uint8_t number = 0; number < 12; number++) {
        uint8_t seed[SEED_BYTES] = { 9, number };
        struct keypair *keys = NULL;
        assert_ok(keypair_from_seed(seed, &keys, error));
        (void)json_array_append_new(json_object_get(world->list, "members"),
                                    json_pack("{s:s,s:s}", "pubkey", keypair_public_hex(keys), "displayName", "legion"));
        keypair_free(keys);
    }
    merge_list(world);
    expect(world, "legion", RESOLVE_AMBIGUOUS);
    assert_int_equal(destination.candidate_count, 8);
}

/* ---- pins ------------------------------------------------------------------------------------------------- */

static void a_swapped_key_under_a_used_name_is_refused_until_accepted(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    expect_member(world, "eve", EVE); /* pins */
    list_again(world);
    list_member_named(world, FRANK, "Eve", NULL);
    merge_list(world);
    assert_int_equal(world->changes.key_swaps, 1);
    expect(world, "eve", RESOLVE_KEY_CHANGED);
    assert_int_equal(destination.candidate_count, 2);
    assert_string_equal(destination.candidates[0], hex_of(world, EVE));
    assert_string_equal(destination.candidates[1], hex_of(world, FRANK));
    assert_string_equal(destination.candidate_names[1], "Eve");
    merge_list(world);
    assert_int_equal(world->changes.key_swaps, 0); /* told once */
    world_reopen(world);
    expect(world, "EVE", RESOLVE_KEY_CHANGED);
    assert_ok(trust_accept_key(world->trust, "eve", hex_of(world, FRANK), error));
    expect_member(world, "eve", FRANK);
    world_reopen(world);
    expect_member(world, "eve", FRANK);
}

static void a_verified_member_whom_the_broker_hides_keeps_his_name(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    expect_member(world, "bob", BOB);
    list_again(world);
    merge_list(world);
    expect_member(world, "bob", BOB); /* hidden, and nobody else claims it */
    list_member_named(world, FRANK, "bob", NULL);
    merge_list(world);
    expect(world, "bob", RESOLVE_KEY_CHANGED);
    assert_true(has_candidate(world, BOB, "bob") && has_candidate(world, FRANK, "bob"));
}

static void an_unverified_claim_moves_no_pin(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    expect_member(world, "bob", BOB);
    expect_member(world, "eve", EVE);
    list_member_named(world, FRANK, "bob", NULL);
    list_member_named(world, DAVE, "eve", NULL);
    merge_list(world);
    expect_member(world, "bob", BOB);
    expect_member(world, "eve", EVE);
    assert_int_equal(world->changes.key_swaps, 0);
}

static void a_revoked_members_name_in_other_hands_is_a_changed_key(void **state)
{
    struct world *world = *state;
    const struct invite_options options = { .number = 50 };
    settle_mesh(world);
    expect_member(world, "bob", BOB);
    list_statement(world, "revocations", make_revocation(world, OWNER, BOB, T0 + 5));
    list_member_named(world, FRANK, "bob", make_certificate(world, &options, FRANK, "bob", T0 + 6));
    merge_list(world);
    expect(world, "bob", RESOLVE_KEY_CHANGED);
    assert_string_equal(destination.candidates[0], hex_of(world, BOB));
    assert_string_equal(destination.candidates[1], hex_of(world, FRANK));
}

static void a_renamed_member_is_still_meant_by_the_pinned_name(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    expect_member(world, "bob", BOB);
    list_statement(world, "names", make_name(world, BOB, BOB, "robert", 1));
    merge_list(world);
    expect_member(world, "robert", BOB);
    expect_member(world, "bob", BOB);
    assert_string_equal(destination.name, "robert");
    expect(world, "carole", RESOLVE_UNKNOWN);
    list_member_named(world, FRANK, "bob", NULL); /* the old name in other hands */
    merge_list(world);
    expect(world, "bob", RESOLVE_KEY_CHANGED);
    expect_member(world, "robert", BOB);
}

static void a_rotation_leads_the_pin_to_the_new_key(void **state)
{
    struct world *world = *state;
    settle_mesh(world);
    expect_member(world, "bob", BOB);
    list_again(world);
    list_member_named(world, FRANK, "bob", NULL);
    list_statement(world, "rotations", make_rotation(world, BOB, FRANK, 1, T0 + 5));
    merge_list(world);
    assert_int_equal(world->changes.key_swaps, 0);
    expect_member(world, "bob", FRANK);
    world_reopen(world);
    expect_member(world, "bob", FRANK);
    expect(world, hex_of(world, BOB), RESOLVED); /* a former key reaches its member while the grace lasts */
    assert_string_equal(destination.ref, hex_of(world, BOB));
    assert_true(destination.known_member);
}

static void only_a_known_holder_of_the_name_is_accepted(void **state)
{
    struct world *world = *state;
    struct error error;
    settle_mesh(world);
    assert_int_equal(trust_accept_key(world->trust, "bob", hex_of(world, FRANK), &error), -(int)ERROR_NOT_FOUND);
    assert_int_equal(trust_accept_key(world->trust, "bob", hex_of(world, CAROL), &error), -(int)ERROR_NOT_FOUND);
    assert_int_equal(trust_accept_key(world->trust, "", hex_of(world, CAROL), &error), -(int)ERROR_NOT_FOUND);
    assert_int_equal(trust_accept_key(world->trust, "bob", "B0B", &error), -(int)ERROR_INVALID);
    assert_int_equal(trust_accept_key(world->trust, "bob", NULL, &error), -(int)ERROR_INVALID);
    expect_member(world, "bob", BOB);
}

static void folding_is_stable_and_refuses_what_is_no_text(void **state)
{
    (void)state;
    static const struct {
        const char *name, *folded;
    } CASES[] = {
        { "Bob", "bob" },
        { "\xc4\xb0stanbul", "i\xcc\x87stanbul" },
        { "  tab\tin\t ", "tab\tin" },
        { "\xe2\x84\xa2", "tm" },
        { "", "" },
        { "\xc3", "" },
        { "\xed\xa0\x80", "" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        char *folded = trust_fold_name(CASES[index].name);
        char *again = trust_fold_name(folded);
        assert_string_equal(folded, CASES[index].folded);
        assert_string_equal(again, folded);
        free(folded);
        free(again);
    }
}

#define WORLD_TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(keys_are_taken_as_they_are_in_lower_case),
        WORLD_TEST(a_unique_prefix_of_eight_or_more_digits_is_the_whole_key),
        WORLD_TEST(a_prefix_of_two_keys_is_ambiguous),
        WORLD_TEST(a_name_of_hex_digits_is_a_name_when_no_key_begins_so),
        WORLD_TEST(names_match_whatever_their_case_and_width),
        WORLD_TEST(topics_groups_and_all_are_taken_as_written),
        WORLD_TEST(what_names_nothing_is_invalid_or_unknown),
        WORLD_TEST(nobody_catches_a_topic_by_his_name),
        WORLD_TEST(the_revoked_and_the_gone_are_no_known_members),
        WORLD_TEST(two_verified_members_of_one_folded_name_are_ambiguous),
        WORLD_TEST(a_second_verified_holder_of_a_pinned_name_makes_it_ambiguous),
        WORLD_TEST(an_unverified_claim_beside_a_verified_one_is_ambiguous_at_first_contact),
        WORLD_TEST(more_candidates_than_fit_are_cut),
        WORLD_TEST(a_swapped_key_under_a_used_name_is_refused_until_accepted),
        WORLD_TEST(a_verified_member_whom_the_broker_hides_keeps_his_name),
        WORLD_TEST(an_unverified_claim_moves_no_pin),
        WORLD_TEST(a_revoked_members_name_in_other_hands_is_a_changed_key),
        WORLD_TEST(a_renamed_member_is_still_meant_by_the_pinned_name),
        WORLD_TEST(a_rotation_leads_the_pin_to_the_new_key),
        WORLD_TEST(only_a_known_holder_of_the_name_is_accepted),
        WORLD_TEST(folding_is_stable_and_refuses_what_is_no_text),
    };
    assert_ok(crypto_start(error));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
