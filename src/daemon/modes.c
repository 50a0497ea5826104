/* Owns what follows from where the daemon runs (50-identity, Modes): identity, local API, hooks. Each default can be overridden; a less safe choice is logged. */
#include "daemon/internal.h"
#include "util/log.h"

static const struct {
    const char *name;
    bool tcp, hooks, persistent;
} PLACES[] = {
    [PLACE_HOST] = { "host", true, true, true },
    [PLACE_CONTAINER] = { "container", false, true, true },
    [PLACE_CI] = { "ci", false, false, false },
};

const char *daemon_place_name(enum daemon_place place)
{
    return PLACES[place].name;
}

/* A CI job in a container is a CI job: the stricter row. */
enum daemon_place daemon_place(bool said_to_be_container)
{
    if (environment_is_ci())
        return PLACE_CI;
    return said_to_be_container || environment_is_container() ? PLACE_CONTAINER : PLACE_HOST;
}

bool daemon_is_ephemeral_by_default(void)
{
    return !PLACES[daemon_place(false)].persistent;
}

/* Said somewhere, not only the default. */
static bool is_chosen(const struct settings *settings, const char *name)
{
    return settings_origin(settings, name) != ORIGIN_DEFAULT;
}

static bool decide_tcp(const struct daemon_options *options, const struct settings *settings, bool standard)
{
    if (options->tcp >= 0 || options->tcp_port >= 0)
        return options->tcp != 0;
    bool configured = settings_bool(settings, "ipc.tcp_enabled");
    return is_chosen(settings, "ipc.tcp_enabled") ? configured : configured && standard;
}

void daemon_decide_modes(const struct daemon_options *options, const struct settings *settings, struct daemon_modes *ret_modes)
{
    enum daemon_place place = daemon_place(options->container);
    bool hooks = settings_bool(settings, "hooks.enabled");
    *ret_modes = (struct daemon_modes){
        .place = place,
        .ephemeral = options->invite != NULL,
        .tcp = decide_tcp(options, settings, PLACES[place].tcp),
        .hooks = is_chosen(settings, "hooks.enabled") ? hooks : hooks && PLACES[place].hooks,
    };
}

static void warn(const struct daemon_modes *modes, const char *event, const char *detail)
{
    log_event(LOG_LEVEL_WARN, event, LOG_TEXT("environment", daemon_place_name(modes->place)), LOG_TEXT("detail", detail), LOG_END);
}

void daemon_tell_modes(const struct daemon_modes *modes)
{
    enum daemon_place place = modes->place;
    log_event(LOG_LEVEL_INFO, "environment", LOG_TEXT("environment", daemon_place_name(place)),
              LOG_TEXT("identity", modes->ephemeral ? "ephemeral" : "persistent"), LOG_TEXT("api", modes->tcp ? "socket,tcp" : "socket"),
              LOG_TEXT("hooks", modes->hooks ? "on" : "off"), LOG_END);
    if (modes->tcp && !PLACES[place].tcp)
        warn(modes, "tcp_on_against_environment",
             "others who share this network namespace reach the port; the token is all that stops them");
    if (modes->hooks && !PLACES[place].hooks)
        warn(modes, "hooks_on_against_environment", "messages from the mesh start programs in this job");
    if (!modes->ephemeral && !PLACES[place].persistent)
        warn(modes, "persistent_against_environment",
             "the keys are written to this job's disk, and its member stays in the mesh when the job is gone; give an invite (--invite or "
             "$CLAUDEMESH_INVITE) for an ephemeral member");
}
