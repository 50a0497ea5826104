/* Owns the routes that are about the daemon itself and not about messages (docs/local-api.md, The daemon): on the Unix socket only, since a web page that got hold of the token
 * must not turn it. Knows nothing of configuration: ipc_control does. */
#include "ipc/internal.h"
#include "json/json.h"

bool exchange_is_local(struct exchange *exchange)
{
    if (http_transport(exchange->http) == HTTP_UNIX)
        return true;
    exchange_fail(exchange, 403, "unix_socket_only", "This is answered on the Unix socket only; use the `claudemesh` command.");
    return false;
}

void route_daemon_reload(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    struct error error;
    json_t *report;
    if (!exchange_is_local(exchange))
        return;
    if (ipc->control.reload(ipc->control.argument, &report, &error) == 0) {
        exchange_answer_json(exchange, 200, report);
        return;
    }
    json_t *more = json_new_object();
    json_put(more, "applied", json_new_array());
    json_put(more, "needs_restart", json_new_array());
    exchange_fail_with(exchange, 400, "config_invalid", more, "Nothing was changed: %s", error.message);
}

void route_daemon_settings(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    if (!exchange_is_local(exchange))
        return;
    json_t *answer = json_new_object();
    json_put(answer, "settings", ipc->control.settings(ipc->control.argument));
    exchange_answer_json(exchange, 200, answer);
}

/* ---- keys and tokens (50-identity) --------------------------------------------------------------------------------- */

static void on_answered(void *argument, int status, json_t *body)
{
    exchange_answer_json(argument, status, body);
}

void route_rotate_keypair(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    struct ipc_mesh *mesh;
    if (exchange_is_local(exchange) && ipc_choose_mesh(exchange, &mesh) != NULL)
        ipc->control.rotate_keypair(ipc->control.argument, mesh->mesh_id, on_answered, exchange);
}

void route_rotate_token(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    if (exchange_is_local(exchange))
        ipc->control.rotate_token(ipc->control.argument, on_answered, exchange);
}

void route_archive_cleanup(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    if (exchange_is_local(exchange))
        ipc->control.clean_archive(ipc->control.argument, on_answered, exchange);
}
