/* What a host says of itself: which id, and which of its addresses is the stable one (50-identity, Host fingerprint). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "identity/host.h"
#include "scratch.h"
#include "host_root.h"
#include "util/text.h"

static int set_up(void **state)
{
    *state = scratch_make();
    return 0;
}

static int tear_down(void **state)
{
    scratch_remove(*state);
    return 0;
}

static void assert_facts(const char *root, const char *id, const char *mac)
{
    struct host_facts facts;
    struct error error;
    assert_int_equal(host_facts_read(root, &facts, &error), 0);
    assert_string_equal(facts.id, id);
    assert_string_equal(facts.mac, mac);
    host_facts_release(&facts);
}

static void add(const char *root, const char *name, const char *mac)
{
    host_root_add(root, &(struct host_root_interface){ .name = name, .mac = mac, .physical = true });
}

static void the_machine_id_is_the_id(void **state)
{
    host_root_write(*state, "etc/machine-id", "3f9a0c12b7d84e5f9a0b1c2d3e4f5a6b\n");
    host_root_write(*state, "var/lib/dbus/machine-id", "00000000000000000000000000000bad\n");
    assert_facts(*state, "3f9a0c12b7d84e5f9a0b1c2d3e4f5a6b", "");
}

static void without_it_that_of_dbus_is(void **state)
{
    host_root_write(*state, "var/lib/dbus/machine-id", "4f9a0c12b7d84e5f9a0b1c2d3e4f5a6b");
    assert_facts(*state, "4f9a0c12b7d84e5f9a0b1c2d3e4f5a6b", "");
}

static void an_empty_or_uninitialized_machine_id_is_none(void **state)
{
    static const char *const NONE[] = { "", "\n", "uninitialized\n", "00000000000000000000000000000000\n", "two words\n", "a\001b\n" };
    host_root_write(*state, "var/lib/dbus/machine-id", "4f9a0c12b7d84e5f9a0b1c2d3e4f5a6b");
    for (size_t i = 0; i < ARRAY_LENGTH(NONE); i++) {
        host_root_write(*state, "etc/machine-id", NONE[i]);
        assert_facts(*state, "4f9a0c12b7d84e5f9a0b1c2d3e4f5a6b", "");
    }
}

static void a_machine_id_that_is_far_too_long_is_none(void **state)
{
    char text[1001];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    host_root_write(*state, "etc/machine-id", text);
    assert_facts(*state, "", "");
    text[HOST_ID_SIZE] = '\0'; /* one more than fits */
    host_root_write(*state, "etc/machine-id", text);
    assert_facts(*state, "", "");
    text[HOST_ID_SIZE - 1] = '\0';
    host_root_write(*state, "etc/machine-id", text);
    assert_facts(*state, text, "");
}

static void the_first_physical_interface_by_name_gives_the_address(void **state)
{
    add(*state, "enp3s0", "3c:22:fb:00:00:03");
    add(*state, "enp2s0", "3C:22:FB:00:00:02");
    add(*state, "wlan0", "3c:22:fb:00:00:01");
    assert_facts(*state, "", "3c:22:fb:00:00:02");
}

static void an_interface_without_a_device_is_not_physical(void **state)
{
    host_root_add(*state, &(struct host_root_interface){ .name = "bond0", .mac = "3c:22:fb:00:00:01" });
    assert_facts(*state, "", "");
    add(*state, "eth0", "3c:22:fb:00:00:02");
    assert_facts(*state, "", "3c:22:fb:00:00:02");
}

static void the_listed_kinds_are_never_chosen(void **state)
{
    static const char *const KINDS[] = { "lo",   "docker", "br-",     "veth",  "virbr", "tap", "tun",  "tailscale", "wg",
                                         "utun", "ppp",    "vboxnet", "vmnet", "awdl",  "llw", "anpi", "bridge",    "ap" };
    for (size_t i = 0; i < ARRAY_LENGTH(KINDS); i++) {
        char *name = memory_printf("%s0", KINDS[i]);
        add(*state, name, "3c:22:fb:00:00:09");
        free(name);
    }
    assert_facts(*state, "", "");
    add(*state, "zz0", "3c:22:fb:00:00:02");
    assert_facts(*state, "", "3c:22:fb:00:00:02");
}

static void loopback_and_point_to_point_are_known_by_their_flags(void **state)
{
    host_root_add(*state, &(struct host_root_interface){ .name = "aaa0", .mac = "3c:22:fb:00:00:01", .physical = true, .flags = "0x9\n" });
    host_root_add(*state,
                  &(struct host_root_interface){ .name = "aaa1", .mac = "3c:22:fb:00:00:02", .physical = true, .flags = "0x1011\n" });
    assert_facts(*state, "", "");
}

static void a_locally_administered_address_is_taken_only_when_there_is_no_other(void **state)
{
    add(*state, "eth0", "52:54:00:00:00:01");
    add(*state, "eth1", "02:42:00:00:00:02");
    assert_facts(*state, "", "52:54:00:00:00:01");
    add(*state, "wlan0", "3c:22:fb:00:00:01");
    assert_facts(*state, "", "3c:22:fb:00:00:01");
}

static void no_address_is_no_address(void **state)
{
    static const char *const NONE[] = { "00:00:00:00:00:00",
                                        "01:00:5e:00:00:01",
                                        "3c:22:fb:00:00",
                                        "3c:22:fb:00:00:0g",
                                        "3c-22-fb-00-00-01",
                                        "80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1",
                                        "" };
    for (size_t i = 0; i < ARRAY_LENGTH(NONE); i++) {
        char *name = memory_printf("eth%zu", i);
        add(*state, name, NONE[i]);
        free(name);
    }
    assert_facts(*state, "", "");
}

static void every_address_of_the_host_counts_as_present(void **state)
{
    struct host_facts facts;
    add(*state, "eth0", "3c:22:fb:00:00:01");
    host_root_add(*state, &(struct host_root_interface){ .name = "br-1", .mac = "3c:22:fb:00:00:02" });
    assert_int_equal(host_facts_read(*state, &facts, NULL), 0);
    assert_int_equal(facts.present_count, 2);
    host_facts_release(&facts);
    host_facts_release(NULL);
}

static void a_host_that_tells_nothing_is_no_error(void **state)
{
    assert_facts(*state, "", "");
}

static void the_root_comes_from_the_environment_when_none_is_given(void **state)
{
    host_root_write(*state, "etc/machine-id", "env\n");
    assert_int_equal(setenv("CLAUDEMESH_HOST_ROOT", *state, 1), 0);
    assert_facts(NULL, "env", "");
    assert_int_equal(unsetenv("CLAUDEMESH_HOST_ROOT"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_machine_id_is_the_id, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_it_that_of_dbus_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_empty_or_uninitialized_machine_id_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_machine_id_that_is_far_too_long_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_physical_interface_by_name_gives_the_address, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_interface_without_a_device_is_not_physical, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_listed_kinds_are_never_chosen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loopback_and_point_to_point_are_known_by_their_flags, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_locally_administered_address_is_taken_only_when_there_is_no_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_address_is_no_address, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_address_of_the_host_counts_as_present, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_host_that_tells_nothing_is_no_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_root_comes_from_the_environment_when_none_is_given, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
