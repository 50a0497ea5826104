/* member_rotate and its statement (40-wire; 45-trust, rotation `claudemesh-rotate-v1`): made by who rotates, read by the broker. Pure. */
#ifndef PROTO_ROTATION_H
#define PROTO_ROTATION_H

#include <jansson.h>

#include "crypto/keys.h"

/* The request, signed by both keys: {type, old_pubkey, new_pubkey, timestamp, sig_old, sig_new} and the statement's own fields {mesh, member_id, seq, old, new, at}. New reference. */
int rotation_make_request(const char *mesh_id, const char *member_id, int64_t seq, const struct keypair *old_keys,
                          const struct keypair *new_keys, int64_t at_ms, json_t **ret_request, struct error *error) MUST_CHECK;

struct rotation_statement {
    json_t *document; /* as it travels: the statement's fields, sig_old, sig_new. Owns the strings */
    const char *old_pubkey, *new_pubkey;
    int64_t seq, at;
};
/* Both signatures verified; mesh and member as given (fields that are absent are taken from there; another value is ERROR_INVALID); a frame without seq, as
 * 40-wire has it, means next_seq. ERROR_DENIED: a signature is false. json_decref the document. Whether seq and at fit is not judged. */
int rotation_read_request(const json_t *frame, const char *mesh_id, const char *member_id, int64_t next_seq,
                          struct rotation_statement *ret_statement, struct error *error) MUST_CHECK;

/* The seq of the next rotation of `pubkey`, from the statements of one members_list: one above that of the valid statement that led to this key, else 1. */
int64_t rotation_next_seq(const json_t *rotations, const char *mesh_id, const char *pubkey);

#endif
