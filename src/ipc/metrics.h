/* Counters and histograms of the daemon, and their Prometheus text (80-operations, Metrics). Labels never hold ids, keys or free text: a reason is a literal of
 * its room's fixed list, a hook's name is one of hooks/, a mesh is its slug, and what outgrows a bound is counted as "other". Loop thread, but where it says otherwise. */
#ifndef IPC_METRICS_H
#define IPC_METRICS_H

#include "ipc/ipc.h"
#include "net/http_server.h"

struct route;

/* ---- the local API's own ---------------------------------------------------------------------------------------------- */

enum send_outcome { SEND_QUEUED, SEND_DUPLICATE, SEND_CONFLICT, SEND_REFUSED, SEND_OUTCOMES };

/* route NULL: refused before one was found. */
void ipc_metrics_request(struct ipc_metrics *metrics, const struct route *route, enum http_transport transport, int status,
                         int64_t duration_us);
/* mesh_slug "": the request was refused before its mesh was known. SEND_DUPLICATE counts in dedupe (out), too. */
void ipc_metrics_send(struct ipc_metrics *metrics, const char *mesh_slug, const char *kind, enum send_outcome outcome);
void ipc_metrics_received(struct ipc_metrics *metrics, const char *mesh_slug, const char *kind);

/* ---- what other rooms report, through the daemon's wiring ----------------------------------------------------------------- */

/* A mesh's delivery: see enum delivery_figure. */
void ipc_metrics_delivery(struct ipc_metrics *metrics, const char *mesh_slug, enum delivery_figure figure, const char *label);

/* One run of a hook that ended. exit_status: 0 to 255, or one of these. */
enum { HOOK_EXIT_TIMEOUT = -1, HOOK_EXIT_SIGNAL = -2, HOOK_EXIT_NOT_STARTED = -3 };
void ipc_metrics_hook_run(struct ipc_metrics *metrics, const char *hook, int exit_status, int64_t duration_ms);
/* Something of its policy could not be enforced on this host; reason is a word of a fixed list, e.g. "network". */
void ipc_metrics_hook_unenforceable(struct ipc_metrics *metrics, const char *hook, const char *reason);
/* Events that hooks missed because the queue was full. */
void ipc_metrics_hook_dropped(struct ipc_metrics *metrics, uint64_t events);

void ipc_metrics_token_rotated(struct ipc_metrics *metrics);
/* At start (the host is another one, and the policy goes on), and whenever a broker says so. */
void ipc_metrics_clone_suspected(struct ipc_metrics *metrics);
/* kind: a word of a fixed list ("inbox"); 0 to 100. What is set stays until it is set again. "outbox" and "filesystem" are read by ourselves. */
void ipc_metrics_disk_pct(struct ipc_metrics *metrics, const char *kind, int pct);

/* ---- the text -------------------------------------------------------------------------------------------------------------- */

/* A mesh was left: its series go. */
void ipc_metrics_forget_mesh(struct ipc_metrics *metrics, const char *mesh_slug);

/* The whole text, with what is read from the rooms at this moment. backlog NULL: it could not be had in time, and its series are left out. */
void ipc_metrics_print(const struct ipc *ipc, const struct outbox_backlog *backlog, struct buffer *ret_text);

#endif
