/* The checks before any route: what each refuses, and that the first failure answers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ipc/guard.h"

static const char TOKEN[] = "0123456789abcdef0123456789abcdef0123456789a";
static const char AUTHORIZATION[] = "Bearer 0123456789abcdef0123456789abcdef0123456789a";

static struct guard guard;

static int set_up(void **state)
{
    (void)state;
    static const char *const ORIGINS[] = { "http://localhost:3000" };
    guard_init(&guard, TOKEN);
    guard.max_in_flight = 64;
    guard.max_streams = 32;
    guard_set_origins(&guard, ORIGINS, 1);
    guard_set_rate(&guard, 100, 1000, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    guard_release(&guard);
    return 0;
}

static struct guard_request good(enum http_transport transport)
{
    return (struct guard_request){ .transport = transport,
                                   .port = 47823,
                                   .method = "GET",
                                   .path = "/v1/version",
                                   .host = "127.0.0.1:47823",
                                   .authorization = transport == HTTP_TCP ? AUTHORIZATION : NULL,
                                   .in_flight = 1,
                                   .now_ms = 1000 };
}

static void assert_passes(const struct guard_request *request)
{
    struct guard_refusal refusal;
    bool allowlisted;
    assert_int_equal(guard_check(&guard, request, &refusal, &allowlisted), GUARD_PASSED);
}

static struct guard_refusal assert_refused(const struct guard_request *request, int status, const char *code)
{
    struct guard_refusal refusal;
    bool allowlisted;
    assert_int_equal(guard_check(&guard, request, &refusal, &allowlisted), GUARD_REFUSED);
    assert_string_equal(refusal.code, code);
    assert_int_equal(refusal.status, status);
    assert_non_null(refusal.detail);
    return refusal;
}

static void what_is_in_order_passes_on_both_transports(void **state)
{
    (void)state;
    struct guard_request tcp = good(HTTP_TCP), local = good(HTTP_UNIX);
    assert_passes(&tcp);
    assert_passes(&local);
    local.host = NULL;
    assert_passes(&local);
}

/* Every fault at once; taking away the one that answered uncovers the next. */
static void the_first_failure_in_the_order_answers(void **state)
{
    (void)state;
    struct guard_request request = good(HTTP_TCP);
    request.path = "/v1/events";
    request.forbidden_parameter = "token";
    request.host = "evil.example";
    request.origin = "http://evil.example";
    request.method = "OPTIONS";
    request.authorization = "Bearer wrong";
    request.in_flight = 65;
    request.streams = 32;
    guard_set_rate(&guard, 1, 1, 1000);
    guard.bucket.level_milli = 0;
    assert_refused(&request, 400, "token_in_query");
    request.forbidden_parameter = NULL;
    assert_refused(&request, 403, "forbidden_host");
    request.host = "localhost";
    assert_refused(&request, 403, "forbidden_origin");
    request.origin = NULL;
    assert_refused(&request, 403, "forbidden_origin"); /* OPTIONS */
    request.method = "GET";
    assert_true(assert_refused(&request, 401, "invalid_token").ask_for_bearer);
    request.authorization = AUTHORIZATION;
    assert_int_equal(assert_refused(&request, 429, "daemon_busy").retry_after_s, 1);
    request.in_flight = 64;
    assert_true(assert_refused(&request, 429, "too_many_streams").retry_after_s > 0);
    request.streams = 31;
    assert_true(assert_refused(&request, 429, "rate_limited").retry_after_s > 0);
    request.now_ms += 1000;
    assert_passes(&request);
}

static void a_host_that_is_not_this_one_is_refused_and_absent_is_bad_on_tcp(void **state)
{
    (void)state;
    static const char *const BAD[] = { "evil.example", "127.0.0.1:47824", "127.0.0.1.evil.example", "[::2]", "0.0.0.0", "localhost:", "" };
    struct guard_request request = good(HTTP_TCP);
    for (size_t i = 0; i < ARRAY_LENGTH(BAD); i++) {
        request.host = BAD[i];
        assert_true(assert_refused(&request, 403, "forbidden_host").security);
    }
    request.host = NULL;
    assert_refused(&request, 400, "bad_request");
}

static void only_the_allowlisted_origin_passes_and_gets_its_preflight(void **state)
{
    (void)state;
    struct guard_refusal refusal;
    bool allowlisted = false;
    struct guard_request request = good(HTTP_TCP);
    request.origin = "http://localhost:3000";
    request.sec_fetch_site = "cross-site";
    assert_int_equal(guard_check(&guard, &request, &refusal, &allowlisted), GUARD_PASSED);
    assert_true(allowlisted);
    request.method = "OPTIONS";
    request.authorization = NULL;
    assert_int_equal(guard_check(&guard, &request, &refusal, &allowlisted), GUARD_PREFLIGHT);
    assert_true(allowlisted);
    request.origin = "http://127.0.0.1:47823"; /* the same as the host: an attacker sets both */
    assert_refused(&request, 403, "forbidden_origin");
    request.origin = NULL;
    request.method = "GET";
    request.authorization = AUTHORIZATION;
    assert_refused(&request, 403, "forbidden_origin");
    request.sec_fetch_site = "none";
    assert_passes(&request);
}

static void only_tcp_asks_for_the_token_and_prove_never(void **state)
{
    (void)state;
    static const char *const MISSING[] = { NULL, "", "Bearer", "Bearer ", "Basic abc" };
    struct guard_request request = good(HTTP_TCP);
    for (size_t i = 0; i < ARRAY_LENGTH(MISSING); i++) {
        request.authorization = MISSING[i];
        assert_true(assert_refused(&request, 401, "missing_token").ask_for_bearer);
    }
    request.authorization = "Bearer 0123456789abcdef0123456789abcdef0123456789b";
    assert_true(assert_refused(&request, 401, "invalid_token").security);
    request.authorization = "bearer 0123456789abcdef0123456789abcdef0123456789a";
    assert_passes(&request);
    request.authorization = NULL;
    request.path = "/v1/prove";
    assert_passes(&request);
    request.path = "/v1/health";
    assert_refused(&request, 401, "missing_token");
    guard.public_health_check = true;
    assert_passes(&request);
    request.method = "POST";
    assert_refused(&request, 401, "missing_token");
}

static void the_bucket_holds_its_burst_and_fills_at_its_rate(void **state)
{
    (void)state;
    struct guard_request request = good(HTTP_TCP);
    guard_set_rate(&guard, 2, 5, request.now_ms);
    for (int i = 0; i < 5; i++)
        assert_passes(&request);
    assert_refused(&request, 429, "rate_limited");
    request.now_ms += 499;
    assert_refused(&request, 429, "rate_limited");
    request.now_ms += 1;
    assert_passes(&request);
    assert_refused(&request, 429, "rate_limited");
    request.now_ms = INT64_MAX / 2; /* no overflow, no more than the burst */
    for (int i = 0; i < 5; i++)
        assert_passes(&request);
    assert_refused(&request, 429, "rate_limited");
    request.transport = HTTP_UNIX;
    assert_passes(&request);
    request.transport = HTTP_TCP;
    guard_set_rate(&guard, 0, 0, request.now_ms);
    assert_passes(&request);
}

static void a_capability_has_its_own_rights_and_only_it_counts_on_its_socket(void **state)
{
    (void)state;
    for (int transport = HTTP_UNIX; transport <= HTTP_TCP; transport++) {
        struct guard_request request = good((enum http_transport)transport);
        request.authorization = NULL; /* the capability is looked up before */
        request.capability = CAPABILITY_GOOD;
        assert_refused(&request, 403, "capability_scope");
        request.method = "POST";
        assert_refused(&request, 403, "capability_scope");
        request.path = "/v1/send";
        assert_passes(&request);
        request.path = "/v1/topic/post";
        assert_passes(&request);
        request.in_flight = 65;
        assert_refused(&request, 429, "daemon_busy");
        request.capability = CAPABILITY_BAD;
        assert_refused(&request, 401, "invalid_token");
        request.origin = "http://evil.example";
        assert_refused(&request, 403, "forbidden_origin");
    }
    struct guard_request own = good(HTTP_UNIX);
    own.run_socket = true;
    assert_refused(&own, 401, "missing_token");
    own.path = "/v1/prove";
    assert_refused(&own, 401, "missing_token");
    own.authorization = AUTHORIZATION;
    assert_refused(&own, 401, "missing_token");
}

static void a_token_that_was_replaced_works_for_its_grace_and_no_longer(void **state)
{
    (void)state;
    static const char SECOND[] = "second456789abcdef0123456789abcdef012345678";
    struct guard_request first = good(HTTP_TCP), second = good(HTTP_TCP), third = good(HTTP_TCP);
    second.authorization = "Bearer second456789abcdef0123456789abcdef012345678";
    third.authorization = "Bearer third";
    assert_refused(&second, 401, "invalid_token");
    guard_set_token(&guard, SECOND, 1000, 60000);
    assert_passes(&first);
    assert_passes(&second);
    guard_set_token(&guard, "third", 31000, 60000); /* each has a minute of its own */
    first.now_ms = second.now_ms = third.now_ms = 60999;
    assert_passes(&first);
    assert_passes(&second);
    assert_passes(&third);
    first.now_ms = second.now_ms = third.now_ms = 61000;
    assert_refused(&first, 401, "invalid_token");
    assert_passes(&second);
    second.now_ms = third.now_ms = 91000;
    assert_refused(&second, 401, "invalid_token");
    assert_passes(&third);
    for (int i = 0; i < 6; i++) /* more than are kept: the oldest ends early, nothing is lost in memory */
        guard_set_token(&guard, SECOND, 92000 + i, 60000);
    second.now_ms = 92010;
    assert_passes(&second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_in_order_passes_on_both_transports, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_token_that_was_replaced_works_for_its_grace_and_no_longer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_failure_in_the_order_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_host_that_is_not_this_one_is_refused_and_absent_is_bad_on_tcp, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_the_allowlisted_origin_passes_and_gets_its_preflight, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_tcp_asks_for_the_token_and_prove_never, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_capability_has_its_own_rights_and_only_it_counts_on_its_socket, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_bucket_holds_its_burst_and_fills_at_its_rate, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
