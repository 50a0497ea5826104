/* Load generator for the daemon's local API: keep-alive connections over the Unix socket or TCP, one outstanding request each, POST /v1/send with
 * random ids. Prints one JSON object: rate and latency percentiles. One thread, epoll; no library of ours, so that it measures from outside.
 *
 *   ipcload --socket PATH | --tcp PORT --token T   --to KEY [--connections N] [--seconds S] [--count N] [--size BYTES] [--pipeline 0] */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "util/text.h"

enum { ANSWER_MAXIMUM = 65536, REQUEST_MAXIMUM = 2 * 1024 * 1024, SAMPLES_MAXIMUM = 20 * 1000 * 1000 };

struct options {
    const char *socket_path, *token, *to;
    uint64_t tcp_port, connections, seconds, count, size;
};

struct connection {
    int fd;
    char answer[ANSWER_MAXIMUM];
    size_t answer_length;
    char *request;
    size_t request_length, request_sent;
    int64_t started_us;
};

static struct options options = { .connections = 64, .seconds = 5, .size = 256 };
static uint32_t *samples_us;
static size_t sample_count;
static uint64_t accepted, refused;
static int last_refusal;

static int64_t now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "ipcload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int connect_once(void)
{
    int fd;
    if (options.socket_path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        if (strlen(options.socket_path) >= sizeof(address.sun_path)) {
            errno = ENAMETOOLONG;
            die(options.socket_path);
        }
        memcpy(address.sun_path, options.socket_path, strlen(options.socket_path) + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
            die("connect");
    } else {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)options.tcp_port) };
        int on = 1;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
            die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
        die("fcntl");
    return fd;
}

static void request_fill(struct connection *connection)
{
    static uint64_t state;
    if (state == 0 && getrandom(&state, sizeof(state), 0) != sizeof(state))
        die("getrandom");
    uint64_t id[2];
    for (int part = 0; part < 2; part++) { /* splitmix64: random ids, as callers choose them */
        uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
        id[part] = z ^ (z >> 31);
    }
    char body_head[256];
    int head = snprintf(body_head, sizeof(body_head), "{\"to\":\"%s\",\"client_message_id\":\"%016llx%016llx\",\"message\":\"", options.to,
                        (unsigned long long)id[0], (unsigned long long)id[1]);
    size_t body_length = (size_t)head + options.size + 2;
    char authorization[256] = "";
    if (options.token)
        snprintf(authorization, sizeof(authorization), "Authorization: Bearer %s\r\n", options.token);
    int length = snprintf(connection->request, REQUEST_MAXIMUM,
                          "POST /v1/send HTTP/1.1\r\nHost: localhost\r\n%sContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                          authorization, body_length, body_head);
    memset(connection->request + length, 'x', options.size);
    memcpy(connection->request + (size_t)length + options.size, "\"}", 2);
    connection->request_length = (size_t)length + options.size + 2;
    connection->request_sent = 0;
    connection->started_us = now_us();
}

static void request_write(struct connection *connection)
{
    while (connection->request_sent < connection->request_length) {
        ssize_t wrote = send(connection->fd, connection->request + connection->request_sent,
                             connection->request_length - connection->request_sent, MSG_NOSIGNAL);
        if (wrote < 0) {
            if (errno == EAGAIN)
                return;
            die("send");
        }
        connection->request_sent += (size_t)wrote;
    }
}

/* 0 while the answer is not complete, else its status. */
static int answer_read(struct connection *connection)
{
    ssize_t got = recv(connection->fd, connection->answer + connection->answer_length, ANSWER_MAXIMUM - connection->answer_length - 1, 0);
    if (got == 0) {
        errno = ECONNRESET;
        die("the daemon closed the connection");
    }
    if (got < 0) {
        if (errno == EAGAIN)
            return 0;
        die("recv");
    }
    connection->answer_length += (size_t)got;
    connection->answer[connection->answer_length] = '\0';
    char *end = strstr(connection->answer, "\r\n\r\n");
    if (!end)
        return 0;
    char *length_header = strcasestr(connection->answer, "\r\nContent-Length:");
    if (!length_header || length_header > end)
        return 0;
    size_t length = 0;
    for (char *digit = length_header + 17; *digit; digit++) {
        if (*digit >= '0' && *digit <= '9')
            length = length * 10 + (size_t)(*digit - '0');
        else if (*digit == '\r')
            break;
    }
    if (connection->answer_length < (size_t)(end + 4 - connection->answer) + length)
        return 0;
    connection->answer_length = 0;
    return (connection->answer[9] - '0') * 100 + (connection->answer[10] - '0') * 10 + (connection->answer[11] - '0');
}

static int compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static double percentile(double part)
{
    if (sample_count == 0)
        return 0;
    size_t index = (size_t)(part * (double)(sample_count - 1));
    return samples_us[index] / 1000.0;
}

static void parse_options(int argc, char **argv)
{
    static const struct option table[] = { { "socket", 1, 0, 's' }, { "tcp", 1, 0, 't' },         { "token", 1, 0, 'k' },
                                           { "to", 1, 0, 'o' },     { "connections", 1, 0, 'c' }, { "seconds", 1, 0, 'd' },
                                           { "count", 1, 0, 'n' },  { "size", 1, 0, 'b' },        { 0, 0, 0, 0 } };
    int found, bad = 0;
    while ((found = getopt_long(argc, argv, "", table, NULL)) != -1) {
        switch (found) {
        case 's':
            options.socket_path = optarg;
            break;
        case 'k':
            options.token = optarg;
            break;
        case 'o':
            options.to = optarg;
            break;
        case 't':
            bad |= parse_uint64(optarg, &options.tcp_port);
            break;
        case 'c':
            bad |= parse_uint64(optarg, &options.connections);
            break;
        case 'd':
            bad |= parse_uint64(optarg, &options.seconds);
            break;
        case 'n':
            bad |= parse_uint64(optarg, &options.count);
            break;
        case 'b':
            bad |= parse_uint64(optarg, &options.size);
            break;
        default:
            bad = 1;
        }
    }
    if (bad || !options.to || (!options.socket_path && !options.tcp_port) || options.size + 1024 > REQUEST_MAXIMUM ||
        options.connections == 0) {
        fprintf(stderr,
                "usage: ipcload --socket PATH|--tcp PORT --token T --to KEY [--connections N] [--seconds S] [--count N] [--size BYTES]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    samples_us = malloc(sizeof(*samples_us) * SAMPLES_MAXIMUM);
    struct connection *connections = calloc(options.connections, sizeof(*connections));
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (!samples_us || !connections || poller < 0)
        die("start");
    uint64_t started = 0;
    int64_t begin = now_us(), end = begin + (int64_t)options.seconds * 1000000;
    for (size_t index = 0; index < options.connections; index++) {
        struct connection *connection = &connections[index];
        connection->fd = connect_once();
        connection->request = malloc(REQUEST_MAXIMUM);
        struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection };
        if (!connection->request || epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) != 0)
            die("start");
        request_fill(connection);
        request_write(connection);
        started++;
    }
    uint64_t open_requests = options.connections;
    while (open_requests > 0) {
        struct epoll_event events[128];
        int count = epoll_wait(poller, events, 128, 10000);
        if (count == 0) {
            errno = ETIMEDOUT;
            die("no answer in 10 s");
        }
        for (int index = 0; index < count; index++) {
            struct connection *connection = events[index].data.ptr;
            request_write(connection);
            int status;
            while ((status = answer_read(connection)) != 0) {
                int64_t now = now_us();
                if (status == 202)
                    accepted++;
                else {
                    refused++;
                    last_refusal = status;
                }
                if (sample_count < SAMPLES_MAXIMUM)
                    samples_us[sample_count++] = (uint32_t)(now - connection->started_us);
                if (options.count ? started >= options.count : now >= end) {
                    open_requests--;
                    break;
                }
                request_fill(connection);
                request_write(connection);
                started++;
            }
        }
    }
    double seconds = (double)(now_us() - begin) / 1e6;
    qsort(samples_us, sample_count, sizeof(*samples_us), compare);
    printf("{\"connections\":%llu,\"accepted\":%llu,\"refused\":%llu,\"last_refusal\":%d,\"seconds\":%.3f,\"per_second\":%.0f,\"p50_ms\":%."
           "3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n",
           (unsigned long long)options.connections, (unsigned long long)accepted, (unsigned long long)refused, last_refusal, seconds,
           (double)accepted / seconds, percentile(0.5), percentile(0.9), percentile(0.99), percentile(1.0));
    return refused ? 1 : 0;
}
