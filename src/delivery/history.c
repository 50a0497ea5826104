/* Rebuilding a lost inbox from the broker's history (30-delivery, Crash recovery, 4): page by page, each stored before the next is asked for, so that a crash goes on where it was.
 * What comes is judged as any push is, and stored without event, hook or receipt. A broker that lies about its pages is left alone. Must not judge or store by itself: receive.c does. */
#include "delivery/delivery_internal.h"

#include "json/json.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    PAGE_LIMIT = 64,         /* judged at once on the loop: a few milliseconds */
    ITEMS_MAXIMUM = 1000,    /* of one answer, whatever was asked for */
    PAGES_MAXIMUM = 1000000, /* of one rebuild while the daemon runs: even a history without end has one */
    AGAIN_MS = 30 * 1000,    /* after a page that could not be stored, or did not come */
    AGAIN_MALFORMED_MS = 3600 * 1000
};

static void ask(struct delivery *delivery);

static void wait_for(struct delivery *delivery, int64_t ms)
{
    delivery->history.asking = false;
    loop_timer_start(delivery->history.timer, ms);
}

static void timer_fired(void *argument)
{
    history_continue(argument);
}

void history_init(struct delivery *delivery)
{
    delivery->history.timer = loop_timer_new(delivery->loop, timer_fired, delivery);
}

void history_release(struct delivery *delivery)
{
    loop_timer_free(delivery->history.timer);
    delivery->history.timer = NULL;
}

void history_lost(struct delivery *delivery)
{
    loop_timer_stop(delivery->history.timer);
}

const char *history_state(const struct delivery *delivery)
{
    if (inbox_rebuild_next(delivery->inbox, delivery_row_mesh(delivery)) < 0) {
        return NULL;
    }
    return delivery->open && !link_features(delivery->link)->history ? "unavailable" : delivery->history.asking ? "running" : "waiting";
}

/* ---- a page's end ------------------------------------------------------------------------------------------------------ */

static void tell_finished(struct delivery *delivery)
{
    json_t *data = json_new_object();
    json_put_integer(data, "messages", delivery->history.rows);
    log_event(LOG_LEVEL_INFO, "inbox_rebuilt", LOG_TEXT("mesh", delivery->slug), LOG_NUMBER("messages", delivery->history.rows), LOG_END);
    delivery_publish_system(delivery, "inbox_rebuilt", data);
}

static void advanced(void *argument, int status)
{
    struct delivery *delivery = argument;
    if (!delivery->freed) {
        if (status < 0) {
            wait_for(delivery, AGAIN_MS);
        } else if (delivery->history.end) {
            delivery->history.asking = false;
            tell_finished(delivery);
        } else {
            ask(delivery);
        }
    }
    delivery_let_go(delivery);
}

/* Called when the last of a page's messages is on disk, or is not. */
static void page_settled(struct delivery *delivery)
{
    struct history *history = &delivery->history;
    if (history->failed) {
        wait_for(delivery, AGAIN_MS); /* the same page again: what is stored of it is ignored then */
        return;
    }
    delivery_hold(delivery);
    inbox_rebuild_advance(delivery->inbox, delivery_row_mesh(delivery), history->next, history->end, advanced, delivery);
}

void history_settled(struct delivery *delivery, int status, bool is_new)
{
    struct history *history = &delivery->history;
    history->failed = history->failed || status < 0;
    history->rows += is_new ? 1 : 0;
    if (--history->storing == 0 && !delivery->freed) {
        page_settled(delivery);
    }
}

/* ---- a page ------------------------------------------------------------------------------------------------------------- */

/* Today's, or one that it replaced: history keeps the key of the moment. */
static bool is_own_key(const struct delivery *delivery, const char *pubkey)
{
    return pubkey != NULL && hex_is_key(pubkey) && trust_same_member(delivery->trust, pubkey, keypair_public_hex(delivery->keys));
}

/* What we sent lies in the outbox, if anywhere; but for what was sent to ourselves. */
static bool is_ours_only(const struct delivery *delivery, const struct frame_push *push)
{
    return is_own_key(delivery, push->sender_member_pubkey) && !is_own_key(delivery, push->target_spec);
}

/* Ascending, past what was asked after. 0 with the place after this page; -1: malformed. */
static int check_page(const json_t *answer, int64_t after, int64_t *ret_next, bool *ret_end)
{
    const json_t *items = json_object_get(answer, "items");
    const json_t *next = json_object_get(answer, "next");
    int64_t last = after;
    size_t index = 0;
    const json_t *item = NULL;
    if (!json_is_array(items) || json_array_size(items) > ITEMS_MAXIMUM) {
        return -1;
    }
    json_array_foreach(items, index, item)
    {
        struct frame_push push;
        struct error error;
        if (!json_is_object(item) || frame_push_parse(item, &push, &error) < 0 || push.history_id <= last) {
            return -1;
        }
        last = push.history_id;
    }
    int64_t from = 0;
    struct error error;
    *ret_end = next == NULL || json_is_null(next);
    if (!*ret_end &&
        (json_read_integer(answer, "next", JSON_REQUIRED, 0, INT64_C(1) << 53, &from, &error) < 0 || from < last || from <= after)) {
        return -1;
    }
    *ret_next = *ret_end ? last : from;
    return 0;
}

static void take_page(struct delivery *delivery, const json_t *answer)
{
    struct history *history = &delivery->history;
    size_t index = 0;
    const json_t *item = NULL;
    history->failed = false;
    history->storing = 1; /* ours, so that the page does not end before it is handed out */
    json_array_foreach(json_object_get(answer, "items"), index, item)
    {
        struct frame_push push;
        struct error error;
        if (frame_push_parse(item, &push, &error) == 0 && push.subtype == NULL && push.event == NULL && !is_ours_only(delivery, &push)) {
            history->storing++;
            receive_history(delivery, item, &push);
        }
    }
    history_settled(delivery, 0, false);
}

static void page_came(void *argument, const json_t *answer)
{
    struct delivery *delivery = argument;
    struct history *history = &delivery->history;
    if (delivery->freed || answer == NULL || delivery->stopping) {
        history->asking = false; /* the next connection asks again; one that is silent is asked later */
        if (!delivery->freed && delivery->open && !delivery->stopping) {
            wait_for(delivery, AGAIN_MS);
        }
        return;
    }
    bool malformed = !string_equal(json_string_value(json_object_get(answer, "type")), "history_result") ||
                     check_page(answer, history->after, &history->next, &history->end) < 0 || ++history->pages > PAGES_MAXIMUM;
    if (malformed) {
        log_event(LOG_LEVEL_WARN, "history_malformed", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug),
                  LOG_NUMBER("after_history_id", history->after), LOG_END);
        wait_for(delivery, AGAIN_MALFORMED_MS);
        return;
    }
    take_page(delivery, answer);
}

static void ask(struct delivery *delivery)
{
    struct history *history = &delivery->history;
    history->asking = false;
    history->after = inbox_rebuild_next(delivery->inbox, delivery_row_mesh(delivery));
    if (history->after < 0 || !delivery->open || delivery->stopping) {
        return;
    }
    json_t *request = json_new_object();
    json_put_string(request, "type", "history");
    json_put_integer(request, "after_history_id", history->after);
    json_put_integer(request, "limit", PAGE_LIMIT);
    history->asking = link_request(delivery->link, request, page_came, delivery) == 0;
    json_decref(request);
}

void history_continue(struct delivery *delivery)
{
    struct history *history = &delivery->history;
    if (history->asking || loop_timer_is_running(history->timer) || delivery->receiving.holding || !delivery->open ||
        inbox_rebuild_next(delivery->inbox, delivery_row_mesh(delivery)) < 0) {
        return;
    }
    if (!link_features(delivery->link)->history) {
        log_event(LOG_LEVEL_WARN, "history_unavailable", LOG_TEXT("mesh", delivery->slug), LOG_END);
        return;
    }
    ask(delivery);
}
