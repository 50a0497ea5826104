/* Owns the Landlock system calls. Debian 12's header is older than many a kernel, so that what is newer is spelled out here; what a kernel does not know is not
 * asked of it. */
#include "hooks/internal.h"

#ifdef __linux__
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/text.h"

/* As in linux/landlock.h of 6.12; a kernel that knows less takes a shorter struct. */
struct ruleset_attributes {
    uint64_t handled_access_fs, handled_access_net, scoped;
};
#define FS_TRUNCATE (1ULL << 14)
#define FS_IOCTL_DEV (1ULL << 15)
#define NET_BIND_TCP (1ULL << 0)
#define NET_CONNECT_TCP (1ULL << 1)
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ULL << 0)
#define SCOPE_SIGNAL (1ULL << 1)

/* What may be granted for something that is no directory. */
#define FILE_RIGHTS (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)

int landlock_abi(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version < 0 ? 0 : (int)version;
}

static uint64_t fs_rights(int abi)
{
    uint64_t rights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1; /* all of the first version */
    if (abi >= 2)
        rights |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= 3)
        rights |= FS_TRUNCATE;
    if (abi >= 5)
        rights |= FS_IOCTL_DEV;
    return rights;
}

static int grant(int ruleset, int fd, uint64_t rights)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return -1;
    struct landlock_path_beneath_attr rule = { .allowed_access = S_ISDIR(status.st_mode) ? rights : rights & FILE_RIGHTS, .parent_fd = fd };
    return (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

static int grant_path(int ruleset, const char *path, uint64_t rights)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = grant(ruleset, fd, rights);
    (void)close(fd);
    return result;
}

/* Everything in the directory but one name. What cannot be looked at is not granted. */
static int grant_all_but(int ruleset, int directory, const char *but, uint64_t rights)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return errno == EACCES ? 0 : -1;
    }
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        struct stat status;
        if (string_equal(entry->d_name, ".") || string_equal(entry->d_name, "..") || string_equal(entry->d_name, but))
            continue;
        int place = openat(directory, entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (place < 0)
            continue;
        if (fstat(place, &status) == 0 && !S_ISLNK(status.st_mode)) /* a link leads to something that is granted, or is not, by itself */
            (void)grant(ruleset, place, rights);
        (void)close(place);
    }
    (void)closedir(entries);
    return 0;
}

/* Landlock only grants. So: every neighbour of each directory on the way to the one that is kept out. New names in those directories themselves cannot be
 * made, nor their lists be read. */
static int grant_around(int ruleset, const char *path, uint64_t rights)
{
    char resolved[PATH_MAX];
    if (realpath(path, resolved) == NULL || string_equal(resolved, "/"))
        return -1;
    int directory = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int result = directory < 0 ? -1 : 0;
    for (char *part = resolved + 1; result == 0 && *part != '\0';) {
        size_t length = strcspn(part, "/");
        char *next = part[length] == '\0' ? part + length : part + length + 1;
        part[length] = '\0';
        result = grant_all_but(ruleset, directory, part, rights);
        int inner = openat(directory, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        (void)close(directory);
        directory = inner;
        if (inner < 0)
            result = -1;
        part = next;
    }
    if (directory >= 0)
        (void)close(directory);
    return result;
}

int landlock_enforce(const struct landlock_demand *demand)
{
    int abi = landlock_abi();
    uint64_t rights = fs_rights(abi);
    struct ruleset_attributes attributes = { .handled_access_fs = rights };
    size_t size = sizeof(attributes.handled_access_fs);
    if (abi >= 4) {
        attributes.handled_access_net = demand->no_tcp ? NET_BIND_TCP | NET_CONNECT_TCP : 0;
        size += sizeof(attributes.handled_access_net);
    }
    if (abi >= 6) { /* no signal to, and no abstract socket of, anything but the hook's own processes */
        attributes.scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
        size += sizeof(attributes.scoped);
    }
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
    if (ruleset < 0)
        return -1;
    int result = demand->keep_out == NULL ? grant_path(ruleset, "/", rights) : grant_around(ruleset, demand->keep_out, rights);
    if (result == 0)
        result = grant_path(ruleset, demand->own, rights);
    if (result == 0 && demand->executable >= 0)
        result = grant(ruleset, demand->executable, LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE);
    if (result == 0)
        result = (int)syscall(SYS_landlock_restrict_self, ruleset, 0);
    int kept = errno;
    (void)close(ruleset);
    errno = kept;
    return result;
}

#else /* no such thing */

#include <errno.h>

int landlock_abi(void)
{
    return 0;
}

int landlock_enforce(const struct landlock_demand *demand)
{
    (void)demand;
    errno = ENOSYS;
    return -1;
}

#endif
