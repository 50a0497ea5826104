/* Who a name means on the cold path: only what certificates, grants and signed names prove. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/cold_members.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "proto/invite.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

static char MESH_ID[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11";

struct town {
    struct keypair *owner, *bob, *eve;
    struct config_mesh mesh;
    char owner_hex[KEY_HEX_SIZE];
};

static int set_up(void **state)
{
    struct town *town = memory_calloc(1, sizeof *town);
    struct error error = { 0 };
    if (crypto_start(&error) != 0 || keypair_generate(&town->owner, &error) != 0 || keypair_generate(&town->bob, &error) != 0 ||
        keypair_generate(&town->eve, &error) != 0) {
        return -1;
    }
    memcpy(town->owner_hex, keypair_public_hex(town->owner), sizeof town->owner_hex);
    town->mesh.mesh_id = MESH_ID;
    town->mesh.owner_pubkey = town->owner_hex;
    *state = town;
    return 0;
}

static int tear_down(void **state)
{
    struct town *town = *state;
    keypair_free(town->owner);
    keypair_free(town->bob);
    keypair_free(town->eve);
    free(town);
    return 0;
}

static void make_invite(const struct keypair *owner, int64_t max_uses, struct invite *ret_invite)
{
    struct error error = { 0 };
    *ret_invite = (struct invite){
        .version = 3,
        .mesh_id = memory_strdup(MESH_ID),
        .mesh_slug = memory_strdup("acme"),
        .mesh_name = memory_strdup("Acme"),
        .broker_url = memory_strdup("ws://127.0.0.1:7900/ws"),
        .role = memory_strdup("member"),
        .owner_pubkey = memory_strdup(keypair_public_hex(owner)),
        .expires_at_s = clock_wall_ms() / 1000 + 3600,
        .max_uses = max_uses,
        .has_root_key = true,
        .has_invite_seed = true,
    };
    random_bytes(ret_invite->root_key, sizeof ret_invite->root_key);
    random_bytes(ret_invite->invite_seed, sizeof ret_invite->invite_seed);
    assert_int_equal(invite_sign(ret_invite, owner, &error), 0);
}

static json_t *member_json(const struct keypair *keys, const char *display_name)
{
    json_t *member = json_new_object();
    json_put_string(member, "id", "member-1");
    json_put_string(member, "pubkey", keypair_public_hex(keys));
    json_put_string(member, "displayName", display_name);
    json_put_string(member, "role", "member");
    return member;
}

static void add_certificate(json_t *member, const struct invite *invite, const struct keypair *keys, const char *name, int64_t at)
{
    struct error error = { 0 };
    json_t *certificate = NULL;
    assert_int_equal(certificate_make(invite, keys, name, at, &certificate, &error), 0);
    json_put(member, "cert", certificate);
}

static json_t *list_of(json_t *first, json_t *second)
{
    json_t *list = json_new_object(), *members = json_new_array();
    assert_int_equal(json_array_append_new(members, first), 0);
    if (second != NULL) {
        assert_int_equal(json_array_append_new(members, second), 0);
    }
    json_put_string(list, "type", "members_list");
    json_put(list, "members", members);
    return list;
}

static enum error_code resolve(const struct town *town, json_t *list, const char *to, char ret_key[KEY_HEX_SIZE])
{
    struct cold_members members;
    const struct cold_member *member = NULL;
    struct error error = { 0 };
    assert_int_equal(cold_members_read(list, &town->mesh, &members, &error), 0);
    int status = cold_members_resolve(&members, to, &member, &error);
    if (status == 0) {
        memcpy(ret_key, member->pubkey, KEY_HEX_SIZE);
    }
    cold_members_release(&members);
    return (enum error_code) - status;
}

static void a_certified_members_name_resolves_in_any_case_and_width(void **state)
{
    struct town *town = *state;
    struct invite invite;
    char key[KEY_HEX_SIZE] = "";
    json_t *bob = member_json(town->bob, "somebody else");
    make_invite(town->owner, 1, &invite);
    add_certificate(bob, &invite, town->bob, "Bob", clock_wall_ms());
    json_t *list = list_of(bob, NULL);
    assert_int_equal(resolve(town, list, "Bob", key), ERROR_NONE);
    assert_string_equal(key, keypair_public_hex(town->bob));
    assert_int_equal(resolve(town, list, "bOB", key), ERROR_NONE);
    assert_int_equal(resolve(town, list, "\xef\xbc\xa2ob", key), ERROR_NONE);     /* fullwidth B */
    assert_int_equal(resolve(town, list, "somebody else", key), ERROR_NOT_FOUND); /* what the broker says is nobody's name */
    json_decref(list);
    invite_release(&invite);
}

static void an_invented_member_is_reached_by_its_whole_key_only(void **state)
{
    struct town *town = *state;
    char key[KEY_HEX_SIZE] = "", prefix[13] = "";
    json_t *list = list_of(member_json(town->eve, "alice"), NULL);
    memcpy(prefix, keypair_public_hex(town->eve), 12);
    assert_int_equal(resolve(town, list, "alice", key), ERROR_NOT_FOUND);
    assert_int_equal(resolve(town, list, prefix, key), ERROR_NOT_FOUND);
    assert_int_equal(resolve(town, list, keypair_public_hex(town->eve), key), ERROR_NONE);
    json_decref(list);
}

static void a_certificate_of_another_owner_proves_nothing(void **state)
{
    struct town *town = *state;
    struct invite invite;
    char key[KEY_HEX_SIZE] = "";
    json_t *eve = member_json(town->eve, "bob");
    make_invite(town->eve, 1, &invite);
    add_certificate(eve, &invite, town->eve, "bob", clock_wall_ms());
    json_t *list = list_of(eve, NULL);
    assert_int_equal(resolve(town, list, "bob", key), ERROR_NOT_FOUND);
    json_decref(list);
    invite_release(&invite);
}

static void a_certificate_for_another_key_proves_nothing(void **state)
{
    struct town *town = *state;
    struct invite invite;
    char key[KEY_HEX_SIZE] = "";
    json_t *eve = member_json(town->eve, "bob");
    make_invite(town->owner, 1, &invite);
    add_certificate(eve, &invite, town->bob, "bob", clock_wall_ms());
    json_t *list = list_of(eve, NULL);
    assert_int_equal(resolve(town, list, "bob", key), ERROR_NOT_FOUND);
    json_decref(list);
    invite_release(&invite);
}

static void two_members_with_one_folded_name_are_ambiguous(void **state)
{
    struct town *town = *state;
    struct invite invite;
    char key[KEY_HEX_SIZE] = "";
    json_t *bob = member_json(town->bob, "bob"), *eve = member_json(town->eve, "BOB");
    make_invite(town->owner, 2, &invite);
    add_certificate(bob, &invite, town->bob, "bob", clock_wall_ms());
    add_certificate(eve, &invite, town->eve, "BOB", clock_wall_ms());
    json_t *list = list_of(bob, eve);
    assert_int_equal(resolve(town, list, "bob", key), ERROR_AMBIGUOUS);
    json_decref(list);
    invite_release(&invite);
}

static void surplus_certificates_of_an_invite_do_not_count(void **state)
{
    struct town *town = *state;
    struct invite invite;
    char key[KEY_HEX_SIZE] = "";
    int64_t now = clock_wall_ms();
    json_t *bob = member_json(town->bob, "bob"), *eve = member_json(town->eve, "eve");
    make_invite(town->owner, 1, &invite);
    add_certificate(bob, &invite, town->bob, "bob", now);
    add_certificate(eve, &invite, town->eve, "eve", now + 1);
    json_t *list = list_of(eve, bob);
    assert_int_equal(resolve(town, list, "bob", key), ERROR_NONE);
    assert_int_equal(resolve(town, list, "eve", key), ERROR_NOT_FOUND);
    json_decref(list);
    invite_release(&invite);
}

static json_t *revocation(const struct keypair *by, const char *subject)
{
    char signature[SIGNATURE_HEX_SIZE];
    struct error error = { 0 };
    json_t *statement = json_new_object();
    json_put_string(statement, "mesh", MESH_ID);
    json_put_string(statement, "subject_pubkey", subject);
    json_put_string(statement, "member_id", "member-1");
    json_put_integer(statement, "at", clock_wall_ms());
    json_put_string(statement, "by", keypair_public_hex(by));
    assert_int_equal(statement_sign_json(STATEMENT_REVOCATION, statement, by, signature, &error), 0);
    json_put_string(statement, "sig", signature);
    return statement;
}

static void only_a_revocation_by_somebody_who_may_counts(void **state)
{
    struct town *town = *state;
    const struct keypair *signers[] = { town->eve, town->owner };
    static const enum error_code EXPECTED[] = { ERROR_NONE, ERROR_DENIED };
    for (size_t i = 0; i < 2; i++) {
        struct cold_members members;
        struct error error = { 0 };
        char key[KEY_HEX_SIZE] = "";
        json_t *list = list_of(member_json(town->bob, "bob"), NULL), *revocations = json_new_array();
        assert_int_equal(json_array_append_new(revocations, revocation(signers[i], keypair_public_hex(town->bob))), 0);
        json_put(list, "revocations", revocations);
        assert_int_equal(resolve(town, list, keypair_public_hex(town->bob), key), EXPECTED[i]);
        assert_int_equal(cold_members_read(list, &town->mesh, &members, &error), 0);
        assert_true(string_has_prefix(members.rv, i == 0 ? "0:" : "1:"));
        cold_members_release(&members);
        json_decref(list);
    }
}

static void a_list_of_another_shape_is_refused(void **state)
{
    struct town *town = *state;
    struct cold_members members;
    struct error error = { 0 };
    json_t *list = json_new_object();
    assert_int_equal(cold_members_read(list, &town->mesh, &members, &error), -ERROR_INVALID);
    json_put_string(list, "members", "nonsense");
    assert_int_equal(cold_members_read(list, &town->mesh, &members, &error), -ERROR_INVALID);
    json_decref(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_certified_members_name_resolves_in_any_case_and_width, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_invented_member_is_reached_by_its_whole_key_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_certificate_of_another_owner_proves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_certificate_for_another_key_proves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_members_with_one_folded_name_are_ambiguous, set_up, tear_down),
        cmocka_unit_test_setup_teardown(surplus_certificates_of_an_invite_do_not_count, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_a_revocation_by_somebody_who_may_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_list_of_another_shape_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
