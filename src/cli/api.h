/* The command line's side of the local API: finds the daemon by its socket, shakes hands (GET /v1/version), asks, and turns an error answer into a message and an exit
 * code. Blocking. */
#ifndef CLI_API_H
#define CLI_API_H

#include <jansson.h>

#include "cli/command.h"
#include "net/http_client.h"

enum {
    API_SEND_BUDGET_MS = 100, /* 10-cli: connect and handshake of a send, before another way is tried */
    API_BUDGET_MS = 3000,     /* for commands that have no other way */
    API_ANSWER_MS = 30000
};

struct api {
    struct http_client *client;
    json_t *version; /* the answer of GET /v1/version */
};

/* ERROR_UNREACHABLE: no daemon, or none that answers in `budget_ms` and speaks "v1". */
int api_open(const struct cli *cli, int64_t budget_ms, struct api *ret_api, struct error *error) MUST_CHECK;
void api_close(struct api *api);
/* Whether the daemon serves that mesh. */
bool api_serves(const struct api *api, const char *slug);

/* One request. *ret_answer is the parsed body (new reference; NULL when it is not JSON), whatever the status. Negative only when no answer came. */
int api_request(struct api *api, const char *method, const char *target, const json_t *body, int64_t timeout_ms, int *ret_status,
                json_t **ret_answer, struct error *error) MUST_CHECK;

/* For commands that need the daemon: opens, asks, closes. EXIT_DONE with *ret_answer, or the exit code after printing what went wrong. `target` is without the mesh:
 * --mesh is added as a query parameter. */
int api_call(struct cli *cli, const char *method, const char *target, const json_t *body, json_t **ret_answer);
/* The same on an open connection. */
int api_ask(struct cli *cli, struct api *api, const char *method, const char *target, const json_t *body, json_t **ret_answer);
/* Opens for a command that has no other way; prints. */
int api_need(struct cli *cli, struct api *ret_api);

/* Up to `limit` items of a list, over as many pages as it takes: {items, next_cursor}. `target` has the filters; limit and cursor are added. Opens, asks, closes, prints as
 * api_call. */
int api_collect(struct cli *cli, const char *target, int64_t limit, json_t **ret_document);

/* Prints an error answer; returns its exit code. */
int api_fail(struct cli *cli, int status, const json_t *answer);

/* target + ("?" or "&") + name=value, percent-encoded, into the buffer; value NULL adds nothing. */
void api_target_add(struct buffer *target, const char *name, const char *value);
/* Percent-encoded, as a part of the path. */
void api_target_escape(struct buffer *target, const char *value);

#endif
