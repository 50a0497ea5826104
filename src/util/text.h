/* Strings, names, strict numbers, times as text. Pure functions, any thread. */
#ifndef UTIL_TEXT_H
#define UTIL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"

/* A view of bytes that somebody else owns; may contain NUL. */
struct text {
    const char *data;
    size_t length;
};
#define TEXT(literal) ((struct text){ (literal), sizeof(literal) - 1 })
struct text text_from(const char *c_string); /* NULL gives an empty view */
bool text_equal(struct text a, struct text b);
bool text_equal_c(struct text a, const char *c_string);

bool string_equal(const char *a, const char *b); /* NULLs are equal to each other only */
bool string_has_prefix(const char *text, const char *prefix);
/* Copies with the NUL; -1 (and an empty string) when it does not fit: nothing is cut silently. */
int string_copy(char *destination, size_t size, const char *source) MUST_CHECK;

/* Whole-string decimal, no sign (or, for the signed one, a leading '-'), no spaces. */
int parse_uint64(const char *text, uint64_t *ret_value) MUST_CHECK;
int parse_int64(const char *text, int64_t *ret_value) MUST_CHECK;

/* 1 to 64 of a-z 0-9 _ . - : topic names, group names, slugs (20-ipc). */
bool name_is_valid(const char *name);
/* [A-Za-z0-9._-]{1,64}: ids that stand in '|' texts (45-trust, Form). */
bool id_is_valid(const char *id);
/* A lower-case UUID, 8-4-4-4-12. */
bool uuid_is_valid(const char *text);
/* 1 to 128 printable ASCII without spaces (20-ipc, idempotency key). */
bool client_message_id_is_valid(const char *text, size_t length);

bool utf8_is_valid(const char *text, size_t length);
/* One code point from the front: its length in bytes, or 0 when they are no valid UTF-8 (overlong, surrogate, past U+10FFFF, cut). */
size_t utf8_decode(const char *text, size_t length, uint32_t *ret_code_point);
/* Terminal-safe copy of untrusted text: control characters (C0, DEL, C1) and bidirectional overrides dropped. */
char *text_printable(const char *text, size_t length) MUST_CHECK;

enum { RFC3339_SIZE = 25 }; /* "2026-11-23T12:34:56.789Z" and the NUL */
/* UTC with milliseconds (10-cli). */
void time_format_rfc3339(int64_t time_ms, char ret_text[RFC3339_SIZE]);
/* RFC 3339 with any offset and 0 to 9 fraction digits. */
int time_parse_rfc3339(const char *text, int64_t *ret_time_ms) MUST_CHECK;
/* "500ms", "30s", "10m", "2h", "3d"; no other form. */
int duration_parse(const char *text, int64_t *ret_ms) MUST_CHECK;
/* "100MB", "5GB", "1024", "64KB" (powers of 1,024). */
int size_parse(const char *text, uint64_t *ret_bytes) MUST_CHECK;

#endif
