/* config.json and the paths. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "config/config.h"
#include "json/json.h"
#include "scratch.h"
#include "util/file.h"
#include "util/memory.h"

struct fixture {
    char *directory, *path;
};

static int set_up(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    fixture->directory = scratch_make();
    fixture->path = path_join(fixture->directory, "config.json");
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

static void write_file(const struct fixture *fixture, const char *text)
{
    assert_int_equal(file_write_atomic(fixture->path, 0600, text, strlen(text), NULL), 0);
}

static char *read_file(const struct fixture *fixture)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(fixture->path, &bytes, NULL), 0);
    return buffer_take(&bytes, NULL);
}

static struct config_mesh sample_mesh(void)
{
    static char mesh_id[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11", member_id[] = "member-1", slug[] = "acme", name[] = "Acme",
                pubkey[] = "1ff7", secret_key[] = "fb97", broker_url[] = "ws://127.0.0.1:7900/ws", joined_at[] = "2026-11-23T12:34:56.789Z",
                root_key[] = "bLJc";
    return (struct config_mesh){ .mesh_id = mesh_id,
                                 .member_id = member_id,
                                 .slug = slug,
                                 .name = name,
                                 .pubkey = pubkey,
                                 .secret_key = secret_key,
                                 .broker_url = broker_url,
                                 .joined_at = joined_at,
                                 .root_key = root_key };
}

static void an_absent_file_is_an_empty_configuration(void **state)
{
    struct fixture *fixture = *state;
    struct config_file file;
    assert_int_equal(config_file_read(fixture->path, &file, NULL), 0);
    assert_int_equal(file.mesh_count, 0);
    assert_null(file.display_name);
    assert_null(config_file_mesh(&file, "acme"));
    config_file_release(&file);
    config_file_release(&file);
    config_file_release(NULL);
    assert_false(file_exists(fixture->path));
}

static void an_added_mesh_is_read_back(void **state)
{
    struct fixture *fixture = *state;
    struct config_mesh mesh = sample_mesh();
    struct config_file file;
    mode_t before = umask(022);
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), 0);
    umask(before);
    assert_int_equal(config_file_read(fixture->path, &file, NULL), 0);
    const struct config_mesh *found = config_file_mesh(&file, "acme");
    assert_non_null(found);
    assert_string_equal(found->mesh_id, mesh.mesh_id);
    assert_string_equal(found->secret_key, "fb97");
    assert_string_equal(found->root_key, "bLJc");
    assert_null(found->role);
    assert_null(found->owner_pubkey);
    config_file_release(&file);
    struct stat status;
    assert_int_equal(stat(fixture->path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    char *content = read_file(fixture);
    assert_non_null(strstr(content, "\"version\":1"));
    free(content);
}

static void unknown_fields_are_kept_when_it_is_rewritten(void **state)
{
    struct fixture *fixture = *state;
    struct config_mesh mesh = sample_mesh();
    struct config_file file;
    char other_url[] = "ws://elsewhere/ws";
    write_file(fixture,
               "{\"version\":1,\"future\":{\"x\":[1,2.5]},\"displayName\":\"Ann\",\"meshes\":[{\"meshId\":\"m-2\",\"memberId\":\"b\","
               "\"slug\":\"other\",\"name\":\"Other\",\"pubkey\":\"p\",\"secretKey\":\"s\",\"brokerUrl\":\"ws://x\",\"joinedAt\":\"t\","
               "\"extra\":true}]}");
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), 0);
    mesh = sample_mesh();
    mesh.mesh_id = (char[]){ "m-2" };
    mesh.slug = (char[]){ "other" };
    mesh.broker_url = other_url;
    mesh.root_key = NULL;
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), 0); /* replaces by mesh id */
    char *content = read_file(fixture);
    assert_non_null(strstr(content, "\"future\":{\"x\":[1,2.5]}"));
    assert_non_null(strstr(content, "\"extra\":true"));
    free(content);
    assert_int_equal(config_file_read(fixture->path, &file, NULL), 0);
    assert_int_equal(file.mesh_count, 2);
    assert_string_equal(file.display_name, "Ann");
    assert_string_equal(config_file_mesh(&file, "other")->broker_url, other_url);
    config_file_release(&file);
    assert_int_equal(config_file_remove_mesh(fixture->path, "acme", NULL), 0);
    assert_int_equal(config_file_remove_mesh(fixture->path, "acme", NULL), -(int)ERROR_NOT_FOUND);
    content = read_file(fixture);
    assert_non_null(strstr(content, "\"future\""));
    assert_null(strstr(content, "acme"));
    assert_null(strstr(content, "fb97\",\"x"));
    free(content);
}

static void an_optional_field_that_became_unknown_is_removed(void **state)
{
    struct fixture *fixture = *state;
    struct config_mesh mesh = sample_mesh();
    struct config_file file;
    mesh.role = (char[]){ "admin" };
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), 0);
    mesh.role = NULL;
    mesh.root_key = NULL;
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), 0);
    assert_int_equal(config_file_read(fixture->path, &file, NULL), 0);
    assert_int_equal(file.mesh_count, 1);
    assert_null(file.meshes[0].role);
    assert_null(file.meshes[0].root_key);
    config_file_release(&file);
}

static void a_slug_of_another_mesh_is_a_conflict(void **state)
{
    struct fixture *fixture = *state;
    struct config_mesh mesh = sample_mesh();
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), 0);
    char *before = read_file(fixture);
    mesh.mesh_id = (char[]){ "m-2" };
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), -(int)ERROR_CONFLICT);
    mesh.slug = (char[]){ "../evil" };
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), -(int)ERROR_INVALID);
    mesh = sample_mesh();
    mesh.pubkey = NULL;
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, NULL), -(int)ERROR_INVALID);
    char *after = read_file(fixture);
    assert_string_equal(before, after);
    free(before);
    free(after);
}

static void a_file_that_others_can_read_is_denied(void **state)
{
    struct fixture *fixture = *state;
    struct config_mesh mesh = sample_mesh();
    struct config_file file;
    struct error error;
    write_file(fixture, "{}");
    assert_int_equal(chmod(fixture->path, 0644), 0);
    assert_int_equal(config_file_read(fixture->path, &file, &error), -(int)ERROR_DENIED);
    assert_non_null(strstr(error.message, "chmod 600"));
    assert_int_equal(config_file_add_mesh(fixture->path, &mesh, &error), -(int)ERROR_DENIED);
}

static void a_wrong_file_is_refused_with_its_name_and_never_rewritten(void **state)
{
    struct fixture *fixture = *state;
#define MESH_WITH(id, slug)                                                                                                     \
    "{\"meshId\":\"" id "\",\"memberId\":\"b\",\"slug\":\"" slug "\",\"name\":\"O\",\"pubkey\":\"p\",\"secretKey\":\"hidden\"," \
    "\"brokerUrl\":\"ws://x\",\"joinedAt\":\"t\"}"
    static const struct {
        const char *text, *says;
        enum error_code code;
    } CASES[] = {
        { "", "empty", ERROR_INVALID },
        { "[]", "object", ERROR_INVALID },
        { "{", "line", ERROR_INVALID },
        { "{\"a\":1,\"a\":2}", "duplicate", ERROR_INVALID },
        { "{\"version\":2}", "version 2", ERROR_NEWER },
        { "{\"version\":\"1\"}", "'version'", ERROR_INVALID },
        { "{\"meshes\":{}}", "'meshes'", ERROR_INVALID },
        { "{\"displayName\":1}", "'displayName'", ERROR_INVALID },
        { "{\"meshes\":[1]}", "meshes[0]", ERROR_INVALID },
        { "{\"meshes\":[{\"meshId\":\"a\"}]}", "'memberId'", ERROR_INVALID },
        { "{\"meshes\":[" MESH_WITH("a", "x/../y") "]}", "slug", ERROR_INVALID },
        { "{\"meshes\":[" MESH_WITH("a", "x") "," MESH_WITH("b", "x") "]}", "two meshes", ERROR_INVALID },
        { "{\"meshes\":[" MESH_WITH("a", "x") "," MESH_WITH("a", "y") "]}", "twice", ERROR_INVALID },
        { "{\"meshes\":[{\"secretKey\" \"hidden\"}]}", "line", ERROR_INVALID },
    };
    struct config_mesh mesh = sample_mesh();
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct config_file file;
        struct error error = { 0 };
        write_file(fixture, CASES[index].text);
        assert_int_equal(config_file_read(fixture->path, &file, &error), -(int)CASES[index].code);
        if (strstr(error.message, CASES[index].says) == NULL || strstr(error.message, fixture->path) == NULL) {
            fail_msg("%s: %s", CASES[index].text, error.message);
        }
        assert_null(strstr(error.message, "hidden"));
        assert_int_equal(config_file_add_mesh(fixture->path, &mesh, &error), -(int)CASES[index].code);
        char *content = read_file(fixture);
        assert_string_equal(content, CASES[index].text);
        free(content);
    }
}

static void writers_at_the_same_time_lose_nothing(void **state)
{
    struct fixture *fixture = *state;
    enum { WRITERS = 4, EACH = 3 };
    pid_t children[WRITERS];
    for (int writer = 0; writer < WRITERS; writer++) {
        children[writer] = fork();
        if (children[writer] == 0) {
            int result = 0;
            for (int number = 0; number < EACH; number++) {
                struct config_mesh mesh = sample_mesh();
                mesh.mesh_id = memory_printf("m-%d-%d", writer, number);
                mesh.slug = memory_printf("s-%d-%d", writer, number);
                result |= config_file_add_mesh(fixture->path, &mesh, NULL);
                free(mesh.mesh_id);
                free(mesh.slug);
            }
            _exit(result == 0 ? 0 : 1);
        }
    }
    for (int writer = 0; writer < WRITERS; writer++) {
        int status = 0;
        assert_int_equal(waitpid(children[writer], &status, 0), children[writer]);
        assert_int_equal(status, 0);
    }
    struct config_file file;
    assert_int_equal(config_file_read(fixture->path, &file, NULL), 0);
    assert_int_equal(file.mesh_count, WRITERS * EACH);
    config_file_release(&file);
}

/* ---- paths ------------------------------------------------------------------------------------------------------ */

static void the_flag_the_variable_and_the_home_directory_decide_in_that_order(void **state)
{
    struct fixture *fixture = *state;
    struct config_paths paths;
    bool ignored = true;
    char *absent = path_join(fixture->directory, "absent");
    char *home_root = path_join(fixture->directory, ".claudemesh");
    char *saved_home = memory_strdup(getenv("HOME"));
    setenv("HOME", fixture->directory, 1);
    setenv("CLAUDEMESH_CONFIG_DIR", fixture->directory, 1);
    assert_int_equal(config_paths_init(absent, &paths, &ignored, NULL), 0);
    assert_string_equal(paths.root, absent);
    assert_false(ignored);
    config_paths_release(&paths);
    assert_int_equal(config_paths_init(NULL, &paths, &ignored, NULL), 0);
    assert_string_equal(paths.root, fixture->directory);
    assert_string_equal(paths.config_json, fixture->path);
    assert_false(ignored);
    config_paths_release(&paths);
    setenv("CLAUDEMESH_CONFIG_DIR", absent, 1);
    assert_int_equal(config_paths_init(NULL, &paths, &ignored, NULL), 0);
    assert_string_equal(paths.root, home_root);
    assert_true(ignored);
    config_paths_release(&paths);
    setenv("CLAUDEMESH_CONFIG_DIR", "", 1);
    assert_int_equal(config_paths_init(NULL, &paths, &ignored, NULL), 0);
    assert_string_equal(paths.root, home_root);
    assert_false(ignored);
    config_paths_release(&paths);
    config_paths_release(&paths);
    config_paths_release(NULL);
    struct error error;
    assert_int_equal(config_paths_init("", &paths, &ignored, &error), -(int)ERROR_INVALID);
    assert_int_equal(config_paths_init("relative/", &paths, NULL, &error), 0);
    assert_int_equal(paths.root[0], '/'); /* a daemon leaves its working directory */
    assert_string_equal(paths.root + strlen(paths.root) - 9, "/relative");
    config_paths_release(&paths);
    unsetenv("CLAUDEMESH_CONFIG_DIR");
    if (saved_home != NULL) {
        setenv("HOME", saved_home, 1);
    }
    free(saved_home);
    free(home_root);
    free(absent);
}

static void directories_are_made_for_the_owner_alone(void **state)
{
    struct fixture *fixture = *state;
    struct config_paths paths;
    struct stat status;
    char *root = path_join(fixture->directory, "a/root");
    assert_int_equal(config_paths_init(root, &paths, NULL, NULL), 0);
    assert_int_equal(config_paths_make(&paths, NULL), 0);
    assert_int_equal(config_paths_make(&paths, NULL), 0);
    const char *const made[] = { paths.root, paths.daemon, paths.sockets, paths.hooks };
    for (size_t index = 0; index < ARRAY_LENGTH(made); index++) {
        assert_int_equal(stat(made[index], &status), 0);
        assert_int_equal(status.st_mode & 07777, 0700);
    }
    char *expected = path_join(root, "daemon/hooks");
    assert_string_equal(paths.hooks, expected);
    free(expected);
    expected = path_join(root, "broker/admin-token");
    assert_string_equal(paths.broker_admin_token, expected);
    free(expected);
    config_paths_release(&paths);
    free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_absent_file_is_an_empty_configuration, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_added_mesh_is_read_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(unknown_fields_are_kept_when_it_is_rewritten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_optional_field_that_became_unknown_is_removed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slug_of_another_mesh_is_a_conflict, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_others_can_read_is_denied, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_wrong_file_is_refused_with_its_name_and_never_rewritten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(writers_at_the_same_time_lose_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_flag_the_variable_and_the_home_directory_decide_in_that_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(directories_are_made_for_the_owner_alone, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
