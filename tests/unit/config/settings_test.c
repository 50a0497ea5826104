/* Settings: defaults as 80-operations prints them, the file over them, the environment over that, a flag over all. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "config/config.h"
#include "scratch.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

struct fixture {
    char *directory, *path;
};

static int set_up(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    fixture->directory = scratch_make();
    fixture->path = path_join(fixture->directory, "config.toml");
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    scratch_remove(fixture->directory);
    free(fixture->path);
    free(fixture);
    return 0;
}

static int load(struct fixture *fixture, const char *text, struct settings **ret_settings, struct error *error)
{
    if (text != NULL) {
        assert_int_equal(file_write_atomic(fixture->path, 0600, text, strlen(text), NULL), 0);
    }
    return settings_load(SETTINGS, SETTING_COUNT, "CLAUDEMESH", fixture->path, ret_settings, error);
}

static void without_a_file_the_defaults_hold(void **state)
{
    static const struct {
        const char *name, *text;
    } DEFAULTS[] = {
        { "daemon.display_name", "" },
        { "daemon.log_level", "info" },
        { "daemon.meshes", "" },
        { "daemon.confine", "true" },
        { "ipc.tcp_enabled", "true" },
        { "ipc.tcp_port", "47823" },
        { "ipc.public_health_check", "false" },
        { "ipc.allowed_origins", "" },
        { "ipc.max_in_flight", "64" },
        { "ipc.max_streams", "32" },
        { "ipc.rate_limit_rps", "100" },
        { "ipc.rate_limit_burst", "1000" },
        { "outbox.fsync", "strict" },
        { "outbox.max_rows", "5000000" },
        { "outbox.max_bytes", "5368709120" },
        { "outbox.max_age_hours", "168" },
        { "outbox.max_age_hours_override", "0" },
        { "outbox.done_retention_days", "30" },
        { "inbox.retention_days", "30" },
        { "inbox.max_bytes", "5368709120" },
        { "inbox.fts", "true" },
        { "drain.window", "256" },
        { "drain.backoff_initial_ms", "500" },
        { "drain.backoff_max_ms", "30000" },
        { "drain.jitter_pct", "25" },
        { "broker.ca_file", "" },
        { "broker.allow_insecure", "false" },
        { "broker.allow_plaintext", "false" },
        { "features.require", "client_message_id_dedupe,concurrent_connection_policy" },
        { "clone.policy", "refuse" },
        { "crypto.key_grace_period_days", "7" },
        { "hooks.enabled", "true" },
        { "hooks.concurrency", "8" },
        { "log.max_size", "104857600" },
        { "log.max_age_days", "14" },
        { "privacy.share_host", "false" },
        { "mesh.*.allow_plaintext", "false" },
    };
    struct settings *settings = NULL;
    assert_int_equal(load(*state, NULL, &settings, NULL), 0);
    for (size_t index = 0; index < ARRAY_LENGTH(DEFAULTS); index++) {
        assert_string_equal(settings_text(settings, DEFAULTS[index].name), DEFAULTS[index].text);
        assert_int_equal(settings_origin(settings, DEFAULTS[index].name), ORIGIN_DEFAULT);
    }
    assert_int_equal(SETTING_COUNT, ARRAY_LENGTH(DEFAULTS));
    assert_true(settings_integer(settings, "outbox.max_bytes") == INT64_C(5368709120));
    size_t count = 0;
    const char *const *required = settings_list(settings, "features.require", &count);
    assert_int_equal(count, 2);
    assert_string_equal(required[1], "concurrent_connection_policy");
    (void)settings_list(settings, "daemon.meshes", &count);
    assert_int_equal(count, 0);
    settings_free(settings);
    settings_free(NULL);
}

static void the_brokers_defaults_are_the_figures_of_its_page(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t value;
    } DEFAULTS[] = {
        { "broker.dedupe_retention_days", 365 },
        { "broker.message_retention_days", 365 },
        { "broker.inline_bytes", 65536 },
        { "broker.blob_bytes", 536870912 },
        { "broker.rate_limit_per_minute", 1200000 },
        { "broker.rate_limit_burst", 100000 },
        { "broker.max_connections", 10000 },
        { "broker.max_connections_per_mesh", 1000 },
        { "broker.max_new_connections_per_second", 1000 },
        { "broker.hello_timeout_s", 5 },
        { "broker.max_waiting_per_recipient", 100000 },
        { "broker.presence_grace_s", 90 },
        { "broker.lease_s", 30 },
        { "broker.window", 256 },
    };
    struct settings *settings = NULL;
    setenv("CLAUDEMESH_BROKER_LOG_LEVEL", "warn", 1);
    setenv("CLAUDEMESH_BROKER_BROKER_PUBLIC_URLS", "ws://a/ws,wss://b/ws", 1);
    assert_int_equal(settings_load(BROKER_SETTINGS, BROKER_SETTING_COUNT, "CLAUDEMESH_BROKER_", NULL, &settings, NULL), 0);
    unsetenv("CLAUDEMESH_BROKER_LOG_LEVEL");
    unsetenv("CLAUDEMESH_BROKER_BROKER_PUBLIC_URLS");
    for (size_t index = 0; index < ARRAY_LENGTH(DEFAULTS); index++) {
        assert_true(settings_integer(settings, DEFAULTS[index].name) == DEFAULTS[index].value);
    }
    size_t count = 0;
    assert_string_equal(settings_text(settings, "log.level"), "warn");
    assert_string_equal(settings_list(settings, "broker.public_urls", &count)[1], "wss://b/ws");
    assert_int_equal(count, 2);
    assert_string_equal(settings_text(settings, "broker.dedupe_mode"), "retention_scoped");
    assert_string_equal(settings_text(settings, "broker.connection_policy"), "prefer_newest");
    assert_string_equal(settings_text(settings, "broker.offer_override"), "");
    assert_string_equal(settings_text(settings, "store.fsync"), "strict");
    settings_free(settings);
}

struct unread {
    char variables[1024];
};

static void note_unread(void *argument, const char *variable, const char *nearest)
{
    struct unread *unread = argument;
    size_t length = strlen(unread->variables);
    assert_true(snprintf(unread->variables + length, sizeof(unread->variables) - length, "%s>%s;", variable, nearest) > 0);
}

/* Whoever runs the tests has variables for them: they are put aside. */
static size_t put_aside(char *kept[static 32])
{
    size_t count = 0;
    for (char **entry = environ; *entry != NULL;) {
        if (strncmp(*entry, "CLAUDEMESH_", strlen("CLAUDEMESH_")) != 0) {
            entry++;
            continue;
        }
        assert_true(count < 32);
        kept[count++] = memory_strdup(*entry);
        char *name = memory_strndup(*entry, strcspn(*entry, "="));
        unsetenv(name);
        free(name);
        entry = environ;
    }
    return count;
}

static void put_back(char *const *kept, size_t count)
{
    for (size_t index = 0; index < count; index++) {
        char *value = strchr(kept[index], '=');
        *value = '\0';
        setenv(kept[index], value + 1, 1);
        free(kept[index]);
    }
}

static void a_variable_that_nobody_reads_is_told_with_the_nearest_that_is_read(void **state)
{
    (void)state;
    static const char *const READ[] = { "CLAUDEMESH_OUTBOX_MAX_ROWS", "CLAUDEMESH_BROKER_CA_FILE",    "CLAUDEMESH_BROKER_BROKER_LEASE_S",
                                        "CLAUDEMESH_CONFIG_DIR",      "CLAUDEMESH_BROKER_LOG_LEVEL", "CLAUDEMESH_MESH" };
    struct unread unread = { "" };
    char *kept[32];
    size_t kept_count = put_aside(kept);
    for (size_t index = 0; index < ARRAY_LENGTH(READ); index++) {
        setenv(READ[index], "1", 1);
    }
    settings_check_environment(note_unread, &unread);
    assert_string_equal(unread.variables, "");
    setenv("CLAUDEMESH_OUTBOX_MAX_ROW", "secret-value", 1);
    settings_check_environment(note_unread, &unread);
    assert_string_equal(unread.variables, "CLAUDEMESH_OUTBOX_MAX_ROW>CLAUDEMESH_OUTBOX_MAX_ROWS;");
    unsetenv("CLAUDEMESH_OUTBOX_MAX_ROW");
    unread.variables[0] = '\0';
    setenv("CLAUDEMESH_BROKER_LEASE", "30", 1);
    settings_check_environment(note_unread, &unread);
    assert_non_null(strstr(unread.variables, "CLAUDEMESH_BROKER_LEASE>CLAUDEMESH_"));
    unsetenv("CLAUDEMESH_BROKER_LEASE");
    for (size_t index = 0; index < ARRAY_LENGTH(READ); index++) {
        unsetenv(READ[index]);
    }
    put_back(kept, kept_count);
}

static void the_file_the_environment_and_flags_override_in_that_order(void **state)
{
    struct settings *settings = NULL;
    setenv("CLAUDEMESH_IPC_TCP_PORT", "5", 1);
    setenv("CLAUDEMESH_DAEMON_MESHES", " a , b,,c ", 1);
    setenv("CLAUDEMESH_INBOX_FTS", "false", 1);
    setenv("CLAUDEMESH_LOG_MAX_SIZE", "2MB", 1);
    int result = load(*state,
                      "[ipc]\ntcp_port = 4\nmax_streams = 7\nallowed_origins = [\"https://a\"]\n"
                      "[outbox]\nmax_bytes = 4096\n[inbox]\nmax_bytes = \"64KB\"\n[clone]\npolicy = \"warn\"\n",
                      &settings, NULL);
    unsetenv("CLAUDEMESH_IPC_TCP_PORT");
    unsetenv("CLAUDEMESH_DAEMON_MESHES");
    unsetenv("CLAUDEMESH_INBOX_FTS");
    unsetenv("CLAUDEMESH_LOG_MAX_SIZE");
    assert_int_equal(result, 0);
    assert_int_equal(settings_integer(settings, "ipc.tcp_port"), 5);
    assert_int_equal(settings_origin(settings, "ipc.tcp_port"), ORIGIN_ENVIRONMENT);
    assert_int_equal(settings_integer(settings, "ipc.max_streams"), 7);
    assert_int_equal(settings_origin(settings, "ipc.max_streams"), ORIGIN_FILE);
    assert_int_equal(settings_integer(settings, "outbox.max_bytes"), 4096);
    assert_int_equal(settings_integer(settings, "inbox.max_bytes"), 65536);
    assert_int_equal(settings_integer(settings, "log.max_size"), 2097152);
    assert_string_equal(settings_text(settings, "clone.policy"), "warn");
    assert_false(settings_bool(settings, "inbox.fts"));
    assert_string_equal(settings_text(settings, "daemon.meshes"), "a,b,c");
    struct error error;
    assert_int_equal(settings_override(settings, "ipc.tcp_port", "6", &error), 0);
    assert_int_equal(settings_integer(settings, "ipc.tcp_port"), 6);
    assert_int_equal(settings_origin(settings, "ipc.tcp_port"), ORIGIN_FLAG);
    assert_int_equal(settings_override(settings, "ipc.tcp_port", "70000", &error), -(int)ERROR_INVALID);
    assert_int_equal(settings_integer(settings, "ipc.tcp_port"), 6);
    assert_non_null(strstr(error.message, "ipc.tcp_port"));
    settings_free(settings);
}

static void mistakes_are_named_with_place_key_and_what_was_meant(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *text, *where, *says;
    } CASES[] = {
        { "[ipc]\ntcp_prot = 1", ":2:1:", "unknown key 'ipc.tcp_prot'; the nearest known one is 'ipc.tcp_port'" },
        { "[ip]\n tcp_port = 1", ":2:2:", "unknown key 'ip.tcp_port'; the nearest known one is 'ipc.tcp_port'" },
        { "\n[outbx]", ":2:1:", "unknown table 'outbx'; the nearest known one is 'outbox'" },
        { "[mesh]", ":1:1:", "unknown table 'mesh'; the nearest known one is 'mesh.*'" },
        { "tcp_port = 1", ":1:1:", "'ipc.tcp_port'" },
        { "[mesh]\nallow_plaintext = true", ":2:1:", "'mesh.*.allow_plaintext'" },
        { "[mesh.a]\nalow_plaintext = true", ":2:1:", "'mesh.a.alow_plaintext'; the nearest known one is 'mesh.*.allow_plaintext'" },
        { "[ipc.a]\ntcp_port = 1", ":2:1:", "unknown key 'ipc.a.tcp_port'; the nearest known one is 'ipc.tcp_port'" },
        { "[ipc]\ntcp_port = \"1\"", ":2:1:", "'ipc.tcp_port': must be a whole number" },
        { "[ipc]\ntcp_port = 65536", ":2:1:", "must be from 0 to 65535" },
        { "[ipc]\ntcp_enabled = 1", ":2:1:", "must be true or false" },
        { "[clone]\npolicy = \"ref\"", ":2:1:", "must be one of refuse|warn|allow" },
        { "[clone]\npolicy = \"\"", ":2:1:", "must be one of" },
        { "[clone]\npolicy = \"warn|allow\"", ":2:1:", "must be one of" },
        { "[daemon]\nmeshes = \"a\"", ":2:1:", "must be a list of strings" },
        { "[daemon]\ndisplay_name = []", ":2:1:", "must be a string" },
        { "[log]\nmax_size = \"5XB\"", ":2:1:", "must be a size" },
        { "[log]\nmax_size = -5", ":2:1:", "must be a size" },
        { "[log]\nmax_size = 1", ":2:1:", "must be from 1024" },
        { "[crypto]\nkey_grace_period_days = 31", ":2:1:", "must be from 1 to 30" },
        { "[mesh.a]\nallow_plaintext = 1", ":2:1:", "must be true or false" },
        { "[ipc]\ntcp_port 1", ":2:10:", "expected '='" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct settings *settings = NULL;
        struct error error = { 0 };
        assert_int_equal(load(fixture, CASES[index].text, &settings, &error), -(int)ERROR_INVALID);
        assert_null(settings);
        if (!string_has_prefix(error.message, fixture->path) || strstr(error.message, CASES[index].where) == NULL ||
            strstr(error.message, CASES[index].says) == NULL) {
            fail_msg("%s: expected %s %s, got %s", CASES[index].text, CASES[index].where, CASES[index].says, error.message);
        }
    }
    struct settings *settings = NULL;
    struct error error = { 0 };
    setenv("CLAUDEMESH_IPC_TCP_PORT", "x", 1);
    assert_int_equal(load(fixture, "", &settings, &error), -(int)ERROR_INVALID);
    unsetenv("CLAUDEMESH_IPC_TCP_PORT");
    assert_non_null(strstr(error.message, "CLAUDEMESH_IPC_TCP_PORT"));
}

static void a_mesh_may_differ_from_the_rest(void **state)
{
    struct settings *settings = NULL;
    assert_int_equal(load(*state, "[mesh.old]\nallow_plaintext = true\n[mesh.\"a.b\"]\nallow_plaintext = false\n", &settings, NULL), 0);
    assert_true(settings_mesh_bool(settings, "old", "allow_plaintext", false));
    assert_false(settings_mesh_bool(settings, "a.b", "allow_plaintext", true));
    assert_true(settings_mesh_bool(settings, "other", "allow_plaintext", true));
    assert_false(settings_mesh_bool(settings, "other", "allow_plaintext", false));
    assert_string_equal(settings_text(settings, "mesh.*.allow_plaintext"), "false");
    settings_free(settings);
}

static void every_row_has_its_help(void **state)
{
    (void)state;
    for (size_t index = 0; index < SETTING_COUNT + BROKER_SETTING_COUNT; index++) {
        const struct setting_definition *row = index < SETTING_COUNT ? &SETTINGS[index] : &BROKER_SETTINGS[index - SETTING_COUNT];
        assert_true(row->help != NULL && row->help[0] != '\0');
        assert_true((row->type == SETTING_CHOICE) == (row->choices != NULL));
        assert_true((row->type != SETTING_INTEGER && row->type != SETTING_SIZE) || row->minimum < row->maximum);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_a_file_the_defaults_hold, set_up, tear_down),
        cmocka_unit_test(the_brokers_defaults_are_the_figures_of_its_page),
        cmocka_unit_test(a_variable_that_nobody_reads_is_told_with_the_nearest_that_is_read),
        cmocka_unit_test_setup_teardown(the_file_the_environment_and_flags_override_in_that_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(mistakes_are_named_with_place_key_and_what_was_meant, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mesh_may_differ_from_the_rest, set_up, tear_down),
        cmocka_unit_test(every_row_has_its_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
