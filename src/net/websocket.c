/* A WebSocket after its handshake: its life, sending, closing, keepalive, reading. What is read is understood in websocket_frames.c. */
#include "net/websocket_internal.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/limits.h"
#include "util/memory.h"

enum { PING_MS = 30 * 1000, SILENCE_MS = 75 * 1000, CLOSE_MS = 2000, CLOSE_REASON_MAXIMUM = 123 };

static void on_timer(void *argument);

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static ssize_t take_from_wslay(const uint8_t *data, size_t size, int flags, void *argument);
static int make_mask(uint8_t *mask, size_t size, void *argument);

struct websocket *websocket_new(struct loop *loop, bool server, const struct websocket_callbacks *callbacks, void *argument)
{
    static const struct wslay_frame_callbacks frame_callbacks = { take_from_wslay, websocket_feed, make_mask };
    struct websocket *socket = memory_zalloc(sizeof(*socket));

    socket->loop = loop;
    socket->server = server;
    socket->callbacks = *callbacks;
    socket->argument = argument;
    socket->ping_ms = PING_MS;
    socket->silence_ms = SILENCE_MS;
    socket->rtt_ms = -1;
    socket->maximum = LIMIT_FRAME;
    socket->timer = loop_timer_new(loop, on_timer, socket);
    if (wslay_frame_context_init(&socket->frames, &frame_callbacks, socket) != 0)
        memory_exhausted();
    return socket;
}

static void on_flush(void *argument);
static void on_parse(void *argument);
static void on_closed(void *argument);

static void cancel_deferred(struct websocket *socket)
{
    if (socket->flush_scheduled)
        loop_defer_cancel(socket->loop, on_flush, socket);
    if (socket->parse_scheduled)
        loop_defer_cancel(socket->loop, on_parse, socket);
    if (socket->closed_scheduled)
        loop_defer_cancel(socket->loop, on_closed, socket);
    socket->flush_scheduled = socket->parse_scheduled = socket->closed_scheduled = false;
}

void websocket_release_message(struct websocket *socket)
{
    if (socket->message.data != NULL)
        buffer_release(&socket->message);
    socket->message = (struct buffer){ 0 };
}

/* Everything but what callbacks up the stack may still look at. */
static void release_connection(struct websocket *socket)
{
    cancel_deferred(socket);
    channel_free(socket->channel);
    socket->channel = NULL;
    client_handshake_free(socket->handshake);
    socket->handshake = NULL;
    socket->feed_size = 0;
    loop_timer_stop(socket->timer);
}

static void free_socket(struct websocket *socket)
{
    release_connection(socket);
    loop_timer_free(socket->timer);
    wslay_frame_context_free(socket->frames);
    websocket_release_message(socket);
    free(socket->close_reason);
    free(socket->peer_address);
    free(socket);
}

void websocket_enter(struct websocket *socket)
{
    socket->busy++;
}

bool websocket_leave(struct websocket *socket)
{
    socket->busy--;
    if (!socket->aborted)
        return true;
    if (socket->busy == 0)
        free_socket(socket);
    return false;
}

void websocket_abort(struct websocket *socket)
{
    if (socket == NULL || socket->aborted)
        return;
    socket->aborted = true;
    socket->state = WEBSOCKET_CLOSED;
    release_connection(socket);
    if (socket->busy == 0)
        free_socket(socket);
}

static void on_closed(void *argument)
{
    struct websocket *socket = argument;

    socket->closed_scheduled = false;
    websocket_enter(socket);
    socket->callbacks.closed(socket->argument, socket, socket->close_code, socket->close_reason == NULL ? "" : socket->close_reason);
    socket->aborted = true;
    (void)websocket_leave(socket);
}

static void set_close(struct websocket *socket, int code, const char *reason)
{
    char *copy = memory_strdup(reason);

    free(socket->close_reason);
    socket->close_code = code;
    socket->close_reason = copy;
}

void websocket_finish(struct websocket *socket, int code, const char *reason)
{
    if (socket->state == WEBSOCKET_CLOSED)
        return;
    set_close(socket, code, reason);
    socket->state = WEBSOCKET_CLOSED;
    release_connection(socket);
    socket->closed_scheduled = true;
    loop_defer(socket->loop, on_closed, socket);
}

/* ---- sending ------------------------------------------------------------------------------------------------------- */

static int make_mask(uint8_t *mask, size_t size, void *argument)
{
    struct websocket *socket = argument;

    if (socket->masks_left < size) {
        random_bytes(socket->masks, sizeof(socket->masks));
        socket->masks_left = sizeof(socket->masks);
    }
    socket->masks_left -= size;
    memcpy(mask, socket->masks + socket->masks_left, size);
    return 0;
}

static ssize_t take_from_wslay(const uint8_t *data, size_t size, int flags, void *argument)
{
    struct websocket *socket = argument;

    (void)flags;
    channel_queue(socket->channel, data, size);
    return (ssize_t)size;
}

void websocket_send_frame(struct websocket *socket, uint8_t opcode, const void *data, size_t size)
{
    struct wslay_frame_iocb frame = { .fin = 1, .opcode = opcode, .payload_length = size, .mask = socket->server ? 0 : 1 };

    /* The channel takes everything, so one call writes the whole frame. */
    frame.data = data;
    frame.data_length = size;
    if (wslay_frame_send(socket->frames, &frame) < 0)
        abort(); /* only for arguments that cannot be */
    websocket_schedule_flush(socket);
}

/* How a closing socket goes on after everything queued was sent. */
static void after_flush(struct websocket *socket)
{
    if (channel_backlog(socket->channel) > 0)
        return;
    if (socket->state == WEBSOCKET_DRAINING)
        channel_shutdown_write(socket->channel);
    if (!socket->owes_drained)
        return;
    socket->owes_drained = false;
    if (socket->callbacks.drained == NULL || socket->state != WEBSOCKET_OPEN)
        return;
    websocket_enter(socket);
    socket->callbacks.drained(socket->argument, socket);
    (void)websocket_leave(socket);
}

static void lose(struct websocket *socket, const char *reason)
{
    if (socket->state == WEBSOCKET_CLOSING || socket->state == WEBSOCKET_DRAINING)
        websocket_finish(socket, socket->close_code, socket->close_reason);
    else
        websocket_finish(socket, WSLAY_CODE_ABNORMAL_CLOSURE, reason);
}

static void on_flush(void *argument)
{
    struct websocket *socket = argument;

    socket->flush_scheduled = false;
    if (channel_flush(socket->channel) != 0)
        lose(socket, channel_failure(socket->channel));
    else
        after_flush(socket);
}

void websocket_schedule_flush(struct websocket *socket)
{
    if (socket->flush_scheduled)
        return;
    socket->flush_scheduled = true;
    loop_defer(socket->loop, on_flush, socket);
}

int websocket_send(struct websocket *socket, const char *text, size_t size)
{
    if (socket->state != WEBSOCKET_OPEN)
        return -1;
    if (channel_backlog(socket->channel) + size > LIMIT_WS_BACKLOG) {
        websocket_finish(socket, WSLAY_CODE_ABNORMAL_CLOSURE, "The peer reads too slowly.");
        return -1;
    }
    socket->owes_drained = true;
    websocket_send_frame(socket, WSLAY_TEXT_FRAME, text, size);
    return 0;
}

size_t websocket_backlog(const struct websocket *socket)
{
    return socket->channel == NULL ? 0 : channel_backlog(socket->channel);
}

bool websocket_has_input(const struct websocket *socket)
{
    return socket->feed_size > 0;
}

/* ---- closing ------------------------------------------------------------------------------------------------------- */

/* code 0: an empty close frame. */
static void send_close(struct websocket *socket, int code, const char *reason)
{
    uint8_t payload[2 + CLOSE_REASON_MAXIMUM];
    size_t length = strlen(reason);

    if (code == 0) {
        websocket_send_frame(socket, WSLAY_CONNECTION_CLOSE, NULL, 0);
        return;
    }
    if (length > CLOSE_REASON_MAXIMUM) {
        /* Not inside a character. */
        for (length = CLOSE_REASON_MAXIMUM; length > 0 && ((unsigned char)reason[length] & 0xc0) == 0x80; length--)
            continue;
    }
    payload[0] = (uint8_t)(code >> 8);
    payload[1] = (uint8_t)(code & 0xff);
    memcpy(payload + 2, reason, length);
    websocket_send_frame(socket, WSLAY_CONNECTION_CLOSE, payload, 2 + length);
}

void websocket_close(struct websocket *socket, int code, const char *reason)
{
    if (socket->state == WEBSOCKET_CONNECTING)
        websocket_finish(socket, code, reason);
    if (socket->state != WEBSOCKET_OPEN)
        return;
    set_close(socket, code, reason);
    send_close(socket, code, reason);
    socket->state = WEBSOCKET_CLOSING;
    loop_timer_start(socket->timer, CLOSE_MS);
    websocket_pause(socket, false); /* to see the peer's */
}

/* The peer broke the rules. What it still sends is read and dropped for a moment: closing at once could take the close frame with it. */
void websocket_fail(struct websocket *socket, int code, const char *reason)
{
    if (socket->state == WEBSOCKET_OPEN) {
        set_close(socket, code, reason);
        send_close(socket, code, reason);
        loop_timer_start(socket->timer, CLOSE_MS);
    }
    socket->state = WEBSOCKET_DRAINING;
    websocket_schedule_flush(socket);
}

static bool close_code_is_valid(int code)
{
    return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) || (code >= 3000 && code <= 4999);
}

void websocket_take_close(struct websocket *socket)
{
    const char *reason = (const char *)socket->control + 2;
    char *text;
    int code;

    if (socket->state != WEBSOCKET_OPEN) {
        websocket_finish(socket, socket->close_code, socket->close_reason);
        return;
    }
    if (socket->control_size == 0) {
        set_close(socket, WSLAY_CODE_NO_STATUS_RCVD, "");
        send_close(socket, 0, "");
    } else {
        code = socket->control[0] << 8 | socket->control[1];
        if (socket->control_size == 1 || !close_code_is_valid(code)) {
            websocket_fail(socket, WSLAY_CODE_PROTOCOL_ERROR, "malformed close frame");
            return;
        }
        if (!utf8_is_valid(reason, socket->control_size - 2)) {
            websocket_fail(socket, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA, "the close reason is not UTF-8");
            return;
        }
        text = memory_strndup(reason, socket->control_size - 2);
        set_close(socket, code, text);
        free(text);
        send_close(socket, code, "");
    }
    /* Both sides said goodbye; the peer closes once it has our frame. */
    socket->state = WEBSOCKET_DRAINING;
    loop_timer_start(socket->timer, CLOSE_MS);
}

/* ---- keepalive ----------------------------------------------------------------------------------------------------- */

static void start_keepalive_timer(struct websocket *socket, int64_t now_ms)
{
    const int64_t silent_at = socket->heard_at_ms + socket->silence_ms;
    const int64_t ping_at = socket->pinged_at_ms + socket->ping_ms;

    loop_timer_start(socket->timer, (silent_at < ping_at ? silent_at : ping_at) - now_ms);
}

static void keep_alive(struct websocket *socket)
{
    const int64_t now_ms = clock_monotonic_ms();

    if (socket->paused)
        socket->heard_at_ms = now_ms; /* it is we who don't listen */
    if (now_ms - socket->heard_at_ms >= socket->silence_ms) {
        char *reason = memory_printf("No traffic for %lld s.", (long long)(socket->silence_ms / 1000));
        websocket_finish(socket, WSLAY_CODE_ABNORMAL_CLOSURE, reason);
        free(reason);
        return;
    }
    if (now_ms - socket->pinged_at_ms >= socket->ping_ms)
        websocket_ping(socket);
    start_keepalive_timer(socket, now_ms);
}

void websocket_ping(struct websocket *socket)
{
    if (socket->state != WEBSOCKET_OPEN)
        return;
    socket->pinged_at_ms = clock_monotonic_ms();
    socket->ping_sent_us = clock_monotonic_us();
    websocket_send_frame(socket, WSLAY_PING, &socket->ping_sent_us, sizeof(socket->ping_sent_us));
}

void websocket_take_pong(struct websocket *socket)
{
    if (socket->ping_sent_us == 0 || socket->control_size != sizeof(socket->ping_sent_us) ||
        memcmp(socket->control, &socket->ping_sent_us, sizeof(socket->ping_sent_us)) != 0)
        return;
    socket->rtt_ms = (clock_monotonic_us() - socket->ping_sent_us) / 1000;
    socket->ping_sent_us = 0;
}

static void on_timer(void *argument)
{
    struct websocket *socket = argument;

    switch (socket->state) {
    case WEBSOCKET_CONNECTING:
        websocket_finish(socket, WSLAY_CODE_ABNORMAL_CLOSURE, "The server did not answer in time.");
        break;
    case WEBSOCKET_OPEN:
        keep_alive(socket);
        break;
    case WEBSOCKET_CLOSING:
    case WEBSOCKET_DRAINING:
        lose(socket, "");
        break;
    case WEBSOCKET_CLOSED:
        break;
    }
}

void websocket_set_keepalive(struct websocket *socket, int64_t ping_ms, int64_t silence_ms)
{
    socket->ping_ms = ping_ms;
    socket->silence_ms = silence_ms;
    if (socket->state == WEBSOCKET_OPEN)
        start_keepalive_timer(socket, clock_monotonic_ms());
}

void websocket_set_maximum(struct websocket *socket, size_t maximum)
{
    socket->maximum = maximum;
}

int64_t websocket_rtt_ms(const struct websocket *socket)
{
    return socket->rtt_ms;
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

/* Reads once and parses; what a pause leaves is kept for later. */
static void on_readable(void *argument)
{
    struct websocket *socket = argument;
    uint8_t *scratch;
    ssize_t count;

    if (socket->state == WEBSOCKET_CONNECTING) {
        client_handshake_readable(socket);
        return;
    }
    scratch = loop_scratch(socket->loop);
    count = channel_read(socket->channel, scratch, LOOP_SCRATCH_SIZE);
    if (count == CHANNEL_AGAIN)
        return;
    if (count == CHANNEL_END || count == CHANNEL_FAILED) {
        lose(socket, count == CHANNEL_END ? "The connection was closed without a goodbye." : channel_failure(socket->channel));
        return;
    }
    socket->heard_at_ms = clock_monotonic_ms();
    socket->feed = scratch;
    socket->feed_size = (size_t)count;
    websocket_enter(socket);
    websocket_parse(socket);
    if (!socket->aborted && socket->paused && socket->feed_size > 0 && socket->channel != NULL)
        channel_unread(socket->channel, socket->feed, socket->feed_size);
    socket->feed_size = 0;
    (void)websocket_leave(socket);
}

static void on_drained(void *argument)
{
    after_flush(argument);
}

static void on_failed(void *argument)
{
    struct websocket *socket = argument;

    lose(socket, channel_failure(socket->channel));
}

const struct channel_callbacks websocket_channel_callbacks = {
    .readable = on_readable,
    .drained = on_drained,
    .failed = on_failed,
};

/* After a pause: what wslay holds is parsed without waiting for more. */
static void on_parse(void *argument)
{
    struct websocket *socket = argument;

    socket->parse_scheduled = false;
    websocket_enter(socket);
    websocket_parse(socket);
    (void)websocket_leave(socket);
}

void websocket_pause(struct websocket *socket, bool paused)
{
    if (socket->paused == paused || socket->state == WEBSOCKET_CLOSED)
        return;
    socket->paused = paused;
    if (socket->channel == NULL || socket->state == WEBSOCKET_CONNECTING)
        return;
    channel_want_read(socket->channel, !paused);
    if (paused)
        return;
    socket->heard_at_ms = clock_monotonic_ms();
    if (!socket->parse_scheduled) {
        socket->parse_scheduled = true;
        loop_defer(socket->loop, on_parse, socket);
    }
}

void websocket_begin(struct websocket *socket, struct channel *channel, bool deflate)
{
    const int64_t now_ms = clock_monotonic_ms();

    socket->channel = channel;
    socket->deflate = deflate;
    socket->state = WEBSOCKET_OPEN;
    socket->heard_at_ms = socket->pinged_at_ms = now_ms;
    channel_set_callbacks(channel, &websocket_channel_callbacks, socket);
    channel_want_read(channel, !socket->paused);
    start_keepalive_timer(socket, now_ms);
    websocket_schedule_flush(socket);
}

const char *websocket_peer_address(const struct websocket *socket)
{
    return socket->peer_address == NULL ? "" : socket->peer_address;
}
