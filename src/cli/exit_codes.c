/* The exit codes, as tables. Must not print. */
#include "cli/exit_codes.h"

#include "util/attributes.h"
#include "util/text.h"

static const struct {
    const char *code;
    enum exit_code exit;
} ANSWER_CODES[] = {
    { "missing_token", EXIT_NOT_AUTHORISED },
    { "invalid_token", EXIT_NOT_AUTHORISED },
    { "forbidden_host", EXIT_NOT_AUTHORISED },
    { "forbidden_origin", EXIT_NOT_AUTHORISED },
    { "member_revoked", EXIT_NOT_AUTHORISED },
    { "unauthorized", EXIT_NOT_AUTHORISED },
    { "bad_signature", EXIT_NOT_AUTHORISED },
    { "idempotency_key_reused", EXIT_CONFLICT },
    { "client_message_id_consumed", EXIT_CONFLICT },
    { "mesh_conflict", EXIT_CONFLICT },
    { "outbox_inflight", EXIT_CONFLICT },
    { "outbox_final", EXIT_CONFLICT },
    { "rotation_under_way", EXIT_FAILED },
    { "ephemeral", EXIT_FAILED },
    { "feature_unavailable", EXIT_FAILED },
    { "link_down", EXIT_UNREACHABLE },
    { "destination_ambiguous", EXIT_FAILED },
    { "destination_key_changed", EXIT_FAILED },
    { "config_invalid", EXIT_FAILED },
    { "mesh_required", EXIT_USAGE },
    { "invalid_request", EXIT_USAGE },
    { "invalid_json", EXIT_USAGE },
    { "invalid_client_message_id", EXIT_USAGE },
    { "timeout", EXIT_TIMED_OUT },
    { "timed_out", EXIT_TIMED_OUT },
};

static const struct {
    int status;
    enum exit_code exit;
} ANSWER_STATUSES[] = {
    { 400, EXIT_USAGE },     { 401, EXIT_NOT_AUTHORISED }, { 403, EXIT_NOT_AUTHORISED },
    { 408, EXIT_TIMED_OUT }, { 409, EXIT_CONFLICT },       { 504, EXIT_TIMED_OUT },
};

static const enum exit_code ERROR_CODES[] = {
    [ERROR_NONE] = EXIT_DONE,
    [ERROR_INVALID] = EXIT_FAILED,
    [ERROR_TOO_LARGE] = EXIT_FAILED,
    [ERROR_NOT_FOUND] = EXIT_FAILED,
    [ERROR_CONFLICT] = EXIT_CONFLICT,
    [ERROR_AMBIGUOUS] = EXIT_FAILED,
    [ERROR_DENIED] = EXIT_NOT_AUTHORISED,
    [ERROR_FULL] = EXIT_FAILED,
    [ERROR_BUSY] = EXIT_FAILED,
    [ERROR_UNREACHABLE] = EXIT_UNREACHABLE,
    [ERROR_TIMEOUT] = EXIT_TIMED_OUT,
    [ERROR_CORRUPT] = EXIT_FAILED,
    [ERROR_NEWER] = EXIT_FAILED,
    [ERROR_SYSTEM] = EXIT_FAILED,
    [ERROR_INTERNAL] = EXIT_FAILED,
};

enum exit_code exit_code_of_answer(int status, const char *code)
{
    for (size_t i = 0; code != NULL && i < ARRAY_LENGTH(ANSWER_CODES); i++) {
        if (string_equal(ANSWER_CODES[i].code, code)) {
            return ANSWER_CODES[i].exit;
        }
    }
    for (size_t i = 0; i < ARRAY_LENGTH(ANSWER_STATUSES); i++) {
        if (ANSWER_STATUSES[i].status == status) {
            return ANSWER_STATUSES[i].exit;
        }
    }
    return status >= 200 && status < 300 ? EXIT_DONE : EXIT_FAILED;
}

enum exit_code exit_code_of_error(enum error_code code)
{
    if ((size_t)code >= ARRAY_LENGTH(ERROR_CODES)) {
        return EXIT_FAILED;
    }
    return ERROR_CODES[code];
}
