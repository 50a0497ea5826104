/* Feature negotiation on a link (40-wire, Features): asks, waits 5 s, judges (proto/features.h holds the rules), refuses with 4010, says why in the log. */
#include "link/link_internal.h"

#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { EARLY_FRAMES_MAXIMUM = 512, EARLY_BYTES_MAXIMUM = 4 * 1024 * 1024, LOGGED_RESPONSE_MAXIMUM = 4096 };

void negotiation_send(struct link *link)
{
    requests_new_id(link, link->negotiation_id);
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    if (features_request_build(link->options.require, link->options.require_count, link->negotiation_id, &frame) == 0) {
        link->hello_sent_us = clock_monotonic_us();
        (void)link_write(link, frame.data, frame.length);
        websocket_ping(link->socket);
    }
    buffer_release(&frame);
}

static char *require_list(const struct link *link)
{
    struct buffer list;
    buffer_init(&list, LOGGED_RESPONSE_MAXIMUM);
    for (size_t i = 0; i < link->options.require_count; i++) {
        (void)buffer_append_text(&list, i == 0 ? "" : ",");
        (void)buffer_append_text(&list, link->options.require[i]);
    }
    return buffer_take(&list, NULL);
}

/* The whole negotiation, so that an operator sees what the broker said and which demand it fails. */
static void log_refusal(const struct link *link, const json_t *response, const struct feature_verdict *verdict)
{
    char *require = require_list(link);
    char *answer = response == NULL ? memory_strdup("none") : json_to_string(response, NULL);
    if (strlen(answer) > LOGGED_RESPONSE_MAXIMUM) {
        answer[LOGGED_RESPONSE_MAXIMUM] = '\0';
    }
    log_event(LOG_LEVEL_ERROR, "feature_negotiation_failed", LOG_TEXT("mesh", link->options.mesh_slug),
              LOG_TEXT("kind", feature_failure_name(verdict->failure)), LOG_TEXT("feature", verdict->feature),
              LOG_TEXT("detail", verdict->detail), LOG_TEXT("required", require), LOG_TEXT("response", answer),
              LOG_TEXT("broker_version", link->broker_version), LOG_END);
    free(answer);
    free(require);
}

static void refuse(struct link *link, const json_t *response, const struct feature_verdict *verdict)
{
    log_refusal(link, response, verdict);
    struct buffer reason;
    buffer_init(&reason, BUFFER_UNLIMITED);
    if (features_close_reason(verdict, &reason) < 0) {
        buffer_reset(&reason);
    }
    link_close_socket(link, CLOSE_FEATURE_UNAVAILABLE, reason.data);
    buffer_release(&reason);
    char *sentence = memory_printf("%s: %s: %s", feature_failure_name(verdict->failure), verdict->feature, verdict->detail);
    if (link->callbacks.negotiation_failed != NULL) {
        link->callbacks.negotiation_failed(link->callbacks.argument, link, verdict);
    }
    (void)link_move(link, EVENT_REFUSED, sentence);
    free(sentence);
}

static void judge(struct link *link, const json_t *response)
{
    struct feature_set features;
    struct feature_verdict verdict = { .failure = FEATURE_OK };
    feature_set_defaults(&features);
    if (response != NULL) {
        features_judge(response, link->options.require, link->options.require_count, &features, &verdict);
    } else if (link->options.require_count > 0) {
        verdict.failure = FEATURE_UNAVAILABLE;
        (void)snprintf(verdict.feature, sizeof(verdict.feature), "%s", link->options.require[0]);
        (void)snprintf(verdict.detail, sizeof(verdict.detail), "the broker does not negotiate features");
    }
    if (verdict.failure == FEATURE_OK && verdict.optional_ignored) {
        log_event(LOG_LEVEL_WARN, "feature_parameter_ignored", LOG_TEXT("mesh", link->options.mesh_slug),
                  LOG_TEXT("detail", verdict.warning), LOG_END);
    }
    if (verdict.failure == FEATURE_OK && link->callbacks.judge != NULL) {
        link->callbacks.judge(link->callbacks.argument, link, &features, &verdict);
    }
    if (verdict.failure != FEATURE_OK) {
        refuse(link, response, &verdict);
        return;
    }
    link->features = features;
    (void)link_move(link, EVENT_AGREED, features.negotiated ? "features agreed" : "without feature negotiation");
}

void negotiation_receive(struct link *link, const char *type, const json_t *frame, size_t size)
{
    const char *id = json_string_value(json_object_get(frame, "_reqId"));
    bool ours = string_equal(id, link->negotiation_id);
    if (string_equal(type, "feature_negotiation_response") && (id == NULL || ours)) {
        link->negotiation_was_silent = false;
        link_measure_lag(link, link->hello_sent_us);
        judge(link, frame);
        return;
    }
    if (string_equal(type, "error") && ours) { /* a broker that does not know the frame */
        link->negotiation_was_silent = false;
        judge(link, NULL);
        return;
    }
    /* A broker that pushes before it has answered: what it sends is kept for when we are open, up to a bound; past it the broker's redelivery has it. */
    if (link->early == NULL) {
        link->early = json_new_array();
    }
    link->early_bytes += size;
    if (json_array_size(link->early) < EARLY_FRAMES_MAXIMUM && link->early_bytes <= EARLY_BYTES_MAXIMUM) {
        json_array_append_new(link->early, json_deep_copy(frame));
    }
}

/* A broker that answers a ping and not the request does not negotiate. One that answers neither may only be slow, or a network that swallows all: tried
 * once more before it costs the five minutes of a refusal. */
void negotiation_give_up(struct link *link)
{
    bool silent = websocket_rtt_ms(link->socket) < 0 && link->options.require_count > 0;
    if (silent && !link->negotiation_was_silent) {
        link->negotiation_was_silent = true;
        link_close_socket(link, 1000, "no answer to the negotiation");
        (void)link_move(link, EVENT_LOST, "the broker did not answer the negotiation");
        return;
    }
    link->negotiation_was_silent = false;
    judge(link, NULL);
}

void negotiation_refused_by_broker(struct link *link, const char *close_reason)
{
    struct feature_verdict verdict = { .failure = FEATURE_UNAVAILABLE };
    (void)snprintf(verdict.detail, sizeof(verdict.detail), "the broker closed with 4010");
    json_t *reason = NULL;
    struct error error;
    if (json_parse_strict(close_reason, strlen(close_reason), &reason, &error) == 0) {
        const json_t *object = json_object_get(reason, "close_reason");
        const char *kind = json_string_value(json_object_get(object, "kind"));
        const char *feature = json_string_value(json_object_get(object, "feature"));
        const char *detail = json_string_value(json_object_get(object, "detail"));
        for (int failure = FEATURE_UNAVAILABLE; failure <= FEATURE_PARAM_BELOW_FLOOR; failure++) {
            if (string_equal(kind, feature_failure_name((enum feature_failure)failure))) {
                verdict.failure = (enum feature_failure)failure;
            }
        }
        (void)snprintf(verdict.feature, sizeof(verdict.feature), "%s", feature == NULL ? "" : feature);
        (void)snprintf(verdict.detail, sizeof(verdict.detail), "%s", detail == NULL ? "" : detail);
    }
    json_decref(reason);
    log_refusal(link, NULL, &verdict);
    if (link->callbacks.negotiation_failed != NULL) {
        link->callbacks.negotiation_failed(link->callbacks.argument, link, &verdict);
    }
}
