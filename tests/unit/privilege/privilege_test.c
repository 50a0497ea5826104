/* privilege/: what a process can no longer do, each tried by a process that gave it up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "privilege/privilege.h"
#include "scratch.h"
#include "util/memory.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

struct world {
    char *directory, *own, *certificates, *runs, *other;
    struct privilege_state state;
};

static void write_file(const char *directory, const char *name)
{
    char *path = memory_printf("%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(close(fd), 0);
    free(path);
}

static char *make(const char *parent, const char *name)
{
    char *path = memory_printf("%s/%s", parent, name);
    assert_int_equal(mkdir(path, 0700), 0);
    write_file(path, "file");
    return path;
}

/* 0, or the errno. */
static int opened(const char *directory, const char *name, int flags)
{
    char *path = memory_printf("%s/%s", directory, name);
    int fd = open(path, flags | O_CLOEXEC, 0600), result = fd < 0 ? errno : 0;
    if (fd >= 0)
        (void)close(fd);
    free(path);
    return result;
}

/* What is tried in a child, that the test goes on as it was. Each returns 0 when it went as it must; else the line. */
typedef int attempt(const struct world *world);
#define MUST(condition)      \
    do {                     \
        if (!(condition))    \
            return __LINE__; \
    } while (0)

static int run_confined(attempt *tried)
{
    char *directory = scratch_make();
    struct world world = { .directory = directory };
    world.own = make(directory, "own");
    world.certificates = make(directory, "certificates");
    world.runs = make(directory, "runs");
    world.other = make(directory, "other");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const char *const readable[] = { world.certificates, NULL, "/nowhere/at/all" };
        const char *const writable[] = { world.own };
        const struct privilege_rules rules = {
            .readable = readable, .readable_count = 3, .writable = writable, .writable_count = 1, .runs = world.runs
        };
        privilege_drop(&rules, &world.state);
        _exit(tried(&world) % 256);
    }
    int ended = 0;
    assert_int_equal(waitpid(child, &ended, 0), child);
    free(world.own);
    free(world.certificates);
    free(world.runs);
    free(world.other);
    scratch_remove(directory);
    assert_true(WIFEXITED(ended));
    return WEXITSTATUS(ended);
}

static int try_state(const struct world *world)
{
    MUST(world->state.no_new_privileges && world->state.no_capabilities && world->state.failed == NULL);
    MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    MUST(prctl(PR_CAPBSET_READ, 21, 0, 0, 0) == 0 || geteuid() != 0); /* CAP_SYS_ADMIN */
    return 0;
}

static int try_programs(const struct world *world)
{
    if (!world->state.system_calls)
        return 0;
    char *const arguments[] = { (char[]){ "true" }, NULL };
    MUST(execv("/bin/true", arguments) == -1 && errno == EPERM);
    MUST(syscall(SYS_execveat, AT_FDCWD, "/bin/true", arguments, NULL, 0) == -1 && errno == EPERM);
#ifndef SANITIZED
    MUST(fork() == -1 && errno == EPERM);
    MUST(vfork() == -1 && errno == EPERM);
    uint64_t clone3_arguments[8] = { 0 };
    MUST(syscall(SYS_clone3, clone3_arguments, sizeof clone3_arguments) == -1 && errno == ENOSYS);
    MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1 && errno == EPERM);
    MUST(personality(0xffffffff) == -1 && errno == EPERM);
#endif
    return 0;
}

static void *think(void *argument)
{
    *(int *)argument = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0;
    return NULL;
}

/* What the databases need: the C library takes clone when there is no clone3. */
static int try_threads(const struct world *world)
{
    (void)world;
    pthread_t thread;
    int result = 0;
    MUST(pthread_create(&thread, NULL, think, &result) == 0);
    MUST(pthread_join(thread, NULL) == 0);
    MUST(result == 1);
    return 0;
}

static int try_system(const struct world *world)
{
    if (!world->state.system_calls)
        return 0;
    MUST(mount("none", world->own, "tmpfs", 0, NULL) == -1 && errno == EPERM);
    MUST(syscall(SYS_unshare, 0x10000000 /* CLONE_NEWUSER */) == -1 && errno == EPERM);
    MUST(syscall(SYS_bpf, 0, NULL, 0) == -1 && errno == EPERM);
    MUST(syscall(SYS_keyctl, 0, 0, 0, 0, 0) == -1 && errno == EPERM);
    MUST(syscall(SYS_io_uring_setup, 1, NULL) == -1 && errno == EPERM);
    MUST(syscall(SYS_userfaultfd, 0) == -1 && errno == EPERM);
    MUST(syscall(SYS_setuid, 0) == -1 && errno == EPERM);
    MUST(socket(AF_PACKET, SOCK_RAW, 0) == -1 && errno == EAFNOSUPPORT);
    MUST(socket(AF_VSOCK, SOCK_STREAM, 0) == -1 && errno == EAFNOSUPPORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    MUST(fd >= 0);
    return 0;
}

static int try_code(const struct world *world)
{
    if (!world->state.no_writable_code)
        return 0;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    MUST(mprotect(page, 4096, PROT_READ | PROT_EXEC) == -1);
    MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    return 0;
}

static int try_files(const struct world *world)
{
    if (world->state.landlock == 0)
        return 0;
    MUST(opened(world->other, "file", O_RDONLY) == EACCES);
    MUST(opened(world->other, "new", O_WRONLY | O_CREAT) == EACCES);
    MUST(opened(world->directory, ".", O_RDONLY | O_DIRECTORY) == EACCES);
    MUST(opened("/root", ".", O_RDONLY | O_DIRECTORY) == EACCES);
    MUST(opened("/etc", "passwd", O_RDONLY) == 0);
    MUST(opened("/etc", "claudemesh-test", O_WRONLY | O_CREAT) == EACCES || geteuid() != 0);
    MUST(opened(world->certificates, "file", O_RDONLY) == 0);
    MUST(opened(world->certificates, "file", O_WRONLY) == EACCES);
    MUST(opened("/dev", "null", O_RDWR) == 0);
    MUST(opened(world->own, "file", O_RDWR) == 0);
    MUST(opened(world->own, "new", O_WRONLY | O_CREAT | O_TRUNC) == 0);
    char *from = memory_printf("%s/new", world->own), *into = memory_printf("%s/sub", world->own);
    char *to = memory_printf("%s/sub/newer", world->own), *away = memory_printf("%s/new", world->other);
    MUST(mkdir(into, 0700) == 0);
    MUST(rename(from, away) == -1);
    MUST(rename(from, to) == 0); /* also from one directory to another */
    MUST(unlink(to) == 0 && rmdir(into) == 0);
    free(from);
    free(into);
    free(to);
    free(away);
    return 0;
}

static int try_runs(const struct world *world)
{
    if (world->state.landlock == 0)
        return 0;
    char *directory = memory_printf("%s/one", world->runs), *path = memory_printf("%s/one/s", world->runs);
    MUST(mkdir(directory, 0700) == 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    MUST(strlen(path) < sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(bind(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    MUST(opened(directory, "file", O_WRONLY | O_CREAT) == EACCES);
    MUST(opened(world->runs, "file", O_RDONLY) == EACCES);
    MUST(unlink(path) == 0 && rmdir(directory) == 0);
    free(directory);
    free(path);
    return 0;
}

static void test_privileges_and_capabilities_go(void **state)
{
    (void)state;
    assert_int_equal(run_confined(try_state), 0);
}

static void test_no_program_and_no_process_can_be_started(void **state)
{
    (void)state;
    assert_int_equal(run_confined(try_programs), 0);
}

static void test_threads_can_be_started_and_are_confined_too(void **state)
{
    (void)state;
    assert_int_equal(run_confined(try_threads), 0);
}

static void test_the_machine_is_out_of_reach(void **state)
{
    (void)state;
    assert_int_equal(run_confined(try_system), 0);
}

static void test_memory_never_becomes_code(void **state)
{
    (void)state;
    assert_int_equal(run_confined(try_code), 0);
}

static void test_only_what_was_named_is_read_and_written(void **state)
{
    (void)state;
    assert_int_equal(run_confined(try_files), 0);
}

static void test_where_hooks_run_sockets_are_made_and_no_file(void **state)
{
    (void)state;
    assert_int_equal(run_confined(try_runs), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_privileges_and_capabilities_go),
        cmocka_unit_test(test_no_program_and_no_process_can_be_started),
        cmocka_unit_test(test_threads_can_be_started_and_are_confined_too),
        cmocka_unit_test(test_the_machine_is_out_of_reach),
        cmocka_unit_test(test_memory_never_becomes_code),
        cmocka_unit_test(test_only_what_was_named_is_read_and_written),
        cmocka_unit_test(test_where_hooks_run_sockets_are_made_and_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
