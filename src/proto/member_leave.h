/* The request with which a member leaves its mesh: member_leave (40-wire) with the leave statement of 45-trust. Pure. */
#ifndef PROTO_MEMBER_LEAVE_H
#define PROTO_MEMBER_LEAVE_H

#include <jansson.h>

#include "crypto/keys.h"

/* A new reference. */
int member_leave_make(const char *mesh_id, const char *member_id, const struct keypair *keys, int64_t at_ms, json_t **ret_request,
                      struct error *error) MUST_CHECK;

#endif
