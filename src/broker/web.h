/* The broker's HTTP: the checks of 20-ipc, the routes, the way of an answer that comes later. Loop thread. */
#ifndef BROKER_WEB_H
#define BROKER_WEB_H

#include "broker/state.h"

struct http_callbacks web_callbacks(struct broker *broker);
void web_release(struct broker *broker);

/* A request whose answer waits for the store; its connection may be gone meanwhile. */
struct web_call {
    struct broker *broker;
    struct http_request *request; /* NULL: gone */
    struct loop_timer *timer;     /* NULL none */
};
void web_call_begin(struct web_call *call, struct broker *broker, struct http_request *request);
/* Before the answer or the end; the request is not touched any more by `gone`. */
struct http_request *web_call_end(struct web_call *call); /* NULL: gone */
void web_respond_json(struct http_request *request, int status, json_t *body /* given */);

/* enrol.c. body: the parsed JSON, borrowed; NULL: there was none. */
void enrol_handle_mesh(struct broker *broker, struct http_request *request, const json_t *body);
void enrol_handle_join(struct broker *broker, struct http_request *request, const json_t *body);

#endif
