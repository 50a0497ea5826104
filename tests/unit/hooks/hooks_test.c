/* The engine with real processes (60-hooks: Which, The contract): which file runs, what it sees, how it ends, what it may not disturb. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "world.h"

static const char PLAIN[] = "[on-message]\nenabled = true\nnetwork_policy = \"allow\"\n";

/* Each runs with every means of this system, and with none. */
static const unsigned MEANS[] = { 0, HOOK_MEANS_PID_NAMESPACE, HOOK_MEANS_NAMESPACES | HOOK_MEANS_LANDLOCK | HOOK_MEANS_BUBBLEWRAP };

static void run_one(unsigned without, const char *toml, const char *script, struct outcome *outcome, struct world *world)
{
    world_open(world, toml, without, 8);
    world_write(world, "on-message.sh", 0700, script);
    world_run(world, "on-message", outcome);
}

static void test_a_hook_reads_the_event_and_answers_with_an_object(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        run_one(MEANS[i], PLAIN,
                "#!/bin/sh\nread -r event\nprintf '{\"reply\":\"%s\"}' \"$(printf %s \"$event\" | tr -d '\\\"')\"\nexit 0\n", &outcome,
                &world);
        assert_string_equal(output_text(&outcome, "reply"), "{id:event-1,body:hello}");
        assert_true(hook_result_is_success(&outcome.result));
        assert_int_equal(world.prepared, 1);
        assert_int_equal(world.finished, 1);
        json_decref(outcome.output);
        world_close(&world);
    }
}

static void test_the_environment_is_exactly_that_of_the_specification(void **state)
{
    static const char *const TOMLS[] = { "", "capability_token_scope = [\"reply:event\"]\n", "sandbox = \"bubblewrap\"\n",
                                         "network_policy = \"deny\"\n" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(TOMLS); i++) {
        struct world world;
        struct outcome outcome;
        char *toml = memory_printf("[on-message]\nenabled = true\n%s", TOMLS[i]);
        run_one(
            i == 3 ? HOOK_MEANS_NAMESPACES : 0, toml,
            "#!/usr/bin/python3 -SIB\nimport json, os\nold = os.umask(0)\n"
            "print(json.dumps({'env': open('/proc/self/environ').read().replace('\\0', '|'), 'umask': oct(old), 'pwd': os.getcwd()}))\n",
            &outcome, &world);
        char *expected =
            memory_printf("PATH=/usr/bin:/bin|HOME=%s|CLAUDEMESH_MESH=team|CLAUDEMESH_HOOK_NAME=on-message|CLAUDEMESH_EVENT_ID=event-"
                          "1|CLAUDEMESH_DAEMON_SOCK=%s/s|%s",
                          getenv("HOME"), world.directory, i == 1 ? "CLAUDEMESH_CAPABILITY_TOKEN=token-of-this-run|" : "");
        assert_string_equal(output_text(&outcome, "env"), expected);
        assert_string_equal(output_text(&outcome, "umask"), "0o77");
        assert_string_equal(output_text(&outcome, "pwd"), world.directory);
        free(expected);
        free(toml);
        json_decref(outcome.output);
        world_close(&world);
    }
}

static void test_a_hook_has_no_other_descriptor_than_0_1_and_2(void **state)
{
    static const char *const TOMLS[] = { "network_policy = \"allow\"\n", "sandbox = \"bubblewrap\"\n", "" };
    (void)state;
    for (size_t means = 0; means < ARRAY_LENGTH(MEANS); means++) {
        for (size_t i = 0; i < ARRAY_LENGTH(TOMLS); i++) {
            struct world world;
            struct outcome outcome;
            if (i == 1 && means == 2)
                continue;
            char *toml = memory_printf("[on-message]\nenabled = true\n%s", TOMLS[i]);
            /* What the shell itself has, script and all: its own descriptor for the script is 10 or 255, opened by itself. */
            run_one(MEANS[means], toml,
                    "#!/usr/bin/python3 -SIB\nimport os, json\nmine = os.listdir('/proc/self/fd')\n"
                    "print(json.dumps({'fds': ' '.join(sorted(f for f in mine if os.path.exists('/proc/self/fd/' + f)))}))\n",
                    &outcome, &world);
            assert_string_equal(output_text(&outcome, "fds"), "0 1 2");
            free(toml);
            json_decref(outcome.output);
            world_close(&world);
        }
    }
}

static void test_a_program_that_is_no_script_runs_too(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        struct buffer bytes;
        struct error error;
        world_open(&world, PLAIN, MEANS[i], 8);
        buffer_init(&bytes, 16 * 1024 * 1024);
        assert_int_equal(file_read("/bin/cat", &bytes, &error), 0);
        char *path = path_join(world.paths.hooks, "on-message");
        assert_int_equal(file_write_atomic(path, 0700, bytes.data, bytes.length, &error), 0);
        world_run(&world, "on-message", &outcome);
        assert_string_equal(output_text(&outcome, "body"), "hello"); /* cat gives back what it reads */
        free(path);
        buffer_release(&bytes);
        json_decref(outcome.output);
        world_close(&world);
    }
}

/* ---- which file ------------------------------------------------------------------------------------------------------------- */

static void expect_refused(struct world *world, const char *reason)
{
    struct outcome outcome;
    world_run(world, "on-message", &outcome);
    assert_string_equal(outcome.not_started, reason);
    assert_int_equal(world->prepared, world->finished);
}

static void test_a_hook_that_others_could_change_is_refused(void **state)
{
    static const mode_t MODES[] = { 0720, 0702, 0777, 0600 };
    struct world world;
    (void)state;
    world_open(&world, PLAIN, 0, 8);
    for (size_t i = 0; i < ARRAY_LENGTH(MODES); i++) {
        world_write(&world, "on-message.sh", MODES[i], "#!/bin/sh\n");
        expect_refused(&world, "unsafe");
    }
    world_write(&world, "on-message.sh", 0755, "#!/bin/sh\n");
    struct outcome outcome;
    world_run(&world, "on-message", &outcome);
    assert_true(hook_result_is_success(&outcome.result));
    assert_int_equal(chmod(world.paths.hooks, 0750), 0);
    expect_refused(&world, "unsafe");
    assert_int_equal(chmod(world.paths.hooks, 0700), 0);
    if (geteuid() == 0) {
        char *path = path_join(world.paths.hooks, "on-message.sh");
        assert_int_equal(chown(path, 65534, 65534), 0);
        expect_refused(&world, "unsafe");
        free(path);
        assert_int_equal(chown(world.paths.hooks, 65534, 65534), 0);
        expect_refused(&world, "unsafe");
    }
    world_close(&world);
}

static void test_links_directories_fifos_and_twins_are_refused(void **state)
{
    struct world world;
    (void)state;
    world_open(&world, PLAIN, 0, 8);
    char *path = path_join(world.paths.hooks, "on-message.x");
    expect_refused(&world, "missing");
    assert_int_equal(symlink("/bin/true", path), 0);
    expect_refused(&world, "unsafe");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    expect_refused(&world, "unsafe");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0700), 0);
    expect_refused(&world, "unsafe");
    assert_int_equal(unlink(path), 0);
    world_write(&world, "on-message", 0700, "#!/bin/sh\n");
    world_write(&world, "on-message.py", 0700, "#!/bin/sh\n");
    expect_refused(&world, "ambiguous");
    free(path);
    world_close(&world);
}

static void test_only_what_hooks_toml_enables_runs(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, "[on-dm]\n[on-message]\nenabled = false\n", 0, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\n");
    world_write(&world, "on-mention", 0700, "#!/bin/sh\n");
    assert_false(hooks_wants(world.hooks, "on-message"));
    assert_false(hooks_wants(world.hooks, "on-dm"));
    assert_false(hooks_wants(world.hooks, "on-mention"));
    world_run(&world, "on-message", &outcome);
    assert_string_equal(outcome.not_started, "disabled");
    world_write(&world, "hooks.toml", 0600, "[on-message]\nenabled = true\n");
    hooks_reload(world.hooks);
    assert_true(hooks_wants(world.hooks, "on-message"));
    world_run(&world, "on-message", &outcome);
    assert_true(hook_result_is_success(&outcome.result));
    world_write(&world, "hooks.toml", 0600, "[on-message\n"); /* the earlier one stays in force */
    hooks_reload(world.hooks);
    assert_true(hooks_wants(world.hooks, "on-message"));
    world_close(&world);
}

static void test_a_mistake_in_a_section_stops_its_hook_and_no_other(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, "[pre-send]\nenabled = true\ntimout_s = 3\n[on-message]\nenabled = true\n", 0, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\n");
    world_write(&world, "pre-send", 0700, "#!/bin/sh\n");
    assert_true(hooks_wants(world.hooks, "pre-send")); /* a gate that is broken is shut */
    assert_null(hooks_config(world.hooks, "pre-send"));
    world_run(&world, "pre-send", &outcome);
    assert_string_equal(outcome.not_started, "configuration");
    world_run(&world, "on-message", &outcome);
    assert_true(hook_result_is_success(&outcome.result));
    world_write(&world, "hooks.toml", 0600, "[pre-send]\nenabeld = true\n");
    hooks_reload(world.hooks);
    assert_true(hooks_wants(world.hooks, "pre-send"));
    world_write(&world, "hooks.toml", 0600, "[pre-send]\nenabled = false\ntimout_s = 3\n");
    hooks_reload(world.hooks);
    assert_false(hooks_wants(world.hooks, "pre-send"));
    world_close(&world);
}

static void test_a_broken_file_runs_nothing_and_shuts_the_gate_if_there_is_one(void **state)
{
    struct world world;
    (void)state;
    world_open(&world, "[on-message]\nenabled = yes\n", 0, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\n");
    assert_false(hooks_wants(world.hooks, "on-message"));
    assert_false(hooks_wants(world.hooks, "pre-send"));
    world_write(&world, "pre-send.py", 0700, "#!/bin/sh\n");
    assert_true(hooks_wants(world.hooks, "pre-send"));
    world_write(&world, "hooks.toml", 0622, "[on-message]\nenabled = true\n"); /* others may write it: it does not count */
    hooks_reload(world.hooks);
    assert_false(hooks_wants(world.hooks, "on-message"));
    world_close(&world);
}

static void test_a_topic_with_a_dot_is_not_a_topic_with_an_extension(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, "[on-topic-a]\nenabled = true\n[\"on-topic-a.b\"]\nenabled = true\n", 0, 8);
    world_write(&world, "on-topic-a.b", 0700, "#!/bin/sh\nexit 2\n");
    world_run(&world, "on-topic-a", &outcome);
    assert_string_equal(outcome.not_started, "missing");
    world_write(&world, "on-topic-a.sh", 0700, "#!/bin/sh\nexit 1\n");
    world_write(&world, "on-topic-ab", 0700, "#!/bin/sh\nexit 9\n");
    world_run(&world, "on-topic-a", &outcome);
    assert_int_equal(outcome.result.exit_status, 1);
    world_run(&world, "on-topic-a.b", &outcome);
    assert_int_equal(outcome.result.exit_status, 2);
    world_close(&world);
}

/* ---- how it ends --------------------------------------------------------------------------------------------------------------- */

static void test_a_label_says_how_a_run_ended_in_few_words(void **state)
{
    static const struct {
        struct hook_result result;
        const char *label;
    } CASES[] = { { { .exit_status = 0 }, "0" },
                  { { .exit_status = 255 }, "255" },
                  { { .exit_status = -1, .signal = 9 }, "signal" },
                  { { .exit_status = -1, .signal = 9, .timed_out = true }, "timeout" },
                  { { .exit_status = -1, .lost = true }, "lost" },
                  { { .exit_status = -1, .not_started = "missing" }, "not_started" } };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        char label[HOOK_EXIT_LABEL_SIZE];
        hook_result_exit_label(&CASES[i].result, label);
        assert_string_equal(label, CASES[i].label);
        assert_int_equal(hook_result_is_success(&CASES[i].result), i == 0);
    }
}

static void test_exit_statuses_signals_and_missing_interpreters_are_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        world_open(&world, PLAIN, MEANS[i], 8);
        world_write(&world, "on-message", 0700, "#!/bin/sh\nexit 77\n");
        world_run(&world, "on-message", &outcome);
        assert_int_equal(outcome.result.exit_status, 77);
        world_write(&world, "on-message", 0700, "#!/bin/sh\nkill -SEGV $$\n");
        world_run(&world, "on-message", &outcome);
        assert_int_equal(outcome.result.exit_status, -1);
        assert_int_equal(outcome.result.signal, SIGSEGV);
        world_write(&world, "on-message", 0700, "#!/no/such/interpreter\n");
        world_run(&world, "on-message", &outcome);
        assert_string_equal(outcome.not_started, "exec");
        world_write(&world, "on-message", 0700, "no program\n");
        world_run(&world, "on-message", &outcome);
        assert_string_equal(outcome.not_started, "exec");
        world_close(&world);
    }
}

static void test_a_hook_that_prints_garbage_or_too_much_has_no_output(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, "[on-message]\nenabled = true\noutput_size_limit = 100\n", 0, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nprintf '\\377\\000garbage'; echo oops >&2\n");
    world_run(&world, "on-message", &outcome);
    assert_true(outcome.result.output_invalid);
    assert_int_equal(outcome.result.output_bytes, 9);
    assert_int_equal(outcome.result.error_bytes, 5);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nprintf '[1]'\n");
    world_run(&world, "on-message", &outcome);
    assert_true(outcome.result.output_invalid);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nprintf ' \\n'\n");
    world_run(&world, "on-message", &outcome);
    assert_true(hook_result_is_success(&outcome.result));
    assert_null(outcome.output);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nprintf '{\"a\":\"%0100d\"}' 1\n");
    world_run(&world, "on-message", &outcome);
    assert_true(outcome.result.output_too_large);
    assert_false(outcome.result.output_invalid);
    assert_null(outcome.output);
    world_close(&world);
}

static void test_a_hundred_megabytes_are_thrown_away(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        run_one(MEANS[i], PLAIN, "#!/bin/sh\nhead -c 104857600 /dev/zero\nhead -c 104857600 /dev/zero >&2\n", &outcome, &world);
        assert_int_equal(outcome.result.exit_status, 0);
        assert_int_equal(outcome.result.output_bytes, 104857600);
        assert_int_equal(outcome.result.error_bytes, 104857600);
        assert_true(outcome.result.output_too_large);
        world_close(&world);
    }
}

static void test_a_large_event_is_no_matter_to_a_hook_that_does_not_read(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, PLAIN, 0, 8);
    char *payload = memory_alloc(300 * 1024);
    int start = snprintf(payload, 100, "{\"body\":\"");
    memset(payload + start, 'x', 290 * 1024);
    (void)snprintf(payload + start + 290 * 1024, 100, "\"}");
    world_write(&world, "on-message", 0700, "#!/bin/sh\nexec <&-\nexit 3\n");
    world_start(&world, "on-message", payload, &outcome);
    world_wait(&world);
    assert_int_equal(outcome.result.exit_status, 3);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nprintf '{\"size\":\"%s\"}' $(wc -c)\n");
    world_start(&world, "on-message", payload, &outcome);
    world_wait(&world);
    assert_string_equal(output_text(&outcome, "size"), "262144");
    json_decref(outcome.output);
    free(payload);
    world_close(&world);
}

static void test_a_hook_that_hangs_is_ended_and_one_that_ignores_sigterm_is_killed(void **state)
{
    static const char TOML[] = "[on-message]\nenabled = true\ntimeout_s = 1\nnetwork_policy = \"allow\"\n";
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        run_one(MEANS[i], TOML, "#!/bin/sh\nsleep 1001@@\n", &outcome, &world);
        assert_true(outcome.result.timed_out);
        assert_int_equal(outcome.result.signal, SIGTERM);
        assert_true(outcome.result.duration_ms >= 1000);
        wait_for_no_process("sleep 1001@@");
        world_write(&world, "on-message.sh", 0700, "#!/bin/sh\ntrap 'echo {}; exit 5' TERM\nwhile :; do sleep 0.1; done\n");
        world_run(&world, "on-message", &outcome);
        assert_true(outcome.result.timed_out);
        assert_int_equal(outcome.result.exit_status, 5);
        json_decref(outcome.output);
        world_write(&world, "on-message.sh", 0700, "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1002@@; done\n");
        world_run(&world, "on-message", &outcome);
        assert_true(outcome.result.timed_out);
        assert_int_equal(outcome.result.signal, SIGKILL);
        assert_true(outcome.result.duration_ms >= 6000);
        wait_for_no_process("sleep 1002@@");
        world_close(&world);
    }
}

static void test_nothing_that_a_hook_starts_outlives_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        /* In the background, in a session of its own, twice removed, holding our pipes. */
        run_one(MEANS[i], PLAIN,
                "#!/bin/sh\nsleep 1003@@ &\nsetsid sh -c 'sleep 1003@@ & setsid sleep 1003@@ & exit 0' &\nwait $!\nexit 0\n", &outcome,
                &world);
        assert_int_equal(outcome.result.exit_status, 0);
        assert_int_equal(count_processes("sleep 1003@@"), 0);
        world_close(&world);
    }
}

/* ---- its directory ------------------------------------------------------------------------------------------------------------------ */

static void test_its_directory_is_fresh_private_and_gone_afterwards(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(MEANS); i++) {
        struct world world;
        struct outcome outcome;
        run_one(MEANS[i], PLAIN,
                "#!/bin/sh\nmkdir -p a/b/c; touch a/b/c/file; chmod 000 a/b; ln -s /etc link; mkfifo f\n"
                "printf '{\"mode\":\"%s\"}' $(stat -c %a .)\nchmod 000 .\n",
                &outcome, &world);
        assert_string_equal(output_text(&outcome, "mode"), "700");
        world_settle(&world);
        assert_false(file_exists(world.directory));
        assert_true(file_exists("/etc/passwd"));
        json_decref(outcome.output);
        world_close(&world);
    }
}

/* ---- many ------------------------------------------------------------------------------------------------------------------------- */

static void test_of_1100_events_at_once_some_run_some_wait_and_the_rest_is_dropped(void **state)
{
    enum { EVENTS = 1100 };
    static struct outcome outcomes[EVENTS];
    struct world world;
    unsigned dropped = 0;
    (void)state;
    world_open(&world, PLAIN, HOOK_MEANS_NAMESPACES, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nexit 0\n");
    for (size_t i = 0; i < EVENTS; i++)
        world_start(&world, "on-message", "{}", &outcomes[i]);
    assert_int_equal(hooks_waiting(world.hooks), HOOK_QUEUE_MAXIMUM);
    world_wait(&world);
    for (size_t i = 0; i < EVENTS; i++) {
        assert_int_equal(outcomes[i].calls, 1);
        if (outcomes[i].not_started[0] != '\0') {
            assert_string_equal(outcomes[i].not_started, "queue_full");
            assert_true(i >= HOOK_QUEUE_MAXIMUM); /* the first come run */
            dropped++;
        } else {
            assert_int_equal(outcomes[i].result.exit_status, 0);
        }
    }
    assert_int_equal(dropped, EVENTS - HOOK_QUEUE_MAXIMUM);
    assert_int_equal(hooks_dropped(world.hooks), dropped);
    world_close(&world);
}

static void test_no_more_run_at_once_than_allowed(void **state)
{
    static struct outcome outcomes[6];
    struct world world;
    (void)state;
    world_open(&world, PLAIN, 0, 2);
    char *script = memory_printf("#!/bin/sh\nset -C\nfor n in 1 2 3; do if mkdir %s/place$n 2>/dev/null; then sleep 0.2; rmdir %s/place$n; "
                                 "printf '{\"place\":\"%%s\"}' $n; exit 0; fi; done\n",
                                 world.scratch, world.scratch);
    world_write(&world, "on-message", 0700, script);
    for (size_t i = 0; i < ARRAY_LENGTH(outcomes); i++)
        world_start(&world, "on-message", "{}", &outcomes[i]);
    world_wait(&world);
    for (size_t i = 0; i < ARRAY_LENGTH(outcomes); i++) {
        assert_true(string_equal(output_text(&outcomes[i], "place"), "1") || string_equal(output_text(&outcomes[i], "place"), "2"));
        json_decref(outcomes[i].output);
    }
    free(script);
    world_close(&world);
}

static void test_a_stop_ends_what_runs_and_drops_what_waits(void **state)
{
    struct outcome outcomes[3];
    struct world world;
    (void)state;
    world_open(&world, PLAIN, 0, 1);
    world_write(&world, "on-message", 0700, "#!/bin/sh\nsleep 1004@@\n");
    for (size_t i = 0; i < ARRAY_LENGTH(outcomes); i++)
        world_start(&world, "on-message", "{}", &outcomes[i]);
    int64_t end = clock_monotonic_ms() + PATIENCE_MS;
    world.expected = 4; /* not before the first sleeps */
    while (count_processes("sleep 1004@@") == 0 && clock_monotonic_ms() < end) {
        loop_timer_start(world.patience, 5);
        loop_run(world.loop);
        world.timed_out = false;
    }
    world.expected = 3;
    hooks_stop(world.hooks, 2000);
    world_wait(&world);
    assert_int_equal(outcomes[0].result.signal, SIGTERM);
    assert_string_equal(outcomes[1].not_started, "stopping");
    assert_string_equal(outcomes[2].not_started, "stopping");
    world_settle(&world);
    assert_int_equal(count_processes("sleep 1004@@"), 0);
    assert_false(file_exists(world.directory));
    world_close(&world);
}

static void test_what_prepare_refuses_does_not_run(void **state)
{
    struct world world;
    struct outcome outcome;
    (void)state;
    world_open(&world, PLAIN, 0, 8);
    world_write(&world, "on-message", 0700, "#!/bin/sh\n");
    world.refuse_prepare = true;
    world_run(&world, "on-message", &outcome);
    assert_string_equal(outcome.not_started, "prepare");
    assert_int_equal(world.finished, 0);
    assert_false(file_exists(world.directory));
    world_close(&world);
}

int main(void)
{
    struct error error;
    test_pid = getpid();
    if (getenv("HOME") == NULL)
        (void)setenv("HOME", "/nonexistent", 1);
    if (hooks_spawner_start(&spawner, &error) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_hook_reads_the_event_and_answers_with_an_object),
        cmocka_unit_test(test_the_environment_is_exactly_that_of_the_specification),
        cmocka_unit_test(test_a_hook_has_no_other_descriptor_than_0_1_and_2),
        cmocka_unit_test(test_a_program_that_is_no_script_runs_too),
        cmocka_unit_test(test_a_hook_that_others_could_change_is_refused),
        cmocka_unit_test(test_links_directories_fifos_and_twins_are_refused),
        cmocka_unit_test(test_only_what_hooks_toml_enables_runs),
        cmocka_unit_test(test_a_mistake_in_a_section_stops_its_hook_and_no_other),
        cmocka_unit_test(test_a_broken_file_runs_nothing_and_shuts_the_gate_if_there_is_one),
        cmocka_unit_test(test_a_topic_with_a_dot_is_not_a_topic_with_an_extension),
        cmocka_unit_test(test_a_label_says_how_a_run_ended_in_few_words),
        cmocka_unit_test(test_exit_statuses_signals_and_missing_interpreters_are_told),
        cmocka_unit_test(test_a_hook_that_prints_garbage_or_too_much_has_no_output),
        cmocka_unit_test(test_a_hundred_megabytes_are_thrown_away),
        cmocka_unit_test(test_a_large_event_is_no_matter_to_a_hook_that_does_not_read),
        cmocka_unit_test(test_a_hook_that_hangs_is_ended_and_one_that_ignores_sigterm_is_killed),
        cmocka_unit_test(test_nothing_that_a_hook_starts_outlives_it),
        cmocka_unit_test(test_its_directory_is_fresh_private_and_gone_afterwards),
        cmocka_unit_test(test_of_1100_events_at_once_some_run_some_wait_and_the_rest_is_dropped),
        cmocka_unit_test(test_no_more_run_at_once_than_allowed),
        cmocka_unit_test(test_a_stop_ends_what_runs_and_drops_what_waits),
        cmocka_unit_test(test_what_prepare_refuses_does_not_run),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    hooks_spawner_stop(spawner);
    return failed;
}
