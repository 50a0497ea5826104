/* For targets whose input is JSON. */
#ifndef FUZZ_FUZZ_JSON_H
#define FUZZ_FUZZ_JSON_H

#include "fuzz.h"
#include "json/json.h"

/* NULL: it is none. From a block of exactly its size. */
static inline json_t *fuzz_parse_json(const void *data, size_t size)
{
    char *bytes = memory_dup(data, size);
    json_t *value = NULL;
    struct error error = { .code = ERROR_NONE };

    if (json_parse_strict(bytes, size, &value, &error) != 0)
        REQUIRE(value == NULL && error.code == ERROR_INVALID && error.message[0] != '\0');
    else
        REQUIRE(value != NULL);
    free(bytes);
    return value;
}

/* Of what was just printed: it must be strict JSON. */
static inline json_t *fuzz_reparse(const struct buffer *text)
{
    json_t *value = NULL;

    REQUIRE(!text->overflow && json_parse_strict(text->data, text->length, &value, NULL) == 0);
    return value;
}

#endif
