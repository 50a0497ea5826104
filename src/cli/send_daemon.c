/* Sending through the daemon: the handshake in 100 ms, then POST /v1/send, whose answer is the answer. */
#include "cli/api.h"
#include "cli/output.h"
#include "cli/send.h"
#include "crypto/crypto.h"
#include "delivery/delivery.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"

static json_t *request_body(const struct cli *cli, const struct send_request *request)
{
    json_t *body = json_new_object();
    json_put_string(body, "to", request->to);
    json_put_text(body, "message", request->message);
    json_put_string(body, "priority", request->priority);
    json_put_string(body, "client_message_id", request->client_message_id);
    if (request->reply_to_id != NULL) {
        json_put_string(body, "reply_to_id", request->reply_to_id);
    }
    if (request->meta != NULL) {
        json_put(body, "meta", json_incref(request->meta));
    }
    if (cli->mesh != NULL) {
        json_put_string(body, "mesh", cli->mesh);
    }
    return body;
}

/* One sentence that claims no more than is known (30-delivery, Honest outcomes). */
static void say_outcome(const struct cli *cli, const struct send_request *request, const json_t *answer)
{
    const char *status = answer_text(answer, "status");
    const char *name = answer_text(answer, "to_name")[0] != '\0' ? answer_text(answer, "to_name") : request->to;
    bool offline = json_is_false(json_object_get(answer, "online"));
    const char *again = answer_bool(answer, "duplicate") ? " (it was accepted before; nothing was sent twice)" : "";
    const char *id = answer_text(answer, "client_message_id");

    if (string_equal(status, "done")) {
        cli_say(cli, "accepted by the broker (id %s)%s%s%s%s, via: daemon", answer_text(answer, "broker_message_id"),
                offline ? " for " : "", offline ? name : "", offline ? ", who is offline" : "", again);
    } else if (string_equal(status, "inflight")) {
        cli_say(cli, "on its way to the broker for %s%s (id %s)%s, via: daemon", name, offline ? ", who is offline" : "", id, again);
    } else {
        cli_say(cli, "queued for %s%s (id %s)%s, via: daemon", name, offline ? ", who is offline" : "", id, again);
    }
}

static int lost(struct cli *cli, const struct send_request *request, const struct error *error)
{
    return cli_fail(
        cli, error->code == ERROR_TIMEOUT ? EXIT_TIMED_OUT : EXIT_UNREACHABLE,
        "the daemon went away while answering (%s); it may have the message: try again with --idempotency-key %s, which sends it once",
        error->message, request->client_message_id);
}

/* Whether `to` is this host's own name in that mesh: the daemon resolves names, and does not mind sending to itself. */
static bool is_own_name(struct api *api, const struct config_mesh *mesh, const char *folded)
{
    struct buffer target;
    json_t *answer = NULL;
    int http_status = 0;
    bool own = false;

    buffer_init(&target, 256);
    (void)buffer_append_text(&target, "/v1/members");
    api_target_add(&target, "mesh", mesh->slug);
    if (api_request(api, "GET", target.data, NULL, API_ANSWER_MS, &http_status, &answer, NULL) == 0 && http_status == 200) {
        const json_t *members = json_object_get(answer, "members");
        for (size_t i = 0; i < json_array_size(members); i++) {
            const json_t *member = json_array_get(members, i);
            if (string_equal(answer_text(member, "pubkey"), mesh->pubkey)) {
                char *name = trust_fold_name(answer_text(member, "name"));
                own = string_equal(name, folded);
                free(name);
                break;
            }
        }
    }
    json_decref(answer);
    buffer_release(&target);
    return own;
}

static bool leads_to_self(const struct cli *cli, struct api *api, const struct send_request *request, const struct config_file *file)
{
    bool own = false;
    if (request->allow_self || strchr("#@*", request->to[0]) != NULL || hex_is_key(request->to)) {
        return false; /* keys were compared before */
    }
    char *folded = trust_fold_name(request->to);
    for (size_t i = 0; i < file->mesh_count && !own; i++) {
        const struct config_mesh *mesh = &file->meshes[i];
        bool meant = cli->mesh == NULL || string_equal(cli->mesh, mesh->slug);
        own = meant && api_serves(api, mesh->slug) && is_own_name(api, mesh, folded);
    }
    free(folded);
    return own;
}

int send_by_daemon(struct cli *cli, const struct send_request *request, const struct config_file *file)
{
    struct api api;
    struct error error = { 0 };
    char target[64] = "/v1/send";
    json_t *answer = NULL;
    int http_status = 0, status = SEND_NO_WAY;

    if (api_open(cli, API_SEND_BUDGET_MS, &api, &error) != 0) {
        return SEND_NO_WAY;
    }
    if (json_array_size(json_object_get(api.version, "meshes")) == 0 || (cli->mesh != NULL && !api_serves(&api, cli->mesh))) {
        goto out;
    }
    if (leads_to_self(cli, &api, request, file)) {
        status = send_refuse_self(cli);
        goto out;
    }
    if (request->wait_s > 0) {
        (void)snprintf(target, sizeof target, "/v1/send?wait=%" PRId64, request->wait_s);
    }
    json_t *body = request_body(cli, request);
    int64_t timeout_ms = API_ANSWER_MS + (request->wait_s > 0 ? request->wait_s * 1000 : 0);
    status = api_request(&api, "POST", target, body, timeout_ms, &http_status, &answer, &error);
    json_decref(body);
    if (status != 0) {
        status = lost(cli, request, &error);
        goto out;
    }
    if (http_status < 200 || http_status > 299 || !json_is_object(answer)) {
        status = api_fail(cli, http_status, answer);
        goto out;
    }
    json_put_string(answer, "via", "daemon");
    if (cli->json) {
        cli_print_json(answer);
    }
    say_outcome(cli, request, answer);
    status = EXIT_DONE;
    if (request->wait_s > 0 && !string_equal(answer_text(answer, "status"), "done")) {
        cli->error_printed = cli->json;
        status =
            cli_fail(cli, EXIT_TIMED_OUT, "the broker has not accepted it in %" PRId64 " s; the daemon goes on trying", request->wait_s);
    }
out:
    json_decref(answer);
    api_close(&api);
    return status;
}
