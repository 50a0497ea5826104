/* The sealed envelope of bodyVersion 3: JSON, sig and xsig, padding (40-wire "Encryption", 45-trust "Messages"). Pure;
 * encryption itself is crypto/box.h. */
#ifndef PROTO_ENVELOPE_H
#define PROTO_ENVELOPE_H

#include <jansson.h>

#include "crypto/keys.h"
#include "util/text.h"

struct envelope {
    const char *id;         /* client_message_id */
    const char *mesh;       /* mesh id */
    const char *from;       /* sender's member key, hex */
    const char *kind;       /* "dm", "topic", "queue" */
    const char *to;         /* destination_ref */
    int64_t sent_at;        /* ms */
    const char *reply_to;   /* NULL: none */
    const json_t *meta;     /* NULL: none */
    const json_t *mentions; /* NULL: none */
    const char *priority;
    const char *rv;
    const char *key_id; /* NULL or "": direct messages */
    struct text body;   /* may contain NUL; UTF-8 */
};

/* Signs (sig, xsig), prints and pads. Appends to ret_plaintext. */
int envelope_build(const struct envelope *envelope, const struct keypair *sender, struct buffer *ret_plaintext,
                   struct error *error) MUST_CHECK;

/* Unpads and parses. *ret_document owns what *ret_envelope borrows: json_decref it after. ERROR_INVALID when it is not an envelope:
 * an object with `v`, `mesh`, `from`, `id` (45-trust: then it is bodyVersion 3 whatever was declared). A wrong type in a known field is ERROR_INVALID too,
 * with *ret_is_envelope true. */
int envelope_parse(const void *padded, size_t size, struct envelope *ret_envelope, json_t **ret_document, bool *ret_is_envelope,
                   struct error *error) MUST_CHECK;
/* sig and xsig, both required, against `envelope->from`. ERROR_DENIED otherwise. */
int envelope_verify(const struct envelope *envelope, const json_t *document, struct error *error) MUST_CHECK;

#endif
