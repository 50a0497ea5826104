/* A broker in a process of its own, members with real keys, and a client that speaks the wire by hand and waits. */
#ifndef TESTS_BROKER_WORLD_H
#define TESTS_BROKER_WORLD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "crypto/keys.h"
#include "util/buffer.h"

struct member_keys {
    struct keypair *keys;
    char member_id[40];
};

enum { WORLD_MEMBERS = 4 }; /* 0 is the owner, an admin */
struct world {
    char directory[64];
    const char *const *overrides; /* "broker.window", "4", …, NULL */
    pid_t process;
    uint16_t port;
    char url[64], mesh_id[40], admin_token[64];
    struct member_keys members[WORLD_MEMBERS];
    int64_t newest_timestamp;
};

void world_begin(struct world *world, const char *const *overrides); /* serves, makes a mesh, joins members */
void world_start(struct world *world);
void world_stop(struct world *world, int signal_number); /* SIGTERM: demands exit status 0 */
void world_end(struct world *world);
int64_t world_metric(const struct world *world, const char *line_start); /* the value after it */

/* Status of the answer, 0 when it was closed without one; the body in ret_body (may be NULL). headers: "Name: value\r\n"…; Host is added unless they have one. */
int http_ask(uint16_t port, const char *method, const char *path, const char *headers, const char *body, struct buffer *ret_body);

struct client {
    int fd;
    char challenge[65];
    struct buffer input;
    int close_code; /* 0 open */
    char close_reason[128];
};
void client_open(struct client *client, const struct world *world);
void client_close(struct client *client); /* abruptly */
void client_send_text(struct client *client, const char *text);
void client_send(struct client *client, json_t *frame /* given */);
/* The next frame (a new reference), or NULL once it is closed. Fails the test after 20 s. */
json_t *client_receive(struct client *client);
/* Drops others until one of this type (and event, when not NULL) comes. */
json_t *client_expect(struct client *client, const char *type, const char *event);
/* Whatever came until the answer to a message_status that asks about nothing: everything that was sent before is in it. An array. */
json_t *client_drain(struct client *client);
void client_expect_close(struct client *client, int code, const char *reason);

struct hello_options {
    const char *session; /* default "session-<member>" */
    const char *url;     /* for signature2; NULL: none; "" the world's own */
    const char *session_pubkey;
    const char *host_fingerprint;
    int64_t timestamp; /* 0: now */
    bool send_only, no_ack, no_negotiation, bad_signature;
};
void client_hello(struct client *client, struct world *world, int member, const struct hello_options *options); /* only sends */
/* Opens, says hello, negotiates with delivery_ack, waits for both answers. */
void client_connect(struct client *client, struct world *world, int member, const struct hello_options *options);
/* A send frame; the ack is not awaited. */
void client_message(struct client *client, const struct world *world, int to, const char *id, const char *priority);
/* Sends and demands this status. */
void client_message_ok(struct client *client, const struct world *world, int to, const char *id, int status);
/* The next message push, which must have this id; acknowledged when `acknowledge`. */
void client_expect_message(struct client *client, const char *id, bool acknowledge);
/* Hex of the member's signature over '\0'-joined fields. */
void world_sign(const struct world *world, int member, const char *const *fields, size_t count, char ret_signature[SIGNATURE_HEX_SIZE]);
bool json_has(const json_t *object, const char *name, const char *value);

#endif
