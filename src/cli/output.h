/* What reaches the person or the script: results on stdout, everything else on stderr. Text that came from outside the program goes through text_printable here, so that
 * no peer's name moves the cursor. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <jansson.h>

#include "cli/command.h"
#include "util/buffer.h"

/* "claudemesh: …" on stderr (and, with --json unless it is a stream, {"error","detail"} on stdout). Returns `code`. */
int cli_fail(struct cli *cli, enum exit_code code, const char *format, ...) ATTRIBUTE_PRINTF(3, 4);
/* With the API's own name for it, where the same failure may come from a daemon. */
int cli_fail_named(struct cli *cli, enum exit_code code, const char *name, const char *format, ...) ATTRIBUTE_PRINTF(4, 5);
/* The same for an error of a lower room. */
int cli_fail_error(struct cli *cli, const struct error *error);
/* A usage error found by a command: exit 2. */
int cli_fail_usage(struct cli *cli, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);
/* A warning or note on stderr; not with --quiet. */
void cli_note(const struct cli *cli, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);
/* A confirmation on stdout; not with --quiet or --json. */
void cli_say(const struct cli *cli, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);

/* One JSON document and a line feed on stdout. */
void cli_print_json(const json_t *document);
/* Flushes stdout. A reader that went away ends the process with SIGPIPE, as for any other program; another failure returns EXIT_FAILED. */
int cli_flush(struct cli *cli);

enum cli_style { STYLE_PLAIN, STYLE_BOLD, STYLE_DIM, STYLE_RED, STYLE_GREEN, STYLE_YELLOW };
/* The sequence that starts it, or "" without colour. */
const char *style_start(const struct cli *cli, enum cli_style style);
const char *style_end(const struct cli *cli);

/* Aligned columns. Cells are copied, made printable and put on one line. The last column is not padded. */
struct table;
struct table *table_new(const struct cli *cli, size_t columns, const char *const *titles) MUST_CHECK;
void table_cell(struct table *table, enum cli_style style, const char *text); /* row after row */
void table_printf(struct table *table, enum cli_style style, const char *format, ...) ATTRIBUTE_PRINTF(3, 4);
void table_print_free(struct table *table);

/* Untrusted text on stdout, printable; line feeds and tabs stay, lines after the first begin with `indent`. */
void print_body(const char *indent, const char *text, size_t length);

/* Reading answers of the daemon leniently: what is absent or of another type is the fallback. */
const char *answer_text(const json_t *object, const char *name); /* "" */
int64_t answer_integer(const json_t *object, const char *name, int64_t otherwise);
bool answer_bool(const json_t *object, const char *name);

/* "2026-11-23 14:05:09" in the local zone, for people; ISO text in, any text that does not parse is returned printable. Heap. */
char *local_time(const char *rfc3339) MUST_CHECK;
/* "3s", "5m 2s", "2h 10m", "4d 3h". */
void age_text(int64_t ms, char ret_text[24]);

#endif
