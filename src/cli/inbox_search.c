/* `claudemesh inbox search`: the newest messages that match, with what matched shown. */
#include "cli/api.h"
#include "cli/output.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { LIST_DEFAULT = 20, QUERY_MAXIMUM = 1024 /* bytes; the API says no to more */ };
/* What surrounds a match in a snippet (docs/local-api.md). */
static const char MATCH_BEGIN = '\x02', MATCH_END = '\x03';

static const struct cli_option OPTIONS[] = {
    { "limit", 0, OPTION_VALUE, "N", "the newest N that match (default 20)" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

/* One line: what matched in bold, or in brackets without colour. */
static void print_snippet(const struct cli *cli, const char *snippet)
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    for (const char *at = snippet; *at != '\0'; at++)
        (void)buffer_append_byte(&text, *at == '\n' || *at == '\r' || *at == '\t' ? ' ' : *at);
    fputs("    ", stdout);
    for (char *at = text.data; at != NULL && *at != '\0';) {
        size_t length = strcspn(at, "\x02\x03");
        char *printable = text_printable(at, length);
        fputs(printable, stdout);
        free(printable);
        at += length;
        if (*at == MATCH_BEGIN)
            fputs(cli->color ? style_start(cli, STYLE_BOLD) : "[", stdout), at++;
        else if (*at == MATCH_END)
            fputs(cli->color ? style_end(cli) : "]", stdout), at++;
    }
    (void)putchar('\n');
    buffer_release(&text);
}

static void print_found(const struct cli *cli, const json_t *item)
{
    char *when = local_time(answer_text(item, "received_at"));
    char *name = text_printable(answer_text(item, "sender_name"), strlen(answer_text(item, "sender_name")));
    char *id = text_printable(answer_text(item, "broker_message_id"), strlen(answer_text(item, "broker_message_id")));
    printf("%s%s%s  %s%s%s  [%s]  %s%s%s\n", style_start(cli, STYLE_DIM), when, style_end(cli), style_start(cli, STYLE_BOLD), name,
           style_end(cli), answer_text(item, "mesh"), style_start(cli, STYLE_DIM), id, style_end(cli));
    print_snippet(cli, answer_text(item, "snippet"));
    free(when);
    free(name);
    free(id);
}

/* The words of the command line are one query. */
static char *join_words(const struct cli *cli)
{
    struct buffer query;
    buffer_init(&query, BUFFER_UNLIMITED);
    for (size_t i = 0; i < cli->argument_count; i++)
        (void)buffer_printf(&query, "%s%s", i == 0 ? "" : " ", cli->arguments[i]);
    return buffer_take(&query, NULL);
}

static int run(struct cli *cli)
{
    int64_t limit;
    struct error error = { 0 };
    if (cli_integer(cli, "limit", 1, 100000, LIST_DEFAULT, &limit, &error) != 0)
        return cli_fail_usage(cli, "%s", error.message);
    char *query = join_words(cli);
    if (strlen(query) > QUERY_MAXIMUM) {
        free(query);
        return cli_fail_usage(cli, "a query has at most %d bytes", (int)QUERY_MAXIMUM);
    }
    struct buffer target;
    json_t *document = NULL;
    buffer_init(&target, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&target, "/v1/inbox/search");
    api_target_add(&target, "q", query);
    int status = api_collect(cli, target.data, limit, &document);
    buffer_release(&target);
    free(query);
    if (status != EXIT_DONE)
        return status;
    const json_t *items = json_object_get(document, "items");
    if (cli->json) {
        cli_print_json(document);
    } else if (json_array_size(items) == 0) {
        cli_note(cli, "nothing found");
    }
    for (size_t i = 0; !cli->json && i < json_array_size(items); i++)
        print_found(cli, json_array_get(items, i));
    if (!answer_bool(document, "complete"))
        cli_note(cli, "older messages are still being indexed: search again later");
    json_decref(document);
    return EXIT_DONE;
}

const struct cli_command COMMAND_INBOX_SEARCH = {
    .name = "inbox search",
    .group = GROUP_MESSAGES,
    .arguments = "<query>",
    .minimum = 1,
    .maximum = 64,
    .summary = "Messages that have these words: \"a phrase\", begin*, AND, OR, NOT, ( )",
    .example = "claudemesh inbox search 'deploy* NOT staging'",
    .options = OPTIONS,
    .run = run,
};
