/* Where this program lies. */
#ifndef CLI_OWN_PATH_H
#define CLI_OWN_PATH_H

#include "util/attributes.h"
#include "util/error.h"

/* Absolute, without links: what is there after an upgrade under the same name is the new one. ERROR_NOT_FOUND when it was replaced while it runs. Heap. */
int cli_own_path(char **ret_path, struct error *error) MUST_CHECK;

#endif
