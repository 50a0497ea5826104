/* Owns what the API makes of the outbox's and the deliveries' news: answers for those who wait, events for the streams. */
#include "ipc/internal.h"
#include "json/json.h"

void ipc_publish(struct ipc *ipc, const char *type, const char *mesh_slug, json_t *data, int64_t inbox_seq)
{
    if (strcmp(type, "message") == 0) {
        const char *kind = json_string_value(json_object_get(data, "kind"));
        if (kind != NULL && mesh_slug != NULL)
            ipc_metrics_received(ipc->metrics, mesh_slug, kind);
    }
    events_publish(ipc->events, type, mesh_slug, data, inbox_seq);
}

void ipc_outbox_finished(struct ipc *ipc, const char *mesh, const char *client_message_id, const char *id, enum outbox_state state,
                         const char *broker_message_id, int64_t history_id, const char *last_error)
{
    const struct wait_result result = { .finished = true,
                                        .state = state,
                                        .id = id,
                                        .broker_message_id = broker_message_id,
                                        .last_error = last_error,
                                        .history_id = history_id };
    waits_finished(ipc->waits, client_message_id, &result);
    if (events_stream_count(ipc->events) == 0)
        return;
    json_t *data = json_new_object();
    json_put_string(data, "client_message_id", client_message_id);
    json_put_string(data, "outbox_id", id);
    json_put_string(data, "status", outbox_state_name(state));
    json_put_string(data, "broker_message_id", broker_message_id);
    json_put(data, "history_id", history_id >= 0 ? json_integer(history_id) : json_null());
    json_put_string(data, "last_error", last_error);
    events_publish(ipc->events, "outbox_status", ipc_slug_of_row(ipc, mesh), data, -1);
}

void ipc_outbox_pressure(struct ipc *ipc, int pct, bool degraded)
{
    json_t *data = json_new_object();
    json_put_integer(data, "pct", pct);
    json_put_bool(data, "degraded", degraded);
    events_publish(ipc->events, "outbox_pressure", NULL, data, -1);
}
