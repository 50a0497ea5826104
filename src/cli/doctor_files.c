/* doctor: what lies in the configuration directory. Looks at names, modes and owners, and reads what is small and no database. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/doctor.h"
#include "cli/output.h"
#include "identity/host.h"
#include "identity/identity.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- settings, environment, meshes -------------------------------------------------------------------------------- */

static void tell_variable(void *argument, const char *variable, const char *nearest)
{
    char *remedy = memory_printf("unset %s", variable);
    doctor_tell(argument, DOCTOR_PROBLEM, "environment", remedy,
                "Nothing reads the environment variable %s; the nearest that is read is %s.", variable, nearest);
    free(remedy);
}

/* A file that a person has to mend. */
static char *edit(const char *path)
{
    char *quoted = doctor_quote(path);
    char *remedy = memory_printf("${EDITOR:-vi} %s", quoted);
    free(quoted);
    return remedy;
}

static void tell_bad_settings(struct doctor *doctor, const char *why)
{
    static const char MARK[] = "the environment variable ";
    const char *variable = strstr(why, MARK);
    char *remedy = NULL;
    if (variable != NULL) {
        variable += sizeof MARK - 1;
        remedy = memory_printf("unset %.*s", (int)strcspn(variable, " :"), variable);
    } else {
        remedy = edit(doctor->cli->paths.config_toml);
    }
    doctor_tell(doctor, DOCTOR_PROBLEM, variable != NULL ? "environment" : "config_toml", remedy, "%s", why);
    free(remedy);
}

static void tell_overrides(struct doctor *doctor)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        char *name = memory_printf("%s.%s", SETTINGS[i].section, SETTINGS[i].key);
        if (settings_origin(doctor->settings, name) == ORIGIN_ENVIRONMENT) {
            doctor_tell(doctor, DOCTOR_NOTE, "environment", NULL,
                        "%s comes from the environment of this shell; a daemon that runs has its own.", name);
        }
        free(name);
    }
}

void doctor_check_settings(struct doctor *doctor)
{
    struct error error;
    const char *path = doctor->cli->paths.config_toml;
    settings_check_environment(tell_variable, doctor);
    if (settings_load(SETTINGS, SETTING_COUNT, "CLAUDEMESH_", path, &doctor->settings, &error) != 0) {
        doctor->settings = NULL;
        tell_bad_settings(doctor, error.message);
        return;
    }
    tell_overrides(doctor);
    doctor_tell(doctor, DOCTOR_OK, "config_toml", NULL,
                file_exists(path) ? "The settings of %s are sound." : "There is no %s; every setting has its default.", path);
}

static void check_rotation(struct doctor *doctor, const struct config_mesh *mesh)
{
    char *remedy = NULL;
    if (mesh->next_secret_key != NULL) {
        remedy = doctor_command(doctor, "daemon rotate-keypair --mesh %s", mesh->slug);
        doctor_tell(
            doctor, DOCTOR_NOTE, "rotation", remedy,
            "Mesh '%s': a rotation of its key is not finished. A daemon that is connected finishes it by itself; to go on with it now:",
            mesh->slug);
    }
    free(remedy);
}

void doctor_check_meshes(struct doctor *doctor)
{
    struct error error;
    const char *path = doctor->cli->paths.config_json;
    struct config_file *file = memory_zalloc(sizeof *file);
    if (config_file_read(path, file, &error) != 0) {
        free(file);
        if (error.code != ERROR_DENIED) { /* the permissions are told below */
            char *remedy = edit(path);
            doctor_tell(doctor, DOCTOR_PROBLEM, "config_json", remedy, "%s", error.message);
            free(remedy);
        }
        return;
    }
    doctor->file = file;
    if (file->mesh_count == 0) {
        doctor_tell(doctor, DOCTOR_NOTE, "config_json", NULL, "No mesh is joined yet; join one with an invite: %s join <invite>.",
                    doctor->program);
        return;
    }
    for (size_t i = 0; i < file->mesh_count; i++) {
        check_rotation(doctor, &file->meshes[i]);
    }
    doctor_tell(doctor, DOCTOR_OK, "config_json", NULL, "%zu mesh%s joined.", file->mesh_count, file->mesh_count == 1 ? "" : "es");
}

/* ---- permissions --------------------------------------------------------------------------------------------------- */

static void check_path(struct doctor *doctor, const char *path, mode_t mode)
{
    struct stat status;
    if (lstat(path, &status) != 0) {
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) {
            doctor_tell(doctor, DOCTOR_PROBLEM, "permissions", NULL, "Cannot look at %s: %s.", path, strerror(errno));
        }
        return;
    }
    if (S_ISLNK(status.st_mode) && stat(path, &status) != 0) {
        return;
    }
    char *quoted = doctor_quote(path);
    if (status.st_uid != geteuid()) {
        char *remedy = memory_printf("sudo chown \"$(id -un)\" %s", quoted);
        doctor_tell(doctor, DOCTOR_PROBLEM, "owner", remedy, "%s belongs to user %u, and you are %u.", path, (unsigned)status.st_uid,
                    (unsigned)geteuid());
        free(remedy);
    } else if ((status.st_mode & 07777 & ~mode) != 0 || (status.st_mode & mode & S_IRWXU) != (mode & S_IRWXU)) {
        char *remedy = memory_printf("chmod %04o %s", (unsigned)mode, quoted);
        doctor_tell(doctor, DOCTOR_PROBLEM, "permissions", remedy, "%s has mode %04o; it should be %04o.", path,
                    (unsigned)(status.st_mode & 07777), (unsigned)mode);
        free(remedy);
    }
    free(quoted);
}

enum { DIRECTORY_MODE = 0700, FILE_MODE = 0600, PORT_MODE = 0644 };

/* What is made with other names: logs that were rotated, databases' companions, copies that were moved aside. None of it is for others. */
static void check_all_in(struct doctor *doctor, const char *directory)
{
    DIR *handle = opendir(directory);
    const struct dirent *entry;
    while (handle != NULL && (entry = readdir(handle)) != NULL) {
        struct stat status;
        char *path = path_join(directory, entry->d_name);
        if (lstat(path, &status) == 0 && (S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode))) {
            check_path(doctor, path, strcmp(entry->d_name, "http.port") == 0 ? PORT_MODE : FILE_MODE);
        }
        free(path);
    }
    if (handle != NULL) {
        (void)closedir(handle);
    }
}

void doctor_check_permissions(struct doctor *doctor)
{
    const struct config_paths *paths = &doctor->cli->paths;
    const char *const directories[] = { paths->root, paths->daemon, paths->sockets, paths->hooks, paths->broker };
    size_t before = doctor->problems;
    for (size_t i = 0; i < ARRAY_LENGTH(directories); i++) {
        check_path(doctor, directories[i], DIRECTORY_MODE);
    }
    check_path(doctor, paths->config_json, FILE_MODE);
    check_all_in(doctor, paths->daemon);
    check_all_in(doctor, paths->sockets);
    check_all_in(doctor, paths->broker);
    if (doctor->problems == before && file_exists(paths->root)) {
        doctor_tell(doctor, DOCTOR_OK, "permissions", NULL, "%s and what is in it is yours alone.", paths->root);
    }
}

/* ---- host fingerprint ------------------------------------------------------------------------------------------------ */

void doctor_check_host(struct doctor *doctor)
{
    struct host_check check;
    struct error error;
    char *accept = doctor_command(doctor, "daemon accept-host");
    if (host_check(&doctor->cli->paths, &check, &error) != 0) {
        bool readable = error.code == ERROR_CORRUPT;
        doctor_tell(doctor, DOCTOR_PROBLEM, "host", readable ? accept : NULL, "%s", error.message);
        free(accept);
        return;
    }
    char stored[HOST_SHORT_SIZE], current[HOST_SHORT_SIZE];
    switch (check.verdict) {
    case HOST_MISMATCH:
        host_record_describe(&check.stored, stored);
        host_record_describe(&check.current, current);
        doctor_tell(doctor, DOCTOR_PROBLEM, "host", accept,
                    "This installation was made on another host (%s; this is %s). If it was moved here, keep its keys with accept-host; if "
                    "this is a copy, run "
                    "`%s daemon remint` instead.",
                    stored, current, doctor->program);
        break;
    case HOST_UNDETECTABLE:
        doctor_tell(doctor, DOCTOR_NOTE, "host", NULL, "This host has no readable id: copies of this installation are not noticed.");
        break;
    case HOST_MAC_GONE:
        doctor_tell(doctor, DOCTOR_NOTE, "host", NULL,
                    "The network card that this host was known by is gone; the next start records another.");
        break;
    case HOST_FIRST_START:
        doctor_tell(doctor, DOCTOR_OK, "host", NULL, "The first start will record which host this is.");
        break;
    case HOST_MATCH:
    case HOST_NOW_READABLE:
    case HOST_VERDICTS:
        doctor_tell(doctor, DOCTOR_OK, "host", NULL, "This is the host that the installation was made on.");
        break;
    }
    free(accept);
}

/* ---- databases: by their first bytes and their companions ------------------------------------------------------------- */

static void check_database(struct doctor *doctor, const char *path, bool running)
{
    static const char MAGIC[] = "SQLite format 3"; /* with its NUL: 16 bytes */
    char head[sizeof MAGIC] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* whatever lies there */
    if (fd < 0) {
        return; /* not made yet, or told as a permission */
    }
    ssize_t count = read(fd, head, sizeof head);
    (void)close(fd); /* no lock of ours is on it: this process never opened it as a database */
    const char *name = strrchr(path, '/') + 1;
    if (count > 0 && (count < (ssize_t)sizeof head || memcmp(head, MAGIC, sizeof MAGIC) != 0)) {
        char *remedy = doctor_command(doctor, "daemon recover");
        doctor_tell(doctor, DOCTOR_PROBLEM, "database", remedy, "%s is damaged: it does not begin as a database does.", name);
        free(remedy);
        return;
    }
    char *log = memory_printf("%s-wal", path);
    struct stat status;
    if (!running && stat(log, &status) == 0 && status.st_size > 0) {
        char *remedy = doctor_command(doctor, "daemon up");
        doctor_tell(doctor, DOCTOR_NOTE, "database", remedy,
                    "%s was not closed in order (a crash, or the power went); the next start checks it and loses nothing.", name);
        free(remedy);
    } else {
        doctor_tell(doctor, DOCTOR_OK, "database", NULL, "%s looks sound from outside.", name);
    }
    free(log);
}

void doctor_check_databases(struct doctor *doctor)
{
    const struct config_paths *paths = &doctor->cli->paths;
    struct error error;
    int64_t pid;
    bool running = identity_running_pid(paths, &pid, &error) == 0;
    check_database(doctor, paths->outbox_db, running);
    check_database(doctor, paths->inbox_db, running);
}

/* ---- what was moved aside ----------------------------------------------------------------------------------------------- */

static const char *meaning_of(const char *name)
{
    static const struct {
        const char *part, *meaning;
    } MARKS[] = {
        { ".corrupt-", "a damaged database that was moved aside; the messages in it may be of use" },
        { ".malformed-", "a key archive that could not be read and was moved aside" },
        { ".replaced-", "what was there before accept-host or a restore" },
        { ".damaged-", "a damaged file that was moved aside" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(MARKS); i++) {
        if (strstr(name, MARKS[i].part) != NULL) {
            return MARKS[i].meaning;
        }
    }
    return NULL;
}

void doctor_check_leftovers(struct doctor *doctor)
{
    DIR *handle = opendir(doctor->cli->paths.daemon);
    const struct dirent *entry;
    while (handle != NULL && (entry = readdir(handle)) != NULL) {
        const char *meaning = meaning_of(entry->d_name);
        if (meaning == NULL) {
            continue;
        }
        char *path = path_join(doctor->cli->paths.daemon, entry->d_name), *quoted = doctor_quote(path);
        char *remedy = memory_printf("rm -f %s", quoted);
        doctor_tell(doctor, DOCTOR_NOTE, "left_over", remedy, "%s is %s; remove it when you need it no more.", path, meaning);
        free(remedy);
        free(quoted);
        free(path);
    }
    if (handle != NULL) {
        (void)closedir(handle);
    }
}
