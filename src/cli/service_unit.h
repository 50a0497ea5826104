/* What a service manager reads: the unit of systemd, the property list of launchd (80-operations, Service). Pure: strings in, one text out. */
#ifndef CLI_SERVICE_UNIT_H
#define CLI_SERVICE_UNIT_H

#include <stdbool.h>

#include "util/attributes.h"
#include "util/buffer.h"
#include "util/error.h"

enum service_manager { SERVICE_SYSTEMD, SERVICE_LAUNCHD };

#define SERVICE_UNIT_NAME "claudemesh-daemon.service"
#define SERVICE_LABEL "com.claudemesh.daemon"

struct service_unit {
    const char *binary, *config_dir; /* absolute */
    const char *mesh;                /* --mesh; NULL: all joined */
    const char *display_name;        /* --name; NULL */
    const char *user;                /* the system unit's User=; NULL: a user unit */
};

/* Appends the whole file. ERROR_INVALID: a path or name that the format cannot carry (a control character, bytes that are not UTF-8), naming which.
 * Everything else is quoted: what the manager reads back is byte for byte what was given. */
int service_unit_render(const struct service_unit *unit, enum service_manager manager, struct buffer *ret_text,
                        struct error *error) MUST_CHECK;
/* Whether a unit that was written earlier is for that configuration directory. */
bool service_unit_serves(const char *text, enum service_manager manager, const char *config_dir);

#endif
