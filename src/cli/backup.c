/* `claudemesh daemon backup` and `daemon restore`: asks, calls the room, says what happened. Must not know what is in a backup. */
#include "backup/backup.h"

#include "cli/output.h"
#include "cli/passphrase.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static const struct cli_option OPTIONS_BACKUP[] = {
    { "out", 0, OPTION_VALUE, "F", "the file to write" },
    { "with-data", 0, OPTION_FLAG, NULL, "messages too: the outbox with its contents, and the inbox" },
    PASSPHRASE_OPTION,
    { "force", 0, OPTION_FLAG, NULL, "write over a file that exists" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_RESTORE[] = {
    { "in", 0, OPTION_VALUE, "F", "the backup" },
    PASSPHRASE_OPTION,
    { "force", 0, OPTION_FLAG, NULL, "where there is a configuration: put it aside, and keep it" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static json_t *summary_json(const char *file, const struct backup_summary *summary)
{
    char created[RFC3339_SIZE];
    json_t *document = json_new_object();
    time_format_rfc3339(summary->created_at, created);
    json_put_string(document, "file", file);
    json_put_string(document, "created_at", created);
    json_put_string(document, "made_by", summary->made_by);
    json_put_bool(document, "with_data", summary->with_data);
    json_put_integer(document, "meshes", (int64_t)summary->meshes);
    json_put_integer(document, "hooks", (int64_t)summary->hooks);
    return document;
}

static void report_backup(struct cli *cli, const char *file, const struct backup_summary *summary)
{
    if (cli->json) {
        json_t *document = summary_json(file, summary);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, "wrote %s: %zu mesh%s with %s keys%s", file, summary->meshes, summary->meshes == 1 ? "" : "es",
            summary->meshes == 1 ? "its" : "their", summary->with_data ? ", and all messages" : "; no messages (--with-data adds them)");
    cli_say(cli, "Who has this file and its passphrase is you. Keep them apart.");
}

static int run_backup(struct cli *cli)
{
    struct buffer passphrase = { 0 };
    struct backup_summary summary = { 0 };
    struct error error = { 0 };
    const char *file = cli_value(cli, "out");
    if (file == NULL || file[0] == '\0') {
        return cli_fail_usage(cli, "where to? add --out FILE");
    }
    int status = crypto_start(&error) != 0 ? cli_fail_error(cli, &error) : passphrase_get(cli, true, &passphrase);
    if (status == EXIT_DONE) {
        const struct backup_request request = {
            .paths = &cli->paths,
            .file = file,
            .passphrase = { passphrase.data, passphrase.length },
            .cost = PASSPHRASE_COST_MODERATE,
            .with_data = cli_has(cli, "with-data"),
            .force = cli_has(cli, "force"),
        };
        if (backup_write(&request, &summary, &error) != 0) {
            status = cli_fail_error(cli, &error);
        } else {
            report_backup(cli, file, &summary);
        }
    }
    buffer_wipe_release(&passphrase);
    return status;
}

static void report_restore(struct cli *cli, const char *file, const struct backup_summary *summary)
{
    char created[RFC3339_SIZE];
    time_format_rfc3339(summary->created_at, created);
    if (cli->json) {
        json_t *document = summary_json(file, summary);
        json_put_string(document, "former_state", summary->aside);
        json_put_bool(document, "other_host", summary->other_host);
        cli_print_json(document);
        json_decref(document);
    }
    char *when = local_time(created);
    cli_say(cli, "restored %zu mesh%s from the backup of %s%s", summary->meshes, summary->meshes == 1 ? "" : "es", when,
            summary->with_data ? ", with its messages" : "");
    free(when);
    if (summary->aside != NULL) {
        cli_say(cli, "what was here before is kept in %s; remove it when you do not need it any more: it holds keys", summary->aside);
    }
    if (summary->other_host) {
        cli_note(cli, "the backup was made on another host. If a daemon still runs there, stop it: two hosts must not be one member");
    }
    cli_say(cli, "Nothing is sent before the broker has listed each mesh's members. Start with 'claudemesh daemon up'.");
}

static int run_restore(struct cli *cli)
{
    struct buffer passphrase = { 0 };
    struct backup_summary summary = { 0 };
    struct error error = { 0 };
    const char *file = cli_value(cli, "in");
    if (file == NULL || file[0] == '\0') {
        return cli_fail_usage(cli, "from where? add --in FILE");
    }
    int status = crypto_start(&error) != 0 ? cli_fail_error(cli, &error) : passphrase_get(cli, false, &passphrase);
    if (status == EXIT_DONE) {
        const struct backup_request request = {
            .paths = &cli->paths,
            .file = file,
            .passphrase = { passphrase.data, passphrase.length },
            .force = cli_has(cli, "force"),
        };
        if (backup_restore(&request, &summary, &error) != 0) {
            status = cli_fail_error(cli, &error);
        } else {
            report_restore(cli, file, &summary);
        }
    }
    backup_summary_release(&summary);
    buffer_wipe_release(&passphrase);
    return status;
}

const struct cli_command COMMAND_DAEMON_BACKUP = {
    .name = "daemon backup",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Write keys, trust and settings to one encrypted file",
    .example = "claudemesh daemon backup --out claudemesh.backup",
    .options = OPTIONS_BACKUP,
    .run = run_backup,
};

const struct cli_command COMMAND_DAEMON_RESTORE = {
    .name = "daemon restore",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Bring a backup back, here or on another host",
    .example = "claudemesh daemon restore --in claudemesh.backup",
    .options = OPTIONS_RESTORE,
    .run = run_restore,
};
