/* What the files of ipc/ share and nobody else sees. */
#ifndef IPC_INTERNAL_H
#define IPC_INTERNAL_H

#include "ipc/capability.h"
#include "ipc/events.h"
#include "ipc/exchange.h"
#include "ipc/guard.h"
#include "ipc/ipc.h"
#include "ipc/metrics.h"
#include "ipc/routes.h"
#include "ipc/waits.h"

struct ipc_mesh {
    char *slug, *mesh_id;
    struct delivery *delivery; /* NULL: it could not be made, see failure */
    char *failure;
};

struct ipc {
    struct loop *loop;
    struct outbox *outbox;
    struct inbox *inbox;
    struct ipc_metrics *metrics;
    char *directory; /* of the databases */
    struct ipc_control control;
    struct http_server *server;
    struct guard guard;
    struct ipc_mesh *meshes; /* by slug */
    size_t mesh_count;
    struct exchange *exchanges;
    struct waits *waits;
    struct ipc_capability *capabilities; /* of the runs that go on */
    struct send_guard send_guard;        /* wanted NULL: none */
    struct events *events;
    struct refusal_log {
        int64_t since_ms; /* monotonic: when this minute began */
        size_t told;
        uint64_t untold;
    } refusal_log;
    struct buffer scratch; /* for printing one answer at a time */
    uint16_t tcp_port;
    int schema_version;
    int disk_pct;          /* of the file system; -1 unknown */
    int64_t started_at_ms; /* monotonic */
    bool stopping;
};

void ipc_release_meshes(struct ipc *ipc);
/* NULL when not served. A mesh that failed has no delivery. */
struct ipc_mesh *ipc_mesh_by_slug(const struct ipc *ipc, const char *slug);
struct ipc_mesh *ipc_mesh_by_id(const struct ipc *ipc, const char *mesh_id);
/* The delivery that this row belongs to; NULL when its mesh is not served. */
struct delivery *ipc_delivery_of_row(const struct ipc *ipc, const char *row_mesh);
/* What the outbox's and inbox's rows of a mesh carry in their `mesh` column, and back: the slug, or the column's text when the mesh was left. */
const char *ipc_row_mesh(const struct ipc_mesh *mesh);
const char *ipc_slug_of_row(const struct ipc *ipc, const char *row_mesh);
json_t *ipc_slugs(const struct ipc *ipc) MUST_CHECK;

/* The mesh that a request without destination is about: the one named, or the only one. NULL: answered (400 mesh_required, 404 mesh_not_found, 503 for one
 * that failed). */
struct delivery *ipc_choose_mesh(struct exchange *exchange, struct ipc_mesh **ret_mesh) MUST_CHECK;

/* An optional `mesh` filter: *ret_row_mesh NULL when none was given. -1: answered. */
int ipc_mesh_filter(struct exchange *exchange, const char **ret_row_mesh) MUST_CHECK;

#endif
