/* Server-Sent Events (20-ipc, GET /v1/events): the streams, what each still has to get, and replay from the inbox. Loop thread. */
#ifndef IPC_EVENTS_H
#define IPC_EVENTS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct events;
struct ipc;

struct events *events_new(struct ipc *ipc);
void events_free(struct events *events); /* after the HTTP server, which ends the streams */
size_t events_stream_count(const struct events *events);
/* As ipc_publish. */
void events_publish(struct events *events, const char *type, const char *mesh_slug, json_t *data, int64_t inbox_seq);
void events_end_all(struct events *events);

#endif
