/* The event loop over libevent's event_base: turns, deferred calls, timers, signals, and the mailbox that other threads post to.
 * Owns the event_base. Does no input or output of its own but the wake descriptor. Watched files are in loop_watch.c. */
#include "net/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#include "util/log.h"
#include "util/memory.h"

struct deferred {
    void (*fn)(void *argument); /* NULL: cancelled */
    void *argument;
};

struct deferred_list {
    struct deferred *items;
    size_t count, capacity;
};

struct signal_watch {
    struct signal_watch *next;
    struct event event;
    void (*caught)(void *argument, int signal_number);
    void *argument;
};

struct loop {
    struct event_base *base;
    struct mailbox mailbox;
    int wake_read_fd, wake_write_fd; /* the same descriptor where there is eventfd */
    struct event wake_event;
    atomic_bool stopping;
    struct deferred_list deferred; /* to run after this turn */
    struct deferred_list running;  /* being run now */
    struct signal_watch *signals;
    void *scratch;
};

struct loop_timer {
    struct event event;
    void (*fired)(void *argument);
    void *argument;
};

/* ---- libevent's own complaints ------------------------------------------------------------------------------- */

static void on_libevent_log(int severity, const char *message)
{
    if (severity >= EVENT_LOG_WARN)
        log_event(LOG_LEVEL_WARN, "libevent", LOG_TEXT("detail", message), LOG_END);
}

static void on_libevent_fatal(int status)
{
    log_fatal(70, "libevent_fatal", (const struct log_field[]){ LOG_NUMBER("status", status), LOG_END });
}

static void install_library_hooks(void)
{
    event_set_mem_functions(memory_alloc, memory_realloc, free); /* decision 0003; first, as libevent demands */
    event_set_log_callback(on_libevent_log);
    event_set_fatal_callback(on_libevent_fatal);
    /* A peer that is gone is an error of write(2), not a reason to die. */
    signal(SIGPIPE, SIG_IGN);
}

/* ---- waking ---------------------------------------------------------------------------------------------------- */

/* Any thread. A full pipe or counter means that a wake is already waiting. */
static void wake_loop(void *argument)
{
    struct loop *loop = argument;
#ifdef __linux__
    const uint64_t one = 1;
#else
    const char one = 1;
#endif
    ssize_t written;

    do {
        written = write(loop->wake_write_fd, &one, sizeof(one));
    } while (written < 0 && errno == EINTR);
}

static void on_wake(evutil_socket_t fd, short what, void *argument)
{
    struct loop *loop = argument;

    (void)what;
#ifdef __linux__
    /* Edge-triggered: each write is an edge of its own, so the counter need not be read. */
    (void)fd;
#else
    char drained[256];
    while (read(fd, drained, sizeof(drained)) > 0)
        continue;
#endif
    loop_run_mailbox(loop);
}

static int open_wake(struct loop *loop, struct error *error)
{
#ifdef __linux__
    loop->wake_read_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_read_fd < 0)
        return error_set_errno(error, "Cannot make an eventfd");
    loop->wake_write_fd = loop->wake_read_fd;
    const short flags = EV_READ | EV_PERSIST | EV_ET;
#else
    int pipe_fds[2];
    if (pipe(pipe_fds) != 0)
        return error_set_errno(error, "Cannot make a pipe");
    for (int i = 0; i < 2; i++) {
        (void)fcntl(pipe_fds[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(pipe_fds[i], F_SETFL, O_NONBLOCK);
    }
    loop->wake_read_fd = pipe_fds[0];
    loop->wake_write_fd = pipe_fds[1];
    const short flags = EV_READ | EV_PERSIST;
#endif
    if (event_assign(&loop->wake_event, loop->base, loop->wake_read_fd, flags, on_wake, loop) != 0 ||
        event_add(&loop->wake_event, NULL) != 0)
        return error_set(error, ERROR_INTERNAL, "The event loop cannot watch its wake descriptor.");
    return 0;
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

int loop_new(struct loop **ret_loop, struct error *error)
{
    static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;
    struct loop *loop = memory_zalloc(sizeof(*loop));
    struct event_config *config = NULL;
    int result;

    (void)pthread_once(&hooks_once, install_library_hooks);
    loop->wake_read_fd = loop->wake_write_fd = -1;
    atomic_init(&loop->stopping, false);
    mailbox_init(&loop->mailbox, wake_loop, loop);

    config = event_config_new();
    if (config == NULL)
        memory_exhausted();
    /* One thread uses the base; others only write to the wake descriptor. */
    if (event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK) == 0)
        loop->base = event_base_new_with_config(config);
    event_config_free(config);
    if (loop->base == NULL) {
        result = error_set(error, ERROR_SYSTEM, "Cannot make an event loop.");
        goto fail;
    }
    result = open_wake(loop, error);
    if (result != 0)
        goto fail;
    *ret_loop = loop;
    return 0;

fail:
    loop_free(loop);
    return result;
}

void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    while (loop->signals != NULL) {
        struct signal_watch *watch = loop->signals;
        loop->signals = watch->next;
        (void)event_del(&watch->event);
        free(watch);
    }
    if (event_initialized(&loop->wake_event))
        (void)event_del(&loop->wake_event);
    if (loop->base != NULL)
        event_base_free(loop->base);
    if (loop->wake_write_fd >= 0 && loop->wake_write_fd != loop->wake_read_fd)
        (void)close(loop->wake_write_fd);
    if (loop->wake_read_fd >= 0)
        (void)close(loop->wake_read_fd);
    mailbox_release(&loop->mailbox);
    free(loop->deferred.items);
    free(loop->running.items);
    free(loop->scratch);
    free(loop);
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

void *loop_scratch(struct loop *loop)
{
    if (loop->scratch == NULL)
        loop->scratch = memory_alloc(LOOP_SCRATCH_SIZE);
    return loop->scratch;
}

struct mailbox *loop_mailbox(struct loop *loop)
{
    return &loop->mailbox;
}

void loop_run_mailbox(struct loop *loop)
{
    struct message *message = mailbox_take_all(&loop->mailbox);

    while (message != NULL) {
        struct message *next = message->next;
        message->handle(message);
        message = next;
    }
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stopping, true);
    wake_loop(loop);
}

/* ---- deferred calls -------------------------------------------------------------------------------------------- */

void loop_defer(struct loop *loop, void (*fn)(void *argument), void *argument)
{
    struct deferred_list *list = &loop->deferred;

    if (list->count == list->capacity) {
        list->capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        list->items = memory_realloc(list->items, list->capacity * sizeof(*list->items));
    }
    list->items[list->count++] = (struct deferred){ fn, argument };
}

static void cancel_in(struct deferred_list *list, void (*fn)(void *argument), void *argument)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].fn == fn && list->items[i].argument == argument)
            list->items[i].fn = NULL;
    }
}

void loop_defer_cancel(struct loop *loop, void (*fn)(void *argument), void *argument)
{
    cancel_in(&loop->deferred, fn, argument);
    cancel_in(&loop->running, fn, argument);
}

/* What these defer in turn waits for the next turn, so that one that always defers itself starves nobody. */
static void run_deferred(struct loop *loop)
{
    struct deferred_list emptied = loop->running;

    loop->running = loop->deferred;
    emptied.count = 0;
    loop->deferred = emptied;
    for (size_t i = 0; i < loop->running.count; i++) {
        struct deferred item = loop->running.items[i];
        if (item.fn != NULL)
            item.fn(item.argument);
    }
    loop->running.count = 0;
}

void loop_run(struct loop *loop)
{
    while (!atomic_load(&loop->stopping)) {
        int flags = EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY;
        if (loop->deferred.count > 0)
            flags = EVLOOP_NONBLOCK;
        if (event_base_loop(loop->base, flags) < 0)
            log_fatal(70, "loop_failed", (const struct log_field[]){ LOG_END });
        if (loop->deferred.count > 0)
            run_deferred(loop);
    }
    atomic_store(&loop->stopping, false);
}

/* ---- timers and signals ---------------------------------------------------------------------------------------- */

static void on_timer(evutil_socket_t fd, short what, void *argument)
{
    struct loop_timer *timer = argument;

    (void)fd;
    (void)what;
    timer->fired(timer->argument);
}

struct loop_timer *loop_timer_new(struct loop *loop, void (*fired)(void *argument), void *argument)
{
    struct loop_timer *timer = memory_zalloc(sizeof(*timer));

    timer->fired = fired;
    timer->argument = argument;
    if (evtimer_assign(&timer->event, loop->base, on_timer, timer) != 0)
        on_libevent_fatal(-1);
    return timer;
}

void loop_timer_start(struct loop_timer *timer, int64_t delay_ms)
{
    struct timeval delay;

    if (delay_ms < 0)
        delay_ms = 0;
    delay.tv_sec = (time_t)(delay_ms / 1000);
    delay.tv_usec = (suseconds_t)(delay_ms % 1000 * 1000);
    if (event_add(&timer->event, &delay) != 0)
        memory_exhausted();
}

void loop_timer_stop(struct loop_timer *timer)
{
    (void)event_del(&timer->event);
}

bool loop_timer_is_running(const struct loop_timer *timer)
{
    return evtimer_pending(&timer->event, NULL) != 0;
}

void loop_timer_free(struct loop_timer *timer)
{
    if (timer == NULL)
        return;
    (void)event_del(&timer->event);
    free(timer);
}

static void on_signal(evutil_socket_t signal_number, short what, void *argument)
{
    struct signal_watch *watch = argument;

    (void)what;
    watch->caught(watch->argument, (int)signal_number);
}

int loop_on_signal(struct loop *loop, int signal_number, void (*caught)(void *argument, int signal_number), void *argument,
                   struct error *error)
{
    struct signal_watch *watch = memory_zalloc(sizeof(*watch));

    watch->caught = caught;
    watch->argument = argument;
    if (evsignal_assign(&watch->event, loop->base, signal_number, on_signal, watch) != 0 || event_add(&watch->event, NULL) != 0) {
        free(watch);
        return error_set(error, ERROR_SYSTEM, "Cannot catch signal %d.", signal_number);
    }
    watch->next = loop->signals;
    loop->signals = watch;
    sigset_t held;
    (void)sigemptyset(&held);
    if (sigaddset(&held, signal_number) != 0 || pthread_sigmask(SIG_UNBLOCK, &held, NULL) != 0) {
        return error_set_errno(error, "Cannot let signal %d in", signal_number);
    }
    return 0;
}

int loop_hold_signals(struct error *error)
{
    static const int SIGNALS[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };
    sigset_t held;
    (void)sigemptyset(&held);
    for (size_t index = 0; index < ARRAY_LENGTH(SIGNALS); index++) {
        (void)sigaddset(&held, SIGNALS[index]); /* cannot fail with a signal that there is */
    }
    return pthread_sigmask(SIG_BLOCK, &held, NULL) == 0 ? 0 : error_set_errno(error, "Cannot hold signals back");
}
