/* What a reload changes: live rows take the new value, the others keep the running one and are told again each time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "config/config.h"
#include "json/json.h"
#include "scratch.h"
#include "util/buffer.h"
#include "util/file.h"
#include "util/memory.h"

static struct settings *load(const char *text)
{
    char *directory = scratch_make(), *path = path_join(directory, "config.toml");
    struct settings *settings = NULL;
    struct error error;
    assert_int_equal(file_write_atomic(path, 0600, text, strlen(text), &error), 0);
    assert_int_equal(settings_load(SETTINGS, SETTING_COUNT, "CLAUDEMESH_", path, &settings, &error), 0);
    free(path);
    scratch_remove(directory);
    return settings;
}

static void note(void *argument, const char *name, bool live)
{
    (void)buffer_printf(argument, "%s%s ", live ? "+" : "-", name);
}

static void what_is_live_changes_and_the_rest_stays(void **state)
{
    (void)state;
    struct settings *running = load("[drain]\nwindow = 100\n"),
                    *fresh = load("[drain]\nwindow = 200\n[broker]\nca_file = \"x\"\n[features]\nrequire = [\"a,b\"]\n");
    struct buffer told;
    buffer_init(&told, 1000);
    settings_reload(fresh, running, note, &told);
    assert_string_equal(told.data, "+drain.window -broker.ca_file -features.require ");
    assert_int_equal(settings_integer(fresh, "drain.window"), 200);
    assert_string_equal(settings_text(fresh, "broker.ca_file"), "");
    assert_int_equal(settings_origin(fresh, "broker.ca_file"), ORIGIN_DEFAULT);
    size_t count;
    assert_string_equal(settings_list(fresh, "features.require", &count)[0], "client_message_id_dedupe");
    assert_int_equal(count, 2);
    buffer_release(&told);
    settings_free(running);
    settings_free(fresh);
}

/* A list of one item with a comma reads as two do. */
static void lists_are_compared_by_their_items(void **state)
{
    (void)state;
    struct settings *running = load("[daemon]\nmeshes = [\"a\", \"b\"]\n"), *fresh = load("[daemon]\nmeshes = [\"a,b\"]\n");
    struct buffer told;
    buffer_init(&told, 1000);
    settings_reload(fresh, running, note, &told);
    assert_string_equal(told.data, "+daemon.meshes ");
    buffer_release(&told);
    settings_free(running);
    settings_free(fresh);
}

static void tables_of_a_mesh_keep_what_was_read_at_the_start(void **state)
{
    (void)state;
    struct settings *running = load("[mesh.a]\nallow_plaintext = true\n[mesh.gone]\nallow_plaintext = true\n");
    struct settings *fresh = load("[mesh.a]\nallow_plaintext = false\n[mesh.new]\nallow_plaintext = true\n");
    struct buffer told;
    buffer_init(&told, 1000);
    settings_reload(fresh, running, note, &told);
    assert_string_equal(told.data, "-mesh.a.allow_plaintext -mesh.new.allow_plaintext -mesh.gone.allow_plaintext ");
    assert_true(settings_mesh_bool(fresh, "a", "allow_plaintext", false));
    assert_true(settings_mesh_bool(fresh, "gone", "allow_plaintext", false));
    assert_false(settings_mesh_bool(fresh, "new", "allow_plaintext", false));
    buffer_release(&told);
    settings_free(running);
    settings_free(fresh);
}

static void each_is_shown_with_its_value_and_origin(void **state)
{
    (void)state;
    struct settings *settings = load("[outbox]\nmax_bytes = \"1KB\"\n[mesh.a]\nallow_plaintext = true\n");
    json_t *list = settings_to_json(settings);
    assert_int_equal(json_array_size(list), SETTING_COUNT + 1);
    size_t index;
    const json_t *entry;
    size_t found = 0;
    json_array_foreach(list, index, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name")), *from = json_string_value(json_object_get(entry, "from"));
        if (strcmp(name, "outbox.max_bytes") == 0) {
            assert_int_equal(json_integer_value(json_object_get(entry, "value")), 1024);
            assert_string_equal(from, "config.toml");
            found++;
        }
        if (strcmp(name, "mesh.a.allow_plaintext") == 0) {
            assert_true(json_is_true(json_object_get(entry, "value")));
            found++;
        }
    }
    assert_int_equal(found, 2);
    json_decref(list);
    settings_free(settings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_live_changes_and_the_rest_stays),
        cmocka_unit_test(lists_are_compared_by_their_items),
        cmocka_unit_test(tables_of_a_mesh_keep_what_was_read_at_the_start),
        cmocka_unit_test(each_is_shown_with_its_value_and_origin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
