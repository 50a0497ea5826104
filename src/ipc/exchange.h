/* One request on its way through the API: from the checks to its answer. What every handler works with. Loop thread.
 *
 * A handler answers each exchange exactly once, now or later; the answer frees it. When the caller goes away meanwhile the exchange stays, its answer goes nowhere, and
 * `on_gone`, when set, is called instead of waiting for that answer: it must end in exchange_drop. */
#ifndef IPC_EXCHANGE_H
#define IPC_EXCHANGE_H

#include <jansson.h>
#include <stdbool.h>

#include "ipc/ipc.h"
#include "net/http_server.h"
#include "util/buffer.h"

struct ipc_capability;
struct route;

struct exchange {
    struct ipc *ipc;
    struct http_request *http; /* NULL: the caller is gone, or there never was one (ipc_reply) */
    const struct route *route;
    const char *rest;                 /* what stands for {id} in the path; valid with http */
    json_t *body;                     /* the object that was sent; NULL none */
    struct exchange *previous, *next; /* the ipc's list of those not answered */
    void (*on_gone)(struct exchange *exchange);
    void *state;                       /* the handler's */
    struct ipc_capability *capability; /* that it was asked with, held; NULL: as the user */
    int64_t depth;                     /* an automatic reply: what the message carries (45-trust); 0: none */
    /* Of one without a caller: called with its answer. */
    void (*answered)(void *argument, int status, const char *body, size_t size);
    void *answered_argument;
};

struct exchange *exchange_new(struct ipc *ipc, struct http_request *http /* NULL: none */) MUST_CHECK;
/* Frees without an answer: the caller is gone. */
void exchange_drop(struct exchange *exchange);

void exchange_answer(struct exchange *exchange, int status, const char *content_type, const void *body, size_t size);
void exchange_answer_json(struct exchange *exchange, int status, json_t *value /* taken over */);
/* {"error":code,"detail":…}; the detail is one sentence that says what to do. */
void exchange_fail(struct exchange *exchange, int status, const char *code, const char *format, ...) ATTRIBUTE_PRINTF(4, 5);
/* The same with further fields, before the detail. more is taken over. */
void exchange_fail_with(struct exchange *exchange, int status, const char *code, json_t *more, const char *format, ...)
    ATTRIBUTE_PRINTF(5, 6);
/* 400 invalid_request with the error's sentence. */
void exchange_fail_shape(struct exchange *exchange, const struct error *error);
/* 507 for -ERROR_FULL, else 500, logged. */
void exchange_fail_store(struct exchange *exchange, int status);

/* A header; NULL absent. */
const char *exchange_header(const struct exchange *exchange, const char *name);
/* Whether it came over the Unix socket; if not, it is answered: 403 unix_socket_only. */
bool exchange_is_local(struct exchange *exchange) MUST_CHECK;

/* Query parameters; absent leaves *ret untouched. A value out of shape: ERROR_INVALID naming the parameter. */
int exchange_query_integer(const struct exchange *exchange, const char *name, int64_t minimum, int64_t maximum, int64_t *ret_value,
                           struct error *error) MUST_CHECK;
int exchange_query_bool(const struct exchange *exchange, const char *name, bool *ret_value, struct error *error) MUST_CHECK;
/* The `mesh` field or query parameter; NULL absent. Both, and not the same: ERROR_INVALID. */
int exchange_mesh_slug(const struct exchange *exchange, const char **ret_slug, struct error *error) MUST_CHECK;

struct trust_destination;
/* {candidates:[{pubkey, name}…]}: the further fields of an answer that says whom a name may mean. New reference. */
json_t *exchange_candidates(const struct trust_destination *destination) MUST_CHECK;

#endif
