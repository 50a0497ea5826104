/* Signed statements (45-trust, "Form" and its table): the code once, for all kinds, a table of domains and typed fields.
 * Pure: no clock, no sockets, no storage. Vectors: vectors/wire.json, "statements". */
#ifndef PROTO_STATEMENT_H
#define PROTO_STATEMENT_H

#include <jansson.h>

#include "crypto/keys.h"
#include "util/text.h"

enum statement_kind {
    STATEMENT_JOIN,
    STATEMENT_GRANT,
    STATEMENT_NAME,
    STATEMENT_INVITE_REVOCATION,
    STATEMENT_REVOCATION,
    STATEMENT_LEAVE,
    STATEMENT_ROTATION,
    STATEMENT_SESSION,
    STATEMENT_EPOCH,
    STATEMENT_MESSAGE, /* claudemesh-message-v1: mesh, id, from, kind, to, sent_at, body_sha256, meta_sha256 [, reply_to, mentions] */
    STATEMENT_MESSAGE_X1,
    STATEMENT_RECEIPT,
    STATEMENT_HELLO_V2,
    STATEMENT_KINDS
};

enum { STATEMENT_FIELDS_MAXIMUM = 12, STATEMENT_TEXT_MAXIMUM = 16384 };

const char *statement_domain(enum statement_kind kind);
size_t statement_field_count(enum statement_kind kind);
const char *statement_field_name(enum statement_kind kind, size_t index);

/* From values in the table's order (integers as decimal text; an absent field empty). Every value is checked
 * against its field's type (key, uuid, id, integer, role, state, free text …); a zero byte in any is refused. Appends the text. ERROR_INVALID names the field. */
int statement_text(enum statement_kind kind, const struct text *values, size_t count, struct buffer *ret_text,
                   struct error *error) MUST_CHECK;
/* The same from an object with the table's field names; integers are JSON integers. Fields that the table does not name are ignored. */
int statement_text_of_json(enum statement_kind kind, const json_t *fields, struct buffer *ret_text, struct error *error) MUST_CHECK;

/* Signs the object's statement and returns hex. */
int statement_sign_json(enum statement_kind kind, const json_t *fields, const struct keypair *signer,
                        char ret_signature_hex[SIGNATURE_HEX_SIZE], struct error *error) MUST_CHECK;
/* 0 when `signature_name` of the object is `by_hex`'s signature over the object's own statement;
 * ERROR_INVALID malformed, ERROR_DENIED bad signature. */
int statement_verify_json(enum statement_kind kind, const json_t *object, const char *by_hex, const char *signature_name,
                          struct error *error) MUST_CHECK;

/* rv (45-trust, Revocations): "<count>:<hex sha256 of the sorted hex sha256 of each text>". For none: "0:e3b0…". The texts'
 * hashes (raw, 32 bytes each) are sorted and concatenated (vectors rv_of_none, rv_of_that_revocation decide). ret_rv has RV_SIZE bytes. */
enum { RV_SIZE = 96 };
void statement_rv(const struct sha256 *text_hashes, size_t count, char ret_rv[RV_SIZE]);

#endif
