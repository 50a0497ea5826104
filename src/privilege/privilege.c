/* Owns the order in which privileges go. Must not know whose process it is. */
#include "privilege/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "util/log.h"

const char *const PRIVILEGE_SYSTEM_FILES[] = {
    "/etc", /* resolv.conf, hosts, ssl …: replaced under their names, so that the directory it must be */
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
    "/run/netconfig",
    "/mnt/wsl", /* where resolv.conf may lead */
    "/nix/store",
    "/gnu/store", /* where certificates and libraries may lie */
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64", /* what a library loads late */
    "/opt/homebrew/etc",
    "/proc/self",
    "/sys/devices/system/cpu",
    "/dev/urandom",
    "/dev/random",
    NULL
};

int privilege_no_core_dumps(struct error *error)
{
    const struct rlimit none = { 0, 0 };
    if (setrlimit(RLIMIT_CORE, &none) != 0)
        return error_set_errno(error, "Cannot turn core dumps off");
#if defined(__linux__) && !defined(PRIVILEGE_HAS_SANITIZER)
    /* The limit does not hold for a core that is piped to a program. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return error_set_errno(error, "Cannot turn core dumps off");
#endif
    return 0;
}

#ifdef __linux__

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif
#ifndef PR_MDWE_REFUSE_EXEC_GAIN
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

static void note_failure(struct privilege_state *state, const char *what)
{
    if (state->failed == NULL) {
        state->failed = what;
        state->failed_errno = errno;
    }
}

static bool has_capability(const struct __user_cap_data_struct data[static 2], unsigned capability)
{
    return (data[capability / 32].effective >> (capability % 32) & 1) != 0;
}

/* The bounding set needs CAP_SETPCAP, which an ordinary user has not; without new privileges it decides nothing any more. */
static void drop_bounding_set(unsigned kept)
{
    for (unsigned capability = 0; capability < 64; capability++)
        if (capability != kept && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno == EINVAL)
            return; /* past the last that this kernel knows */
}

static bool drop_capabilities(bool low_ports)
{
    enum { NONE = 64 };
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct now[2], kept[2] = { { 0 }, { 0 } };
    if (syscall(SYS_capget, &header, now) != 0)
        return false;
    unsigned keep = low_ports && has_capability(now, CAP_NET_BIND_SERVICE) ? CAP_NET_BIND_SERVICE : NONE;
    drop_bounding_set(keep);
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* before Linux 4.3 there is none */
    if (keep != NONE)
        kept[0].effective = kept[0].permitted = 1U << keep;
    if (memcmp(now, kept, sizeof now) == 0)
        return true; /* an ordinary user's, and a service manager's that was here first */
    return syscall(SYS_capset, &header, kept) == 0;
}

void privilege_drop(const struct privilege_rules *rules, struct privilege_state *ret_state)
{
    struct privilege_state state = { 0 };
    state.no_new_privileges = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    if (!state.no_new_privileges)
        note_failure(&state, "no_new_privileges");
    int files = privilege_restrict_files(rules, &state.landlock);
    if (files < 0)
        note_failure(&state, "landlock");
    state.no_capabilities = drop_capabilities(rules->low_ports);
    if (!state.no_capabilities)
        note_failure(&state, "capabilities");
    state.no_writable_code = prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0; /* Linux 6.3 */
    int calls = privilege_forbid_system_calls();                                         /* last: it forbids some of the above */
    if (calls < 0)
        note_failure(&state, "seccomp");
    state.system_calls = calls > 0;
    *ret_state = state;
}

#else

void privilege_drop(const struct privilege_rules *rules, struct privilege_state *ret_state)
{
    (void)rules; /* nothing of this kind here */
    *ret_state = (struct privilege_state){ 0 };
}

#endif

void privilege_log(const struct privilege_state *state)
{
    bool weak = state->failed != NULL || !state->no_new_privileges || !state->system_calls || state->landlock == 0;
    log_event(weak ? LOG_LEVEL_WARN : LOG_LEVEL_INFO, "privilege_dropped", LOG_BOOL("no_new_privileges", state->no_new_privileges),
              LOG_BOOL("no_capabilities", state->no_capabilities), LOG_BOOL("seccomp", state->system_calls),
              LOG_NUMBER("landlock", state->landlock), LOG_BOOL("no_writable_code", state->no_writable_code),
              LOG_TEXT("failed", state->failed), LOG_NUMBER("errno", state->failed_errno), LOG_END);
}
