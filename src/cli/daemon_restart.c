/* `claudemesh daemon restart`: through the service manager when that runs the daemon; else it is stopped, and this process becomes `daemon up` with the flags
 * that are given, or with those that the running one was started with. */
#include <errno.h>
#include <unistd.h>

#include "cli/daemon_stop.h"
#include "cli/output.h"
#include "cli/own_path.h"
#include "cli/service.h"
#include "identity/identity.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

enum { COMMAND_LINE_MAXIMUM = 256 * 1024, WORDS_MAXIMUM = 256 };

/* Its own flags, not those for stopping the old one; and what was meant once is not repeated. */
static bool is_of_up(const struct cli_given *given, bool again)
{
    const char *name = given->option->name;
    if (string_equal(name, "timeout") || string_equal(name, "foreground"))
        return false;
    return !again || !string_equal(name, "accept-cloned-identity");
}

static bool has_flags(const struct cli *cli)
{
    for (size_t i = 0; i < cli->given_count; i++)
        if (is_of_up(&cli->given[i], false))
            return true;
    return false;
}

/* ---- what the running one was started with -------------------------------------------------------------------------------- */

struct former {
    struct buffer text; /* the words of its command line; an invite may be among them */
    struct cli cli;     /* parsed; points into text */
    bool known;
};

static void former_release(struct former *former)
{
    cli_release(&former->cli);
    buffer_release(&former->text);
}

/* Where a process's command line cannot be read (not Linux), nothing is known. */
static void former_read(int64_t pid, struct former *former)
{
    char *path = memory_printf("/proc/%" PRId64 "/cmdline", pid);
    char *words[WORDS_MAXIMUM];
    int count = 0;
    bool complete = pid > 0 && file_read(path, &former->text, NULL) == 0;
    free(path);
    for (size_t at = 0; complete && at < former->text.length && count < WORDS_MAXIMUM; at += strlen(former->text.data + at) + 1)
        words[count++] = former->text.data + at;
    if (!complete || count == 0 || count == WORDS_MAXIMUM)
        return;
    struct error error;
    if (cli_parse(count, words, &former->cli, &error) == 0 && former->cli.command != NULL)
        former->known = string_equal(former->cli.command->name, "daemon up") || string_equal(former->cli.command->name, "daemon restart");
}

/* What the start would refuse after the stop. An invite is not kept by the daemon that used it: it was overwritten where it stood. */
static bool lacks_invite(const struct cli *flags, bool again)
{
    const char *variable = getenv("CLAUDEMESH_INVITE");
    bool in_environment = variable != NULL && variable[0] != '\0';
    bool given = cli_has(flags, "invite");
    return again && given ? true : cli_has(flags, "ephemeral") && !given && !in_environment;
}

/* ---- the new one ------------------------------------------------------------------------------------------------------------ */

struct command_line {
    char *words[WORDS_MAXIMUM + 1]; /* heap */
    size_t count;
};

static void add_word(struct command_line *line, char *word /* given */)
{
    if (line->count < WORDS_MAXIMUM)
        line->words[line->count++] = word;
    else
        free(word);
}

static void add_flag(struct command_line *line, bool wanted, const char *flag)
{
    if (wanted)
        add_word(line, memory_strdup(flag));
}

/* Only returns when it could not be started. */
static int become_up(struct cli *cli, const struct cli *flags, bool again)
{
    struct command_line line = { .count = 0 };
    struct error error = { 0 };
    char *path = NULL;
    const char *mesh = cli->mesh != NULL ? cli->mesh : flags->mesh;
    if (cli_own_path(&path, &error) != 0)
        return cli_fail_error(cli, &error);
    add_word(&line, memory_strdup(path));
    add_word(&line, memory_strdup("--config-dir"));
    add_word(&line, memory_strdup(cli->paths.root));
    add_flag(&line, cli->json, "--json");
    add_flag(&line, cli->quiet, "--quiet");
    add_flag(&line, cli->no_color, "--no-color");
    add_flag(&line, mesh != NULL, "--mesh");
    add_flag(&line, mesh != NULL, mesh);
    add_word(&line, memory_strdup("daemon"));
    add_word(&line, memory_strdup("up"));
    for (size_t i = 0; i < flags->given_count; i++) {
        const struct cli_given *given = &flags->given[i];
        if (is_of_up(given, again))
            add_word(&line, given->value == NULL ? memory_printf("--%s", given->option->name)
                                                 : memory_printf("--%s=%s", given->option->name, given->value));
    }
    (void)fflush(NULL);
    (void)execv(path, line.words);
    int status = cli_fail(cli, EXIT_FAILED, "the daemon is stopped, but cannot start %s again: %s", path, strerror(errno));
    for (size_t i = 0; i < line.count; i++)
        free(line.words[i]);
    free(path);
    return status;
}

static int restart_service(struct cli *cli, enum service_kind kind)
{
    struct service_place place = { 0 };
    struct error error = { 0 };
    if (has_flags(cli) || cli->mesh != NULL)
        return cli_fail_usage(
            cli, "the daemon runs as a service, and its flags stand in the unit; `claudemesh daemon install-service` writes them");
    if (service_place_init(kind, service_manager_of_this_system(), NULL, &place, &error) != 0)
        return cli_fail_error(cli, &error);
    int status = service_control(cli, &place, "restart");
    if (status == EXIT_DONE)
        cli_say(cli, "the service has been restarted");
    service_place_release(&place);
    return status;
}

int daemon_restart(struct cli *cli)
{
    struct former former = { .known = false };
    enum service_kind kind;
    int64_t pid = 0;
    bool is_running = identity_running_pid(&cli->paths, &pid, NULL) == 0;
    if (is_running && service_runs(pid, &kind))
        return restart_service(cli, kind);
    buffer_init_secret(&former.text, COMMAND_LINE_MAXIMUM);
    if (is_running && !has_flags(cli))
        former_read(pid, &former);
    int status = lacks_invite(former.known ? &former.cli : cli, former.known)
                     ? cli_fail_usage(cli, "an ephemeral member is removed from the mesh when its daemon stops, and a new one needs an "
                                           "invite, which is not kept; nothing was stopped. Say "
                                           "`claudemesh daemon restart --ephemeral --invite LINK` ('-' reads it from standard input)")
                     : daemon_stop_running(cli, &pid);
    if (status == EXIT_DONE)
        status = become_up(cli, former.known ? &former.cli : cli, former.known);
    former_release(&former);
    return status;
}
