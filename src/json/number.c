/* Owns shortest decimal digits and their ECMAScript layout. Must not depend on the locale: the C library's decimal point
 * is skipped when reading its digits and never written.
 *
 * The shortest digits that read back as the same double:
 * - up to 15 digits survive a trip through any normal double, so when a number has so few, printing 15 shows them, with
 *   zeros behind;
 * - otherwise 16 correctly rounded digits, when they read back;
 * - otherwise 17, which always do.
 * A power of two is nearer to its lower neighbour than to its upper one: the nearest 16 digits may lie below it and read
 * back as the neighbour while the next ones above read back right. Subnormals have fewer digits: they try every length. */
#include "json/number.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "util/text.h"

enum { DIGITS_MAXIMUM = 17 };

struct decimal {
    char digits[DIGITS_MAXIMUM + 1]; /* no zeros behind */
    int count;
    int point; /* the value is 0.digits * 10^point */
};

/* `count` correctly rounded digits of a positive value. */
static void decimal_round(double value, int count, struct decimal *ret_decimal)
{
    char text[64];
    int length = snprintf(text, sizeof(text), "%.*e", count - 1, value);
    int position = 0;
    int found = 0;
    for (; position < length && text[position] != 'e'; position++) {
        if (text[position] >= '0' && text[position] <= '9' && found < DIGITS_MAXIMUM) {
            ret_decimal->digits[found++] = text[position];
        }
    }
    bool negative = text[position + 1] == '-';
    int exponent = 0;
    for (position += 2; position < length; position++) {
        exponent = exponent * 10 + (text[position] - '0');
    }
    ret_decimal->count = found;
    ret_decimal->point = (negative ? -exponent : exponent) + 1;
}

static void decimal_trim(struct decimal *decimal)
{
    while (decimal->count > 1 && decimal->digits[decimal->count - 1] == '0') {
        decimal->count--;
    }
}

/* The next larger decimal with as many digits. */
static void decimal_increment(struct decimal *decimal)
{
    int index = decimal->count - 1;
    while (index >= 0 && decimal->digits[index] == '9') {
        decimal->digits[index--] = '0';
    }
    if (index >= 0) {
        decimal->digits[index]++;
    } else {
        decimal->digits[0] = '1';
        decimal->point++;
    }
}

static bool decimal_reads_back(const struct decimal *decimal, double value)
{
    char text[64];
    (void)snprintf(text, sizeof(text), "%.*se%d", decimal->count, decimal->digits, decimal->point - decimal->count);
    return strtod(text, NULL) == value;
}

static bool is_power_of_two(double value)
{
    int exponent = 0;
    return frexp(value, &exponent) == 0.5;
}

static void decimal_shortest(double value, struct decimal *ret_decimal)
{
    for (int count = value < DBL_MIN ? 1 : DBL_DIG; count < DIGITS_MAXIMUM; count++) {
        decimal_round(value, count, ret_decimal);
        if (decimal_reads_back(ret_decimal, value)) {
            decimal_trim(ret_decimal);
            return;
        }
        if (count > DBL_DIG && is_power_of_two(value)) {
            decimal_increment(ret_decimal);
            if (decimal_reads_back(ret_decimal, value)) {
                decimal_trim(ret_decimal);
                return;
            }
        }
    }
    decimal_round(value, DIGITS_MAXIMUM, ret_decimal);
    decimal_trim(ret_decimal);
}

/* ECMA-262, Number::toString; its n is `point`, its k is `count`. */
static void layout(const struct decimal *decimal, const char *sign, char ret_text[NUMBER_SIZE])
{
    static const char ZEROS[] = "000000000000000000000";
    int count = decimal->count;
    int point = decimal->point;
    const char *digits = decimal->digits;
    if (count <= point && point <= 21) {
        (void)snprintf(ret_text, NUMBER_SIZE, "%s%.*s%.*s", sign, count, digits, point - count, ZEROS);
    } else if (0 < point && point <= 21) {
        (void)snprintf(ret_text, NUMBER_SIZE, "%s%.*s.%.*s", sign, point, digits, count - point, digits + point);
    } else if (-6 < point && point <= 0) {
        (void)snprintf(ret_text, NUMBER_SIZE, "%s0.%.*s%.*s", sign, -point, ZEROS, count, digits);
    } else {
        (void)snprintf(ret_text, NUMBER_SIZE, "%s%.1s%s%.*se%+d", sign, digits, count > 1 ? "." : "", count - 1, digits + 1, point - 1);
    }
}

static void format_integer(int64_t value, char ret_text[NUMBER_SIZE])
{
    char reversed[NUMBER_SIZE];
    size_t length = 0;
    size_t out = 0;
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        reversed[length++] = (char)('0' + magnitude % 10);
        magnitude /= 10;
    } while (magnitude > 0);
    if (value < 0) {
        ret_text[out++] = '-';
    }
    while (length > 0) {
        ret_text[out++] = reversed[--length];
    }
    ret_text[out] = '\0';
}

void number_format(double value, char ret_text[NUMBER_SIZE])
{
    /* Every integer to 2^53 is exact and prints as itself; -0 prints as 0. */
    static const double EXACT_MAXIMUM = 9007199254740992.0;
    if (value >= -EXACT_MAXIMUM && value <= EXACT_MAXIMUM && value == (double)(int64_t)value) {
        format_integer((int64_t)value, ret_text);
        return;
    }
    struct decimal decimal = { .count = 0 };
    decimal_shortest(fabs(value), &decimal);
    layout(&decimal, value < 0 ? "-" : "", ret_text);
}
