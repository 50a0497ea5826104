/* Hello (40-wire, Hello; 45-trust, Hello): both signatures, the challenge that may not go missing, clocks that differ, replays; and what the end of a connection
 * means. Never decides about features. */
#include "link/link_internal.h"

#include <unistd.h>

#include "json/json.h"
#include "proto/frames.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    PROTOCOL_VERSION = 1,
    CLOSE_UNAUTHORIZED = 1008,
    CLOSE_REVOKED = 4002,
    CLOSE_REPLACED = 4003,
    CLOSE_ALREADY_CONNECTED = 4004,
    REPLAYS_MAXIMUM = 3 /* mended in a row; then it is somebody's game, and backoff applies */
};
/* 45-trust: corrected only within 24 h; with the 60 s that a broker grants, so that a clock that is a day off to the second is. */
static const int64_t SKEW_MAXIMUM_MS = INT64_C(24) * 3600 * 1000 + 60 * 1000;

/* Whoever sits between us and a broker that has used the challenge must not be able to take it away (45-trust). */
static bool challenge_is_acceptable(struct link *link, const char *challenge)
{
    if (challenge != NULL) {
        if (!link->challenge_required) {
            link->challenge_required = true;
            if (link->callbacks.challenge_seen != NULL) {
                link->callbacks.challenge_seen(link->callbacks.argument, link);
            }
        }
        return true;
    }
    if (!link->challenge_required) {
        return true;
    }
    log_event(LOG_LEVEL_ERROR, "hello_challenge_missing", LOG_SECURITY, LOG_TEXT("mesh", link->options.mesh_slug), LOG_END);
    link_close_socket(link, CLOSE_UNAUTHORIZED, "challenge_missing");
    (void)link_move(link, EVENT_REFUSED, "challenge_missing: this broker has sent a challenge before, and now sent none");
    return false;
}

void hello_send(struct link *link, const char *challenge)
{
    if (challenge != NULL && !hex_is_key(challenge)) {
        challenge = NULL;
    }
    if (!challenge_is_acceptable(link, challenge)) {
        return;
    }
    /* Strictly ascending: after a replay refusal it is the old timestamp + 1 at least, whatever the clock did. */
    int64_t timestamp = clock_wall_ms() + link->skew_ms;
    if (timestamp <= link->last_hello_at && link->last_hello_at - timestamp < link->times.hello) {
        timestamp = link->last_hello_at + 1;
    }
    link->last_hello_at = timestamp;
    link->hello_boot_ms = clock_boot_ms();
    struct frame_hello hello = {
        .protocol_version = PROTOCOL_VERSION,
        .mesh_id = link->options.mesh_id,
        .member_id = link->options.member_id,
        .pubkey = keypair_public_hex(link->options.keys),
        .session_id = link->options.session_id,
        .hostname = link->options.hostname,
        .cwd = link->options.cwd,
        .display_name = link->options.display_name,
        .peer_type = link->options.peer_type,
        .channel = link->options.channel,
        .host_fingerprint = link->options.host_fingerprint,
        .pid = getpid(),
        .receive = link->options.receive,
        .groups = link->options.groups,
        .client_ack = true,
        .feature_negotiation = true,
        .sealed_envelope = true,
        .timestamp = timestamp,
    };
    struct buffer frame;
    buffer_init(&frame, LIMIT_FRAME);
    struct error error;
    if (frame_hello_build(&hello, link->options.keys, link->options.broker_url, challenge, &frame, &error) < 0) {
        link_close_socket(link, 1000, "");
        (void)link_move(link, EVENT_LOST, error.message);
    } else {
        link->hello_sent_us = clock_monotonic_us();
        (void)link_write(link, frame.data, frame.length);
        (void)link_move(link, EVENT_UPGRADED, NULL);
    }
    buffer_release(&frame);
}

static void keep_text(char *destination, size_t size, const char *source)
{
    char *printable = text_printable(source, strlen(source));
    (void)snprintf(destination, size, "%s", printable);
    free(printable);
}

void hello_receive(struct link *link, const char *type, const json_t *frame)
{
    if (string_equal(type, "hello_ack")) {
        const char *version = json_string_value(json_object_get(frame, "brokerVersion"));
        free(link->broker_version);
        link->broker_version = memory_strdup(version == NULL ? "" : version);
        link_measure_lag(link, link->hello_sent_us);
        (void)link_move(link, EVENT_WELCOMED, NULL);
        return;
    }
    if (!string_equal(type, "error") || link->refusal_code[0] != '\0') {
        return;
    }
    /* The close that follows decides (4002 says more than the frame); without one, the timer does. */
    const char *code = json_string_value(json_object_get(frame, "code"));
    const char *message = json_string_value(json_object_get(frame, "message"));
    keep_text(link->refusal_code, sizeof(link->refusal_code), code == NULL || code[0] == '\0' ? "error" : code);
    keep_text(link->refusal_text, sizeof(link->refusal_text), message == NULL ? "" : message);
    struct error error;
    int64_t server_time = -1;
    if (json_read_integer(frame, "serverTime", JSON_OPTIONAL, 0, INT64_C(1) << 53, &server_time, &error) == 0) {
        link->refusal_server_time = server_time;
    }
    loop_timer_start(link->phase_timer, link->times.refusal);
}

/* What the network adds must not count: times that are made with it stay the same over a restart, nearly always, and a clock that is right again is right to the digit. */
static int64_t whole_seconds(int64_t ms)
{
    enum { SECOND_MS = 1000 };
    int64_t half_ms = ms < 0 ? -SECOND_MS / 2 : SECOND_MS / 2;
    return (ms + half_ms) / SECOND_MS * SECOND_MS;
}

/* The clocks differ: say hello once more with the broker's time, at once. */
static enum link_event judge_skew(struct link *link)
{
    if (link->refusal_server_time < 0) {
        return EVENT_LOST;
    }
    int64_t skew_ms = whole_seconds(link->refusal_server_time - clock_wall_ms());
    if (skew_ms > SKEW_MAXIMUM_MS || skew_ms < -SKEW_MAXIMUM_MS || link->skew_tried) {
        log_event(LOG_LEVEL_WARN, "clock_skew_not_corrected", LOG_TEXT("mesh", link->options.mesh_slug), LOG_NUMBER("skew_ms", skew_ms),
                  LOG_END);
        link->skew_ms = 0;
        return EVENT_LOST;
    }
    log_event(LOG_LEVEL_WARN, "clock_skew", LOG_TEXT("mesh", link->options.mesh_slug), LOG_NUMBER("skew_ms", skew_ms), LOG_END);
    link->skew_tried = true;
    link->skew_ms = skew_ms;
    return EVENT_AGAIN;
}

static enum link_event judge_greeting(struct link *link)
{
    if (string_equal(link->refusal_code, "key_rotated")) {
        return EVENT_REFUSED; /* this key will not be let in again, however often it asks */
    }
    if (string_equal(link->refusal_code, "timestamp_skew")) {
        return judge_skew(link);
    }
    if (strstr(link->refusal_code, "replay") != NULL && link->replays < REPLAYS_MAXIMUM) {
        link->replays++;
        return EVENT_AGAIN;
    }
    return EVENT_LOST;
}

enum link_event hello_judge_close(struct link *link, int code)
{
    switch (code) {
    case CLOSE_REVOKED:
        link->revoked = true;
        return EVENT_REVOKED;
    case CLOSE_REPLACED:
    case CLOSE_ALREADY_CONNECTED:
        link->replaced = true;
        return EVENT_LOST;
    case CLOSE_FEATURE_UNAVAILABLE:
        return EVENT_REFUSED;
    default:
        return link->phase == PHASE_GREETING ? judge_greeting(link) : EVENT_LOST;
    }
}
