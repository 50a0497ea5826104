/* `claudemesh peer list` and `claudemesh member list`: who is in the mesh, who is online. */
#include "cli/api.h"
#include "cli/output.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static char *join_groups(const json_t *groups)
{
    struct buffer text;
    buffer_init(&text, 400);
    for (size_t i = 0; i < json_array_size(groups); i++) {
        const json_t *group = json_array_get(groups, i);
        const char *name = json_is_string(group) ? json_string_value(group) : answer_text(group, "name");
        (void)buffer_printf(&text, "%s@%s", i == 0 ? "" : " ", name);
    }
    return buffer_take(&text, NULL);
}

static const char *or_dash(const char *text)
{
    return text[0] == '\0' ? "-" : text;
}

static void print_peers(const struct cli *cli, const json_t *peers)
{
    static const char *const TITLES[] = { "NAME", "ONLINE", "STATUS", "ROLE", "KEY", "GROUPS", "SUMMARY" };
    struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
    for (size_t i = 0; i < json_array_size(peers); i++) {
        const json_t *peer = json_array_get(peers, i);
        bool online = answer_bool(peer, "online");
        char *groups = join_groups(json_object_get(peer, "groups"));
        table_printf(table, STYLE_PLAIN, "%.128s%s", or_dash(answer_text(peer, "name")),
                     answer_bool(peer, "verified") ? "" : " (unverified)");
        table_cell(table, online ? STYLE_GREEN : STYLE_DIM, online ? "yes" : "no");
        table_cell(table, STYLE_PLAIN, or_dash(answer_text(peer, "status")));
        table_cell(table, STYLE_PLAIN, or_dash(answer_text(peer, "role")));
        table_printf(table, STYLE_DIM, "%.16s", answer_text(peer, "pubkey"));
        table_cell(table, STYLE_PLAIN, or_dash(groups));
        table_cell(table, STYLE_PLAIN, or_dash(answer_text(peer, "summary")));
        free(groups);
    }
    table_print_free(table);
}

static int run_peers(struct cli *cli)
{
    json_t *answer = NULL;
    int status = api_call(cli, "GET", "/v1/peers", NULL, &answer);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        print_peers(cli, json_object_get(answer, "peers"));
        if (answer_bool(answer, "stale")) {
            cli_note(cli, "the broker is not connected: this is the last that was known");
        }
    }
    json_decref(answer);
    return EXIT_DONE;
}

static void print_members(const struct cli *cli, const json_t *members)
{
    static const char *const TITLES[] = { "NAME", "ROLE", "STANDING", "JOINED", "LAST SEEN", "KEY" };
    struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
    for (size_t i = 0; i < json_array_size(members); i++) {
        const json_t *member = json_array_get(members, i);
        bool revoked = answer_bool(member, "revoked"), verified = answer_bool(member, "verified");
        char *joined = local_time(answer_text(member, "joined_at"));
        char *seen = local_time(answer_text(member, "last_seen_at"));
        table_cell(table, STYLE_PLAIN, or_dash(answer_text(member, "name")));
        table_cell(table, STYLE_PLAIN, or_dash(answer_text(member, "role")));
        table_cell(table,
                   revoked    ? STYLE_RED
                   : verified ? STYLE_GREEN
                              : STYLE_YELLOW,
                   revoked    ? "revoked"
                   : verified ? "verified"
                              : "unverified");
        table_cell(table, STYLE_PLAIN, or_dash(joined));
        table_cell(table, STYLE_PLAIN, or_dash(seen));
        table_cell(table, STYLE_DIM, answer_text(member, "pubkey"));
        free(joined);
        free(seen);
    }
    table_print_free(table);
}

static int run_members(struct cli *cli)
{
    json_t *answer = NULL;
    int status = api_call(cli, "GET", "/v1/members", NULL, &answer);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        print_members(cli, json_object_get(answer, "members"));
    }
    json_decref(answer);
    return EXIT_DONE;
}

const struct cli_command COMMAND_PEER_LIST = {
    .name = "peer list",
    .alias = "peers",
    .group = GROUP_MESSAGES,
    .arguments = "",
    .summary = "Who is in the mesh, and who is online",
    .example = "claudemesh peer list --mesh acme",
    .run = run_peers,
};

const struct cli_command COMMAND_MEMBER_LIST = {
    .name = "member list",
    .group = GROUP_MESHES,
    .arguments = "",
    .summary = "The members of a mesh, with their keys and standing",
    .example = "claudemesh member list --mesh acme",
    .run = run_members,
};
