/* The exit codes of 10-cli, from answers and from errors. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/exit_codes.h"
#include "util/attributes.h"

static void answers_lead_to_the_codes_of_the_specification(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *code;
        enum exit_code exit;
    } CASES[] = {
        { 202, NULL, EXIT_DONE },
        { 200, "", EXIT_DONE },
        { 409, "idempotency_key_reused", EXIT_CONFLICT },
        { 409, "destination_ambiguous", EXIT_FAILED },
        { 409, "destination_key_changed", EXIT_FAILED },
        { 409, "outbox_inflight", EXIT_CONFLICT },
        { 409, "something_new", EXIT_CONFLICT },
        { 400, "mesh_required", EXIT_USAGE },
        { 400, "invalid_request", EXIT_USAGE },
        { 401, "missing_token", EXIT_NOT_AUTHORISED },
        { 403, "member_revoked", EXIT_NOT_AUTHORISED },
        { 404, "destination_not_found", EXIT_FAILED },
        { 410, "expired", EXIT_FAILED },
        { 413, "payload_too_large", EXIT_FAILED },
        { 501, "not_implemented", EXIT_FAILED },
        { 502, "delivery_failed", EXIT_FAILED },
        { 507, "insufficient_storage", EXIT_FAILED },
        { 504, NULL, EXIT_TIMED_OUT },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        assert_int_equal(exit_code_of_answer(CASES[i].status, CASES[i].code), CASES[i].exit);
    }
}

static void errors_lead_to_the_codes_of_the_specification(void **state)
{
    (void)state;
    assert_int_equal(exit_code_of_error(ERROR_UNREACHABLE), EXIT_UNREACHABLE);
    assert_int_equal(exit_code_of_error(ERROR_TIMEOUT), EXIT_TIMED_OUT);
    assert_int_equal(exit_code_of_error(ERROR_DENIED), EXIT_NOT_AUTHORISED);
    assert_int_equal(exit_code_of_error(ERROR_CONFLICT), EXIT_CONFLICT);
    assert_int_equal(exit_code_of_error(ERROR_NOT_FOUND), EXIT_FAILED);
}

static void every_error_has_a_code_other_than_done(void **state)
{
    (void)state;
    for (int code = ERROR_NONE + 1; code <= ERROR_INTERNAL; code++) {
        assert_int_not_equal(exit_code_of_error((enum error_code)code), EXIT_DONE);
    }
    assert_int_equal(exit_code_of_error((enum error_code)1000), EXIT_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_lead_to_the_codes_of_the_specification),
        cmocka_unit_test(errors_lead_to_the_codes_of_the_specification),
        cmocka_unit_test(every_error_has_a_code_other_than_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
