/* One joined mesh: makes its parts (link, drain, trust), hands what the link says to the part that it is for, starts, settles and stops. The parts are in their own files. */
#include "delivery/delivery_internal.h"

#include "json/json.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { BOX_CACHE_CAPACITY = 512, SILENCE_MS = 15000, STOP_AT_LAST_MS = 2000 };

/* ---- small things that the parts share ------------------------------------------------------------------------ */

void delivery_hold(struct delivery *delivery)
{
    delivery->outstanding++;
}

void delivery_let_go(struct delivery *delivery)
{
    delivery->outstanding--;
    if (delivery->freed && delivery->outstanding == 0) {
        free(delivery->slug);
        free(delivery->mesh_id);
        free(delivery->member_id);
        free(delivery);
    }
}

void delivery_publish(struct delivery *delivery, const char *type, json_t *data, int64_t inbox_seq)
{
    if (delivery->events.publish == NULL) {
        json_decref(data);
        return;
    }
    delivery->events.publish(delivery->events.argument, type, delivery->slug, data, inbox_seq);
}

void delivery_publish_system(struct delivery *delivery, const char *event, json_t *data)
{
    json_t *object = data == NULL ? json_new_object() : data;
    json_put_string(object, "event", event);
    delivery_publish(delivery, "system", object, -1);
}

void delivery_count(const struct delivery *delivery, enum delivery_figure figure, const char *label)
{
    if (delivery->events.count != NULL) {
        delivery->events.count(delivery->events.argument, figure, delivery->slug, label);
    }
}

int delivery_send_json(struct delivery *delivery, json_t *frame)
{
    size_t size = 0;
    char *text = json_to_string(frame, &size);
    json_decref(frame);
    int result = link_send(delivery->link, text, size);
    free(text);
    return result;
}

json_t *delivery_keep_json(const json_t *value)
{
    union {
        const json_t *borrowed;
        json_t *kept;
    } pointer = { .borrowed = value };
    return json_incref(pointer.kept);
}

int64_t delivery_now_ms(const struct delivery *delivery)
{
    return link_now_ms(delivery->link);
}

const char *delivery_row_mesh(const struct delivery *delivery)
{
    return delivery->mesh_id;
}

const char *delivery_mesh_slug(const struct delivery *delivery)
{
    return delivery->slug;
}

const char *delivery_mesh_id(const struct delivery *delivery)
{
    return delivery->mesh_id;
}

const char *delivery_own_pubkey(const struct delivery *delivery)
{
    return keypair_public_hex(delivery->keys);
}

struct trust *delivery_trust(struct delivery *delivery)
{
    return delivery->trust;
}

struct link *delivery_link(struct delivery *delivery)
{
    return delivery->link;
}

const struct blinding_key *delivery_blinding_key(const struct delivery *delivery)
{
    return delivery->blinding;
}

int64_t delivery_inline_bytes(const struct delivery *delivery)
{
    return link_features(delivery->link)->inline_bytes; /* the default until a broker said otherwise */
}

/* ---- the drain's callbacks ------------------------------------------------------------------------------------ */

/* The envelope goes to whoever may understand it: through a broker that knows it, and to a verified member through any (45-trust: bodyVersion 1 is never sent to one). */
static bool is_to_be_sealed(const struct delivery *delivery, const struct trust_member *member)
{
    return link_features(delivery->link)->sealed_envelope || (member != NULL && member->verified);
}

static struct text meta_of(const struct outbox_row *row)
{
    return row->meta == NULL || string_equal(row->meta, "{}") ? (struct text){ "", 0 } : text_from(row->meta);
}

/* Of the accept, in the broker's time. The same for each attempt, so that a resend is the same bytes, but where the clock that the row was stamped by is not the one that the
 * link corrects: then by the row's age, since the recipient would take a time ahead of its own for a replay. */
static int64_t sent_at_of(const struct delivery *delivery, const struct outbox_row *row)
{
    static const int64_t TOLERANCE_MS = 60000; /* what the link's time may be off */
    int64_t now_ms = delivery_now_ms(delivery);
    int64_t age_ms = clock_steady_ms() - row->enqueued_at;
    int64_t by_age_ms = now_ms - (age_ms > 0 ? age_ms : 0);
    int64_t stamped_ms = row->enqueued_at + link_clock_skew_ms(delivery->link);
    int64_t off_ms = stamped_ms - by_age_ms;
    if (off_ms > TOLERANCE_MS || off_ms < -TOLERANCE_MS) {
        return by_age_ms;
    }
    /* Not cut at now_ms, which rounding puts a millisecond before the accept: the attempts would differ, and a receipt of one that a crash took from us would look false. */
    return stamped_ms;
}

static int seal_row(void *argument, const struct outbox_row *row, struct buffer *ret_frame, struct sha256 *ret_content, struct error *error)
{
    struct delivery *delivery = argument;
    if (trust_is_forked(delivery->trust, row->destination_ref)) {
        return error_set(error, ERROR_BUSY,
                         "rotation_fork: two keys claim to follow the recipient's; it waits for the owner's or an admin's word");
    }
    if (trust_is_revoked(delivery->trust, row->destination_ref)) {
        return error_set(error, ERROR_DENIED, "recipient_revoked: the recipient is no longer a member");
    }
    const struct seal_request request = {
        .mesh_id = delivery->mesh_id,
        .client_message_id = row->client_message_id,
        .destination_kind = row->destination_kind,
        .destination_ref = row->destination_ref,
        .recipient_key = trust_current_key(delivery->trust, row->destination_ref),
        .priority = priority_name(row->priority),
        .reply_to_id = row->reply_to_id,
        .rv = trust_rv(delivery->trust),
        .meta_canonical = meta_of(row),
        .body = { row->payload, row->payload_size },
        .sent_at = sent_at_of(delivery, row),
        .broker_fingerprint = row->broker_fingerprint,
        .sealed = is_to_be_sealed(delivery, trust_member(delivery->trust, row->destination_ref)),
    };
    delivery->newest_sent_at = request.sent_at > delivery->newest_sent_at ? request.sent_at : delivery->newest_sent_at;
    return delivery_seal(&request, delivery->keys, delivery->boxes, ret_frame, ret_content, error);
}

static int write_frame(void *argument, const char *text, size_t size)
{
    struct delivery *delivery = argument;
    return link_send(delivery->link, text, size);
}

static size_t backlog(void *argument)
{
    struct delivery *delivery = argument;
    return link_backlog(delivery->link);
}

static void answers_stopped(void *argument)
{
    struct delivery *delivery = argument;
    link_reset(delivery->link, "no answer in 15 s");
}

static void refused_row_given_up(void *argument)
{
    struct delivery *delivery = argument;
    link_reset(delivery->link, "a message that the broker waits for was given up");
}

static void row_accepted(void *argument, const char *client_message_id, const char *broker_message_id, const char *destination_ref,
                         const struct sha256 *content)
{
    receipts_accepted(argument, client_message_id, broker_message_id, destination_ref, content);
}

static void row_was_known(void *argument, bool history_pruned)
{
    delivery_count(argument, DELIVERY_DUPLICATE_OUT, NULL);
    if (history_pruned) {
        delivery_count(argument, DELIVERY_HISTORY_PRUNED, NULL);
    }
}

static void row_aged(void *argument)
{
    expiry_run(argument);
}

static void drain_became_idle(void *argument)
{
    rotation_drain_idle(argument);
    delivery_check_stopped(argument);
}

/* ---- frames --------------------------------------------------------------------------------------------------- */

static void receive_ack(struct delivery *delivery, const json_t *frame)
{
    struct frame_ack ack;
    struct error error;
    if (frame_ack_parse(frame, &ack, &error) < 0) {
        log_event(LOG_LEVEL_WARN, "ack_malformed", LOG_TEXT("mesh", delivery->slug), LOG_TEXT("detail", error.message), LOG_END);
        return;
    }
    drain_answer(delivery->drain, &ack);
}

/* A refusal of something that was sent: as an ack without `status` from an existing broker, judged by its words. */
static void receive_error(struct delivery *delivery, const json_t *frame)
{
    const char *id = json_string_value(json_object_get(frame, "id"));
    const char *code = json_string_value(json_object_get(frame, "code"));
    const char *message = json_string_value(json_object_get(frame, "message"));
    char *text = memory_printf("%.64s: %.400s", code == NULL ? "error" : code, message == NULL ? "" : message);
    char *printable = text_printable(text, strlen(text));
    if (id != NULL) {
        const struct frame_ack ack = { .client_message_id = id,
                                       .message_id = "",
                                       .status = -1,
                                       .history_id = -1,
                                       .history_available = -1,
                                       .first_seen_at = -1,
                                       .error = printable,
                                       .retry_after_ms = -1 };
        drain_answer(delivery->drain, &ack);
    } else {
        log_event(LOG_LEVEL_WARN, "broker_error", LOG_TEXT("mesh", delivery->slug), LOG_TEXT("detail", printable), LOG_END);
    }
    free(printable);
    free(text);
}

static const struct frame_handler {
    const char *type;
    void (*receive)(struct delivery *delivery, const json_t *frame);
} FRAME_HANDLERS[] = {
    /* other types are ignored (40-wire) */
    { "push", receive_push },
    { "ack", receive_ack },
    { "receipt", receipts_receive },
    { "error", receive_error },
};

static void link_frame(void *argument, struct link *link, const char *type, const json_t *frame)
{
    (void)link;
    for (size_t i = 0; i < ARRAY_LENGTH(FRAME_HANDLERS); i++) {
        if (string_equal(FRAME_HANDLERS[i].type, type)) {
            FRAME_HANDLERS[i].receive(argument, frame);
            return;
        }
    }
}

/* ---- the link's state ----------------------------------------------------------------------------------------- */

static void link_opened(struct delivery *delivery)
{
    if (delivery->was_open) {
        delivery_count(delivery, DELIVERY_RECONNECTED, link_loss(delivery->link));
    }
    delivery->open = true;
    delivery->was_open = true;
    receive_opened(delivery); /* before the list is asked for: its answer releases what is held */
    directory_opened(delivery);
    profile_opened(delivery);
    acks_opened(delivery);
    if (trust_awaits_list(delivery->trust)) {
        log_event(LOG_LEVEL_WARN, "restored_awaiting_members", LOG_TEXT("mesh", delivery->slug), LOG_END);
        expiry_run(delivery);
    } else {
        expiry_run_and_open(delivery);
    }
}

static void link_lost(struct delivery *delivery)
{
    delivery->open = false;
    drain_lost(delivery->drain);
    receipts_lost(delivery);
    receive_lost(delivery);
    history_lost(delivery);
    acks_lost(delivery);
    profile_lost(delivery);
    directory_lost(delivery);
}

static void link_state_changed(void *argument, struct link *link, enum link_state state, const char *reason)
{
    struct delivery *delivery = argument;
    log_event(state == LINK_REFUSED ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "link_state", LOG_TEXT("mesh", delivery->slug),
              LOG_TEXT("status", link_state_name(state)), LOG_TEXT("reason", reason), LOG_END);
    if (link_was_replaced(link)) {
        log_event(
            LOG_LEVEL_WARN, "member_connected_elsewhere", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug),
            LOG_TEXT(
                "detail",
                "another connection with this member's key has the place; this one waits 30 s and longer before it asks again. If no other "
                "daemon of yours uses this key, the directory was copied: see `claudemesh daemon remint`"),
            LOG_END);
    }
    if (state == LINK_OPEN) {
        link_opened(delivery);
    } else if (delivery->open) {
        link_lost(delivery);
    }
    json_t *data = json_new_object();
    json_put_string(data, "status", link_state_name(state));
    json_put_string(data, "reason", reason);
    delivery_publish(delivery, "broker_status", data, -1);
}

static void link_challenge_seen(void *argument, struct link *link)
{
    (void)link;
    struct delivery *delivery = argument;
    trust_set_challenge_seen(delivery->trust);
}

static void link_negotiation_failed(void *argument, struct link *link, const struct feature_verdict *verdict)
{
    (void)link;
    struct delivery *delivery = argument;
    json_t *data = json_new_object();
    json_put_string(data, "kind", feature_failure_name(verdict->failure));
    json_put_string(data, "feature", verdict->feature);
    json_put_string(data, "detail", verdict->detail);
    delivery_publish(delivery, "feature_negotiation_failed", data, -1);
}

/* The retention is kept also when it refuses the link: the next start must see it. */
static void link_judge(void *argument, struct link *link, const struct feature_set *features, struct feature_verdict *verdict)
{
    (void)link;
    struct delivery *delivery = argument;
    if (!features->dedupe) {
        return;
    }
    trust_set_retention_days(delivery->trust, features->dedupe_permanent ? -1 : features->dedupe_retention_days);
    int64_t limit = features->dedupe_permanent ? 0 : expiry_override_limit(delivery, features->dedupe_retention_days);
    if (limit > 0) {
        verdict->failure = FEATURE_PARAM_INVALID;
        (void)snprintf(verdict->feature, sizeof(verdict->feature), "client_message_id_dedupe");
        (void)snprintf(verdict->detail, sizeof(verdict->detail), "outbox_max_age_above_dedupe_window: %" PRId64 " h > %" PRId64 " h",
                       delivery->max_age_override_hours, limit);
    }
}

static void link_drained(void *argument, struct link *link)
{
    (void)link;
    struct delivery *delivery = argument;
    drain_writable(delivery->drain);
}

static void link_has_stopped(void *argument, struct link *link)
{
    (void)link;
    struct delivery *delivery = argument;
    delivery->link_stopped = true;
    delivery_check_stopped(delivery);
}

/* ---- making --------------------------------------------------------------------------------------------------- */

static int check_override(const struct delivery *delivery, struct error *error)
{
    int64_t limit = expiry_override_limit(delivery, trust_retention_days(delivery->trust));
    if (limit == 0) {
        return 0;
    }
    return error_set(error, ERROR_INVALID,
                     "outbox_max_age_above_dedupe_window: outbox.max_age_hours_override = %" PRId64 " is above %" PRId64
                     " hours, the last known dedupe window of mesh '%s'",
                     delivery->max_age_override_hours, limit, delivery->slug);
}

static int make_link(struct delivery *delivery, const struct delivery_options *options, struct error *error)
{
    struct link_options link_options = options->link;
    link_options.challenge_required = link_options.challenge_required || trust_challenge_seen(delivery->trust);
    const struct link_callbacks callbacks = {
        .argument = delivery,
        .state = link_state_changed,
        .frame = link_frame,
        .challenge_seen = link_challenge_seen,
        .negotiation_failed = link_negotiation_failed,
        .drained = link_drained,
        .judge = link_judge,
        .stopped = link_has_stopped,
    };
    return link_new(delivery->loop, &link_options, &callbacks, &delivery->link, error);
}

static void make_drain(struct delivery *delivery, const struct delivery_options *options)
{
    const struct drain_options drain_options = {
        .loop = delivery->loop,
        .outbox = delivery->outbox,
        .row_mesh = delivery_row_mesh(delivery),
        .mesh_slug = delivery->slug,
        .window = options->window,
        .backoff_initial_ms = options->backoff_initial_ms,
        .backoff_max_ms = options->backoff_max_ms,
        .jitter_pct = options->jitter_pct,
        .silence_ms = SILENCE_MS,
        .argument = delivery,
        .seal = seal_row,
        .write = write_frame,
        .backlog = backlog,
        .silent = answers_stopped,
        .given_up = refused_row_given_up,
        .accepted = row_accepted,
        .duplicate = row_was_known,
        .aged = row_aged,
        .idle = drain_became_idle,
    };
    delivery->drain = drain_new(&drain_options);
}

static void stop_timer_fired(void *argument);
static void tell_stopped(void *argument);

int delivery_new(const struct delivery_options *options, struct delivery **ret_delivery, struct error *error)
{
    struct delivery *delivery = memory_zalloc(sizeof(*delivery));
    delivery->loop = options->loop;
    delivery->outbox = options->outbox;
    delivery->inbox = options->inbox;
    delivery->events = options->events;
    delivery->keys = options->link.keys;
    delivery->slug = memory_strdup(options->link.mesh_slug);
    delivery->mesh_id = memory_strdup(options->link.mesh_id);
    delivery->member_id = memory_strdup(options->link.member_id);
    delivery->max_age_hours = options->max_age_hours;
    delivery->archive = options->archive;
    delivery->key_grace_ms = options->key_grace_ms;
    delivery->max_age_override_hours = options->max_age_override_hours;
    const struct trust_identity identity = {
        .mesh_id = delivery->mesh_id,
        .mesh_slug = delivery->slug,
        .owner_pubkey = options->owner_pubkey == NULL ? "" : options->owner_pubkey,
        .own_pubkey = keypair_public_hex(delivery->keys),
        .own_member_id = options->link.member_id,
    };
    int result = trust_open(options->trust_db, &identity, &delivery->trust, error);
    if (result == 0) {
        result = check_override(delivery, error);
    }
    if (result == 0) {
        result = make_link(delivery, options, error);
    }
    if (result < 0) {
        trust_free(delivery->trust);
        free(delivery->slug);
        free(delivery->mesh_id);
        free(delivery->member_id);
        free(delivery);
        return result;
    }
    make_drain(delivery, options);
    delivery->boxes = box_cache_new(BOX_CACHE_CAPACITY);
    delivery->blinding = blinding_key_of(delivery->keys);
    delivery->stop_timer = loop_timer_new(delivery->loop, stop_timer_fired, delivery);
    receive_init(delivery);
    history_init(delivery);
    acks_init(delivery);
    receipts_init(delivery);
    directory_init(delivery);
    profile_init(delivery);
    expiry_init(delivery);
    rotation_init(delivery);
    *ret_delivery = delivery;
    return 0;
}

void delivery_start(struct delivery *delivery)
{
    expiry_run(delivery); /* rows grow old without a link, too */
    if (trust_self_revoked(delivery->trust)) {
        link_revoke(delivery->link, "revoked: the mesh's owner or an admin signed it");
    } else {
        link_start(delivery->link);
    }
}

void delivery_tune(struct delivery *delivery, size_t window, int64_t backoff_initial_ms, int64_t backoff_max_ms, int jitter_pct)
{
    drain_tune(delivery->drain, window, backoff_initial_ms, backoff_max_ms, jitter_pct);
}

void delivery_free(struct delivery *delivery)
{
    if (delivery == NULL) {
        return;
    }
    delivery->stopping = true;
    delivery->stopped = NULL;
    delivery->open = false; /* what the link gives back on its way out finds nobody to judge it */
    rotation_release(delivery);
    link_free(delivery->link);
    delivery->freed = true;
    drain_free(delivery->drain);
    receive_release(delivery);
    history_release(delivery);
    acks_release(delivery);
    receipts_release(delivery);
    directory_release(delivery);
    profile_release(delivery);
    expiry_release(delivery);
    loop_defer_cancel(delivery->loop, tell_stopped, delivery);
    loop_timer_free(delivery->stop_timer);
    box_cache_free(delivery->boxes);
    blinding_key_free(delivery->blinding);
    trust_free(delivery->trust);
    delivery_hold(delivery);
    delivery_let_go(delivery);
}

/* ---- stopping ------------------------------------------------------------------------------------------------- */

static void tell_stopped(void *argument)
{
    struct delivery *delivery = argument;
    delivery->stopped(delivery->stopped_argument); /* may free us */
}

static bool is_settled(const struct delivery *delivery)
{
    return drain_is_idle(delivery->drain) && delivery->receiving.storing == 0 && !delivery->acks.flush_is_due;
}

static void stop_link(struct delivery *delivery)
{
    delivery->link_stopping = true;
    loop_timer_start(delivery->stop_timer, STOP_AT_LAST_MS);
    if (delivery->open) {
        link_lost(delivery);
    }
    link_stop(delivery->link);
}

static void finish_stop(struct delivery *delivery)
{
    if (!delivery->stop_is_told) {
        delivery->stop_is_told = true;
        loop_timer_stop(delivery->stop_timer);
        loop_defer(delivery->loop, tell_stopped, delivery); /* not from within a callback of the link or the drain */
    }
}

void delivery_check_stopped(struct delivery *delivery)
{
    if (!delivery->stopping || delivery->freed || delivery->stopped == NULL) {
        return;
    }
    if (!delivery->link_stopping && (is_settled(delivery) || !delivery->open)) {
        stop_link(delivery);
    }
    if (delivery->link_stopped && drain_is_idle(delivery->drain) && delivery->receiving.storing == 0) {
        finish_stop(delivery);
    }
}

/* First: answers are waited for no longer. Then: not for the link or the disk either; what is still `inflight` is put right at the next start. */
static void stop_timer_fired(void *argument)
{
    struct delivery *delivery = argument;
    if (!delivery->link_stopping) {
        stop_link(delivery);
        delivery_check_stopped(delivery);
    } else {
        finish_stop(delivery);
    }
}

void delivery_stop(struct delivery *delivery, int64_t grace_ms, void (*stopped)(void *argument), void *argument)
{
    delivery->stopping = true;
    delivery->stopped = stopped;
    delivery->stopped_argument = argument;
    drain_stop(delivery->drain);
    loop_timer_start(delivery->stop_timer, grace_ms);
    delivery_check_stopped(delivery);
}

/* ---- from the outbox ------------------------------------------------------------------------------------------ */

void delivery_row_inserted(struct delivery *delivery, const struct outbox_row *row)
{
    expiry_row_inserted(delivery);
    drain_inserted(delivery->drain, row);
}

void delivery_row_retired(struct delivery *delivery, int64_t seq)
{
    drain_retired(delivery->drain, seq);
}
