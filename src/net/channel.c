/* Sockets without libevent's bufferevents: those ask for the readable size before each read, and have epoll watch for writability before
 * each write (docs/decisions/0007). Owns the descriptor, the TLS state and the unsent output. */
#include "net/channel.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/tls.h"
#include "util/memory.h"

enum { OUTPUT_FIRST_SIZE = 512, TLS_RECORD = 16 * 1024 };

struct output {
    char *data;
    size_t start, end, capacity;
};

struct channel {
    int fd;
    SSL *tls;
    const struct channel_callbacks *callbacks;
    void *argument;
    struct event read_event, write_event;
    struct output output;
    char *unread; /* NULL: nothing was put back */
    size_t unread_start, unread_end;
    bool wants_read;
    bool awaits_write;      /* write_event is on */
    bool read_awaits_write; /* TLS cannot read before it has written */
    bool write_awaits_read;
    bool broken;
    char *failure;
};

/* ---- events ---------------------------------------------------------------------------------------------------- */

static void fail_channel(struct channel *channel, char *failure)
{
    channel->broken = true;
    free(channel->failure);
    channel->failure = failure;
}

static void await_write(struct channel *channel, bool awaited)
{
    if (channel->awaits_write == awaited)
        return;
    channel->awaits_write = awaited;
    if (awaited) {
        if (event_add(&channel->write_event, NULL) != 0)
            memory_exhausted();
    } else {
        (void)event_del(&channel->write_event);
    }
}

static bool has_unread(const struct channel *channel)
{
    return channel->unread != NULL || (channel->tls != NULL && SSL_pending(channel->tls) > 0);
}

static void on_writable(evutil_socket_t fd, short what, void *argument)
{
    struct channel *channel = argument;
    const bool reads_too = channel->read_awaits_write && channel->wants_read;

    (void)fd;
    (void)what;
    channel->read_awaits_write = false;
    if (reads_too)
        event_active(&channel->read_event, EV_READ, 0);
    if (channel_flush(channel) != 0) {
        await_write(channel, false);
        channel->callbacks->failed(channel->argument);
    } else if (channel_backlog(channel) == 0 && channel->callbacks->drained != NULL) {
        channel->callbacks->drained(channel->argument);
    }
}

static void on_readable(evutil_socket_t fd, short what, void *argument)
{
    struct channel *channel = argument;

    (void)fd;
    (void)what;
    if (channel->write_awaits_read) {
        channel->write_awaits_read = false;
        if (channel_flush(channel) != 0) {
            channel->callbacks->failed(channel->argument);
            return;
        }
        if (channel_backlog(channel) == 0)
            event_active(&channel->write_event, EV_WRITE, 0); /* for `drained` */
    }
    if (channel->wants_read)
        channel->callbacks->readable(channel->argument);
}

struct channel *channel_new(struct loop *loop, int fd, SSL *tls, const struct channel_callbacks *callbacks, void *argument)
{
    struct channel *channel = memory_zalloc(sizeof(*channel));

    channel->fd = fd;
    channel->tls = tls;
    channel_set_callbacks(channel, callbacks, argument);
    if (event_assign(&channel->read_event, loop_base(loop), fd, EV_READ | EV_PERSIST, on_readable, channel) != 0 ||
        event_assign(&channel->write_event, loop_base(loop), fd, EV_WRITE | EV_PERSIST, on_writable, channel) != 0)
        memory_exhausted();
    if (tls != NULL && SSL_set_fd(tls, fd) != 1)
        memory_exhausted();
    return channel;
}

void channel_set_callbacks(struct channel *channel, const struct channel_callbacks *callbacks, void *argument)
{
    channel->callbacks = callbacks;
    channel->argument = argument;
}

void channel_free(struct channel *channel)
{
    if (channel == NULL)
        return;
    (void)event_del(&channel->read_event);
    (void)event_del(&channel->write_event);
    if (channel->tls != NULL) {
        ERR_clear_error();
        if (!channel->broken && SSL_is_init_finished(channel->tls))
            (void)SSL_shutdown(channel->tls);
        ERR_clear_error();
        SSL_free(channel->tls);
    }
    (void)close(channel->fd);
    free(channel->output.data);
    free(channel->unread);
    free(channel->failure);
    free(channel);
}

int channel_fd(const struct channel *channel)
{
    return channel->fd;
}

const char *channel_failure(const struct channel *channel)
{
    return channel->failure == NULL ? "" : channel->failure;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

void channel_want_read(struct channel *channel, bool wanted)
{
    if (channel->wants_read == wanted)
        return;
    channel->wants_read = wanted;
    if (!wanted) {
        (void)event_del(&channel->read_event);
        return;
    }
    if (event_add(&channel->read_event, NULL) != 0)
        memory_exhausted();
    if (has_unread(channel))
        event_active(&channel->read_event, EV_READ, 0);
}

static ssize_t read_unread(struct channel *channel, void *data, size_t size)
{
    const size_t left = channel->unread_end - channel->unread_start;

    if (size > left)
        size = left;
    memcpy(data, channel->unread + channel->unread_start, size);
    channel->unread_start += size;
    if (size == left) {
        free(channel->unread);
        channel->unread = NULL;
    } else if (channel->wants_read) {
        event_active(&channel->read_event, EV_READ, 0);
    }
    return (ssize_t)size;
}

/* A peer that closes without TLS's own goodbye. Every protocol above says itself where it ends, so nothing can be cut unnoticed. */
static bool ended_without_goodbye(void)
{
    return ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
}

static ssize_t read_tls(struct channel *channel, void *data, size_t size)
{
    size_t count = 0;
    int result;

    ERR_clear_error();
    result = SSL_read_ex(channel->tls, data, size, &count);
    if (result == 1) {
        /* The kernel tells nothing of what OpenSSL has taken already. */
        if (SSL_pending(channel->tls) > 0 && channel->wants_read)
            event_active(&channel->read_event, EV_READ, 0);
        return (ssize_t)count;
    }
    switch (SSL_get_error(channel->tls, result)) {
    case SSL_ERROR_WANT_READ:
        return CHANNEL_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        channel->read_awaits_write = true;
        await_write(channel, true);
        return CHANNEL_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return CHANNEL_END;
    default:
        if (ended_without_goodbye() && SSL_is_init_finished(channel->tls)) {
            ERR_clear_error();
            channel->broken = true;
            return CHANNEL_END;
        }
        fail_channel(channel, tls_failure(channel->tls));
        return CHANNEL_FAILED;
    }
}

ssize_t channel_read(struct channel *channel, void *data, size_t size)
{
    ssize_t count;

    if (channel->unread != NULL)
        return read_unread(channel, data, size);
    if (channel->broken)
        return channel->failure == NULL ? CHANNEL_END : CHANNEL_FAILED;
    if (channel->tls != NULL)
        return read_tls(channel, data, size);
    do {
        count = recv(channel->fd, data, size, 0);
    } while (count < 0 && errno == EINTR);
    if (count >= 0)
        return count;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return CHANNEL_AGAIN;
    fail_channel(channel, memory_printf("The connection was lost: %s.", strerror(errno)));
    return CHANNEL_FAILED;
}

void channel_unread(struct channel *channel, const void *data, size_t size)
{
    const size_t left = channel->unread == NULL ? 0 : channel->unread_end - channel->unread_start;
    char *bytes;

    if (size == 0)
        return;
    bytes = memory_alloc(size + left);
    memcpy(bytes, data, size);
    if (left > 0) /* a reader with little room took a part only */
        memcpy(bytes + size, channel->unread + channel->unread_start, left);
    free(channel->unread);
    channel->unread = bytes;
    channel->unread_start = 0;
    channel->unread_end = size + left;
    if (channel->wants_read)
        event_active(&channel->read_event, EV_READ, 0);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

size_t channel_backlog(const struct channel *channel)
{
    return channel->output.end - channel->output.start;
}

void channel_queue(struct channel *channel, const void *data, size_t size)
{
    struct output *output = &channel->output;

    if (size == 0)
        return;
    if (output->capacity - output->end < size) {
        const size_t kept = output->end - output->start;
        size_t capacity = output->capacity < OUTPUT_FIRST_SIZE ? OUTPUT_FIRST_SIZE : output->capacity;
        while (capacity < kept + size)
            capacity *= 2;
        if (output->start > 0)
            memmove(output->data, output->data + output->start, kept);
        if (capacity != output->capacity)
            output->data = memory_realloc(output->data, capacity);
        output->capacity = capacity;
        output->start = 0;
        output->end = kept;
    }
    memcpy(output->data + output->end, data, size);
    output->end += size;
}

/* Bytes written, CHANNEL_AGAIN or CHANNEL_FAILED. */
static ssize_t write_tls(struct channel *channel, const char *data, size_t size)
{
    size_t count = 0;
    int result;

    ERR_clear_error();
    result = SSL_write_ex(channel->tls, data, size > TLS_RECORD ? TLS_RECORD : size, &count);
    if (result == 1)
        return (ssize_t)count;
    switch (SSL_get_error(channel->tls, result)) {
    case SSL_ERROR_WANT_READ:
        channel->write_awaits_read = true;
        return CHANNEL_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        return CHANNEL_AGAIN;
    default:
        fail_channel(channel, tls_failure(channel->tls));
        return CHANNEL_FAILED;
    }
}

static ssize_t write_plain(struct channel *channel, struct iovec *parts, int count)
{
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = (size_t)count };
    ssize_t written;

    do {
        written = sendmsg(channel->fd, &message, MSG_NOSIGNAL);
    } while (written < 0 && errno == EINTR);
    if (written >= 0)
        return written;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return CHANNEL_AGAIN;
    fail_channel(channel, memory_printf("The connection was lost: %s.", strerror(errno)));
    return CHANNEL_FAILED;
}

int channel_flush(struct channel *channel)
{
    struct output *output = &channel->output;

    if (channel->broken)
        return -1;
    while (output->start < output->end) {
        struct iovec rest = { output->data + output->start, output->end - output->start };
        ssize_t written = channel->tls != NULL ? write_tls(channel, rest.iov_base, rest.iov_len) : write_plain(channel, &rest, 1);
        if (written == CHANNEL_FAILED)
            return -1;
        if (written == CHANNEL_AGAIN) {
            await_write(channel, !channel->write_awaits_read);
            return 0;
        }
        output->start += (size_t)written;
    }
    free(output->data);
    *output = (struct output){ 0 };
    await_write(channel, channel->read_awaits_write);
    return 0;
}

int channel_write(struct channel *channel, struct iovec *parts, int count)
{
    ssize_t written = 0;

    if (channel->broken)
        return -1;
    if (channel->tls == NULL && channel_backlog(channel) == 0) {
        written = write_plain(channel, parts, count);
        if (written == CHANNEL_FAILED)
            return -1;
        if (written == CHANNEL_AGAIN)
            written = 0;
    }
    for (int i = 0; i < count; i++) {
        const size_t skip = (size_t)written < parts[i].iov_len ? (size_t)written : parts[i].iov_len;
        channel_queue(channel, (const char *)parts[i].iov_base + skip, parts[i].iov_len - skip);
        written -= (ssize_t)skip;
    }
    if (channel_backlog(channel) == 0)
        return 0;
    if (channel->tls != NULL)
        return channel_flush(channel);
    await_write(channel, true);
    return 0;
}

void channel_shutdown_write(struct channel *channel)
{
    if (channel->tls != NULL) {
        ERR_clear_error();
        (void)SSL_shutdown(channel->tls);
        ERR_clear_error();
    }
    (void)shutdown(channel->fd, SHUT_WR);
}
