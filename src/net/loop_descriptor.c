/* Owns the watching of one descriptor that is somebody else's. Must not read or write it. */
#include <event2/event.h>
#include <event2/event_struct.h>

#include "net/loop.h"
#include "util/memory.h"

struct loop_descriptor {
    struct event event;
    void (*readable)(void *argument);
    void *argument;
};

static void on_readable(evutil_socket_t fd, short what, void *argument)
{
    struct loop_descriptor *descriptor = argument;
    (void)fd;
    (void)what;
    descriptor->readable(descriptor->argument);
}

int loop_descriptor_new(struct loop *loop, int fd, void (*readable)(void *argument), void *argument,
                        struct loop_descriptor **ret_descriptor, struct error *error)
{
    struct loop_descriptor *descriptor = memory_zalloc(sizeof(*descriptor));
    descriptor->readable = readable;
    descriptor->argument = argument;
    if (event_assign(&descriptor->event, loop_base(loop), fd, EV_READ | EV_PERSIST, on_readable, descriptor) != 0 ||
        event_add(&descriptor->event, NULL) != 0) {
        free(descriptor);
        return error_set(error, ERROR_SYSTEM, "The event loop cannot watch a descriptor.");
    }
    *ret_descriptor = descriptor;
    return 0;
}

void loop_descriptor_free(struct loop_descriptor *descriptor)
{
    if (descriptor == NULL)
        return;
    (void)event_del(&descriptor->event);
    free(descriptor);
}
