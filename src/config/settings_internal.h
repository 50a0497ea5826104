/* The inside of struct settings: settings.c makes and reads it, settings_reload.c compares two. */
#ifndef CONFIG_SETTINGS_INTERNAL_H
#define CONFIG_SETTINGS_INTERNAL_H

#include "config/config.h"

struct setting {
    const struct setting_definition *definition;
    char *name; /* section.key */
    char *text; /* every type's value in one line */
    int64_t integer;
    char **items;
    size_t item_count;
    enum setting_origin origin;
};

/* A key of one [section.name]. */
struct named_setting {
    char *subname;
    struct setting setting;
};

struct settings {
    struct setting *rows; /* one for each definition, in their order */
    size_t count;
    struct named_setting *named;
    size_t named_count;
};

void setting_release_value(struct setting *setting);

#endif
