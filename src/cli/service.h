/* The daemon as a service of the system (80-operations, Service): where its unit lies, whether it runs the daemon, taking it away. Blocking; starts the service
 * manager's own tool (systemctl, launchctl), nothing else. */
#ifndef CLI_SERVICE_H
#define CLI_SERVICE_H

#include "cli/command.h"
#include "cli/service_unit.h"

enum service_kind { SERVICE_USER, SERVICE_SYSTEM };

struct service_place {
    enum service_kind kind;
    enum service_manager manager;
    char *root;             /* of an image that is being prepared, "" else; heap */
    char *directory, *path; /* of the unit; heap */
};

/* The place for this kind on this system; `root` NULL for the running one. */
int service_place_init(enum service_kind kind, enum service_manager manager, const char *root, struct service_place *ret_place,
                       struct error *error) MUST_CHECK;
void service_place_release(struct service_place *place); /* takes NULL and zeroed structs */
enum service_manager service_manager_of_this_system(void);

/* Whether the process `pid` is the service's, and which kind's; false also where nobody can tell. */
bool service_runs(int64_t pid, enum service_kind *ret_kind);
/* "systemctl --user restart claudemesh-daemon.service" and the like: for a person. `verb`: start, stop, restart. Heap. */
char *service_command(const struct service_place *place, const char *verb) MUST_CHECK;
/* The same, done. Prints what the tool says. EXIT_DONE, or an exit code with the failure printed. */
int service_control(struct cli *cli, const struct service_place *place, const char *verb);

/* Stops and disables the service, removes its unit, links to it, and directories that are empty then. Also for `daemon uninstall`. A unit that serves another
 * configuration directory than cli's is left (and noted) unless `any`. *ret_removed: whether there was one. EXIT_DONE also when there was none. */
int service_remove(struct cli *cli, const struct service_place *place, bool any, bool *ret_removed);
/* Both kinds (the system's only where this user may): for `daemon uninstall`. */
int service_remove_all(struct cli *cli, bool *ret_removed);

#endif
