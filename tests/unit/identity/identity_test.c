/* The daemon's lock, the local token, the session id, member keys. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "identity/identity.h"
#include "scratch.h"
#include "util/file.h"
#include "util/memory.h"

struct fixture {
    char *directory;
    struct config_paths paths;
};

static int set_up(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    fixture->directory = scratch_make();
    if (crypto_start(NULL) != 0 || config_paths_init(fixture->directory, &fixture->paths, NULL, NULL) != 0 ||
        config_paths_make(&fixture->paths, NULL) != 0) {
        return -1;
    }
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    config_paths_release(&fixture->paths);
    scratch_remove(fixture->directory);
    free(fixture);
    return 0;
}

static void assert_content(const char *path, const char *expected)
{
    struct buffer bytes;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    assert_int_equal(file_read(path, &bytes, NULL), 0);
    assert_string_equal(bytes.data, expected);
    buffer_release(&bytes);
}

static mode_t mode_of(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return status.st_mode & 07777;
}

static void one_daemon_holds_the_lock_and_others_learn_its_pid(void **state)
{
    struct fixture *fixture = *state;
    struct error error;
    int fd = -1;
    int second = -1;
    int64_t pid = -1;
    assert_int_equal(identity_running_pid(&fixture->paths, &pid, &error), -(int)ERROR_NOT_FOUND);
    assert_int_equal(identity_lock(&fixture->paths, &fd, &pid, &error), 0);
    assert_int_equal(mode_of(fixture->paths.pid_file), 0600);
    assert_int_equal(identity_running_pid(&fixture->paths, &pid, &error), 0);
    assert_int_equal(pid, 0); /* not written yet */
    assert_int_equal(identity_lock_write_pid(fd, 1234567, &error), 0);
    assert_content(fixture->paths.pid_file, "1234567\n");
    assert_int_equal(identity_lock_write_pid(fd, 4321, &error), 0); /* after the fork: shorter, and nothing left behind it */
    assert_content(fixture->paths.pid_file, "4321\n");
    assert_int_equal(identity_lock(&fixture->paths, &second, &pid, &error), -(int)ERROR_BUSY);
    assert_int_equal(second, -1);
    assert_int_equal(pid, 4321);
    pid = -1;
    assert_int_equal(identity_running_pid(&fixture->paths, &pid, &error), 0);
    assert_int_equal(pid, 4321);
    identity_unlock(fd);
    assert_content(fixture->paths.pid_file, "");
    assert_int_equal(identity_running_pid(&fixture->paths, &pid, &error), -(int)ERROR_NOT_FOUND);
    identity_unlock(-1);
}

static void a_number_without_a_lock_means_nothing(void **state)
{
    struct fixture *fixture = *state;
    int64_t pid = -1;
    int fd = -1;
    assert_int_equal(file_write_atomic(fixture->paths.pid_file, 0600, "99\n", 3, NULL), 0);
    assert_int_equal(identity_running_pid(&fixture->paths, &pid, NULL), -(int)ERROR_NOT_FOUND);
    assert_int_equal(identity_lock(&fixture->paths, &fd, &pid, NULL), 0);
    assert_int_equal(identity_running_pid(&fixture->paths, &pid, NULL), 0);
    assert_int_equal(pid, 0); /* the predecessor's number is gone with the lock's first moment */
    assert_int_equal(pwrite(fd, "x12\n", 4, 0), 4);
    assert_int_equal(identity_running_pid(&fixture->paths, &pid, NULL), 0);
    assert_int_equal(pid, 0);
    identity_unlock(fd);
}

static void the_token_is_made_once_and_kept(void **state)
{
    struct fixture *fixture = *state;
    char *first = NULL;
    char *second = NULL;
    mode_t before = umask(022);
    assert_int_equal(identity_local_token(&fixture->paths, &first, NULL), 0);
    umask(before);
    assert_int_equal(strlen(first), 43);
    assert_int_equal(mode_of(fixture->paths.local_token), 0600);
    assert_int_equal(identity_local_token(&fixture->paths, &second, NULL), 0);
    assert_string_equal(first, second);
    free(second);
    char *with_newline = memory_printf("%s\n", first);
    assert_int_equal(file_write_atomic(fixture->paths.local_token, 0600, with_newline, 44, NULL), 0);
    assert_int_equal(identity_local_token(&fixture->paths, &second, NULL), 0);
    assert_string_equal(first, second);
    free(with_newline);
    free(second);
    free(first);
}

static void a_token_that_others_can_read_or_that_is_none_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct error error;
    char *token = NULL;
    assert_int_equal(identity_local_token(&fixture->paths, &token, NULL), 0);
    free(token);
    token = NULL;
    assert_int_equal(chmod(fixture->paths.local_token, 0640), 0);
    assert_int_equal(identity_local_token(&fixture->paths, &token, &error), -(int)ERROR_DENIED);
    static const char *const BAD[] = { "", "short", "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
                                       "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" };
    for (size_t index = 0; index < ARRAY_LENGTH(BAD); index++) {
        assert_int_equal(file_write_atomic(fixture->paths.local_token, 0600, BAD[index], strlen(BAD[index]), NULL), 0);
        assert_int_equal(identity_local_token(&fixture->paths, &token, &error), -(int)ERROR_CORRUPT);
        assert_content(fixture->paths.local_token, BAD[index]); /* never overwritten */
    }
    assert_null(token);
}

static void the_session_id_is_made_once_and_kept(void **state)
{
    struct fixture *fixture = *state;
    char *first = NULL;
    char *second = NULL;
    struct error error;
    assert_int_equal(identity_session_id(&fixture->paths, &first, NULL), 0);
    assert_true(strlen(first) == 36);
    assert_int_equal(mode_of(fixture->paths.session_id), 0600);
    assert_int_equal(identity_session_id(&fixture->paths, &second, NULL), 0);
    assert_string_equal(first, second);
    free(first);
    free(second);
    first = NULL;
    assert_int_equal(file_write_atomic(fixture->paths.session_id, 0600, "a\0b", 3, NULL), 0);
    assert_int_equal(identity_session_id(&fixture->paths, &first, &error), -(int)ERROR_CORRUPT);
    assert_int_equal(file_write_atomic(fixture->paths.session_id, 0600, "a|b", 3, NULL), 0);
    assert_int_equal(identity_session_id(&fixture->paths, &first, &error), -(int)ERROR_CORRUPT);
    assert_null(first);
}

static void member_keys_must_belong_together(void **state)
{
    (void)state;
    struct keypair *keys = NULL;
    struct keypair *other = NULL;
    struct keypair *read_keys = NULL;
    struct error error;
    char secret[SECRET_HEX_SIZE];
    char public_hex[KEY_HEX_SIZE];
    assert_int_equal(keypair_generate(&keys, NULL), 0);
    assert_int_equal(keypair_generate(&other, NULL), 0);
    keypair_secret_hex(keys, secret);
    memcpy(public_hex, keypair_public_hex(keys), sizeof(public_hex));
    struct config_mesh mesh = { .slug = (char[]){ "acme" }, .pubkey = public_hex, .secret_key = secret };
    assert_int_equal(identity_mesh_keys(&mesh, &read_keys, NULL), 0);
    assert_string_equal(keypair_public_hex(read_keys), public_hex);
    keypair_free(read_keys);
    read_keys = NULL;
    memcpy(public_hex, keypair_public_hex(other), sizeof(public_hex));
    assert_int_equal(identity_mesh_keys(&mesh, &read_keys, &error), -(int)ERROR_INVALID);
    assert_non_null(strstr(error.message, "acme"));
    secret[5] = 'x';
    assert_int_equal(identity_mesh_keys(&mesh, &read_keys, &error), -(int)ERROR_INVALID);
    assert_null(strstr(error.message, secret));
    assert_null(read_keys);
    keypair_free(keys);
    keypair_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_daemon_holds_the_lock_and_others_learn_its_pid, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_number_without_a_lock_means_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_token_is_made_once_and_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_token_that_others_can_read_or_that_is_none_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_session_id_is_made_once_and_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(member_keys_must_belong_together, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
