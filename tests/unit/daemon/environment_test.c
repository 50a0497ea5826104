/* Where the daemon believes it runs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/internal.h"

static const char *const NAMES[] = { "CI",          "GITHUB_ACTIONS",          "GITLAB_CI",    "BUILDKITE", "CIRCLECI",
                                     "JENKINS_URL", "KUBERNETES_SERVICE_HOST", "RUNPOD_POD_ID" };

static int clear_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(NAMES); i++)
        if (unsetenv(NAMES[i]) != 0)
            return -1;
    return 0;
}

static void each_of_the_ci_variables_says_ci_and_an_empty_one_does_not(void **state)
{
    (void)state;
    assert_false(environment_is_ci());
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(setenv(NAMES[i], "", 1), 0);
        assert_false(environment_is_ci());
        assert_int_equal(setenv(NAMES[i], "true", 1), 0);
        assert_true(environment_is_ci());
        assert_int_equal(unsetenv(NAMES[i]), 0);
    }
}

static void a_pod_is_a_container(void **state)
{
    (void)state;
    for (size_t i = 6; i < ARRAY_LENGTH(NAMES); i++) {
        assert_int_equal(setenv(NAMES[i], "10.0.0.1", 1), 0);
        assert_true(environment_is_container());
        assert_int_equal(unsetenv(NAMES[i]), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(each_of_the_ci_variables_says_ci_and_an_empty_one_does_not, clear_environment),
        cmocka_unit_test_setup(a_pod_is_a_container, clear_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
