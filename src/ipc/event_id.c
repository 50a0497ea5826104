/* Owns the shape of an event's id. An epoch of another inbox, or of another program, is well formed too: it is unknown, not bad. */
#include "ipc/event_id.h"

#include <ctype.h>

#include "util/text.h"

/* Digits from `text` up to `end` (a '-' or the NUL); -1 when there are none, or too many. */
static int parse_part(const char **text, char end, int64_t *ret_value)
{
    char digits[20];
    size_t length = strspn(*text, "0123456789");
    if (length == 0 || length >= sizeof(digits) || (*text)[length] != end)
        return -1;
    memcpy(digits, *text, length);
    digits[length] = '\0';
    *text += length + (end != '\0' ? 1 : 0);
    return parse_int64(digits, ret_value);
}

int event_id_parse(const char *text, struct event_id *ret_id)
{
    size_t length = 0;
    while (isalnum((unsigned char)text[length]))
        length++;
    if (length == 0 || length >= EVENT_EPOCH_SIZE || text[length] != '-')
        return -1;
    struct event_id id;
    memcpy(id.epoch, text, length);
    id.epoch[length] = '\0';
    text += length + 1;
    if (parse_part(&text, '-', &id.seq) != 0 || parse_part(&text, '\0', &id.n) != 0)
        return -1;
    *ret_id = id;
    return 0;
}

void event_id_format(const char *epoch, int64_t seq, int64_t n, char ret_text[static EVENT_ID_SIZE])
{
    (void)snprintf(ret_text, EVENT_ID_SIZE, "%.*s-%" PRId64 "-%" PRId64, EVENT_EPOCH_SIZE - 1, epoch, seq, n);
}
