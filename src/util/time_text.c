/* Owns times, durations and sizes as text. Own calendar arithmetic: gmtime depends on the C library's idea of time_t
 * and timegm is no standard function. */
#include "util/text.h"

enum { MS_A_SECOND = 1000, MS_A_MINUTE = 60000, MS_A_HOUR = 3600000, MS_A_DAY = 86400000 };

/* The end of the year 9999: what RFC 3339 can say. */
static const int64_t LAST_MS = INT64_C(253402300799999);

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar. Years are counted from March, so that the leap
 * day is a year's last. */
static int64_t days_from_date(int64_t year, int64_t month, int64_t day)
{
    int64_t march_year = month <= 2 ? year - 1 : year;
    int64_t era = (march_year >= 0 ? march_year : march_year - 399) / 400;
    int64_t year_of_era = march_year - era * 400;
    int64_t march_month = month > 2 ? month - 3 : month + 9;
    int64_t day_of_year = (153 * march_month + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static void date_from_days(int64_t days, int64_t *ret_year, int64_t *ret_month, int64_t *ret_day)
{
    int64_t shifted = days + 719468;
    int64_t era = shifted / 146097;
    int64_t day_of_era = shifted - era * 146097;
    int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t march_month = (5 * day_of_year + 2) / 153;
    *ret_day = day_of_year - (153 * march_month + 2) / 5 + 1;
    *ret_month = march_month < 10 ? march_month + 3 : march_month - 9;
    *ret_year = year_of_era + era * 400 + (*ret_month <= 2 ? 1 : 0);
}

static void put_digits(char *text, int64_t value, size_t count)
{
    for (size_t index = count; index > 0; index--) {
        text[index - 1] = (char)('0' + value % 10);
        value /= 10;
    }
}

void time_format_rfc3339(int64_t time_ms, char ret_text[RFC3339_SIZE])
{
    int64_t time = time_ms < 0 ? 0 : time_ms > LAST_MS ? LAST_MS : time_ms;
    int64_t year = 0;
    int64_t month = 0;
    int64_t day = 0;
    date_from_days(time / MS_A_DAY, &year, &month, &day);
    memcpy(ret_text, "0000-00-00T00:00:00.000Z", RFC3339_SIZE);
    put_digits(ret_text, year, 4);
    put_digits(ret_text + 5, month, 2);
    put_digits(ret_text + 8, day, 2);
    put_digits(ret_text + 11, time % MS_A_DAY / MS_A_HOUR, 2);
    put_digits(ret_text + 14, time % MS_A_HOUR / MS_A_MINUTE, 2);
    put_digits(ret_text + 17, time % MS_A_MINUTE / MS_A_SECOND, 2);
    put_digits(ret_text + 20, time % MS_A_SECOND, 3);
}

/* Reads exactly `count` digits in [minimum, maximum] and moves on. */
static int read_digits(const char **position, size_t count, int64_t minimum, int64_t maximum, int64_t *ret_value)
{
    int64_t value = 0;
    for (size_t index = 0; index < count; index++) {
        char byte = (*position)[index];
        if (byte < '0' || byte > '9') {
            return -1;
        }
        value = value * 10 + (byte - '0');
    }
    if (value < minimum || value > maximum) {
        return -1;
    }
    *position += count;
    *ret_value = value;
    return 0;
}

static int read_literal(const char **position, char upper, char lower)
{
    if (**position != upper && **position != lower) {
        return -1;
    }
    (*position)++;
    return 0;
}

static int64_t days_of_month(int64_t year, int64_t month)
{
    static const int64_t DAYS[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return DAYS[month - 1] + (month == 2 && leap ? 1 : 0);
}

static int read_fraction(const char **position, int64_t *ret_ms)
{
    int64_t ms = 0;
    int64_t weight = 100;
    size_t count = 0;
    if (**position == '.') {
        (*position)++;
        for (; **position >= '0' && **position <= '9'; (*position)++) {
            ms += (**position - '0') * weight; /* digits past the third weigh nothing */
            weight /= 10;
            count++;
        }
        if (count == 0 || count > 9) {
            return -1;
        }
    }
    *ret_ms = ms;
    return 0;
}

static int read_offset(const char **position, int64_t *ret_ms)
{
    if (**position == 'Z' || **position == 'z') {
        (*position)++;
        *ret_ms = 0;
        return 0;
    }
    int64_t sign = **position == '+' ? 1 : -1;
    int64_t hours = 0;
    int64_t minutes = 0;
    if (read_literal(position, '+', '-') != 0 || read_digits(position, 2, 0, 23, &hours) != 0 || read_literal(position, ':', ':') != 0 ||
        read_digits(position, 2, 0, 59, &minutes) != 0) {
        return -1;
    }
    *ret_ms = sign * (hours * MS_A_HOUR + minutes * MS_A_MINUTE);
    return 0;
}

int time_parse_rfc3339(const char *text, int64_t *ret_time_ms)
{
    const char *position = text;
    int64_t year = 0;
    int64_t month = 0;
    int64_t day = 0;
    int64_t hour = 0;
    int64_t minute = 0;
    int64_t second = 0;
    int64_t fraction_ms = 0;
    int64_t offset_ms = 0;
    if (read_digits(&position, 4, 0, 9999, &year) != 0 || read_literal(&position, '-', '-') != 0 ||
        read_digits(&position, 2, 1, 12, &month) != 0 || read_literal(&position, '-', '-') != 0 ||
        read_digits(&position, 2, 1, days_of_month(year, month), &day) != 0 || read_literal(&position, 'T', 't') != 0 ||
        read_digits(&position, 2, 0, 23, &hour) != 0 || read_literal(&position, ':', ':') != 0 ||
        read_digits(&position, 2, 0, 59, &minute) != 0 || read_literal(&position, ':', ':') != 0 ||
        read_digits(&position, 2, 0, 59, &second) != 0 || read_fraction(&position, &fraction_ms) != 0 ||
        read_offset(&position, &offset_ms) != 0 || *position != '\0') {
        return -1;
    }
    *ret_time_ms = days_from_date(year, month, day) * MS_A_DAY + hour * MS_A_HOUR + minute * MS_A_MINUTE + second * MS_A_SECOND +
                   fraction_ms - offset_ms;
    return 0;
}

struct unit {
    const char *name;
    uint64_t factor;
};

/* Digits, then one of the units; a count of units past INT64_MAX is refused. */
static int parse_with_unit(const char *text, const struct unit *units, size_t unit_count, uint64_t *ret_value)
{
    enum { DIGITS_MAXIMUM = 19 };
    char digits[DIGITS_MAXIMUM + 1];
    size_t length = strspn(text, "0123456789");
    if (length == 0 || length > DIGITS_MAXIMUM) {
        return -1;
    }
    memcpy(digits, text, length);
    digits[length] = '\0';
    uint64_t value = 0;
    if (parse_uint64(digits, &value) != 0) {
        return -1;
    }
    for (size_t index = 0; index < unit_count; index++) {
        if (strcmp(text + length, units[index].name) == 0) {
            if (value > (uint64_t)INT64_MAX / units[index].factor) {
                return -1;
            }
            *ret_value = value * units[index].factor;
            return 0;
        }
    }
    return -1;
}

int duration_parse(const char *text, int64_t *ret_ms)
{
    static const struct unit UNITS[] = { { "ms", 1 }, { "s", MS_A_SECOND }, { "m", MS_A_MINUTE }, { "h", MS_A_HOUR }, { "d", MS_A_DAY } };
    uint64_t value = 0;
    if (parse_with_unit(text, UNITS, ARRAY_LENGTH(UNITS), &value) != 0) {
        return -1;
    }
    *ret_ms = (int64_t)value;
    return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
    static const struct unit UNITS[] = {
        { "", 1 }, { "KB", UINT64_C(1) << 10 }, { "MB", UINT64_C(1) << 20 }, { "GB", UINT64_C(1) << 30 }, { "TB", UINT64_C(1) << 40 }
    };
    return parse_with_unit(text, UNITS, ARRAY_LENGTH(UNITS), ret_bytes);
}
