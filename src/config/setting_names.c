/* Owns how near names are to each other, what the variable of a setting is called, and which variables nobody reads. Values are
 * settings.c's. */
#include "config/setting_names.h"

#include <unistd.h>

#include "config/config.h"
#include "util/memory.h"
#include "util/text.h"

#define OUR_PREFIX "CLAUDEMESH_"

enum { NAME_SIZE = 160 };

size_t setting_name_distance(const char *a, const char *b)
{
    size_t row[NAME_SIZE];
    size_t a_length = strlen(a);
    size_t b_length = strlen(b);
    if (a_length >= NAME_SIZE || b_length >= NAME_SIZE) {
        return SIZE_MAX;
    }
    for (size_t column = 0; column <= b_length; column++) {
        row[column] = column;
    }
    for (size_t line = 1; line <= a_length; line++) {
        size_t diagonal = row[0];
        row[0] = line;
        for (size_t column = 1; column <= b_length; column++) {
            size_t replaced = diagonal + (a[line - 1] == b[column - 1] ? 0 : 1);
            size_t shorter = (row[column] < row[column - 1] ? row[column] : row[column - 1]) + 1;
            diagonal = row[column];
            row[column] = replaced < shorter ? replaced : shorter;
        }
    }
    return row[b_length];
}

char *setting_variable_name(const char *prefix, const char *name)
{
    size_t length = strlen(prefix);
    char *variable = memory_printf("%s%s%s", prefix, length > 0 && prefix[length - 1] == '_' ? "" : "_", name);
    for (char *byte = variable; *byte != '\0'; byte++) {
        if (*byte >= 'a' && *byte <= 'z') {
            *byte = (char)(*byte - 'a' + 'A');
        } else if (*byte == '.') {
            *byte = '_';
        }
    }
    return variable;
}

/* ---- the environment ---------------------------------------------------------------------------------------------- */

/* Read elsewhere, or given to hooks (60-hooks). */
static const char *const OTHER_VARIABLES[] = {
    "CLAUDEMESH_CONFIG_DIR",  "CLAUDEMESH_INVITE",           "CLAUDEMESH_MESH",      "CLAUDEMESH_HOOK_NAME", "CLAUDEMESH_EVENT_ID",
    "CLAUDEMESH_DAEMON_SOCK", "CLAUDEMESH_CAPABILITY_TOKEN", "CLAUDEMESH_HOST_ROOT",
};

struct nearest {
    char name[NAME_SIZE];
    size_t distance; /* 0: it is read */
};

static void compare(const char *variable, const char *name, struct nearest *nearest)
{
    size_t distance = setting_name_distance(variable, name);
    if (distance < nearest->distance) {
        nearest->distance = distance;
        (void)snprintf(nearest->name, sizeof(nearest->name), "%s", name);
    }
}

static void compare_table(const char *variable, const char *prefix, const struct setting_definition *definitions, size_t count,
                          struct nearest *nearest)
{
    for (size_t index = 0; index < count; index++) {
        if (strchr(definitions[index].section, '*') != NULL) {
            continue; /* it has no variable */
        }
        char *name = memory_printf("%s.%s", definitions[index].section, definitions[index].key);
        char *known = setting_variable_name(prefix, name);
        compare(variable, known, nearest);
        free(known);
        free(name);
    }
}

void settings_check_environment(void (*found)(void *argument, const char *variable, const char *nearest), void *argument)
{
    for (char *const *entry = environ; entry != NULL && *entry != NULL; entry++) {
        if (strncmp(*entry, OUR_PREFIX, strlen(OUR_PREFIX)) != 0) {
            continue;
        }
        struct nearest nearest = { .name = OUR_PREFIX "<SECTION>_<KEY>", .distance = SIZE_MAX };
        char *variable = memory_strndup(*entry, strcspn(*entry, "="));
        compare_table(variable, OUR_PREFIX, SETTINGS, SETTING_COUNT, &nearest);
        compare_table(variable, OUR_PREFIX "BROKER_", BROKER_SETTINGS, BROKER_SETTING_COUNT, &nearest);
        for (size_t index = 0; index < ARRAY_LENGTH(OTHER_VARIABLES); index++) {
            compare(variable, OTHER_VARIABLES[index], &nearest);
        }
        if (nearest.distance > 0) {
            char *printable = text_printable(variable, strlen(variable));
            found(argument, printable, nearest.name);
            free(printable);
        }
        free(variable);
    }
}
