/* What a message is an event for: by kind, mention and file, for messages verified as each hook wants them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above first */
#include <cmocka.h>

#include "daemon/hook_match.h"
#include "json/json.h"
#include "util/buffer.h"
#include "util/text.h"

static const char KEY[] = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

static bool runs_all(void *argument, const char *hook, enum inbox_verified verified)
{
    (void)argument;
    (void)hook;
    (void)verified;
    return true;
}

static bool runs_one(void *argument, const char *hook, enum inbox_verified verified)
{
    return strcmp(hook, argument) == 0 && verified == INBOX_VERIFIED;
}

static const char *matched(struct hook_match match)
{
    static char text[256];
    char *hooks[INBOX_HOOKS_MAXIMUM];
    struct buffer joined;
    buffer_init(&joined, sizeof(text) - 1);
    if (match.runs == NULL)
        match.runs = runs_all;
    size_t count = hook_match(&match, hooks);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(buffer_printf(&joined, "%s%s", i == 0 ? "" : " ", hooks[i]), 0);
        free(hooks[i]);
    }
    memcpy(text, joined.data, joined.length + 1);
    buffer_release(&joined);
    return text;
}

static void each_kind_has_its_hook_and_every_message_the_first(void **state)
{
    (void)state;
    struct hook_match match = { .kind = "dm", .verified = INBOX_VERIFIED };
    assert_string_equal(matched(match), "on-message on-dm");
    match.mentions_us = match.says_file = true;
    assert_string_equal(matched(match), "on-message on-dm on-mention on-file-share");
    match = (struct hook_match){ .kind = "topic", .topic = "deploys", .verified = INBOX_VERIFIED };
    assert_string_equal(matched(match), "on-message on-topic-deploys");
    match.mentions_us = true;
    assert_string_equal(matched(match), "on-message on-topic-deploys on-mention");
    match = (struct hook_match){ .kind = "topic", .topic = NULL, .verified = INBOX_VERIFIED };
    assert_string_equal(matched(match), "on-message");
    match = (struct hook_match){ .kind = "queue", .verified = INBOX_VERIFIED };
    assert_string_equal(matched(match), "on-message");
}

static void a_file_is_only_what_a_verified_member_says(void **state)
{
    (void)state;
    struct hook_match match = { .kind = "dm", .verified = INBOX_UNVERIFIED, .says_file = true };
    assert_string_equal(matched(match), "on-message on-dm");
}

static void a_hook_that_does_not_run_is_not_named(void **state)
{
    (void)state;
    char hook[] = "on-topic-ops";
    struct hook_match match = { .kind = "topic", .topic = "ops", .verified = INBOX_VERIFIED, .runs = runs_one, .argument = hook };
    assert_string_equal(matched(match), "on-topic-ops");
    match.topic = "ops2";
    assert_string_equal(matched(match), "");
    match.topic = "ops";
    match.verified = INBOX_LEGACY;
    assert_string_equal(matched(match), "");
}

static bool mentions(const char *text, const char *folded_name)
{
    json_t *list;
    struct error error;
    assert_int_equal(json_parse_strict(text, strlen(text), &list, &error), 0);
    bool found = hook_mentions(list, KEY, folded_name);
    json_decref(list);
    return found;
}

static void a_mention_is_the_whole_name_or_the_whole_key(void **state)
{
    (void)state;
    assert_true(mentions("[\"alice\",\"Bob\"]", "bob"));
    assert_true(mentions("[\"@BOB\"]", "bob"));
    assert_true(mentions("[\"@A1B2C3D4E5F60718293A4B5C6D7E8F90a1b2c3d4e5f60718293a4b5c6d7e8f90\"]", NULL));
    assert_false(mentions("[\"a1b2c3d4e5f60718\"]", "bob"));
    assert_false(mentions("[\"bobby\",\"bo\",\"@@bob\",\"\",\"@\"]", "bob"));
    assert_false(mentions("[\"\",\"@\"]", ""));
    assert_false(mentions("[\"bob\"]", NULL));
    assert_false(mentions("[]", "bob"));
    assert_false(hook_mentions(NULL, KEY, "bob"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind_has_its_hook_and_every_message_the_first),
        cmocka_unit_test(a_file_is_only_what_a_verified_member_says),
        cmocka_unit_test(a_hook_that_does_not_run_is_not_named),
        cmocka_unit_test(a_mention_is_the_whole_name_or_the_whole_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
