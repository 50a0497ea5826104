/* `claudemesh daemon status`, `daemon version`, `daemon metrics`: what a running daemon says about itself. */
#include "cli/api.h"
#include "cli/output.h"
#include "cli/room_status.h"
#include "identity/identity.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

/* What is wrong with a link, and what to do next. NULL: nothing. */
static const char *next_step(const json_t *mesh)
{
    const char *status = answer_text(mesh, "status");
    if (answer_bool(mesh, "revoked")) {
        return "this member was removed: what is stored can be read, nothing can be sent; ask for a new invite, 'claudemesh mesh leave "
               "--force', and join again";
    }
    if (string_equal(status, "refused") && strstr(answer_text(mesh, "reason"), "key_rotated") != NULL) {
        return "another installation of this member replaced the key: a copy of this directory, or the one that a backup was made of; what "
               "is stored can be read; restore a backup that has the new key, or 'claudemesh mesh leave --force' and join with a new "
               "invite";
    }
    if (string_equal(status, "refused")) {
        return "the broker does not offer what this daemon requires; its operator has to update it, or see [features] in config.toml; "
               "asked again every 5 minutes";
    }
    if (answer_bool(mesh, "connected")) {
        return NULL;
    }
    if (string_equal(status, "reconnecting") || string_equal(status, "connecting")) {
        return "tries again by itself, and what is sent is queued; 'claudemesh doctor' looks for the cause";
    }
    return "'claudemesh doctor' looks for the cause";
}

static void print_link(const struct cli *cli, const json_t *mesh)
{
    const char *slug = answer_text(mesh, "slug"), *step = next_step(mesh);
    const char *reason = answer_text(mesh, answer_text(mesh, "reason")[0] == '\0' ? "detail" : "reason");
    int64_t dead = answer_integer(mesh, "dead", 0);
    if (step != NULL) {
        cli_say(cli, "%s: %s%s%s", slug, reason, reason[0] == '\0' ? "" : "\n  ", step);
    }
    if (dead > 0) {
        cli_say(cli, "%s: %" PRId64 " message%s will not be delivered; see 'claudemesh daemon outbox list --failed'", slug, dead,
                dead == 1 ? "" : "s");
    }
    if (string_equal(answer_text(mesh, "dedupe"), "recipients")) {
        cli_say(cli, "%s: the broker does not deduplicate; that rests on the recipients", slug);
    }
}

static void print_meshes(const struct cli *cli, const json_t *meshes)
{
    static const char *const TITLES[] = { "MESH", "CONNECTED", "LINK", "LAG", "PENDING", "IN FLIGHT", "DEAD", "BROKER" };
    if (json_array_size(meshes) == 0) {
        puts("no mesh is joined yet");
        return;
    }
    struct table *table = table_new(cli, ARRAY_LENGTH(TITLES), TITLES);
    for (size_t i = 0; i < json_array_size(meshes); i++) {
        const json_t *mesh = json_array_get(meshes, i);
        bool connected = answer_bool(mesh, "connected");
        int64_t lag = answer_integer(mesh, "lag_ms", -1), dead = answer_integer(mesh, "dead", 0);
        const char *broker = answer_text(mesh, "broker_version");
        table_cell(table, STYLE_PLAIN, answer_text(mesh, "slug"));
        table_cell(table, connected ? STYLE_GREEN : STYLE_RED, connected ? "yes" : "no");
        table_cell(table, STYLE_PLAIN, answer_text(mesh, "status"));
        if (lag < 0) {
            table_cell(table, STYLE_PLAIN, "-");
        } else {
            table_printf(table, STYLE_PLAIN, "%" PRId64 " ms", lag);
        }
        table_printf(table, STYLE_PLAIN, "%" PRId64, answer_integer(mesh, "pending", 0));
        table_printf(table, STYLE_PLAIN, "%" PRId64, answer_integer(mesh, "inflight", 0));
        table_printf(table, dead > 0 ? STYLE_RED : STYLE_PLAIN, "%" PRId64, dead);
        table_cell(table, STYLE_PLAIN, broker[0] == '\0' ? "-" : broker);
    }
    table_print_free(table);
    for (size_t i = 0; i < json_array_size(meshes); i++) {
        const json_t *mesh = json_array_get(meshes, i);
        int64_t quarantined = answer_integer(mesh, "quarantined", 0);
        print_link(cli, mesh);
        if (answer_bool(mesh, "membership_fork")) {
            cli_say(cli, "%s: the broker withholds revocations that others know of", answer_text(mesh, "slug"));
        }
        if (answer_bool(mesh, "awaiting_members")) {
            cli_say(cli, "%s: restored from a backup; nothing is sent or taken in before the broker has listed the members",
                    answer_text(mesh, "slug"));
        }
        if (answer_text(mesh, "inbox_rebuild")[0] != '\0') {
            cli_say(cli, "%s: the inbox is being rebuilt from the broker's history (%s)", answer_text(mesh, "slug"),
                    answer_text(mesh, "inbox_rebuild"));
        }
        if (quarantined > 0) {
            cli_say(cli, "%s: %" PRId64 " message%s could not be verified and stay%s in quarantine", answer_text(mesh, "slug"), quarantined,
                    quarantined == 1 ? "" : "s", quarantined == 1 ? "s" : "");
        }
    }
}

/* The lock says whether one runs, not whether it answers. */
static int no_answer(struct cli *cli, const struct error *reason)
{
    int64_t pid = 0;
    struct error error = { 0 };
    bool locked = identity_running_pid(&cli->paths, &pid, &error) == 0;
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_bool(document, "running", locked);
        if (locked) {
            json_put_integer(document, "pid", pid);
            json_put_bool(document, "answers", false);
            json_put_string(document, "detail", reason->message);
        }
        cli_print_json(document);
        json_decref(document);
    } else if (locked) {
        cli_say(cli, "a daemon (pid %" PRId64 ") runs, but does not answer: %s; 'claudemesh daemon logs' may say why", pid,
                reason->message);
    } else {
        cli_say(cli, "no daemon is running; start it with 'claudemesh daemon up'");
    }
    return locked ? EXIT_UNREACHABLE : EXIT_FAILED;
}

/* "", or ", degraded: link_refused, disk_full"; heap. */
static char *degraded_text(const json_t *health)
{
    struct buffer text;
    size_t index;
    const json_t *reason;
    buffer_init(&text, BUFFER_UNLIMITED);
    (void)buffer_append_text(&text, answer_bool(health, "degraded") ? ", degraded" : "");
    json_array_foreach(json_object_get(health, "reasons"), index, reason)
    {
        const char *word = json_string_value(reason);
        (void)buffer_printf(&text, "%s%s", index == 0 ? ": " : ", ", word == NULL ? "" : word);
    }
    return buffer_take(&text, NULL);
}

static int run_status(struct cli *cli)
{
    struct api api;
    struct error error = { 0 };
    json_t *health = NULL;
    int http_status = 0;
    char uptime[24];

    if (api_open(cli, API_BUDGET_MS, &api, &error) != 0) {
        return no_answer(cli, &error);
    }
    int status = api_request(&api, "GET", "/v1/health", NULL, API_ANSWER_MS, &http_status, &health, &error);
    api_close(&api);
    if (status != 0) {
        return no_answer(cli, &error);
    }
    if (http_status != 200 || !json_is_object(health)) {
        status = api_fail(cli, http_status, health);
        json_decref(health);
        return status;
    }
    if (cli->json) {
        json_put_bool(health, "running", true);
        cli_print_json(health);
    } else {
        age_text(answer_integer(health, "uptime_s", 0) * 1000, uptime);
        char *degraded = degraded_text(health);
        cli_say(cli, "running, pid %" PRId64 ", up %s, version %s%s", answer_integer(health, "pid", 0), uptime,
                answer_text(health, "daemon_version"), degraded);
        free(degraded);
        print_meshes(cli, json_object_get(health, "meshes"));
        room_status_print(cli, health);
    }
    json_decref(health);
    return EXIT_DONE;
}

static int run_version(struct cli *cli)
{
    json_t *answer = NULL;
    int status = api_call(cli, "GET", "/v1/version", NULL, &answer);
    if (status != EXIT_DONE) {
        return status;
    }
    if (cli->json) {
        cli_print_json(answer);
    } else {
        cli_say(cli, "daemon %s, API %s, schema %" PRId64, answer_text(answer, "daemon_version"), answer_text(answer, "ipc_api"),
                answer_integer(answer, "schema_version", 0));
    }
    json_decref(answer);
    return EXIT_DONE;
}

static int run_metrics(struct cli *cli)
{
    struct api api;
    struct http_response response = { 0 };
    struct error error = { 0 };
    json_t *answer = NULL;
    int status = api_need(cli, &api);
    if (status != EXIT_DONE) {
        return status;
    }
    http_client_set_timeout(api.client, API_ANSWER_MS);
    if (http_client_request(api.client, "GET", "/v1/metrics", NULL, NULL, 0, &response, &error) != 0) {
        status = cli_fail_error(cli, &error);
    } else if (response.status != 200) {
        if (json_parse_strict(response.body.data, response.body.length, &answer, NULL) != 0) {
            answer = NULL;
        }
        status = api_fail(cli, response.status, answer);
    } else if (cli->json) {
        json_t *document = json_new_object();
        json_put_text(document, "text", (struct text){ response.body.data, response.body.length });
        cli_print_json(document);
        json_decref(document);
    } else {
        (void)fwrite(response.body.data, 1, response.body.length, stdout);
    }
    json_decref(answer);
    http_response_release(&response);
    api_close(&api);
    return status;
}

const struct cli_command COMMAND_DAEMON_STATUS = {
    .name = "daemon status",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Whether it runs, and how each mesh is doing (exit 1 when it does not run)",
    .example = "claudemesh daemon status --json",
    .run = run_status,
};

const struct cli_command COMMAND_DAEMON_VERSION = {
    .name = "daemon version",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "The running daemon's version, and its API's and schema's",
    .example = "claudemesh daemon version",
    .run = run_version,
};

const struct cli_command COMMAND_DAEMON_METRICS = {
    .name = "daemon metrics",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Its metrics, as Prometheus text",
    .example = "claudemesh daemon metrics",
    .run = run_metrics,
};
