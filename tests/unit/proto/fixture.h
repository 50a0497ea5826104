/* What this room's tests share: the wire vectors, keys, loud failure on an error that was not expected. */
#ifndef TESTS_UNIT_PROTO_FIXTURE_H
#define TESTS_UNIT_PROTO_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "crypto/keys.h"
#include "json/json.h"
#include "util/file.h"
#include "util/memory.h"

#define assert_ok(call)                                      \
    do {                                                     \
        struct error assert_error = { 0 };                   \
        struct error *error = &assert_error;                 \
        if ((call) != 0) {                                   \
            fail_msg("%s: %s", #call, assert_error.message); \
        }                                                    \
    } while (0)

#define assert_refused(call, expected_code)                                                                           \
    do {                                                                                                              \
        struct error assert_error = { 0 };                                                                            \
        struct error *error = &assert_error;                                                                          \
        if ((call) != -(int)(expected_code) || assert_error.code != (expected_code)) {                                \
            fail_msg("%s: not refused with %s but: %s", #call, error_code_name(expected_code), assert_error.message); \
        }                                                                                                             \
    } while (0)

static inline json_t *parse_json(const char *text)
{
    json_t *value = NULL;
    assert_ok(json_parse_strict(text, strlen(text), &value, error));
    return value;
}

static inline json_t *load_vectors(void)
{
    const char *root = getenv("CLAUDEMESH_SOURCE_ROOT");
    char *path = memory_printf("%s/tests/fixtures/wire.json", root == NULL ? "." : root);
    struct buffer bytes;
    json_t *vectors = NULL;
    buffer_init(&bytes, 1024 * 1024);
    assert_ok(file_read(path, &bytes, error));
    assert_ok(json_parse_strict(bytes.data, bytes.length, &vectors, error));
    buffer_release(&bytes);
    free(path);
    return vectors;
}

/* A dotted path of names; what is missing fails the test. */
static inline json_t *vector_at(const json_t *vectors, const char *path)
{
    const json_t *value = vectors;
    while (*path != '\0') {
        size_t length = strcspn(path, ".");
        char *name = memory_strndup(path, length);
        value = json_object_get(value, name);
        if (value == NULL) {
            fail_msg("no vector %s", name);
        }
        free(name);
        path += length + (path[length] == '.' ? 1 : 0);
    }
    return (json_t *)(uintptr_t)value;
}

static inline const char *vector_string(const json_t *vectors, const char *path)
{
    const char *text = json_string_value(vector_at(vectors, path));
    assert_non_null(text);
    return text;
}

static inline struct keypair *vector_keys(const json_t *vectors, const char *path)
{
    struct keypair *keys = NULL;
    assert_ok(keypair_from_secret_hex(vector_string(vectors, path), &keys, error));
    return keys;
}

static inline struct keypair *new_keys(void)
{
    struct keypair *keys = NULL;
    assert_ok(keypair_generate(&keys, error));
    return keys;
}

#endif
