/* What a rotation of our own key needs of a mesh's delivery (50-identity, Key rotation): that nothing is on its way under the old key when the broker is asked, and the asking. Writes no file: the daemon
 * does, before and after. */
#include "delivery/delivery_internal.h"

#include "proto/rotation.h"
#include "util/memory.h"
#include "util/text.h"

/* A command beside the daemon may be sending with the old key at this moment, by a clock that is read a little later than ours: what it says must not seem said after the rotation. */
static const int64_t AHEAD_MS = 1000;

struct rotation_asked {
    struct delivery *delivery;
    void (*answered)(void *argument, enum delivery_rotation outcome, const char *code, const char *sentence);
    void *argument;
};

/* ---- quiet ---------------------------------------------------------------------------------------------------- */

static void tell_quiet(struct delivery *delivery, bool idle)
{
    void (*quiet)(void *argument, bool idle) = delivery->rotation.quiet;
    if (quiet != NULL) {
        delivery->rotation.quiet = NULL;
        loop_timer_stop(delivery->rotation.timer);
        quiet(delivery->rotation.quiet_argument, idle);
    }
}

static void check_quiet(void *argument)
{
    struct delivery *delivery = argument;
    if (drain_is_idle(delivery->drain)) {
        tell_quiet(delivery, true);
    }
}

static void timer_fired(void *argument)
{
    tell_quiet(argument, false);
}

/* Not from within the drain's callback: what follows may close the link. */
void rotation_drain_idle(struct delivery *delivery)
{
    if (delivery->rotation.quiet != NULL) {
        loop_defer(delivery->loop, check_quiet, delivery);
    }
}

void delivery_quiesce(struct delivery *delivery, int64_t timeout_ms, void (*quiet)(void *argument, bool idle), void *argument)
{
    delivery->rotation.quiet = quiet;
    delivery->rotation.quiet_argument = argument;
    drain_pause(delivery->drain, true);
    if (quiet != NULL) {
        loop_timer_start(delivery->rotation.timer, timeout_ms);
        loop_defer(delivery->loop, check_quiet, delivery);
    }
}

void delivery_resume(struct delivery *delivery)
{
    delivery->rotation.quiet = NULL;
    delivery->rotation.asking = false;
    loop_timer_stop(delivery->rotation.timer);
    drain_pause(delivery->drain, false);
    acks_resume(delivery);
}

bool delivery_is_open(const struct delivery *delivery)
{
    return delivery->open;
}

/* ---- asking --------------------------------------------------------------------------------------------------- */

static void answered(void *argument, const json_t *answer)
{
    struct rotation_asked *asked = argument;
    struct delivery *delivery = asked->delivery;
    const char *type = json_string_value(json_object_get(answer, "type"));
    const char *code = json_string_value(json_object_get(answer, "code"));
    const char *message = json_string_value(json_object_get(answer, "message"));
    enum delivery_rotation outcome = DELIVERY_ROTATION_UNKNOWN;
    if (string_equal(type, "member_ok")) {
        outcome = DELIVERY_ROTATED;
    } else if (string_equal(type, "error")) {
        /* A store that failed may have written it all the same: what it is is known at the next try. */
        outcome = string_equal(code, "store_unavailable") ? DELIVERY_ROTATION_UNKNOWN : DELIVERY_ROTATION_REFUSED;
    }
    if (asked->answered != NULL) {
        delivery->rotation.asked = NULL;
        delivery->rotation.asking = outcome == DELIVERY_ROTATED; /* until the new key's connection acknowledges */
        char *sentence = message == NULL ? NULL : text_printable(message, strlen(message));
        char *printable = code == NULL ? NULL : text_printable(code, strlen(code));
        asked->answered(asked->argument, outcome, printable == NULL ? "" : printable,
                        sentence == NULL ? "the broker did not answer" : sentence);
        free(sentence);
        free(printable);
    }
    free(asked);
}

int delivery_ask_rotation(struct delivery *delivery, const struct keypair *next,
                          void (*told)(void *argument, enum delivery_rotation outcome, const char *code, const char *sentence),
                          void *argument)
{
    struct error error;
    json_t *request = NULL;
    int64_t now_ms = delivery_now_ms(delivery);
    int64_t at_ms = (delivery->newest_sent_at > now_ms ? delivery->newest_sent_at : now_ms) + AHEAD_MS;
    const struct trust_member *own = trust_member(delivery->trust, keypair_public_hex(delivery->keys));
    if (own == NULL || rotation_make_request(delivery->mesh_id, delivery->member_id, trust_next_rotation_seq(delivery->trust),
                                             delivery->keys, next, at_ms, &request, &error) != 0) {
        return -1;
    }
    struct rotation_asked *asked = memory_zalloc(sizeof(*asked));
    *asked = (struct rotation_asked){ .delivery = delivery, .answered = told, .argument = argument };
    int result = link_request(delivery->link, request, answered, asked);
    json_decref(request);
    if (result != 0) {
        free(asked);
        return -1;
    }
    delivery->rotation.asking = true;
    delivery->rotation.asked = asked;
    return 0;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

void rotation_init(struct delivery *delivery)
{
    delivery->rotation.timer = loop_timer_new(delivery->loop, timer_fired, delivery);
}

void rotation_release(struct delivery *delivery)
{
    delivery->rotation.quiet = NULL;
    if (delivery->rotation.asked != NULL) {
        delivery->rotation.asked->answered = NULL; /* the link gives it back to nobody */
    }
    loop_defer_cancel(delivery->loop, check_quiet, delivery);
    loop_timer_free(delivery->rotation.timer);
}
