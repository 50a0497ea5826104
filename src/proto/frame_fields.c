/* Owns printing and reading of single fields of frames. Must not know any frame. */
#include "proto/frame_fields.h"

void frame_put_text(struct buffer *frame, const char *key, struct text value)
{
    (void)buffer_append_text(frame, key);
    (void)buffer_append_json_string(frame, value.data, value.length);
}

void frame_put_string(struct buffer *frame, const char *key, const char *value)
{
    if (value != NULL) {
        frame_put_text(frame, key, text_from(value));
    }
}

void frame_put_integer(struct buffer *frame, const char *key, int64_t value)
{
    if (value >= 0) {
        (void)buffer_append_text(frame, key);
        (void)buffer_printf(frame, "%" PRId64, value);
    }
}

void frame_put_bool(struct buffer *frame, const char *key, bool value)
{
    (void)buffer_append_text(frame, key);
    (void)buffer_append_text(frame, value ? "true" : "false");
}

void frame_put_json(struct buffer *frame, const char *key, const json_t *value)
{
    if (value != NULL) {
        (void)buffer_append_text(frame, key);
        (void)json_print(value, frame);
    }
}

int frame_end(struct buffer *frame)
{
    (void)buffer_append_byte(frame, '}');
    return frame->overflow ? -1 : 0;
}

int frame_read_strings(const json_t *frame, const struct frame_string *rows, size_t count, struct error *error)
{
    for (size_t index = 0; index < count; index++) {
        int result = json_read_string(frame, rows[index].name, rows[index].presence, rows[index].value, error);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}
