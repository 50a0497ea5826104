/* Owns how settings become figures, at the start and at SIGHUP (80-operations): what can change live does, what cannot is said, a file that cannot be read changes nothing. The
 * certificate is read again, too: those who renew it send the signal. */
#include "broker/state.h"

#include "net/tls.h"
#include "util/log.h"
#include "util/notify.h"
#include "util/text.h"

static enum connection_policy policy_of(const char *name)
{
    if (string_equal(name, "prefer_oldest"))
        return POLICY_PREFER_OLDEST;
    return string_equal(name, "allow_concurrent") ? POLICY_ALLOW_CONCURRENT : POLICY_PREFER_NEWEST;
}

void broker_read_figures(struct broker *broker, const struct settings *settings)
{
    static const int64_t DAY_MS = INT64_C(24) * 60 * 60 * 1000;
    struct broker_figures *figures = &broker->figures;
    figures->dedupe_permanent = string_equal(settings_text(settings, "broker.dedupe_mode"), "permanent");
    figures->dedupe_retention_days = settings_integer(settings, "broker.dedupe_retention_days");
    figures->dedupe_retention_ms = figures->dedupe_retention_days * DAY_MS;
    figures->key_grace_ms = settings_integer(settings, "broker.key_grace_period_days") * DAY_MS;
    figures->message_retention_ms = settings_integer(settings, "broker.message_retention_days") * DAY_MS;
    figures->inline_bytes = settings_integer(settings, "broker.inline_bytes");
    figures->blob_bytes = settings_integer(settings, "broker.blob_bytes");
    figures->ciphertext_maximum = (size_t)(6 * figures->inline_bytes + 131072);
    figures->max_connections = (size_t)settings_integer(settings, "broker.max_connections");
    figures->max_connections_per_mesh = (size_t)settings_integer(settings, "broker.max_connections_per_mesh");
    figures->max_new_connections_per_second = (size_t)settings_integer(settings, "broker.max_new_connections_per_second");
    figures->hello_timeout_ms = settings_integer(settings, "broker.hello_timeout_s") * 1000;
    figures->presence_grace_ms = settings_integer(settings, "broker.presence_grace_s") * 1000;
    figures->check_interval_ms = settings_integer(settings, "broker.check_interval_s") * 1000;
    figures->lease_ms = settings_integer(settings, "broker.lease_s") * 1000;
    figures->window = (size_t)settings_integer(settings, "broker.window");
    figures->policy_name = settings_text(settings, "broker.connection_policy");
    figures->policy = policy_of(figures->policy_name);
    broker->allowed_origins = settings_list(settings, "broker.allowed_origins", &broker->allowed_origin_count);
    broker->trusted_proxies = settings_list(settings, "broker.trusted_proxies", &broker->trusted_proxy_count);
}

static void tell_change(void *argument, const char *name, bool live)
{
    (void)argument;
    log_event(live ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, live ? "setting_applied" : "setting_needs_restart", LOG_TEXT("setting", name),
              LOG_END);
}

static void reload_certificate(struct broker *broker)
{
    const struct broker_options *options = broker->options;
    SSL_CTX *fresh = NULL;
    struct error error;
    if (options->tls_cert == NULL)
        return;
    if (tls_server_context_new(options->tls_cert, options->tls_key, &fresh, &error) != 0) {
        log_event(LOG_LEVEL_ERROR, "certificate_reload_failed", LOG_TEXT("error", error.message), LOG_END);
        return;
    }
    http_server_set_tls(broker->server, fresh);
    SSL_CTX_free(broker->tls);
    broker->tls = fresh;
    log_event(LOG_LEVEL_INFO, "certificate_reloaded", LOG_END);
}

static void reload(struct broker *broker)
{
    struct settings *fresh;
    struct error error;
    enum log_level level;
    reload_certificate(broker);
    if (settings_load(BROKER_SETTINGS, BROKER_SETTING_COUNT, "CLAUDEMESH_BROKER_", broker->options->config_file, &fresh, &error) != 0) {
        log_event(LOG_LEVEL_ERROR, "reload_failed", LOG_TEXT("error", error.message), LOG_END);
        return;
    }
    settings_reload(fresh, broker->reloaded != NULL ? broker->reloaded : broker->options->settings, tell_change, NULL);
    broker_read_figures(broker, fresh); /* they point into the settings: before the old ones go */
    settings_free(broker->reloaded);
    broker->reloaded = fresh;
    if (log_level_parse(settings_text(fresh, "log.level"), &level) == 0)
        log_set_level(level);
    log_event(LOG_LEVEL_INFO, "reloaded", LOG_END);
}

void broker_reload(void *argument, int signal_number)
{
    (void)signal_number;
    struct broker *broker = argument;
    notify_reloading();
    reload(broker);
    watchdog_tell_ready(broker->watchdog); /* also when nothing was changed: it serves as before */
}
