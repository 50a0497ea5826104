/* Owns how the settings reach the rooms: at start, and what a reload changes while running (80-operations, config.toml). */
#include "daemon/hooks.h"
#include "daemon/internal.h"
#include "delivery/delivery.h"
#include "json/json.h"
#include "util/log.h"
#include "util/notify.h"
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
    if (daemon->options->log_to_stderr) {
        (void)log_detect_journal();
        return 0;
    }
    uint64_t max_size = (uint64_t)settings_integer(daemon->settings, "log.max_size");
    if (log_open_file(daemon->options->paths->log, max_size, (int)settings_integer(daemon->settings, "log.max_age_days")) != 0)
        return error_set_errno(error, "Cannot open the log '%s'", daemon->options->paths->log);
    return 0;
}

/* ---- reload ------------------------------------------------------------------------------------------------------ */

struct reload_report {
    json_t *applied, *needs_restart;
};

static void note_change(void *argument, const char *name, bool live)
{
    const struct reload_report *report = argument;
    (void)json_array_append_new(live ? report->applied : report->needs_restart, json_string(name));
    log_event(live ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, live ? "setting_applied" : "setting_needs_restart", LOG_TEXT("setting", name),
              LOG_END);
}

/* Rows that are live, and not read where they are used. */
static void apply_live(struct daemon *daemon)
{
    const struct settings *settings = daemon->settings;
    struct ipc_limits limits;
    daemon_limits(settings, &limits);
    ipc_set_limits(daemon->ipc, &limits);
    const struct outbox_limits outbox_limits = daemon_outbox_limits(settings);
    outbox_set_limits(daemon->outbox, &outbox_limits);
    daemon_hooks_reload(daemon);
    for (const struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (mesh->delivery != NULL && !mesh->leaving)
            delivery_tune(mesh->delivery, (size_t)settings_integer(settings, "drain.window"),
                          settings_integer(settings, "drain.backoff_initial_ms"), settings_integer(settings, "drain.backoff_max_ms"),
                          (int)settings_integer(settings, "drain.jitter_pct"));
    inbox_set_maximum(daemon->inbox, settings_integer(settings, "inbox.max_bytes"));
    daemon_update_meshes(daemon); /* daemon.meshes */
    daemon_prune(daemon);         /* retention */
}

static int reload(struct daemon *daemon, json_t **ret_report, struct error *error)
{
    struct settings *settings;
    if (daemon_load_settings(daemon->options, &settings, error) != 0) {
        log_event(LOG_LEVEL_ERROR, "reload_failed", LOG_TEXT("error", error->message), LOG_END);
        return -(int)error->code;
    }
    struct reload_report report = { .applied = json_new_array(), .needs_restart = json_new_array() };
    settings_reload(settings, daemon->settings, note_change, &report);
    settings_free(daemon->settings);
    daemon->settings = settings;
    json_t *document = json_new_object();
    struct error log_error;
    if (daemon_open_log(daemon, &log_error) != 0) { /* the file that is open stays in use */
        log_event(LOG_LEVEL_ERROR, "reload_failed", LOG_TEXT("error", log_error.message), LOG_END);
        json_put_string(document, "warning", log_error.message);
    }
    apply_live(daemon);
    log_event(LOG_LEVEL_INFO, "reloaded", LOG_NUMBER("applied", json_array_size(report.applied)),
              LOG_NUMBER("needs_restart", json_array_size(report.needs_restart)), LOG_END);
    json_put(document, "applied", report.applied);
    json_put(document, "needs_restart", report.needs_restart);
    *ret_report = document;
    return 0;
}

int daemon_reload(struct daemon *daemon, json_t **ret_report, struct error *error)
{
    notify_reloading();
    int status = reload(daemon, ret_report, error);
    daemon_tell_ready(daemon); /* also when nothing was changed: it serves as before */
    return status;
}
