/* Receipts of what we sent (45-trust, Receipts): a recipient's daemon stored or saw it. Each signature is checked against what was really sent; a receipt without one is kept and shown as the broker's
 * word, one with a false signature is told to nobody. Changes nothing but the receipts themselves. */
#include "delivery/delivery_internal.h"

#include "json/json.h"
#include "proto/statement.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    RECENT_SENDS = 1024,
    TOLD_RECEIPTS = 1024,
    UNSETTLED_MAXIMUM = 2048,
    EARLY_MAXIMUM = 2048,
    OWN_KEYS_MAXIMUM = 9 /* what an archive holds, and today's */
};

/* What was accepted lately, so that the usual receipt, which comes moments later, needs no look into the database before its signature is checked. */
struct recent_send {
    uint64_t hash; /* of client_message_id */
    char *client_message_id, *broker_message_id;
    char destination_ref[KEY_HEX_SIZE];
    struct sha256 content;
};

/* Came before the broker's answer to its message, after a crash that took the trace of the attempt: it is judged, and acknowledged, when the answer is there. */
struct early_receipt {
    struct early_receipt *next;
    struct outbox_receipt *receipt;
    char *rsig;
};

struct receipts {
    struct recent_send sends[RECENT_SENDS];
    size_t next_send;
    struct early_receipt *early;
    size_t early_count;
    uint64_t told[TOLD_RECEIPTS]; /* verified ones that were published: a repeated one is no news */
    size_t next_told;
    size_t unsettled;
};

/* A receipt on its way into the outbox. */
struct receipt_arrival {
    struct delivery *delivery;
    char *rsig; /* still to be checked against the contents that the outbox knows; NULL: nothing is */
};

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (const char *byte = text; *byte != '\0'; byte++) {
        hash = (hash ^ (uint8_t)*byte) * UINT64_C(1099511628211);
    }
    return hash;
}

static const uint64_t HASH_START = UINT64_C(14695981039346656037);

/* ---- what was sent lately ------------------------------------------------------------------------------------- */

void receipts_init(struct delivery *delivery)
{
    delivery->receipts = memory_zalloc(sizeof(*delivery->receipts));
}

static void forget_send(struct recent_send *send)
{
    free(send->client_message_id);
    free(send->broker_message_id);
    *send = (struct recent_send){ 0 };
}

static void free_early(struct early_receipt *early)
{
    outbox_receipt_free(early->receipt);
    free(early->rsig);
    free(early);
}

/* None of the early ones was acknowledged: the broker sends them again. */
void receipts_lost(struct delivery *delivery)
{
    struct receipts *receipts = delivery->receipts;
    for (struct early_receipt *early = receipts->early, *next = NULL; early != NULL; early = next) {
        next = early->next;
        free_early(early);
    }
    receipts->early = NULL;
    receipts->early_count = 0;
}

void receipts_release(struct delivery *delivery)
{
    for (size_t i = 0; i < RECENT_SENDS; i++) {
        forget_send(&delivery->receipts->sends[i]);
    }
    receipts_lost(delivery);
    free(delivery->receipts);
    delivery->receipts = NULL;
}

static void remember_send(struct receipts *receipts, const char *client_message_id, const char *broker_message_id,
                          const char *destination_ref, const struct sha256 *content)
{
    struct recent_send *send = &receipts->sends[receipts->next_send++ % RECENT_SENDS];
    forget_send(send);
    if (string_copy(send->destination_ref, sizeof(send->destination_ref), destination_ref) != 0) {
        return; /* no member's key */
    }
    send->hash = hash_text(HASH_START, client_message_id);
    send->client_message_id = memory_strdup(client_message_id);
    send->broker_message_id = memory_strdup(broker_message_id);
    send->content = *content;
}

static const struct recent_send *find_send(const struct receipts *receipts, const struct outbox_receipt *receipt)
{
    uint64_t hash = hash_text(HASH_START, receipt->client_message_id);
    for (size_t i = 0; i < RECENT_SENDS; i++) {
        const struct recent_send *send = &receipts->sends[i];
        if (send->hash == hash && string_equal(send->client_message_id, receipt->client_message_id)) {
            return string_equal(send->broker_message_id, receipt->broker_message_id) ? send : NULL;
        }
    }
    return NULL;
}

/* ---- signatures ----------------------------------------------------------------------------------------------- */

static bool signature_holds_for(const struct delivery *delivery, const char *sender_pubkey, const struct outbox_receipt *receipt,
                                const char *rsig, const struct sha256 *content)
{
    char at[24];
    char content_hex[SHA256_HEX_SIZE];
    (void)snprintf(at, sizeof(at), "%" PRId64, receipt->signed_at);
    hex_encode(content->bytes, SHA256_BYTES, content_hex);
    const struct text values[] = {
        text_from(delivery->mesh_id), text_from(receipt->client_message_id),
        text_from(sender_pubkey),     text_from(receipt->by),
        text_from(receipt->state),    text_from(at),
        text_from(content_hex),
    };
    struct buffer text;
    struct error error;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    bool holds = statement_text(STATEMENT_RECEIPT, values, ARRAY_LENGTH(values), &text, &error) == 0 &&
                 signature_hex_is_valid(receipt->by, text.data, text.length, rsig);
    buffer_release(&text);
    return holds;
}

/* The sender that it names is the key that we had when the message was accepted. */
static bool signature_holds(const struct delivery *delivery, const struct outbox_receipt *receipt, const char *rsig,
                            const struct sha256 *content)
{
    const char *keys[OWN_KEYS_MAXIMUM];
    size_t count = trust_keys_of(delivery->trust, keypair_public_hex(delivery->keys), keys, OWN_KEYS_MAXIMUM);
    for (size_t i = count; i > 0; i--) {
        if (signature_holds_for(delivery, keys[i - 1], receipt, rsig, content)) {
            return true;
        }
    }
    return false;
}

/* By whom the message was for, over one of the texts that were sent. */
static bool is_true(const struct delivery *delivery, const struct outbox_receipt *receipt, const char *rsig,
                    const struct outbox_receipt_result *sent)
{
    if (!string_equal(sent->destination_kind, "dm") || !trust_same_member(delivery->trust, sent->destination_ref, receipt->by)) {
        return false;
    }
    for (size_t i = 0; i < sent->content_count; i++) {
        if (signature_holds(delivery, receipt, rsig, &sent->contents[i])) {
            return true;
        }
    }
    return false;
}

/* ---- telling -------------------------------------------------------------------------------------------------- */

static bool was_told(struct receipts *receipts, const struct outbox_receipt *receipt)
{
    uint64_t hash = hash_text(hash_text(hash_text(HASH_START, receipt->broker_message_id), receipt->by), receipt->state);
    for (size_t i = 0; i < TOLD_RECEIPTS; i++) {
        if (receipts->told[i] == hash) {
            return true;
        }
    }
    receipts->told[receipts->next_told++ % TOLD_RECEIPTS] = hash;
    return false;
}

static void publish(struct delivery *delivery, const struct outbox_receipt *receipt)
{
    json_t *data = json_new_object();
    json_put_string(data, "client_message_id", receipt->client_message_id);
    json_put_string(data, "broker_message_id", receipt->broker_message_id);
    json_put_string(data, "by", receipt->by);
    json_put_string(data, "state", receipt->state);
    json_put_time(data, "at", receipt->at);
    json_put_bool(data, "verified", receipt->verified);
    delivery_publish(delivery, "receipt", data, -1);
}

static void refuse(const struct delivery *delivery, const struct outbox_receipt *receipt, const char *why)
{
    log_event(LOG_LEVEL_WARN, "receipt_refused", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug),
              LOG_TEXT("broker_message_id", receipt->broker_message_id), LOG_TEXT("detail", why), LOG_END);
}

/* ---- keeping -------------------------------------------------------------------------------------------------- */

static void added(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result);

static void add(struct delivery *delivery, struct outbox_receipt *receipt, char *rsig /* given; NULL: nothing left to check */)
{
    struct receipt_arrival *arrival = memory_zalloc(sizeof(*arrival));
    arrival->delivery = delivery;
    arrival->rsig = rsig;
    delivery->receipts->unsettled++;
    delivery_hold(delivery);
    outbox_receipt_add(delivery->outbox, receipt, added, arrival);
}

static struct outbox_receipt *copy_of(const struct outbox_receipt *receipt)
{
    struct outbox_receipt *copy = memory_zalloc(sizeof(*copy));
    *copy = *receipt;
    copy->client_message_id = memory_strdup(receipt->client_message_id);
    copy->mesh = memory_strdup(receipt->mesh);
    copy->broker_message_id = memory_strdup(receipt->broker_message_id);
    copy->by = memory_strdup(receipt->by);
    copy->rsig = NULL;
    return copy;
}

/* Into the outbox once more, now as the recipient's word; acknowledged when it is there, since the broker forgets it then. */
static void add_verified(struct delivery *delivery, struct outbox_receipt *receipt /* given */, const char *rsig)
{
    receipt->rsig = memory_strdup(rsig);
    receipt->verified = true;
    add(delivery, receipt, NULL);
}

static void refuse_false(struct delivery *delivery, const struct outbox_receipt *receipt)
{
    refuse(delivery, receipt, "its signature is not the recipient's over what was sent");
    acks_receipt(delivery, receipt->broker_message_id, receipt->by, receipt->state); /* else it comes for ever */
}

static bool is_of_send(const struct delivery *delivery, const struct outbox_receipt *receipt, const char *rsig,
                       const struct recent_send *send)
{
    return trust_same_member(delivery->trust, send->destination_ref, receipt->by) &&
           signature_holds(delivery, receipt, rsig, &send->content);
}

/* One more than there is room for is left: the broker sends it with the next connection. */
static void keep_early(struct receipts *receipts, const struct outbox_receipt *receipt, const char *rsig)
{
    for (const struct early_receipt *early = receipts->early; early != NULL; early = early->next) {
        if (string_equal(early->receipt->broker_message_id, receipt->broker_message_id) && string_equal(early->receipt->by, receipt->by) &&
            string_equal(early->receipt->state, receipt->state)) {
            return;
        }
    }
    if (receipts->early_count >= EARLY_MAXIMUM) {
        return;
    }
    struct early_receipt *early = memory_zalloc(sizeof(*early));
    early->receipt = copy_of(receipt);
    early->rsig = memory_strdup(rsig);
    early->next = receipts->early;
    receipts->early = early;
    receipts->early_count++;
}

/* It is in the outbox, as the broker's word. Now that the contents are known: the recipient's, or a forgery; or it is too early to say. */
static void check_signature(struct delivery *delivery, const struct outbox_receipt *receipt, const struct outbox_receipt_result *result,
                            const char *rsig)
{
    const struct recent_send *send = find_send(delivery->receipts, receipt); /* answered meanwhile */
    if (is_true(delivery, receipt, rsig, result) || (send != NULL && is_of_send(delivery, receipt, rsig, send))) {
        add_verified(delivery, copy_of(receipt), rsig);
    } else if (result->undecided && send == NULL) {
        keep_early(delivery->receipts, receipt, rsig);
    } else {
        refuse_false(delivery, receipt);
    }
}

static void settle(struct delivery *delivery, const struct receipt_arrival *arrival, struct outbox_receipt *receipt,
                   const struct outbox_receipt_result *result)
{
    if (result->status == -ERROR_NOT_FOUND) {
        refuse(delivery, receipt, "it is for nothing that was sent from here");
    } else if (result->status < 0) {
        return; /* not kept: the broker keeps it for us */
    } else if (arrival->rsig != NULL) {
        check_signature(delivery, receipt, result, arrival->rsig);
        return;
    } else if (receipt->verified ? !was_told(delivery->receipts, receipt) : result->is_new) {
        publish(delivery, receipt);
    }
    acks_receipt(delivery, receipt->broker_message_id, receipt->by, receipt->state);
}

static void added(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result)
{
    struct receipt_arrival *arrival = argument;
    struct delivery *delivery = arrival->delivery;
    if (!delivery->freed) {
        delivery->receipts->unsettled--;
        settle(delivery, arrival, receipt, result);
    }
    free(arrival->rsig);
    free(arrival);
    delivery_let_go(delivery);
}

/* ---- what the broker accepted ------------------------------------------------------------------------------------ */

/* The first of the early ones that this acceptance decides, unlinked; NULL none. */
static struct early_receipt *take_early(struct receipts *receipts, const char *client_message_id)
{
    for (struct early_receipt **link = &receipts->early; *link != NULL; link = &(*link)->next) {
        struct early_receipt *early = *link;
        if (string_equal(early->receipt->client_message_id, client_message_id)) {
            *link = early->next;
            receipts->early_count--;
            return early;
        }
    }
    return NULL;
}

void receipts_accepted(struct delivery *delivery, const char *client_message_id, const char *broker_message_id, const char *destination_ref,
                       const struct sha256 *content)
{
    struct receipts *receipts = delivery->receipts;
    remember_send(receipts, client_message_id, broker_message_id, destination_ref, content);
    for (struct early_receipt *early = NULL; (early = take_early(receipts, client_message_id)) != NULL;) {
        const struct recent_send *send = find_send(receipts, early->receipt);
        if (send != NULL && is_of_send(delivery, early->receipt, early->rsig, send)) {
            add_verified(delivery, early->receipt, early->rsig);
            early->receipt = NULL;
        } else {
            refuse_false(delivery, early->receipt);
        }
        free_early(early);
    }
}

/* ---- arriving ------------------------------------------------------------------------------------------------- */

static int read_receipt(const json_t *frame, struct outbox_receipt *ret_receipt, const char **ret_rsig, struct error *error)
{
    const char *client_message_id = NULL;
    const char *message_id = NULL;
    const char *by = NULL;
    const char *state = NULL;
    int result = json_read_string(frame, "client_message_id", JSON_REQUIRED, &client_message_id, error);
    if (result == 0) {
        result = json_read_string(frame, "messageId", JSON_REQUIRED, &message_id, error);
    }
    if (result == 0) {
        result = json_read_string(frame, "by", JSON_REQUIRED, &by, error);
    }
    if (result == 0) {
        result = json_read_string(frame, "state", JSON_REQUIRED, &state, error);
    }
    if (result == 0) {
        result = json_read_integer(frame, "at", JSON_REQUIRED, 0, INT64_C(1) << 53, &ret_receipt->at, error);
    }
    if (result == 0) {
        result = json_read_string(frame, "rsig", JSON_OPTIONAL, ret_rsig, error);
    }
    if (result < 0) {
        return result;
    }
    if (!hex_is_key(by) || (!string_equal(state, "stored") && !string_equal(state, "seen")) ||
        !client_message_id_is_valid(client_message_id, strlen(client_message_id)) || strlen(message_id) > 128) {
        return error_set(error, ERROR_INVALID, "a receipt that says nothing");
    }
    ret_receipt->client_message_id = memory_strdup(client_message_id);
    ret_receipt->broker_message_id = memory_strdup(message_id);
    ret_receipt->by = memory_strdup(by);
    (void)snprintf(ret_receipt->state, sizeof(ret_receipt->state), "%s", state);
    ret_receipt->signed_at = ret_receipt->at;
    return 0;
}

void receipts_receive(struct delivery *delivery, const json_t *frame)
{
    if (delivery->receipts->unsettled >= UNSETTLED_MAXIMUM) {
        return; /* it is kept for us, and comes again */
    }
    struct outbox_receipt *receipt = memory_zalloc(sizeof(*receipt));
    const char *rsig = NULL;
    struct error error;
    if (read_receipt(frame, receipt, &rsig, &error) < 0) {
        log_event(LOG_LEVEL_WARN, "receipt_malformed", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug), LOG_TEXT("detail", error.message),
                  LOG_END);
        free(receipt);
        return;
    }
    receipt->mesh = memory_strdup(delivery_row_mesh(delivery));
    const struct recent_send *send = rsig == NULL ? NULL : find_send(delivery->receipts, receipt);
    if (send != NULL && is_of_send(delivery, receipt, rsig, send)) {
        add_verified(delivery, receipt, rsig);
    } else {
        add(delivery, receipt, memory_strdup(rsig));
    }
}
