/* Owns growing byte buffers. Must not interpret what is in them, but for the escaping of JSON strings, which
 * the log and json/ share. */
#include "util/buffer.h"

#include <stdarg.h>

#include "util/memory.h"
#include "util/text.h"

enum { FIRST_CAPACITY = 128 };

/* What `data` points to while there is no memory: never written, so threads may share it. */
static char empty[1];

void buffer_init(struct buffer *buffer, size_t maximum)
{
    *buffer = (struct buffer){ .data = empty, .maximum = maximum };
}

void buffer_init_secret(struct buffer *buffer, size_t maximum)
{
    *buffer = (struct buffer){ .data = empty, .maximum = maximum, .secret = true };
}

void buffer_release(struct buffer *buffer)
{
    if (buffer == NULL) {
        return;
    }
    if (buffer->capacity > 0) {
        if (buffer->secret) {
            memory_wipe(buffer->data, buffer->capacity);
        }
        free(buffer->data);
    }
    *buffer = (struct buffer){ .data = empty, .maximum = buffer->maximum, .secret = buffer->secret };
}

void buffer_wipe_release(struct buffer *buffer)
{
    if (buffer != NULL && buffer->capacity > 0) {
        memory_wipe(buffer->data, buffer->capacity);
    }
    buffer_release(buffer);
}

void buffer_reset(struct buffer *buffer)
{
    buffer->length = 0;
    buffer->overflow = false;
    if (buffer->capacity > 0) {
        buffer->data[0] = '\0';
    }
}

/* Makes room for `size` bytes and the NUL behind them. */
static void buffer_grow(struct buffer *buffer, size_t size)
{
    size_t needed = buffer->length + size + 1;
    size_t capacity = buffer->capacity == 0 ? FIRST_CAPACITY : buffer->capacity;
    while (capacity < needed) {
        capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    }
    if (buffer->capacity > 0 && !buffer->secret) {
        buffer->data = memory_realloc(buffer->data, capacity);
    } else {
        char *data = memory_alloc(capacity);
        if (buffer->capacity > 0) {
            memcpy(data, buffer->data, buffer->length);
            memory_wipe(buffer->data, buffer->capacity);
            free(buffer->data);
        }
        buffer->data = data;
    }
    buffer->capacity = capacity;
    buffer->data[buffer->length] = '\0';
}

char *buffer_reserve(struct buffer *buffer, size_t size)
{
    size_t maximum = buffer->maximum < SIZE_MAX ? buffer->maximum : SIZE_MAX - 1; /* the NUL needs a byte */
    if (buffer->overflow || buffer->length > maximum || size > maximum - buffer->length) {
        buffer->overflow = true;
        return NULL;
    }
    if (buffer->capacity == 0 || buffer->capacity - buffer->length <= size) {
        buffer_grow(buffer, size);
    }
    return buffer->data + buffer->length;
}

void buffer_commit(struct buffer *buffer, size_t size)
{
    if (buffer->capacity == 0 || buffer->capacity - buffer->length <= size) {
        abort(); /* more than was reserved: memory is already damaged */
    }
    buffer->length += size;
    buffer->data[buffer->length] = '\0';
}

int buffer_append(struct buffer *buffer, const void *data, size_t size)
{
    char *room = buffer_reserve(buffer, size);
    if (room == NULL) {
        return -1;
    }
    if (size > 0) {
        memcpy(room, data, size);
    }
    buffer_commit(buffer, size);
    return 0;
}

int buffer_append_text(struct buffer *buffer, const char *text)
{
    return buffer_append(buffer, text, strlen(text));
}

int buffer_append_byte(struct buffer *buffer, char byte)
{
    return buffer_append(buffer, &byte, 1);
}

int buffer_printf(struct buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    int result = -1;
    size_t room = buffer->capacity - buffer->length;
    int length = vsnprintf(buffer->capacity == 0 ? NULL : buffer->data + buffer->length, room, format, arguments);
    if (length >= 0) {
        char *start = buffer_reserve(buffer, (size_t)length);
        if (start != NULL) {
            if ((size_t)length >= room) {
                (void)vsnprintf(start, (size_t)length + 1, format, again);
            }
            buffer_commit(buffer, (size_t)length);
            result = 0;
        }
    }
    if (result != 0 && buffer->capacity > 0) {
        buffer->data[buffer->length] = '\0';
    }
    va_end(again);
    va_end(arguments);
    return result;
}

/* Bytes that stand in a JSON string as they are, at the front of the text; valid sequences past ASCII too. */
static size_t plain_run(const char *text, size_t size)
{
    size_t index = 0;
    while (index < size) {
        unsigned char byte = (unsigned char)text[index];
        if (byte < 0x80) {
            if (byte < 0x20 || byte == '"' || byte == '\\') {
                break;
            }
            index++;
            continue;
        }
        uint32_t code_point = 0;
        size_t length = utf8_decode(text + index, size - index, &code_point);
        if (length == 0) {
            break;
        }
        index += length;
    }
    return index;
}

static int append_escaped(struct buffer *buffer, unsigned char byte)
{
    static const char SHORT_FORMS[0x20] = { ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r' };
    static const char HEX[] = "0123456789abcdef";
    if (byte >= 0x80) {
        return buffer_append(buffer, "\xEF\xBF\xBD", 3);
    }
    char short_form = byte == '"' || byte == '\\' ? (char)byte : byte < 0x20 ? SHORT_FORMS[byte] : '\0';
    if (short_form != '\0') {
        return buffer_append(buffer, (const char[]){ '\\', short_form }, 2);
    }
    return buffer_append(buffer, (const char[]){ '\\', 'u', '0', '0', HEX[byte >> 4], HEX[byte & 15] }, 6);
}

int buffer_append_json_string(struct buffer *buffer, const char *text, size_t size)
{
    size_t before = buffer->length;
    int result = buffer_append_byte(buffer, '"');
    size_t index = 0;
    while (index < size && result == 0) {
        size_t run = plain_run(text + index, size - index);
        result = buffer_append(buffer, text + index, run);
        index += run;
        if (index < size && result == 0) {
            result = append_escaped(buffer, (unsigned char)text[index]);
            index++;
        }
    }
    if (result == 0) {
        result = buffer_append_byte(buffer, '"');
    }
    if (result != 0 && buffer->capacity > 0 && buffer->length > before) {
        buffer->length = before; /* all or nothing */
        buffer->data[before] = '\0';
    }
    return result;
}

void buffer_consume(struct buffer *buffer, size_t size)
{
    if (size == 0) {
        return;
    }
    if (size > buffer->length) {
        abort(); /* a caller that counts wrong would otherwise hand out bytes that were never there */
    }
    memmove(buffer->data, buffer->data + size, buffer->length - size + 1);
    buffer->length -= size;
}

char *buffer_take(struct buffer *buffer, size_t *ret_length)
{
    char *data = buffer->capacity > 0 ? buffer->data : memory_zalloc(1);
    if (ret_length != NULL) {
        *ret_length = buffer->length;
    }
    *buffer = (struct buffer){ .data = empty, .maximum = buffer->maximum, .secret = buffer->secret };
    return data;
}
