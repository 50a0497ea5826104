/* A broker's store (broker/store/store.h) for targets: answers at once or when told, with outcomes that the input chooses; keeps nothing. */
#ifndef FUZZ_PLAYED_STORE_H
#define FUZZ_PLAYED_STORE_H

#include "broker/store/store.h"
#include "fuzz_keys.h"
#include "json/json.h"
#include "util/text.h"

enum { PLAYED_QUEUE = 256, PLAYED_MESH = 1, PLAYED_SESSION = 100 /* + person */ };

static struct {
    struct store store;
    struct store_request *waiting[PLAYED_QUEUE];
    size_t count;
    struct fuzz_input words; /* what the store says, round and round */
    const uint8_t *first_word;
    size_t word_count;
    int64_t history_id;
    struct error error;
} played;

static uint8_t played_word(void)
{
    if (played.word_count == 0)
        return 0;
    if (played.words.left == 0)
        played.words = (struct fuzz_input){ played.first_word, played.word_count };
    return fuzz_take_byte(&played.words);
}

/* An outcome: mostly the good one, which is 0. */
static int played_outcome(int outcomes)
{
    const uint8_t word = played_word();
    return word < 128 ? 0 : word % outcomes;
}

static void played_answer(struct store_request *request)
{
    const uint8_t word = played_word();

    request->status = 0;
    if (word >= 250) {
        request->status = error_set(&played.error, word == 250 ? ERROR_FULL : ERROR_SYSTEM, "the store failed");
        request->error = &played.error;
    }
    REQUIRE(played.count < PLAYED_QUEUE);
    played.waiting[played.count++] = request;
}

/* Answers the first that wait, and what they ask for in turn. */
static void played_drain(void)
{
    for (size_t i = 0; i < played.count; i++)
        played.waiting[i]->done(played.waiting[i]);
    played.count = 0;
}

/* ---- what it says --------------------------------------------------------------------------------------------------- */

static void played_hello(struct store *store, struct store_hello *request)
{
    (void)store;
    request->outcome = (enum store_hello_outcome)played_outcome(STORE_HELLO_KEY_TAKEN + 1);
    request->mesh = PLAYED_MESH;
    for (int person = 0; person < FUZZ_PERSONS; person++) {
        if (string_equal(request->pubkey, keypair_public_hex(fuzz_keys((enum fuzz_person)person))))
            request->member = person + 1;
    }
    request->session = request->receive ? PLAYED_SESSION + request->member : 0;
    request->mesh_slug = memory_strdup("ops");
    request->display_name = memory_strdup("Somebody");
    request->role = memory_strdup(request->member == 1 ? "admin" : "member");
    request->state =
        played_word() % 2 == 0
            ? NULL
            : memory_strdup("{\"status\":\"dnd\",\"summary\":\"s\",\"groups\":[{\"name\":\"g\"}],\"visible\":false,\"profile\":{}}");
    played_answer(&request->request);
}

static void played_accept(struct store *store, struct store_accept *request)
{
    (void)store;
    REQUIRE(request->client_message_id[0] != '\0' && request->target_spec != NULL && request->priority >= 0 &&
            request->priority < STORE_PRIORITIES);
    request->outcome = (enum store_outcome)played_outcome(STORE_OUTCOMES);
    ulid_generate(request->broker_message_id);
    request->message = request->history_id = ++played.history_id;
    request->first_seen_at = request->now_ms;
    request->recipient = played_word() % FUZZ_PERSONS + 1;
    request->recipient_session_count = played_word() % 3;
    for (size_t i = 0; i < request->recipient_session_count; i++)
        request->recipient_sessions[i] = played_word() % 2 == 0 ? 0 : PLAYED_SESSION + request->recipient;
    played_answer(&request->request);
}

static struct store_message *played_message(void)
{
    struct store_message *message = memory_zalloc(sizeof(*message));
    static const char KEY[] = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";

    message->message = message->history_id = ++played.history_id;
    message->created_at = 1790000000000;
    message->priority = (int)(played_word() % STORE_PRIORITIES);
    message->body_version = 3;
    message->key_epoch = -1;
    message->broker_message_id = "01J0000000000000000000PUSH";
    message->client_message_id = "id";
    message->sender_pubkey = message->sender_member_pubkey = message->target_spec = KEY;
    message->sender_member_id = "m";
    message->sender_name = "n";
    message->nonce = message->ciphertext = "AAAA";
    message->ciphertext_length = 4;
    message->mentions = played_word() % 2 == 0 ? NULL : "[\"x\"]";
    return message;
}

static void played_fetch(struct store *store, struct store_fetch *request)
{
    (void)store;
    if (request->limit > 0 && played_word() % 2 == 1) {
        struct store_message *message = played_message();
        request->first = message;
        request->more[message->priority] = played_word() % 8 == 7;
    }
    played_answer(&request->request);
}

static void played_acknowledge(struct store *store, struct store_acknowledge *request)
{
    (void)store;
    for (size_t i = 0; i < request->count; i++) {
        struct store_ack *ack = &request->acks[i];
        REQUIRE(ack->broker_message_id[0] != '\0');
        ack->receipt = played_word() % 2 == 1;
        ack->delivered = 1;
        ack->sender = played_word() % FUZZ_PERSONS + 1;
        REQUIRE(string_copy(ack->client_message_id, sizeof(ack->client_message_id), "id") == 0);
    }
    played_answer(&request->request);
}

static void played_fetch_receipts(struct store *store, struct store_fetch_receipts *request)
{
    (void)store;
    request->count = played_word() % 2;
    request->next = -1;
    if (request->count > 0) {
        request->receipts[0] = (struct store_receipt){ .message = 1,
                                                       .broker_message_id = "01J0000000000000000000PUSH",
                                                       .client_message_id = "id",
                                                       .by = "ab",
                                                       .kind = STORE_ACK_SEEN,
                                                       .at = 5 };
        request->next = played_word() % 8 == 7 ? request->after + 1 : -1;
    }
    played_answer(&request->request);
}

static void played_settle_receipts(struct store *store, struct store_settle_receipts *request)
{
    (void)store;
    for (size_t i = 0; i < request->count; i++)
        REQUIRE(request->acks[i].broker_message_id[0] != '\0');
    played_answer(&request->request);
}

static void played_state(struct store *store, struct store_statement *request)
{
    (void)store;
    REQUIRE(request->subject != NULL && request->by != NULL && request->document[0] == '{');
    request->outcome = (enum store_statement_outcome)played_outcome(STORE_STATEMENT_STALE + 1);
    request->member = played_word() % FUZZ_PERSONS + 1;
    played_answer(&request->request);
}

static void played_rotate(struct store *store, struct store_rotate *request)
{
    (void)store;
    REQUIRE(hex_is_key(request->old_pubkey) && hex_is_key(request->new_pubkey) && request->document[0] == '{');
    request->outcome = (enum store_rotation_outcome)played_outcome(STORE_ROTATION_TAKEN + 1);
    played_answer(&request->request);
}

static void played_list_members(struct store *store, struct store_list_members *request)
{
    (void)store;
    (void)buffer_append_text(&request->text, "\"members\":[]");
    request->next = played_word() % 4 == 3 ? request->after + 1 : -1;
    played_answer(&request->request);
}

static void played_find_member(struct store *store, struct store_find_member *request)
{
    (void)store;
    if (played_word() % 2 == 1)
        (void)buffer_append_text(&request->text, "{\"pubkey\":\"ab\"}");
    played_answer(&request->request);
}

static void played_history(struct store *store, struct store_history *request)
{
    (void)store;
    request->count = played_word() % 2;
    request->first = request->count > 0 ? played_message() : NULL;
    request->scanned_to = request->after + 1;
    request->end = played_word() < 200;
    played_answer(&request->request);
}

static void played_message_status(struct store *store, struct store_message_status *request)
{
    (void)store;
    REQUIRE(memchr(request->broker_message_id, '\0', ULID_SIZE) != NULL);
    request->found = played_word() % 2 == 1;
    request->recipient = played_word() % FUZZ_PERSONS;
    played_answer(&request->request);
}

static void played_save_session(struct store *store, struct store_save_session *request)
{
    json_t *state = NULL;
    (void)store;
    REQUIRE(request->state == NULL || json_parse_strict(request->state, strlen(request->state), &state, NULL) == 0);
    json_decref(state);
    played_answer(&request->request);
}

static void played_audit(struct store *store, struct store_audit *request)
{
    (void)store;
    played_answer(&request->request);
}

static void played_forget_connection(struct store *store, struct store_forget_connection *request)
{
    (void)store;
    played_answer(&request->request);
}

static void played_begin(const uint8_t *words, size_t count)
{
    static const struct store_operations OPERATIONS = {
        .hello = played_hello,
        .accept = played_accept,
        .fetch = played_fetch,
        .acknowledge = played_acknowledge,
        .fetch_receipts = played_fetch_receipts,
        .settle_receipts = played_settle_receipts,
        .state = played_state,
        .rotate = played_rotate,
        .list_members = played_list_members,
        .find_member = played_find_member,
        .history = played_history,
        .message_status = played_message_status,
        .save_session = played_save_session,
        .audit = played_audit,
        .forget_connection = played_forget_connection,
    };
    played.store.operations = &OPERATIONS;
    played.first_word = words;
    played.word_count = count;
    played.words = (struct fuzz_input){ words, count };
    played.history_id = 0;
    REQUIRE(played.count == 0);
}

#endif
