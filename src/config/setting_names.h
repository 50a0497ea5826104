/* What the names of settings have in common, in the file and in the environment. */
#ifndef CONFIG_SETTING_NAMES_H
#define CONFIG_SETTING_NAMES_H

#include <stddef.h>

/* Levenshtein's distance; SIZE_MAX when one is longer than any name. */
size_t setting_name_distance(const char *a, const char *b);
/* CLAUDEMESH_SECTION_KEY of section.key. Free it. */
char *setting_variable_name(const char *prefix, const char *name);

#endif
