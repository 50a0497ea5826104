/* Owns where things lie (10-cli, Files). Makes directories; must not read or write the files. */
#include "config/config.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/file.h"
#include "util/memory.h"

struct place {
    size_t field, parent; /* offsets of char * in struct config_paths; a parent stands above its children */
    const char *name;
};

#define PLACE(field, parent, name)                                                          \
    {                                                                                       \
        offsetof(struct config_paths, field), offsetof(struct config_paths, parent), (name) \
    }

static const struct place PLACES[] = {
    PLACE(config_json, root, "config.json"),
    PLACE(sockets, root, "sockets"),
    PLACE(daemon, root, "daemon"),
    PLACE(pid_file, daemon, "daemon.pid"),
    PLACE(socket, daemon, "daemon.sock"),
    PLACE(http_port, daemon, "http.port"),
    PLACE(local_token, daemon, "local-token"),
    PLACE(config_toml, daemon, "config.toml"),
    PLACE(outbox_db, daemon, "outbox.db"),
    PLACE(inbox_db, daemon, "inbox.db"),
    PLACE(inbox_rebuild, daemon, "inbox.rebuild"),
    PLACE(outbox_recovery, daemon, "outbox.recovery"),
    PLACE(host_fingerprint, daemon, "host_fingerprint.json"),
    PLACE(keypair_archive, daemon, "keypair-archive.json"),
    PLACE(topic_keys, daemon, "topic_keys.json"),
    PLACE(log, daemon, "daemon.log"),
    PLACE(hooks, daemon, "hooks"),
    PLACE(session_id, daemon, "session-id"),
    PLACE(broker, root, "broker"),
    PLACE(broker_db, broker, "broker.db"),
    PLACE(broker_admin_token, broker, "admin-token"),
};

static char **field_at(struct config_paths *paths, size_t offset)
{
    return (char **)(void *)((char *)paths + offset);
}

static bool is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* A daemon leaves its working directory, so that a relative path would lead elsewhere later. */
static int make_absolute(const char *path, char **ret_path, struct error *error)
{
    char here[PATH_MAX];
    if (path[0] == '/') {
        *ret_path = memory_strdup(path);
    } else if (getcwd(here, sizeof(here)) != NULL) {
        *ret_path = path_join(here, path);
    } else {
        return error_set_errno(error, "cannot tell the working directory");
    }
    for (size_t length = strlen(*ret_path); length > 1 && (*ret_path)[length - 1] == '/'; length--) {
        (*ret_path)[length - 1] = '\0';
    }
    return 0;
}

static int home_directory(char **ret_home, struct error *error)
{
    const char *home = getenv("HOME");
    if (home == NULL || home[0] == '\0') {
        const struct passwd *entry = getpwuid(geteuid()); /* at start-up, with one thread */
        home = entry == NULL ? NULL : entry->pw_dir;
    }
    if (home == NULL || home[0] == '\0') {
        return error_set(error, ERROR_NOT_FOUND, "no home directory is known; use --config-dir");
    }
    *ret_home = memory_strdup(home);
    return 0;
}

static int default_root(char **ret_root, struct error *error)
{
    char *home = NULL;
    int result = home_directory(&home, error);
    if (result == 0) {
        char *path = path_join(home, ".claudemesh");
        result = make_absolute(path, ret_root, error);
        free(path);
    }
    free(home);
    return result;
}

int config_paths_init(const char *config_dir_flag, struct config_paths *ret_paths, bool *ret_ignored_variable, struct error *error)
{
    const char *variable = getenv("CLAUDEMESH_CONFIG_DIR");
    bool ignored = false;
    char *root = NULL;
    int result = 0;
    if (config_dir_flag != NULL) {
        result = config_dir_flag[0] == '\0' ? error_set(error, ERROR_INVALID, "--config-dir names no directory")
                                            : make_absolute(config_dir_flag, &root, error);
    } else if (variable != NULL && variable[0] != '\0' && is_directory(variable)) {
        result = make_absolute(variable, &root, error);
    } else {
        ignored = variable != NULL && variable[0] != '\0';
        result = default_root(&root, error);
    }
    if (result != 0) {
        free(root);
        return result;
    }
    *ret_paths = (struct config_paths){ .root = root };
    for (size_t index = 0; index < ARRAY_LENGTH(PLACES); index++) {
        *field_at(ret_paths, PLACES[index].field) = path_join(*field_at(ret_paths, PLACES[index].parent), PLACES[index].name);
    }
    if (ret_ignored_variable != NULL) {
        *ret_ignored_variable = ignored;
    }
    return 0;
}

void config_paths_release(struct config_paths *paths)
{
    if (paths == NULL) {
        return;
    }
    for (size_t index = 0; index < ARRAY_LENGTH(PLACES); index++) {
        free(*field_at(paths, PLACES[index].field));
    }
    free(paths->root);
    *paths = (struct config_paths){ .root = NULL };
}

int config_paths_make(const struct config_paths *paths, struct error *error)
{
    const char *const directories[] = { paths->root, paths->daemon, paths->sockets, paths->hooks };
    int result = 0;
    for (size_t index = 0; index < ARRAY_LENGTH(directories) && result == 0; index++) {
        result = directory_ensure(directories[index], 0700, error);
    }
    return result;
}
