/* Every scope against every send: what a capability is good for, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above first */
#include <cmocka.h>

#include "ipc/capability.h"
#include "util/text.h"

static char SENDER[] = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";
static char OTHER[] = "b1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

static bool allows(const struct ipc_capability *capability, const char *mesh, const char *kind, const char *ref, const char *reply_to)
{
    const struct capability_send send = { mesh, kind, ref, reply_to, "id-1" };
    bool uses_reply;
    return capability_allows_send(capability, &send, &uses_reply);
}

static void each_scope_lets_it_do_exactly_what_the_table_says(void **state)
{
    (void)state;
    static const struct {
        unsigned scopes;
        bool reply_dm, reply_topic, dm, topic;
    } ROWS[] = {
        { 0, false, false, false, false },
        { CAPABILITY_REPLY, true, true, false, false },
        { CAPABILITY_DM_SENDER, true, false, true, false },
        { CAPABILITY_TOPIC_POST, false, true, false, true },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(ROWS); i++) {
        char mesh[] = "acme", topic[] = "ops", event[] = "01EVENT";
        struct ipc_capability capability = { .references = 1,
                                             .scopes = ROWS[i].scopes,
                                             .mesh_slug = mesh,
                                             .sender_pubkey = SENDER,
                                             .topic = topic,
                                             .broker_message_id = event };
        assert_int_equal(allows(&capability, "acme", "dm", SENDER, "01EVENT"), ROWS[i].reply_dm);
        assert_int_equal(allows(&capability, "acme", "topic", "ops", "01EVENT"), ROWS[i].reply_topic);
        assert_int_equal(allows(&capability, "acme", "dm", SENDER, NULL), ROWS[i].dm);
        assert_int_equal(allows(&capability, "acme", "dm", SENDER, "01OTHER"), ROWS[i].dm);
        assert_int_equal(allows(&capability, "acme", "topic", "ops", NULL), ROWS[i].topic);
        assert_int_equal(capability_allows_topic(&capability, "ops"), ROWS[i].topic);
        assert_false(capability_allows_topic(&capability, "ops2"));
        assert_false(allows(&capability, "acme", "dm", OTHER, "01EVENT"));
        assert_false(allows(&capability, "acme", "", SENDER, "01EVENT"));
        assert_false(allows(&capability, "acme", "topic", SENDER, "01EVENT"));
        assert_false(allows(&capability, "acme", "queue", "*", NULL));
        assert_false(allows(&capability, "other", "dm", SENDER, "01EVENT"));
        capability.depth = 1;
        assert_false(allows(&capability, "acme", "dm", SENDER, "01EVENT"));
        assert_false(capability_allows_topic(&capability, "ops"));
    }
}

static void a_reply_is_made_once_and_one_that_failed_was_none(void **state)
{
    (void)state;
    char mesh[] = "acme", event[] = "01EVENT";
    struct ipc_capability capability = {
        .references = 1, .scopes = CAPABILITY_REPLY, .mesh_slug = mesh, .sender_pubkey = SENDER, .broker_message_id = event
    };
    const struct capability_send first = { "acme", "dm", SENDER, "01EVENT", "one" }, second = { "acme", "dm", SENDER, "01EVENT", "two" };
    bool uses_reply;
    assert_true(capability_allows_send(&capability, &first, &uses_reply));
    assert_true(uses_reply);
    capability_take_reply(&capability, "one");
    assert_false(capability_allows_send(&capability, &second, &uses_reply)); /* while the first is under way */
    assert_true(capability_allows_send(&capability, &first, &uses_reply));   /* its own repeat */
    capability_take_reply(&capability, "one");
    capability_reply_ended(&capability, false);
    assert_false(capability_allows_send(&capability, &second, &uses_reply)); /* the repeat may still be accepted */
    capability_reply_ended(&capability, false);
    assert_true(capability_allows_send(&capability, &second, &uses_reply)); /* none was */
    capability_take_reply(&capability, "two");
    capability_reply_ended(&capability, true);
    assert_false(capability_allows_send(&capability, &first, &uses_reply));
    assert_true(capability_allows_send(&capability, &second, &uses_reply));
    free(capability.reply_id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_scope_lets_it_do_exactly_what_the_table_says),
        cmocka_unit_test(a_reply_is_made_once_and_one_that_failed_was_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
