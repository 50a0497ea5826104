/* The canonical form (RFC 8785): against a printer of another make, which sorts keys as UTF-16 and searches for each number's shortest digits; canonical of canonical is itself. */
#include <math.h>

#include "fuzz_json.h"
#include "json/number.h"

/* ---- numbers ------------------------------------------------------------------------------------------------------ */

/* digits * 10^(point - count), read by the C library. */
static double value_of(uint64_t digits, int point, int count)
{
    char text[40];
    (void)snprintf(text, sizeof(text), "%" PRIu64 "e%d", digits, point - count);
    return strtod(text, NULL);
}

/* The fewest digits that read back; among as many, those nearest to the value. The value is 0.digits * 10^point. */
static int shortest_digits(double value, char ret_digits[32], int *ret_point)
{
    for (int count = 1; count <= 17; count++) {
        char text[40];
        uint64_t digits = 0;
        (void)snprintf(text, sizeof(text), "%.*e", count - 1, value);
        const char *e = strchr(text, 'e');
        for (const char *at = text; at < e; at++)
            digits = *at == '.' ? digits : digits * 10 + (uint64_t)(*at - '0');
        *ret_point = (int)strtod(e + 1, NULL) + 1;
        /* Above a power of two the neighbours are further away than below: the next larger decimal may read back where the nearest does not. */
        for (uint64_t more = 0; more < 2; more++) {
            if (value_of(digits + more, *ret_point, count) != value)
                continue;
            const int length = snprintf(ret_digits, 32, "%" PRIu64, digits + more);
            *ret_point += length - count;
            return length;
        }
    }
    abort(); /* 17 always do */
}

/* ECMA-262, Number::toString, step by step. */
static void print_number(double value, struct buffer *text)
{
    char digits[32];
    int n;
    if (value == 0) {
        (void)buffer_append_text(text, "0");
        return;
    }
    if (value < 0)
        (void)buffer_append_byte(text, '-');
    const int k = shortest_digits(fabs(value), digits, &n);
    if (k <= n && n <= 21) {
        (void)buffer_append_text(text, digits);
        for (int i = k; i < n; i++)
            (void)buffer_append_byte(text, '0');
    } else if (0 < n && n <= 21) {
        (void)buffer_printf(text, "%.*s.%s", n, digits, digits + n);
    } else if (-6 < n && n <= 0) {
        (void)buffer_append_text(text, "0.");
        for (int i = n; i < 0; i++)
            (void)buffer_append_byte(text, '0');
        (void)buffer_append_text(text, digits);
    } else if (k == 1) {
        (void)buffer_printf(text, "%se%+d", digits, n - 1);
    } else {
        (void)buffer_printf(text, "%.1s.%se%+d", digits, digits + 1, n - 1);
    }
}

static void check_number(double value)
{
    char ours[NUMBER_SIZE];
    struct buffer naive;
    if (!isfinite(value))
        return;
    buffer_init(&naive, BUFFER_UNLIMITED);
    number_format(value, ours);
    print_number(value, &naive);
    REQUIRE(strlen(ours) < NUMBER_SIZE && strtod(ours, NULL) == value);
    REQUIRE(strcmp(ours, naive.data) == 0);
    buffer_release(&naive);
}

/* ---- values --------------------------------------------------------------------------------------------------------- */

static size_t next_unit(const char *text, size_t length, uint32_t *pending, uint32_t *ret_unit)
{
    if (*pending != 0) {
        *ret_unit = *pending;
        *pending = 0;
        return 0;
    }
    uint32_t code_point = 0;
    const size_t size = utf8_decode(text, length, &code_point);
    REQUIRE(size > 0);
    if (code_point >= 0x10000) {
        *ret_unit = 0xD800 + ((code_point - 0x10000) >> 10);
        *pending = 0xDC00 + ((code_point - 0x10000) & 0x3FF);
    } else {
        *ret_unit = code_point;
    }
    return size;
}

static int compare_keys(const void *left, const void *right)
{
    const char *a = *(const char *const *)left, *b = *(const char *const *)right;
    uint32_t a_pending = 0, b_pending = 0;
    for (;;) {
        uint32_t a_unit, b_unit;
        const bool a_ended = *a == '\0' && a_pending == 0, b_ended = *b == '\0' && b_pending == 0;
        if (a_ended || b_ended)
            return a_ended && b_ended ? 0 : a_ended ? -1 : 1;
        a += next_unit(a, strlen(a), &a_pending, &a_unit);
        b += next_unit(b, strlen(b), &b_pending, &b_unit);
        if (a_unit != b_unit)
            return a_unit < b_unit ? -1 : 1;
    }
}

static void print_value(const json_t *value, struct buffer *text);

static void print_object(const json_t *object, struct buffer *text)
{
    const char **keys = memory_calloc(json_object_size(object) + 1, sizeof(*keys));
    size_t count = 0;
    const char *key;
    json_t *field;
    json_object_foreach((json_t *)(uintptr_t)object, key, field)
    {
        keys[count++] = key;
    }
    qsort(keys, count, sizeof(*keys), compare_keys);
    (void)buffer_append_byte(text, '{');
    for (size_t i = 0; i < count; i++) {
        (void)buffer_append_text(text, i == 0 ? "" : ",");
        (void)buffer_append_json_string(text, keys[i], strlen(keys[i]));
        (void)buffer_append_byte(text, ':');
        print_value(json_object_get(object, keys[i]), text);
    }
    (void)buffer_append_byte(text, '}');
    free(keys);
}

static void print_value(const json_t *value, struct buffer *text)
{
    if (json_is_object(value)) {
        print_object(value, text);
    } else if (json_is_array(value)) {
        (void)buffer_append_byte(text, '[');
        for (size_t i = 0; i < json_array_size(value); i++) {
            (void)buffer_append_text(text, i == 0 ? "" : ",");
            print_value(json_array_get(value, i), text);
        }
        (void)buffer_append_byte(text, ']');
    } else if (json_is_string(value)) {
        (void)buffer_append_json_string(text, json_string_value(value), json_string_length(value));
    } else if (json_is_number(value)) {
        print_number(json_number_value(value), text);
    } else {
        (void)buffer_append_text(text, json_is_null(value) ? "null" : json_is_true(value) ? "true" : "false");
    }
}

static void check_value(const json_t *value)
{
    struct buffer canonical, again_canonical, naive;
    buffer_init(&canonical, BUFFER_UNLIMITED);
    buffer_init(&again_canonical, BUFFER_UNLIMITED);
    buffer_init(&naive, BUFFER_UNLIMITED);
    REQUIRE(json_print_canonical(value, &canonical) == 0);
    json_t *again = fuzz_reparse(&canonical);
    REQUIRE(json_equal(value, again) && json_print_canonical(again, &again_canonical) == 0);
    REQUIRE(strcmp(canonical.data, again_canonical.data) == 0);
    print_value(value, &naive);
    REQUIRE(strcmp(canonical.data, naive.data) == 0);
    json_decref(again);
    buffer_release(&canonical);
    buffer_release(&again_canonical);
    buffer_release(&naive);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    double number = 0;
    memcpy(&number, data, size < sizeof(number) ? size : sizeof(number));
    check_number(number);

    json_t *value = fuzz_parse_json(data, size);
    if (value != NULL)
        check_value(value);
    json_decref(value);
    return 0;
}
