/* `claudemesh daemon accept-host`: this host is the right one for these keys from now on (50-identity, Host fingerprint). Touches nothing else. */
#include <unistd.h>

#include "cli/output.h"
#include "identity/host.h"
#include "identity/identity.h"
#include "json/json.h"
#include "util/file.h"
#include "util/text.h"

static void print_accepted(struct cli *cli, const struct host_check *accepted)
{
    char before[HOST_SHORT_SIZE], now[HOST_SHORT_SIZE];
    bool known = accepted->stored.fingerprint[0] != '\0', same = accepted->verdict == HOST_MATCH;
    host_record_describe(&accepted->stored, before);
    host_record_describe(&accepted->current, now);
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "host", now);
        json_put_string(document, "recorded_before", known ? before : NULL);
        json_put_bool(document, "changed", !same);
        json_put_bool(document, "detection", !host_record_is_random(&accepted->current));
        cli_print_json(document);
        json_decref(document);
    }
    if (same) {
        cli_say(cli, "this host (%s) is the recorded one already; nothing was changed", now);
    } else if (known) {
        cli_say(cli, "accepted: %s, in place of %s", now, before);
        cli_say(cli, "no daemon with these keys may run on the other host any more; start this one with: claudemesh daemon up");
    } else {
        cli_say(cli, "accepted: %s", now);
    }
    if (host_record_is_random(&accepted->current)) {
        cli_note(cli, "neither a host id nor a hardware address can be read here, so a copy of this directory would not be noticed");
    }
}

static int run(struct cli *cli)
{
    struct host_check accepted;
    struct error error = { 0 };
    int64_t holder = 0;
    int lock = -1;
    if (!file_exists(cli->paths.daemon)) {
        return cli_fail(cli, EXIT_FAILED, "there is nothing to accept a host for: %s does not exist", cli->paths.daemon);
    }
    if (crypto_start(&error) != 0) {
        return cli_fail_error(cli, &error);
    }
    if (identity_lock(&cli->paths, &lock, &holder, &error) != 0) {
        return error.code == ERROR_BUSY
                   ? cli_fail(cli, EXIT_FAILED, "a daemon is running (pid %" PRId64 "); stop it first: claudemesh daemon down", holder)
                   : cli_fail_error(cli, &error);
    }
    int status = host_accept(&cli->paths, &accepted, &error) == 0 ? EXIT_DONE : cli_fail_error(cli, &error);
    identity_unlock(lock);
    if (status == EXIT_DONE) {
        print_accepted(cli, &accepted);
    }
    return status;
}

const struct cli_command COMMAND_DAEMON_ACCEPT_HOST = {
    .name = "daemon accept-host",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Keep the keys: this host is the right one (the hardware, or the directory, moved)",
    .example = "claudemesh daemon accept-host",
    .run = run,
};
