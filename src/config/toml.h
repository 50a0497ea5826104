/* A strict subset of TOML 1.0: [table], [table.subtable]; bare or quoted keys; basic and literal strings on one line, decimal
 * integers, booleans, arrays of strings over as many lines as one likes; comments. Everything else is an error, which
 * says name:line:column (columns count characters, from 1). */
#ifndef CONFIG_TOML_H
#define CONFIG_TOML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/error.h"

enum toml_kind { TOML_STRING, TOML_INTEGER, TOML_BOOLEAN, TOML_LIST };
struct toml_value {
    enum toml_kind kind;
    char *text; /* heap */
    int64_t integer;
    bool boolean;
    char **items; /* heap */
    size_t item_count;
};
struct toml_table {
    char *name, *subname; /* heap; subname NULL: [name]; the keys before any table have name "" */
    int line, column;
};
struct toml_entry {
    size_t table; /* in document.tables */
    char *key;    /* heap */
    struct toml_value value;
    int line, column; /* of the key */
};
struct toml_document {
    struct toml_table *tables; /* the first is the nameless one */
    size_t table_count;
    struct toml_entry *entries;
    size_t entry_count;
};

/* `name` is for errors: the file's. */
int toml_parse(const char *name, const char *bytes, size_t length, struct toml_document *ret_document, struct error *error) MUST_CHECK;
void toml_document_release(struct toml_document *document); /* takes NULL and zeroed structs */

/* One value and nothing else. */
int toml_parse_value(const char *text, struct toml_value *ret_value, struct error *error) MUST_CHECK;
void toml_value_release(struct toml_value *value);
void toml_list_append(struct toml_value *list, char *item); /* takes the item over */

#endif
