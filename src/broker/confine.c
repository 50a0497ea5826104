/* Owns the list of files that the broker keeps. Must not open anything. */
#include "broker/confine.h"

#include <limits.h>
#include <sys/stat.h>

#include "util/file.h"
#include "util/log.h"
#include "util/memory.h"

enum { PLACES = 12, LOW_PORTS = 1024 };

struct places {
    char *paths[PLACES]; /* heap */
    size_t count;
};

/* Of the name and of what it leads to: certificates are links into the directory of those who renew them. */
static void add_directories_of(struct places *places, const char *path)
{
    char target[PATH_MAX];
    const char *const names[] = { path, path == NULL ? NULL : realpath(path, target) };
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        const char *slash = names[i] == NULL ? NULL : strrchr(names[i], '/');
        if (names[i] != NULL && places->count < PLACES)
            places->paths[places->count++] = slash == NULL       ? memory_strdup(".")
                                             : slash == names[i] ? memory_strdup("/")
                                                                 : memory_strndup(names[i], (size_t)(slash - names[i]));
    }
}

static void release(struct places *places)
{
    for (size_t i = 0; i < places->count; i++)
        free(places->paths[i]);
}

void broker_confine_log(const struct broker_options *options, const struct privilege_state *state)
{
    if (settings_bool(options->settings, "broker.confine"))
        privilege_log(state);
    else
        log_event(LOG_LEVEL_WARN, "privilege_kept", LOG_TEXT("reason", "broker.confine is false"), LOG_SECURITY, LOG_END);
}

void broker_confine(const struct broker_options *options, const char *store_directory, const char *token_path, uint16_t port,
                    struct privilege_state *ret_state)
{
    if (!settings_bool(options->settings, "broker.confine"))
        return;
    struct places readable = { .count = 0 }, writable = { .count = 0 };
    add_directories_of(&readable, options->tls_cert);
    add_directories_of(&readable, options->tls_key);
    add_directories_of(&readable, options->config_file); /* read again at SIGHUP */
    add_directories_of(file_exists(token_path) ? &readable : &writable, token_path);
    if (store_directory != NULL)
        writable.paths[writable.count++] = memory_strdup(store_directory);
    const char *store = options->store == NULL ? options->paths->broker_db : strchr(options->store, ':') + 1;
    struct stat status;
    if (store_directory != NULL && lstat(store, &status) == 0 && S_ISLNK(status.st_mode))
        add_directories_of(&writable, store);
    const struct privilege_rules rules = {
        .readable = (const char *const *)readable.paths,
        .readable_count = readable.count,
        .writable = (const char *const *)writable.paths,
        .writable_count = writable.count,
        .low_ports = port > 0 && port < LOW_PORTS,
    };
    privilege_drop(&rules, ret_state);
    release(&readable);
    release(&writable);
}
