/* The recipient's checks (45-trust, Messages, at the recipient): every row of the table refuses what it is there for, with its reason; an honest message passes them all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench_mesh.h"
#include "delivery/checks.h"
#include "json/json.h"
#include "proto/rotation.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

struct fixture {
    struct bench_mesh bench;
    struct trust *trust;
    struct key_archive archive; /* our former keys */
    bool *covered;              /* by row of CHECKS */
};

static const int64_t HOUR_MS = 3600 * 1000, GRACE_MS = 7 * 24 * 3600 * INT64_C(1000);

static int setup(void **state)
{
    struct fixture *f = memory_zalloc(sizeof(*f));
    bench_init(&f->bench);
    const struct trust_identity identity = { .mesh_id = MESH_ID,
                                             .mesh_slug = "acme",
                                             .owner_pubkey = keypair_public_hex(f->bench.owner),
                                             .own_pubkey = keypair_public_hex(f->bench.me),
                                             .own_member_id = "m-me" };
    struct error error;
    assert_int_equal(trust_open(f->bench.outbox_db, &identity, &f->trust, &error), 0);
    json_t *members = bench_members(&f->bench);
    struct trust_changes changes;
    assert_int_equal(trust_merge_members(f->trust, members, &changes, &error), 0);
    json_decref(members);
    assert_true(trust_member(f->trust, keypair_public_hex(f->bench.carol))->verified);
    f->covered = memory_calloc(CHECK_COUNT, sizeof(bool));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    key_archive_release(&f->archive);
    trust_free(f->trust);
    bench_release(&f->bench);
    free(f->covered);
    free(f);
    return 0;
}

static bool applies(const struct check *check, const struct received *received)
{
    return check->scope == CHECK_EVERY || (check->scope == CHECK_ENVELOPE) == received->is_envelope;
}

static void prepare(const struct fixture *f, const json_t *frame, const struct frame_push *push, struct received *received)
{
    received_init(received);
    received->mesh_id = MESH_ID;
    received->keys = f->bench.me;
    received->boxes = f->bench.boxes;
    received->trust = f->trust;
    received->now_ms = clock_wall_ms();
    received->archive = &f->archive;
    received->key_grace_ms = GRACE_MS;
    received->frame = frame;
    received->push = push;
}

/* The push is given. Notes which row of the table refused it. */
static const char *judge(struct fixture *f, json_t *frame)
{
    struct frame_push push;
    struct error error;
    struct received received;
    assert_int_equal(frame_push_parse(frame, &push, &error), 0);
    prepare(f, frame, &push, &received);
    received.client_message_id = push.client_message_id;
    for (size_t i = 0; i < CHECK_COUNT; i++) {
        if (applies(&CHECKS[i], &received) && !CHECKS[i].holds(&received)) {
            f->covered[i] = true;
            break;
        }
    }
    received_release(&received);
    prepare(f, frame, &push, &received);
    const char *reason = checks_judge(&received);
    received_release(&received);
    json_decref(frame);
    return reason;
}

static json_t *change(const char *name, json_t *value)
{
    json_t *object = json_new_object();
    json_put(object, name, value);
    return object;
}

#define ASSERT_REASON(reason, ...) assert_string_equal(judge(f, __VA_ARGS__), reason)

/* ---- what passes ---------------------------------------------------------------------------------------------- */

static void an_honest_message_passes(void **state)
{
    struct fixture *f = *state;
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .body = "hello" }, NULL)));
    json_t *meta = change("b", json_integer(2));
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .priority = "now", .reply_to = "B1", .meta = meta },
                                    change("replyToId", json_string("B1")))));
}

static void a_message_to_oneself_passes(void **state)
{
    struct fixture *f = *state;
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.me }, NULL)));
}

static void a_member_without_certificate_may_write(void **state)
{
    struct fixture *f = *state;
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.stranger }, NULL)));
}

static void an_older_client_and_an_older_broker_are_understood(void **state)
{
    struct fixture *f = *state;
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .bare = "an old client's word" }, NULL)));
    json_t *silent =
        json_pack("{s:n, s:n, s:n, s:n, s:n}", "client_message_id", "targetSpec", "history_id", "priority", "senderMemberPubkey");
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .id = "only-inside" }, silent)));
}

static void an_envelope_is_one_whatever_was_declared(void **state)
{
    struct fixture *f = *state;
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .body = "relabelled" }, change("bodyVersion", json_integer(1)))));
    ASSERT_REASON("bad_signature",
                  bench_push(&f->bench, &(struct bench_letter){ .signer = f->bench.stranger }, change("bodyVersion", json_integer(1))));
}

/* ---- what does not -------------------------------------------------------------------------------------------- */

static void broken_pushes(struct fixture *f)
{
    const struct bench_letter letter = { .body = "x" };
    ASSERT_REASON("malformed", bench_push(&f->bench, &letter, change("nonce", json_string("AAAA"))));
    ASSERT_REASON("malformed", bench_push(&f->bench, &letter, change("nonce", json_string(""))));
    ASSERT_REASON("malformed", bench_push(&f->bench, &letter, change("ciphertext", json_string(""))));
    ASSERT_REASON("malformed", bench_push(&f->bench, &letter, change("ciphertext", json_string("not base64!"))));
    ASSERT_REASON("malformed", bench_push(&f->bench, &letter, change("senderMemberPubkey", json_string("carol"))));
    ASSERT_REASON("malformed", bench_push(&f->bench, &letter, change("client_message_id", json_string("two words"))));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &letter, change("meshId", json_string("00000000-9d0c-4a3e-8a4e-3c1b6f0e2d11"))));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &letter, change("targetSpec", json_string(keypair_public_hex(f->bench.stranger)))));
    ASSERT_REASON("no_key", bench_push(&f->bench, &letter, change("targetSpec", json_string("#alerts"))));
    ASSERT_REASON("no_key", bench_push(&f->bench, &letter, change("targetSpec", json_string("@ops"))));
    ASSERT_REASON("no_key", bench_push(&f->bench, &letter, change("targetSpec", json_string("*"))));
    ASSERT_REASON("no_key", bench_push(&f->bench, &letter, change("topic", json_string("alerts"))));
    char small_order[KEY_HEX_SIZE] = "0100000000000000000000000000000000000000000000000000000000000000";
    ASSERT_REASON("invalid_key", bench_push(&f->bench, &letter, change("senderMemberPubkey", json_string(small_order))));
}

static void boxes_that_do_not_open(struct fixture *f)
{
    const struct bench_letter letter = { .body = "x" };
    json_t *push = bench_push(&f->bench, &letter, NULL);
    char *ciphertext = memory_strdup(json_string_value(json_object_get(push, "ciphertext")));
    ciphertext[10] = ciphertext[10] == 'A' ? 'B' : 'A';
    json_put_string(push, "ciphertext", ciphertext);
    free(ciphertext);
    ASSERT_REASON("decrypt_failed", push);
    ASSERT_REASON("decrypt_failed",
                  bench_push(&f->bench, &(struct bench_letter){ .sealer = f->bench.stranger }, NULL)); /* not from whom the push says */
    ASSERT_REASON("decrypt_failed",
                  bench_push(&f->bench, &letter, change("senderMemberPubkey", json_string(keypair_public_hex(f->bench.stranger)))));
}

static void envelopes_that_are_none(struct fixture *f)
{
    ASSERT_REASON("malformed", bench_push(&f->bench, &(struct bench_letter){ .bare = "plain text declared sealed" },
                                          change("bodyVersion", json_integer(3))));
    ASSERT_REASON("malformed", bench_push(&f->bench, &(struct bench_letter){ .bare = "\xff\xfe" }, NULL));
    ASSERT_REASON("malformed",
                  bench_push(&f->bench, &(struct bench_letter){ .bare = "version two" }, change("bodyVersion", json_integer(2))));
    ASSERT_REASON("malformed", bench_push(&f->bench, &(struct bench_letter){ .change = change("body", json_integer(5)) }, NULL));
    ASSERT_REASON("malformed", bench_push(&f->bench, &(struct bench_letter){ .bare = "hello" }, change("priority", json_string("urgent"))));
}

static void envelopes_that_differ_from_the_push(struct fixture *f)
{
    const char *stranger = keypair_public_hex(f->bench.stranger);
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .id = "inside" }, change("client_message_id", json_string("outside"))));
    static const char *const OTHER_MESH = "00000000-9d0c-4a3e-8a4e-3c1b6f0e2d11";
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .change = change("mesh", json_string(OTHER_MESH)) }, NULL));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .change = change("from", json_string(stranger)) }, NULL));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .change = change("kind", json_string("topic")) }, NULL));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .to = stranger }, NULL)); /* redirected: well signed, for another */
    ASSERT_REASON(
        "envelope_mismatch",
        bench_push(&f->bench, &(struct bench_letter){ .change = change("key_id", json_string("00112233445566778899aabbccddeeff")) }, NULL));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .priority = "low" }, change("priority", json_string("now"))));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .body = "x" }, change("replyToId", json_string("B7"))));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .reply_to = "B1" }, change("replyToId", json_string("B7"))));
    ASSERT_REASON("envelope_mismatch",
                  bench_push(&f->bench, &(struct bench_letter){ .body = "x" }, change("mentions", json_pack("[s]", "dave"))));
}

static void envelopes_that_nobody_signed(struct fixture *f)
{
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .signer = f->bench.stranger }, NULL));
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .change = change("sig", json_null()) }, NULL));
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .change = change("xsig", json_null()) }, NULL));
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .change = change("body", json_string("changed")) }, NULL));
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .change = change("sent_at", json_integer(1)) }, NULL));
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .change = change("reply_to", json_string("B1")) }, NULL));
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .change = change("priority", json_string("now")) },
                                              change("priority", json_string("now"))));
    ASSERT_REASON("bad_signature", bench_push(&f->bench, &(struct bench_letter){ .change = change("rv", json_string("9:00")) }, NULL));
    ASSERT_REASON("bad_signature",
                  bench_push(&f->bench, &(struct bench_letter){ .change = change("meta", json_pack("{s:i}", "a", 1)) }, NULL));
}

static json_t *large_meta(void)
{
    char *text = memory_alloc(20001);
    memset(text, 'x', 20000);
    text[20000] = '\0';
    json_t *meta = change("a", json_string(text));
    free(text);
    return meta;
}

static void messages_out_of_bounds(struct fixture *f)
{
    ASSERT_REASON("malformed", bench_push(&f->bench, &(struct bench_letter){ .meta = large_meta() }, NULL));
    ASSERT_REASON("replay_suspected", bench_push(&f->bench, &(struct bench_letter){ .sent_at = clock_wall_ms() + 11 * 60000 }, NULL));
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .sent_at = clock_wall_ms() + 9 * 60000 }, NULL)));
}

/* The box that we once made for carol opens as if she had made it for us. */
static json_t *our_own_box(struct fixture *f, const char *text)
{
    struct nonce nonce;
    struct buffer sealed;
    struct buffer encoded;
    struct error error;
    buffer_init(&sealed, BUFFER_UNLIMITED);
    buffer_init(&encoded, BUFFER_UNLIMITED);
    nonce_derive(f->bench.me, keypair_public(f->bench.carol), text, strlen(text), &nonce);
    assert_int_equal(box_seal(f->bench.boxes, f->bench.me, keypair_public(f->bench.carol), &nonce, text, strlen(text), &sealed, &error), 0);
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .bare = text }, NULL);
    assert_int_equal(base64_encode(nonce.bytes, NONCE_BYTES, &encoded), 0);
    json_put_string(push, "nonce", encoded.data);
    buffer_reset(&encoded);
    assert_int_equal(base64_encode(sealed.data, sealed.length, &encoded), 0);
    json_put_string(push, "ciphertext", encoded.data);
    buffer_release(&sealed);
    buffer_release(&encoded);
    return push;
}

static void old_boxes(struct fixture *f)
{
    ASSERT_REASON("reflected", our_own_box(f, "what we wrote to carol"));
    ASSERT_REASON("reflected", bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.me, .bare = "from ourselves" }, NULL));
    trust_note_body_version(f->trust, keypair_public_hex(f->bench.carol), 3);
    ASSERT_REASON("body_downgrade", bench_push(&f->bench, &(struct bench_letter){ .bare = "suddenly plain" }, NULL));
}

static void a_revoked_sender(struct fixture *f)
{
    json_t *members = bench_members(&f->bench);
    json_put(members, "revocations", json_pack("[o]", bench_revocation(&f->bench, f->bench.carol)));
    struct trust_changes changes;
    struct error error;
    assert_int_equal(trust_merge_members(f->trust, members, &changes, &error), 0);
    json_decref(members);
    ASSERT_REASON("sender_revoked",
                  bench_push(&f->bench, &(struct bench_letter){ .sent_at = 1790000000000 }, NULL)); /* whatever sent_at says */
}

static void rotate(struct fixture *f, const struct keypair *old, const struct keypair *new, int64_t at)
{
    json_t *request = NULL;
    struct trust_changes changes;
    struct error error;
    assert_int_equal(rotation_make_request(MESH_ID, "m-1", 1, old, new, at, &request, &error), 0);
    assert_int_equal(trust_merge_event(f->trust, "member_keypair_rotated", request, &changes, &error), 0);
    json_decref(request);
}

/* The old key speaks for what was said before, and for the grace; the new one for everything. */
static void a_sender_that_has_another_key(struct fixture *f)
{
    struct keypair *carols_next = NULL, *owners_next = NULL;
    struct error error;
    int64_t now = clock_wall_ms();
    assert_int_equal(keypair_generate(&carols_next, &error), 0);
    assert_int_equal(keypair_generate(&owners_next, &error), 0);
    rotate(f, f->bench.carol, carols_next, now - HOUR_MS);
    ASSERT_REASON("key_rotated_out", bench_push(&f->bench, &(struct bench_letter){ .sent_at = now }, NULL));
    ASSERT_REASON("key_rotated_out", bench_push(&f->bench, &(struct bench_letter){ .sent_at = now - HOUR_MS + 1 }, NULL));
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .sent_at = now - HOUR_MS }, NULL)));
    assert_null(judge(f, bench_push(&f->bench, &(struct bench_letter){ .from = carols_next, .sent_at = now }, NULL)));
    ASSERT_REASON("body_downgrade",
                  bench_push(&f->bench, &(struct bench_letter){ .from = carols_next, .bare = "another key, as before" }, NULL));
    rotate(f, f->bench.owner, owners_next, now - GRACE_MS - HOUR_MS);
    ASSERT_REASON("key_rotated_out",
                  bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.owner, .sent_at = now - GRACE_MS - 2 * HOUR_MS }, NULL));
    ASSERT_REASON("key_rotated_out", bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.owner, .bare = "in the clear" }, NULL));
    keypair_free(carols_next);
    keypair_free(owners_next);
}

static void what_was_sent_to_our_former_key_opens_with_the_archive(void **state)
{
    struct fixture *f = *state;
    struct bench_mesh *bench = &f->bench;
    struct keypair *former = bench->me, *next = NULL;
    struct error error;
    int64_t now = clock_wall_ms();
    const char *old_hex = keypair_public_hex(former);
    json_t *letter = bench_push(bench, &(struct bench_letter){ .body = "to the old key" }, NULL);
    json_t *again = json_deep_copy(letter), *third = json_deep_copy(letter);
    assert_int_equal(keypair_generate(&next, &error), 0);
    bench->me = next;
    json_t *other_name = bench_push(bench, &(struct bench_letter){ .to = old_hex }, json_pack("{s:s}", "targetSpec", old_hex));
    json_t *differs = bench_push(bench, &(struct bench_letter){ .to = old_hex }, NULL);
    ASSERT_REASON("envelope_mismatch", letter); /* nobody's, as far as is known here */
    assert_int_equal(key_archive_add(&f->archive, MESH_ID, former, 0, now, 7), 0);
    assert_null(judge(f, again));
    assert_null(judge(f, other_name));           /* the new key's box under the old key's name */
    ASSERT_REASON("envelope_mismatch", differs); /* not under another name than the push's */
    f->archive.keys[0].expires_at = now - 1;     /* the daily pass has not been */
    ASSERT_REASON("envelope_mismatch", json_incref(third));
    rotate(f, former, next, now); /* ours, but the archive has it no more */
    trust_free(f->trust);
    const struct trust_identity identity = { .mesh_id = MESH_ID,
                                             .mesh_slug = "acme",
                                             .owner_pubkey = keypair_public_hex(bench->owner),
                                             .own_pubkey = keypair_public_hex(next),
                                             .own_member_id = "m-me" };
    assert_int_equal(trust_open(bench->outbox_db, &identity, &f->trust, &error), 0);
    ASSERT_REASON("decrypt_failed", third);
    bench->me = former;
    keypair_free(next);
}

static void our_own_box_under_a_former_key_is_still_known_for_ours(void **state)
{
    struct fixture *f = *state;
    struct keypair *former = f->bench.me, *next = NULL;
    struct error error;
    json_t *push = our_own_box(f, "what we wrote to carol");
    assert_int_equal(keypair_generate(&next, &error), 0);
    assert_int_equal(key_archive_add(&f->archive, MESH_ID, former, 0, clock_wall_ms(), 7), 0);
    f->bench.me = next;
    ASSERT_REASON("reflected", push);
    f->bench.me = former;
    keypair_free(next);
}

static void every_row_of_the_table_refuses_what_it_is_there_for(void **state)
{
    struct fixture *f = *state;
    broken_pushes(f);
    boxes_that_do_not_open(f);
    envelopes_that_are_none(f);
    envelopes_that_differ_from_the_push(f);
    envelopes_that_nobody_signed(f);
    messages_out_of_bounds(f);
    old_boxes(f);
    a_sender_that_has_another_key(f);
    a_revoked_sender(f);
    for (size_t i = 0; i < CHECK_COUNT; i++) {
        if (!f->covered[i]) {
            fail_msg("row %zu (%s) was never the one that refused", i, CHECKS[i].reason);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_honest_message_passes),
        TEST(a_message_to_oneself_passes),
        TEST(a_member_without_certificate_may_write),
        TEST(an_older_client_and_an_older_broker_are_understood),
        TEST(an_envelope_is_one_whatever_was_declared),
        TEST(every_row_of_the_table_refuses_what_it_is_there_for),
        TEST(what_was_sent_to_our_former_key_opens_with_the_archive),
        TEST(our_own_box_under_a_former_key_is_still_known_for_ours),
    };
    return cmocka_run_group_tests_name("checks", tests, NULL, NULL);
}
