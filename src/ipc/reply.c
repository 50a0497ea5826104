/* Owns automatic replies: a send like any other, but that nobody waits for it on a socket (60-hooks; docs/decisions/0016). Must not decide whether one may be made. */
#include "ipc/hook_access.h"
#include "ipc/internal.h"
#include "json/json.h"
#include "util/memory.h"

struct replying {
    void (*done)(void *argument, int status, const char *code);
    void *argument;
};

/* The error's code is all that is wanted of the answer. */
static void on_answered(void *argument, int status, const char *body, size_t size)
{
    struct replying *replying = argument;
    json_t *answer = NULL;
    struct error error;
    if (status >= 300 && json_parse_strict(body, size, &answer, &error) != 0)
        answer = NULL;
    replying->done(replying->argument, status, json_string_value(json_object_get(answer, "error")));
    json_decref(answer);
    free(replying);
}

void ipc_reply(struct ipc *ipc, const struct ipc_reply *reply, void (*done)(void *argument, int status, const char *code), void *argument)
{
    const char *rest, *path = "/v1/send";
    char allow[ROUTE_ALLOW_SIZE];
    struct replying *replying = memory_zalloc(sizeof(*replying));
    replying->done = done;
    replying->argument = argument;
    struct exchange *exchange = exchange_new(ipc, NULL);
    exchange->route = route_find("POST", path, &rest, allow);
    exchange->depth = reply->depth;
    exchange->answered = on_answered;
    exchange->answered_argument = replying;
    exchange->body = json_new_object();
    json_put_string(exchange->body, "to", reply->to);
    json_put_text(exchange->body, "message", reply->message);
    json_put_string(exchange->body, "client_message_id", reply->client_message_id);
    json_put_string(exchange->body, "mesh", reply->mesh_slug);
    if (reply->reply_to_id != NULL)
        json_put_string(exchange->body, "reply_to_id", reply->reply_to_id);
    route_send(exchange);
}
