/* Owns where a unit lies and what is asked of the service manager. Starts systemctl or launchctl, nothing else. */
#include "cli/service.h"

#include <errno.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/output.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

enum { UNIT_FILE_MAXIMUM = 256 * 1024, CGROUP_MAXIMUM = 64 * 1024, COMMAND_WORDS = 8 };

/* ---- places ------------------------------------------------------------------------------------------------------------- */

enum service_manager service_manager_of_this_system(void)
{
#ifdef __APPLE__
    return SERVICE_LAUNCHD;
#else
    return SERVICE_SYSTEMD;
#endif
}

static int home_directory(const char **ret_home, struct error *error)
{
    const char *home = getenv("HOME");
    if (home == NULL || home[0] != '/') {
        const struct passwd *entry = getpwuid(geteuid());
        home = entry == NULL ? NULL : entry->pw_dir;
    }
    if (home == NULL || home[0] != '/')
        return error_set(error, ERROR_NOT_FOUND, "cannot tell your home directory: $HOME is not set");
    *ret_home = home;
    return 0;
}

int service_place_init(enum service_kind kind, enum service_manager manager, const char *root, struct service_place *ret_place,
                       struct error *error)
{
    const char *home = "";
    if (root != NULL && root[0] != '/')
        return error_set(error, ERROR_INVALID, "--root takes an absolute path, not '%s'", root);
    if (kind == SERVICE_USER && home_directory(&home, error) != 0)
        return -(int)error->code;
    const char *below = manager == SERVICE_SYSTEMD ? kind == SERVICE_USER ? "/.config/systemd/user" : "/etc/systemd/system"
                        : kind == SERVICE_USER     ? "/Library/LaunchAgents"
                                                   : "/Library/LaunchDaemons";
    struct service_place place = { .kind = kind, .manager = manager, .root = memory_strdup(root == NULL ? "" : root) };
    place.directory = memory_printf("%s%s%s", place.root, home, below);
    place.path = path_join(place.directory, manager == SERVICE_SYSTEMD ? SERVICE_UNIT_NAME : SERVICE_LABEL ".plist");
    *ret_place = place;
    return 0;
}

void service_place_release(struct service_place *place)
{
    if (place == NULL)
        return;
    free(place->root);
    free(place->directory);
    free(place->path);
    *place = (struct service_place){ 0 };
}

bool service_runs(int64_t pid, enum service_kind *ret_kind)
{
    char *path = memory_printf("/proc/%" PRId64 "/cgroup", pid);
    struct buffer text;
    buffer_init(&text, CGROUP_MAXIMUM);
    bool found = false;
    if (pid > 0 && file_read(path, &text, NULL) == 0) {
        const char *at = strstr(text.data, "/" SERVICE_UNIT_NAME);
        found = at != NULL && strchr("/\n", at[sizeof SERVICE_UNIT_NAME]) != NULL;
        *ret_kind = strstr(text.data, "/user@") != NULL ? SERVICE_USER : SERVICE_SYSTEM;
    }
    buffer_release(&text);
    free(path);
    return found;
}

/* ---- the manager's tool --------------------------------------------------------------------------------------------------- */

static bool is_user(const struct service_place *place)
{
    return place->kind == SERVICE_USER;
}

/* For a shell. */
static char *shell_quoted(const char *word)
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    buffer_append_byte(&text, '\'');
    for (const char *at = word; *at != '\0'; at++) {
        if (*at == '\'')
            buffer_append_text(&text, "'\\'");
        buffer_append_byte(&text, *at);
    }
    buffer_append_byte(&text, '\'');
    return buffer_take(&text, NULL);
}

char *service_command(const struct service_place *place, const char *verb)
{
    if (place->manager == SERVICE_SYSTEMD) {
        const char *tool = is_user(place) ? "systemctl --user" : "systemctl";
        if (string_equal(verb, "start"))
            return memory_printf("%s daemon-reload && %s enable --now " SERVICE_UNIT_NAME, tool, tool);
        return memory_printf("%s %s " SERVICE_UNIT_NAME, tool, verb);
    }
    char *domain = is_user(place) ? memory_printf("gui/%u", (unsigned)getuid()) : memory_strdup("system");
    char *path = shell_quoted(place->path);
    char *command = string_equal(verb, "start")  ? memory_printf("launchctl bootstrap %s %s", domain, path)
                    : string_equal(verb, "stop") ? memory_printf("launchctl bootout %s/" SERVICE_LABEL, domain)
                                                 : memory_printf("launchctl kickstart -k %s/" SERVICE_LABEL, domain);
    free(path);
    free(domain);
    return command;
}

/* Its exit status; -1 when it could not be started. What it says goes to stderr, or nowhere. */
static int run_tool(const char *const words[static COMMAND_WORDS], bool silent)
{
    (void)fflush(NULL);
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        if (silent && freopen("/dev/null", "w", stderr) == NULL)
            _exit(127);
        if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
            _exit(127);
        char *arguments[COMMAND_WORDS + 1] = { NULL };
        for (size_t i = 0; i < COMMAND_WORDS && words[i] != NULL; i++)
            arguments[i] = memory_strdup(words[i]);
        (void)execvp(arguments[0], arguments);
        _exit(127);
    }
    int ended = 0;
    while (waitpid(child, &ended, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(ended) && WEXITSTATUS(ended) != 127 ? WEXITSTATUS(ended) : -1;
}

static int run_systemctl(const struct service_place *place, const char *verb, const char *unit, bool silent)
{
    const char *const words[COMMAND_WORDS] = { "systemctl", is_user(place) ? "--user" : "--system", verb, unit };
    return run_tool(words, silent);
}

static int control_systemd(struct cli *cli, const struct service_place *place, const char *verb)
{
    static const char *const START[] = { "daemon-reload", "enable", "restart", NULL };
    const char *const given[] = { verb, NULL };
    for (const char *const *step = string_equal(verb, "start") ? START : given; *step != NULL; step++) {
        int status = run_systemctl(place, *step, string_equal(*step, "daemon-reload") ? NULL : SERVICE_UNIT_NAME, false);
        if (status == 0)
            continue;
        char *command = service_command(place, verb);
        int result = status < 0
                         ? cli_fail(cli, EXIT_FAILED, "cannot start systemctl; is this system run by systemd? By hand: %s", command)
                         : cli_fail(cli, EXIT_FAILED, "systemctl %s failed (%d); what it said stands above%s", *step, status,
                                    is_user(place) ? ". For a user's services it takes a login session, or `loginctl enable-linger`" : "");
        free(command);
        return result;
    }
    return EXIT_DONE;
}

static int control_launchd(struct cli *cli, const struct service_place *place, const char *verb)
{
    char *domain = is_user(place) ? memory_printf("gui/%u", (unsigned)getuid()) : memory_strdup("system");
    char *service = memory_printf("%s/" SERVICE_LABEL, domain);
    const char *const out[COMMAND_WORDS] = { "launchctl", "bootout", service };
    const char *const in[COMMAND_WORDS] = { "launchctl", "bootstrap", domain, place->path };
    const char *const again[COMMAND_WORDS] = { "launchctl", "kickstart", "-k", service };
    int status;
    if (string_equal(verb, "start")) {
        (void)run_tool(out, true); /* the one that is there, if any: launchd reads a list once */
        status = run_tool(in, false);
    } else {
        status = run_tool(string_equal(verb, "stop") ? out : again, false);
    }
    free(service);
    free(domain);
    return status == 0 ? EXIT_DONE : cli_fail(cli, EXIT_FAILED, "launchctl failed%s", status < 0 ? ": cannot start it" : "");
}

int service_control(struct cli *cli, const struct service_place *place, const char *verb)
{
    return place->manager == SERVICE_SYSTEMD ? control_systemd(cli, place, verb) : control_launchd(cli, place, verb);
}

/* ---- removal ---------------------------------------------------------------------------------------------------------------- */

static void stop_quietly(const struct service_place *place)
{
    if (place->root[0] != '\0')
        return;
    if (place->manager == SERVICE_SYSTEMD) {
        const char *const words[COMMAND_WORDS] = { "systemctl", is_user(place) ? "--user" : "--system", "disable", "--now",
                                                   SERVICE_UNIT_NAME };
        (void)run_tool(words, true); /* where no manager runs there is nothing to stop */
        return;
    }
    char *service = is_user(place) ? memory_printf("gui/%u/" SERVICE_LABEL, (unsigned)getuid()) : memory_strdup("system/" SERVICE_LABEL);
    const char *const words[COMMAND_WORDS] = { "launchctl", "bootout", service };
    (void)run_tool(words, true);
    free(service);
}

static int remove_file(struct cli *cli, const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return cli_fail(cli, EXIT_FAILED, "cannot remove %s: %s", path, strerror(errno));
    return EXIT_DONE;
}

/* The directories that installing may have made, from the innermost; the first one with something in it ends it. */
static void remove_empty_directories(const struct service_place *place)
{
    if (place->kind != SERVICE_USER || place->manager != SERVICE_SYSTEMD)
        return; /* the others are the system's */
    char *path = memory_strdup(place->directory);
    for (int level = 0; level < 3 && rmdir(path) == 0; level++) /* user, systemd, .config */
        *strrchr(path, '/') = '\0';
    free(path);
}

static int remove_files(struct cli *cli, const struct service_place *place)
{
    if (place->manager == SERVICE_SYSTEMD) {
        /* systemctl has done it, where there is a manager. */
        char *wants = memory_printf("%s/%s.wants", place->directory, is_user(place) ? "default.target" : "multi-user.target");
        char *link = path_join(wants, SERVICE_UNIT_NAME);
        int status = remove_file(cli, link);
        if (status == EXIT_DONE)
            (void)rmdir(wants); /* others may be in it */
        free(link);
        free(wants);
        if (status != EXIT_DONE)
            return status;
    }
    int status = remove_file(cli, place->path);
    struct error error = { 0 };
    if (status == EXIT_DONE && directory_fsync(place->directory, &error) != 0)
        return cli_fail_error(cli, &error);
    return status;
}

int service_remove(struct cli *cli, const struct service_place *place, bool any, bool *ret_removed)
{
    struct buffer text;
    struct error error = { 0 };
    int status = EXIT_DONE;
    *ret_removed = false;
    buffer_init(&text, UNIT_FILE_MAXIMUM);
    if (file_read(place->path, &text, &error) != 0) {
        if (error.code != ERROR_NOT_FOUND)
            status = cli_fail_error(cli, &error);
        goto out;
    }
    if (!any && !service_unit_serves(text.data, place->manager, cli->paths.root)) {
        cli_note(cli, "%s serves another configuration directory, and stays", place->path);
        goto out;
    }
    stop_quietly(place);
    status = remove_files(cli, place);
    if (status != EXIT_DONE)
        goto out;
    *ret_removed = true;
    if (place->manager == SERVICE_SYSTEMD && place->root[0] == '\0') {
        (void)run_systemctl(place, "daemon-reload", NULL, true);
        (void)run_systemctl(place, "reset-failed", SERVICE_UNIT_NAME, true);
    }
    char *additions = memory_printf("%s.d", place->path);
    if (file_exists(additions))
        cli_note(cli, "%s is yours, and stays", additions);
    free(additions);
    remove_empty_directories(place);
out:
    buffer_release(&text);
    return status;
}

int service_remove_all(struct cli *cli, bool *ret_removed)
{
    static const enum service_kind KINDS[] = { SERVICE_USER, SERVICE_SYSTEM };
    bool removed = false;
    *ret_removed = false;
    for (size_t i = 0; i < ARRAY_LENGTH(KINDS); i++) {
        struct service_place place;
        struct error error = { 0 };
        if (service_place_init(KINDS[i], service_manager_of_this_system(), NULL, &place, &error) != 0)
            return cli_fail_error(cli, &error);
        int status = service_remove(cli, &place, false, &removed);
        *ret_removed = *ret_removed || removed;
        service_place_release(&place);
        if (status != EXIT_DONE)
            return status;
    }
    return EXIT_DONE;
}
