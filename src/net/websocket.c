/* A WebSocket after its handshake: frames in and out, closing, keepalive. wslay reads and writes frames; what they mean together, and what is too much, is
 * decided here: its own message layer lets a peer make us keep a hundred bytes for each byte of a fragmented message, and closes without a code. */
#include "net/websocket_internal.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/limits.h"
#include "util/memory.h"

enum { PING_MS = 30 * 1000, SILENCE_MS = 75 * 1000, CLOSE_MS = 2000, CLOSE_REASON_MAXIMUM = 123, MESSAGE_FIRST_SIZE = 4096 };

static void parse_frames(struct websocket *socket);
static void on_timer(void *argument);

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static ssize_t feed_wslay(uint8_t *data, size_t size, int flags, void *argument);
static ssize_t take_from_wslay(const uint8_t *data, size_t size, int flags, void *argument);
static int make_mask(uint8_t *mask, size_t size, void *argument);

struct websocket *websocket_new(struct loop *loop, bool server, const struct websocket_callbacks *callbacks, void *argument)
{
    static const struct wslay_frame_callbacks frame_callbacks = { take_from_wslay, feed_wslay, make_mask };
    struct websocket *socket = memory_zalloc(sizeof(*socket));

    socket->loop = loop;
    socket->server = server;
    socket->callbacks = *callbacks;
    socket->argument = argument;
    socket->ping_ms = PING_MS;
    socket->silence_ms = SILENCE_MS;
    socket->rtt_ms = -1;
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

static void release_message(struct websocket *socket)
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
    release_message(socket);
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

static void send_frame(struct websocket *socket, uint8_t opcode, const void *data, size_t size)
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
    send_frame(socket, WSLAY_TEXT_FRAME, text, size);
    return 0;
}

size_t websocket_backlog(const struct websocket *socket)
{
    return socket->channel == NULL ? 0 : channel_backlog(socket->channel);
}

/* ---- closing ------------------------------------------------------------------------------------------------------- */

/* code 0: an empty close frame. */
static void send_close(struct websocket *socket, int code, const char *reason)
{
    uint8_t payload[2 + CLOSE_REASON_MAXIMUM];
    size_t length = strlen(reason);

    if (code == 0) {
        send_frame(socket, WSLAY_CONNECTION_CLOSE, NULL, 0);
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
    send_frame(socket, WSLAY_CONNECTION_CLOSE, payload, 2 + length);
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
static void fail(struct websocket *socket, int code, const char *reason)
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

static void take_close(struct websocket *socket)
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
            fail(socket, WSLAY_CODE_PROTOCOL_ERROR, "malformed close frame");
            return;
        }
        if (!utf8_is_valid(reason, socket->control_size - 2)) {
            fail(socket, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA, "the close reason is not UTF-8");
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
    if (now_ms - socket->pinged_at_ms >= socket->ping_ms) {
        socket->pinged_at_ms = now_ms;
        socket->ping_sent_us = clock_monotonic_us();
        send_frame(socket, WSLAY_PING, &socket->ping_sent_us, sizeof(socket->ping_sent_us));
    }
    start_keepalive_timer(socket, now_ms);
}

static void take_pong(struct websocket *socket)
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

int64_t websocket_rtt_ms(const struct websocket *socket)
{
    return socket->rtt_ms;
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static void deliver_text(struct websocket *socket, const char *text, size_t size)
{
    if (!utf8_is_valid(text, size)) {
        fail(socket, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA, "the text is not UTF-8");
        return;
    }
    /* After our close frame nothing is news any more. */
    if (socket->state == WEBSOCKET_OPEN)
        socket->callbacks.message(socket->argument, socket, text, size);
}

static void deliver_deflated(struct websocket *socket, const void *data, size_t size)
{
    struct buffer text;
    const int result = websocket_inflate(data, size, LIMIT_FRAME, &text);

    if (result == -2) {
        fail(socket, WSLAY_CODE_MESSAGE_TOO_BIG, "message too big");
    } else if (result != 0) {
        fail(socket, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA, "the message does not inflate");
    } else {
        deliver_text(socket, text.data, text.length);
        buffer_release(&text);
    }
}

static void deliver(struct websocket *socket, const void *data, size_t size)
{
    socket->in_message = false;
    if (socket->compressed)
        deliver_deflated(socket, data, size);
    else
        deliver_text(socket, data, size);
    release_message(socket);
}

/* A piece of a text frame. A message that lies whole in one piece is delivered from where it is. */
static void take_text(struct websocket *socket, const struct wslay_frame_iocb *frame, bool frame_ends)
{
    const bool whole = frame->fin == 1 && frame_ends && socket->message.data == NULL;

    if (whole) {
        deliver(socket, frame->data, frame->data_length);
        return;
    }
    if (socket->message.data == NULL)
        buffer_init(&socket->message, LIMIT_FRAME);
    if (buffer_append(&socket->message, frame->data, frame->data_length) != 0)
        fail(socket, WSLAY_CODE_MESSAGE_TOO_BIG, "message too big");
    else if (frame_ends && frame->fin == 1)
        deliver(socket, socket->message.data, socket->message.length);
}

static void take_control(struct websocket *socket, const struct wslay_frame_iocb *frame, bool frame_ends)
{
    memcpy(socket->control + socket->control_size, frame->data, frame->data_length);
    socket->control_size += frame->data_length;
    if (!frame_ends)
        return;
    if (frame->opcode == WSLAY_CONNECTION_CLOSE)
        take_close(socket);
    else if (frame->opcode == WSLAY_PONG)
        take_pong(socket);
    else if (socket->state == WEBSOCKET_OPEN)
        send_frame(socket, WSLAY_PONG, socket->control, socket->control_size);
}

/* What may not begin here; NULL: it may. */
static const char *frame_objection(const struct websocket *socket, const struct wslay_frame_iocb *frame, int *ret_code)
{
    const bool starts = frame->opcode == WSLAY_TEXT_FRAME || frame->opcode == WSLAY_BINARY_FRAME;
    const bool control = frame->opcode == WSLAY_CONNECTION_CLOSE || frame->opcode == WSLAY_PING || frame->opcode == WSLAY_PONG;

    *ret_code = WSLAY_CODE_PROTOCOL_ERROR;
    if (!starts && !control && frame->opcode != WSLAY_CONTINUATION_FRAME)
        return "unknown opcode";
    if ((frame->mask != 0) != socket->server)
        return socket->server ? "a client must mask" : "a server must not mask";
    if (frame->rsv != WSLAY_RSV_NONE && !(frame->rsv == WSLAY_RSV1_BIT && starts && socket->deflate))
        return "reserved bits are set";
    if (control)
        return NULL;
    if (starts == socket->in_message)
        return starts ? "a message began inside another" : "a continuation of nothing";
    if (frame->opcode == WSLAY_BINARY_FRAME) {
        *ret_code = WSLAY_CODE_UNSUPPORTED_DATA;
        return "text only";
    }
    if (frame->payload_length > LIMIT_FRAME - (socket->message.data == NULL ? 0 : socket->message.length)) {
        *ret_code = WSLAY_CODE_MESSAGE_TOO_BIG;
        return "message too big";
    }
    return NULL;
}

static void take_piece(struct websocket *socket, const struct wslay_frame_iocb *frame)
{
    bool frame_ends;

    if (socket->frame_offset == 0) {
        int code;
        const char *objection = frame_objection(socket, frame, &code);
        if (objection != NULL) {
            fail(socket, code, objection);
            return;
        }
        socket->control_size = 0;
        if (frame->opcode == WSLAY_TEXT_FRAME) {
            socket->in_message = true;
            socket->compressed = frame->rsv == WSLAY_RSV1_BIT;
        }
    }
    socket->frame_offset += frame->data_length;
    frame_ends = socket->frame_offset == frame->payload_length;
    if (frame_ends)
        socket->frame_offset = 0;
    if (wslay_is_ctrl_frame(frame->opcode))
        take_control(socket, frame, frame_ends);
    else
        take_text(socket, frame, frame_ends);
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static ssize_t feed_wslay(uint8_t *data, size_t size, int flags, void *argument)
{
    struct websocket *socket = argument;

    (void)flags;
    if (size > socket->feed_size)
        size = socket->feed_size;
    if (size == 0)
        return -1;
    memcpy(data, socket->feed, size);
    socket->feed += size;
    socket->feed_size -= size;
    return (ssize_t)size;
}

static bool believes(const struct websocket *socket)
{
    return socket->state == WEBSOCKET_OPEN || socket->state == WEBSOCKET_CLOSING;
}

/* The caller has entered the socket. */
static void parse_frames(struct websocket *socket)
{
    while (believes(socket) && !socket->paused) {
        struct wslay_frame_iocb frame = { 0 };
        const ssize_t result = wslay_frame_recv(socket->frames, &frame);
        if (result == WSLAY_ERR_WANT_READ)
            return;
        if (result < 0) {
            fail(socket, WSLAY_CODE_PROTOCOL_ERROR, "malformed frame");
            return;
        }
        take_piece(socket, &frame);
    }
}

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
    parse_frames(socket);
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
    parse_frames(socket);
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
