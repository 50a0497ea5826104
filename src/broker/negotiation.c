/* Feature negotiation (40-wire, Features) on the broker's side, and the moment from which a connection gets pushes. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "util/limits.h"
#include "util/text.h"

enum { NEGOTIATION_MS = 5000 };

static void make_ready(struct session *session)
{
    if (session->state != SESSION_OPEN || session->ready)
        return;
    loop_timer_free(session->timer);
    session->timer = NULL;
    session->ready = true;
    if (session->presence == NULL)
        return;
    presence_announce(session);
    deliver_start(session);
}

static void overdue(void *argument)
{
    make_ready(argument);
}

/* Nothing comes between the hello_ack and the negotiation that a client announced; one that never comes does not keep its messages waiting. */
void negotiation_expect(struct session *session)
{
    if (session->state != SESSION_OPEN)
        return;
    session->timer = loop_timer_new(session->broker->loop, overdue, session);
    loop_timer_start(session->timer, NEGOTIATION_MS);
}

void negotiation_skip(struct session *session)
{
    make_ready(session);
}

static bool names(const json_t *list, const char *feature)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (string_equal(json_string_value(json_array_get(list, i)), feature))
            return true;
    return false;
}

void negotiation_handle(struct session *session, const json_t *frame)
{
    static const char DELIVERY_ACK[] = "delivery_ack";
    const struct broker_figures *figures = &session->broker->figures;
    const struct feature_offer offer = {
        .permanent = figures->dedupe_permanent,
        .dedupe_retention_days = figures->dedupe_retention_days,
        .inline_bytes = figures->inline_bytes,
        .blob_bytes = figures->blob_bytes,
        .max_concurrent_epochs = 2,
        .default_policy = figures->policy_name,
        .override = session->broker->offer_override,
    };
    json_t *response = features_response(frame, &offer);
    bool asked = names(json_object_get(frame, "require"), DELIVERY_ACK) || names(json_object_get(frame, "optional"), DELIVERY_ACK);
    bool offered = json_object_get(json_object_get(response, "supported"), DELIVERY_ACK) != NULL;
    session_send_json(session, response);
    make_ready(session);
    if (asked && offered && !session->delivery_ack && session->state == SESSION_OPEN) {
        session->delivery_ack = true;
        session->receipts_after = 0;
        acks_fetch_receipts(session);
    }
}
