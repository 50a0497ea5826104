/* Owns where the API listens: the socket, the TCP port, and the file that names it (20-ipc; 50-identity, Modes). Must not serve. */
#include <errno.h>
#include <unistd.h>

#include "daemon/internal.h"
#include "util/descriptors.h"
#include "util/file.h"
#include "util/log.h"

static int write_port(struct daemon *daemon, uint16_t port, struct error *error)
{
    char digits[8];
    int length = snprintf(digits, sizeof(digits), "%u", (unsigned)port);
    daemon->port_written = true;
    return file_write_atomic(daemon->options->paths->http_port, 0644, digits, (size_t)length, error);
}

static int listen_tcp(struct daemon *daemon, struct error *error)
{
    uint16_t wanted = (uint16_t)settings_integer(daemon->settings, "ipc.tcp_port"), port;
    int status = ipc_listen_tcp(daemon->ipc, wanted, &port, error);
    if (status == -ERROR_BUSY) {
        status = ipc_listen_tcp(daemon->ipc, 0, &port, error);
        if (status == 0)
            log_event(LOG_LEVEL_WARN, "tcp_port_taken", LOG_NUMBER("wanted", wanted), LOG_NUMBER("port", port), LOG_END);
    }
    return status == 0 ? write_port(daemon, port, error) : status;
}

/* Any process of this machine may connect to the port: it must not take the descriptors of the socket, the links and the databases. */
static void limit_connections(struct daemon *daemon)
{
    enum { TRANSPORTS = 2, CONNECTIONS = 2048, OTHERS = 256 };
    const size_t wanted = TRANSPORTS * CONNECTIONS + OTHERS, allowed = descriptors_allow(wanted);
    const size_t left = allowed >= 2 * OTHERS ? allowed - OTHERS : allowed / 2;
    ipc_set_maximum(daemon->ipc, allowed >= wanted ? CONNECTIONS : left / TRANSPORTS);
}

int daemon_listen(struct daemon *daemon, struct error *error)
{
    limit_connections(daemon);
    /* One that was killed left its own behind. */
    daemon_remove_port(daemon);
    int status = ipc_listen_unix(daemon->ipc, daemon->options->paths->socket, error);
    if (status == 0 && daemon->modes.tcp)
        status = listen_tcp(daemon, error);
    return status;
}

void daemon_remove_port(struct daemon *daemon)
{
    if (unlink(daemon->options->paths->http_port) != 0 && errno != ENOENT)
        log_event(LOG_LEVEL_WARN, "http_port_not_removed", LOG_NUMBER("errno", errno), LOG_END);
    daemon->port_written = false;
}
