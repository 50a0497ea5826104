/* Owns how a process finds its own program. */
#include "cli/own_path.h"

#include <limits.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include "util/file.h"
#include "util/memory.h"

int cli_own_path(char **ret_path, struct error *error)
{
    char path[PATH_MAX];
#ifdef __APPLE__
    char given[PATH_MAX];
    uint32_t size = sizeof given;
    if (_NSGetExecutablePath(given, &size) != 0 || realpath(given, path) == NULL)
        return error_set_errno(error, "cannot tell this program's path");
#else
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0)
        return error_set_errno(error, "cannot tell this program's path");
    path[length] = '\0';
#endif
    if (!file_exists(path))
        return error_set(error, ERROR_NOT_FOUND, "this program's file is gone or was replaced meanwhile (%s); run the new one", path);
    *ret_path = memory_strdup(path);
    return 0;
}
