/* `claudemesh broker serve` and `broker check`. */
#include "broker/broker.h"
#include "cli/output.h"
#include "json/json.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

#define STORE_OPTION                                                                                                           \
    {                                                                                                                          \
        "store", 0, OPTION_VALUE, "sqlite:PATH", "where it keeps its data (sqlite:<configuration directory>/broker/broker.db)" \
    }

static const struct cli_option OPTIONS_SERVE[] = {
    { "listen", 0, OPTION_VALUE, "HOST:PORT", "where it listens (127.0.0.1:7900)" },
    STORE_OPTION,
    { "tls-cert", 0, OPTION_VALUE, "F", "certificate chain, PEM; with --tls-key" },
    { "tls-key", 0, OPTION_VALUE, "F", "its key, PEM" },
    { "admin-token-file", 0, OPTION_VALUE, "F", "the token that making a mesh takes; made when absent (admin-token beside the store)" },
    { "config", 0, OPTION_VALUE, "F", "settings, TOML" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_CHECK[] = {
    STORE_OPTION,
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static int run_serve(struct cli *cli)
{
    struct settings *settings = NULL;
    struct error error = { 0 };
    const struct broker_options options = {
        .listen = cli_value(cli, "listen"),
        .store = cli_value(cli, "store"),
        .tls_cert = cli_value(cli, "tls-cert"),
        .tls_key = cli_value(cli, "tls-key"),
        .admin_token_file = cli_value(cli, "admin-token-file"),
        .paths = &cli->paths,
        .config_file = cli_value(cli, "config"),
    };
    if ((options.tls_cert == NULL) != (options.tls_key == NULL)) {
        return cli_fail_usage(cli, "--tls-cert and --tls-key go together");
    }
    if (cli_has(cli, "config") && !file_exists(cli_value(cli, "config"))) {
        return cli_fail(cli, EXIT_FAILED, "there is no %s", cli_value(cli, "config"));
    }
    if (settings_load(BROKER_SETTINGS, BROKER_SETTING_COUNT, "CLAUDEMESH_BROKER_", cli_value(cli, "config"), &settings, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    struct broker_options complete = options;
    complete.settings = settings;
    int status = broker_run(&complete);
    settings_free(settings);
    return status;
}

struct findings {
    struct cli *cli;
    json_t *list;
};

static void on_finding(void *argument, const char *finding)
{
    struct findings *findings = argument;
    char *printable = text_printable(finding, strlen(finding));
    if (findings->cli->json) {
        json_t *text = json_string(printable);
        (void)json_array_append_new(findings->list, text == NULL ? json_null() : text);
    } else {
        puts(printable);
    }
    free(printable);
}

static int run_check(struct cli *cli)
{
    struct findings findings = { cli, json_new_array() };
    struct error error = { 0 };
    const char *given = cli_value(cli, "store");
    char *store = given != NULL ? memory_strdup(given) : memory_printf("sqlite:%s", cli->paths.broker_db);
    int64_t count = broker_check(store, on_finding, &findings, &error);
    int status = count == 0 ? EXIT_DONE : EXIT_FAILED;

    if (count < 0) {
        status = cli_fail_error(cli, &error);
        json_decref(findings.list);
    } else if (cli->json) {
        json_t *document = json_new_object();
        json_put_bool(document, "ok", count == 0);
        json_put(document, "findings", findings.list);
        cli_print_json(document);
        json_decref(document);
    } else {
        json_decref(findings.list);
        if (count == 0) {
            cli_say(cli, "the store is consistent");
        } else {
            cli_note(cli, "%" PRId64 " finding%s", count, count == 1 ? "" : "s");
        }
    }
    free(store);
    return status;
}

const struct cli_command COMMAND_BROKER_SERVE = {
    .name = "broker serve",
    .group = GROUP_BROKER,
    .arguments = "",
    .summary = "Run a broker in the foreground",
    .example = "claudemesh broker serve --listen 127.0.0.1:7900",
    .options = OPTIONS_SERVE,
    .run = run_serve,
};

const struct cli_command COMMAND_BROKER_CHECK = {
    .name = "broker check",
    .group = GROUP_BROKER,
    .arguments = "",
    .summary = "Check that the store is consistent (exit 1 when not)",
    .example = "claudemesh broker check",
    .options = OPTIONS_CHECK,
    .run = run_check,
};
