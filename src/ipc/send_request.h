/* The body of POST /v1/send, read and checked for shape (20-ipc). Pure. */
#ifndef IPC_SEND_REQUEST_H
#define IPC_SEND_REQUEST_H

#include <jansson.h>
#include <stdbool.h>

#include "outbox/states.h"
#include "util/buffer.h"
#include "util/error.h"
#include "util/limits.h"
#include "util/text.h"

struct send_request { /* borrowed from the body, but for meta and the id */
    char client_message_id[LIMIT_CLIENT_MESSAGE_ID + 1];
    bool id_was_given; /* else it is a fresh ULID */
    const char *to;
    struct text message;
    enum outbox_priority priority;
    struct buffer meta;      /* canonical; empty for none and for {} */
    const char *reply_to_id; /* NULL none */
};
/* body is an object. idempotency_key: the header's value, or NULL. *ret_code: "invalid_client_message_id" or "invalid_request" when it fails; then
 * nothing is to be released. */
int send_request_read(const json_t *body, const char *idempotency_key, struct send_request *ret_request, const char **ret_code,
                      struct error *error) MUST_CHECK;
void send_request_release(struct send_request *request);

/* Bare, or a quoted structured-field string (RFC 8941, 3.3.3) without parameters. */
int idempotency_key_parse(const char *header, char ret_id[static LIMIT_CLIENT_MESSAGE_ID + 1]) MUST_CHECK;
/* An object of at most LIMIT_META bytes in canonical form, without a key of claudemesh's own (proto/own_meta.h); {} gives nothing. */
int meta_read(const json_t *meta, struct buffer *ret_canonical, struct error *error) MUST_CHECK;

#endif
