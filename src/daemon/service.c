/* Owns what the service manager hears of the daemon (80-operations, Service). Must not decide anything. */
#include "daemon/internal.h"
#include "delivery/delivery.h"
#include "json/json.h"

/* "Serving 3 meshes, 2 connected": no name of a mesh, the manager shows it to whoever asks. */
static void describe(void *argument, char ret_line[static WATCHDOG_STATUS_SIZE])
{
    const struct daemon *daemon = argument;
    size_t served = 0, connected = 0;
    for (const struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next) {
        if (mesh->leaving || mesh->delivery == NULL)
            continue;
        json_t *health = delivery_health(mesh->delivery);
        served++;
        connected += json_is_true(json_object_get(health, "connected"));
        json_decref(health);
    }
    (void)snprintf(ret_line, WATCHDOG_STATUS_SIZE, "Serving %zu mesh%s, %zu connected", served, served == 1 ? "" : "es", connected);
}

void daemon_tell_ready(struct daemon *daemon)
{
    if (daemon->watchdog == NULL)
        daemon->watchdog = watchdog_new(daemon->loop, describe, daemon);
    else
        watchdog_tell_ready(daemon->watchdog);
}
