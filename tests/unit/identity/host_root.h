/* A fake host for tests: a root with machine-id files and network interfaces of /sys/class/net. Include after scratch.h. */
#ifndef TESTS_UNIT_IDENTITY_HOST_ROOT_H
#define TESTS_UNIT_IDENTITY_HOST_ROOT_H

#include "util/file.h"
#include "util/memory.h"

static inline void host_root_write(const char *root, const char *name, const char *text)
{
    char *path = memory_printf("%s/%s", root, name);
    char *directory = memory_strdup(path);
    *strrchr(directory, '/') = '\0';
    FILE *file;
    if (directory_ensure(directory, 0700, NULL) != 0 || (file = fopen(path, "w")) == NULL || fputs(text, file) < 0 || fclose(file) != 0)
        abort();
    free(directory);
    free(path);
}

struct host_root_interface {
    const char *name, *mac;
    bool physical;     /* a `device` stands behind it */
    const char *flags; /* NULL: 0x1003, an ordinary one */
};

static inline void host_root_add(const char *root, const struct host_root_interface *interface)
{
    char *base = memory_printf("sys/class/net/%s", interface->name);
    char *address = memory_printf("%s/address", base), *flags = memory_printf("%s/flags", base), *type = memory_printf("%s/type", base);
    char *device = memory_printf("%s/device/uevent", base), *line = memory_printf("%s\n", interface->mac);
    host_root_write(root, address, line);
    host_root_write(root, flags, interface->flags == NULL ? "0x1003\n" : interface->flags);
    host_root_write(root, type, "1\n");
    if (interface->physical)
        host_root_write(root, device, "");
    free(base);
    free(address);
    free(flags);
    free(type);
    free(device);
    free(line);
}

static inline void host_root_remove(const char *root, const char *name)
{
    char *path = memory_printf("%s/%s", root, name);
    (void)nftw(path, scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}

#endif
