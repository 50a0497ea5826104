/* A member goes on under another key: who reaches it, who may speak for it, and which key each message and receipt is said to be of. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store_fixture.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

static const char NEW_KEY[] = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";
static const char NEWER_KEY[] = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
static const int64_t GRACE_MS = 1000;

static struct fixture *begin(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture);
    fixture_make_mesh(fixture);
    return fixture;
}

static enum store_rotation_outcome rotate(struct fixture *fixture, int64_t member, const char *old, const char *new, int64_t seq)
{
    bool done = false;
    struct store_rotate request = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh = fixture->mesh,
        .member = member,
        .seq = seq,
        .at = fixture_now_ms(),
        .usable_until = fixture_now_ms() + GRACE_MS,
        .now_ms = fixture_now_ms(),
        .old_pubkey = old,
        .new_pubkey = new,
        .document = "{\"a\":\"rotation\"}",
    };
    fixture->store->operations->rotate(fixture->store, &request);
    fixture_wait(fixture, &done);
    assert_int_equal(request.request.status, 0);
    return request.outcome;
}

static enum store_hello_outcome greet(struct fixture *fixture, const char *pubkey)
{
    bool done = false;
    struct store_hello hello = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh_id = MESH_ID,
        .member_id = "whoever",
        .pubkey = pubkey,
        .session_uid = "one",
        .timestamp = fixture_now_ms() + (int64_t)fixture->counter++,
        .now_ms = fixture_now_ms(),
    };
    fixture->store->operations->hello(fixture->store, &hello);
    fixture_wait(fixture, &done);
    free(hello.mesh_slug);
    free(hello.display_name);
    free(hello.role);
    free(hello.certificate);
    free(hello.state);
    return hello.outcome;
}

static enum store_outcome send_as(struct fixture *fixture, const char *key, int64_t sender, const char *to, const char *id)
{
    struct store_accept accept;
    fixture_message(fixture, &accept, sender, to, id);
    accept.sender_member_pubkey = accept.sender_pubkey = key;
    accept.now_ms = fixture_now_ms();
    return fixture_send(fixture, &accept);
}

static void a_send_to_the_former_key_reaches_the_member_while_the_grace_lasts(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(send_as(fixture, ALICE, fixture->alice, BOB, "to-old"), STORE_ACCEPTED);
    assert_int_equal(send_as(fixture, ALICE, fixture->alice, NEW_KEY, "to-new"), STORE_ACCEPTED);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM message WHERE recipient_member_id = 2"), 2);
    fixture_set_now_ms(fixture_now_ms() + GRACE_MS);
    assert_int_equal(send_as(fixture, ALICE, fixture->alice, BOB, "too-late"), STORE_UNKNOWN_MEMBER);
    assert_int_equal(send_as(fixture, ALICE, fixture->alice, NEW_KEY, "in-time"), STORE_ACCEPTED);
}

static void a_hello_with_the_former_key_is_told_so(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(greet(fixture, BOB), STORE_HELLO_KEY_ROTATED);
    assert_true(fixture_hello(fixture, NEW_KEY, "one", true) > 0);
    assert_int_equal(fixture_state(fixture, STORE_REVOCATION, BOB, ALICE, NULL, 1), STORE_STATED); /* by the key that its owner knows */
    assert_int_equal(greet(fixture, BOB), STORE_HELLO_REVOKED);
    assert_int_equal(greet(fixture, NEW_KEY), STORE_HELLO_REVOKED);
    assert_int_equal(send_as(fixture, ALICE, fixture->alice, BOB, "to-old"), STORE_MEMBER_REVOKED);
}

static void what_is_still_on_its_way_under_the_former_key_is_refused_in_passing_and_never_twice(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(send_as(fixture, BOB, fixture->bob, ALICE, "m1"), STORE_ACCEPTED);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(send_as(fixture, BOB, fixture->bob, ALICE, "m1"), STORE_DUPLICATE); /* what was accepted stays so, whoever asks */
    assert_int_equal(send_as(fixture, NEW_KEY, fixture->bob, ALICE, "m1"), STORE_DUPLICATE);
    assert_int_equal(send_as(fixture, BOB, fixture->bob, ALICE, "m2"), STORE_SENDER_ROTATED);
    struct store_forget_connection *forget = memory_zalloc(sizeof(*forget)); /* what followed was held for that connection */
    bool done = false;
    forget->request.done = fixture_done;
    forget->request.argument = &done;
    forget->connection = 7;
    fixture->store->operations->forget_connection(fixture->store, forget);
    fixture_wait(fixture, &done);
    free(forget);
    assert_int_equal(send_as(fixture, NEW_KEY, fixture->bob, ALICE, "m2"), STORE_ACCEPTED);
}

static void each_message_is_of_the_key_that_its_sender_had_then(void **state)
{
    struct fixture *fixture = begin(state);
    bool done = false;
    int64_t session = fixture_hello(fixture, ALICE, "desk", true);
    assert_int_equal(send_as(fixture, BOB, fixture->bob, ALICE, "m1"), STORE_ACCEPTED);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(send_as(fixture, NEW_KEY, fixture->bob, ALICE, "m2"), STORE_ACCEPTED);
    assert_int_equal(rotate(fixture, fixture->bob, NEW_KEY, NEWER_KEY, 2), STORE_ROTATED);
    assert_int_equal(send_as(fixture, NEWER_KEY, fixture->bob, ALICE, "m3"), STORE_ACCEPTED);
    struct store_fetch fetch = { .request = { .done = fixture_done, .argument = &done },
                                 .session = session,
                                 .member = fixture->alice,
                                 .wanted = { true, true, true },
                                 .limit = 10,
                                 .byte_limit = 1 << 20 };
    fixture->store->operations->fetch(fixture->store, &fetch);
    fixture_wait(fixture, &done);
    const char *const EXPECTED[] = { BOB, NEW_KEY, NEWER_KEY };
    const struct store_message *message = fetch.first;
    for (size_t i = 0; i < ARRAY_LENGTH(EXPECTED); i++, message = message->next) {
        assert_non_null(message);
        assert_string_equal(message->sender_member_pubkey, EXPECTED[i]);
    }
    store_messages_free(fetch.first);
}

static void a_receipt_is_by_the_key_that_signed_it(void **state)
{
    struct fixture *fixture = begin(state);
    bool done = false;
    int64_t session = fixture_hello(fixture, BOB, "desk", true);
    struct store_accept accept;
    fixture_message(fixture, &accept, fixture->alice, BOB, "m1");
    assert_int_equal(fixture_send(fixture, &accept), STORE_ACCEPTED);
    (void)fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_STORED);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    (void)fixture_acknowledge(fixture, fixture->bob, session, accept.broker_message_id, STORE_ACK_SEEN);
    /* One that was on its way when the key was replaced, and was signed by the former one. */
    struct store_accept late;
    fixture_message(fixture, &late, fixture->alice, NEW_KEY, "m2");
    assert_int_equal(fixture_send(fixture, &late), STORE_ACCEPTED);
    (void)fixture_acknowledge_by(fixture, fixture->bob, session, late.broker_message_id, STORE_ACK_STORED, BOB);
    struct store_fetch_receipts fetch = { .request = { .done = fixture_done, .argument = &done }, .member = fixture->alice };
    fixture->store->operations->fetch_receipts(fixture->store, &fetch);
    fixture_wait(fixture, &done);
    assert_int_equal(fetch.count, 3);
    assert_string_equal(fetch.receipts[0].by, BOB);
    assert_string_equal(fetch.receipts[1].by, NEW_KEY);
    assert_string_equal(fetch.receipts[2].by, BOB);
    struct store_settle_receipts *settle = memory_zalloc(sizeof(*settle) + 3 * sizeof(settle->acks[0]));
    done = false;
    settle->request.done = fixture_done;
    settle->request.argument = &done;
    settle->mesh = fixture->mesh;
    settle->member = fixture->alice;
    settle->count = 3;
    for (size_t i = 0; i < 3; i++) {
        memcpy(settle->acks[i].broker_message_id, fetch.receipts[i].broker_message_id, ULID_SIZE);
        memcpy(settle->acks[i].by, fetch.receipts[i].by, STORE_KEY_SIZE);
        settle->acks[i].kind = fetch.receipts[i].kind;
    }
    fixture->store->operations->settle_receipts(fixture->store, settle);
    fixture_wait(fixture, &done);
    free(settle);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM receipt WHERE pending = 1"), 0);
}

static void a_step_is_the_next_one_of_the_asker_to_a_key_that_nobody_had(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 2), STORE_ROTATION_STALE);
    assert_int_equal(rotate(fixture, fixture->alice, BOB, NEW_KEY, 1), STORE_ROTATION_FORBIDDEN);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, ALICE, 1), STORE_ROTATION_TAKEN);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM rotation"), 0);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED_BEFORE);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEWER_KEY, 1), STORE_ROTATION_STALE); /* a fork: the first is kept */
    assert_int_equal(rotate(fixture, fixture->bob, NEW_KEY, BOB, 2), STORE_ROTATION_TAKEN);   /* never back */
    assert_int_equal(rotate(fixture, fixture->alice, ALICE, BOB, 1), STORE_ROTATION_TAKEN);   /* nor another's */
    assert_int_equal(fixture_join(fixture, BOB, "kinvite", 10, NULL), STORE_JOIN_REVOKED);
}

static int note_finding_count;
static void note_finding(void *argument, const char *finding)
{
    (void)argument;
    (void)finding;
    note_finding_count++;
}

static void the_check_knows_former_keys(void **state)
{
    struct fixture *fixture = begin(state);
    struct error error;
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(rotate(fixture, fixture->bob, NEW_KEY, NEWER_KEY, 2), STORE_ROTATED);
    assert_int_equal(rotate(fixture, fixture->alice, ALICE, "abababababababababababababababababababababababababababababababab", 1),
                     STORE_ROTATED);
    assert_int_equal(store_check_file(fixture->where, note_finding, NULL, &error), 0);
    fixture_close(fixture);
    fixture_execute(fixture, "UPDATE member SET pubkey = 'lost' WHERE id = 2");
    note_finding_count = 0;
    assert_int_equal(store_check_file(fixture->where, note_finding, NULL, &error), 1);
    fixture_execute(fixture, "DELETE FROM rotation WHERE seq = 1 AND member_id = 2; UPDATE member SET pubkey = new_pubkey FROM rotation k"
                             " WHERE k.member_id = member.id");
    assert_int_equal(store_check_file(fixture->where, note_finding, NULL, &error), 1);
    assert_int_equal(note_finding_count, 2);
}

static void the_list_has_the_statements_and_pages_through_them(void **state)
{
    struct fixture *fixture = begin(state);
    assert_int_equal(rotate(fixture, fixture->bob, BOB, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(rotate(fixture, fixture->bob, NEW_KEY, NEWER_KEY, 2), STORE_ROTATED);
    assert_int_equal(fixture_state(fixture, STORE_NAME, NEWER_KEY, NEWER_KEY, "rob", 1), STORE_STATED);
    assert_int_equal(fixture_state(fixture, STORE_NAME, BOB, BOB, "thief", 2), STORE_STATEMENT_FORBIDDEN);
    size_t rotations = 0, members = 0, pages = 0;
    for (int64_t after = 0; after >= 0; pages++) {
        bool done = false;
        struct store_list_members list = {
            .request = { .done = fixture_done, .argument = &done }, .mesh = fixture->mesh, .after = after, .byte_limit = 20
        };
        buffer_init(&list.text, BUFFER_UNLIMITED);
        fixture->store->operations->list_members(fixture->store, &list);
        fixture_wait(fixture, &done);
        assert_int_equal(list.request.status, 0);
        for (const char *at = list.text.data; (at = strstr(at, "{\"a\":")) != NULL; at++)
            rotations++;
        for (const char *at = list.text.data; (at = strstr(at, "\"joinedAt\"")) != NULL; at++)
            members++;
        assert_true(list.next < 0 || list.next > after);
        after = list.next;
        buffer_release(&list.text);
    }
    assert_int_equal(rotations, 2);
    assert_int_equal(members, 2);
    assert_true(pages > 2);
}

/* tests/fixtures/databases/broker-v2.db: two members, alice has one message of bob's, bob is to get one of alice's; made by the program of that version. */
static void a_store_of_the_second_version_opens_and_its_members_rotate(void **state)
{
    static const char BOBS_KEY[] = "e2d5e5c877b628a2c897449dce4e77f88bbadda159d8abe38d1a28ace5a0a861";
    static const char ALICES_KEY[] = "3ef422201aee06401a0fc8a42e98aad9071a718759282e00224a723fee3ac30d";
    struct fixture *fixture = *state;
    struct error error;
    struct buffer bytes;
    char *source = memory_printf("%s/tests/fixtures/databases/broker-v2.db", getenv("CLAUDEMESH_SOURCE_ROOT"));
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(source, &bytes, &error), 0);
    assert_int_equal(file_write_atomic(fixture->path, 0600, bytes.data, bytes.length, &error), 0);
    buffer_release(&bytes);
    free(source);
    fixture_open(fixture);
    fixture->mesh = 1;
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM receipt WHERE by_pubkey IS NULL AND state = 2"), 1);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM rotation"), 0);
    assert_int_equal(rotate(fixture, 2, BOBS_KEY, NEW_KEY, 1), STORE_ROTATED);
    assert_int_equal(rotate(fixture, 1, ALICES_KEY, NEWER_KEY, 1), STORE_ROTATED);
    assert_int_equal(fixture_number(fixture, "SELECT count(*) FROM delivery_queue WHERE member_id = 2"), 1);
    assert_int_equal(store_check_file(fixture->where, note_finding, NULL, &error), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
        TEST(a_send_to_the_former_key_reaches_the_member_while_the_grace_lasts),
        TEST(a_hello_with_the_former_key_is_told_so),
        TEST(what_is_still_on_its_way_under_the_former_key_is_refused_in_passing_and_never_twice),
        TEST(each_message_is_of_the_key_that_its_sender_had_then),
        TEST(a_receipt_is_by_the_key_that_signed_it),
        TEST(a_step_is_the_next_one_of_the_asker_to_a_key_that_nobody_had),
        TEST(the_check_knows_former_keys),
        TEST(the_list_has_the_statements_and_pages_through_them),
        TEST(a_store_of_the_second_version_opens_and_its_members_rotate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
