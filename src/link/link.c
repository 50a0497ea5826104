/* One mesh's connection: its life (start, socket, timers, backoff, stop) and the one function that moves it between phases. The table of moves is in phases.c;
 * what is said at hello and about features is in hello.c and negotiation.c. Knows nothing of messages. */
#include "link/link_internal.h"

#include "json/json.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { CLOSE_GOING_AWAY = 1001, JITTER_PERCENT = 25 };

static void connect_now(struct link *link);

/* ---- what others see ------------------------------------------------------------------------------------------ */

enum link_state link_state(const struct link *link)
{
    return link->state;
}

const char *link_reason(const struct link *link)
{
    return link->reason;
}

const struct feature_set *link_features(const struct link *link)
{
    return &link->features;
}

const char *link_broker_version(const struct link *link)
{
    return link->broker_version;
}

int64_t link_clock_skew_ms(const struct link *link)
{
    return link->skew_ms;
}

int64_t link_now_ms(const struct link *link)
{
    return link->phase == PHASE_OPEN ? link->last_hello_at + clock_boot_ms() - link->hello_boot_ms : clock_wall_ms() + link->skew_ms;
}

const char *link_loss(const struct link *link)
{
    return link->loss;
}

int64_t link_lag_ms(const struct link *link)
{
    int64_t rtt_ms = link->socket == NULL ? -1 : websocket_rtt_ms(link->socket);
    return rtt_ms >= 0 ? rtt_ms : link->lag_ms;
}

bool link_is_revoked(const struct link *link)
{
    return link->revoked;
}

bool link_was_replaced(const struct link *link)
{
    return link->replaced;
}

/* ---- moving --------------------------------------------------------------------------------------------------- */

static int64_t with_jitter(int64_t delay_ms)
{
    int64_t span = delay_ms * JITTER_PERCENT / 100;
    if (span <= 0) {
        return delay_ms;
    }
    return delay_ms - span + (int64_t)random_uniform((uint32_t)(2 * span + 1));
}

static int64_t doubled(int64_t current_ms, int64_t initial_ms, int64_t maximum_ms)
{
    if (current_ms <= 0) {
        return initial_ms;
    }
    return current_ms < maximum_ms / 2 ? current_ms * 2 : maximum_ms;
}

/* A broker that lets us in and drops us at once must not be met by a storm: the pauses begin anew only after a connection that stood as long as the pause before it. */
static void forget_backoff(struct link *link, int64_t open_ms)
{
    if (open_ms >= link->backoff_ms) {
        link->backoff_ms = 0;
    }
    if (open_ms >= link->times.replaced_calm) {
        link->replaced_backoff_ms = 0;
    }
}

static void enter_waiting(struct link *link)
{
    int64_t delay_ms = 0;
    if (link->replaced) { /* from 30 s, not from what jitter leaves of it */
        link->replaced = false;
        link->replaced_backoff_ms = doubled(link->replaced_backoff_ms, link->times.replaced_initial, link->times.replaced_maximum);
        delay_ms = with_jitter(link->replaced_backoff_ms);
        delay_ms = delay_ms < link->replaced_backoff_ms ? link->replaced_backoff_ms : delay_ms;
    } else {
        link->backoff_ms = doubled(link->backoff_ms, link->options.reconnect_initial_ms, link->options.reconnect_max_ms);
        delay_ms = with_jitter(link->backoff_ms);
    }
    /* The next attempt may correct its hello again: the clocks may be other ones by then. */
    link->skew_tried = false;
    link->replays = 0;
    loop_timer_start(link->retry_timer, delay_ms);
}

static void enter_open(struct link *link)
{
    link->skew_tried = false;
    link->replays = 0;
    link->opened_ms = clock_monotonic_ms();
    if (link->skew_ms == 0) {
        clock_believe_wall(); /* the broker's clock says the same, to 60 s */
    }
    json_t *early = link->early;
    link->early = NULL;
    size_t index = 0;
    json_t *frame = NULL;
    json_array_foreach(early, index, frame)
    {
        if (link->phase != PHASE_OPEN) {
            break;
        }
        const char *type = json_string_value(json_object_get(frame, "type"));
        if (!requests_answer(link, type, frame)) {
            link->callbacks.frame(link->callbacks.argument, link, type, frame);
        }
    }
    json_decref(early);
}

static void enter_phase(struct link *link)
{
    switch (link->phase) {
    case PHASE_CONNECTING:
        connect_now(link);
        break;
    case PHASE_GREETING:
        loop_timer_start(link->phase_timer, link->times.hello);
        break;
    case PHASE_NEGOTIATING:
        loop_timer_start(link->phase_timer, link->times.negotiation);
        negotiation_send(link);
        break;
    case PHASE_OPEN:
        enter_open(link);
        break;
    case PHASE_WAITING:
        enter_waiting(link);
        break;
    case PHASE_REFUSED:
        if (!link->options.once) {
            loop_timer_start(link->retry_timer, link->times.refused_retry);
        }
        break;
    case PHASE_IDLE:
    case PHASE_CLOSED:
    case PHASES:
        break;
    }
}

bool link_move(struct link *link, enum link_event event, const char *reason)
{
    enum link_phase next = LINK_MOVES[link->phase][event].next;
    enum link_state state = LINK_MOVES[link->phase][event].state;
    if (next == PHASE_IDLE) {
        return false;
    }
    if (link->options.once && next == PHASE_WAITING) {
        next = PHASE_CLOSED;
        state = LINK_CLOSED;
    }
    bool was_open = link->phase == PHASE_OPEN;
    if (was_open) {
        forget_backoff(link, clock_monotonic_ms() - link->opened_ms);
    }
    bool changed = state != LINK_IDLE && state != link->state;
    link->phase = next;
    if (state != LINK_IDLE) {
        link->state = state;
    }
    if (reason != NULL) {
        free(link->reason);
        link->reason = text_printable(reason, strlen(reason));
    }
    loop_timer_stop(link->phase_timer);
    loop_timer_stop(link->retry_timer);
    if (changed && !link->stopping) {
        link->callbacks.state(link->callbacks.argument, link, link->state, link->reason);
    }
    if (was_open) {
        requests_lose(link);
    }
    if (next != PHASE_NEGOTIATING && next != PHASE_OPEN) {
        json_decref(link->early);
        link->early = NULL;
    }
    if (link->phase == next) { /* a callback may have moved it on */
        enter_phase(link);
    }
    return true;
}

/* ---- the socket ----------------------------------------------------------------------------------------------- */

void link_close_socket(struct link *link, int code, const char *reason)
{
    if (link->socket != NULL && !link->socket_closing) {
        link->socket_closing = true;
        websocket_close(link->socket, code, reason);
    }
}

int link_write(struct link *link, const char *text, size_t size)
{
    if (link->socket == NULL || link->socket_closing) {
        return -1;
    }
    return websocket_send(link->socket, text, size);
}

void link_measure_lag(struct link *link, int64_t since_us)
{
    link->lag_ms = (clock_monotonic_us() - since_us) / 1000;
}

static void socket_open(void *argument, struct websocket *socket, const char *challenge)
{
    (void)socket;
    struct link *link = argument;
    if (!link->socket_closing && link->phase == PHASE_CONNECTING) {
        hello_send(link, challenge);
    }
}

static void receive(struct link *link, const char *type, const json_t *frame, size_t size)
{
    switch (link->phase) {
    case PHASE_GREETING:
        hello_receive(link, type, frame);
        break;
    case PHASE_NEGOTIATING:
        negotiation_receive(link, type, frame, size);
        break;
    case PHASE_OPEN:
        if (!requests_answer(link, type, frame)) {
            link->callbacks.frame(link->callbacks.argument, link, type, frame);
        }
        break;
    case PHASE_IDLE:
    case PHASE_CONNECTING:
    case PHASE_WAITING:
    case PHASE_REFUSED:
    case PHASE_CLOSED:
    case PHASES:
        break;
    }
}

static void socket_message(void *argument, struct websocket *socket, const char *text, size_t size)
{
    (void)socket;
    struct link *link = argument;
    if (link->socket_closing) {
        return;
    }
    json_t *frame = NULL;
    struct error error;
    if (json_parse_strict(text, size, &frame, &error) < 0) {
        log_event(LOG_LEVEL_WARN, "frame_malformed", LOG_TEXT("mesh", link->options.mesh_slug), LOG_TEXT("detail", error.message), LOG_END);
        return;
    }
    const char *type = json_string_value(json_object_get(frame, "type"));
    if (type != NULL) {
        receive(link, type, frame, size);
    }
    json_decref(frame);
}

static void socket_closed(void *argument, struct websocket *socket, int code, const char *reason)
{
    (void)socket;
    struct link *link = argument;
    bool expected = link->socket_closing;
    link->socket = NULL;
    link->socket_closing = false;
    if (link->stopping) {
        if (link->callbacks.stopped != NULL) {
            link->callbacks.stopped(link->callbacks.argument, link);
        }
        return;
    }
    if (expected) {
        return; /* the link moved when it closed the socket */
    }
    char *sentence = NULL;
    if (link->refusal_code[0] != '\0') {
        sentence = memory_printf("%s: %s", link->refusal_code, link->refusal_text);
    } else if (reason[0] != '\0') {
        sentence = memory_strdup(reason);
    } else {
        sentence = memory_printf("the broker closed the connection (%d)", code);
    }
    if (link->refusal_code[0] == '\0') { /* the reason of the close is the code, too (40-wire) */
        (void)snprintf(link->refusal_code, sizeof(link->refusal_code), "%s", reason);
    }
    enum { GONE = 1006 };
    enum link_event event = hello_judge_close(link, code);
    if (link->phase == PHASE_OPEN) {
        link->loss = code == GONE             ? "connection_lost"
                     : link->replaced         ? "replaced"
                     : event == EVENT_REFUSED ? "refused"
                                              : "closed_by_broker";
    }
    if (code == CLOSE_FEATURE_UNAVAILABLE) {
        negotiation_refused_by_broker(link, reason);
    }
    (void)link_move(link, event, sentence);
    free(sentence);
}

static void socket_drained(void *argument, struct websocket *socket)
{
    (void)socket;
    struct link *link = argument;
    if (link->phase == PHASE_OPEN && link->callbacks.drained != NULL) {
        link->callbacks.drained(link->callbacks.argument, link);
    }
}

static const struct websocket_callbacks SOCKET_CALLBACKS = {
    .open = socket_open,
    .message = socket_message,
    .closed = socket_closed,
    .drained = socket_drained,
};

static void connect_now(struct link *link)
{
    if (link->socket != NULL) { /* still closing: the peer did not answer our close */
        websocket_abort(link->socket);
        link->socket = NULL;
        link->socket_closing = false;
    }
    link->refusal_code[0] = '\0';
    link->refusal_text[0] = '\0';
    link->refusal_server_time = -1;
    link->early_bytes = 0;
    struct websocket_connect connect = {
        .url = link->options.broker_url,
        .ca_file = link->options.ca_file,
        .allow_insecure = link->options.allow_insecure,
        .timeout_ms = link->times.connect,
    };
    struct error error;
    if (websocket_connect(link->loop, &connect, &SOCKET_CALLBACKS, link, &link->socket, &error) < 0) {
        link->socket = NULL;
        (void)link_move(link, EVENT_LOST, error.message);
    }
}

/* ---- timers --------------------------------------------------------------------------------------------------- */

static void retry_fired(void *argument)
{
    (void)link_move(argument, EVENT_RETRY, NULL);
}

static void phase_fired(void *argument)
{
    struct link *link = argument;
    if (link->phase == PHASE_NEGOTIATING) {
        negotiation_give_up(link);
        return;
    }
    if (link->phase != PHASE_GREETING) {
        return;
    }
    if (link->refusal_code[0] != '\0') { /* refused, and the broker does not close: as if it had */
        link_close_socket(link, 1000, "");
        char *sentence = memory_printf("%s: %s", link->refusal_code, link->refusal_text);
        (void)link_move(link, hello_judge_close(link, 1008), sentence);
        free(sentence);
        return;
    }
    link_close_socket(link, 1000, "no answer to hello");
    (void)link_move(link, EVENT_LOST, "the broker did not answer hello");
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void copy_options(struct link *link, const struct link_options *options)
{
    struct link_options *copy = &link->options;
    *copy = *options;
    copy->mesh_slug = memory_strdup(options->mesh_slug);
    copy->mesh_id = memory_strdup(options->mesh_id);
    copy->member_id = memory_strdup(options->member_id);
    copy->broker_url = memory_strdup(options->broker_url);
    copy->session_id = memory_strdup(options->session_id);
    copy->display_name = memory_strdup(options->display_name);
    copy->channel = memory_strdup(options->channel);
    copy->peer_type = memory_strdup(options->peer_type);
    copy->host_fingerprint = memory_strdup(options->host_fingerprint);
    copy->hostname = memory_strdup(options->hostname);
    copy->cwd = memory_strdup(options->cwd);
    copy->ca_file = memory_strdup(options->ca_file);
    copy->groups = json_deep_copy(options->groups);
    const char **require = memory_calloc(options->require_count + 1, sizeof(*require));
    for (size_t i = 0; i < options->require_count; i++) {
        require[i] = memory_strdup(options->require[i]);
    }
    copy->require = require;
    if (copy->reconnect_initial_ms <= 0) {
        copy->reconnect_initial_ms = 500;
    }
    if (copy->reconnect_max_ms < copy->reconnect_initial_ms) {
        copy->reconnect_max_ms = copy->reconnect_initial_ms > 30000 ? copy->reconnect_initial_ms : 30000;
    }
}

/* The copies are const for everybody but their owner. */
static void free_copy(const void *copy)
{
    union {
        const void *given;
        void *owned;
    } pointer = { .given = copy };
    free(pointer.owned);
}

static void release_options(struct link_options *copy)
{
    free_copy(copy->mesh_slug);
    free_copy(copy->mesh_id);
    free_copy(copy->member_id);
    free_copy(copy->broker_url);
    free_copy(copy->session_id);
    free_copy(copy->display_name);
    free_copy(copy->channel);
    free_copy(copy->peer_type);
    free_copy(copy->host_fingerprint);
    free_copy(copy->hostname);
    free_copy(copy->cwd);
    free_copy(copy->ca_file);
    union {
        const json_t *given;
        json_t *owned;
    } groups = { .given = copy->groups };
    json_decref(groups.owned);
    for (size_t i = 0; i < copy->require_count; i++) {
        free_copy(copy->require[i]);
    }
    free_copy(copy->require);
}

int link_new(struct loop *loop, const struct link_options *options, const struct link_callbacks *callbacks, struct link **ret_link,
             struct error *error)
{
    struct url_parts parts;
    int result = url_parse(options->broker_url, &parts, error);
    if (result < 0) {
        return result;
    }
    url_parts_release(&parts);
    struct link *link = memory_zalloc(sizeof(*link));
    link->loop = loop;
    copy_options(link, options);
    link->callbacks = *callbacks;
    link->times = LINK_TIMES;
    link->reason = memory_strdup("not started");
    link->broker_version = memory_strdup("");
    link->challenge_required = options->challenge_required;
    link->refusal_server_time = -1;
    link->lag_ms = -1;
    feature_set_defaults(&link->features);
    link->requests_end = &link->requests;
    link->retry_timer = loop_timer_new(loop, retry_fired, link);
    link->phase_timer = loop_timer_new(loop, phase_fired, link);
    link->request_timer = loop_timer_new(loop, requests_expire, link);
    *ret_link = link;
    return 0;
}

void link_start(struct link *link)
{
    (void)link_move(link, EVENT_START, "connecting");
}

void link_stop(struct link *link)
{
    if (link->stopping) {
        return;
    }
    link->stopping = true;
    bool connected = link->phase != PHASE_CONNECTING;
    (void)link_move(link, EVENT_STOPPED, "stopped");
    if (link->socket != NULL && !connected) {
        websocket_abort(link->socket);
        link->socket = NULL;
    }
    if (link->socket != NULL) {
        link_close_socket(link, CLOSE_GOING_AWAY, "going away");
    } else if (link->callbacks.stopped != NULL) {
        link->callbacks.stopped(link->callbacks.argument, link);
    }
}

void link_free(struct link *link)
{
    if (link == NULL) {
        return;
    }
    link->stopping = true;
    websocket_abort(link->socket);
    link->socket = NULL;
    (void)link_move(link, EVENT_STOPPED, "stopped");
    loop_timer_free(link->retry_timer);
    loop_timer_free(link->phase_timer);
    loop_timer_free(link->request_timer);
    json_decref(link->early);
    free(link->reason);
    free(link->broker_version);
    release_options(&link->options);
    free(link);
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

int link_send(struct link *link, const char *text, size_t size)
{
    return link->phase == PHASE_OPEN ? link_write(link, text, size) : -1;
}

size_t link_backlog(const struct link *link)
{
    return link->socket == NULL || link->socket_closing ? 0 : websocket_backlog(link->socket);
}

bool link_has_input(const struct link *link)
{
    return link->socket != NULL && websocket_has_input(link->socket);
}

void link_pause(struct link *link, bool paused)
{
    if (link->phase == PHASE_OPEN && link->socket != NULL && !link->socket_closing) {
        websocket_pause(link->socket, paused);
    }
}

void link_reset(struct link *link, const char *reason)
{
    if (link->phase == PHASE_OPEN) {
        link->loss = "reset";
        link_close_socket(link, 1000, reason);
        (void)link_move(link, EVENT_LOST, reason);
    }
}

void link_revoke(struct link *link, const char *reason)
{
    link->revoked = true;
    link_close_socket(link, 1000, reason);
    (void)link_move(link, EVENT_REVOKED, reason);
}
