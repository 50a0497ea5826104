/* The small grammars of util/: UTF-8, names, ids, numbers, times, durations, sizes; and what is printed of untrusted text. What is accepted prints as itself again; what is refused changes nothing. */
#include "fuzz.h"
#include "util/buffer.h"
#include "util/ids.h"
#include "util/limits.h"
#include "util/text.h"

static const int64_t LAST_MS = INT64_C(253402300799999); /* the end of the year 9999 */

/* A decoder of another make: by the table of Unicode 15, 3-7. */
static size_t naive_utf8(const uint8_t *at, size_t left)
{
    static const struct {
        uint8_t from, to, second_from, second_to;
        size_t length;
    } ROWS[] = {
        { 0x00, 0x7F, 0, 0, 1 },       { 0xC2, 0xDF, 0x80, 0xBF, 2 }, { 0xE0, 0xE0, 0xA0, 0xBF, 3 },
        { 0xE1, 0xEC, 0x80, 0xBF, 3 }, { 0xED, 0xED, 0x80, 0x9F, 3 }, { 0xEE, 0xEF, 0x80, 0xBF, 3 },
        { 0xF0, 0xF0, 0x90, 0xBF, 4 }, { 0xF1, 0xF3, 0x80, 0xBF, 4 }, { 0xF4, 0xF4, 0x80, 0x8F, 4 },
    };
    for (size_t row = 0; row < ARRAY_LENGTH(ROWS); row++) {
        if (left < ROWS[row].length || at[0] < ROWS[row].from || at[0] > ROWS[row].to)
            continue;
        bool good = ROWS[row].length == 1 || (at[1] >= ROWS[row].second_from && at[1] <= ROWS[row].second_to);
        for (size_t i = 2; i < ROWS[row].length; i++)
            good = good && at[i] >= 0x80 && at[i] <= 0xBF;
        if (good)
            return ROWS[row].length;
    }
    return 0;
}

static void check_utf8(const uint8_t *data, size_t size)
{
    char *text = memory_dup(data, size);
    bool valid = true;
    for (size_t at = 0; at < size && valid;) {
        uint32_t code_point = 0xFFFFFFFF;
        const size_t length = naive_utf8(data + at, size - at);
        REQUIRE(utf8_decode(text + at, size - at, &code_point) == length);
        REQUIRE(length > 0 ? code_point <= 0x10FFFF : code_point == 0xFFFFFFFF);
        valid = length > 0;
        at += length;
    }
    REQUIRE(utf8_is_valid(text, size) == valid);

    char *printable = text_printable(text, size);
    REQUIRE(utf8_is_valid(printable, strlen(printable)));
    for (const char *at = printable; *at != '\0'; at++)
        REQUIRE((unsigned char)*at >= 0x20 && *at != 0x7F);
    char *again = text_printable(printable, strlen(printable));
    REQUIRE(string_equal(again, printable));
    free(again);
    free(printable);
    free(text);
}

/* A JSON string is ASCII-quoted, holds no control character and is valid UTF-8, whatever went in; past a maximum nothing is added. */
static void check_json_string(const uint8_t *data, size_t size)
{
    struct buffer text, small;
    buffer_init(&text, BUFFER_UNLIMITED);
    REQUIRE(buffer_append_json_string(&text, (const char *)data, size) == 0);
    REQUIRE(text.length >= 2 && text.data[0] == '"' && text.data[text.length - 1] == '"' && utf8_is_valid(text.data, text.length));
    for (size_t i = 1; i + 1 < text.length; i++) {
        REQUIRE((unsigned char)text.data[i] >= 0x20 && text.data[i] != '"');
        i += text.data[i] == '\\' ? 1 : 0;
    }
    buffer_init(&small, text.length - 1);
    REQUIRE(buffer_append_json_string(&small, (const char *)data, size) == -1 && small.length == 0 && small.overflow);
    buffer_release(&small);
    buffer_release(&text);
}

static void check_numbers(const char *text)
{
    uint64_t natural = 0xA5A5, bytes = 0xA5A5;
    int64_t integer = 0x5A5A, span_ms = 0x5A5A;
    char digits[32];

    if (parse_uint64(text, &natural) == 0) {
        (void)snprintf(digits, sizeof(digits), "%" PRIu64, natural);
        REQUIRE(string_equal(text + strspn(text, "0"), digits) || (natural == 0 && strspn(text, "0") == strlen(text)));
        REQUIRE(natural > INT64_MAX || (parse_int64(text, &integer) == 0 && integer == (int64_t)natural));
    } else {
        REQUIRE(natural == 0xA5A5);
    }
    integer = 0x5A5A;
    if (parse_int64(text, &integer) == 0) {
        (void)snprintf(digits, sizeof(digits), "%" PRId64, integer);
        int64_t again;
        REQUIRE(parse_int64(digits, &again) == 0 && again == integer);
    } else {
        REQUIRE(integer == 0x5A5A);
    }
    if (duration_parse(text, &span_ms) == 0)
        REQUIRE(span_ms >= 0);
    else
        REQUIRE(span_ms == 0x5A5A);
    if (size_parse(text, &bytes) == 0)
        REQUIRE(bytes <= INT64_MAX);
    else
        REQUIRE(bytes == 0xA5A5);
}

static void check_time(const char *text)
{
    int64_t time_ms = INT64_MIN, again_ms = 0;
    char printed[RFC3339_SIZE];

    if (time_parse_rfc3339(text, &time_ms) != 0) {
        REQUIRE(time_ms == INT64_MIN);
        return;
    }
    time_format_rfc3339(time_ms, printed);
    REQUIRE(strlen(printed) == RFC3339_SIZE - 1 && time_parse_rfc3339(printed, &again_ms) == 0);
    REQUIRE(again_ms == (time_ms < 0 ? 0 : time_ms > LAST_MS ? LAST_MS : time_ms));
}

static void check_names(const char *text)
{
    const size_t length = strlen(text);
    const bool of_name = length > 0 && length <= LIMIT_NAME && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_.-") == length;
    const bool of_id =
        length > 0 && length <= LIMIT_NAME && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == length;
    char copy[64] = "before";

    REQUIRE(name_is_valid(text) == of_name);
    REQUIRE(id_is_valid(text) == of_id);
    if (uuid_is_valid(text))
        REQUIRE(length == UUID_SIZE - 1 && strspn(text, "0123456789abcdef-") == length);
    if (client_message_id_is_valid(text, length))
        REQUIRE(length > 0 && length <= LIMIT_CLIENT_MESSAGE_ID && strpbrk(text, " \t\r\n\x7f") == NULL);
    REQUIRE((string_copy(copy, sizeof(copy), text) == 0) == (length < sizeof(copy)));
    REQUIRE(length < sizeof(copy) ? string_equal(copy, text) : copy[0] == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    char *text = fuzz_take_string(&input, '\0');

    check_utf8(data, size);
    check_json_string(data, size);
    check_numbers(text);
    check_time(text);
    check_names(text);
    free(text);

    char printed[RFC3339_SIZE];
    int64_t time_ms = 0, again_ms = -1;
    memcpy(&time_ms, data, size < sizeof(time_ms) ? size : sizeof(time_ms));
    time_format_rfc3339(time_ms, printed);
    REQUIRE(time_parse_rfc3339(printed, &again_ms) == 0 && again_ms == (time_ms < 0 ? 0 : time_ms > LAST_MS ? LAST_MS : time_ms));
    return 0;
}
