/* What the files of the WebSocket share: websocket.c (life, closing, keepalive), websocket_frames.c (messages), websocket_accept.c
 * (server's handshake), websocket_connect.c (client's), websocket_inflate.c. */
#ifndef NET_WEBSOCKET_INTERNAL_H
#define NET_WEBSOCKET_INTERNAL_H

#include <wslay/wslay.h>

#include "net/channel.h"
#include "net/dial.h"
#include "net/websocket.h"

struct client_handshake; /* websocket_connect.c */

enum websocket_state {
    WEBSOCKET_CONNECTING, /* client: until the handshake succeeded */
    WEBSOCKET_OPEN,
    WEBSOCKET_CLOSING,  /* our close frame is queued or sent */
    WEBSOCKET_DRAINING, /* nothing of the peer is believed any more: until it closes, or 2 s */
    WEBSOCKET_CLOSED    /* only `closed` is due */
};

struct websocket {
    struct loop *loop;
    struct channel *channel; /* NULL while connecting, and once closed */
    struct websocket_callbacks callbacks;
    void *argument;
    struct client_handshake *handshake; /* NULL but while connecting */
    wslay_frame_context_ptr frames;
    enum websocket_state state;
    bool server, deflate, paused;
    bool aborted; /* to be freed when nothing below uses it */
    bool flush_scheduled, parse_scheduled, closed_scheduled;
    bool owes_drained;   /* something was queued since `drained` */
    bool in_message;     /* between its first frame and its last */
    bool compressed;     /* this message */
    unsigned busy;       /* calls below that still use the socket */
    const uint8_t *feed; /* what was read and not parsed */
    size_t feed_size;
    uint64_t frame_offset; /* of the frame being parsed */
    uint8_t control[125];
    size_t control_size;
    struct buffer message;                                  /* data NULL: empty */
    size_t maximum;                                         /* of a message */
    struct loop_timer *timer;                               /* connecting: the time for it; open: keepalive; closing: the time for it */
    int64_t ping_ms, silence_ms, heard_at_ms, pinged_at_ms; /* monotonic */
    int64_t ping_sent_us;                                   /* of the ping awaited; 0: none */
    int64_t rtt_ms;
    uint8_t masks[64]; /* random, used from the end */
    size_t masks_left;
    int close_code;
    char *close_reason;
    char *peer_address;
};

extern const struct channel_callbacks websocket_channel_callbacks;
struct websocket *websocket_new(struct loop *loop, bool server, const struct websocket_callbacks *callbacks, void *argument) MUST_CHECK;
/* The handshake is done: frames from now on, on this channel. */
void websocket_begin(struct websocket *socket, struct channel *channel, bool deflate);
/* No connection any more: `closed` follows in this turn of the loop or the next. */
void websocket_finish(struct websocket *socket, int code, const char *reason);
void websocket_schedule_flush(struct websocket *socket);
/* Around callbacks: the socket may be aborted in them. leave: false when it is gone. */
void websocket_enter(struct websocket *socket);
bool websocket_leave(struct websocket *socket);
void websocket_send_frame(struct websocket *socket, uint8_t opcode, const void *data, size_t size);
/* The peer broke the rules: says so, and believes nothing more. */
void websocket_fail(struct websocket *socket, int code, const char *reason);
/* A close or pong is whole in `control`. */
void websocket_take_close(struct websocket *socket);
void websocket_take_pong(struct websocket *socket);
void websocket_release_message(struct websocket *socket);
/* websocket_frames.c: takes what is in `feed`, and in wslay, as far as it goes; the caller has entered the socket. */
void websocket_parse(struct websocket *socket);
ssize_t websocket_feed(uint8_t *data, size_t size, int flags, void *argument); /* wslay's recv_callback */
/* websocket_connect.c */
void client_handshake_readable(struct websocket *socket);
void client_handshake_free(struct client_handshake *handshake); /* takes NULL */
/* websocket_inflate.c: -1: not deflated data; -2: more than `maximum` bytes. */
int websocket_inflate(const void *data, size_t size, size_t maximum, struct buffer *ret_text) MUST_CHECK;

#endif
