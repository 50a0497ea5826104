/* Strict JSON over jansson: parsing (20-ipc, check 6), typed reading with errors that name the field,
 * printing with ECMAScript numbers, and the canonical form (RFC 8785). Owns nothing between calls.
 * Any thread, as long as one json_t stays with one thread.
 *
 * Numbers that are parsed are doubles (json_real); numbers that we make may be json_integer. */
#ifndef JSON_JSON_H
#define JSON_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/buffer.h"
#include "util/error.h"
#include "util/text.h"

/* Once, before anything else here: an allocation of jansson's that fails ends the process, as ours do (docs/decisions/0003). Without it a document that
 * did not fit would pass for a malformed one. */
void json_start(void);

/* One JSON value and nothing else: valid UTF-8, no lone surrogates, no NUL in a key, no raw NUL, no number
 * beyond a double, at most LIMIT_JSON_DEPTH levels, no duplicate keys. ERROR_INVALID with what and where.
 * *ret_value is a new reference. */
int json_parse_strict(const char *bytes, size_t length, json_t **ret_value, struct error *error) MUST_CHECK;

/* Compact, keys in insertion order, numbers as ECMAScript prints them (1, not 1.0). */
int json_print(const json_t *value, struct buffer *ret_text);
/* RFC 8785: as json_print, keys sorted by UTF-16 code units. -1 when the buffer overflows. */
int json_print_canonical(const json_t *value, struct buffer *ret_text) MUST_CHECK;
/* Heap string of json_print. */
char *json_to_string(const json_t *value, size_t *ret_length) MUST_CHECK;

/* Typed fields of an object. REQUIRED: absent or null is ERROR_INVALID "field 'x' is missing". OPTIONAL: absent or null
 * leaves *ret untouched and returns 0. A value of another type is ERROR_INVALID "field 'x' must be a string".
 * Results are borrowed from the object. */
enum json_presence { JSON_OPTIONAL, JSON_REQUIRED };
int json_read_string(const json_t *object, const char *name, enum json_presence presence, const char **ret_value,
                     struct error *error) MUST_CHECK; /* refuses U+0000 inside */
int json_read_text(const json_t *object, const char *name, enum json_presence presence, struct text *ret_value,
                   struct error *error) MUST_CHECK; /* U+0000 allowed */
int json_read_integer(const json_t *object, const char *name, enum json_presence presence, int64_t minimum, int64_t maximum,
                      int64_t *ret_value, struct error *error) MUST_CHECK; /* 2^53 at most */
int json_read_bool(const json_t *object, const char *name, enum json_presence presence, bool *ret_value, struct error *error) MUST_CHECK;
int json_read_object(const json_t *object, const char *name, enum json_presence presence, const json_t **ret_value,
                     struct error *error) MUST_CHECK;
int json_read_array(const json_t *object, const char *name, enum json_presence presence, const json_t **ret_value,
                    struct error *error) MUST_CHECK;

/* json_object_set_new for optional things: a NULL text, or a negative number, adds null / nothing. */
void json_put_string(json_t *object, const char *name, const char *value); /* NULL: null */
void json_put_text(json_t *object, const char *name, struct text value);   /* data NULL: null */
void json_put_integer(json_t *object, const char *name, int64_t value);
void json_put_bool(json_t *object, const char *name, bool value);
void json_put_null(json_t *object, const char *name);
/* A time as RFC 3339 text; negative gives null (10-cli: "Times are RFC 3339 UTC with milliseconds"). */
void json_put_time(json_t *object, const char *name, int64_t time_ms);
void json_put(json_t *object, const char *name, json_t *value); /* takes the reference */
json_t *json_new_object(void) MUST_CHECK;                       /* never NULL */
json_t *json_new_array(void) MUST_CHECK;

#endif
