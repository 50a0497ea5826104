/* An outbox and an inbox for targets, without a database: one row to send, answers that come when told, in order. The functions of outbox/outbox.h and inbox/inbox.h that delivery calls stand here, so the linker
 * takes none of the real ones. */
#ifndef FUZZ_PLAYED_DATABASES_H
#define FUZZ_PLAYED_DATABASES_H

#include "fuzz_json.h"
#include "fuzz_keys.h"
#include "inbox/inbox.h"
#include "outbox/outbox.h"
#include "util/text.h"

enum { PLAYED_ANSWERS = 512, PLAYED_ROW_SEQ = 1 };

enum played_kind { PLAYED_MOVES, PLAYED_ROWS, PLAYED_EXPIRED, PLAYED_FOUND, PLAYED_RECEIPT, PLAYED_INSERTED, PLAYED_QUARANTINED };

struct played_answer {
    enum played_kind kind;
    void (*done)(void);
    void *argument, *what; /* what: given with it */
    size_t count;
};

static struct {
    struct played_answer answers[PLAYED_ANSWERS];
    size_t count;
    bool fails; /* what is asked for now comes back as a full disk */
    enum outbox_state state;
    int64_t inbox_seq;
} databases;

typedef void moves_done(void *argument, struct outbox_move *moves, size_t count);
typedef void rows_done(void *argument, int status, struct outbox_row **rows, size_t count);
typedef void expired_done(void *argument, int64_t expired, int64_t oldest_enqueued_at);
typedef void found_done(void *argument, int status, struct outbox_found *found);
typedef void receipt_done(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result);
typedef void inserted_done(struct inbox_insert *insert);
typedef void quarantined_done(void *argument, int status, bool is_new);

static void play_later(enum played_kind kind, void (*done)(void), void *argument, void *what, size_t count)
{
    REQUIRE(databases.count < PLAYED_ANSWERS);
    databases.answers[databases.count++] = (struct played_answer){ kind, done, argument, what, count };
}

/* ---- the row ---------------------------------------------------------------------------------------------------------- */

static struct outbox_row *played_row(void)
{
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    row->seq = PLAYED_ROW_SEQ;
    REQUIRE(string_copy(row->id, sizeof(row->id), "01J00000000000000000000ROW") == 0);
    row->client_message_id = memory_strdup("c1");
    row->mesh = memory_strdup(FUZZ_MESH);
    row->destination_kind = memory_strdup("dm");
    row->destination_ref = memory_strdup(keypair_public_hex(fuzz_keys(FUZZ_MEMBER)));
    row->priority = PRIORITY_NEXT;
    row->payload = memory_strdup("hello");
    row->payload_size = 5;
    row->enqueued_at = row->next_attempt_at = INT64_C(1790000000000);
    row->delivered_at = row->aborted_at = row->history_id = -1;
    return row;
}

void outbox_receipt_free(struct outbox_receipt *receipt)
{
    if (receipt == NULL) {
        return;
    }
    char *const texts[] = { receipt->client_message_id, receipt->mesh, receipt->broker_message_id, receipt->by, receipt->rsig };
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        free(texts[i]);
    }
    free(receipt);
}

void outbox_row_free(struct outbox_row *row)
{
    if (row == NULL)
        return;
    free(row->client_message_id);
    free(row->mesh);
    free(row->destination_kind);
    free(row->destination_ref);
    free(row->payload);
    free(row);
}

/* ---- what delivery asks -------------------------------------------------------------------------------------------------- */

void outbox_move_batch(struct outbox *outbox, struct outbox_move *moves, size_t count, bool patient, moves_done *done, void *argument)
{
    (void)outbox;
    (void)patient;
    for (size_t i = 0; i < count; i++) {
        REQUIRE(moves[i].event >= 0 && moves[i].event < OUTBOX_EVENTS);
        moves[i].from = databases.state;
        moves[i].to = OUTBOX_MOVES[databases.state][moves[i].event];
        moves[i].moved = moves[i].seq == PLAYED_ROW_SEQ && moves[i].to != OUTBOX_STATES;
        databases.state = moves[i].moved ? moves[i].to : databases.state;
    }
    play_later(PLAYED_MOVES, (void (*)(void))done, argument, moves, count);
}

void outbox_fetch_pending(struct outbox *outbox, const struct outbox_fetch *fetch, rows_done *done, void *argument)
{
    const bool fits = databases.state == OUTBOX_PENDING && fetch->priority == PRIORITY_NEXT && fetch->after_seq < PLAYED_ROW_SEQ &&
                      fetch->up_to_seq >= PLAYED_ROW_SEQ;
    (void)outbox;
    REQUIRE(fetch->limit > 0 && string_equal(fetch->mesh, FUZZ_MESH));
    play_later(PLAYED_ROWS, (void (*)(void))done, argument, fits ? played_row() : NULL, fits ? 1 : 0);
}

void outbox_expire(struct outbox *outbox, const char *mesh, int64_t enqueued_before_ms, expired_done *done, void *argument)
{
    (void)outbox;
    REQUIRE(string_equal(mesh, FUZZ_MESH) && enqueued_before_ms < INT64_C(1790000000000));
    play_later(PLAYED_EXPIRED, (void (*)(void))done, argument, NULL, 0);
}

void outbox_find(struct outbox *outbox, const char *id, bool with_payload, found_done *done, void *argument)
{
    (void)outbox;
    (void)id;
    (void)with_payload;
    play_later(PLAYED_FOUND, (void (*)(void))done, argument, NULL, 0);
}

void outbox_found_release(struct outbox_found *found)
{
    REQUIRE(found == NULL);
}

void outbox_receipt_add(struct outbox *outbox, struct outbox_receipt *receipt, receipt_done *done, void *argument)
{
    (void)outbox;
    REQUIRE(receipt->client_message_id != NULL && receipt->by != NULL && memchr(receipt->state, '\0', sizeof(receipt->state)) != NULL);
    play_later(PLAYED_RECEIPT, (void (*)(void))done, argument, receipt, 0);
}

void outbox_counts(struct outbox *outbox, const char *mesh, struct outbox_counts *ret_counts)
{
    (void)outbox;
    (void)mesh;
    *ret_counts = (struct outbox_counts){ 0 };
}

static void check_stored(const struct inbox_row *row)
{
    json_t *meta = NULL;
    REQUIRE(row->body != NULL && row->body_size > 0 && utf8_is_valid(row->body, row->body_size));
    REQUIRE(client_message_id_is_valid(row->client_message_id, strlen(row->client_message_id)) && hex_is_key(row->sender_pubkey));
    REQUIRE(row->meta == NULL || json_parse_strict(row->meta, strlen(row->meta), &meta, NULL) == 0);
    /* The one who can sign here is the seeds' member; somebody else's text is never shown as verified. */
    REQUIRE(row->verified != INBOX_VERIFIED || string_equal(row->sender_pubkey, keypair_public_hex(fuzz_keys(FUZZ_MEMBER))));
    json_decref(meta);
}

void inbox_insert(struct inbox *inbox, struct inbox_insert *insert, inserted_done *done)
{
    (void)inbox;
    check_stored(insert->row);
    insert->status = databases.fails ? -(int)ERROR_FULL : 0;
    insert->is_new = insert->status == 0;
    insert->row->seq = ++databases.inbox_seq;
    play_later(PLAYED_INSERTED, (void (*)(void))done, NULL, insert, 0);
}

void inbox_insert_free(struct inbox_insert *insert)
{
    struct inbox_row *row = insert->row;
    if (row != NULL) {
        char *const texts[] = { row->client_message_id,
                                row->mesh,
                                row->broker_message_id,
                                row->kind,
                                row->topic,
                                row->sender_pubkey,
                                row->sender_name,
                                row->body,
                                row->meta,
                                row->priority,
                                row->reply_to_id };
        for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
            free(texts[i]);
    }
    free(row);
    free(insert);
}

void inbox_quarantine(struct inbox *inbox, struct quarantine_row *row, quarantined_done *done, void *argument)
{
    json_t *push = NULL;
    (void)inbox;
    REQUIRE(row->reason[0] != '\0' && json_parse_strict(row->push, strlen(row->push), &push, NULL) == 0);
    json_decref(push);
    char *const texts[] = { row->mesh, row->sender_pubkey, row->client_message_id, row->broker_message_id, row->reason, row->push };
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        free(texts[i]);
    free(row);
    play_later(PLAYED_QUARANTINED, (void (*)(void))done, argument, NULL, databases.fails ? 1 : 0);
}

int64_t inbox_rebuild_next(const struct inbox *inbox, const char *mesh)
{
    (void)inbox;
    (void)mesh;
    return 0;
}

/* The next page is asked for at once, and the last one is the last: what a broker answers decides. */
void inbox_rebuild_advance(struct inbox *inbox, const char *mesh, int64_t next, bool finished, void (*done)(void *argument, int status),
                           void *argument)
{
    (void)inbox;
    (void)mesh;
    (void)next;
    (void)finished;
    done(argument, 0);
}

int64_t inbox_quarantine_count(const struct inbox *inbox, const char *mesh)
{
    (void)inbox;
    (void)mesh;
    return 0;
}

/* ---- answering ------------------------------------------------------------------------------------------------------------ */

static void play_moves(const struct played_answer *answer)
{
    struct outbox_move *moves = answer->what;
    if (answer->done != NULL)
        ((moves_done *)answer->done)(answer->argument, moves, answer->count);
    for (size_t i = 0; i < answer->count; i++) {
        free(moves[i].broker_message_id);
        free(moves[i].error);
    }
    free(moves);
}

static void play_receipt(const struct played_answer *answer)
{
    struct outbox_receipt *receipt = answer->what;
    const struct outbox_receipt_result result = { .status = string_equal(receipt->client_message_id, "c1") ? 0 : -(int)ERROR_NOT_FOUND,
                                                  .is_new = true };
    if (answer->done != NULL)
        ((receipt_done *)answer->done)(answer->argument, receipt, &result);
    outbox_receipt_free(receipt);
}

static void play_rows(const struct played_answer *answer)
{
    struct outbox_row **rows = memory_calloc(answer->count + 1, sizeof(*rows));
    rows[0] = answer->what;
    ((rows_done *)answer->done)(answer->argument, 0, rows, answer->count);
}

static void play_one(const struct played_answer *answer)
{
    switch (answer->kind) {
    case PLAYED_MOVES:
        play_moves(answer);
        break;
    case PLAYED_ROWS:
        play_rows(answer);
        break;
    case PLAYED_EXPIRED:
        ((expired_done *)answer->done)(answer->argument, 0, databases.state == OUTBOX_PENDING ? INT64_C(1790000000000) : -1);
        break;
    case PLAYED_FOUND:
        ((found_done *)answer->done)(answer->argument, -(int)ERROR_NOT_FOUND, NULL);
        break;
    case PLAYED_RECEIPT:
        play_receipt(answer);
        break;
    case PLAYED_INSERTED:
        ((inserted_done *)answer->done)(answer->what);
        break;
    case PLAYED_QUARANTINED:
        ((quarantined_done *)answer->done)(answer->argument, answer->count > 0 ? -(int)ERROR_FULL : 0, answer->count == 0);
        break;
    }
}

/* Everything that waits, and what it asks for in turn. */
static void databases_answer(void)
{
    for (size_t i = 0; i < databases.count; i++)
        play_one(&(struct played_answer){ databases.answers[i].kind, databases.answers[i].done, databases.answers[i].argument,
                                          databases.answers[i].what, databases.answers[i].count });
    databases.count = 0;
}

static void databases_begin(void)
{
    REQUIRE(databases.count == 0);
    databases.fails = false;
    databases.state = OUTBOX_PENDING;
    databases.inbox_seq = 0;
}

#endif
