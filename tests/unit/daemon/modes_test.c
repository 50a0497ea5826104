/* What follows from where the daemon runs: the table of 50-identity, Modes, and how each default is overridden. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/internal.h"
#include "util/text.h"

static const char *const NAMES[] = { "CI",          "GITHUB_ACTIONS",          "GITLAB_CI",    "BUILDKITE", "CIRCLECI",
                                     "JENKINS_URL", "KUBERNETES_SERVICE_HOST", "RUNPOD_POD_ID" };

static int be_nowhere(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(NAMES); i++)
        if (unsetenv(NAMES[i]) != 0)
            return -1;
    return setenv("CLAUDEMESH_HOST_ROOT", "/nonexistent", 1);
}

static struct daemon_modes decide(const struct daemon_options *options, const char *setting, const char *value)
{
    struct settings *settings = NULL;
    struct error error = { 0 };
    struct daemon_modes modes;
    assert_int_equal(settings_load(SETTINGS, SETTING_COUNT, "CLAUDEMESH_", NULL, &settings, &error), 0);
    if (setting != NULL)
        assert_int_equal(settings_override(settings, setting, value, &error), 0);
    daemon_decide_modes(options, settings, &modes);
    settings_free(settings);
    return modes;
}

static const struct daemon_options NOTHING_SAID = { .tcp = -1, .tcp_port = -1 };

static void the_table_of_defaults(void **state)
{
    (void)state;
    struct daemon_modes modes = decide(&NOTHING_SAID, NULL, NULL);
    assert_true(modes.place == PLACE_HOST && modes.tcp && modes.hooks && !modes.ephemeral);
    assert_false(daemon_is_ephemeral_by_default());
    modes = decide(&(struct daemon_options){ .tcp = -1, .tcp_port = -1, .container = true }, NULL, NULL);
    assert_true(modes.place == PLACE_CONTAINER && !modes.tcp && modes.hooks);
    assert_int_equal(setenv("RUNPOD_POD_ID", "p", 1), 0);
    modes = decide(&NOTHING_SAID, NULL, NULL);
    assert_true(modes.place == PLACE_CONTAINER && !modes.tcp && modes.hooks);
    assert_false(daemon_is_ephemeral_by_default());
    assert_int_equal(setenv("GITLAB_CI", "true", 1), 0); /* in a container: the stricter row */
    modes = decide(&NOTHING_SAID, NULL, NULL);
    assert_true(modes.place == PLACE_CI && !modes.tcp && !modes.hooks);
    assert_true(daemon_is_ephemeral_by_default());
}

static void what_was_asked_for_counts_everywhere(void **state)
{
    (void)state;
    assert_int_equal(setenv("CI", "true", 1), 0);
    assert_true(decide(&(struct daemon_options){ .tcp = 1, .tcp_port = 0 }, NULL, NULL).tcp);
    assert_true(decide(&NOTHING_SAID, "ipc.tcp_enabled", "true").tcp);
    assert_true(decide(&NOTHING_SAID, "hooks.enabled", "true").hooks);
    assert_int_equal(unsetenv("CI"), 0);
    assert_false(decide(&NOTHING_SAID, "ipc.tcp_enabled", "false").tcp);
    assert_false(decide(&NOTHING_SAID, "hooks.enabled", "false").hooks);
    assert_false(decide(&(struct daemon_options){ .tcp = 0, .tcp_port = -1 }, "ipc.tcp_enabled", "true").tcp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_table_of_defaults, be_nowhere),
        cmocka_unit_test_setup(what_was_asked_for_counts_everywhere, be_nowhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
