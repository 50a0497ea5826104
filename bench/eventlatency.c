/* How long a message takes from one daemon to another: POST /v1/send on one Unix socket until its `message` event on the other's stream, one
 * at a time. Prints one JSON object with percentiles.
 *
 *   eventlatency --from PATH --to KEY --at PATH [--count N] [--size BYTES] */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/http_client.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

enum { LINE_MAXIMUM = 1024 * 1024, TIMEOUT_MS = 10000 };

struct options {
    const char *from, *to, *at;
    uint64_t count, size;
};

static _Noreturn void die(const struct error *error)
{
    (void)fprintf(stderr, "eventlatency: %s\n", error->message);
    exit(1);
}

static struct options parse_options(int argc, char **argv)
{
    static const struct option table[] = { { "from", 1, 0, 'f' },  { "to", 1, 0, 't' },   { "at", 1, 0, 'a' },
                                           { "count", 1, 0, 'n' }, { "size", 1, 0, 'b' }, { 0, 0, 0, 0 } };
    struct options options = { .count = 2000, .size = 256 };
    int found = 0;
    int bad = 0;
    while ((found = getopt_long(argc, argv, "", table, NULL)) != -1) {
        switch (found) {
        case 'f':
            options.from = optarg;
            break;
        case 't':
            options.to = optarg;
            break;
        case 'a':
            options.at = optarg;
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
    if (bad != 0 || options.from == NULL || options.to == NULL || options.at == NULL || options.count == 0) {
        (void)fprintf(stderr, "usage: eventlatency --from PATH --to KEY --at PATH [--count N] [--size BYTES]\n");
        exit(2);
    }
    return options;
}

/* Until a line of the stream holds the text. */
static void await_line(struct http_client *stream, const char *text, struct buffer *line)
{
    struct error error;
    do {
        if (http_client_read_line(stream, line, &error) < 0) {
            die(&error);
        }
    } while (memmem(line->data, line->length, text, strlen(text)) == NULL);
}

static int64_t measure_one(struct http_client *sender, struct http_client *stream, const struct options *options, const char *id,
                           struct buffer *body, struct buffer *line)
{
    struct error error;
    buffer_reset(body);
    (void)buffer_printf(body, "{\"to\":\"%s\",\"client_message_id\":\"%s\",\"message\":\"", options->to, id);
    for (uint64_t i = 0; i < options->size; i++) {
        (void)buffer_append_byte(body, 'x');
    }
    (void)buffer_append_text(body, "\"}");
    struct http_response response;
    int64_t started_us = clock_monotonic_us();
    if (http_client_request(sender, "POST", "/v1/send", NULL, body->data, body->length, &response, &error) < 0) {
        die(&error);
    }
    if (response.status != 202) {
        (void)fprintf(stderr, "eventlatency: the send was answered %d\n", response.status);
        exit(1);
    }
    http_response_release(&response);
    await_line(stream, id, line);
    return clock_monotonic_us() - started_us;
}

static int compare(const void *a, const void *b)
{
    const int64_t *left = a;
    const int64_t *right = b;
    return *left < *right ? -1 : *left > *right;
}

int main(int argc, char **argv)
{
    struct options options = parse_options(argc, argv);
    struct error error;
    struct http_client *sender = NULL;
    struct http_client *stream = NULL;
    int status = 0;
    if (http_client_open_unix(options.from, TIMEOUT_MS, &sender, &error) < 0 ||
        http_client_open_unix(options.at, TIMEOUT_MS, &stream, &error) < 0 ||
        http_client_stream(stream, "/v1/events?types=message", NULL, &status, &error) < 0) {
        die(&error);
    }
    struct buffer body;
    struct buffer line;
    buffer_init(&body, LINE_MAXIMUM);
    buffer_init(&line, LINE_MAXIMUM);
    int64_t *samples_us = memory_calloc(options.count, sizeof(*samples_us));
    for (uint64_t i = 0; i < options.count; i++) {
        char id[64];
        (void)snprintf(id, sizeof(id), "latency-%d-%" PRIu64 "-", (int)getpid(), i);
        samples_us[i] = measure_one(sender, stream, &options, id, &body, &line);
    }
    qsort(samples_us, options.count, sizeof(*samples_us), compare);
    printf("{\"count\":%" PRIu64 ",\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n", options.count,
           (double)samples_us[options.count / 2] / 1000, (double)samples_us[options.count * 9 / 10] / 1000,
           (double)samples_us[options.count * 99 / 100] / 1000, (double)samples_us[options.count - 1] / 1000);
    free(samples_us);
    buffer_release(&body);
    buffer_release(&line);
    http_client_free(stream);
    http_client_free(sender);
    return 0;
}
