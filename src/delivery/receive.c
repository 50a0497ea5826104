/* The way inward (30-delivery, Inbox): a push is held until the members are known, judged by the table of checks, stored durably, and only then acknowledged and published. What is no
 * message goes to the quarantine, as durably. System pushes never come here further than to be told apart. */
#include "delivery/delivery_internal.h"

#include "delivery/checks.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    UNSETTLED_MAXIMUM = 1024, /* pushes held or being stored; an honest broker has 256 unacknowledged at most */
    UNSETTLED_BYTES_MAXIMUM = 16 * 1024 * 1024,
    HOLD_MS = 3000, /* for a member list that does not come */
    ASK_AGAIN_MS = 60000,
    STALL_MS = 60000 /* twice a broker's lease */
};

/* A push on its way to the disk. */
struct arrival {
    struct delivery *delivery;
    json_t *frame; /* for the quarantine */
    char *client_message_id, *broker_message_id, *sender_pubkey;
    struct sha256 content;
    size_t size; /* counted in unsettled_bytes */
    bool from_history;
};

static void quarantine(struct delivery *delivery, const json_t *frame, const char *reason, bool from_history);

static struct arrival *arrival_new(struct delivery *delivery, const json_t *frame, const struct frame_push *push,
                                   const char *client_message_id)
{
    struct arrival *arrival = memory_zalloc(sizeof(*arrival));
    arrival->delivery = delivery;
    arrival->frame = delivery_keep_json(frame);
    arrival->client_message_id = memory_strdup(client_message_id);
    arrival->broker_message_id = memory_strdup(push->message_id);
    arrival->sender_pubkey = memory_strdup(push->sender_member_pubkey);
    arrival->size = push->ciphertext_length;
    delivery->receiving.storing++;
    delivery->receiving.unsettled_bytes += arrival->size;
    delivery_hold(delivery);
    return arrival;
}

/* Back pressure: what a broker may make us hold in memory is bounded, and nothing is dropped for it, which would cost the order. */
static void pause_or_resume(struct delivery *delivery)
{
    struct receiving *receiving = &delivery->receiving;
    size_t count = receiving->storing + json_array_size(receiving->held);
    bool full = count >= UNSETTLED_MAXIMUM || receiving->unsettled_bytes >= UNSETTLED_BYTES_MAXIMUM;
    bool roomy = count <= UNSETTLED_MAXIMUM / 2 && receiving->unsettled_bytes <= UNSETTLED_BYTES_MAXIMUM / 2;
    if (receiving->paused ? roomy : full) {
        receiving->paused = !receiving->paused;
        link_pause(delivery->link, receiving->paused);
    }
}

static void arrival_free(struct arrival *arrival)
{
    struct delivery *delivery = arrival->delivery;
    size_t size = arrival->size;
    json_decref(arrival->frame);
    free(arrival->client_message_id);
    free(arrival->broker_message_id);
    free(arrival->sender_pubkey);
    free(arrival);
    delivery->receiving.storing--;
    delivery->receiving.unsettled_bytes -= size;
    if (!delivery->freed) {
        pause_or_resume(delivery);
        delivery_check_stopped(delivery);
    }
    delivery_let_go(delivery);
}

/* ---- storing -------------------------------------------------------------------------------------------------- */

static void note_stall(struct receiving *receiving, const char *broker_message_id)
{
    if (receiving->stalled_on == NULL) {
        receiving->stalled_on = memory_strdup(broker_message_id);
        receiving->stalled_until_ms = clock_monotonic_ms() + STALL_MS;
    }
}

/* Not on disk (there is no room): not acknowledged, so the broker sends it again, and everything after it. Until then nothing is taken, or what follows would come before it. */
static void note_failure(struct delivery *delivery, int status, const char *broker_message_id)
{
    struct receiving *receiving = &delivery->receiving;
    note_stall(receiving, broker_message_id);
    if (!receiving->insert_failed) {
        receiving->insert_failed = true;
        log_event(LOG_LEVEL_ERROR, "inbox_insert_failed", LOG_TEXT("mesh", delivery->slug), LOG_NUMBER("status", status), LOG_END);
    }
}

/* On disk, or not: only what is gets acknowledged, and only what is new gets published. */
static void stored(struct inbox_insert *insert)
{
    struct arrival *arrival = insert->argument;
    struct delivery *delivery = arrival->delivery;
    if (delivery->freed) {
        /* The broker pushes it again to whoever comes next, to whom it will be no news: if it is any, it is told now. */
        if (insert->status >= 0 && insert->is_new && !arrival->from_history) {
            delivery_publish(delivery, "message", inbox_row_to_json(insert->row, delivery->slug), insert->row->seq);
        }
    } else if (arrival->from_history) {
        history_settled(delivery, insert->status, insert->is_new);
    } else if (insert->status < 0) {
        note_failure(delivery, insert->status, arrival->broker_message_id);
    } else if (insert->replay_suspected) {
        quarantine(delivery, arrival->frame, CHECK_REPLAY_SUSPECTED, false);
    } else {
        delivery->receiving.insert_failed = false;
        acks_stored(delivery, arrival->client_message_id, arrival->broker_message_id, arrival->sender_pubkey, &arrival->content);
        if (insert->is_new) {
            delivery_publish(delivery, "message", inbox_row_to_json(insert->row, delivery->slug), insert->row->seq);
        } else {
            delivery_count(delivery, DELIVERY_DUPLICATE_IN, NULL);
        }
    }
    inbox_insert_free(insert);
    arrival_free(arrival);
}

static char *copy_meta(const json_t *meta)
{
    struct buffer text;
    if (meta == NULL || json_object_size(meta) == 0) {
        return NULL;
    }
    buffer_init(&text, LIMIT_META);
    char *copy = json_print_canonical(meta, &text) == 0 ? memory_strdup(text.data) : NULL;
    buffer_release(&text);
    return copy;
}

static void fill_sender(const struct delivery *delivery, const struct received *received, struct inbox_row *row)
{
    const struct trust_member *member = trust_member(delivery->trust, received->push->sender_member_pubkey);
    char key_start[9];
    (void)snprintf(key_start, sizeof(key_start), "%.8s", received->push->sender_member_pubkey);
    row->sender_pubkey = memory_strdup(received->push->sender_member_pubkey);
    /* Never the push's senderName (45-trust, Names): somebody unknown is shown by the start of the key. */
    row->sender_name = memory_strdup(member != NULL && member->name != NULL && member->name[0] != '\0' ? member->name : key_start);
    row->verified = !received->is_envelope ? INBOX_LEGACY : member != NULL && member->verified ? INBOX_VERIFIED : INBOX_UNVERIFIED;
}

/* Steady, as it is judged by when it is pruned. What comes from history came when the broker took it, as far as anybody still knows: it is found, and pruned, by that time. */
static int64_t received_at(const struct received *received, bool from_history)
{
    int64_t now_ms = clock_steady_ms();
    int64_t created_ms = received->push->created_at;
    return from_history && created_ms >= 0 && created_ms < now_ms ? created_ms : now_ms;
}

static struct inbox_row *make_row(const struct delivery *delivery, const struct received *received, bool from_history)
{
    const struct frame_push *push = received->push;
    const struct envelope *envelope = &received->envelope;
    struct inbox_row *row = memory_zalloc(sizeof(*row));
    bool sealed = received->is_envelope;
    struct text body = sealed ? envelope->body : (struct text){ received->plaintext.data, received->plaintext.length };
    row->client_message_id = memory_strdup(received->client_message_id);
    row->mesh = memory_strdup(delivery_row_mesh(delivery));
    row->broker_message_id = memory_strdup(push->message_id);
    row->kind = memory_strdup("dm");
    fill_sender(delivery, received, row);
    row->body = memory_alloc(body.length + 1); /* it may hold NULs */
    memcpy(row->body, body.data, body.length);
    row->body[body.length] = '\0';
    row->body_size = body.length;
    row->meta = sealed ? copy_meta(envelope->meta) : NULL;
    row->priority = memory_strdup(sealed ? envelope->priority : push->priority);
    row->reply_to_id = memory_strdup(sealed ? envelope->reply_to : push->reply_to_id);
    row->history_id = push->history_id;
    row->sent_at = sealed ? envelope->sent_at : push->created_at;
    row->received_at = received_at(received, from_history);
    row->seen_at = -1;
    row->content = received->content;
    return row;
}

/* The bare text of an older client has an id that nobody signed: it is only ever itself. */
static void name_other_keys(const struct delivery *delivery, struct inbox_insert *insert)
{
    const char *keys[INBOX_OTHER_KEYS];
    size_t count = insert->legacy_once ? 0 : trust_keys_of(delivery->trust, insert->row->sender_pubkey, keys, INBOX_OTHER_KEYS);
    for (size_t i = 0; i < count; i++) {
        if (!string_equal(keys[i], insert->row->sender_pubkey)) {
            insert->other_keys[insert->other_key_count++] = memory_strdup(keys[i]);
        }
    }
}

static void store(struct delivery *delivery, const struct received *received, bool from_history)
{
    struct arrival *arrival = arrival_new(delivery, received->frame, received->push, received->client_message_id);
    arrival->content = received->content;
    struct inbox_insert *insert = memory_zalloc(sizeof(*insert));
    arrival->from_history = insert->from_history = from_history;
    insert->row = make_row(delivery, received, from_history);
    insert->legacy_once = !received->is_envelope;
    name_other_keys(delivery, insert);
    insert->argument = arrival;
    insert->patient = from_history || link_has_input(delivery->link);
    if (delivery->events.arriving != NULL) {
        const struct envelope *envelope = &received->envelope;
        delivery->events.arriving(delivery->events.argument, delivery, received->is_envelope ? envelope->mentions : NULL,
                                  received->is_envelope ? envelope->meta : NULL, insert);
    }
    inbox_insert(delivery->inbox, insert, stored);
}

/* ---- the quarantine ------------------------------------------------------------------------------------------- */

static void put_away(void *argument, int status, bool is_new)
{
    (void)is_new;
    struct arrival *arrival = argument;
    struct delivery *delivery = arrival->delivery;
    if (!delivery->freed && arrival->from_history) {
        history_settled(delivery, status, false);
    } else if (!delivery->freed && status < 0) {
        note_failure(delivery, status, arrival->broker_message_id);
    } else if (!delivery->freed) {
        acks_quarantined(delivery, arrival->client_message_id, arrival->broker_message_id);
    }
    arrival_free(arrival);
}

/* The broker's words, cut so that a nonsense of a megabyte in an id does not become the row's. */
static char *cut(const char *text)
{
    return memory_strndup(text, strnlen(text, 256));
}

static void quarantine(struct delivery *delivery, const json_t *frame, const char *reason, bool from_history)
{
    struct frame_push push;
    struct error error;
    if (frame_push_parse(frame, &push, &error) < 0) {
        return;
    }
    char *sender = cut(push.sender_member_pubkey);
    delivery_count(delivery, DELIVERY_INVALID_INBOUND, reason);
    log_event(LOG_LEVEL_WARN, "message_quarantined", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug), LOG_TEXT("reason", reason),
              LOG_TEXT("broker_message_id", push.message_id), LOG_END);
    struct quarantine_row *row = memory_zalloc(sizeof(*row));
    row->mesh = memory_strdup(delivery_row_mesh(delivery));
    row->sender_pubkey = sender;
    row->client_message_id = cut(push.client_message_id);
    row->broker_message_id = cut(push.message_id);
    row->reason = memory_strdup(reason);
    row->push = json_to_string(frame, NULL);
    row->received_at = clock_steady_ms(); /* as it is judged by when it is pruned */
    struct arrival *arrival = arrival_new(delivery, frame, &push, push.client_message_id);
    arrival->from_history = from_history;
    inbox_quarantine(delivery->inbox, row, put_away, arrival);
}

/* ---- judging -------------------------------------------------------------------------------------------------- */

/* What a verified sender's envelope teaches: how it seals, and how many revocations it knows. */
static void learn(struct delivery *delivery, const struct received *received)
{
    if (!received->is_envelope) {
        return;
    }
    const char *sender = received->push->sender_member_pubkey;
    enum { SEALED = 3 };
    if (trust_sender_body_version(delivery->trust, sender) < SEALED) {
        trust_note_body_version(delivery->trust, sender, SEALED);
    }
    const struct trust_member *member = trust_member(delivery->trust, sender);
    if (member != NULL && member->verified && received->envelope.rv != NULL && trust_expect_rv(delivery->trust, received->envelope.rv)) {
        directory_list_members(delivery);
    }
}

/* The latest time that it may be for who is honest: clocks of hosts and of the broker step, and a sender has the time of its own connection. The broker's word counts within
 * 24 h, as its correction of our clock at hello does. */
static int64_t latest_now(const struct delivery *delivery, const struct frame_push *push)
{
    static const int64_t BELIEVED_MS = INT64_C(24) * 3600 * 1000;
    int64_t link_ms = delivery_now_ms(delivery);
    int64_t wall_ms = clock_wall_ms();
    int64_t now_ms = link_ms > wall_ms ? link_ms : wall_ms;
    int64_t created_ms = push->created_at < now_ms + BELIEVED_MS ? push->created_at : now_ms + BELIEVED_MS;
    return created_ms > now_ms ? created_ms : now_ms;
}

static void judge(struct delivery *delivery, const json_t *frame, const struct frame_push *push, bool from_history)
{
    struct received received;
    received_init(&received);
    received.mesh_id = delivery->mesh_id;
    received.keys = delivery->keys;
    received.archive = delivery->archive;
    received.key_grace_ms = from_history ? INT64_MAX : delivery->key_grace_ms;
    received.boxes = delivery->boxes;
    received.trust = delivery->trust;
    received.now_ms = latest_now(delivery, push);
    received.frame = frame;
    received.push = push;
    const char *reason = checks_judge(&received);
    if (received.opened == OPENED_ARCHIVED || received.opened == OPENED_STALE) {
        delivery_count(delivery, received.opened == OPENED_ARCHIVED ? DELIVERY_DECRYPT_ARCHIVED : DELIVERY_DECRYPT_STALE, NULL);
    }
    if (reason == NULL) {
        learn(delivery, &received);
        store(delivery, &received, from_history);
    } else {
        quarantine(delivery, frame, reason, from_history);
    }
    received_release(&received);
}

void receive_history(struct delivery *delivery, const json_t *frame, const struct frame_push *push)
{
    judge(delivery, frame, push, true);
}

/* ---- holding -------------------------------------------------------------------------------------------------- */

/* A sender that nobody has told us of: the list may say who it is. Once for each, and not again soon. */
static bool should_ask_about(struct delivery *delivery, const char *pubkey)
{
    struct receiving *receiving = &delivery->receiving;
    int64_t now_ms = clock_monotonic_ms();
    if (!hex_is_key(pubkey) || trust_member(delivery->trust, pubkey) != NULL) {
        return false;
    }
    for (size_t i = 0; i < ASKED_KEYS; i++) {
        if (string_equal(receiving->asked[i].pubkey, pubkey) && now_ms - receiving->asked[i].at_ms < ASK_AGAIN_MS) {
            return false;
        }
    }
    size_t place = receiving->asked_next++ % ASKED_KEYS;
    memcpy(receiving->asked[place].pubkey, pubkey, KEY_HEX_SIZE);
    receiving->asked[place].at_ms = now_ms;
    return true;
}

static void hold_from_now(struct delivery *delivery)
{
    delivery->receiving.holding = true;
    loop_timer_start(delivery->receiving.hold_timer, HOLD_MS);
}

static void hold(struct delivery *delivery, const json_t *frame, const struct frame_push *push)
{
    struct receiving *receiving = &delivery->receiving;
    if (receiving->held == NULL) {
        receiving->held = json_new_array();
    }
    json_array_append_new(receiving->held, delivery_keep_json(frame));
    receiving->held_bytes += push->ciphertext_length;
    receiving->unsettled_bytes += push->ciphertext_length;
}

static bool is_stalled(struct delivery *delivery, const struct frame_push *push)
{
    struct receiving *receiving = &delivery->receiving;
    if (receiving->stalled_on == NULL) {
        return false;
    }
    if (string_equal(receiving->stalled_on, push->message_id) || clock_monotonic_ms() >= receiving->stalled_until_ms) {
        free(receiving->stalled_on);
        receiving->stalled_on = NULL;
        return false;
    }
    return true;
}

static void receive_message(struct delivery *delivery, const json_t *frame, const struct frame_push *push)
{
    struct receiving *receiving = &delivery->receiving;
    if (is_stalled(delivery, push)) {
        return;
    }
    if (!receiving->holding && should_ask_about(delivery, push->sender_member_pubkey)) {
        hold_from_now(delivery);
        directory_list_members(delivery);
    }
    if (receiving->holding) {
        hold(delivery, frame, push);
    } else {
        judge(delivery, frame, push, false);
    }
    pause_or_resume(delivery);
}

static json_t *take_held(struct receiving *receiving)
{
    json_t *held = receiving->held;
    receiving->held = NULL;
    receiving->holding = false;
    receiving->unsettled_bytes -= receiving->held_bytes;
    receiving->held_bytes = 0;
    loop_timer_stop(receiving->hold_timer);
    return held;
}

/* In the order in which they came; one of them may make the rest wait again. */
static void release_held(struct delivery *delivery)
{
    struct receiving *receiving = &delivery->receiving;
    json_t *held = take_held(receiving);
    size_t index = 0;
    const json_t *frame = NULL;
    json_array_foreach(held, index, frame)
    {
        struct frame_push push;
        struct error error;
        if (frame_push_parse(frame, &push, &error) == 0) {
            receive_message(delivery, frame, &push);
        }
    }
    json_decref(held);
    history_continue(delivery);
}

/* Restored, and the broker gives no list: whoever was revoked since the backup is not known, so nothing is judged. The list is asked for again; and what would keep its answer
 * from being read, because too much is held, is let go unacknowledged: the broker sends it again, from the first on. */
static void wait_on(struct delivery *delivery)
{
    struct receiving *receiving = &delivery->receiving;
    if (receiving->paused) {
        json_t *held = take_held(receiving);
        struct frame_push push;
        struct error error;
        if (frame_push_parse(json_array_get(held, 0), &push, &error) == 0) {
            note_stall(receiving, push.message_id);
        }
        json_decref(held);
        pause_or_resume(delivery);
    }
    hold_from_now(delivery);
    directory_list_members(delivery);
}

static void hold_timer_fired(void *argument)
{
    struct delivery *delivery = argument;
    if (trust_awaits_list(delivery->trust)) {
        wait_on(delivery);
    } else {
        release_held(delivery);
    }
}

void receive_members_listed(struct delivery *delivery)
{
    if (delivery->receiving.holding && !trust_awaits_list(delivery->trust)) {
        release_held(delivery);
    }
}

void receive_opened(struct delivery *delivery)
{
    /* Who was revoked while we were away must be known before the first message is judged; the directory asks. */
    hold_from_now(delivery);
}

void receive_lost(struct delivery *delivery)
{
    struct receiving *receiving = &delivery->receiving;
    json_decref(take_held(receiving));
    free(receiving->stalled_on); /* the next connection begins with the lowest that was not acknowledged */
    receiving->stalled_on = NULL;
    receiving->paused = false;
}

void receive_init(struct delivery *delivery)
{
    delivery->receiving.hold_timer = loop_timer_new(delivery->loop, hold_timer_fired, delivery);
}

void receive_release(struct delivery *delivery)
{
    receive_lost(delivery);
    loop_timer_free(delivery->receiving.hold_timer);
    delivery->receiving.hold_timer = NULL;
}

/* ---- system pushes -------------------------------------------------------------------------------------------- */

/* Neither the broker's events nor what a client marks as such is a message (45-trust). Their text is shown as the broker's. */
static void receive_system(struct delivery *delivery, const struct frame_push *push)
{
    bool known = push->event != NULL && push->event_data != NULL && string_equal(push->subtype, "system") &&
                 directory_event(delivery, push->event, push->event_data);
    if (!known) {
        json_t *data = json_new_object();
        json_put_string(data, "subtype", push->subtype);
        json_put_string(data, "said_by", "broker");
        json_put(data, "data", push->event_data == NULL ? json_null() : json_deep_copy(push->event_data));
        delivery_publish_system(delivery, push->event == NULL ? "notice" : push->event, data);
    }
    if (push->ciphertext_length > 0) { /* a client's send, with a delivery behind it: it must end, and makes no receipt */
        acks_quarantined(delivery, push->client_message_id, push->message_id);
    }
}

void receive_push(struct delivery *delivery, const json_t *frame)
{
    struct frame_push push;
    struct error error;
    if (frame_push_parse(frame, &push, &error) < 0) {
        delivery_count(delivery, DELIVERY_INVALID_INBOUND, "malformed");
        log_event(LOG_LEVEL_WARN, "push_malformed", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug), LOG_TEXT("detail", error.message),
                  LOG_END);
    } else if (push.subtype != NULL || push.event != NULL) {
        receive_system(delivery, &push);
    } else {
        receive_message(delivery, frame, &push);
    }
}
