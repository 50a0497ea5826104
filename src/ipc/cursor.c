/* Owns the form of cursors. One form of each: what decodes is what encode made. */
#include "ipc/cursor.h"

#include "crypto/crypto.h"
#include "util/text.h"

enum { CURSOR_TEXT_MAX = 32 };

char *cursor_encode(enum cursor_kind kind, int64_t seq)
{
    char text[CURSOR_TEXT_MAX];
    int length = snprintf(text, sizeof(text), "%c%" PRId64, (char)kind, seq);
    struct buffer encoded;
    buffer_init(&encoded, BUFFER_UNLIMITED);
    base64url_encode(text, (size_t)length, &encoded);
    return buffer_take(&encoded, NULL);
}

int cursor_decode(const char *text, enum cursor_kind *ret_kind, int64_t *ret_seq)
{
    struct buffer decoded;
    buffer_init(&decoded, CURSOR_TEXT_MAX);
    int status = -1;
    uint64_t seq;
    if (base64url_decode(text, strlen(text), &decoded) != 0 || decoded.length < 2 || strlen(decoded.data) != decoded.length)
        goto out;
    char kind = decoded.data[0];
    if (kind != CURSOR_INBOX_ASCENDING && kind != CURSOR_INBOX_DESCENDING && kind != CURSOR_OUTBOX && kind != CURSOR_SEARCH)
        goto out;
    if (decoded.data[1] == '0' && decoded.length > 2) /* another spelling of a number */
        goto out;
    if (parse_uint64(decoded.data + 1, &seq) != 0 || seq > INT64_MAX)
        goto out;
    *ret_kind = (enum cursor_kind)kind;
    *ret_seq = (int64_t)seq;
    status = 0;
out:
    buffer_release(&decoded);
    return status;
}
