/* A loop in a thread of its own, and blocking sockets towards it. A test asks the loop to do something and waits until it is done. */
#ifndef TESTS_UNIT_NET_FIXTURE_H
#define TESTS_UNIT_NET_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/loop.h"
#include "util/buffer.h"
#include "util/memory.h"

enum { WAIT_MS = 20000 };

/* ---- the loop's thread --------------------------------------------------------------------------------------- */

struct loop_thread {
    struct loop *loop;
    pthread_t thread;
};

UNUSED static void *loop_thread_main(void *argument)
{
    loop_run(argument);
    return NULL;
}

UNUSED static void loop_thread_start(struct loop_thread *thread)
{
    struct error error;

    assert_int_equal(loop_new(&thread->loop, &error), 0);
    assert_int_equal(pthread_create(&thread->thread, NULL, loop_thread_main, thread->loop), 0);
}

UNUSED static void loop_thread_stop(struct loop_thread *thread)
{
    loop_stop(thread->loop);
    assert_int_equal(pthread_join(thread->thread, NULL), 0);
}

struct call {
    struct message message;
    void (*fn)(void *argument);
    void *argument;
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    bool done;
};

UNUSED static void handle_call(struct message *message)
{
    struct call *call = CONTAINER_OF(message, struct call, message);

    call->fn(call->argument);
    (void)pthread_mutex_lock(&call->mutex);
    call->done = true;
    (void)pthread_cond_signal(&call->condition);
    (void)pthread_mutex_unlock(&call->mutex);
}

/* Runs fn on the loop's thread and waits for its end. */
UNUSED static void on_loop(struct loop_thread *thread, void (*fn)(void *argument), void *argument)
{
    struct call call = { .fn = fn, .argument = argument };

    call.message.handle = handle_call;
    (void)pthread_mutex_init(&call.mutex, NULL);
    (void)pthread_cond_init(&call.condition, NULL);
    mailbox_post(loop_mailbox(thread->loop), &call.message);
    (void)pthread_mutex_lock(&call.mutex);
    while (!call.done)
        (void)pthread_cond_wait(&call.condition, &call.mutex);
    (void)pthread_mutex_unlock(&call.mutex);
    (void)pthread_mutex_destroy(&call.mutex);
    (void)pthread_cond_destroy(&call.condition);
}

/* A counter that the loop raises and a test waits for. */
struct counter {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    int value;
};

#define COUNTER_INITIALIZER                                    \
    {                                                          \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 \
    }

UNUSED static void counter_raise(struct counter *counter)
{
    (void)pthread_mutex_lock(&counter->mutex);
    counter->value++;
    (void)pthread_cond_broadcast(&counter->condition);
    (void)pthread_mutex_unlock(&counter->mutex);
}

UNUSED static int counter_value(struct counter *counter)
{
    int value;

    (void)pthread_mutex_lock(&counter->mutex);
    value = counter->value;
    (void)pthread_mutex_unlock(&counter->mutex);
    return value;
}

UNUSED static void counter_reset(struct counter *counter)
{
    (void)pthread_mutex_lock(&counter->mutex);
    counter->value = 0;
    (void)pthread_mutex_unlock(&counter->mutex);
}

UNUSED static void counter_wait(struct counter *counter, int value)
{
    struct timespec deadline;

    (void)clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += WAIT_MS / 1000;
    (void)pthread_mutex_lock(&counter->mutex);
    while (counter->value < value) {
        if (pthread_cond_timedwait(&counter->condition, &counter->mutex, &deadline) == ETIMEDOUT)
            break;
    }
    value -= counter->value;
    (void)pthread_mutex_unlock(&counter->mutex);
    if (value > 0)
        fail_msg("%d of what was awaited did not come", value);
}

/* ---- sockets ------------------------------------------------------------------------------------------------- */

UNUSED static int connect_unix(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_true(strlen(path) < sizeof(address.sun_path));
    memcpy(address.sun_path, path, strlen(path) + 1);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

UNUSED static int connect_tcp(uint16_t port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

UNUSED static void send_bytes(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        const ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        assert_true(sent > 0);
        at += sent;
        size -= (size_t)sent;
    }
}

UNUSED static void send_text(int fd, const char *text)
{
    send_bytes(fd, text, strlen(text));
}

/* One read; 0 at the end, also when the connection was reset. Fails after WAIT_MS. */
UNUSED static size_t receive_some(int fd, struct buffer *buffer)
{
    struct pollfd look = { .fd = fd, .events = POLLIN };
    char *room = buffer_reserve(buffer, 65536);
    ssize_t count;

    assert_non_null(room);
    if (poll(&look, 1, WAIT_MS) != 1)
        fail_msg("nothing came within %d ms after: %s", WAIT_MS, buffer->data);
    count = recv(fd, room, 65536, 0);
    if (count < 0 && errno == ECONNRESET)
        count = 0;
    assert_true(count >= 0);
    buffer_commit(buffer, (size_t)count);
    return (size_t)count;
}

UNUSED static void receive_until_end(int fd, struct buffer *buffer)
{
    while (receive_some(fd, buffer) > 0)
        continue;
}

UNUSED static void receive_until(int fd, struct buffer *buffer, const char *text)
{
    while (strstr(buffer->data, text) == NULL) {
        if (receive_some(fd, buffer) == 0)
            fail_msg("the end came before '%s': %s", text, buffer->data);
    }
}

UNUSED static void assert_contains(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("'%s' is not in: %s", part, text);
}

UNUSED static void assert_begins(const char *text, const char *start)
{
    if (strncmp(text, start, strlen(start)) != 0)
        fail_msg("'%s' does not begin: %s", start, text);
}

#endif
