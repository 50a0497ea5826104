/* hooks.toml (60-hooks, "Which, and when"): every key, its default and its range; what is wrong is told, and stops its hook. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "hooks/hook_config.h"
#include "util/text.h"

static struct hooks_file parse(const char *text)
{
    struct hooks_file file;
    struct error error = { .message = "" };
    if (hooks_file_parse("hooks.toml", text, strlen(text), &file, &error) != 0)
        fail_msg("%s", error.message);
    return file;
}

static void test_the_example_of_the_specification_is_read(void **state)
{
    struct hooks_file file = parse("[on-mention]\nenabled = true\ntimeout_s = 31              # default 30\noutput_size_limit = 65537\n"
                                   "redact_payload = [\"body.password\", \"meta.api_key\"]\nallow_reply = true\n"
                                   "capability_token_scope = [\"reply:event\"]\nnetwork_policy = \"allow\"\nsandbox = \"bubblewrap\"\n"
                                   "allow_unverified = true\naccept_legacy = true\n");
    (void)state;
    const struct hook_config *hook = hooks_file_find(&file, "on-mention");
    assert_non_null(hook);
    assert_null(hook->problem);
    assert_true(hook->enabled && hook->allow_reply && hook->network_allow && hook->bubblewrap && hook->allow_unverified &&
                hook->accept_legacy);
    assert_int_equal(hook->timeout_ms, 31000);
    assert_int_equal(hook->output_size_limit, 65537);
    assert_int_equal(hook->redact_count, 2);
    assert_string_equal(hook->redact_payload[1], "meta.api_key");
    assert_int_equal(hook->scope_count, 1);
    assert_string_equal(hook->capability_token_scope[0], "reply:event");
    assert_null(hooks_file_find(&file, "on-message"));
    hooks_file_release(&file);
}

static void test_what_is_not_said_has_the_safe_default(void **state)
{
    struct hooks_file file = parse("[on-dm]\n");
    (void)state;
    const struct hook_config *hook = hooks_file_find(&file, "on-dm");
    assert_null(hook->problem);
    assert_false(hook->enabled || hook->allow_reply || hook->network_allow || hook->bubblewrap || hook->allow_unverified ||
                 hook->accept_legacy);
    assert_int_equal(hook->timeout_ms, 30000);
    assert_int_equal(hook->output_size_limit, 65536);
    assert_int_equal(hook->redact_count + hook->scope_count, 0);
    hooks_file_release(&file);
}

static void test_each_mistake_is_told_with_its_place(void **state)
{
    static const struct {
        const char *text, *problem;
    } CASES[] = {
        { "[on-dm]\ntimeout = 3\n", "hooks.toml:2:1: unknown key 'timeout'; the nearest is 'timeout_s'" },
        { "[on-dm]\nenabled = \"yes\"\n", "hooks.toml:2:1: enabled must be true or false" },
        { "[on-dm]\ntimeout_s = 0\n", "hooks.toml:2:1: timeout_s must be a number from 1 to 3600" },
        { "[on-dm]\ntimeout_s = 3601\n", "hooks.toml:2:1: timeout_s must be a number from 1 to 3600" },
        { "[on-dm]\noutput_size_limit = -1\n", "hooks.toml:2:1: output_size_limit must be a number from 0 to 1048576" },
        { "[on-dm]\nnetwork_policy = \"none\"\n", "hooks.toml:2:1: network_policy must be \"deny\" or \"allow\"" },
        { "[on-dm]\nsandbox = \"firejail\"\n", "hooks.toml:2:1: sandbox must be \"\" or \"bubblewrap\"" },
        { "[on-dm]\ncapability_token_scope = [\"read:all\"]\n",
          "hooks.toml:2:1: capability_token_scope has \"read:all\", which is not one of: \"reply:event\", \"dm:send:sender\", "
          "\"topic:<name>:post\"" },
        { "[on-dm]\ncapability_token_scope = [\"topic::post\"]\n", "hooks.toml:2:1: capability_token_scope has \"topic::post\"" },
        { "[on-dm]\ncapability_token_scope = \"reply:event\"\n", "hooks.toml:2:1: capability_token_scope must be a list" },
        { "[on-dm]\nredact_payload = [\"a..b\"]\n", "hooks.toml:2:1: redact_payload has \"a..b\"" },
        { "[on-mesage]\nenabled = true\n", "hooks.toml:1:1: there is no hook 'on-mesage'; the nearest is 'on-message'" },
        { "[on-topic-Big]\n", "hooks.toml:1:1: there is no hook 'on-topic-Big'; the nearest is 'on-topic-<name>'" },
        { "[on-topic-a.b]\n", "hooks.toml:1:1: a name with a dot is written [\"on-topic-a.b\"]" },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        struct hooks_file file = parse(CASES[i].text);
        assert_int_equal(file.count, 1);
        assert_non_null(file.hooks[0].problem);
        if (!string_has_prefix(file.hooks[0].problem, CASES[i].problem))
            fail_msg("%s", file.hooks[0].problem);
        hooks_file_release(&file);
    }
}

static void test_a_file_that_is_no_toml_is_an_error(void **state)
{
    static const char *const TEXTS[] = { "[on-dm\n", "enabled = true\n", "[on-dm]\nenabled = true\nenabled = true\n",
                                         "[on-dm]\n[on-dm]\n" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(TEXTS); i++) {
        struct hooks_file file;
        struct error error = { .message = "" };
        assert_int_equal(hooks_file_parse("hooks.toml", TEXTS[i], strlen(TEXTS[i]), &file, &error), -ERROR_INVALID);
        assert_true(string_has_prefix(error.message, "hooks.toml:"));
    }
}

static void test_every_hook_of_the_specification_has_its_name(void **state)
{
    static const char *const GOOD[] = { "on-message",    "on-dm",         "on-mention",   "on-topic-deploys", "on-topic-a.b",
                                        "on-file-share", "on-disconnect", "on-reconnect", "on-startup",       "pre-send" };
    static const char *const BAD[] = { "", "on-", "on-topic-", "on-topic-a b", "pre-receive", "../on-dm", "hooks" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(GOOD); i++)
        assert_true(hook_name_is_valid(GOOD[i]));
    for (size_t i = 0; i < ARRAY_LENGTH(BAD); i++)
        assert_false(hook_name_is_valid(BAD[i]));
    struct hooks_file file =
        parse("[\"on-topic-a.b\"]\nenabled = true\ncapability_token_scope = [\"topic:a.b:post\", \"dm:send:sender\"]\n");
    assert_null(hooks_file_find(&file, "on-topic-a.b")->problem);
    hooks_file_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_example_of_the_specification_is_read),     cmocka_unit_test(test_what_is_not_said_has_the_safe_default),
        cmocka_unit_test(test_each_mistake_is_told_with_its_place),          cmocka_unit_test(test_a_file_that_is_no_toml_is_an_error),
        cmocka_unit_test(test_every_hook_of_the_specification_has_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
