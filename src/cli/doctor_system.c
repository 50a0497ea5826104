/* doctor: what the system gives: disk, descriptors, locked memory, hooks, the service. */
#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/doctor.h"
#include "cli/service.h"
#include "hooks/hook_config.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- disk ------------------------------------------------------------------------------------------------------------ */

void doctor_check_disk(struct doctor *doctor)
{
    enum { LEAST_PCT = 5, ALL = 100, MIB = 1024 * 1024, LEAST_MIB = 100 };
    struct statvfs disk;
    const char *root = doctor->cli->paths.root;
    if (statvfs(root, &disk) != 0 || disk.f_blocks == 0) {
        return; /* nothing is there yet */
    }
    uint64_t free_mib = (uint64_t)disk.f_bavail * disk.f_frsize / MIB, pct = (uint64_t)disk.f_bavail * ALL / disk.f_blocks;
    if (free_mib >= LEAST_MIB && pct >= LEAST_PCT) {
        doctor_tell(doctor, DOCTOR_OK, "disk", NULL, "%" PRIu64 " MiB are free.", free_mib);
        return;
    }
    char *quoted = doctor_quote(root);
    char *remedy = memory_printf("du -xak %s | sort -n | tail", quoted);
    doctor_tell(
        doctor, free_mib < LEAST_MIB ? DOCTOR_PROBLEM : DOCTOR_NOTE, "disk", remedy,
        "Only %" PRIu64 " MiB (%" PRIu64
        " %%) are free where %s is: make room; below is what claudemesh itself takes there. What is queued waits, new sends are refused "
        "when it is full.",
        free_mib, pct, root);
    free(remedy);
    free(quoted);
}

/* ---- limits ------------------------------------------------------------------------------------------------------------ */

struct needed {
    const char *what, *letter, *name; /* for a person, for ulimit, for prlimit */
    rlim_t least, unit;               /* of ulimit's number */
};

static void check_limit(struct doctor *doctor, const struct rlimit *limit, const struct needed *needed)
{
    if (limit->rlim_cur == RLIM_INFINITY || limit->rlim_cur >= needed->least) {
        doctor_tell(doctor, DOCTOR_OK, "limits", NULL, "The limit for %s suffices.", needed->what);
        return;
    }
    bool can = limit->rlim_max == RLIM_INFINITY || limit->rlim_max >= needed->least;
    unsigned long long least = needed->least;
    char *remedy = can ? memory_printf("ulimit -S%s %llu", needed->letter, least / needed->unit)
                       : memory_printf("sudo prlimit --pid $$ --%s=%llu", needed->name, least);
    doctor_tell(doctor, DOCTOR_PROBLEM, "limits", remedy, "The limit for %s is %llu, and at least %llu are needed.", needed->what,
                (unsigned long long)limit->rlim_cur, least);
    free(remedy);
}

void doctor_check_limits(struct doctor *doctor)
{
    static const struct needed DESCRIPTORS = { "open files", "n", "nofile", 1024, 1 };
    static const struct needed LOCKED = { "locked memory (keys are kept in it)", "l", "memlock", 64 * 1024, 1024 };
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        check_limit(doctor, &limit, &DESCRIPTORS);
    }
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        check_limit(doctor, &limit, &LOCKED);
    }
}

/* ---- hooks ------------------------------------------------------------------------------------------------------------- */

/* daemon/hooks/<name> with any extension; heap, NULL none. */
static char *hook_file(const char *directory, const char *name)
{
    DIR *handle = opendir(directory);
    const struct dirent *entry;
    char *found = NULL;
    size_t length = strlen(name);
    while (handle != NULL && found == NULL && (entry = readdir(handle)) != NULL) {
        bool fits = strncmp(entry->d_name, name, length) == 0 && (entry->d_name[length] == '\0' || entry->d_name[length] == '.');
        found = fits ? path_join(directory, entry->d_name) : NULL;
    }
    if (handle != NULL) {
        (void)closedir(handle);
    }
    return found;
}

static void check_hook(struct doctor *doctor, const char *name)
{
    const char *directory = doctor->cli->paths.hooks;
    char *path = hook_file(directory, name), *quoted = path == NULL ? NULL : doctor_quote(path);
    struct stat status;
    char *remedy = NULL;
    if (path == NULL || stat(path, &status) != 0) {
        char *toml = path_join(directory, "hooks.toml"), *quoted_toml = doctor_quote(toml);
        remedy = memory_printf("${EDITOR:-vi} %s", quoted_toml);
        doctor_tell(doctor, DOCTOR_PROBLEM, "hooks", remedy, "hooks.toml names %s, and %s has no such program.", name, directory);
        free(quoted_toml);
        free(toml);
    } else if (status.st_uid != geteuid()) {
        remedy = memory_printf("sudo chown \"$(id -un)\" %s", quoted);
        doctor_tell(doctor, DOCTOR_PROBLEM, "hooks", remedy, "%s is refused: it belongs to another user.", path);
    } else if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 || (status.st_mode & S_IXUSR) == 0) {
        remedy = memory_printf("chmod 0700 %s", quoted);
        doctor_tell(doctor, DOCTOR_PROBLEM, "hooks", remedy, "%s is refused: %s.", path,
                    (status.st_mode & S_IXUSR) == 0 ? "it is not executable" : "others may write to it");
    } else {
        doctor_tell(doctor, DOCTOR_OK, "hooks", NULL, "%s can run.", path);
    }
    free(remedy);
    free(quoted);
    free(path);
}

void doctor_check_hooks(struct doctor *doctor)
{
    struct buffer bytes;
    struct hooks_file file = { .hooks = NULL };
    struct error error;
    char *path = path_join(doctor->cli->paths.hooks, "hooks.toml"), *quoted = doctor_quote(path);
    char *edit = memory_printf("${EDITOR:-vi} %s", quoted);
    buffer_init(&bytes, LIMIT_CONFIG_FILE);
    int status = file_read(path, &bytes, &error);
    if (status == 0) {
        status = hooks_file_parse(path, bytes.data, bytes.length, &file, &error);
    }
    if (status != 0 && status != -ERROR_NOT_FOUND) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "hooks", edit, "%s", error.message);
    }
    for (size_t i = 0; status == 0 && i < file.count; i++) {
        const struct hook_config *hook = &file.hooks[i];
        if (hook->problem != NULL) {
            doctor_tell(doctor, DOCTOR_PROBLEM, "hooks", edit, "The hook %s does not run: %s.", hook->name, hook->problem);
        } else if (hook->enabled) {
            check_hook(doctor, hook->name);
        }
    }
    hooks_file_release(&file);
    buffer_release(&bytes);
    free(edit);
    free(quoted);
    free(path);
}

/* ---- the service -------------------------------------------------------------------------------------------------------- */

/* The program that a unit starts: the first word of ExecStart, quoted or not; heap, NULL none. */
static char *program_of_unit(const char *text)
{
    static const char KEY[] = "\nExecStart=";
    const char *at = strstr(text, KEY);
    if (at == NULL) {
        return NULL;
    }
    at += sizeof KEY - 1;
    bool quoted = *at == '"';
    at += quoted ? 1 : 0;
    return memory_strndup(at, strcspn(at, quoted ? "\"\n" : " \n"));
}

static void check_unit(struct doctor *doctor, const struct service_place *place)
{
    struct buffer text;
    struct error error;
    buffer_init(&text, LIMIT_CONFIG_FILE);
    int status = file_read(place->path, &text, &error);
    bool is_system = place->kind == SERVICE_SYSTEM;
    /* The system's may be another user's. */
    bool ours = status == 0 && (!is_system || service_unit_serves(text.data, place->manager, doctor->cli->paths.root));
    if (status != 0 && status != -ERROR_NOT_FOUND) {
        doctor_tell(doctor, DOCTOR_NOTE, "service", NULL, "%s", error.message);
    } else if (ours) {
        char *program = program_of_unit(text.data);
        bool escaped = program != NULL && strpbrk(program, "\\%") != NULL; /* in the unit's own spelling: not for us to undo */
        if (program == NULL || (!escaped && access(program, X_OK) != 0)) {
            char *again = doctor_command(doctor, "daemon install-service%s", is_system ? " --system" : "");
            char *remedy = memory_printf("%s%s", is_system && geteuid() != 0 ? "sudo " : "", again);
            doctor_tell(doctor, DOCTOR_PROBLEM, "service", remedy, "The service %s starts %s, which is no program any more.", place->path,
                        program == NULL ? "nothing" : program);
            free(remedy);
            free(again);
        } else {
            doctor_tell(doctor, DOCTOR_OK, "service", NULL, "The service %s starts a program that is there.", place->path);
        }
        free(program);
    }
    buffer_release(&text);
}

void doctor_check_service(struct doctor *doctor)
{
    static const enum service_kind KINDS[] = { SERVICE_USER, SERVICE_SYSTEM };
    for (size_t i = 0; i < ARRAY_LENGTH(KINDS); i++) {
        struct service_place place = { 0 };
        struct error error;
        /* launchd's lists are not read: they are written whole, and it says itself what it cannot start. */
        if (service_place_init(KINDS[i], service_manager_of_this_system(), NULL, &place, &error) == 0 && place.manager == SERVICE_SYSTEMD) {
            check_unit(doctor, &place);
        }
        service_place_release(&place);
    }
}
