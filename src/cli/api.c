/* The local API as the command line uses it. Must not fall through to another way: that is the caller's decision (10-cli, "How send finds its way"). */
#include "cli/api.h"

#include "cli/output.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { PAGE_LIMIT = 1000 }; /* the most that one page of a list holds (20-ipc) */

static bool version_is_compatible(const json_t *version)
{
    return string_equal(answer_text(version, "ipc_api"), "v1");
}

int api_open(const struct cli *cli, int64_t budget_ms, struct api *ret_api, struct error *error)
{
    struct api api = { 0 };
    int64_t started = clock_monotonic_ms();
    int http_status = 0;
    int status = http_client_open_unix(cli->paths.socket, budget_ms, &api.client, error);

    if (status != 0) {
        return status;
    }
    int64_t left = budget_ms - (clock_monotonic_ms() - started);
    status = api_request(&api, "GET", "/v1/version", NULL, left > 1 ? left : 1, &http_status, &api.version, error);
    if (status != 0) {
        goto out;
    }
    if (http_status != 200 || !version_is_compatible(api.version)) {
        status = error_set(error, ERROR_UNREACHABLE, "what answers at %s is no daemon that this version can talk to", cli->paths.socket);
        goto out;
    }
    *ret_api = api;
    return 0;
out:
    api_close(&api);
    return status;
}

void api_close(struct api *api)
{
    http_client_free(api->client);
    json_decref(api->version);
    *api = (struct api){ 0 };
}

bool api_serves(const struct api *api, const char *slug)
{
    const json_t *meshes = json_object_get(api->version, "meshes");
    for (size_t i = 0; i < json_array_size(meshes); i++) {
        const char *name = json_string_value(json_array_get(meshes, i));
        if (string_equal(name, slug)) {
            return true;
        }
    }
    return false;
}

int api_request(struct api *api, const char *method, const char *target, const json_t *body, int64_t timeout_ms, int *ret_status,
                json_t **ret_answer, struct error *error)
{
    struct http_response response = { 0 };
    struct buffer text;
    json_t *answer = NULL;

    buffer_init(&text, LIMIT_HTTP_BODY * 2);
    if (body != NULL) {
        (void)json_print(body, &text);
    }
    http_client_set_timeout(api->client, timeout_ms);
    int status = http_client_request(api->client, method, target, body == NULL ? NULL : "Content-Type: application/json\r\n",
                                     body == NULL ? NULL : text.data, text.length, &response, error);
    buffer_wipe_release(&text);
    if (status != 0) {
        return status;
    }
    if (json_parse_strict(response.body.data, response.body.length, &answer, NULL) != 0) {
        answer = NULL;
    }
    *ret_status = response.status;
    *ret_answer = answer;
    http_response_release(&response);
    return 0;
}

static void print_candidates(const json_t *answer)
{
    const json_t *candidates = json_object_get(answer, "candidates");
    for (size_t i = 0; i < json_array_size(candidates); i++) {
        const json_t *candidate = json_array_get(candidates, i);
        const char *name = json_is_object(candidate) ? answer_text(candidate, "name") : "";
        const char *key = json_is_object(candidate) ? answer_text(candidate, "pubkey") : json_string_value(candidate);
        char *printable_name = text_printable(name, strlen(name));
        char *printable_key = text_printable(key == NULL ? "" : key, key == NULL ? 0 : strlen(key));
        fprintf(stderr, "  %.24s  %s\n", printable_key, printable_name);
        free(printable_name);
        free(printable_key);
    }
}

int api_fail(struct cli *cli, int status, const json_t *answer)
{
    const char *code = answer_text(answer, "error");
    const char *detail = answer_text(answer, "detail");
    enum exit_code exit = exit_code_of_answer(status, code);

    if (cli->json && json_is_object(answer) && !cli->streaming) {
        cli_print_json(answer);
        cli->error_printed = true;
    }
    if (code[0] == '\0') {
        return cli_fail(cli, exit, "the daemon answered %d without saying why", status);
    }
    (void)cli_fail(cli, exit, "%s (%s)%s", detail[0] == '\0' ? "refused" : detail, code,
                   string_equal(code, "mesh_required") ? "; add --mesh SLUG" : "");
    print_candidates(answer);
    return (int)exit;
}

int api_need(struct cli *cli, struct api *ret_api)
{
    struct error error = { 0 };
    if (api_open(cli, API_BUDGET_MS, ret_api, &error) == 0) {
        return EXIT_DONE;
    }
    if (error.code == ERROR_TIMEOUT) {
        return cli_fail(cli, EXIT_UNREACHABLE, "the daemon does not answer; 'claudemesh daemon logs' may say why");
    }
    if (file_exists(cli->paths.socket) && error.code != ERROR_UNREACHABLE && error.code != ERROR_NOT_FOUND) {
        return cli_fail_error(cli, &error);
    }
    return cli_fail(cli, EXIT_UNREACHABLE, "no daemon is running for %s; start it with 'claudemesh daemon up'", cli->paths.root);
}

int api_ask(struct cli *cli, struct api *api, const char *method, const char *target, const json_t *body, json_t **ret_answer)
{
    struct error error = { 0 };
    struct buffer full;
    json_t *answer = NULL;
    int http_status = 0;

    buffer_init(&full, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&full, target);
    api_target_add(&full, "mesh", cli->mesh);
    int status = api_request(api, method, full.data, body, API_ANSWER_MS, &http_status, &answer, &error);
    buffer_release(&full);
    if (status != 0) {
        return error.code == ERROR_TIMEOUT ? cli_fail_error(cli, &error)
                                           : cli_fail(cli, EXIT_UNREACHABLE, "the daemon went away while answering: %s", error.message);
    }
    if (http_status < 200 || http_status > 299) {
        status = api_fail(cli, http_status, answer);
        json_decref(answer);
        return status;
    }
    if (!json_is_object(answer)) {
        json_decref(answer);
        return cli_fail(cli, EXIT_FAILED, "the daemon's answer to %s is not what was expected", target);
    }
    *ret_answer = answer;
    return EXIT_DONE;
}

int api_call(struct cli *cli, const char *method, const char *target, const json_t *body, json_t **ret_answer)
{
    struct api api;
    int status = api_need(cli, &api);
    if (status == EXIT_DONE) {
        status = api_ask(cli, &api, method, target, body, ret_answer);
        api_close(&api);
    }
    return status;
}

static int ask_page(struct cli *cli, struct api *api, const char *base, int64_t left, const char *cursor, json_t **ret_page)
{
    char number[24];
    (void)snprintf(number, sizeof number, "%" PRId64, left < PAGE_LIMIT ? left : PAGE_LIMIT);
    struct buffer target;
    buffer_init(&target, LIMIT_HTTP_HEAD);
    (void)buffer_append_text(&target, base);
    api_target_add(&target, "limit", number);
    api_target_add(&target, "cursor", cursor);
    int status = api_ask(cli, api, "GET", target.data, NULL, ret_page);
    buffer_release(&target);
    return status;
}

int api_collect(struct cli *cli, const char *target, int64_t limit, json_t **ret_document)
{
    json_t *items = json_new_array(), *document = json_new_object();
    char *cursor = NULL;
    struct api api;
    int status = api_need(cli, &api);
    bool opened = status == EXIT_DONE, more = opened;

    while (more) {
        json_t *page = NULL;
        status = ask_page(cli, &api, target, limit - (int64_t)json_array_size(items), cursor, &page);
        if (status != EXIT_DONE) {
            break;
        }
        (void)json_array_extend(items, json_object_get(page, "items"));
        if (json_object_get(page, "complete") != NULL) {
            json_put_bool(document, "complete", json_is_true(json_object_get(page, "complete")));
        }
        free(cursor);
        cursor = memory_strdup(json_string_value(json_object_get(page, "next_cursor")));
        more = cursor != NULL && (int64_t)json_array_size(items) < limit;
        json_decref(page);
    }
    if (opened) {
        api_close(&api);
    }
    json_put(document, "items", items);
    json_put_string(document, "next_cursor", cursor);
    free(cursor);
    if (status == EXIT_DONE) {
        *ret_document = document;
    } else {
        json_decref(document);
    }
    return status;
}

void api_target_add(struct buffer *target, const char *name, const char *value)
{
    if (value == NULL) {
        return;
    }
    (void)buffer_printf(target, "%c%s=", strchr(target->data, '?') == NULL ? '?' : '&', name);
    api_target_escape(target, value);
}

void api_target_escape(struct buffer *target, const char *value)
{
    for (const unsigned char *at = (const unsigned char *)value; *at != '\0'; at++) {
        bool plain = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') || strchr("-._~", *at) != NULL;
        if (plain) {
            (void)buffer_append_byte(target, (char)*at);
        } else {
            (void)buffer_printf(target, "%%%02X", *at);
        }
    }
}
