/* Meshes, joins, hellos and statements in the store: every outcome (50-identity, Invites; 45-trust). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store_fixture.h"
#include "util/attributes.h"
#include "util/buffer.h"
#include "util/memory.h"
#include "util/text.h"

static struct fixture *begin(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture);
    fixture_make_mesh(fixture);
    return fixture;
}

/* ---- POST /mesh ----------------------------------------------------------------------------------------------------------- */

static void create(struct fixture *fixture, struct store_create_mesh *create, const char *mesh_id, const char *slug, const char *owner)
{
    bool done = false;
    *create = (struct store_create_mesh){
        .request = { .done = fixture_done, .argument = &done },
        .mesh_id = mesh_id,
        .slug = slug,
        .name = "Name",
        .owner_pubkey = owner,
        .display_name = "owner",
        .now_ms = fixture_now_ms(),
    };
    ulid_generate(create->member_id);
    fixture->store->operations->create_mesh(fixture->store, create);
    fixture_wait(fixture, &done);
    assert_int_equal(create->request.status, 0);
}

static void making_the_same_mesh_again_answers_the_same(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_create_mesh first, again;
    create(fixture, &first, "00000000-0000-4000-8000-000000000001", "other", CAROL);
    assert_true(first.created);
    create(fixture, &again, "00000000-0000-4000-8000-000000000001", "other", CAROL);
    assert_false(again.created || again.slug_taken || again.id_taken);
    assert_string_equal(again.member_id, first.member_id);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM mesh"), 2);
}

static void an_id_or_slug_that_is_another_ones_is_refused(void **state)
{
    struct fixture *fixture = begin(state);
    struct store_create_mesh refused;
    create(fixture, &refused, MESH_ID, "acme", CAROL);
    assert_true(refused.id_taken && !refused.created);
    create(fixture, &refused, MESH_ID, "elsewhere", ALICE);
    assert_true(refused.id_taken && !refused.created);
    create(fixture, &refused, "00000000-0000-4000-8000-000000000002", "acme", CAROL);
    assert_true(refused.slug_taken && !refused.created);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM mesh"), 1);
}

/* ---- POST /join ------------------------------------------------------------------------------------------------------------ */

static void an_invite_serves_as_often_as_it_says_and_once_for_each_key(void **state)
{
    struct fixture *fixture = begin(state);
    int64_t first, again;
    assert_int_equal(fixture_join(fixture, CAROL, "kone", 1, &first), STORE_JOINED);
    assert_int_equal(fixture_join(fixture, CAROL, "kone", 1, &again), STORE_JOINED_BEFORE);
    assert_int_equal(first, again);
    assert_int_equal(fixture_join(fixture, "dddd", "kone", 1, NULL), STORE_JOIN_EXHAUSTED);
    fixture_set_now_ms(fixture_now_ms() + 5000); /* whoever is in stays in, whatever became of the invite */
    assert_int_equal(fixture_join(fixture, CAROL, "kone", 1, NULL), STORE_JOINED_BEFORE);
}

static void an_expired_or_revoked_invite_is_refused(void **state)
{
    struct fixture *fixture = begin(state);
    bool done = false;
    struct store_join late = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh_id = MESH_ID,
        .invite_id = "klate",
        .owner_pubkey = ALICE,
        .pubkey = CAROL,
        .name = "carol",
        .role = "member",
        .certificate = "{}",
        .invite_expires_at = fixture_now_ms(),
        .max_uses = 1,
        .now_ms = fixture_now_ms(),
    };
    fixture->store->operations->join(fixture->store, &late);
    fixture_wait(fixture, &done);
    assert_int_equal(late.outcome, STORE_JOIN_EXPIRED);
    assert_int_equal(fixture_state(fixture, STORE_INVITE_REVOCATION, "kgone", ALICE, NULL, 1), STORE_STATED);
    assert_int_equal(fixture_join(fixture, CAROL, "kgone", 5, NULL), STORE_JOIN_REVOKED);
    late.owner_pubkey = BOB;
    done = false;
    fixture->store->operations->join(fixture->store, &late);
    fixture_wait(fixture, &done);
    assert_int_equal(late.outcome, STORE_JOIN_OTHER_OWNER);
    late.mesh_id = "00000000-0000-4000-8000-000000000009";
    done = false;
    fixture->store->operations->join(fixture->store, &late);
    fixture_wait(fixture, &done);
    assert_int_equal(late.outcome, STORE_JOIN_UNKNOWN_MESH);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM member"), 2);
}

static void racing_joins_for_the_last_place_give_it_to_one(void **state)
{
    struct fixture *fixture = begin(state);
    enum { RACERS = 20 };
    static struct store_join joins[RACERS];
    static char keys[RACERS][8];
    bool done[RACERS] = { false };
    int joined = 0;
    for (int i = 0; i < RACERS; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "key%d", i);
        joins[i] = (struct store_join){
            .request = { .done = fixture_done, .argument = &done[i] },
            .mesh_id = MESH_ID,
            .invite_id = "krace",
            .owner_pubkey = ALICE,
            .pubkey = keys[i],
            .name = "racer",
            .role = "member",
            .certificate = "{}",
            .invite_expires_at = fixture_now_ms() + 1000,
            .max_uses = 3,
            .now_ms = fixture_now_ms(),
        };
        ulid_generate(joins[i].member_id);
        fixture->store->operations->join(fixture->store, &joins[i]);
    }
    for (int i = 0; i < RACERS; i++) {
        fixture_wait(fixture, &done[i]);
        joined += joins[i].outcome == STORE_JOINED;
    }
    assert_int_equal(joined, 3);
    assert_int_equal(fixture_number(fixture, "SELECT uses FROM invite WHERE invite_id = 'krace'"), 3);
}

/* ---- hello ------------------------------------------------------------------------------------------------------------------- */

static enum store_hello_outcome hello(struct fixture *fixture, const char *mesh, const char *pubkey, int64_t timestamp, bool v2,
                                      const char *session_pubkey)
{
    bool done = false;
    char *member_id = NULL;
    struct store_hello request = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh_id = mesh,
        .pubkey = pubkey,
        .session_uid = "session",
        .session_pubkey = session_pubkey,
        .timestamp = timestamp,
        .now_ms = fixture_now_ms(),
        .v2 = v2,
        .receive = true,
        .alone = true,
    };
    struct store_find_member find = { .request = { .done = fixture_done, .argument = &done }, .mesh = fixture->mesh };
    buffer_init(&find.text, BUFFER_UNLIMITED);
    assert_int_equal(string_copy(find.pubkey, sizeof find.pubkey, pubkey), 0);
    fixture->store->operations->find_member(fixture->store, &find);
    fixture_wait(fixture, &done);
    if (find.text.length > 10)
        member_id = memory_strndup(find.text.data + strlen("{\"id\":\""), 26);
    buffer_release(&find.text);
    request.member_id = member_id == NULL ? "nobody" : member_id;
    done = false;
    fixture->store->operations->hello(fixture->store, &request);
    fixture_wait(fixture, &done);
    assert_int_equal(request.request.status, 0);
    free(member_id);
    free(request.mesh_slug);
    free(request.display_name);
    free(request.role);
    free(request.certificate);
    free(request.state);
    return request.outcome;
}

static void a_hello_is_for_members_and_for_once(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(hello(fixture, MESH_ID, CAROL, 1, false, NULL), STORE_HELLO_UNKNOWN);
    assert_int_equal(hello(fixture, "00000000-0000-4000-8000-000000000009", BOB, 1, false, NULL), STORE_HELLO_UNKNOWN);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 1, false, NULL), STORE_WELCOME);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 1, false, NULL), STORE_HELLO_REPLAYED);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 2, false, NULL), STORE_WELCOME);
    assert_int_equal(hello(fixture, MESH_ID, ALICE, 1, false, NULL), STORE_WELCOME);
    fixture_close(fixture);
    fixture_open(fixture);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 2, false, NULL), STORE_HELLO_REPLAYED);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 3, false, ALICE), STORE_HELLO_KEY_TAKEN);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, BOB, ALICE, NULL, 5), STORE_STATED);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 4, false, NULL), STORE_HELLO_REVOKED);
}

static void who_signed_the_challenge_once_must_sign_it_always(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 1, false, NULL), STORE_WELCOME);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 2, true, NULL), STORE_WELCOME);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 3, false, NULL), STORE_HELLO_V2_REQUIRED);
    fixture_close(fixture);
    fixture_open(fixture);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 4, false, NULL), STORE_HELLO_V2_REQUIRED);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 4, true, NULL), STORE_WELCOME); /* what was refused used no timestamp up */
}

/* ---- statements ---------------------------------------------------------------------------------------------------------------- */

static void only_the_owner_revokes_an_admin_and_nobody_the_owner(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(fixture_join(fixture, CAROL, "kinvite", 10, NULL), STORE_JOINED);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, CAROL, BOB, NULL, 1), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_GRANT, BOB, BOB, "admin", 1), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_GRANT, BOB, ALICE, "admin", 1), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_GRANT, CAROL, BOB, "admin", 1), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, ALICE, BOB, NULL, 2), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_GRANT, CAROL, ALICE, "admin", 2), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, CAROL, BOB, NULL, 2), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_GRANT, CAROL, BOB, "member", 3), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_GRANT, CAROL, ALICE, "member", 3), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, CAROL, BOB, NULL, 2), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, CAROL, BOB, NULL, 2), STORE_STATED_BEFORE);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, BOB, CAROL, NULL, 3), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, "eeee", ALICE, NULL, 3), STORE_STATEMENT_UNKNOWN_SUBJECT);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, BOB, ALICE, NULL, 3), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_GRANT, BOB, ALICE, "member", 9), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_join(fixture, BOB, "kinvite", 10, NULL), STORE_JOIN_REVOKED);
}

static void a_member_names_itself_and_only_forward(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(fixture_state(fixture, STORE_NAME, BOB, ALICE, "robert", 1), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_NAME, BOB, BOB, "robert", 2), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_NAME, BOB, BOB, "rob", 1), STORE_STATEMENT_STALE);
    assert_int_equal(fixture_state(fixture, STORE_NAME, BOB, BOB, "rob", 3), STORE_STATED);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM statement WHERE kind = 'name'"), 1);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM member WHERE display_name = 'rob'"), 1);
}

static void who_left_is_unknown_and_may_come_back_with_an_invite(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(fixture_state(fixture, STORE_LEAVE, BOB, ALICE, NULL, 1), STORE_STATEMENT_FORBIDDEN);
    assert_int_equal(fixture_state(fixture, STORE_LEAVE, BOB, BOB, NULL, 1), STORE_STATED);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 1, false, NULL), STORE_HELLO_UNKNOWN);
    assert_int_equal(fixture_send_simply(fixture, fixture->alice, BOB, "gone"), STORE_UNKNOWN_MEMBER);
    assert_int_equal(fixture_join(fixture, BOB, "kback", 1, NULL), STORE_JOINED);
    assert_int_equal(fixture_join(fixture, CAROL, "kback", 1, NULL), STORE_JOIN_EXHAUSTED);
    assert_int_equal(hello(fixture, MESH_ID, BOB, 2, false, NULL), STORE_WELCOME);
    assert_int_equal(fixture_state(fixture, STORE_LEAVE, BOB, BOB, NULL, 1), STORE_STATED_BEFORE); /* the old one, shown again */
    assert_int_equal(hello(fixture, MESH_ID, BOB, 3, false, NULL), STORE_WELCOME);
}

/* ---- lists ------------------------------------------------------------------------------------------------------------------------ */

static int64_t list(struct fixture *fixture, int64_t after, size_t byte_limit, struct buffer *ret_text)
{
    bool done = false;
    struct store_list_members request = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh = fixture->mesh,
        .after = after,
        .byte_limit = byte_limit,
    };
    buffer_init(&request.text, BUFFER_UNLIMITED);
    fixture->store->operations->list_members(fixture->store, &request);
    fixture_wait(fixture, &done);
    assert_int_equal(request.request.status, 0);
    *ret_text = request.text;
    return request.next;
}

static size_t occurrences(const char *text, const char *word)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += strlen(word))
        count++;
    return count;
}

static void the_list_has_members_with_certificates_and_all_statements(void **state)
{
    struct fixture *fixture = begin(state);
    struct buffer text;
    assert_int_equal(fixture_join(fixture, CAROL, "kinvite", 10, NULL), STORE_JOINED);
    assert_int_equal(fixture_state(fixture, STORE_NAME, BOB, BOB, "rob", 1), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, CAROL, ALICE, NULL, 1), STORE_STATED);
    assert_int_equal(list(fixture, 0, 1 << 20, &text), -1);
    assert_int_equal(occurrences(text.data, "\"pubkey\":"), 3);
    assert_int_equal(occurrences(text.data, "\"cert\":{\"cert\":true}"), 2);
    assert_int_equal(occurrences(text.data, "\"revoked\":true"), 1);
    assert_non_null(strstr(text.data, "\"revocations\":[{\"signed\":true}]"));
    assert_non_null(strstr(text.data, "\"name_statement\":{\"signed\":true}"));
    buffer_release(&text);
}

static void a_long_list_comes_in_pages_that_miss_nothing(void **state)
{
    struct fixture *fixture = begin(state);
    size_t members = 0, names = 0, pages = 0;
    assert_int_equal(fixture_join(fixture, CAROL, "kinvite", 10, NULL), STORE_JOINED);
    for (int64_t seq = 1; seq <= 3; seq++)
        assert_int_equal(fixture_state(fixture, STORE_GRANT, BOB, ALICE, "member", seq), STORE_STATED);
    for (int64_t after = 0; after >= 0; pages++) {
        struct buffer text;
        after = list(fixture, after, 1, &text);
        members += occurrences(text.data, "\"displayName\":");
        const char *grants = strstr(text.data, "\"grants\":[");
        if (grants != NULL) {
            char *end = strchr(strstr(text.data, "\"grants\":["), ']');
            *end = '\0';
            names += occurrences(grants, "\"signed\"");
        }
        buffer_release(&text);
        assert_true(pages < 20);
    }
    assert_int_equal(members, 3);
    assert_int_equal(names, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        TEST(making_the_same_mesh_again_answers_the_same),
        TEST(an_id_or_slug_that_is_another_ones_is_refused),
        TEST(an_invite_serves_as_often_as_it_says_and_once_for_each_key),
        TEST(an_expired_or_revoked_invite_is_refused),
        TEST(racing_joins_for_the_last_place_give_it_to_one),
        TEST(a_hello_is_for_members_and_for_once),
        TEST(who_signed_the_challenge_once_must_sign_it_always),
        TEST(only_the_owner_revokes_an_admin_and_nobody_the_owner),
        TEST(a_member_names_itself_and_only_forward),
        TEST(who_left_is_unknown_and_may_come_back_with_an_invite),
        TEST(the_list_has_members_with_certificates_and_all_statements),
        TEST(a_long_list_comes_in_pages_that_miss_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
