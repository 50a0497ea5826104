/* What a hook cannot do (60-hooks, Sandbox; 45-trust, Against the local side), with each of the means that a system may have; and that nothing outlives the daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "hooks/internal.h"
#include "world.h"

enum {
    ALL = 0,
    NO_PID = HOOK_MEANS_PID_NAMESPACE,
    LANDLOCK_ONLY = HOOK_MEANS_NAMESPACES | HOOK_MEANS_BUBBLEWRAP,
    BUBBLEWRAP_ONLY = HOOK_MEANS_NAMESPACES | HOOK_MEANS_LANDLOCK,
    NOTHING = HOOK_MEANS_NAMESPACES | HOOK_MEANS_LANDLOCK | HOOK_MEANS_BUBBLEWRAP
};

static const char DENY[] = "[on-message]\nenabled = true\n";
static const char ALLOW[] = "[on-message]\nenabled = true\nnetwork_policy = \"allow\"\n";
static const char SANDBOX[] = "[on-message]\nenabled = true\nsandbox = \"bubblewrap\"\n";

/* Each attempt is one line of Python; the hook prints an object with "yes" or "no, why" for each. */
static const char ATTEMPTS[] =
    "#!/usr/bin/python3 -SIB\n"
    "import json, os, socket, sys\n"
    "event = json.load(sys.stdin); tried = {}\n"
    "def attempt(name, what):\n"
    "    try: tried[name] = str(what() or 'yes')\n"
    "    except Exception as e: tried[name] = 'no: ' + str(e)\n"
    "def tcp():\n"
    "    s = socket.socket(); s.settimeout(5); s.connect(('127.0.0.1', event['port']))\n"
    "def unix(path):\n"
    "    s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(path)\n"
    "def write(path):\n"
    "    with open(path, 'w') as f: f.write('x')\n"
    "root = event['root']\n"
    "attempt('token', lambda: open(root + '/daemon/local-token').read())\n"
    "attempt('list', lambda: ' '.join(os.listdir(root + '/daemon/hooks')))\n"
    "attempt('self', lambda: open(__file__).read() and 'yes')\n"
    "attempt('change', lambda: write(__file__))\n"
    "attempt('plant', lambda: write(root + '/daemon/hooks/on-dm'))\n"
    "attempt('sock', lambda: unix(root + '/daemon/daemon.sock'))\n"
    "attempt('tcp', tcp)\n"
    "attempt('netns', lambda: 'yes' if os.readlink('/proc/self/ns/net') == event['netns'] else 'no: another')\n"
    "attempt('abstract', lambda: unix('\\0' + event['abstract']))\n"
    "attempt('neighbour', lambda: write(event['neighbour'] + '/file'))\n"
    "attempt('own', lambda: write('file'))\n"
    "attempt('home', lambda: write(os.environ['HOME'] + '/claudemesh-hook-was-here'))\n"
    "attempt('shm', lambda: write('/dev/shm/claudemesh-hook-was-here'))\n"
    "attempt('tmp', lambda: write('/var/tmp/claudemesh-hook-was-here'))\n"
    "attempt('bus', lambda: 'no: empty' if not os.path.exists('/run/dbus') and len(os.listdir('/run')) < 3 else 'yes')\n"
    "attempt('signal', lambda: os.kill(event['pid'], 0))\n"
    "attempt('see', lambda: open('/proc/%d/cmdline' % event['pid']).read() and 'yes')\n"
    "attempt('peek', lambda: os.listdir('/proc/%d/root%s' % (event['pid'], root)) and 'yes')\n"
    "status = dict(l.split(':\\t', 1) for l in open('/proc/self/status').read().splitlines() if ':\\t' in l)\n"
    "tried['nnp'] = status['NoNewPrivs']; tried['bounding'] = status['CapBnd']\n"
    "import resource; tried['core'] = str(resource.getrlimit(resource.RLIMIT_CORE))\n"
    "print(json.dumps(tried))\n";

struct targets { /* what a hook might want to reach */
    int tcp, unix_socket, abstract, port;
    char *neighbour, *abstract_name;
};

static int listen_at(int family, const void *address, socklen_t length)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, address, length), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

static void targets_open(struct targets *targets, const struct world *world)
{
    struct sockaddr_in tcp = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    struct sockaddr_un path = { .sun_family = AF_UNIX }, abstract = { .sun_family = AF_UNIX };
    socklen_t length = sizeof(tcp);
    struct error error;
    targets->tcp = listen_at(AF_INET, &tcp, sizeof(tcp));
    assert_int_equal(getsockname(targets->tcp, (struct sockaddr *)&tcp, &length), 0);
    targets->port = ntohs(tcp.sin_port);
    assert_int_equal(string_copy(path.sun_path, sizeof(path.sun_path), world->paths.socket), 0);
    targets->unix_socket = listen_at(AF_UNIX, &path, sizeof(path));
    targets->abstract_name = memory_printf("claudemesh-test-%d-%d", (int)getpid(), targets->port);
    assert_int_equal(string_copy(abstract.sun_path + 1, sizeof(abstract.sun_path) - 1, targets->abstract_name), 0);
    targets->abstract =
        listen_at(AF_UNIX, &abstract, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(targets->abstract_name)));
    targets->neighbour = path_join(world->scratch, "neighbour");
    assert_int_equal(mkdir(targets->neighbour, 0700), 0);
    assert_int_equal(file_write_atomic(world->paths.local_token, 0600, "secret", 6, &error), 0);
}

static void targets_close(struct targets *targets)
{
    (void)close(targets->tcp);
    (void)close(targets->unix_socket);
    (void)close(targets->abstract);
    free(targets->neighbour);
    free(targets->abstract_name);
}

static void attempt_all(struct world *world, const char *toml, unsigned without, struct outcome *outcome)
{
    struct targets targets;
    world_open(world, toml, without, 8);
    targets_open(&targets, world);
    world_write(world, "on-message.py", 0700, ATTEMPTS);
    char network[64] = "";
    assert_true(readlink("/proc/self/ns/net", network, sizeof(network) - 1) > 0);
    char *payload = memory_printf("{\"root\":\"%s\",\"port\":%d,\"abstract\":\"%s\",\"neighbour\":\"%s\",\"pid\":%d,\"netns\":\"%s\"}",
                                  world->paths.root, targets.port, targets.abstract_name, targets.neighbour, (int)getpid(), network);
    world_start(world, "on-message", payload, outcome);
    world_wait(world);
    assert_int_equal(outcome->result.exit_status, 0);
    free(payload);
    targets_close(&targets);
    (void)unlink("/dev/shm/claudemesh-hook-was-here");
    (void)unlink("/var/tmp/claudemesh-hook-was-here");
    char *home = memory_printf("%s/claudemesh-hook-was-here", getenv("HOME"));
    (void)unlink(home);
    free(home);
}

static void check(const struct outcome *outcome, const char *name, bool possible)
{
    const char *tried = output_text(outcome, name);
    if (string_has_prefix(tried, "no") == possible)
        fail_msg("%s: %s", name, tried);
}

static void check_all(const struct outcome *outcome, const char *const *names, bool possible)
{
    for (; *names != NULL; names++)
        check(outcome, *names, possible);
}

static void close_all(struct world *world, struct outcome *outcome)
{
    assert_string_equal(output_text(outcome, "nnp"), "1");
    assert_string_equal(output_text(outcome, "core"), "(0, 0)");
    json_decref(outcome->output);
    world_close(world);
}

static const char *const NEVER[] = { "token", "change", "plant", NULL };

static void test_the_claudemesh_directory_is_out_of_reach(void **state)
{
    static const unsigned MEANS[] = { ALL, NO_PID, HOOK_MEANS_LANDLOCK, LANDLOCK_ONLY, BUBBLEWRAP_ONLY };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        attempt_all(&world, DENY, MEANS[i], &outcome);
        check_all(&outcome, NEVER, false);
        check_all(&outcome, (const char *const[]){ "self", "own", "neighbour", NULL }, true);
        check(&outcome, "sock", MEANS[i] == LANDLOCK_ONLY); /* Landlock of this version does not look at sockets' paths */
        check(&outcome, "peek", false);
        close_all(&world, &outcome);
    }
}

static void test_the_network_is_denied_or_the_lack_of_that_is_told(void **state)
{
    static const struct {
        const char *toml;
        unsigned without;
        bool tcp;
        unsigned unenforceable;
    } CASES[] = { { DENY, ALL, false, 0 },
                  { DENY, NO_PID, false, 0 },
                  { DENY, BUBBLEWRAP_ONLY, false, 0 },
                  { DENY, LANDLOCK_ONLY, false, 1 }, /* TCP it can refuse, but no more */
                  { ALLOW, ALL, true, 0 },
                  { ALLOW, NOTHING, true, 1 /* the directory */ },
                  { DENY, NOTHING, true, 2 } };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        struct world world;
        struct outcome outcome;
        attempt_all(&world, CASES[i].toml, CASES[i].without, &outcome);
        check(&outcome, "tcp", CASES[i].tcp || (CASES[i].without == LANDLOCK_ONLY && landlock_abi() < 4));
        check(&outcome, "netns", CASES[i].tcp || CASES[i].without == LANDLOCK_ONLY);
        check(&outcome, "abstract", (CASES[i].without & HOOK_MEANS_LANDLOCK) != 0 && CASES[i].without != BUBBLEWRAP_ONLY);
        assert_int_equal(world.unenforceable, CASES[i].unenforceable);
        if (CASES[i].unenforceable == 1)
            assert_string_equal(world.unenforceable_reason, CASES[i].toml == DENY ? "network" : "directory");
        close_all(&world, &outcome);
    }
}

static void test_a_hook_reaches_no_other_process(void **state)
{
    static const unsigned MEANS[] = { ALL, BUBBLEWRAP_ONLY, LANDLOCK_ONLY };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        attempt_all(&world, DENY, MEANS[i], &outcome);
        if (MEANS[i] != LANDLOCK_ONLY || landlock_abi() >= 6)
            check(&outcome, "signal", false);
        check(&outcome, "see", MEANS[i] == LANDLOCK_ONLY);
        close_all(&world, &outcome);
    }
}

static void test_in_bubblewrap_only_its_directory_can_be_written(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    attempt_all(&world, SANDBOX, ALL, &outcome);
    check_all(&outcome, NEVER, false);
    check_all(&outcome,
              (const char *const[]){ "sock", "tcp", "netns", "abstract", "neighbour", "home", "shm", "tmp", "bus", "signal", "see", NULL },
              false);
    check(&outcome, "own", true);
    close_all(&world, &outcome);
}

static void test_without_bubblewrap_a_hook_that_demands_it_does_not_run(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, SANDBOX, HOOK_MEANS_BUBBLEWRAP, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\n");
    world_run(&world, "on-message", &outcome);
    assert_string_equal(outcome.not_started, "sandbox");
    world_close(&world);
}

static void test_a_hook_in_bubblewrap_gets_sigterm_itself(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, "[on-message]\nenabled = true\nsandbox = \"bubblewrap\"\ntimeout_s = 1\n", ALL, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\ntrap 'echo {}; exit 6' TERM\nwhile :; do sleep 0.1; done\n");
    world_run(&world, "on-message", &outcome);
    assert_true(outcome.result.timed_out);
    assert_int_equal(outcome.result.exit_status, 6);
    json_decref(outcome.output);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nexit 77\n");
    world_run(&world, "on-message", &outcome);
    assert_int_equal(outcome.result.exit_status, 77);
    world_close(&world);
}

static void test_a_daemon_directory_that_lies_elsewhere_is_told(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, ALLOW, ALL, 8);
    char *elsewhere = path_join(world.scratch, "elsewhere");
    assert_int_equal(rename(world.paths.daemon, elsewhere), 0);
    assert_int_equal(symlink(elsewhere, world.paths.daemon), 0);
    world_write(&world, "on-message", 0700, "#!/bin/sh\n");
    world_run(&world, "on-message", &outcome);
    assert_true(hook_result_is_success(&outcome.result));
    assert_int_equal(world.unenforceable, 1);
    assert_string_equal(world.unenforceable_reason, "directory");
    free(elsewhere);
    world_close(&world);
}

static void test_root_loses_what_could_undo_it(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    if (geteuid() != 0)
        skip();
    attempt_all(&world, DENY, ALL, &outcome);
    unsigned long long bounding = 0;
    assert_int_equal(sscanf(output_text(&outcome, "bounding"), "%llx", &bounding), 1);
    assert_int_equal(bounding & (1ULL << 21 /* CAP_SYS_ADMIN */ | 1ULL << 19 /* CAP_SYS_PTRACE */ | 1ULL << 2 /* CAP_DAC_READ_SEARCH */),
                     0);
    close_all(&world, &outcome);
}

/* As in many a container: neither namespaces nor a bubblewrap that works, though it is installed. */
static void play_container(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[2] = { { .effective = 0 } };
    struct error error;
    struct world world;
    struct outcome outcome;
    for (int capability = 0; capability < 64; capability++)
        (void)prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || syscall(SYS_capset, &header, none) != 0 ||
        hooks_spawner_start(&spawner, &error) != 0)
        _exit(1);
    world_open(&world, DENY, ALL, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nexit 7\n");
    world_run(&world, "on-message", &outcome);
    _exit(outcome.result.exit_status == 7 && world.unenforceable >= 1 ? 0 : 2);
}

static void test_where_nothing_can_be_enforced_a_hook_runs_all_the_same(void **state)
{
    int status = 0;
    (void)state;
    if (geteuid() != 0)
        skip();
    char *scratch = scratch_make();
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)setenv("TMPDIR", scratch, 1);
        play_container();
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    scratch_remove(scratch);
}

/* ---- the daemon dies ----------------------------------------------------------------------------------------------------------- */

/* A process that is the daemon as far as hooks are concerned: runs one that sleeps, in every way to slip away. */
static void play_daemon(const char *words, unsigned without)
{
    struct error error;
    struct world world;
    struct outcome outcome;
    if (hooks_spawner_start(&spawner, &error) != 0)
        _exit(1);
    char *prefix = spawner_run_prefix(), *unborn = memory_printf("%sXXXXXX", prefix); /* of a run that the spawner never hears of */
    if (mkdtemp(unborn) == NULL)
        _exit(1);
    world_open(&world, ALLOW, without, 8);
    char *script = memory_printf("#!/bin/sh\ntrap '' TERM\n%s &\nsetsid sh -c 'trap \"\" TERM; %s & setsid %s & %s' &\n%s\n", words, words,
                                 words, words, words);
    world_write(&world, "on-message", 0700, script);
    world_start(&world, "on-message", "{}", &outcome);
    loop_run(world.loop);
    _exit(2);
}

static unsigned count_run_directories(const char *base)
{
    unsigned count = 0;
    DIR *entries = opendir(base);
    assert_non_null(entries);
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries))
        count += string_has_prefix(entry->d_name, "claudemesh-") && !string_has_prefix(entry->d_name, "claudemesh-test-") ? 1 : 0;
    (void)closedir(entries);
    return count;
}

static void expect_nothing_after(unsigned without, unsigned number, int signal_number)
{
    char *words = memory_printf("sleep %u@@", number), *scratch = scratch_make();
    int64_t end = clock_monotonic_ms() + PATIENCE_MS;
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)setenv("TMPDIR", scratch, 1);
        play_daemon(words, without);
    }
    assert_true(pid > 0);
    while (count_processes(words) < 5) {
        assert_true(clock_monotonic_ms() < end);
        (void)usleep(2000);
    }
    assert_int_equal(count_run_directories(scratch), 2);
    assert_int_equal(kill(pid, signal_number), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    wait_for_no_process(words);
    while (count_run_directories(scratch) > 0) {
        assert_true(clock_monotonic_ms() < end);
        (void)usleep(2000);
    }
    free(words);
    scratch_remove(scratch);
}

static void test_nothing_survives_a_daemon_that_is_killed(void **state)
{
    static const unsigned MEANS[] = { ALL, NO_PID, NOTHING };
    (void)state;
    for (unsigned i = 0; i < ARRAY_LENGTH(MEANS); i++)
        expect_nothing_after(MEANS[i], 2001 + i, i == 1 ? SIGTERM : SIGKILL);
}

/* Its number among our children, by its name. */
static pid_t process_named(const char *name)
{
    pid_t found = 0;
    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    for (const struct dirent *entry = readdir(proc); entry != NULL; entry = readdir(proc)) {
        char path[300], text[512] = "";
        int parent = 0, pid = 0;
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        (void)snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
        FILE *file = fopen(path, "re");
        if (file == NULL)
            continue;
        char *read = fgets(text, sizeof(text), file);
        (void)fclose(file);
        const char *close_bracket = read == NULL ? NULL : strrchr(text, ')');
        if (close_bracket == NULL || strstr(text, name) == NULL || sscanf(text, "%d", &pid) != 1 ||
            sscanf(close_bracket + 1, " %*c %d", &parent) != 1)
            continue;
        bool ours = parent == getpid();
        if (!ours) { /* a grandchild: runners are the spawner's */
            (void)snprintf(path, sizeof(path), "/proc/%d/stat", parent);
            file = fopen(path, "re");
            if (file != NULL) {
                int grandparent = 0;
                read = fgets(text, sizeof(text), file);
                close_bracket = read == NULL ? NULL : strrchr(text, ')');
                ours = close_bracket != NULL && sscanf(close_bracket + 1, " %*c %d", &grandparent) == 1 && grandparent == getpid();
                (void)fclose(file);
            }
        }
        found = ours ? (pid_t)pid : found;
    }
    (void)closedir(proc);
    return found;
}

static void wait_until_runs(struct world *world, const char *words)
{
    unsigned expected = world->expected;
    int64_t end = clock_monotonic_ms() + PATIENCE_MS;
    world->expected = 1000;
    while (count_processes(words) == 0) {
        assert_true(clock_monotonic_ms() < end);
        loop_timer_start(world->patience, 5);
        loop_run(world->loop);
    }
    world->timed_out = false;
    world->expected = expected;
}

static void test_a_runner_that_is_killed_loses_its_run_and_leaves_nothing(void **state)
{
    static const unsigned MEANS[] = { ALL, NOTHING };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        world_open(&world, ALLOW, MEANS[i], 8);
        world_write(&world, "on-message", 0700, "#!/bin/sh\nsetsid sleep 2010@@ &\nsleep 2010@@\n");
        world_start(&world, "on-message", "{}", &outcome);
        wait_until_runs(&world, "sleep 2010@@");
        pid_t runner = process_named("(hook-runner)");
        assert_true(runner > 0);
        assert_int_equal(kill(runner, SIGKILL), 0);
        world_wait(&world);
        assert_true(outcome.result.lost);
        wait_for_no_process("sleep 2010@@");
        int64_t end = clock_monotonic_ms() + PATIENCE_MS;
        while (file_exists(world.directory)) { /* the spawner's, then */
            assert_true(clock_monotonic_ms() < end);
            (void)usleep(2000);
        }
        world_write(&world, "on-message", 0700, "#!/bin/sh\n");
        world_run(&world, "on-message", &outcome);
        assert_true(hook_result_is_success(&outcome.result));
        world_close(&world);
    }
}

/* Last: afterwards there is no spawner. */
static void test_when_the_spawner_dies_what_runs_goes_on_and_nothing_more_starts(void **state)
{
    struct world world;
    struct outcome outcome, later;
    (void)state;
    world_open(&world, ALLOW, ALL, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nsleep 0.5@@\necho '{}'\n");
    world_start(&world, "on-message", "{}", &outcome);
    wait_until_runs(&world, "sleep 0.5@@");
    pid_t pid = process_named("(hooks-spawner)");
    assert_true(pid > 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    world_wait(&world);
    assert_true(hook_result_is_success(&outcome.result));
    assert_non_null(outcome.output);
    json_decref(outcome.output);
    world_run(&world, "on-message", &later);
    assert_string_equal(later.not_started, "spawner");
    world_settle(&world);
    assert_false(file_exists(world.directory));
    world_close(&world);
}

int main(void)
{
    struct error error;
    test_pid = getpid();
    if (getenv("HOME") == NULL)
        (void)setenv("HOME", "/nonexistent", 1);
    const struct CMUnitTest deaths[] = {
        cmocka_unit_test(test_nothing_survives_a_daemon_that_is_killed),
        cmocka_unit_test(test_where_nothing_can_be_enforced_a_hook_runs_all_the_same),
    };
    if (cmocka_run_group_tests_name("deaths", deaths, NULL, NULL) != 0 || hooks_spawner_start(&spawner, &error) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_claudemesh_directory_is_out_of_reach),
        cmocka_unit_test(test_the_network_is_denied_or_the_lack_of_that_is_told),
        cmocka_unit_test(test_a_hook_reaches_no_other_process),
        cmocka_unit_test(test_in_bubblewrap_only_its_directory_can_be_written),
        cmocka_unit_test(test_without_bubblewrap_a_hook_that_demands_it_does_not_run),
        cmocka_unit_test(test_a_hook_in_bubblewrap_gets_sigterm_itself),
        cmocka_unit_test(test_a_daemon_directory_that_lies_elsewhere_is_told),
        cmocka_unit_test(test_root_loses_what_could_undo_it),
        cmocka_unit_test(test_a_runner_that_is_killed_loses_its_run_and_leaves_nothing),
        cmocka_unit_test(test_when_the_spawner_dies_what_runs_goes_on_and_nothing_more_starts),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    hooks_spawner_stop(spawner);
    return failed;
}
