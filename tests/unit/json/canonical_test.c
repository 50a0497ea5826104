/* RFC 8785: the vectors of its authors, the numbers of its appendix B, the order of keys; and plain printing beside it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <locale.h>
#include <math.h>

#include "json/json.h"
#include "json/number.h"
#include "util/file.h"
#include "util/memory.h"

static double double_of_bits(uint64_t bits)
{
    double value = 0;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void assert_number(double value, const char *expected)
{
    char text[NUMBER_SIZE];
    number_format(value, text);
    assert_string_equal(text, expected);
}

static void numbers_of_appendix_b_print_as_it_says(void **state)
{
    (void)state;
    static const struct {
        uint64_t bits;
        const char *text;
    } CASES[] = {
        { UINT64_C(0x0000000000000000), "0" },
        { UINT64_C(0x8000000000000000), "0" },
        { UINT64_C(0x0000000000000001), "5e-324" },
        { UINT64_C(0x8000000000000001), "-5e-324" },
        { UINT64_C(0x7fefffffffffffff), "1.7976931348623157e+308" },
        { UINT64_C(0xffefffffffffffff), "-1.7976931348623157e+308" },
        { UINT64_C(0x4340000000000000), "9007199254740992" },
        { UINT64_C(0xc340000000000000), "-9007199254740992" },
        { UINT64_C(0x4430000000000000), "295147905179352830000" },
        { UINT64_C(0x44b52d02c7e14af5), "9.999999999999997e+22" },
        { UINT64_C(0x44b52d02c7e14af6), "1e+23" },
        { UINT64_C(0x44b52d02c7e14af7), "1.0000000000000001e+23" },
        { UINT64_C(0x444b1ae4d6e2ef4e), "999999999999999700000" },
        { UINT64_C(0x444b1ae4d6e2ef4f), "999999999999999900000" },
        { UINT64_C(0x444b1ae4d6e2ef50), "1e+21" },
        { UINT64_C(0x3eb0c6f7a0b5ed8c), "9.999999999999997e-7" },
        { UINT64_C(0x3eb0c6f7a0b5ed8d), "0.000001" },
        { UINT64_C(0x41b3de4355555553), "333333333.3333332" },
        { UINT64_C(0x41b3de4355555554), "333333333.33333325" },
        { UINT64_C(0x41b3de4355555555), "333333333.3333333" },
        { UINT64_C(0x41b3de4355555556), "333333333.3333334" },
        { UINT64_C(0x41b3de4355555557), "333333333.33333343" },
        { UINT64_C(0xbecbf647612f3696), "-0.0000033333333333333333" },
        { UINT64_C(0x43143ff3c1cb0959), "1424953923781206.2" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        assert_number(double_of_bits(CASES[index].bits), CASES[index].text);
    }
}

static void powers_of_two_take_the_wider_side_above_them(void **state)
{
    (void)state;
    /* The nearest 16 digits (…801) lie below and read back as the lower neighbour. */
    assert_number(ldexp(1.0, -44), "5.684341886080802e-14");
    assert_number(ldexp(1.0, -1022), "2.2250738585072014e-308");
    assert_number(ldexp(1.0, 1023), "8.98846567431158e+307");
    assert_number(ldexp(1.0, -24), "5.960464477539063e-8");
    assert_number(ldexp(1.0, 89), "6.189700196426902e+26");
}

/* Whether some decimal with fewer digits, at or next to the rounded one, reads back as the value. */
static bool has_shorter(double value, int digit_count)
{
    for (int count = 1; count < digit_count; count++) {
        char text[64];
        (void)snprintf(text, sizeof(text), "%.*e", count - 1, value);
        double unit = pow(10.0, floor(log10(value)) - (count - 1));
        double below = strtod(text, NULL) - unit;
        double above = strtod(text, NULL) + unit;
        (void)snprintf(text, sizeof(text), "%.*e", count - 1, value);
        char low[64];
        char high[64];
        (void)snprintf(low, sizeof(low), "%.*e", count - 1, below);
        (void)snprintf(high, sizeof(high), "%.*e", count - 1, above);
        if (strtod(text, NULL) == value || strtod(low, NULL) == value || strtod(high, NULL) == value) {
            return true;
        }
    }
    return false;
}

static int count_digits(const char *text)
{
    int count = 0;
    int zeros = 0;
    bool significant = false;
    for (; *text != '\0' && *text != 'e'; text++) {
        if (*text >= '0' && *text <= '9') {
            significant = significant || *text != '0';
            count += significant ? 1 : 0;
            zeros = *text == '0' ? zeros + 1 : 0;
        }
    }
    return count - zeros;
}

static void every_power_of_two_reads_back_with_the_fewest_digits(void **state)
{
    (void)state;
    for (int exponent = -1074; exponent <= 1023; exponent++) {
        double value = ldexp(1.0, exponent);
        double neighbours[] = { value, nextafter(value, 0), nextafter(value, DBL_MAX) };
        for (size_t index = 0; index < ARRAY_LENGTH(neighbours); index++) {
            if (neighbours[index] == 0) {
                continue;
            }
            char text[NUMBER_SIZE];
            number_format(neighbours[index], text);
            assert_true(strtod(text, NULL) == neighbours[index]);
            /* Integers to 2^53 are as short as they are; above 1e-290 the check's own arithmetic holds. */
            if (index == 0 && exponent > -960 && (exponent < 0 || exponent > 53) && exponent < 1000) {
                assert_false(has_shorter(value, count_digits(text)));
            }
        }
    }
}

static void a_decimal_comma_in_the_locale_changes_nothing(void **state)
{
    (void)state;
    static const char *const NAMES[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8" };
    for (size_t index = 0; index < ARRAY_LENGTH(NAMES); index++) {
        if (setlocale(LC_NUMERIC, NAMES[index]) != NULL) {
            break;
        }
    }
    assert_number(0.1, "0.1");
    assert_number(1.5e-9, "1.5e-9");
    assert_number(333333333.3333332, "333333333.3333332");
    json_t *value = NULL;
    assert_int_equal(json_parse_strict("1.5", 3, &value, NULL), 0);
    assert_true(json_real_value(value) == 1.5);
    json_decref(value);
    assert_non_null(setlocale(LC_NUMERIC, "C"));
}

static char *canonical_of(const char *text, size_t length)
{
    json_t *value = NULL;
    struct buffer canonical;
    buffer_init(&canonical, BUFFER_UNLIMITED);
    assert_int_equal(json_parse_strict(text, length, &value, NULL), 0);
    assert_int_equal(json_print_canonical(value, &canonical), 0);
    json_decref(value);
    return buffer_take(&canonical, NULL);
}

static void assert_canonical(const char *text, const char *expected)
{
    char *canonical = canonical_of(text, strlen(text));
    assert_string_equal(canonical, expected);
    free(canonical);
}

static void keys_are_sorted_by_utf16_code_units(void **state)
{
    (void)state;
    /* U+1F600 begins with the unit D83D: before U+E000 and U+FB33, after U+20AC. */
    assert_canonical("{\"\xEE\x80\x80\":1,\"\xF0\x9F\x98\x80\":2,\"\xE2\x82\xAC\":3,\"\xEF\xAC\xB3\":4}",
                     "{\"\xE2\x82\xAC\":3,\"\xF0\x9F\x98\x80\":2,\"\xEE\x80\x80\":1,\"\xEF\xAC\xB3\":4}");
    assert_canonical("{\"aa\":1,\"a\":2,\"\":3,\"B\":4}", "{\"\":3,\"B\":4,\"a\":2,\"aa\":1}");
    assert_canonical("{\"\xF0\x9F\x98\x81\":1,\"\xF0\x9F\x98\x80\":2}", "{\"\xF0\x9F\x98\x80\":2,\"\xF0\x9F\x98\x81\":1}");
}

static void objects_of_many_keys_are_sorted_too(void **state)
{
    (void)state;
    json_t *object = json_new_object();
    for (int number = 99; number >= 10; number--) {
        char name[8];
        (void)snprintf(name, sizeof(name), "k%d", number);
        json_put_integer(object, name, number);
    }
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_int_equal(json_print_canonical(object, &text), 0);
    assert_memory_equal(text.data, "{\"k10\":10,\"k11\":11,", 19);
    buffer_reset(&text);
    assert_int_equal(json_print(object, &text), 0);
    assert_memory_equal(text.data, "{\"k99\":99,\"k98\":98,", 19);
    buffer_release(&text);
    json_decref(object);
}

static void strings_escape_only_what_must_be(void **state)
{
    (void)state;
    assert_canonical("\"\\u0000\\u001f\\b\\t\\n\\f\\r\\\"\\\\\\/\\u007f\\u00e9\\u2028\"",
                     "\"\\u0000\\u001f\\b\\t\\n\\f\\r\\\"\\\\/\x7F\xC3\xA9\xE2\x80\xA8\"");
}

static void integers_of_ours_print_as_the_double_they_become(void **state)
{
    (void)state;
    json_t *value = json_integer(INT64_C(9007199254740993));
    char *text = json_to_string(value, NULL);
    assert_string_equal(text, "9007199254740992");
    free(text);
    json_decref(value);
}

static void a_buffer_that_is_too_small_is_reported(void **state)
{
    (void)state;
    json_t *value = json_pack("{s:[i,i,i]}", "a", 1, 2, 3);
    struct buffer text;
    for (size_t maximum = 0; maximum < 13; maximum++) {
        buffer_init(&text, maximum);
        assert_int_equal(json_print_canonical(value, &text), -1);
        assert_true(text.overflow);
        buffer_release(&text);
    }
    buffer_init(&text, 13);
    assert_int_equal(json_print_canonical(value, &text), 0);
    assert_string_equal(text.data, "{\"a\":[1,2,3]}");
    buffer_release(&text);
    json_decref(value);
}

static void vectors_of_the_authors_come_out_byte_for_byte(void **state)
{
    (void)state;
    static const char *const NAMES[] = { "arrays", "french", "structures", "unicode", "values", "weird" };
    const char *root = getenv("CLAUDEMESH_SOURCE_ROOT");
    char *directory = path_join(root == NULL ? "." : root, "../shared/vectors/jcs");
    if (!file_exists(directory)) {
        printf("SKIPPED vectors/jcs\n");
        free(directory);
        skip();
    }
    for (size_t index = 0; index < ARRAY_LENGTH(NAMES); index++) {
        char *input_path = memory_printf("%s/%s.input.json", directory, NAMES[index]);
        char *output_path = memory_printf("%s/%s.output.json", directory, NAMES[index]);
        struct buffer input;
        struct buffer output;
        buffer_init(&input, BUFFER_UNLIMITED);
        buffer_init(&output, BUFFER_UNLIMITED);
        assert_int_equal(file_read(input_path, &input, NULL), 0);
        assert_int_equal(file_read(output_path, &output, NULL), 0);
        char *canonical = canonical_of(input.data, input.length);
        assert_string_equal(canonical, output.data);
        free(canonical);
        buffer_release(&input);
        buffer_release(&output);
        free(input_path);
        free(output_path);
    }
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_of_appendix_b_print_as_it_says),
        cmocka_unit_test(powers_of_two_take_the_wider_side_above_them),
        cmocka_unit_test(every_power_of_two_reads_back_with_the_fewest_digits),
        cmocka_unit_test(a_decimal_comma_in_the_locale_changes_nothing),
        cmocka_unit_test(keys_are_sorted_by_utf16_code_units),
        cmocka_unit_test(objects_of_many_keys_are_sorted_too),
        cmocka_unit_test(strings_escape_only_what_must_be),
        cmocka_unit_test(integers_of_ours_print_as_the_double_they_become),
        cmocka_unit_test(a_buffer_that_is_too_small_is_reported),
        cmocka_unit_test(vectors_of_the_authors_come_out_byte_for_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
