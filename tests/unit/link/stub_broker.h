/* A broker whose behaviour a test writes: a WebSocket server on a free port of loopback, in the test's own loop. What the test's hook does not take is answered as an honest broker would: hello,
 * negotiation, member list, peers. */
#ifndef TESTS_LINK_STUB_BROKER_H
#define TESTS_LINK_STUB_BROKER_H

#include <jansson.h>

#include "net/http_server.h"
#include "net/loop.h"
#include "net/websocket.h"

enum { STUB_CONNECTIONS = 64 };

struct stub_connection {
    struct stub *stub;
    struct websocket *socket; /* NULL once closed */
    int index, close_code;
    char close_reason[256];
};

struct stub {
    struct loop *loop;
    struct http_server *server;
    char url[64];
    const char *challenge; /* NULL: no header */
    const char *features;  /* JSON of `supported`; NULL: the negotiation is not answered */
    json_t *members;       /* the answer to list_members, without type and _reqId; NULL: not answered */
    json_t *received;      /* array of every frame, in order */
    struct stub_connection connections[STUB_CONNECTIONS];
    int count; /* connections so far */
    struct stub_connection *current;
    /* True: the hook has dealt with the frame. */
    bool (*hook)(struct stub *stub, struct stub_connection *connection, const char *type, const json_t *frame);
    void *user;
};

extern const char STUB_FEATURES[];
extern const char STUB_CHALLENGE[];

void stub_init(struct stub *stub, struct loop *loop, uint16_t port); /* port 0: any */
void stub_release(struct stub *stub);
void stub_send(struct stub_connection *connection, const char *format, ...) __attribute__((format(printf, 2, 3)));
void stub_send_json(struct stub_connection *connection, json_t *frame /* given */);
/* The nth (from 0) frame of this type received so far; NULL. */
const json_t *stub_received(const struct stub *stub, const char *type, size_t nth);
size_t stub_count(const struct stub *stub, const char *type);

/* Runs the loop until ready(argument), or fails the test after 20 s. */
void run_until(struct loop *loop, bool (*ready)(void *argument), void *argument, const char *what);
/* Runs the loop for a while: for what must not happen. */
void run_for(struct loop *loop, int64_t ms);

#endif
