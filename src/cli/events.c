/* `claudemesh events`: live events, one a line, until interrupted. */
#include "cli/output.h"
#include "cli/stream.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

static const struct cli_option OPTIONS[] = {
    { "types", 0, OPTION_VALUE, "A,B", "only these: message, peer_join, peer_leave, broker_status, outbox_status, receipt, …" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

/* What of an event fits on a line: the fields that are text or numbers, in their order. */
static void print_fields(json_t *data)
{
    const char *name;
    json_t *value;
    json_object_foreach(data, name, value)
    {
        if (string_equal(name, "ts") || string_equal(name, "mesh") || json_is_null(value) || json_is_object(value) ||
            json_is_array(value)) {
            continue;
        }
        size_t length;
        char *text = json_is_string(value) ? memory_strdup(json_string_value(value)) : json_to_string(value, &length);
        char *printable = text_printable(text, strcspn(text, "\r\n"));
        printf(" %s=%s", name, printable);
        free(printable);
        free(text);
    }
}

static void print_event(const struct cli *cli, const struct stream_event *event)
{
    if (cli->json) {
        json_t *line = json_new_object();
        json_put_string(line, "id", event->id[0] == '\0' ? NULL : event->id);
        json_put_string(line, "event", event->type);
        json_put(line, "data", json_incref(event->data));
        cli_print_json(line);
        json_decref(line);
        return;
    }
    char *when = local_time(answer_text(event->data, "ts"));
    char *type = text_printable(event->type, strlen(event->type));
    char *mesh = text_printable(answer_text(event->data, "mesh"), strlen(answer_text(event->data, "mesh")));
    printf("%s%s%s  %s%s%s  %s ", style_start(cli, STYLE_DIM), when, style_end(cli), style_start(cli, STYLE_BOLD), type, style_end(cli),
           mesh);
    if (string_equal(event->type, "message")) {
        const char *name = answer_text(event->data, "sender_name");
        const json_t *body = json_object_get(event->data, "body");
        const char *text = json_string_value(body) == NULL ? "" : json_string_value(body);
        char *sender = text_printable(name, strlen(name));
        char *first_line = text_printable(text, strcspn(text, "\r\n"));
        printf(" %s: %s", sender, first_line);
        free(sender);
        free(first_line);
    } else {
        print_fields(event->data);
    }
    (void)putchar('\n');
    free(when);
    free(type);
    free(mesh);
}

static int run(struct cli *cli)
{
    struct stream stream;
    struct stream_event event;
    struct buffer target;
    bool gap = false;

    cli->streaming = true;
    buffer_init(&target, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&target, "/v1/events");
    api_target_add(&target, "types", cli_value(cli, "types"));
    int status = stream_open(cli, target.data, &stream);
    buffer_release(&target);
    if (status != EXIT_DONE) {
        return status;
    }
    stream_end_on_interrupt();
    while (status == EXIT_DONE) {
        status = stream_next(&stream, &event, &gap);
        if (status == EXIT_DONE && gap) {
            cli_note(cli, "what happened while the daemon was away is not shown; 'claudemesh inbox' has the messages");
        } else if (status == EXIT_DONE) {
            print_event(cli, &event);
            status = cli_flush(cli);
        }
    }
    stream_close(&stream);
    return status;
}

const struct cli_command COMMAND_EVENTS = {
    .name = "events",
    .group = GROUP_MESSAGES,
    .arguments = "",
    .summary = "Live events, one a line, until interrupted",
    .example = "claudemesh events --types message,receipt --json",
    .options = OPTIONS,
    .run = run,
};
