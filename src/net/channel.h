/* One connection's bytes, plain or TLS, on the loop: read when it is readable, written at once as far as the kernel takes it, the rest
 * kept and sent when it can be. Knows no protocol. Internal to net/. Loop thread. */
#ifndef NET_CHANNEL_H
#define NET_CHANNEL_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "net/loop.h"

struct channel;

struct channel_callbacks {
    /* There may be something to read, or the end. Called again while not everything was read. */
    void (*readable)(void *argument);
    /* The output that was left over is with the kernel now. Not called for what was sent at once. May be NULL. */
    void (*drained)(void *argument);
    /* Writing failed; reading would, too. Not called for a failure that channel_flush returned. */
    void (*failed)(void *argument);
};

/* Takes the descriptor (made non-blocking by the caller) and tls (NULL: plain) over. Reading starts off. */
struct channel *channel_new(struct loop *loop, int fd, SSL *tls, const struct channel_callbacks *callbacks, void *argument) MUST_CHECK;
/* For handing it to another owner. */
void channel_set_callbacks(struct channel *channel, const struct channel_callbacks *callbacks, void *argument);
void channel_free(struct channel *channel); /* closes; unsent output is dropped. Takes NULL */
int channel_fd(const struct channel *channel);

/* Turns `readable` on or off; turning it on with unread bytes kept here calls it in this turn or the next. */
void channel_want_read(struct channel *channel, bool wanted);

enum { CHANNEL_END = 0, CHANNEL_AGAIN = -1, CHANNEL_FAILED = -2 };
/* The number of bytes, or one of these. */
ssize_t channel_read(struct channel *channel, void *data, size_t size) MUST_CHECK;
/* Puts bytes back, to be read before all others, those that were put back earlier among them. */
void channel_unread(struct channel *channel, const void *data, size_t size);

/* Appends to the output without sending. */
void channel_queue(struct channel *channel, const void *data, size_t size);
/* Sends what is queued as far as possible. -1: the connection is broken. */
int channel_flush(struct channel *channel) MUST_CHECK;
/* Both at once, without a copy where the kernel takes everything. parts is used up. */
int channel_write(struct channel *channel, struct iovec *parts, int count) MUST_CHECK;
size_t channel_backlog(const struct channel *channel); /* bytes not taken by the kernel */
/* No more will be written; the peer sees the end. */
void channel_shutdown_write(struct channel *channel);
/* What went wrong, a sentence. "" when nothing did. */
const char *channel_failure(const struct channel *channel);

#endif
