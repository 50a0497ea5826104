/* Strict parsing of one HTTP/1.x head over bytes: no sockets, no allocation, one accepted form of everything (docs/decisions/0002). Pure
 * functions. */
#ifndef NET_HTTP_HEAD_H
#define NET_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/limits.h"

/* Offsets from the start of the head; name and value are NUL-terminated after a successful parse. */
struct http_field {
    uint16_t name, name_length;
    uint16_t value, value_length;
};

struct http_head {
    uint16_t size;   /* with the empty line */
    uint8_t minor;   /* HTTP/1.<minor>: 0 or 1 */
    int status;      /* responses; 0 in a request */
    uint16_t method; /* requests: offsets of NUL-terminated text */
    uint16_t path;   /* percent-decoded */
    uint16_t query;  /* still encoded, checked; 0: there is no '?' */
    bool chunked;
    bool connection_close;
    bool connection_upgrade;
    bool expect_continue;
    bool expect_other; /* an Expect that is not 100-continue */
    int64_t length;    /* Content-Length; -1: none */
    uint16_t field_count;
    struct http_field fields[LIMIT_HTTP_HEADERS];
};

enum http_scan { HTTP_SCAN_MORE, HTTP_SCAN_DONE, HTTP_SCAN_BAD };

/* Looks for the empty line that ends a head. *scanned (0 at first) remembers how far it looked; after more bytes came, call again. A line
 * that ends in a bare LF, a first byte that begins no request or response, and a head over LIMIT_HTTP_HEAD are bad; *ret_problem then
 * says what. */
enum http_scan http_head_find_end(const char *bytes, size_t size, size_t *scanned, size_t *ret_head_size, const char **ret_problem);

/* `bytes` is one whole head of head_size bytes, as found above; it is written to (NULs, the decoded path). 0, or -1 and *ret_problem, a
 * sentence without any of the input. */
int http_head_parse_request(char *bytes, size_t head_size, struct http_head *ret_head, const char **ret_problem) MUST_CHECK;
int http_head_parse_response(char *bytes, size_t head_size, struct http_head *ret_head, const char **ret_problem) MUST_CHECK;

/* The first field of that name from index *position on, case-insensitively; *position is then behind it. NULL: none. */
const char *http_head_field(const struct http_head *head, const char *bytes, const char *name, size_t *position);
/* Whether the comma-separated list in `value` has the token, case-insensitively. */
bool http_list_has(const char *value, const char *token);

/* Decodes %XX (and '+' to a space, when plus_is_space) in place; the new length, or -1 for a malformed escape or a NUL. */
int http_percent_decode(char *text, size_t length, bool plus_is_space) MUST_CHECK;

#endif
