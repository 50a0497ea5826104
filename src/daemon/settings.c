/* Owns how the settings reach the rooms: at start, and what a reload changes while running (80-operations, config.toml). */
#include "daemon/internal.h"
#include "util/log.h"
#include "util/text.h"

static int override(struct settings *settings, const char *name, const char *value, struct error *error)
{
    return value == NULL ? 0 : settings_override(settings, name, value, error);
}

int daemon_load_settings(const struct daemon_options *options, struct settings **ret_settings, struct error *error)
{
    struct settings *settings;
    if (settings_load(SETTINGS, SETTING_COUNT, "CLAUDEMESH_", options->paths->config_toml, &settings, error) != 0)
        return -(int)error->code;
    char port[16];
    (void)snprintf(port, sizeof(port), "%d", options->tcp_port);
    if (override(settings, "ipc.tcp_port", options->tcp_port >= 0 ? port : NULL, error) != 0 ||
        override(settings, "ipc.public_health_check", options->public_health ? "true" : NULL, error) != 0 ||
        override(settings, "daemon.display_name", options->display_name, error) != 0 ||
        override(settings, "clone.policy", options->clone_policy, error) != 0) {
        settings_free(settings);
        return -(int)error->code;
    }
    *ret_settings = settings;
    return 0;
}

void daemon_limits(const struct settings *settings, struct ipc_limits *ret_limits)
{
    struct ipc_limits limits = {
        .max_in_flight = (size_t)settings_integer(settings, "ipc.max_in_flight"),
        .max_streams = (size_t)settings_integer(settings, "ipc.max_streams"),
        .rate_limit_rps = settings_integer(settings, "ipc.rate_limit_rps"),
        .rate_limit_burst = settings_integer(settings, "ipc.rate_limit_burst"),
        .public_health_check = settings_bool(settings, "ipc.public_health_check"),
    };
    limits.allowed_origins = settings_list(settings, "ipc.allowed_origins", &limits.allowed_origin_count);
    *ret_limits = limits;
}

struct outbox_limits daemon_outbox_limits(const struct settings *settings)
{
    return (struct outbox_limits){ .max_rows = settings_integer(settings, "outbox.max_rows"),
                                   .max_bytes = settings_integer(settings, "outbox.max_bytes") };
}

static void apply_log_level(const struct settings *settings)
{
    enum log_level level;
    if (log_level_parse(settings_text(settings, "daemon.log_level"), &level) == 0)
        log_set_level(level);
}

static void warn_of_variable(void *argument, const char *variable, const char *nearest)
{
    (void)argument;
    log_event(LOG_LEVEL_WARN, "environment_unknown", LOG_TEXT("variable", variable), LOG_TEXT("nearest", nearest), LOG_END);
}

void daemon_check_environment(void)
{
    settings_check_environment(warn_of_variable, NULL);
}

int daemon_open_log(const struct daemon *daemon, struct error *error)
{
    apply_log_level(daemon->settings);
    if (daemon->options->log_to_stderr)
        return 0;
    uint64_t max_size = (uint64_t)settings_integer(daemon->settings, "log.max_size");
    if (log_open_file(daemon->options->paths->log, max_size, (int)settings_integer(daemon->settings, "log.max_age_days")) != 0)
        return error_set_errno(error, "Cannot open the log '%s'", daemon->options->paths->log);
    return 0;
}

/* ---- reload ------------------------------------------------------------------------------------------------------ */

static bool lists_equal(const struct settings *a, const struct settings *b, const char *name)
{
    size_t a_count, b_count;
    const char *const *a_list = settings_list(a, name, &a_count), *const *b_list = settings_list(b, name, &b_count);
    bool equal = a_count == b_count;
    for (size_t i = 0; equal && i < a_count; i++)
        equal = strcmp(a_list[i], b_list[i]) == 0;
    return equal;
}

static bool is_unchanged(const struct setting_definition *row, const struct settings *a, const struct settings *b, const char *name)
{
    switch (row->type) {
    case SETTING_TEXT:
    case SETTING_CHOICE:
        return string_equal(settings_text(a, name), settings_text(b, name));
    case SETTING_INTEGER:
    case SETTING_SIZE:
        return settings_integer(a, name) == settings_integer(b, name);
    case SETTING_BOOL:
        return settings_bool(a, name) == settings_bool(b, name);
    case SETTING_LIST:
        return lists_equal(a, b, name);
    }
    return true;
}

static void tell_changes(const struct settings *before, const struct settings *after)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        char name[96];
        if (strchr(SETTINGS[i].section, '*') != NULL)
            continue; /* a table for each mesh: read when the mesh is taken up */
        (void)snprintf(name, sizeof(name), "%s.%s", SETTINGS[i].section, SETTINGS[i].key);
        if (is_unchanged(&SETTINGS[i], before, after, name))
            continue;
        bool applied = SETTINGS[i].live; /* read where it is used, or set by daemon_reload */
        log_event(applied ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, applied ? "setting_applied" : "setting_needs_restart",
                  LOG_TEXT("setting", name), LOG_END);
    }
}

void daemon_reload(struct daemon *daemon)
{
    struct settings *settings;
    struct error error;
    if (daemon_load_settings(daemon->options, &settings, &error) != 0) {
        log_event(LOG_LEVEL_ERROR, "reload_failed", LOG_TEXT("error", error.message), LOG_END);
        return;
    }
    tell_changes(daemon->settings, settings);
    settings_free(daemon->settings);
    daemon->settings = settings;
    if (daemon_open_log(daemon, &error) != 0)
        log_event(LOG_LEVEL_ERROR, "reload_failed", LOG_TEXT("error", error.message), LOG_END);
    struct ipc_limits limits;
    daemon_limits(settings, &limits);
    ipc_set_limits(daemon->ipc, &limits);
    const struct outbox_limits outbox_limits = daemon_outbox_limits(settings);
    outbox_set_limits(daemon->outbox, &outbox_limits);
    log_event(LOG_LEVEL_INFO, "reloaded", LOG_END);
}
