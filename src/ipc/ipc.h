/* The local API (20-ipc): checks, one table of routes, event streams, on a Unix socket and on TCP. Owns the HTTP server, the waiting sends and the event
 * streams; borrows the databases' rooms and the deliveries. Opens no database, starts no link. Loop thread. */
#ifndef IPC_IPC_H
#define IPC_IPC_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "delivery/delivery.h"
#include "inbox/inbox.h"
#include "net/loop.h"
#include "outbox/outbox.h"

struct ipc;
struct ipc_metrics;

/* [ipc] of config.toml; all of it can change live. Copied. */
struct ipc_limits {
    size_t max_in_flight, max_streams;
    int64_t rate_limit_rps, rate_limit_burst; /* 0: no limit */
    bool public_health_check;
    const char *const *allowed_origins;
    size_t allowed_origin_count;
};

/* Of what takes its time: once, with the answer's status and body (given). */
typedef void ipc_answered(void *argument, int status, json_t *body);

/* What only the daemon as a whole can do; the first two answer at once. */
struct ipc_control {
    void *argument;
    /* *ret_report as in docs/local-api.md, new reference. A failure is the configuration's: nothing was changed. */
    int (*reload)(void *argument, json_t **ret_report, struct error *error);
    json_t *(*settings)(void *argument); /* those in effect; new reference */
    /* 50-identity, Key rotation and Token; as docs/local-api.md says. */
    void (*rotate_keypair)(void *argument, const char *mesh_id, ipc_answered *answered, void *answer_argument);
    void (*rotate_token)(void *argument, ipc_answered *answered, void *answer_argument);
    void (*clean_archive)(void *argument, ipc_answered *answered, void *answer_argument);
};

struct ipc_options { /* everything borrowed for the ipc's life, but the strings, which are copied */
    struct loop *loop;
    struct outbox *outbox;
    struct inbox *inbox;
    struct ipc_metrics *metrics;
    const char *token;     /* the bearer for TCP */
    const char *directory; /* the databases': metrics say how full its file system is */
    int schema_version;
    struct ipc_limits limits;
    struct ipc_control control;
};
int ipc_new(const struct ipc_options *options, struct ipc **ret_ipc, struct error *error) MUST_CHECK;
void ipc_free(struct ipc *ipc);

/* Connections at once on each of the two transports; more are closed as they come. */
void ipc_set_maximum(struct ipc *ipc, size_t connections);
int ipc_listen_unix(struct ipc *ipc, const char *path, struct error *error) MUST_CHECK;
/* 127.0.0.1; port 0: any. ERROR_BUSY when taken. */
int ipc_listen_tcp(struct ipc *ipc, uint16_t port, uint16_t *ret_port, struct error *error) MUST_CHECK;
void ipc_set_limits(struct ipc *ipc, const struct ipc_limits *limits);
/* The bearer from now on; the one before works on for IPC_OLD_TOKEN_MS (50-identity, Token). Copied. */
enum { IPC_OLD_TOKEN_MS = 60000 };
void ipc_set_token(struct ipc *ipc, const char *token);

/* Meshes served. A mesh whose delivery could not be made is added with the reason, so that health shows it. The delivery must be removed before it is freed. */
void ipc_add_mesh(struct ipc *ipc, struct delivery *delivery);
void ipc_add_failed_mesh(struct ipc *ipc, const char *slug, const char *mesh_id, const char *reason);
void ipc_remove_mesh(struct ipc *ipc, const char *mesh_id);

/* Events for the streams: as struct event_sink's publish. mesh_slug NULL: of no mesh. data is taken over; inbox_seq -1 unless a `message`. */
void ipc_publish(struct ipc *ipc, const char *type, const char *mesh_slug, json_t *data, int64_t inbox_seq);
/* From the outbox's observer: answers who waits, publishes outbox_status and outbox_pressure. mesh is the row's. */
void ipc_outbox_finished(struct ipc *ipc, const char *mesh, const char *client_message_id, const char *id, enum outbox_state state,
                         const char *broker_message_id, int64_t history_id, const char *last_error);
void ipc_outbox_pressure(struct ipc *ipc, int pct, bool degraded);

/* How full the file system under the databases is, in percent; -1 unknown. For health and metrics. */
void ipc_set_disk_pct(struct ipc *ipc, int pct);

/* Shutdown: no new connections or requests, streams ended, held sends answered 202. Then wait for ipc_busy to become 0. */
void ipc_stop_accepting(struct ipc *ipc);
size_t ipc_busy(const struct ipc *ipc);

/* Health as GET /v1/health gives it, for the log (SIGUSR1). */
json_t *ipc_health(const struct ipc *ipc) MUST_CHECK;

/* Figures that several threads add to (80-operations, Metrics); made before the databases, freed after them. */
struct ipc_metrics *ipc_metrics_new(void) MUST_CHECK;
void ipc_metrics_free(struct ipc_metrics *metrics);
/* A group commit; any thread. */
void ipc_metrics_commit(struct ipc_metrics *metrics, int64_t commit_us, size_t batch);

#endif
