/* What toml.c and toml_value.c share: a position in the text, and values at it. */
#ifndef CONFIG_TOML_SCANNER_H
#define CONFIG_TOML_SCANNER_H

#include "config/toml.h"

struct toml_scanner {
    const char *name; /* for errors */
    const char *position, *end, *line_start;
    int line;
    struct error *error;
};

void toml_scanner_init(struct toml_scanner *scanner, const char *name, const char *bytes, size_t length, struct error *error);
/* The next byte; '\0' at the end (the text holds none). */
char toml_peek(const struct toml_scanner *scanner);
int toml_column(const struct toml_scanner *scanner);
/* Sets the error, for where the scanner stands, and returns its negative code. */
int toml_fail(struct toml_scanner *scanner, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);
void toml_skip_blanks(struct toml_scanner *scanner); /* spaces and tabs */
/* A comment if there is one, then the end of the line or of the text. */
int toml_end_line(struct toml_scanner *scanner) MUST_CHECK;
int toml_scan_string(struct toml_scanner *scanner, char **ret_text) MUST_CHECK; /* at ' or " */
int toml_scan_value(struct toml_scanner *scanner, struct toml_value *ret_value) MUST_CHECK;

#endif
