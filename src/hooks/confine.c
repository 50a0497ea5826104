/* Owns what keeps a hook where it belongs: namespaces, a claudemesh directory that is not there, no new privileges, Landlock, or bubblewrap. What the system does not
 * have is left out, and said; only a sandbox that was asked for by name is never left out. */
#include "hooks/internal.h"

#ifdef __linux__
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/text.h"

#define BUBBLEWRAP "/usr/bin/bwrap" /* where packages put it; not looked for in a PATH that somebody set */

/* ---- namespaces ------------------------------------------------------------------------------------------------------------- */

static int write_line(const char *path, const char *line)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t written = write(fd, line, strlen(line));
    (void)close(fd);
    return written == (ssize_t)strlen(line) ? 0 : -1;
}

/* Who we are stays the same within: files keep their owner. */
static int map_self(uid_t user, gid_t group)
{
    char line[64];
    (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);         /* else these files are root's */
    (void)write_line("/proc/self/setgroups", "deny"); /* absent on kernels that need it not */
    (void)snprintf(line, sizeof(line), "%u %u 1", (unsigned)group, (unsigned)group);
    int result = write_line("/proc/self/gid_map", line);
    (void)snprintf(line, sizeof(line), "%u %u 1", (unsigned)user, (unsigned)user);
    result = result == 0 ? write_line("/proc/self/uid_map", line) : result;
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return result;
}

/* Root that may, needs no user namespace; everybody else gets one. */
static bool unshare_all(const struct run_request *request)
{
    uid_t user = geteuid();
    gid_t group = getegid();
    int flags =
        CLONE_NEWNS | ((request->without & HOOK_MEANS_PID_NAMESPACE) == 0 ? CLONE_NEWPID : 0) | (request->network_allow ? 0 : CLONE_NEWNET);
    if (user == 0 && unshare(flags) == 0) {
        return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0;
    }
    if (unshare(CLONE_NEWUSER | flags) != 0) {
        return false;
    }
    return map_self(user, group) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0;
}

/* Tried first in a process that does not matter: one that got its user namespace and then fails halfway is neither here nor there. */
static bool namespaces_work(const struct run_request *request)
{
    int status = 0;
    if ((request->without & HOOK_MEANS_NAMESPACES) != 0) {
        return false;
    }
    pid_t probe = fork();
    if (probe == 0) {
        _exit(unshare_all(request) ? 0 : 1);
    }
    while (probe > 0 && waitpid(probe, &status, 0) < 0 && errno == EINTR) {
        continue;
    }
    return probe > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Installed is not allowed: in many a container it can do no more than we. */
static bool bubblewrap_works(void)
{
    static const char *const ARGUMENTS[] = { BUBBLEWRAP, "--dev-bind", "/",         "/", "--unshare-net", "--unshare-pid", "--proc",
                                             "/proc",    "--",         "/bin/true", NULL };
    char *const none[] = { NULL };
    int status = 0;
    pid_t probe = fork();
    if (probe == 0) {
        (void)execve(BUBBLEWRAP, (char *const *)(uintptr_t)ARGUMENTS, none);
        _exit(127);
    }
    while (probe > 0 && waitpid(probe, &status, 0) < 0 && errno == EINTR) {
        continue;
    }
    return probe > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int confine_begin(const struct run_request *request, struct confinement *ret_confinement, const char **ret_reason,
                  char detail[static HOOK_DETAIL_SIZE])
{
    bool has_bubblewrap = (request->without & HOOK_MEANS_BUBBLEWRAP) == 0 && access(BUBBLEWRAP, X_OK) == 0;
    *ret_confinement = (struct confinement){ .bubblewrap = request->bubblewrap };
    if (request->bubblewrap) {
        if (!has_bubblewrap) {
            *ret_reason = "sandbox";
            (void)snprintf(detail, HOOK_DETAIL_SIZE,
                           "hooks.toml demands bubblewrap for %s, and there is no %s: install it, or take the line out", request->hook,
                           BUBBLEWRAP);
            return -1;
        }
    } else if (namespaces_work(request)) {
        if (!unshare_all(request)) {
            *ret_reason = "sandbox";
            (void)snprintf(detail, HOOK_DETAIL_SIZE, "cannot make namespaces: %s", strerror(errno));
            return -1;
        }
        ret_confinement->namespaces = true;
        ret_confinement->pid_namespace = (request->without & HOOK_MEANS_PID_NAMESPACE) == 0;
    } else if (!request->network_allow && has_bubblewrap && bubblewrap_works()) {
        ret_confinement->bubblewrap = true; /* it may be allowed what we are not */
    }
    ret_confinement->network_denied = !request->network_allow && (ret_confinement->namespaces || ret_confinement->bubblewrap);
    ret_confinement->landlock = !ret_confinement->bubblewrap && (request->without & HOOK_MEANS_LANDLOCK) == 0 && landlock_abi() > 0;
    return 0;
}

/* ---- a claudemesh directory that is not there --------------------------------------------------------------------------------- */

static bool is_beneath(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

bool confine_covers_all(const struct run_request *request)
{
    char root[PATH_MAX], hooks[PATH_MAX];
    return realpath(request->root, root) != NULL && realpath(request->hooks, hooks) != NULL && is_beneath(hooks, root);
}

/* The directories between the root and the file, and an empty file to bind the real one on. */
static int make_place(const struct run_request *request, const struct hook_file *file)
{
    char path[PATH_MAX];
    if (string_copy(path, sizeof(path), file->path) != 0) {
        return -1;
    }
    for (char *slash = strchr(path + strlen(request->root) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, S_IRWXU) != 0) {
            return -1;
        }
        *slash = '/';
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IXUSR);
    if (fd < 0) {
        return -1;
    }
    (void)close(fd);
    return 0;
}

/* What a mount has, it must keep: an unprivileged remount that would drop a flag is refused. */
static unsigned long kept_flags(int fd)
{
    static const struct {
        unsigned long statvfs, mount;
    } FLAGS[] = { { ST_NOSUID, MS_NOSUID },   { ST_NODEV, MS_NODEV },           { ST_NOEXEC, MS_NOEXEC },
                  { ST_NOATIME, MS_NOATIME }, { ST_NODIRATIME, MS_NODIRATIME }, { ST_RELATIME, MS_RELATIME } };
    struct statvfs status;
    unsigned long kept = 0;
    if (fstatvfs(fd, &status) != 0) {
        return 0;
    }
    for (size_t index = 0; index < ARRAY_LENGTH(FLAGS); index++) {
        kept |= (status.f_flag & FLAGS[index].statvfs) != 0 ? FLAGS[index].mount : 0;
    }
    return kept;
}

void confine_hide(const struct run_request *request, const struct hook_file *file, struct confinement *confinement)
{
    char source[32];
    if (!confinement->namespaces || !is_beneath(file->path, request->root) || is_beneath(request->directory, request->root)) {
        return;
    }
    /* A mount can be bound from within its own namespace only; the descriptor was opened in this one. */
    (void)snprintf(source, sizeof(source), "/proc/self/fd/%d", file->fd);
    if (mount("claudemesh", request->root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=64k") != 0) {
        return;
    }
    confinement->hidden = make_place(request, file) == 0 && mount(source, file->path, NULL, MS_BIND, NULL) == 0 &&
                          mount(NULL, file->path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | kept_flags(file->fd), NULL) == 0 &&
                          mount(NULL, request->root, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) == 0;
    if (!confinement->hidden) {
        (void)umount2(request->root, MNT_DETACH);
    }
}

void confine_mount_proc(void)
{
    /* Refused where parts of /proc are masked, as in some containers: then the one that is there stays. */
    (void)mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* ---- the last steps ------------------------------------------------------------------------------------------------------------ */

/* With these root could undo what namespaces do, or reach past files' paths. Others keep what they have: nothing. */
static const int DROPPED[] = { CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_MODULE,      CAP_SYS_RAWIO, CAP_SYS_BOOT,
                               CAP_MKNOD,     CAP_MAC_ADMIN,  CAP_DAC_READ_SEARCH, CAP_SETPCAP,   CAP_LINUX_IMMUTABLE };

int confine_finish(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement)
{
    if (confinement->bubblewrap) {
        return 0; /* it sets the same, after what it needs more for */
    }
    if (geteuid() == 0) {
        for (size_t index = 0; index < ARRAY_LENGTH(DROPPED); index++) {
            if (prctl(PR_CAPBSET_READ, DROPPED[index], 0, 0, 0) == 1 && prctl(PR_CAPBSET_DROP, DROPPED[index], 0, 0, 0) != 0 &&
                errno != EPERM) { /* without CAP_SETPCAP it has no such capability to give away either */
                return -1;
            }
        }
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return -1;
    }
    if (!confinement->landlock) {
        return 0;
    }
    const struct landlock_demand demand = { .keep_out = confinement->hidden ? NULL : request->root,
                                            .own = request->directory,
                                            .executable = file->fd,
                                            .no_tcp = !request->network_allow };
    return landlock_enforce(&demand);
}

/* ---- bubblewrap ------------------------------------------------------------------------------------------------------------------ */

struct arguments {
    const char **items;
    size_t count;
};

static void add(struct arguments *arguments, const char *first, const char *second, const char *third)
{
    const char *const items[] = { first, second, third };
    for (size_t index = 0; index < ARRAY_LENGTH(items) && items[index] != NULL; index++) {
        arguments->items[arguments->count++] = items[index];
    }
}

/* Nothing can be written but in the run's directory; no process but the hook's own; no socket of the system's. */
static void add_sandbox(struct arguments *arguments)
{
    add(arguments, "--ro-bind", "/", "/");
    add(arguments, "--dev", "/dev", NULL);
    add(arguments, "--tmpfs", "/run", NULL);                                         /* D-Bus, and whatever else listens there */
    add(arguments, "--ro-bind-try", "/run/systemd/resolve", "/run/systemd/resolve"); /* resolv.conf may lead here */
    add(arguments, "--ro-bind-try", "/run/resolvconf", "/run/resolvconf");
    add(arguments, "--remount-ro", "/run", NULL);
    add(arguments, "--tmpfs", "/tmp", NULL); /* sockets again */
    add(arguments, "--unshare-ipc", "--cap-drop", "ALL");
}

void confine_bubblewrap_command(const struct run_request *request, const struct hook_file *file, int status_fd,
                                struct bubblewrap_command *ret_command)
{
    struct arguments arguments = { ret_command->arguments, 0 };
    (void)snprintf(ret_command->status_fd, sizeof(ret_command->status_fd), "%d", status_fd);
    (void)snprintf(ret_command->file_fd, sizeof(ret_command->file_fd), "%d", file->fd);
    add(&arguments, BUBBLEWRAP, "--die-with-parent", "--new-session");
    add(&arguments, "--json-status-fd", ret_command->status_fd, "--unshare-pid");
    if (!request->network_allow) {
        add(&arguments, "--unshare-net", NULL, NULL);
    }
    if (request->bubblewrap) {
        add_sandbox(&arguments);
    } else {
        add(&arguments, "--dev-bind", "/", "/");
    }
    add(&arguments, "--proc", "/proc", NULL);
    add(&arguments, "--tmpfs", request->root, NULL);
    /* The file's bytes as they were checked, under its own name. */
    add(&arguments, "--perms", "0500", "--ro-bind-data");
    add(&arguments, ret_command->file_fd, file->path, NULL);
    add(&arguments, "--remount-ro", request->root, NULL);
    add(&arguments, "--bind", request->directory, request->directory);
    if (request->bubblewrap) {
        add(&arguments, "--remount-ro", "/tmp", NULL);
        add(&arguments, "--remount-ro", "/dev", NULL);
    }
    add(&arguments, "--chdir", request->directory, "--");
    if (strchr(file->path, '=') == NULL) {            /* which env would take for a variable */
        add(&arguments, "/usr/bin/env", "-u", "PWD"); /* bubblewrap adds it, and the environment is exactly that of 60-hooks */
    }
    add(&arguments, file->path, NULL, NULL);
    arguments.items[arguments.count] = NULL;
}

#else /* systems without namespaces */

#include <errno.h>

int confine_begin(const struct run_request *request, struct confinement *ret_confinement, const char **ret_reason,
                  char detail[static HOOK_DETAIL_SIZE])
{
    *ret_confinement = (struct confinement){ .bubblewrap = false };
    if (request->bubblewrap) {
        *ret_reason = "sandbox";
        (void)snprintf(detail, HOOK_DETAIL_SIZE, "hooks.toml demands bubblewrap for %s, and this system has none", request->hook);
        return -1;
    }
    return 0;
}

bool confine_covers_all(const struct run_request *request)
{
    (void)request;
    return true;
}

void confine_hide(const struct run_request *request, const struct hook_file *file, struct confinement *confinement)
{
    (void)request;
    (void)file;
    (void)confinement;
}

void confine_mount_proc(void)
{
}

int confine_finish(const struct run_request *request, const struct hook_file *file, const struct confinement *confinement)
{
    (void)request;
    (void)file;
    (void)confinement;
    return 0;
}

void confine_bubblewrap_command(const struct run_request *request, const struct hook_file *file, int status_fd,
                                struct bubblewrap_command *ret_command)
{
    (void)request;
    (void)file;
    (void)status_fd;
    ret_command->arguments[0] = NULL;
}

#endif
