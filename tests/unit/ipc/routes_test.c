/* The table of routes: what is found, what is not allowed, what is unknown. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ipc/routes.h"

static void every_route_is_found_by_its_own_method_and_path(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        const char *rest;
        char allow[ROUTE_ALLOW_SIZE];
        bool is_pattern = strchr(ROUTES[i].path, '{') != NULL;
        assert_ptr_equal(route_find(ROUTES[i].method, is_pattern ? "/v1/outbox/01ABC" : ROUTES[i].path, &rest, allow), &ROUTES[i]);
        assert_string_equal(rest, is_pattern ? "01ABC" : "");
    }
}

static void a_known_path_with_another_method_says_which_it_takes(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path, *allow;
    } CASES[] = {
        { "DELETE", "/v1/send", "POST" },      { "GET", "/v1/send", "POST" },        { "HEAD", "/v1/health", "GET" },
        { "PUT", "/v1/profile", "GET, POST" }, { "GET", "/v1/outbox/drop", "POST" }, { "POST", "/v1/outbox/some-id", "GET" },
        { "POST", "/v1/outbox", "GET" },       { "get", "/v1/version", "GET" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(CASES); i++) {
        const char *rest;
        char allow[ROUTE_ALLOW_SIZE];
        assert_null(route_find(CASES[i].method, CASES[i].path, &rest, allow));
        assert_string_equal(allow, CASES[i].allow);
    }
}

static void what_is_in_no_row_is_unknown(void **state)
{
    (void)state;
    static const char *const PATHS[] = { "",          "/",        "/v1",         "/v1/",     "/v1/sen",    "/v1/send/",
                                         "/v1/sendx", "/V1/send", "/v1/outbox/", "/v2/send", "/v1/inbox/x" };
    for (size_t i = 0; i < ARRAY_LENGTH(PATHS); i++) {
        const char *rest;
        char allow[ROUTE_ALLOW_SIZE];
        assert_null(route_find("GET", PATHS[i], &rest, allow));
        assert_string_equal(allow, "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_found_by_its_own_method_and_path),
        cmocka_unit_test(a_known_path_with_another_method_says_which_it_takes),
        cmocka_unit_test(what_is_in_no_row_is_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
