/* Owns what a start makes of the recorded host (50-identity, Host fingerprint): refuses another one, records a first one, goes on with a warning where the policy says so. */
#include "daemon/internal.h"
#include "identity/host.h"
#include "ipc/metrics.h"
#include "util/log.h"
#include "util/text.h"

static const char *policy_of(const struct daemon *daemon)
{
    return settings_text(daemon->settings, "clone.policy");
}

/* Under `refuse` nobody goes on; accepted is said by a flag, once. */
static bool is_refused(const struct daemon *daemon, const struct host_check *check)
{
    return check->verdict == HOST_MISMATCH && !daemon->options->accept_cloned_identity && string_equal(policy_of(daemon), "refuse");
}

static int refuse(struct daemon *daemon, const struct host_check *check, struct error *error)
{
    char stored[HOST_SHORT_SIZE], current[HOST_SHORT_SIZE];
    host_record_describe(&check->stored, stored);
    host_record_describe(&check->current, current);
    daemon->failure_status = DAEMON_EXIT_IDENTITY;
    return error_set(
        error, ERROR_CONFLICT,
        "These keys belong to another host (%s); this one is %s. If they moved here and nothing uses them there any more, keep them: "
        "`claudemesh daemon accept-host`. If this is a copy, make new ones: `claudemesh daemon remint`.",
        stored, current);
}

static int look(struct daemon *daemon, struct host_check *check, struct error *error)
{
    int status = host_check(daemon->options->paths, check, error);
    if (status == -(int)ERROR_CORRUPT || status == -(int)ERROR_NEWER)
        daemon->failure_status = DAEMON_EXIT_IDENTITY;
    if (status == 0 && is_refused(daemon, check))
        status = refuse(daemon, check, error);
    return status;
}

int daemon_check_host(struct daemon *daemon, struct error *error)
{
    struct host_check check;
    return daemon->modes.ephemeral ? 0 : look(daemon, &check, error);
}

/* ---- under the lock --------------------------------------------------------------------------------------------------------- */

static void tell(enum log_level level, const char *event, const struct host_check *check, const char *policy)
{
    char stored[HOST_SHORT_SIZE], current[HOST_SHORT_SIZE];
    host_record_describe(&check->stored, stored);
    host_record_describe(&check->current, current);
    log_event(level, event, LOG_SECURITY, LOG_TEXT("recorded", stored), LOG_TEXT("host", current), LOG_TEXT("policy", policy), LOG_END);
}

static int record(const struct daemon *daemon, const struct host_check *check, struct error *error)
{
    return host_record_write(daemon->options->paths->host_fingerprint, &check->current, error);
}

static int settle_mismatch(struct daemon *daemon, const struct host_check *check, struct error *error)
{
    if (daemon->options->accept_cloned_identity) {
        tell(LOG_LEVEL_WARN, "host_accepted", check, policy_of(daemon));
        return record(daemon, check, error);
    }
    /* The file stays: it says which host was accepted, and each start here says that this is another one. */
    tell(string_equal(policy_of(daemon), "allow") ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "host_differs", check, policy_of(daemon));
    ipc_metrics_clone_suspected(daemon->metrics);
    return 0;
}

static void tell_undetectable(void)
{
    log_event(LOG_LEVEL_WARN, "host_undetectable", LOG_SECURITY,
              LOG_TEXT("detail", "neither a host id nor a hardware address can be read: a copy of this directory would not be noticed"),
              LOG_END);
}

static int record_persistent(struct daemon *daemon, struct host_check *check, struct error *error)
{
    struct error failure;
    int status = look(daemon, check, error); /* anew: whoever held the lock until now may have recorded another host */
    if (status != 0)
        return status;
    switch (check->verdict) {
    case HOST_FIRST_START:
    case HOST_NOW_READABLE:
        if (host_record_is_random(&check->current))
            tell_undetectable();
        return record(daemon, check, error);
    case HOST_MAC_GONE:
        tell(LOG_LEVEL_WARN, "host_address_changed", check, policy_of(daemon));
        if (record(daemon, check, &failure) != 0) /* the same host: the next start tries again */
            log_event(LOG_LEVEL_WARN, "host_not_recorded", LOG_TEXT("error", failure.message), LOG_END);
        return 0;
    case HOST_MISMATCH:
        return settle_mismatch(daemon, check, error);
    case HOST_UNDETECTABLE:
        tell_undetectable();
        return 0;
    case HOST_MATCH:
    case HOST_VERDICTS:
        break;
    }
    return 0;
}

int daemon_record_host(struct daemon *daemon, struct error *error)
{
    struct host_check check;
    int status = 0;
    if (daemon->modes.ephemeral) {
        struct host_facts facts;
        status = host_facts_read(NULL, &facts, error);
        if (status == 0) {
            host_record_make(&facts, &check.current);
            host_facts_release(&facts);
        }
    } else {
        status = record_persistent(daemon, &check, error);
    }
    if (status == 0)
        memcpy(daemon->host_fingerprint, check.current.fingerprint, sizeof(daemon->host_fingerprint));
    return status;
}
