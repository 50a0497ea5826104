/* Owns what the daemon keeps when it is set up: which files (privilege/privilege.h has the rest). Must not open anything. */
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/internal.h"
#include "hooks/hooks.h"
#include "util/log.h"
#include "util/memory.h"

enum { PLACES = 24, LOW_PORTS = 1024 };

struct places {
    char *paths[PLACES]; /* heap */
    size_t count;
};

static void add(struct places *places, const char *path)
{
    if (path != NULL && path[0] == '/' && places->count < PLACES)
        places->paths[places->count++] = memory_strdup(path);
}

static void add_directory_of(struct places *places, const char *path)
{
    const char *slash = path == NULL ? NULL : strrchr(path, '/');
    if (slash == NULL)
        return;
    char *directory = memory_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    add(places, directory);
    free(directory);
}

/* A file that is a link: what it leads to, with the files beside it that belong to it (a database's log). */
static void add_target(struct places *places, const char *path)
{
    struct stat status;
    char target[PATH_MAX];
    if (lstat(path, &status) == 0 && S_ISLNK(status.st_mode) && realpath(path, target) != NULL)
        add_directory_of(places, target);
}

static void release(struct places *places)
{
    for (size_t i = 0; i < places->count; i++)
        free(places->paths[i]);
}

/* The authorities' certificates: read again at each reload, and replaced under their name. */
static void add_certificates(struct places *places, const char *path)
{
    char target[PATH_MAX];
    add_directory_of(places, path);
    if (path != NULL && realpath(path, target) != NULL)
        add_directory_of(places, target);
}

void daemon_confine(const struct daemon *daemon)
{
    const struct config_paths *paths = daemon->options->paths;
    if (!settings_bool(daemon->settings, "daemon.confine")) {
        log_event(LOG_LEVEL_WARN, "privilege_kept", LOG_TEXT("reason", "daemon.confine is false"), LOG_SECURITY, LOG_END);
        return;
    }
    struct places readable = { .count = 0 }, writable = { .count = 0 };
    struct privilege_state state;
    const char *ca_file = settings_text(daemon->settings, "broker.ca_file");
    add_certificates(&readable, ca_file[0] == '\0' ? NULL : ca_file);
    add_certificates(&readable, getenv("SSL_CERT_FILE"));
    add(&readable, getenv("SSL_CERT_DIR"));
    const char *const directories[] = { paths->root, paths->daemon, paths->sockets, paths->hooks };
    for (size_t i = 0; i < ARRAY_LENGTH(directories); i++)
        add(&writable, directories[i]);
    const char *const files[] = { paths->config_json, paths->config_toml, paths->outbox_db, paths->inbox_db, paths->log };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++)
        add_target(&writable, files[i]);
    const int64_t port = settings_integer(daemon->settings, "ipc.tcp_port");
    const struct privilege_rules rules = {
        .readable = (const char *const *)readable.paths,
        .readable_count = readable.count,
        .writable = (const char *const *)writable.paths,
        .writable_count = writable.count,
        .runs = hooks_run_base(),
        .low_ports = port > 0 && port < LOW_PORTS,
    };
    privilege_drop(&rules, &state);
    privilege_log(&state);
    release(&readable);
    release(&writable);
}
