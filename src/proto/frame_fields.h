/* Printing and reading of frames' fields, shared by frames.c and frame_hello.c; nobody else includes it. Keys are given with their punctuation
 * (",\"id\":"), so that a frame is printed by copying. */
#ifndef PROTO_FRAME_FIELDS_H
#define PROTO_FRAME_FIELDS_H

#include <jansson.h>

#include "json/json.h"

/* NULL and negative numbers add nothing. */
void frame_put_string(struct buffer *frame, const char *key, const char *value);
void frame_put_text(struct buffer *frame, const char *key, struct text value);
void frame_put_integer(struct buffer *frame, const char *key, int64_t value);
void frame_put_bool(struct buffer *frame, const char *key, bool value);
void frame_put_json(struct buffer *frame, const char *key, const json_t *value);
/* Closes the object; 0, or -1 when the buffer's maximum was passed. */
int frame_end(struct buffer *frame);

/* Rows of what a frame's struct takes from JSON strings; `value` keeps its default when the field is absent. */
struct frame_string {
    const char *name;
    enum json_presence presence;
    const char **value;
};
int frame_read_strings(const json_t *frame, const struct frame_string *rows, size_t count, struct error *error) MUST_CHECK;

static const int64_t FRAME_INTEGER_MAXIMUM = INT64_C(1) << 53;

#endif
