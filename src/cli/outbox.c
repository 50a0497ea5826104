/* `claudemesh daemon outbox list|show|requeue|drop`: the queue of sends, and how an operator retires a row. */
#include "cli/api.h"
#include "cli/output.h"
#include "json/json.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { LIST_DEFAULT = 50, LIST_LONGEST = 1000000 };

static const struct {
    const char *option, *status;
} STATUS_FLAGS[] = {
    { "failed", "dead" }, { "pending", "pending" }, { "inflight", "inflight" }, { "done", "done" }, { "aborted", "aborted" },
};

static const struct cli_option OPTIONS_LIST[] = {
    { "failed", 0, OPTION_FLAG, NULL, "given up (dead)" },
    { "pending", 0, OPTION_FLAG, NULL, "waiting to be sent" },
    { "inflight", 0, OPTION_FLAG, NULL, "sent, waiting for the broker's answer" },
    { "done", 0, OPTION_FLAG, NULL, "accepted by the broker" },
    { "aborted", 0, OPTION_FLAG, NULL, "retired by an operator" },
    { "limit", 0, OPTION_VALUE, "N", "the newest N (default 50)" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_REQUEUE[] = {
    { "new-client-id", 0, OPTION_VALUE, "ID", "the id of the new row (else a fresh one)" },
    { "patch-payload", 0, OPTION_VALUE, "FILE", "send this file's text instead ('-': standard input)" },
    { "force", 0, OPTION_FLAG, NULL, "also a row that is in flight: it may have been sent, and arrive twice" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_DROP[] = {
    { "force", 0, OPTION_FLAG, NULL, "also a row that is in flight: it may have been sent" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static enum cli_style state_style(const char *status)
{
    return string_equal(status, "dead")      ? STYLE_RED
           : string_equal(status, "done")    ? STYLE_GREEN
           : string_equal(status, "aborted") ? STYLE_DIM
                                             : STYLE_YELLOW;
}

static void print_rows(const struct cli *cli, const json_t *rows)
{
    static const char *const TITLES[] = { "ENQUEUED", "STATUS", "TO", "PRIORITY", "BYTES", "TRIES", "CLIENT MESSAGE ID", "LAST ERROR" };
    struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        char *when = local_time(answer_text(row, "enqueued_at"));
        const char *name = answer_text(row, "destination_name");
        table_cell(table, STYLE_DIM, when);
        table_cell(table, state_style(answer_text(row, "status")), answer_text(row, "status"));
        table_printf(table, STYLE_PLAIN, "%.64s", name[0] == '\0' ? answer_text(row, "destination_ref") : name);
        table_cell(table, STYLE_PLAIN, answer_text(row, "priority"));
        table_printf(table, STYLE_PLAIN, "%" PRId64, answer_integer(row, "payload_size", 0));
        table_printf(table, STYLE_PLAIN, "%" PRId64, answer_integer(row, "attempts", 0));
        table_cell(table, STYLE_PLAIN, answer_text(row, "client_message_id"));
        table_cell(table, STYLE_PLAIN, answer_text(row, "last_error")[0] == '\0' ? "-" : answer_text(row, "last_error"));
        free(when);
    }
    table_print_free(table);
}

static int list_rows(struct cli *cli, const char *status_name, int64_t limit, json_t **ret_document)
{
    struct buffer target;
    buffer_init(&target, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&target, "/v1/outbox");
    api_target_add(&target, "status", status_name);
    int status = api_collect(cli, target.data, limit, ret_document);
    buffer_release(&target);
    return status;
}

static int run_list(struct cli *cli)
{
    struct error error = { 0 };
    const char *status_name = NULL;
    json_t *document = NULL;
    int64_t limit;

    for (size_t i = 0; i < ARRAY_LENGTH(STATUS_FLAGS); i++) {
        if (cli_has(cli, STATUS_FLAGS[i].option)) {
            if (status_name != NULL) {
                return cli_fail_usage(cli, "one of --failed, --pending, --inflight, --done and --aborted at a time");
            }
            status_name = STATUS_FLAGS[i].status;
        }
    }
    if (cli_integer(cli, "limit", 1, LIST_LONGEST, LIST_DEFAULT, &limit, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    int status = list_rows(cli, status_name, limit, &document);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(document);
    } else if (json_array_size(json_object_get(document, "items")) == 0) {
        cli_note(cli, "no rows");
    } else {
        print_rows(cli, json_object_get(document, "items"));
    }
    json_decref(document);
    return EXIT_DONE;
}

static void print_value(struct table *table, const char *name, const json_t *value)
{
    size_t length;
    char *text = json_is_string(value) ? memory_strdup(json_string_value(value)) : json_to_string(value, &length);
    table_cell(table, STYLE_PLAIN, name);
    table_cell(table, string_equal(name, "status") ? state_style(text) : STYLE_PLAIN, json_is_null(value) ? "-" : text);
    free(text);
}

static void print_row(const struct cli *cli, json_t *row)
{
    static const char *const TITLES[] = { "FIELD", "VALUE" };
    struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
    const json_t *chain = json_object_get(row, "superseded_chain"), *receipts = json_object_get(row, "receipts");
    const char *name;
    json_t *value;
    json_object_foreach(row, name, value)
    {
        if (!json_is_array(value)) {
            print_value(table, name, value);
        }
    }
    table_print_free(table);
    for (size_t i = 0; i < json_array_size(chain); i++) {
        const json_t *next = json_array_get(chain, i);
        cli_say(cli, "superseded by %s (%s)", json_is_string(next) ? json_string_value(next) : answer_text(next, "client_message_id"),
                answer_text(next, "status"));
    }
    for (size_t i = 0; i < json_array_size(receipts); i++) {
        const json_t *receipt = json_array_get(receipts, i);
        const char *seen = answer_text(receipt, "seen_at");
        bool verified = answer_bool(receipt, "verified");
        const char *by = answer_text(receipt, "by"), *recipient_name = answer_text(row, "destination_name");
        bool recipient = recipient_name[0] != '\0' && string_equal(by, answer_text(row, "destination_ref"));
        cli_say(cli, "%s%.64s stored it %s%s%s", verified ? "" : "the broker reports: ", recipient ? recipient_name : by,
                answer_text(receipt, "stored_at"), seen[0] == '\0' ? "" : ", seen ", seen);
    }
}

static int run_show(struct cli *cli)
{
    struct buffer target;
    json_t *answer = NULL;
    if (!client_message_id_is_valid(cli->arguments[0], strlen(cli->arguments[0]))) {
        return cli_fail_usage(cli, "a row is named by its row id or its client_message_id; 'claudemesh daemon outbox list' shows them");
    }
    buffer_init(&target, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&target, "/v1/outbox/");
    api_target_escape(&target, cli->arguments[0]);
    int status = api_call(cli, "GET", target.data, NULL, &answer);
    buffer_release(&target);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        print_row(cli, answer);
    }
    json_decref(answer);
    return EXIT_DONE;
}

static int read_patch(struct cli *cli, const char *path, json_t *body)
{
    struct buffer text;
    struct error error = { 0 };
    int status = EXIT_DONE;
    buffer_init(&text, LIMIT_HTTP_BODY);
    if (file_read_given(string_equal(path, "-") ? "/dev/stdin" : path, &text, &error) != 0) {
        status = cli_fail_error(cli, &error);
    } else if (text.length == 0 || !utf8_is_valid(text.data, text.length)) {
        status = cli_fail_usage(cli, "%s is empty or not valid UTF-8 text", path);
    } else {
        json_t *patch = json_new_object();
        json_put_text(patch, "message", (struct text){ text.data, text.length });
        json_put(body, "patch", patch);
    }
    buffer_wipe_release(&text);
    return status;
}

static int post_change(struct cli *cli, const char *target, json_t *body, const char *done)
{
    json_t *answer = NULL;
    int status = api_call(cli, "POST", target, body, &answer);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    }
    const char *new_id = answer_text(answer, "client_message_id");
    cli_say(cli, "%s%s%s", done, new_id[0] == '\0' || string_equal(new_id, cli->arguments[0]) ? "" : "; the new row's id is ",
            string_equal(new_id, cli->arguments[0]) ? "" : new_id);
    json_decref(answer);
    return EXIT_DONE;
}

static int run_requeue(struct cli *cli)
{
    const char *new_id = cli_value(cli, "new-client-id"), *patch = cli_value(cli, "patch-payload");
    json_t *body = json_new_object();
    int status = EXIT_DONE;

    json_put_string(body, "id", cli->arguments[0]);
    if (new_id != NULL && !client_message_id_is_valid(new_id, strlen(new_id))) {
        status =
            cli_fail_usage(cli, "--new-client-id takes 1 to %d printable ASCII characters without spaces", (int)LIMIT_CLIENT_MESSAGE_ID);
    } else if (new_id != NULL) {
        json_put_string(body, "new_client_message_id", new_id);
    }
    if (cli_has(cli, "force")) {
        json_put_bool(body, "force", true);
    }
    if (status == EXIT_DONE && patch != NULL) {
        status = read_patch(cli, patch, body);
    }
    if (status == EXIT_DONE) {
        status = post_change(cli, "/v1/outbox/requeue", body, "queued again");
    }
    json_decref(body);
    return status;
}

static int run_drop(struct cli *cli)
{
    json_t *body = json_new_object();
    json_put_string(body, "id", cli->arguments[0]);
    if (cli_has(cli, "force")) {
        json_put_bool(body, "force", true);
    }
    int status = post_change(cli, "/v1/outbox/drop", body, "dropped; its id stays used");
    json_decref(body);
    return status;
}

const struct cli_command COMMAND_OUTBOX_LIST = {
    .name = "daemon outbox list",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "The queue of sends, newest first",
    .example = "claudemesh daemon outbox list --failed --limit 20",
    .options = OPTIONS_LIST,
    .run = run_list,
};

const struct cli_command COMMAND_OUTBOX_SHOW = {
    .name = "daemon outbox show",
    .group = GROUP_DAEMON,
    .arguments = "<id>",
    .minimum = 1,
    .maximum = 1,
    .summary = "One row, what superseded it, and its receipts",
    .example = "claudemesh daemon outbox show nightly-2026-11-23",
    .run = run_show,
};

const struct cli_command COMMAND_OUTBOX_REQUEUE = {
    .name = "daemon outbox requeue",
    .group = GROUP_DAEMON,
    .arguments = "<id>",
    .minimum = 1,
    .maximum = 1,
    .summary = "Retire a row and send its content again under a new id",
    .example = "claudemesh daemon outbox requeue nightly-2026-11-23 --new-client-id nightly-2026-11-23-again",
    .options = OPTIONS_REQUEUE,
    .run = run_requeue,
};

const struct cli_command COMMAND_OUTBOX_DROP = {
    .name = "daemon outbox drop",
    .group = GROUP_DAEMON,
    .arguments = "<id>",
    .minimum = 1,
    .maximum = 1,
    .summary = "Retire a row without a successor",
    .example = "claudemesh daemon outbox drop nightly-2026-11-23",
    .options = OPTIONS_DROP,
    .run = run_drop,
};
