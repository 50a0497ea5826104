/* Server-Sent Events, read and resumed. Must not print events: that is the command's. */
#include "cli/stream.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "cli/output.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    SILENCE_MS = 45000, /* three keepalives */
    RECONNECT_FIRST_MS = 50,
    RECONNECT_MAX_MS = 1000
};

static void wait_ms(int64_t ms)
{
    struct timespec duration = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    (void)nanosleep(&duration, NULL);
}

static void end_process(int signal_number)
{
    (void)signal_number;
    _exit(EXIT_DONE);
}

void stream_end_on_interrupt(void)
{
    struct sigaction action = { .sa_handler = end_process };
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

/* The body of a refused stream, as far as it comes, for its error. */
static int refused(struct stream *stream, int http_status)
{
    struct buffer body;
    json_t *answer = NULL;
    buffer_init(&body, LIMIT_HTTP_BODY);
    http_client_set_timeout(stream->api.client, 1000);
    do {
        (void)buffer_append(&body, stream->line.data, stream->line.length);
        buffer_reset(&stream->line);
    } while (http_client_read_line(stream->api.client, &stream->line, NULL) == 0);
    if (json_parse_strict(body.data, body.length, &answer, NULL) != 0) {
        answer = NULL;
    }
    int status = api_fail(stream->cli, http_status, answer);
    json_decref(answer);
    buffer_release(&body);
    return status;
}

/* Asks for the stream on an open connection. 0, -1 when the connection failed, or a positive exit code. */
static int subscribe(struct stream *stream, bool resuming)
{
    char header[192] = "";
    int http_status = 0;
    if (stream->last_id[0] != '\0') {
        (void)snprintf(header, sizeof header, "Last-Event-ID: %s\r\n", stream->last_id);
    }
    http_client_set_timeout(stream->api.client, SILENCE_MS);
    buffer_reset(&stream->line);
    if (http_client_stream(stream->api.client, stream->target, header, &http_status, NULL) != 0) {
        return -1;
    }
    if (resuming && (http_status == 503 || http_status == 429)) { /* it is stopping, or has no room just now */
        return -1;
    }
    if (http_status != 200) {
        return refused(stream, http_status);
    }
    return http_client_read_line(stream->api.client, &stream->line, NULL) == 0 ? 0 : -1;
}

int stream_open(struct cli *cli, const char *target, struct stream *ret_stream)
{
    struct buffer full;
    *ret_stream = (struct stream){ .cli = cli };
    buffer_init(&ret_stream->line, 2 * LIMIT_HTTP_BODY);
    buffer_init(&ret_stream->data, 2 * LIMIT_HTTP_BODY);
    buffer_init(&full, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&full, target);
    api_target_add(&full, "mesh", cli->mesh);
    ret_stream->target = buffer_take(&full, NULL);

    int status = api_need(cli, &ret_stream->api);
    if (status == EXIT_DONE) {
        status = subscribe(ret_stream, false);
        if (status < 0) {
            status = cli_fail(cli, EXIT_UNREACHABLE, "the daemon went away while answering");
        }
    }
    if (status != EXIT_DONE) {
        stream_close(ret_stream);
    }
    return status;
}

void stream_close(struct stream *stream)
{
    api_close(&stream->api);
    free(stream->target);
    buffer_release(&stream->line);
    buffer_release(&stream->data);
    json_decref(stream->document);
    *stream = (struct stream){ 0 };
}

/* Until a daemon serves the stream again; a positive exit code when one refuses it. */
static int reconnect(struct stream *stream)
{
    int64_t delay = RECONNECT_FIRST_MS;
    for (;;) {
        api_close(&stream->api);
        if (!stream->lost_noted) {
            stream->lost_noted = true;
            cli_note(stream->cli, "the daemon is gone; waiting for it");
        }
        wait_ms(delay);
        delay = delay * 2 > RECONNECT_MAX_MS ? RECONNECT_MAX_MS : delay * 2;
        if (api_open(stream->cli, API_BUDGET_MS, &stream->api, NULL) != 0) {
            continue;
        }
        int status = subscribe(stream, true);
        if (status >= 0) {
            if (status == 0) {
                cli_note(stream->cli, "the daemon is back");
                stream->lost_noted = false;
            }
            return status;
        }
    }
}

/* One line of the stream into the event that is being read; true when the event is complete. */
static bool take_line(struct stream *stream)
{
    const char *line = stream->line.data;
    if (stream->line.length == 0) {
        memcpy(stream->last_id, stream->read_id, sizeof stream->last_id);
        return stream->data.length > 0;
    }
    const char *colon = strchr(line, ':');
    if (colon == NULL || colon == line) { /* a comment, or a field without a value */
        return false;
    }
    size_t name = (size_t)(colon - line);
    const char *value = colon[1] == ' ' ? colon + 2 : colon + 1;
    if (name == 2 && strncmp(line, "id", name) == 0) {
        if (string_copy(stream->read_id, sizeof stream->read_id, value) != 0) {
            stream->read_id[0] = '\0'; /* none of ours: there is no resuming from it */
        }
    } else if (name == 5 && strncmp(line, "event", name) == 0) {
        if (string_copy(stream->type, sizeof stream->type, value) != 0) {
            stream->type[0] = '\0';
        }
    } else if (name == 4 && strncmp(line, "data", name) == 0) {
        (void)buffer_append(&stream->data, value, stream->line.length - (size_t)(value - line));
    }
    return false;
}

static void begin_event(struct stream *stream)
{
    buffer_reset(&stream->data);
    stream->type[0] = '\0';
    memcpy(stream->read_id, stream->last_id, sizeof stream->read_id);
}

int stream_next(struct stream *stream, struct stream_event *ret_event, bool *ret_gap)
{
    begin_event(stream);
    *ret_gap = false;
    for (;;) {
        buffer_reset(&stream->line);
        if (http_client_read_line(stream->api.client, &stream->line, NULL) != 0) {
            int status = reconnect(stream);
            if (status != 0) {
                return status;
            }
            begin_event(stream);
            if (stream->last_id[0] == '\0') {
                *ret_gap = true;
                *ret_event = (struct stream_event){ "", "", NULL };
                return EXIT_DONE;
            }
            continue;
        }
        if (!take_line(stream)) {
            continue;
        }
        json_decref(stream->document);
        stream->document = NULL;
        if (json_parse_strict(stream->data.data, stream->data.length, &stream->document, NULL) == 0) {
            *ret_event = (struct stream_event){ stream->last_id, stream->type, stream->document };
            return EXIT_DONE;
        }
        begin_event(stream);
    }
}
