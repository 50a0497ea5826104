/* A whole delivery against a scripted broker on loopback: a row goes out sealed, a push comes in and is acknowledged once it is on disk, receipts, members, presence, profile, ages, stopping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "../link/stub_broker.h"
#include "bench_mesh.h"
#include "delivery/delivery_internal.h"
#include "json/json.h"
#include "proto/envelope.h"
#include "proto/statement.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

static const char *const REQUIRE[] = { "client_message_id_dedupe" };
static const int64_t DAY_MS = 86400000;

struct fixture {
    struct bench_mesh bench;
    struct loop *loop;
    struct stub stub;
    struct delivery *delivery;
    json_t *events; /* array of {type, data, seq} */
    bool accept_sends;
    bool stopped, done, stale;
    int64_t override_hours;
    size_t require_count;
    json_t *peers;
    struct outbox_row *found;
    struct outbox_receipt receipt; /* the newest that look_up saw; strings not kept */
    size_t receipt_count;
};

/* ---- the fixture ---------------------------------------------------------------------------------------------- */

static void publish(void *argument, const char *type, const char *mesh_slug, json_t *data, int64_t inbox_seq)
{
    struct fixture *f = argument;
    assert_string_equal(mesh_slug, "acme");
    json_t *event = json_new_object();
    json_put_string(event, "type", type);
    json_put(event, "data", data);
    json_put_integer(event, "seq", inbox_seq);
    json_array_append_new(f->events, event);
}

static const json_t *event_of(const struct fixture *f, const char *type, size_t nth)
{
    size_t index = 0;
    const json_t *event = NULL;
    json_array_foreach(f->events, index, event)
    {
        if (string_equal(json_string_value(json_object_get(event, "type")), type) && nth-- == 0) {
            return json_object_get(event, "data");
        }
    }
    return NULL;
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static bool accept_sends(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    struct fixture *f = stub->user;
    if (!string_equal(type, "send") || !f->accept_sends) {
        return false;
    }
    stub_send(connection,
              "{\"type\":\"ack\",\"id\":\"%s\",\"client_message_id\":\"%s\",\"messageId\":\"B-%s\",\"queued\":true,\"status\":201,"
              "\"duplicate\":false,\"history_id\":9}",
              text_of(frame, "id"), text_of(frame, "id"), text_of(frame, "id"));
    return true;
}

static void on_inserted(void *argument, const struct outbox_row *row)
{
    struct fixture *f = argument;
    if (f->delivery != NULL) {
        delivery_row_inserted(f->delivery, row);
    }
}

static struct delivery_options options_of(struct fixture *f)
{
    return (struct delivery_options){
        .loop = f->loop,
        .outbox = f->bench.outbox,
        .inbox = f->bench.inbox,
        .trust_db = f->bench.outbox_db,
        .link = { .mesh_slug = "acme",
                  .mesh_id = MESH_ID,
                  .member_id = "m-me",
                  .broker_url = f->stub.url,
                  .session_id = "inst-1",
                  .display_name = "me",
                  .keys = f->bench.me,
                  .channel = "claudemesh-daemon",
                  .peer_type = "connector",
                  .receive = true,
                  .require = REQUIRE,
                  .require_count = f->require_count,
                  .reconnect_initial_ms = 5,
                  .reconnect_max_ms = 40 },
        .owner_pubkey = keypair_public_hex(f->bench.owner),
        .role = "member",
        .events = { .argument = f, .publish = publish },
        .window = 256,
        .backoff_initial_ms = 5,
        .backoff_max_ms = 40,
        .jitter_pct = 25,
        .max_age_hours = 168,
        .max_age_override_hours = f->override_hours,
    };
}

static int make_delivery(struct fixture *f, struct error *error)
{
    struct delivery_options options = options_of(f);
    return delivery_new(&options, &f->delivery, error);
}

static int setup(void **state)
{
    struct fixture *f = memory_zalloc(sizeof(*f));
    bench_init(&f->bench);
    f->loop = f->bench.loop;
    f->events = json_new_array();
    f->require_count = 1;
    stub_init(&f->stub, f->loop, 0);
    f->stub.user = f;
    f->stub.hook = accept_sends;
    f->accept_sends = true;
    json_decref(f->stub.members);
    f->stub.members = bench_members(&f->bench);
    const struct outbox_observer observer = { .argument = f, .inserted = on_inserted };
    outbox_observe(f->bench.outbox, &observer);
    struct error error;
    assert_int_equal(make_delivery(f, &error), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    delivery_free(f->delivery);
    f->delivery = NULL;
    stub_release(&f->stub);
    run_for(f->loop, 5);
    outbox_row_free(f->found);
    json_decref(f->events);
    json_decref(f->peers);
    bench_release(&f->bench);
    free(f);
    return 0;
}

/* ---- waiting -------------------------------------------------------------------------------------------------- */

struct counted {
    struct fixture *f;
    const char *type;
    size_t count;
};

static bool has_events(void *argument)
{
    struct counted *counted = argument;
    return event_of(counted->f, counted->type, counted->count - 1) != NULL;
}

static const json_t *wait_event(struct fixture *f, const char *type, size_t count)
{
    struct counted counted = { f, type, count };
    run_until(f->loop, has_events, &counted, type);
    return event_of(f, type, count - 1);
}

static bool has_frames(void *argument)
{
    struct counted *counted = argument;
    return stub_count(&counted->f->stub, counted->type) >= counted->count;
}

static const json_t *wait_frame(struct fixture *f, const char *type, size_t count)
{
    struct counted counted = { f, type, count };
    run_until(f->loop, has_frames, &counted, type);
    return stub_received(&f->stub, type, count - 1);
}

static bool is_open_with_members(void *argument)
{
    struct fixture *f = argument;
    return delivery_members_are_fresh(f->delivery);
}

static void open_link(struct fixture *f)
{
    delivery_start(f->delivery);
    run_until(f->loop, is_open_with_members, f, "the open link");
}

/* The acknowledgement of this push, wherever it stands. */
static const json_t *acknowledgement(const struct fixture *f, const char *message_id)
{
    const json_t *frame = NULL;
    for (size_t i = 0; (frame = stub_received(&f->stub, "client_ack", i)) != NULL; i++) {
        if (string_equal(text_of(frame, "brokerMessageId"), message_id)) {
            return frame;
        }
        size_t index = 0;
        const json_t *ack = NULL;
        json_array_foreach(json_object_get(frame, "acks"), index, ack)
        {
            if (string_equal(text_of(ack, "brokerMessageId"), message_id)) {
                return ack;
            }
        }
    }
    return NULL;
}

static bool has_acknowledgement(void *argument)
{
    struct counted *counted = argument;
    return acknowledgement(counted->f, counted->type) != NULL;
}

static const json_t *wait_acknowledgement(struct fixture *f, const json_t *push)
{
    struct counted counted = { f, text_of(push, "messageId"), 0 };
    run_until(f->loop, has_acknowledgement, &counted, "the acknowledgement");
    return acknowledgement(f, text_of(push, "messageId"));
}

static void send_push(struct fixture *f, json_t *push)
{
    stub_send_json(f->stub.current, json_incref(push));
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

static void accepted_row(struct outbox_accept *accept)
{
    assert_int_equal(accept->status, 0);
    outbox_accept_free(accept);
}

static void send_row_at(struct fixture *f, const char *id, const struct keypair *to, const char *meta, int64_t enqueued_at)
{
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    ulid_generate(row->id);
    row->client_message_id = memory_strdup(id);
    row->mesh = memory_strdup(MESH_ID);
    row->destination_kind = memory_strdup("dm");
    row->destination_ref = memory_strdup(keypair_public_hex(to));
    row->meta = memory_strdup(meta);
    row->priority = PRIORITY_NOW;
    row->payload = memory_strdup("the body");
    row->payload_size = strlen(row->payload);
    row->enqueued_at = enqueued_at;
    row->next_attempt_at = enqueued_at;
    row->delivered_at = row->aborted_at = row->history_id = -1;
    memset(row->broker_fingerprint.bytes, 0xab, sizeof(row->broker_fingerprint.bytes));
    struct outbox_accept *accept = outbox_accept_new(f->bench.outbox);
    accept->row = row;
    accept->done = accepted_row;
    outbox_accept(accept);
}

static void send_row(struct fixture *f, const char *id, const struct keypair *to)
{
    send_row_at(f, id, to, NULL, clock_wall_ms());
}

static void found_row(void *argument, int status, struct outbox_found *found)
{
    struct fixture *f = argument;
    assert_int_equal(status, 0);
    outbox_row_free(f->found);
    f->found = found->row;
    found->row = NULL;
    f->receipt_count = found->receipt_count;
    for (size_t i = 0; i < found->receipt_count; i++) {
        f->receipt = found->receipts[i];
    }
    outbox_found_release(found);
    f->done = true;
}

static bool is_done(void *argument)
{
    struct fixture *f = argument;
    return f->done;
}

static const struct outbox_row *look_up(struct fixture *f, const char *id)
{
    f->done = false;
    outbox_find(f->bench.outbox, id, false, found_row, f);
    run_until(f->loop, is_done, f, "the row");
    return f->found;
}

static void wait_state(struct fixture *f, const char *id, enum outbox_state state)
{
    for (int i = 0; i < 4000 && look_up(f, id)->state != state; i++) {
        run_for(f->loop, 1);
    }
    assert_string_equal(outbox_state_name(f->found->state), outbox_state_name(state));
}

/* ---- outward -------------------------------------------------------------------------------------------------- */

static void open_sent(struct fixture *f, const json_t *send, const struct keypair *recipient, struct buffer *plaintext)
{
    struct buffer nonce_bytes;
    struct buffer sealed;
    struct nonce nonce;
    struct error error;
    buffer_init(&nonce_bytes, 64);
    buffer_init(&sealed, BUFFER_UNLIMITED);
    assert_int_equal(base64_decode(text_of(send, "nonce"), strlen(text_of(send, "nonce")), &nonce_bytes), 0);
    assert_int_equal(base64_decode(text_of(send, "ciphertext"), strlen(text_of(send, "ciphertext")), &sealed), 0);
    assert_int_equal(nonce_bytes.length, NONCE_BYTES);
    memcpy(nonce.bytes, nonce_bytes.data, NONCE_BYTES);
    assert_int_equal(
        box_open(f->bench.boxes, recipient, keypair_public(f->bench.me), &nonce, sealed.data, sealed.length, plaintext, &error), 0);
    buffer_release(&nonce_bytes);
    buffer_release(&sealed);
}

static void a_row_goes_out_sealed_for_its_recipient_alone(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    send_row_at(f, "out-1", f->bench.carol, "{\"a\":1.5,\"b\":2}", clock_wall_ms());
    const json_t *send = wait_frame(f, "send", 1);
    assert_string_equal(text_of(send, "client_message_id"), "out-1");
    assert_string_equal(text_of(send, "targetSpec"), keypair_public_hex(f->bench.carol));
    assert_string_equal(text_of(send, "destination_kind"), "dm");
    assert_string_equal(text_of(send, "priority"), "now");
    assert_int_equal(strlen(text_of(send, "request_fingerprint")), 64);
    assert_int_equal(json_number_value(json_object_get(send, "bodyVersion")), 3);
    struct buffer plaintext;
    buffer_init(&plaintext, BUFFER_UNLIMITED);
    open_sent(f, send, f->bench.carol, &plaintext);
    assert_int_equal(plaintext.length % 128, 0);
    struct envelope envelope;
    json_t *document = NULL;
    bool is_envelope = false;
    struct error error;
    assert_int_equal(envelope_parse(plaintext.data, plaintext.length, &envelope, &document, &is_envelope, &error), 0);
    assert_int_equal(envelope_verify(&envelope, document, &error), 0);
    assert_string_equal(envelope.id, "out-1");
    assert_string_equal(envelope.from, keypair_public_hex(f->bench.me));
    assert_string_equal(envelope.to, keypair_public_hex(f->bench.carol));
    assert_string_equal(envelope.priority, "now");
    assert_string_equal(envelope.rv, trust_rv(delivery_trust(f->delivery)));
    assert_true(text_equal_c(envelope.body, "the body"));
    assert_int_equal(json_object_size(envelope.meta), 2);
    json_decref(document);
    buffer_release(&plaintext);
    wait_state(f, "out-1", OUTBOX_DONE);
    assert_string_equal(f->found->broker_message_id, "B-out-1");
}

static void a_message_sent_again_after_a_lost_link_is_byte_for_byte_the_same(void **state)
{
    struct fixture *f = *state;
    f->accept_sends = false;
    open_link(f);
    send_row(f, "again", f->bench.carol);
    wait_frame(f, "send", 1);
    f->accept_sends = true;
    websocket_close(f->stub.current->socket, 1012, "restart");
    wait_frame(f, "send", 2);
    assert_true(json_equal(stub_received(&f->stub, "send", 0), stub_received(&f->stub, "send", 1)));
    wait_state(f, "again", OUTBOX_DONE);
}

static const char OLD_FEATURES[] =
    "{\"client_message_id_dedupe\":{\"params\":{\"version\":1,\"mode\":\"permanent\",\"request_fingerprint\":true}}}";

static void through_a_broker_without_sealed_envelopes_only_strangers_get_the_bare_text(void **state)
{
    struct fixture *f = *state;
    f->stub.features = OLD_FEATURES;
    open_link(f);
    send_row(f, "to-carol", f->bench.carol);
    send_row(f, "to-stranger", f->bench.stranger);
    send_row_at(f, "meta-to-stranger", f->bench.stranger, "{\"a\":1}", clock_wall_ms());
    wait_frame(f, "send", 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *send = stub_received(&f->stub, "send", i);
        bool to_carol = string_equal(text_of(send, "client_message_id"), "to-carol");
        assert_int_equal(json_number_value(json_object_get(send, "bodyVersion")), to_carol ? 3 : 1);
        struct buffer plaintext;
        buffer_init(&plaintext, BUFFER_UNLIMITED);
        open_sent(f, send, to_carol ? f->bench.carol : f->bench.stranger, &plaintext);
        assert_true(to_carol || string_equal(plaintext.data, "the body"));
        buffer_release(&plaintext);
    }
    wait_state(f, "meta-to-stranger", OUTBOX_DEAD); /* rather than lose its meta */
    assert_true(string_has_prefix(f->found->last_error, "sealed_envelope_required"));
}

static void an_error_frame_about_a_send_is_its_answer(void **state)
{
    struct fixture *f = *state;
    f->accept_sends = false;
    open_link(f);
    send_row(f, "refused", f->bench.carol);
    wait_frame(f, "send", 1);
    stub_send(f->stub.current, "{\"type\":\"error\",\"id\":\"refused\",\"code\":\"unknown_target\",\"message\":\"nobody of that target\"}");
    wait_state(f, "refused", OUTBOX_DEAD);
    assert_true(string_has_prefix(f->found->last_error, "unknown_target"));
}

/* ---- age ------------------------------------------------------------------------------------------------------ */

static void a_row_past_its_age_is_dead_before_anything_is_sent(void **state)
{
    struct fixture *f = *state;
    send_row_at(f, "ancient", f->bench.carol, NULL, clock_wall_ms() - 500 * DAY_MS);
    send_row_at(f, "old", f->bench.carol, NULL, clock_wall_ms() - 20 * DAY_MS); /* younger than a retention of 365 days allows */
    run_for(f->loop, 20);
    f->delivery = (delivery_free(f->delivery), NULL);
    struct error error;
    assert_int_equal(make_delivery(f, &error), 0);
    trust_set_retention_days(delivery_trust(f->delivery), 365);
    open_link(f);
    wait_state(f, "ancient", OUTBOX_DEAD);
    assert_string_equal(f->found->last_error, "max_age_exceeded");
    wait_state(f, "old", OUTBOX_DONE);
    assert_int_equal(stub_count(&f->stub, "send"), 1);
}

static void before_a_retention_is_known_the_configured_age_holds_also_without_a_link(void **state)
{
    struct fixture *f = *state;
    send_row_at(f, "nine-days", f->bench.carol, NULL, clock_wall_ms() - 9 * DAY_MS);
    run_for(f->loop, 20);
    f->stub.features = NULL; /* never opens */
    delivery_start(f->delivery);
    wait_state(f, "nine-days", OUTBOX_DEAD);
}

static const char THREE_DAYS[] = "{\"client_message_id_dedupe\":{\"params\":{\"version\":1,\"mode\":\"retention_scoped\",\"dedupe_"
                                 "retention_days\":3,\"request_fingerprint\":true}}}";

static bool is_refused(void *argument)
{
    struct fixture *f = argument;
    return link_state(delivery_link(f->delivery)) == LINK_REFUSED;
}

static void an_override_beyond_the_brokers_memory_refuses_the_link_and_then_the_start(void **state)
{
    struct fixture *f = *state;
    delivery_free(f->delivery);
    f->override_hours = 72;
    f->stub.features = THREE_DAYS;
    struct error error;
    assert_int_equal(make_delivery(f, &error), 0);
    delivery_start(f->delivery);
    run_until(f->loop, is_refused, f, "refused");
    const json_t *event = wait_event(f, "feature_negotiation_failed", 1);
    assert_non_null(strstr(text_of(event, "detail"), "outbox_max_age_above_dedupe_window"));
    assert_true(delivery_is_degraded(f->delivery));
    run_for(f->loop, 20);
    delivery_free(f->delivery);
    f->delivery = NULL;
    assert_int_equal(make_delivery(f, &error), -ERROR_INVALID);
    assert_true(string_has_prefix(error.message, "outbox_max_age_above_dedupe_window"));
    f->override_hours = 71;
    assert_int_equal(make_delivery(f, &error), 0);
    open_link(f);
}

/* ---- inward --------------------------------------------------------------------------------------------------- */

static void assert_receipt(const struct fixture *f, const json_t *ack, const json_t *push, const char *id, const char *state)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(base64_decode(text_of(push, "nonce"), strlen(text_of(push, "nonce")), &bytes), 0);
    assert_int_equal(base64_decode(text_of(push, "ciphertext"), strlen(text_of(push, "ciphertext")), &bytes), 0);
    char content[SHA256_HEX_SIZE];
    sha256_hex(bytes.data, bytes.length, content);
    buffer_release(&bytes);
    json_t *receipt = json_new_object();
    json_put_string(receipt, "mesh", MESH_ID);
    json_put_string(receipt, "client_message_id", id);
    json_put_string(receipt, "sender_pubkey", text_of(push, "senderMemberPubkey"));
    json_put_string(receipt, "by", keypair_public_hex(f->bench.me));
    json_put_string(receipt, "state", state);
    json_object_set(receipt, "at", json_object_get(ack, "at"));
    json_put_string(receipt, "content_sha256", content);
    json_object_set(receipt, "rsig", json_object_get(ack, "rsig"));
    struct error error;
    assert_int_equal(statement_verify_json(STATEMENT_RECEIPT, receipt, keypair_public_hex(f->bench.me), "rsig", &error), 0);
    json_decref(receipt);
}

static void a_message_is_stored_acknowledged_with_a_signed_receipt_and_told_once(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .id = "in-1", .body = "hello", .meta = json_pack("{s:i}", "a", 1) }, NULL);
    send_push(f, push);
    const json_t *event = wait_event(f, "message", 1);
    assert_string_equal(text_of(event, "body"), "hello");
    assert_string_equal(text_of(event, "sender_name"), "carol"); /* by her certificate, whatever the push says */
    assert_true(json_is_true(json_object_get(event, "verified")));
    assert_string_equal(text_of(event, "client_message_id"), "in-1");
    assert_string_equal(text_of(event, "mesh"), "acme");
    assert_int_equal(json_number_value(json_object_get(json_object_get(event, "meta"), "a")), 1);
    assert_receipt(f, wait_acknowledgement(f, push), push, "in-1", "stored");
    size_t acks = stub_count(&f->stub, "client_ack");
    send_push(f, push);
    wait_frame(f, "client_ack", acks + 1); /* again acknowledged */
    json_decref(push);
    json_t *other = bench_push(&f->bench, &(struct bench_letter){ .id = "in-2", .body = "second" }, NULL);
    send_push(f, other);
    assert_string_equal(text_of(wait_event(f, "message", 2), "body"), "second"); /* and not told again */
    json_decref(other);
}

static void a_message_of_an_unverified_member_and_of_an_older_client_are_marked(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.stranger, .id = "s-1" }, NULL);
    send_push(f, push);
    json_decref(push);
    const json_t *event = wait_event(f, "message", 1);
    assert_true(json_is_false(json_object_get(event, "verified")));
    push = bench_push(&f->bench, &(struct bench_letter){ .bare = "an old client's word", .id = "l-1" }, NULL);
    send_push(f, push);
    event = wait_event(f, "message", 2);
    assert_string_equal(text_of(event, "verified"), "legacy");
    assert_string_equal(text_of(event, "body"), "an old client's word");
    json_put_string(push, "client_message_id", "l-2"); /* the same box under another id */
    json_put_string(push, "messageId", "another");
    send_push(f, push);
    wait_acknowledgement(f, push);
    json_decref(push);
    assert_null(event_of(f, "message", 2));
}

static void what_is_no_message_is_put_away_acknowledged_without_a_receipt_and_told_to_nobody(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .signer = f->bench.stranger, .body = "forged" }, NULL);
    send_push(f, push);
    const json_t *ack = wait_acknowledgement(f, push);
    assert_string_equal(text_of(ack, "state"), "quarantined");
    assert_null(json_object_get(ack, "rsig"));
    assert_null(event_of(f, "message", 0));
    assert_int_equal(inbox_quarantine_count(f->bench.inbox, MESH_ID), 1);
    json_decref(push);
}

static void a_system_push_never_becomes_a_message(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_t *change = json_pack("{s:s, s:s, s:{s:s}}", "subtype", "reminder", "event", "message", "eventData", "body", "in disguise");
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .body = "in disguise" }, change);
    send_push(f, push);
    const json_t *event = wait_event(f, "system", 1);
    assert_string_equal(text_of(event, "said_by"), "broker");
    assert_string_equal(text_of(wait_acknowledgement(f, push), "state"), "quarantined");
    assert_null(event_of(f, "message", 0));
    json_decref(push);
}

static void an_unknown_senders_first_message_waits_for_the_member_list(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_array_append_new(json_object_get(f->stub.members, "members"), bench_member(&f->bench, f->bench.stranger, "dave", true));
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.stranger, .body = "I am new" }, NULL);
    send_push(f, push);
    json_decref(push);
    const json_t *event = wait_event(f, "message", 1);
    assert_string_equal(text_of(event, "sender_name"), "dave");
    assert_true(json_is_true(json_object_get(event, "verified")));
    assert_int_equal(stub_count(&f->stub, "list_members"), 2);
}

static bool push_before_the_members(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    struct fixture *f = stub->user;
    (void)frame;
    if (string_equal(type, "list_members")) {
        json_t *push = bench_push(&f->bench, &(struct bench_letter){ .body = "from the grave" }, NULL);
        stub_send_json(connection, push);
    }
    return false;
}

static void revocations_learnt_at_the_opening_count_for_the_first_push(void **state)
{
    struct fixture *f = *state;
    json_put(f->stub.members, "revocations", json_pack("[o]", bench_revocation(&f->bench, f->bench.carol)));
    f->stub.hook = push_before_the_members;
    delivery_start(f->delivery);
    const json_t *ack = wait_frame(f, "client_ack", 1);
    assert_string_equal(text_of(ack, "state"), "quarantined");
    assert_null(event_of(f, "message", 0));
}

/* Files may grow no further than this; a write past it fails as on a full disk. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static bool is_inbox_degraded(void *argument)
{
    struct fixture *f = argument;
    return inbox_is_degraded(f->bench.inbox);
}

static void what_cannot_be_stored_is_not_acknowledged_and_nothing_overtakes_it(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    signal(SIGXFSZ, SIG_IGN);
    char *large = memory_alloc(60001);
    memset(large, 'x', 60000);
    large[60000] = '\0';
    json_t *first = bench_push(&f->bench, &(struct bench_letter){ .id = "first", .body = large }, NULL);
    json_t *second = bench_push(&f->bench, &(struct bench_letter){ .id = "second", .body = "short" }, NULL);
    free(large);
    limit_files(64 * 1024);
    send_push(f, first);
    run_until(f->loop, is_inbox_degraded, f, "the full disk");
    limit_files(RLIM_INFINITY);
    send_push(f, second); /* there is room now, but it is not its turn */
    run_for(f->loop, 30);
    assert_null(acknowledgement(f, text_of(first, "messageId")));
    assert_null(acknowledgement(f, text_of(second, "messageId")));
    send_push(f, first);
    send_push(f, second);
    wait_acknowledgement(f, second);
    assert_string_equal(text_of(wait_event(f, "message", 1), "client_message_id"), "first");
    assert_string_equal(text_of(wait_event(f, "message", 2), "client_message_id"), "second");
    json_decref(first);
    json_decref(second);
}

static bool has_room(void *argument)
{
    struct fixture *f = argument;
    return websocket_backlog(f->stub.current->socket) < 1024 * 1024 || f->delivery->receiving.paused;
}

static bool is_read_again(void *argument)
{
    struct fixture *f = argument;
    return !f->delivery->receiving.paused;
}

static pthread_mutex_t writer_held = PTHREAD_MUTEX_INITIALIZER;

static int wait_until_let_go(struct db_connection *connection, struct db_task *task)
{
    (void)connection;
    (void)task;
    return pthread_mutex_lock(&writer_held) != 0 || pthread_mutex_unlock(&writer_held) != 0 ? -ERROR_INTERNAL : 0;
}

static void let_go(struct db_task *task)
{
    assert_int_equal(task->status, 0);
}

/* Nothing is stored until the flood was paused: so it is, on a slow machine too. */
static void a_flood_is_paused_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    assert_int_equal(pthread_mutex_lock(&writer_held), 0);
    struct db_task hold = { .run = wait_until_let_go, .done = let_go };
    db_write(f->bench.inbox_db, &hold);
    char *large = memory_alloc(60001);
    memset(large, 'x', 60000);
    large[60000] = '\0';
    bool was_paused = false;
    enum { FLOOD = 400 };                                   /* 24 MB, above what is held at once */
    f->stub.members = (json_decref(f->stub.members), NULL); /* the list does not come: everything waits for 3 s */
    for (int i = 0; i < FLOOD; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "flood-%d", i);
        json_t *push = bench_push(&f->bench, &(struct bench_letter){ .from = f->bench.stranger, .id = id, .body = large }, NULL);
        send_push(f, push);
        json_decref(push);
        run_until(f->loop, has_room, f, "room in the broker's own backlog");
        assert_true(f->delivery->receiving.unsettled_bytes < 17 * 1024 * 1024);
        if (f->delivery->receiving.paused && !was_paused) {
            was_paused = true;
            assert_int_equal(pthread_mutex_unlock(&writer_held), 0);
            run_until(f->loop, is_read_again, f, "room in the inbox");
        }
    }
    free(large);
    assert_true(was_paused);
    wait_event(f, "message", FLOOD);
    char last[16];
    (void)snprintf(last, sizeof(last), "flood-%d", FLOOD - 1);
    assert_string_equal(text_of(event_of(f, "message", FLOOD - 1), "client_message_id"), last);
}

/* ---- seen ----------------------------------------------------------------------------------------------------- */

static void rows_listed(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    struct fixture *f = argument;
    (void)more;
    assert_int_equal(status, 0);
    delivery_mark_seen(f->delivery, rows, count);
    for (size_t i = 0; i < count; i++) {
        inbox_row_free(rows[i]);
    }
    free(rows);
}

static void what_was_seen_is_told_with_a_signed_receipt_now_or_when_the_link_is_back(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .id = "in-1", .body = "hello" }, NULL);
    send_push(f, push);
    wait_event(f, "message", 1);
    const struct inbox_query query = { .since_ms = -1, .after_seq = -1, .limit = 10, .maximum_bytes = 1000000, .ascending = true };
    link_reset(delivery_link(f->delivery), "away");
    inbox_list(f->bench.inbox, &query, rows_listed, f);
    const json_t *seen = wait_frame(f, "seen", 1);
    assert_string_equal(json_string_value(json_array_get(json_object_get(seen, "ids"), 0)), text_of(push, "messageId"));
    const json_t *ack = json_array_get(json_object_get(seen, "acks"), 0);
    assert_string_equal(text_of(ack, "state"), "seen");
    assert_receipt(f, ack, push, "in-1", "seen");
    json_decref(push);
}

/* ---- receipts ------------------------------------------------------------------------------------------------- */

static json_t *make_receipt(const struct fixture *f, const json_t *send, const struct keypair *by, const char *state,
                            const char *content_of)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(base64_decode(text_of(send, "nonce"), strlen(text_of(send, "nonce")), &bytes), 0);
    assert_int_equal(base64_decode(text_of(send, "ciphertext"), strlen(text_of(send, "ciphertext")), &bytes), 0);
    char content[SHA256_HEX_SIZE];
    sha256_hex(content_of == NULL ? bytes.data : content_of, content_of == NULL ? bytes.length : strlen(content_of), content);
    buffer_release(&bytes);
    json_t *receipt = json_new_object();
    json_put_string(receipt, "mesh", MESH_ID);
    json_put_string(receipt, "client_message_id", text_of(send, "client_message_id"));
    json_put_string(receipt, "sender_pubkey", keypair_public_hex(f->bench.me));
    json_put_string(receipt, "by", keypair_public_hex(by));
    json_put_string(receipt, "state", state);
    json_put_integer(receipt, "at", 1790000000000);
    json_put_string(receipt, "content_sha256", content);
    char rsig[SIGNATURE_HEX_SIZE];
    struct error error;
    assert_int_equal(statement_sign_json(STATEMENT_RECEIPT, receipt, by, rsig, &error), 0);
    char message_id[160];
    (void)snprintf(message_id, sizeof(message_id), "B-%s", text_of(send, "client_message_id"));
    json_put_string(receipt, "type", "receipt");
    json_put_string(receipt, "messageId", message_id);
    json_put_string(receipt, "rsig", rsig);
    return receipt;
}

static bool receipts_acknowledged(void *argument)
{
    struct counted *counted = argument;
    size_t total = 0;
    const json_t *frame = NULL;
    for (size_t i = 0; (frame = stub_received(&counted->f->stub, "receipt_ack", i)) != NULL; i++) {
        total += json_array_size(json_object_get(frame, "receipts"));
    }
    return total >= counted->count;
}

static void wait_receipt_acks(struct fixture *f, size_t count)
{
    struct counted counted = { f, "", count };
    run_until(f->loop, receipts_acknowledged, &counted, "receipt_ack");
}

static const json_t *send_and_wait(struct fixture *f, const char *id)
{
    send_row(f, id, f->bench.carol);
    const json_t *send = wait_frame(f, "send", 1);
    wait_state(f, id, OUTBOX_DONE);
    return send;
}

static void a_true_receipt_is_told_as_verified_once(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    const json_t *send = send_and_wait(f, "out-1");
    for (int i = 0; i < 2; i++) {
        stub_send_json(f->stub.current, make_receipt(f, send, f->bench.carol, "stored", NULL));
    }
    wait_receipt_acks(f, 2);
    const json_t *event = wait_event(f, "receipt", 1);
    assert_true(json_is_true(json_object_get(event, "verified")));
    assert_string_equal(text_of(event, "by"), keypair_public_hex(f->bench.carol));
    assert_string_equal(text_of(event, "state"), "stored");
    assert_null(event_of(f, "receipt", 1));
    look_up(f, "out-1");
    assert_int_equal(f->receipt_count, 1);
    assert_true(f->receipt.verified);
}

static void start_again(struct fixture *f)
{
    delivery_free(f->delivery);
    struct error error;
    assert_int_equal(make_delivery(f, &error), 0);
    open_link(f);
}

static void a_receipt_after_a_restart_is_checked_against_what_the_outbox_remembers(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    const json_t *send = send_and_wait(f, "out-1");
    start_again(f);
    stub_send_json(f->stub.current, make_receipt(f, send, f->bench.carol, "stored", NULL));
    assert_true(json_is_true(json_object_get(wait_event(f, "receipt", 1), "verified")));
    look_up(f, "out-1");
    assert_true(f->receipt.verified);
}

/* The broker forgets what was acknowledged: a kill between the acknowledgement and the signed row would leave the broker's word for ever. */
static void a_receipt_is_acknowledged_when_it_is_kept_with_its_signature_not_before(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    const json_t *send = send_and_wait(f, "out-1");
    start_again(f);
    stub_send_json(f->stub.current, make_receipt(f, send, f->bench.carol, "stored", NULL));
    wait_receipt_acks(f, 1);
    assert_non_null(event_of(f, "receipt", 0));
    look_up(f, "out-1");
    assert_true(f->receipt.verified);
}

static int forget_attempts(struct db_connection *connection, struct db_task *task)
{
    return db_execute(connection, &task->error, NULL, "DELETE FROM outbox_attempt", "");
}

struct receipt_count {
    struct db_task task;
    struct fixture *f;
    int64_t count;
};

static int count_receipts(struct db_connection *connection, struct db_task *task)
{
    struct receipt_count *counted = CONTAINER_OF(task, struct receipt_count, task);
    sqlite3_stmt *statement = db_prepare(connection, "SELECT count(*) FROM receipt", &task->error);
    assert_non_null(statement);
    assert_int_equal(db_step(statement, &task->error), 1);
    counted->count = db_column_integer(statement, 0, 0);
    db_reset(statement);
    return 0;
}

/* The second look comes in a later batch: what was written before the first is settled by then. */
static bool two_receipts_are_kept(void *argument)
{
    struct receipt_count *counted = argument;
    for (int i = 0; i < 2; i++) {
        counted->task = (struct db_task){ .run = count_receipts };
        assert_int_equal(db_write_wait(counted->f->bench.outbox_db, &counted->task), 0);
    }
    return counted->count == 2;
}

/* A kill after the frame left and before its mark was on disk: the broker has the message, the recipient signed it, and the outbox knows of no attempt. */
static void a_receipt_that_comes_before_the_answer_waits_for_it(void **state)
{
    struct fixture *f = *state;
    f->accept_sends = false;
    open_link(f);
    send_row(f, "out-1", f->bench.carol);
    const json_t *send = wait_frame(f, "send", 1);
    struct db_task forget = { .run = forget_attempts };
    assert_int_equal(db_write_wait(f->bench.outbox_db, &forget), 0);
    for (int i = 0; i < 2; i++) {
        stub_send_json(f->stub.current, make_receipt(f, send, f->bench.carol, "stored", NULL));
    }
    json_t *forged = make_receipt(f, send, f->bench.carol, "seen", "something else");
    stub_send_json(f->stub.current, forged);
    struct receipt_count counted = { .f = f };
    run_until(f->loop, two_receipts_are_kept, &counted, "both receipts");
    look_up(f, "out-1");
    assert_int_equal(stub_count(&f->stub, "receipt_ack"), 0);
    assert_null(event_of(f, "receipt", 0));
    stub_send(f->stub.current,
              "{\"type\":\"ack\",\"id\":\"out-1\",\"client_message_id\":\"out-1\",\"messageId\":\"B-out-1\",\"queued\":true,\"status\":200,"
              "\"duplicate\":true,\"history_id\":9}");
    wait_receipt_acks(f, 2);
    const json_t *event = wait_event(f, "receipt", 1);
    assert_true(json_is_true(json_object_get(event, "verified")));
    assert_string_equal(text_of(event, "state"), "stored");
    assert_null(event_of(f, "receipt", 1));
}

static void without_a_signature_it_is_the_brokers_word_until_the_signed_one_comes(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    const json_t *send = send_and_wait(f, "out-1");
    json_t *unsigned_receipt = make_receipt(f, send, f->bench.carol, "stored", NULL);
    (void)json_object_del(unsigned_receipt, "rsig");
    stub_send_json(f->stub.current, unsigned_receipt);
    assert_true(json_is_false(json_object_get(wait_event(f, "receipt", 1), "verified")));
    stub_send_json(f->stub.current, make_receipt(f, send, f->bench.carol, "stored", NULL));
    assert_true(json_is_true(json_object_get(wait_event(f, "receipt", 2), "verified")));
    look_up(f, "out-1");
    assert_int_equal(f->receipt_count, 1);
    assert_true(f->receipt.verified);
}

static void put(json_t *object, const char *name, json_t *value)
{
    json_object_set_new(object, name, value);
}

static void false_receipts_are_told_to_nobody_and_leave_room_for_the_true_one(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    const json_t *send = send_and_wait(f, "out-1");
    json_t *forged[9];
    forged[0] = make_receipt(f, send, f->bench.stranger, "stored", NULL); /* not the recipient */
    forged[1] = make_receipt(f, send, f->bench.stranger, "stored", NULL); /* who says to be carol */
    put(forged[1], "by", json_string(keypair_public_hex(f->bench.carol)));
    forged[2] = make_receipt(f, send, f->bench.carol, "stored", "something else"); /* over another text */
    forged[3] = make_receipt(f, send, f->bench.carol, "stored", NULL);             /* stored, relabelled as seen */
    put(forged[3], "state", json_string("seen"));
    forged[4] = make_receipt(f, send, f->bench.carol, "stored", NULL); /* at another time */
    put(forged[4], "at", json_integer(1790000000001));
    forged[5] = make_receipt(f, send, f->bench.carol, "stored", NULL); /* for another message */
    put(forged[5], "client_message_id", json_string("never-sent"));
    forged[6] = make_receipt(f, send, f->bench.carol, "stored", NULL); /* nonsense */
    put(forged[6], "rsig", json_integer(5));
    forged[7] = make_receipt(f, send, f->bench.carol, "stored", NULL);
    put(forged[7], "by", json_string("nonsense"));
    forged[8] = make_receipt(f, send, f->bench.carol, "stored", NULL);
    put(forged[8], "state", json_string("eaten"));
    for (size_t i = 0; i < ARRAY_LENGTH(forged); i++) {
        stub_send_json(f->stub.current, forged[i]);
    }
    wait_receipt_acks(f, 6); /* those with a shape, so that they do not come for ever */
    assert_null(event_of(f, "receipt", 0));
    look_up(f, "out-1");
    assert_false(f->receipt_count > 0 && f->receipt.verified);
    stub_send_json(f->stub.current, make_receipt(f, send, f->bench.carol, "stored", NULL));
    assert_true(json_is_true(json_object_get(wait_event(f, "receipt", 1), "verified")));
}

/* ---- who is there --------------------------------------------------------------------------------------------- */

static void on_peers(void *argument, json_t *peers, bool stale)
{
    struct fixture *f = argument;
    json_decref(f->peers);
    f->peers = peers;
    f->stale = stale;
    f->done = true;
}

static const json_t *peer(struct fixture *f, const struct keypair *keys)
{
    size_t index = 0;
    const json_t *object = NULL;
    json_array_foreach(f->peers, index, object)
    {
        if (string_equal(text_of(object, "pubkey"), keypair_public_hex(keys))) {
            return object;
        }
    }
    return NULL;
}

static const json_t *ask_peer(struct fixture *f, const struct keypair *keys)
{
    f->done = false;
    delivery_peers(f->delivery, on_peers, f);
    run_until(f->loop, is_done, f, "the peers");
    return peer(f, keys);
}

static bool answer_peers(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    struct fixture *f = stub->user;
    if (!string_equal(type, "list_peers")) {
        return false;
    }
    bool second = json_object_get(frame, "after") != NULL; /* two pages */
    stub_send(
        connection,
        "{\"type\":\"peers_list\",\"_reqId\":\"%s\",%s\"peers\":[{\"pubkey\":\"%s\",\"memberPubkey\":\"%s\",\"displayName\":\"x\","
        "\"status\":\"working\","
        "\"summary\":\"busy\",\"groups\":[{\"name\":\"ops\"}],\"sessionId\":\"s-%d\",\"visible\":true,\"profile\":{\"title\":\"t\"}}]}",
        text_of(frame, "_reqId"), second ? "" : "\"next\":\"p1\",", keypair_public_hex(second ? f->bench.carol : f->bench.me),
        keypair_public_hex(second ? f->bench.carol : f->bench.me), second ? 2 : 1);
    return true;
}

/* Owner and me, then carol, then nobody; a broker that lies says that more follows, and names the last page for ever. */
static bool list_in_pages(struct stub *stub, struct stub_connection *connection, const json_t *frame, bool lies)
{
    const json_t *whole = json_object_get(stub->members, "members");
    json_t *page = json_deep_copy(stub->members);
    json_t *members = json_new_array();
    bool second = json_number_value(json_object_get(frame, "after")) == 7;
    for (size_t index = 0; index < json_array_size(whole); index++) {
        if ((index >= 2) == second) {
            json_array_append_new(members, json_deep_copy(json_array_get(whole, index)));
        }
    }
    json_put_string(page, "type", "members_list");
    json_put(page, "members", members);
    if (!second || lies) {
        json_put_integer(page, "next", 7);
    }
    json_object_set(page, "_reqId", json_object_get(frame, "_reqId"));
    stub_send_json(connection, page);
    return true;
}

static bool answer_members_in_pages(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    return string_equal(type, "list_members") && list_in_pages(stub, connection, frame, false);
}

static bool answer_members_without_end(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame)
{
    return string_equal(type, "list_members") && list_in_pages(stub, connection, frame, true);
}

static void members_that_come_in_pages_are_all_known(void **state)
{
    struct fixture *f = *state;
    f->stub.hook = answer_members_in_pages;
    open_link(f);
    assert_int_equal(stub_count(&f->stub, "list_members"), 2);
    const json_t *carol = ask_peer(f, f->bench.carol);
    assert_non_null(carol);
    assert_string_equal(text_of(carol, "name"), "carol");
    assert_true(json_is_true(json_object_get(carol, "verified")));
    assert_true(json_is_true(json_object_get(peer(f, f->bench.owner), "verified")));
}

static void peers_are_who_trust_knows_with_the_presence_that_the_broker_tells(void **state)
{
    struct fixture *f = *state;
    f->stub.hook = answer_peers;
    open_link(f);
    const json_t *carol = ask_peer(f, f->bench.carol);
    assert_false(f->stale);
    assert_string_equal(text_of(carol, "name"), "carol");
    assert_true(json_is_true(json_object_get(carol, "verified")) && json_is_true(json_object_get(carol, "online")));
    assert_string_equal(text_of(carol, "status"), "working");
    assert_string_equal(text_of(carol, "summary"), "busy");
    assert_int_equal(json_array_size(json_object_get(carol, "sessions")), 1);
    assert_true(json_is_false(json_object_get(peer(f, f->bench.owner), "online")));
    assert_true(delivery_peer_is_online(f->delivery, keypair_public_hex(f->bench.carol)));
    link_reset(delivery_link(f->delivery), "away");
    carol = ask_peer(f, f->bench.carol);
    assert_true(f->stale);
    assert_string_equal(text_of(carol, "status"), "working"); /* the last known */
    assert_false(delivery_peer_is_online(f->delivery, keypair_public_hex(f->bench.carol)));
}

static void send_presence(struct fixture *f, const char *event)
{
    stub_send(f->stub.current,
              "{\"type\":\"push\",\"messageId\":\"e\",\"subtype\":\"system\",\"event\":\"%s\",\"eventData\":{\"pubkey\":\"%s\","
              "\"memberPubkey\":\"%s\","
              "\"displayName\":\"not her name\",\"sessionId\":\"s\"}}",
              event, keypair_public_hex(f->bench.carol), keypair_public_hex(f->bench.carol));
}

static void peers_that_come_and_go_are_told_by_their_certified_name(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    send_presence(f, "peer_joined");
    assert_string_equal(text_of(wait_event(f, "peer_join", 1), "name"), "carol");
    assert_true(delivery_peer_is_online(f->delivery, keypair_public_hex(f->bench.carol)));
    send_presence(f, "peer_left");
    assert_string_equal(text_of(wait_event(f, "peer_leave", 1), "pubkey"), keypair_public_hex(f->bench.carol));
    assert_false(delivery_peer_is_online(f->delivery, keypair_public_hex(f->bench.carol)));
}

static bool has_fork(void *argument)
{
    struct fixture *f = argument;
    return trust_membership_fork(delivery_trust(f->delivery));
}

static void a_peer_that_knows_more_revocations_makes_the_list_be_fetched_and_a_fork_be_told(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    static const char RV[] = "1:f02bb2074ab84d5edfb9c3c237349597b0bc6545a5a8ff4c491057f8cb825175";
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .body = "I know of one", .rv = RV }, NULL);
    send_push(f, push);
    json_decref(push);
    run_until(f->loop, has_fork, f, "the fork");
    assert_int_equal(stub_count(&f->stub, "list_members"), 2);
    assert_string_equal(text_of(wait_event(f, "system", 1), "event"), "membership_fork");
    assert_true(delivery_is_degraded(f->delivery));
    wait_event(f, "message", 1); /* the message itself is good */
}

/* It would otherwise hide a revocation behind pages that never end. */
static void a_member_list_without_an_end_brings_what_is_in_it_and_counts_as_none(void **state)
{
    struct fixture *f = *state;
    f->stub.hook = answer_members_without_end;
    delivery_start(f->delivery);
    static const char RV[] = "1:f02bb2074ab84d5edfb9c3c237349597b0bc6545a5a8ff4c491057f8cb825175";
    wait_frame(f, "list_members", 2);
    json_t *push = bench_push(&f->bench, &(struct bench_letter){ .body = "I know of one", .rv = RV }, NULL);
    send_push(f, push);
    json_decref(push);
    run_until(f->loop, has_fork, f, "the fork");
    assert_string_equal(text_of(wait_event(f, "system", 1), "event"), "membership_fork");
    assert_string_equal(text_of(wait_event(f, "message", 1), "sender_name"), "carol"); /* of the second page */
    assert_false(delivery_members_are_fresh(f->delivery));
}

static bool is_revoked(void *argument)
{
    struct fixture *f = argument;
    return link_is_revoked(delivery_link(f->delivery));
}

static void our_own_revocation_signed_by_the_owner_ends_the_link_for_good(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_t *event = json_new_object();
    json_put_string(event, "type", "push");
    json_put_string(event, "messageId", "e");
    json_put_string(event, "subtype", "system");
    json_put_string(event, "event", "member_revoked");
    json_t *data = json_new_object();
    json_put(data, "revocation", bench_revocation(&f->bench, f->bench.me));
    json_put(event, "eventData", data);
    stub_send_json(f->stub.current, event);
    run_until(f->loop, is_revoked, f, "revoked");
    assert_int_equal(link_state(delivery_link(f->delivery)), LINK_CLOSED);
    run_for(f->loop, 60);
    assert_int_equal(f->stub.count, 1);
    delivery_free(f->delivery);
    struct error error;
    assert_int_equal(make_delivery(f, &error), 0);
    delivery_start(f->delivery); /* nor after a restart */
    run_for(f->loop, 60);
    assert_int_equal(f->stub.count, 1);
    assert_int_equal(link_state(delivery_link(f->delivery)), LINK_CLOSED);
}

/* ---- profile -------------------------------------------------------------------------------------------------- */

static void the_profile_is_kept_told_and_told_again(void **state)
{
    struct fixture *f = *state;
    json_t *fields = json_pack("{s:s, s:s, s:b, s:s}", "summary", "building", "status", "idle", "visible", 0, "title", "engineer");
    bool deferred = false;
    json_t *applied = delivery_set_profile(f->delivery, fields, &deferred);
    assert_true(deferred);
    assert_int_equal(json_array_size(applied), 4);
    json_decref(applied);
    json_decref(fields);
    run_for(f->loop, 20);
    start_again(f);
    assert_string_equal(text_of(wait_frame(f, "set_summary", 1), "summary"), "building");
    assert_true(json_is_false(json_object_get(wait_frame(f, "set_visible", 1), "visible")));
    assert_string_equal(text_of(wait_frame(f, "set_profile", 1), "title"), "engineer");
    assert_string_equal(text_of(wait_frame(f, "set_status", 1), "status"), "idle");
    delivery_heartbeat(f->delivery);
    delivery_heartbeat(f->delivery);
    assert_string_equal(text_of(wait_frame(f, "set_status", 2), "status"), "working");
    json_t *profile = delivery_profile(f->delivery);
    assert_string_equal(text_of(profile, "status"), "working");
    assert_string_equal(text_of(profile, "summary"), "building");
    json_decref(profile);
    link_reset(delivery_link(f->delivery), "away");
    assert_string_equal(text_of(wait_frame(f, "set_summary", 2), "summary"), "building");
    assert_string_equal(text_of(wait_frame(f, "set_status", 3), "status"), "working");
    assert_int_equal(stub_count(&f->stub, "set_status"), 3);
}

/* ---- health, ending ------------------------------------------------------------------------------------------- */

static void health_and_features_say_what_is(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    json_t *health = delivery_health(f->delivery);
    assert_string_equal(text_of(health, "slug"), "acme");
    assert_string_equal(text_of(health, "status"), "open");
    assert_string_equal(text_of(health, "broker_version"), "stub-1");
    assert_string_equal(text_of(health, "dedupe"), "broker");
    json_decref(health);
    json_t *features = delivery_features(f->delivery);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(features, "client_message_id_dedupe"), "dedupe_retention_days")),
                     365);
    json_decref(features);
    const json_t *status = wait_event(f, "broker_status", 2);
    assert_string_equal(text_of(status, "status"), "open");
    assert_false(delivery_is_degraded(f->delivery));
}

static void on_stopped(void *argument)
{
    struct fixture *f = argument;
    f->stopped = true;
}

static bool is_stopped(void *argument)
{
    struct fixture *f = argument;
    return f->stopped;
}

static void stopping_waits_for_answers(void **state)
{
    struct fixture *f = *state;
    f->accept_sends = false;
    open_link(f);
    send_row(f, "out-1", f->bench.carol);
    wait_frame(f, "send", 1);
    delivery_stop(f->delivery, 5000, on_stopped, f);
    run_for(f->loop, 20);
    assert_false(f->stopped);
    stub_send(f->stub.current, "{\"type\":\"ack\",\"id\":\"out-1\",\"messageId\":\"B\",\"queued\":true,\"status\":201}");
    run_until(f->loop, is_stopped, f, "stopped");
    assert_int_equal(look_up(f, "out-1")->state, OUTBOX_DONE);
    assert_int_equal(f->stub.connections[0].close_code, 1001);
}

static void after_the_grace_what_is_unanswered_is_pending_again(void **state)
{
    struct fixture *f = *state;
    f->accept_sends = false;
    open_link(f);
    send_row(f, "out-1", f->bench.carol);
    wait_frame(f, "send", 1);
    delivery_stop(f->delivery, 20, on_stopped, f);
    run_until(f->loop, is_stopped, f, "stopped");
    assert_int_equal(look_up(f, "out-1")->state, OUTBOX_PENDING);
}

static void a_delivery_without_a_link_stops_too(void **state)
{
    struct fixture *f = *state;
    delivery_stop(f->delivery, 5000, on_stopped, f);
    run_until(f->loop, is_stopped, f, "stopped");
}

static void a_delivery_may_be_freed_in_the_middle_of_everything(void **state)
{
    struct fixture *f = *state;
    open_link(f);
    for (int i = 0; i < 20; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "m-%d", i);
        json_t *push = bench_push(&f->bench, &(struct bench_letter){ .id = id }, NULL);
        send_push(f, push);
        json_decref(push);
        send_row(f, id, f->bench.carol);
    }
    delivery_peers(f->delivery, on_peers, f);
    wait_frame(f, "send", 1);
    delivery_free(f->delivery);
    f->delivery = NULL;
    run_for(f->loop, 20);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_row_goes_out_sealed_for_its_recipient_alone),
        TEST(a_message_sent_again_after_a_lost_link_is_byte_for_byte_the_same),
        TEST(through_a_broker_without_sealed_envelopes_only_strangers_get_the_bare_text),
        TEST(an_error_frame_about_a_send_is_its_answer),
        TEST(a_row_past_its_age_is_dead_before_anything_is_sent),
        TEST(before_a_retention_is_known_the_configured_age_holds_also_without_a_link),
        TEST(an_override_beyond_the_brokers_memory_refuses_the_link_and_then_the_start),
        TEST(a_message_is_stored_acknowledged_with_a_signed_receipt_and_told_once),
        TEST(a_message_of_an_unverified_member_and_of_an_older_client_are_marked),
        TEST(what_is_no_message_is_put_away_acknowledged_without_a_receipt_and_told_to_nobody),
        TEST(a_system_push_never_becomes_a_message),
        TEST(an_unknown_senders_first_message_waits_for_the_member_list),
        TEST(revocations_learnt_at_the_opening_count_for_the_first_push),
        TEST(what_cannot_be_stored_is_not_acknowledged_and_nothing_overtakes_it),
        TEST(a_flood_is_paused_and_loses_nothing),
        TEST(what_was_seen_is_told_with_a_signed_receipt_now_or_when_the_link_is_back),
        TEST(a_true_receipt_is_told_as_verified_once),
        TEST(a_receipt_after_a_restart_is_checked_against_what_the_outbox_remembers),
        TEST(a_receipt_is_acknowledged_when_it_is_kept_with_its_signature_not_before),
        TEST(a_receipt_that_comes_before_the_answer_waits_for_it),
        TEST(without_a_signature_it_is_the_brokers_word_until_the_signed_one_comes),
        TEST(false_receipts_are_told_to_nobody_and_leave_room_for_the_true_one),
        TEST(members_that_come_in_pages_are_all_known),
        TEST(a_member_list_without_an_end_brings_what_is_in_it_and_counts_as_none),
        TEST(peers_are_who_trust_knows_with_the_presence_that_the_broker_tells),
        TEST(peers_that_come_and_go_are_told_by_their_certified_name),
        TEST(a_peer_that_knows_more_revocations_makes_the_list_be_fetched_and_a_fork_be_told),
        TEST(our_own_revocation_signed_by_the_owner_ends_the_link_for_good),
        TEST(the_profile_is_kept_told_and_told_again),
        TEST(health_and_features_say_what_is),
        TEST(stopping_waits_for_answers),
        TEST(after_the_grace_what_is_unanswered_is_pending_again),
        TEST(a_delivery_without_a_link_stops_too),
        TEST(a_delivery_may_be_freed_in_the_middle_of_everything),
    };
    return cmocka_run_group_tests_name("delivery", tests, NULL, NULL);
}
