/* What claudemesh itself puts into a message's meta (docs/decisions/0016): keys that begin with "claudemesh.". They are encrypted and signed as all of meta is; no caller
 * of the API may set one. Pure. */
#ifndef PROTO_OWN_META_H
#define PROTO_OWN_META_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/buffer.h"
#include "util/error.h"

/* A key that only claudemesh sets. */
bool meta_key_is_own(const char *key);
/* The first such key of an object, or NULL. Takes NULL. */
const char *meta_own_key(const json_t *meta);

/* "claudemesh.depth": how many automatic replies led to this message; 0: none, somebody wrote it. What is there and is no whole number from 1 up counts as 1: nobody
 * gets an answer by spelling it wrong. Takes NULL. */
int64_t meta_depth(const json_t *meta);
/* The same of its text; NULL, or no JSON: 0. */
int64_t meta_depth_of(const char *text);
/* canonical: an object in canonical form, or empty for none; replaced by itself with that depth. ERROR_TOO_LARGE when it does not fit the buffer any more: then it is
 * unchanged. depth from 1. */
int meta_set_depth(struct buffer *canonical, int64_t depth, struct error *error) MUST_CHECK;

/* "claudemesh.file": the message says a file (45-trust, Receipts and files). */
struct meta_file { /* borrowed from the object */
    const char *id, *name, *sha256;
    int64_t size; /* bytes */
};
/* False: no file is said, or not in the form {id, name, size, sha256 (64 lower-case hex digits)}; more fields may stand beside. Takes NULL. */
bool meta_read_file(const json_t *meta, struct meta_file *ret_file);

#endif
