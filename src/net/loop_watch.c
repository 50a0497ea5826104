/* Tells when a file was written, replaced or removed: inotify on its directory, where there is one and the path is no link; else by looking
 * once a second. Never reads the file. */
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/inotify.h>
#endif

#include "net/loop.h"
#include "util/memory.h"
#include "util/text.h"

enum { COALESCE_MS = 50, LOOK_MS = 1000 };

struct loop_watch {
    char *path;
    const char *name; /* the last part of path */
    void (*changed)(void *argument);
    void *argument;
    struct loop_timer *coalesce; /* from the first sign of a change to the call */
    struct loop_timer *look;     /* runs while inotify does not serve */
    struct stat seen;            /* zeroed: there was none */
    int inotify_fd;              /* -1: none */
    struct event event;
};

static void on_coalesced(void *argument)
{
    struct loop_watch *watch = argument;

    watch->changed(watch->argument);
}

static void note_change(struct loop_watch *watch)
{
    if (!loop_timer_is_running(watch->coalesce))
        loop_timer_start(watch->coalesce, COALESCE_MS);
}

/* ---- looking --------------------------------------------------------------------------------------------------- */

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void look_at_file(const struct loop_watch *watch, struct stat *ret_now)
{
    if (stat(watch->path, ret_now) != 0)
        memset(ret_now, 0, sizeof(*ret_now));
}

static void on_look(void *argument)
{
    struct loop_watch *watch = argument;
    struct stat now;

    look_at_file(watch, &now);
    if (!same_file(&now, &watch->seen)) {
        watch->seen = now;
        note_change(watch);
    }
    loop_timer_start(watch->look, LOOK_MS);
}

/* ---- inotify --------------------------------------------------------------------------------------------------- */

#ifdef __linux__
static void stop_inotify(struct loop_watch *watch)
{
    (void)event_del(&watch->event);
    (void)close(watch->inotify_fd);
    watch->inotify_fd = -1;
}

static void on_inotify(evutil_socket_t fd, short what, void *argument)
{
    struct loop_watch *watch = argument;
    _Alignas(struct inotify_event) char bytes[4096];
    bool lost = false;
    ssize_t size;

    (void)what;
    while ((size = read(fd, bytes, sizeof(bytes))) > 0) {
        const char *end = bytes + size;
        for (const char *at = bytes; at < end;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)at;
            if ((event->mask & IN_Q_OVERFLOW) != 0 || (event->len > 0 && string_equal(event->name, watch->name)))
                note_change(watch);
            if ((event->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT)) != 0)
                lost = true;
            at += sizeof(*event) + event->len;
        }
    }
    if (lost) {
        /* The directory itself went: its name may come back as another directory, which only looking finds. */
        stop_inotify(watch);
        on_look(watch);
    }
}

static bool start_inotify(struct loop *loop, struct loop_watch *watch)
{
    const uint32_t mask = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF;
    const size_t directory_length = (size_t)(watch->name - watch->path);
    char *directory = directory_length == 0 ? memory_strdup(".") : memory_strndup(watch->path, directory_length);
    struct stat link;
    bool started = false;

    /* A change behind a link happens in another directory. */
    if (lstat(watch->path, &link) == 0 && S_ISLNK(link.st_mode))
        goto done;
    watch->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch->inotify_fd < 0)
        goto done;
    if (inotify_add_watch(watch->inotify_fd, directory, mask) < 0 ||
        event_assign(&watch->event, loop_base(loop), watch->inotify_fd, EV_READ | EV_PERSIST, on_inotify, watch) != 0 ||
        event_add(&watch->event, NULL) != 0) {
        (void)close(watch->inotify_fd);
        watch->inotify_fd = -1;
        goto done;
    }
    started = true;
done:
    free(directory);
    return started;
}
#else
static void stop_inotify(struct loop_watch *watch)
{
    (void)watch;
}

static bool start_inotify(struct loop *loop, struct loop_watch *watch)
{
    (void)loop;
    (void)watch;
    return false;
}
#endif

/* ---- both ------------------------------------------------------------------------------------------------------ */

int loop_watch_file(struct loop *loop, const char *path, void (*changed)(void *argument), void *argument, struct loop_watch **ret_watch,
                    struct error *error)
{
    struct loop_watch *watch;
    const char *slash = strrchr(path, '/');

    if (path[0] == '\0' || (slash != NULL && slash[1] == '\0'))
        return error_set(error, ERROR_INVALID, "'%s' does not name a file.", path);
    watch = memory_zalloc(sizeof(*watch));
    watch->path = memory_strdup(path);
    watch->name = slash == NULL ? watch->path : watch->path + (slash - path) + 1;
    watch->changed = changed;
    watch->argument = argument;
    watch->inotify_fd = -1;
    watch->coalesce = loop_timer_new(loop, on_coalesced, watch);
    watch->look = loop_timer_new(loop, on_look, watch);
    look_at_file(watch, &watch->seen);
    if (!start_inotify(loop, watch))
        loop_timer_start(watch->look, LOOK_MS);
    *ret_watch = watch;
    return 0;
}

void loop_watch_free(struct loop_watch *watch)
{
    if (watch == NULL)
        return;
    if (watch->inotify_fd >= 0)
        stop_inotify(watch);
    loop_timer_free(watch->coalesce);
    loop_timer_free(watch->look);
    free(watch->path);
    free(watch);
}
