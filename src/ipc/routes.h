/* The one table of routes (20-ipc, Routes). */
#ifndef IPC_ROUTES_H
#define IPC_ROUTES_H

#include <stddef.h>

#include "ipc/exchange.h"

enum route_body { BODY_NONE, BODY_OPTIONAL, BODY_REQUIRED };

struct route {
    const char *method;
    const char *path; /* "/v1/outbox/{id}": the rest of the path is the id */
    void (*handle)(struct exchange *exchange);
    enum route_body body; /* a body that is there must be a JSON object, whatever this says */
};
extern const struct route ROUTES[];
extern const size_t ROUTE_COUNT;

/* The route, or NULL with *ret_allow: the methods of that path ("GET, POST"), "" when the path is unknown. *ret_rest points into path. */
enum { ROUTE_ALLOW_SIZE = 32 };
const struct route *route_find(const char *method, const char *path, const char **ret_rest, char ret_allow[static ROUTE_ALLOW_SIZE]);

/* meta_routes.c */
void route_version(struct exchange *exchange);
void route_compat(struct exchange *exchange);
void route_health(struct exchange *exchange);
void route_prove(struct exchange *exchange);
void route_not_implemented(struct exchange *exchange);
/* daemon_routes.c */
void route_daemon_reload(struct exchange *exchange);
void route_daemon_settings(struct exchange *exchange);
void route_rotate_keypair(struct exchange *exchange);
void route_rotate_token(struct exchange *exchange);
void route_archive_cleanup(struct exchange *exchange);
/* metrics_route.c */
void route_metrics(struct exchange *exchange);
/* send.c */
void route_send(struct exchange *exchange);
/* inbox_routes.c */
void route_inbox(struct exchange *exchange);
void route_inbox_seen(struct exchange *exchange);
/* search_routes.c */
void route_inbox_search(struct exchange *exchange);
/* events.c */
void route_events(struct exchange *exchange);
/* outbox_routes.c, outbox_changes.c */
void route_outbox_list(struct exchange *exchange);
void route_outbox_show(struct exchange *exchange);
void route_outbox_requeue(struct exchange *exchange);
void route_outbox_drop(struct exchange *exchange);
/* mesh_routes.c */
void route_peers(struct exchange *exchange);
void route_members(struct exchange *exchange);
void route_profile_show(struct exchange *exchange);
void route_profile_set(struct exchange *exchange);
void route_heartbeat(struct exchange *exchange);
void route_verify_show(struct exchange *exchange);
void route_verify_accept(struct exchange *exchange);

#endif
