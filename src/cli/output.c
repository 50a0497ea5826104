/* Printing: failures, notes, JSON, tables. Must not decide what a command's result is. */
#include "cli/output.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static void print_diagnostic(const struct cli *cli, const char *text)
{
    bool color = !cli->no_color && getenv("NO_COLOR") == NULL && isatty(STDERR_FILENO);
    (void)fflush(stdout);
    fprintf(stderr, "%sclaudemesh:%s %s\n", color ? "\033[1;31m" : "", color ? "\033[0m" : "", text);
}

static int fail_text(struct cli *cli, enum exit_code code, const char *name, const char *text)
{
    char *printable = text_printable(text, strlen(text));
    print_diagnostic(cli, printable);
    if (cli->json && !cli->error_printed && !cli->streaming) {
        json_t *document = json_new_object();
        json_put_string(document, "error", name);
        json_put_string(document, "detail", printable);
        cli_print_json(document);
        json_decref(document);
    }
    cli->error_printed = true;
    free(printable);
    return (int)code;
}

static const char *const EXIT_NAMES[] = {
    [EXIT_DONE] = "done",
    [EXIT_FAILED] = "failed",
    [EXIT_USAGE] = "usage",
    [EXIT_NOT_AUTHORISED] = "not_authorised",
    [EXIT_IDENTITY] = "identity_refused",
    [EXIT_UNREACHABLE] = "unreachable",
    [EXIT_CONFLICT] = "conflict",
    [EXIT_TIMED_OUT] = "timed_out",
    [EXIT_LINK_REFUSED] = "link_refused",
};

int cli_fail(struct cli *cli, enum exit_code code, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fail_text(cli, code, EXIT_NAMES[code], text);
}

int cli_fail_named(struct cli *cli, enum exit_code code, const char *name, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fail_text(cli, code, name, text);
}

int cli_fail_error(struct cli *cli, const struct error *error)
{
    return fail_text(cli, exit_code_of_error(error->code), error_code_name(error->code), error->message);
}

int cli_fail_usage(struct cli *cli, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fail_text(cli, EXIT_USAGE, EXIT_NAMES[EXIT_USAGE], text);
}

void cli_note(const struct cli *cli, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    if (cli->quiet) {
        return;
    }
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char *printable = text_printable(text, strlen(text));
    (void)fflush(stdout);
    fprintf(stderr, "claudemesh: %s\n", printable);
    free(printable);
}

void cli_say(const struct cli *cli, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    if (cli->quiet || cli->json) {
        return;
    }
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char *printable = text_printable(text, strlen(text));
    puts(printable);
    free(printable);
}

void cli_print_json(const json_t *document)
{
    size_t length;
    char *text = json_to_string(document, &length);
    (void)fwrite(text, 1, length, stdout);
    (void)putchar('\n');
    free(text);
}

int cli_flush(struct cli *cli)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return EXIT_DONE;
    }
    if (errno == EPIPE) {
        (void)signal(SIGPIPE, SIG_DFL);
        (void)raise(SIGPIPE);
    }
    int reason = errno;
    cli->error_printed = true; /* stdout is what failed: no document there */
    return cli_fail(cli, EXIT_FAILED, "cannot write the result: %s", strerror(reason));
}

static const char *const STYLES[] = {
    [STYLE_PLAIN] = "",       [STYLE_BOLD] = "\033[1m",   [STYLE_DIM] = "\033[2m",
    [STYLE_RED] = "\033[31m", [STYLE_GREEN] = "\033[32m", [STYLE_YELLOW] = "\033[33m",
};

const char *style_start(const struct cli *cli, enum cli_style style)
{
    return cli->color ? STYLES[style] : "";
}

const char *style_end(const struct cli *cli)
{
    return cli->color ? "\033[0m" : "";
}

/* ---- tables ------------------------------------------------------------------------------------------------- */

struct cell {
    char *text;
    size_t width;
    enum cli_style style;
};

struct table {
    const struct cli *cli;
    struct cell *cells;
    size_t columns, count, capacity;
};

/* Columns on a terminal. The locale is only loaded when there is something else than ASCII to measure. */
static size_t display_width(const char *text)
{
    static bool locale_set;
    size_t length = strlen(text), width = 0, i = 0;
    mbstate_t state = { 0 };

    while (i < length && (unsigned char)text[i] < 0x80) {
        i++;
    }
    if (i == length) {
        return length;
    }
    if (!locale_set) {
        locale_set = true;
        if (setlocale(LC_CTYPE, "C.UTF-8") == NULL && setlocale(LC_CTYPE, "en_US.UTF-8") == NULL) {
            (void)setlocale(LC_CTYPE, "");
        }
    }
    for (i = 0; i < length;) {
        wchar_t character;
        size_t bytes = mbrtowc(&character, text + i, length - i, &state);
        if (bytes == 0 || bytes > length) {
            return length;
        }
        int columns = wcwidth(character);
        width += columns > 0 ? (size_t)columns : 0;
        i += bytes;
    }
    return width;
}

struct table *table_new(const struct cli *cli, size_t columns, const char *const *titles)
{
    struct table *table = memory_calloc(1, sizeof *table);
    table->cli = cli;
    table->columns = columns;
    for (size_t i = 0; i < columns; i++) {
        table_cell(table, STYLE_BOLD, titles[i]);
    }
    return table;
}

void table_cell(struct table *table, enum cli_style style, const char *text)
{
    char *line = memory_strdup(text);
    for (char *at = line; *at != '\0'; at++) {
        if (*at == '\n' || *at == '\r' || *at == '\t') {
            *at = ' ';
        }
    }
    char *printable = text_printable(line, strlen(line));
    free(line);
    if (table->count == table->capacity) {
        table->capacity = table->capacity == 0 ? 64 : table->capacity * 2;
        table->cells = memory_realloc(table->cells, table->capacity * sizeof *table->cells);
    }
    table->cells[table->count++] = (struct cell){ printable, display_width(printable), style };
}

void table_printf(struct table *table, enum cli_style style, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    table_cell(table, style, text);
}

void table_print_free(struct table *table)
{
    size_t *widths = memory_calloc(table->columns, sizeof *widths);
    for (size_t i = 0; i < table->count; i++) {
        size_t column = i % table->columns;
        widths[column] = table->cells[i].width > widths[column] ? table->cells[i].width : widths[column];
    }
    for (size_t i = 0; i < table->count; i++) {
        size_t column = i % table->columns;
        const struct cell *cell = &table->cells[i];
        bool last = column + 1 == table->columns;
        bool styled = cell->style != STYLE_PLAIN;
        printf("%s%s%s", styled ? style_start(table->cli, cell->style) : "", cell->text, styled ? style_end(table->cli) : "");
        if (last) {
            (void)putchar('\n');
        } else {
            printf("%*s", (int)(widths[column] - cell->width + 2), "");
        }
        free(cell->text);
    }
    free(widths);
    free(table->cells);
    free(table);
}

static void print_line(const char *text, size_t length)
{
    size_t start = 0;
    for (size_t end = 0; end <= length; end++) {
        if (end == length || text[end] == '\t') {
            char *printable = text_printable(text + start, end - start);
            printf("%s%s", printable, end < length ? "    " : "");
            free(printable);
            start = end + 1;
        }
    }
}

void print_body(const char *indent, const char *text, size_t length)
{
    size_t start = 0;
    do {
        size_t end = start;
        while (end < length && text[end] != '\n') {
            end++;
        }
        printf("%s", indent);
        print_line(text + start, end - start);
        (void)putchar('\n');
        start = end + 1;
    } while (start < length); /* one line feed at the end is no further line */
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

const char *answer_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text == NULL ? "" : text;
}

int64_t answer_integer(const json_t *object, const char *name, int64_t otherwise)
{
    const json_t *value = json_object_get(object, name);
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= -9007199254740992.0 && number <= 9007199254740992.0)) {
        return otherwise;
    }
    return json_is_integer(value) ? (int64_t)json_integer_value(value) : (int64_t)number;
}

bool answer_bool(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name));
}

char *local_time(const char *rfc3339)
{
    int64_t time_ms;
    struct tm local;
    char text[40];
    if (time_parse_rfc3339(rfc3339, &time_ms) != 0) {
        return text_printable(rfc3339, strlen(rfc3339));
    }
    time_t seconds = (time_t)(time_ms / 1000);
    if (localtime_r(&seconds, &local) == NULL || strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local) == 0) {
        return memory_strdup(rfc3339);
    }
    return memory_strdup(text);
}

void age_text(int64_t ms, char ret_text[24])
{
    int64_t seconds = ms / 1000;
    if (seconds < 60) {
        (void)snprintf(ret_text, 24, "%" PRId64 "s", seconds < 0 ? 0 : seconds);
    } else if (seconds < 3600) {
        (void)snprintf(ret_text, 24, "%" PRId64 "m %" PRId64 "s", seconds / 60, seconds % 60);
    } else if (seconds < 86400) {
        (void)snprintf(ret_text, 24, "%" PRId64 "h %" PRId64 "m", seconds / 3600, seconds / 60 % 60);
    } else {
        (void)snprintf(ret_text, 24, "%" PRId64 "d %" PRId64 "h", seconds / 86400, seconds / 3600 % 24);
    }
}
