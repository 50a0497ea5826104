/* From frames to messages. wslay reads frames; what they mean together, and what is too much, is decided here: its own message layer lets
 * a peer make us keep a hundred bytes for each byte of a message in one-byte fragments, and closes malformed frames without a code. */
#include "net/websocket_internal.h"

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static void deliver_text(struct websocket *socket, const char *text, size_t size)
{
    if (!utf8_is_valid(text, size)) {
        websocket_fail(socket, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA, "the text is not UTF-8");
        return;
    }
    /* After our close frame nothing is news any more. */
    if (socket->state == WEBSOCKET_OPEN)
        socket->callbacks.message(socket->argument, socket, text, size);
}

static void deliver_deflated(struct websocket *socket, const void *data, size_t size)
{
    struct buffer text;
    const int result = websocket_inflate(data, size, socket->maximum, &text);

    if (result == -2) {
        websocket_fail(socket, WSLAY_CODE_MESSAGE_TOO_BIG, "message too big");
    } else if (result != 0) {
        websocket_fail(socket, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA, "the message does not inflate");
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
    websocket_release_message(socket);
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
        buffer_init(&socket->message, socket->maximum);
    if (buffer_append(&socket->message, frame->data, frame->data_length) != 0)
        websocket_fail(socket, WSLAY_CODE_MESSAGE_TOO_BIG, "message too big");
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
        websocket_take_close(socket);
    else if (frame->opcode == WSLAY_PONG)
        websocket_take_pong(socket);
    else if (socket->state == WEBSOCKET_OPEN)
        websocket_send_frame(socket, WSLAY_PONG, socket->control, socket->control_size);
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
    if (frame->payload_length > socket->maximum - (socket->message.data == NULL ? 0 : socket->message.length)) {
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
            websocket_fail(socket, code, objection);
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

/* ---- parsing ------------------------------------------------------------------------------------------------------- */

ssize_t websocket_feed(uint8_t *data, size_t size, int flags, void *argument)
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
void websocket_parse(struct websocket *socket)
{
    while (believes(socket) && !socket->paused) {
        struct wslay_frame_iocb frame = { 0 };
        const ssize_t result = wslay_frame_recv(socket->frames, &frame);
        if (result == WSLAY_ERR_WANT_READ)
            return;
        if (result < 0) {
            websocket_fail(socket, WSLAY_CODE_PROTOCOL_ERROR, "malformed frame");
            return;
        }
        take_piece(socket, &frame);
    }
}
