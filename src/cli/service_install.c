/* `claudemesh daemon install-service` and `daemon uninstall-service` (80-operations, Service). */
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/own_path.h"
#include "cli/service.h"
#include "daemon/daemon.h"
#include "identity/identity.h"
#include "json/json.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

enum { UNIT_FILE_MAXIMUM = 256 * 1024 };

#define PLACE_OPTIONS                                                                                                \
    { "user", 0, OPTION_FLAG, NULL, "for you, while you are logged in (the default)" },                              \
        { "system", 0, OPTION_FLAG, NULL, "for the whole system, from its start; as root" },                         \
        { "root", 0, OPTION_VALUE, "DIR", "in a system image that is mounted there, not in the running system" },    \
    {                                                                                                                \
        "manager", 0, OPTION_VALUE, "systemd|launchd", "whose format (this system's own: systemd, on macOS launchd)" \
    }

static const struct cli_option OPTIONS_INSTALL[] = {
    PLACE_OPTIONS,
    { "now", 0, OPTION_FLAG, NULL, "start it, and again at each login or boot" },
    { "run-as", 0, OPTION_VALUE, "USER", "with --system: who it runs as (the owner of the configuration directory)" },
    { "name", 0, OPTION_VALUE, "N", "display name at the brokers" },
    { "allow-ci-persistent", 0, OPTION_FLAG, NULL, "also in CI, where a service outlives the job" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};
static const struct cli_option OPTIONS_UNINSTALL[] = {
    PLACE_OPTIONS,
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static int read_place(struct cli *cli, struct service_place *ret_place)
{
    struct error error = { 0 };
    enum service_manager manager = service_manager_of_this_system();
    const char *named = cli_value(cli, "manager");
    if (cli_has(cli, "user") && cli_has(cli, "system"))
        return cli_fail_usage(cli, "--user and --system contradict each other");
    if (named != NULL && !string_equal(named, "systemd") && !string_equal(named, "launchd"))
        return cli_fail_usage(cli, "--manager is systemd or launchd");
    if (named != NULL)
        manager = string_equal(named, "launchd") ? SERVICE_LAUNCHD : SERVICE_SYSTEMD;
    if (service_place_init(cli_has(cli, "system") ? SERVICE_SYSTEM : SERVICE_USER, manager, cli_value(cli, "root"), ret_place, &error) != 0)
        return cli_fail_error(cli, &error);
    return EXIT_DONE;
}

/* ---- what the unit says ------------------------------------------------------------------------------------------------- */

struct owner { /* of a system's service */
    char *name;
    char *home; /* NULL: not known */
};

static void owner_release(struct owner *owner)
{
    free(owner->name);
    free(owner->home);
}

/* Who was named, or who called sudo. name NULL: nobody. */
static int named_owner(struct cli *cli, struct owner *ret_owner)
{
    const char *name = cli_value(cli, "run-as");
    bool is_asked_for = name != NULL;
    if (name == NULL && geteuid() == 0)
        name = getenv("SUDO_USER");
    if (name == NULL || name[0] == '\0')
        return EXIT_DONE;
    const struct passwd *entry = getpwnam(name);
    if (entry == NULL && is_asked_for && cli_value(cli, "root") == NULL)
        return cli_fail(cli, EXIT_FAILED, "there is no user '%s'", name);
    if (entry == NULL && !is_asked_for)
        return EXIT_DONE;
    *ret_owner = (struct owner){ memory_strdup(name), entry == NULL ? NULL : memory_strdup(entry->pw_dir) };
    return EXIT_DONE;
}

/* The directory must be its user's own: the daemon refuses one that is somebody else's. */
static int match_owner(struct cli *cli, const char *directory, struct owner *owner)
{
    struct stat status;
    if (stat(directory, &status) != 0) {
        if (errno != ENOENT)
            return cli_fail(cli, EXIT_FAILED, "cannot look at %s: %s", directory, strerror(errno));
        return cli_fail(cli, EXIT_FAILED,
                        "there is no configuration directory %s yet; join a mesh first, as the user the service is for, or name another "
                        "with --config-dir",
                        directory);
    }
    const struct passwd *entry = getpwuid(status.st_uid);
    char *name = entry != NULL ? memory_strdup(entry->pw_name) : memory_printf("%u", (unsigned)status.st_uid);
    if (owner->name == NULL) {
        owner->name = name;
        return EXIT_DONE;
    }
    bool same = string_equal(owner->name, name);
    int result =
        same ? EXIT_DONE
             : cli_fail(cli, EXIT_FAILED, "%s belongs to %s, and the service is to run as %s; choose another with --run-as or --config-dir",
                        directory, name, owner->name);
    free(name);
    return result;
}

/* *ret_directory and *owner, for the system's service. */
static int system_identity(struct cli *cli, char **ret_directory, struct owner *owner)
{
    bool image = cli_value(cli, "root") != NULL, is_given = cli->config_dir != NULL || getenv("CLAUDEMESH_CONFIG_DIR") != NULL;
    int status = named_owner(cli, owner);
    if (status != EXIT_DONE)
        return status;
    char *directory = !is_given && owner->home != NULL ? path_join(owner->home, ".claudemesh") : memory_strdup(cli->paths.root);
    if (image && owner->name == NULL) {
        status = cli_fail_usage(cli, "--system with --root needs --run-as: whom the image's service runs as");
    } else if (!image) {
        struct error error = { 0 };
        /* root's own may be made here; another's would be root's then */
        if (owner->name == NULL && config_paths_make(&cli->paths, &error) != 0)
            status = cli_fail_error(cli, &error);
        else
            status = match_owner(cli, directory, owner);
    }
    *ret_directory = directory;
    return status;
}

static int user_identity(struct cli *cli, char **ret_directory)
{
    struct error error = { 0 };
    /* The unit names it as a path that may be written, which must be there. */
    if (cli_value(cli, "root") == NULL && config_paths_make(&cli->paths, &error) != 0)
        return cli_fail_error(cli, &error);
    *ret_directory = memory_strdup(cli->paths.root);
    return EXIT_DONE;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------------ */

enum change { CHANGE_NONE, CHANGE_WRITTEN, CHANGE_REPLACED };

static int write_unit(struct cli *cli, const struct service_place *place, const struct buffer *text, enum change *ret_change)
{
    struct buffer before;
    struct error error = { 0 };
    buffer_init(&before, UNIT_FILE_MAXIMUM);
    bool exists = file_read(place->path, &before, &error) == 0;
    int status = EXIT_DONE;
    *ret_change = CHANGE_NONE;
    if (exists && before.length == text->length && memcmp(before.data, text->data, text->length) == 0)
        goto out;
    if (directory_ensure(place->directory, place->kind == SERVICE_USER ? 0700 : 0755, &error) != 0 ||
        file_write_atomic(place->path, 0644, text->data, text->length, &error) != 0) {
        status = cli_fail_error(cli, &error);
        if (place->kind == SERVICE_SYSTEM && error.code == ERROR_DENIED)
            cli_note(cli, "a service of the whole system takes root: sudo claudemesh daemon install-service --system");
        goto out;
    }
    *ret_change = exists ? CHANGE_REPLACED : CHANGE_WRITTEN;
out:
    buffer_release(&before);
    return status;
}

/* One that was started by hand holds the lock: the service's would fail, again and again. */
static bool may_start(const char *directory)
{
    struct config_paths paths;
    bool ignored;
    int64_t pid = 0;
    enum service_kind kind;
    if (config_paths_init(directory, &paths, &ignored, NULL) != 0)
        return true; /* its start says what is wrong */
    bool may = identity_running_pid(&paths, &pid, NULL) != 0 || service_runs(pid, &kind);
    config_paths_release(&paths);
    return may;
}

static void print_installed(struct cli *cli, const struct service_place *place, enum change change, bool started)
{
    char *command = service_command(place, "start");
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "path", place->path);
        json_put_bool(document, "changed", change != CHANGE_NONE);
        json_put_bool(document, "started", started);
        json_put_string(document, "start_command", command);
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, "%s %s",
            change == CHANGE_NONE       ? "already there, and the same:"
            : change == CHANGE_REPLACED ? "written anew:"
                                        : "written:",
            place->path);
    if (started) {
        cli_say(cli, "the daemon runs as a service, and starts again %s",
                place->kind == SERVICE_USER ? "when you log in" : "with the system");
    } else if (place->root[0] == '\0') {
        cli_say(cli, "start it, now and %s, with", place->kind == SERVICE_USER ? "at each login" : "with the system");
        cli_say(cli, "  %s", command);
    }
    if (place->kind == SERVICE_USER && place->manager == SERVICE_SYSTEMD && place->root[0] == '\0')
        cli_say(cli, "to have it run while nobody is logged in: loginctl enable-linger");
    free(command);
}

static int install(struct cli *cli, const struct service_place *place, const struct service_unit *unit)
{
    struct buffer text;
    struct error error = { 0 };
    enum change change = CHANGE_NONE;
    bool now = cli_has(cli, "now");
    buffer_init(&text, UNIT_FILE_MAXIMUM);
    int status = service_unit_render(unit, place->manager, &text, &error) != 0 ? cli_fail_error(cli, &error)
                                                                               : write_unit(cli, place, &text, &change);
    if (status == EXIT_DONE && now && !may_start(unit->config_dir))
        status = cli_fail(
            cli, EXIT_FAILED,
            "%s is written, but a daemon that was started by hand runs for %s; stop it with `claudemesh daemon down`, then run this again",
            place->path, unit->config_dir);
    if (status == EXIT_DONE && now)
        status = service_control(cli, place, "start");
    if (status == EXIT_DONE)
        print_installed(cli, place, change, now);
    buffer_release(&text);
    return status;
}

static int run_install(struct cli *cli)
{
    struct service_place place = { 0 };
    struct owner owner = { 0 };
    struct error error = { 0 };
    char *binary = NULL, *directory = NULL;
    bool is_system = cli_has(cli, "system");

    if (cli_has(cli, "run-as") && !is_system)
        return cli_fail_usage(cli, "--run-as goes with --system; a user's service runs as that user");
    if (cli_has(cli, "now") && cli_has(cli, "root"))
        return cli_fail_usage(cli, "--now cannot start what lies in another system's image");
    if (environment_is_ci() && !cli_has(cli, "allow-ci-persistent"))
        return cli_fail(
            cli, EXIT_FAILED,
            "this is a CI environment, where a service would outlive the job and its identity; if that is wanted: --allow-ci-persistent");
    int status = read_place(cli, &place);
    if (status == EXIT_DONE)
        status = is_system ? system_identity(cli, &directory, &owner) : user_identity(cli, &directory);
    if (status == EXIT_DONE && cli_own_path(&binary, &error) != 0)
        status = cli_fail_error(cli, &error);
    if (status == EXIT_DONE) {
        const struct service_unit unit = {
            .binary = binary,
            .config_dir = directory,
            .mesh = cli->mesh,
            .display_name = cli_value(cli, "name"),
            .user = owner.name,
        };
        status = install(cli, &place, &unit);
    }
    free(binary);
    free(directory);
    owner_release(&owner);
    service_place_release(&place);
    return status;
}

static int run_uninstall(struct cli *cli)
{
    struct service_place place = { 0 };
    bool removed = false;
    int status = read_place(cli, &place);
    if (status == EXIT_DONE)
        status = service_remove(cli, &place, true, &removed);
    if (status == EXIT_DONE && cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "path", place.path);
        json_put_bool(document, "removed", removed);
        cli_print_json(document);
        json_decref(document);
    } else if (status == EXIT_DONE) {
        cli_say(cli, removed ? "stopped and removed: %s" : "no service is installed (%s)", place.path);
    }
    service_place_release(&place);
    return status;
}

const struct cli_command COMMAND_DAEMON_INSTALL_SERVICE = {
    .name = "daemon install-service",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Write the unit that runs it as a service (systemd, launchd); again: upgrades it",
    .example = "claudemesh daemon install-service --now",
    .options = OPTIONS_INSTALL,
    .run = run_install,
};

const struct cli_command COMMAND_DAEMON_UNINSTALL_SERVICE = {
    .name = "daemon uninstall-service",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Stop the service and remove its unit; the configuration stays",
    .example = "claudemesh daemon uninstall-service",
    .options = OPTIONS_UNINSTALL,
    .run = run_uninstall,
};
