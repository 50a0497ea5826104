/* Owns the socket to the service manager. Must not decide when what is said. */
#include "util/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "util/log.h"
#include "util/text.h"

enum { STATUS_MAXIMUM = 256 };

static struct {
    int fd; /* 0: none; standard input is never the manager's */
    int64_t watchdog_ms;
    bool ready_unsaid; /* the manager's queue was full: said again with what comes next */
    char status[STATUS_MAXIMUM];
} manager;

/* "/path" or "@abstract"; what is none of both (vsock:…) is for other machines. */
static int connect_to(const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || length < 2 || length >= sizeof address.sun_path) {
        errno = EINVAL;
        return -1;
    }
    memcpy(address.sun_path, name, length);
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    /* Connected now, so that nothing later has to be allowed to find it. */
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (name[0] == '/' ? 1 : 0));
    if (connect(fd, (const struct sockaddr *)&address, size) != 0) {
        int saved = errno;
        (void)close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static int64_t watchdog_of_environment(void)
{
    const char *interval = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    uint64_t usec, pid;
    if (interval == NULL || parse_uint64(interval, &usec) != 0 || usec < 2000 || usec > INT64_MAX)
        return 0;
    if (process != NULL && (parse_uint64(process, &pid) != 0 || pid != (uint64_t)getpid()))
        return 0; /* meant for another */
    return (int64_t)(usec / 2000);
}

void notify_start(bool listen)
{
    const char *name = getenv("NOTIFY_SOCKET");
    if (listen && name != NULL) {
        int fd = connect_to(name);
        if (fd >= 0)
            manager.fd = fd;
        else
            log_event(LOG_LEVEL_WARN, "notify_socket_unusable", LOG_NUMBER("errno", errno), LOG_END);
    }
    manager.watchdog_ms = manager.fd > 0 ? watchdog_of_environment() : 0;
    (void)unsetenv("NOTIFY_SOCKET");
    (void)unsetenv("WATCHDOG_USEC");
    (void)unsetenv("WATCHDOG_PID");
}

bool notify_is_on(void)
{
    return manager.fd > 0;
}

int64_t notify_watchdog_ms(void)
{
    return manager.watchdog_ms;
}

static bool tell(const char *text)
{
    return manager.fd <= 0 || send(manager.fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

static bool is_new_status(const char *status)
{
    if (strncmp(manager.status, status, sizeof manager.status - 1) == 0 && manager.status[0] != '\0')
        return false;
    (void)snprintf(manager.status, sizeof manager.status, "%s", status);
    return true;
}

void notify_ready(const char *status)
{
    char text[STATUS_MAXIMUM + 32];
    (void)is_new_status(status);
    (void)snprintf(text, sizeof text, "READY=1\nSTATUS=%s", manager.status);
    manager.ready_unsaid = !tell(text);
}

void notify_reloading(void)
{
    struct timespec now = { 0 };
    char text[64];
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    (void)tell(text);
}

void notify_stopping(void)
{
    manager.ready_unsaid = false;
    (void)tell("STOPPING=1\nSTATUS=Stopping: answering what is in flight");
}

void notify_watchdog(void)
{
    (void)tell("WATCHDOG=1");
}

void notify_status(const char *status)
{
    char text[STATUS_MAXIMUM + 32];
    if (manager.ready_unsaid) {
        notify_ready(status);
        return;
    }
    if (!is_new_status(status))
        return;
    (void)snprintf(text, sizeof text, "STATUS=%s", manager.status);
    (void)tell(text);
}

void notify_end(void)
{
    if (manager.fd > 0)
        (void)close(manager.fd);
    manager.fd = 0;
}
