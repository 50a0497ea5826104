/* Names are resolved by libevent's resolver from the system's configuration, read anew each time: a laptop's resolvers change with its
 * networks. Addresses and localhost need no resolver. Owns sockets until they are connected. */
#include "net/dial.h"

#include <errno.h>
#include <event2/dns.h>
#include <event2/event.h>
#include <event2/util.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "net/address.h"
#include "util/clock.h"
#include "util/memory.h"

/* A running look-up. It may outlive its dial: libevent calls back even after cancelling. */
struct lookup {
    struct loop *loop;
    struct evdns_base *resolver;
    struct evdns_getaddrinfo_request *request;
    struct dial *dial; /* NULL: cancelled */
};

struct dial {
    struct loop *loop;
    char *host;
    char port[8];
    int64_t deadline_ms;
    dial_done *done;
    void *argument;
    struct lookup *lookup;
    struct evutil_addrinfo *addresses, *more_addresses; /* two lists, for localhost */
    struct evutil_addrinfo **attempts;                  /* in the order of trying */
    size_t attempt_count, attempt;
    int fd;
    struct event *event;
    struct loop_timer *timer;
    char *failure; /* of the newest attempt */
};

static void try_next(struct dial *dial);

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void free_lookup(void *argument)
{
    struct lookup *lookup = argument;

    evdns_base_free(lookup->resolver, 0);
    free(lookup);
}

static void close_attempt(struct dial *dial)
{
    if (dial->event != NULL)
        event_free(dial->event);
    dial->event = NULL;
    if (dial->fd >= 0)
        (void)close(dial->fd);
    dial->fd = -1;
}

static void begin(void *argument);

static void free_dial(struct dial *dial)
{
    close_attempt(dial);
    loop_timer_free(dial->timer);
    loop_defer_cancel(dial->loop, begin, dial);
    if (dial->addresses != NULL)
        evutil_freeaddrinfo(dial->addresses);
    if (dial->more_addresses != NULL)
        evutil_freeaddrinfo(dial->more_addresses);
    free(dial->attempts);
    free(dial->host);
    free(dial->failure);
    free(dial);
}

void dial_cancel(struct dial *dial)
{
    if (dial == NULL)
        return;
    if (dial->lookup != NULL) {
        dial->lookup->dial = NULL;
        evdns_getaddrinfo_cancel(dial->lookup->request);
    }
    free_dial(dial);
}

static void finish(struct dial *dial, int fd, const char *peer_address, const char *failure)
{
    dial_done *done = dial->done;
    void *argument = dial->argument;

    done(argument, fd, peer_address, failure);
    dial_cancel(dial);
}

static void set_failure(struct dial *dial, const char *what)
{
    free(dial->failure);
    dial->failure = memory_printf("Cannot connect to %s port %s: %s.", dial->host, dial->port, what);
}

/* ---- connecting -------------------------------------------------------------------------------------------------- */

static void fail_attempt(struct dial *dial, const char *what)
{
    set_failure(dial, what);
    close_attempt(dial);
    dial->attempt++;
    try_next(dial);
}

static void succeed(struct dial *dial)
{
    const int one = 1;
    const int fd = dial->fd;
    char peer_address[INET6_ADDRSTRLEN];

    address_format(dial->attempts[dial->attempt]->ai_addr, peer_address);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    dial->fd = -1;
    event_free(dial->event);
    dial->event = NULL;
    finish(dial, fd, peer_address, NULL);
}

static void on_connected(evutil_socket_t fd, short what, void *argument)
{
    struct dial *dial = argument;
    int failure = 0;
    socklen_t size = sizeof(failure);

    (void)what;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0)
        failure = errno;
    if (failure != 0)
        fail_attempt(dial, strerror(failure));
    else
        succeed(dial);
}

static void on_time(void *argument)
{
    struct dial *dial = argument;

    if (clock_monotonic_ms() < dial->deadline_ms && dial->attempt < dial->attempt_count) {
        fail_attempt(dial, "no answer in time");
        return;
    }
    set_failure(dial, dial->lookup != NULL ? "its name was not resolved in time" : "no answer in time");
    finish(dial, -1, NULL, dial->failure);
}

static void try_next(struct dial *dial)
{
    const struct evutil_addrinfo *address;
    int64_t left_ms;

    if (dial->attempt >= dial->attempt_count) {
        finish(dial, -1, NULL, dial->failure);
        return;
    }
    /* Each gets an equal part of the time that is left, so that one dead address does not use it all. */
    left_ms = dial->deadline_ms - clock_monotonic_ms();
    loop_timer_start(dial->timer, left_ms / (int64_t)(dial->attempt_count - dial->attempt));
    address = dial->attempts[dial->attempt];
    dial->fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (dial->fd < 0) {
        fail_attempt(dial, strerror(errno));
        return;
    }
    if (connect(dial->fd, address->ai_addr, address->ai_addrlen) != 0 && errno != EINPROGRESS) {
        fail_attempt(dial, strerror(errno));
        return;
    }
    dial->event = event_new(loop_base(dial->loop), dial->fd, EV_WRITE, on_connected, dial);
    if (dial->event == NULL || event_add(dial->event, NULL) != 0)
        memory_exhausted();
}

/* ---- addresses --------------------------------------------------------------------------------------------------- */

static void collect_attempts(struct dial *dial)
{
    struct evutil_addrinfo *lists[] = { dial->addresses, dial->more_addresses };
    size_t count = 0;

    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++) {
        for (struct evutil_addrinfo *address = lists[i]; address != NULL; address = address->ai_next)
            count++;
    }
    dial->attempts = memory_calloc(count + 1, sizeof(struct evutil_addrinfo *));
    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++) {
        for (struct evutil_addrinfo *address = lists[i]; address != NULL; address = address->ai_next)
            dial->attempts[dial->attempt_count++] = address;
    }
    set_failure(dial, "it has no address");
    try_next(dial);
}

static void on_addresses(int result, struct evutil_addrinfo *addresses, void *argument)
{
    struct lookup *lookup = argument;
    struct dial *dial = lookup->dial;

    /* Not the resolver inside its own callback. */
    loop_defer(lookup->loop, free_lookup, lookup);
    if (dial == NULL) {
        if (addresses != NULL)
            evutil_freeaddrinfo(addresses);
        return;
    }
    dial->lookup = NULL;
    dial->addresses = addresses;
    if (result != 0) {
        set_failure(dial, evutil_gai_strerror(result));
        finish(dial, -1, NULL, dial->failure);
        return;
    }
    collect_attempts(dial);
}

static struct evutil_addrinfo make_hints(int flags)
{
    return (struct evutil_addrinfo){ .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP, .ai_flags = flags };
}

static struct evutil_addrinfo *parse_address(const struct dial *dial, const char *text)
{
    const struct evutil_addrinfo hints = make_hints(EVUTIL_AI_NUMERICHOST | EVUTIL_AI_NUMERICSERV);
    struct evutil_addrinfo *addresses = NULL;

    return evutil_getaddrinfo(text, dial->port, &hints, &addresses) == 0 ? addresses : NULL;
}

static void start_lookup(struct dial *dial)
{
    const struct evutil_addrinfo hints = make_hints(0);
    struct lookup *lookup = memory_zalloc(sizeof(*lookup));
    struct evdns_getaddrinfo_request *request;

    lookup->loop = dial->loop;
    lookup->dial = dial;
    lookup->resolver = evdns_base_new(loop_base(dial->loop), EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (lookup->resolver == NULL)
        memory_exhausted();
    /* Without the file, the resolver of this host is asked: that is what it means elsewhere, too. */
    (void)evdns_base_resolv_conf_parse(lookup->resolver, DNS_OPTIONS_ALL, "/etc/resolv.conf");
    /* Some resolvers answer in another case, and would not be believed. */
    (void)evdns_base_set_option(lookup->resolver, "randomize-case:", "0");
    dial->lookup = lookup;
    request = evdns_getaddrinfo(lookup->resolver, dial->host, dial->port, &hints, on_addresses, lookup);
    if (request != NULL)
        lookup->request = request;
    /* NULL: it called back already, and the dial may be gone. */
}

static void begin(void *argument)
{
    struct dial *dial = argument;

    if (strcasecmp(dial->host, "localhost") == 0) {
        dial->addresses = parse_address(dial, "127.0.0.1");
        dial->more_addresses = parse_address(dial, "::1");
    } else {
        dial->addresses = parse_address(dial, dial->host);
    }
    if (dial->addresses != NULL)
        collect_attempts(dial);
    else
        start_lookup(dial);
}

struct dial *dial_new(struct loop *loop, const char *host, uint16_t port, int64_t timeout_ms, dial_done *done, void *argument)
{
    struct dial *dial = memory_zalloc(sizeof(*dial));

    dial->loop = loop;
    dial->host = memory_strdup(host);
    (void)snprintf(dial->port, sizeof(dial->port), "%u", port);
    dial->deadline_ms = clock_monotonic_ms() + timeout_ms;
    dial->done = done;
    dial->argument = argument;
    dial->fd = -1;
    dial->timer = loop_timer_new(loop, on_time, dial);
    loop_timer_start(dial->timer, timeout_ms);
    loop_defer(loop, begin, dial);
    return dial;
}
