/* What invite.c and invite_link.c share; nobody else includes it. */
#ifndef PROTO_INVITE_FIELDS_H
#define PROTO_INVITE_FIELDS_H

#include "proto/invite.h"

/* The end of the year 9999: the last time that can be written as text. */
#define INVITE_EXPIRY_MAXIMUM_S INT64_C(253402300799)

bool invite_broker_url_is_valid(const char *url);
/* root_key_sha256 and invite_pubkey from the secrets that are there. */
int invite_derive(struct invite *invite, struct error *error) MUST_CHECK;
/* The fields of version 3 that are no secrets, into a zeroed invite; what was read stays on failure. */
int invite_read_fields(const json_t *object, struct invite *invite, struct error *error) MUST_CHECK;
int invite_read_string(const json_t *object, const char *name, char **ret_value, struct error *error) MUST_CHECK;
int invite_read_signature(const json_t *object, char ret_signature[SIGNATURE_HEX_SIZE], struct error *error) MUST_CHECK;

#endif
