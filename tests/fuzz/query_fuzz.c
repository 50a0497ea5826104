/* What stands in query strings and headers of the local API: event ids (Last-Event-ID), cursors, `--since`, idempotency keys, percent escapes. One form of each: what parses prints as itself. */
#include <ctype.h>

#include "cli/since.h"
#include "fuzz.h"
#include "ipc/cursor.h"
#include "ipc/event_id.h"
#include "ipc/send_request.h"
#include "net/http_head.h"
#include "util/text.h"

static void check_event_id(const char *text)
{
    static const struct event_id before = { .epoch = "untouched", .seq = -7, .n = -8 };
    struct event_id id = before;
    char printed[EVENT_ID_SIZE];

    if (event_id_parse(text, &id) != 0) {
        REQUIRE(string_equal(id.epoch, before.epoch) && id.seq == before.seq && id.n == before.n);
        return;
    }
    struct event_id again;
    event_id_format(id.epoch, id.seq, id.n, printed);
    REQUIRE(id.seq >= 0 && id.n >= 0 && event_id_parse(printed, &again) == 0);
    REQUIRE(string_equal(again.epoch, id.epoch) && again.seq == id.seq && again.n == id.n);
}

static void check_cursor(const char *text, int64_t seq)
{
    static const enum cursor_kind KINDS[] = { CURSOR_INBOX_ASCENDING, CURSOR_INBOX_DESCENDING, CURSOR_OUTBOX };
    enum cursor_kind kind = (enum cursor_kind)'?';
    int64_t place = -9;

    if (cursor_decode(text, &kind, &place) == 0) {
        char *again = cursor_encode(kind, place);
        REQUIRE(place >= 0 && string_equal(again, text));
        free(again);
    } else {
        REQUIRE(kind == (enum cursor_kind)'?' && place == -9);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(KINDS); i++) {
        char *made = cursor_encode(KINDS[i], seq & INT64_MAX);
        REQUIRE(cursor_decode(made, &kind, &place) == 0 && kind == KINDS[i] && place == (seq & INT64_MAX));
        free(made);
    }
}

static void check_since(const char *text)
{
    static const int64_t NOW_MS = INT64_C(1790000000000);
    char printed[RFC3339_SIZE] = "untouched", again[RFC3339_SIZE];
    struct error error;

    if (since_parse(text, NOW_MS, printed, &error) != 0)
        REQUIRE(string_equal(printed, "untouched") && error.code == ERROR_INVALID);
    else
        REQUIRE(since_parse(printed, NOW_MS, again, &error) == 0 && string_equal(again, printed));
}

static void check_idempotency_key(const char *text)
{
    char id[LIMIT_CLIENT_MESSAGE_ID + 1] = "untouched", again[LIMIT_CLIENT_MESSAGE_ID + 1];

    if (idempotency_key_parse(text, id) != 0) {
        REQUIRE(string_equal(id, "untouched"));
        return;
    }
    REQUIRE(client_message_id_is_valid(id, strlen(id)));
    /* Quoted again, it is the same key. */
    struct buffer quoted;
    buffer_init(&quoted, BUFFER_UNLIMITED);
    (void)buffer_append_byte(&quoted, '"');
    for (const char *at = id; *at != '\0'; at++) {
        if (*at == '"' || *at == '\\')
            (void)buffer_append_byte(&quoted, '\\');
        (void)buffer_append_byte(&quoted, *at);
    }
    (void)buffer_append_byte(&quoted, '"');
    REQUIRE(idempotency_key_parse(quoted.data, again) == 0 && string_equal(again, id));
    buffer_release(&quoted);
}

/* A decoder of another make. */
static int naive_decode(const char *text, size_t length, bool plus_is_space, char *out)
{
    int size = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned value = 0;
        char digits[3] = { 0 };
        if (text[i] == '%') {
            if (length - i < 3 || !isxdigit((unsigned char)text[i + 1]) || !isxdigit((unsigned char)text[i + 2]))
                return -1;
            memcpy(digits, text + i + 1, 2);
            if (sscanf(digits, "%x", &value) != 1 || value == 0)
                return -1;
            i += 2;
        } else {
            value = plus_is_space && text[i] == '+' ? ' ' : (unsigned char)text[i];
            if (value == 0)
                return -1;
        }
        out[size++] = (char)value;
    }
    return size;
}

static void check_escapes(const char *text, bool plus_is_space)
{
    const size_t length = strlen(text);
    char *ours = memory_strdup(text), *naive = memory_alloc(length + 1);
    const int size = http_percent_decode(ours, length, plus_is_space);

    REQUIRE(size == naive_decode(text, length, plus_is_space, naive));
    REQUIRE(size < 0 || memcmp(ours, naive, (size_t)size) == 0);
    free(naive);
    free(ours);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    int64_t seq = 0;
    memcpy(&seq, data, size < sizeof(seq) ? size : sizeof(seq));
    char *text = fuzz_take_string(&input, '\0');

    check_event_id(text);
    check_cursor(text, seq);
    check_since(text);
    check_idempotency_key(text);
    check_escapes(text, false);
    check_escapes(text, true);
    free(text);
    return 0;
}
