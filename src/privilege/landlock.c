/* Owns what the process may see of the file system from now on. The interface is spelled out: Debian 12's header knows less than many a kernel. */
#include "privilege/internal.h"

#if defined(__linux__) && !defined(PRIVILEGE_WITHOUT_LANDLOCK)

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

struct ruleset_attributes {
    uint64_t handled_access_fs, handled_access_net, scoped;
};
struct path_beneath {
    uint64_t allowed_access;
    int32_t parent_fd;
} __attribute__((packed));

enum { CREATE_RULESET_VERSION = 1, RULE_PATH_BENEATH = 1, SCOPE_ABSTRACT_SOCKETS = 1 };
enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_REMOVE_DIR = 1 << 4,
    FS_REMOVE_FILE = 1 << 5,
    FS_MAKE_CHAR = 1 << 6,
    FS_MAKE_DIR = 1 << 7,
    FS_MAKE_REG = 1 << 8,
    FS_MAKE_SOCK = 1 << 9,
    FS_MAKE_FIFO = 1 << 10,
    FS_MAKE_BLOCK = 1 << 11,
    FS_MAKE_SYM = 1 << 12,
    FS_REFER = 1 << 13,     /* version 2 */
    FS_TRUNCATE = 1 << 14,  /* version 3 */
    FS_IOCTL_DEV = 1 << 15, /* version 5 */

    FS_ALL = (1 << 16) - 1,
    FS_OF_A_FILE = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
    FS_READ = FS_READ_FILE | FS_READ_DIR,
    FS_WRITE = FS_READ | FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG | FS_MAKE_SOCK | FS_REFER | FS_TRUNCATE,
    FS_RUNS = FS_READ_DIR | FS_MAKE_DIR | FS_REMOVE_DIR | FS_MAKE_SOCK | FS_REMOVE_FILE
};
enum { VERSION_OF_SCOPES = 6 };

static uint64_t known_rights(int version)
{
    return version >= 5 ? FS_ALL : version >= 3 ? FS_ALL & ~FS_IOCTL_DEV : version == 2 ? FS_REFER * 2 - 1 : FS_REFER - 1;
}

/* What is not there needs no right; what appears later stays out of reach. */
static int grant(int ruleset, const char *path, uint64_t rights)
{
    struct stat status;
    int fd = path == NULL ? -1 : open(path, O_PATH | O_CLOEXEC), result = 0;
    if (fd < 0)
        return path == NULL || errno == ENOENT || errno == EACCES || errno == ENOTDIR ? 0 : -1;
    if (fstat(fd, &status) != 0) {
        result = -1;
    } else {
        const struct path_beneath rule = { S_ISDIR(status.st_mode) ? rights : rights & FS_OF_A_FILE, fd };
        if (rule.allowed_access != 0)
            result = (int)syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0);
    }
    int saved = errno;
    (void)close(fd);
    errno = saved;
    return result;
}

/* Which servers are asked for names is kept in a place of each system's own (/mnt/wsl, /run/netconfig, a store of packages), with a link to it. */
static int grant_targets(int ruleset, uint64_t rights)
{
    static const char *const LINKS[] = { "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl/certs/ca-certificates.crt" };
    int result = 0;
    for (size_t i = 0; result == 0 && i < sizeof LINKS / sizeof LINKS[0]; i++) {
        char target[PATH_MAX];
        char *slash = realpath(LINKS[i], target) == NULL ? NULL : strrchr(target, '/');
        if (slash == NULL || slash == target)
            continue;
        *slash = '\0'; /* the directory: such a file is replaced under its name */
        result = grant(ruleset, target, rights);
    }
    return result;
}

static int grant_all(int ruleset, const struct privilege_rules *rules, uint64_t known)
{
    int result = 0;
    for (size_t i = 0; result == 0 && PRIVILEGE_SYSTEM_FILES[i] != NULL; i++)
        result = grant(ruleset, PRIVILEGE_SYSTEM_FILES[i], FS_READ & known);
    if (result == 0)
        result = grant_targets(ruleset, FS_READ & known);
    for (size_t i = 0; result == 0 && i < rules->readable_count; i++)
        result = grant(ruleset, rules->readable[i], FS_READ & known);
    for (size_t i = 0; result == 0 && i < rules->writable_count; i++)
        result = grant(ruleset, rules->writable[i], FS_WRITE & known);
    if (result == 0)
        result = grant(ruleset, "/dev/null", (FS_READ | FS_WRITE_FILE) & known);
    return result != 0 ? result : grant(ruleset, rules->runs, FS_RUNS & known);
}

int privilege_restrict_files(const struct privilege_rules *rules, int *ret_version)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
    if (version < 1)
        return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -1;
    const uint64_t known = known_rights((int)version);
    /* An abstract socket is nobody's file: the session's D-Bus, the display. Ours was connected before (util/notify.h). */
    const struct ruleset_attributes attributes = { .handled_access_fs = known,
                                                   .scoped = version >= VERSION_OF_SCOPES ? SCOPE_ABSTRACT_SOCKETS : 0 };
    const size_t size = version >= VERSION_OF_SCOPES ? sizeof attributes : sizeof attributes.handled_access_fs;
    long ruleset = syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
    if (ruleset < 0)
        return -1;
    int result = grant_all((int)ruleset, rules, known);
    if (result == 0)
        result = (int)syscall(SYS_landlock_restrict_self, (int)ruleset, 0);
    int saved = errno;
    (void)close((int)ruleset);
    errno = saved;
    if (result != 0)
        return -1;
    *ret_version = (int)version;
    return 1;
}

#else

int privilege_restrict_files(const struct privilege_rules *rules, int *ret_version)
{
    (void)rules;
    *ret_version = 0;
    return 0;
}

#endif
