/* Owns the list of system calls that the process gives up. A list of what is forbidden, not of what is allowed: docs/decisions/0017 says why. */
#include "privilege/internal.h"

#ifdef HAVE_LIBSECCOMP

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* Each answers EPERM: a library that tries one goes on without; nothing that messages depend on ends over it. */
static const char *const FORBIDDEN[] = {
    /* other programs */
    "execve", "execveat", "uselib",
    /* other processes' memory and descriptors */
    "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    /* what the process sees: mounts, namespaces, roots */
    "mount", "umount", "umount2", "pivot_root", "chroot", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount",
    "fspick", "unshare", "setns", "mknod", "mknodat",
    /* who it is */
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "setuid32", "setgid32",
    "setreuid32", "setregid32", "setresuid32", "setresgid32", "setfsuid32", "setfsgid32", "setgroups32", "capset",
    /* large and seldom needed parts of the kernel */
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key",
    "fanotify_init", "name_to_handle_at", "open_by_handle_at", "lookup_dcookie", "remap_file_pages", "vmsplice", "modify_ldt", "vm86",
    "vm86old", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "get_mempolicy",
    /* the machine */
    "init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct",
    "quotactl", "quotactl_fd", "syslog", "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_settime64",
    "clock_adjtime", "clock_adjtime64", "adjtimex", "stime", "iopl", "ioperm", "vhangup", "nfsservctl", "sysfs", "_sysctl", "ustat",
    "bdflush"
};
#ifndef PRIVILEGE_HAS_SANITIZER
static const char *const FORBIDDEN_PROCESSES[] = { "fork", "vfork", "ptrace", "personality" };
#endif

/* What is not known to this library or this processor cannot be called by its number's name either. */
static int forbid_each(scmp_filter_ctx filter, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int number = seccomp_syscall_resolve_name(names[i]);
        int status = number < 0 ? 0 : seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), number, 0);
        if (status != 0)
            return status;
    }
    return 0;
}

/* A thread may be made, a process not. What clone3 is asked cannot be seen here: the C library is told that there is none, and takes clone. */
static int forbid_processes(scmp_filter_ctx filter)
{
#ifdef PRIVILEGE_HAS_SANITIZER
    (void)filter;
    return 0;
#else
#if defined(__s390__)
    const unsigned flags = 1;
#else
    const unsigned flags = 0;
#endif
    int status = forbid_each(filter, FORBIDDEN_PROCESSES, ARRAY_LENGTH(FORBIDDEN_PROCESSES));
    if (status == 0)
        status = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1, SCMP_CMP(flags, SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    int clone3 = seccomp_syscall_resolve_name("clone3");
    return status != 0 || clone3 < 0 ? status : seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), clone3, 0);
#endif
}

/* Only what it speaks; each other family is another part of the kernel. */
static int forbid_families(scmp_filter_ctx filter)
{
    enum { LAST_FAMILY = 63 };
    int status = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_GT, LAST_FAMILY, 0));
    for (unsigned family = 0; status == 0 && family <= LAST_FAMILY; family++)
        if (family != AF_UNIX && family != AF_INET && family != AF_INET6 && family != AF_NETLINK)
            status = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, family, 0));
    return status;
}

/* Typing into the terminal that started us. The kernel looks at 32 bits only. */
static int forbid_typing(scmp_filter_ctx filter)
{
    static const uint32_t REQUESTS[] = { TIOCSTI, TIOCLINUX };
    int status = 0;
    for (size_t i = 0; status == 0 && i < ARRAY_LENGTH(REQUESTS); i++)
        status = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, REQUESTS[i]));
    return status;
}

int privilege_forbid_system_calls(void)
{
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0)
        return errno == EINVAL || errno == ENOSYS ? 0 : -1; /* not in this kernel */
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (filter == NULL) {
        errno = ENOMEM;
        return -1;
    }
    int status = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree: a call meets a few comparisons, not a hundred */
    if (status == 0)
        status = forbid_each(filter, FORBIDDEN, ARRAY_LENGTH(FORBIDDEN));
    if (status == 0)
        status = forbid_processes(filter);
    if (status == 0)
        status = forbid_families(filter);
    if (status == 0)
        status = forbid_typing(filter);
    if (status == 0)
        status = seccomp_load(filter);
    seccomp_release(filter);
    errno = -status;
    return status == 0 ? 1 : status == -ENOSYS ? 0 : -1;
}

#else

int privilege_forbid_system_calls(void)
{
    return 0;
}

#endif
