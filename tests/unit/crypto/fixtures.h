/* Reads a fixture of tests/fixtures, and its keys. */
#ifndef TESTS_UNIT_CRYPTO_FIXTURES_H
#define TESTS_UNIT_CRYPTO_FIXTURES_H

#include <jansson.h>

#include "crypto/keys.h"
#include "util/memory.h"

static inline json_t *fixture_load(const char *name)
{
    const char *root = getenv("CLAUDEMESH_SOURCE_ROOT");
    char *path = memory_printf("%s/tests/fixtures/%s", root == NULL ? "." : root, name);
    json_t *document = json_load_file(path, JSON_DECODE_INT_AS_REAL, NULL);
    assert_non_null(document);
    free(path);
    return document;
}

static inline const char *fixture_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return text;
}

static inline struct keypair *fixture_keypair(const json_t *wire, const char *who)
{
    const json_t *keys = json_object_get(json_object_get(wire, "keys"), who);
    struct keypair *keypair = NULL;
    assert_int_equal(keypair_from_secret_hex(fixture_text(keys, "secret"), &keypair, NULL), 0);
    assert_string_equal(keypair_public_hex(keypair), fixture_text(keys, "public"));
    return keypair;
}

#endif
