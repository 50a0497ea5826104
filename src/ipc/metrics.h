/* Counters and histograms of the daemon, and their Prometheus text (80-operations, Metrics). Labels never hold ids, keys or free text. */
#ifndef IPC_METRICS_H
#define IPC_METRICS_H

#include "ipc/ipc.h"
#include "net/http_server.h"

struct route;

enum send_outcome { SEND_QUEUED, SEND_DUPLICATE, SEND_CONFLICT, SEND_REFUSED, SEND_OUTCOMES };

/* route NULL: refused before one was found. */
void ipc_metrics_request(struct ipc_metrics *metrics, const struct route *route, enum http_transport transport, int status,
                         int64_t duration_us);
void ipc_metrics_send(struct ipc_metrics *metrics, const char *mesh_slug, const char *kind, enum send_outcome outcome);
void ipc_metrics_received(struct ipc_metrics *metrics, const char *mesh_slug, const char *kind);
/* The whole text, with what is read from the rooms at this moment. */
void ipc_metrics_print(const struct ipc *ipc, struct buffer *ret_text);

#endif
