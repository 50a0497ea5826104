/* `claudemesh inbox`: what was received, and with --follow what comes. Listing never marks seen. */
#include "cli/api.h"
#include "cli/output.h"
#include "cli/since.h"
#include "cli/stream.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { LIST_DEFAULT = 100 };

static const struct cli_option OPTIONS[] = {
    { "since", 0, OPTION_VALUE, "T", "received since: RFC 3339, or 10m, 2h, 3d ago" },
    { "topic", 0, OPTION_VALUE, "N", "of this topic" },
    { "from", 0, OPTION_VALUE, "P", "from this member: a name or a whole key" },
    { "limit", 0, OPTION_VALUE, "N", "the newest N (default 100)" },
    { "unread", 0, OPTION_FLAG, NULL, "only what was not marked seen" },
    { "follow", 'f', OPTION_FLAG, NULL, "then print messages as they come, until interrupted" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

struct inbox_filter {
    char since[RFC3339_SIZE]; /* "" none */
    const char *topic, *from;
    bool unread;
    int64_t limit;
};

static int read_filter(struct cli *cli, struct inbox_filter *ret_filter, struct error *error)
{
    *ret_filter =
        (struct inbox_filter){ .topic = cli_value(cli, "topic"), .from = cli_value(cli, "from"), .unread = cli_has(cli, "unread") };
    if (cli_has(cli, "since") && since_parse(cli_value(cli, "since"), clock_wall_ms(), ret_filter->since, error) != 0) {
        return -ERROR_INVALID;
    }
    if (ret_filter->topic != NULL && ret_filter->topic[0] == '#') {
        ret_filter->topic++;
    }
    if (ret_filter->topic != NULL && !name_is_valid(ret_filter->topic)) {
        return error_set(error, ERROR_INVALID, "--topic takes a topic's name (1 to 64 of a-z 0-9 _ . -)");
    }
    return cli_integer(cli, "limit", 1, 1000000, LIST_DEFAULT, &ret_filter->limit, error);
}

/* The newest `limit` messages, newest first. */
static int fetch(struct cli *cli, const struct inbox_filter *filter, json_t **ret_document)
{
    struct buffer target;
    buffer_init(&target, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&target, "/v1/inbox");
    api_target_add(&target, "since", filter->since[0] == '\0' ? NULL : filter->since);
    api_target_add(&target, "topic", filter->topic);
    api_target_add(&target, "from", filter->from);
    api_target_add(&target, "unread", filter->unread ? "true" : NULL);
    int status = api_collect(cli, target.data, filter->limit, ret_document);
    buffer_release(&target);
    return status;
}

static void print_message(const struct cli *cli, const json_t *item)
{
    const json_t *body = json_object_get(item, "body");
    const char *priority = answer_text(item, "priority");
    const json_t *verified = json_object_get(item, "verified");
    char *when = local_time(answer_text(item, "received_at"));
    char *name = text_printable(answer_text(item, "sender_name"), strlen(answer_text(item, "sender_name")));
    char *id = text_printable(answer_text(item, "broker_message_id"), strlen(answer_text(item, "broker_message_id")));
    bool unread = answer_text(item, "seen_at")[0] == '\0';

    printf("%s%s%s  %s%s%s", style_start(cli, STYLE_DIM), when, style_end(cli), style_start(cli, STYLE_BOLD),
           name[0] == '\0' ? answer_text(item, "sender_pubkey") : name, style_end(cli));
    printf("  [%s%s%s]", answer_text(item, "mesh"), answer_text(item, "topic")[0] == '\0' ? "" : " #", answer_text(item, "topic"));
    if (!json_is_true(verified)) {
        printf("  %s%s%s", style_start(cli, STYLE_YELLOW), json_is_string(verified) ? "old client" : "unverified", style_end(cli));
    }
    if (string_equal(priority, "now") || string_equal(priority, "low")) {
        printf("  %s", priority);
    }
    printf("%s  %s%s%s\n", unread ? "  new" : "", style_start(cli, STYLE_DIM), id, style_end(cli));
    print_body("    ", json_string_value(body) == NULL ? "" : json_string_value(body), json_string_length(body));
    free(when);
    free(name);
    free(id);
}

static void print_one(const struct cli *cli, const json_t *item)
{
    if (cli->json) {
        cli_print_json(item);
    } else {
        print_message(cli, item);
    }
}

static int64_t newest_seq(const json_t *document)
{
    return answer_integer(json_array_get(json_object_get(document, "items"), 0), "seq", 0);
}

/* Oldest first, those after `seq`. */
static void print_items(const struct cli *cli, const json_t *document, int64_t seq)
{
    const json_t *items = json_object_get(document, "items");
    for (size_t i = json_array_size(items); i-- > 0;) {
        if (answer_integer(json_array_get(items, i), "seq", 0) > seq) {
            print_one(cli, json_array_get(items, i));
        }
    }
}

static bool filter_wants(const struct inbox_filter *filter, const json_t *item)
{
    if (filter->topic != NULL && !string_equal(filter->topic, answer_text(item, "topic"))) {
        return false;
    }
    return filter->from == NULL || strcasecmp(filter->from, answer_text(item, "sender_pubkey")) == 0 ||
           strcasecmp(filter->from, answer_text(item, "sender_name")) == 0;
}

/* Whether the event is of another inbox than the last one: a damaged one was moved aside, and counting began anew. */
static bool is_other_inbox(char *epoch, size_t size, const char *event_id)
{
    size_t length = strcspn(event_id, "-");
    bool other = epoch[0] != '\0' && (strlen(epoch) != length || strncmp(epoch, event_id, length) != 0);
    (void)snprintf(epoch, size, "%.*s", (int)length, event_id);
    return other;
}

/* The stream is opened before the list is read, so that nothing falls between them; what is in both is printed once. */
static int follow(struct cli *cli, const struct inbox_filter *filter)
{
    struct stream stream;
    struct stream_event event;
    json_t *document = NULL;
    bool gap;
    char epoch[64] = "";
    int64_t seq = 0;
    int status = stream_open(cli, "/v1/events?types=message", &stream);

    if (status != EXIT_DONE) {
        return status;
    }
    stream_end_on_interrupt();
    status = fetch(cli, filter, &document);
    while (status == EXIT_DONE) {
        if (document != NULL) {
            print_items(cli, document, seq);
            seq = newest_seq(document) > seq ? newest_seq(document) : seq;
            json_decref(document);
            document = NULL;
        }
        status = cli_flush(cli);
        if (status == EXIT_DONE) {
            status = stream_next(&stream, &event, &gap);
        }
        if (status == EXIT_DONE && !gap && is_other_inbox(epoch, sizeof epoch, event.id)) {
            seq = 0;
        }
        if (status == EXIT_DONE && gap) {
            status = fetch(cli, filter, &document);
        } else if (status == EXIT_DONE && string_equal(event.type, "message") && answer_integer(event.data, "seq", 0) > seq) {
            seq = answer_integer(event.data, "seq", 0);
            if (filter_wants(filter, event.data)) {
                print_one(cli, event.data);
            }
        }
    }
    json_decref(document);
    stream_close(&stream);
    return status;
}

static int run(struct cli *cli)
{
    struct inbox_filter filter;
    struct error error = { 0 };
    json_t *document = NULL;

    if (read_filter(cli, &filter, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    if (cli_has(cli, "follow")) {
        cli->streaming = true;
        return follow(cli, &filter);
    }
    int status = fetch(cli, &filter, &document);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(document);
    } else if (json_array_size(json_object_get(document, "items")) == 0) {
        cli_note(cli, "no messages");
    } else {
        print_items(cli, document, -1);
    }
    json_decref(document);
    return EXIT_DONE;
}

const struct cli_command COMMAND_INBOX = {
    .name = "inbox",
    .group = GROUP_MESSAGES,
    .arguments = "",
    .summary = "What was received",
    .example = "claudemesh inbox --since 2h --follow",
    .options = OPTIONS,
    .run = run,
};
