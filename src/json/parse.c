/* Owns strict parsing (20-ipc, check 6). jansson decides the grammar; what it is silent about is decided here before it runs. */
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"

void json_start(void)
{
    json_set_alloc_funcs(memory_alloc, free);
}

/* Levels of nesting, without trusting the text to be well formed: jansson recurses, and its own maximum is far above ours. */
static bool is_too_deep(const char *bytes, size_t length)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t index = 0; index < length; index++) {
        char byte = bytes[index];
        if (in_string) {
            if (byte == '\\') {
                index++;
            } else if (byte == '"') {
                in_string = false;
            }
        } else if (byte == '"') {
            in_string = true;
        } else if (byte == '[' || byte == '{') {
            if (++depth > LIMIT_JSON_DEPTH) {
                return true;
            }
        } else if ((byte == ']' || byte == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

int json_parse_strict(const char *bytes, size_t length, json_t **ret_value, struct error *error)
{
    if (bytes == NULL || length == 0) {
        return error_set(error, ERROR_INVALID, "it is empty, not a JSON value");
    }
    /* jansson takes a raw NUL for the end in some places. */
    if (memchr(bytes, '\0', length) != NULL) {
        return error_set(error, ERROR_INVALID, "a raw NUL byte in JSON");
    }
    if (is_too_deep(bytes, length)) {
        return error_set(error, ERROR_INVALID, "JSON more than %d levels deep", (int)LIMIT_JSON_DEPTH);
    }
    json_error_t reason;
    size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL | JSON_DECODE_ANY;
    json_t *value = json_loadb(bytes, length, flags, &reason);
    if (value == NULL) {
        /* What stands near the mistake may be somebody's secret. */
        char *near = strstr(reason.text, " near ");
        if (near != NULL) {
            *near = '\0';
        }
        return error_set(error, ERROR_INVALID, "not strict JSON: %s at line %d, column %d", reason.text, reason.line, reason.column);
    }
    *ret_value = value;
    return 0;
}
